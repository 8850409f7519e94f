"""What has arrived, for other processes; not part of XNAT's interface."""

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from ..faults.schedule import Faults
from ..site.projects import UNASSIGNED
from ..site.resources import Resource
from ..site.site import Site


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
