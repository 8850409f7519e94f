"""What may be missing: attempts that may still take effect, partial sessions, repairs."""

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from journals import (
    ROOT,
    RULES,
    Disk,
    archived,
    failed,
    instance,
    names,
    only,
    opened,
    scan,
    sealed_by,
    send,
    session,
    states,
    stored,
    uri,
)

from asyncimport.journal import Journal, JournalReader
from asyncimport.model.deliveries import (
    Archived,
    Claim,
    Failed,
    Held,
    Incomplete,
    Outcome,
    SealedDelivery,
    Stored,
    Verdict,
)
from asyncimport.model.files import File, Ignored
from asyncimport.model.states import FileKind
from asyncimport.model.summary import SessionReport, exit_code

E1, E2 = session("E1"), session("E2", subject="S2")
SOP = "1.2.E1"


@pytest.fixture
def disk() -> Disk:
    """Return a disk with a session of three instances."""
    disk = Disk()
    disk.put(*[instance(f"visit/{name}", E1, sop=f"{SOP}.{name}") for name in "abc"])
    return disk


class Clock:
    """Seconds that pass only on request, and a time of day that can be set."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self._set_by = 0.0

    def __call__(self) -> float:
        """Return the time of day."""
        return self.now + self._set_by

    def set_by(self, seconds: float) -> None:
        """Set the time of day forwards, or back."""
        self._set_by += seconds


@pytest.fixture
def clock() -> Clock:
    """Return a clock to set."""
    return Clock()


def begun(path: Path, clock: Clock) -> Journal:
    """Open the journal with a clock: its time of day may be set, its ticks only pass."""
    return Journal(path, destination="https://xnat.test", rules=RULES, clock=clock, ticks=lambda: clock.now)


def may_have_taken_effect(claim: Claim) -> Outcome:
    """Acknowledge the file after an interrupted attempt."""
    return Stored(claim, uri(claim), attempts=2, may_have_taken_effect=True)


def lacking(*uids: str, rejects: str = "", doubtful: str = "") -> Callable[[SealedDelivery], Verdict]:
    """Archive the session without these instances; a script may explain some."""
    missing, rejected, unknown = (frozenset(f"{SOP}.{uid}" for uid in names) for names in (uids, rejects, doubtful))
    return lambda sealed: Incomplete(
        sealed.delivery, "/archive/E1", missing, "the script", rejects=rejected, doubtful=unknown
    )


def settle_all(journal: Journal, answer: Callable[[Claim], Outcome]) -> None:
    """Record outcomes for everything queued, and finalise nothing."""
    while claims := journal.queue.claim(64, max_active=9):
        journal.queue.record_outcomes([answer(claim) for claim in claims])


def report(journal: Journal) -> SessionReport:
    """Return the report of the journal's only session."""
    (found,) = JournalReader.of(journal).summary().sessions
    return found


# Attempts that may yet take effect


def test_a_delivery_waits_for_the_settle_time(path: Path, disk: Disk, clock: Clock) -> None:
    """After an interrupted attempt a delivery is sealed only when the settle time is over, counted from the attempt."""
    with begun(path, clock) as journal:
        scan(journal, disk)
        settle_all(journal, only("visit/b", may_have_taken_effect))
        assert journal.deliveries.claim(settle_seconds=30) == 30
        clock.now += 29
        assert journal.deliveries.claim(settle_seconds=30) == 1
        clock.now += 1
        assert isinstance(journal.deliveries.claim(settle_seconds=30), SealedDelivery)


def test_a_failed_upload_may_take_effect_too(path: Path, disk: Disk, clock: Clock) -> None:
    """The wait begins with its failure."""
    with begun(path, clock) as journal:
        scan(journal, disk)
        settle_all(journal, only("visit/b", lambda claim: Failed(claim, "cut", may_have_taken_effect=True)))
        journal.end_run(8)
    clock.now += 10
    with begun(path, clock) as journal:
        scan(journal, disk)
        settle_all(journal, stored)
        assert journal.deliveries.claim(settle_seconds=30) == 20


def test_other_deliveries_do_not_wait_with_it(path: Path, disk: Disk, clock: Clock) -> None:
    """A delivery without interruption is sealed at once, even if it became ready later."""
    disk.put(instance("x", E2))
    with begun(path, clock) as journal:
        scan(journal, disk)
        settle_all(journal, only("visit/a", may_have_taken_effect))
        found = journal.deliveries.claim(settle_seconds=30)
        assert isinstance(found, SealedDelivery)
        assert found.delivery.session == E2
        assert journal.deliveries.claim(settle_seconds=30) == 30


