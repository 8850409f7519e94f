"""GradualDicomImporter: the project and labels of one DICOM object, its row in the prearchive, its file."""

import errno
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

import anyio

from ..site.archive import Patient
from ..site.dicom_header import Header, NotDicomError, read_header
from ..site.names import dicom_file_name, make_timestamp, scan_folder, to_label_chars
from ..site.prearchive import ImportRecord, PrearchiveRow, RowStatus
from ..site.profiles import FileLock
from ..site.projects import UNASSIGNED, Project
from ..site.resources import Series, StoredFile
from ..site.storage import Body
from .request_context import RequestContext
from .responses import HttpError

_LASTMOD_EVERY = 15.0
_AUTOARCHIVE = {0: "Manual", 4: "AutoArchive", 5: "AutoArchiveOverwrite"}
ParameterNames = Mapping[str, tuple[str, ...]]
"""The parameters that name project, subject and session; the first that is given counts."""
_GRADUAL_NAMES: ParameterNames = {"project": ("PROJECT_ID",), "subject": ("SUBJECT_ID",), "session": ("EXPT_LABEL",)}


@dataclass(frozen=True, slots=True)
class Destination:
    """Where an instance goes, before its row is looked up."""

    project: Project | None
    subject: str
    label: str
    autoarchive: str

    @property
    def project_id(self) -> str | None:
        """The project's ID, if it has one."""
        return self.project.id if self.project is not None else None


async def import_object(
    context: RequestContext, params: Mapping[str, str], body: Body, name: str, names: ParameterNames = _GRADUAL_NAMES
) -> PrearchiveRow | None:
    """Store one instance (org.nrg.xnat.archive.GradualDicomImporter.call) and return its row.

    None if a filter or the anonymisation script drops it. The body is used up in any case.
    """
    site = context.site
    try:
        header = _read_header(body, name)
        destination = find_destination(context, params, header, names)
        if not _passes_filters(context, destination, header):
            await site.storage.discard(body)
            return None
        async with AsyncExitStack() as stack:
            if not site.timing.is_free:
                await stack.enter_async_context(context.runtime.connections)
            row = await _find_or_create_row(context, params, header, destination, name)
            stored = await store(context, params, row, header, body, name)
    except HttpError:
        await site.storage.discard(body)
        raise
    if not stored:
        return None
    record_import(context, row, header, body)
    return row


def record_import(context: RequestContext, row: PrearchiveRow, header: Header, body: Body) -> None:
    """Record an import."""
    status = 200 if body.complete else 0
    record = ImportRecord(row.project or UNASSIGNED, row.subject, row.name, header.sop_uid, status, row.import_uri)
    context.site.imports.append(record)


def _read_header(body: Body, name: str) -> Header:
    """Read the header or refuse the file, with the texts of GradualDicomImporter.

    Nothing is kept of a body that is cut inside the header: the file has no name yet.
    """
    try:
        header = read_header(body.head)
    except NotDicomError:
        raise HttpError(400, f"unable to read DICOM object {name}") from None
    if not body.complete and not header.layout.has_more:
        raise HttpError(400, f"unable to read DICOM object {name}")
    if not header.sop_class:
        raise HttpError(400, f"object {name} contains no SOP Class UID")
    if not header.sop_uid:
        raise HttpError(400, f"object {name} contains no SOP Instance UID")
    return header


def _passes_filters(context: RequestContext, destination: Destination, header: Header) -> bool:
    """Apply the filters of site and project (GradualDicomImporter.shouldIncludeDicomObject)."""
    filters = (
        context.site.series_filter,
        destination.project.series_filter if destination.project is not None else None,
    )
    return all(one.admits(header) for one in filters if one is not None)


def find_destination(
    context: RequestContext, params: Mapping[str, str], header: Header, names: ParameterNames
) -> Destination:
    """Decide project, subject, session label and auto-archiving.

    GradualDicomImporter.getProject falls back silently: from PROJECT_ID to the file (the comment tags, then
    StudyDescription and AccessionNumber as IDs: Xnat15DicomProjectIdentifier), then to Unassigned. Only values that
    come from DICOM have their characters replaced.
    """
    right = context.site.profile.import_right
    given = {name: next(filter(None, map(params.get, keys)), "") for name, keys in names.items()}
    candidates = (given["project"], _assigned("Project", header), header.study_description, header.accession)
    found = (context.find_project(name, right) for name in candidates if name)
    project = next((project for project in found if project is not None), None)
    label = given["session"] or to_label_chars(_assigned("Session", header) or header.patient_id)
    subject = given["subject"] or to_label_chars(_assigned("Subject", header) or header.patient_name)
    asked_aa = _assigned("AA", header).lower()
    if asked_aa in {"true", "false"}:
        autoarchive = "AutoArchive" if asked_aa == "true" else "Manual"
    else:
        autoarchive = _AUTOARCHIVE.get(project.prearchive_code, "Manual") if project else ""
    return Destination(project, subject, label or "dicom_upload", autoarchive)


