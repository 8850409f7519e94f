"""Conflicts that keep a prearchive session out of the archive.

The checks are those of PrearcSessionArchiver (checkForConflicts, validateDicomFiles) and MergeSessionsA
(checkForConflict). XNAT's own code for all of them is 409.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from .archive import ArchivedSession, Scan
from .archive_jobs import ArchiveError
from .names import session_type
from .prearchive import Document, PrearchiveRow
from .resources import StoredFile
from .site import Site
from .subjects import Subject

FileNames = Mapping[str, set[str]]
"""Scan folder -> names of the files in it."""


@dataclass(frozen=True, slots=True)
class MergeOptions:
    """What a request allows."""

    override: bool = False
    """Whether most checks are skipped (overwrite=append or delete)."""
    overwrite_files: bool = False
    """Whether files of the same name are replaced."""
    allow_merge: bool = True
    """Whether a session may be merged into an existing one at all."""


@dataclass(frozen=True, slots=True)
class IncomingScan:
    """A scan of the prearchive session, and the ID that it gets in the archive."""

    scan_id: str
    scan: Scan


def _conflict(message: str) -> ArchiveError:
    return ArchiveError(message, conflict=True)


def scan_of_series(session: ArchivedSession, uid: str) -> Scan | None:
    """Return a session's scan of this SeriesInstanceUID."""
    return next((scan for scan in session.scans.values() if uid and scan.series.uid == uid), None)


def check_session(
    site: Site,
    row: PrearchiveRow,
    existing: ArchivedSession,
    document: Document,
    target: tuple[str, Subject],
    options: MergeOptions,
) -> None:
    """Refuse a merge into a session that differs; `target` is the wanted label and subject. Raises ArchiveError."""
    label, subject = target
    if not options.allow_merge:
        raise _conflict("Session already exists, retry with overwrite enabled")
    if existing.label != label:
        raise _conflict("Invalid modification of session label via archive process.")
    if existing.project != row.project:
        raise _conflict("Invalid modification of session project via archive process.")
    if site.prevent_cross_modality_merge and existing.xsi_type != session_type(document.modalities):
        raise _conflict(
            "Invalid modification of session modality via archive process.  Data may require a manual merge."
        )
    if existing.subject != subject:
        raise _conflict(
            "Invalid modification of session subject via archive process.: "
            f"{existing.label} Already Exists for another Subject"
        )
    if options.override:
        return
    other_study = "" not in {existing.study_uid, document.study_uid} and existing.study_uid != document.study_uid
    if other_study and not site.project(existing.project).allows_other_studies:
        raise _conflict("Invalid modification of session UID via archive process.")
    for scan in document.scans:
        same = scan_of_series(existing, scan.series.uid)
        if same is not None and scan.id not in existing.scans:
            raise _conflict(f"Session already contains a scan with the same UID, but a different number ({same.id}).")
    if existing.workflow:
        raise _conflict(f"Session processing may already be in progress: {existing.workflow}.")


def validate_files(site: Site, on_disk: FileNames, document: Document) -> None:
    """Refuse files that the document does not list, and instances that are in a series twice. Raises ArchiveError."""
    known: dict[str, set[str]] = {}
    for scan in document.scans:
        for resource in scan.resources.values():
            known.setdefault(scan.folder, set()).update(resource.files)
    for folder, names in on_disk.items():
        if unknown := names - known.get(folder, set()):
            raise _conflict(f"Scan {folder} has {len(unknown)} non-DICOM (or non-parsable DICOM) files")
    if not site.unique_sop_uids:
        return
    times: Counter[tuple[str, str]] = Counter()
    for scan in document.scans:
        twice = []
        for resource in scan.resources.values():
            for file in resource.files.values():
                times[scan.series.uid, file.sop_uid] += 1
                if times[scan.series.uid, file.sop_uid] == 2:
                    twice.append(file.sop_uid)
        if twice:
            raise _conflict(f"Scan {scan.id} DICOM catalog contains duplicated SOP instance UIDs: {', '.join(twice)}")


def check_names(
    site: Site, incoming: tuple[IncomingScan, ...], existing: ArchivedSession | None, folder: tuple[str, str]
) -> None:
    """Refuse files that are already there; `folder` is the session's project and label. Raises ArchiveError.

    Files are compared by name, orphans included; catalog entries by SOPInstanceUID, whatever their names.
    """
    orphans = site.orphans.get(folder, set())
    for arriving in incoming:
        present = existing.scans.get(arriving.scan_id) if existing is not None else None
        for label, resource in arriving.scan.resources.items():
            files: Mapping[str, StoredFile] = {}
            if present is not None and label in present.resources:
                files = present.resources[label].files
            same = resource.files.keys() & files.keys()
            if any(files[name].on_disk for name in same) or any(
                (arriving.scan_id, label, name) in orphans for name in resource.files
            ):
                raise _conflict("Session already exists with matching files.")
            uids = {file.sop_uid for file in files.values()} if site.unique_sop_uids else set()
            if same or any(file.sop_uid in uids for file in resource.files.values()):
                raise _conflict("Session already exists with the same resources.")
