"""The importers that take archives: DICOM-zip, which imports file by file, and SI, which makes a session of them."""

from collections.abc import AsyncIterator, Iterator, Mapping
from io import BytesIO
from pathlib import PurePosixPath
from typing import IO

from anyio import sleep, to_thread

from ..site.archiving import Job, is_auto_archive
from ..site.building import build, build_document
from ..site.conflicts import MergeOptions
from ..site.dicom_header import Header, NotDicomError, read_header
from ..site.names import request_file_name
from ..site.prearchive import PrearchiveRow, RowStatus
from ..site.storage import Body
from ..site.unpacking import BadArchiveError, UnpackLimit, tar_entries, unpack_gzip
from ..site.zip_stream import stream_entries
from .archive import wait_for_archive
from .import_gradual import ParameterNames, find_destination, import_object, new_row, record_import, store
from .import_target import ImportTarget
from .request_context import RequestContext
from .responses import HttpError

_NAMES: ParameterNames = {
    "project": ("project", "PROJECT_ID"),
    "subject": ("subject", "SUBJECT_ID"),
    "session": ("session", "EXPT_LABEL"),
}
_ZIPS, _TARS, _PACKED_TARS = (".zip", ".zar"), (".tar", ".xar"), (".tgz", ".tar.gz")
_NOTHING_PARSABLE = "Upload did not include parsable files for session generation."
_SEVERAL_SESSIONS = "Upload included files for multiple imaging sessions."


async def zip_import(
    context: RequestContext, params: Mapping[str, str], target: ImportTarget, name: str, body: Body
) -> list[str]:
    """Import the files of an archive one after another, and return the distinct URIs (DicomZipImporter).

    A bad file is a 400, and what came before it stays; `Ignore-Unparsable` and a commit pass over bad files, unless all
    are bad. With a `dest` or `action=commit` the sessions are built, and archived if they archive by themselves or the
    `dest` is in the archive. An archive without files is an empty list.
    """
    commits = params.get("action") == "commit" or target.is_given
    ignores = commits or params.get("Ignore-Unparsable", "").lower() == "true"
    rows: dict[PrearchiveRow, None] = {}
    failed: HttpError | None = None
    imported = False
    try:
        async for entry, data in _entries(context, name, body):
            try:
                row = await import_object(
                    context, target.with_labels(params), Body.of(data), request_file_name(_last(entry)), _NAMES
                )
            except HttpError as error:
                if not ignores:
                    raise
                failed = error
                continue
            imported = True
            if row is not None:
                rows[row] = None
    finally:
        await context.site.storage.discard(body)
    if failed is not None and not imported:
        raise failed
    if not commits:
        return [row.import_uri for row in rows]
    return [await _commit(context, row, params, target) for row in rows]


async def session_import(
    context: RequestContext, params: Mapping[str, str], target: ImportTarget, name: str, body: Body
) -> list[str]:
    """Make one session of all DICOM files of an archive, or of one file, and build it (SessionImporter).

    Each request has a folder of its own, unless `dest` names one. Files that are not DICOM are passed over.
    """
    site = context.site
    parsed: list[tuple[str, Header, bytes]] = []
    try:
        async for entry, data in _entries(context, name, body, may_be_file=True):
            try:
                parsed.append((request_file_name(_last(entry)), read_header(data), data))
            except NotDicomError:
                continue
    finally:
        await site.storage.discard(body)
    if not parsed:
        raise HttpError(400, _NOTHING_PARSABLE)
    if len({header.study_uid for _, header, _ in parsed}) > 1:
        raise HttpError(400, _SEVERAL_SESSIONS)
    row = _session_row(context, target.with_labels(params), target, parsed[0][1])
    for file_name, header, data in parsed:
        stored = Body.of(data)
        if await store(context, {**params, "rename": "true"}, row, header, stored, file_name):
            record_import(context, row, header, stored)
    row.document = build_document(site, row)
    row.status = RowStatus.READY
    project = site.projects.get(row.project or "")
    if target.is_archive or (project is not None and is_auto_archive(params, row, project)):
        return [await _archive(context, row, params)]
    return [f"/data{row.uri}"]


