"""Whole visits: images, reports, tables and demographics in one command; then again, and `verify`."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import image, write
from conftest import Commands, Ended

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


async def upload(commands: Commands, tree: Path, *options: str | Path) -> Ended:
    """Run it for JSON."""
    return await commands("upload", tree, "-P", "demo", "-q", "-o", "json", *options)


def subjects(ended: Ended) -> dict[str, int]:
    """Return the number of subjects in each state, without zeros."""
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
    """All three arrive in one run, a second run changes nothing, and `verify` checks all three."""
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
    """A value that somebody has changed is reported by its field, without the value."""
    await upload(ready, tree, "--subjects", table)
    subject = xnat.subject("demo", "S2")
    assert subject is not None
    subject.demographics["gender"] = "unknown"
    verified = await ready("verify", "-P", "demo", "-o", "json")
    assert verified.code == 9
    assert [one["differing"] for one in verified.json["subjects"]] == [[], ["gender"]]
    shown = await ready("verify", "-P", "demo")
    assert "1 of 2 subjects have the demographics that were stored" in shown.out
    assert "unknown" not in verified.out + shown.out


async def test_headers_fill_what_the_table_leaves_open(xnat: TestXnat, ready: Commands, tree: Path) -> None:
    """Fields from headers are named. The table has priority."""
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


CONTRADICTION = "the headers of its files contradict each other, and it was not set"


async def test_headers_that_contradict_each_other_say_nothing(xnat: TestXnat, ready: Commands, tree: Path) -> None:
    """Two sessions of one subject have two birth years, which is reported. The sex, on which they agree, is set."""
    other = {"StudyInstanceUID": "1.2.9", "StudyDate": "20210102", "SOPInstanceUID": "1.2.9.1"}
    visit(tree / "later", 1, PatientSex="F", PatientBirthDate="19710131", **other)
    for _ in range(2):
        ended = await upload(ready, tree, "--subjects-from-dicom", "gender,yob", "--allow-mixed-patients")
        assert (ended.code, problems(ended, "subject refused")) == (8, [f"{CONTRADICTION}: yob"])
        assert known(xnat, "S1") == {"gender": "female"}
    verified = await ready("verify", "-P", "demo", "-o", "json")
    assert [one["fields"] for one in verified.json["subjects"]] == [["gender"], ["gender", "yob"]]
    table = tree.parent / "subjects.csv"
    table.write_text("subject_label,dob\nS1,1970-01-31\nS2,1980-02-29\n")
    options = ("--subjects-from-dicom", "gender,yob", "--allow-mixed-patients", "--subjects", table)
    assert (await upload(ready, tree, *options)).code == 0
    assert known(xnat, "S1") == {"gender": "female", "dob": "1970-01-31"}


@pytest.mark.parametrize("where", ["sessions", "files"])
async def test_one_against_many(xnat: TestXnat, ready: Commands, tmp_path: Path, where: str) -> None:
    """M, F, F is a contradiction, in the sessions of a subject as in the files of a session; nothing is set."""
    for number, sex in enumerate("FFM"):
        study = f"1.2.{number}" if where == "sessions" else "1.2.0"
        ids: dict[str, Any] = {"StudyInstanceUID": study, "PatientID": "S1", "SOPInstanceUID": f"1.2.9.{number}"}
        day = f"2020010{number + 1}" if where == "sessions" else "20200101"
        write(tmp_path / "tree" / f"{number}.dcm", image(**ids, StudyDate=day, PatientSex=sex))
    ended = await upload(ready, tmp_path / "tree", "--subjects-from-dicom", "gender")
    assert (ended.code, problems(ended, "subject refused")) == (8, [f"{CONTRADICTION}: gender"])
    assert (known(xnat, "S1"), xnat.count["subject"]) == ({}, 0)


async def test_sessions_of_two_runs(xnat: TestXnat, ready: Commands, tmp_path: Path) -> None:
    """Headers that an earlier run has read count, even if the files are gone. What it set stays, and is reported."""
    visit(tmp_path / "first", 1, PatientSex="M")
    ended = await upload(ready, tmp_path / "first", "--subjects-from-dicom", "gender")
    assert (ended.code, known(xnat, "S1")) == (0, {"gender": "male"})
    (tmp_path / "first" / "visit1" / "1.dcm").unlink()
    other = {"StudyInstanceUID": "1.2.9", "StudyDate": "20210102", "SOPInstanceUID": "1.2.9.1"}
    visit(tmp_path / "second", 1, PatientSex="F", **other)
    options = ("--subjects-from-dicom", "gender", "--overwrite-demographics")
    ended = await upload(ready, tmp_path / "second", *options)
    assert (ended.code, problems(ended, "subject refused")) == (8, [f"{CONTRADICTION}: gender"])
    assert known(xnat, "S1") == {"gender": "male"}


async def test_dob_and_age_of_several_sessions(xnat: TestXnat, ready: Commands, tree: Path) -> None:
    """XNAT keeps one of them. If two headers have one each, the first field that was asked for is set."""
    other = {"StudyInstanceUID": "1.2.9", "StudyDate": "20210102", "SOPInstanceUID": "1.2.9.1"}
    visit(tree / "later", 1, PatientAge="051Y", **other)
    ended = await upload(ready, tree, "--subjects-from-dicom", "dob,age")
    assert (ended.code, known(xnat, "S1")) == (0, {"dob": "1970-01-31"})
    assert (await ready("verify", "-P", "demo")).code == 0


async def test_rows_of_nobody(ready: Commands, tree: Path, table: Path) -> None:
    """They are reported with exit code 8, but not those of a session that waits."""
    table.write_text(TABLE + "S3,F,,\nS4,M,,\n")
    ended = await upload(ready, tree, "--subjects", table, "--no-archive")
    assert (ended.code, len(ended.json["notices"])) == (8, 1)
    assert "2 rows of --subjects are of subjects without a session here (demo / S3, demo / S4)" in str(ended.json)
    assert "2 rows of --subjects" in ended.err


@pytest.mark.parametrize("words", [(), ("--on-collision", "suffix")], ids=["streaming", "whole studies"])
async def test_rows_are_of_a_project_by_its_alias(
    xnat: TestXnat, ready: Commands, tree: Path, table: Path, words: tuple[str, ...]
) -> None:
    """For every kind of rule, dry run and upload know their subjects."""
    xnat.projects["demo"].aliases = ("nickname",)
    command: tuple[str | Path, ...] = (
        "upload",
        tree,
        "-P",
        "nickname",
        "-q",
        "-o",
        "json",
        "--subjects",
        table,
        *words,
    )
    for more in (("--dry-run",), ()):
        assert (await ready(*command, *more)).code == 0
    assert known(xnat, "S1")["gender"]


async def test_a_pilot_has_rows_of_others(ready: Commands, tree: Path, table: Path) -> None:
    """They are reported if the whole source was chosen. Letter case does not matter."""
    table.write_text(TABLE.lower())
    for options in (("--max-sessions", "1"), ()):
        ended = await upload(ready, tree, "--subjects", table, *options)
        assert (ended.code, ended.json["notices"]) == (0, [])


async def test_what_xnat_has_is_kept_and_told(xnat: TestXnat, ready: Commands, tree: Path, table: Path) -> None:
    """Until --overwrite-demographics is given, also after a run that kept it."""
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


async def test_what_somebody_has_changed_is_replaced(xnat: TestXnat, ready: Commands, tree: Path, table: Path) -> None:
    """--overwrite-demographics reads XNAT, and not only the record of earlier runs."""
    await upload(ready, tree, "--subjects", table)
    xnat.subject("demo", "S1").demographics["gender"] = "male"  # type: ignore[union-attr]
    assert (await upload(ready, tree, "--subjects", table)).code == 0
    assert known(xnat, "S1")["gender"] == "male"
    ended = await upload(ready, tree, "--subjects", table, "--overwrite-demographics")
    assert (ended.code, known(xnat, "S1")["gender"]) == (0, "female")


async def test_what_is_lost_is_restored(xnat: TestXnat, ready: Commands, tree: Path, table: Path) -> None:
    """`verify --repair` sets a field that has no value any more, and leaves a value that somebody has changed."""
    xnat.needs_reason = True
    await upload(ready, tree, "--subjects", table)
    lost, changed = xnat.subject("demo", "S1"), xnat.subject("demo", "S2")
    assert lost is not None
    assert changed is not None
    lost.demographics.clear()
    changed.demographics["gender"] = "other"
    found = await ready("verify", "-P", "demo")
    assert "error 1 subject: XNAT has no gender, dob, handedness\n      demo / S1\n" in found.out
    assert "--repair sends again what is missing" in found.out
    verified = await ready("verify", "-P", "demo", "--repair", "-o", "json")
    assert verified.code == 9
    assert verified.json["restored"] == [
        {"project": "demo", "subject": "S1", "written": ["gender", "dob", "handedness"], "reason": None}
    ]
    assert [one["verified"] for one in verified.json["subjects"]] == [True, False]
    assert lost.demographics == {"gender": "female", "dob": "1970-01-31", "handedness": "right"}
    assert changed.demographics["gender"] == "other"
    changed.demographics["gender"] = "male"
    assert (await ready("verify", "-P", "demo")).code == 0


async def test_what_was_once_there_stays_on_the_list(xnat: TestXnat, ready: Commands, tree: Path, table: Path) -> None:
    """A lost value stays a loss after a failed repair or upload, and after a table without it."""
    await upload(ready, tree, "--subjects", table)
    for label in ("S1", "S2"):
        xnat.subject("demo", label).demographics.clear()  # type: ignore[union-attr]

    async def lacking() -> list[list[str]]:
        verified = await ready("verify", "-P", "demo", "-o", "json")
        assert verified.code == 9
        return [one["differing"] for one in verified.json["subjects"]]

    both = [["gender", "dob", "handedness"]] * 2
    editors = xnat.projects["demo"].editors
    xnat.projects["demo"].editors = []
    xnat.projects["demo"].readers = ["demo"]
    failed = await ready("verify", "-P", "demo", "--repair", "-o", "json")
    assert (failed.code, ["403" in one["reason"] for one in failed.json["restored"]]) == (9, [True, True])
    assert await lacking() == both
    xnat.projects["demo"].editors = editors
    table.write_text("subject_label,education\nS1,12\nS2,12\n")
    refuse = Fault("subject", Status(403, "<h3>insufficient edit privileges</h3>"), times=2)
    xnat.faults.add(refuse)
    assert (await upload(ready, tree, "--subjects", table)).code == 8
    assert await lacking() == both
    ended = await upload(ready, tree, "--subjects", table)
    assert (ended.code, known(xnat, "S1")) == (0, {"education": 12})
    assert await lacking() == both
    assert (await ready("verify", "-P", "demo", "--repair")).code == 0
    assert known(xnat, "S2") == {"gender": "male", "dob": "1980-02-29", "handedness": "left", "education": 12}


async def test_rows_with_flaws_keep_no_other_back(xnat: TestXnat, ready: Commands, tree: Path, table: Path) -> None:
    """They are reported by line and column, the run ends with 8, and the other rows are set."""
    table.write_text(TABLE.replace("1970-01-31", "31/01/1970"))
    ended = await upload(ready, tree, "--subjects", table)
    assert ended.code == 8
    assert "line 2" in ended.err
    assert "birth_date" in ended.err
    assert "31/01/1970" not in ended.err
    assert known(xnat, "S1") == {}
    assert known(xnat, "S2")["gender"] == "male"
    assert (await ready("upload", tree, "-P", "demo", "--dry-run", "--subjects", table)).code == 8


async def test_a_change_of_the_table_is_set(xnat: TestXnat, ready: Commands, tree: Path, table: Path) -> None:
    """And only for that subject."""
    await upload(ready, tree, "--subjects", table)
    table.write_text(TABLE.replace("S2,M,1980-02-29,left", "S2,M,1980-02-29,right"))
    xnat.count.clear()
    ended = await upload(ready, tree, "--subjects", table, "--overwrite-demographics")
    assert subjects(ended) == {"stored": 1, "already_stored": 1}
    assert known(xnat, "S2")["handedness"] == "right"
    assert xnat.count["subject"] == 1


async def test_without_archived_sessions_they_wait(xnat: TestXnat, ready: Commands, tree: Path, table: Path) -> None:
    """A pilot sets those of its sessions. A run that leaves sessions in the prearchive sets none."""
    ended = await upload(ready, tree, "--subjects", table, "--no-archive")
    assert (ended.code, subjects(ended)) == (0, {})
    assert xnat.subjects("demo") == []
    ended = await upload(ready, tree, "--subjects", table)
    assert (ended.code, subjects(ended)) == (0, {"stored": 2})


async def test_a_refusal_is_told_and_taken_up_again(xnat: TestXnat, ready: Commands, tree: Path, table: Path) -> None:
    """A refusal of one subject does not affect the other, and the next run retries."""
    xnat.faults.add(Fault("subject", Status(403, "<h3>insufficient edit privileges</h3>")))
    ended = await upload(ready, tree, "--subjects", table)
    assert (ended.code, subjects(ended)["stored"]) == (8, 1)
    ended = await upload(ready, tree, "--subjects", table)
    assert ended.code == 0
    assert sum(subjects(ended).values()) == 2


async def test_the_project_by_an_alias(xnat: TestXnat, ready: Commands, tree: Path, table: Path) -> None:
    """Rows without a project belong to the project of the run."""
    xnat.projects["demo"].aliases = ("other",)
    ended = await ready("upload", tree, "-P", "other", "-q", "-o", "json", "--subjects", table)
    assert (ended.code, subjects(ended)) == (0, {"stored": 2})


async def test_fields_that_no_header_has(ready: Commands, tree: Path) -> None:
    """It is an error before anything is sent."""
    ended = await upload(ready, tree, "--subjects-from-dicom", "handedness")
    assert ended.code == 2
    assert "handedness" in ended.err


async def test_a_plan_counts_what_would_go_beside(xnat: TestXnat, ready: Commands, tree: Path) -> None:
    """Before anything is sent."""
    ended = await upload(ready, tree, *ATTACH, "--dry-run")
    assert ended.json["resources"] == {"DATA": 2, "REPORTS": 2}
    assert xnat.archived == []


async def test_a_plan_tells_names_that_would_meet(ready: Commands, tree: Path) -> None:
    """If XNAT would give two files of a directory one name, only one is sent. The plan says so."""
    for name in ("a b.pdf", "a_b.pdf", "ä b.csv"):
        write(tree / "visit1" / name, name.encode())
    ended = await upload(ready, tree, *ATTACH, "--dry-run")
    (problem,) = [one for one in ended.json["problems"] if one["code"] == "attachment-names"]
    assert (problem["severity"], problem["files"]) == ("warning", 2)
    assert "a_b.pdf in REPORTS" in problem["text"]
    sent = await upload(ready, tree, *ATTACH)
    assert (sent.code, sent.json["attachments"]["skipped"]) == (8, 1)


async def test_no_value_leaves_by_the_back_door(ready: Commands, tree: Path, table: Path, tmp_path: Path) -> None:
    """Events and logs name fields, never values."""
    told, log = tmp_path / "events", tmp_path / "log"
    options = ("--subjects", table, "--events", told, "--log-file", log)
    ended = await upload(ready, tree, *options)
    everything = ended.out + ended.err + told.read_text() + log.read_text()
    assert not any(value in everything for value in ("1970-01-31", "female", '"right"'))
    written = [json.loads(line) for line in told.read_text().splitlines() if "subject_stored" in line]
    assert [one["written"] for one in written] == [["gender", "dob", "handedness"]] * 2