@pytest.mark.parametrize("seconds", [-86_400, 86_400])
def test_setting_the_clock_does_not_change_a_wait(path: Path, disk: Disk, clock: Clock, seconds: int) -> None:
    """It gets neither longer nor shorter."""
    with begun(path, clock) as journal:
        scan(journal, disk)
        settle_all(journal, may_have_taken_effect)
        clock.set_by(seconds)
        assert journal.deliveries.claim(settle_seconds=30) == 30
        clock.now += 10
        clock.set_by(seconds)
        assert journal.deliveries.claim(settle_seconds=30) == 20
        clock.now += 20
        assert isinstance(journal.deliveries.claim(settle_seconds=30), SealedDelivery)


@pytest.mark.parametrize("killed", [True, False])
def test_a_clock_that_was_a_day_ahead_prolongs_no_wait(path: Path, disk: Disk, clock: Clock, killed: bool) -> None:
    """A run noted a future time: the next one waits for the settle time, and not for a day."""
    clock.set_by(86_400)
    with begun(path, clock) as journal:
        scan(journal, disk)
        settle_all(journal, only("visit/b", lambda claim: Failed(claim, "cut", may_have_taken_effect=True)))
        if not killed:
            journal.end_run(8)
    clock.set_by(-86_400)
    with begun(path, clock) as journal:
        scan(journal, disk)
        settle_all(journal, stored)
        assert journal.deliveries.claim(settle_seconds=30) == 30
        clock.now += 29
        assert journal.deliveries.claim(settle_seconds=30) == 1
        clock.now += 1
        assert isinstance(journal.deliveries.claim(settle_seconds=30), SealedDelivery)


def test_after_a_kill_every_open_delivery_waits(path: Path, disk: Disk, clock: Clock) -> None:
    """What was in flight is unknown: the next run waits, counted from its start."""
    with begun(path, clock) as journal:
        scan(journal, disk)
        claims = journal.queue.claim(1, max_active=9)
        assert claims
        journal.queue.record_outcomes([stored(claim) for claim in claims])
    clock.now += 500
    with begun(path, clock) as journal:
        scan(journal, disk)
        settle_all(journal, stored)
        assert journal.deliveries.claim(settle_seconds=30) == 30
        journal.end_run(0)


def test_after_an_orderly_end_only_deliveries_with_files_in_flight_wait(path: Path, disk: Disk, clock: Clock) -> None:
    """A stopped run knows what it had handed out without an outcome."""
    disk.put(instance("x", E2), instance("y", E2))
    with begun(path, clock) as journal:
        scan(journal, disk)
        claims = journal.queue.claim(2, max_active=9)
        assert claims
        assert [claim.delivery.session for claim in claims] == [E1, E2]
        journal.queue.record_outcomes([stored(claim) for claim in claims])
        claims = journal.queue.claim(1, max_active=9)
        assert claims
        assert claims[0].delivery.session == E1
        journal.end_run(130)
    with begun(path, clock) as journal:
        scan(journal, disk)
        settle_all(journal, stored)
        found = journal.deliveries.claim(settle_seconds=30)
        assert isinstance(found, SealedDelivery)
        assert found.delivery.session == E2
        assert journal.deliveries.claim(settle_seconds=30) == 30


def test_a_sealed_delivery_does_not_wait(path: Path, disk: Disk, clock: Clock) -> None:
    """A delivery sealed before the kill continues at once: nothing more can be sent into it."""
    with begun(path, clock) as journal:
        scan(journal, disk)
        settle_all(journal, may_have_taken_effect)
        clock.now += 30
        assert isinstance(journal.deliveries.claim(settle_seconds=30), SealedDelivery)
    with begun(path, clock) as journal:
        assert isinstance(journal.deliveries.claim(settle_seconds=30), SealedDelivery)


# Partial sessions


def unreadable(name: str, **how: object) -> Ignored:
    """Make a file that cannot be read."""
    return replace(Ignored(File(f"{ROOT}/{name}", 5, 1_000), FileKind.UNREADABLE, "cut"), **how)  # type: ignore[arg-type]


