"""The journal as the line uses it: files in, claims out, outcomes in, deliveries out, verdicts in; then again."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from journals import (
    ROOT,
    Disk,
    archived,
    instance,
    meet,
    names,
    opened,
    scan,
    sealed_by,
    send,
    session,
    stored,
    uri,
    whole_run,
)

from asyncimport.errors import JournalError
from asyncimport.journal import Journal, JournalReader, VanishedFiles
from asyncimport.model import (
    DELIVERY_TRANSITIONS,
    INSTANCE_TRANSITIONS,
    Built,
    Claim,
    Deleted,
    DeliveryState,
    Failed,
    File,
    FileKind,
    Held,
    Ignored,
    Incomplete,
    Instance,
    InstanceState,
    Outcome,
    Refusal,
    Refused,
    SealedDelivery,
    Session,
    Stored,
    Verdict,
)
from asyncimport.model.summary import exit_code

E1, E2, E3 = session("E1"), session("E2", subject="S2"), session("E3", subject="S3")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Say where the test's journal lies."""
    return tmp_path / "state" / "test.journal"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    """Open a new journal."""
    with opened(path) as journal:
        yield journal


@pytest.fixture
def disk() -> Disk:
    """Give an empty disk."""
    return Disk()


@pytest.fixture
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a journal of two sessions, each with an instance and a delivery, with nothing between SQL and the file."""
    with opened(path) as journal:
        journal.scan.admit([instance("a", E1), instance("b", E2)])
        journal.queue.claim(2, max_active=2)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def states(journal: Journal) -> dict[str, str]:
    """Return the state of each instance by the last part of its SOPInstanceUID."""
    rows = journal.connection.db.execute("SELECT sop_uid, state FROM instance").fetchall()
    return {uid.rpartition(".")[2]: state for uid, state in rows}


def deliveries(journal: Journal) -> list[tuple[str, int, str]]:
    """Return label, number and state of each delivery."""
    return journal.connection.db.execute(
        "SELECT s.label, d.number, d.state FROM delivery d JOIN session s ON s.key = d.session ORDER BY d.key"
    ).fetchall()


def kinds(journal: Journal) -> dict[str, str]:
    """Return what each file is."""
    rows = journal.connection.db.execute("SELECT path, kind FROM file").fetchall()
    return {os.fsdecode(found).removeprefix(f"{ROOT}/"): kind for found, kind in rows}


def refused(claim: Claim) -> Outcome:
    """Refuse the file."""
    return Refused(claim, "XNAT did not keep it", kind=Refusal.DROPPED)


def barred(claim: Claim) -> Outcome:
    """Refuse the file, with all of its session."""
    return Refused(claim, "not allowed", whole_session=True, kind=Refusal.SERVER)


def second_row(claim: Claim) -> Outcome:
    """Refuse the file, as XNAT has put it into another row."""
    return Refused(claim, "a second row", whole_session=True, kind=Refusal.SERVER, second_row=True)


def deleted(sealed: SealedDelivery) -> Verdict:
    """Find that somebody has deleted its row."""
    return Deleted(sealed.delivery)


def failed(claim: Claim) -> Outcome:
    """Find no verdict."""
    return Failed(claim, "no answer")


def unreadable(claim: Claim) -> Outcome:
    """Fail to read the file."""
    return Failed(claim, "the file cannot be read", unreadable=True)


def held(sealed: SealedDelivery) -> Verdict:
    """Let XNAT not archive the session."""
    return Held(sealed.delivery, "conflict")


def built(sealed: SealedDelivery) -> Verdict:
    """Leave the session in the prearchive."""
    return Built(sealed.delivery, sealed.delivery.uri or "")


def only(name: str, outcome: Callable[[Claim], Outcome]) -> Callable[[Claim], Outcome]:
    """Answer one file so, and acknowledge the others."""
    return lambda claim: outcome(claim) if names([claim]) == [name] else stored(claim)


# The database's own rules


def as_instance(raw: sqlite3.Connection, state: InstanceState) -> None:
    """Bring the first instance into a state, the legal way."""
    raw.execute("UPDATE instance SET state = ?, delivery = 1 WHERE key = 1", (state,))


def as_delivery(raw: sqlite3.Connection, state: DeliveryState) -> None:
    """Bring the first delivery into a state, the legal way, all of its session settled."""
    raw.execute("UPDATE instance SET state = 'STORED', delivery = 1 WHERE key = 1")
    raw.execute("UPDATE delivery SET uri = '/prearchive/1' WHERE key = 1")
    if state in {DeliveryState.BUILT, DeliveryState.ARCHIVED}:
        raw.execute("UPDATE delivery SET state = 'SEALED' WHERE key = 1")
    raw.execute("UPDATE delivery SET state = ? WHERE key = 1", (state,))


def state_of(raw: sqlite3.Connection, table: str) -> str:
    """Return the state of the first row."""
    (state,) = raw.execute(f"SELECT state FROM {table} WHERE key = 1").fetchone()  # noqa: S608 - two fixed names
    return str(state)


@pytest.mark.parametrize(("was", "becomes"), sorted(INSTANCE_TRANSITIONS))
def test_legal_changes_of_an_instance(raw: sqlite3.Connection, was: InstanceState, becomes: InstanceState) -> None:
    """The database lets an instance make each change of the table."""
    if was == InstanceState.STORED:
        as_delivery(raw, DeliveryState.ARCHIVED)
    as_instance(raw, was)
    raw.execute("UPDATE instance SET state = ?, delivery = 1 WHERE key = 1", (becomes,))
    assert state_of(raw, "instance") == becomes


@pytest.mark.parametrize(
    ("was", "becomes"),
    sorted(
        (one, other)
        for one, other in product(InstanceState, InstanceState)
        if one != other and (one, other) not in INSTANCE_TRANSITIONS
    ),
)
def test_illegal_changes_of_an_instance(raw: sqlite3.Connection, was: InstanceState, becomes: InstanceState) -> None:
    """The database refuses every change of an instance that the table does not hold: STORED is final."""
    as_instance(raw, was)
    with pytest.raises(sqlite3.IntegrityError, match="illegal change of an instance"):
        raw.execute("UPDATE instance SET state = ?, delivery = 1 WHERE key = 1", (becomes,))
    assert state_of(raw, "instance") == was


@pytest.mark.parametrize(("was", "becomes"), sorted(DELIVERY_TRANSITIONS))
def test_legal_changes_of_a_delivery(raw: sqlite3.Connection, was: DeliveryState, becomes: DeliveryState) -> None:
    """The database lets a delivery make each change of the table."""
    as_delivery(raw, was)
    # What was not sealed is at its end only where it was seen in the archive.
    raw.execute("UPDATE delivery SET state = ?, archive_uri = '/archive/1' WHERE key = 1", (becomes,))
    assert state_of(raw, "delivery") == becomes


@pytest.mark.parametrize(
    ("was", "becomes"),
    sorted(
        (one, other)
        for one, other in product(DeliveryState, DeliveryState)
        if one != other and (one, other) not in DELIVERY_TRANSITIONS
    ),
)
def test_illegal_changes_of_a_delivery(raw: sqlite3.Connection, was: DeliveryState, becomes: DeliveryState) -> None:
    """The database refuses every change of a delivery that the table does not hold: no seal is ever broken."""
    as_delivery(raw, was)
    with pytest.raises(sqlite3.IntegrityError, match="illegal change of a delivery"):
        raw.execute("UPDATE delivery SET state = ? WHERE key = 1", (becomes,))
    assert state_of(raw, "delivery") == was


@pytest.mark.parametrize("table", ["instance", "delivery"])
def test_states_that_do_not_exist(raw: sqlite3.Connection, table: str) -> None:
    """A state of no table cannot be reached, and neither can none at all."""
    before = state_of(raw, table)
    for state in ("LOST", None):
        with pytest.raises(sqlite3.IntegrityError):
            raw.execute(f"UPDATE {table} SET state = ? WHERE key = 1", (state,))  # noqa: S608 - two fixed names
    assert state_of(raw, table) == before


@pytest.mark.parametrize("state", sorted(set(InstanceState) - {InstanceState.PENDING}))
def test_instances_begin_as_pending(raw: sqlite3.Connection, state: InstanceState) -> None:
    """No instance enters the journal with a verdict."""
    with pytest.raises(sqlite3.IntegrityError, match="begins as PENDING"):
        raw.execute(
            "INSERT INTO instance (session, sop_uid, series_uid, file, state, delivery) VALUES (1, 'x', 'y', 1, ?, 1)",
            (state,),
        )


@pytest.mark.parametrize("state", sorted(set(DeliveryState) - {DeliveryState.OPEN}))
def test_deliveries_begin_as_open(raw: sqlite3.Connection, state: DeliveryState) -> None:
    """No delivery begins behind its seal."""
    as_delivery(raw, DeliveryState.ARCHIVED)
    with pytest.raises(sqlite3.IntegrityError, match="begins as OPEN"):
        raw.execute("INSERT INTO delivery (session, number, state) VALUES (1, 2, ?)", (state,))


@pytest.mark.parametrize("state", sorted(DeliveryState))
def test_a_new_delivery_only_after_the_end_of_the_last(raw: sqlite3.Connection, state: DeliveryState) -> None:
    """A session has one live delivery: another begins only when the last is archived, deleted, or built and left."""
    as_delivery(raw, state)
    if state in {DeliveryState.ARCHIVED, DeliveryState.BUILT, DeliveryState.DELETED}:
        raw.execute("INSERT INTO delivery (session, number) VALUES (1, 2)")
        assert raw.execute("SELECT count(*) FROM delivery WHERE session = 1").fetchone() == (2,)
    else:
        with pytest.raises(sqlite3.IntegrityError, match="has not ended"):
            raw.execute("INSERT INTO delivery (session, number) VALUES (1, 2)")


@pytest.mark.parametrize("state", sorted(set(DeliveryState) - {DeliveryState.OPEN}))
def test_nothing_is_stored_behind_the_seal(raw: sqlite3.Connection, state: DeliveryState) -> None:
    """An instance is stored into an open delivery, never into one that is sealed, held or at its end."""
    as_delivery(raw, state)
    raw.execute("INSERT INTO instance (session, sop_uid, series_uid, file) VALUES (1, 'late', 'y', 1)")
    with pytest.raises(sqlite3.IntegrityError, match="after the seal"):
        raw.execute("UPDATE instance SET state = 'STORED', delivery = 1 WHERE sop_uid = 'late'")


@pytest.mark.parametrize("delivery", [2, 99, None])
def test_nothing_is_stored_into_another_sessions_delivery(raw: sqlite3.Connection, delivery: int | None) -> None:
    """The delivery must be one of the instance's own session, and there must be one."""
    with pytest.raises(sqlite3.IntegrityError, match="after the seal"):
        raw.execute("UPDATE instance SET state = 'STORED', delivery = ? WHERE key = 1", (delivery,))
    assert state_of(raw, "instance") == "PENDING"


