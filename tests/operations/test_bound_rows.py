"""A row of a plan must match its study and what it binds; else it is an error with its line."""

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import image, write
from conftest import Commands, Ended

from asyncimport.routing.plan_binding import FoundStudy, StudyHeader, differences, nearest_study
from asyncimport.routing.plan_file import PlanRow
from asyncimport.routing.plan_reader import read_plan
from asyncimport.testserver import TestXnat

pytestmark = pytest.mark.anyio

COLUMNS = "study_uid", "accession_number", "patient_id", "project_id", "subject_label", "session_label"


def files(place: Path, first: int, count: int, **attributes: Any) -> None:
    """Write the instances of a study."""
    for number in range(first, first + count):
        write(place / f"{number}.dcm", image(number, **attributes))


def study(number: int, **attributes: Any) -> dict[str, Any]:
    """Return the attributes of a study with its own patient."""
    ids = {"StudyInstanceUID": f"1.2.{number}", "PatientID": f"P{number}", "AccessionNumber": f"100{number}"}
    return {**ids, "IssuerOfPatientID": "HERE", **attributes}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write two studies of two patients."""
    for number in (1, 2):
        files(tmp_path / "source" / str(number), 10 * number, 3, **study(number))
    return tmp_path / "source"


@pytest.fixture
async def plan(commands: Commands, source: Path, tmp_path: Path) -> Path:
    """Make a plan of them."""
    target = tmp_path / "plan.csv"
    ended = await commands("plan", source, "-P", "demo", "--out", target)
    assert ended.code == 0, ended.err
    return target


def rows_of(path: Path) -> list[dict[str, str]]:
    """Read a plan as a spreadsheet would."""
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"))))


def save(path: Path, *rows: dict[str, str]) -> None:
    """Write rows as a person would."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)


async def both(commands: Commands, source: Path, plan: Path, *words: str) -> tuple[Ended, Ended]:
    """Rehearse and run an upload by a plan."""
    upload: tuple[str | Path, ...] = ("upload", source, "--plan", plan, "-q", "-o", "json", *words)
    return await commands(*upload, "--dry-run"), await commands(*upload)


async def test_a_plan_has_columns_that_bind(plan: Path) -> None:
    """A plan has patient, issuer, date and number of files."""
    assert [(row.patient_id, row.issuer, row.study_date, row.files) for row in read_plan(plan.read_bytes())] == [
        ("P1", "HERE", "20200102", 3),
        ("P2", "HERE", "20200102", 3),
    ]


def rewrite(number: int, count: int = 3, **attributes: Any) -> Callable[[Path], None]:
    """Rewrite the files of a study."""
    return lambda place: files(place / str(number), 10 * number, count, **study(number, **attributes))


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "re-identified": (rewrite(2, PatientID="P9"), "line 3 of the plan: its patient_id is not that of the study"),
    "half re-identified": (rewrite(2, 1, PatientID="P9"), "line 3 of the plan: its patient_id is not"),
    "of another issuer": (rewrite(2, IssuerOfPatientID="THERE"), "line 3 of the plan: its issuer is not"),
    "without a patient": (rewrite(2, PatientID=None), "line 3 of the plan: it has a patient_id, but"),
    "of another day": (rewrite(2, StudyDate="20210102"), "line 3 of the plan: its study_date is not"),
    "grown": (rewrite(2, 5), "line 3 of the plan: it was made for 3 files, but the study has 5: it has grown"),
    "shrunk": (
        lambda place: (place / "2" / "21.dcm").unlink(),
        "line 3 of the plan: it was made for 3 files, but the study has 2: it has lost files",
    ),
}


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
async def test_a_study_that_changed_after_the_plan(
    xnat: TestXnat,
    url: str,
    commands: Commands,
    source: Path,
    plan: Path,
    change: Callable[[Path], None],
    words: str,
) -> None:
    """Nothing is sent, and the error names the line and what to do."""
    change(source)
    commands.login(url)
    rehearsed, ended = await both(commands, source, plan)
    assert (rehearsed.code, ended.code) == (2, 2), rehearsed.out
    told = [one for one in rehearsed.json["problems"] if one["severity"] == "error"]
    assert [one["study_uid"] for one in told] == ["1.2.2"]
    if told[0]["code"] == "row-differs":
        assert told[0]["text"].startswith(words)
        assert "make a new plan" in told[0]["advice"]
        assert words in ended.err
    assert xnat.count["import"] == 0


