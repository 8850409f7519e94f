"""PUT of experiments and of their scans.

A test server has image sessions only. XNAT's other experiments, and documents in the body, are a 501.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from aiohttp import web

from ..site.archive import ArchivedSession, Scan
from ..site.demographics import InvalidValueError
from ..site.header_pull import pull_headers
from ..site.item_values import SCAN_TYPES, SESSION_TYPES, ItemValues, scan_values, session_values, update_scan
from ..site.item_values import update_session as set_fields
from ..site.names import escape_parameter, is_label
from ..site.projects import Project
from ..site.removal import relocate
from ..site.resources import Series
from ..site.subjects import Subject
from .addresses import session_of_scans, session_of_uri, subject_to_change
from .request_context import RequestContext
from .responses import HttpError, text
from .sharing import share_session

_OTHER_PROJECT = "Project must be modified through separate URI."
_NO_CONTENTS = "Need PUT Contents"
_XML_TYPES = frozenset({"text/xml", "application/xml", "multipart/form-data"})


@dataclass(frozen=True, slots=True)
class _Target:
    """What a request says about an experiment."""

    project: Project
    xsi_type: str
    values: ItemValues
    home: str
    """The project that the request gives the session, or that it has; empty if neither."""


async def put_experiment(
    context: RequestContext, name: str, part: str = "", project: str | None = None, subject: str | None = None
) -> web.StreamResponse:
    """Create an experiment (201) or change it (200); the body is its accession ID.

    As SubjAssessmentResource.handlePut below a subject, which is created if there is none, and otherwise
    ExperimentResource.handlePut, where the `subject_ID` of the query is the subject.
    For an existing experiment, a `label` in the query renames it, or does nothing, and everything else is ignored: 200
    without a body.
    """
    if part.startswith(("assessors", "reconstructions")) and (project is None) == (subject is None):
        raise HttpError(501, f"The {part.partition('/')[0]} of experiments are not part of this test server")
    owner = context.find_project(project, "read") if project is not None else None
    name = escape_parameter(name)
    existing = _find(context, owner, name, below_subject=subject is not None)
    if part:
        return await _share(context, owner, name, part, existing, below_subject=subject is not None)
    target = _target(context, owner, existing)
    label = target.values.take("label") or (existing.label if existing is not None else name)
    new_id = target.values.take("ID")
    found = existing or _find_again(context, target, label, new_id)
    if found is None:
        return await _create(context, target, label, new_id, subject)
    if found.project != target.home:
        raise HttpError(409, _OTHER_PROJECT)
    if not context.has_right("edit", found.project):
        raise _insufficient("edit")
    if renamed := context.query.get("label"):
        await _rename(context, target.project, found, renamed)
        return text()
    if new_id and new_id != found.id:
        raise HttpError(400, "ID cannot be modified")
    if label != found.label:
        raise HttpError(400, "Label must be modified through separate URI.")
    return await _change(context, target, found, subject)


def _find(context: RequestContext, owner: Project | None, name: str, *, below_subject: bool) -> ArchivedSession | None:
    """Return the experiment of an address: its label in the project comes before its ID."""
    if below_subject:
        return session_of_uri(context, owner, name) if owner is not None else None
    by_label = context.site.experiment_labelled(owner.id, name) if owner is not None else None
    if by_label is not None and session_of_scans(context, None, by_label.id) is not None:
        return by_label
    # ExperimentResource looks for the ID only if the request does not describe an experiment.
    return None if _xsi_type(context) else session_of_scans(context, None, name)


def _find_again(context: RequestContext, target: _Target, label: str, new_id: str) -> ArchivedSession | None:
    """Return the experiment that the values of a request mean (getExistingExperiment)."""
    return context.site.experiment(new_id) or context.site.experiment_labelled(target.home or target.project.id, label)


async def _share(
    context: RequestContext,
    owner: Project | None,
    name: str,
    part: str,
    existing: ArchivedSession | None,
    *,
    below_subject: bool,
) -> web.StreamResponse:
    """Share an experiment; the only part of it that takes a PUT is `projects/P`."""
    existing = existing or session_of_scans(context, owner, name)
    if existing is None:
        raise HttpError(417, _NO_CONTENTS)
    if not part.startswith("projects/"):
        raise HttpError(400)
    return await share_session(context, existing, part.removeprefix("projects/"), below_subject=below_subject)


def _target(context: RequestContext, owner: Project | None, existing: ArchivedSession | None) -> _Target:
    """Read a request (SecureResource.loadItem)."""
    asked = _requested_type(context)
    xsi_type = existing.xsi_type if existing is not None else asked
    if not xsi_type:
        raise HttpError(417, _NO_CONTENTS)
    if existing is None:
        xsi_type = _known_type(xsi_type, SESSION_TYPES, SCAN_TYPES)
    try:
        values = session_values(_params(context), xsi_type)
    except InvalidValueError as error:
        raise HttpError(400, str(error)) from None
    home = values.take("project") or (existing.project if existing is not None else "")
    if owner is None and home:
        owner = context.find_project(home, "read")
    if owner is None:
        raise HttpError(422, "Submitted experiment record must include the project attribute.")
    if existing is None and home not in {"", owner.id}:
        raise HttpError(501, "Experiments of one project below another are not part of this test server")
    return _Target(owner, xsi_type, values, home)


def _known_type(asked: str, known: Mapping[str, str], others: Mapping[str, str]) -> str:
    """Return a type by its name in any letter case."""
    if (found := known.get(asked.lower())) is not None:
        return found
    if asked.lower() in others or asked in {"xnat:subjectData", "xnat:projectData"}:
        raise HttpError(422, "Only xnat:Subject documents can be PUT to this address.")
    if asked.startswith("xnat:") and asked.endswith("Data"):
        raise HttpError(501, f"Experiments of the type {asked} are not part of this test server")
    raise HttpError(400)  # an ElementNotFoundException


def _requested_type(context: RequestContext) -> str:
    """Return the xsi:type that a request names, by a parameter of that name or as the beginning of a path."""
    if context.request.content_type in _XML_TYPES and context.request.can_read_body:
        raise HttpError(501, "Documents of experiments are not part of this test server")
    return _xsi_type(context)


def _xsi_type(context: RequestContext) -> str:
    params = _params(context)
    named = params.get("ELEMENT_0") or params.get("xsiType")
    return named or next((key.partition("/")[0] for key in params if ":" in key and "/" in key), "")


def _params(context: RequestContext) -> Mapping[str, str]:
    """Return the parameters that describe an item: those of a form only with req_format=form."""
    return context.params if context.query.get("req_format") == "form" else context.query


async def _create(
    context: RequestContext, target: _Target, label: str, new_id: str, subject: str | None
) -> web.StreamResponse:
    """Create an experiment, and its subject if there is none."""
    owner = target.project
    if not context.allows(owner, "create"):
        raise _insufficient("create")
    if context.lacks_reason:
        raise HttpError(500)  # JustificationAbsent has no text
    wanted = target.values.take("subject_ID") if subject is None else escape_parameter(subject)
    target.values.take("subject_ID")
    if not wanted:
        raise HttpError(501, "Experiments without a subject are not part of this test server")
    if not is_label(new_id):
        raise HttpError(417, "Invalid character in experiment label.")
    if not is_label(label):
        raise HttpError(500)  # refused in preSave
    session = ArchivedSession(
        id=new_id or context.site.next_accession("E"),
        project=owner.id,
        subject=_subject(context, owner, wanted),
        label=label,
        study_uid="",
        xsi_type=target.xsi_type,
        date="",
        inserted=context.site.now(),
    )
    if not target.values.stopped:
        set_fields(session, target.values)  # otherwise XNAT swallows the exception, and with it all values
    context.site.add_experiment(session)
    return text(session.id, status=201)


async def _change(
    context: RequestContext, target: _Target, existing: ArchivedSession, subject: str | None
) -> web.StreamResponse:
    """Change an experiment; a subject in the address, or `subject_ID` in the query, becomes its subject.

    `pullDataFromHeaders` fills it in from its files. `fixScanTypes` and `triggerPipelines` have no effect here.
    """
    if context.lacks_reason:
        raise HttpError(500)  # JustificationAbsent has no text
    target.values.take("subject_ID")
    if wanted := context.query.get("subject_ID"):
        existing.subject = _subject(context, target.project, wanted)
    elif subject is not None:
        found = subject_to_change(context, target.project, escape_parameter(subject))
        existing.subject = found or existing.subject
    set_fields(existing, target.values)
    if context.flag("pullDataFromHeaders"):
        await pull_headers(context.site, existing)
    return text(existing.id)


def _subject(context: RequestContext, owner: Project, name: str) -> Subject:
    """Return a project's subject by label or ID; creates one with this label if there is none."""
    if (found := subject_to_change(context, owner, name)) is not None:
        return found
    if not context.allows(owner, "create"):
        raise HttpError(
            403, f"User {context.user.name} has insufficient create privileges for subjects in this project."
        )
    if not is_label(name):
        raise HttpError(500)
    return context.site.add_subject(owner.id, name, by=context.user.name)


