"""A study is sent whole or held: filters and the keys of a plan choose whole studies."""

import csv
from pathlib import Path
from typing import Any

import pytest
from builders import image, sop, write
from conftest import Commands, Ended

from asyncimport.testserver import TestXnat

pytestmark = pytest.mark.anyio

# A study of two series, of two modalities, over midnight, in two directories; and another study.
STUDY: dict[str, Any] = {"StudyInstanceUID": "1.2.1", "PatientID": "P1", "AccessionNumber": "A1"}
EVENING: dict[str, Any] = {**STUDY, "SeriesInstanceUID": "1.3.1", "Modality": "PT", "SeriesNumber": 1}
NIGHT: dict[str, Any] = {**STUDY, "SeriesInstanceUID": "1.3.2", "Modality": "CT", "SeriesNumber": 2}
OTHER: dict[str, Any] = {"StudyInstanceUID": "1.2.2", "PatientID": "P2", "AccessionNumber": "A2", "Modality": "MR"}
WHOLE = {sop(number) for number in (1, 2, 3, 4)}


def scanned(place: Path, *, dates: tuple[str, str] = ("20200101", "20200101"), **night: Any) -> Path:
    """Write both studies: files 1 and 2 before midnight, 3 and 4 after it, and 9 of the other study."""
    for number in (1, 2):
        write(place / "evening" / f"{number}.dcm", image(number, **{**EVENING, "StudyDate": dates[0]}))
    for number in (3, 4):
        write(place / "night" / f"{number}.dcm", image(number, **{**NIGHT, "StudyDate": dates[1], **night}))
    write(place / "other" / "9.dcm", image(9, **{**OTHER, "StudyDate": "20190101"}))
    return place


def planned(path: Path, *rows: dict[str, str]) -> Path:
    """Write a plan."""
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    return path


async def upload(commands: Commands, source: Path, *words: str | Path) -> Ended:
    """Run it for JSON."""
    return await commands("upload", source, "-P", "demo", "-q", "-o", "json", *words)


CHOICES: dict[str, tuple[str, ...]] = {
    "modality": ("--modality", "CT"),
    "since": ("--study-since", "2020-01-02"),
    "include": ("--include", "night/*"),
    "all of them": ("--include", "night/*", "--modality", "CT", "--study-since", "2020-01-02"),
    "with a limit": ("--modality", "CT", "--max-sessions", "1"),
    "with whole labels": ("--modality", "CT", "-E", "{PatientID}_{Modality}"),
}