async def test_an_accession_number_of_another_patient(
    xnat: TestXnat, url: str, commands: Commands, source: Path, tmp_path: Path
) -> None:
    """The row says accession number 1001 and P1; the source holds P2 under 1001."""
    rewrite(1, PatientID="P2")(source)
    save(
        tmp_path / "made.csv",
        dict(zip(COLUMNS[1:], ("1001", "P1", "demo", "S1", "E1"), strict=True)),
        dict(zip(COLUMNS[1:], ("1002", "P2", "demo", "S2", "E2"), strict=True)),
    )
    commands.login(url)
    rehearsed, ended = await both(commands, source, tmp_path / "made.csv")
    assert (rehearsed.code, ended.code, xnat.count["import"]) == (2, 2, 0)
    assert "line 2 of the plan: its patient_id is not that of the study" in ended.err


async def test_empty_cells_bind_nothing(xnat: TestXnat, url: str, commands: Commands, source: Path, plan: Path) -> None:
    """Empty cells bind nothing, as in an old plan without these columns."""
    rewrite(2, 5, IssuerOfPatientID="THERE")(source)
    first, second = rows_of(plan)
    second |= {"issuer": "", "files": ""}
    save(plan, first, second)
    commands.login(url)
    rehearsed, ended = await both(commands, source, plan)
    assert (rehearsed.code, ended.code) == (0, 0), ended.out
    assert len(xnat.sop_uids()) == 8
    old = [{name: value for name, value in row.items() if name in COLUMNS} for row in (first, second)]
    save(plan, *({name: value for name, value in row.items() if name != "patient_id"} for row in old))
    again = await commands("upload", source, "--plan", plan, "-q", "-o", "json")
    assert (again.code, again.json["files"]["already_stored"]) == (0, 8)


async def test_a_row_that_matches_nothing(
    xnat: TestXnat, url: str, commands: Commands, source: Path, plan: Path
) -> None:
    """A mistyped row is an error with its line, and nothing is sent; skipped rows need not match."""
    first, second = rows_of(plan)
    save(plan, first, {**second, "study_uid": "1.2.7"})
    commands.login(url)
    rehearsed, ended = await both(commands, source, plan)
    assert (rehearsed.code, ended.code, xnat.count["import"]) == (2, 2, 0)
    (told,) = [one for one in rehearsed.json["problems"] if one["severity"] == "error"]
    assert (told["code"], told["text"]) == ("row-unmatched", "line 3 of the plan matches no study of the source")
    assert "line 3 of the plan" in ended.err
    save(plan, first, {**second, "study_uid": "1.2.7", "action": "skip"})
    rehearsed, ended = await both(commands, source, plan)
    assert (rehearsed.code, ended.code) == (0, 0)
    assert len(xnat.sop_uids()) == 3


async def test_zeros_that_a_spreadsheet_dropped(
    xnat: TestXnat, url: str, commands: Commands, source: Path, tmp_path: Path
) -> None:
    """The error names the nearest study, with its number as in the header."""
    files(source / "3", 30, 1, **study(3, AccessionNumber="00123"))
    rows = [
        dict(zip(COLUMNS[1:], (number, "", "demo", f"S{number}", f"E{number}"), strict=True))
        for number in ("1001", "123")
    ]
    save(tmp_path / "made.csv", *rows)
    commands.login(url)
    rehearsed, ended = await both(commands, source, tmp_path / "made.csv")
    assert (rehearsed.code, ended.code, xnat.count["import"]) == (2, 2, 0)
    assert "line 3 of the plan matches no study of the source" in ended.err
    assert "00123" in ended.err.partition("hint: ")[2]