def test_no_seal_while_something_is_pending(raw: sqlite3.Connection) -> None:
    """A session with unsettled instances cannot be sealed, whoever asks."""
    raw.execute("UPDATE delivery SET uri = '/prearchive/1' WHERE key = 1")
    with pytest.raises(sqlite3.IntegrityError, match="pending instances"):
        raw.execute("UPDATE delivery SET state = 'SEALED' WHERE key = 1")
    assert state_of(raw, "delivery") == "OPEN"


@pytest.mark.parametrize("state", ["OPEN", "HELD"])
def test_no_seal_on_nothing(raw: sqlite3.Connection, state: str) -> None:
    """A delivery into which nothing was acknowledged has no row in XNAT that could be finalised."""
    raw.execute("UPDATE instance SET state = 'REFUSED' WHERE key = 1")
    raw.execute("UPDATE delivery SET state = ? WHERE key = 1", (state,))
    with pytest.raises(sqlite3.IntegrityError, match="empty delivery"):
        raw.execute("UPDATE delivery SET state = 'SEALED' WHERE key = 1")


@pytest.mark.parametrize("other", ["/prearchive/2", "", None])
def test_the_address_of_a_delivery_never_changes(raw: sqlite3.Connection, other: str | None) -> None:
    """Once the first file has fixed the prearchive row it stays; noting the same address again is no change."""
    raw.execute("UPDATE delivery SET uri = '/prearchive/1' WHERE key = 1")
    raw.execute("UPDATE delivery SET uri = '/prearchive/1' WHERE key = 1")
    with pytest.raises(sqlite3.IntegrityError, match="one prearchive row"):
        raw.execute("UPDATE delivery SET uri = ? WHERE key = 1", (other,))


def test_labels_and_identities_are_unique(raw: sqlite3.Connection) -> None:
    """A label is one study's whatever its case, a study has one session, an instance one row."""
    for values in (("P", "S", "e1", "1.2.new", ""), ("P", "S", "new", E1.study_uid, "")):
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
            raw.execute(
                "INSERT INTO session (project, subject, label, study_uid, patient) VALUES (?, ?, ?, ?, ?)", values
            )
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        raw.execute(
            "INSERT INTO instance (session, sop_uid, series_uid, file) SELECT session, sop_uid, 'y', 1 FROM instance"
        )


# Claims


def test_the_first_file_of_a_delivery_goes_alone(journal: Journal) -> None:
    """Until a file has been acknowledged there is one in flight; its answer gives the others their address."""
    journal.scan.admit([instance(name, E1) for name in "abc"])
    first = journal.queue.claim(8, max_active=9)
    assert first is not None
    assert names(first) == ["a"]
    assert first[0].delivery.uri is None
    assert journal.queue.claim(8, max_active=9) == []
    journal.queue.record_outcomes([Failed(first[0], "no answer")])
    second = journal.queue.claim(8, max_active=9)
    assert second is not None
    assert names(second) == ["b"]
    journal.queue.record_outcomes([Stored(second[0], "/prearchive/1")])
    journal.scan.admit([instance("d", E1)])
    rest = journal.queue.claim(8, max_active=9)
    assert rest is not None
    assert names(rest) == ["c", "d"]
    assert {claim.delivery.uri for claim in rest} == {"/prearchive/1"}


def test_a_claim_is_the_instance_as_it_was_admitted(journal: Journal) -> None:
    """What is handed out is what was found: file, identifiers, session; an odd path and time included."""
    odd = Instance(File(os.fsdecode(b"/src/\xff\xfe [x]\n.dcm"), 7, 2**63 + 5), "1.2.3", "1.2", E1)
    journal.scan.admit([odd])
    claims = journal.queue.claim(1, max_active=1)
    assert claims is not None
    assert [claim.instance for claim in claims] == [odd]
    assert journal.scan.skip_known([odd.file]).unknown == []


def test_claims_come_session_by_session(journal: Journal) -> None:
    """Files are handed out in the order of the sessions, and within one in the order they were found."""
    journal.scan.admit([instance(name, of) for name, of in zip("abcdef", [E2, E1, E2, E1, E3, E2], strict=True)])
    first = journal.queue.claim(8, max_active=9)
    assert first is not None
    assert names(first) == ["a", "b", "e"]
    journal.queue.record_outcomes([stored(claim) for claim in first])
    rest = journal.queue.claim(8, max_active=9)
    assert rest is not None
    assert names(rest) == ["c", "f", "d"]


def test_no_more_than_the_limit(journal: Journal) -> None:
    """A claim is never larger than asked, across sessions begun and new, and what is over comes next."""
    journal.scan.admit([instance(f"{of.label}-{n}", of) for of in (E1, E2, E3) for n in range(3)])
    first = journal.queue.claim(2, max_active=9)
    assert first is not None
    assert names(first) == ["E1-0", "E2-0"]
    journal.queue.record_outcomes([stored(claim) for claim in first])
    taken = [journal.queue.claim(3, max_active=9) for _ in range(2)]
    assert [names(claims or []) for claims in taken] == [["E1-1", "E1-2", "E2-1"], ["E2-2", "E3-0"]]
    journal.queue.record_outcomes([stored(claim) for claims in taken for claim in claims or []])
    journal.scan.admit([instance(f"{of.label}-9", of) for of in (E1, E2, E3)])
    assert names(journal.queue.claim(1, max_active=9) or []) == ["E1-9"]
    assert names(journal.queue.claim(9, max_active=9) or []) == ["E2-9", "E3-1", "E3-2", "E3-9"]


def test_few_sessions_begin_at_a_time(journal: Journal) -> None:
    """Not every session that waits begins at once: those that have begun are to end first."""
    journal.scan.admit([instance(f"{label}-{name}", session(label)) for label in ("A", "B", "C") for name in "12"])
    first = journal.queue.claim(9, max_active=9, max_new=2)
    assert names(first or []) == ["A-1", "B-1"]
    journal.queue.record_outcomes([stored(claim) for claim in first or []])
    assert names(journal.queue.claim(9, max_active=9, max_new=2) or []) == ["A-2", "B-2", "C-1"]


def test_the_number_of_begun_sessions_is_bounded(journal: Journal, disk: Disk) -> None:
    """A session begins only while fewer than `max_active` occupy the prearchive: until they are finalised."""
    disk.put(*[instance(f"{of.label}-{n}", of) for of in (E1, E2, E3) for n in range(2)])
    scan(journal, disk)
    for _ in range(2):
        claims = journal.queue.claim(8, max_active=2)
        assert claims is not None
        assert {claim.delivery.session.label for claim in claims} == {"E1", "E2"}
        journal.queue.record_outcomes([stored(claim) for claim in claims])
    assert journal.queue.claim(8, max_active=2) == []
    sealed = sealed_by(journal)
    assert sealed is not None
    assert journal.queue.claim(8, max_active=2) == []
    journal.deliveries.record_verdict(archived(sealed))
    claims = journal.queue.claim(8, max_active=2)
    assert claims is not None
    assert names(claims) == ["E3-0"]


