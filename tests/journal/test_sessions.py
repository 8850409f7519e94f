"""Which session a file goes to, and what changed rules do."""

from pathlib import Path

import pytest
from journals import (
    E1,
    E2,
    E3,
    ROOT,
    Disk,
    barred,
    deliveries,
    failed,
    instance,
    kinds,
    meet,
    names,
    opened,
    scan,
    send,
    session,
    states,
    stored,
    whole_run,
)

from asyncimport.journal import Journal, JournalReader
from asyncimport.model.files import File, Ignored, Instance, Session
from asyncimport.model.states import FileKind


@pytest.mark.parametrize("batch", [1, 512])
def test_a_second_file_with_the_sop_uid_is_compared(journal: Journal, disk: Disk, batch: int) -> None:
    """It is a duplicate if the bytes agree, else skipped; one of the two is sent."""
    disk.put(instance("a", E1, sop="1.2.x"), instance("b", E1, sop="1.2.x"))
    disk.put(instance("c", E1, sop="1.2.x"), content="other bytes")
    disk.put(Ignored(File(f"{ROOT}/d", 1, 1), FileKind.SKIPPED, "no label"))
    scan(journal, disk, batch=batch)
    assert names(send(journal)) == ["a"]
    assert kinds(journal) == {"a": "INSTANCE", "b": "DUPLICATE", "c": "SKIPPED", "d": "SKIPPED"}
    assert journal.scan.skip_reasons() == [("no label", 1), ("other bytes", 1)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(
            instance("a", E1, sop="1.2.x"), instance("b", E2, sop="1.2.x"), id="the same instance in two studies"
        ),
        pytest.param(
            instance("a", E1), instance("b", session("E1", project="Q")), id="one label and study in two projects"
        ),
    ],
)
def test_files_of_two_sessions_are_both_sent(journal: Journal, disk: Disk, one: Instance, other: Instance) -> None:
    """An instance's identity is within its session, and that of a session within its project."""
    disk.put(one, other)
    scan(journal, disk)
    assert names(send(journal)) == ["a", "b"]


def test_one_label_for_two_studies(journal: Journal, disk: Disk) -> None:
    """The first study has the label, ignoring case; the later study is skipped, and the reason names both."""
    late = session("e1", study="1.2.late")
    disk.put(instance("a", E1), instance("b", late), instance("c", late))
    scan(journal, disk)
    assert names(send(journal)) == ["a"]
    ((reason, count),) = journal.scan.skip_reasons()
    assert count == 2
    assert "1.2.late" in reason
    assert E1.study_uid in reason


@pytest.mark.parametrize(
    "other", [Session("P", "S9", "E1", E1.study_uid), Session("P", "S1", "E9", E1.study_uid)], ids=["subject", "label"]
)
@pytest.mark.parametrize("later", [True, False])
def test_one_study_under_two_names(journal: Journal, disk: Disk, other: Session, later: bool) -> None:
    """A study whose files disagree on subject or label is held, in later runs too, with the reason."""
    disk.put(instance("a", E1))
    meet(journal, disk)
    disk.put(instance("b", other))
    if later:
        journal.close()
    with opened(journal.path) if later else journal as run:
        scan(run, disk)
        assert names(send(run)) == []
        ((reason, _),) = run.scan.skip_reasons()
        assert f"goes to subject {E1.subject}, session {E1.label}" in reason
        assert f"subject {other.subject}, session {other.label}" in reason


def test_more_sessions_than_are_remembered(journal: Journal) -> None:
    """Sessions that are no longer in memory are looked up again, and are the same."""
    many = [session(f"E{n}", subject=f"S{n}") for n in range(2_100)]
    for name in "ab":
        admission = journal.scan.admit([instance(f"{of.label}-{name}", of) for of in many])
        assert admission.files == 2_100
    assert journal.connection.db.execute("SELECT count(*) FROM session").fetchone() == (2_100,)


# Another set of rules


def test_relabel_forgets_what_was_not_sent(path: Path, disk: Disk) -> None:
    """Sessions of which XNAT holds something keep their labels; the new rules decide about all others."""
    disk.put(*[instance(name, E1) for name in "ab"], *[instance(name, E2) for name in "cd"], instance("e", E3))
    disk.put(instance("f", session("e3", study="1.2.late")), Ignored(File(f"{ROOT}/g", 1, 1), FileKind.NOT_DICOM, "no"))
    answers = {"b": failed, "c": barred, "e": failed}
    with opened(path) as journal:
        scan(journal, disk)
        send(journal, lambda claim: answers.get(names([claim])[0], stored)(claim))
        assert journal.scan.skip_reasons() != []
    rules = {"project": "P", "subject": "new"}
    with opened(path, relabel=True, rules=rules) as journal:
        metadata = JournalReader.of(journal).metadata()
        # The run before has not ended: what it had in flight may still arrive.
        assert float(metadata.pop("forgotten")) > 0
        assert metadata == {
            "destination": "https://xnat.test",
            "rule project": "P",
            "rule subject": "new",
            "source": journal.source,
        }
        assert states(journal) == {"a": "STORED", "b": "FAILED"}
        assert kinds(journal) == {"a": "INSTANCE", "b": "INSTANCE", "g": "NOT_DICOM"}
        for old, new in ((E2, "N2"), (E3, "N3"), (session("e3", study="1.2.late"), "N4")):
            items = [item for item in disk.items.values() if isinstance(item, Instance) and item.session == old]
            disk.put(*[Instance(i.file, i.sop_uid, "1", session(new, subject=new, study=old.study_uid)) for i in items])
        scan(journal, disk)
        assert names(send(journal)) == ["b", "c", "e", "f", "d"]
        assert deliveries(journal) == [(label, 1, "ARCHIVED") for label in ("E1", "N2", "N3", "N4")]


def test_relabel_keeps_stored_files(path: Path, disk: Disk) -> None:
    """Even if they changed since, or now carry a forgotten instance."""
    disk.put(instance("a", E1), instance("b", E1))
    whole_run(path, disk)
    disk.touch("a")
    disk.put(instance("b", E2, size=11))
    with opened(path) as journal:
        meet(journal, disk)
    with opened(path, relabel=True) as journal:
        assert states(journal) == {"a": "STORED", "b": "STORED"}
        assert kinds(journal) == {"a": "SKIPPED", "b": "UNREADABLE"}
        scan(journal, disk)
        assert names(send(journal)) == ["b"]
        assert {state for *_, state in deliveries(journal)} == {"ARCHIVED"}
        assert len(JournalReader.of(journal).instances("E1")) == 2
