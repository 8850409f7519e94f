"""Where what happens in a run is written down, as it was asked for: events, log, standard error."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from asyncimport.model.texts import plain
from asyncimport.reporting.entries import Entry, LineFormat
from asyncimport.reporting.json_lines import as_json
from asyncimport.reporting.log import log_lines
from asyncimport.reporting.writer import Recorder, appending


@contextmanager
def recorded(
    err: Console, *, events: Path | None, log_file: Path | None, verbose: bool
) -> Iterator[Callable[[Entry], None]]:
    """Yield what writes an entry down, everywhere. It never waits, and what goes wrong does not stop the run.

    Raises: UsageError when a file cannot be opened.
    """
    with ExitStack() as stack:
        recorders = []

        def append(path: Path, option: str, form: LineFormat) -> None:
            def complain(why: str) -> None:
                err.print(Text(f"{option} {plain(str(path))} {why}; the upload goes on"))

            write = stack.enter_context(appending(path, option))
            recorders.append(stack.enter_context(Recorder(form, write, complain)))

        if events is not None:
            append(events, "--events", as_json)
        if log_file is not None:
            append(log_file, "--log-file", log_lines(names=verbose))
        if verbose:
            # Where standard error is lost, nobody can be told so.
            recorder = Recorder(log_lines(names=True), lambda lines: err.print(Text(lines), end=""), lambda _: None)
            recorders.append(stack.enter_context(recorder))

        def record(entry: Entry) -> None:
            for recorder in recorders:
                recorder.note(entry)

        yield record
