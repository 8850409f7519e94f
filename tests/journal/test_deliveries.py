"""Deliveries: when a session is ready, what a verdict does, and what later runs continue."""

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from journals import (
    E1,
    E2,
    E3,
    ROOT,
    Disk,
    archived,
    barred,
    built,
    deleted,
    deliveries,
    failed,
    held,
    instance,
    meet,
    names,
    only,
    opened,
    refused,
    scan,
    sealed_by,
    second_row,
    send,
    session,
    states,
    stored,
    uri,
    whole_run,
)

from asyncimport.errors import JournalError
from asyncimport.journal import Journal, JournalReader
from asyncimport.model.deliveries import (
    Claim,
    Deleted,
    Held,
    Incomplete,
    Outcome,
    Refused,
    SealedDelivery,
    Stored,
    Verdict,
)
from asyncimport.model.states import Refusal
from asyncimport.model.summary import exit_code

# Deliveries


def test_a_session_is_ready_only_after_the_scan(journal: Journal, disk: Disk) -> None:
    """The scan may find more of it; then it is sealed with all acknowledged files."""
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


@pytest.mark.parametrize("answer", [stored, failed, barred])
@pytest.mark.parametrize("asked", [True, False])
def test_a_ready_session_that_gets_more_files_waits_for_them(
    journal: Journal, answer: Callable[[Claim], Outcome], asked: bool
) -> None:
    """Names of directories that differ in what no label can hold give one label: the walk comes back to its session."""
    journal.scan.admit([instance("A 1/a", E1)])
    journal.queue.record_outcomes([stored(claim) for claim in journal.queue.claim(8, max_active=9) or []])
    assert journal.scan.directory_done([f"{ROOT}/A 1"]) == 1
    journal.scan.admit([instance("A_1/b", E1)])
    if asked:
        assert sealed_by(journal) is None
    late = journal.queue.claim(8, max_active=9)
    assert late is not None
    assert [claim.delivery.number for claim in late] == [1]
    if asked:
        assert sealed_by(journal) is None
    journal.queue.record_outcomes([answer(claim) for claim in late])
    sealed = sealed_by(journal)
    if answer is stored:
        assert sealed is not None
        assert len(sealed.sop_uids) == 2
    else:
        assert sealed is None
        assert deliveries(journal) == [("E1", 1, "OPEN")]


def test_record_outcomes_returns_how_many_sessions_became_ready(journal: Journal, disk: Disk) -> None:
    """After the scan the last outcome of a session makes it ready, unless something of it failed."""
    disk.put(instance("a", E1), instance("b", E2), instance("c", E3))
    scan(journal, disk)
    claims = journal.queue.claim(8, max_active=9)
    assert claims is not None
    assert journal.queue.record_outcomes([stored(claims[0]), stored(claims[1]), failed(claims[2])]) == 2


def test_no_session_begins_while_enough_subjects_wait_to_be_archived(journal: Journal, disk: Disk) -> None:
    """Sessions of one subject count once, as they are archived one by one; what has begun is sent to its end."""
    one, other = session("E4", subject="pat"), session("E5", subject="PAT")
    disk.put(instance("a", one), instance("b", other), instance("c", E3), instance("d", E3), instance("e", E1))
    scan(journal, disk)

    def claimed(backlog: int, limit: int = 1) -> list[str]:
        return [c.instance.sop_uid for c in journal.queue.claim(limit, max_active=9, max_backlog=backlog) or []]

    def send(backlog: int, limit: int = 1) -> str:
        claims = journal.queue.claim(limit, max_active=9, max_backlog=backlog) or []
        journal.queue.record_outcomes([stored(claim) for claim in claims])
        return " ".join(claim.instance.sop_uid for claim in claims)

    assert [send(1), claimed(1), send(2), send(2)] == ["1.2.E4.a", [], "1.2.E5.b", "1.2.E3.c"]
    assert send(1, limit=9) == "1.2.E3.d"
    assert claimed(2) == []
    first = sealed_by(journal)
    assert first is not None
    assert claimed(2) == []
    journal.deliveries.record_verdict(archived(first))
    assert claimed(2) == []
    second = sealed_by(journal)
    assert second is not None
    journal.deliveries.record_verdict(archived(second))
    assert claimed(2) == ["1.2.E1.e"]


def test_subjects_take_turns(journal: Journal, disk: Disk) -> None:
    """Sessions of one subject are archived one by one: while two of them wait, those of others begin first."""
    of_one = [session(f"A{number}", subject="PAT" if number % 2 else "pat") for number in range(6)]
    disk.put(*(instance(each.label, each) for each in (*of_one, E1, E2)))
    scan(journal, disk)

    def send() -> str:
        claims = journal.queue.claim(1, max_active=9, max_backlog=9) or []
        journal.queue.record_outcomes([stored(claim) for claim in claims])
        return "".join(claim.instance.session.label for claim in claims)

    assert [send() for _ in range(5)] == ["A0", "A1", "E1", "E2", ""]
    first = sealed_by(journal)
    assert first is not None
    assert [send(), send()] == ["A2", ""]
    journal.deliveries.record_verdict(archived(first))
    assert sealed_by(journal) is not None
    assert [send(), send()] == ["A3", ""]


