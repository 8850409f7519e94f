"""POST /data/services/archive, and the archiving that a commit does by itself."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import assert_never

import anyio
from aiohttp import web

from .archiving import ArchiveFailed, Terms, plan_merge, target_names
from .call import Call
from .pages import Refused, row_table, uri_list
from .state import UNASSIGNED, ArchivedSession, PrearchiveRow, Project, RowStatus

__all__ = ["archive_in_request", "archive_service", "is_auto_archive", "overwrites_files"]

_SOURCE = re.compile(r"(?:/data|/REST)?/prearchive/projects/([^/]+)/([^/]+)/([^/]+)/?")
_ARCHIVED = re.compile(r"(?:/data|/REST)?/archive(?:/.*)?")
_BOOLEANS = dict.fromkeys(("true", "yes", "on"), True) | dict.fromkeys(("false", "no", "off"), False)
_AUTO_ARCHIVE_CODE = 4
_OVERWRITE_CODE = 5


@dataclass(slots=True)
class _Job:
    """One archiving, which goes on when nobody waits for it any more."""

    row: PrearchiveRow
    params: Mapping[str, str]
    terms: Terms
    done: anyio.Event = field(default_factory=anyio.Event)
    outcome: ArchivedSession | ArchiveFailed | None = None


def is_auto_archive(params: Mapping[str, str], row: PrearchiveRow | None, project: Project) -> bool:
    """Tell whether a session is archived by itself (PrearcSession.isAutoArchive).

    The row decides first, then any parameter whose name *contains* AA or auto-archive, then the project.
    """
    if row is not None and row.autoarchive in {"AutoArchive", "AutoArchiveOverwrite"}:
        return True
    for name, value in params.items():
        if ("AA" in name or "auto-archive" in name) and value.lower() in _BOOLEANS:
            return _BOOLEANS[value.lower()]
    return project.prearchive_code >= _AUTO_ARCHIVE_CODE


def overwrites_files(row: PrearchiveRow, project: Project) -> bool:
    """Tell whether files of the same name are replaced (PrearcSession.isOverwriteFiles)."""
    return row.autoarchive == "AutoArchiveOverwrite" or project.prearchive_code == _OVERWRITE_CODE


async def archive_service(call: Call) -> web.StreamResponse:
    """Archive one session and wait for it, or several in the background (restlet.services.Archiver)."""
    rows = [_source(call, source) for source in _sources(call)]
    overwrite = call.params.get("overwrite") in {"append", "delete"}
    jobs = []
    for row, project in rows:
        if row.status.locked:
            raise Refused(403, "Operation already in progress on this prearchive entry.")
        terms = Terms(
            override=overwrite,
            overwrite_files=overwrites_files(row, project),
            allow_merge=overwrite or not call.xnat.profile.merge_needs_overwrite,
        )
        jobs.append(_Job(row, call.params, terms))
    if len(jobs) > 1:
        for row, _ in rows:
            row.status = RowStatus.ARCHIVING
        call.engine.jobs.start_soon(_archive_all, call, jobs)
        return row_table(call.request, call.query, [row for row, _ in rows])
    row, project = rows[0]
    if "dest" in call.params and call.xnat.profile.archive_dest_breaks:
        row.status = RowStatus.ERROR
        raise Refused(500, _failure(row, "DataURIA cannot be cast to java.lang.String"))
    session = await _wait(call, jobs[0])
    uri = f"/data{session.uri}"
    if call.params.get("redirect") == "true" or is_auto_archive(call.params, None, project):
        return web.Response(status=303, headers={"Location": call.site_url + uri})
    return uri_list(f"{uri}\r\n")


async def archive_in_request(call: Call, row: PrearchiveRow, *, overwrite_files: bool) -> ArchivedSession:
    """Archive as a part of a commit (QueueBasedImageCommit): merging allowed, conflicts not overridden."""
    terms = Terms(override=False, overwrite_files=overwrite_files, allow_merge=True)
    return await _wait(call, _Job(row, call.params, terms))


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
    if project is None or not project.allows(call.user, "edit"):
        raise Refused(403, f"User {call.user.name} cannot archive into project {project_id}")
    row = call.xnat.find_row(project_id, timestamp, folder)
    if row is None:
        raise Refused(404, f"/prearchive/projects/{project_id}/{timestamp}/{folder} not found.")
    return row, project


async def _wait(call: Call, job: _Job) -> ArchivedSession:
    """Start a job and wait for it as long as sessionArchiveTimeoutInterval; it goes on after that."""
    job.row.status = RowStatus.ARCHIVING
    call.engine.jobs.start_soon(_archive, call, job)
    with anyio.move_on_after(call.xnat.archive_timeout):
        await job.done.wait()
    match job.outcome:
        case None:
            raise Refused(
                500,
                f"The archive operation for {job.row.folder} did not complete within the configured timeout interval.",
            )
        case ArchiveFailed() as failed:
            hidden = call.xnat.profile.archive_hides_codes or not failed.conflict
            raise Refused(500 if hidden else 409, _failure(job.row, failed.message))
        case ArchivedSession() as session:
            return session
        case _:
            assert_never(job.outcome)


def _failure(row: PrearchiveRow, message: str) -> str:
    return f"FAILED: Unable to archive {row.folder}: Operation Failed: {message}"


async def _archive_all(call: Call, jobs: Sequence[_Job]) -> None:
    for job in jobs:
        await _archive(call, job)


async def _archive(call: Call, job: _Job) -> None:
    """Run a job under the locks of its row and of the session it goes to (PrearcDatabase.LockAndSync)."""
    try:
        job.outcome = await _archive_locked(call, job)
    except ArchiveFailed as failed:
        job.outcome = failed
    finally:
        job.done.set()


async def _archive_locked(call: Call, job: _Job) -> ArchivedSession:
    row, targets = job.row, call.engine.targets
    if row.status.locked or row not in call.xnat:
        raise ArchiveFailed("Duplicate archive attempt. Prearchive session already archiving.")
    row.status = RowStatus.LOCKED_ARCHIVING
    target = call.xnat.experiment(target_names(row, job.params)[0], row.project)
    try:
        with _held(targets, target):
            return await _merge(call, job)
    except ArchiveFailed as failed:
        row.status = RowStatus.CONFLICT if failed.conflict else RowStatus.ERROR
        row.logs.append(failed.message)
        raise


async def _merge(call: Call, job: _Job) -> ArchivedSession:
    """Move a session's files and state into the archive (PrearcSessionArchiver.call)."""
    row, xnat = job.row, call.xnat
    on_disk = {folder: set(files) for folder, files in row.scans.items()}
    if xnat.archive_seconds:
        await anyio.sleep(xnat.archive_seconds)
    # XNAT locks a session that exists, so that two new ones of one label may collide; here they are merged
    # one after the other.
    async with call.engine.archive_lock:
        merge = plan_merge(xnat, row, job.params, job.terms, on_disk)
        await xnat.storage.move(merge.moves())
        merge.apply(xnat)
    xnat.remove_row(row)
    await xnat.storage.remove(row.path)
    return merge.session


@contextmanager
def _held(targets: set[ArchivedSession], target: ArchivedSession | None) -> Iterator[None]:
    """Mark an existing session as being merged into, or fail when another job has done so."""
    if target is None:
        yield
        return
    if target in targets:
        raise ArchiveFailed("Duplicate archive attempt.  Destination session in use.")
    targets.add(target)
    try:
        yield
    finally:
        targets.discard(target)