@pytest.mark.parametrize("words", CHOICES.values(), ids=CHOICES)
async def test_a_choice_is_one_of_studies(
    xnat: TestXnat, ready: Commands, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """A series that matches brings its whole study. The other study is left out, which is no problem."""
    source = scanned(tmp_path / "source", dates=("20200101", "20200102"))
    # By patient only: the dates differ, which would be a problem.
    words = words if "-E" in words else (*words, "-E", "{PatientID}_visit")
    plan = await ready("plan", source, "-P", "demo", "-o", "json", *words)
    assert {row["study_uid"]: row["files"] for row in plan.json["rows"] if not row["skip"]} == {"1.2.1": 4}
    ended = await upload(ready, source, *words)
    assert ended.code == 0, ended.out
    assert xnat.sop_uids() == WHOLE
    assert ended.json["files"]["skipped"] == 1
    assert [one["verified"] for one in ended.json["details"]] == ["uids"]


async def test_nothing_in_common_is_nothing_at_all(xnat: TestXnat, ready: Commands, tmp_path: Path) -> None:
    """All filters must match one and the same series. A run that selects nothing by its filters is an error."""
    source = scanned(tmp_path / "source")
    ended = await upload(ready, source, "--modality", "CT", "--include", "evening/*")
    assert (ended.code, xnat.archived) == (2, [])
    assert "nothing in SOURCE matches --modality CT --include 'evening/*'" in ended.err


PARTS: dict[str, tuple[str, ...]] = {
    "modality": ("--modality", "CT"),
    "include": ("--include", "night/*"),
}


@pytest.mark.parametrize("words", PARTS.values(), ids=PARTS)
async def test_a_part_of_a_study_stays_open_for_the_rest(
    xnat: TestXnat, ready: Commands, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """With --partial-studies only those series are sent. The session is reported as partial; archived when whole."""
    source = scanned(tmp_path / "source")
    rehearsed = await upload(ready, source, *words, "--partial-studies", "--dry-run")
    assert [one["study_uid"] for one in rehearsed.json["problems"] if one["code"] == "part-of-study"] == ["1.2.1"]
    assert {row["study_uid"]: row["files"] for row in rehearsed.json["rows"] if not row["skip"]} == {"1.2.1": 2}
    ended = await upload(ready, source, *words, "--partial-studies")
    (detail,) = ended.json["details"]
    assert (ended.code, detail["state"]) == (9, "open"), ended.out
    assert "2 files of it were not asked for" in detail["reason"]
    assert (xnat.archived, xnat.count["import"]) == ([], 2)
    again = await upload(ready, source, *words, "--partial-studies")
    assert (again.code, xnat.archived, xnat.count["import"]) == (9, [], 2)
    rest = await upload(ready, source, *(words[2:] if "-E" in words else ()))
    assert rest.code == 0, rest.out
    assert xnat.sop_uids() == WHOLE | {sop(9)}
    assert xnat.count["import"] == 5


async def test_a_part_that_is_wanted_so_is_archived(xnat: TestXnat, ready: Commands, tmp_path: Path) -> None:
    """`--partial archive` archives it, like other incomplete sessions."""
    source = scanned(tmp_path / "source")
    words = ("--modality", "CT", "--partial-studies", "--partial", "archive")
    ended = await upload(ready, source, *words)
    assert xnat.sop_uids() == {sop(3), sop(4)}
    assert ended.code == 0, ended.out


async def test_what_an_earlier_run_has_left_is_asked_for_too(xnat: TestXnat, ready: Commands, tmp_path: Path) -> None:
    """An earlier run did not send the rest: a part that is chosen today is still that part only."""
    source = scanned(tmp_path / "source")
    # A row from another journal blocks all of it.
    assert (await upload(ready, source, "--no-archive", "--state-dir", tmp_path / "other")).code == 0
    assert (await upload(ready, source)).code == 9
    for row in xnat.prearchive:
        xnat.remove_row(row)
    ended = await upload(ready, source, "--modality", "CT", "--partial-studies")
    assert (ended.code, ended.json["files"]["left"]) == (9, 2), ended.out
    assert {file.sop_uid for row in xnat.prearchive for file in row.files} == {sop(3), sop(4)}
    assert (await upload(ready, source)).code == 0
    assert xnat.sop_uids() == WHOLE | {sop(9)}


async def test_what_is_built_and_not_asked_for_is_left_alone(xnat: TestXnat, ready: Commands, tmp_path: Path) -> None:
    """A run for some series archives the built rows of their studies, and no others."""
    source = scanned(tmp_path / "source")
    assert (await upload(ready, source, "--no-archive")).code == 0
    ended = await upload(ready, source, "--modality", "CT", "--partial-studies")
    assert (ended.code, xnat.sop_uids()) == (0, WHOLE), ended.out
    assert [row.study_uid for row in xnat.prearchive] == ["1.2.2"]


async def test_a_pilot_is_no_more_than_that(xnat: TestXnat, ready: Commands, tmp_path: Path) -> None:
    """--max-sessions also leaves out other sessions that an earlier run left unfinished."""
    source = scanned(tmp_path / "source")
    assert (await upload(ready, source, "--no-archive", "--state-dir", tmp_path / "other")).code == 0
    assert (await upload(ready, source)).code == 9
    for row in xnat.prearchive:
        xnat.remove_row(row)
    await upload(ready, source, "--max-sessions", "1")
    assert xnat.sop_uids() == WHOLE
    assert (await upload(ready, source)).code == 0
    assert xnat.sop_uids() == WHOLE | {sop(9)}


async def test_all_of_a_study_is_no_part(xnat: TestXnat, ready: Commands, tmp_path: Path) -> None:
    """A study whose series are all chosen is archived."""
    source = scanned(tmp_path / "source")
    ended = await upload(ready, source, "--modality", "CT,PT", "--partial-studies")
    assert ended.code == 0, ended.out
    assert xnat.sop_uids() == WHOLE


TARGET = {"subject_label": "S1", "session_label": "S1_v1"}


async def test_a_file_without_the_key_goes_with_its_study(xnat: TestXnat, ready: Commands, tmp_path: Path) -> None:
    """One file of four has no AccessionNumber: the other three identify the study in the plan."""
    source = scanned(tmp_path / "source")
    write(source / "night" / "4.dcm", image(4, **{**NIGHT, "StudyDate": "20200101", "AccessionNumber": None}))
    plan = planned(tmp_path / "plan.csv", {"accession_number": "A1", **TARGET})
    ended = await upload(ready, source, "--plan", plan)
    assert ended.code == 0, ended.out
    assert xnat.sop_uids() == WHOLE
    assert [session.label for session in xnat.archived] == ["S1_v1"]


MIXED: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "over midnight": ({"StudyDate": "20200102"}, {"patient_id": "P1", "study_date": "20200101", **TARGET}),
    "two accession numbers": ({"AccessionNumber": "A7"}, {"accession_number": "A1", **TARGET}),
}


@pytest.mark.parametrize(("night", "row"), MIXED.values(), ids=MIXED)
async def test_a_key_of_a_part_of_a_study_sends_nothing_of_it(
    xnat: TestXnat, ready: Commands, tmp_path: Path, night: dict[str, Any], row: dict[str, str]
) -> None:
    """The plan does not say where the rest goes: an error before anything is sent. A row with its UID says it."""
    source = scanned(tmp_path / "source", **night)
    plan = planned(tmp_path / "plan.csv", row)
    for words in ((), ("--dry-run",)):
        ended = await upload(ready, source, "--plan", plan, *words)
        assert ended.code == 2
        assert "1.2.1" in ended.out + ended.err
        assert (xnat.archived, xnat.count["import"]) == ([], 0)
    planned(plan, {"study_uid": "1.2.1", **TARGET})
    assert (await upload(ready, source, "--plan", plan)).code == 0
    assert xnat.sop_uids() == WHOLE


async def test_two_labels_in_one_study_hold_it(xnat: TestXnat, ready: Commands, tmp_path: Path) -> None:
    """With templates too: a study over midnight is not archived with only its first half."""
    source = scanned(tmp_path / "source", dates=("20200101", "20200102"))
    ended = await upload(ready, source)
    assert ended.code in {8, 9}, ended.out
    assert {session.study_uid for session in xnat.archived} == {"1.2.2"}


async def test_what_is_built_is_not_archived_while_its_study_has_an_error(
    xnat: TestXnat, ready: Commands, tmp_path: Path
) -> None:
    """A file of another person has come since: no run archives the rest, whether it decides whole studies or files."""
    visit = tmp_path / "visit"
    for number in range(2):
        write(visit / str(number), image(number))
    words = ("upload", visit, "-P", "demo", "-o", "json")
    assert (await ready(*words, "--no-archive")).code == 0
    late = tmp_path / "late"
    write(late / "9", image(9, PatientID="T"))
    option = ("--max-sessions", "5")
    for more in (option, (), option):
        planned, ended = await ready(*words, late, *more, "--dry-run"), await ready(*words, late, *more)
        assert (planned.code, ended.code, ended.json["files"]["skipped"]) == (8, 8, 1), ended.out
        assert (ended.json["sessions"]["archived"], xnat.archived) == (0, []), ended.out
    ended = await ready(*words)
    assert (ended.code, ended.json["details"][0]["state"], xnat.archived) == (9, "held", []), ended.out
    (late / "9").unlink()
    assert ((await ready(*words, late, *option)).code, len(xnat.archived)) == (0, 1)