def test_one_delivery_of_a_subject_at_a_time(journal: Journal, disk: Disk) -> None:
    """Deliveries are sealed in order, one at a time for each subject label, ignoring case."""
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
    """With address and kind of verification, or with the reason."""
    disk.put(instance("a", E1))
    scan(journal, disk)
    send(journal, verdict=verdict)
    assert journal.connection.db.execute("SELECT state, archive_uri, verified, reason FROM delivery").fetchone() == row


def test_a_session_with_failed_files_is_not_sealed(journal: Journal, disk: Disk) -> None:
    """The next run retries failed files, so the session stays open; dropped files do not matter."""
    disk.put(instance("a", E1), instance("b", E1), instance("c", E2), instance("d", E2))
    scan(journal, disk)
    send(journal, lambda claim: {"b": failed, "d": refused}.get(names([claim])[0], stored)(claim))
    assert deliveries(journal) == [("E1", 1, "OPEN"), ("E2", 1, "ARCHIVED")]


def test_a_refused_transaction_changes_nothing(journal: Journal, disk: Disk) -> None:
    """A method is one transaction: if the database refuses a part of it, nothing changes."""
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
    """Acknowledged files are not sent again, and archived sessions are not finalised again."""
    disk.put(*[instance(name, E1) for name in "abc"])
    assert whole_run(path, disk) == ["a", "b", "c"]
    with opened(path) as journal:
        scan(journal, disk)
        assert journal.queue.claim(8, max_active=9) is None
        assert sealed_by(journal) is None


def test_new_files_of_an_archived_session_are_a_new_delivery(path: Path, disk: Disk) -> None:
    """Its seal covers all stored instances of the session."""
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
    """Act as a run that is killed while it finalises a sealed delivery."""
    with opened(path) as journal:
        scan(journal, disk)
        while claims := journal.queue.claim(8, max_active=9):
            journal.queue.record_outcomes([stored(claim) for claim in claims])
        assert sealed_by(journal) is not None


def test_sealed_deliveries_are_ready_at_once(path: Path, disk: Disk) -> None:
    """A delivery sealed by an earlier run is finalised without waiting for the scan, whatever the sources are now."""
    disk.put(instance("a", E1))
    seal(path, disk)
    with opened(path) as journal:
        sealed = sealed_by(journal)
        assert sealed is not None
        assert sealed.delivery.session == E1
        assert sealed.sop_uids == {"1.2.E1.a"}


def test_new_files_wait_for_the_end_of_a_sealed_delivery(path: Path, disk: Disk) -> None:
    """They are sent in the same run, after the verdict."""
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
def test_a_sealed_delivery_ends_while_the_scan_finds_new_files(path: Path, disk: Disk, asked: bool) -> None:
    """Whether or not the pipeline claims in between: each new file is queued once."""
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


def test_files_that_wait_for_a_held_delivery_stay(path: Path, disk: Disk) -> None:
    """If the sealed delivery is held, this run sends nothing more of its session, and can end."""
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


def test_held_deliveries_are_retried_only_on_request(path: Path, disk: Disk) -> None:
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


def test_a_delivery_held_in_a_run_is_not_retried_in_it(path: Path, disk: Disk) -> None:
    """`retry_held` is for deliveries held by earlier runs."""
    disk.put(instance("a", E1))
    seal(path, disk)
    with opened(path) as journal:
        sealed = sealed_by(journal)
        assert sealed is not None
        journal.deliveries.record_verdict(held(sealed))
        scan(journal, disk, retry_held=True)
        assert sealed_by(journal) is None
        assert journal.queue.claim(8, max_active=9) is None


@pytest.mark.parametrize("verdict", [archived, held, built, deleted])
def test_what_is_being_finalised_at_the_end_of_the_scan_is_so_once(
    journal: Journal, disk: Disk, verdict: Callable[[SealedDelivery], Verdict]
) -> None:
    """Its seal does not make it ready once more."""
    disk.put(instance("a", E1))
    meet(journal, disk)
    journal.queue.record_outcomes([stored(claim) for claim in journal.queue.claim(8, max_active=9) or []])
    journal.scan.directory_done([ROOT])
    sealed = sealed_by(journal)
    assert sealed is not None
    journal.scan.finish([ROOT], archive_built=True, retry_held=False)
    journal.deliveries.record_verdict(verdict(sealed))
    assert sealed_by(journal) is None


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_session_refused_with_one_file_continues_in_the_next_run(path: Path, disk: Disk, name: str) -> None:
    """The reason may be gone: the next run sends all its files, including the refused one."""
    disk.put(*[instance(name, E1) for name in "abc"])
    whole_run(path, disk, only(name, barred))
    with opened(path) as journal:
        scan(journal, disk)
        assert names(send(journal)) == (["a", "b", "c"] if name == "a" else ["b"])
        assert deliveries(journal) == [("E1", 1, "ARCHIVED")]
        (report,) = JournalReader.of(journal).summary().sessions
    assert (report.state, report.reason) == ("archived", None)


