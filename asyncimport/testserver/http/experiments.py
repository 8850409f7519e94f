"""Archived experiments and their scans."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from ..site.archive import ArchivedSession, Scan
from ..site.names import scan_type, sql_timestamp
from ..site.resource_owners import scans_named
from .addresses import items_to_list, session_of_scans, session_to_show, subject_to_change
from .listings import item, item_json, matches, requested_columns
from .request_context import RequestContext
from .responses import HttpError, table

_EXPERIMENT_FIELDS: dict[str, Callable[[ArchivedSession], str]] = {
    "ID": lambda session: session.id,
    "project": lambda session: session.project,
    "date": lambda session: session.date,
    "xsiType": lambda session: session.xsi_type,
    "label": lambda session: session.label,
    "insert_date": lambda session: sql_timestamp(session.inserted),
    "UID": lambda session: session.study_uid,
    "studyInstanceUID": lambda session: session.study_uid,
    "modality": lambda session: session.xsi_type.removeprefix("xnat:").removesuffix("SessionData").upper(),
    "subject_ID": lambda session: session.subject.id,
    "subject_label": lambda session: session.subject.label,
    "prearchivePath": lambda session: session.prearchive_path,
    "dcmPatientId": lambda session: session.patient.id,
    "dcmPatientName": lambda session: session.patient.name,
    "dcmPatientBirthDate": lambda session: _xml_date(session.patient.birth_date),
}
# The column of a field without a shortcut has its path as its name, in lower case (XMLPathShortcuts, QueryOrganizer).
_COLUMN_NAMES = {"dcmPatientBirthDate": "xnat:imagesessiondata/dcmpatientbirthdate"}
_EXPERIMENT_DEFAULTS = ["ID", "project", "date", "xsiType", "label", "insert_date"]
_SCAN_FIELDS: dict[str, Callable[[Scan], str]] = {
    "xnat_imagescandata_id": lambda scan: str(scan.number),
    "ID": lambda scan: scan.id,
    "type": lambda scan: scan.series.description,
    "quality": lambda _: "usable",
    "xsiType": lambda scan: scan_type(scan.series.modality),
    "note": lambda _: "",
    "series_description": lambda scan: scan.series.description,
    "UID": lambda scan: scan.series.uid,
    "modality": lambda scan: scan.series.modality,
    "frames": lambda scan: str(scan.number_of_files),
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
    shared session has its label in this project; a filter applies to the label in its own project.
    """
    sessions, found = items_to_list(context, context.site.archived, project)
    if found is not None and subject is not None:
        if (owner := subject_to_change(context, found, subject)) is None:
            raise HttpError(404, "Unable to identify subject")
        sessions = [session for session in sessions if session.subject == owner]
    columns = requested_columns(context.query, _EXPERIMENT_FIELDS, _EXPERIMENT_DEFAULTS)
    for key, pattern in context.query.items():
        name = key.rpartition("/")[2]
        if name not in _EXPERIMENT_FIELDS:
            continue
        if name == "xsiType" and pattern in {"xnat:imageSessionData", "xnat:experimentData"}:
            continue  # a parent type matches all its children
        field = _EXPERIMENT_FIELDS[name]
        sessions = [session for session in sessions if matches(field(session), pattern)]
        if name not in columns:
            columns.append(name)
    fields: Mapping[str, Callable[[ArchivedSession], str]] = {
        **_EXPERIMENT_FIELDS,
        "label": lambda session: session.label_in(found.id if found is not None else None),
    }
    rows = [(*(fields[name](session) for name in columns), f"/data/experiments/{session.id}") for session in sessions]
    form = context.requested_format("json")
    return table(
        form, [*(_COLUMN_NAMES.get(name, name) for name in columns), "URI"], rows, title="Matching experiments"
    )


async def experiment(
    context: RequestContext, name: str, part: str = "", project: str | None = None, subject: str | None = None
) -> web.StreamResponse:
    """Return an experiment (ExperimentResource.represent; below a subject SubjAssessmentResource.represent), or scans.

    An accession ID of any project comes before a label of the project; the subject of the address is not compared. For
    scans, the project must have the ID, and the subject must exist (ScanList, ScanResource).
    """
    owner = context.find_project(project, "read") if project is not None else None
    find = session_of_scans if part.startswith("scans") else session_to_show
    session = find(context, owner, name)
    if part and owner is not None and subject is not None and subject_to_change(context, owner, subject) is None:
        session = None
    if session is None:
        raise HttpError(404, "Unable to find the specified experiment.")
    match part.split("/") if part else []:
        case []:
            return item(context, session.xsi_type, _data_fields(session), _children(session))
        case ["scans"]:
            return _scan_list(context, session)
        case ["scans", name]:
            if not (scans := scans_named(session, name)):
                raise HttpError(404, "Unable to find the specified scan.")
            return item(context, scan_type(scans[0].series.modality), _scan_fields(scans[0]), [])
        case _:
            raise HttpError(404)


def _scan_list(context: RequestContext, session: ArchivedSession) -> web.Response:
    """List scans (ScanList)."""
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
    return {
        "ID": session.id,
        "project": session.project,
        "label": session.label,
        "subject_ID": session.subject.id,
        "UID": session.study_uid,
        "modality": _EXPERIMENT_FIELDS["modality"](session),
        "date": session.date,
        "prearchivePath": session.prearchive_path,
    }


def _scan_fields(scan: Scan) -> dict[str, Any]:
    return {
        "ID": scan.id,
        "UID": scan.series.uid,
        "xnat_imagescandata_id": scan.number,
        "type": scan.series.description,
        "series_description": scan.series.description,
        "modality": scan.series.modality,
        "quality": "usable",
        "frames": scan.number_of_files,
    }


def _children(session: ArchivedSession) -> list[dict[str, Any]]:
    scans = [item_json(scan_type(scan.series.modality), _scan_fields(scan), []) for scan in session.scans.values()]
    return [{"field": "scans/scan", "items": scans}] if scans else []
