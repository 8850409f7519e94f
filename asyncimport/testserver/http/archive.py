"""POST /data/services/archive, the archiving of a commit, and the tracking of archive jobs."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import assert_never

import anyio
from aiohttp import web

from ..site.archive import ArchivedSession
from ..site.archive_jobs import ArchiveError, JobStatus
from ..site.archiving import Job, archive_all, is_auto_archive, overwrites_files, submit
from ..site.conflicts import MergeOptions
from ..site.prearchive import PrearchiveRow, RowStatus
from ..site.projects import UNASSIGNED, Project
from ..site.site import Site
from ..site.workers import move_row
from .request_context import RequestContext
from .responses import HttpError, row_table, text, uri_list

PREARCHIVE_URI = re.compile(r"(?:/data|/REST)?/prearchive/projects/([^/]+)/([^/]+)/([^/]+)/?")
_ARCHIVED = re.compile(r"(?:/data|/REST)?/archive(?:/.*)?")
_DESTINATION = re.compile(r"(?:/data|/REST)?/archive/projects/([^/]+)(?:/subjects/([^/]+)(?:/experiments/([^/]+))?)?")


async def archive_service(context: RequestContext) -> web.StreamResponse:
    """Archive one session and wait for it, or several in the background (restlet.services.Archiver)."""
    rows = [_source(context, source) for source in _sources(context)]
    overwrite = context.params.get("overwrite") in {"append", "delete"}
    for row, _ in rows:
        if row.status.is_locked:
            raise HttpError(403, "Operation already in progress on this prearchive entry.")
    if len(rows) == 1 and "dest" in context.params and context.site.profile.archive_dest_breaks:
        rows[0][0].status = RowStatus.ERROR
        raise archive_failure(context.site, rows[0][0], "DataURIA cannot be cast to java.lang.String")
    target, labels = _destination(context)
    if target is not None:
        rows = [(await _moved(context, row, target), target) for row, _ in rows]
    params = {**context.params, **labels}
    listener = context.params.get("http-session-listener", "")
    jobs = []
    for row, project in rows:
        options = MergeOptions(
            override=overwrite,
            overwrite_files=overwrites_files(row, project),
            allow_merge=overwrite or not context.site.profile.merge_needs_overwrite,
        )
        jobs.append(Job(row, params, options, _job_status(context, row, listener)))
    if len(jobs) > 1:
        for row, _ in rows:
            row.status = RowStatus.ARCHIVING
        context.runtime.jobs.start_soon(archive_all, context.site, context.runtime, jobs)
        return row_table(context.requested_format("json"), [row for row, _ in rows])
    if listener:
        submit(context.site, context.runtime, jobs[0])
        return web.Response(
            status=303, headers={"Location": f"{context.site_url}/app/template/XDATScreen_prearchives.vm"}
        )
    session = await wait_for_archive(context, jobs[0])
    if context.params.get("redirect") == "true" or is_auto_archive(context.params, None, rows[0][1]):
        return web.Response(status=303, headers={"Location": f"{context.site_url}/data{session.uri}"})
    return uri_list(f"{context.site.profile.archive_prefix}{session.uri}\r\n")


async def archive_after_commit(context: RequestContext, row: PrearchiveRow, project: Project) -> web.Response:
    """Archive as a part of a commit (QueueBasedImageCommit): merging is allowed, conflicts are not overridden.

    The reply is a 301 in plain text (SecureResource.returnString) with the archive URI as the body and no Location;
    with a listener's ID, a 200 at once.
    """
    overwrite_files = context.params.get("overwrite_files") == "true" or overwrites_files(row, project)
    listener = context.params.get("http-session-listener", "")
    options = MergeOptions(overwrite_files=overwrite_files)
    job = Job(row, context.params, options, _job_status(context, row, listener))
    if listener:
        submit(context.site, context.runtime, job)
        return text("Archival initiated")
    session = await wait_for_archive(context, job)
    return text(f"/data{session.uri}", status=301)


async def event_tracking(context: RequestContext, key: str, payload: str = "") -> web.StreamResponse:
    """Return the status of the user's own job by its listener's ID (EventTrackingDataApi); 404 before it begins."""
    job = context.site.job_statuses.get((context.user.name, key)) if context.site.profile.has_event_tracking else None
    if job is None or not job.entries:
        raise HttpError(404)
    entries = json.dumps({"entryList": [{"status": status, "message": message} for status, message in job.entries]})
    if payload:
        return web.Response(text=entries, content_type="application/json")
    outcome = job.outcome
    message = None
    if outcome is not None:
        message = outcome.message if isinstance(outcome, ArchiveError) else f"/data{outcome.uri}"
    found = {"key": key, "payload": entries, "succeeded": job.succeeded, "finalMessage": message}
    return web.json_response(found)


def _job_status(context: RequestContext, row: PrearchiveRow, listener: str) -> JobStatus:
    """Return the status under the listener's ID, or else under the key that all requests for a row share."""
    key = listener or f"{row.project}_{row.timestamp}_{row.name}"
    return context.site.job_statuses.setdefault((context.user.name, key), JobStatus(key))


