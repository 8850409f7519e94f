"""Shows progress on standard error while an operation runs: live on a terminal, else a plain line now and then."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import anyio
import anyio.to_thread
from rich.console import Console
from rich.text import Text

from asyncimport.cli.live_area import LiveArea, layout, terminal_size
from asyncimport.errors import primary_error
from asyncimport.reporting.progress import Totals
from asyncimport.reporting.progress_text import ProgressText, progress_text

if TYPE_CHECKING:
    from asyncimport.cli.output import StandardError

_LIVE_SECONDS = 0.2
_NEWS_AT_ONCE = 5


class News:
    """What is shown above the live lines, a few lines at a time: the eye cannot follow more."""

    def __init__(self) -> None:
        self._lines: deque[Text] = deque()
        self._more = 0

    def put(self, line: Text) -> None:
        """Add a line about a session."""
        if len(self._lines) < _NEWS_AT_ONCE:
            self._lines.append(line)
        else:
            self._more += 1

    def take(self) -> list[Text]:
        """Return the lines since the last time."""
        lines = [*self._lines]
        if self._more:
            lines.append(Text(f"and {self._more:,} more"))
        self._lines.clear()
        self._more = 0
        return lines


def is_live(console: Console) -> bool:
    """Whether progress is drawn in place: on a terminal that can."""
    return console.file.isatty() and not (console.is_dumb_terminal or console.legacy_windows)


@asynccontextmanager
async def progress(
    totals: Totals, console: Console, *, quiet: bool, news: News | None = None, plain_seconds: float = 30.0
) -> AsyncIterator[None]:
    """Show the totals while the block runs: live lines on a terminal, else a plain line every `plain_seconds`."""
    if quiet:
        yield
        return
    try:
        async with anyio.create_task_group() as tasks:
            if is_live(console):
                tasks.start_soon(_live, totals, console, news or News())
            else:
                tasks.start_soon(_plain, totals, console, plain_seconds)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as errors:
        raise primary_error(errors) from None


async def _live(totals: Totals, console: Console, news: News) -> None:
    error_output = cast("StandardError", console.file)
    area = error_output.area = LiveArea(error_output.write_through)
    is_unicode = can_encode(console, "━─·…")
    try:
        while True:
            text = progress_text(totals)
            for line in news.take():
                console.print(line)
            # In a thread: a terminal that is paused (Ctrl-S) must not pause the upload.
            await anyio.to_thread.run_sync(_draw, area, console, text, is_unicode)
            await anyio.sleep(_LIVE_SECONDS)
    finally:
        for line in news.take():
            console.print(line)
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(area.close, terminal_size(console)[0])
            error_output.area = None
            # What others wrote meanwhile is above the area, and has not been drawn yet.
            await anyio.to_thread.run_sync(area.close, terminal_size(console)[0])


def _draw(area: LiveArea, console: Console, text: ProgressText, is_unicode: bool) -> None:
    columns, rows = terminal_size(console)
    lines = layout(text, columns, rows, is_unicode=is_unicode)
    drawn = []
    for line in lines:
        with console.capture() as captured:
            console.print(line, end="")
        drawn.append(captured.get())
    area.draw(drawn, [line.cell_len for line in lines], columns)


async def _plain(totals: Totals, console: Console, seconds: float) -> None:
    separator = " · " if can_encode(console, "·") else " | "
    progress_text(totals)
    while True:
        await anyio.sleep(seconds)
        await anyio.to_thread.run_sync(console.print, Text(progress_text(totals).line(separator)))


def can_encode(console: Console, characters: str) -> bool:
    """Whether the output has these characters."""
    try:
        characters.encode(console.encoding)
    except (LookupError, UnicodeEncodeError):
        return False
    return True
