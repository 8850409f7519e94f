"""POST /data/services/import: the importer service and its gradual-DICOM handler."""

import re
from contextlib import AsyncExitStack
from dataclasses import dataclass

import anyio
from aiohttp import web

from .call import Call
from .dicom import Header, NotDicomError, read_header
from .names import dicom_file_name, request_file_name, scan_folder, to_label_chars
from .pages import Refused, uri_list
from .state import UNASSIGNED, ImportRecord, PrearchiveRow, RowStatus, Series, StoredFile
from .storage import Body

__all__ = ["import_service"]

_GRADUAL = "gradual-DICOM"
_HANDLERS = {"SI", "XAR", _GRADUAL, "inbox", "DICOM-zip"}
_DICOM_TYPES = {"application/dicom", "application/x-mirc", "application/x-mirc-dicom"}
_EXTENSIONS = {"application/dicom": ".dcm", "application/zip": ".zip", "application/octet-stream": ""}
_LASTMOD_EVERY = 15.0
_AUTOARCHIVE = {0: "Manual", 4: "AutoArchive", 5: "AutoArchiveOverwrite"}


async def import_service(call: Call, name: str = "") -> web.StreamResponse:
    """Serve an import (org.nrg.xnat.restlet.services.Importer); `name` is the rest of the path, if any."""
    content_type = call.request.content_type
    handler = _choose_handler(call.query.get("import-handler"), content_type)
    _check_body(call, content_type)
    file_name = request_file_name(name or "upload" + _EXTENSIONS.get(content_type, ".unsupported"))
    if handler != _GRADUAL:
        raise Refused(501, f"The importer {handler} is not part of this test server")
    if call.xnat.timing.free:
        return await _gradual(call, file_name, content_type)
    async with call.engine.threads:
        return await _gradual(call, file_name, content_type)


def _choose_handler(asked: str | None, content_type: str) -> str:
    """Choose the importer (Importer.handlePost, ImporterHandlerA.buildImporter)."""
    if asked is not None:
        if asked not in _HANDLERS:
            raise Refused(404, f"Unknown importer implementation specified: {asked}")
        return asked
    if content_type in _DICOM_TYPES:
        return _GRADUAL
    if content_type == "application/octet-stream":
        raise Refused(400, "Unsupported format UNKNOWN")  # DICOM-zip, the default, cannot unpack it
    return "DICOM-zip"


def _check_body(call: Call, content_type: str) -> None:
    """Check that the body is one file of known length.

    SecureResource.getFileWritersAndLoadParams.
    """
    inbody = call.query.get("inbody", "false") not in {"false", "0"}
    if content_type.startswith("multipart/"):
        if inbody:
            raise Refused(
                406,
                "In-body File posts must include the file directly as the body of the message "
                "(not as part of multi-part form data).",
            )
        raise Refused(501, "Multipart uploads are not part of this test server")
    form = content_type == "application/x-www-form-urlencoded"
    if not inbody and (form or "Content-Type" not in call.request.headers):
        raise Refused(400, "Unable to identify upload format.")
    length = call.request.content_length
    size = -1 if length is None else length
    if size < 1 and content_type != "application/zip":
        raise Refused(
            400,
            "In-body File posts must include the file directly as the body of the message. In this case, "
            f"the request entity size is {size} but the media type is not application/zip (i.e. streaming "
            "compressed upload).",
        )


@dataclass(frozen=True, slots=True)
class _Destination:
    """Where an instance is to go, before its row is looked up."""

    project: str | None
    subject: str
    label: str
    autoarchive: str


async def _gradual(call: Call, name: str, content_type: str) -> web.StreamResponse:
    """Store one instance (org.nrg.xnat.archive.GradualDicomImporter.call)."""
    xnat = call.xnat
    body = await xnat.storage.receive(call.request.content, stop_after=call.stop_after)
    try:
        header = _identify(body, name)
        where = _destination(call, header)
        async with AsyncExitStack() as stack:
            if not xnat.timing.free:
                await stack.enter_async_context(call.engine.connections)
            row = await _locked_row(call, header, where, name)
            await _store(call, row, header, body, name)
    except Refused:
        await xnat.storage.discard(body)
        raise
    uri = f"/data{row.uri}"
    status = 200 if body.complete else 0
    project = row.project or UNASSIGNED
    xnat.imports.append(ImportRecord(project, row.subject, row.name, header.sop_uid, status, uri))
    return uri_list("OK" if content_type == "application/x-mirc" else f"{uri}\r\n")


def _identify(body: Body, name: str) -> Header:
    """Read the header or refuse the file, with the texts of GradualDicomImporter."""
    try:
        header = read_header(body.head)
    except NotDicomError:
        raise Refused(400, f"unable to read DICOM object {name}") from None
    if not header.sop_class:
        raise Refused(400, f"object {name} contains no SOP Class UID")
    if not header.sop_uid:
        raise Refused(400, f"object {name} contains no SOP Instance UID")
    return header


