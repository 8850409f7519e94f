"""Subjects: creating, changing, listing and showing them."""

from collections.abc import Callable, Mapping
from typing import Any

import anyio
from aiohttp import web

from ..site.demographics import (
    DEMOGRAPHICS,
    DocumentError,
    InvalidValueError,
    SubjectValues,
    subject_xml,
    update_subject,
    values_from_params,
    values_from_xml,
)
from ..site.names import escape_parameter, is_label, sql_timestamp
from ..site.projects import Project
from ..site.subjects import Subject
from .addresses import items_to_list, subject_to_change, subject_to_show
from .listings import item, item_json, matches, requested_columns
from .request_context import RequestContext
from .responses import HttpError, table, text
from .sharing import project_list, share_subject

_NO_PROJECT = "Submitted subject record must include the project attribute."
_FIELDS: Mapping[str, Callable[[Subject], object]] = {
    "ID": lambda subject: subject.id,
    "project": lambda subject: subject.project,
    "label": lambda subject: subject.label,
    "insert_date": lambda subject: sql_timestamp(subject.inserted),
    "insert_user": lambda subject: subject.inserted_by,
    "xsiType": lambda _: "xnat:subjectData",
}
_DEFAULTS = ["ID", "project", "label", "insert_date", "insert_user"]
_MORE = ("group", "src", "pi_firstname", "pi_lastname", *DEMOGRAPHICS)


def _value(subject: Subject, name: str) -> object:
    if name in _FIELDS:
        return _FIELDS[name](subject)
    return subject.demographics.get(name, subject.fields.get(name, ""))


def _cell(subject: Subject, name: str, project: str | None) -> object:
    return subject.label_in(project) if name == "label" else _value(subject, name)


async def list_subjects(context: RequestContext, project: str | None = None) -> web.StreamResponse:
    """List the subjects of the site (SubjectListResource), or of a project (ProjectSubjectList).

    A shared subject has its label in this project; a filter applies to the label in its own project. The ID is in every
    row, as it is the key (QueryOrganizer.setPKField).
    """
    found, owner = items_to_list(context, context.site.subjects(), project)
    project_id = owner.id if owner is not None else None
    known = [*_FIELDS, *_MORE]
    columns = list(dict.fromkeys(["ID", *requested_columns(context.query, known, _DEFAULTS)]))
    for key, pattern in context.query.items():
        name = key.rpartition("/")[2]
        if name in known and name != "xsiType":
            found = [subject for subject in found if matches(str(_value(subject, name)), pattern)]
    rows = [(*(_cell(one, name, project_id) for name in columns), f"/data/subjects/{one.id}") for one in found]
    return table(context.requested_format("json"), [*columns, "URI"], rows, title="Subjects")


async def get_subject(
    context: RequestContext, subject: str, project: str | None = None, part: str = ""
) -> web.StreamResponse:
    """Return a subject (SubjectResource.represent); its demographics are a child item, with real numbers.

    An accession ID of any project comes before a label of the project; for PUT it is the other way round. XNAT serves
    the subject itself also for what follows it in an address that no other class has.
    """
    owner = context.find_project(project, "read") if project is not None else None
    found = subject_to_show(context, owner, subject)
    if found is None:
        raise HttpError(404, "Unable to find the specified subject.")
    if part == "status":
        return text("active")
    if part.startswith("projects"):
        return project_list(context, found)
    fields: dict[str, Any] = {"ID": found.id, "project": found.project, "label": found.label, **found.fields}
    children = []
    if found.demographics:
        demographics = item_json("xnat:demographicData", dict(found.demographics), [])
        children.append({"field": "demographics", "items": [demographics]})
    if found.custom:
        customs = [
            item_json("xnat:subjectData_field", {"name": name, "field": value}, [])
            for name, value in found.custom.items()
        ]
        children.append({"field": "fields/field", "items": customs})
    return item(context, "xnat:subjectData", fields, children, subject_xml(found))


async def put_subject(
    context: RequestContext, subject: str, project: str | None = None, part: str = ""
) -> web.StreamResponse:
    """Create a subject (201) or change it (200); the body is its accession ID (SubjectResource.handlePut).

    A label of the project comes before an accession ID in the project; for GET it is the other way round. The ID of
    another project's subject is a free label.
    For an existing subject, a `label` in the query renames it, or does nothing, and everything else is ignored: 200
    without a body.
    """
    owner = context.find_project(project, "read") if project is not None else None
    name = escape_parameter(subject)
    found = subject_to_change(context, owner, name)
    if part:
        if not part.startswith("projects/"):
            raise HttpError(400)
        return await share_subject(context, found, part.removeprefix("projects/"))
    values, replace = await _requested_values(context)
    if found is not None:
        if "label" in context.query:
            _authorise_edit(context, found)
            _rename(context, found, context.query["label"])
            return text()
        _update(context, found, values, replace=replace)
        return text(found.id)
    owner = owner or context.find_project(values.names.get("project", ""), "read")
    if owner is None:
        raise HttpError(422, _NO_PROJECT)
    new_id = values.names.get("ID", "") if project is not None else name
    label = values.names.get("label", name if project is not None else "")
    created = await _create(context, owner, label, values, new_id=new_id)
    return text(created.id, status=201)


