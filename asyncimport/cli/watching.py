"""`asyncimport upload --watch`: run after run over a drop directory, under one login, until it is stopped.

Only a signal, the longest time and a refused login end it. What else stands in the way of a run is told once, and the
next run tries again. With `-o json` one object stands on standard output at the end.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic

import anyio
import anyio.to_thread
from rich.console import Console
from rich.text import Text

from asyncimport.cli.output import plain, show_error, show_strays, show_summary
from asyncimport.cli.recording import recorded
from asyncimport.cli.transfer import Outcome, Transfer, caught, show_outcome, uploads
from asyncimport.errors import AsyncimportError, LoginRefusedError, UnavailableError, UsageError
from asyncimport.model import Stray, Summary
from asyncimport.pacing.shutdown import StoppedError
from asyncimport.reporting.entries import Ended, Entry
from asyncimport.reporting.progress import Totals

__all__ = ["together", "watch_source"]


def watch_source(task: Transfer, out: Console, err: Console, *, as_json: bool, quiet: bool) -> int:
    """Run, pause, run again; return the exit code of what ended that."""
    began = monotonic()
    watch = _Watch(task, out, err, as_json=as_json, quiet=quiet)
    ended = Outcome(flaws=task.flaws)
    recording = recorded(err, events=task.events, log_file=task.log_file, verbose=task.verbose)
    with caught(ended), recording as record, caught(ended):
        anyio.run(watch.run, record)
    ended = replace(watch.ended(), error=ended.error, signal=ended.signal or watch.signal)
    if as_json:
        show_outcome(task, ended, out, err, seconds=monotonic() - began, as_json=True)
    elif ended.error is not None:
        show_error(err, ended.error)
    else:
        err.print(Text("stopped; the same command goes on from here"))
    return ended.code


class _Watch:
    """The runs of a watch, and what was told of them."""

    def __init__(self, task: Transfer, out: Console, err: Console, *, as_json: bool, quiet: bool) -> None:
        self.signal: int | None = None
        self._task = task
        self._out = out
        self._err = err
        self._as_json = as_json
        self._quiet = quiet
        self._outcomes: Outcome | None = None
        self._trouble: tuple[type[AsyncimportError], str] | None = None
        self._told: Sequence[object] = ()
        self._devices: dict[str, int] = {}

    async def run(self, record: Callable[[Entry], None]) -> None:
        """Run until something ends it. Raises: LoginRefusedError."""
        task, pause = self._task, self._task.watch or 0.0
        async with uploads(task, record, self._err, quiet=self._quiet) as runs:
            if not self._quiet:
                self._err.print(Text(f"looking for new studies every {pause:g} s; Ctrl-C stops"))
            try:
                while not runs.stop.requested:
                    began = monotonic()
                    outcome = Outcome(flaws=task.flaws)
                    try:
                        await anyio.to_thread.run_sync(self._look_at_places)
                        await runs.run(outcome, is_watch=True)
                    except AsyncimportError as error:
                        outcome.error = error
                    record(Ended(outcome.run, outcome.code, outcome.error, outcome.summary))
                    self._keep(outcome)
                    if isinstance(outcome.error, LoginRefusedError):
                        raise outcome.error
                    self._tell(outcome, monotonic() - began)
                    await runs.stop.sleep(pause)
            except StoppedError:
                pass
            finally:
                self.signal = runs.signal

    def ended(self) -> Outcome:
        """Return all runs as one."""
        return self._outcomes or Outcome(flaws=self._task.flaws)

    def _keep(self, outcome: Outcome) -> None:
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

    def _tell(self, outcome: Outcome, seconds: float) -> None:
        """Write what has changed; of a run in which nothing did, nothing."""
        error = outcome.error
        # The words for a server that is away change with the moment at which it is asked.
        trouble = None if error is None else (type(error), "" if isinstance(error, UnavailableError) else str(error))
        if error is not None and trouble != self._trouble:
            show_error(self._err, error)
            if not self._quiet:
                self._err.print(Text("waiting until that is over"))
        elif error is None and self._trouble is not None and not self._quiet:
            self._err.print(Text("that is over: going on"))
        self._trouble = trouble
        summary, totals = outcome.summary, outcome.totals
        if self._as_json or summary is None:
            return
        matters = _open_matters(summary, outcome.strays or ())
        if totals.stored or totals.archived or totals.built or totals.attached or matters != self._told:
            show_summary(self._out, summary, seconds=seconds)
            show_strays(self._out, outcome.strays or [])
        self._told = matters


def _has_any(place: str) -> bool:
    with os.scandir(place) as entries:
        return next(entries, None) is not None


def _away(place: str, reason: str) -> UsageError:
    return UsageError(f"{plain(place)} is away: {reason}", hint="mount it, or make it: the watch looks for it")


def _open_matters(summary: Summary, strays: Sequence[Stray]) -> Sequence[object]:
    """Return what a person would want to know of, and what stays so from one run to the next."""
    sessions = [one for one in summary.sessions if one.state in {"held", "open"}]
    # What is left out is being written, or was not asked for.
    return (*sessions, *(one for one in summary.problems if one.kind != "excluded"), *strays)


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
