"""The queue of files to send: claims out, outcomes in."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from journals import (
    E1,
    E2,
    E3,
    ROOT,
    Disk,
    archived,
    deliveries,
    failed,
    instance,
    kinds,
    meet,
    names,
    opened,
    refused,
    scan,
    sealed_by,
    send,
    session,
    states,
    stored,
    unreadable,
)

from asyncimport.journal import Journal, JournalReader
from asyncimport.journal.demand import Demand
from asyncimport.model.deliveries import Claim, Failed, Outcome, Refused, Stored
from asyncimport.model.files import File, Ignored, Instance
from asyncimport.model.states import FileKind

# Claims


def test_the_first_file_of_a_delivery_goes_alone(journal: Journal) -> None:
    """One file is in flight until it is acknowledged; its answer gives the others their address."""
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
    """A claim has the file, identifiers and session that were found, even an odd path and time."""
    odd = Instance(File(os.fsdecode(b"/src/\xff\xfe [x]\n.dcm"), 7, 2**63 + 5), "1.2.3", "1.2", E1)
    journal.scan.admit([odd])
    claims = journal.queue.claim(1, max_active=1)
    assert claims is not None
    assert [claim.instance for claim in claims] == [odd]
    assert journal.scan.skip_known([odd.file]).unknown == []


def test_claims_come_session_by_session(journal: Journal) -> None:
    """Claims follow the order of the sessions and, within one, the order in which files were found."""
    journal.scan.admit([instance(name, of) for name, of in zip("abcdef", [E2, E1, E2, E1, E3, E2], strict=True)])
    first = journal.queue.claim(8, max_active=9)
    assert first is not None
    assert names(first) == ["a", "b", "e"]
    journal.queue.record_outcomes([stored(claim) for claim in first])
    rest = journal.queue.claim(8, max_active=9)
    assert rest is not None
    assert names(rest) == ["c", "f", "d"]


def test_a_claim_has_at_most_the_limit(journal: Journal) -> None:
    """Over all sessions; the next claim has the rest."""
    journal.scan.admit([instance(f"{of.label}-{n}", of) for of in (E1, E2, E3) for n in range(3)])
    first = journal.queue.claim(2, max_active=9)
    assert first is not None
    assert names(first) == ["E1-0", "E2-0"]
    journal.queue.record_outcomes([stored(claim) for claim in first])
    taken = [journal.queue.claim(3, max_active=9) for _ in range(2)]
    assert [names(claims or []) for claims in taken] == [["E3-0", "E1-1", "E1-2"], ["E2-1", "E2-2"]]
    journal.queue.record_outcomes([stored(claim) for claims in taken for claim in claims or []])
    journal.scan.admit([instance(f"{of.label}-9", of) for of in (E1, E2, E3)])
    assert names(journal.queue.claim(1, max_active=9) or []) == ["E1-9"]
    assert names(journal.queue.claim(9, max_active=9) or []) == ["E2-9", "E3-1", "E3-2", "E3-9"]


def test_no_session_begins_while_open_ones_have_enough_files(journal: Journal) -> None:
    """Active sessions end before others begin; three are open in any case."""
    labels = ("A", "B", "C", "D", "E")
    journal.scan.admit([instance(f"{label}-{name}", session(label)) for label in labels for name in "1234"])

    def claim(**demand: int) -> list[str]:
        return names(journal.queue.claim(9, max_active=9, demand=Demand(**demand)) or [])

    first = journal.queue.claim(9, max_active=9, demand=Demand(files=1))
    assert names(first or []) == ["A-1", "B-1", "C-1"]
    assert claim(files=9) == []
    # There are first files enough, unless slots are free.
    assert claim(files=10, now=0, firsts=3) == []
    assert claim(files=10, now=1, firsts=3) == ["D-1"]
    journal.queue.record_outcomes([stored(claim) for claim in first or []])
    rest = journal.queue.claim(9, max_active=9, demand=Demand(files=1))
    assert names(rest or []) == ["A-2", "A-3", "A-4", "B-2", "B-3", "B-4", "C-2", "C-3", "C-4"]


def test_files_that_came_after_a_seal_keep_no_session_from_beginning(journal: Journal) -> None:
    """They wait until theirs is archived, which may take an hour."""
    sent = [session(label, subject=label) for label in "ABC"]
    journal.scan.admit([instance(f"{one.label}-1", one) for one in sent])
    journal.queue.record_outcomes([stored(claim) for claim in journal.queue.claim(9, max_active=9) or []])
    assert journal.scan.directory_done([ROOT]) == 3
    assert all(sealed_by(journal) for _ in sent)
    journal.scan.admit([instance(f"{one.label}-2", one) for one in sent])
    journal.scan.admit([instance("D-1", session("D", subject="D"))])
    assert names(journal.queue.claim(9, max_active=9, demand=Demand(files=3)) or []) == ["D-1"]


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
    """A session that cannot be finalised in this run releases its place with its last outcome."""
    disk.put(*[instance(f"{of.label}-{n}", of) for of in (E1, E2, E3) for n in range(2)])
    scan(journal, disk)
    sent = send(journal, lambda claim: answer(claim) if claim.delivery.session == E1 else stored(claim), max_active=1)
    assert len(sent) == 6
    assert [row for row in deliveries(journal) if row[2] == "ARCHIVED"] == [
        ("E2", 1, "ARCHIVED"),
        ("E3", 1, "ARCHIVED"),
    ]


def test_stuck_sessions_release_their_places_at_the_end_of_the_scan(journal: Journal, disk: Disk) -> None:
    """During the scan a session keeps its place, as more of it may come; at the end a stuck one loses it."""
    disk.put(instance("a", E1), instance("b", E2))
    meet(journal, disk)
    claims = journal.queue.claim(8, max_active=1)
    assert claims is not None
    journal.queue.record_outcomes([failed(claim) for claim in claims])
    assert journal.queue.claim(8, max_active=1) == []
    journal.scan.finish([ROOT], archive_built=True, retry_held=False)
    assert names(send(journal, max_active=1)) == ["b"]


def test_claim_returns_an_empty_list_until_no_more_can_come(journal: Journal) -> None:
    """An empty list means: ask again. None means: nothing will come.

    It waits for the scan, for files in flight, and for verdicts, as these may send files again.
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
    """With reason and run; only a stored instance has a delivery."""
    journal.scan.admit([instance("a", E1)])
    claims = journal.queue.claim(1, max_active=1)
    assert claims is not None
    assert journal.queue.record_outcomes([answer(claim) for claim in claims]) == 0
    row = journal.connection.db.execute("SELECT state, reason, delivery, run FROM instance").fetchone()
    assert row == (state, reason, 1 if state == "STORED" else None, journal.run)
    assert journal.queue.claim(1, max_active=1) == []


