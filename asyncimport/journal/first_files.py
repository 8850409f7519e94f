"""How long the first files of deliveries take: the others of their session wait meanwhile."""

from collections.abc import Callable

# A first file is late after this many times the usual time, and after the other number of seconds at least.
_LATE_FACTOR, _MIN_LATE_SECONDS = 2.0, 1.0
# Nobody need look for a late one sooner.
_MIN_WAIT_SECONDS = 0.1
# How much the last first file counts in the average.
_SHARE = 0.25


class FirstFiles:
    """The sessions whose first file is under way, and since when. Times are seconds by `ticks`."""

    def __init__(self, ticks: Callable[[], float]) -> None:
        self._ticks = ticks
        self._since: dict[int, float] = {}
        self.usual_seconds: float | None = None
        """From the time that a first file is handed out until it is recorded as stored, on average."""

    @property
    def late_seconds(self) -> float:
        """After how long a first file is late."""
        return max(_MIN_LATE_SECONDS, _LATE_FACTOR * (self.usual_seconds or 0.0))

    def begin(self, session: int) -> None:
        """Note that a first file is handed out; another one of the same session goes on with the time of the first."""
        self._since.setdefault(session, self._ticks())

    def end(self, session: int, *, is_stored: bool = True) -> None:
        """Note that the others of a session wait no more; if its first file was stored, it shows the usual time."""
        since = self._since.pop(session, None)
        if since is not None and is_stored:
            # One that had to be repeated for minutes says nothing about others.
            seconds = min(self._ticks() - since, self.late_seconds)
            usual = self.usual_seconds
            self.usual_seconds = seconds if usual is None else usual + _SHARE * (seconds - usual)

    def is_under_way(self, session: int) -> bool:
        """Whether the others of a session wait for its first file."""
        return session in self._since

    def is_late(self, session: int) -> bool:
        """Whether the first file of a session takes so long that others need not wait for it."""
        since = self._since.get(session)
        return since is not None and self._ticks() - since >= self.late_seconds

    def count_in_time(self) -> int:
        """Return how many first files are under way that are not late."""
        late = self._ticks() - self.late_seconds
        return sum(since > late for since in self._since.values())

    def seconds_to_next_late(self) -> float | None:
        """Return after how long another first file is late; None if none is under way that is not."""
        late = self._ticks() - self.late_seconds
        waits = [since - late for since in self._since.values() if since > late]
        return max(_MIN_WAIT_SECONDS, min(waits)) if waits else None
