"""The prearchive over HTTP: its listing, a session's GET, POST of an action, and DELETE, and batch operations."""

import anyio
from aiohttp import web

from ..site.archive import Scan
from ..site.archiving import is_auto_archive
from ..site.building import build, session_xml
from ..site.names import scan_type
from ..site.prearchive import Document, PrearchiveRow, RowStatus
from ..site.projects import UNASSIGNED, Project
from ..site.workers import delete_row, move_row, rebuild
from .archive import PREARCHIVE_URI, archive_after_commit
from .downloads import download_session
from .request_context import RequestContext
from .responses import HttpError, row_table, table, text, uri_list, xml

_QUEUED = {"rebuild": RowStatus.QUEUED_BUILDING, "move": RowStatus.QUEUED_MOVING, "delete": RowStatus.QUEUED_DELETING}


async def listing(context: RequestContext, projects: str = "") -> web.StreamResponse:
    """List rows (PrearcSessionListResource): of all projects that the user can edit, or of one that is named.

    Reading a project is enough to list it by its name. Only users with all-data access may name several, and they
    always see the Unassigned rows.
    """
    if "tag" in context.query and not context.user.all_data:
        raise HttpError(403)
    if projects:
        named = set(projects.split(","))
        if len(named) > 1 and not context.user.all_data:
            raise HttpError(403)
        for name in named - {UNASSIGNED}:
            if not context.has_right("read", name):
                raise HttpError(403)
        shown = {context.find_project(name, "read") for name in named}
        ids = {project.id for project in shown if project is not None}
    else:
        ids = {project.id for project in context.site.projects.values() if context.allows(project, "edit")}
    rows = [
        row
        for row in context.site.prearchive
        if (row.project in ids if row.project is not None else context.user.all_data)
        and context.query.get("tag", row.study_uid) == row.study_uid
    ]
    return row_table(context.requested_format("json"), rows)


def _row(context: RequestContext, project: str, timestamp: str, folder: str) -> PrearchiveRow | None:
    """Return the row of a session URI, or None; refuse users who may not edit its project.

    PrearcUtils.getPrearcSessionDir fails for an unknown project, and for Unassigned unless the user has all-data
    access; only a POST does not ask it for Unassigned.
    """
    if project == UNASSIGNED:
        if not context.user.all_data and context.request.method != "POST":
            raise HttpError(500)
    else:
        if project not in context.site.projects:
            raise HttpError(500)
        if not context.has_right("edit", project):
            raise HttpError(403, f"User {context.user.name} cannot access project {project}")
    return context.site.find_row(project, timestamp, folder)


async def session(context: RequestContext, project: str, timestamp: str, folder: str) -> web.StreamResponse:
    """Return the session document, with format=json the row, with format=zip the files (PrearcSessionResource).

    With format=html it sends a browser to the page of the session.

    In JSON, a row that is gone is an empty result: a cheap way to ask for its status.
    """
    row = _row(context, project, timestamp, folder)
    form = context.requested_format("xml")
    if form == "html":
        location = (
            f"{context.site_url}/app/action/LoadImageData/project/{project}/timestamp/{timestamp}/folder/{folder}"
        )
        return web.Response(status=303, headers={"Location": location})
    if form not in {"xml", "zip"}:
        return row_table(context.requested_format("json"), [row] if row is not None else [])
    if row is None:
        raise HttpError(404)
    if form == "zip":
        return download_session(context, row)
    if row.document is None:
        raise HttpError(
            404,
            "The named session exists, but its XNAT session document is not available. "
            "The session may still be receiving files.",
        )
    return xml(session_xml(row, row.document))


async def session_part(
    context: RequestContext, project: str, timestamp: str, folder: str, part: str
) -> web.StreamResponse:
    """Return scans, resources, files or logs of a prearchive session; all but logs need the document.

    PrearcSessionResourcesList, PrearcSessionScansList and their like.
    """
    row = _row(context, project, timestamp, folder)
    if row is None:
        raise HttpError(404, "Unable to locate prearc resource.")
    parts = part.split("/")
    if parts[0] == "logs":
        return _logs(row, parts[1:])
    if row.document is None:
        raise HttpError(404, "Unable to locate prearc resource.")
    form = context.requested_format("json")
    match parts:
        case ["scans"]:
            cells = [(scan.id, scan_type(scan.series.modality), scan.series.description) for scan in row.document.scans]
            return table(form, ["ID", "xsiType", "series_description"], cells)
        case ["resources"]:
            columns = ["category", "cat_id", "label", "file_count", "file_size"]
            found = [(scan, resource) for scan in row.document.scans for resource in scan.resources.values()]
            return table(form, columns, [("scans", s.id, r.label, len(r.files), r.size) for s, r in found])
        case ["scans", scan_id, "resources"]:
            scan = _scan(row.document, scan_id)
            counts = [(r.label, len(r.files), r.size) for r in scan.resources.values()]
            return table(form, ["label", "file_count", "file_size"], counts)
        case ["scans", scan_id, "resources", label, "files"]:
            scan = _scan(row.document, scan_id)
            if label not in scan.resources:
                raise HttpError(404)
            prefix = f"/data{row.uri}/scans/{scan.id}/resources/{label}/files"
            files = scan.resources[label].files.values()
            return table(form, ["Name", "Size", "URI"], [(f.name, f.size, f"{prefix}/{f.name}") for f in files])
        case _:
            raise HttpError(404)


def _scan(document: Document, scan_id: str) -> Scan:
    for scan in document.scans:
        if scan.id == scan_id:
            return scan
    raise HttpError(404)


