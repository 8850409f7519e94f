"""POST /data/services/archive, the archiving that a commit does by itself, and what is told of such jobs."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import assert_never

import anyio
from aiohttp import web

from .call import Call
from .conflicts import Terms
from .jobs import Job, archive_all, is_auto_archive, overwrites_files, submit
from .pages import Refused, row_table, text, uri_list
from .site import TestXnat
from .state import UNASSIGNED, ArchivedSession, PrearchiveRow, Project, RowStatus
from .tracking import ArchiveFailed, Tracked

__all__ = ["archive_after_commit", "archive_service", "event_tracking", "failure", "timed_out"]

_SOURCE = re.compile(r"(?:/data|/REST)?/prearchive/projects/([^/]+)/([^/]+)/([^/]+)/?")
_ARCHIVED = re.compile(r"(?:/data|/REST)?/archive(?:/.*)?")
_DESTINATION = re.compile(r"(?:/data|/REST)?/archive/projects/([^/]+)(?:/subjects/([^/]+)(?:/experiments/([^/]+))?)?")


async def archive_service(call: Call) -> web.StreamResponse:
    """Archive one session and wait for it, or several in the background (restlet.services.Archiver)."""
    rows = [_source(call, source) for source in _sources(call)]
    overwrite = call.params.get("overwrite") in {"append", "delete"}
    for row, _ in rows:
        if row.status.locked:
            raise Refused(403, "Operation already in progress on this prearchive entry.")
    if len(rows) == 1 and "dest" in call.params and call.xnat.profile.archive_dest_breaks:
        rows[0][0].status = RowStatus.ERROR
        raise failure(call.xnat, rows[0][0], "DataURIA cannot be cast to java.lang.String")
    params = {**call.params, **_destination(call, rows)}
    listener = call.params.get("http-session-listener", "")
    jobs = []
    for row, project in rows:
        terms = Terms(
            override=overwrite,
            overwrite_files=overwrites_files(row, project),
            allow_merge=overwrite or not call.xnat.profile.merge_needs_overwrite,
        )
        jobs.append(Job(row, params, terms, _track(call, row, listener)))
    if len(jobs) > 1:
        for row, _ in rows:
            row.status = RowStatus.ARCHIVING
        call.engine.jobs.start_soon(archive_all, call.xnat, call.engine, jobs)
        return row_table(call.request, call.query, [row for row, _ in rows])
    if listener:
        submit(call.xnat, call.engine, jobs[0])
        return web.Response(status=303, headers={"Location": f"{call.site_url}/app/template/XDATScreen_prearchives.vm"})
    session = await _wait(call, jobs[0])
    if call.params.get("redirect") == "true" or is_auto_archive(call.params, None, rows[0][1]):
        return web.Response(status=303, headers={"Location": f"{call.site_url}/data{session.uri}"})
    return uri_list(f"{call.xnat.profile.archive_prefix}{session.uri}\r\n")


async def archive_after_commit(call: Call, row: PrearchiveRow, project: Project) -> web.Response:
    """Archive as a part of a commit (QueueBasedImageCommit): merging allowed, conflicts not overridden.

    301 and the archive URI as the body, without Location; with a listener's id, 200 at once.
    """
    overwrite_files = call.params.get("overwrite_files") == "true" or overwrites_files(row, project)
    terms = Terms(override=False, overwrite_files=overwrite_files, allow_merge=True)
    listener = call.params.get("http-session-listener", "")
    job = Job(row, call.params, terms, _track(call, row, listener))
    if listener:
        submit(call.xnat, call.engine, job)
        return text("Archival initiated")
    session = await _wait(call, job)
    return uri_list(f"/data{session.uri}", status=301)


async def event_tracking(call: Call, key: str, payload: str = "") -> web.StreamResponse:
    """Tell of a job of one's own under its listener's id (EventTrackingDataApi); 404 before it begins."""
    tracked = call.xnat.tracked.get((call.user.name, key))
    if tracked is None or not tracked.entries:
        raise Refused(404)
    entries = json.dumps({"entryList": [{"status": one, "message": message} for one, message in tracked.entries]})
    if payload:
        return web.Response(text=entries, content_type="application/json")
    final = tracked.outcome
    message = final.message if isinstance(final, ArchiveFailed) else f"/data{final.uri}" if final is not None else None
    found = {"key": key, "payload": entries, "succeeded": tracked.succeeded, "finalMessage": message}
    return web.Response(text=json.dumps(found), content_type="application/json")


def _track(call: Call, row: PrearchiveRow, listener: str) -> Tracked:
    """Return what is known under the listener's id, or else under the key that all requests for a row share."""
    key = listener or f"{row.project}_{row.timestamp}_{row.name}"
    return call.xnat.tracked.setdefault((call.user.name, key), Tracked(key))


