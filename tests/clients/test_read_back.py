"""What was uploaded is read back by another client, and compared with its source."""

import importlib
from pathlib import Path
from typing import Any

import pytest
from builders import image
from client_site import Site
from conftest import Commands
from pydicom import dcmread

from asyncimport.testserver import PROFILES, TestXnat, serve

pytest.importorskip("xnat.session")  # without the client, `xnat` is a folder of these tests
xnatpy: Any = importlib.import_module("xnat")
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("version", ["1.7", "1.8", "1.9", "1.10"])
async def test_what_was_uploaded_is_read_back(tmp_path: Path, version: str, commands: Commands) -> None:
    """Every data set is as it was on the disk, as pydicom reads both."""
    source, target = tmp_path / "dicom", tmp_path / "back"
    source.mkdir()
    target.mkdir()
    for number in range(1, 5):
        (source / f"{number}.dcm").write_bytes(image(number))
    xnat = TestXnat(tmp_path / "xnat", profile=PROFILES[version], anonymise=False)
    async with serve(xnat) as url:
        commands.login(url)
        done = await commands("upload", source, "-P", "demo", "--insecure")
        assert done.code == 0, done.out + done.err

        def work() -> None:
            with xnatpy.connect(url, user="demo", password="demo", loglevel="ERROR", cli=True) as session:
                (experiment,) = session.projects["demo"].experiments.values()
                experiment.download_dir(str(target), verbose=False)

        await Site(xnat, url).run(work)
    sent = {dataset.SOPInstanceUID: dataset for dataset in map(dcmread, source.iterdir())}
    back = {dataset.SOPInstanceUID: dataset for dataset in map(dcmread, target.rglob("*.dcm"))}
    assert back == sent
