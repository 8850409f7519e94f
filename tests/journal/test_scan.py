"""What the scan records of files: changed, moved, vanished and duplicate ones."""

from collections.abc import Callable
from pathlib import Path

import pytest
from journals import (
    E1,
    E2,
    E3,
    ROOT,
    Disk,
    deliveries,
    failed,
    instance,
    kinds,
    meet,
    names,
    only,
    opened,
    refused,
    scan,
    send,
    states,
    stored,
    whole_run,
)

from asyncimport.journal import Journal, JournalReader, VanishedFiles
from asyncimport.model.deliveries import Claim, Failed, Outcome, Refused
from asyncimport.model.files import File, Ignored, Instance
from asyncimport.model.states import FileKind


def test_unchanged_files_are_not_read(journal: Journal, disk: Disk) -> None:
    """A file of the same path, size and mtime is skipped; only unreadable ones are read again."""
    bad = Ignored(File(f"{ROOT}/c", 3, 1_000), FileKind.UNREADABLE, "permission denied")
    disk.put(instance("a", E1), Ignored(File(f"{ROOT}/b", 3, 1_000), FileKind.NOT_DICOM, "no DICOM"), bad)
    first, admission = meet(journal, disk)
    assert (len(first.unknown), admission.files, admission.size) == (3, 1, 10)
    journal.close()
    with opened(journal.path) as later:
        again = later.scan.skip_known([item.file for item in disk.items.values()])
        assert again.unknown == [bad.file]
        assert (again.files, again.size) == (1, 10)


@pytest.mark.parametrize(("size", "mtime_ns"), [(11, 1_000), (10, 1_001)])
def test_changed_files_are_read_again(path: Path, disk: Disk, size: int, mtime_ns: int) -> None:
    """Another size or mtime makes a file unknown; an unsent one is sent with its new content."""
    disk.put(instance("a", E1))
    with opened(path) as journal:
        meet(journal, disk)
    disk.touch("a", size=size, mtime_ns=mtime_ns)
    with opened(path) as journal:
        scan(journal, disk)
        (claim,) = send(journal)
        assert (claim.instance.file.size, claim.instance.file.mtime_ns) == (size, mtime_ns)


@pytest.mark.parametrize("answer", [failed, refused])
def test_a_rewritten_file_gets_another_chance(path: Path, disk: Disk, answer: Callable[[Claim], Outcome]) -> None:
    """A refused or failed file is sent again after it was rewritten."""
    disk.put(instance("a", E1), instance("b", E1))
    whole_run(path, disk, only("b", answer))
    disk.touch("b")
    assert whole_run(path, disk) == ["b"]


def test_a_file_rewritten_after_it_was_stored(path: Path, disk: Disk) -> None:
    """XNAT keeps what was sent: the new bytes are skipped with the reason, in this and all later runs."""
    disk.put(instance("a", E1), instance("b", E1))
    whole_run(path, disk)
    disk.touch("b")
    for _ in range(2):
        with opened(path) as journal:
            scan(journal, disk)
            assert send(journal) == []
            assert states(journal) == {"a": "STORED", "b": "STORED"}
            summary = JournalReader.of(journal).summary()
            assert (summary.files.already_stored, summary.files.skipped) == (1, 1)
            assert "changed on disk after XNAT stored it" in summary.problems[0].reason
            assert summary.sessions[0].state == "archived"
            assert summary.sessions[0].files == 2