def _session_row(
    context: RequestContext, params: Mapping[str, str], target: ImportTarget, header: Header
) -> PrearchiveRow:
    """Return the row that `dest` names, or a new one."""
    site = context.site
    if target.folder is not None:
        found = site.find_row(*target.folder)
        if found is not None:
            if found.status.is_locked:
                raise HttpError(409, "Prearc destination is locked.")
            return found
    destination = find_destination(context, params, header, _NAMES)
    timestamp = site.free_timestamp(destination.project_id, destination.label)
    row = new_row(context, header, destination, {"PREARC_TIMESTAMP": timestamp, "SOURCE": "SessionImporter"})
    row.prevent_auto_commit = True
    site.add_row(row)
    return row


async def _commit(context: RequestContext, row: PrearchiveRow, params: Mapping[str, str], target: ImportTarget) -> str:
    await build(context.site, row)
    project = context.site.projects.get(row.project or "")
    if project is not None and (target.is_archive or is_auto_archive(params, row, project)):
        return await _archive(context, row, params)
    return f"/data{row.uri}"


async def _archive(context: RequestContext, row: PrearchiveRow, params: Mapping[str, str]) -> str:
    """Archive a session under the labels of its row; without `overwrite` it is not merged (parseOverrideValue)."""
    overwrite = params.get("overwrite", "").lower()
    options = MergeOptions(override=overwrite in {"delete", "override"}, allow_merge=bool(overwrite))
    session = await wait_for_archive(context, Job(row, options=options))
    return f"/data{session.uri}"


async def _entries(
    context: RequestContext, name: str, body: Body, *, may_be_file: bool = False
) -> AsyncIterator[tuple[str, bytes]]:
    """Yield the files of an archive; with `may_be_file`, a file that is none is its only one."""
    content = body.content
    if content is None:
        raise HttpError(501, "This test server keeps sizes and digests of files only.")
    file: IO[bytes] = BytesIO(content) if isinstance(content, bytes) else await to_thread.run_sync(content.open, "rb")
    entries = _unpack(
        name, file, UnpackLimit(body.size), by_name=context.site.profile.zip_format_by_name, may_be_file=may_be_file
    )
    with file:
        while True:
            try:
                entry = await to_thread.run_sync(next, entries, None)
            except (BadArchiveError, OSError, ValueError, EOFError) as error:
                raise HttpError(400, str(error)) from None
            if entry is None:
                return
            if seconds := context.site.timing.inflation_byte_seconds * len(entry[1]):
                await sleep(seconds)
            yield entry


def _unpack(
    name: str, file: IO[bytes], limit: UnpackLimit, *, by_name: bool, may_be_file: bool = False
) -> Iterator[tuple[str, bytes]]:
    """Yield the files of an archive, and of archives in it. Raises BadArchiveError, and what tarfile and gzip raise."""
    lower = name.lower()
    if lower.endswith(_ZIPS) or not (by_name or may_be_file):
        entries = stream_entries(file, limit)
    elif lower.endswith(_TARS):
        entries = tar_entries(file, limit)
    elif lower.endswith(_PACKED_TARS):
        entries = tar_entries(BytesIO(unpack_gzip(file, limit)), limit)
    elif may_be_file:
        yield name, limit.take(file.read())
        return
    else:
        raise BadArchiveError(f"Unsupported format {lower.rpartition('.')[2].upper() if '.' in lower else 'UNKNOWN'}")
    for entry, data in entries:
        if entry.lower().endswith((*_ZIPS, *_TARS, *_PACKED_TARS, ".gz")):
            yield from _unpack(entry, BytesIO(data), limit, by_name=True)
        else:
            yield entry, data


def _last(entry: str) -> str:
    return PurePosixPath(entry.replace("\\", "/")).name