@pytest.mark.parametrize("answer", [failed, refused, unreadable])
def test_stuck_sessions_do_not_keep_others_from_beginning(
    journal: Journal, disk: Disk, answer: Callable[[Claim], Outcome]
) -> None:
    """A session that cannot be finalised in this run gives its place up when the last of its files is settled."""
    disk.put(*[instance(f"{of.label}-{n}", of) for of in (E1, E2, E3) for n in range(2)])
    scan(journal, disk)
    sent = send(journal, lambda claim: answer(claim) if claim.delivery.session == E1 else stored(claim), max_active=1)
    assert len(sent) == 6
    assert [row for row in deliveries(journal) if row[2] == "ARCHIVED"] == [
        ("E2", 1, "ARCHIVED"),
        ("E3", 1, "ARCHIVED"),
    ]


def test_sessions_stuck_during_the_scan_give_their_place_up_at_its_end(journal: Journal, disk: Disk) -> None:
    """During the scan a session keeps its place, as more of it may come; at the end a stuck one loses it."""
    disk.put(instance("a", E1), instance("b", E2))
    meet(journal, disk)
    claims = journal.queue.claim(8, max_active=1)
    assert claims is not None
    journal.queue.record_outcomes([failed(claim) for claim in claims])
    assert journal.queue.claim(8, max_active=1) == []
    journal.scan.finish([ROOT], archive_built=True, retry_held=False)
    assert names(send(journal, max_active=1)) == ["b"]


def test_empty_while_more_may_come_and_none_at_the_end(journal: Journal) -> None:
    """An empty list says: ask again. None says: never again.

    It waits for the scan, for what is in flight, and for the verdict: it may be that something is to be sent again.
    """
    assert journal.queue.claim(8, max_active=1) == []
    journal.scan.admit([instance("a", E1)])
    claims = journal.queue.claim(8, max_active=1)
    assert claims is not None
    journal.scan.finish([ROOT], archive_built=True, retry_held=False)
    assert journal.queue.claim(8, max_active=1) == []
    journal.queue.record_outcomes([stored(claim) for claim in claims])
    assert journal.queue.claim(8, max_active=1) == []
    sealed = sealed_by(journal)
    assert sealed is not None
    assert journal.queue.claim(8, max_active=1) == []
    journal.deliveries.record_verdict(archived(sealed))
    assert journal.queue.claim(8, max_active=1) is None


# Outcomes


@pytest.mark.parametrize(
    ("answer", "state", "reason"),
    [
        (stored, "STORED", None),
        (refused, "REFUSED", "XNAT did not keep it"),
        (failed, "FAILED", "no answer"),
        (unreadable, "FAILED", "the file cannot be read"),
    ],
)
def test_outcomes_are_recorded(
    journal: Journal, answer: Callable[[Claim], Outcome], state: str, reason: str | None
) -> None:
    """An outcome is noted with its reason and its run; only what is stored has a delivery."""
    journal.scan.admit([instance("a", E1)])
    claims = journal.queue.claim(1, max_active=1)
    assert claims is not None
    assert journal.queue.record_outcomes([answer(claim) for claim in claims]) == 0
    row = journal.connection.db.execute("SELECT state, reason, delivery, run FROM instance").fetchone()
    assert row == (state, reason, 1 if state == "STORED" else None, journal.run)
    assert journal.queue.claim(1, max_active=1) == []


def test_a_duplicate_stands_in_for_a_copy_that_cannot_be_read(journal: Journal, disk: Disk) -> None:
    """Where the first copy cannot be read the next is sent, one after another; the bad copies keep their reason."""
    disk.put(*[instance(name, E1, sop="1.2.same") for name in "abc"])
    scan(journal, disk)
    sent = send(journal, lambda claim: stored(claim) if names([claim]) == ["c"] else unreadable(claim))
    assert names(sent) == ["a", "b", "c"]
    assert kinds(journal) == {"a": "UNREADABLE", "b": "UNREADABLE", "c": "INSTANCE"}
    assert deliveries(journal) == [("E1", 1, "ARCHIVED")]
    problems = JournalReader.of(journal).summary().problems
    assert [(problem.kind, problem.reason, problem.files) for problem in problems] == [
        ("unreadable", "the file cannot be read", 2)
    ]


def test_no_duplicate_stands_in_for_a_failure_that_is_not_the_files(journal: Journal, disk: Disk) -> None:
    """When the server gave no verdict the copy is as good as any: it waits for the next run."""
    disk.put(instance("a", E1, sop="1.2.same"), instance("b", E1, sop="1.2.same"))
    scan(journal, disk)
    assert names(send(journal, failed)) == ["a"]
    assert kinds(journal) == {"a": "INSTANCE", "b": "DUPLICATE"}


def test_a_duplicate_met_later_stands_in_at_the_end_of_the_scan(journal: Journal, disk: Disk) -> None:
    """A copy that could not be read before its duplicate was recalled is replaced by it in the same run."""
    disk.put(instance("a", E1, sop="1.2.same"), instance("b", E1, sop="1.2.same"))
    meet(journal, disk)
    journal.close()
    with opened(journal.path) as later:
        later.scan.skip_known([instance("a").file])
        claims = later.queue.claim(8, max_active=1)
        assert claims is not None
        later.queue.record_outcomes([unreadable(claim) for claim in claims])
        assert later.queue.claim(8, max_active=1) == []
        later.scan.skip_known([instance("b").file])
        later.scan.finish([ROOT], archive_built=True, retry_held=False)
        assert names(send(later)) == ["b"]
        assert kinds(later) == {"a": "UNREADABLE", "b": "INSTANCE"}


def test_a_new_file_replaces_a_copy_that_could_not_be_read(journal: Journal, disk: Disk) -> None:
    """A twin of an instance whose file proved unreadable need not be compared with it: it is sent."""
    journal.scan.admit([instance("a", E1, sop="1.2.same")])
    claims = journal.queue.claim(8, max_active=1)
    assert claims is not None
    journal.queue.record_outcomes([unreadable(claim) for claim in claims])
    admission = journal.scan.admit([instance("b", E1, sop="1.2.same")])
    assert (admission.conflicts, admission.files) == ([], 1)
    # From now on it is the copy that others are compared with.
    assert [conflict.other for conflict in journal.scan.admit([instance("c", E1, sop="1.2.same")]).conflicts] == [
        f"{ROOT}/b"
    ]
    disk.put(instance("b", E1, sop="1.2.same"))
    journal.scan.finish([ROOT], archive_built=True, retry_held=False)
    assert names(send(journal)) == ["b"]
    assert kinds(journal) == {"a": "UNREADABLE", "b": "INSTANCE"}


def test_a_copy_that_stands_in_is_compared_with_others(path: Path, disk: Disk) -> None:
    """Once a duplicate has taken the place of an unreadable copy, a third copy is a twin of the duplicate."""
    disk.put(instance("a", E1, sop="1.2.x"), instance("b", E1, sop="1.2.x"))
    with opened(path) as journal:
        meet(journal, disk)
    with opened(path) as journal:
        journal.scan.skip_known([instance("a").file])
        journal.queue.record_outcomes([unreadable(claim) for claim in journal.queue.claim(8, max_active=1) or []])
        journal.scan.skip_known([instance("b").file])
        journal.scan.admit([Ignored(File(f"{ROOT}/a", 1, 5), FileKind.NOT_DICOM, "no DICOM")])
        assert states(journal) == {"x": "PENDING"}
        assert [conflict.other for conflict in journal.scan.admit([instance("c", E1, sop="1.2.x")]).conflicts] == [
            f"{ROOT}/b"
        ]


def test_nothing_more_of_a_refused_session_is_sent(journal: Journal, disk: Disk) -> None:
    """With `whole_session` the session is held with the reason, and what waited stays for later runs."""
    disk.put(*[instance(name, E1) for name in "abc"], instance("d", E2))
    meet(journal, disk)
    claims = journal.queue.claim(8, max_active=9)
    assert claims is not None
    journal.queue.record_outcomes([Refused(claims[0], "not allowed", whole_session=True), stored(claims[1])])
    journal.scan.admit([instance("e", E1)])
    journal.scan.finish([ROOT], archive_built=True, retry_held=True)
    assert send(journal) == []
    # Nothing has been sealed: the next run goes on with it.
    assert deliveries(journal) == [("E1", 1, "OPEN"), ("E2", 1, "ARCHIVED")]
    assert states(journal) == {"a": "REFUSED", "b": "PENDING", "c": "PENDING", "d": "STORED", "e": "PENDING"}
    (report, _) = JournalReader.of(journal).summary().sessions
    assert (report.state, report.reason) == ("held", "not allowed")


