"""Files of archived resources: catalogs, listings, downloads."""

import html
from collections.abc import Iterable
from pathlib import PurePosixPath

from aiohttp import web
from anyio import Path

from .call import Call
from .names import content
from .pages import Refused, table, wanted, xml
from .state import ArchivedSession, Resource, Scan, StoredFile

__all__ = ["catalog", "file", "file_list"]

_COLUMNS = (
    "Name",
    "Size",
    "URI",
    "collection",
    "file_tags",
    "file_format",
    "file_content",
    "cat_ID",
    "digest",
)
_TYPES = {".pdf": "application/pdf", ".png": "image/png", ".xml": "text/xml", ".txt": "text/plain"}


def _digest(file: StoredFile) -> str:
    return file.digest.hex() if file.digest else ""


def _entry(file: StoredFile, label: str) -> str:
    name, uid = html.escape(file.name), html.escape(file.sop_uid)
    return (
        f'<cat:entry ID="{name}" URI="{name}" UID="{uid}" content="{content(label)}" format="DICOM" '
        f'digest="{_digest(file)}" createdBy="xnat" xsi:type="cat:dcmEntry"/>\n'
    )


def catalog(found: tuple[Scan, Resource]) -> web.Response:
    """Return a resource's catalog document: a UID and a digest for each entry (CatalogResource)."""
    scan, resource = found
    entries = "".join(_entry(file, resource.label) for file in resource.files.values())
    return xml(
        f'<cat:DCMCatalog UID="{html.escape(scan.series.uid)}" xmlns:cat="http://nrg.wustl.edu/catalog" '
        f'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">\n'
        f"<cat:entries>\n{entries}</cat:entries>\n</cat:DCMCatalog>\n"
    )


def file_list(call: Call, session: ArchivedSession, resources: Iterable[tuple[Scan, Resource]]) -> web.Response:
    """List files (FileList): strings, a Columns key, and no totalRecords."""
    rows = [
        (
            file.name,
            file.size,
            f"/data/experiments/{session.id}/scans/{scan.id}/resources/{resource.number}/files/{file.name}",
            resource.label,
            "",
            "DICOM",
            content(resource.label),
            resource.number,
            _digest(file),
        )
        for scan, resource in resources
        for file in resource.files.values()
        if call.query.get("file_format", "DICOM") == "DICOM"
    ]
    extra = {"Columns": [{"key": "URI", "serverRoot": ""}]}
    form = wanted(call.request, call.query, "json")
    return table(form, _COLUMNS, rows, title="Files", total=False, extra=extra)


async def file(call: Call, session: ArchivedSession, found: tuple[Scan, Resource], name: str) -> web.StreamResponse:
    """Return a file (FileList.represent): ranges allowed; a missing one is a 404 with an empty body."""
    if "," in call.request.headers.get("Range", ""):
        raise Refused(501)
    scan, resource = found
    missing = web.Response(status=204 if call.query.get("accept-not-found") == "true" else 404)
    if name not in resource.files:
        return missing
    path = call.xnat.storage.path((*session.path, "SCANS", scan.id, resource.label, name))
    if path is None or not await Path(path).exists():
        return missing
    headers = {
        "Content-Type": _TYPES.get(PurePosixPath(name).suffix, "application/octet-stream"),
        "Content-Disposition": f'attachment; filename="{PurePosixPath(name).name}";',
        "Cache-Control": "must-revalidate",
        "Accept-Ranges": "bytes",
    }
    return web.FileResponse(path, headers=headers)