async def post_subject(context: RequestContext, project: str) -> web.StreamResponse:
    """Create a subject in a list: 200, its address in the body and in Location (ProjectSubjectList.handlePost)."""
    owner = context.find_project(project, "read")
    if owner is None:
        raise HttpError(404, f"Unable to identify project {project}")
    values, _ = await _requested_values(context)
    label = values.names.get("label", "")
    if label and context.site.subject_labelled(owner.id, label) is not None:
        raise HttpError(409, "Subject already exists.")
    created = await _create(context, owner, label, values, new_id=values.names.get("ID", ""))
    uri = f"{context.site_url}/data/{context.path}/{created.id}"
    return web.Response(text=uri, headers={"Location": uri}, content_type="text/plain")


async def _requested_values(context: RequestContext) -> tuple[SubjectValues, bool]:
    """Return the values of the body and then of the parameters, and whether they replace the whole subject.

    Fields that a document does not mention stay, unless `allowDataDeletion` is set.
    """
    body = await context.site.storage.collect(context.body)
    if body is None:
        raise HttpError(500)
    values = SubjectValues()
    replaces = "loadExisting" in context.params and not context.flag("loadExisting")
    if body.strip():
        try:
            values = values_from_xml(body)
        except DocumentError as error:
            raise HttpError(422, str(error)) from None
        replaces = True
    values.update(from_params := values_from_params(context.params))
    values.stopped = from_params.stopped
    return values, replaces and context.flag("allowDataDeletion")


async def _create(
    context: RequestContext, owner: Project, label: str, values: SubjectValues, *, new_id: str
) -> Subject:
    """Create a subject, unless another request has done so meanwhile."""
    if not context.allows(owner, "create"):
        raise _insufficient("create")
    if values.names.get("project", owner.id) != owner.id:
        raise HttpError(409, "Project must be modified through separate URI.")
    if not is_label(new_id):
        raise HttpError(417, "Invalid character in subject label.")
    if context.lacks_reason:
        raise HttpError(500)  # JustificationAbsent has no text
    if values.stopped:
        values = SubjectValues()  # XNAT swallows the exception, and with it all values
    created = Subject(new_id, owner.id, label, context.site.now(), context.user.name)
    _change(created, values, replace=False)
    await anyio.sleep(context.site.timing.saving_seconds)
    _check_label(label)
    if label and context.site.subject_labelled(owner.id, label) is not None:
        raise HttpError(409, "Conflict: Duplicate subject label")
    return context.site.register_subject(created)


def _update(context: RequestContext, found: Subject, values: SubjectValues, *, replace: bool) -> None:
    if values.names.get("project", found.project) != found.project:
        raise HttpError(409, "Project must be modified through separate URI.")
    if values.names.get("ID", found.id) != found.id:
        raise HttpError(400, "ID cannot be modified")
    _authorise_edit(context, found)
    _change(found, values, replace=replace)
    _rename(context, found, values.names.get("label", found.label))


def _authorise_edit(context: RequestContext, found: Subject) -> None:
    if not context.has_right("edit", found.project) or found.locked:
        raise _insufficient("edit")
    if context.lacks_reason:
        raise HttpError(500)  # JustificationAbsent has no text


def _rename(context: RequestContext, found: Subject, label: str) -> None:
    if label == found.label:
        return
    if context.site.subject_labelled(found.project, label) is not None:
        raise HttpError(409, "Specified label is already in use.")
    _check_label(label)
    context.site.rename_subject(found, label)


def _check_label(label: str) -> None:
    """Refuse characters that fail only in preSave, and so without a text: the earlier check is of the ID."""
    if not is_label(label):
        raise HttpError(500)


def _change(subject: Subject, values: SubjectValues, *, replace: bool) -> None:
    try:
        update_subject(subject, values, replace=replace)
    except InvalidValueError as error:
        raise HttpError(400, str(error)) from None


def _insufficient(right: str) -> HttpError:
    message = f"Specified user account has insufficient {right} privileges for subjects in this project."
    return HttpError(403, message)
