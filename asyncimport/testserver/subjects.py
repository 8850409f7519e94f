"""Subjects: making, changing, listing and showing them."""

from collections.abc import Callable, Mapping
from typing import Any

import anyio
from aiohttp import web

from .call import Call
from .demographics import Asked, DocumentError, InvalidValueError, asked_by, asked_in, change, document
from .identifiers import is_visible, subject_to_change, subject_to_show
from .listings import asked_columns, item, matches, member
from .names import escape_parameter, is_label, sql_timestamp
from .pages import Refused, table, text, wanted
from .state import Project, Subject

__all__ = ["get_subject", "list_subjects", "post_subject", "put_subject"]

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
_MORE = (
    *("group", "src", "pi_firstname", "pi_lastname", "dob", "yob", "age", "gender", "handedness", "ses", "education"),
    *("educationDesc", "employment", "race", "ethnicity", "weight", "height", "gestational_age", "post_menstrual_age"),
    "birth_weight",
)


def _value(subject: Subject, name: str) -> object:
    if name in _FIELDS:
        return _FIELDS[name](subject)
    return subject.demographics.get(name, subject.fields.get(name, ""))


def _shown(subject: Subject, name: str, project: str | None) -> object:
    return subject.label_in(project) if name == "label" else _value(subject, name)


async def list_subjects(call: Call, project: str | None = None) -> web.StreamResponse:
    """List the subjects of the site (SubjectListResource), or of a project (ProjectSubjectList).

    What is shared into the project is listed too, with its label there; a filter looks at the label that it has in its
    own.
    """
    found = call.xnat.subjects()
    if project is None:
        found = [subject for subject in found if is_visible(call, subject)]
    else:
        if (owner := call.xnat.project_named(project)) is None:
            raise Refused(404, f"Unable to identify project {project}")
        if not call.allows(owner, "read"):
            raise Refused(403)
        project = owner.id
        found = [subject for subject in found if subject.is_in(project)]
    known = [*_FIELDS, *_MORE]
    columns = asked_columns(call.query, known, _DEFAULTS)
    for key, pattern in call.query.items():
        name = key.rpartition("/")[2]
        if name in known and name != "xsiType":
            found = [subject for subject in found if matches(str(_value(subject, name)), pattern)]
    rows = [(*(_shown(one, name, project) for name in columns), f"/data/subjects/{one.id}") for one in found]
    return table(wanted(call.request, call.query, "json"), [*columns, "URI"], rows, title="Subjects")


async def get_subject(call: Call, subject: str, project: str | None = None) -> web.StreamResponse:
    """Return a subject (SubjectResource.represent); its demographics are a child, with real numbers.

    An accession ID comes first, of whatever project, and only then a label of the project: PUT looks the other way
    round.
    """
    owner = call.find_project(project, "read") if project is not None else None
    found = subject_to_show(call, owner, subject)
    if found is None:
        raise Refused(404, "Unable to find the specified subject.")
    fields: dict[str, Any] = {"ID": found.id, "project": found.project, "label": found.label, **found.fields}
    children = []
    if found.demographics:
        demographics = member("xnat:demographicData", dict(found.demographics), [])
        children.append({"field": "demographics", "items": [demographics]})
    if found.custom:
        customs = [
            member("xnat:subjectData_field", {"name": name, "field": value}, []) for name, value in found.custom.items()
        ]
        children.append({"field": "fields/field", "items": customs})
    return item(call, "xnat:subjectData", fields, children, document(found))


async def put_subject(call: Call, subject: str, project: str | None = None) -> web.StreamResponse:
    """Make a subject (201), or change it (200); the body is its accession id (SubjectResource.handlePut).

    A label of the project comes first, and only then an accession ID that the project has: GET looks the other way
    round. An ID of another project's subject is a free label.
    A `label` in the query of one that is there renames it, or does nothing, and everything else is dropped: 200
    without a body.
    """
    owner = call.find_project(project, "read") if project is not None else None
    name = escape_parameter(subject)
    found = subject_to_change(call, owner, name)
    asked, replace = await _asked(call)
    if found is not None:
        if "label" in call.query:
            _authorise_edit(call, found)
            _rename(call, found, call.query["label"])
            return text()
        _update(call, found, asked, replace=replace)
        return text(found.id)
    owner = owner or call.find_project(asked.names.get("project", ""), "read")
    if owner is None:
        raise Refused(422, _NO_PROJECT)
    new_id = asked.names.get("ID", "") if project is not None else name
    label = asked.names.get("label", name if project is not None else "")
    made = await _make(call, owner, label, asked, new_id=new_id)
    return text(made.id, status=201)


