"""POST /data/services/prearchive/{rebuild,move,delete}: rows are queued, the work is done later."""

import re

import anyio
from aiohttp import web

from .call import Call
from .operations import delete_row, move_row, rebuild
from .pages import Refused, row_table
from .state import UNASSIGNED, PrearchiveRow, Project, RowStatus

__all__ = ["batch"]

_SOURCE = re.compile(r"(?:/data|/REST)?/prearchive/projects/([^/]+)/([^/]+)/([^/]+)/?")
_QUEUED = {
    "rebuild": RowStatus.QUEUED_BUILDING,
    "move": RowStatus.QUEUED_MOVING,
    "delete": RowStatus.QUEUED_DELETING,
}


async def batch(call: Call, operation: str) -> web.StreamResponse:
    """Queue sessions and answer at once with their rows (PrearchiveBatchRebuild and its like).

    Locked rows are left as they are, but for a rebuild with overrideLock. What is queued is lost when the server
    stops: the rows stay as they are.
    """
    rows = [_row(call, source) for source in call.values("src")]
    if not rows:
        raise Refused(400, "No prearchive sessions were specified.")
    target = _target(call) if operation == "move" else None
    override = operation == "rebuild" and call.params.get("overrideLock") == "true"
    queued = [row for row in rows if override or not row.status.locked]
    for row in queued:
        row.status = _QUEUED[operation]
    call.engine.jobs.start_soon(_work, call, queued, _QUEUED[operation], target)
    return row_table(call.request, call.query, rows)


def _row(call: Call, source: str) -> PrearchiveRow:
    if (match := _SOURCE.fullmatch(source)) is None:
        raise Refused(500, f"Invalid src URI ({source})")
    project, timestamp, folder = match.groups()
    if project != UNASSIGNED and project not in call.xnat.projects:
        raise Refused(404, f"Unknown project {project}")
    if not call.may("edit", None if project == UNASSIGNED else project):
        raise Refused(403, f"User {call.user.name} cannot access project {project}")
    if (row := call.xnat.find_row(project, timestamp, folder)) is None:
        raise Refused(404, f"/prearchive/projects/{project}/{timestamp}/{folder} not found.")
    return row


def _target(call: Call) -> Project:
    name = call.params.get("newProject", "")
    if (found := call.find_project(name, "edit")) is None:
        raise Refused(403, f"User {call.user.name} cannot access project {name}")
    return found


async def _work(call: Call, rows: list[PrearchiveRow], queued: RowStatus, target: Project | None) -> None:
    await anyio.sleep(call.xnat.timing.queue_seconds)
    for row in rows:
        if row.status.locked or row not in call.xnat:
            continue
        if queued is RowStatus.QUEUED_BUILDING:
            await rebuild(call.xnat, call.engine, row, archive=False)
        elif target is None:
            await delete_row(call.xnat, row)
        elif call.xnat.find_row(target.id, row.timestamp, row.folder) is None:
            await move_row(call.xnat, row, target)
        else:
            row.status = RowStatus.ERROR
