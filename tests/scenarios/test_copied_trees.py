"""A copied tree has other paths, times and inodes, but the same bytes: archived files are recognised."""

import shutil
from pathlib import Path

import pytest
from builders import image, sop, write
from conftest import Commands, Ended

from asyncimport.testserver import Fault, Status, TestXnat

pytestmark = pytest.mark.anyio

FILES = 4


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write two studies."""
    for number in range(FILES):
        visit = f"P{number // 2}"
        content = image(
            number, PatientID=visit, StudyInstanceUID=f"1.2.{number // 2}", SeriesInstanceUID=f"1.3.{visit[1]}"
        )
        write(tmp_path / "source" / visit / f"{number}.dcm", content)
    return tmp_path / "source"


async def upload(commands: Commands, *words: str | Path) -> Ended:
    """Run it for JSON."""
    return await commands("upload", *words, "-P", "demo", "-q", "-o", "json")


def copied(source: Path) -> Path:
    """Copy a tree as `cp -r` does, which keeps neither times nor inodes."""
    target = source.with_name("copy")
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    return target


@pytest.mark.parametrize("is_there", [True, False], ids=["first tree still there", "first tree gone"])
@pytest.mark.parametrize("is_lost", [False, True], ids=["one journal", "first journal lost"])
async def test_a_copy_is_what_was_sent(
    xnat: TestXnat, ready: Commands, source: Path, is_there: bool, is_lost: bool
) -> None:
    """Nothing is sent again, nothing is unreadable, and the run ends with 0. So does a run over both trees."""
    assert (await upload(ready, source)).code == 0
    if is_lost:
        shutil.rmtree(ready.home / ".local")
        assert (await upload(ready, source)).code == 0
    copy = copied(source)
    if not is_there:
        shutil.rmtree(source)
    sent = xnat.count["import"]
    ended = await upload(ready, copy)
    assert ended.code == 0, ended.out
    assert ended.json["files"]["already_stored"] + ended.json["files"].get("duplicates", 0) == FILES, ended.out
    assert ended.json["files"]["unreadable"] == 0
    both = await upload(ready, *([source] if is_there else []), copy)
    assert both.code == 0, both.out
    assert xnat.count["import"] == sent
    assert xnat.sop_uids() == {sop(number) for number in range(FILES)}
    verified = await ready("verify", "-P", "demo", "-o", "json")
    assert verified.code == 0, verified.out


async def test_a_copy_with_other_bytes_is_told(ready: Commands, source: Path) -> None:
    """Only a file with the bytes that were sent is the same."""
    assert (await upload(ready, source)).code == 0
    copy = copied(source)
    shutil.rmtree(source)
    content = bytearray((copy / "P0" / "0.dcm").read_bytes())
    content[-1] ^= 1
    (copy / "P0" / "0.dcm").write_bytes(content)
    ended = await upload(ready, copy)
    assert (ended.code, ended.json["files"]["skipped"]) == (8, 1), ended.out


async def test_a_copy_alone_after_a_run_over_both_trees(xnat: TestXnat, ready: Commands, source: Path) -> None:
    """What XNAT lacks of it is sent from it. It was said to be a copy of another file, and the run ended with 0."""
    copy = copied(source)
    xnat.faults.add(Fault("import", Status(403), nth=4))
    ended = await upload(ready, source, copy, "-w", "1")
    assert (ended.code, ended.json["files"]["refused"]) == (8, 1)
    planned = await upload(ready, copy, "--dry-run")
    ended = await upload(ready, copy)
    assert (planned.code, ended.code) == (0, 0), ended.out
    assert (ended.json["files"]["stored"], ended.json["files"]["duplicate"]) == (1, 0)
    assert (len(xnat.archived), xnat.sop_uids()) == (2, {sop(number) for number in range(FILES)})
