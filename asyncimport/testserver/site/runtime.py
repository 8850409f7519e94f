"""Background jobs and locks of a running server."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVarTuple

from anyio import CancelScope, CapacityLimiter, Lock
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


@dataclass(slots=True)
class Runtime:
    """What a running server has besides the site's state: jobs and locks. One per `serve`."""

    jobs: BackgroundJobs
    timing: Timing
    row_lock: Lock = field(default_factory=Lock)
    """The one lock around row look-ups (the static synchronized methods of PrearcDatabase)."""
    shadow_lock: Lock = field(default_factory=Lock)
    """The one lock around the making of lock files (PrearcUtils.lockFile)."""
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
