"""Uploads from a drop directory, again and again, under one login.

Only a stop, the longest duration and a refused login end them. Any other error is reported once, and the next run tries
again.
"""

import os
from contextlib import suppress
from dataclasses import replace
from time import monotonic

import anyio
import anyio.to_thread

from asyncimport.errors import AsyncimportError, LoginRefusedError, UsageError
from asyncimport.model.summary import Summary
from asyncimport.model.texts import plain
from asyncimport.operations.result import Observer, Result, captured_in
from asyncimport.operations.upload import Runner, open_runner
from asyncimport.operations.upload_request import UploadRequest, UploadResult
from asyncimport.pacing.shutdown import Stop, StoppedError
from asyncimport.reporting.entries import RunEnded
from asyncimport.reporting.progress import Totals


async def watch(request: UploadRequest, *, report: Observer | None = None, stop: Stop | None = None) -> UploadResult:
    """Run, pause, run again. The result is that of all runs as one; `report.run_ended` gets the result of each."""
    stop = stop or Stop()
    watched = _Watch(request, report or Observer(), stop)
    ended = Result()
    with captured_in(ended, stop):
        await watched.run()
    return replace(watched.result, error=ended.error, signal=ended.signal)


class _Watch:
    """The runs of a watch."""

    def __init__(self, request: UploadRequest, observer: Observer, stop: Stop) -> None:
        self._request = request
        self._observer = observer
        self._stop = stop
        self._result: UploadResult | None = None
        self._devices: dict[str, int] = {}

    async def run(self) -> None:
        """Run until something ends it. Raises: LoginRefusedError."""
        async with open_runner(self._request, self._observer, self._stop) as runner:
            with suppress(StoppedError):
                while not self._stop.requested:
                    await self._run_once(runner)
                    await self._stop.sleep(self._request.watch_seconds or 0.0)

    @property
    def result(self) -> UploadResult:
        """The result of all runs as one."""
        return self._result or UploadResult(issues=self._request.issues)

    async def _run_once(self, runner: Runner) -> None:
        started = monotonic()
        result = UploadResult(issues=self._request.issues)
        try:
            if self._request.dask is None:
                await anyio.to_thread.run_sync(self._check_sources)
            await runner.run(result, is_watch=True)
        except AsyncimportError as error:
            result.error = error
        self._observer.note(RunEnded(result.run, result.exit_code, result.error, result.summary))
        before = self._result
        if before is not None and result.summary is None:
            self._result = replace(before, run=result.run or before.run)
        elif before is None or result.summary is None:
            self._result = result
        else:
            self._result = replace(result, summary=add_run(before.summary, result.summary, result.totals))
        if isinstance(result.error, LoginRefusedError):
            raise result.error
        self._observer.run_ended(result, monotonic() - started)

    def _check_sources(self) -> None:
        """Check that the sources exist. Raises: UsageError."""
        for path in map(os.path.abspath, self._request.sources):
            try:
                device = os.stat(path).st_dev  # noqa: PTH116 - the path need not be text
                is_empty = os.path.isdir(path) and not _has_entries(path)  # noqa: PTH112
            except OSError as error:
                raise _away(path, (error.strerror or "cannot be read").lower()) from error
            # A disk that is not mounted leaves an empty directory. That does not mean that its files are gone.
            if is_empty and self._devices.get(path, device) != device:
                raise _away(path, "another disk was mounted there")
            if not is_empty:
                self._devices[path] = device


def _has_entries(path: str) -> bool:
    with os.scandir(path) as entries:
        return next(entries, None) is not None


def _away(path: str, reason: str) -> UsageError:
    return UsageError(f"{plain(path)} is away: {reason}", hint="mount or create it; the watch continues then")


def add_run(before: Summary | None, last: Summary, totals: Totals) -> Summary:
    """Return the summary of a watch: that of its last run, and files that were stored and no longer exist.

    The summary of each run counts as stored what the watch has stored so far, if it is still in the source.
    """
    if before is None:
        return last
    known = {(one.session.project, one.session.study_uid) for one in last.sessions}
    sessions = [one for one in before.sessions if (one.session.project, one.session.study_uid) not in known]
    stored, size, sent, zips = last.files.stored, last.bytes_stored, last.bytes_sent, last.zips
    if totals.scanning:
        # The run was stopped, or had no server, before it had scanned everything.
        last, stored, size = replace(before, sessions=last.sessions), before.files.stored, before.bytes_stored
        sent, zips = before.bytes_sent, before.zips
    if totals.gone or totals.scanning:
        stored = max(stored, before.files.stored + totals.stored)
        size = max(size, before.bytes_stored + totals.stored_size)
        sent = max(sent, before.bytes_sent + totals.sent_size)
        zips = max(zips, before.zips + totals.zips)
    return replace(
        last,
        files=replace(last.files, stored=stored),
        bytes_found=last.bytes_found + max(0, size - last.bytes_stored),
        bytes_stored=size,
        bytes_sent=sent,
        zips=zips,
        sessions=(*sessions, *last.sessions),
    )