def _sources(context: RequestContext) -> Sequence[str]:
    sources = context.values("src")
    if sources:
        return sources
    parts = [context.params.get(key) for key in ("project", "PREARC_TIMESTAMP", "PREARC_SESSION_FOLDER")]
    if None in parts:
        raise HttpError(404, "Unknown prearchive session.")
    return ["/prearchive/projects/" + "/".join(filter(None, parts))]


def _source(context: RequestContext, source: str) -> tuple[PrearchiveRow, Project]:
    """Return the row and project of a source. Raises HttpError with the code that Archiver gives."""
    match = PREARCHIVE_URI.fullmatch(source)
    if match is None:
        raise HttpError(400, f"Invalid src URI ({source})" if _ARCHIVED.fullmatch(source) else "src uri is invalid.")
    project_id, timestamp, folder = match.groups()
    if project_id == UNASSIGNED:
        raise HttpError(400, "Cannot archive sessions from the Unassigned folder.")
    project = context.site.projects.get(project_id)
    if project is None or not context.has_right("edit", project_id):
        raise HttpError(403, f"User {context.user.name} cannot archive into project {project_id}")
    row = context.site.find_row(project_id, timestamp, folder)
    if row is None:
        raise HttpError(404, f"/prearchive/projects/{project_id}/{timestamp}/{folder} not found.")
    return row, project


def _destination(context: RequestContext) -> tuple[Project | None, Mapping[str, str]]:
    """Return the project and the labels that `dest` gives."""
    dest = context.params.get("dest")
    if dest is None:
        return None, {}
    if (match := _DESTINATION.fullmatch(dest)) is None:
        raise HttpError(400, f"Invalid destination URI ({dest})")
    name, subject, session = match.groups()
    if (project := context.find_project(name, "edit")) is None:
        raise HttpError(403, f"User {context.user.name} cannot archive into project {name}")
    labels = {"subject": subject, "session": session}
    return project, {name: value for name, value in labels.items() if value}


async def _moved(context: RequestContext, row: PrearchiveRow, project: Project) -> PrearchiveRow:
    """Move a row to the project it is archived in; how XNAT does this was not read in its source."""
    if row.project != project.id:
        if context.site.find_row(project.id, row.timestamp, row.folder) is not None:
            raise HttpError(409, "A session of that name exists in the project")
        await move_row(context.site, row, project)
    return row


async def wait_for_archive(context: RequestContext, job: Job) -> ArchivedSession:
    """Queue a job and wait for it, up to sessionArchiveTimeoutInterval; the job goes on after that."""
    submit(context.site, context.runtime, job)
    outcome: ArchivedSession | ArchiveError | None = None
    with anyio.move_on_after(context.site.archive_timeout):
        outcome = await job.status.result(context.site.timing.poll_seconds)
    match outcome:
        case None:
            raise archive_timeout(job.row)
        case ArchiveError() as error:
            raise archive_failure(context.site, job.row, error.message, conflict=error.conflict)
        case ArchivedSession() as session:
            return session
        case _:
            assert_never(outcome)


def archive_failure(site: Site, row: PrearchiveRow, message: str, *, conflict: bool = False) -> HttpError:
    """Return the error of a failed archiving; in newer versions, a conflict is a 500 too (QueueBasedImageCommit)."""
    if not site.profile.archive_hides_codes:
        return HttpError(409 if conflict else 500, message)
    return HttpError(500, f"FAILED: Unable to archive {row.folder}: Operation Failed: {message}")


def archive_timeout(row: PrearchiveRow) -> HttpError:
    """Return the error of an archiving that is not done yet (sessionArchiveTimeoutInterval)."""
    message = f"The archive operation for {row.folder} did not complete within the configured timeout interval."
    return HttpError(500, message)
