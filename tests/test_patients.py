"""No two patients under one label: what the headers say of them is compared before a file is let in."""

from pathlib import Path

import pytest
from conftest import Commands

from asyncimport.journal import Journal, Ledger
from asyncimport.model import File, Instance, Patient, Session
from asyncimport.routing import patient_of
from asyncimport.testserver import TestXnat

DOE = Patient("1", "doe^john", "19500101")


def file(name: str) -> File:
    """Make a file that nobody opens."""
    return File(f"/data/{name}", 10, 1)


def instance(name: str, study: str, patient: Patient, *, subject: str = "S", label: str | None = None) -> Instance:
    """Make an instance of a study, under a label of its own."""
    return Instance(file(name), f"1.{name}", "1.9", Session("P", subject, label or f"E{study}", study), patient)


def reasons(path: Path, *batches: list[Instance], merge: bool = False) -> list[str]:
    """Admit the instances, and return why some of them were not let in."""
    with Journal(path, destination="http://x", rules={}, merge_patients=merge) as journal:
        for batch in batches:
            journal.admit(batch)
        return [reason for reason, _ in journal.collisions()]


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
    ],
)
def test_two_studies_of_one_subject(tmp_path: Path, first: Patient, second: Patient, expected: str | None) -> None:
    """Under one subject there is one PatientID, with one name and one birth date; what is unknown agrees."""
    found = reasons(tmp_path / "j", [instance("a", "1", first)], [instance("b", "2", second)])
    assert len(found) == (expected is not None)
    assert all((expected or "") in reason and "study 2" in reason for reason in found)
    merged = reasons(tmp_path / "merged", [instance("a", "1", first), instance("b", "2", second)], merge=True)
    assert merged == []


@pytest.mark.parametrize("subject", ["S", "s"])
def test_subject_labels_differ_by_more_than_case(tmp_path: Path, subject: str) -> None:
    """XNAT finds subjects without regard to case when it archives, so S and s are one subject."""
    other = Patient("2", "roe^jane", "")
    found = reasons(tmp_path / "j", [instance("a", "1", DOE), instance("b", "2", other, subject=subject)])
    assert ["the subject would hold two PatientIDs" in reason for reason in found] == [True]
    assert reasons(tmp_path / "k", [instance("a", "1", DOE), instance("b", "2", other, subject="T")]) == []


def test_one_patient_may_have_two_subjects_but_not_two_names(tmp_path: Path) -> None:
    """PatientID "1" or "ANON" for everyone is found also where the subject label comes from elsewhere."""
    same = reasons(tmp_path / "j", [instance("a", "1", DOE), instance("b", "2", DOE, subject="T")])
    assert same == []
    roe = Patient("1", "roe^jane", "")
    found = reasons(tmp_path / "k", [instance("a", "1", DOE), instance("b", "2", roe, subject="T")])
    assert ["one PatientID with two names" in reason for reason in found] == [True]


@pytest.mark.parametrize("other", [Patient("2", "doe^john", "19500101"), Patient("1", "roe^jane", "")])
def test_a_study_belongs_to_one_patient(tmp_path: Path, other: Patient) -> None:
    """A file of another patient in a study is left out, also when it comes in a later run."""
    path = tmp_path / "j"
    with Journal(path, destination="http://x", rules={}) as journal:
        assert journal.admit([instance("a", "1", DOE), instance("b", "1", other), instance("c", "1", DOE)]).files == 2
        assert len(journal.collisions()) == 1
    with Journal(path, destination="http://x", rules={}) as journal:
        assert journal.admit([instance("d", "1", other), instance("e", "1", DOE)]).files == 1
        assert Ledger.of(journal).summary().files.skipped == 1


def test_a_name_learnt_later_counts(tmp_path: Path) -> None:
    """A first file without a name does not keep the next two from being compared."""
    found = reasons(
        tmp_path / "j",
        [instance("a", "1", Patient("1")), instance("b", "1", DOE), instance("c", "2", Patient("1", "roe^jane", ""))],
    )
    assert ["one PatientID with two names" in reason for reason in found] == [True]


def test_what_was_skipped_is_looked_into_again(tmp_path: Path) -> None:
    """With --merge-patients the next run takes up what this one skipped, though the file has not changed."""
    path = tmp_path / "j"
    batch = [instance("a", "1", DOE), instance("b", "2", Patient("2"))]
    assert len(reasons(path, batch)) == 1
    with Journal(path, destination="http://x", rules={}, merge_patients=True) as journal:
        again = journal.recall([item.file for item in batch])
        assert (again.files, [one.path for one in again.unknown]) == (1, ["/data/b"])
        assert journal.admit([batch[1]]).files == 1
        assert journal.collisions() == []


def test_the_journal_holds_no_names(tmp_path: Path) -> None:
    """Names and birth dates are kept as digests only: they are to be compared, not told."""
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
    ],
)
def test_names_are_compared_by_what_they_say(one: str, other: str, same: bool) -> None:
    """Case, padding, empty components and other scripts do not make another patient."""
    first, second = (patient_of({"PatientID": "1", "PatientName": name}) for name in (one, other))
    assert (first == second) is same


@pytest.mark.anyio
async def test_a_shared_subject_is_found_before_and_while_sending(
    xnat: TestXnat, url: str, commands: Commands, tree: Path
) -> None:
    """`-S` with a fixed text puts two patients under one subject: reported, and allowed with --merge-patients."""
    commands.login(url)
    before = await commands("upload", tree, "-P", "demo", "-S", "everyone", "--scan-first", "-o", "json")
    assert before.code == 2
    assert "two PatientIDs" in before.json["error"]["message"]
    assert xnat.count["import"] == 0
    streaming = await commands("upload", tree, "-P", "demo", "-S", "everyone", "-o", "json")
    assert streaming.code == 8
    assert streaming.json["sessions"]["archived"] == 1
    merged = await commands("upload", tree, "-P", "demo", "-S", "everyone", "--merge-patients", "-o", "json")
    assert merged.code == 0, merged.out
    assert merged.json["sessions"]["archived"] == 2
    assert len(xnat.sop_uids()) == 12
