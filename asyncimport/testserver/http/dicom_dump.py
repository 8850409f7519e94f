"""GET /data/services/dicomdump: the header of one DICOM file as a table."""

import html
import re
from collections.abc import Iterator
from pathlib import Path

from aiohttp import web
from anyio import to_thread
from pydicom import dcmread
from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from ..site.resource_owners import ResourceOwner
from ..site.storage import PathParts
from .addresses import session_of_uri
from .request_context import RequestContext
from .responses import HttpError, table

_COLUMNS = ("tag1", "tag2", "vr", "value", "desc")
_LONGEST_VALUE = 255
_PIXEL_DATA = Tag(0x7FE0, 0x0010)
_LABELS = ("DICOM", "secondary")
"""Labels of the resources that are looked at (the site setting dumpImageTypes)."""
_FILE = r"(?:/scans/(?P<scan>[^/]+)(?:/resources/DICOM/files/(?P<file>[^/?]+))?)?.*"
_ARCHIVED = re.compile(
    "/archive/projects/(?P<project>[^/]+)/(?:subjects/[^/]+/)?experiments/(?P<session>[^/]+)" + _FILE
)
_PREARCHIVED = re.compile("/prearchive/projects/(?P<project>[^/]+)/(?P<timestamp>[^/]+)/(?P<session>[^/]+)" + _FILE)
_Row = tuple[str, str, str, str, str]


async def dicom_dump(context: RequestContext) -> web.StreamResponse:
    """Dump the first file of a session or a scan, or one file (DicomDump, DicomHeaderDump).

    `src` has no /data in front: any other address is an empty table. `field` (a keyword or eight hexadecimal digits)
    chooses attributes and may be repeated. Values end after 255 characters and are escaped for HTML; of sequences, one
    level is shown. Everything that goes wrong with a file or a session is a 404.
    """
    source = context.query.get("src")
    if source is None:
        raise HttpError(400, "Please set the src parameter")
    fields = {_tag(name) for name in context.values("field")}
    if context.query.get("summary") == "true":
        raise HttpError(501, "Summaries of headers are not part of this test server")
    parts = _first_file(context, source)
    if parts is None:
        return table(context.requested_format("json"), _COLUMNS, [])
    path = context.site.storage.path(parts)
    if path is None:
        raise HttpError(501, "This test server keeps sizes and digests of files only.")
    return table(context.requested_format("json"), _COLUMNS, await to_thread.run_sync(_dump, path, fields))


def _tag(name: str) -> BaseTag:
    """Return the tag of a field; what follows a colon is for the shadow headers of Siemens."""
    name = name.partition(":")[0]
    tag = tag_for_keyword(name)
    if tag is None and not re.fullmatch("[0-9A-Fa-f]{1,8}", name):
        raise HttpError(400, f"not a valid DICOM attribute tag: {name}")
    return Tag(tag if tag is not None else int(name, 16))


def _first_file(context: RequestContext, source: str) -> PathParts | None:
    """Return where the first matching file is, or None."""
    if match := _ARCHIVED.match(source):
        owner = context.find_project(match["project"], "read")
        session = session_of_uri(context, owner, match["session"]) if owner is not None else None
        if session is None:
            raise _not_found()
        for scan in session.scans.values():
            place = ResourceOwner.of_scan(session, scan)
            for label in _LABELS:
                for name in scan.resources[label].files if label in scan.resources else ():
                    if match["scan"] in {None, scan.id} and match["file"] in {None, name}:
                        return place.file(scan.resources[label], name)
    elif match := _PREARCHIVED.match(source):
        if not context.has_right("edit", match["project"]):
            raise _not_found()
        row = context.site.find_row(match["project"], match["timestamp"], match["session"])
        if row is None or row.document is None:
            raise _not_found()
        for scan in row.document.scans:
            for resource in scan.resources.values():
                for name in resource.files:
                    if match["scan"] in {None, scan.id} and match["file"] in {None, name}:
                        return row.file_path(scan.folder, name)
    return None


def _not_found() -> HttpError:
    return HttpError(404, "There was an error rendering Dicom Header")


def _dump(path: Path, fields: set[BaseTag]) -> list[_Row]:
    """Read a file up to its pixels and return the rows of the chosen attributes."""
    dataset = dcmread(path, stop_before_pixels=_PIXEL_DATA not in fields, force=True)
    elements = [*dataset.file_meta, *dataset]
    return [row for element in elements if not fields or element.tag in fields for row in _rows(element)]


def _rows(element: DataElement) -> Iterator[_Row]:
    if element.VR != "SQ":
        yield _row(element, "")
        return
    for item in element.value:
        yield _row(element, _shown(element.tag))
        if isinstance(item, Dataset):
            for inner in item:
                yield _row(inner, _shown(element.tag))


def _row(element: DataElement, parent: str) -> _Row:
    tag = _shown(element.tag)
    try:
        name = dictionary_description(element.tag)
    except KeyError:
        name = "?"
    first, second = (parent, tag) if parent else (tag, "")
    return first, second, element.VR, html.escape(_value(element)), html.escape(name)


def _value(element: DataElement) -> str:
    if element.VR == "SQ" or element.value is None:
        return ""
    if isinstance(element.value, bytes):
        return "\\".join(str(byte) for byte in element.value[:_LONGEST_VALUE])[:_LONGEST_VALUE]
    values = [element.value] if element.VM <= 1 else element.value
    return "\\".join(str(value) for value in values)[:_LONGEST_VALUE]


def _shown(tag: BaseTag) -> str:
    return f"({tag.group:04X},{tag.element:04X})"
