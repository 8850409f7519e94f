"""One request on its way to a handler."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import web
from anyio import CapacityLimiter, Lock
from anyio.abc import TaskGroup

from .auth import Login
from .names import escape_parameter
from .pages import Refused
from .profile import Right
from .site import TestXnat, Timing
from .state import GUEST, ArchivedSession, Project, User

__all__ = ["Call", "Engine"]


@dataclass(slots=True)
class Engine:
    """What a running server has besides the site's state: tasks and locks. One a `serve`."""

    jobs: TaskGroup
    """Work that outlives the request that started it."""
    timing: Timing
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
    holds the first value of each parameter. `stop_after` is a scripted break after so many body bytes.
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
    stop_after: int | None = None

    @property
    def user(self) -> User:
        """Who asks; a guest has no rights."""
        return self.login.user or GUEST

    def values(self, name: str) -> list[str]:
        """Return all values of a parameter, from the query or else from the form."""
        query = self.request.query.getall(name, [])
        return [escape_parameter(value) for value in query or self.form.get(name, [])]

    def readable(self, project_id: str) -> Project:
        """Return a project the user can read; an unreadable one looks absent (ProjectResource)."""
        project = self.xnat.find_project(project_id, self.user, "read")
        if project is None:
            raise Refused(404, "Unable to find the specified experiment.")
        return project

    def may(self, right: Right, project_id: str | None) -> bool:
        """Tell whether the user has a right on a project, or, for None, on Unassigned rows."""
        if project_id is None:
            return self.user.all_data
        return self.xnat.find_project(project_id, self.user, right) is not None