def test_a_file_that_now_carries_another_instance(path: Path, disk: Disk) -> None:
    """The old instance was never sent and is gone: it fails, and its session is not archived without it."""
    disk.put(instance("a", E1), instance("b", E1))
    with opened(path) as journal:
        meet(journal, disk)
    disk.put(instance("b", E2, size=99), instance("bb", E2))
    with opened(path) as journal:
        scan(journal, disk)
        assert names(send(journal)) == ["a", "b", "bb"]
        assert deliveries(journal) == [("E1", 1, "OPEN"), ("E2", 1, "ARCHIVED")]
        rows = JournalReader.of(journal).instances("E1")
        assert [(row.state, row.reason) for row in rows] == [
            ("STORED", None),
            ("FAILED", "its file now holds something else"),
        ]
        held_one, archived_one = JournalReader.of(journal).summary().sessions
        assert (held_one.state, held_one.reason) == ("held", "1 of its files could not be sent")
        assert archived_one.state == "archived"
    # The lost one comes back in a third file: then all is well.
    disk.put(instance("c", E1, sop="1.2.E1.b"))
    assert whole_run(path, disk) == ["c"]
    with opened(path) as journal:
        assert {state for *_, state in deliveries(journal)} == {"ARCHIVED"}


def test_a_file_overwritten_before_it_was_claimed(journal: Journal) -> None:
    """If the scan meets the file again as something else, the instance leaves the queue."""
    journal.scan.admit([instance("a", E1)])
    journal.scan.admit([Ignored(File(f"{ROOT}/a", 1, 5), FileKind.NOT_DICOM, "no DICOM")])
    journal.scan.finish([ROOT], archive_built=True, retry_held=False)
    assert send(journal) == []
    assert states(journal) == {"a": "FAILED"}


def test_a_file_overwritten_while_it_was_in_flight(journal: Journal) -> None:
    """Its outcome decides about an instance in flight, whatever its file is now."""
    journal.scan.admit([instance("a", E1)])
    claims = journal.queue.claim(1, max_active=1)
    assert claims is not None
    journal.scan.admit([instance("a", E1, sop="1.2.other", size=11)])
    journal.queue.record_outcomes([stored(claim) for claim in claims])
    journal.scan.finish([ROOT], archive_built=True, retry_held=False)
    (claim,) = send(journal)
    assert claim.instance.sop_uid == "1.2.other"
    assert set(states(journal).values()) == {"STORED"}


def test_a_duplicate_replaces_a_file_that_became_something_else(path: Path, disk: Disk) -> None:
    """The duplicate is sent in the same run, whether the scan meets it before or after."""
    disk.put(*[instance(name, E1, sop="1.2.x") for name in "bc"], *[instance(name, E2, sop="1.2.y") for name in "de"])
    with opened(path) as journal:
        meet(journal, disk)
    disk.put(Ignored(File(f"{ROOT}/b", 1, 5), FileKind.NOT_DICOM, "no DICOM"), instance("e", E2, sop="1.2.z", size=11))
    disk.touch("d", content="1.2.z")
    with opened(path) as journal:
        scan(journal, disk, batch=1)
        assert sorted(names(send(journal))) == ["c", "d", "e"]
        assert [state for *_, state in deliveries(journal)] == ["ARCHIVED", "ARCHIVED"]


def test_a_known_duplicate_replaces_an_unreadable_file_at_once(path: Path, disk: Disk) -> None:
    """If the scan has passed the duplicate already, the instance is queued from there and never fails."""
    disk.put(instance("b", E1, sop="1.2.x"))
    with opened(path) as journal:
        meet(journal, disk)
    with opened(path) as journal:
        journal.scan.skip_known([instance("b").file])
        conflicts = journal.scan.admit([instance("a", E1, sop="1.2.x")]).conflicts
        journal.scan.admit(
            [Ignored(conflicts[0].instance.file, FileKind.DUPLICATE, "the same bytes", conflicts[0].key)]
        )
    with opened(path) as journal:
        journal.scan.skip_known([instance("a").file])
        journal.scan.admit([Ignored(File(f"{ROOT}/b", 1, 5), FileKind.NOT_DICOM, "no DICOM")])
        assert states(journal) == {"x": "PENDING"}
        claims = journal.queue.claim(8, max_active=1)
        assert claims is not None
        assert names(claims) == ["a"]