def _logs(row: PrearchiveRow, rest: list[str]) -> web.Response:
    match rest:
        case []:
            return table("json", ["id"], [(number,) for number in range(len(row.logs))])
        case ["last"] if row.logs:
            return text(row.logs[-1])
        case [number] if number.isdecimal() and int(number) < len(row.logs):
            return text(row.logs[int(number)])
        case _:
            raise HttpError(404)


async def session_action(context: RequestContext, project: str, timestamp: str, folder: str) -> web.StreamResponse:
    """Do `action=build|commit|move|reset-status|set-status` (PrearcSessionResource.acceptRepresentation)."""
    action = context.params.get("action")
    if action is None:
        message = f"No action parameter was specified for the request by user {context.user.name}"
        raise HttpError(400, message)
    row = _row(context, project, timestamp, folder)
    if action not in {"build", "commit", "move", "reset-status", "set-status"}:
        raise HttpError(
            400, f"User {context.user.name} requested an unsupported action on prearchive session: {action}"
        )
    if row is None:
        raise HttpError(500 if action == "build" else 404, f"No session {timestamp}/{folder} in the prearchive")
    match action:
        case "build":
            await build(context.site, row)
        case "commit":
            return await _commit(context, row)
        case "move":
            return await _move(context, row)
        case "reset-status":
            row.status = RowStatus.READY if row.document is not None else row.status
        case _:
            return _set_status(row, context.params.get("status", ""))
    return uri_list(f"/data{row.uri}")


async def _commit(context: RequestContext, row: PrearchiveRow) -> web.Response:
    """Build, and archive within the request if the session archives by itself; if not, 200 and the same URI."""
    await build(context.site, row)
    for name, field in (("VISIT", "visit"), ("PROTOCOL", "protocol"), ("TIMEZONE", "timezone"), ("SOURCE", "source")):
        if name in context.params:
            setattr(row, field, context.params[name])
    project = context.site.projects.get(row.project or "")
    if project is None or not is_auto_archive(context.params, row, project):
        return uri_list(f"/data{row.uri}")
    return await archive_after_commit(context, row, project)


async def _move(context: RequestContext, row: PrearchiveRow) -> web.Response:
    """Move a session to another project; `newProject` counts in the query string only."""
    target = _target(context, context.query.get("newProject", ""))
    if row.status.is_locked:
        return text()  # XNAT lacks an else branch here: 200, and nothing is done
    if context.site.find_row(target.id, row.timestamp, row.folder) is not None:
        raise HttpError(409, "A session of that name exists in the project")
    await move_row(context.site, row, target)
    return uri_list(f"/data{row.uri}", status=301)


def _set_status(row: PrearchiveRow, status: str) -> web.Response:
    if status not in {known.value for known in RowStatus} or RowStatus(status).is_locked or row.status.is_locked:
        raise HttpError(400)
    row.status = RowStatus(status)
    return text()


async def delete(context: RequestContext, project: str, timestamp: str, folder: str) -> web.StreamResponse:
    """Delete a prearchive session at once (PrearcSessionResource.removeRepresentations)."""
    row = _row(context, project, timestamp, folder)
    if row is None:
        raise HttpError(404)
    await delete_row(context.site, row)
    return text()


async def batch(context: RequestContext, operation: str) -> web.StreamResponse:
    """Queue sessions and answer at once with their rows (PrearchiveBatchRebuild and its like).

    Locked rows stay as they are, except for a rebuild with overrideLock. Queued work is lost when the server stops: the
    rows keep their status.
    """
    rows = [_batch_row(context, source) for source in context.values("src")]
    target = _target(context, context.params.get("newProject", "")) if operation == "move" else None
    override = operation == "rebuild" and context.params.get("overrideLock") == "true"
    queued = [row for row in rows if override or not row.status.is_locked]
    for row in queued:
        row.status = _QUEUED[operation]
    context.runtime.jobs.start_soon(_run_batch, context, queued, _QUEUED[operation], target)
    return row_table(context.requested_format("json"), rows)


def _batch_row(context: RequestContext, source: str) -> PrearchiveRow:
    if (match := PREARCHIVE_URI.fullmatch(source)) is None:
        raise HttpError(500, f"Invalid src URI ({source})")
    project, timestamp, folder = match.groups()
    if project != UNASSIGNED and project not in context.site.projects:
        raise HttpError(404, f"Unknown project {project}")
    if not context.has_right("edit", None if project == UNASSIGNED else project):
        raise HttpError(403, f"User {context.user.name} cannot access project {project}")
    if (row := context.site.find_row(project, timestamp, folder)) is None:
        raise HttpError(500)  # PrearcDatabase.getSession, inferred
    return row


def _target(context: RequestContext, name: str) -> Project:
    """Return the project of a move."""
    if (found := context.find_project(name, "edit")) is None:
        raise HttpError(403, f"User {context.user.name} cannot access project {name}")
    return found


async def _run_batch(
    context: RequestContext, rows: list[PrearchiveRow], queued: RowStatus, target: Project | None
) -> None:
    await anyio.sleep(context.site.timing.queue_seconds)
    for row in rows:
        if row.status.is_locked or row not in context.site:
            continue
        if queued is RowStatus.QUEUED_BUILDING:
            await rebuild(context.site, context.runtime, row, archive=False)
        elif target is None:
            await delete_row(context.site, row)
        elif context.site.find_row(target.id, row.timestamp, row.folder) is None:
            await move_row(context.site, row, target)
        else:
            row.status = RowStatus.ERROR
