"""The importers of one DICOM object: gradual-DICOM, and the SessionImporter in its simplest form."""

import errno
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta

import anyio
from aiohttp import web

from .anonymising import rewritten
from .building import build_document
from .call import Call
from .dicom import Header, NotDicomError, read_header
from .names import dicom_file_name, make_timestamp, scan_folder, to_label_chars
from .pages import Refused, uri_list
from .profile import FileLock
from .rules import Script
from .state import UNASSIGNED, ImportRecord, PrearchiveRow, Project, RowStatus, Series, StoredFile
from .storage import Body

__all__ = ["gradual_import", "session_import"]

_LASTMOD_EVERY = 15.0
_AUTOARCHIVE = {0: "Manual", 4: "AutoArchive", 5: "AutoArchiveOverwrite"}
_GRADUAL_NAMES = {"project": ("PROJECT_ID",), "subject": ("SUBJECT_ID",), "session": ("EXPT_LABEL",)}
_SI_NAMES = {name: (*names, name) for name, names in _GRADUAL_NAMES.items()}


@dataclass(frozen=True, slots=True)
class _Destination:
    """Where an instance is to go, before its row is looked up."""

    project: Project | None
    subject: str
    label: str
    autoarchive: str


async def gradual_import(call: Call, name: str, content_type: str) -> web.StreamResponse:
    """Store one instance (org.nrg.xnat.archive.GradualDicomImporter.call).

    What a filter or the anonymisation script refuses is answered with 200 and an empty body.
    """
    xnat = call.xnat
    body = await xnat.storage.receive(call.body, stop_after=call.stop_after)
    try:
        header = _identify(body, name)
        where = _destination(call, header, _GRADUAL_NAMES)
        if not _admitted(call, where, header):
            await xnat.storage.discard(body)
            return uri_list("")
        async with AsyncExitStack() as stack:
            if not xnat.timing.free:
                await stack.enter_async_context(call.engine.connections)
            row = await _locked_row(call, header, where, name)
            stored = await _store(call, row, header, body, name)
    except Refused:
        await xnat.storage.discard(body)
        raise
    if not stored:
        return uri_list("")
    uri = _record(call, row, header, body)
    return uri_list("OK" if content_type == "application/x-mirc" else f"{uri}\r\n")


async def session_import(call: Call, name: str, _content_type: str) -> web.StreamResponse:
    """Make a session of the one object in the body (SessionImporter): a new folder for every request.

    Its document is built at once. Archives, of which XNAT means this importer to take one a session, are not emulated.
    """
    xnat = call.xnat
    body = await xnat.storage.receive(call.body, stop_after=call.stop_after)
    try:
        try:
            header = read_header(body.head)
        except NotDicomError:
            raise Refused(400, "Upload did not include parsable files for session generation.") from None
        where = _destination(call, header, _SI_NAMES)
        moment = xnat.now()
        project = where.project.id if where.project is not None else UNASSIGNED
        while xnat.find_row(project, make_timestamp(moment), where.label) is not None:
            moment += timedelta(milliseconds=1)
        row = _new_row(call, header, where, {}, moment)
        row.source, row.prevent_auto_commit = "SessionImporter", True
        xnat.add_row(row)
        await _store(call, row, header, body, name)
    except Refused:
        await xnat.storage.discard(body)
        raise
    row.document = build_document(xnat, row)
    row.status = RowStatus.READY
    return uri_list(f"{_record(call, row, header, body)}\r\n")


def _record(call: Call, row: PrearchiveRow, header: Header, body: Body) -> str:
    """Remember an import; return the URI of the reply."""
    uri = f"/data{row.uri}"
    status = 200 if body.complete else 0
    record = ImportRecord(row.project or UNASSIGNED, row.subject, row.name, header.sop_uid, status, uri)
    call.xnat.imports.append(record)
    return uri


def _identify(body: Body, name: str) -> Header:
    """Read the header or refuse the file, with the texts of GradualDicomImporter.

    Of a body that breaks off within the header nothing is kept: the file has no name yet.
    """
    try:
        header = read_header(body.head)
    except NotDicomError:
        raise Refused(400, f"unable to read DICOM object {name}") from None
    if not body.complete and not header.layout.goes_on:
        raise Refused(400, f"unable to read DICOM object {name}")
    if not header.sop_class:
        raise Refused(400, f"object {name} contains no SOP Class UID")
    if not header.sop_uid:
        raise Refused(400, f"object {name} contains no SOP Instance UID")
    return header


