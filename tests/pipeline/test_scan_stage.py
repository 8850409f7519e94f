"""The scan stage: what it admits, when sending may begin, and when a session is complete."""

from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from memory_pipeline import MemoryDestination, MemorySource, no_wait, run_by_directory, run_pipeline, study_files

from asyncimport.errors import (
    UnavailableError,
    UsageError,
)
from asyncimport.model import (
    Archived,
    Claim,
    SealedDelivery,
)
from asyncimport.model.events import (
    Admitted,
    Event,
    OutcomesRecorded,
    ScanFinished,
    Scanned,
)
from asyncimport.model.options import Options, Partial

pytestmark = pytest.mark.anyio


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """Name a place for the journal of a test."""
    return tmp_path / "journal.db"


async def test_a_session_ends_when_the_walk_leaves_its_directory(book: Path) -> None:
    """It is archived while the scan goes on, which here does not before that."""
    destination = MemoryDestination()
    archived = anyio.Event()

    async def first(_: SealedDelivery) -> None:
        archived.set()

    destination.on_finalize = first
    files = {**study_files("1", 6), **study_files("2", 6), "/m/2/notes": ("-", 0)}
    source = MemorySource(files, before_last=archived.wait)
    summary = await run_by_directory(source, destination, book)
    assert destination.finalized == ["1", "2"]
    assert summary.count("archived") == 2
    assert [len(sealed.sop_uids) for sealed in destination.sealed] == [6, 6]


async def test_a_session_that_lacks_a_file_stays_open_to_the_end_of_the_scan(book: Path) -> None:
    """What cannot be read keeps it open to the end, where it is held; asked for, it ends in part."""
    files = {**study_files("1", 3), "/m/1/bad": ("1", 9), **study_files("2", 6)}
    destination = MemoryDestination()
    summary = await run_by_directory(MemorySource(files), destination, book)
    assert destination.finalized == ["2"]
    assert [report.state for report in summary.sessions] == ["held", "archived"]
    summary = await run_by_directory(MemorySource(files), destination, book, partial=Partial.ARCHIVE)
    assert destination.finalized == ["2", "1"]
    assert summary.count("archived") == 2


async def test_two_sources_may_have_one_session(book: Path) -> None:
    """Nothing ends before the scan does, as the other may have more of it."""
    destination = MemoryDestination()
    files = {"/m/1/a": ("1", 1), "/m/2/a": ("2", 1), "/n/1/b": ("1", 2)}

    class Both(MemorySource):
        def relative(self, path: str) -> str:
            return path[3:]

    summary = await run_by_directory(Both(files, roots=("/m", "/n"), batch=1), destination, book)
    assert [len(sealed.sop_uids) for sealed in sorted(destination.sealed, key=lambda one: one.delivery.key)] == [2, 1]
    assert summary.count("archived") == 2


async def test_every_event_is_reported(book: Path) -> None:
    """The events add up to what happened, in an order that makes sense."""
    events: list[Event] = []
    files = {**study_files("1", 6), **study_files("2", 4), "/m/notes": ("-", 0)}
    summary = await run_pipeline(MemorySource(files), MemoryDestination(), book, report=events.append)
    assert sum(event.files for event in events if isinstance(event, Scanned)) == 11
    assert sum(event.size for event in events if isinstance(event, Scanned)) == 1100
    assert sum(event.files for event in events if isinstance(event, Admitted)) == 10
    assert [event for event in events if isinstance(event, ScanFinished)] == [ScanFinished(0, 0)]
    assert sum(len(event.outcomes) for event in events if isinstance(event, OutcomesRecorded)) == 10
    assert len([event for event in events if isinstance(event, Archived)]) == 2
    assert summary.files.stored == 10


async def test_an_empty_source_ends_at_once(book: Path) -> None:
    """There is nothing to wait for."""
    summary = await run_pipeline(MemorySource({}), MemoryDestination(), book)
    assert (summary.files.found, summary.sessions) == (0, ())


async def test_an_equal_copy_is_a_duplicate_and_is_sent_if_the_first_cannot_be_read(book: Path) -> None:
    """The copy is not sent, unless the first one cannot be read."""
    destination = MemoryDestination()
    files = {"/m/a bad": ("1", 1), "/m/a/2": ("1", 2), "/m/b/1": ("1", 1), "/m/b/2": ("1", 2)}
    summary = await run_pipeline(MemorySource(files), destination, book)
    assert sorted(destination.stored) == ["1.1", "1.2"]
    assert (summary.files.stored, summary.files.duplicate, summary.files.unreadable) == (2, 1, 1)
    assert summary.count("archived") == 1


async def test_a_copy_that_cannot_be_compared_is_unreadable(book: Path) -> None:
    """A copy that cannot be read is told as that; nothing is lacking, as another is sent."""
    destination = MemoryDestination()
    summary = await run_pipeline(
        MemorySource({"/m/a": ("1", 1), "/m/b": ("1", 1)}, twins_equal=None), destination, book
    )
    assert destination.stored == ["1.1"]
    assert (summary.files.skipped, summary.files.unreadable, summary.count("archived")) == (0, 1, 1)
    assert "cannot be compared" in summary.problems[0].reason


async def test_a_different_file_with_the_same_uid_is_skipped(book: Path) -> None:
    """Which one is right, nobody knows: the first is sent, the other told."""
    destination = MemoryDestination()
    summary = await run_pipeline(
        MemorySource({"/m/a": ("1", 1), "/m/b": ("1", 1)}, twins_equal=False), destination, book
    )
    assert destination.stored == ["1.1"]
    assert summary.files.skipped == 1


async def test_check_first_sends_nothing_before_the_end_of_the_scan(book: Path) -> None:
    """Nothing is sent before all is known, though much of it could be."""
    destination = MemoryDestination()

    async def look() -> None:
        await anyio.wait_all_tasks_blocked()
        assert destination.stored == []

    source = MemorySource(study_files("1", 20), before_last=look)
    await run_pipeline(source, destination, book, options=Options(workers=4, check_first=True))
    assert len(destination.stored) == 20


async def test_sending_begins_while_the_scan_goes_on(book: Path) -> None:
    """Otherwise what is known is on its way at once; but no session is sealed before the scan's end."""
    destination = MemoryDestination()
    all_there_is = anyio.Event()

    async def store(_: Claim) -> None:
        if len(destination.stored) == 15:
            all_there_is.set()

    async def look() -> None:
        await all_there_is.wait()
        assert destination.finalized == []

    destination.on_store = store
    await run_pipeline(MemorySource(study_files("1", 20), before_last=look), destination, book)
    assert len(destination.stored) == 20
    assert destination.finalized == ["1"]


async def test_check_first_waits_while_an_older_delivery_is_archived(book: Path) -> None:
    """What an earlier run has sealed is archived meanwhile, and that must not set the rest going."""
    destination = MemoryDestination()

    async def never(_: SealedDelivery) -> None:
        raise UnavailableError("gone")

    destination.on_finalize = never
    with pytest.raises(UnavailableError):
        await run_pipeline(MemorySource(study_files("1", 3)), destination, book)
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
    await run_pipeline(MemorySource(files, before_last=look), destination, book, options=options, report=report)
    assert len(destination.stored) == 23
    assert sorted(destination.finalized) == ["1", "2"]


async def test_an_error_of_the_source_ends_the_run(book: Path) -> None:
    """It comes out as it is, and not in a group."""

    async def fail() -> None:
        raise UsageError("what a source")

    with pytest.raises(UsageError, match="what a source"):
        await run_pipeline(MemorySource(study_files("1", 8), before_last=fail), MemoryDestination(), book)
