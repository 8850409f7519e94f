"""The patient of a subject is known across runs, journals and tools, from journal, archive and IDs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from builders import image, sop, write
from conftest import Commands

from asyncimport.journal import Journal
from asyncimport.model.files import File, Instance, Patient, Session
from asyncimport.testserver import Fault, Project, Script, Tell, TestXnat

pytestmark = pytest.mark.anyio

UNCHANGED: Mapping[str, Any] = {}


def visit(place: Path, number: int, patient: str | None, **header: Any) -> Path:
    """Write a study of one patient with one file."""
    study = f"1.2.{number}"
    content = image(
        number,
        StudyInstanceUID=study,
        SeriesInstanceUID=f"{study}.1",
        PatientID=patient,
        StudyDate=f"202001{number:02}",
        StudyID=f"V{number}",
        **header,
    )
    write(place / f"{number}" / "1", content)
    return place / f"{number}"


UNDER_S = ("-P", "demo", "-S", "S1", "-E", "E{StudyDate}", "-o", "json")


# --- an exception is for one pair of patients, and lasts


async def test_an_exception_is_for_the_patients_that_it_was_made_for(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """--allow-mixed-patients lets A and B share a subject, for good; C does not, in a run without it."""
    commands.login(url)
    place = tmp_path / "visits"
    visit(place, 1, "A")
    visit(place, 2, "B")
    assert (await commands("upload", place, *UNDER_S, "--allow-mixed-patients")).code == 0
    visit(place, 3, "C")
    visit(place, 4, "B")
    ended = await commands("upload", place, *UNDER_S)
    assert (ended.code, ended.json["files"]["skipped"]) == (8, 1), ended.out
    assert "two PatientIDs" in ended.json["problems"][0]["reason"]
    assert xnat.sop_uids() == {sop(1), sop(2), sop(4)}


async def test_forgetting_a_session_forgets_nobody(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """The archive still has it, although the site has changed its patient."""
    commands.login(url)
    visit(tmp_path / "a", 1, "A")
    visit(tmp_path / "b", 2, "B")
    assert (await commands("upload", tmp_path / "a", *UNDER_S)).code == 0
    assert (await commands("forget", "--session", "E20200101", "-P", "demo", "--yes")).code == 0
    ended = await commands("upload", tmp_path / "b", *UNDER_S)
    assert (ended.code, ended.json["files"]["skipped"]) == (8, 1), ended.out
    assert xnat.sop_uids() == {sop(1)}


def test_a_patient_of_nothing_but_unsent_files_is_routed_anew(tmp_path: Path) -> None:
    """A study that XNAT does not have blocks no other patient."""
    path = tmp_path / "j"
    one = Instance(File("/data/a", 10, 1), "1.1", "1.9", Session("P", "S", "E1", "1"), Patient("A"))
    other = Instance(File("/data/b", 10, 1), "1.2", "1.9", Session("P", "S", "E2", "2"), Patient("B"))
    with Journal(path, destination="http://x", rules={"subject": "S"}) as journal:
        journal.scan.admit([one])
    with Journal(path, destination="http://x", rules={"subject": "T"}, relabel=True) as journal:
        journal.scan.admit([other])
        assert journal.scan.skip_reasons() == []


# --- the archive knows the patients of its sessions


async def sent_by_another(commands: Commands, place: Path, tmp_path: Path, *words: str) -> None:
    """Upload with a journal of its own."""
    ended = await commands("upload", place, *words, "--state-dir", tmp_path / "other")
    assert ended.code == 0, ended.out


async def test_a_second_journal_asks_the_archive(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path) -> None:
    """The session is held before its first file. The message names the option."""
    xnat.script = None
    commands.login(url)
    await sent_by_another(commands, visit(tmp_path, 1, "A"), tmp_path, *UNDER_S)
    sent = xnat.count["import"]
    ended = await commands("upload", visit(tmp_path / "new", 2, "B"), *UNDER_S)
    assert (ended.code, ended.json["sessions"]["held"]) == (9, 1), ended.out
    assert "has another PatientID; --allow-mixed-patients allows it" in ended.json["details"][0]["reason"]
    assert xnat.count["import"] == sent


async def test_an_exception_counts_against_the_archive_too(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """A dry run reports it. --allow-mixed-patients allows this pair for good."""
    xnat.script = None
    commands.login(url)
    await sent_by_another(commands, visit(tmp_path, 1, "A"), tmp_path, *UNDER_S)
    place = tmp_path / "new"
    visit(place, 2, "B")
    visit(place, 3, "B")
    rehearsed = await commands("upload", place, *UNDER_S, "--dry-run")
    assert rehearsed.code == 9
    assert {one["code"] for one in rehearsed.json["problems"]} == {"subject-of-another"}
    assert (await commands("upload", place / "2", *UNDER_S, "--allow-mixed-patients")).code == 0
    assert (await commands("upload", place, *UNDER_S)).code == 0
    visit(place, 4, "C")
    assert (await commands("upload", place, *UNDER_S)).code == 8
    assert xnat.sop_uids() == {sop(1), sop(2), sop(3)}


@pytest.mark.parametrize("subject", ["S1", "s1"])
async def test_the_same_patient_goes_on_in_a_second_journal(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, subject: str
) -> None:
    """PatientID, name and birth date are the same."""
    xnat.script = None
    commands.login(url)
    who = {"PatientName": "Doe^John", "PatientBirthDate": "19500101"}
    await sent_by_another(commands, visit(tmp_path, 1, "A", **who), tmp_path, *UNDER_S)
    words = [subject if word == "S1" else word for word in UNDER_S]
    ended = await commands("upload", visit(tmp_path, 2, "A", **who), *words)
    assert ended.code == 0, ended.out
    assert len(ended.json["notices"]) == (subject == "s1")


async def test_what_a_script_writes_is_nobody(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path) -> None:
    """XNAT's own script replaces PatientID and name by labels. That does not make two people of one."""
    commands.login(url)
    await sent_by_another(commands, visit(tmp_path, 1, "A", PatientName="Doe^John"), tmp_path, *UNDER_S)
    for switched_off in (False, True):
        if switched_off:
            # What the script wrote is there.
            xnat.script = None
        place = visit(tmp_path / str(switched_off), 2 + switched_off, "A", PatientName="Doe^John")
        ended = await commands("upload", place, *UNDER_S)
        assert (ended.code, bool(ended.json["notices"])) == (0, switched_off), ended.out


