"""Each file is routed by its own path, even if another file of its directory has other labels."""

from pathlib import Path
from typing import Any

import pytest
from builders import image, sop, write
from conftest import Commands

from asyncimport.testserver import TestXnat

pytestmark = pytest.mark.anyio

PATTERN = ("--path-pattern", "flat/{subject}_{n}.dcm")
SCRUBBED = {"StudyInstanceUID": "1.2.1", "PatientID": "ANON"}


def flat(place: Path, subjects: dict[str, dict[str, Any]], files: int = 2) -> None:
    """Write files of some subjects into one directory: only their names tell the subjects apart."""
    number = 0
    for subject, attributes in subjects.items():
        for file in range(files):
            number += 1
            write(place / "flat" / f"{subject}_{file}.dcm", image(number, **attributes))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write two subjects that anonymisation has merged into one study, and a third with its own."""
    place = tmp_path / "source"
    flat(place, {"S01": SCRUBBED, "S02": SCRUBBED, "S03": {**SCRUBBED, "StudyInstanceUID": "1.2.3"}})
    return place


def subjects_of(xnat: TestXnat) -> dict[str, set[str]]:
    """Return the SOPInstanceUIDs of each subject in the archive."""
    return {session.subject.label: {file.sop_uid for file in session.files} for session in xnat.archived}


async def test_a_plan_looks_at_each_name(commands: Commands, source: Path) -> None:
    """Two subjects in one study are reported, and the study is not planned. The other study is."""
    ended = await commands("plan", source, "-P", "demo", *PATTERN, "-o", "json")
    assert ended.code == 2, ended.out
    assert [(one["code"], one["study_uid"]) for one in ended.json["problems"]] == [("labels-differ", "1.2.1")]
    assert [(row["subject"], row["skip"]) for row in ended.json["rows"]] == [(None, True), ("S03", False)]
    # Files that are known from the first scan are checked the same way.
    again = await commands("plan", source, "-P", "demo", *PATTERN, "-o", "json")
    assert (again.code, again.json["rows"]) == (2, ended.json["rows"])


WAYS: dict[str, tuple[str, ...]] = {
    "plan": ("--plan",),
    "suffix": (*PATTERN, "--on-collision", "suffix"),
    "whole studies": (*PATTERN, "-E", "{subject}_{Modality}"),
    "map": ("--path-pattern", "flat/{patient}_{n}.dcm", "--label-map"),
    "limit": (*PATTERN, "--max-sessions", "5"),
}


@pytest.mark.parametrize("way", WAYS)
async def test_no_file_goes_into_the_subject_of_another(
    xnat: TestXnat, url: str, commands: Commands, source: Path, tmp_path: Path, way: str
) -> None:
    """For every option that plans before anything is sent."""
    commands.login(url)
    words: list[str | Path] = [*WAYS[way]]
    if way == "plan":
        words.append(tmp_path / "plan.csv")
        made = await commands("plan", source, "-P", "demo", *PATTERN, "--out", tmp_path / "plan.csv")
        assert made.code == 2
    if way == "map":
        (tmp_path / "map.csv").write_text("patient,subject\nS01,S01\nS02,S02\nS03,S03\n")
        words += [tmp_path / "map.csv", "-E", "{subject}_{Modality}"]
    ended = await commands("upload", source, "-P", "demo", *words, "-q", "-o", "json")
    assert ended.code in {2, 8} or way == "plan", ended.out
    assert subjects_of(xnat).get("S01", set()) <= {sop(1), sop(2)}
    assert subjects_of(xnat).get("S02", set()) <= {sop(3), sop(4)}
    assert subjects_of(xnat).get("S03", {sop(5), sop(6)}) == {sop(5), sop(6)}


async def test_names_that_say_nothing_make_no_difference(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """A field that no label uses may differ between the files of a study."""
    flat(tmp_path, {"S01": SCRUBBED, "S02": {**SCRUBBED, "StudyInstanceUID": "1.2.2"}}, files=3)
    commands.login(url)
    words = (*PATTERN, "-E", "{subject}_{Modality}", "-q", "-o", "json")
    ended = await commands("upload", tmp_path / "flat" / "..", "-P", "demo", *words)
    assert ended.code == 0, ended.out
    assert subjects_of(xnat) == {"S01": {sop(1), sop(2), sop(3)}, "S02": {sop(4), sop(5), sop(6)}}
