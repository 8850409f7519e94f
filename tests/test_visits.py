"""Visits whole: images, reports, tables and who the subject is, in one command; then again, and `verify`."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Commands, Ended
from scenery import image, write

from asyncimport.testserver import Fault, Status, TestXnat

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

ATTACH = ("--attach", "*.pdf=REPORTS", "--attach", "*.csv=DATA")
CHANGES = ("import", "build", "archive", "file", "resource", "subject", "refresh")
TABLE = "subject_label,sex,birth_date,handedness\nS1,F,1970-01-31,right\nS2,M,1980-02-29,left\n"


def visit(tree: Path, number: int, **attributes: Any) -> None:
    """Write a visit of a subject: an image, a report, a table."""
    ids = {"StudyInstanceUID": f"1.2.{number}", "PatientID": f"S{number}", "SOPInstanceUID": f"1.2.{number}.1"}
    write(tree / f"visit{number}" / "1.dcm", image(1, **{**ids, **attributes}))
    write(tree / f"visit{number}" / "report.pdf", b"%PDF")
    write(tree / f"visit{number}" / "values.csv", f"a,{number}".encode())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write two visits, whose headers know sex and birth date."""
    place = tmp_path / "tree"
    visit(place, 1, PatientSex="F", PatientBirthDate="19700131")
    visit(place, 2, PatientSex="M", PatientBirthDate="19800229", PatientWeight="70")
    return place


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Write a table of both subjects."""
    path = tmp_path / "subjects.csv"
    path.write_text(TABLE)
    return path


@pytest.fixture
def ready(url: str, commands: Commands) -> Commands:
    """Let the commands find the test XNAT."""
    commands.login(url)
    return commands


async def upload(commands: Commands, tree: Path, *options: str | Path) -> Ended:
    """Run it for JSON."""
    return await commands("upload", tree, "-P", "demo", "-q", "-o", "json", *options)


def subjects(ended: Ended) -> dict[str, int]:
    """Return what became of subjects, without what became of none."""
    return {name: count for name, count in ended.json["subjects"].items() if count and name != "found"}


def known(xnat: TestXnat, label: str) -> dict[str, Any]:
    """Return the demographics of a subject."""
    found = xnat.subject("demo", label)
    assert found is not None
    return dict(found.demographics)


def problems(ended: Ended, kind: str) -> list[str]:
    """Return the reasons of one kind."""
    return [one["reason"] for one in ended.json["problems"] if one["kind"] == kind]


async def test_one_command_again_and_verified(xnat: TestXnat, ready: Commands, tree: Path, table: Path) -> None:
    """All three arrive in one run, a second asks for no change, and `verify` looks at all three."""
    ended = await upload(ready, tree, *ATTACH, "--subjects", table)
    assert ended.code == 0, ended.out
    assert ended.json["files"]["stored"] == 2
    assert ended.json["attachments"]["stored"] == 4
    assert subjects(ended) == {"stored": 2}
    assert known(xnat, "S1") == {"gender": "female", "dob": "1970-01-31", "handedness": "right"}
    assert known(xnat, "S2") == {"gender": "male", "dob": "1980-02-29", "handedness": "left"}
    xnat.count.clear()
    again = await upload(ready, tree, *ATTACH, "--subjects", table)
    assert (again.code, subjects(again)) == (0, {"already_stored": 2})
    assert [kind for kind in CHANGES if xnat.count[kind]] == []
    verified = await ready("verify", "-P", "demo", "-o", "json")
    assert verified.code == 0
    assert [one["verified"] for one in verified.json["details"]] == ["uids", "uids"]
    assert [one["verified"] for one in verified.json["attachments"]] == [True] * 4
    assert [(one["subject"], one["verified"]) for one in verified.json["subjects"]] == [("S1", True), ("S2", True)]


async def test_what_has_changed_since_is_found(xnat: TestXnat, ready: Commands, tree: Path, table: Path) -> None:
    """A value that somebody changed is named by its field, and by no value."""
    await upload(ready, tree, "--subjects", table)
    subject = xnat.subject("demo", "S2")
    assert subject is not None
    subject.demographics["gender"] = "unknown"
    verified = await ready("verify", "-P", "demo", "-o", "json")
    assert verified.code == 9
    assert [one["differing"] for one in verified.json["subjects"]] == [[], ["gender"]]
    shown = await ready("verify", "-P", "demo")
    assert "1 of 2 subjects are described as they were" in shown.out
    assert "unknown" not in verified.out + shown.out


async def test_headers_fill_what_the_table_leaves_open(xnat: TestXnat, ready: Commands, tree: Path) -> None:
    """What is taken from them is named; the table goes before."""
    table = tree.parent / "subjects.csv"
    table.write_text("subject_label,gender\nS1,other\n")
    ended = await upload(ready, tree, "--subjects", table, "--subjects-from-dicom", "gender,yob,weight")
    assert ended.code == 0, ended.out
    assert known(xnat, "S1") == {"gender": "other", "yob": 1970}
    assert known(xnat, "S2") == {"gender": "male", "yob": 1980, "weight": pytest.approx(154.3)}
    assert problems(ended, "subject from headers") == [
        "gender, yob, weight were taken from headers",
        "yob were taken from headers",
    ]


async def test_headers_that_contradict_each_other_say_nothing(xnat: TestXnat, ready: Commands, tree: Path) -> None:
    """Two sessions of one subject with two birth years; the sex they agree on is taken."""
    other = {"StudyInstanceUID": "1.2.9", "StudyDate": "20210102", "SOPInstanceUID": "1.2.9.1"}
    visit(tree / "later", 1, PatientSex="F", PatientBirthDate="19710131", **other)
    ended = await upload(ready, tree, "--subjects-from-dicom", "gender,yob", "--merge-patients")
    assert ended.code == 0, ended.out
    assert known(xnat, "S1") == {"gender": "female"}


async def test_what_xnat_has_is_kept_and_told(xnat: TestXnat, ready: Commands, tree: Path, table: Path) -> None:
    """Until it is asked to be replaced, also when the run before has kept it."""
    xnat.add_subject("demo", "S1", gender="male")
    ended = await upload(ready, tree, "--subjects", table)
    assert (ended.code, known(xnat, "S1")["gender"]) == (0, "male")
    (reason,) = problems(ended, "subject differs")
    assert "gender" in reason
    assert "male" not in reason
    xnat.count.clear()
    await upload(ready, tree, "--subjects", table)
    assert xnat.count["subject"] == 0
    ended = await upload(ready, tree, "--subjects", table, "--overwrite-demographics")
    assert (ended.code, known(xnat, "S1")["gender"]) == (0, "female")
    assert problems(ended, "subject differs") == []


async def test_rows_with_flaws_keep_no_other_back(xnat: TestXnat, ready: Commands, tree: Path, table: Path) -> None:
    """They are told by line and column, the run ends with 8, and the others are set."""
    table.write_text(TABLE.replace("1970-01-31", "31/01/1970"))
    ended = await upload(ready, tree, "--subjects", table)
    assert ended.code == 8
    assert "line 2" in ended.err
    assert "birth_date" in ended.err
    assert "31/01/1970" not in ended.err
    assert known(xnat, "S1") == {}
    assert known(xnat, "S2")["gender"] == "male"


async def test_a_change_of_the_table_is_set(xnat: TestXnat, ready: Commands, tree: Path, table: Path) -> None:
    """And only of the subject that it is about."""
    await upload(ready, tree, "--subjects", table)
    table.write_text(TABLE.replace("S2,M,1980-02-29,left", "S2,M,1980-02-29,right"))
    xnat.count.clear()
    ended = await upload(ready, tree, "--subjects", table, "--overwrite-demographics")
    assert subjects(ended) == {"stored": 1, "already_stored": 1}
    assert known(xnat, "S2")["handedness"] == "right"
    assert xnat.count["subject"] == 1


async def test_without_archived_sessions_they_wait(xnat: TestXnat, ready: Commands, tree: Path, table: Path) -> None:
    """A pilot sets those of its sessions, a run that leaves them in the prearchive none."""
    ended = await upload(ready, tree, "--subjects", table, "--no-archive")
    assert (ended.code, subjects(ended)) == (0, {})
    assert xnat.subjects("demo") == []
    ended = await upload(ready, tree, "--subjects", table)
    assert (ended.code, subjects(ended)) == (0, {"stored": 2})


async def test_a_refusal_is_told_and_taken_up_again(xnat: TestXnat, ready: Commands, tree: Path, table: Path) -> None:
    """XNAT's word on one subject is nothing to the other, and the next run asks again."""
    xnat.faults.add(Fault("subject", Status(403, "<h3>insufficient edit privileges</h3>")))
    ended = await upload(ready, tree, "--subjects", table)
    assert (ended.code, subjects(ended)["stored"]) == (8, 1)
    ended = await upload(ready, tree, "--subjects", table)
    assert ended.code == 0
    assert sum(subjects(ended).values()) == 2