@pytest.mark.parametrize("action", ["upload", "skip"])
async def test_a_plan_of_another_source(
    xnat: TestXnat, url: str, commands: Commands, plan: Path, tmp_path: Path, action: str
) -> None:
    """If no row matches, the run fails."""
    files(tmp_path / "other", 70, 2, **study(7))
    save(plan, *({**row, "action": action} for row in rows_of(plan)))
    commands.login(url)
    rehearsed, ended = await both(commands, tmp_path / "other", plan)
    assert (rehearsed.code, ended.code, xnat.count["import"]) == (2, 2, 0)
    assert {one["code"] for one in rehearsed.json["problems"] if one["severity"] == "error"} == {"row-unmatched"}


async def test_a_watch_sends_what_matches(
    xnat: TestXnat, url: str, commands: Commands, source: Path, plan: Path
) -> None:
    """A watch ignores rows without a study so far, and does not send a study that differs."""
    for number in (20, 21, 22):
        os.utime(source / "1" / f"{number - 10}.dcm", (1, 1))
    rewrite(2, PatientID="P9")(source)
    commands.login(url)
    words = ("upload", source, "--plan", plan, "-q", "-o", "json", "--watch", "0.1s", "--min-age", "0.01s")
    ended = await commands(*words, "--max-duration", "4s")
    assert ended.code == 130, ended.err
    assert {session.study_uid for session in xnat.archived} == {"1.2.1"}


@pytest.fixture
def mixed(source: Path) -> Path:
    """Add a report to each study, and a study that is not selected."""
    for number in (1, 2):
        report = {"SeriesInstanceUID": f"1.2.{number}.9", "Modality": "SR"}
        write(source / str(number) / "report", image(10 * number + 5, **study(number, **report)))
    files(source / "3", 30, 1, **study(3, Modality="CT"))
    return source


@pytest.mark.parametrize(
    "study_filter", [("--modality", "MR"), ("--study-since", "2000-01-01", "--include", "*/*.dcm")]
)
async def test_a_plan_carries_its_filter(
    xnat: TestXnat, url: str, commands: Commands, mixed: Path, tmp_path: Path, study_filter: tuple[str, ...]
) -> None:
    """An upload by a plan of parts sends the same parts; a plan of whole studies has rows for these only."""
    commands.login(url)
    target = tmp_path / "parts.csv"
    words = ("--exclude", "3/*") if "--study-since" in study_filter else ()
    made = await commands("plan", mixed, "-P", "demo", *study_filter, "--partial-studies", *words, "--out", target)
    assert made.code == 0, made.err
    assert {row["files"] for row in rows_of(target) if row["action"] == "upload"} == {"3"}
    rehearsed, _ = await both(commands, mixed, target, *words)
    assert rehearsed.code in {0, 9}, rehearsed.out
    assert xnat.count["import"] == 6
    other = await commands("upload", mixed, "--plan", target, "-q", "--modality", "CT")
    assert (other.code, "carries its own" in other.err) == (2, True)
    whole = tmp_path / "whole.csv"
    assert (await commands("plan", mixed, "-P", "demo", *study_filter, *words, "--out", whole)).code == 0
    state = ("--state-dir", tmp_path / "state", "--adopt-rows")
    ended = await commands("upload", mixed, "--plan", whole, "-q", "-o", "json", *words, *state)
    assert ended.code in {0, 9}, ended.out
    asked = {row.study_uid for row in read_plan(whole.read_bytes()) if not row.skip}
    assert asked == {"1.2.1", "1.2.2"}
    assert ended.json["files"]["stored"] + ended.json["files"]["already_stored"] + ended.json["files"]["left"] == 8


ROW = PlanRow("1.2.1", "P", "S", "E", "20200131", patient_id="P1", issuer="I", files=3)
HEADER = StudyHeader("P1", "I", "20200131", "")


