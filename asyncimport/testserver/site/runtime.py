"""Background jobs and locks of a running server."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVarTuple

from anyio import CancelScope, CapacityLimiter, Lock, current_time, sleep_until
from anyio.abc import TaskGroup

from .archive import ArchivedSession
from .settings import Timing

_Arguments = TypeVarTuple("_Arguments")


class BackgroundJobs:
    """Jobs that outlive the request that started them, until the server stops or all are cancelled."""

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._scopes: set[CancelScope] = set()

    def start_soon(self, work: Callable[[*_Arguments], Awaitable[None]], *arguments: *_Arguments) -> None:
        """Start a job."""
        scope = CancelScope()
        self._scopes.add(scope)

        async def run() -> None:
            try:
                with scope:
                    await work(*arguments)
            finally:
                self._scopes.discard(scope)

        self._tasks.start_soon(run)

    def cancel(self) -> None:
        """Cancel all jobs, as a restart of the server does."""
        for scope in self._scopes:
            scope.cancel()


class SerialTime:
    """The time of a section that one request at a time is in.

    It is over by plan, not when this process wakes up: a real server has cores of its own.
    """

    def __init__(self) -> None:
        self._free_at = 0.0

    def take(self, now: float, seconds: float) -> float:
        """Return when who comes now leaves the section (like `now`, seconds of one clock)."""
        self._free_at = max(now, self._free_at) + seconds
        return self._free_at

    async def spend(self, seconds: float) -> None:
        """Wait for those who came before, and then for one's own time."""
        await sleep_until(self.take(current_time(), seconds))


@dataclass(slots=True)
class Runtime:
    """What a running server has besides the site's state: jobs and locks. One per `serve`."""

    jobs: BackgroundJobs
    timing: Timing
    row_look_ups: SerialTime = field(default_factory=SerialTime)
    """Under one lock (the static synchronized methods of PrearcDatabase)."""
    lock_files: SerialTime = field(default_factory=SerialTime)
    """They are made under one lock (PrearcUtils.lockFile)."""
    archive_lock: Lock = field(default_factory=Lock)
    """Held while a session's files and state move into the archive."""
    copying: int = 0
    """Archive jobs that copy files now."""
    merge_targets: set[ArchivedSession] = field(default_factory=set)
    """Archived sessions that are being merged into."""
    subject_locks: dict[str, Lock] = field(default_factory=dict)
    """Locks on subject labels, of any project, that are being archived to."""
    file_locks: set[tuple[str, ...]] = field(default_factory=set)
    """Locks on files that are being written."""
    threads: CapacityLimiter = field(init=False)
    connections: CapacityLimiter = field(init=False)
    archive_workers: CapacityLimiter = field(init=False)

    def __post_init__(self) -> None:
        self.threads = CapacityLimiter(self.timing.threads)
        self.connections = CapacityLimiter(self.timing.db_connections)
        self.archive_workers = CapacityLimiter(self.timing.archive_workers)

    @property
    def disk_slowdown(self) -> float:
        """How many times as long an import takes while other jobs copy files."""
        return 1 + self.timing.archive_slowdown * self.copying
