"""No two patients under one label: the journal compares what headers say before it admits a file."""

from pathlib import Path
from typing import Any

import pytest
from builders import image, write
from conftest import Commands

from asyncimport.journal import Journal, JournalReader
from asyncimport.model.deliveries import Stored
from asyncimport.model.files import File, Ignored, Instance, Patient, Session
from asyncimport.model.states import FileKind
from asyncimport.routing.patients import is_same_patient, patient_of
from asyncimport.testserver import TestXnat

DOE = Patient("1", "doe^john", "19500101")


def file(name: str) -> File:
    """Make a file that is never opened."""
    return File(f"/data/{name}", 10, 1)


def instance(name: str, study: str, patient: Patient, *, subject: str = "S", label: str | None = None) -> Instance:
    """Make an instance of a study, under a label of its own."""
    return Instance(file(name), f"1.{name}", "1.9", Session("P", subject, label or f"E{study}", study), patient)


def reasons(path: Path, *batches: list[Instance], merge: bool = False) -> list[str]:
    """Admit the instances, and return why some were skipped."""
    with Journal(path, destination="http://x", rules={}, allow_mixed_patients=merge) as journal:
        for batch in batches:
            journal.scan.admit(batch)
        return [reason for reason, _ in journal.scan.skip_reasons()]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (DOE, DOE, None),
        (DOE, Patient("1"), None),
        (Patient("1"), DOE, None),
        (DOE, Patient("2", "doe^john", "19500101"), "two PatientIDs"),
        (DOE, Patient("1", "roe^jane", "19500101"), "one PatientID with two names"),
        (DOE, Patient("1", "doe^john", "19500102"), "one PatientID with two birth dates"),
        (DOE, Patient("", "doe^john", "19500101"), "two PatientIDs"),
        (Patient("1", issuer="A"), Patient("1", issuer="B"), "one PatientID of two issuers"),
        (Patient("1", issuer="A"), Patient("1"), None),
        (Patient("", "doe^john"), Patient("", "doe^john"), None),
        (Patient("", "doe^john"), Patient("", "roe^jane"), "files without PatientID, of two names"),
        (Patient("", "", "19500101"), Patient("", "", "19500102"), "files without PatientID, of two birth dates"),
    ],
)
def test_two_studies_of_one_subject_share_a_patient(
    tmp_path: Path, first: Patient, second: Patient, expected: str | None
) -> None:
    """A subject has one PatientID, with one name and one birth date; an unknown value agrees with any."""
    found = reasons(tmp_path / "j", [instance("a", "1", first)], [instance("b", "2", second)])
    assert len(found) == (expected is not None)
    assert all((expected or "") in reason and "study 2" in reason for reason in found)
    merged = reasons(tmp_path / "merged", [instance("a", "1", first), instance("b", "2", second)], merge=True)
    assert merged == []


@pytest.mark.parametrize("subject", ["S", "s"])
def test_subject_labels_differ_by_more_than_case(tmp_path: Path, subject: str) -> None:
    """XNAT ignores the case of subject labels when it archives, so S and s are one subject."""
    other = Patient("2", "roe^jane", "")
    found = reasons(tmp_path / "j", [instance("a", "1", DOE), instance("b", "2", other, subject=subject)])
    assert ["the subject would hold two PatientIDs" in reason for reason in found] == [True]
    assert reasons(tmp_path / "k", [instance("a", "1", DOE), instance("b", "2", other, subject="T")]) == []


def test_one_patient_may_have_two_subjects_but_not_two_names(tmp_path: Path) -> None:
    """This finds a PatientID such as "1" or "ANON" for everyone, wherever the subject label comes from."""
    same = reasons(tmp_path / "j", [instance("a", "1", DOE), instance("b", "2", DOE, subject="T")])
    assert same == []
    roe = Patient("1", "roe^jane", "")
    found = reasons(tmp_path / "k", [instance("a", "1", DOE), instance("b", "2", roe, subject="T")])
    assert ["one PatientID with two names" in reason for reason in found] == [True]


