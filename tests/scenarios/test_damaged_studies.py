"""If all files of a study are damaged, every command reports it as unreadable, and the exit code says so."""

import os
from pathlib import Path
from typing import Any

import pytest
from builders import image, sop, write
from conftest import Commands

from asyncimport.testserver import TestXnat

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]
BAD: dict[str, Any] = {"StudyInstanceUID": "1.2.9", "PatientID": "T"}
OLD = 1_600_000_000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write a sound study and one whose two files are truncated. Both are old."""
    place = tmp_path / "source"
    write(place / "sound" / "1", image(1))
    for number in (8, 9):
        write(place / "cut" / f"{number}", image(number, **BAD)[:-20])
    for path in place.rglob("?"):
        os.utime(path, (OLD, OLD))
    return place


WAYS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "index": ("-E", "{PatientID}_{StudyIndex}"),
    "suffix": ("--on-collision", "suffix"),
    "limit": ("--max-sessions", "5"),
    "quiet": ("--min-age", "0.01s"),
    "plan": ("--plan",),
}


@pytest.mark.parametrize("way", list(WAYS))
async def test_it_is_unreadable_on_every_way(
    xnat: TestXnat, url: str, commands: Commands, source: Path, tmp_path: Path, way: str
) -> None:
    """It is reported neither as missing from the plan nor as not chosen. The sound study is archived."""
    commands.login(url)
    words: tuple[Any, ...] = ("upload", source, "-P", "demo", "-o", "json", *WAYS[way])
    if way == "plan":
        target = tmp_path / "plan.csv"
        assert (await commands("plan", source, "-P", "demo", "--out", target)).code == 8
        words = (*words, target)
    if way == "quiet":
        # The first of two scans.
        await commands(*words, "--dry-run")
    rehearsed = await commands(*words, "--dry-run")
    assert (rehearsed.code, {one["code"] for one in rehearsed.json["problems"]}) == (8, {"unreadable"}), rehearsed.out
    for _ in range(2):
        ended = await commands(*words)
        assert (ended.code, ended.json["files"]["unreadable"], ended.json["files"]["skipped"]) == (8, 2, 0), ended.out
        assert [one["state"] for one in ended.json["details"]] == ["archived"]
    assert xnat.sop_uids() == {sop(1)}


async def test_what_the_plan_leaves_out_may_be_damaged(
    url: str, commands: Commands, source: Path, tmp_path: Path
) -> None:
    """A study that is skipped or not chosen is not reported."""
    commands.login(url)
    target = tmp_path / "plan.csv"
    write(source / "cut" / "7", image(7, **BAD))
    assert (await commands("plan", source, "-P", "demo", "--out", target, "-q")).code == 8
    target.write_bytes(
        b"".join(
            line.replace(b"upload", b"skip") if b"1.2.9" in line else line
            for line in target.read_bytes().splitlines(keepends=True)
        )
    )
    ended = await commands("upload", source, "-P", "demo", "--plan", target, "-o", "json")
    assert (ended.code, ended.json["files"]["skipped"], ended.json["files"]["unreadable"]) == (0, 3, 0)
    other = await commands("upload", source, "-P", "demo", "--modality", "CT", "--state-dir", tmp_path, "-o", "json")
    assert other.json["files"]["unreadable"] == 0


async def test_a_first_file_in_the_midst_of_being_copied_is_not_damaged(
    url: str, commands: Commands, source: Path
) -> None:
    """No file of its study is complete yet: the study waits."""
    commands.login(url)
    for path in (source / "cut").iterdir():
        os.utime(path)
    ended = await commands("upload", source, "-P", "demo", "--min-age", "2m", "-o", "json")
    assert (ended.code, ended.json["files"]["unreadable"]) == (0, 0), ended.out
    assert {one["kind"] for one in ended.json["problems"]} == {"excluded"}


@pytest.mark.parametrize("way", [("--max-sessions", "5"), ("--min-age", "0.01s")])
async def test_what_a_plan_finds_wrong_is_told_by_a_pilot(
    xnat: TestXnat, url: str, commands: Commands, source: Path, way: tuple[str, ...]
) -> None:
    """A study without a session is reported as an error, not as left out by the pilot."""
    commands.login(url)
    for number, patient in ((5, "A 1"), (6, "A_1")):
        write(source / "two" / f"{number}", image(number, StudyInstanceUID="1.2.5", PatientID=patient))
        os.utime(source / "two" / f"{number}", (OLD, OLD))
    words: tuple[Any, ...] = ("upload", source / "two", source / "sound", "-P", "demo", "-o", "json", *way)
    await commands(*words, "--dry-run")
    ended = await commands(*words)
    assert (ended.code, ended.json["files"]["skipped"]) == (8, 2), ended.out
    assert [one["reason"] for one in ended.json["problems"]] == ["study 1.2.5: its files differ in PatientID"]
    assert xnat.sop_uids() == {sop(1)}


async def test_without_a_class_nothing_is_sent(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path) -> None:
    """XNAT would refuse such a file. It counts as unreadable, and its session as incomplete."""
    commands.login(url)
    write(tmp_path / "visit" / "1", image(1))
    content = image(2)
    begin = content.index(b"\x08\x00\x16\x00UI")
    write(tmp_path / "visit" / "2", content[:begin] + content[content.index(b"\x08\x00\x18\x00UI") :])
    ended = await commands("upload", tmp_path / "visit", "-P", "demo", "-o", "json")
    assert (ended.code, ended.json["files"]["unreadable"], ended.json["files"]["refused"]) == (8, 1, 0)
    assert [(one["kind"], one["reason"]) for one in ended.json["problems"]] == [("unreadable", "no SOPClassUID")]
    assert [one["state"] for one in ended.json["details"]] == ["held"]
    assert xnat.count["import"] == 1