@pytest.mark.parametrize("together", [True, False])
def test_what_is_in_flight_of_a_refused_session_is_still_recorded(journal: Journal, together: bool) -> None:
    """XNAT may acknowledge files of a session after it refused one with all that follows: they are stored."""
    journal.scan.admit([instance(name, E1) for name in "abcde"])
    first = journal.queue.claim(1, max_active=1)
    assert first is not None
    journal.queue.record_outcomes([stored(claim) for claim in first])
    flying = journal.queue.claim(3, max_active=1)
    assert flying is not None
    outcomes = [Refused(flying[0], "another row", whole_session=True), stored(flying[1]), stored(flying[2])]
    for batch in [outcomes] if together else [[outcome] for outcome in outcomes]:
        journal.queue.record_outcomes(batch)
        assert journal.queue.claim(8, max_active=1) == []
    assert states(journal) == {"a": "STORED", "b": "REFUSED", "c": "STORED", "d": "STORED", "e": "PENDING"}
    assert journal.connection.db.execute("SELECT state, reason FROM delivery").fetchone() == ("OPEN", "another row")


def test_a_refused_session_frees_its_place_at_once(journal: Journal) -> None:
    """A session that is held during the scan does not keep another from beginning, even before the scan's end."""
    journal.scan.admit([instance("a", E1), instance("b", E1), instance("c", E2)])
    claims = journal.queue.claim(8, max_active=1)
    assert claims is not None
    assert names(claims) == ["a"]
    journal.queue.record_outcomes([Refused(claims[0], "not allowed", whole_session=True)])
    claims = journal.queue.claim(8, max_active=1)
    assert claims is not None
    assert names(claims) == ["c"]


def test_several_refusals_of_one_session(journal: Journal) -> None:
    """When more than one file in flight is refused with its session, the first reason stands."""
    journal.scan.admit([instance(name, E1) for name in "abc"])
    for claims in (journal.queue.claim(8, max_active=1), journal.queue.claim(8, max_active=1)):
        assert claims is not None
        journal.queue.record_outcomes([stored(claim) for claim in claims[:1]])
    flying = journal.queue.claim(8, max_active=1)
    assert flying is not None
    journal.queue.record_outcomes([Refused(claim, f"reason {n}", whole_session=True) for n, claim in enumerate(flying)])
    assert journal.connection.db.execute("SELECT state, reason FROM delivery").fetchone() == ("OPEN", "reason 0")


# Deliveries


def test_a_session_is_ready_only_after_the_scan(journal: Journal, disk: Disk) -> None:
    """More of a session may come until the walk has ended; then it is sealed, with all that was acknowledged."""
    disk.put(instance("a", E1), instance("b", E1), instance("c", E1))
    meet(journal, disk)
    while claims := journal.queue.claim(8, max_active=9):
        assert journal.queue.record_outcomes([only("b", refused)(claim) for claim in claims]) == 0
    assert sealed_by(journal) is None
    journal.scan.finish([ROOT], archive_built=True, retry_held=False)
    sealed = sealed_by(journal)
    assert sealed is not None
    assert sealed.sop_uids == {"1.2.E1.a", "1.2.E1.c"}
    assert (sealed.delivery.session, sealed.delivery.number, sealed.delivery.uri) == (E1, 1, "/prearchive/E1/1")
    assert deliveries(journal) == [("E1", 1, "SEALED")]
    assert sealed_by(journal) is None


def test_settle_tells_how_many_sessions_became_ready(journal: Journal, disk: Disk) -> None:
    """After the scan the last outcome of a session makes it ready, unless something of it failed."""
    disk.put(instance("a", E1), instance("b", E2), instance("c", E3))
    scan(journal, disk)
    claims = journal.queue.claim(8, max_active=9)
    assert claims is not None
    assert journal.queue.record_outcomes([stored(claims[0]), stored(claims[1]), failed(claims[2])]) == 2


def test_one_delivery_of_a_subject_at_a_time(journal: Journal, disk: Disk) -> None:
    """Deliveries are sealed in their order, one for each subject label at a time, whatever the label's case."""
    one, other = session("E4", subject="pat"), session("E5", subject="PAT")
    disk.put(instance("a", one), instance("b", other), instance("c", E3))
    scan(journal, disk)
    claims = journal.queue.claim(8, max_active=9)
    assert claims is not None
    assert journal.queue.record_outcomes([stored(claim) for claim in claims]) == 3
    first, second = sealed_by(journal), sealed_by(journal)
    assert first is not None
    assert second is not None
    assert [first.delivery.session, second.delivery.session] == [one, E3]
    assert sealed_by(journal) is None
    journal.deliveries.record_verdict(archived(first))
    third = sealed_by(journal)
    assert third is not None
    assert third.delivery.session == other


@pytest.mark.parametrize(
    ("verdict", "row"),
    [
        (archived, ("ARCHIVED", "/archive/E1", "uids", None)),
        (built, ("BUILT", None, None, None)),
        (held, ("HELD", None, None, "conflict")),
    ],
)
def test_verdicts_are_recorded(
    journal: Journal, disk: Disk, verdict: Callable[[SealedDelivery], Verdict], row: tuple[str | None, ...]
) -> None:
    """The end of a delivery is noted with its address, how it was verified, or the reason."""
    disk.put(instance("a", E1))
    scan(journal, disk)
    send(journal, verdict=verdict)
    assert journal.connection.db.execute("SELECT state, archive_uri, verified, reason FROM delivery").fetchone() == row


def test_a_session_with_failed_files_is_not_sealed(journal: Journal, disk: Disk) -> None:
    """A failed file is taken up again by the next run, so its session stays open; a dropped one does not matter."""
    disk.put(instance("a", E1), instance("b", E1), instance("c", E2), instance("d", E2))
    scan(journal, disk)
    send(journal, lambda claim: {"b": failed, "d": refused}.get(names([claim])[0], stored)(claim))
    assert deliveries(journal) == [("E1", 1, "OPEN"), ("E2", 1, "ARCHIVED")]


def test_what_the_database_refuses_leaves_no_trace(journal: Journal, disk: Disk) -> None:
    """A method is one transaction: when the database refuses a part of it nothing of it has happened."""
    disk.put(instance("a", E1), instance("b", E2))
    scan(journal, disk)
    claims = journal.queue.claim(8, max_active=9)
    assert claims is not None
    wrong = Claim(claims[0].key, claims[0].instance, claims[1].delivery)
    with pytest.raises(JournalError, match="after the seal") as error:
        journal.queue.record_outcomes([stored(claims[1]), stored(wrong)])
    assert "restore the journal" in error.value.hint
    assert states(journal) == {"a": "PENDING", "b": "PENDING"}
    assert journal.queue.record_outcomes([stored(claim) for claim in claims]) == 2


# Later runs


def test_a_second_run_sends_nothing(path: Path, disk: Disk) -> None:
    """What XNAT acknowledged is never sent again, and what is archived is not finalised again."""
    disk.put(*[instance(name, E1) for name in "abc"])
    assert whole_run(path, disk) == ["a", "b", "c"]
    with opened(path) as journal:
        scan(journal, disk)
        assert journal.queue.claim(8, max_active=9) is None
        assert sealed_by(journal) is None


def test_new_files_of_an_archived_session_are_a_new_delivery(path: Path, disk: Disk) -> None:
    """What comes later for an archived session is another delivery, whose seal covers all that was stored."""
    disk.put(instance("a", E1))
    whole_run(path, disk)
    disk.put(instance("b", E1))
    with opened(path) as journal:
        scan(journal, disk)
        claims = journal.queue.claim(8, max_active=9)
        assert claims is not None
        assert (claims[0].delivery.number, claims[0].delivery.uri) == (2, None)
        journal.queue.record_outcomes([stored(claim) for claim in claims])
        sealed = sealed_by(journal)
        assert sealed is not None
        assert sealed.sop_uids == {"1.2.E1.a", "1.2.E1.b"}
        journal.deliveries.record_verdict(archived(sealed))
        assert deliveries(journal) == [("E1", 1, "ARCHIVED"), ("E1", 2, "ARCHIVED")]
    disk.put(instance("c", E1))
    assert whole_run(path, disk) == ["c"]


def seal(path: Path, disk: Disk) -> None:
    """Be a run that was killed while a sealed delivery was being finalised."""
    with opened(path) as journal:
        scan(journal, disk)
        while claims := journal.queue.claim(8, max_active=9):
            journal.queue.record_outcomes([stored(claim) for claim in claims])
        assert sealed_by(journal) is not None


