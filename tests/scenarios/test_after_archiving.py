"""Attachments and demographics while files change: each goes to the patient whom it is of, or is reported."""

import os
from pathlib import Path
from typing import Any

import pytest
from builders import image, write
from conftest import Commands, Ended

from asyncimport.testserver import ArchivedSession, TestXnat, file_bytes

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
