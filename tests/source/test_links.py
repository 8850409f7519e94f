"""Links in a source: their targets are sent on request, and never skipped without a report."""

from pathlib import Path
from typing import Any

import pytest
from builders import image, sop, write
from conftest import Commands

from asyncimport.testserver import TestXnat

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write a source with links to a directory and to a file elsewhere, and to a directory of its own."""
    place = tmp_path / "source"
    other: dict[str, Any] = {"StudyInstanceUID": "1.2.9", "PatientID": "T"}
    write(place / "visit" / "1", image(1))
    write(tmp_path / "elsewhere" / "2", image(2, **other))
    write(tmp_path / "3", image(3))
    (place / "visit" / "3").symlink_to(tmp_path / "3")
    (place / "more").symlink_to(tmp_path / "elsewhere")
    (place / "latest").symlink_to(place / "visit")
    return place


LINKS = [
    ("inner_link", "a link to a directory of the source, whose files are found there"),
    ("link", "a link to a directory outside the source; --follow-links follows it"),
    ("link", "a link to a file outside the source; --follow-links follows it"),
]


async def test_links_are_reported_and_followed_on_request(
    xnat: TestXnat, url: str, commands: Commands, source: Path
) -> None:
    """By plan, dry run and upload alike; the exit code says that files may be missing."""
    commands.login(url)
    words = (source, "-P", "demo", "-o", "json")
    for command in (("plan", *words), ("upload", *words, "--dry-run")):
        planned = await commands(*command)
        codes = [(one["code"], one["severity"], one["files"]) for one in planned.json["problems"]]
        assert (planned.code, sorted(codes)) == (
            8,
            [("inner-link", "info", 1), ("link", "warning", 1), ("link", "warning", 1)],
        )
    ended = await commands("upload", *words)
    assert (ended.code, [(one["kind"], one["reason"]) for one in ended.json["problems"]]) == (8, LINKS)
    assert (ended.json["files"]["not_dicom"], xnat.sop_uids()) == (3, {sop(1)})
    assert (await commands("plan", *words, "--follow-links")).json["files"] == 3
    followed = await commands("upload", *words, "--follow-links")
    assert (followed.code, [one["kind"] for one in followed.json["problems"]]) == (0, ["inner_link"]), followed.out
    assert xnat.sop_uids() == {sop(1), sop(2), sop(3)}


async def test_files_behind_an_unfollowed_link_are_not_gone(url: str, commands: Commands, source: Path) -> None:
    """Files that an earlier run sent from there still count when links are no longer followed."""
    commands.login(url)
    words = ("upload", source, "-P", "demo", "-o", "json")
    assert (await commands(*words, "--follow-links", "--no-archive")).code == 0
    ended = await commands(*words, "--no-archive")
    assert "no longer there" not in ended.err
    assert (ended.code, ended.json["files"]["failed"]) == (8, 0)
    sound = await commands(*words, "--follow-links")
    assert (sound.code, sound.json["sessions"]["archived"], sound.json["files"]["already_stored"]) == (0, 2, 3)
