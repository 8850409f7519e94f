"""The scan stage: what it admits, when sending may begin, and when a session is complete."""

from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from memory_pipeline import MemoryDestination, MemorySource, no_wait, run_by_directory, run_pipeline, study_files

from asyncimport.errors import (
    TransientError,
    UnavailableError,
    UsageError,
)
from asyncimport.model.choices import Partial
from asyncimport.model.deliveries import Archived, Claim, Outcome, SealedDelivery
from asyncimport.model.events import (
    Admitted,
    Event,
    OutcomesRecorded,
    ScanFinished,
    Scanned,
)
from asyncimport.model.options import Options

pytestmark = pytest.mark.anyio


async def test_a_session_ends_when_the_walk_leaves_its_directory(journal_path: Path) -> None:
    """It is archived while the scan still waits."""
    destination = MemoryDestination()
    archived = anyio.Event()

    async def first(_: SealedDelivery) -> None:
        archived.set()

    destination.on_finalize = first
    files = {**study_files("1", 6), **study_files("2", 6), "/m/2/notes": ("-", 0)}
    source = MemorySource(files, before_last=archived.wait)
    summary = await run_by_directory(source, destination, journal_path)
    assert destination.finalized == ["1", "2"]
    assert summary.count("archived") == 2
    assert [len(sealed.sop_uids) for sealed in destination.sealed] == [6, 6]


async def test_a_session_that_lacks_a_file_stays_open_to_the_end_of_the_scan(journal_path: Path) -> None:
    """An unreadable file keeps it open to the end of the scan, where it is held; `--partial archive` archives it."""
    files = {**study_files("1", 3), "/m/1/bad": ("1", 9), **study_files("2", 6)}
    destination = MemoryDestination()
    summary = await run_by_directory(MemorySource(files), destination, journal_path)
    assert destination.finalized == ["2"]
    assert [report.state for report in summary.sessions] == ["held", "archived"]
    summary = await run_by_directory(MemorySource(files), destination, journal_path, partial=Partial.ARCHIVE)
    assert destination.finalized == ["2", "1"]
    assert summary.count("archived") == 2


async def test_a_session_that_is_disputed_while_it_waits_to_be_archived_stays_open(journal_path: Path) -> None:
    """The walk has left its directory, and another names the same study: it is not sealed, and the run ends."""
    destination, interrupted, outcomes = MemoryDestination(), list[str](), list[Outcome]()
    are_recorded, has_scanned = anyio.Event(), anyio.Event()

    async def store(claim: Claim) -> None:
        # It waits for its settle time, which ends after the scan.
        if claim.instance.session.study_uid == "1" and not interrupted:
            interrupted.append(claim.instance.sop_uid)
            raise TransientError("cut", may_have_taken_effect=True)

    async def first(_: SealedDelivery) -> None:
        await has_scanned.wait()

    def report(event: Event) -> None:
        if isinstance(event, OutcomesRecorded):
            outcomes.extend(event.outcomes)
        if len(outcomes) == 2:
            are_recorded.set()
        if isinstance(event, ScanFinished):
            has_scanned.set()

    destination.on_store, destination.on_finalize = store, first
    files = {"/m/0/a": ("0", 1), "/m/1/a": ("1", 1), "/m/2/notes": ("-", 0), "/m/3/a": ("1", 2)}
    source = MemorySource(files, batch=1, before_last=are_recorded.wait)
    summary = await run_by_directory(source, destination, journal_path, report=report, finalizers=1, settle_seconds=0.5)
    assert destination.finalized == ["0"]
    assert [one.state for one in summary.sessions] == ["archived", "held"]


async def test_two_sources_may_have_one_session(journal_path: Path) -> None:
    """No session is complete before the end of the scan, as the other source may have more of it."""
    destination = MemoryDestination()
    files = {"/m/1/a": ("1", 1), "/m/2/a": ("2", 1), "/n/1/b": ("1", 2)}

    class Both(MemorySource):
        def relative(self, path: str) -> str:
            return path[3:]

    summary = await run_by_directory(Both(files, roots=("/m", "/n"), batch=1), destination, journal_path)
    assert [len(sealed.sop_uids) for sealed in sorted(destination.sealed, key=lambda one: one.delivery.key)] == [2, 1]
    assert summary.count("archived") == 2


async def test_every_event_is_reported(journal_path: Path) -> None:
    """The events add up to what happened."""
    events: list[Event] = []
    files = {**study_files("1", 6), **study_files("2", 4), "/m/notes": ("-", 0)}
    summary = await run_pipeline(MemorySource(files), MemoryDestination(), journal_path, report=events.append)
    assert sum(event.files for event in events if isinstance(event, Scanned)) == 11
    assert sum(event.size for event in events if isinstance(event, Scanned)) == 1100
    assert sum(event.files for event in events if isinstance(event, Admitted)) == 10
    assert [event for event in events if isinstance(event, ScanFinished)] == [ScanFinished(0, 0)]
    assert sum(len(event.outcomes) for event in events if isinstance(event, OutcomesRecorded)) == 10
    assert len([event for event in events if isinstance(event, Archived)]) == 2
    assert summary.files.stored == 10