async def test_a_birth_date_that_differs_is_told(url: str, commands: Commands, tmp_path: Path) -> None:
    """XNAT's script does not change it, but other scripts and people do, so it is no reason to hold a session."""
    commands.login(url)
    await sent_by_another(commands, visit(tmp_path, 1, "A", PatientBirthDate="19500101"), tmp_path, *UNDER_S)
    place = visit(tmp_path, 2, "B", PatientBirthDate="19700101")
    rehearsed = await commands("upload", place, *UNDER_S, "--dry-run")
    assert (rehearsed.code, [one["code"] for one in rehearsed.json["problems"]]) == (0, ["subject-doubted"])
    ended = await commands("upload", place, *UNDER_S)
    assert ended.code == 0, ended.out
    assert ["another birth date" in notice for notice in ended.json["notices"]] == [True]
    assert "another birth date" in ended.err
    assert "1970" not in ended.err + ended.out


@pytest.mark.parametrize("rewrites", [False, True])
async def test_a_patient_whose_label_differs_in_case(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, rewrites: bool
) -> None:
    """P1 is archived and p1 arrives: held if the archive shows two patients, reported if it cannot tell."""
    xnat.script = Script() if rewrites else None
    commands.login(url)
    await sent_by_another(commands, visit(tmp_path, 1, "P1"), tmp_path, "-P", "demo", "-o", "json")
    ended = await commands("upload", visit(tmp_path, 2, "p1"), "-P", "demo", "-o", "json")
    if rewrites:
        assert (ended.code, ["has the subject P1" in notice for notice in ended.json["notices"]]) == (0, [True])
    else:
        assert (ended.code, ended.json["sessions"]["held"]) == (9, 1), ended.out
        assert xnat.sop_uids() == {sop(1)}