LACKS = {
    "a failed file": (only("visit/b", failed), None, "1 of its files could not be sent"),
    "a truncated file": (
        stored,
        unreadable("elsewhere/d", session=E1, sop_uid=f"{SOP}.d"),
        "1 of its files cannot be read",
    ),
    "a damaged file beside it": (stored, unreadable("visit/d", damaged=True), "1 of its files cannot be read"),
    "an unreadable directory": (stored, unreadable("visit", damaged=True), "1 of its files cannot be read"),
    "both": (
        only("visit/b", failed),
        unreadable("visit/d", damaged=True),
        "1 of its files could not be sent, 1 cannot be read",
    ),
}


@pytest.mark.parametrize(("answer", "odd", "reason"), LACKS.values(), ids=LACKS.keys())
def test_a_session_that_lacks_files_is_held(
    path: Path, disk: Disk, answer: Callable[[Claim], Outcome], odd: Ignored | None, reason: str
) -> None:
    """The report says what it misses and what to do."""
    if odd is not None:
        disk.put(odd)
    with opened(path) as journal:
        scan(journal, disk)
        send(journal, answer)
        found = report(journal)
    assert (found.state, found.reason) == ("held", reason)


@pytest.mark.parametrize(("answer", "odd", "reason"), LACKS.values(), ids=LACKS.keys())
def test_a_partial_session_is_archived_on_request(
    path: Path, disk: Disk, answer: Callable[[Claim], Outcome], odd: Ignored | None, reason: str
) -> None:
    """At once, or in a run after the one that held it; the report still says what it misses."""
    if odd is not None:
        disk.put(odd)
    with opened(path) as journal:
        scan(journal, disk)
        send(journal, answer)
        assert report(journal).state == "held"
    with opened(path) as journal:
        scan(journal, disk, partial=True)
        send(journal, answer)
        found = report(journal)
    assert (found.state, found.verified, found.reason) == ("archived", "uids", reason)


def test_a_partial_session_becomes_whole(path: Path, disk: Disk) -> None:
    """Files that can be sent later are merged, and the report no longer mentions them."""
    with opened(path) as journal:
        scan(journal, disk, partial=True)
        send(journal, only("visit/b", failed))
    with opened(path) as journal:
        scan(journal, disk)
        assert names(send(journal, stored)) == ["visit/b"]
        found = report(journal)
    assert (found.state, found.reason) == ("archived", None)


NOT_LACKED = {
    "a sound copy was met": unreadable("visit/d", session=E1, sop_uid=f"{SOP}.a"),
    "two sessions around it": unreadable("d", damaged=True),
    "a file without its UIDs": unreadable("visit/d"),
    "of a study that is not here": unreadable("visit/d", session=session("E9"), sop_uid="9"),
}


@pytest.mark.parametrize("odd", NOT_LACKED.values(), ids=NOT_LACKED.keys())
def test_files_that_a_session_does_not_miss(path: Path, disk: Disk, odd: Ignored) -> None:
    """They are reported as unreadable and hold nothing."""
    disk.put(instance("other/x", E2), odd)
    with opened(path) as journal:
        scan(journal, disk)
        send(journal, stored)
        summary = JournalReader.of(journal).summary()
    assert [found.state for found in summary.sessions] == ["archived", "archived"]
    assert summary.files.unreadable == 1


def test_a_removed_damaged_file_is_not_missing(path: Path, disk: Disk) -> None:
    """By deleting it, a person has decided that the session is complete without it."""
    disk.put(unreadable("visit/d", damaged=True))
    with opened(path) as journal:
        scan(journal, disk)
        send(journal, stored)
        assert report(journal).state == "held"
    disk.remove("visit/d")
    with opened(path) as journal:
        scan(journal, disk)
        send(journal, stored)
        assert report(journal).state == "archived"


def test_a_repaired_damaged_file_is_sent(path: Path, disk: Disk) -> None:
    """The session is archived with it, in one delivery."""
    disk.put(unreadable("visit/d", damaged=True))
    with opened(path) as journal:
        scan(journal, disk)
        send(journal, stored)
    disk.put(instance("visit/d", E1, sop=f"{SOP}.d", size=50))
    with opened(path) as journal:
        scan(journal, disk)
        assert names(send(journal, stored)) == ["visit/d"]
        assert report(journal).state == "archived"
        assert journal.connection.db.execute("SELECT count(*) FROM delivery").fetchone() == (1,)


