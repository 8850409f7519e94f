"""Archived experiments: lists, items, scans; and what all lists and items have in common."""

import fnmatch
import html
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiohttp import web

from .call import Call
from .identifiers import is_visible, session_of_scans, session_to_show, subject_to_change
from .names import scan_type, sql_timestamp
from .pages import Refused, table, wanted, xml
from .places import scans_named
from .state import ArchivedSession, Scan

__all__ = ["asked_columns", "experiment", "experiment_list", "item", "matches", "member"]

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
    "dcmPatientId": lambda session: session.patient[0],
    "dcmPatientName": lambda session: session.patient[1],
    "dcmPatientBirthDate": lambda session: _as_date(session.patient[2]),
}
# A path that has no shortcut names its column, in small letters (XMLPathShortcuts, QueryOrganizer).
_NAMED = {"dcmPatientBirthDate": "xnat:imagesessiondata/dcmpatientbirthdate"}
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
    "frames": lambda scan: str(sum(len(resource.files) for resource in scan.resources.values())),
}
_SCAN_DEFAULTS = ["ID", "type", "quality", "xsiType", "note", "series_description"]


def _as_date(text: str) -> str:
    """Return a date of DICOM as xs:date; what is none is not kept."""
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if re.fullmatch(r"\d{8}", text) else ""


async def experiment_list(call: Call, project: str | None = None, subject: str | None = None) -> web.StreamResponse:
    """List experiments of a project, a subject or the site (ProjSubExptList, ExperimentListResource).

    A query key that names a field filters, and becomes a column; so does a path such as
    xnat:imageSessionData/UID. What is shared into the project is listed too, with its label there; a filter looks at
    the label that it has in its own.
    """
    sessions = list(call.xnat.archived)
    if project is None:
        sessions = [session for session in sessions if is_visible(call, session)]
    else:
        if (found := call.xnat.project_named(project)) is None:
            raise Refused(404, f"Unable to identify project {project}")
        if not call.allows(found, "read"):
            raise Refused(403)
        project = found.id
        sessions = [session for session in sessions if session.is_in(project)]
        if subject is not None:
            if (owner := subject_to_change(call, found, subject)) is None:
                raise Refused(404, "Unable to identify subject")
            sessions = [session for session in sessions if session.subject == owner]
    columns = asked_columns(call.query, _EXPERIMENT_FIELDS, _EXPERIMENT_DEFAULTS)
    for key, pattern in call.query.items():
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
        "label": lambda session: session.label_in(project),
    }
    rows = [(*(fields[name](session) for name in columns), f"/data/experiments/{session.id}") for session in sessions]
    form = wanted(call.request, call.query, "json")
    return table(form, [*(_NAMED.get(name, name) for name in columns), "URI"], rows, title="Matching experiments")


def asked_columns(query: Mapping[str, str], fields: Iterable[str], defaults: list[str]) -> list[str]:
    """Return the columns asked for, without unknown ones (QueryOrganizerResource)."""
    if "columns" not in query:
        return list(defaults)
    names = [name.rpartition("/")[2] for name in query["columns"].split(",")]
    return [name for name in dict.fromkeys(names) if name in set(fields) and name != "URI"]


def matches(value: str, pattern: str) -> bool:
    """Apply a filter: a comma means or; `*` and `%` are wild."""
    if "*" not in pattern and "%" not in pattern:
        return value in pattern.split(",")
    return any(fnmatch.fnmatchcase(value, one.replace("%", "*").replace("[", "[[]")) for one in pattern.split(","))


async def experiment(
    call: Call, name: str, part: str = "", project: str | None = None, subject: str | None = None
) -> web.StreamResponse:
    """Serve an experiment (ExperimentResource.represent; below a subject SubjAssessmentResource.represent), or scans.

    An accession ID comes first, of whatever project, and only then a label of the project; the subject of the address
    is not looked at. Scans are those of an ID that the project has, or else of a label, and of a subject that is there
    (ScanList, ScanResource).
    """
    owner = call.find_project(project, "read") if project is not None else None
    find = session_of_scans if part.startswith("scans") else session_to_show
    session = find(call, owner, name)
    if part and owner is not None and subject is not None and subject_to_change(call, owner, subject) is None:
        session = None
    if session is None:
        raise Refused(404, "Unable to find the specified experiment.")
    match part.split("/") if part else []:
        case []:
            return item(call, session.xsi_type, _data_fields(session), _children(session))
        case ["scans"]:
            return _scan_list(call, session)
        case ["scans", name]:
            if not (scans := scans_named(session, name)):
                raise Refused(404, "Unable to find the specified scan.")
            return item(call, scan_type(scans[0].series.modality), _scan_fields(scans[0]), [])
        case _:
            raise Refused(404)


def _scan_list(call: Call, session: ArchivedSession) -> web.Response:
    """List scans (ScanList)."""
    columns = ["xnat_imagescandata_id"]
    columns += [
        name for name in asked_columns(call.query, _SCAN_FIELDS, _SCAN_DEFAULTS) if name != "xnat_imagescandata_id"
    ]
    rows = [
        (*(_SCAN_FIELDS[name](scan) for name in columns), f"/data/experiments/{session.id}/scans/{scan.id}")
        for scan in session.scans.values()
    ]
    return table(wanted(call.request, call.query, "json"), [*columns, "URI"], rows)


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
        "frames": int(_SCAN_FIELDS["frames"](scan)),
    }


def _children(session: ArchivedSession) -> list[dict[str, Any]]:
    scans = [member(scan_type(scan.series.modality), _scan_fields(scan), []) for scan in session.scans.values()]
    return [{"field": "scans/scan", "items": scans}] if scans else []


def member(kind: str, fields: dict[str, Any], children: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an item as it stands in JSON, among others or alone (ItemJSONBuilder)."""
    meta = {"xsi:type": kind, "isHistory": False, "start_date": "Thu Jan 01 10:00:00 UTC 2026"}
    return {"children": children, "meta": meta, "data_fields": fields}


def item(
    call: Call, kind: str, fields: dict[str, Any], children: list[dict[str, Any]], document: str = ""
) -> web.Response:
    """Return one item: HTML unless asked for otherwise; its JSON has real numbers. `document` is its XML."""
    form = wanted(call.request, call.query, "html")
    if form == "json":
        body = json.dumps({"items": [member(kind, fields, children)]})
        return web.Response(text=body, content_type="application/json")
    if form == "xml":
        return xml(document or _item_xml(kind, fields, children))
    cells = "".join(f"<tr><th>{name}</th><td>{html.escape(str(value))}</td></tr>" for name, value in fields.items())
    return web.Response(text=f"<html><body><table>{cells}</table></body></html>", content_type="text/html")


def _item_xml(kind: str, fields: dict[str, Any], children: list[dict[str, Any]]) -> str:
    element = kind.removesuffix("Data")
    attributes = "".join(
        f' {name}="{html.escape(str(fields[name]))}"' for name in ("ID", "project", "label", "UID") if name in fields
    )
    values = "".join(
        f"<xnat:{name}>{html.escape(str(value))}</xnat:{name}>"
        for name, value in fields.items()
        if name not in {"ID", "project", "label", "UID"} and value != ""
    )
    inner = "".join(_item_xml("xnat:scan", one["data_fields"], []) for child in children for one in child["items"])
    inner = f"<xnat:scans>{inner}</xnat:scans>" if inner else ""
    space = "" if element == "xnat:scan" else ' xmlns:xnat="http://nrg.wustl.edu/xnat"'
    return f"<{element}{space}{attributes}>{values}{inner}</{element}>"