async def test_asking_costs_one_listing_of_a_project(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """The number of studies does not matter."""
    commands.login(url)
    for number in range(1, 13):
        visit(tmp_path / "visits", number, f"A{number}")
    listing = xnat.faults.add(Fault("listing", Tell(lambda: None), path="dcmPatientId", share=1.0))
    subjects = xnat.faults.add(Fault("listing", Tell(lambda: None), path="data/subjects?ID", share=1.0))
    assert (await commands("upload", tmp_path / "visits", "-P", "demo", "-q")).code == 0
    assert (listing.seen, subjects.seen) == (1, 0)


# --- labels that are IDs


async def test_a_subject_label_that_is_an_id(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path) -> None:
    """XNAT would archive it under the subject with that ID, in any project."""
    commands.login(url)
    xnat.add_project(Project("other"))
    taken = xnat.add_subject("other", "somebody")
    mine = xnat.add_subject("demo", "mine")
    place = tmp_path / "visits"
    visit(place, 1, taken.id)
    visit(place, 2, mine.id)
    visit(place, 3, "XNAT_S99999")
    rehearsed = await commands("upload", place, "-P", "demo", "-o", "json", "--dry-run")
    assert (rehearsed.code, [one["code"] for one in rehearsed.json["problems"]]) == (9, ["label-is-id"] * 2)
    ended = await commands("upload", place, "-P", "demo", "-o", "json")
    assert (ended.code, ended.json["sessions"]["held"], ended.json["sessions"]["archived"]) == (9, 2, 1), ended.out
    reasons = {detail["subject"]: detail["reason"] for detail in ended.json["details"]}
    assert "is the ID of another subject (somebody, of project other); give it another label" in reasons[taken.id]
    assert "(mine, of project demo)" in reasons[mine.id]
    assert {row.subject for row in xnat.prearchive} == set()
    assert xnat.count["import"] == 1
    assert [session.subject.label for session in xnat.archived] == ["XNAT_S99999"]
    # The option of the message works.
    again = await commands("upload", place, "-P", "demo", "-o", "json", "-S", "sub-{PatientID}", "--relabel")
    assert (again.code, again.json["sessions"]["held"]) == (0, 0), again.out
    assert len(xnat.sop_uids()) == 3


async def test_a_session_label_that_is_an_id(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path) -> None:
    """A request by its label would get the other subject."""
    commands.login(url)
    await sent_by_another(commands, visit(tmp_path, 1, "A"), tmp_path, "-P", "demo", "-o", "json")
    (there,) = xnat.archived
    place = visit(tmp_path, 2, "B", AccessionNumber=there.id)
    ended = await commands("upload", place, "-P", "demo", "-E", "{AccessionNumber}", "-o", "json")
    assert (ended.code, ended.json["sessions"]["held"]) == (9, 1), ended.out
    assert "is the ID of another session" in ended.json["details"][0]["reason"]


async def test_a_label_that_is_its_own_id(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path) -> None:
    """Old XNATs show the ID of a subject without a label: it means that subject."""
    commands.login(url)
    subject = xnat.add_subject("demo", "")
    xnat.rename_subject(subject, subject.id)
    ended = await commands("upload", visit(tmp_path, 1, subject.id), "-P", "demo", "-o", "json")
    assert ended.code == 0, ended.out
    assert [session.subject for session in xnat.archived] == [subject]


# --- Unicode forms


async def test_directories_in_two_spellings_are_one_subject(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """A decomposed accent, as macOS writes it, does not make another subject."""
    commands.login(url)
    for number, name in enumerate(["M\u00fcller", "Mu\u0308ller"], start=1):
        visit(tmp_path / "visits" / name, number, "A")
    words = ("-P", "demo", "--path-pattern", "{subject}/{visit}/*", "-E", "{StudyID}", "-o", "json")
    planned = await commands("plan", tmp_path / "visits", *words)
    assert (planned.code, planned.json["subjects"]) == (0, 1), planned.out
    ended = await commands("upload", tmp_path / "visits", *words)
    assert ended.code == 0, ended.out
    assert {session.subject.label for session in xnat.archived} == {"M_ller"}


async def test_one_patient_under_two_subjects_is_told(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """It may be intended, so nothing is held."""
    commands.login(url)
    for number in (1, 2):
        visit(tmp_path / "visits", number, "A")
    words = ("-P", "demo", "-S", "{StudyID}", "-E", "{StudyID}", "-o", "json")
    planned = await commands("plan", tmp_path / "visits", *words)
    assert (planned.code, [one["code"] for one in planned.json["problems"]]) == (0, ["two-subjects"])
    ended = await commands("upload", tmp_path / "visits", *words)
    assert (ended.code, len(ended.json["notices"])) == (0, 1), ended.out
    assert ended.json["notices"][0].endswith("one PatientID under two subjects (V1, V2)")
    assert len(xnat.sop_uids()) == 2