def test_a_blocked_session_is_not_archived_in_part(journal: Journal, disk: Disk) -> None:
    """`--partial archive` is for missing files; a blocked session continues in the next run."""
    disk.put(*[instance(name, E1) for name in "abc"])
    scan(journal, disk, partial=True)
    send(journal, only("c", barred))
    assert deliveries(journal) == [("E1", 1, "OPEN")]


@pytest.mark.parametrize("together", [True, False])
def test_the_first_row_is_looked_up_when_nothing_is_in_flight(journal: Journal, disk: Disk, together: bool) -> None:
    """A second row means that the first may be gone. The lookup waits for all files in flight."""
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


def test_an_existing_first_row_holds_its_session(journal: Journal, disk: Disk) -> None:
    """The second row belongs to somebody else: this run sends and seals nothing more."""
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
    """All its instances go into another delivery; if that is deleted too, the session is held."""
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
    """Instances that an earlier delivery brought into the archive stay there."""
    disk.put(*[instance(name, E1) for name in "ab"])
    whole_run(path, disk)
    disk.put(*[instance(name, E1) for name in "cd"])
    verdicts = iter([lambda one: Deleted(one.delivery), archived])
    with opened(path) as journal:
        scan(journal, disk)
        sent = names(send(journal, verdict=lambda one: next(verdicts)(one)))
    assert sent == ["c", "d", "c", "d"]


def test_interrupted_uploads_into_a_deleted_row_delay_the_next_seal(journal: Journal, disk: Disk) -> None:
    """They may arrive in the row of the next delivery, which therefore waits for the settle time."""
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
    """A run can end nevertheless."""
    disk.put(instance("a", E1))
    for retry_held in (False, True):
        assert whole_run(path, disk, barred, retry_held=retry_held) == ["a"]


def test_an_empty_held_delivery_begins_anew(path: Path, disk: Disk) -> None:
    """XNAT holds nothing of it, so its files are sent like new ones."""
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
def test_built_deliveries_are_archived_on_request(path: Path, disk: Disk, archive_built: bool) -> None:
    """A run without --no-archive archives what a run with it left in the prearchive."""
    disk.put(instance("a", E1))
    whole_run(path, disk, verdict=built, archive_built=False)
    assert whole_run(path, disk, archive_built=archive_built) == []
    with opened(path) as journal:
        assert deliveries(journal) == [("E1", 1, "ARCHIVED" if archive_built else "BUILT")]


def test_new_files_of_a_built_session(path: Path, disk: Disk) -> None:
    """They are a new delivery: the seal of the built one stays."""
    disk.put(instance("a", E1))
    whole_run(path, disk, verdict=built, archive_built=False)
    disk.put(instance("b", E1))
    assert whole_run(path, disk, verdict=built, archive_built=False) == ["b"]
    with opened(path) as journal:
        assert deliveries(journal) == [("E1", 1, "BUILT"), ("E1", 2, "BUILT")]


def test_only_sessions_of_the_runs_sources_continue(path: Path, disk: Disk) -> None:
    """Held, built and open sessions of other sources do not."""
    disk.put(instance("a", E1), instance("b", E2))
    whole_run(path, disk, verdict=held)
    disk.remove("a")
    with opened(path) as journal:
        scan(journal, disk, retry_held=True)
        sealed = sealed_by(journal)
        assert sealed is not None
        assert sealed.delivery.session == E2
        assert sealed_by(journal) is None


def test_an_open_delivery_continues_in_the_next_run(path: Path, disk: Disk) -> None:
    """A run that ends early leaves its deliveries open; the next one fills the same rows."""
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


def test_failed_files_are_always_retried(path: Path, disk: Disk) -> None:
    """The next run sends a file without a verdict again, and then archives its session."""
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
def test_only_dropped_files_are_not_missing(path: Path, disk: Disk, kind: Refusal) -> None:
    """Any other refusal holds the session, and is retried on request or if its reason may be gone."""
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
def test_a_session_without_refused_files_is_archived_on_request(path: Path, disk: Disk, kind: Refusal) -> None:
    """`--partial archive` archives it, and the report says what it misses."""
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


def test_refused_files_are_retried_only_on_request(path: Path, disk: Disk) -> None:
    """A refusal stays until `retry_refused`; then the file goes into a new delivery of its archived session."""
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


def test_a_kill_leaves_claimed_instances_pending(path: Path, disk: Disk) -> None:
    """After SIGKILL the lock is free, outcomes are kept, and instances in flight are sent again."""
    command: list[str | Path] = [sys.executable, "-c", KILLED, path, Path(__file__).parent.parent / "support"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "claimed\n"), done.stderr
    disk.put(*[instance(name, E1) for name in "abc"], instance("d", session("E2")))
    with opened(path) as journal:
        assert states(journal) == {"a": "STORED", "b": "PENDING", "c": "PENDING", "d": "PENDING"}
        scan(journal, disk)
        assert sorted(names(send(journal))) == ["b", "c", "d"]
        assert [state for *_, state in deliveries(journal)] == ["ARCHIVED", "ARCHIVED"]