def test_sealed_deliveries_are_ready_at_once(path: Path, disk: Disk) -> None:
    """What an earlier run sealed is finalised without waiting for the scan, whatever the sources are now."""
    disk.put(instance("a", E1))
    seal(path, disk)
    with opened(path) as journal:
        sealed = sealed_by(journal)
        assert sealed is not None
        assert sealed.delivery.session == E1
        assert sealed.sop_uids == {"1.2.E1.a"}


def test_new_files_wait_for_the_end_of_a_sealed_delivery(path: Path, disk: Disk) -> None:
    """Files found while an earlier delivery is sealed are parked, and sent in the same run once it is through."""
    disk.put(instance("a", E1))
    seal(path, disk)
    disk.put(instance("b", E1), instance("c", E1))
    with opened(path) as journal:
        meet(journal, disk)
        assert journal.queue.claim(8, max_active=9) == []
        disk.put(instance("d", E1))
        journal.scan.admit([instance("d", E1)])
        journal.scan.finish([ROOT], archive_built=True, retry_held=False)
        assert journal.queue.claim(8, max_active=9) == []
        sealed = sealed_by(journal)
        assert sealed is not None
        assert journal.queue.claim(8, max_active=9) == []
        journal.deliveries.record_verdict(archived(sealed))
        assert names(send(journal)) == ["b", "c", "d"]
        assert deliveries(journal) == [("E1", 1, "ARCHIVED"), ("E1", 2, "ARCHIVED")]


@pytest.mark.parametrize("asked", [True, False])
def test_a_sealed_delivery_ends_while_new_files_are_met(path: Path, disk: Disk, asked: bool) -> None:
    """Whether or not the line has asked for work in between: each of the new files waits once."""
    disk.put(instance("a", E1))
    seal(path, disk)
    disk.put(instance("b", E1))
    with opened(path) as journal:
        meet(journal, disk)
        if asked:
            assert journal.queue.claim(8, max_active=9) == []
        sealed = sealed_by(journal)
        assert sealed is not None
        journal.scan.admit([instance("c", E1)])
        journal.deliveries.record_verdict(archived(sealed))
        disk.put(instance("c", E1))
        journal.scan.finish([ROOT], archive_built=True, retry_held=False)
        assert names(send(journal)) == ["b", "c"]


def test_files_parked_behind_a_delivery_that_is_held_stay(path: Path, disk: Disk) -> None:
    """When the sealed delivery ends as held its session gets nothing more in this run, and the run can end."""
    disk.put(instance("a", E1))
    seal(path, disk)
    disk.put(instance("b", E1))
    with opened(path) as journal:
        scan(journal, disk)
        assert send(journal, verdict=held) == []
        assert states(journal) == {"a": "STORED", "b": "PENDING"}
        assert JournalReader.of(journal).summary().files.left == 1
    # Nothing of it is sent until that is asked for.
    assert whole_run(path, disk) == []
    assert whole_run(path, disk, retry_held=True) == ["b"]


def test_held_deliveries_are_taken_up_only_when_asked(path: Path, disk: Disk) -> None:
    """`retry_held` seals a held delivery again; its new files wait for its end."""
    disk.put(instance("a", E1))
    whole_run(path, disk, verdict=held)
    with opened(path) as journal:
        scan(journal, disk)
        assert sealed_by(journal) is None
        assert journal.queue.claim(8, max_active=9) is None
    disk.put(instance("b", E1))
    assert whole_run(path, disk, retry_held=True) == ["b"]
    with opened(path) as journal:
        assert deliveries(journal) == [("E1", 1, "ARCHIVED"), ("E1", 2, "ARCHIVED")]


def test_what_is_held_in_a_run_is_not_taken_up_in_it(path: Path, disk: Disk) -> None:
    """`retry_held` is about earlier runs: one that ends as held before the scan does is left alone."""
    disk.put(instance("a", E1))
    seal(path, disk)
    with opened(path) as journal:
        sealed = sealed_by(journal)
        assert sealed is not None
        journal.deliveries.record_verdict(held(sealed))
        scan(journal, disk, retry_held=True)
        assert sealed_by(journal) is None
        assert journal.queue.claim(8, max_active=9) is None


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_session_refused_with_one_of_its_files_goes_on(path: Path, disk: Disk, name: str) -> None:
    """What was in its way may be gone: the next run sends its files, the refused one too, unasked."""
    disk.put(*[instance(name, E1) for name in "abc"])
    whole_run(path, disk, only(name, barred))
    with opened(path) as journal:
        scan(journal, disk)
        assert names(send(journal)) == (["a", "b", "c"] if name == "a" else ["b"])
        assert deliveries(journal) == [("E1", 1, "ARCHIVED")]
        (report,) = JournalReader.of(journal).summary().sessions
    assert (report.state, report.reason) == ("archived", None)


def test_a_barred_session_is_not_archived_in_part(journal: Journal, disk: Disk) -> None:
    """`--partial archive` is for files that are lost to it; this one goes on."""
    disk.put(*[instance(name, E1) for name in "abc"])
    scan(journal, disk, partial=True)
    send(journal, only("c", barred))
    assert deliveries(journal) == [("E1", 1, "OPEN")]


@pytest.mark.parametrize("together", [True, False])
def test_what_became_of_a_row_is_asked_when_all_has_landed(journal: Journal, disk: Disk, together: bool) -> None:
    """A second row says that the first may be gone; but not before all that is on its way has been acknowledged."""
    disk.put(*[instance(name, E1) for name in "abcde"])
    scan(journal, disk)
    for _ in range(2):
        claims = journal.queue.claim(1, max_active=1)
        assert claims is not None
        journal.queue.record_outcomes([stored(claim) for claim in claims])
    flying = journal.queue.claim(3, max_active=1)
    assert flying is not None
    outcomes = [second_row(flying[0]), stored(flying[1]), second_row(flying[2])]
    batches = [outcomes] if together else [[outcome] for outcome in outcomes]
    for batch in batches:
        assert sealed_by(journal) is None
        assert journal.queue.record_outcomes(batch) == (batch is batches[-1])
        assert journal.queue.claim(8, max_active=1) == []
    found = sealed_by(journal)
    assert found is not None
    assert (found.is_open, set(found.sop_uids), set(found.refused)) == (
        True,
        {f"1.2.E1.{name}" for name in "abd"},
        set(),
    )
    assert deliveries(journal) == [("E1", 1, "OPEN")]
    # An administrator has archived it, without what came last.
    journal.deliveries.record_verdict(Incomplete(found.delivery, "/archive/E1", frozenset(["1.2.E1.d"])))
    assert states(journal) == {"a": "STORED", "b": "STORED", "c": "PENDING", "d": "PENDING", "e": "PENDING"}
    assert deliveries(journal) == [("E1", 1, "ARCHIVED")]
    assert names(send(journal)) == ["c", "d", "e"]
    assert deliveries(journal) == [("E1", 1, "ARCHIVED"), ("E1", 2, "ARCHIVED")]


def test_a_row_that_is_still_there_holds_its_session(journal: Journal, disk: Disk) -> None:
    """The second one is somebody else's: nothing more is sent in this run, and nothing is sealed."""
    disk.put(*[instance(name, E1) for name in "abc"])
    scan(journal, disk)
    assert names(send(journal, only("b", second_row), verdict=lambda one: Held(one.delivery, "two rows"))) == [
        "a", "b", "c"
    ]  # fmt: skip
    assert journal.connection.db.execute("SELECT state, reason FROM delivery").fetchone() == ("OPEN", "two rows")
    (report,) = JournalReader.of(journal).summary().sessions
    assert (report.state, report.reason) == ("held", "two rows")


@pytest.mark.parametrize("is_open", [True, False])
def test_a_deleted_delivery_is_sent_again_once(journal: Journal, disk: Disk, is_open: bool) -> None:
    """All that was stored in it waits, and goes into another one; if that is deleted too, somebody has to look."""
    disk.put(*[instance(name, E1) for name in "abc"])
    scan(journal, disk)
    answer = only("c", second_row) if is_open else stored
    sent = names(send(journal, answer, verdict=lambda one: Deleted(one.delivery)))
    assert sent == [*"abc", *"abc"]
    assert deliveries(journal) == [("E1", 1, "DELETED"), ("E1", 2, "OPEN" if is_open else "HELD")]
    (report,) = JournalReader.of(journal).summary().sessions
    assert (report.state, report.reason) == (
        "held",
        "somebody has deleted it from the prearchive, and once more in the same run",
    )