def test_a_stored_file_becomes_another_instance_and_comes_back(path: Path, disk: Disk) -> None:
    """A stored instance stays stored; a file that carries it again cannot be compared with what was sent: skipped."""
    disk.put(instance("a", E1))
    whole_run(path, disk)
    disk.put(instance("a", E1, sop="1.2.new", size=11))
    assert whole_run(path, disk) == ["a"]
    disk.put(instance("b", E1, sop="1.2.E1.a"))
    with opened(path) as journal:
        scan(journal, disk)
        assert send(journal) == []
        assert kinds(journal) == {"a": "INSTANCE", "b": "SKIPPED"}
        assert "cannot be compared any more" in JournalReader.of(journal).summary().problems[0].reason


def test_a_file_that_could_not_be_read_for_a_while(path: Path, disk: Disk) -> None:
    """A stored file that becomes readable again is neither sent nor skipped."""
    disk.put(instance("a", E1), instance("b", E1))
    whole_run(path, disk, only("b", refused))
    good = dict(disk.items)
    for _ in range(2):
        disk.put(*[Ignored(File(f"{ROOT}/{name}", 0, 0), FileKind.UNREADABLE, "i/o error") for name in "ab"])
        with opened(path) as journal:
            scan(journal, disk)
            assert send(journal) == []
            assert JournalReader.of(journal).summary().files.unreadable == 2
    disk.items = good
    with opened(path) as journal:
        scan(journal, disk)
        assert send(journal) == []
        files = JournalReader.of(journal).summary().files
        assert (files.already_stored, files.already_refused, files.found) == (1, 1, 2)


def test_an_unsent_file_that_cannot_be_read_any_more(path: Path, disk: Disk) -> None:
    """It fails with that reason and holds its session, until a copy replaces it or it is readable again."""
    disk.put(instance("a", E1))
    with opened(path) as journal:
        meet(journal, disk)
    bad = Ignored(File(f"{ROOT}/a", 0, 0), FileKind.UNREADABLE, "i/o error")
    disk.put(bad)
    with opened(path) as journal:
        scan(journal, disk)
        assert send(journal) == []
        assert [(row.state, row.reason) for row in JournalReader.of(journal).instances("E1")] == [
            ("FAILED", "i/o error")
        ]
    disk.put(instance("b", E1, sop="1.2.E1.a"))
    with opened(path) as journal:
        scan(journal, disk)
        assert names(send(journal)) == ["b"]
        assert kinds(journal) == {"a": "UNREADABLE", "b": "INSTANCE"}
        assert deliveries(journal) == [("E1", 1, "ARCHIVED")]


def test_gone_files(path: Path, disk: Disk) -> None:
    """Vanished files are counted; unsent ones fail, stored and refused ones do not."""
    disk.put(*[instance(name, E1) for name in "abcd"], instance("e", E2))
    with opened(path) as journal:
        scan(journal, disk)
        send(journal, lambda claim: {"b": refused, "c": failed}.get(names([claim])[0], stored)(claim))
    disk.put(instance("f", E3))
    with opened(path) as journal:
        meet(journal, disk)
    for name in "bcdf":
        disk.remove(name)
    for _ in range(2):
        with opened(path) as journal:
            assert scan(journal, disk) == VanishedFiles(4, 2)
            assert send(journal) == []
            assert states(journal) == {
                "a": "STORED",
                "b": "REFUSED",
                "c": "FAILED",
                "d": "STORED",
                "e": "STORED",
                "f": "FAILED",
            }
            summary = JournalReader.of(journal).summary()
            assert (summary.files.already_stored, summary.files.failed, summary.files.found) == (2, 2, 4)
            assert [(problem.reason, problem.files) for problem in summary.problems] == [("the file is gone", 2)]
            assert [report.state for report in summary.sessions] == ["held", "archived", "held"]


