"""How many bytes a second go out."""

from collections.abc import Awaitable, Callable
from time import monotonic

import anyio


class Rate:
    """Bounds what is sent, by all together, to so many bytes a second on the average.

    Whoever is about to send waits until all that was let go before has had its time. So whoever comes first goes
    first, and nobody's wait depends on how many wait.
    """

    # What was left unused is made up for this many seconds later: timers ring late, and must not add up.
    _CREDIT = 0.1

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

    async def acquire(self, size: int) -> None:
        """Wait until `size` bytes may go; they count as sent, also when the wait is cancelled."""
        now = self._clock()
        begin = max(self._free_at, now - self._CREDIT)
        self._free_at = begin + size / self._bytes_per_second
        if begin > now:
            await self._sleep(begin - now)
