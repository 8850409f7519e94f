"""Time limits of calls."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any

import anyio

from asyncimport.errors import TransientError, primary_error


def timeout_error() -> TransientError:
    """Return the error of a call that took too long."""
    return TransientError("the server did not answer in time", overload=True, may_have_taken_effect=True)


@contextmanager
def time_limit(seconds: float) -> Iterator[anyio.CancelScope]:
    """Limit the time of a block, which may move the deadline. Raises: TransientError."""
    try:
        with anyio.fail_after(seconds) as scope:
            yield scope
    except TimeoutError:
        raise timeout_error() from None


@asynccontextmanager
async def grace_period(seconds: Callable[[], float]) -> AsyncIterator[None]:
    """Give a block that is cancelled this much longer to finish: XNAT may have done its part."""

    async def limit_when_cancelled(scope: anyio.CancelScope) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            scope.deadline = anyio.current_time() + seconds()

    try:
        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope(shield=True) as scope:
                tasks.start_soon(limit_when_cancelled, scope)
                yield
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as errors:
        raise primary_error(errors) from None


class Deadlines:
    """The same time limit for many calls: `with deadlines:` around each, one at a time in a task.

    Raises: TransientError. One timer serves all calls: aiohttp sets and cancels one for each call, which costs ten
    times as much, and each file has a call.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._start_times: dict[asyncio.Task[Any], float] = {}
        """When the call of each task began, the oldest first."""
        self._expired: set[asyncio.Task[Any]] = set()
        self._is_armed = False

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self._start_times[task] = loop.time()
        if not self._is_armed:
            self._arm(loop, self._seconds)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - as above
        self._start_times.pop(task, None)
        if task in self._expired:
            self._expired.remove(task)
            # Somebody else may have cancelled the task too.
            if task.uncancel() == 0 and kind is asyncio.CancelledError:
                raise timeout_error() from error

    def _arm(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._is_armed = True
        loop.call_later(seconds, self._check, loop)

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel the calls that are too late, and check again when the oldest of the others will be."""
        self._is_armed = False
        now = loop.time()
        while self._start_times:
            task, start = next(iter(self._start_times.items()))
            remaining = start + self._seconds - now
            if remaining > 0:
                self._arm(loop, remaining)
                return
            del self._start_times[task]
            self._expired.add(task)
            task.cancel()