def test_only_a_deleted_delivery_is_sent_again(path: Path, disk: Disk) -> None:
    """What an earlier one has brought into the archive stays there."""
    disk.put(*[instance(name, E1) for name in "ab"])
    whole_run(path, disk)
    disk.put(*[instance(name, E1) for name in "cd"])
    verdicts = iter([lambda one: Deleted(one.delivery), archived])
    with opened(path) as journal:
        scan(journal, disk)
        sent = names(send(journal, verdict=lambda one: next(verdicts)(one)))
    assert sent == ["c", "d", "c", "d"]


def test_what_may_be_on_its_way_into_a_deleted_row_is_waited_for(journal: Journal, disk: Disk) -> None:
    """It makes or finds the row of the next delivery, which is therefore not sealed before the quiet period is over."""
    disk.put(*[instance(name, E1) for name in "ab"])
    scan(journal, disk)
    for _ in range(2):
        claims = journal.queue.claim(1, max_active=1)
        assert claims is not None
        journal.queue.record_outcomes([Stored(claim, uri(claim), 2, may_have_taken_effect=True) for claim in claims])
    assert isinstance(journal.deliveries.claim(settle_seconds=60), float)
    found = sealed_by(journal)
    assert found is not None
    journal.deliveries.record_verdict(Deleted(found.delivery))
    for _ in range(2):
        claims = journal.queue.claim(1, max_active=1)
        assert claims is not None
        journal.queue.record_outcomes([stored(claim) for claim in claims])
    assert isinstance(journal.deliveries.claim(settle_seconds=60), float)


def test_a_session_that_stays_refused_is_tried_once_a_run(path: Path, disk: Disk) -> None:
    """It does not keep a run from ending."""
    disk.put(instance("a", E1))
    for retry_held in (False, True):
        assert whole_run(path, disk, barred, retry_held=retry_held) == ["a"]


def test_a_delivery_of_an_old_journal_that_holds_nothing_begins_anew(path: Path, disk: Disk) -> None:
    """XNAT holds nothing of it, so `retry_held` has nothing to finalise: its files are sent like new ones."""
    disk.put(*[instance(name, E1) for name in "abc"])
    whole_run(path, disk, only("a", barred))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE delivery SET state = 'HELD'")
        connection.commit()
    assert whole_run(path, disk) == []
    with opened(path) as journal:
        meet(journal, disk)
        # Until the end of the scan nobody knows that it may.
        assert journal.queue.claim(8, max_active=9) == []
        journal.scan.finish([ROOT], archive_built=True, retry_held=True)
        assert names(send(journal)) == ["a", "b", "c"]
        assert deliveries(journal) == [("E1", 1, "ARCHIVED")]


@pytest.mark.parametrize("archive_built", [True, False])
def test_built_deliveries_are_taken_up_to_be_archived(path: Path, disk: Disk, archive_built: bool) -> None:
    """What a run with --no-archive left in the prearchive is archived by one without it, and otherwise stays."""
    disk.put(instance("a", E1))
    whole_run(path, disk, verdict=built, archive_built=False)
    assert whole_run(path, disk, archive_built=archive_built) == []
    with opened(path) as journal:
        assert deliveries(journal) == [("E1", 1, "ARCHIVED" if archive_built else "BUILT")]


def test_new_files_of_a_built_session(path: Path, disk: Disk) -> None:
    """They are a new delivery too: the seal of the built one is not broken."""
    disk.put(instance("a", E1))
    whole_run(path, disk, verdict=built, archive_built=False)
    disk.put(instance("b", E1))
    assert whole_run(path, disk, verdict=built, archive_built=False) == ["b"]
    with opened(path) as journal:
        assert deliveries(journal) == [("E1", 1, "BUILT"), ("E1", 2, "BUILT")]


def test_only_sessions_of_these_sources_are_taken_up(path: Path, disk: Disk) -> None:
    """Held, built and open sessions of other sources are not this run's business."""
    disk.put(instance("a", E1), instance("b", E2))
    whole_run(path, disk, verdict=held)
    disk.remove("a")
    with opened(path) as journal:
        scan(journal, disk, retry_held=True)
        sealed = sealed_by(journal)
        assert sealed is not None
        assert sealed.delivery.session == E2
        assert sealed_by(journal) is None


def test_an_open_delivery_goes_on_in_the_next_run(path: Path, disk: Disk) -> None:
    """A run that ends early leaves its deliveries open, with their addresses; the next one fills the same rows."""
    disk.put(*[instance(name, E1) for name in "abc"])
    with opened(path) as journal:
        meet(journal, disk)
        claims = journal.queue.claim(8, max_active=9)
        assert claims is not None
        journal.queue.record_outcomes([stored(claim) for claim in claims])
    with opened(path) as journal:
        scan(journal, disk)
        claims = journal.queue.claim(8, max_active=9)
        assert claims is not None
        assert names(claims) == ["b", "c"]
        assert {claim.delivery.uri for claim in claims} == {"/prearchive/E1/1"}


def test_failed_files_are_always_taken_up(path: Path, disk: Disk) -> None:
    """A file without a verdict is sent again by the next run, and then its session is archived."""
    disk.put(instance("a", E1), instance("b", E1))
    whole_run(path, disk, only("b", failed))
    assert whole_run(path, disk) == ["b"]
    with opened(path) as journal:
        assert deliveries(journal) == [("E1", 1, "ARCHIVED")]


KINDS: Mapping[Refusal, tuple[bool, bool, int]] = {
    Refusal.DROPPED: (True, False, 1),
    Refusal.FILE: (False, False, 0),
    Refusal.SERVER: (False, True, 0),
}


@pytest.mark.parametrize("kind", list(Refusal))
def test_only_what_a_rule_of_the_site_drops_is_not_lacking(path: Path, disk: Disk, kind: Refusal) -> None:
    """Any other refusal holds the session, is told in each run, and is sent again when it may have passed, or asked."""
    is_archived, again, already = KINDS[kind]
    disk.put(instance("a", E1), instance("b", E1))
    refuse = only("b", lambda claim: Refused(claim, "no", kind=kind))
    whole_run(path, disk, refuse)
    with opened(path) as journal:
        assert deliveries(journal) == [("E1", 1, "ARCHIVED" if is_archived else "OPEN")]
        scan(journal, disk)
        assert names(send(journal, refuse)) == (["b"] if again else [])
        summary = JournalReader.of(journal).summary()
    (report,) = summary.sessions
    assert (report.state, report.reason) == (
        ("archived", None) if is_archived else ("held", "1 of its files was refused")
    )
    assert (summary.files.already_refused, summary.files.refused) == (already, 1 - already)
    assert exit_code(summary) == (0 if is_archived else 8)
    assert whole_run(path, disk, retry_refused=True) == ["b"]
    with opened(path) as journal:
        assert {state for *_, state in deliveries(journal)} == {"ARCHIVED"}


@pytest.mark.parametrize("kind", list(Refusal))
def test_a_session_that_lacks_refused_files_is_archived_when_asked(path: Path, disk: Disk, kind: Refusal) -> None:
    """`--partial archive` takes it as it is, and it says what it lacks."""
    disk.put(instance("a", E1), instance("b", E1))
    with opened(path) as journal:
        scan(journal, disk, partial=True)
        send(journal, only("b", lambda claim: Refused(claim, "no", kind=kind)))
        assert deliveries(journal) == [("E1", 1, "ARCHIVED")]
        assert journal.connection.db.execute("SELECT partial FROM delivery").fetchone() == (
            kind is not Refusal.DROPPED,
        )
        (report,) = JournalReader.of(journal).summary().sessions
    assert (report.state, report.reason) == (
        "archived",
        None if kind is Refusal.DROPPED else "1 of its files was refused",
    )


