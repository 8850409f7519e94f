"""How fast files and bytes go, now and on average, and how long the rest takes."""

from collections import deque
from itertools import pairwise

# The rate of now is that of the last 15 s, or since the last look if that is longer ago: it follows the server
# smoothly. The time left follows the last two minutes, so that it does not jump.
_NOW_SECONDS = 15.0
_ETA_SECONDS = 120.0
# Before this time, nobody knows how long it will take.
_FIRST_SECONDS = 5.0
# Two looks that are closer are one.
_STEP_SECONDS = 0.5


class Speed:
    """Rates by what was done at each look: seconds, files, bytes."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int, float]] = deque()
        self._start: tuple[float, float] | None = None
        self._last_change = 0.0

    def look(self, now: float, files: int, size: float) -> None:
        """Note what is done by now."""
        last = self._looks[-1] if self._looks else (now, files, size)
        if (files, size) != last[1:] or not self._looks:
            self._last_change = now
        if self._start is None or size <= self._start[1]:
            # The time before the first file came through is that of the scan.
            self._start = (now, size)
        if len(self._looks) > 1 and now - self._looks[-2][0] < _STEP_SECONDS:
            self._looks.pop()
        self._looks.append((now, files, size))
        while len(self._looks) > 2 and now - self._looks[1][0] >= _ETA_SECONDS:
            self._looks.popleft()

    def now(self) -> tuple[float, float]:
        """Return files and bytes a second, lately."""
        return self._rates(_NOW_SECONDS)

    def average(self) -> float:
        """Return bytes a second since the first."""
        if self._start is None:
            return 0.0
        (began, before), (at, _, size) = self._start, self._looks[-1]
        return (size - before) / (at - began) if at > began else 0.0

    def seconds_for(self, size: float, files: int) -> float | None:
        """Return how many seconds these bytes will take, or the files if they have none; None while nothing moves."""
        if self._start is None or self._looks[-1][0] - self._start[0] < _FIRST_SECONDS or not any(self.now()):
            return None
        files_rate, bytes_rate = self._rates(_ETA_SECONDS)
        if size > 0 and bytes_rate > 0:
            return size / bytes_rate
        return files / files_rate if files_rate > 0 else None

    def seconds_still(self) -> float:
        """Return for how long nothing has moved."""
        return self._looks[-1][0] - self._last_change if self._looks else 0.0

    def _rates(self, seconds: float) -> tuple[float, float]:
        if self._start is None:
            return 0.0, 0.0
        now, files, size = self._looks[-1]
        pairs = pairwise(look for look in self._looks if look[0] >= self._start[0])
        then, files_then, size_then = next((one for one, next_ in pairs if now - next_[0] < seconds), self._looks[-1])
        elapsed = now - then
        return ((files - files_then) / elapsed, (size - size_then) / elapsed) if elapsed > 0 else (0.0, 0.0)
