"""What an upload shows while it runs, and where its events are written down."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, cast

from rich.console import Console
from rich.text import Text

from asyncimport.cli.output import show_error, show_orphans, show_summary, summary_json, write_json
from asyncimport.cli.recording import recorded
from asyncimport.cli.running import progress, run_operation
from asyncimport.errors import AsyncimportError, UnavailableError
from asyncimport.model import Orphan, Summary
from asyncimport.model.events import Notice, ServerUnavailable
from asyncimport.model.texts import plain
from asyncimport.operations.observer import Observer
from asyncimport.operations.result import Result
from asyncimport.reporting.entries import Entry, RunEnded, RunStarted
from asyncimport.reporting.progress import Totals, human_seconds
from asyncimport.system.collector import resume

if TYPE_CHECKING:
    from asyncimport.operations.upload_request import UploadRequest, UploadResult

# So many are written to standard error; JSON and events have them all.
_NOTICES = 20


class Display(Observer):
    """Shows progress and notices on standard error, and passes the events of each run on to `record`."""

    def __init__(
        self, err: Console, record: Callable[[Entry], None], *, quiet: bool, outage_timeout: float = 0.0
    ) -> None:
        self._err = err
        self._record = record
        self._quiet = quiet
        self._max_outage = outage_timeout
        self._is_run = False
        self._notices: set[str] = set()

    def note(self, entry: Entry) -> None:
        """Record an event of a run, and show what a person should know."""
        if isinstance(entry, RunStarted):
            self._is_run = True
        if self._is_run or isinstance(entry, RunEnded):
            self._record(entry)
        if isinstance(entry, RunEnded):
            self._is_run = False
        elif isinstance(entry, ServerUnavailable):
            self._tell_away(entry.reason)
        elif isinstance(entry, Notice):
            self._tell_notice(entry.reason)

    def tell(self, text: str) -> None:
        """Write a line to standard error."""
        self._err.print(Text(plain(text)))

    def progress(self, totals: Totals) -> AbstractAsyncContextManager[None]:
        """Show totals in a line of progress."""
        return progress(totals, self._err, quiet=self._quiet)

    def stopping(self) -> None:
        """Tell that a signal has come."""
        self.tell("stopping: what is in flight may finish (30 s at most); once more to stop at once")

    def _tell_away(self, reason: str | None) -> None:
        if self._quiet or self._err.is_terminal:
            # There it stands in the line of progress.
            return
        longest = human_seconds(self._max_outage)
        self.tell(
            "the server is back" if reason is None else f"the server is away: {reason}; waiting {longest} at most"
        )

    def _tell_notice(self, text: str) -> None:
        """Tell what is to be looked at, and not more of it than can be read."""
        if text in self._notices:
            return
        self._notices.add(text)
        if len(self._notices) <= _NOTICES:
            self.tell(text)
        elif len(self._notices) == _NOTICES + 1:
            self.tell("and more of the kind: see -o json, or --events")


class WatchDisplay(Display):
    """Shows of each run of a watch what has changed."""

    def __init__(
        self,
        out: Console,
        err: Console,
        record: Callable[[Entry], None],
        *,
        as_json: bool,
        quiet: bool,
        outage_timeout: float,
    ) -> None:
        super().__init__(err, record, quiet=quiet, outage_timeout=outage_timeout)
        self._out = out
        self._as_json = as_json
        self._trouble: tuple[type[AsyncimportError], str] | None = None
        self._told: Sequence[object] = ()

    def run_ended(self, result: Result, seconds: float) -> None:
        """Write what has changed; of a run in which nothing did, nothing."""
        outcome = cast("UploadResult", result)  # a watch is of uploads
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
        matters = _open_matters(summary, outcome.orphans or ())
        if totals.stored or totals.archived or totals.built or totals.attached or matters != self._told:
            show_summary(self._out, summary, seconds=seconds)
            show_orphans(self._out, outcome.orphans or [])
        self._told = matters


def _open_matters(summary: Summary, orphans: Sequence[Orphan]) -> Sequence[object]:
    """Return what a person would want to know of, and what stays so from one run to the next."""
    sessions = [one for one in summary.sessions if one.state in {"held", "open"}]
    # What is left out is being written, or was not asked for.
    return (*sessions, *(one for one in summary.problems if one.kind != "excluded"), *orphans)


def show_result(
    request: "UploadRequest", result: "UploadResult", out: Console, err: Console, *, seconds: float, as_json: bool
) -> None:
    """Write the summary, and what ended the run."""
    if as_json:
        write_json(
            summary_json(
                result.summary,
                orphans=result.orphans,
                notices=result.totals.notices,
                run=result.run,
                host=request.server.host,
                seconds=seconds,
                code=result.exit_code,
                error=result.error,
            )
        )
    elif result.summary is not None and (result.summary.files.found or result.summary.problems):
        show_summary(out, result.summary, seconds=seconds)
        show_orphans(out, result.orphans or [])
    if result.error is not None:
        show_error(err, result.error)
    elif result.signal is not None:
        err.print(Text("stopped; the same command goes on from here"))


def run_upload(
    request: "UploadRequest",
    out: Console,
    err: Console,
    *,
    as_json: bool = False,
    quiet: bool = False,
    events: Path | None = None,
    log_file: Path | None = None,
    verbose: bool = False,
) -> int:
    """Upload once, or again and again, write the summary (JSON also after a failure), and return the exit code."""
    from asyncimport.operations.upload import upload
    from asyncimport.operations.upload_request import UploadResult
    from asyncimport.operations.watch import watch

    resume()
    began = monotonic()
    result = UploadResult(issues=request.issues)
    is_watch = request.watch is not None
    longest = request.options.outage_timeout
    try:
        with recorded(err, events=events, log_file=log_file, verbose=verbose) as record:
            display = (
                WatchDisplay(out, err, record, as_json=as_json, quiet=quiet, outage_timeout=longest)
                if is_watch
                else Display(err, record, quiet=quiet, outage_timeout=longest)
            )
            if request.watch is not None and not quiet:
                display.tell(f"looking for new studies every {request.watch:g} s; Ctrl-C stops")
            operation = partial(watch if is_watch else upload, request, report=display)
            result = run_operation(operation, when_stopped=display.stopping, empty=result)
    except AsyncimportError as error:
        result.error = error
    code = result.exit_code
    if is_watch and not as_json:
        # Each run has had its summary.
        result.summary = None
    if result.totals.gone and not (quiet or is_watch):
        gone, unsent = result.totals.gone, result.totals.gone_unsent
        err.print(Text(f"{gone:,} files of an earlier run are no longer there; {unsent:,} of them had not been sent"))
    show_result(request, result, out, err, seconds=monotonic() - began, as_json=as_json)
    return code
