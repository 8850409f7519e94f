"""The server's own pages for people and other processes; not part of XNAT's interface."""

import html
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from aiohttp import web

from ..faults.schedule import Faults
from ..site.projects import UNASSIGNED
from ..site.resource_owners import all_owners, resources_of
from ..site.resources import Resource
from ..site.site import Site

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.05rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% } td, th { padding: .3rem .6rem; text-align: left }
th { border-bottom: 2px solid #ccc; font-weight: 600 } td { border-bottom: 1px solid #eee }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums } p.none { color: #777 }
"""
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def state(site: Site, faults: Faults) -> web.Response:
    """Return the whole state as JSON: projects, prearchive rows, archived sessions, requests by kind."""
    return web.Response(text=json.dumps(_state(site, faults), indent=1), content_type="application/json")


def _state(site: Site, faults: Faults) -> dict[str, Any]:
    return {
        "version": site.profile.version,
        "projects": [
            {
                "id": project.id,
                "name": project.name,
                "prearchive_code": project.prearchive_code,
                "resources": _resources(project.resources),
            }
            for project in site.projects.values()
        ],
        "prearchive": [
            {
                "uri": row.uri,
                "project": row.project or UNASSIGNED,
                "subject": row.subject,
                "session": row.name,
                "study_uid": row.study_uid,
                "status": row.status.value,
                "files": sum(map(len, row.scans.values())),
                "bytes": sum(file.size for file in row.files),
            }
            for row in site.prearchive
        ],
        "subjects": [
            {
                "id": subject.id,
                "project": subject.project,
                "label": subject.label,
                "demographics": subject.demographics,
                "resources": _resources(subject.resources),
            }
            for subject in site.subjects()
        ],
        "archived": [
            {
                "id": session.id,
                "project": session.project,
                "subject": session.subject.label,
                "session": session.label,
                "study_uid": session.study_uid,
                "type": session.xsi_type,
                "scans": [
                    {
                        "id": scan.id,
                        "series_uid": scan.series_uid,
                        "files": scan.number_of_files,
                        "bytes": sum(resource.size for resource in scan.resources.values()),
                        "resources": _resources(
                            {label: one for label, one in scan.resources.items() if one.metadata is not None}
                        ),
                    }
                    for scan in session.scans.values()
                ],
                "resources": _resources(session.own_resources),
                "partial_files": sum(not file.complete for file in session.files),
            }
            for session in site.archived
        ],
        "requests": dict(site.count),
        "faults": [
            {"kind": fault.kind, "action": type(fault.action).__name__, "seen": fault.seen, "hits": fault.hits}
            for fault in faults
        ],
        "imports": len(site.imports),
    }


def _resources(resources: Mapping[str, Resource]) -> dict[str, Any]:
    """Return the files of uploaded resources by name, with size and MD5, and the names of uncatalogued files."""
    return {
        label: {
            "files": [
                {"name": file.name, "size": file.size, "md5": file.digest.hex() if file.digest else ""}
                for file in resource.files.values()
            ],
            "uncatalogued": sorted(resource.uncatalogued),
        }
        for label, resource in resources.items()
    }


def instances(site: Site) -> web.Response:
    """Return a line for each complete archived instance: project, subject, session, scan, SOPInstanceUID."""
    lines = (
        "\t".join((session.project, session.subject.label, session.label, scan.id, file.sop_uid)) + "\n"
        for session, scan, file in site.instances()
        if file.complete
    )
    return web.Response(text="".join(lines), content_type="text/plain")


def home(site: Site) -> web.Response:
    """Return a page that shows what has arrived; it reloads itself."""
    parts = [
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'><title>Test XNAT</title>",
        f"<meta http-equiv='refresh' content='2'><style>{_STYLE}</style></head><body>",
        "<h1>Test XNAT</h1>",
        f"<p>A server for trying things out that behaves like XNAT {html.escape(site.profile.version)}.",
        f" {len(site.imports)} files received.</p>",
        *_table("Projects", ("Project", "Name", "Prearchive code"), _projects(site)),
        *_table("Prearchive", ("Project", "Subject", "Session", "Status", "Files", "Size"), _rows(site)),
        *_table(
            "Archive",
            ("Project", "Subject", "Session", "Modality", "Scans", "Files", "Size", "Cut files"),
            _sessions(site),
        ),
        *_table("Subjects", ("Project", "Subject", "ID", "Demographics"), _subjects(site)),
        *_table("Uploaded resources", ("Project", "Of", "Resource", "Files", "Size"), _uploaded(site)),
        "</body></html>\n",
    ]
    return web.Response(text="".join(parts), content_type="text/html")


def _projects(site: Site) -> Iterator[tuple[object, ...]]:
    for project in site.projects.values():
        yield project.id, project.name, project.prearchive_code


def _rows(site: Site) -> Iterator[tuple[object, ...]]:
    for row in site.prearchive:
        files = sum(map(len, row.scans.values()))
        size = _size(sum(file.size for file in row.files))
        yield row.project or UNASSIGNED, row.subject, row.name, row.status.value, files, size


def _sessions(site: Site) -> Iterator[tuple[object, ...]]:
    for session in site.archived:
        files = list(session.files)
        modalities = ", ".join(sorted({scan.series.modality for scan in session.scans.values()}))
        yield (
            session.project,
            session.subject.label,
            session.label,
            modalities,
            len(session.scans),
            len(files),
            _size(sum(file.size for file in files)),
            sum(not file.complete for file in files),
        )


def _subjects(site: Site) -> Iterator[tuple[object, ...]]:
    for subject in site.subjects():
        shown = ", ".join(f"{name} {value}" for name, value in subject.demographics.items())
        yield subject.project, subject.label, subject.id, shown


def _uploaded(site: Site) -> Iterator[tuple[object, ...]]:
    for owner, resource in resources_of(all_owners(site)):
        if resource.metadata is not None:
            yield owner.project, owner.uri, resource.label, len(resource.files), _size(resource.size)


def _table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> Iterator[str]:
    yield f"<h2>{html.escape(title)}</h2>"
    lines = ["".join(f"<td{_numeric(cell)}>{html.escape(str(cell))}</td>" for cell in row) for row in rows]
    if not lines:
        yield "<p class='none'>Nothing yet.</p>"
        return
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    yield f"<table><tr>{head}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _numeric(cell: object) -> str:
    return " class='n'" if isinstance(cell, int) else ""


def _size(count: int) -> str:
    """Return a number of bytes for people, with SI units."""
    size, unit = float(count), 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"
