"""What was once stored stays on the list of `verify`, whatever its file holds now, or became of a new version."""

from collections.abc import Callable
from pathlib import Path

import pytest
from builders import image, sop, write
from conftest import Commands

from asyncimport.testserver import Fault, Status, TestXnat

pytestmark = pytest.mark.anyio


def reuse(path: Path) -> None:
    """Write an image of another study at the same path, as some scanners do."""
    write(path, image(2, PatientID="OTHER", StudyInstanceUID="1.2.9", SeriesInstanceUID="1.2.9.1"))


def cut(path: Path) -> None:
    """Let the file be damaged."""
    write(path, image(1)[:-50])


@pytest.mark.parametrize("act", [reuse, cut])
async def test_a_session_whose_files_hold_something_else_now(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, act: Callable[[Path], None]
) -> None:
    """`verify` compares it, and says what it lacks; `status` and `report` list it."""
    drop = tmp_path / "drop"
    write(drop / "1", image(1))
    commands.login(url)
    assert (await commands("upload", drop, "-P", "demo", "-q")).code == 0
    act(drop / "1")
    assert (await commands("upload", drop, "-P", "demo", "-q")).code == (8 if act is cut else 0)
    for command in ("status", "verify"):
        details = (await commands(command, "-o", "json")).json["details"]
        assert [one["verified"] for one in details if one["session"] == "S_20200102"] == ["uids"]
    xnat.remove_experiment(next(one for one in xnat.archived if one.label == "S_20200102"))
    verify = await commands("verify", "-o", "json")
    assert (verify.code, verify.json["details"][0]["missing"]) == (9, 1)


async def test_a_file_that_is_written_over_before_it_was_sent(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """Each run reports its session until somebody forgets the file: XNAT never got it."""
    drop = tmp_path / "drop"
    write(drop / "1", image(1))
    commands.login(url)
    xnat.faults.add(Fault("import", Status(422)))
    assert (await commands("upload", drop, "-P", "demo", "-q")).code == 8
    reuse(drop / "1")
    for _ in range(2):
        ended = await commands("upload", drop, "-P", "demo", "-o", "json")
        assert ended.code == 9
        assert {one["session"]: one["state"] for one in ended.json["details"]} == {
            "S_20200102": "held",
            "OTHER_20200102": "archived",
        }
    assert (await commands("forget", "--gone", "--yes")).code == 0
    assert (await commands("upload", drop, "-P", "demo", "-q")).code == 0


async def test_a_new_version_that_is_refused(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path) -> None:
    """The archive had the earlier one, which is missed when it is gone."""
    visit = tmp_path / "visit"
    for number in (1, 2, 3):
        write(visit / str(number), image(number))
    commands.login(url)
    assert (await commands("upload", visit, "-P", "demo", "-q")).code == 0
    write(visit / "2", image(2, PixelData=b"\7" * 100))
    xnat.faults.add(Fault("import", Status(422)))
    words = ("upload", visit, "-P", "demo", "--resend-changed", "--overwrite", "append", "--partial", "archive", "-q")
    assert (await commands(*words)).code == 8
    verify = await commands("verify", "-o", "json")
    assert (verify.code, verify.json["details"][0]["missing"], verify.json["details"][0]["files"]) == (9, 0, 3)
    for _, resource in xnat.archived[0].resources:
        for name in [name for name, file in resource.files.items() if file.sop_uid == sop(2)]:
            del resource.files[name]
    verify = await commands("verify", "-o", "json")
    assert (verify.code, verify.json["details"][0]["missing"]) == (9, 1)