def _sources(call: Call) -> Sequence[str]:
    sources = call.values("src")
    if sources:
        return sources
    parts = [call.params.get(key) for key in ("project", "PREARC_TIMESTAMP", "PREARC_SESSION_FOLDER")]
    if None in parts:
        raise Refused(404, "Unknown prearchive session.")
    return ["/prearchive/projects/" + "/".join(filter(None, parts))]


def _source(call: Call, source: str) -> tuple[PrearchiveRow, Project]:
    """Return the row and project of a source, or refuse with the code that Archiver gives."""
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise Refused(400, f"Invalid src URI ({source})" if _ARCHIVED.fullmatch(source) else "src uri is invalid.")
    project_id, timestamp, folder = match.groups()
    if project_id == UNASSIGNED:
        raise Refused(400, "Cannot archive sessions from the Unassigned folder.")
    project = call.xnat.projects.get(project_id)
    if project is None or not call.may("edit", project_id):
        raise Refused(403, f"User {call.user.name} cannot archive into project {project_id}")
    row = call.xnat.find_row(project_id, timestamp, folder)
    if row is None:
        raise Refused(404, f"/prearchive/projects/{project_id}/{timestamp}/{folder} not found.")
    return row, project


def _destination(call: Call, rows: Sequence[tuple[PrearchiveRow, Project]]) -> Mapping[str, str]:
    """Return the names that `dest` gives, where the version takes it."""
    dest = call.params.get("dest")
    if dest is None:
        return {}
    if (match := _DESTINATION.fullmatch(dest)) is None:
        raise Refused(400, f"Invalid destination URI ({dest})")
    project, subject, session = match.groups()
    if any(project != row.project for row, _ in rows):
        raise Refused(501, "Archiving into another project is not part of this test server")
    return {name: value for name, value in (("subject", subject), ("session", session)) if value}


async def _wait(call: Call, job: Job) -> ArchivedSession:
    """Queue a job and wait for it as long as sessionArchiveTimeoutInterval; it goes on after that."""
    submit(call.xnat, call.engine, job)
    outcome: ArchivedSession | ArchiveFailed | None = None
    with anyio.move_on_after(call.xnat.archive_timeout):
        outcome = await job.tracked.result(call.xnat.timing.poll_seconds)
    match outcome:
        case None:
            raise timed_out(job.row)
        case ArchiveFailed() as failed:
            raise failure(call.xnat, job.row, failed.message, conflict=failed.conflict)
        case ArchivedSession() as session:
            return session
        case _:
            assert_never(outcome)


def failure(xnat: TestXnat, row: PrearchiveRow, message: str, *, conflict: bool = False) -> Refused:
    """Return the refusal that tells of a failed archiving; 500 hides the code of a conflict in newer versions."""
    status = 409 if conflict and not xnat.profile.archive_hides_codes else 500
    return Refused(status, f"FAILED: Unable to archive {row.folder}: Operation Failed: {message}")


def timed_out(row: PrearchiveRow) -> Refused:
    """Return the refusal that tells of an archiving that is not done yet (sessionArchiveTimeoutInterval)."""
    message = f"The archive operation for {row.folder} did not complete within the configured timeout interval."
    return Refused(500, message)
