"""One request on its way to a handler."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVarTuple

from aiohttp import web
from anyio import CancelScope, CapacityLimiter, Lock
from anyio.abc import TaskGroup

from .actions import DiskFull, Unseen
from .auth import Login
from .door import Door
from .names import escape_parameter
from .pages import Refused
from .profile import Right
from .site import TestXnat, Timing
from .state import GUEST, ArchivedSession, Project, User
from .storage import Stream

__all__ = ["Call", "Engine", "Jobs"]

_Arguments = TypeVarTuple("_Arguments")
_EDITING = frozenset({"edit", "delete"})


class Jobs:
    """Work that outlives the request that started it, until the server stops or all of it is given up."""

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
        """Give all jobs up, as a restart of the server does."""
        for scope in self._scopes:
            scope.cancel()


@dataclass(slots=True)
class Engine:
    """What a running server has besides the site's state: tasks and locks. One a `serve`."""

    jobs: Jobs
    timing: Timing
    door: Door
    row_lock: Lock = field(default_factory=Lock)
    """The one lock around row look-ups (the static synchronized methods of PrearcDatabase)."""
    archive_lock: Lock = field(default_factory=Lock)
    """Held while a session's files and state move into the archive."""
    targets: set[ArchivedSession] = field(default_factory=set)
    """Archived sessions that are being merged into."""
    subjects: dict[str, Lock] = field(default_factory=dict)
    """Locks on the labels of subjects, of any project, that are being archived to."""
    files: set[tuple[str, ...]] = field(default_factory=set)
    """Locks of files that are being written."""
    threads: CapacityLimiter = field(init=False)
    connections: CapacityLimiter = field(init=False)

    def __post_init__(self) -> None:
        self.threads = CapacityLimiter(self.timing.threads)
        self.connections = CapacityLimiter(self.timing.db_connections)


@dataclass(slots=True)
class Call:
    """A request with what every handler needs.

    `path` is raw below /data or /xapi, without a leading slash: Restlet 1.1 does not decode the variables
    of its path templates. `query` has its values decoded and then escaped (TurbineUtils.escapeParam); it
    holds the first value of each parameter. `stop_after`, a break after so many body bytes, `disk_full` and `unseen`
    are what a fault does to it.
    """

    xnat: TestXnat
    engine: Engine
    request: web.BaseRequest
    path: str
    query: Mapping[str, str]
    params: Mapping[str, str]
    """The query and, over it, the fields of a form or of a JSON body."""
    form: Mapping[str, list[str]]
    login: Login
    site_url: str
    body: Stream
    stop_after: int | None = None
    disk_full: DiskFull | None = None
    unseen: Unseen | None = None

    @property
    def user(self) -> User:
        """Who asks; a guest has no rights."""
        return self.login.user or GUEST

    def values(self, name: str) -> list[str]:
        """Return all values of a parameter, from the query or else from the form."""
        query = self.request.query.getall(name, [])
        return [escape_parameter(value) for value in query or self.form.get(name, [])]

    def flag(self, name: str) -> bool:
        """Tell whether a flag is set: to anything but false or 0 (SecureResource.isQueryVariableTrueHelper)."""
        return self.params.get(name, "false").lower() not in {"false", "0"}

    @property
    def lacks_reason(self) -> bool:
        """Whether the site wants to be told why things change, and is not (PersistentWorkflowUtils)."""
        return self.xnat.needs_reason and not self.params.get("event_reason")

    def readable(self, project_id: str) -> Project:
        """Return a project the user can read; an unreadable one looks absent (ProjectResource)."""
        project = self.find_project(project_id, "read")
        if project is None:
            raise Refused(404, "Unable to find the specified experiment.")
        return project

    def find_project(self, name: str, right: Right) -> Project | None:
        """Return the project of this id or alias if the user has the right, and this request is to know of it."""
        found = self.xnat.find_project(name, self.user, right)
        return found if found is not None and self.allows(found, right) else None

    def allows(self, project: Project, right: Right) -> bool:
        """Tell whether the user has a right on a project, as far as this request is to know."""
        unseen = self.unseen
        if unseen is not None and unseen.project == project.id and (unseen.right == "read" or right in _EDITING):
            return False
        return project.allows(self.user, right)

    def may(self, right: Right, project_id: str | None) -> bool:
        """Tell whether the user has a right on a project, or, for None, on Unassigned rows."""
        if project_id is None:
            return self.user.all_data
        return self.find_project(project_id, right) is not None
