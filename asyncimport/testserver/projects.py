"""Projects and their settings."""

import json
import re

from aiohttp import web

from .call import Call
from .listings import item
from .pages import Refused, table, text, wanted
from .profile import Right
from .state import Project

__all__ = ["list_projects", "pipelines", "project", "put_project", "setting", "subscriptions"]

_PROJECT_ID = re.compile(r"[A-Za-z0-9_-]+")
_COLUMNS = (
    "ID",
    "secondary_ID",
    "name",
    "description",
    "pi_firstname",
    "pi_lastname",
)
_RIGHTS: dict[str, Right] = {
    "read": "read",
    "edit": "edit",
    "create": "create",
    "delete": "edit",
    "activate": "edit",
}


async def list_projects(call: Call) -> web.StreamResponse:
    """List the projects the user can read, or has another right on (ProjectListResource).

    `permissions=edit&dataType=...` and `restrict=edit` ask for the right to edit, `permissions=create` for that to
    make new sessions.
    """
    asked = call.query.get("permissions") or call.query.get("restrict") or "read"
    if call.query.get("dataAccess") == "writable":
        asked = "edit"
    right = _RIGHTS.get(asked, "read")
    columns = list(_COLUMNS)
    if "columns" in call.query:
        columns = [name for name in call.query["columns"].split(",") if name in _COLUMNS]
    rows = []
    for found in call.xnat.projects.values():
        if call.allows(found, right):
            values = dict.fromkeys(_COLUMNS, "") | {
                "ID": found.id,
                "secondary_ID": found.id,
                "name": found.name or found.id,
                "description": found.description,
            }
            rows.append((*(values[name] for name in columns), f"/data/projects/{found.id}"))
    return table(wanted(call.request, call.query, "json"), [*columns, "URI"], rows, title="Projects")


async def project(call: Call, name: str) -> web.StreamResponse:
    """Return a project; an unreadable one looks absent (ProjectResource.represent)."""
    found = call.readable(name)
    fields = {
        "ID": found.id,
        "secondary_ID": found.id,
        "name": found.name or found.id,
        "description": found.description,
        "active": True,
    }
    return item(call, "xnat:projectData", {name: value for name, value in fields.items() if value != ""}, [])


async def put_project(call: Call, name: str) -> web.StreamResponse:
    """Create or update a project: 200 with an empty body either way (ProjectResource.handlePut)."""
    if not _PROJECT_ID.fullmatch(name):
        raise Refused(417, "Invalid character in project ID.")
    if name in call.xnat.deleted_projects:
        raise Refused(403, f"The project {name} was used in a previously deleted project and cannot be reused.")
    found = call.xnat.projects.get(name)
    if found is not None and not found.allows(call.user, "edit"):
        raise Refused(403)
    title = call.params.get("name", found.name if found is not None else "")
    others = [other for other in call.xnat.projects.values() if other is not found]
    taken = {text for other in others for text in (other.id, other.name, *other.aliases) if text}
    if clash := {name, title} & taken:
        raise Refused(409, f"Requested new project conflicts with existing projects: {', '.join(sorted(clash))}")
    if found is None:
        code = call.xnat.default_prearchive_code
        found = call.xnat.add_project(Project(name, prearchive_code=code, editors=(call.user.name,)))
    found.name = title
    found.description = call.params.get("description", found.description)
    return text()


async def setting(call: Call, name: str, key: str, value: str | None = None) -> web.StreamResponse:
    """Return or set the prearchive code as a bare number (ProjectResource)."""
    if key != "prearchive_code":
        raise Refused(400)
    found = call.readable(name)
    if value is None:
        return text(str(found.prearchive_code))
    if not call.allows(found, "edit"):
        raise Refused(403)
    number = {"true": "1", "false": "0"}.get(value, value)
    if not re.fullmatch(r"-?\d+", number):
        raise Refused(400)
    found.prearchive_code = int(number)
    return text()


async def pipelines(call: Call, name: str) -> web.StreamResponse:
    """List the pipelines that are set up (ProjectPipelineListResource), to those who may also delete there."""
    found = call.readable(name)
    if not call.allows(found, _RIGHTS["delete"]):
        raise Refused(403)
    columns = ["Applies To", "Generates", "Name", "Description", "Path", "Datatype"]
    rows = [("MR Session", "", one, "", f"/data/pipelines/{one}.xml", "xnat:mrSessionData") for one in found.pipelines]
    return table(wanted(call.request, call.query, "json"), columns, rows)


async def subscriptions(call: Call, name: str) -> web.StreamResponse:
    """List the subscriptions of the event service (EventServiceRestApi), to those who may also delete there."""
    found = call.find_project(name, _RIGHTS["delete"])
    if found is None:
        raise Refused(403)
    rows = [
        {"id": number, "name": one, "active": active}
        for number, (one, active) in enumerate(found.subscriptions.items(), 1)
    ]
    return web.Response(text=json.dumps(rows), content_type="application/json")
