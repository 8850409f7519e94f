"""Files that were handed out to workers that were lost, and runs whose workers may go on."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from journals import RULES, Disk, instance, scan, session, stored

from asyncimport.journal import Journal
from asyncimport.journal.prune import Pruner
from asyncimport.model.deliveries import Claim, SealedDelivery

E1 = session("E1")


@dataclass
class Clock:
    """A clock that a test moves."""

    now: float = 1_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def disk() -> Disk:
    """Return a disk with a session of three instances."""
    disk = Disk()
    disk.put(*[instance(name, E1) for name in "abc"])
    return disk


def begun(path: Path, clock: Clock, *, is_temporary: bool = False, relabel: bool = False) -> Journal:
    """Open a journal by this clock."""
    return Journal(
        path,
        destination="https://xnat.test",
        rules=RULES,
        clock=clock,
        ticks=clock,
        is_temporary=is_temporary,
        relabel=relabel,
    )


def handed_out(journal: Journal) -> list[Claim]:
    """Hand out what can be."""
    return journal.queue.claim(9, max_active=9) or []


def settle_all(journal: Journal) -> None:
    """Acknowledge everything queued."""
    while claims := handed_out(journal):
        journal.queue.record_outcomes([stored(claim) for claim in claims])


def sent(journal: Journal, disk: Disk) -> list[Claim]:
    """Send the first file of the session, and hand out the others."""
    scan(journal, disk)
    journal.queue.record_outcomes([stored(claim) for claim in handed_out(journal)])
    return handed_out(journal)


def test_files_given_back_are_handed_out_again(path: Path, disk: Disk) -> None:
    """Others send them, and the session is whole."""
    with begun(path, Clock()) as journal:
        lost = sent(journal, disk)
        assert len(lost) == 2
        journal.queue.give_back(lost, were_sent=False)
        assert handed_out(journal) == lost
        journal.queue.record_outcomes([stored(claim) for claim in lost])
        assert isinstance(journal.deliveries.claim(settle_seconds=30), SealedDelivery)


def test_a_delivery_with_files_given_back_waits_for_the_settle_time(path: Path, disk: Disk) -> None:
    """What the worker had in flight may still arrive."""
    clock = Clock()
    with begun(path, clock) as journal:
        journal.queue.give_back(sent(journal, disk), were_sent=True)
        clock.now += 10
        settle_all(journal)
        assert journal.deliveries.claim(settle_seconds=30) == 20
        clock.now += 20
        assert isinstance(journal.deliveries.claim(settle_seconds=30), SealedDelivery)


def test_what_has_an_outcome_is_not_given_back(path: Path, disk: Disk) -> None:
    """An outcome that came in time counts."""
    with begun(path, Clock()) as journal:
        first, second = sent(journal, disk)
        journal.queue.record_outcomes([stored(first)])
        journal.queue.give_back([first, second], were_sent=True)
        assert handed_out(journal) == [second]


def test_a_run_after_one_with_leases_waits_for_their_end(path: Path, disk: Disk) -> None:
    """Its workers may go on for the length of a lease, and what they send may arrive within the settle time."""
    clock = Clock()
    with begun(path, clock) as journal:
        journal.queue.note_leases(15)
        sent(journal, disk)
    with begun(path, clock) as journal:
        assert journal.leased_seconds == 15
        scan(journal, disk)
        settle_all(journal)
        assert journal.deliveries.claim(settle_seconds=30) == 45
        clock.now += 15
        assert journal.leased_seconds == 0
        journal.queue.forget_leases()
    with begun(path, clock) as journal:
        assert journal.leased_seconds == 0


def test_the_settle_time_after_leases_lasts_over_the_end_of_the_run_that_waited(path: Path, disk: Disk) -> None:
    """The run after that one begins it at the end of the leases too."""
    clock = Clock()
    with begun(path, clock) as journal:
        journal.queue.note_leases(15)
        sent(journal, disk)
    with begun(path, clock) as journal:
        clock.now += 15
        journal.queue.forget_leases()
        journal.end_run(130)
    clock.now += 16
    with begun(path, clock) as journal:
        scan(journal, disk)
        settle_all(journal)
        assert journal.deliveries.claim(settle_seconds=30) == 14


def test_leases_last_over_the_end_of_a_run(path: Path, disk: Disk) -> None:
    """A second Ctrl-C ends a run that knows nothing of its workers."""
    clock = Clock()
    with begun(path, clock) as journal:
        journal.queue.note_leases(15)
        sent(journal, disk)
        journal.end_run(1)
    with begun(path, clock) as journal:
        assert journal.leased_seconds == 15


def test_a_rehearsal_sends_nothing_and_waits_for_nobody(path: Path) -> None:
    """A temporary copy of a journal has the leases too."""
    clock = Clock()
    with begun(path, clock) as journal:
        journal.queue.note_leases(15)
    with begun(path, clock, is_temporary=True) as journal:
        assert journal.leased_seconds == 0


def test_what_is_forgotten_of_a_killed_run_still_waits_for_the_settle_time(path: Path, disk: Disk) -> None:
    """Its workers go on sending a session that the journal knows nothing of any more."""
    clock = Clock()
    with begun(path, clock) as journal:
        journal.queue.note_leases(15)
        sent(journal, disk)
    with Pruner.of(path) as pruner:
        pruner.find_sessions("e1", force=True)
        pruner.prune()
    with begun(path, clock) as journal:
        assert journal.leased_seconds == 15
        scan(journal, disk)
        settle_all(journal)
        assert journal.deliveries.claim(settle_seconds=30) == 45
        journal.queue.forget_leases()
        journal.end_run(130)
    clock.now += 40
    with begun(path, clock) as journal:
        scan(journal, disk)
        assert journal.deliveries.claim(settle_seconds=30) == 5
        clock.now += 5
        assert isinstance(journal.deliveries.claim(settle_seconds=30), SealedDelivery)


def test_a_file_that_is_forgotten_as_gone_may_still_arrive(path: Path, disk: Disk) -> None:
    """A worker had read it before it was deleted, and its session has no other file."""
    clock = Clock()
    with begun(path, clock) as journal:
        journal.queue.note_leases(15)
        scan(journal, disk)
        handed_out(journal)
    with Pruner.of(path) as pruner:
        pruner.find_gone(force=True)
        pruner.prune()
    with begun(path, clock) as journal:
        scan(journal, disk)
        settle_all(journal)
        assert journal.deliveries.claim(settle_seconds=30) == 45


def test_a_first_file_in_flight_may_still_arrive_when_labels_change(path: Path, disk: Disk) -> None:
    """XNAT has told nothing of it, so its session is decided anew: it may get the same labels."""
    clock = Clock()
    with begun(path, clock) as journal:
        scan(journal, disk)
        handed_out(journal)
    with begun(path, clock, relabel=True) as journal:
        scan(journal, disk)
        settle_all(journal)
        assert journal.deliveries.claim(settle_seconds=30) == 30


def test_what_is_forgotten_of_a_run_that_ended_waits_for_nothing(path: Path, disk: Disk) -> None:
    """Nothing of it can still arrive."""
    with begun(path, Clock()) as journal:
        scan(journal, disk)
        settle_all(journal)
        journal.end_run(0)
    with Pruner.of(path) as pruner:
        pruner.find_sessions("e1", force=True)
        pruner.prune()
    with begun(path, Clock()) as journal:
        scan(journal, disk)
        settle_all(journal)
        assert isinstance(journal.deliveries.claim(settle_seconds=30), SealedDelivery)