@pytest.mark.parametrize("other", [Patient("2", "doe^john", "19500101"), Patient("1", "roe^jane", "")])
def test_a_study_belongs_to_one_patient(tmp_path: Path, other: Patient) -> None:
    """A file of another patient in a study is skipped, in later runs too."""
    path = tmp_path / "j"
    with Journal(path, destination="http://x", rules={}) as journal:
        assert (
            journal.scan.admit([instance("a", "1", DOE), instance("b", "1", other), instance("c", "1", DOE)]).files == 2
        )
        assert len(journal.scan.skip_reasons()) == 1
    with Journal(path, destination="http://x", rules={}) as journal:
        assert journal.scan.admit([instance("d", "1", other), instance("e", "1", DOE)]).files == 1
        assert JournalReader.of(journal).summary().files.skipped == 1


def test_a_disputed_study_is_not_archived(tmp_path: Path) -> None:
    """Even if all its files were sent before the other patient's file was found; the next run sends nothing of it."""
    path = tmp_path / "j"
    late = instance("z", "1", DOE)
    with Journal(path, destination="http://x", rules={}) as journal:
        journal.scan.admit([instance("a", "1", DOE), instance("b", "1", DOE)])
        while claims := journal.queue.claim(8, max_active=8):
            journal.queue.record_outcomes([Stored(claim, "/prearchive/1") for claim in claims])
        journal.scan.admit([instance("c", "1", Patient("2"))])
        journal.scan.finish(["/data"], partial=True)
        assert journal.deliveries.claim() is None
        assert journal.queue.claim(8, max_active=8) is None
    with Journal(path, destination="http://x", rules={}) as journal:
        journal.scan.skip_known([file("a"), file("b")])
        journal.scan.admit([late])
        assert journal.queue.claim(8, max_active=8) == []
        # The other file is gone.
        journal.scan.finish(["/data"])
        claims = journal.queue.claim(8, max_active=8) or []
        assert [claim.instance.sop_uid for claim in claims] == [late.sop_uid]
        journal.queue.record_outcomes([Stored(claim, "/prearchive/1") for claim in claims])
        assert journal.deliveries.claim() is not None


@pytest.mark.parametrize("name", ["other/c", "other"], ids=["the file", "its directory"])
@pytest.mark.parametrize("kind", [FileKind.UNREADABLE, FileKind.LINK])
@pytest.mark.parametrize("runs", [1, 2])
def test_what_a_run_cannot_see_still_disputes(tmp_path: Path, kind: FileKind, name: str, runs: int) -> None:
    """The other patient's file may be behind a link that is not followed, or cannot be read: it is not gone."""
    path = tmp_path / "j"
    with Journal(path, destination="http://x", rules={}) as journal:
        journal.scan.admit([instance("a", "1", DOE), instance("other/b", "2", DOE)])
        while claims := journal.queue.claim(8, max_active=8):
            journal.queue.record_outcomes([Stored(claim, f"/{claim.instance.session.label}") for claim in claims])
        journal.scan.admit([instance("other/c", "1", Patient("2"))])
    for _ in range(runs):
        with Journal(path, destination="http://x", rules={}) as journal:
            journal.scan.skip_known([file("a")])
            journal.scan.admit([Ignored(file(name), kind, "not seen", damaged=kind == FileKind.UNREADABLE)])
            journal.scan.finish(["/data"])
            assert journal.deliveries.claim() is None
            (report,) = [one for one in JournalReader.of(journal).summary().sessions if one.session.label == "E1"]
            assert report.state == "held"
    with Journal(path, destination="http://x", rules={}) as journal:
        journal.scan.skip_known([file("a")])
        journal.scan.finish(["/data"])
        assert journal.deliveries.claim() is not None


def test_an_empty_patient_id_identifies_no_patient(tmp_path: Path) -> None:
    """Two subjects without one are two people, and may have two names."""
    one, other = Patient("", "doe^john", "19500101"), Patient("", "roe^jane", "19600101")
    assert reasons(tmp_path / "j", [instance("a", "1", one), instance("b", "2", other, subject="T")]) == []
    found = reasons(tmp_path / "k", [instance("a", "1", one), instance("b", "2", other, subject="s")])
    assert ["files without PatientID, of two names" in reason for reason in found] == [True]


def test_a_name_found_later_counts(tmp_path: Path) -> None:
    """A first file without a name does not keep the next two from being compared."""
    found = reasons(
        tmp_path / "j",
        [instance("a", "1", Patient("1")), instance("b", "1", DOE), instance("c", "2", Patient("1", "roe^jane", ""))],
    )
    assert ["one PatientID with two names" in reason for reason in found] == [True]