@pytest.mark.parametrize(
    ("row", "headers", "count"),
    [
        (ROW, [HEADER], 0),
        (PlanRow("1.2.1", "P", "S", "E"), [HEADER], 0),
        (PlanRow("1.2.1", "P", "S", "E", "2020-01-31"), [HEADER], 0),
        (PlanRow("1.2.1", "P", "S", "E", "2020-01-31"), [StudyHeader("", "", "2020.01.31", "")], 0),
        (PlanRow("1.2.1", "P", "S", "E", "31/01/2020"), [HEADER], 1),
        (PlanRow("1.2.1", "P", "S", "E", "odd"), [StudyHeader("", "", "odd", "")], 0),
        # Over midnight, and where only some files tell the issuer.
        (ROW, [HEADER, StudyHeader("P1", "", "20200201", "")], 0),
        (ROW, [HEADER, StudyHeader("P2", "I", "20200131", "")], 1),
        (PlanRow("1.2.1", "P", "S", "E", patient_id="P1\\P2"), [HEADER, StudyHeader("P2", "", "", "")], 0),
        (PlanRow("1.2.1", "P", "S", "E", patient_id="a\\x1b"), [StudyHeader("a\x1b", "", "", "")], 0),
        (PlanRow("1.2.1", "P", "S", "E", patient_id="p1"), [HEADER], 1),
        (PlanRow("1.2.1", "P", "S", "E", patient_id="P1"), [StudyHeader("", "", "", "")], 1),
    ],
)
def test_differences(row: PlanRow, headers: list[StudyHeader], count: int) -> None:
    """Empty cells bind nothing, and dates have two forms."""
    assert len(list(differences(row, FoundStudy("1.2.1", headers, 3)))) == count


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (PlanRow("", "P", "S", "E", accession_number="123"), "the accession number of study 1.2.1 is 00123"),
        (PlanRow("", "P", "S", "E", accession_number="12"), ""),
        (PlanRow("", "P", "S", "E", "20200131", patient_id="7"), "the patient ID of study 1.2.1 is 007"),
        (
            PlanRow("", "P", "S", "E", "20200101", patient_id="007"),
            "the date of study 1.2.1 of this patient is 20200131",
        ),
        (PlanRow("", "P", "S", "E", "20200101", patient_id="7"), ""),
        (PlanRow("1.2", "P", "S", "E"), "there is a study 1.2.1"),
        (PlanRow("1.2.2", "P", "S", "E"), ""),
    ],
)
def test_nearest_study(row: PlanRow, words: str) -> None:
    """Leading zeros, another date and a cut UID are recognized; anything else is just an error."""
    assert nearest_study(row, [FoundStudy("1.2.1", [StudyHeader("007", "", "20200131", "00123")], 1)]) == words


@pytest.mark.parametrize("edit", ["skip", "taken out"])
async def test_waiting_files_of_a_skipped_row_are_not_sent(
    xnat: TestXnat, url: str, commands: Commands, source: Path, plan: Path, tmp_path: Path, edit: str
) -> None:
    """Neither a skipped nor a removed row sends files that an earlier run left waiting."""
    commands.login(url)
    other = await commands("upload", source, "-P", "demo", "--no-archive", "--journal", tmp_path / "other.journal")
    assert other.code == 0, other.err
    words: list[str | Path] = ["upload", source, "-P", "demo", "--plan", plan, "-o", "json"]
    assert (await commands(*words)).code == 9
    for row in [*xnat.prearchive]:
        xnat.remove_row(row)
    first, second = rows_of(plan)
    save(plan, second) if edit == "taken out" else save(plan, {**first, "action": "skip"}, second)
    said = await commands(*words, "--dry-run")
    done = await commands(*words)
    # The session that the earlier run could not begin is told until somebody forgets it.
    assert (said.code, done.code) == (9, 9), (said.out, done.out)
    assert {one.study_uid for one in xnat.archived} == {second["study_uid"].lstrip("'")}