async def test_an_empty_source_ends_at_once(journal_path: Path) -> None:
    """The run waits for nothing."""
    summary = await run_pipeline(MemorySource({}), MemoryDestination(), journal_path)
    assert (summary.files.found, summary.sessions) == (0, ())


async def test_an_equal_copy_is_a_duplicate_and_is_sent_if_the_first_cannot_be_read(journal_path: Path) -> None:
    """A copy is sent only if the first file cannot be read."""
    destination = MemoryDestination()
    files = {"/m/a bad": ("1", 1), "/m/a/2": ("1", 2), "/m/b/1": ("1", 1), "/m/b/2": ("1", 2)}
    summary = await run_pipeline(MemorySource(files), destination, journal_path)
    assert sorted(destination.stored) == ["1.1", "1.2"]
    assert (summary.files.stored, summary.files.duplicate, summary.files.unreadable) == (2, 1, 1)
    assert summary.count("archived") == 1


async def test_a_copy_that_cannot_be_compared_is_unreadable(journal_path: Path) -> None:
    """A copy that cannot be read is reported; its session lacks nothing, as the other file is sent."""
    destination = MemoryDestination()
    summary = await run_pipeline(
        MemorySource({"/m/a": ("1", 1), "/m/b": ("1", 1)}, copies_equal=None), destination, journal_path
    )
    assert destination.stored == ["1.1"]
    assert (summary.files.skipped, summary.files.unreadable, summary.count("archived")) == (0, 1, 1)
    assert "cannot be compared" in summary.problems[0].reason


async def test_a_different_file_with_the_same_uid_is_skipped(journal_path: Path) -> None:
    """Nobody knows which one is right: the first is sent, the other reported."""
    destination = MemoryDestination()
    summary = await run_pipeline(
        MemorySource({"/m/a": ("1", 1), "/m/b": ("1", 1)}, copies_equal=False), destination, journal_path
    )
    assert destination.stored == ["1.1"]
    assert summary.files.skipped == 1


async def test_check_first_sends_nothing_before_the_end_of_the_scan(journal_path: Path) -> None:
    """Nothing is sent before every file is known."""
    destination = MemoryDestination()

    async def look() -> None:
        await anyio.wait_all_tasks_blocked()
        assert destination.stored == []

    source = MemorySource(study_files("1", 20), before_last=look)
    await run_pipeline(source, destination, journal_path, options=Options(workers=4, check_first=True))
    assert len(destination.stored) == 20


async def test_sending_begins_while_the_scan_goes_on(journal_path: Path) -> None:
    """Known files are sent at once, but no session is sealed before the end of the scan."""
    destination = MemoryDestination()
    all_there_is = anyio.Event()

    async def store(_: Claim) -> None:
        if len(destination.stored) == 15:
            all_there_is.set()

    async def look() -> None:
        await all_there_is.wait()
        assert destination.finalized == []

    destination.on_store = store
    await run_pipeline(MemorySource(study_files("1", 20), before_last=look), destination, journal_path)
    assert len(destination.stored) == 20
    assert destination.finalized == ["1"]


async def test_check_first_waits_while_an_older_delivery_is_archived(journal_path: Path) -> None:
    """A delivery of an earlier run is archived meanwhile; this must not start the feed."""
    destination = MemoryDestination()

    async def never(_: SealedDelivery) -> None:
        raise UnavailableError("gone")

    destination.on_finalize = never
    with pytest.raises(UnavailableError):
        await run_pipeline(MemorySource(study_files("1", 3)), destination, journal_path)
    destination.on_finalize = no_wait
    closed = anyio.Event()

    def report(event: Event) -> None:
        if isinstance(event, Archived):
            closed.set()

    async def look() -> None:
        await closed.wait()
        # Once around the journal, so that whoever was woken has had his turn.
        for _ in range(20):
            await anyio.to_thread.run_sync(int)
        assert len(destination.stored) == 3

    files = {**study_files("1", 3), **study_files("2", 20)}
    options = Options(workers=4, check_first=True)
    await run_pipeline(MemorySource(files, before_last=look), destination, journal_path, options=options, report=report)
    assert len(destination.stored) == 23
    assert sorted(destination.finalized) == ["1", "2"]


async def test_an_error_of_the_source_ends_the_run(journal_path: Path) -> None:
    """It is raised as it is, not in a group."""

    async def fail() -> None:
        raise UsageError("what a source")

    with pytest.raises(UsageError, match="what a source"):
        await run_pipeline(MemorySource(study_files("1", 8), before_last=fail), MemoryDestination(), journal_path)
