"""Attachments and demographics while files and sessions change: each goes to whom it is of, or is reported."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from builders import image, write
from conftest import Commands, Ended

from asyncimport.testserver import ArchivedSession, Fault, SeriesFilter, Tell, TestXnat, add_session, file_bytes

pytestmark = pytest.mark.anyio

ATTACH = ("--attach", "*.pdf=REPORTS")
AGAIN = ("--resend-changed", "--overwrite", "append")
OTHERS = "it has changed since it was stored, and may be of another session; `asyncimport attach` can name one"


async def upload(commands: Commands, place: Path, *words: str | Path) -> Ended:
    """Upload for JSON."""
    return await commands("upload", place, "-P", "demo", "-o", "json", *words)


def session_of(xnat: TestXnat, subject: str) -> ArchivedSession:
    """Return the one session of a subject."""
    (found,) = [one for one in xnat.archived if one.subject.label == subject]
    return found


def genders(xnat: TestXnat) -> dict[str, str]:
    """Return the sex that subjects have in the archive, by label."""
    return {one.label: str(one.demographics.get("gender", "")) for one in xnat.subjects()}


def patient(number: int, instance: int, **more: Any) -> bytes:
    """Make an image of a patient."""
    uid, name = f"1.2.{number}", f"S{number}"
    uids: dict[str, Any] = {
        "StudyInstanceUID": uid,
        "SeriesInstanceUID": f"{uid}.1",
        "SOPInstanceUID": f"{uid}.1.{instance}",
    }
    return image(instance, PatientID=name, PatientName=name, **uids, **more)


@pytest.mark.parametrize("name", ["1.dcm", "2.dcm"])
@pytest.mark.parametrize("options", [(), AGAIN], ids=["", "resent"])
async def test_a_report_in_place_of_another_patients(
    xnat: TestXnat, ready: Commands, tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    """A directory is used again for the next patient: that report does not replace the one of the patient before."""
    place = tmp_path / "export"
    write(place / "1.dcm", patient(1, 1))
    write(place / "report.pdf", b"of the first")
    assert (await upload(ready, place, *ATTACH)).code == 0
    (place / "1.dcm").unlink()
    write(place / name, patient(2, 1))
    write(place / "report.pdf", b"of the second")
    for _ in range(2):
        ended = await upload(ready, place, *ATTACH, *options)
        (problem,) = [one for one in ended.json["problems"] if one["kind"].startswith("attachment")]
        assert (ended.code, problem["kind"], problem["reason"]) == (8, "attachment refused", OTHERS)
    assert await file_bytes(xnat, session_of(xnat, "S1"), "REPORTS", "report.pdf") == b"of the first"
    assert session_of(xnat, "S2").own_resources == {}


async def test_a_report_that_comes_back_beside_others(xnat: TestXnat, ready: Commands, tmp_path: Path) -> None:
    """A copy of a stored report is that report, whatever images have joined it since."""
    place = tmp_path / "export"
    write(place / "1.dcm", patient(1, 1))
    report = write(place / "report.pdf", b"of the first")
    assert (await upload(ready, place, *ATTACH)).code == 0
    write(place / "2.dcm", patient(2, 1))
    os.utime(report.path, (1, 1))
    ended = await upload(ready, place, *ATTACH)
    assert (ended.code, ended.json["attachments"]["found"], xnat.count["file"]) == (0, 1, 1)
    assert session_of(xnat, "S2").own_resources == {}


async def test_a_header_in_place_of_another_patients(xnat: TestXnat, ready: Commands, tmp_path: Path) -> None:
    """A path holds the image of another patient by now: what that says of its patient is said of no other."""
    place = tmp_path / "export"
    write(place / "1.dcm", patient(1, 1))
    write(place / "2.dcm", patient(1, 2))
    assert (await upload(ready, place)).code == 0
    write(place / "1.dcm", patient(2, 1, PatientSex="F"))
    assert (await upload(ready, place, "--subjects-from-dicom", "gender")).code == 0
    assert genders(xnat) == {"S1": "", "S2": "female"}


async def test_a_row_of_a_subject_that_the_run_does_not_meet(xnat: TestXnat, ready: Commands, tmp_path: Path) -> None:
    """Its files are gone since they arrived: it is reported as long as its values are not set."""
    place, table = tmp_path / "tree", tmp_path / "subjects.csv"
    write(place / "1" / "1.dcm", patient(1, 1))
    assert (await upload(ready, place)).code == 0
    (place / "1" / "1.dcm").unlink()
    write(place / "2" / "1.dcm", patient(2, 1))
    write(table, b"subject,gender\nS1,female\nS2,male\n")
    for words in (("--dry-run",), ()):
        assert (await ready("upload", place, "-P", "demo", "--subjects", table, *words)).code == 8
    assert genders(xnat) == {"S1": "", "S2": "male"}
    write(place / "1" / "1.dcm", patient(1, 1))
    assert (await upload(ready, place, "--subjects", table)).code == 0
    assert genders(xnat) == {"S1": "female", "S2": "male"}
    (place / "1" / "1.dcm").unlink()
    assert (await upload(ready, place, "--subjects", table)).code == 0


def moves(xnat: TestXnat) -> None:
    """Give the first session to another subject."""
    xnat.archived[0].subject = xnat.add_subject("demo", "OTHER")


def swaps(xnat: TestXnat) -> None:
    """Exchange the labels of two sessions."""
    pair = list(xnat.archived)
    for session in pair:
        xnat.remove_experiment(session)
    for session, label in zip(pair, [one.label for one in reversed(pair)], strict=True):
        session.label = label
        xnat.add_experiment(session)


def removes(xnat: TestXnat) -> None:
    """Delete the first session."""
    xnat.remove_experiment(xnat.archived[0])


@pytest.mark.parametrize(
    ("act", "subject", "reason"),
    [
        (moves, "S1", "the archive has it under another subject (OTHER, not S1)"),
        (swaps, "", "somebody has renamed or moved what it belongs to in XNAT meanwhile"),
        (removes, "S1", "the archive has no such session in project demo (E1)"),
    ],
)
async def test_a_session_that_changes_while_files_go_into_it(
    xnat: TestXnat, ready: Commands, tmp_path: Path, act: Callable[[TestXnat], None], subject: str, reason: str
) -> None:
    """What went into it is not told as stored there: somebody has moved it between the look-up and the listing."""
    add_session(xnat, "S1", "E1", "demo")
    add_session(xnat, "S2", "E2", "demo")
    write(tmp_path / "1.pdf", b"1")
    write(tmp_path / "table.csv", f"path,subject,session,resource\n1.pdf,{subject},E1,REPORTS\n".encode())
    words = ("attach", "--table", tmp_path / "table.csv", "-P", "demo", "-o", "json")
    fault = xnat.faults.add(Fault("listing", Tell(partial(act, xnat)), nth=2, path="REPORTS/files"))
    ended = await ready(*words)
    assert fault.hits == 1
    (detail,) = ended.json["details"]
    assert (ended.code, detail["state"], detail["reason"]) == (8, "refused", reason)


async def test_a_session_that_moves_before_its_turn(xnat: TestXnat, ready: Commands, tmp_path: Path) -> None:
    """All sessions are looked up before the first file is sent, and each again before its own."""
    session = add_session(xnat, "S1", "E1", "demo")
    write(tmp_path / "1.pdf", b"1")
    fault = xnat.faults.add(Fault("listing", Tell(partial(moves, xnat)), nth=2, path="label=E1"))
    ended = await ready("attach", tmp_path / "1.pdf", "-P", "demo", "-S", "S1", "-E", "E1", "-R", "REPORTS")
    assert (ended.code, fault.hits, session.own_resources) == (8, 1, {})


async def test_a_session_that_moves_while_its_files_are_verified(
    xnat: TestXnat, ready: Commands, tmp_path: Path
) -> None:
    """Its files are not verified, and not safe to delete."""
    place, safe = tmp_path / "visit", tmp_path / "safe"
    write(place / "1.dcm", patient(1, 1))
    write(place / "report.pdf", b"of the first")
    assert (await upload(ready, place, *ATTACH)).code == 0
    fault = xnat.faults.add(Fault("listing", Tell(partial(moves, xnat)), path="REPORTS/files"))
    verify = await ready("verify", "-P", "demo", "-o", "json", "--safe-to-delete", safe)
    assert (verify.code, fault.hits) == (9, 1)
    assert str(place / "report.pdf") not in safe.read_text().splitlines()


async def test_a_subject_that_is_renamed_while_it_is_changed(xnat: TestXnat, ready: Commands, tmp_path: Path) -> None:
    """The label means nobody by then: nothing is told as set."""
    subject = xnat.add_subject("demo", "S1")
    write(tmp_path / "subjects.csv", b"subject,gender\nS1,female\n")
    fault = xnat.faults.add(Fault("subject", Tell(partial(xnat.rename_subject, subject, "OTHER"))))
    ended = await ready("subjects", tmp_path / "subjects.csv", "-P", "demo", "--existing-only", "-o", "json")
    assert fault.hits == 1
    (detail,) = ended.json["details"]
    assert (ended.code, detail["state"], detail["reason"]) == (8, "refused", "XNAT has no such subject")


def moves_and_renames(xnat: TestXnat) -> None:
    """Give the first session to another subject, under another label."""
    session = xnat.archived[0]
    xnat.remove_experiment(session)
    session.label, session.subject = "ELSE", xnat.add_subject("demo", "OTHER")
    xnat.add_experiment(session)


@pytest.mark.parametrize("act", [moves, moves_and_renames])
async def test_headers_of_a_session_that_is_another_subjects_by_now(
    xnat: TestXnat, ready: Commands, tmp_path: Path, act: Callable[[TestXnat], None]
) -> None:
    """Somebody has found whose it is: what its headers say is not said of the subject that it was sent to."""
    place = tmp_path / "visit"
    write(place / "1.dcm", patient(1, 1, PatientSex="F"))
    assert (await upload(ready, place)).code == 0
    act(xnat)
    ended = await upload(ready, place, "--subjects-from-dicom", "gender")
    (problem,) = ended.json["problems"]
    reason = "session S1_20200102: the archive has it under another subject (OTHER, not S1)"
    assert (ended.code, problem["kind"], problem["reason"]) == (8, "subject refused", reason)
    assert genders(xnat) == {"S1": "", "OTHER": ""}


async def test_a_row_of_a_subject_whose_files_are_all_dropped(xnat: TestXnat, ready: Commands, tmp_path: Path) -> None:
    """XNAT has no session of it, and so nothing is set: that is reported in each run."""
    place, table = tmp_path / "tree", tmp_path / "subjects.csv"
    write(place / "1" / "1.dcm", patient(1, 1, SeriesDescription="noise"))
    write(place / "2" / "1.dcm", patient(2, 1))
    write(table, b"subject,gender\nS1,female\nS2,male\n")
    xnat.series_filter = SeriesFilter(("noise",))
    for _ in range(2):
        ended = await upload(ready, place, "--subjects", table)
        assert (ended.code, "demo / S1" in str(ended.json["notices"])) == (8, True)
    assert genders(xnat) == {"S2": "male"}


async def test_a_report_that_comes_before_its_images(xnat: TestXnat, ready: Commands, tmp_path: Path) -> None:
    """A directory is used again, and the report of the next patient is there first: it waits for its images."""
    tree, place = tmp_path / "tree", tmp_path / "tree" / "export"
    write(place / "1.dcm", patient(1, 1))
    write(tree / "other" / "1.dcm", patient(3, 1))
    assert (await upload(ready, tree, *ATTACH)).code == 0
    (place / "1.dcm").unlink()
    write(place / "report.pdf", b"of the second")
    ended = await upload(ready, tree, *ATTACH)
    assert (ended.code, ended.json["attachments"]["skipped"]) == (8, 1)
    write(place / "1.dcm", patient(2, 1))
    assert (await upload(ready, tree, *ATTACH)).code == 0
    assert session_of(xnat, "S1").own_resources == {}
    assert await file_bytes(xnat, session_of(xnat, "S2"), "REPORTS", "report.pdf") == b"of the second"