def test_a_replacing_copy_leaves_nothing_missing(path: Path, disk: Disk) -> None:
    """The first copy was unreadable, another was sent: the session is complete, in this run and the next."""
    disk.put(instance("visit/z", E1, sop=f"{SOP}.a"))
    unread = only("visit/a", lambda claim: Failed(claim, "cannot be read", unreadable=True))
    with opened(path) as journal:
        scan(journal, disk)
        send(journal, unread)
        assert report(journal).state == "archived"
    disk.put(unreadable("visit/a", damaged=True))
    with opened(path) as journal:
        scan(journal, disk)
        send(journal, stored)
        assert report(journal).state == "archived"


# Repairs


def test_missing_instances_are_sent_again_in_a_new_delivery(path: Path, disk: Disk) -> None:
    """Only those that the archive lacks; then all of them have been seen there."""
    verdicts = iter([lacking("a", "c"), archived])
    with opened(path) as journal:
        scan(journal, disk)
        sent = names(send(journal, stored, verdict=lambda sealed: next(verdicts)(sealed)))
        found = report(journal)
        rows = journal.connection.db.execute("SELECT number, state, verified, reason FROM delivery").fetchall()
    assert sent == ["visit/a", "visit/b", "visit/c", "visit/a", "visit/c"]
    assert (found.state, found.verified) == ("archived", "uids")
    lost = "the archive lacked 2 of its instances, which are to be sent again"
    assert rows == [(1, "ARCHIVED", None, lost), (2, "ARCHIVED", "uids", None)]


def test_a_session_that_lacks_instances_again_is_held(path: Path, disk: Disk) -> None:
    """A second loss needs a person, and is not sent a third time."""
    with opened(path) as journal:
        scan(journal, disk)
        sent = names(send(journal, stored, verdict=lacking("a")))
        found = report(journal)
    assert sent == ["visit/a", "visit/b", "visit/c", "visit/a"]
    assert found.state == "held"
    assert found.reason is not None
    assert found.reason.startswith("the archive lacks 1 of its instances; ")


def test_a_kill_during_a_repair(path: Path, disk: Disk) -> None:
    """Instances to be sent again are pending on disk."""
    with opened(path) as journal:
        scan(journal, disk)
        settle_all(journal, stored)
        sealed = sealed_by(journal)
        assert sealed is not None
        journal.deliveries.record_verdict(lacking("b")(sealed))
        assert states(journal) == {"a": "STORED", "b": "PENDING", "c": "STORED"}
        assert report(journal).state == "open"
    with opened(path) as journal:
        scan(journal, disk)
        assert names(send(journal, stored)) == ["visit/b"]
        assert report(journal).state == "archived"


def test_instances_that_a_script_rejects_become_refused(path: Path, disk: Disk) -> None:
    """They are reported as refused, and hold nothing."""
    with opened(path) as journal:
        scan(journal, disk)
        sent = names(send(journal, stored, verdict=lacking("b", rejects="b")))
        summary = JournalReader.of(journal).summary()
    assert sent == ["visit/a", "visit/b", "visit/c"]
    (found,) = summary.sessions
    assert (found.state, found.verified, summary.files.refused, summary.files.stored) == ("archived", "uids", 1, 2)
    assert [problem.reason for problem in summary.problems] == [
        "the script rejects it, and the archive does not hold it"
    ]


@pytest.mark.parametrize("partial", [False, True])
def test_instances_that_a_script_may_have_rejected_are_missing(path: Path, disk: Disk, *, partial: bool) -> None:
    """They are refused, and reported as missing in each run, with the exit code for missing files."""
    with opened(path) as journal:
        scan(journal, disk, partial=partial)
        sent = names(send(journal, stored, verdict=lacking("b", doubtful="b")))
        summaries = [JournalReader.of(journal).summary()]
    with opened(path) as journal:
        scan(journal, disk)
        assert names(send(journal, stored)) == []
        summaries.append(JournalReader.of(journal).summary())
    assert sent == ["visit/a", "visit/b", "visit/c"]
    for summary in summaries:
        (found,) = summary.sessions
        assert (found.state, found.reason) == ("archived" if partial else "held", "1 of its files was refused")
        assert (summary.files.refused, summary.files.already_refused, exit_code(summary)) == (1, 0, 8)