def _admitted(call: Call, where: _Destination, header: Header) -> bool:
    """Ask the filters of site and project (GradualDicomImporter.shouldIncludeDicomObject)."""
    filters = (call.xnat.series_filter, where.project.series_filter if where.project is not None else None)
    return all(one.admits(header) for one in filters if one is not None)


def _destination(call: Call, header: Header, names: Mapping[str, tuple[str, ...]]) -> _Destination:
    """Decide project, subject, session label and auto-archiving.

    GradualDicomImporter.getProject falls back silently: from PROJECT_ID to what the file says (the comment
    tags, then StudyDescription and AccessionNumber as ids: Xnat15DicomProjectIdentifier), then Unassigned.
    Only values that come from DICOM have their characters replaced.
    """
    query = call.query
    right = call.xnat.profile.import_right
    given = {name: next(filter(None, map(query.get, keys)), "") for name, keys in names.items()}
    asked = given["project"] or _project_of_destination(query.get("dest", ""))
    candidates = (
        asked,
        _assigned("Project", header),
        header.study_description,
        header.accession,
    )
    found = (call.find_project(name, right) for name in candidates if name)
    project = next((project for project in found if project is not None), None)
    label = given["session"] or to_label_chars(_assigned("Session", header) or header.patient_id)
    subject = given["subject"] or to_label_chars(_assigned("Subject", header) or header.patient_name)
    asked_aa = _assigned("AA", header).lower()
    if asked_aa in {"true", "false"}:
        autoarchive = "AutoArchive" if asked_aa == "true" else "Manual"
    else:
        autoarchive = _AUTOARCHIVE.get(project.prearchive_code, "Manual") if project else ""
    return _Destination(project, subject, label or "dicom_upload", autoarchive)


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
    if not call.xnat.profile.rows_locked:
        if (row := _found_row(call, header, where)) is not None:
            return row
        await anyio.sleep(call.xnat.timing.serial_seconds)  # others look meanwhile, and find no row either
        return _made_row(call, header, where, name)
    if call.xnat.timing.serial_seconds == 0:  # nothing is awaited in it: the event loop is the lock
        return _found_row(call, header, where) or _made_row(call, header, where, name)
    async with call.engine.row_lock:
        await anyio.sleep(call.xnat.timing.serial_seconds)
        return _found_row(call, header, where) or _made_row(call, header, where, name)


def _found_row(call: Call, header: Header, where: _Destination) -> PrearchiveRow | None:
    """Return the row there is.

    It goes back to RECEIVING from any status, locked ones included: XNAT means to open a new session there, but
    that branch is dead code, and files sent to a session that is being archived are lost.
    """
    xnat = call.xnat
    for row in xnat.rows_like(where.project.id if where.project is not None else None, header.study_uid, where.label):
        if row.status is RowStatus.BUILDING:
            row.status = RowStatus.RECEIVING_INTERRUPT
        elif row.status is not RowStatus.RECEIVING_INTERRUPT:
            row.status = RowStatus.RECEIVING
        if xnat.clock() - row.touched > _LASTMOD_EVERY:
            row.touched, row.lastmod = xnat.clock(), xnat.now()
        return row
    return None


def _made_row(call: Call, header: Header, where: _Destination, name: str) -> PrearchiveRow:
    """Make a row of what this request says; later ones change nothing in it."""
    row = _new_row(call, header, where, call.query, call.xnat.now())
    if call.xnat.find_row(row.project or UNASSIGNED, row.timestamp, row.folder) is not None:
        # Two studies under one label in the same millisecond: the table's unique key refuses the second.
        raise Refused(400, f"unable to read DICOM object {name}")
    call.xnat.add_row(row)
    return row


def _new_row(call: Call, header: Header, where: _Destination, query: Mapping[str, str], now: datetime) -> PrearchiveRow:
    date = header.study_date
    return PrearchiveRow(
        project=where.project.id if where.project is not None else None,
        timestamp=query.get("PREARC_TIMESTAMP") or make_timestamp(now),
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
        touched=call.xnat.clock(),
    )


