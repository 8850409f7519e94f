"""The time that calls have, by one timer for all of them."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any


class Deadlines:
    """Bounds the time of calls that all have the same: `with deadlines:` around each, one at a time in a task.

    What takes longer is cancelled, and raises what `late` makes. A timer of aiohttp's for each call, which is set and
    taken back, costs ten times as much as this, and each file has a call.
    """

    def __init__(self, seconds: float, late: Callable[[], Exception]) -> None:
        self._seconds = seconds
        self._error = late
        self._begun: dict[asyncio.Task[Any], float] = {}
        """When the calls of tasks began, the oldest first."""
        self._late: set[asyncio.Task[Any]] = set()
        self._is_armed = False

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None  # noqa: S101 - a coroutine runs in one
        self._begun[task] = loop.time()
        if not self._is_armed:
            self._arm(loop, self._seconds)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - as above
        self._begun.pop(task, None)
        if task in self._late:
            self._late.remove(task)
            # Somebody else may have cancelled it too.
            if task.uncancel() == 0 and kind is asyncio.CancelledError:
                raise self._error() from error

    def _arm(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._is_armed = True
        loop.call_later(seconds, self._check, loop)

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel what is late, and look again when the oldest of the others will be."""
        self._is_armed = False
        now = loop.time()
        while self._begun:
            task, began = next(iter(self._begun.items()))
            left = began + self._seconds - now
            if left > 0:
                self._arm(loop, left)
                return
            del self._begun[task]
            self._late.add(task)
            task.cancel()
