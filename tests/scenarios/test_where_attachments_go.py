"""Attachments go where their labels say in their project, never to something else with such an ID or label."""

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import image, write
from conftest import Commands, Ended

from asyncimport.testserver import ArchivedSession, Fault, Project, Status, TestXnat, add_session, file_bytes

pytestmark = pytest.mark.anyio

STUDY = "1.2.840.1"
REPORT = ("-R", "REPORTS")


@pytest.fixture
def ready(url: str, commands: Commands, xnat: TestXnat) -> Commands:
    """Let the commands find a test XNAT of two projects: the other one has made the first subject and session."""
    xnat.add_project(Project("other"))
    add_session(xnat, "theirs", "theirs", "other")
    commands.login(url)
    return commands


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Write a report."""
    write(tmp_path / "report.pdf", b"report")
    return tmp_path / "report.pdf"


async def attach(commands: Commands, *words: str | os.PathLike[str]) -> Ended:
    """Run it for JSON."""
    return await commands("attach", *words, "-o", "json")


def told(ended: Ended) -> list[tuple[str, str | None]]:
    """Return state and reason of each file."""
    return [(one["state"], one["reason"]) for one in ended.json["details"]]


def holders(xnat: TestXnat) -> list[str]:
    """Return the IDs of everything with resources; for a scan also that of its session."""
    sessions = list(xnat.archived)
    return [
        *(session.id for session in sessions if session.own_resources),
        *(f"{session.id}/{scan.id}" for session in sessions for scan in session.scans.values() if scan.resources),
        *(subject.id for subject in xnat.subjects() if subject.resources),
        *(project.id for project in xnat.projects.values() if project.resources),
    ]


def theirs(xnat: TestXnat) -> ArchivedSession:
    """Return the session of the other project."""
    return next(session for session in xnat.archived if session.project == "other")


# --- Labels that are IDs


@pytest.mark.parametrize("scan", [(), ("--scan", "1")])
async def test_a_session_label_that_is_an_id(
    xnat: TestXnat, ready: Commands, report: Path, scan: tuple[str, ...]
) -> None:
    """XNAT looks for IDs first, in all projects. The file goes to the label in its own project."""
    label = theirs(xnat).id
    refused = await attach(ready, report, "-P", "demo", "-E", label, *scan, *REPORT)
    reason = f"the archive has no such session in project demo ({label})"
    assert (refused.code, told(refused)) == (8, [("refused", reason)])
    assert holders(xnat) == []
    mine = add_session(xnat, "S", label)
    stored = await attach(ready, report, "-P", "demo", "-E", label, *scan, *REPORT)
    assert (stored.code, told(stored)) == (0, [("stored", None)])
    assert holders(xnat) == [f"{mine.id}/1" if scan else mine.id]


async def test_a_session_label_that_is_an_id_in_its_own_project(xnat: TestXnat, ready: Commands, report: Path) -> None:
    """The label decides; an ID is no label."""
    first = add_session(xnat, "S", "E")
    second = add_session(xnat, "T", first.id)
    assert (await attach(ready, report, "-P", "demo", "-E", first.id, *REPORT)).code == 0
    assert holders(xnat) == [second.id]
    refused = await attach(ready, report, "-P", "demo", "-E", second.id, *REPORT)
    assert (refused.code, holders(xnat)) == (8, [second.id])


async def test_a_subject_label_that_is_an_id(xnat: TestXnat, ready: Commands, report: Path) -> None:
    """The ID is that of a subject of another project, or of its own."""
    for taken in (theirs(xnat).subject, xnat.add_subject("demo", "somebody")):
        refused = await attach(ready, report, "-P", "demo", "-S", taken.id, *REPORT)
        reason = f"the archive has no such subject in project demo ({taken.id})"
        assert (refused.code, told(refused)) == (8, [("refused", reason)])
        before = holders(xnat)
        mine = xnat.add_subject("demo", taken.id)
        stored = await attach(ready, report, "-P", "demo", "-S", taken.id, *REPORT)
        assert (stored.code, told(stored)) == (0, [("stored", None)])
        assert holders(xnat) == [*before, mine.id]
    # The subject with that ID is found by its own label.
    assert (await attach(ready, report, "-P", "demo", "-S", "somebody", *REPORT)).code == 0
    assert list(taken.resources) == ["REPORTS"]


async def test_letter_case_makes_another_subject(xnat: TestXnat, ready: Commands, report: Path) -> None:
    """XNAT compares labels with case, except in its archive step."""
    xnat.add_subject("demo", "SUB1")
    assert (await attach(ready, report, "-P", "demo", "-S", "sub1", *REPORT)).code == 8
    assert holders(xnat) == []


# --- Whose session it is


async def test_a_session_of_another_subject(xnat: TestXnat, ready: Commands, report: Path, tmp_path: Path) -> None:
    """A given subject is compared, however the session is named. Letter case does not matter."""
    session = add_session(xnat, "S1", "E1", study_uid=STUDY)
    xnat.add_subject("demo", "S2")
    reason = "the archive has it under another subject (S1, not S2)"
    refused = await attach(ready, report, "-P", "demo", "-S", "S2", "-E", "E1", *REPORT)
    assert (refused.code, told(refused)) == (8, [("refused", reason)])
    table = tmp_path / "table.csv"
    table.write_text(f"path,subject,session,study_uid\nreport.pdf,S2,E1,\nreport.pdf,S2,,{STUDY}\n", encoding="utf-8")
    for dry_run in ((), ("--dry-run",)):
        refused = await attach(ready, "--table", table, "-P", "demo", *REPORT, *dry_run)
        assert (refused.code, told(refused)) == (8, [("refused", reason)] * 2)
    assert holders(xnat) == []
    assert (await attach(ready, report, "-P", "demo", "-S", "s1", "-E", "E1", *REPORT)).code == 0
    assert holders(xnat) == [session.id]


async def test_an_upload_whose_session_is_another_subjects_by_now(
    xnat: TestXnat, ready: Commands, tmp_path: Path
) -> None:
    """Files beside images do not go into a session that somebody has moved, even with the same label and study."""
    place = tmp_path / "visit"
    write(place / "1.dcm", image(PatientID="S1", StudyInstanceUID=STUDY))
    words = ("upload", place, "-P", "demo", "-E", "E1", "-o", "json", "--attach", "*.pdf=REPORTS")
    assert (await ready(*words)).code == 0
    session = next(one for one in xnat.archived if one.label == "E1")
    session.subject = xnat.add_subject("demo", "S2")
    write(place / "report.pdf", b"of S1")
    ended = await ready(*words)
    assert (ended.code, ended.json["attachments"]["refused"]) == (8, 1), ended.out
    assert session.own_resources == {}
    (problem,) = [one for one in ended.json["problems"] if one["kind"] == "attachment refused"]
    assert problem["reason"] == "the archive has it under another subject (S2, not S1)"


def zipped(content: bytes) -> bytes:
    """Put an image into a zip."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("1.dcm", content)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "spoil"), [("cut.dcm", lambda content: content[:300]), ("images.zip", zipped)], ids=["damaged", "zipped"]
)
async def test_a_report_beside_images_that_cannot_be_read(
    xnat: TestXnat, ready: Commands, tmp_path: Path, name: str, spoil: Callable[[bytes], bytes]
) -> None:
    """It belongs to them, not to the session in the next directory. A file above both belongs to none."""
    place = tmp_path / "visits"
    write(place / "a" / "1.dcm", image(1, PatientID="S1", StudyInstanceUID=STUDY))
    write(place / "a" / "of-a.pdf", b"of S1")
    write(place / "b" / name, spoil(image(2, PatientID="S2", StudyInstanceUID="1.2.840.2")))
    write(place / "b" / "report.pdf", b"of S2")
    write(place / "summary.pdf", b"of both")
    ended = await ready("upload", place, "-P", "demo", "-o", "json", "--attach", "*.pdf=REPORTS")
    assert (ended.code, ended.json["attachments"]["skipped"]) == (8, 2), ended.out
    session = next(one for one in xnat.archived if one.project == "demo")
    assert list(session.own_resources["REPORTS"].files) == ["of-a.pdf"]