_ASSIGNMENTS = {
    key: re.compile(rf"(?:\A|.*[\s,;]){key}:\s*([\w-]+)\s*(?:[\s,;].*)?\Z", re.DOTALL | re.IGNORECASE)
    for key in ("Project", "Subject", "Session", "AA")
}


def _assigned(key: str, header: Header) -> str:
    """Return the value that `key:value` in the comment tags assigns (ContainedAssignmentExtractor)."""
    for comment in header.comments:
        if comment and (match := _ASSIGNMENTS[key].match(comment)):
            return match[1]
    return ""


async def _find_or_create_row(
    context: RequestContext, params: Mapping[str, str], header: Header, destination: Destination, name: str
) -> PrearchiveRow:
    """Find or create the row under the one lock of the whole site (PrearcDatabase.eitherGetOrCreateSession)."""
    timing, rows = context.site.timing, context.site.number_of_rows
    if (row := _direct_row(context, params, header, destination)) is not None:
        return row
    if not context.site.profile.rows_locked:
        if (row := _find_row(context, header, destination)) is not None:
            return row
        await anyio.sleep(timing.serial_seconds)  # other requests look meanwhile, and find no row either
        return _create_row(context, params, header, destination, name)
    if seconds := timing.look_up_seconds(rows):
        await context.runtime.row_look_ups.spend(seconds)
    # Nothing is awaited here, so no lock is needed.
    return _find_row(context, header, destination) or _create_row(context, params, header, destination, name)


def _direct_row(
    context: RequestContext, params: Mapping[str, str], header: Header, destination: Destination
) -> PrearchiveRow | None:
    """Return the row of a session that goes straight into the archive, or None: the prearchive takes the file.

    XNAT falls back on the prearchive without a word if the archive has the session already, or is at work on it.
    """
    site = context.site
    if not site.profile.has_direct_archive or params.get("Direct-Archive", "").lower() != "true":
        return None
    row = site.direct_rows.get((destination.project_id, header.study_uid, destination.label))
    if row is not None:
        row.touched = site.clock()
        return row if row.status is RowStatus.RECEIVING else None
    if destination.project_id is None or site.experiment_labelled(destination.project_id, destination.label):
        return None
    row = new_row(context, header, destination, params)
    row.is_direct = True
    site.add_row(row)
    return row


def _find_row(context: RequestContext, header: Header, destination: Destination) -> PrearchiveRow | None:
    """Return the existing row, if any.

    It goes back to RECEIVING from any status, locked ones included: XNAT means to open a new session in that case, but
    that branch is dead code, and files sent to a session that is being archived are lost.
    """
    site = context.site
    for row in site.rows_for_import(destination.project_id, header.study_uid, destination.label):
        if row.status is RowStatus.BUILDING:
            row.status = RowStatus.RECEIVING_INTERRUPT
        elif row.status is not RowStatus.RECEIVING_INTERRUPT:
            row.status = RowStatus.RECEIVING
        if site.clock() - row.touched > _LASTMOD_EVERY:
            row.touched, row.lastmod = site.clock(), site.now()
        return row
    return None


def _create_row(
    context: RequestContext, params: Mapping[str, str], header: Header, destination: Destination, name: str
) -> PrearchiveRow:
    """Create a row from this request; later requests do not change its values."""
    row = new_row(context, header, destination, params)
    if context.site.find_row(row.project or UNASSIGNED, row.timestamp, row.folder) is not None:
        # Two studies with one label in the same millisecond: the table's unique key refuses the second.
        raise HttpError(400, f"unable to read DICOM object {name}")
    context.site.add_row(row)
    return row


def new_row(
    context: RequestContext, header: Header, destination: Destination, params: Mapping[str, str]
) -> PrearchiveRow:
    """Make a row of what a request gives; it is not in the prearchive yet."""
    date, now = header.study_date, context.site.now()
    return PrearchiveRow(
        project=destination.project_id,
        timestamp=params.get("PREARC_TIMESTAMP") or make_timestamp(now),
        folder=params.get("PREARC_SESSION_FOLDER") or destination.label,
        name=destination.label,
        study_uid=header.study_uid,
        subject=destination.subject,
        patient_name=header.patient_name,
        scan_date=f"{date[:4]}-{date[4:6]}-{date[6:8]} 00:00:00.0" if re.fullmatch(r"\d{8}", date) else "",
        autoarchive=destination.autoarchive,
        prevent_anon=params.get("prevent_anon", "").lower() == "true",
        prevent_auto_commit=params.get("prevent_auto_commit", "").lower() == "true",
        source=params.get("SOURCE", ""),
        visit=params.get("VISIT", ""),
        protocol=params.get("SUBTYPE", ""),
        timezone="",
        uploaded=now,
        lastmod=now,
        touched=context.site.clock(),
    )


