"""What an upload sends over time, for charts."""

from collections.abc import Sequence

from asyncimport.model.record import record


@record
class Activity:
    """Uploads in some interval: `files` and `size` (bytes) stored, files that `failed` or were refused, `retries`.

    `busy_seconds` is how long the uploads of the stored files took together, with reading and waiting in their slots;
    `slowest_seconds` is the longest of them. `in_flight` is the most uploads seen at once, `allowed` the highest limit.
    """

    files: int = 0
    size: int = 0
    failed: int = 0
    retries: int = 0
    busy_seconds: float = 0.0
    slowest_seconds: float = 0.0
    in_flight: int = 0
    allowed: int = 0

    def __add__(self, other: "Activity") -> "Activity":
        """Return the activity of both intervals."""
        return Activity(
            self.files + other.files,
            self.size + other.size,
            self.failed + other.failed,
            self.retries + other.retries,
            self.busy_seconds + other.busy_seconds,
            max(self.slowest_seconds, other.slowest_seconds),
            max(self.in_flight, other.in_flight),
            max(self.allowed, other.allowed),
        )


MAX_INTERVALS = 300
"""The most intervals that are kept of one run."""


class Series:
    """The activity of a run over time, in at most `MAX_INTERVALS` intervals: they double in length when there are more.

    `intervals` has the activity by the number of the interval, `seconds` is their length.
    """

    def __init__(self) -> None:
        self.seconds = 1
        self.intervals: dict[int, Activity] = {}

    def add(self, elapsed: float, activity: Activity) -> int | None:
        """Add what was done `elapsed` seconds after the start; return its interval, or None if all have changed."""
        number = max(0, int(elapsed // self.seconds))
        self.intervals[number] = self.intervals.get(number, _NONE) + activity
        if len(self.intervals) <= MAX_INTERVALS:
            return number
        while len(self.intervals) > MAX_INTERVALS // 2:
            self.seconds *= 2
            halved: dict[int, Activity] = {}
            for number, one in self.intervals.items():
                halved[number // 2] = halved.get(number // 2, _NONE) + one
            self.intervals = halved
        return None


_NONE = Activity()


@record
class WorkerActivity:
    """What a worker of a cluster has done in a run: `files` and `size` (bytes) stored.

    While it is at work, `files_per_second` is that of late, and `limited_by` says what limits it ("" if unknown). When
    it has ended, the one is the average, and the other what was said last.
    """

    worker: str
    files: int = 0
    size: int = 0
    files_per_second: float = 0.0
    in_flight: int = 0
    limited_by: str = ""


@record
class RunActivity:
    """The activity of a run, by the seconds after its start, in intervals of `seconds`; and of its workers."""

    run: int
    seconds: int
    intervals: Sequence[tuple[int, Activity]]
    workers: Sequence[WorkerActivity] = ()
