"""Runs over a drop directory, under one login, until they are stopped.

Only a stop, the longest time and a refused login end them. What else stands in the way of a run is told once, and the
next run tries again.
"""

import os
from contextlib import suppress
from dataclasses import replace
from time import monotonic

import anyio
import anyio.to_thread

from asyncimport.errors import AsyncimportError, LoginRefusedError, UsageError
from asyncimport.model import Summary
from asyncimport.model.texts import plain
from asyncimport.operations.observer import Observer
from asyncimport.operations.result import Result, ended_in
from asyncimport.operations.upload import uploads
from asyncimport.operations.upload_request import UploadRequest, UploadResult
from asyncimport.pacing.shutdown import Stop, StoppedError
from asyncimport.reporting.entries import RunEnded
from asyncimport.reporting.progress import Totals


async def watch(request: UploadRequest, *, report: Observer | None = None, stop: Stop | None = None) -> UploadResult:
    """Run, pause, run again. The result is that of all runs as one; `report.run_ended` is told of each."""
    watched = _Watch(request, report or Observer(), stop or Stop())
    ended = Result()
    with ended_in(ended, watched.stop):
        await watched.run()
    return replace(watched.together(), error=ended.error, signal=ended.signal)


class _Watch:
    """The runs of a watch."""

    def __init__(self, task: UploadRequest, observer: Observer, stop: Stop) -> None:
        self.stop = stop
        self._task = task
        self._observer = observer
        self._outcomes: UploadResult | None = None
        self._devices: dict[str, int] = {}

    async def run(self) -> None:
        """Run until something ends it. Raises: LoginRefusedError."""
        task, pause = self._task, self._task.watch_seconds or 0.0
        async with uploads(task, self._observer, self.stop) as runs:
            with suppress(StoppedError):
                while not self.stop.requested:
                    began = monotonic()
                    outcome = UploadResult(issues=task.issues)
                    try:
                        await anyio.to_thread.run_sync(self._look_at_places)
                        await runs.run(outcome, is_watch=True)
                    except AsyncimportError as error:
                        outcome.error = error
                    self._observer.note(RunEnded(outcome.run, outcome.exit_code, outcome.error, outcome.summary))
                    self._keep(outcome)
                    if isinstance(outcome.error, LoginRefusedError):
                        raise outcome.error
                    self._observer.run_ended(outcome, monotonic() - began)
                    await self.stop.sleep(pause)

    def together(self) -> UploadResult:
        """Return all runs as one."""
        return self._outcomes or UploadResult(issues=self._task.issues)

    def _keep(self, outcome: UploadResult) -> None:
        before = self._outcomes
        if before is None:
            self._outcomes = outcome
        elif outcome.summary is None:
            self._outcomes = replace(before, run=outcome.run or before.run)
        else:
            self._outcomes = replace(outcome, summary=together(before.summary, outcome.summary, outcome.totals))

    def _look_at_places(self) -> None:
        """See that what is watched is there. Raises: UsageError."""
        for place in map(os.path.abspath, self._task.sources):
            try:
                device = os.stat(place).st_dev  # noqa: PTH116 - the path need not be text
                is_empty = os.path.isdir(place) and not _has_any(place)  # noqa: PTH112
            except OSError as error:
                raise _away(place, (error.strerror or "cannot be read").lower()) from error
            # A disk that is not mounted leaves an empty directory: nothing in it is gone for that.
            if is_empty and self._devices.get(place, device) != device:
                raise _away(place, "another disk was mounted there")
            if not is_empty:
                self._devices[place] = device


def _has_any(place: str) -> bool:
    with os.scandir(place) as entries:
        return next(entries, None) is not None


def _away(place: str, reason: str) -> UsageError:
    return UsageError(f"{plain(place)} is away: {reason}", hint="mount it, or make it: the watch looks for it")


def together(before: Summary | None, last: Summary, totals: Totals) -> Summary:
    """Return the summary of a watch: that of its last run, and with it what was stored and is no longer there.

    In the summary of each run, what the watch has stored so far and is still in the source counts as stored.
    """
    if before is None:
        return last
    known = {(one.session.project, one.session.study_uid) for one in last.sessions}
    sessions = [one for one in before.sessions if (one.session.project, one.session.study_uid) not in known]
    stored, size = last.files.stored, last.bytes_stored
    if totals.scanning:
        # It was stopped, or had no server, before it had met all that is there.
        last, stored, size = replace(before, sessions=last.sessions), before.files.stored, before.bytes_stored
    if totals.gone or totals.scanning:
        stored = max(stored, before.files.stored + totals.stored)
        size = max(size, before.bytes_stored + totals.stored_size)
    return replace(
        last,
        files=replace(last.files, stored=stored),
        bytes_found=last.bytes_found + max(0, size - last.bytes_stored),
        bytes_stored=size,
        sessions=(*sessions, *last.sessions),
    )