def test_skipped_files_are_read_again(tmp_path: Path) -> None:
    """With --allow-mixed-patients the next run sends a skipped file, though it has not changed."""
    path = tmp_path / "j"
    batch = [instance("a", "1", DOE), instance("b", "2", Patient("2"))]
    assert len(reasons(path, batch)) == 1
    with Journal(path, destination="http://x", rules={}, allow_mixed_patients=True) as journal:
        again = journal.scan.skip_known([item.file for item in batch])
        assert (again.files, [one.path for one in again.unknown]) == (1, ["/data/b"])
        assert journal.scan.admit([batch[1]]).files == 1
        assert journal.scan.skip_reasons() == []


def test_the_journal_holds_no_names(tmp_path: Path) -> None:
    """It has only digests of names and birth dates: it compares them and never shows them."""
    reasons(tmp_path / "j", [instance("a", "1", DOE), instance("b", "2", Patient("1", "roe^jane", "19600101"))])
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir()).lower()
    assert [word for word in (b"doe", b"john", b"roe^", b"jane", b"19500101", b"19600101") if word in content] == []
    assert "doe" not in repr(instance("a", "1", DOE))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Doe^John", "DOE^JOHN", True),
        ("Doe^John^^", "Doe^John", True),
        ("Doe^ John ", "Doe^John", True),
        ("Doe  Smith^John", "Doe Smith^John", True),
        ("Yamada^Tarou=山田^太郎", "Yamada^Tarou", True),
        ("Doe^John", "Doe^Jane", False),
        ("Doe^John", "John^Doe", False),
        ("Straße^A", "STRASSE^A", True),
        ("Mu\u0308ller^A", "M\u00fcller^A", True),
        ("=山田^太郎=やまだ^たろう", "=山田^太郎", True),
        ("=山田^太郎=やまだ^たろう", "=鈴木^花子=すずき^はなこ", False),
        ("Yamada^Tarou=山田^太郎", "Yamada^Tarou=山田^花子", False),
    ],
)
def test_names_are_compared_without_their_spelling(one: str, other: str, same: bool) -> None:
    """Case, padding, empty components and other scripts do not make another patient."""
    first, second = (patient_of({"PatientID": "1", "PatientName": name}) for name in (one, other))
    assert is_same_patient(first, second) is same


@pytest.mark.anyio
async def test_a_shared_subject_is_found_before_and_while_sending(
    xnat: TestXnat, url: str, commands: Commands, tree: Path
) -> None:
    """A fixed `-S` puts two patients into one subject: reported, and allowed with --allow-mixed-patients."""
    commands.login(url)
    before = await commands("upload", tree, "-P", "demo", "-S", "everyone", "--check-first", "-o", "json")
    assert before.code == 2
    assert "two PatientIDs" in before.json["error"]["message"]
    assert xnat.count["import"] == 0
    streaming = await commands("upload", tree, "-P", "demo", "-S", "everyone", "-o", "json")
    assert streaming.code == 8
    assert streaming.json["sessions"]["archived"] == 1
    merged = await commands("upload", tree, "-P", "demo", "-S", "everyone", "--allow-mixed-patients", "-o", "json")
    assert merged.code == 0, merged.out
    assert merged.json["sessions"]["archived"] == 2
    assert len(xnat.sop_uids()) == 12


TEMPLATES: dict[str, tuple[str, ...]] = {"same label": ("-S", "all", "-E", "E_{StudyDate}")}
OF_TWO = {"label": {"PatientID": "T"}, "same label": {"PatientID": "T"}, "name": {"PatientName": "Roe^Jane"}}


@pytest.mark.anyio
@pytest.mark.parametrize("archive", ["--archive", "--no-archive"])
@pytest.mark.parametrize("what", list(OF_TWO))
async def test_a_study_of_two_patients_is_held_as_a_whole(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, what: str, archive: str
) -> None:
    """Its first file may be sent when the second is found; nothing is archived until one of them is gone."""
    commands.login(url)
    place = tmp_path / "visit"
    for number in range(1, 4):
        write(place / f"{number}", image(number, PatientName="Doe^John"))
    other: dict[str, Any] = {"PatientName": "Doe^John", **OF_TWO[what]}
    write(place / "9", image(9, **other))
    words: tuple[Any, ...] = ("upload", place, "-P", "demo", "-o", "json", archive, *TEMPLATES.get(what, ()))
    for _ in range(2):
        ended = await commands(*words, "--partial", "archive", "--retry", "held")
        assert (ended.code, ended.json["files"]["skipped"]) == (8, 1), ended.out
        (report,) = ended.json["details"]
        assert report["state"] == "held"
        assert report["reason"].startswith("no part of it is sent: study 1.2.3")
        assert xnat.archived == []
        assert {row.status for row in xnat.prearchive} <= {"RECEIVING"}
    (place / "9").unlink()
    ended = await commands(*words)
    state = "archived" if archive == "--archive" else "prearchive"
    assert (ended.code, [one["state"] for one in ended.json["details"]]) == (0, [state]), ended.out