async def _store(call: Call, row: PrearchiveRow, header: Header, body: Body, name: str) -> bool:
    """Name the file, lock the name, write, anonymise (GradualDicomImporter.getSafeFile, PrearcUtils.lockFile).

    The name is chosen before its lock is taken, as in XNAT: two first files of a scan without `rename` may
    both be called upload.dcm, and the second to get the lock replaces the first. The lock is only tried, never
    waited for. False means that the anonymisation script refused the file.
    """
    timing, folder = call.xnat.timing, scan_folder(header)
    file_name = await _file_name(call, row, header, name)
    key = _lock_key(call.xnat.profile.file_lock, row, folder, file_name)
    if key in call.engine.files:
        if len(key) == 1:
            raise Refused(500, "Concurrent file sends are not supported.")
        raise Refused(400, "Concurrent file sends of the same data is not supported.")
    if key:
        call.engine.files.add(key)
    row.writing += 1
    try:
        if timing.parallel_seconds:
            await anyio.sleep(timing.parallel_seconds)
        return await _write(call, row, header, body, file_name)
    except OSError:
        # The disk is full, or the folder has just been archived: XNAT masks both so.
        raise Refused(400, f"unable to read DICOM object {name}") from None
    finally:
        row.writing -= 1
        call.engine.files.discard(key)


async def _file_name(call: Call, row: PrearchiveRow, header: Header, name: str) -> str:
    if call.query.get("rename", "").lower() == "true":
        return dicom_file_name(header, call.xnat.file_name_template)
    present = row.scans.get(scan_folder(header), {}).get(name)
    await anyio.sleep(call.xnat.timing.naming_seconds)  # the window between the look and the lock
    if present is None or present.sop_uid == header.sop_uid:
        return name
    return dicom_file_name(header, call.xnat.file_name_template)


def _lock_key(lock: FileLock, row: PrearchiveRow, folder: str, name: str) -> tuple[str, ...]:
    match lock:
        case "scan":
            return row.uri, folder, name
        case "session":
            return row.uri, name
        case "site":
            return (name,)
        case "none":
            return ()


async def _write(call: Call, row: PrearchiveRow, header: Header, body: Body, name: str) -> bool:
    """Write a file and enter it in the books; False when the script refuses it."""
    xnat, folder = call.xnat, scan_folder(header)
    parts = (*row.path, "SCANS", folder, "DICOM", name)
    if xnat.disk_full or call.disk_full is not None:
        if call.disk_full is not None and call.disk_full.partial:
            await _enter(call, row, header, _fitting(body), name)
        raise OSError(errno.ENOSPC, "No space left on device")
    # A cut file stays as it came: XNAT anonymises when all of it is on the disk.
    script = xnat.script if body.complete and not row.prevent_anon else None
    if script is not None and script.reject is not None and script.reject(header):
        await xnat.storage.discard(body)
        await xnat.storage.delete(parts)
        row.scans.get(folder, {}).pop(name, None)
        return False
    head = None
    patient = header.patient_id, header.patient_name, header.birth_date
    if script is not None:
        patient = script.patient(header, (row.project or UNASSIGNED, row.subject, row.name))
        head = _anonymised(script, row, header, body)
        header = script.mapped(header)
        row.mapped_study = header.study_uid if script.map_study is not None else ""
    await _enter(call, row, header, body, name, head, folder)
    row.patients.add(patient)
    return True


async def _enter(
    call: Call,
    row: PrearchiveRow,
    header: Header,
    body: Body,
    name: str,
    head: bytes | None = None,
    folder: str | None = None,
) -> None:
    """Write a file and enter it in the row; `head`, where given, takes the place of the body's.

    The folder of its scan is that of the header as it came, before any script.
    """
    folder = folder or scan_folder(header)
    size, digest = await call.xnat.storage.write((*row.path, "SCANS", folder, "DICOM", name), body, head)
    series = row.series.get(header.series_uid)
    if series is None:
        series = Series(header.series_uid, header.series_number, header.modality, header.series_description)
        row.series[header.series_uid] = series
    stored = StoredFile(name, size, digest, header.sop_uid, series, body.complete, header.sop_class)
    row.scans.setdefault(folder, {})[name] = stored


def _fitting(body: Body) -> Body:
    """Return what a full disk takes of a file: half of it, or all but a byte where half is no more than a header."""
    half = body.head[: len(body.head) // 2]
    try:
        whole = read_header(half).layout.goes_on
    except NotDicomError:
        whole = False
    head = half if whole else body.head[:-1]
    return Body(head, len(head), None, None, complete=False)


def _anonymised(script: Script, row: PrearchiveRow, header: Header, body: Body) -> bytes | None:
    """Return the first bytes as the site's script leaves them; None for a file that it leaves alone."""
    if header.layout.deflated and len(body.head) < body.size:
        return None  # not worth the trouble: a deflated file of more than 8 MiB
    return rewritten(body.head, header, script.values(header, (row.project or UNASSIGNED, row.subject, row.name)))
