"""The prearchive over HTTP: its listing, and a session's GET, POST of an action, and DELETE."""

from aiohttp import web

from .archive import archive_after_commit
from .building import build, session_xml
from .call import Call
from .jobs import is_auto_archive
from .names import scan_type
from .operations import delete_row, move_row
from .pages import Refused, row_table, table, text, uri_list, wanted, xml
from .state import UNASSIGNED, Document, PrearchiveRow, RowStatus, Scan
from .zips import session_zip

__all__ = ["delete", "listing", "session", "session_action", "session_part"]


async def listing(call: Call, projects: str = "") -> web.StreamResponse:
    """List rows (PrearcSessionListResource): of projects the user can edit, or of those named.

    Users with all-data access see the Unassigned rows always, also when projects are named.
    """
    if "tag" in call.query and not call.user.all_data:
        raise Refused(403)
    if projects:
        named = set(projects.split(","))
        for name in named - {UNASSIGNED}:
            if not call.may("edit", name):
                raise Refused(403)
        shown = {call.find_project(name, "edit") for name in named}
        ids = {project.id for project in shown if project is not None}
    else:
        ids = {project.id for project in call.xnat.projects.values() if call.allows(project, "edit")}
    rows = [
        row
        for row in call.xnat.prearchive
        if (row.project in ids if row.project is not None else call.user.all_data)
        and call.query.get("tag", row.study_uid) == row.study_uid
    ]
    return row_table(call.request, call.query, rows)


def _row(call: Call, project: str, timestamp: str, folder: str) -> PrearchiveRow | None:
    """Return the row of a session URI, or None; refuse without the right to edit its project."""
    if project == UNASSIGNED:
        if not call.user.all_data:
            raise Refused(403)
    else:
        if project not in call.xnat.projects:
            raise Refused(500 if call.request.method == "POST" else 404)
        if not call.may("edit", project):
            raise Refused(403, f"User {call.user.name} cannot access project {project}")
    return call.xnat.find_row(project, timestamp, folder)


async def session(call: Call, project: str, timestamp: str, folder: str) -> web.StreamResponse:
    """Return the session document, with format=json the row, with format=zip its files (PrearcSessionResource).

    A row that is gone is an empty result in JSON: a cheap way to ask for its status.
    """
    row = _row(call, project, timestamp, folder)
    form = wanted(call.request, call.query, "xml")
    if form not in {"xml", "zip"}:
        return row_table(call.request, call.query, [row] if row is not None else [])
    if row is None:
        raise Refused(404)
    if form == "zip":
        return session_zip(call, row)
    if row.document is None:
        raise Refused(
            404,
            "The named session exists, but its XNAT session document is not available. "
            "The session may still be receiving files.",
        )
    return xml(session_xml(row, row.document))


async def session_part(call: Call, project: str, timestamp: str, folder: str, part: str) -> web.StreamResponse:
    """Return scans, resources, files or logs of a prearchive session; all but logs need the document.

    PrearcSessionResourcesList, PrearcSessionScansList and their like.
    """
    row = _row(call, project, timestamp, folder)
    if row is None:
        raise Refused(404, "Unable to locate prearc resource.")
    parts = part.split("/")
    if parts[0] == "logs":
        return _logs(row, parts[1:])
    if row.document is None:
        raise Refused(404, "Unable to locate prearc resource.")
    form = wanted(call.request, call.query, "json")
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
            cells_ = [(r.label, len(r.files), r.size) for r in scan.resources.values()]
            return table(form, ["label", "file_count", "file_size"], cells_)
        case ["scans", scan_id, "resources", label, "files"]:
            scan = _scan(row.document, scan_id)
            if label not in scan.resources:
                raise Refused(404)
            prefix = f"/data{row.uri}/scans/{scan.id}/resources/{label}/files"
            files = scan.resources[label].files.values()
            return table(form, ["Name", "Size", "URI"], [(f.name, f.size, f"{prefix}/{f.name}") for f in files])
        case _:
            raise Refused(404)


def _scan(document: Document, scan_id: str) -> Scan:
    for scan in document.scans:
        if scan.id == scan_id:
            return scan
    raise Refused(404)


def _logs(row: PrearchiveRow, rest: list[str]) -> web.Response:
    match rest:
        case []:
            return table("json", ["id"], [(number,) for number in range(len(row.logs))])
        case ["last"] if row.logs:
            return text(row.logs[-1])
        case [number] if number.isdecimal() and int(number) < len(row.logs):
            return text(row.logs[int(number)])
        case _:
            raise Refused(404)


async def session_action(call: Call, project: str, timestamp: str, folder: str) -> web.StreamResponse:
    """Do `action=build|commit|move|reset-status|set-status` (PrearcSessionResource.acceptRepresentation)."""
    action = call.params.get("action")
    if action is None:
        message = f"No action parameter was specified for the request by user {call.user.name}"
        raise Refused(400, message)
    row = _row(call, project, timestamp, folder)
    if action not in {"build", "commit", "move", "reset-status", "set-status"}:
        raise Refused(400, f"User {call.user.name} requested an unsupported action on prearchive session: {action}")
    if row is None:
        raise Refused(500 if action == "build" else 404, f"No session {timestamp}/{folder} in the prearchive")
    match action:
        case "build":
            await build(call.xnat, row)
        case "commit":
            return await _commit(call, row)
        case "move":
            return await _move(call, row)
        case "reset-status":
            row.status = RowStatus.READY if row.document is not None else row.status
        case _:
            return _set_status(row, call.params.get("status", ""))
    return uri_list(f"/data{row.uri}")


async def _commit(call: Call, row: PrearchiveRow) -> web.Response:
    """Build, and archive in the request when the session is to be archived by itself.

    Not archived: 200 and the same URI.
    """
    await build(call.xnat, row)
    for name, field in (
        ("VISIT", "visit"),
        ("PROTOCOL", "protocol"),
        ("TIMEZONE", "timezone"),
        ("SOURCE", "source"),
    ):
        if name in call.params:
            setattr(row, field, call.params[name])
    project = call.xnat.projects.get(row.project or "")
    if project is None or not is_auto_archive(call.params, row, project):
        return uri_list(f"/data{row.uri}")
    return await archive_after_commit(call, row, project)


async def _move(call: Call, row: PrearchiveRow) -> web.Response:
    """Move a session to another project; `newProject` counts in the query string only."""
    target = call.query.get("newProject", "")
    new = call.find_project(target, "edit")
    if new is None:
        raise Refused(403, f"User {call.user.name} cannot access project {target}")
    if row.status.locked:
        return text()  # a missing else branch: 200 and nothing done
    if call.xnat.find_row(new.id, row.timestamp, row.folder) is not None:
        raise Refused(409, "A session of that name exists in the project")
    await move_row(call.xnat, row, new)
    return uri_list(f"/data{row.uri}", status=301)


def _set_status(row: PrearchiveRow, status: str) -> web.Response:
    if status not in {known.value for known in RowStatus} or RowStatus(status).locked or row.status.locked:
        raise Refused(400)
    row.status = RowStatus(status)
    return text()


async def delete(call: Call, project: str, timestamp: str, folder: str) -> web.StreamResponse:
    """Delete a prearchive session at once (PrearcSessionResource.removeRepresentations)."""
    row = _row(call, project, timestamp, folder)
    if row is None:
        raise Refused(404)
    await delete_row(call.xnat, row)
    return text()