def test_a_duplicate_replaces_an_unreadable_copy(journal: Journal, disk: Disk) -> None:
    """If the first copy is unreadable the next one is sent, and so on; unreadable copies keep their reason."""
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


def test_a_failure_of_the_server_needs_no_duplicate(journal: Journal, disk: Disk) -> None:
    """Without a verdict of the server the copy is as good as any: the next run sends it."""
    disk.put(instance("a", E1, sop="1.2.same"), instance("b", E1, sop="1.2.same"))
    scan(journal, disk)
    assert names(send(journal, failed)) == ["a"]
    assert kinds(journal) == {"a": "INSTANCE", "b": "DUPLICATE"}


def test_a_later_duplicate_replaces_an_unreadable_copy_at_the_end_of_the_scan(journal: Journal, disk: Disk) -> None:
    """If the scan meets the duplicate after the first copy failed, it is sent in the same run."""
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
    """A new copy of an unreadable file need not be compared with it: it is sent."""
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


def test_a_replacing_copy_is_compared_with_others(path: Path, disk: Disk) -> None:
    """A third copy is compared with the duplicate that replaced the unreadable copy."""
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
    """With `whole_session` the session is held with the reason, and its queued files wait for later runs."""
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
    """XNAT may still acknowledge files of a session after it refused the session: they are stored."""
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


def test_a_refused_session_releases_its_place_at_once(journal: Journal) -> None:
    """A session held during the scan does not keep another from beginning."""
    journal.scan.admit([instance("a", E1), instance("b", E1), instance("c", E2)])
    claims = journal.queue.claim(8, max_active=1)
    assert claims is not None
    assert names(claims) == ["a"]
    journal.queue.record_outcomes([Refused(claims[0], "not allowed", whole_session=True)])
    claims = journal.queue.claim(8, max_active=1)
    assert claims is not None
    assert names(claims) == ["c"]


def test_several_refusals_of_one_session(journal: Journal) -> None:
    """If several files refuse their session, the first reason stays."""
    journal.scan.admit([instance(name, E1) for name in "abc"])
    for claims in (journal.queue.claim(8, max_active=1), journal.queue.claim(8, max_active=1)):
        assert claims is not None
        journal.queue.record_outcomes([stored(claim) for claim in claims[:1]])
    flying = journal.queue.claim(8, max_active=1)
    assert flying is not None
    journal.queue.record_outcomes([Refused(claim, f"reason {n}", whole_session=True) for n, claim in enumerate(flying)])
    assert journal.connection.db.execute("SELECT state, reason FROM delivery").fetchone() == ("OPEN", "reason 0")