async def test_the_project_by_an_alias(xnat: TestXnat, ready: Commands, tree: Path, table: Path) -> None:
    """The rows of a table that names no project are of the one that is meant."""
    xnat.projects["demo"].aliases = ("other",)
    ended = await ready("upload", tree, "-P", "other", "-q", "-o", "json", "--subjects", table)
    assert (ended.code, subjects(ended)) == (0, {"stored": 2})


async def test_fields_that_no_header_has(ready: Commands, tree: Path) -> None:
    """It is a mistake, told before anything is sent."""
    ended = await upload(ready, tree, "--subjects-from-dicom", "handedness")
    assert ended.code == 2
    assert "handedness" in ended.err


async def test_a_plan_counts_what_would_go_beside(xnat: TestXnat, ready: Commands, tree: Path) -> None:
    """Before anything is sent."""
    ended = await upload(ready, tree, *ATTACH, "--dry-run")
    assert ended.json["attachments"] == {"DATA": 2, "REPORTS": 2}
    assert xnat.archived == []


async def test_no_value_leaves_by_the_back_door(ready: Commands, tree: Path, table: Path, tmp_path: Path) -> None:
    """Events and logs name fields, and never what stands in them."""
    told, log = tmp_path / "events", tmp_path / "log"
    options = ("--subjects", table, "--events", told, "--log-file", log)
    ended = await upload(ready, tree, *options)
    everything = ended.out + ended.err + told.read_text() + log.read_text()
    assert not any(value in everything for value in ("1970-01-31", "female", '"right"'))
    written = [json.loads(line) for line in told.read_text().splitlines() if "subject_stored" in line]
    assert [one["written"] for one in written] == [["gender", "dob", "handedness"]] * 2