def test_lost_instances_are_sent_again_without_those_that_a_script_drops(path: Path, disk: Disk) -> None:
    """Lost ones are sent again; dropped ones become refused."""
    with opened(path) as journal:
        scan(journal, disk)
        verdicts = iter([lacking("a", "b", "c", rejects="b", doubtful="c"), archived])
        assert names(send(journal, stored, verdict=lambda sealed: next(verdicts)(sealed)))[3:] == ["visit/a"]
        assert states(journal) == {"a": "STORED", "b": "REFUSED", "c": "REFUSED"}
        kinds = journal.connection.db.execute("SELECT refusal FROM instance ORDER BY key").fetchall()
    assert kinds == [(None,), ("DROPPED",), ("FILE",)]


def test_instances_removed_from_the_archive_are_not_sent_again(path: Path, disk: Disk) -> None:
    """Somebody may have deleted a scan on purpose: the session is held, and only a person sends it again."""
    with opened(path) as journal:
        scan(journal, disk)
        send(journal, stored)
    disk.put(instance("visit/d", E1, sop=f"{SOP}.d"))
    with opened(path) as journal:
        scan(journal, disk)
        assert names(send(journal, stored, verdict=lacking("a"))) == ["visit/d"]
        assert report(journal).state == "held"


def test_record_verdict_returns_the_recorded_verdict(path: Path, disk: Disk) -> None:
    """The pipeline reports what the journal has recorded."""
    with opened(path) as journal:
        scan(journal, disk)
        settle_all(journal, stored)
        sealed = sealed_by(journal)
        assert sealed is not None
        first = journal.deliveries.record_verdict(lacking("b")(sealed))
        settle_all(journal, stored)
        again = sealed_by(journal)
        assert again is not None
        second = journal.deliveries.record_verdict(lacking("b")(again))
    assert isinstance(first, Incomplete)
    assert isinstance(second, Held)


@pytest.mark.parametrize("verdict", [archived, lacking("a")], ids=["archived", "held"])
def test_a_requested_repair(path: Path, disk: Disk, verdict: Callable[[SealedDelivery], Verdict]) -> None:
    """Also of a session that an earlier run has verified or held: only missing instances are queued."""
    with opened(path) as journal:
        scan(journal, disk)
        send(journal, stored, verdict=verdict)
    with opened(path) as journal:
        assert journal.deliveries.repair(E1, [f"{SOP}.a"]) == 1
        scan(journal, disk)
        assert names(send(journal, stored)) == ["visit/a"]
        assert (report(journal).state, report(journal).verified) == ("archived", "uids")


def test_nothing_is_repaired_before_a_session_is_archived(path: Path, disk: Disk) -> None:
    """Acknowledged instances of an open session are not sent again, nor is anything of an unknown session."""
    with opened(path) as journal:
        scan(journal, disk)
        settle_all(journal, stored)
        assert journal.deliveries.repair(E1, [f"{SOP}.a"]) == 0
        assert journal.deliveries.repair(E2, ["1"]) == 0
        assert set(states(journal).values()) == {"STORED"}


def test_the_database_keeps_stored_instances(path: Path, disk: Disk) -> None:
    """No code can reset a stored instance while a delivery of its session has not ended."""
    with opened(path) as journal:
        scan(journal, disk)
        settle_all(journal, stored)
        with pytest.raises(sqlite3.IntegrityError, match="a stored instance stays so"):
            journal.connection.db.execute("UPDATE instance SET state = 'PENDING'")


# Receipts


def test_what_a_receipt_needs_is_kept(path: Path, disk: Disk, clock: Clock) -> None:
    """Digest, attempts and times, and whether the archive had the session before."""

    def answer(claim: Claim) -> Outcome:
        return Stored(claim, uri(claim), attempts=3, sha256=b"\x01" * 32, merges=False)

    with begun(path, clock) as journal:
        scan(journal, disk)
        settle_all(journal, answer)
        clock.now += 7
        sealed = sealed_by(journal)
        assert sealed is not None
        journal.deliveries.record_verdict(Archived(sealed.delivery, "/archive/E1", "uids"))
        reader = JournalReader.of(journal)
        arrived = list(reader.stored_instances())
        (delivery,) = reader.deliveries()
    assert [(one.sop_uid, one.sha256, one.attempts, one.settled_at, one.uri, one.run) for one in arrived] == [
        (f"{SOP}.{name}", "01" * 32, 3, 1_000_000.0, "/prearchive/E1/1", 1) for name in "abc"
    ]
    assert (delivery.files, delivery.run, delivery.merges, delivery.closed_at) == (3, 1, False, 1_000_007.0)
    assert (delivery.archive_uri, delivery.verified, delivery.state) == ("/archive/E1", "uids", "ARCHIVED")
