"""Runs an operation for a command: with signals that stop it, and progress while it runs."""

import asyncio
import signal
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread
from rich.console import Console
from rich.text import Text

from asyncimport.cli.options import ProgressScreen
from asyncimport.errors import primary_error
from asyncimport.pacing.shutdown import Stop, Terminated
from asyncimport.reporting.progress import Totals

if TYPE_CHECKING:
    from asyncimport.operations.result import Result

R = TypeVar("R", bound="Result")

_LIVE_SECONDS = 0.2
_PLAIN_SECONDS = 30.0


@contextmanager
def on_signals(stop: Callable[[int], None]) -> Iterator[None]:
    """Call `stop` on the loop for each SIGINT and SIGTERM, in place of Python's handlers.

    No signal is lost. One that comes too late for the loop is delivered at the end of the block. (asyncio's own
    handlers lose a signal that comes in the last turn of a loop.)
    """
    loop = asyncio.get_running_loop()
    waiting: deque[int] = deque()

    def deliver() -> None:
        while waiting:
            stop(waiting.popleft())

    def received(number: int, _: FrameType | None) -> None:
        waiting.append(number)
        loop.call_soon_threadsafe(deliver)

    before = {number: signal.signal(number, received) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        deliver()


def run_operation(
    operation: Callable[..., Awaitable[R]], *, when_stopped: Callable[[], None] = lambda: None, empty: R | None = None
) -> R:
    """Run an operation, which SIGINT and SIGTERM stop; the first of them calls `when_stopped`.

    If a signal comes before the operation listens for it, the result is `empty`, if there is one.
    """
    first: int | None = None
    results = [] if empty is None else [empty]

    async def run() -> None:
        stop = Stop()

        def request_stop(number: int) -> None:
            nonlocal first
            if first is None:
                first = number
                when_stopped()
            stop.request(number)

        with on_signals(request_stop):
            results.append(await operation(stop=stop))

    try:
        anyio.run(run)
    except (KeyboardInterrupt, Terminated) as error:
        if not results:
            raise
        first = first or (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
    if first is not None:
        # It may have come just after the operation ended.
        results[-1].signal = first
    return results[-1]


def progress_lines(screen: ProgressScreen, what: str, *, step: int) -> Callable[[int, int], None]:
    """Return a function that takes how many of all are done, and writes a line for every `step` of them."""
    last = 0

    def report(done: int, total: int) -> None:
        nonlocal last
        if not screen.quiet and done // step > last:
            last = done // step
            screen.consoles[1].print(Text(f"{done:,} of {total:,} {what}"))

    return report


@asynccontextmanager
async def progress(totals: Totals, console: Console, *, quiet: bool) -> AsyncIterator[None]:
    """Show the totals while the block runs: a live line on a terminal, else a plain line every 30 seconds."""
    if quiet:
        yield
        return
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_live if console.is_terminal else _plain, totals, console)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as errors:
        raise primary_error(errors) from None


async def _live(totals: Totals, console: Console) -> None:
    from rich.live import Live

    with Live(Text(""), console=console, auto_refresh=False, transient=True) as live:

        def draw() -> None:
            live.update(Text(totals.line(), no_wrap=True, overflow="ellipsis"), refresh=True)

        while True:
            # In a thread: a terminal that is paused (Ctrl-S) must not pause the upload.
            await anyio.to_thread.run_sync(draw)
            await anyio.sleep(_LIVE_SECONDS)


async def _plain(totals: Totals, console: Console) -> None:
    while True:
        await anyio.sleep(_PLAIN_SECONDS)
        await anyio.to_thread.run_sync(console.print, Text(totals.line()))