def _destination(call: Call, header: Header) -> _Destination:
    """Decide project, subject, session label and auto-archiving.

    GradualDicomImporter.getProject falls back silently: from PROJECT_ID to what the file says (the comment
    tags, then StudyDescription and AccessionNumber as ids: Xnat15DicomProjectIdentifier), then Unassigned.
    Only values that come from DICOM have their characters replaced.
    """
    query = call.query
    right = call.xnat.profile.import_right
    asked = query.get("PROJECT_ID") or _project_of_destination(query.get("dest", ""))
    candidates = (
        asked,
        _assigned("Project", header),
        header.study_description,
        header.accession,
    )
    found = (call.xnat.find_project(name, call.user, right) for name in candidates if name)
    project = next((project for project in found if project is not None), None)
    label = query.get("EXPT_LABEL") or to_label_chars(_assigned("Session", header) or header.patient_id)
    subject = query.get("SUBJECT_ID") or to_label_chars(_assigned("Subject", header) or header.patient_name)
    asked_aa = _assigned("AA", header).lower()
    if asked_aa in {"true", "false"}:
        autoarchive = "AutoArchive" if asked_aa == "true" else "Manual"
    else:
        autoarchive = _AUTOARCHIVE.get(project.prearchive_code, "Manual") if project else ""
    return _Destination(project.id if project else None, subject, label or "dicom_upload", autoarchive)


def _project_of_destination(dest: str) -> str:
    match = re.match(r"(?:/data)?/(?:prearchive|archive)/projects/([^/]+)", dest)
    return match[1] if match else ""


_ASSIGNMENTS = {
    key: re.compile(rf"(?:\A|.*[\s,;]){key}:\s*([\w-]+)\s*(?:[\s,;].*)?\Z", re.DOTALL | re.IGNORECASE)
    for key in ("Project", "Subject", "Session", "AA")
}


def _assigned(key: str, header: Header) -> str:
    """Return what `key:value` in the comment tags assigns (ContainedAssignmentExtractor)."""
    for comment in header.comments:
        if comment and (match := _ASSIGNMENTS[key].match(comment)):
            return match[1]
    return ""


async def _locked_row(call: Call, header: Header, where: _Destination, name: str) -> PrearchiveRow:
    """Find or make the row under the one lock of the whole site (PrearcDatabase.eitherGetOrCreateSession)."""
    if call.xnat.timing.serial_seconds == 0:
        return _row(call, header, where, name)  # nothing is awaited in it: the event loop is the lock
    async with call.engine.row_lock:
        await anyio.sleep(call.xnat.timing.serial_seconds)
        return _row(call, header, where, name)


def _row(call: Call, header: Header, where: _Destination, name: str) -> PrearchiveRow:
    """Find or make the row.

    A found row goes back to RECEIVING from any status, locked ones included: XNAT means to open a new
    session there, but that branch is dead code, and files sent to a session that is being archived are lost.
    """
    xnat = call.xnat
    for row in xnat.rows_like(where.project, header.study_uid, where.label):
        if row.status is RowStatus.BUILDING:
            row.status = RowStatus.RECEIVING_INTERRUPT
        elif row.status is not RowStatus.RECEIVING_INTERRUPT:
            row.status = RowStatus.RECEIVING
        if xnat.clock() - row.touched > _LASTMOD_EVERY:
            row.touched, row.lastmod = xnat.clock(), xnat.now()
        return row
    query, now, date = call.query, xnat.now(), header.study_date
    row = PrearchiveRow(
        project=where.project,
        timestamp=query.get("PREARC_TIMESTAMP") or xnat.make_timestamp(),
        folder=query.get("PREARC_SESSION_FOLDER") or where.label,
        name=where.label,
        study_uid=header.study_uid,
        subject=where.subject,
        patient_name=header.patient_name,
        scan_date=f"{date[:4]}-{date[4:6]}-{date[6:8]} 00:00:00.0" if re.fullmatch(r"\d{8}", date) else "",
        autoarchive=where.autoarchive,
        prevent_anon=query.get("prevent_anon", "").lower() == "true",
        prevent_auto_commit=query.get("prevent_auto_commit", "").lower() == "true",
        source=query.get("SOURCE", ""),
        visit=query.get("VISIT", ""),
        protocol=query.get("SUBTYPE", ""),
        timezone="",
        uploaded=now,
        lastmod=now,
        touched=xnat.clock(),
    )
    if xnat.find_row(row.project or UNASSIGNED, row.timestamp, row.folder) is not None:
        # Two studies under one label in the same millisecond: the table's unique key refuses the second.
        raise Refused(400, f"unable to read DICOM object {name}")
    xnat.add_row(row)
    return row


async def _store(call: Call, row: PrearchiveRow, header: Header, body: Body, name: str) -> None:
    """Name the file, lock the name, write (GradualDicomImporter.getSafeFile, PrearcUtils.lockFile).

    The name is chosen before its lock is taken, as in XNAT: two first files of a scan without `rename` may
    both be called upload.dcm. The lock is only tried, never waited for.
    """
    folder = scan_folder(header)
    files = row.scans.setdefault(folder, {})
    present = files.get(name)
    rename = call.query.get("rename", "").lower() == "true"
    taken = present is not None and present.sop_uid != header.sop_uid
    file_name = dicom_file_name(header) if rename or taken else name
    key = (folder, file_name)
    if key in row.busy:
        raise Refused(400, "Concurrent file sends of the same data is not supported.")
    row.busy.add(key)
    try:
        if call.xnat.timing.parallel_seconds:
            await anyio.sleep(call.xnat.timing.parallel_seconds)
        digest = await call.xnat.storage.write((*row.path, "SCANS", folder, "DICOM", file_name), body)
    except OSError:
        # The disk is full, or the folder has just been archived: XNAT masks both so.
        raise Refused(400, f"unable to read DICOM object {name}") from None
    finally:
        row.busy.discard(key)
    series = row.series.get(header.series_uid)
    if series is None:
        series = Series(header.series_uid, header.series_number, header.modality, header.series_description)
        row.series[header.series_uid] = series
    files[file_name] = StoredFile(file_name, body.size, digest, header.sop_uid, series, body.complete)
