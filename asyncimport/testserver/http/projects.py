"""Projects and their settings."""

import re
from collections.abc import Callable

from aiohttp import web

from ..site.profiles import Right
from ..site.projects import Project
from .listings import item, requested_columns
from .request_context import RequestContext
from .responses import HttpError, table, text

_PROJECT_ID = re.compile(r"[A-Za-z0-9_-]+")
_COLUMNS: dict[str, Callable[[Project], str]] = {
    "ID": lambda project: project.id,
    "secondary_ID": lambda project: project.id,
    "name": lambda project: project.name or project.id,
    "description": lambda project: project.description,
    "pi_firstname": lambda _: "",
    "pi_lastname": lambda _: "",
}
_MORE: dict[str, Callable[[Project], str]] = {
    "alias": lambda project: ",".join(project.aliases),
    "keywords": lambda _: "",
    "note": lambda _: "",
}
"""Columns that are shown only on request."""
_RIGHTS: dict[str, Right] = {"read": "read", "edit": "edit", "create": "create", "delete": "edit", "activate": "edit"}


async def list_projects(context: RequestContext) -> web.StreamResponse:
    """List the projects that the user can read, or has another right on (ProjectListResource).

    `permissions=edit&dataType=...` and `restrict=edit` ask for the right to edit, `permissions=create` for that to
    make new sessions. The ID is in every row, as it is the key (QueryOrganizer.setPKField).
    """
    asked = context.query.get("permissions") or context.query.get("restrict") or "read"
    if context.query.get("dataAccess") == "writable":
        asked = "edit"
    right = _RIGHTS.get(asked, "read")
    known = {**_COLUMNS, **_MORE}
    columns = list(dict.fromkeys(["ID", *requested_columns(context.query, known, list(_COLUMNS))]))
    rows = [
        (*(known[name](found) for name in columns), f"/data/projects/{found.id}")
        for found in context.site.projects.values()
        if context.allows(found, right)
    ]
    return table(context.requested_format("json"), [*columns, "URI"], rows, title="Projects")


async def project(context: RequestContext, name: str) -> web.StreamResponse:
    """Return a project; an unreadable one is a 404 like a missing one (ProjectResource.represent)."""
    found = context.readable_project(name)
    fields = {name: text for name, value in _COLUMNS.items() if (text := value(found))}
    return item(context, "xnat:projectData", {**fields, "active": True}, [])


async def put_project(context: RequestContext, name: str) -> web.StreamResponse:
    """Create or update a project: 200 with an empty body either way (ProjectResource.handlePut)."""
    if not _PROJECT_ID.fullmatch(name):
        raise HttpError(417, "Invalid character in project ID.")
    if name in context.site.deleted_projects:
        raise HttpError(403, f"Project '{name}' was used in a previously deleted project and cannot be reused.")
    found = context.site.projects.get(name)
    if found is not None and not found.allows(context.user, "edit"):
        raise HttpError(403)
    title = context.params.get("name", found.name if found is not None else "")
    others = [other for other in context.site.projects.values() if other is not found]
    taken = {text for other in others for text in (other.id, other.name, *other.aliases) if text}
    if clash := {name, title} & taken:
        raise HttpError(409, f"Requested new project conflicts with existing projects: {', '.join(sorted(clash))}")
    if found is None:
        code = context.site.default_prearchive_code
        found = context.site.add_project(Project(name, prearchive_code=code, editors=(context.user.name,)))
    found.name = title
    found.description = context.params.get("description", found.description)
    return text()


async def setting(context: RequestContext, name: str, key: str, value: str | None = None) -> web.StreamResponse:
    """Return or set a setting of a project, as a plain text (ProjectResource).

    Codes are numbers; `true` and `false` are 1 and 0. The folder of the archive, and whether types of scans are mapped,
    have no effect on this server.
    """
    found = context.readable_project(name)
    if value is None:
        return text(str(getattr(found, key)))
    if not context.allows(found, "edit"):
        raise HttpError(403)
    if key == "current_arc":
        found.current_arc = value
        return text()
    number = {"true": "1", "false": "0"}.get(value, value)
    if not re.fullmatch(r"-?\d+", number):
        raise HttpError(400)
    setattr(found, key, int(number))
    return text()


async def unknown_setting(context: RequestContext, name: str, **_: str) -> web.StreamResponse:
    """Refuse a setting that there is not."""
    context.readable_project(name)
    raise HttpError(400)


async def pipelines(context: RequestContext, name: str) -> web.StreamResponse:
    """List the pipelines of a project (ProjectPipelineListResource) for users who may also delete in it."""
    found = context.readable_project(name)
    if not context.allows(found, _RIGHTS["delete"]):
        raise HttpError(403)
    columns = ["Applies To", "Generates", "Name", "Description", "Path", "Datatype"]
    rows = [("MR Session", "", one, "", f"/data/pipelines/{one}.xml", "xnat:mrSessionData") for one in found.pipelines]
    return table(context.requested_format("json"), columns, rows)


async def subscriptions(context: RequestContext, name: str) -> web.StreamResponse:
    """List the event service's subscriptions (EventServiceRestApi) for users who may also delete in the project."""
    found = context.find_project(name, _RIGHTS["delete"])
    if found is None:
        raise HttpError(403)
    rows = [
        {"id": number, "name": one, "active": active}
        for number, (one, active) in enumerate(found.subscriptions.items(), 1)
    ]
    return web.json_response(rows)
