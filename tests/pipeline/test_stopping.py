"""A run that is asked to stop: what is finished, and what is dropped."""

from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from memory_pipeline import FEW, MemoryDestination, MemorySource, no_wait, run_pipeline, study_files

from asyncimport.errors import (
    TransientError,
)
from asyncimport.model.deliveries import Claim, SealedDelivery
from asyncimport.model.events import (
    Event,
    ScanFinished,
)
from asyncimport.model.options import Options
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.pacing.shutdown import Stop

pytestmark = pytest.mark.anyio


async def test_a_first_stop_lets_files_in_flight_finish(journal_path: Path) -> None:
    """Uploads in flight finish and are recorded; nothing more is handed out or archived."""
    destination, stop = MemoryDestination(), Stop()
    begun: list[str] = []

    async def store(claim: Claim) -> None:
        begun.append(claim.instance.sop_uid)
        if len(begun) == 10:
            stop.request()
            await anyio.wait_all_tasks_blocked()

    destination.on_store = store
    files = {**study_files("1", 30), **study_files("2", 30)}
    summary = await run_pipeline(MemorySource(files), destination, journal_path, stop=stop)
    assert stop.requested
    assert sorted(destination.stored) == sorted(begun)
    assert len(begun) <= 10 + FEW.max_workers
    assert summary.files.stored == len(begun)
    assert summary.files.left == summary.files.found - len(begun)
    assert destination.finalized == []
    summary = await run_pipeline(MemorySource(files), destination, journal_path)
    assert sorted(destination.stored) == sorted(f"{study}.{number}" for study in "12" for number in range(1, 31))
    assert summary.count("archived") == 2


async def test_a_stop_leaves_the_rest_of_a_batch(tmp_path: Path) -> None:
    """A worker with a batch finishes the file in flight, and sends no other."""
    destination, stop = MemoryDestination(), Stop()

    async def store(claim: Claim) -> None:
        if claim.instance.sop_uid == "1.5":
            stop.request()
        await anyio.lowlevel.checkpoint()

    destination.on_store = store
    source = MemorySource(study_files("1", 65), batch=65)
    summary = await run_pipeline(
        source, destination, tmp_path / "book", stop=stop, options=Options(workers=2, finalizers=1)
    )
    assert stop.requested
    # The first file, which goes alone, and at most half a parcel of each worker.
    assert len(destination.stored) <= 1 + 2 * 5
    assert summary.files.left == 65 - len(destination.stored)


async def test_a_second_stop_drops_files_in_flight(journal_path: Path) -> None:
    """A second stop does not wait for the end of the grace."""
    destination, stop = MemoryDestination(), Stop(grace=3600)
    begun = 0

    async def store(_: Claim) -> None:
        nonlocal begun
        begun += 1
        if begun < 5:
            return
        if begun == 5:
            stop.request()
            stop.request()
        await anyio.sleep_forever()

    destination.on_store = store
    summary = await run_pipeline(MemorySource(study_files("1", 30)), destination, journal_path, stop=stop)
    assert summary.files.stored == len(destination.stored) == 4
    assert summary.files.left == summary.files.found - 4


async def test_files_in_flight_are_dropped_when_the_grace_is_over(journal_path: Path) -> None:
    """The next run sends them again."""
    destination, stop = MemoryDestination(), Stop(grace=0.05)

    async def store(claim: Claim) -> None:
        if claim.instance.sop_uid == "1.4":
            stop.request()
            await anyio.sleep_forever()

    destination.on_store = store
    summary = await run_pipeline(MemorySource(study_files("1", 6)), destination, journal_path, stop=stop)
    assert "1.4" not in destination.stored
    assert summary.files.stored == len(destination.stored)


async def test_a_stop_while_archiving_does_not_wait(journal_path: Path) -> None:
    """The delivery stays sealed, and the next run goes on."""
    destination, stop = MemoryDestination(), Stop(grace=3600)

    async def finalize(_: SealedDelivery) -> None:
        stop.request()
        await anyio.sleep_forever()

    destination.on_finalize = finalize
    await run_pipeline(MemorySource(study_files("1", 3)), destination, journal_path, stop=stop)
    assert destination.finalized == []
    destination.on_finalize = no_wait
    summary = await run_pipeline(MemorySource(study_files("1", 3)), destination, journal_path)
    assert (destination.finalized, len(destination.stored)) == (["1"], 3)
    assert summary.count("archived") == 1


async def test_a_stop_during_the_scan_ends_it(journal_path: Path) -> None:
    """A stop ends the walk."""
    destination, stop = MemoryDestination(), Stop()

    async def halt() -> None:
        stop.request()
        await anyio.sleep_forever()

    events: list[Event] = []
    summary = await run_pipeline(
        MemorySource(study_files("1", 20), before_last=halt), destination, journal_path, stop=stop, report=events.append
    )
    assert not any(isinstance(event, ScanFinished) for event in events)
    assert summary.files.found <= 16
    assert destination.finalized == []


@pytest.mark.parametrize("times", [1, 2])
async def test_a_stop_before_the_run_begins_counts(journal_path: Path, times: int) -> None:
    """A signal between login and pipeline counts."""
    destination, stop = MemoryDestination(), Stop(grace=3600)
    for _ in range(times):
        stop.request()
    await run_pipeline(MemorySource(study_files("1", 20)), destination, journal_path, stop=stop)
    assert destination.stored == []


@pytest.mark.parametrize("where", ["store", "finalize"])
async def test_a_stop_does_not_wait_for_a_server_that_is_away(journal_path: Path, where: str) -> None:
    """Between two attempts nothing is in flight, so the run ends at once; the next run goes on."""
    destination, stop = MemoryDestination(), Stop(grace=1_000)
    tried = 0

    async def away(_: object) -> None:
        nonlocal tried
        tried += 1
        if tried == 3:
            stop.request()
        raise TransientError("no connection", unreachable=True)

    setattr(destination, f"on_{where}", away)
    slow = RetryPolicy(attempts=2, first_seconds=0)
    summary = await run_pipeline(MemorySource(study_files("1", 6)), destination, journal_path, stop=stop, policy=slow)
    assert tried in range(3, 3 + FEW.max_workers)
    assert (summary.files.left, summary.files.stored) == ((6, 0) if where == "store" else (0, 6))
    assert summary.count("open") == 1
    setattr(destination, f"on_{where}", no_wait)
    assert (await run_pipeline(MemorySource(study_files("1", 6)), destination, journal_path)).count("archived") == 1