def test_refused_files_are_taken_up_only_when_asked(path: Path, disk: Disk) -> None:
    """A refusal stands until `retry_refused`; then the file goes into a new delivery of its archived session."""
    disk.put(instance("a", E1), instance("b", E1))
    whole_run(path, disk, only("b", refused))
    assert whole_run(path, disk) == []
    assert whole_run(path, disk, retry_refused=True) == ["b"]
    with opened(path) as journal:
        assert deliveries(journal) == [("E1", 1, "ARCHIVED"), ("E1", 2, "ARCHIVED")]


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from journals import Disk, instance, meet, opened, session, stored
disk = Disk()
disk.put(*[instance(name, session("E1")) for name in "abc"], instance("d", session("E2")))
journal = opened(Path(sys.argv[1]))
meet(journal, disk)
claims = journal.queue.claim(8, max_active=9)
journal.queue.record_outcomes([stored(claims[0])])
assert len(journal.queue.claim(8, max_active=9)) == 2
print("claimed", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_leaves_what_was_claimed_pending(path: Path, disk: Disk) -> None:
    """After SIGKILL the lock is free, what was settled is settled, and what was in flight is sent again."""
    command: list[str | Path] = [sys.executable, "-c", KILLED, path, Path(__file__).parent.parent / "support"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "claimed\n"), done.stderr
    disk.put(*[instance(name, E1) for name in "abc"], instance("d", session("E2")))
    with opened(path) as journal:
        assert states(journal) == {"a": "STORED", "b": "PENDING", "c": "PENDING", "d": "PENDING"}
        scan(journal, disk)
        assert sorted(names(send(journal))) == ["b", "c", "d"]
        assert [state for *_, state in deliveries(journal)] == ["ARCHIVED", "ARCHIVED"]


# What the files are


def test_unchanged_files_are_not_looked_into(journal: Journal, disk: Disk) -> None:
    """A file of the same path, size and time is passed, whatever it is; only the unreadable are tried again."""
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
def test_changed_files_are_looked_into_again(path: Path, disk: Disk, size: int, mtime_ns: int) -> None:
    """Another size or another time makes a file unknown; unsent as it is, it is sent as it now is."""
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
    """What was refused or failed is sent again when its file has been rewritten: they are other bytes."""
    disk.put(instance("a", E1), instance("b", E1))
    whole_run(path, disk, only("b", answer))
    disk.touch("b")
    assert whole_run(path, disk) == ["b"]


def test_a_file_rewritten_after_it_was_stored(path: Path, disk: Disk) -> None:
    """XNAT holds what was sent first: the new bytes are skipped, with the reason, in this run and in all later ones."""
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
    """The old instance was not sent and is nowhere any more: it fails, and its session is not archived without it."""
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
    """Met again in the same run as something else, the instance no longer waits."""
    journal.scan.admit([instance("a", E1)])
    journal.scan.admit([Ignored(File(f"{ROOT}/a", 1, 5), FileKind.NOT_DICOM, "no DICOM")])
    journal.scan.finish([ROOT], archive_built=True, retry_held=False)
    assert send(journal) == []
    assert states(journal) == {"a": "FAILED"}


def test_a_file_overwritten_while_it_was_in_flight(journal: Journal) -> None:
    """What is on its way is settled by its outcome, even if its file has become something else meanwhile."""
    journal.scan.admit([instance("a", E1)])
    claims = journal.queue.claim(1, max_active=1)
    assert claims is not None
    journal.scan.admit([instance("a", E1, sop="1.2.other", size=11)])
    journal.queue.record_outcomes([stored(claim) for claim in claims])
    journal.scan.finish([ROOT], archive_built=True, retry_held=False)
    (claim,) = send(journal)
    assert claim.instance.sop_uid == "1.2.other"
    assert set(states(journal).values()) == {"STORED"}


def test_a_duplicate_stands_in_for_a_file_that_became_something_else(path: Path, disk: Disk) -> None:
    """Met before or after the file that was overwritten, the duplicate is sent in its place, in the same run."""
    disk.put(*[instance(name, E1, sop="1.2.x") for name in "bc"], *[instance(name, E2, sop="1.2.y") for name in "de"])
    with opened(path) as journal:
        meet(journal, disk)
    disk.put(Ignored(File(f"{ROOT}/b", 1, 5), FileKind.NOT_DICOM, "no DICOM"), instance("e", E2, sop="1.2.z", size=11))
    disk.touch("d", content="1.2.z")
    with opened(path) as journal:
        scan(journal, disk, batch=1)
        assert sorted(names(send(journal))) == ["c", "d", "e"]
        assert [state for *_, state in deliveries(journal)] == ["ARCHIVED", "ARCHIVED"]


def test_a_duplicate_met_before_stands_in_at_once(path: Path, disk: Disk) -> None:
    """When the duplicate has been passed already the instance waits again from there, and never fails."""
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
    """What XNAT holds stays stored; a file that carries it again cannot be compared with what was sent: skipped."""
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
    """A stored file that one run cannot read, and a later one can, is what it was: neither sent nor skipped."""
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
    """It fails with that reason and holds its session; a twin then takes its place uncompared, or it comes back."""
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
    """Files that are there no more are counted; those not sent have failed, those stored or refused have not."""
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


def test_a_duplicate_stands_in_for_a_file_that_is_gone(path: Path, disk: Disk) -> None:
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
    """What failed because it could not be read counts as gone when it is gone."""
    disk.put(instance("a", E1), instance("b", E1))
    whole_run(path, disk, only("b", failed))
    disk.put(Ignored(File(f"{ROOT}/b", 0, 0), FileKind.UNREADABLE, "i/o error"))
    whole_run(path, disk)
    disk.remove("b")
    with opened(path) as journal:
        assert scan(journal, disk) == VanishedFiles(1, 1)
        assert JournalReader.of(journal).summary().files.failed == 1


def test_only_what_is_below_the_sources_can_be_gone(journal: Journal, disk: Disk) -> None:
    """A directory whose name merely begins like the source is not below it; the root of all is above everything."""
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
    """Renamed with size and time, a file is what it was: stored or refused it stays so, unsent it is sent."""
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
    """A copy that is met before its original takes its place; the original is looked into again, as a duplicate."""
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
    """Where size or time differ only the bytes can tell, whether or not the stored copy has been met."""
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
    """Roots that overlap within one batch: the second time there is nothing to add."""
    admission = journal.scan.admit([instance("a", E1), instance("a", E1)])
    assert (admission.files, admission.size, admission.conflicts) == (1, 10, [])


@pytest.mark.parametrize("batch", [1, 512])
def test_the_first_of_two_is_sent_though_its_path_was_known(path: Path, disk: Disk, batch: int) -> None:
    """A file that was rewritten carries a new instance, which a new file repeats: the order decides."""
    disk.put(instance("a", E1, sop="1.2.x"))
    whole_run(path, disk)
    disk.put(instance("a", E1, sop="1.2.y", size=99), instance("b", E1, sop="1.2.y"))
    with opened(path) as journal:
        scan(journal, disk, batch=batch)
        assert names(send(journal)) == ["a"]
        assert kinds(journal) == {"a": "INSTANCE", "b": "DUPLICATE"}


@pytest.mark.parametrize("batch", [1, 512])
def test_twins(journal: Journal, disk: Disk, batch: int) -> None:
    """The same instance in another file is a duplicate if the bytes agree, else skipped; one of them is sent."""
    disk.put(instance("a", E1, sop="1.2.x"), instance("b", E1, sop="1.2.x"))
    disk.put(instance("c", E1, sop="1.2.x"), content="other bytes")
    disk.put(Ignored(File(f"{ROOT}/d", 1, 1), FileKind.SKIPPED, "no label"))
    scan(journal, disk, batch=batch)
    assert names(send(journal)) == ["a"]
    assert kinds(journal) == {"a": "INSTANCE", "b": "DUPLICATE", "c": "SKIPPED", "d": "SKIPPED"}
    assert journal.scan.skip_reasons() == [("no label", 1), ("other bytes", 1)]


def test_the_same_instance_in_two_sessions(journal: Journal, disk: Disk) -> None:
    """An instance's identity is within its session: in another study's session it is sent too."""
    disk.put(instance("a", E1, sop="1.2.x"), instance("b", E2, sop="1.2.x"))
    scan(journal, disk)
    assert names(send(journal)) == ["a", "b"]


def test_one_label_for_two_studies(journal: Journal, disk: Disk) -> None:
    """The study met first has the label, whatever the case of the other's; the later study is skipped, both named."""
    late = session("e1", study="1.2.late")
    disk.put(instance("a", E1), instance("b", late), instance("c", late))
    scan(journal, disk)
    assert names(send(journal)) == ["a"]
    ((reason, count),) = journal.scan.skip_reasons()
    assert count == 2
    assert "1.2.late" in reason
    assert E1.study_uid in reason


def test_one_label_in_two_projects(journal: Journal, disk: Disk) -> None:
    """Labels are a project's own: the same label and study in another project is another session."""
    disk.put(instance("a", E1), instance("b", session("E1", project="Q")))
    scan(journal, disk)
    assert names(send(journal)) == ["a", "b"]


@pytest.mark.parametrize(
    "other", [Session("P", "S9", "E1", E1.study_uid), Session("P", "S1", "E9", E1.study_uid)], ids=["subject", "label"]
)
@pytest.mark.parametrize("later", [True, False])
def test_one_study_under_two_names(journal: Journal, disk: Disk, other: Session, later: bool) -> None:
    """A study whose files disagree on subject or label is not sent in part, in later runs neither; why is told."""
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


def test_many_sessions(journal: Journal) -> None:
    """More open sessions than are kept in memory are looked up again, and are the same."""
    many = [session(f"E{n}", subject=f"S{n}") for n in range(2_100)]
    for name in "ab":
        admission = journal.scan.admit([instance(f"{of.label}-{name}", of) for of in many])
        assert admission.files == 2_100
    assert journal.connection.db.execute("SELECT count(*) FROM session").fetchone() == (2_100,)


# Another set of rules


def test_reroute_forgets_what_was_not_sent(path: Path, disk: Disk) -> None:
    """Sessions of which XNAT holds something keep their labels; all others are decided anew under the new rules."""
    disk.put(*[instance(name, E1) for name in "ab"], *[instance(name, E2) for name in "cd"], instance("e", E3))
    disk.put(instance("f", session("e3", study="1.2.late")), Ignored(File(f"{ROOT}/g", 1, 1), FileKind.NOT_DICOM, "no"))
    answers = {"b": failed, "c": barred, "e": failed}
    with opened(path) as journal:
        scan(journal, disk)
        send(journal, lambda claim: answers.get(names([claim])[0], stored)(claim))
        assert journal.scan.skip_reasons() != []
    rules = {"project": "P", "subject": "new"}
    with opened(path, relabel=True, rules=rules) as journal:
        assert JournalReader.of(journal).metadata() == {
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


def test_reroute_keeps_what_is_known_of_stored_files(path: Path, disk: Disk) -> None:
    """Files that changed after XNAT stored them, or now carry what is forgotten, do not make it forget the stored."""
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


# Anything, in any order

POOL = [session(f"E{n}", subject="s" if n else "S") for n in range(3)]


class AnyOrder(RuleBasedStateMachine):
    """The journal against a model that holds what each instance is, in any order of calls, with kills in between."""

    def __init__(self) -> None:
        super().__init__()
        self.place = TemporaryDirectory()
        self.path = Path(self.place.name) / "journal"
        self.journal = opened(self.path)
        self.known: dict[str, Instance] = {}  # by path
        self.met: set[str] = set()
        self.flying: dict[tuple[str, str], Claim] = {}
        self.stored: set[tuple[str, str]] = set()
        self.into: dict[tuple[str, str], int] = {}
        self.settled: set[tuple[str, str]] = set()
        self.uris: dict[int, str] = {}
        self.sealed: dict[int, SealedDelivery] = {}
        self.scanning = True
        self.feeding = True

    def teardown(self) -> None:
        """Run until everything is settled, as a patient user would, and compare."""
        self.crash()
        for _ in range(4):
            self.pass_all(retry_refused=True)
            self.journal.scan.finish([], archive_built=True, retry_held=True)
            send(self.journal)
            self.crash()
        self.pass_all(retry_refused=False)
        last = JournalReader.of(self.journal).summary()
        files = last.files
        copies = {(item.session.label, item.sop_uid) for item in self.known.values()}
        assert files.already_stored == len(copies)
        assert files.found == len(self.known)
        assert last.count("archived") == len({label for label, _ in copies}) == len(last.sessions)
        self.journal.close()
        self.place.cleanup()

    def pass_all(self, *, retry_refused: bool) -> None:
        """Walk over all files."""
        disk = Disk()
        disk.put(*self.known.values())
        meet(self.journal, disk, retry_refused=retry_refused)
        self.met = set(self.known)

    @precondition(lambda self: self.scanning)
    @rule(of=st.sampled_from(POOL), sop=st.integers(0, 2), copy=st.integers(0, 1))
    def admit(self, of: Session, sop: int, copy: int) -> None:
        """Meet a file, new or known, first or second copy."""
        item = instance(f"{of.label}/{sop}-{copy}", of, sop=f"{of.study_uid}.{sop}")
        self.known.setdefault(item.file.path, item)
        disk = Disk()
        disk.put(item)
        for other in self.known.values():
            disk.content[other.file.path] = other.sop_uid
        meet(self.journal, disk)
        self.met.add(item.file.path)

    @precondition(lambda self: self.scanning)
    @rule(retry_refused=st.booleans(), retry_held=st.booleans(), archive_built=st.booleans())
    def finish_scan(self, retry_refused: bool, retry_held: bool, archive_built: bool) -> None:
        """Meet all known files and end the scan."""
        self.pass_all(retry_refused=retry_refused)
        self.journal.scan.finish([], archive_built=archive_built, retry_held=retry_held)
        self.scanning = False

    @rule(limit=st.integers(1, 4), max_active=st.integers(1, 3))
    def claim(self, limit: int, max_active: int) -> None:
        """Claim: nothing is handed out twice, nothing that is stored again, a first file goes alone."""
        claims = self.journal.queue.claim(limit, max_active=max_active)
        if claims is None:
            assert not self.scanning
            assert not self.flying
            self.feeding = False
            return
        assert self.feeding
        assert len(claims) <= limit
        for claim in claims:
            key = (claim.instance.session.label, claim.instance.sop_uid)
            assert key not in self.flying
            assert key not in self.stored
            assert claim.delivery.key not in self.sealed
            assert claim.delivery.uri == self.uris.get(claim.delivery.key)
            alone = claim.delivery.uri is None
            assert not (alone and any(other.delivery.key == claim.delivery.key for other in self.flying.values()))
            self.flying[key] = claim
            self.settled.discard(key)

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """Settle some of what is in flight, each in some way."""
        keys = data.draw(st.lists(st.sampled_from(sorted(self.flying)), min_size=1, unique=True))
        outcomes: list[Outcome] = []
        for key in keys:
            claim = self.flying.pop(key)
            how = data.draw(st.sampled_from("ssssrwfu2"))
            if how == "s":
                self.stored.add(key)
                self.into[key] = claim.delivery.key
                self.uris.setdefault(claim.delivery.key, uri(claim))
                outcomes.append(stored(claim))
            elif how == "2" and claim.delivery.uri is not None:
                outcomes.append(second_row(claim))
            elif how in "rw2":
                kind = Refusal.SERVER if how == "w" else data.draw(st.sampled_from(Refusal))
                outcomes.append(Refused(claim, "no", whole_session=how == "w", kind=kind))
            else:
                outcomes.append(Failed(claim, "no", unreadable=how == "u"))
            self.settled.add(key)
        ready = self.journal.queue.record_outcomes(outcomes)
        # During the scan nothing is sealed, but what has become of a row may be asked.
        asked = self.journal.connection.db.execute("SELECT count(*) FROM blocked WHERE second_row").fetchone()
        assert not self.scanning or ready <= asked[0]

    @rule()
    def claim_session(self) -> None:
        """Seal: the session has nothing in flight, the subject no other delivery in hand, the UIDs are all of them."""
        sealed = sealed_by(self.journal)
        if sealed is None:
            return
        of = sealed.delivery.session
        assert all(of.subject.lower() != other.delivery.session.subject.lower() for other in self.sealed.values())
        assert not any(label == of.label for label, _ in self.flying)
        assert sealed.sop_uids == {uid for label, uid in self.stored if label == of.label}
        assert sealed.delivery.uri == self.uris[sealed.delivery.key]
        self.sealed[sealed.delivery.key] = sealed

    @precondition(lambda self: self.sealed)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        """End a delivery in some way; what was stored in a deleted one is stored no more."""
        key = data.draw(st.sampled_from(sorted(self.sealed)))
        sealed = self.sealed.pop(key)
        verdicts = [archived, held, deleted, *([] if sealed.is_open else [built])]
        recorded = self.journal.deliveries.record_verdict(data.draw(st.sampled_from(verdicts))(sealed))
        if isinstance(recorded, Deleted):
            gone = {one for one in self.stored if self.into[one] == key}
            assert recorded.files == len(gone)
            self.stored -= gone
            self.settled -= gone

    @rule()
    def crash(self) -> None:
        """Lose everything that is not on disk, and begin another run."""
        self.journal.close()
        self.journal = opened(self.path)
        self.met, self.flying, self.sealed = set(), {}, {}
        self.scanning = self.feeding = True

    @invariant()
    def stored_is_final(self) -> None:
        """Check that the journal holds as stored exactly what was acknowledged."""
        rows = self.journal.connection.db.execute(
            "SELECT s.label, i.sop_uid FROM instance i JOIN session s ON s.key = i.session WHERE i.state = 'STORED'"
        ).fetchall()
        assert set(rows) == self.stored

    @invariant()
    def the_sum_is_right(self) -> None:
        """Check that each file that this run met is in one category."""
        files = JournalReader.of(self.journal).summary().files
        assert files.found + files.unreadable == len(self.met)


# In parts, because each has a minute, and a busy machine is several times slower.
@pytest.mark.thorough
@pytest.mark.parametrize("part", range(4))
def test_any_order(part: int) -> None:
    """A hundred histories in all."""
    assert part in range(4)
    run_state_machine_as_test(
        AnyOrder,
        settings=settings(
            max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.parametrize("number", [2, 3, 512, 513, 1_300])
def test_a_batch_is_written_to_the_last_row_however_many_there_are(journal: Journal, number: int) -> None:
    """Rows go to SQLite many at a time, padded to a power of two; none is lost for that, and none comes twice."""
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