async def _rename(context: RequestContext, owner: Project, session: ArchivedSession, label: str) -> None:
    """Give a session another label, and move its files (org.nrg.xnat.archive.Rename)."""
    if label == session.label:
        return
    if context.site.experiment_labelled(owner.id, label) is not None:
        raise HttpError(409, "Specified label is already in use.")
    if session.workflow:
        raise HttpError(409, f"Specified session is being processed ({session.workflow}).")
    if context.site.orphans.get((owner.id, label)):
        raise HttpError(409, "File system destination contains pre-existing files")
    if context.lacks_reason or not is_label(label):
        raise HttpError(500)
    await relocate(context.site, session, session.project, label)


async def post_item(context: RequestContext, **_: str) -> web.StreamResponse:
    """Refuse a POST to a list of experiments or scans (ProjSubExptList, ScanList): XNAT takes documents there."""
    raise HttpError(501, f"A POST to {context.path} is not part of this test server: use a PUT")


def _insufficient(right: str) -> HttpError:
    message = f"Specified user account has insufficient {right} privileges for experiments in this project."
    return HttpError(403, message)


async def put_scan(
    context: RequestContext,
    name: str,
    scan: str,
    part: str = "",
    project: str | None = None,
    subject: str | None = None,  # noqa: ARG001 - XNAT does not look at the subject
) -> web.StreamResponse:
    """Create or change a scan: 200 with an empty body either way (ScanResource.handlePut)."""
    if part:
        raise HttpError(501 if part.startswith("projects/") else 400, "Scans are not shared by this test server")
    owner = context.find_project(project, "read") if project is not None else None
    session = session_of_scans(context, owner, escape_parameter(name))
    scan_id = escape_parameter(unquote(scan))
    existing = session.scans.get(scan_id) if session is not None else None
    asked = _requested_type(context) or (existing.xsi_type if existing is not None else "")
    if not asked:
        raise HttpError(417, _NO_CONTENTS)
    xsi_type = _scan_type(asked)
    try:
        values = scan_values(_params(context), xsi_type)
    except InvalidValueError as error:
        raise HttpError(400, str(error)) from None
    if session is None:
        raise HttpError(417, "Specified scan must reference a valid image session.")
    scan_id = values.take("ID") or scan_id
    values.take("image_session_ID")
    existing = session.scans.get(scan_id)
    if not context.has_right("edit", session.project):
        right = "create" if existing is None else "edit"
        message = f"Specified user account has insufficient {right} privileges for sessions in this project."
        raise HttpError(403, message)
    if existing is not None and existing.xsi_type != xsi_type:
        raise HttpError(409, "Specified xsiType differs from existing xsiType")
    if context.lacks_reason:
        raise HttpError(500)
    if existing is None:
        existing = _new_scan(context, scan_id, xsi_type)
        session.scans[scan_id] = existing
    if not values.stopped:
        update_scan(existing, values)
    return text()


def _scan_type(asked: str) -> str:
    if (found := SCAN_TYPES.get(asked.lower())) is not None:
        return found
    if asked == "xnat:imageScanData":
        message = (
            "Multiple scan modalities can be associated here.  Please retry with the specification of a particular "
            "modality (i.e. ?xsiType=xnat:mrScanData)."
        )
        raise HttpError(400, message)
    if asked.lower() in SESSION_TYPES or asked == "xnat:subjectData":
        message = f"Only Scan documents can be PUT to this address. Expected: xnat:imageScanData Received: {asked}"
        raise HttpError(400, message)
    raise HttpError(400)  # an ElementNotFoundException


def _new_scan(context: RequestContext, scan_id: str, xsi_type: str) -> Scan:
    scan = context.site.new_scan(scan_id, Series("", scan_id, "", ""))
    scan.declared_type = xsi_type
    return scan
