"""The main job on every version of XNAT, and on sites that are set up unlike others."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from builders import image, sop, write
from conftest import Commands

from asyncimport.testserver import PROFILES, Fault, Project, Reset, Status, Tell, TestXnat, serve

PetMr = Literal["separate", "pet", "petmr"]

pytestmark = pytest.mark.anyio
FILES = 6


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write two sessions of one person."""
    for number in range(FILES):
        study = f"1.2.3.{number % 2}"
        path = tmp_path / "source" / str(number % 2) / f"{number}.dcm"
        write(path, image(number, StudyInstanceUID=study, StudyDate=f"2020010{number % 2 + 1}"))
    return tmp_path / "source"


async def migrate(commands: Commands, url: str, source: Path, *words: str) -> None:
    """Upload and verify everything."""
    commands.login(url)
    uploaded = await commands("upload", source, *words, "-P", "demo", "--insecure")
    assert uploaded.code == 0, uploaded.out + uploaded.err
    verified = await commands("verify", "-P", "demo", "--insecure")
    assert verified.code == 0, verified.out + verified.err


def check(xnat: TestXnat) -> None:
    """See that the archive has everything, whole."""
    assert xnat.sop_uids() == {sop(number) for number in range(FILES)}
    assert not xnat.partial_files()
    assert len(xnat.archived) == 2
    assert not xnat.prearchive


@pytest.mark.parametrize("version", PROFILES)
@pytest.mark.parametrize("faulty", [False, True], ids=["well", "with faults"])
async def test_the_main_job(tmp_path: Path, source: Path, commands: Commands, version: str, faulty: bool) -> None:
    """Upload and verify, also where a proxy is overloaded, connections break and an answer is lost."""
    xnat = TestXnat(tmp_path / "xnat", profile=PROFILES[version])
    if faulty:
        xnat.faults.add(Fault("import", Status(503), nth=2))
        xnat.faults.add(Fault("import", Reset(after_bytes=500), nth=4))
        xnat.faults.add(Fault("import", Reset(effect=True), nth=5))
        xnat.faults.add(Fault("archive", Reset(effect=True), nth=1))
    async with serve(xnat, context=xnat.profile.context) as url:
        await migrate(commands, url, source)
    check(xnat)


async def test_a_server_without_data_addresses(tmp_path: Path, source: Path, commands: Commands) -> None:
    """Everything goes to /REST."""
    xnat = TestXnat(tmp_path / "xnat", profile=PROFILES["1.5.4"], has_data=False)
    async with serve(xnat, context="/xnat") as url:
        await migrate(commands, url, source)
    check(xnat)


async def test_a_server_with_neither_is_no_xnat(tmp_path: Path, source: Path, commands: Commands) -> None:
    """The error is that of the usual address."""
    async with serve(TestXnat(tmp_path / "xnat"), context="/elsewhere") as url:
        commands.login(url.removesuffix("/elsewhere"))
        ended = await commands("upload", source, "-P", "demo", "--insecure")
    assert ended.code == 4, ended.out + ended.err
    assert "hint:" in ended.err


async def test_two_rows_for_one_study_are_held(tmp_path: Path, source: Path, commands: Commands) -> None:
    """As on a cluster, where two servers have a row each: nothing is archived in halves."""
    xnat = TestXnat(tmp_path / "xnat")

    def forget_rows() -> None:
        xnat.profile = replace(xnat.profile, row_key_has_label=not xnat.profile.row_key_has_label)

    xnat.faults.add(Fault("import", Tell(forget_rows), nth=4))
    async with serve(xnat) as url:
        commands.login(url)
        ended = await commands("upload", source, "-P", "demo", "--insecure", "-w", "1")
    assert ended.code == 8, ended.out + ended.err
    assert "into a second row of the prearchive beside ours" in ended.out
    assert xnat.archived == []


async def test_a_session_that_was_deleted_is_sent_anew(tmp_path: Path, source: Path, commands: Commands) -> None:
    """After `forget`, which is how a person says that it is to go there again."""
    xnat = TestXnat(tmp_path / "xnat")
    async with serve(xnat) as url:
        await migrate(commands, url, source)
        gone = xnat.archived[0]
        xnat.remove_experiment(gone)
        lacking = await commands("verify", "-P", "demo", "--insecure")
        assert lacking.code == 9, lacking.out
        assert (await commands("forget", "-P", "demo", "--session", gone.label, "--yes")).code == 0
        await migrate(commands, url, source)
    check(xnat)


async def test_a_subject_that_is_shared_into_the_project(tmp_path: Path, source: Path, commands: Commands) -> None:
    """Its sessions are archived with it, under the label that it has here."""
    xnat = TestXnat(tmp_path / "xnat")
    xnat.add_project(Project("owner"))
    subject = xnat.add_subject("owner", "OTHER")
    xnat.share(subject, "demo", "S")
    async with serve(xnat) as url:
        await migrate(commands, url, source)
    check(xnat)


@pytest.mark.parametrize("setting", ["separate", "pet", "petmr"])
async def test_a_study_with_pet_and_mr(tmp_path: Path, commands: Commands, setting: PetMr) -> None:
    """Whatever the site does with such studies: all instances are in the archive, and verified."""
    source = tmp_path / "source"
    for number, modality in enumerate(("PT", "MR")):
        series = f"1.2.3.4.{number}"
        write(source / modality, image(number, Modality=modality, SeriesInstanceUID=series, SeriesNumber=number + 1))
    xnat = TestXnat(tmp_path / "xnat", pet_mr=setting)
    async with serve(xnat) as url:
        await migrate(commands, url, source)
        again = await commands("upload", source, "-P", "demo", "--insecure")
        assert again.code == 0, again.out
    assert xnat.sop_uids() == {sop(0), sop(1)}


async def test_the_cookie_of_a_load_balancer_is_sent_back(tmp_path: Path, source: Path, commands: Commands) -> None:
    """Else the next server does not know the login."""
    xnat = TestXnat(tmp_path / "xnat", sticky_cookie="SERVERID")
    async with serve(xnat) as url:
        await migrate(commands, url, source)
    check(xnat)
    assert xnat.count["login"] == 2
