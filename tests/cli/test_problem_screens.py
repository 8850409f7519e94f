"""What plan, summary, status and verify say of many problems: grouped, the worst first, with sums that are right."""

import re
from pathlib import Path
from typing import Any

import pytest
from builders import image, write
from conftest import Commands, Ended

from asyncimport.testserver import Fault, Status, TestXnat

pytestmark = pytest.mark.anyio


def study(number: int, **values: Any) -> dict[str, Any]:
    """Return the fields of a study of its own patient."""
    return {
        "StudyInstanceUID": f"1.2.{number}",
        "SeriesInstanceUID": f"1.2.{number}.1",
        "PatientID": f"P{number}",
        "PatientName": f"Doe^{number}",
        "StudyDate": f"202001{number:02}",
    } | values


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make 30 studies without a PatientID, a truncated file, a copy, a twin, a text, and two good studies."""
    place = tmp_path / "source"
    for number in (1, 2):
        write(place / f"good{number}" / "a", image(number, **study(number)))
    for number in range(40, 70):
        write(place / f"none{number}" / "a", image(number, **study(number, PatientID="", StudyDate="20200101")))
    write(place / "z" / "cut", image(5, pixels=900, **study(1))[:-500])
    write(place / "z" / "copy", image(1, **study(1)))
    write(place / "z" / "twin", image(2, pixels=77, **study(2)))
    write(place / "z" / "read.me", b"hello")
    return place


def column_sum(ended: Ended) -> int:
    """Return the sum of the column below the number of files."""
    return sum(int(found) for found in re.findall(r"^ +(\d+) {4}\S", ended.out, re.MULTILINE))


async def test_a_plan_says_how_many_files_will_not_go(url: str, commands: Commands, source: Path) -> None:
    """Thirty problems of one cause are one line, and the numbers of files add up."""
    commands.login(url)
    shown = await commands("plan", source, "-P", "demo")
    assert "2 subjects, 2 sessions, 2 scans, 2 files" in shown.out
    assert "30 studies would not be sent" in shown.out
    assert "32 files will not go: 30 of studies with errors, 1 unreadable, 1 with the SOPInstanceUID" in shown.out
    assert "error no-label, 30 studies, 30 files: no PatientID in the header\n" in shown.out
    assert shown.out.count("no PatientID") == 1
    assert "more" not in shown.out
    made = await commands("plan", source, "-P", "demo", "-o", "json")
    assert sum(made.json["unsent"].values()) == 32
    found = sum(path.is_file() and path.suffix != ".me" for path in source.rglob("*"))
    assert made.json["files"] + 32 + 1 == found, "and a copy"


@pytest.mark.parametrize(
    ("words", "unsent"),
    [
        (("--max-sessions", "1"), {"beyond --max-sessions": 1}),
        (("--study-since", "2020-01-02", "--exclude", "*/z/*"), {"of studies that were left out": 32}),
        (("--include", "*/a", "--partial-studies"), {"left out by the filters": 1}),
        (("--exclude", "*none*", "--exclude", "z*"), {}),
    ],
)
async def test_what_was_not_asked_for_is_counted_apart(
    url: str, commands: Commands, source: Path, words: tuple[str, ...], unsent: dict[str, int]
) -> None:
    """A pilot, a filter and a part of studies leave files out, and each says how many."""
    write(source / "good1" / "b", image(11, **study(1)))
    commands.login(url)
    made = await commands("plan", source, "-P", "demo", "-o", "json", *words)
    assert {why: made.json["unsent"].get(why) for why in unsent} == unsent
    if not unsent:
        assert made.json["unsent"] == {}


async def test_the_column_of_a_summary_adds_up(url: str, commands: Commands, source: Path) -> None:
    """The number of DICOM files is the sum of what is below it; other files stand apart."""
    commands.login(url)
    ended = await commands("upload", source, "-P", "demo", "-q")
    assert ended.code == 8
    assert ended.out.startswith("34 DICOM files, ")
    assert column_sum(ended) == 34
    assert "\napart from these: 1 unreadable, 1 not DICOM\n2 sessions: " in ended.out
    assert "error skipped, 30 files: no PatientID in the header\n" in ended.out
    order = [ended.out.index(text) for text in ("error skipped, 30", "error unreadable, 1 file:")]
    assert order == sorted(order)
    for words in (("status", "-P", "demo"), ("upload", source, "-P", "demo", "-q")):
        again = await commands(*words)
        assert (column_sum(again), "34 DICOM files" in again.out) == (34, True)


async def test_equal_server_errors_are_one_line(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path) -> None:
    """Ten sessions that XNAT does not archive for one reason are one line with a count, in each screen."""
    for number in range(1, 11):
        write(tmp_path / "source" / f"{number}" / "a", image(number, **study(number)))
    xnat.faults.add(Fault("archive", Status(409, "<h3>No Space</h3>"), times=99))
    commands.login(url)
    ended = await commands("upload", tmp_path / "source", "-P", "demo", "-q")
    held = [line for line in ended.out.splitlines() if line.startswith("  error held")]
    assert (ended.code, len(held)) == (9, 1), ended.out
    assert held[0].startswith("  error held, 10 sessions: ")
    assert "such as demo / P1 / P1_20200101" in ended.out
    assert "10 sessions: 10 held" in ended.out


async def test_one_is_not_a_plural(url: str, commands: Commands, tmp_path: Path) -> None:
    """One file, one session, one attachment and one subject are told as one."""
    write(tmp_path / "source" / "a", image(1, **study(1)))
    write(tmp_path / "source" / "a.pdf", b"%PDF-1.4")
    table = tmp_path / "subjects.csv"
    table.write_text("subject_label,gender\nP1,F\n")
    commands.login(url)
    words = ("--attach", "*.pdf=REPORTS", "--subjects", table)
    shown = [await commands("upload", tmp_path / "source", "-P", "demo", "-q", *words)]
    shown += [await commands(*words) for words in (("status", "-P", "demo"), ("verify", "-P", "demo"))]
    shown.append(await commands("plan", tmp_path / "source", "-P", "demo"))
    text = "".join(one.out for one in shown)
    told = ("1 DICOM file,", "1 attachment:", "1 subject:", "1 session:", "1 subject, 1 session, 1 scan, 1 file,")
    verified = ("1 of 1 session holds", "1 of 1 attachment is", "1 of 1 subject has")
    assert [one for one in (*told, *verified) if one not in text] == []
    assert not re.search(r"\b1 (files|sessions|subjects|attachments|studies|scans)\b", text)
