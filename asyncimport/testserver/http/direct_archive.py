"""/xapi/direct-archive: sessions whose files go straight into the archive (DirectArchiveSessionApi)."""

from aiohttp import web

from ..site.prearchive import PrearchiveRow
from ..site.workers import archive_directly, delete_row
from .request_context import RequestContext
from .responses import HttpError, text


async def list_sessions(context: RequestContext) -> web.StreamResponse:
    """List the sessions of projects that the user can edit; paging has no effect here."""
    found = [row for row in context.site.direct_rows.values() if context.has_right("edit", row.project)]
    return web.json_response([_session(row) for row in found])


async def get_session(context: RequestContext, project: str, study: str, label: str) -> web.StreamResponse:
    """Return a session; one that is archived, or was moved to the prearchive, is a 404."""
    return web.json_response(_session(_row(context, project, study, label)))


async def archive_session(context: RequestContext, project: str, study: str, label: str) -> web.StreamResponse:
    """Archive a session: 200 and no body, also if it ends in the prearchive. Not while a file is being written."""
    row = _row(context, project, study, label)
    if row.writing or row.status.is_locked:
        raise HttpError(400, "The session is still receiving files.", tomcat=True)
    context.runtime.jobs.start_soon(archive_directly, context.site, context.runtime, row)
    return text()


async def delete_session(context: RequestContext, number: str) -> web.StreamResponse:
    """Delete a session by its number in the list."""
    for row in list(context.site.direct_rows.values()):
        if str(_number(row)) == number and context.has_right("edit", row.project):
            await delete_row(context.site, row)
            return text()
    raise HttpError(404, tomcat=True)


def _row(context: RequestContext, project: str, study: str, label: str) -> PrearchiveRow:
    row = context.site.direct_rows.get((project, study, label))
    if row is None:
        raise HttpError(404, tomcat=True)
    if not context.has_right("edit", project):
        raise HttpError(403, tomcat=True)
    return row


def _number(row: PrearchiveRow) -> int:
    return int(row.timestamp.replace("_", ""))


def _session(row: PrearchiveRow) -> dict[str, object]:
    return {
        "id": _number(row),
        "project": row.project,
        "subject": row.subject,
        "folderName": row.folder,
        "name": row.name,
        "tag": row.study_uid,
        "status": row.status.value,
    }
