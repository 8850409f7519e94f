"""Archived experiments and their scans."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from ..site.archive import ArchivedSession, Scan
from ..site.names import escape_parameter, sql_timestamp
from .addresses import items_to_list, session_of_scans, session_to_show, subject_to_change
from .listings import item, item_json, matches, requested_columns
from .request_context import RequestContext
from .responses import HttpError, table, text
from .sharing import project_list

_OTHER_FIELDS = (
    *("time", "note", "visit_id", "visit", "protocol", "session_type", "scanner", "operator", "dcmAccessionNumber"),
    *("acquisition_site", "pi_firstname", "pi_lastname", "coil", "fieldStrength", "marker", "stabilization"),
)


def _field(name: str, item: ArchivedSession | Scan) -> str:
    """Return a field that a request has set."""
    return item.fields.get(name, "")


def _modality(session: ArchivedSession) -> str:
    type_name = session.xsi_type.removeprefix("xnat:").removesuffix("SessionData")
    return session.fields.get("modality", type_name.upper())


_EXPERIMENT_FIELDS: dict[str, Callable[[ArchivedSession], str]] = {
    "ID": lambda session: session.id,
    "project": lambda session: session.project,
    "date": lambda session: session.date,
    "xsiType": lambda session: session.xsi_type,
    "label": lambda session: session.label,
    "insert_date": lambda session: sql_timestamp(session.inserted),
    "UID": lambda session: session.study_uid,
    "studyInstanceUID": lambda session: session.study_uid,
    "modality": _modality,
    "subject_ID": lambda session: session.subject.id,
    "subject_label": lambda session: session.subject.label,
    "prearchivePath": lambda session: session.prearchive_path,
    "dcmPatientId": lambda session: session.patient.id,
    "dcmPatientName": lambda session: session.patient.name,
    "dcmPatientBirthDate": lambda session: _xml_date(session.patient.birth_date),
    **{name: partial(_field, name) for name in _OTHER_FIELDS},
}
# The column of a field without a shortcut has its path as its name, in lower case (XMLPathShortcuts, QueryOrganizer).
_COLUMN_NAMES = {"dcmPatientBirthDate": "xnat:imagesessiondata/dcmpatientbirthdate"}
_ROOT = "xnat:subjectAssessorData"
_PARENT_TYPES = frozenset({"xnat:imageSessionData", "xnat:subjectAssessorData", "xnat:experimentData"})
_EXPERIMENT_DEFAULTS = ["ID", "project", "date", "xsiType", "label", "insert_date"]
_SCAN_FIELDS: dict[str, Callable[[Scan], str]] = {
    "xnat_imagescandata_id": lambda scan: str(scan.number),
    "ID": lambda scan: scan.id,
    "type": lambda scan: scan.type,
    "quality": lambda scan: scan.fields.get("quality", "usable"),
    "xsiType": lambda scan: scan.xsi_type,
    "note": partial(_field, "note"),
    "series_description": lambda scan: scan.series.description,
    "UID": lambda scan: scan.series.uid,
    "modality": lambda scan: scan.series.modality,
    "frames": lambda scan: scan.fields.get("frames", str(scan.number_of_files)),
    **{name: partial(_field, name) for name in ("condition", "documentation", "scanner", "startTime")},
}
_SCAN_DEFAULTS = ["ID", "type", "quality", "xsiType", "note", "series_description"]


def _xml_date(text: str) -> str:
    """Return a DICOM date as xs:date, and an invalid one as empty."""
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if re.fullmatch(r"\d{8}", text) else ""


async def experiment_list(
    context: RequestContext, project: str | None = None, subject: str | None = None
) -> web.StreamResponse:
    """List experiments of a project, a subject or the site (ProjSubExptList, ExperimentListResource).

    A query key that names a field filters, and becomes a column; so does a path such as xnat:imageSessionData/UID. A
    shared session has its label in this project; a filter applies to the label in its own project. The key is in every
    row, under its path; so are type and project unless a type of sessions is asked for.
    """
    sessions, found = items_to_list(context, context.site.archived, project)
    if found is not None and subject is not None:
        if (owner := subject_to_change(context, found, subject)) is None:
            raise HttpError(404, "Unable to identify subject")
        sessions = [session for session in sessions if session.subject == owner]
    columns = requested_columns(context.query, _EXPERIMENT_FIELDS, _EXPERIMENT_DEFAULTS)
    root = context.query.get("xsiType", _ROOT)
    if root in _PARENT_TYPES:
        columns += [name for name in ("xsiType", "project") if name not in columns]
    for key, pattern in context.query.items():
        name = key.rpartition("/")[2]
        if name not in _EXPERIMENT_FIELDS:
            continue
        if name == "xsiType" and pattern in _PARENT_TYPES:
            continue  # a parent type matches all its children
        field = _EXPERIMENT_FIELDS[name]
        sessions = [session for session in sessions if matches(field(session), pattern)]
        if name not in columns and name != "xsiType":
            columns.append(name)
    fields: Mapping[str, Callable[[ArchivedSession], str]] = {
        **_EXPERIMENT_FIELDS,
        "label": lambda session: session.label_in(found.id if found is not None else None),
    }
    rows = [
        (session.id, *(fields[name](session) for name in columns), f"/data/experiments/{session.id}")
        for session in sessions
    ]
    names = [f"{root.lower()}/id", *(_COLUMN_NAMES.get(name, name) for name in columns), "URI"]
    return table(context.requested_format("json"), names, rows, title="Matching experiments")


async def experiment(
    context: RequestContext, name: str, part: str = "", project: str | None = None, subject: str | None = None
) -> web.StreamResponse:
    """Return an experiment (ExperimentResource.represent; below a subject SubjAssessmentResource.represent).

    An accession ID of any project comes before a label of the project; the subject of the address is not compared.
    XNAT serves the experiment itself also for what follows it in an address that no other class has. That `status` is
    always active, as quarantine is not a part of this server.
    """
    owner = context.find_project(project, "read") if project is not None else None
    session = session_to_show(context, owner, escape_parameter(name))
    if session is None:
        raise HttpError(404, "Unable to find the specified experiment.")
    if part == "status":
        return text("active")
    if part == "history" or (
        part.startswith(("assessors", "reconstructions")) and (project is None) == (subject is None)
    ):
        raise HttpError(501, f"The {part.partition('/')[0]} of experiments are not part of this test server")
    if part.startswith("projects"):
        return project_list(context, session)
    return item(context, session.xsi_type, _data_fields(session), _children(session))


def _session_of_scans(
    context: RequestContext, name: str, project: str | None, subject: str | None
) -> ArchivedSession | None:
    """Return the session of an address of scans: the project must have its ID, and the subject must exist."""
    owner = context.find_project(project, "read") if project is not None else None
    if owner is not None and subject is not None and subject_to_change(context, owner, subject) is None:
        return None
    return session_of_scans(context, owner, escape_parameter(name))


async def scan(
    context: RequestContext,
    name: str,
    scan: str,
    part: str = "",  # noqa: ARG001 - XNAT serves the scan itself
    project: str | None = None,
    subject: str | None = None,
) -> web.StreamResponse:
    """Return a scan by its ID (ScanResource.represent)."""
    session = _session_of_scans(context, name, project, subject)
    found = session.scans.get(escape_parameter(unquote(scan))) if session is not None else None
    if found is None:
        raise HttpError(404, "Unable to find the specified scan.")
    return item(context, found.xsi_type, _scan_fields(found), [])


async def scan_list(
    context: RequestContext, name: str, project: str | None = None, subject: str | None = None
) -> web.StreamResponse:
    """List scans (ScanList)."""
    session = _session_of_scans(context, name, project, subject)
    if session is None:
        raise HttpError(404, "Unable to find the specified experiment.")
    columns = ["xnat_imagescandata_id"]
    columns += [
        name
        for name in requested_columns(context.query, _SCAN_FIELDS, _SCAN_DEFAULTS)
        if name != "xnat_imagescandata_id"
    ]
    rows = [
        (*(_SCAN_FIELDS[name](scan) for name in columns), f"/data/experiments/{session.id}/scans/{scan.id}")
        for scan in session.scans.values()
    ]
    return table(context.requested_format("json"), [*columns, "URI"], rows)


def _data_fields(session: ArchivedSession) -> dict[str, Any]:
    """Return the fields of a session; those without a value are not in an item."""
    fields = {
        "ID": session.id,
        "project": session.project,
        "label": session.label,
        "subject_ID": session.subject.id,
        "UID": session.study_uid,
        "modality": _modality(session),
        "date": session.date,
        "prearchivePath": session.prearchive_path,
        **session.fields,
    }
    return {name: value for name, value in fields.items() if value != ""}


def _scan_fields(scan: Scan) -> dict[str, Any]:
    return {
        "ID": scan.id,
        "UID": scan.series.uid,
        "xnat_imagescandata_id": scan.number,
        "type": scan.type,
        "series_description": scan.series.description,
        "modality": scan.series.modality,
        "quality": "usable",
        "frames": scan.number_of_files,
        **scan.fields,
    }


def _children(session: ArchivedSession) -> list[dict[str, Any]]:
    """Return the child items of a session: its scans and its custom variables."""
    scans = [item_json(scan.xsi_type, _scan_fields(scan), []) for scan in session.scans.values()]
    custom = [
        item_json("xnat:experimentData_field", {"name": name, "field": value}, [])
        for name, value in session.custom.items()
    ]
    children = (("scans/scan", scans), ("fields/field", custom))
    return [{"field": field, "items": items} for field, items in children if items]
