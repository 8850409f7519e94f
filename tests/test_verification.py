"""What "verified" means: which instances the archive holds, wherever XNAT has put them."""

from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from conftest import Commands
from pydicom.uid import SecondaryCaptureImageStorage

from asyncimport.testserver import Fault, Script, Status, Tell, TestXnat, serve
from asyncimport.testserver.samples import generated

pytestmark = pytest.mark.anyio


async def test_instances_under_secondary_count(xnat: TestXnat, url: str, commands: Commands, tree: Path) -> None:
    """XNAT keeps secondary captures in a resource of their own; they are looked for there."""
    paths = sorted(path for path in tree.rglob("*") if path.is_file())
    capture = pydicom.dcmread(paths[0])
    capture.SOPClassUID = capture.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    capture.save_as(paths[0])
    commands.login(url)
    ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert ended.code == 0, ended.out
    labels = {resource.label for session in xnat.archived for _, resource in session.resources}
    assert labels == {"DICOM", "secondary"}
    assert {detail["verified"] for detail in ended.json["details"]} == {"uids"}


async def test_series_of_one_number_are_found_by_their_uids(
    xnat: TestXnat, url: str, commands: Commands, tree: Path
) -> None:
    """Two series with one SeriesNumber become the scans 1 and 1-MR1; numbers of scans prove nothing."""
    for path in sorted(path for path in tree.rglob("*") if path.is_file()):
        dataset = pydicom.dcmread(path)
        dataset.SeriesNumber = 1
        dataset.SeriesInstanceUID = f"{dataset.StudyInstanceUID}.{int(dataset.InstanceNumber) % 2}"[-60:].strip(".")
        dataset.save_as(path)
    commands.login(url)
    ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert ended.code == 0, ended.out
    assert any("-" in scan for session in xnat.archived for scan in session.scans)
    assert len(xnat.sop_uids()) == 12


async def test_a_study_that_xnat_divides_is_found_whole(commands: Commands, tree: Path, tmp_path: Path) -> None:
    """PET and MR of one study may be archived as two sessions; together they hold what was sent."""
    xnat = TestXnat(tmp_path / "xnat", split_by=lambda scan: "" if scan.id == "1" else "_2")
    for number, path in enumerate(sorted(path for path in tree.rglob("*") if path.is_file())):
        dataset = pydicom.dcmread(path)
        dataset.SeriesNumber = 1 + number % 2
        dataset.SeriesInstanceUID = f"1.2.{int(dataset.StudyInstanceUID[-9:])}.{number % 2}"
        dataset.save_as(path)
    async with serve(xnat) as url:
        commands.login(url)
        ended = await commands("upload", tree, "-P", "demo", "-o", "json")
        assert ended.code == 0, ended.out
        assert len(xnat.archived) == 4
        assert {detail["verified"] for detail in ended.json["details"]} == {"uids"}
        assert (await commands("verify")).code == 0


async def test_where_a_script_gives_new_uids_only_counts_can_be_compared(
    commands: Commands, tree: Path, tmp_path: Path
) -> None:
    """An anonymisation script that maps UIDs leaves no UID to compare; the summary says so."""
    xnat = TestXnat(tmp_path / "xnat", anonymise=Script(map_uid=lambda uid: f"2.25.{abs(hash(uid))}"))
    async with serve(xnat) as url:
        commands.login(url)
        ended = await commands("upload", tree, "-P", "demo", "-o", "json")
        assert ended.code == 0, ended.out
        assert {detail["verified"] for detail in ended.json["details"]} == {"count"}
        verify = await commands("verify", "-o", "json")
        assert verify.code == 0
        assert {detail["verified"] for detail in verify.json["details"]} == {"count"}


@pytest.mark.parametrize("script", [None, Script()])
async def test_new_uids_are_not_believed_without_a_script_that_makes_them(
    xnat: TestXnat, url: str, commands: Commands, tree: Path, script: Script | None
) -> None:
    """Other UIDs in the same number are other instances, also where XNAT's own script is on, as it is by default."""
    commands.login(url)
    assert (await commands("upload", tree, "-P", "demo", "-q")).code == 0
    xnat.script = script
    for session in xnat.archived:
        for _, resource in session.resources:
            for name, file in list(resource.files.items()):
                resource.files[name] = replace(file, sop_uid=f"9{file.sop_uid}")
    verify = await commands("verify", "-o", "json")
    assert verify.code == 9
    assert verify.json["sessions"]["incomplete"] == 2


async def test_an_archive_that_cannot_be_read_is_archived_but_not_verified(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """The session has arrived; that nobody could compare it is told apart, and `verify` does it later."""
    tree = tmp_path / "tree"
    generated(tree, sessions=1, files=3, size=2_000, seed=6)
    commands.login(url)

    def no_more() -> None:
        xnat.faults.add(Fault("listing", Status(403, "<h3>no</h3>"), nth=2, times=10))

    xnat.faults.add(Fault("archive", Tell(no_more)))
    ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert ended.code == 9, ended.out
    (detail,) = ended.json["details"]
    assert (detail["state"], detail["verified"]) == ("archived", None)
    xnat.faults.clear()
    assert (await commands("verify")).code == 0