@pytest.mark.anyio
async def test_a_study_of_two_patients_is_archived_on_request(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """The same command with --allow-mixed-patients archives all of it."""
    commands.login(url)
    for number, patient in enumerate(["S", "S", "T"]):
        write(tmp_path / "visit" / f"{number}", image(number, PatientID=patient))
    words = ("upload", tmp_path / "visit", "-P", "demo", "-o", "json", "-S", "all", "-E", "E_{StudyDate}")
    assert (await commands(*words)).code == 8
    ended = await commands(*words, "--allow-mixed-patients")
    assert (ended.code, [one["state"] for one in ended.json["details"]]) == (0, ["archived"]), ended.out
    assert len(xnat.sop_uids()) == 3


@pytest.mark.anyio
async def test_a_patient_found_after_archiving_changes_nothing(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """The archived session stays; the other patient's file is reported, and attachments next to it are skipped."""
    commands.login(url)
    place = tmp_path / "visits"
    write(place / "a" / "1", image(1))
    words = ("upload", place, "-P", "demo", "-o", "json", "--attach", "*.pdf=REPORTS")
    assert (await commands(*words)).code == 0
    write(place / "b" / "2", image(2, PatientID="T"))
    write(place / "b" / "report.pdf", b"about T")
    for more in (
        (),
        (),
        ("--retry", "held,refused"),
        ("--partial", "archive"),
        ("--resend-changed", "--overwrite", "append"),
        (),
    ):
        ended = await commands(*words, *more)
        assert (ended.code, ended.json["files"]["skipped"], ended.json["attachments"]["skipped"]) == (8, 1, 1)
        assert [one["state"] for one in ended.json["details"]] == ["archived"]
        assert xnat.archived[0].own_resources == {}
    (place / "b" / "2").unlink()
    (place / "b" / "report.pdf").unlink()
    assert (await commands(*words)).code == 0


@pytest.mark.anyio
async def test_a_plan_identifies_no_patient_by_an_empty_id(commands: Commands, tmp_path: Path) -> None:
    """A plan follows the same rules as an upload."""
    for number, name in enumerate(["Doe^John", "Roe^Jane"], start=1):
        header: dict[str, Any] = {
            "StudyInstanceUID": f"1.2.{number}",
            "PatientID": None,
            "PatientName": name,
            "StudyID": f"A{number}",
        }
        write(tmp_path / "source" / f"{number}", image(number, **header))
    words = ("plan", tmp_path / "source", "-P", "demo", "-o", "json", "-E", "{StudyID}")
    apart = await commands(*words, "-S", "{StudyID}")
    assert (apart.code, apart.json["problems"]) == (0, [])
    together = await commands(*words, "-S", "all")
    assert (together.code, [one["code"] for one in together.json["problems"]]) == (2, ["two-people"])
    assert "files without PatientID, of two names" in together.json["problems"][0]["text"]


def test_a_study_of_mixed_patients_takes_no_further_patient(tmp_path: Path) -> None:
    """What was sent with --allow-mixed-patients does not let another patient into the study without it."""
    where = Session("P", "S", "E", "1.2")
    with Journal(tmp_path / "book", destination="http://x", rules={}, allow_mixed_patients=True) as journal:
        journal.scan.admit([Instance(File("/m/1", 1, 1), "1.2.1", "1.9", where, Patient("1"))])
    with Journal(tmp_path / "book", destination="http://x", rules={}) as journal:
        journal.scan.admit([Instance(File("/m/2", 1, 1), "1.2.2", "1.9", where, Patient("2"))])
        ((reason, files),) = journal.scan.skip_reasons()
    assert "the study holds files of two PatientIDs" in reason
    assert files == 1