def test_a_duplicate_replaces_a_file_that_is_gone(path: Path, disk: Disk) -> None:
    """A vanished copy is no loss while there is another."""
    disk.put(instance("a", E1, sop="1.2.x"), instance("b", E1, sop="1.2.x"))
    with opened(path) as journal:
        meet(journal, disk)
    disk.remove("a")
    with opened(path) as journal:
        assert scan(journal, disk) == VanishedFiles(1, 0)
        assert names(send(journal)) == ["b"]
        assert kinds(journal) == {"a": "UNREADABLE", "b": "INSTANCE"}
        assert JournalReader.of(journal).summary().files.stored == 1


def test_an_unreadable_file_that_is_gone(path: Path, disk: Disk) -> None:
    """A file that failed as unreadable counts as gone."""
    disk.put(instance("a", E1), instance("b", E1))
    whole_run(path, disk, only("b", failed))
    disk.put(Ignored(File(f"{ROOT}/b", 0, 0), FileKind.UNREADABLE, "i/o error"))
    whole_run(path, disk)
    disk.remove("b")
    with opened(path) as journal:
        assert scan(journal, disk) == VanishedFiles(1, 1)
        assert JournalReader.of(journal).summary().files.failed == 1


def test_only_what_is_below_the_sources_can_be_gone(journal: Journal, disk: Disk) -> None:
    """A directory whose name begins like the source is not below it; everything is below the root directory."""
    outside = Instance(File("/src-old/a", 10, 1_000), "1.2.3", "1.2", E1)
    disk.put(instance("a", E1))
    meet(journal, disk)
    journal.scan.admit([outside])
    journal.close()
    with opened(journal.path) as later:
        assert later.scan.finish([ROOT, f"{ROOT}/a"], archive_built=True, retry_held=False) == VanishedFiles(1, 1)
    with opened(journal.path) as later:
        assert later.scan.finish(["/"], archive_built=True, retry_held=False) == VanishedFiles(2, 2)


@pytest.mark.parametrize(("before", "after"), [("m", "z"), ("m", "a")])
def test_files_that_have_moved_are_known_again(path: Path, disk: Disk, before: str, after: str) -> None:
    """A file renamed with its size and mtime is the same: stored or refused it stays so, unsent it is sent."""
    disk.put(*[instance(f"{before}/{name}", E1) for name in "abcd"])
    with opened(path) as journal:
        scan(journal, disk)
        send(journal, lambda claim: {"b": refused, "c": failed}.get(names([claim])[0][-1], stored)(claim))
    for name in "abcd":
        disk.move(f"{before}/{name}", f"{after}/{name}")
    with opened(path) as journal:
        assert scan(journal, disk) == VanishedFiles(0, 0)
        assert names(send(journal)) == [f"{after}/c"]
        files = JournalReader.of(journal).summary().files
        assert (files.already_stored, files.already_refused, files.stored, files.found) == (2, 1, 1, 4)


@pytest.mark.parametrize("batch", [1, 512])
def test_a_copy_met_before_the_file_it_was_copied_from(path: Path, disk: Disk, batch: int) -> None:
    """The copy takes the place of the original, which is read again, as a duplicate."""
    disk.put(instance("m", E1, sop="1.2.x"), instance("n", E1, sop="1.2.y"))
    whole_run(path, disk, only("n", failed))
    disk.put(instance("a", E1, sop="1.2.x"), instance("b", E1, sop="1.2.y"))
    with opened(path) as journal:
        scan(journal, disk, batch=batch)
        first, second = ("INSTANCE", "DUPLICATE") if batch == 1 else ("DUPLICATE", "INSTANCE")
        assert kinds(journal) == {"a": first, "b": first, "m": second, "n": second}
        assert names(send(journal)) == ["b" if batch == 1 else "n"]
        assert deliveries(journal) == [("E1", 1, "ARCHIVED")]
        files = JournalReader.of(journal).summary().files
        assert (files.already_stored, files.stored, files.duplicate, files.found) == (1, 1, 2, 4)


