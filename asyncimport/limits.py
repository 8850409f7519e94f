"""How much is in flight: one throttle, shared by all workers, so that a sick server slows all of them together."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

__all__ = ["Throttle"]


class Throttle:
    """Concurrency that halves when the server is overloaded and grows back by one for each full round of successes.

    `ceiling` is the number of calls in flight at the best of times. A cut counts once a second, however many calls
    report the same trouble. A Retry-After holds back every call, not only the one that met it.
    """

    def __init__(
        self,
        ceiling: int,
        *,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        self._ceiling = ceiling
        self._limiter = anyio.CapacityLimiter(ceiling)
        self._sleep = sleep
        self._clock = clock
        self._successes = 0
        self._cut_at = float("-inf")
        self._resume_at = float("-inf")

    @property
    def limit(self) -> int:
        """Calls that may be in flight now."""
        return int(self._limiter.total_tokens)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold one place while a call is in flight."""
        async with self._limiter:
            while (wait := self._resume_at - self._clock()) > 0:
                await self._sleep(wait)
            yield

    def succeeded(self) -> None:
        """Note a call that went well.

        While more is in flight than a cut now allows, the calls that end began before it and say nothing of the new
        limit. (In older versions of anyio, to raise it then would let yet another call in.)
        """
        limit = self.limit
        if limit < self._ceiling and self._limiter.borrowed_tokens <= limit:
            self._successes += 1
            if self._successes >= limit:
                self._successes = 0
                self._limiter.total_tokens = limit + 1

    def overloaded(self, hint: float | None = None) -> None:
        """Note that the server is overloaded; `hint` is its Retry-After in seconds."""
        now = self._clock()
        if hint is not None:
            self._resume_at = max(self._resume_at, now + min(hint, 300.0))
        if now - self._cut_at >= 1.0:
            self._cut_at = now
            self._successes = 0
            self._limiter.total_tokens = max(1, self.limit // 2)