@pytest.mark.parametrize("option", ["-E", "-S"])
async def test_what_another_project_shares(xnat: TestXnat, ready: Commands, report: Path, option: str) -> None:
    """Attachments go to its own project. A session of this project with the label has priority."""
    session = theirs(xnat)
    xnat.share(session if option == "-E" else session.subject, "demo")
    refused = await attach(ready, report, "-P", "demo", option, "theirs", *REPORT)
    reason = "it belongs to another project, which shares it: attach it there (other)"
    assert (refused.code, told(refused)) == (8, [("refused", reason)])
    assert holders(xnat) == []
    own = add_session(xnat, "own", "theirs") if option == "-E" else xnat.add_subject("demo", "theirs")
    assert (await attach(ready, report, "-P", "demo", option, "theirs", *REPORT)).code == 0
    assert holders(xnat) == [own.id]


# --- One address


@pytest.mark.parametrize("words", [(), ("--replace",), ("--replace", "--dry-run")])
async def test_one_resource_by_several_names(
    xnat: TestXnat, ready: Commands, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Of files with one target name the first is sent and the others are refused, even with --replace."""
    xnat.project("demo").aliases = ["alias"]
    session = add_session(xnat, "S", "E", study_uid=STUDY)
    rows = ["demo,,E,", "demo,S,E,", f"demo,,,{STUDY}", "alias,,E,", "alias,S,,"]
    for number in range(1, 6):
        write(tmp_path / str(number) / "report.pdf", f"report {number}".encode())
    table = tmp_path / "table.csv"
    lines = [f"{number}/report.pdf,{row}\n" for number, row in enumerate(rows, 1)]
    # The same file may be listed twice.
    lines.append("1/report.pdf,demo,s,E,\n")
    table.write_text("path,project,subject,session,study_uid\n" + "".join(lines), encoding="utf-8")
    ended = await attach(ready, "--table", table, *REPORT, *words)
    first = str(tmp_path / "1" / "report.pdf")
    assert ended.code == 8
    assert ended.json["attachments"]["refused"] == 3
    refused = {one["path"] for one in ended.json["details"] if one["state"] == "refused"}
    assert refused == {str(tmp_path / name / "report.pdf") for name in "234"}
    assert {reason for state, reason in told(ended) if state == "refused"} == {f"{first} has this name there"}
    if "--dry-run" in words:
        assert holders(xnat) == []
        return
    assert await file_bytes(xnat, session, "REPORTS", "report.pdf") == b"report 1"
    assert await file_bytes(xnat, session.subject, "REPORTS", "report.pdf") == b"report 5"


@pytest.mark.thorough
async def test_a_place_that_cannot_be_looked_up(xnat: TestXnat, ready: Commands, report: Path, tmp_path: Path) -> None:
    """Nothing is sent to an unknown target. The rest is sent, and the same command resumes later."""
    session = add_session(xnat, "S", "E")
    xnat.faults.add(Fault("listing", Status(500), path="projects/demo/subjects", share=1))
    table = tmp_path / "table.csv"
    table.write_text(f"path,subject,session\n{report.name},S,\n{report.name},,E\n", encoding="utf-8")
    ended = await attach(ready, "--table", table, "-P", "demo", *REPORT)
    assert (ended.code, sorted(state for state, _ in told(ended))) == (8, ["failed", "stored"])
    assert holders(xnat) == [session.id]
    xnat.faults.clear()
    again = await attach(ready, "--table", table, "-P", "demo", *REPORT)
    assert (again.code, holders(xnat)) == (0, [session.id, session.subject.id])


# --- Names


async def test_a_project_that_is_called_files(xnat: TestXnat, ready: Commands, report: Path) -> None:
    """The name is a word of XNAT's addresses: the stored file is found."""
    xnat.add_project(Project("files"))
    subject = xnat.add_subject("files", "files")
    for words in (("--to-project",), ("-S", "files")):
        for there in ("sent", "there already"):
            ended = await ready("attach", report, "-P", "files", *words, "-R", "files")
            assert (ended.code, ended.out.strip()) == (0, f"1 file: 1 {there}"), ended.out
    assert holders(xnat) == [subject.id, "files"]


async def test_a_name_that_no_disk_has_room_for(xnat: TestXnat, ready: Commands, tmp_path: Path) -> None:
    """One character may become eighteen: this is an error before anything is sent."""
    add_session(xnat, "S", "E")
    write(tmp_path / ("\ufdfa" * 60 + ".pdf"), b"1")
    ended = await attach(ready, tmp_path, "-P", "demo", "-E", "E", *REPORT)
    assert ended.code != 0
    assert holders(xnat) == []