def test_another_file_with_a_stored_instance_is_compared(path: Path, disk: Disk) -> None:
    """If size or mtime differ only the bytes decide, whether or not the scan has met the stored copy."""
    disk.put(instance("m", E1, sop="1.2.x"))
    whole_run(path, disk)
    with opened(path) as journal:
        conflicts = journal.scan.admit([instance("a", E1, sop="1.2.x", size=11)]).conflicts
        assert [(conflict.other, conflict.instance.file.path) for conflict in conflicts] == [(f"{ROOT}/m", f"{ROOT}/a")]


@pytest.mark.parametrize("batch", [1, 512])
def test_overlapping_sources(path: Path, disk: Disk, batch: int) -> None:
    """A file met twice in one run counts once and is sent once, whether new or known."""
    disk.put(*[instance(name, E1) for name in "abc"])
    for _ in range(2):
        with opened(path) as journal:
            came = meet(journal, disk, batch=batch) + meet(journal, disk, batch=batch)
            assert sum(admission.files for admission in came) == 3
            assert sum(admission.size for admission in came) == 30
    with opened(path) as journal:
        meet(journal, disk)
        claims = journal.queue.claim(8, max_active=1)
        assert claims is not None
        scan(journal, disk)
        journal.queue.record_outcomes([failed(claim) for claim in claims])
        meet(journal, disk)
        assert names(send(journal)) == ["b", "c"]


def test_the_same_file_twice_in_one_batch(journal: Journal) -> None:
    """Roots that overlap within one batch add a file once."""
    admission = journal.scan.admit([instance("a", E1), instance("a", E1)])
    assert (admission.files, admission.size, admission.conflicts) == (1, 10, [])


@pytest.mark.parametrize("batch", [1, 512])
def test_the_first_of_two_is_sent_though_its_path_was_known(path: Path, disk: Disk, batch: int) -> None:
    """A rewritten file carries a new instance, which a new file repeats: the first one is sent."""
    disk.put(instance("a", E1, sop="1.2.x"))
    whole_run(path, disk)
    disk.put(instance("a", E1, sop="1.2.y", size=99), instance("b", E1, sop="1.2.y"))
    with opened(path) as journal:
        scan(journal, disk, batch=batch)
        assert names(send(journal)) == ["a"]
        assert kinds(journal) == {"a": "INSTANCE", "b": "DUPLICATE"}


@pytest.mark.parametrize("number", [2, 3, 512, 513, 1_300])
def test_a_batch_is_written_to_the_last_row_however_many_there_are(journal: Journal, number: int) -> None:
    """Rows go to SQLite many at a time, padded to a power of two: none is lost or comes twice."""
    admission = journal.scan.admit([instance(f"f{index:04}", E1) for index in range(number)])
    assert (admission.files, admission.size) == (number, 10 * number)
    first = journal.queue.claim(number, max_active=9) or []
    assert names(first) == ["f0000"]
    journal.queue.record_outcomes([stored(first[0])])
    rest = journal.queue.claim(number, max_active=9) or []
    assert names(rest) == [f"f{index:04}" for index in range(1, number)]
    journal.queue.record_outcomes(
        [
            (stored(claim), Refused(claim, f"no {claim.key}"), Failed(claim, f"not yet {claim.key}"))[index % 3]
            for index, claim in enumerate(rest)
        ]
    )
    rows = journal.connection.db.execute(
        "SELECT key, state, reason, run, attempts, delivery FROM instance ORDER BY key"
    )
    (_, *stored_first), *others = rows.fetchall()
    delivery = stored_first[-1]
    assert stored_first == ["STORED", None, journal.run, 1, delivery]
    wrong = [
        (key, *found)
        for index, (key, *found) in enumerate(others)
        if tuple(found)
        != (
            ("STORED", None, journal.run, 1, delivery),
            ("REFUSED", f"no {key}", journal.run, 1, None),
            ("FAILED", f"not yet {key}", journal.run, 1, None),
        )[index % 3]
    ]
    assert (len(others), wrong[:3]) == (number - 1, [])  # the first few say it: a diff of all of them takes minutes
    assert journal.connection.db.execute("SELECT count(*) FROM in_flight").fetchone() == (0,)
