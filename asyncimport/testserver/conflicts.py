"""What keeps a prearchive session out of the archive. Pure state.

The checks are those of PrearcSessionArchiver (checkForConflicts, validateDicomFiles) and MergeSessionsA
(checkForConflict). XNAT's own code for all of them is 409.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from .names import session_type
from .site import TestXnat
from .state import ArchivedSession, Document, PrearchiveRow, Scan, StoredFile, Subject
from .tracking import ArchiveFailed

__all__ = ["Arrival", "FileNames", "Terms", "check_names", "check_session", "scan_of_series", "validate_files"]

FileNames = Mapping[str, set[str]]
"""Scan folder -> names of the files in it."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a request allows."""

    override: bool
    """overwrite=append or delete: skips most checks."""
    overwrite_files: bool
    """Files of the same name are replaced."""
    allow_merge: bool
    """Merging into an existing session at all."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A scan of the prearchive session under the id it gets in the archive."""

    scan_id: str
    scan: Scan


def _conflict(message: str) -> ArchiveFailed:
    return ArchiveFailed(message, conflict=True)


def scan_of_series(session: ArchivedSession, uid: str) -> Scan | None:
    """Return the scan of a series."""
    return next((scan for scan in session.scans.values() if uid and scan.series.uid == uid), None)


def check_session(
    xnat: TestXnat,
    row: PrearchiveRow,
    existing: ArchivedSession,
    document: Document,
    target: tuple[str, Subject],
    terms: Terms,
) -> None:
    """Refuse what does not belong to the session that is there; `target` is the label and the subject wanted."""
    label, subject = target
    if not terms.allow_merge:
        raise _conflict("Session already exists, retry with overwrite enabled")
    if existing.label != label:
        raise _conflict("Invalid modification of session label via archive process.")
    if existing.project != row.project:
        raise _conflict("Invalid modification of session project via archive process.")
    if xnat.prevent_cross_modality_merge and existing.xsi_type != session_type(document.modalities):
        raise _conflict(
            "Invalid modification of session modality via archive process.  Data may require a manual merge."
        )
    if existing.subject != subject:
        raise _conflict(
            "Invalid modification of session subject via archive process.: "
            f"{existing.label} Already Exists for another Subject"
        )
    if terms.override:
        return
    other_study = "" not in {existing.study_uid, document.study_uid} and existing.study_uid != document.study_uid
    if other_study and not xnat.project(existing.project).allows_other_studies:
        raise _conflict("Invalid modification of session UID via archive process.")
    for scan in document.scans:
        same = scan_of_series(existing, scan.series.uid)
        if same is not None and scan.id not in existing.scans:
            raise _conflict(f"Session already contains a scan with the same UID, but a different number ({same.id}).")
    if existing.workflow:
        raise _conflict(f"Session processing may already be in progress: {existing.workflow}.")


def validate_files(xnat: TestXnat, on_disk: FileNames, document: Document) -> None:
    """Refuse files unknown to the document, and instances that are in a series twice."""
    known: dict[str, set[str]] = {}
    for scan in document.scans:
        for resource in scan.resources.values():
            known.setdefault(scan.folder, set()).update(resource.files)
    for folder, names in on_disk.items():
        if unknown := names - known.get(folder, set()):
            raise _conflict(f"Scan {folder} has {len(unknown)} non-DICOM (or non-parsable DICOM) files")
    if not xnat.unique_sop_uids:
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
    xnat: TestXnat, arrivals: tuple[Arrival, ...], existing: ArchivedSession | None, place: tuple[str, str]
) -> None:
    """Refuse what is there already; `place` is project and label of the session's folder.

    Files count by their names, also those in a folder that the database knows nothing of; catalog entries count
    by SOPInstanceUID, also under another name.
    """
    orphans = xnat.orphans.get(place, set())
    for arrival in arrivals:
        present = existing.scans.get(arrival.scan_id) if existing is not None else None
        for label, resource in arrival.scan.resources.items():
            there: Mapping[str, StoredFile] = {}
            if present is not None and label in present.resources:
                there = present.resources[label].files
            same = resource.files.keys() & there.keys()
            if any(there[name].on_disk for name in same) or any(
                (arrival.scan_id, label, name) in orphans for name in resource.files
            ):
                raise _conflict("Session already exists with matching files.")
            uids = {file.sop_uid for file in there.values()} if xnat.unique_sop_uids else set()
            if same or any(file.sop_uid in uids for file in resource.files.values()):
                raise _conflict("Session already exists with the same resources.")
