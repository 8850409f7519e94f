"""What each worker has done in a run, as it is reported."""

from dataclasses import dataclass, field

import anyio

from asyncimport.model.activity import WorkerActivity

# How often it is reported what a worker does.
_TELL_SECONDS = 2.0


@dataclass(slots=True)
class Tally:
    """What the worker of a name has done in this run, and when that was last reported."""

    name: str
    files: int = 0
    size: int = 0
    limited_by: str = ""
    began: float = field(default_factory=anyio.current_time)
    _told_at: float = field(default_factory=anyio.current_time)
    _told_files: int = 0

    def add(self, size: int) -> None:
        """Count a file that it has sent."""
        self.files += 1
        self.size += size

    def now(self, in_flight: int) -> WorkerActivity | None:
        """Return what it does now, to be reported; None if that was done a moment ago."""
        if (seconds := anyio.current_time() - self._told_at) < _TELL_SECONDS:
            return None
        pace = (self.files - self._told_files) / seconds
        self._told_at, self._told_files = anyio.current_time(), self.files
        return WorkerActivity(self.name, self.files, self.size, pace, in_flight, self.limited_by)

    def ended(self) -> WorkerActivity:
        """Return what it has done, now that it has ended."""
        pace = self.files / max(anyio.current_time() - self.began, 0.001)
        return WorkerActivity(self.name, self.files, self.size, pace, 0, self.limited_by)