async def store(
    context: RequestContext, params: Mapping[str, str], row: PrearchiveRow, header: Header, body: Body, name: str
) -> bool:
    """Name the file, lock the name, write, anonymise (GradualDicomImporter.getSafeFile, PrearcUtils.lockFile).

    The name is chosen before its lock is taken, as in XNAT: two first files of a scan without `rename` may both be
    called upload.dcm, and the second to get the lock replaces the first. Nobody waits for a lock that is taken.
    Returns False if the anonymisation script rejects the file.
    """
    timing, folder = context.site.timing, _scan_folder(context, header)
    file_name = await _file_name(context, params, row, header, name)
    key = _lock_key(context.site.profile.file_lock, row, folder, file_name)
    locks = context.runtime.file_locks
    if key in locks:
        if len(key) == 1:
            raise HttpError(500, "Concurrent file sends are not supported.")
        raise HttpError(400, "Concurrent file sends of the same data is not supported.")
    if key:
        locks.add(key)
    row.writing += 1
    try:
        if timing.shadow_lock_seconds:
            await context.runtime.lock_files.spend(timing.shadow_lock_seconds)
        if seconds := timing.parallel_seconds + timing.byte_seconds * body.size:
            await anyio.sleep(seconds * context.runtime.disk_slowdown)
        return await _write(context, row, header, body, file_name)
    except OSError:
        # The disk is full, or the folder has just been archived: XNAT gives both the same text.
        raise HttpError(400, f"unable to read DICOM object {name}") from None
    finally:
        row.writing -= 1
        locks.discard(key)


async def _file_name(
    context: RequestContext, params: Mapping[str, str], row: PrearchiveRow, header: Header, name: str
) -> str:
    if params.get("rename", "").lower() == "true":
        return dicom_file_name(header, context.site.file_name_template)
    present = row.scans.get(_scan_folder(context, header), {}).get(name)
    await anyio.sleep(context.site.timing.naming_seconds)  # the window between the check and the lock
    if present is None or present.sop_uid == header.sop_uid:
        return name
    return dicom_file_name(header, context.site.file_name_template)


def _scan_folder(context: RequestContext, header: Header) -> str:
    return scan_folder(header, keeps_plus=context.site.profile.plus_in_series_number)


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


async def _write(context: RequestContext, row: PrearchiveRow, header: Header, body: Body, name: str) -> bool:
    """Write a file and add it to the row; False if the script rejects it."""
    site, folder = context.site, _scan_folder(context, header)
    if site.disk_full or context.disk_full is not None:
        if context.disk_full is not None and context.disk_full.partial:
            await _add(context, row, header, folder, name, _cut_by_full_disk(body))
        raise OSError(errno.ENOSPC, "No space left on device")
    # A cut file stays as it is: XNAT anonymises only when it has the whole file.
    script = site.script if body.complete and not row.prevent_anon else None
    if script is None:
        patient = Patient(header.patient_id, header.patient_name, header.birth_date)
        await _add(context, row, header, folder, name, body)
    elif script.reject is not None and script.reject(header):
        await site.storage.discard(body)
        await site.storage.delete(row.file_path(folder, name))
        row.scans.get(folder, {}).pop(name, None)
        return False
    else:
        patient = script.patient(header, row.labels)
        head = None
        if not header.layout.deflated or len(body.head) == body.size:  # larger deflated files stay as they are
            head = script.apply(body.head, header, row.labels)
        header = script.map_uids(header)
        row.mapped_study = header.study_uid if script.map_study is not None else ""
        await _add(context, row, header, folder, name, body, head)
    row.patients.add(patient)
    return True


async def _add(
    context: RequestContext,
    row: PrearchiveRow,
    header: Header,
    folder: str,
    name: str,
    body: Body,
    head: bytes | None = None,
) -> None:
    """Write a file and add it to the row; `head`, if given, replaces the body's."""
    size, digest = await context.site.storage.write(row.file_path(folder, name), body, head)
    series = row.series.get(header.series_uid)
    if series is None:
        series = Series(header.series_uid, header.series_number, header.modality, header.series_description)
        row.series[header.series_uid] = series
    stored = StoredFile(name, size, digest, header.sop_uid, series, body.complete, header.sop_class)
    row.scans.setdefault(folder, {})[name] = stored


def _cut_by_full_disk(body: Body) -> Body:
    """Return the part of a file that a full disk takes: half of it, or all but a byte if half is only its header."""
    half = body.head[: len(body.head) // 2]
    try:
        has_more = read_header(half).layout.has_more
    except NotDicomError:
        has_more = False
    return Body.of(half if has_more else body.head[:-1], complete=False)
