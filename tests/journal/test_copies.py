"""Copies of one instance in two sources: what a run says of a copy is what became of the instance."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from journals import (
    E1,
    ROOT,
    Disk,
    archived,
    failed,
    held,
    instance,
    kinds,
    meet,
    names,
    only,
    opened,
    send,
    states,
    stored,
)

from asyncimport.journal import Journal, JournalReader
from asyncimport.model.deliveries import Claim, Outcome, Postponed, Refused, SealedDelivery, Verdict
from asyncimport.model.files import Ignored, Instance
from asyncimport.model.states import FileKind, Refusal
from asyncimport.model.summary import Summary, exit_code

ONE, OTHER = instance("a/x", E1, sop="1.2.x"), instance("b/x", E1, sop="1.2.x")


def on(*items: Instance | Ignored) -> Disk:
    """Return a disk with these files."""
    disk = Disk()
    disk.put(*items)
    return disk


def run(
    journal: Journal,
    disk: Disk,
    roots: str,
    answer: Callable[[Claim], Outcome] = stored,
    verdict: Callable[[SealedDelivery], Verdict] = archived,
    *,
    retry_refused: bool = False,
) -> tuple[list[str], Summary]:
    """Do the run of an open journal over some sources; return what was sent, and its summary."""
    meet(journal, disk, retry_refused=retry_refused)
    journal.scan.finish([f"{ROOT}/{root}" for root in roots], retry_refused=retry_refused)
    return names(send(journal, answer, verdict=verdict)), JournalReader.of(journal).summary()


def refused_because_of(kind: Refusal) -> Callable[[Claim], Outcome]:
    """Return an answer that refuses a file."""
    return lambda claim: Refused(claim, "no", kind=kind)


def put_off(sealed: SealedDelivery) -> Verdict:
    """Leave the verdict to the next run."""
    return Postponed(sealed.delivery, "no answer")


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_copy_is_sent_by_a_run_that_meets_only_it(path: Path, *, is_gone: bool) -> None:
    """The first run was killed; the source of the other copy is not there, or was seen without it."""
    with opened(path) as journal:
        meet(journal, on(ONE, OTHER))
    if is_gone:
        with opened(path) as journal:
            assert exit_code(run(journal, on(instance("a/y", E1)), "a")[1]) == 8
    with opened(path) as journal:
        sent, summary = run(journal, on(OTHER), "b")
        assert (sent, exit_code(summary), [one.state for one in summary.sessions]) == (["b/x"], 0, ["archived"])
    with opened(path) as journal:
        sent, summary = run(journal, on(ONE, OTHER), "ab")
        assert (sent, summary.files.duplicate, summary.files.already_stored) == ([], 1, 1)


@pytest.mark.parametrize(
    ("answer", "retry_refused", "is_sent"),
    [
        (refused_because_of(Refusal.FILE), False, False),
        (refused_because_of(Refusal.FILE), True, True),
        (refused_because_of(Refusal.SERVER), False, True),
        (failed, False, True),
    ],
    ids=["refused", "refused, again", "refused by the server's state", "failed"],
)
def test_a_copy_of_what_never_arrived(
    path: Path, answer: Callable[[Claim], Outcome], *, retry_refused: bool, is_sent: bool
) -> None:
    """It is missing, or sent if the other one would be."""
    with opened(path) as journal:
        run(journal, on(ONE, OTHER), "ab", answer)
    with opened(path) as journal:
        sent, summary = run(journal, on(OTHER), "ab", retry_refused=retry_refused)
        assert sent == (["b/x"] if is_sent else [])
        assert exit_code(summary) == (0 if is_sent else 8)


def test_a_copy_in_a_session_that_waits_changes_nothing(path: Path) -> None:
    """What an earlier run has found out of it stays as long as nothing of it is sent."""
    with opened(path) as journal:
        run(journal, on(ONE, OTHER), "ab", failed)
    with opened(path) as journal:
        journal.scan.postpone({E1.study_uid: "it is still being written"})
        assert run(journal, on(OTHER), "b")[0] == []
        assert states(journal) == {"x": "FAILED"}
    with opened(path) as journal:
        assert run(journal, on(OTHER), "b")[0] == ["b/x"]


@pytest.mark.parametrize("verdict", [held, put_off])
def test_a_copy_in_a_session_that_is_not_archived(path: Path, verdict: Callable[[SealedDelivery], Verdict]) -> None:
    """A run that meets only the copy tells of the session."""
    with opened(path) as journal:
        run(journal, on(ONE, OTHER), "ab", verdict=verdict)
    for disk in (on(OTHER), on(ONE)):
        with opened(path) as journal:
            sent, summary = run(journal, disk, "", verdict=verdict)
            assert (sent, summary.files.already_stored, exit_code(summary)) == ([], 1, 9)


def test_a_copy_of_what_became_unreadable(path: Path) -> None:
    """The other one is read again when a scan meets it, and is a copy then."""
    damaged = Ignored(replace(ONE.file, mtime_ns=2_000), FileKind.UNREADABLE, "i/o error")
    with opened(path) as journal:
        meet(journal, on(ONE, OTHER))
    with opened(path) as journal:
        run(journal, on(damaged), "a")
    with opened(path) as journal:
        assert run(journal, on(OTHER), "b")[0] == ["b/x"]
    with opened(path) as journal:
        sent, summary = run(journal, on(ONE, instance("a/y", E1)), "a", only("a/y", stored))
        assert (sent, exit_code(summary), states(journal)) == (["a/y"], 0, {"x": "STORED", "a/y": "STORED"})
        assert kinds(journal)["a/x"] == "INSTANCE"


def test_a_filter_decides_about_a_copy_too(journal: Journal) -> None:
    """A run that may leave files out reads the header of a copy of what was never stored."""
    meet(journal, on(ONE, OTHER))
    journal.close()
    with opened(journal.path) as later:
        assert later.scan.skip_known([OTHER.file], is_filtered=True).unknown == [OTHER.file]
        later.scan.admit([Ignored(OTHER.file, FileKind.EXCLUDED, "not asked for")])
        later.scan.finish([])
        assert send(later) == []
