"""What an upload shows and records while it runs, and what it shows at its end."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, NoReturn, cast

from rich.console import Console
from rich.text import Text

from asyncimport.cli.conclusion import conclude
from asyncimport.cli.live_area import without_details
from asyncimport.cli.options import LogOptions, ProgressScreen
from asyncimport.cli.output import session_name, show_error, show_orphans, show_summary, summary_json
from asyncimport.cli.progress import News, is_live, progress
from asyncimport.cli.running import run_operation
from asyncimport.errors import AsyncimportError, UnavailableError
from asyncimport.model.deliveries import Archived, Built, Held, Stored
from asyncimport.model.events import Notice, OutcomesRecorded, ServerUnavailable, WorkerJoined, WorkerLeft
from asyncimport.model.summary import Orphan, Summary
from asyncimport.model.texts import plain
from asyncimport.operations.result import Observer, Result
from asyncimport.reporting.entries import Entry, LineFormat, RunEnded, RunStarted
from asyncimport.reporting.json_lines import as_json
from asyncimport.reporting.log import log_lines
from asyncimport.reporting.metrics import Metrics
from asyncimport.reporting.progress import Totals, human_seconds
from asyncimport.reporting.writer import Recorder, append_lines
from asyncimport.system.allocator import keep_freed_memory
from asyncimport.system.collector import resume

if TYPE_CHECKING:
    from asyncimport.operations.upload_request import UploadRequest, UploadResult

# On standard error. JSON and events have them all.
_MAX_NOTICES = 20


class Display(Observer):
    """Shows progress and notices on standard error, and passes the events of each run on to `record`."""

    def __init__(self, screen: ProgressScreen, record: Callable[[Entry], None], *, outage_timeout: float = 0.0) -> None:
        self._screen = screen
        self._out, self._err = screen.consoles
        self._record = record
        self._outage_timeout = outage_timeout
        self._is_run = False
        self._early: list[Entry] = []
        """What workers reported before the run."""
        self._is_live = is_live(self._err)
        self._notices: set[str] = set()
        self._warnings: set[tuple[str, object]] = set()
        self._news = News()

    def note(self, entry: Entry) -> None:
        """Record an event of a run, and show what a person should know."""
        if self._is_run or isinstance(entry, RunStarted | RunEnded):
            self._record(entry)
        elif isinstance(entry, Notice | WorkerJoined | WorkerLeft):
            self._early.append(entry)
        if isinstance(entry, RunStarted | RunEnded):
            early, self._early, self._is_run = self._early, [], isinstance(entry, RunStarted)
            for one in early if self._is_run else ():
                self._record(one)
        elif isinstance(entry, ServerUnavailable):
            self._show_availability(entry.reason)
        elif isinstance(entry, Notice):
            self._show_notice(entry.reason)
        elif self._is_live and not self._screen.quiet:
            self._show_news(entry)

    def tell(self, text: str) -> None:
        """Write a line to standard error."""
        self._err.print(Text(plain(text)))

    def progress(self, totals: Totals) -> AbstractAsyncContextManager[None]:
        """Show totals in lines of progress."""
        return progress(totals, self._err, quiet=self._screen.quiet, news=self._news)

    def stopping(self) -> None:
        """Report that a signal has come."""
        self.tell("stopping: what is in flight may finish (30 s at most); once more to stop at once")

    def _show_availability(self, reason: str | None) -> None:
        # On a terminal, the live lines show it.
        if self._screen.quiet or self._is_live:
            return
        longest = human_seconds(self._outage_timeout)
        self.tell(
            "the server is back" if reason is None else f"the server is away: {reason}; waiting for {longest} at most"
        )

    def _show_news(self, entry: Entry) -> None:
        """Show what became of a session, and the first file of each reason why files do not arrive."""
        match entry:
            case Archived() | Built():
                word = "archived" if isinstance(entry, Archived) else "built"
                self._news.put(Text.assemble((word, "green"), f": {session_name(entry.delivery.session)}"))
            case Held(delivery=delivery, reason=reason):
                self._show_warning("held", session_name(delivery.session), reason, delivery.key)
            case OutcomesRecorded(outcomes=outcomes):
                for outcome in outcomes:
                    if not isinstance(outcome, Stored):
                        word = type(outcome).__name__.lower()
                        cause = without_details(outcome.reason)
                        self._show_warning(word, outcome.claim.instance.file.path, outcome.reason, cause)

    def _show_warning(self, word: str, what: str, reason: str, cause: object) -> None:
        """Show a warning once for each cause, and as many as there are notices. The summary has them all."""
        key = (word, cause)
        if key in self._warnings or len(self._warnings) >= _MAX_NOTICES:
            return
        self._warnings.add(key)
        self._err.print(Text.assemble((word, "yellow"), f": {plain(what)}: {plain(reason)}"))

    def _show_notice(self, text: str) -> None:
        if text in self._notices:
            return
        self._notices.add(text)
        if len(self._notices) <= _MAX_NOTICES:
            self.tell(text)
        elif len(self._notices) == _MAX_NOTICES + 1:
            self.tell("there are more notices: see -o json, or --events")


class WatchDisplay(Display):
    """Shows what has changed in each run of a watch."""

    _last_error: tuple[type[AsyncimportError], str] | None = None
    _last_concerns: Sequence[object] = ()

    def run_ended(self, result: Result, seconds: float) -> None:
        """Write what has changed since the last run."""
        upload_result = cast("UploadResult", result)  # a watch is of uploads
        self._show_change_of_error(upload_result.error)
        summary, totals = upload_result.summary, upload_result.totals
        if self._screen.as_json or summary is None:
            return
        orphans = upload_result.orphans or []
        concerns = _concerns(summary, orphans)
        if totals.has_arrivals or concerns != self._last_concerns:
            show_summary(self._out, summary, seconds=seconds)
            show_orphans(self._out, orphans)
        self._last_concerns = concerns

    def _show_change_of_error(self, error: AsyncimportError | None) -> None:
        # The text for a server that is not available changes from one moment to the next.
        now = None if error is None else (type(error), "" if isinstance(error, UnavailableError) else str(error))
        if error is not None and now != self._last_error:
            show_error(self._err, error)
            if not self._screen.quiet:
                self._err.print(Text("waiting until that is over"))
        elif error is None and self._last_error is not None and not self._screen.quiet:
            self._err.print(Text("that is over: going on"))
        self._last_error = now


def _concerns(summary: Summary, orphans: Sequence[Orphan]) -> Sequence[object]:
    """Return what a person should look at. It is equal in two runs if nothing has changed."""
    sessions = [one for one in summary.sessions if one.state in {"held", "open"}]
    # Excluded files are being written, or were not asked for.
    return (*sessions, *(one for one in summary.problems if one.kind != "excluded"), *orphans)


@contextmanager
def recorder(err: Console, log: LogOptions, *, host: str, project: str) -> Iterator[Callable[[Entry], None]]:
    """Yield a function that records an entry. It never waits, and its errors do not stop the run.

    Raises: UsageError when a file cannot be opened.
    """
    with ExitStack() as stack:
        recorders: list[Callable[[Entry], None]] = []

        def start(path: Path, option: str, line_format: LineFormat, write: Callable[[str], None]) -> None:
            def complain(why: str) -> None:
                err.print(Text(f"{option} {plain(str(path))} {why}; the upload goes on"))

            recorders.append(stack.enter_context(Recorder(line_format, write, complain)).note)

        def append(path: Path, option: str, line_format: LineFormat) -> None:
            start(path, option, line_format, stack.enter_context(append_lines(path, option)))

        if log.events is not None:
            append(log.events, "--events", as_json)
        if log.log_file is not None:
            append(log.log_file, "--log-file", log_lines(names=log.verbose))
        if log.metrics is not None:
            metrics = Metrics(log.metrics, host=host, project=project)
            start(log.metrics, "--metrics", metrics.note, metrics.write)
        if log.page is not None:
            from asyncimport.reporting.page.server import live_page

            url, note = stack.enter_context(live_page(log.page, host=host, project=project))
            err.print(Text(f"page: {url}"))
            recorders.append(note)
        if log.verbose:
            # An error of standard error has no place to go.
            one = Recorder(log_lines(names=True), lambda lines: err.print(Text(lines), end=""), lambda _: None)
            recorders.append(stack.enter_context(one).note)

        def record(entry: Entry) -> None:
            for note in recorders:
                note(entry)

        yield record


def run_upload(screen: ProgressScreen, request: "UploadRequest", log: LogOptions) -> "UploadResult":
    """Upload once, or again and again, with progress on standard error."""
    from asyncimport.operations.upload import upload
    from asyncimport.operations.upload_request import UploadResult
    from asyncimport.operations.watch import watch

    resume()
    keep_freed_memory()
    result = UploadResult(issues=request.issues)
    pause = request.watch_seconds
    try:
        host, project = request.server.host, request.project
        with recorder(screen.consoles[1], log, host=host, project=project) as record:
            kind = Display if pause is None else WatchDisplay
            display = kind(screen, record, outage_timeout=request.options.outage_timeout)
            if pause is not None and not screen.quiet:
                display.tell(f"looking for new studies every {pause:g} s; Ctrl-C stops")
            operation = partial(upload if pause is None else watch, request, report=display)
            result = run_operation(operation, when_stopped=display.stopping, empty=result)
    except AsyncimportError as error:
        result.error = error
    return result


def conclude_upload(screen: ProgressScreen, request: "UploadRequest", log: LogOptions) -> NoReturn:
    """Upload, write the summary (as JSON also after a failure), and exit."""
    started = monotonic()
    result = run_upload(screen, request, log)
    seconds = monotonic() - started
    is_watch = request.watch_seconds is not None
    if (gone := result.totals.gone) and not (screen.quiet or is_watch):
        unsent = result.totals.gone_unsent
        text = f"files of an earlier run that no longer exist: {gone:,}, of which {unsent:,} were never sent"
        screen.consoles[1].print(Text(text))

    def as_json(result: "UploadResult") -> dict[str, object]:
        return summary_json(
            result.summary,
            orphans=result.orphans,
            notices=result.totals.notices,
            run=result.run,
            host=request.server.host,
            seconds=seconds,
            code=result.exit_code,
            error=result.error,
        )

    def show(out: Console, result: "UploadResult") -> None:
        # A watch has shown the summary of each run.
        summary = result.summary
        if summary is not None and not is_watch and (summary.files.found or summary.problems):
            show_summary(out, summary, seconds=seconds)
            show_orphans(out, result.orphans or [])

    conclude(screen, result, as_json=as_json, show=show)
