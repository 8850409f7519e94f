"""Looking at the prearchive without changing it: validation before archiving, and rows that came lately."""

from datetime import timedelta

from aiohttp import web

from ..site.prearchive import PrearchiveRow
from ..site.projects import UNASSIGNED
from ..site.validation import validate
from .archive import PREARCHIVE_URI
from .request_context import RequestContext
from .responses import HttpError, row_table, table, text

_DEFAULT_DAYS = 10


async def validate_archive(context: RequestContext) -> web.StreamResponse:
    """List what keeps one session from being archived (ArchiveValidator); nothing changes.

    Warnings are what files on the disk are, conflicts go with `overwrite`, failures do not. `overwrite` itself has no
    effect.
    """
    sources = context.values("src")
    parts = [context.params.get(key, "") for key in ("project", "PREARC_TIMESTAMP", "PREARC_SESSION_FOLDER")]
    if not sources and not all(parts):
        raise HttpError(404, "Unknown prearchive session.")
    rows = [_row(context, source) for source in sources or ["/prearchive/projects/" + "/".join(parts)]]
    if len(rows) > 1:
        raise HttpError(400, "Cannot validate multiple sessions in one request.")
    notices = validate(context.site, rows[0], context.params)
    return table(context.requested_format("json"), ("code", "type", "message"), notices)


def _row(context: RequestContext, source: str) -> PrearchiveRow:
    """Return the row of a source (BatchPrearchiveActionsA.handlePost)."""
    if (match := PREARCHIVE_URI.fullmatch(source)) is None:
        raise HttpError(400, f"Invalid src URI ({source})")
    project, timestamp, folder = match.groups()
    if project == UNASSIGNED:
        raise HttpError(400, "Cannot archive sessions from the Unassigned folder.")
    if project in context.site.projects and not context.has_right("edit", project):
        raise HttpError(403, source)
    if (row := context.site.find_row(project, timestamp, folder)) is None:
        raise HttpError(500, f"{source} invalid.")
    return row


async def recent_rows(context: RequestContext) -> web.StreamResponse:
    """List the rows of the last days, `recent=N` or `recent=true` for ten, oldest first (RecentPrearchiveSessions)."""
    recent = context.query.get("recent")
    if recent is None:
        raise HttpError(400, 'Please set the "recent" parameter')
    if recent != "true" and not recent.removeprefix("-").isdecimal():
        raise HttpError(400, '"recent" should be a number or true')
    days = _DEFAULT_DAYS if recent == "true" else int(recent)
    if days <= 0:
        raise HttpError(400, '"recent" should not be 0 or less that 0')
    since = context.site.now() - timedelta(days=days + 1)
    rows = [row for row in context.site.prearchive if row.uploaded > since and context.has_right("edit", row.project)]
    return row_table(context.requested_format("json"), sorted(rows, key=lambda row: row.uploaded))


async def refresh_prearchive(context: RequestContext) -> web.StreamResponse:
    """Bring the rows in line with the disk (PrearcSessionListResource.handlePut): here they always are."""
    if not context.user.all_data:
        raise HttpError(403, "Only site or data administrators can request a rebuild of the prearchive.")
    return text()


async def job_status(context: RequestContext, key: str) -> web.StreamResponse:
    """Return the messages of the user's archive job by its listener's ID (SQListenerRepresentation).

    They are a text unless another format is asked for; a key that nobody has used has no messages.
    """
    job = context.site.job_statuses.get((context.user.name, key))
    entries = job.entries if job is not None else []
    if context.requested_format("txt") == "json":
        messages = [
            {"status": status.upper(), "msg": one, "terminal": status != "InProgress"} for status, one in entries
        ]
        return web.json_response({"msgs": [messages]})
    return text("StatusLog" + "".join(f"{status.upper()}: {one}\n" for status, one in entries))
