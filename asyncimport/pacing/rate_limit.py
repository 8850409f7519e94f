"""How many bytes a second are sent."""

from collections.abc import Awaitable, Callable
from time import monotonic

import anyio


class RateLimit:
    """Limits what all calls together send, in bytes a second on average: first come, first served."""

    # Seconds of unused time that later calls may make up for: timers fire late, and the delays must not add up.
    _CREDIT_SECONDS = 0.1

    def __init__(
        self,
        bytes_per_second: float,
        *,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._bytes_per_second = bytes_per_second
        self._sleep = sleep
        self._clock = clock
        self._free_at = float("-inf")
        self.waiting = 0
        """Calls that wait now."""
        self.used_seconds = 0.0
        """How long all bytes so far take at this rate."""
        self.waited_seconds = 0.0
        """How long all calls together have waited, and will."""

    def change(self, bytes_per_second: float) -> None:
        """Set another limit, from the next call on."""
        self._bytes_per_second = bytes_per_second

    async def acquire(self, size: int) -> None:
        """Wait until `size` bytes may go; they count as sent even if the wait is cancelled."""
        now = self._clock()
        begin = max(self._free_at, now - self._CREDIT_SECONDS)
        seconds = size / self._bytes_per_second
        self._free_at = begin + seconds
        self.used_seconds += seconds
        if begin > now:
            self.waiting += 1
            self.waited_seconds += begin - now
            try:
                await self._sleep(begin - now)
            finally:
                self.waiting -= 1
