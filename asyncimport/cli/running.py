"""Runs an operation for a command: with signals that stop it."""

import asyncio
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

import anyio
from rich.text import Text

from asyncimport.cli.options import ProgressScreen
from asyncimport.pacing.shutdown import Stop, Terminated

if TYPE_CHECKING:
    from asyncimport.operations.result import Result

R = TypeVar("R", bound="Result")


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
