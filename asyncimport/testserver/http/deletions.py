"""DELETE of experiments, scans, subjects and projects; below `/projects/P` it ends the sharing into a project."""

from urllib.parse import unquote

from aiohttp import web

from ..site.archive import ArchivedSession
from ..site.names import escape_parameter
from ..site.projects import GUEST, Project
from ..site.removal import remove_project, remove_scan, remove_session, remove_subject
from ..site.subjects import Subject
from .addresses import FORBIDDEN, session_of_scans, session_to_show, subject_to_show
from .request_context import RequestContext
from .responses import HttpError, text


async def delete_experiment(
    context: RequestContext,
    name: str,
    part: str = "",
    project: str | None = None,
    subject: str | None = None,  # noqa: ARG001 - XNAT does not look at the subject
) -> web.StreamResponse:
    """Delete an experiment, and with `removeFiles` its files; in a project that it is shared into, end the sharing.

    ExperimentResource and SubjAssessmentResource.handleDelete, SecureResource.deleteItem, BaseXnatExperimentdata.delete
    """
    owner = context.find_project(project, "read") if project is not None else None
    session = session_to_show(context, owner, escape_parameter(name))
    if session is None:
        raise HttpError(404, "Unable to find the specified experiment.")
    home = _project(context, owner, session, part)
    if message := _delete_refusal(context, session, home):
        raise HttpError(403, message)
    await _delete_session(context, session, home)
    return text()


async def delete_subject(
    context: RequestContext, subject: str, part: str = "", project: str | None = None
) -> web.StreamResponse:
    """Delete a subject with its sessions, or end the sharing of all of them (BaseXnatSubjectdata.delete).

    What becomes of the subject's sessions in other projects is not read in XNAT's source: they keep it here.
    """
    owner = context.find_project(project, "read") if project is not None else None
    found = subject_to_show(context, owner, escape_parameter(subject))
    if found is None:
        raise HttpError(404, "Unable to find the specified subject.")
    home = _project(context, owner, found, part)
    if not found.is_in(home.id):
        raise HttpError(403, f"Subject is not assigned to specified project {home.id}")
    if not context.allows(home, "delete"):
        raise HttpError(403, f"User cannot delete subjects for project {home.id}")
    sessions = [session for session in context.site.archived if session.subject is found]
    for session in sessions:
        if message := _delete_refusal(context, session, home):
            raise HttpError(403, message)
    for session in sessions:
        await _delete_session(context, session, home)
    if found.project == home.id:
        await remove_subject(context.site, found, files=context.flag("removeFiles"))
    else:
        context.site.unshare(found, home.id)
    return text()


def _project(context: RequestContext, owner: Project | None, item: Subject | ArchivedSession, part: str) -> Project:
    """Return the project to delete from: that of `projects/P`, or of the address, or else the item's own."""
    if part and not part.startswith("projects/"):
        raise HttpError(400, f"Illegal file path '{part}' does not start with 'projects/'.")
    name = part.removeprefix("projects/")
    found = context.find_project(name, "read") if name else owner or context.site.projects.get(item.project)
    if found is None:
        raise HttpError(404, f"Unable to identify project: {name or item.project}")
    if context.lacks_reason:
        raise HttpError(403)
    return found


def _delete_refusal(context: RequestContext, session: ArchivedSession, home: Project) -> str:
    """Return why a user may not delete a session from a project, or an empty text (canDelete)."""
    if not session.is_in(home.id) or context.allows(home, "delete"):
        return ""
    return f"User cannot delete experiments for project {home.id}"


async def _delete_session(context: RequestContext, session: ArchivedSession, home: Project) -> None:
    if session.project == home.id:
        await remove_session(context.site, session, files=context.flag("removeFiles"))
    else:
        context.site.unshare(session, home.id)


async def delete_scan(
    context: RequestContext,
    name: str,
    scan: str,
    part: str = "",
    project: str | None = None,
    subject: str | None = None,  # noqa: ARG001 - XNAT does not look at the subject
) -> web.StreamResponse:
    """Delete a scan, and with `removeFiles` its files (ScanResource.handleDelete)."""
    owner = context.find_project(project, "read") if project is not None else None
    session = session_of_scans(context, owner, escape_parameter(name))
    found = session.scans.get(escape_parameter(unquote(scan))) if session is not None else None
    if session is None or found is None:
        raise HttpError(404, "Unable to find the specified scan.")
    if part:
        raise HttpError(400)
    if not context.has_right("delete", session.project):
        raise HttpError(403, FORBIDDEN)
    if context.lacks_reason:
        raise HttpError(500)
    await remove_scan(context.site, session, found, files=context.flag("removeFiles"))
    return text()


async def delete_project(context: RequestContext, name: str) -> web.StreamResponse:
    """Delete a project with its subjects, sessions and prearchive (ProjectResource.handleDelete).

    If one of its subjects has a session of another project, the subject and the project stay, and the reply is a 200
    all the same (BaseXnatProjectdata.delete). An unknown project is a 400. The ID of a deleted project cannot be used
    again.
    """
    project = context.find_project(name, "read")
    if project is None:
        raise HttpError(400)
    if context.user is GUEST or not context.allows(project, "delete"):
        raise HttpError(403)
    if context.lacks_reason:
        raise HttpError(500)
    files = context.flag("removeFiles")
    sessions = [one for one in context.site.archived if one.is_in(project.id) or one.subject.project == project.id]
    needed: set[str] = set()
    for session in sessions:
        if session.project == project.id:
            await remove_session(context.site, session, files=files)
        else:
            needed.add(session.subject.id)
            context.site.unshare(session, project.id)
    kept = False
    for subject in [one for one in context.site.subjects() if one.is_in(project.id)]:
        if subject.project != project.id:
            context.site.unshare(subject, project.id)
        elif subject.id in needed:
            kept = True
        else:
            await remove_subject(context.site, subject, files=files)
    if not kept:
        await remove_project(context.site, project, files=files)
    return text()