async def post_subject(call: Call, project: str) -> web.StreamResponse:
    """Make a subject in a list: 200, its address in the body and in Location (ProjectSubjectList.handlePost)."""
    owner = call.find_project(project, "read")
    if owner is None:
        raise Refused(404, f"Unable to identify project {project}")
    asked, _ = await _asked(call)
    label = asked.names.get("label", "")
    if label and call.xnat.subject_labelled(owner.id, label) is not None:
        raise Refused(409, "Subject already exists.")
    made = await _make(call, owner, label, asked, new_id=asked.names.get("ID", ""))
    uri = f"{call.site_url}/data/{call.path}/{made.id}"
    return web.Response(text=uri, headers={"Location": uri}, content_type="text/plain")


async def _asked(call: Call) -> tuple[Asked, bool]:
    """Return what the body and then the parameters say, and whether that is to be all of the subject.

    What a document does not mention is kept as well, unless it may be deleted.
    """
    body = await call.xnat.storage.collect(call.body)
    if body is None:
        raise Refused(500)
    asked = Asked()
    whole = "loadExisting" in call.params and not call.flag("loadExisting")
    if body.strip():
        try:
            asked = asked_in(body)
        except DocumentError as error:
            raise Refused(422, str(error)) from None
        whole = True
    asked.update(said := asked_by(call.params))
    asked.stopped = said.stopped
    return asked, whole and call.flag("allowDataDeletion")


async def _make(call: Call, owner: Project, label: str, asked: Asked, *, new_id: str) -> Subject:
    """Make a subject, unless another request has done so since this one has looked."""
    if not call.allows(owner, "create"):
        raise _insufficient("create")
    if asked.names.get("project", owner.id) != owner.id:
        raise Refused(409, "Project must be modified through separate URI.")
    if not is_label(new_id):
        raise Refused(417, "Invalid character in subject label.")
    if call.lacks_reason:
        raise Refused(500)  # JustificationAbsent has no text
    if asked.stopped:
        asked = Asked()  # the exception is swallowed, and with it all that was said
    made = Subject(new_id, owner.id, label, call.xnat.now(), call.user.name)
    _change(made, asked, replace=False)
    await anyio.sleep(call.xnat.timing.saving_seconds)
    _check_label(label)
    if label and call.xnat.subject_labelled(owner.id, label) is not None:
        raise Refused(409, "Conflict: Duplicate subject label")
    return call.xnat.enter_subject(made)


def _update(call: Call, found: Subject, asked: Asked, *, replace: bool) -> None:
    if asked.names.get("project", found.project) != found.project:
        raise Refused(409, "Project must be modified through separate URI.")
    if asked.names.get("ID", found.id) != found.id:
        raise Refused(400, "ID cannot be modified")
    _authorise_edit(call, found)
    _change(found, asked, replace=replace)
    _rename(call, found, asked.names.get("label", found.label))


def _authorise_edit(call: Call, found: Subject) -> None:
    if not call.may("edit", found.project) or found.locked:
        raise _insufficient("edit")
    if call.lacks_reason:
        raise Refused(500)  # JustificationAbsent has no text


def _rename(call: Call, found: Subject, label: str) -> None:
    if label == found.label:
        return
    if call.xnat.subject_labelled(found.project, label) is not None:
        raise Refused(409, "Specified label is already in use.")
    _check_label(label)
    call.xnat.rename_subject(found, label)


def _check_label(label: str) -> None:
    """Refuse characters that fail in preSave only, and so without a text: the check before it looks at the id."""
    if not is_label(label):
        raise Refused(500)


def _change(subject: Subject, asked: Asked, *, replace: bool) -> None:
    try:
        change(subject, asked, replace=replace)
    except InvalidValueError as error:
        raise Refused(400, str(error)) from None


def _insufficient(right: str) -> Refused:
    message = f"Specified user account has insufficient {right} privileges for subjects in this project."
    return Refused(403, message)
