"""Records the events of a run: as JSON lines, as a log, on standard error."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from asyncimport.cli.options import LogOptions
from asyncimport.model.texts import plain
from asyncimport.reporting.entries import Entry, LineFormat
from asyncimport.reporting.json_lines import as_json
from asyncimport.reporting.log import log_lines
from asyncimport.reporting.writer import Recorder, append_lines


@contextmanager
def recorder(err: Console, log: LogOptions) -> Iterator[Callable[[Entry], None]]:
    """Yield a function that records an entry. It never waits, and its errors do not stop the run.

    Raises: UsageError when a file cannot be opened.
    """
    with ExitStack() as stack:
        recorders = []

        def append(path: Path, option: str, line_format: LineFormat) -> None:
            def complain(why: str) -> None:
                err.print(Text(f"{option} {plain(str(path))} {why}; the upload goes on"))

            write = stack.enter_context(append_lines(path, option))
            recorders.append(stack.enter_context(Recorder(line_format, write, complain)))

        if log.events is not None:
            append(log.events, "--events", as_json)
        if log.log_file is not None:
            append(log.log_file, "--log-file", log_lines(names=log.verbose))
        if log.verbose:
            # An error of standard error has no place to go.
            one = Recorder(log_lines(names=True), lambda lines: err.print(Text(lines), end=""), lambda _: None)
            recorders.append(stack.enter_context(one))

        def record(entry: Entry) -> None:
            for recorder in recorders:
                recorder.note(entry)

        yield record
