"""Sharing of subjects and sessions into other projects, and moving them there."""

from aiohttp import web

from ..site.archive import ArchivedSession
from ..site.projects import Project
from ..site.removal import relocate
from ..site.subjects import Subject
from .request_context import RequestContext
from .responses import HttpError, table, text


def project_list(context: RequestContext, item: Subject | ArchivedSession) -> web.Response:
    """List the projects of an item, its own first (representProjectsForArchivableItem)."""
    labels = {item.project: item.label or item.id, **{name: label or item.id for name, label in item.shares.items()}}
    projects = context.site.projects
    rows = [(label, name, name, projects[name].name or name) for name, label in labels.items() if name in projects]
    return table(context.requested_format("json"), ["label", "ID", "Secondary_ID", "Name"], rows)


async def share_subject(context: RequestContext, subject: Subject | None, name: str) -> web.StreamResponse:
    """Share a subject, or with `primary=true` move it (SubjectResource.handlePut); the reply lists its projects.

    A new label for a project that has it already is set. That the 403 is also the reply for an unknown subject is not
    read in XNAT's source.
    """
    if subject is None or not any(context.has_right("read", one) for one in (subject.project, *subject.shares)):
        message = "Specified user account has insufficient privileges for subjects in this project."
        raise HttpError(403, message)
    target = _target(context, name)
    label = context.query.get("label", "")
    shared = target.id in subject.shares
    if label and shared and subject.shares[target.id] != label:
        if context.site.subject_labelled(target.id, label) is not None:
            raise HttpError(409, f"Label already in use:{label}")
        context.site.share(subject, target.id, label)
        if not context.flag("primary"):
            return project_list(context, subject)
    if context.flag("primary"):
        if not context.has_right("delete", subject.project):
            message = "Specified user account has insufficient privileges for subjects in this project."
            raise HttpError(403, message)
        context.site.unshare(subject, target.id)
        await relocate(context.site, subject, target.id, label or subject.label)
        return project_list(context, subject)
    if shared:
        raise HttpError(409, f"Already assigned to project:{target.id}")
    if label and context.site.subject_labelled(target.id, label) is not None:
        raise HttpError(409, f"Label already in use:{label}")
    _check_create(context, target, "subjects")
    context.site.share(subject, target.id, label)
    return project_list(context, subject)


async def share_session(
    context: RequestContext, session: ArchivedSession, name: str, *, below_subject: bool
) -> web.StreamResponse:
    """Share a session (the reply lists its projects), or with `primary=true` move it (the reply is empty).

    As SubjAssessmentResource.handlePut below a subject, and ExperimentResource.handlePut, which lets a session be
    shared into its own project. A new label for a project that has it already is set, and the reply is a 409.
    """
    target = _target(context, name)
    if below_subject and session.project == target.id:
        raise HttpError(409, f"Already assigned to project:{target.id}")
    label = context.query.get("label", "")
    shared = target.id in session.shares
    if label and shared and session.shares[target.id] != label:
        context.site.share(session, target.id, label)
    if context.query.get("primary") == "true":
        return await _move_session(context, session, target, label)
    if shared:
        raise HttpError(409, f"Already assigned to project:{target.id}")
    if label and context.site.experiment_labelled(target.id, label) is not None:
        raise HttpError(409, f"Label already in use:{label}")
    _check_create(context, target, "experiments")
    context.site.share(session, target.id, label)
    return project_list(context, session)


async def _move_session(
    context: RequestContext, session: ArchivedSession, target: Project, label: str
) -> web.StreamResponse:
    """Make a session another project's own (SecureResource.changeExperimentPrimaryProject)."""
    if not context.has_right("delete", session.project):
        message = "Specified user account has insufficient privileges for experiments in this project."
        raise HttpError(403, message)
    if session.project == target.id:
        raise HttpError(409, f"Already assigned to project: {target.id}")
    label = label or session.label or session.id
    if context.site.experiment_labelled(target.id, label) not in {None, session}:
        raise HttpError(409, "Specified label is already in use.")
    context.site.unshare(session, target.id)
    await relocate(context.site, session, target.id, label)
    return text()


def _target(context: RequestContext, name: str) -> Project:
    """Return the project to share into; an alias does not count."""
    project = context.site.projects.get(name)
    if project is None or not context.allows(project, "read"):
        raise HttpError(404, f"Unable to identify project: {name}")
    if context.lacks_reason:
        raise HttpError(500)  # JustificationAbsent has no text
    return project


def _check_create(context: RequestContext, target: Project, kind: str) -> None:
    if not context.allows(target, "create"):
        message = f"Specified user account has insufficient create privileges for {kind} in the {target.id} project."
        raise HttpError(403, message)
