"""One request with everything that its handler needs."""

from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

from ..faults.actions import DiskFull, Unseen
from ..faults.schedule import Faults
from ..site.logins import Login
from ..site.names import escape_parameter
from ..site.profiles import Right
from ..site.projects import GUEST, Project, User
from ..site.runtime import Runtime
from ..site.site import Site
from ..site.storage import BodyStream
from .listener import Listener
from .responses import HttpError, requested_format

_EDITING = frozenset({"edit", "delete"})


def is_set(params: Mapping[str, str], name: str) -> bool:
    """Return whether a flag is set: to anything but false or 0."""
    return params.get(name, "false").lower() not in {"false", "0"}


@dataclass(slots=True)
class RequestContext:
    """A request, who makes it, and the server that it is made to."""

    site: Site
    faults: Faults
    runtime: Runtime
    listener: Listener
    request: web.BaseRequest
    path: str
    """Raw, below /data or /xapi, without a leading slash: Restlet 1.1 does not decode the variables of a path."""
    query: Mapping[str, str]
    """The first value of each parameter, decoded and then escaped (TurbineUtils.escapeParam)."""
    params: Mapping[str, str]
    """The query and, over it, the fields of a form or of a JSON body."""
    form: Mapping[str, list[str]]
    login: Login
    site_url: str
    body: BodyStream
    stop_after: int | None = None
    """A fault cuts the body after this many bytes."""
    disk_full: DiskFull | None = None
    """A fault fills the disk."""
    unseen: Unseen | None = None
    """A fault hides a project."""

    @property
    def user(self) -> User:
        """The user; a guest has no rights."""
        return self.login.user or GUEST

    def values(self, name: str) -> list[str]:
        """Return all values of a parameter, from the query or else from the form."""
        query = self.request.query.getall(name, [])
        return [escape_parameter(value) for value in query or self.form.get(name, [])]

    def flag(self, name: str) -> bool:
        """Return whether a flag is set (SecureResource.isQueryVariableTrueHelper)."""
        return is_set(self.params, name)

    def requested_format(self, default: str) -> str:
        """Return the format asked for: `format=` comes before Accept (SecureResource.getRequestedMediaType)."""
        return requested_format(self.request.headers.get("Accept", ""), self.query.get("format"), default)

    @property
    def lacks_reason(self) -> bool:
        """Whether the site wants a reason for changes, and the request has none (PersistentWorkflowUtils)."""
        return self.site.needs_reason and not self.params.get("event_reason")

    def readable_project(self, project_id: str) -> Project:
        """Return a project that the user can read; an unreadable one is a 404 like a missing one (ProjectResource)."""
        project = self.find_project(project_id, "read")
        if project is None:
            raise HttpError(404, "Unable to find the specified experiment.")
        return project

    def find_project(self, name: str, right: Right) -> Project | None:
        """Return the project with this ID or alias if the user has the right on it, and no fault hides it."""
        found = self.site.find_project(name, self.user, right)
        return found if found is not None and self.allows(found, right) else None

    def allows(self, project: Project, right: Right) -> bool:
        """Return whether the user has a right on a project, and no fault hides it."""
        unseen = self.unseen
        if unseen is not None and unseen.project == project.id and (unseen.right == "read" or right in _EDITING):
            return False
        return project.allows(self.user, right)

    def has_right(self, right: Right, project_id: str | None) -> bool:
        """Return whether the user has a right on a project, or, for None, on Unassigned rows."""
        if project_id is None:
            return self.user.all_data
        return self.find_project(project_id, right) is not None
