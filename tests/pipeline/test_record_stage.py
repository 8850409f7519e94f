"""The record stage: outcomes reach the journal, whatever ends the run."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from builders import (
    AT_ONCE,
    router,
    states_in,
)
from memory_pipeline import FEW, MemoryDestination, MemorySource, study_files
from patience import in_time

from asyncimport.errors import (
    JournalError,
)
from asyncimport.journal import Journal
from asyncimport.model.activity import Activity
from asyncimport.model.deliveries import Outcome
from asyncimport.pipeline.images import upload_images

pytestmark = pytest.mark.anyio


class Torn(Journal):
    """A journal whose disk fails when outcomes are recorded."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.queue.record_outcomes = self._fail  # type: ignore[method-assign]

    def _fail(self, outcomes: Sequence[Outcome], activity: Activity | None = None) -> int:
        raise JournalError(f"{len(outcomes)} outcomes lost, {activity}")


async def test_a_journal_that_fails_ends_the_run(journal_path: Path) -> None:
    """Nothing may be sent without a journal; its error is raised."""
    rules = router(session="{StudyDate}")
    destination = MemoryDestination()
    journal = await anyio.to_thread.run_sync(partial(Torn, journal_path, destination="test", rules=rules.rules))
    try:
        with in_time(), pytest.raises(JournalError, match="outcomes lost"):
            await upload_images(
                MemorySource(study_files("1", 50)), destination, journal, rules, options=FEW, policy=AT_ONCE
            )
    finally:
        await anyio.to_thread.run_sync(journal.close)
    assert len(destination.stored) <= 1


class Slow(Journal):
    """A journal that waits before it records outcomes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.recorded = 0
        self.before_recording: Callable[[], None] = lambda: None
        self._record_outcomes = self.queue.record_outcomes
        self.queue.record_outcomes = self._wait  # type: ignore[method-assign]

    def _wait(self, outcomes: Sequence[Outcome], activity: Activity | None = None) -> int:
        self.before_recording()
        self.recorded += len(outcomes)
        return self._record_outcomes(outcomes, activity)


async def test_outcomes_are_recorded_although_the_run_is_cancelled(journal_path: Path) -> None:
    """Outcomes taken from the stream are recorded even if the run is cancelled meanwhile."""
    rules = router(session="{StudyDate}")
    destination = MemoryDestination()
    journal = await anyio.to_thread.run_sync(partial(Slow, journal_path, destination="test", rules=rules.rules))
    with anyio.CancelScope() as scope:

        def strike() -> None:
            if len(destination.stored) > 1:
                # When the stream is full, and each worker waits with one more.
                anyio.from_thread.run(anyio.wait_all_tasks_blocked)
                anyio.from_thread.run_sync(scope.cancel)

        journal.before_recording = strike
        await upload_images(
            MemorySource(study_files("1", 60), batch=60), destination, journal, rules, options=FEW, policy=AT_ONCE
        )
    assert scope.cancelled_caught
    assert 2 * FEW.max_workers < len(destination.stored) < 60
    await anyio.to_thread.run_sync(journal.close)
    states = await states_in(journal_path)
    assert {uid for uid, state in states.items() if state == "STORED"} == set(destination.stored)
    assert journal.recorded == len(destination.stored)
