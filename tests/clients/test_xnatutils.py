"""xnatutils on the test XNAT: what xnat-ls, xnat-put, xnat-get and their like do."""

from pathlib import Path
from typing import Any

import pytest
from client_site import Site, filled_site, sop_uids, write_note
from pydicom import dcmread

from asyncimport.testserver import TestXnat

xnatutils: Any = pytest.importorskip("xnatutils")
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
async def site(xnat: TestXnat, url: str) -> Site:
    """Serve a site with data."""
    return await filled_site(xnat, url)


def login(site: Site) -> dict[str, Any]:
    """Return the arguments of a login that is not stored."""
    return {"server": site.url, "user": "demo", "password": "demo", "use_netrc": False}


async def test_list(site: Site) -> None:
    """Projects, subjects, sessions and scans."""

    def work() -> None:
        assert xnatutils.ls((), datatype="project", **login(site)) == ["demo", "other"]
        assert xnatutils.ls((), datatype="subject", project_id="demo", **login(site)) == ["S"]
        assert xnatutils.ls((), datatype="session", project_id="demo", **login(site)) == ["E"]
        assert xnatutils.ls(("E",), datatype="scan", **login(site)) == ["T1"]

    await site.run(work)


def put(site: Site, path: Path, **options: Any) -> None:
    """Upload a file or a folder to a new session."""
    names = {"project_id": "demo", "subject_id": "X", "resource_name": "TEXT"}
    xnatutils.put("demo_X_1", "notes", str(path), create_session=True, **names, **options, **login(site))


@pytest.mark.parametrize("method", ["tgz_file", "per_file"])
async def test_put_creates_the_session_and_verifies_the_upload(site: Site, tmp_path: Path, method: str) -> None:
    """The client compares the digests that the server lists with its own."""
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "note.txt").write_text("a note")
    await site.run(lambda: put(site, folder, method=method))
    session = site.xnat.experiment_labelled("demo", "demo_X_1")
    assert session is not None
    (scan,) = session.scans.values()
    assert (scan.id, scan.type, list(scan.resources["TEXT"].files)) == ("notes", "notes", ["note.txt"])


async def test_a_single_file_arrives_empty(site: Site, tmp_path: Path) -> None:
    """The client packs a link to the file, which XNAT takes for an empty file (TarUtils): the digests differ."""
    note = write_note(tmp_path)
    with pytest.raises(xnatutils.exceptions.XnatUtilsDigestCheckError):
        await site.run(lambda: put(site, note))


async def test_get_brings_dicom_back(site: Site, tmp_path: Path) -> None:
    """Into a folder for each scan."""

    def work() -> None:
        xnatutils.get("E", str(tmp_path / "got"), project_id="demo", resource_name="DICOM", **login(site))

    await site.run(work)
    paths = [path for path in (tmp_path / "got").rglob("*") if path.is_file()]
    assert {dcmread(path).SOPInstanceUID for path in paths} == sop_uids(1, 2)


async def test_rename_and_variables(site: Site) -> None:
    """A session gets another label, a subject a custom variable."""

    def work() -> None:
        xnatutils.rename("E", "F", **login(site))
        xnatutils.varput("XNAT_S00001", "site", "A", **login(site))
        assert xnatutils.varget("XNAT_S00001", "site", **login(site)) == "A"

    await site.run(work)
    assert site.labels == ["F"]
    assert site.xnat.subjects()[0].custom == {"site": "A"}
