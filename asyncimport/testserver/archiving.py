"""Moves a built prearchive session into the archive: conflicts, merging, scan numbers. Pure state.

All of it imitates org.nrg.xnat.archive.PrearcSessionArchiver and MergePrearcToArchiveSession.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from .names import clean_value, scan_type, session_type
from .site import TestXnat
from .state import ArchivedSession, Document, PrearchiveRow, Scan, Subject
from .storage import Parts

__all__ = ["ArchiveFailed", "FileNames", "Merge", "Terms", "plan_merge", "target_names"]

FileNames = Mapping[str, set[str]]
"""Scan folder -> names of the files in it."""


class ArchiveFailed(Exception):  # noqa: N818
    """The job failed; `conflict` says whether XNAT's own code was 409, so that the row becomes CONFLICT."""

    def __init__(self, message: str, *, conflict: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.conflict = conflict


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
class _Arrival:
    """A scan of the prearchive session under the id it gets in the archive."""

    scan_id: str
    scan: Scan


@dataclass(frozen=True, slots=True)
class Merge:
    """What is to be done: nothing has changed yet but the subject, which XNAT makes first."""

    session: ArchivedSession
    new: bool
    arrivals: tuple[_Arrival, ...]
    row: PrearchiveRow

    def moves(self) -> list[tuple[Parts, Parts]]:
        """Return where each file is and where it goes."""
        return [
            (
                (*self.row.path, "SCANS", arrival.scan.folder, label, name),
                (*self.session.path, "SCANS", arrival.scan_id, label, name),
            )
            for arrival in self.arrivals
            for label, resource in arrival.scan.resources.items()
            for name in resource.files
        ]

    def apply(self, xnat: TestXnat) -> None:
        """Enter the scans and files in the archive."""
        for arrival in self.arrivals:
            scan = self.session.scans.get(arrival.scan_id)
            if scan is None:
                scan = xnat.new_scan(arrival.scan_id, arrival.scan.series)
                self.session.scans[arrival.scan_id] = scan
            for label, resource in arrival.scan.resources.items():
                if label in scan.resources:
                    scan.resources[label].files.update(resource.files)
                else:
                    scan.resources[label] = xnat.new_resource(label, dict(resource.files))
        if self.new:
            xnat.add_experiment(self.session)


def target_names(row: PrearchiveRow, params: Mapping[str, str]) -> tuple[str, str]:
    """Return the labels of session and subject in the archive (fixSessionLabel, fixSubject).

    Parameters outweigh the row, and the patient's name is the last resort for the subject.
    """
    asked = (params.get(key) for key in ("session", "EXPT_LABEL", "label"))
    session = clean_value(next(filter(None, asked), row.name))
    asked = (params.get(key) for key in ("subject", "SUBJECT_ID"))
    subject = clean_value(next(filter(None, asked), row.subject or row.patient_name))
    return session, subject


def plan_merge(
    xnat: TestXnat, row: PrearchiveRow, params: Mapping[str, str], terms: Terms, on_disk: FileNames
) -> Merge:
    """Check everything that can fail and say what is to be done. Raises ArchiveFailed.

    `on_disk` are the files that the session's folder had when the job began: what came later is lost.
    """
    document = row.document
    if document is None or row.project is None:
        raise ArchiveFailed("Unable to read the session document: it has not been built.")
    label, subject_label = target_names(row, params)
    if not label:
        raise ArchiveFailed("unable to deduce session label")
    if not subject_label:
        raise ArchiveFailed("Unable to identify subject.")
    subject = xnat.subject_of_archive(row.project, subject_label)
    existing = xnat.experiment(label, row.project)
    if existing is not None:
        _check_session(existing, document, subject, terms)
    if not terms.override:
        _validate_files(on_disk, document)
    if existing is not None:
        arrivals = _correct_scan_ids(document, existing)
        if not (terms.override or terms.overwrite_files):
            _check_names(arrivals, existing)
        return Merge(existing, new=False, arrivals=arrivals, row=row)
    session = ArchivedSession(
        id=xnat.accession("E"),
        project=row.project,
        subject=subject,
        label=label,
        study_uid=row.study_uid,
        xsi_type=session_type(document.modalities),
        date=row.scan_date[:10],
        inserted=xnat.now(),
    )
    arrivals = tuple(_Arrival(scan.id, scan) for scan in document.scans)
    return Merge(session, new=True, arrivals=arrivals, row=row)


def _conflict(message: str) -> ArchiveFailed:
    return ArchiveFailed(message, conflict=True)


def _by_uid(session: ArchivedSession, uid: str) -> Scan | None:
    return next((scan for scan in session.scans.values() if uid and scan.series.uid == uid), None)


def _check_session(existing: ArchivedSession, document: Document, subject: Subject, terms: Terms) -> None:
    """Refuse what does not belong to the session that is there (checkForConflicts)."""
    if not terms.allow_merge:
        raise _conflict("Session already exists, retry with overwrite enabled")
    if existing.xsi_type != session_type(document.modalities):
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
    if "" not in {existing.study_uid, document.study_uid} and existing.study_uid != document.study_uid:
        raise _conflict("Invalid modification of session UID via archive process.")
    for scan in document.scans:
        same = _by_uid(existing, scan.series.uid)
        if same is not None and scan.id not in existing.scans:
            raise _conflict(f"Session already contains a scan with the same UID, but a different number ({same.id}).")


def _validate_files(on_disk: FileNames, document: Document) -> None:
    """Refuse files unknown to the document, and instances that are there twice (validateDicomFiles)."""
    known: dict[str, set[str]] = {}
    for scan in document.scans:
        known.setdefault(scan.folder, set()).update(scan.resources["DICOM"].files)
    for folder, names in on_disk.items():
        if unknown := names - known.get(folder, set()):
            raise _conflict(f"Scan {folder} has {len(unknown)} non-DICOM (or non-parsable DICOM) files")
    for scan in document.scans:
        times = Counter(file.sop_uid for file in scan.resources["DICOM"].files.values())
        if twice := [uid for uid, count in times.items() if count > 1]:
            raise _conflict(f"Scan {scan.id} DICOM catalog contains duplicated SOP instance UIDs: {', '.join(twice)}")


def _correct_scan_ids(document: Document, existing: ArchivedSession) -> tuple[_Arrival, ...]:
    """Give scans their ids in the existing session (correctScanID).

    A series that is there keeps the id it has there; a number that another series has gets `-MR1` etc. by
    two letters of the scan's type.
    """
    if not any(
        scan.id in existing.scans and existing.scans[scan.id].series.uid != scan.series.uid for scan in document.scans
    ):
        return tuple(_Arrival(scan.id, scan) for scan in document.scans)
    used = set(existing.scans)
    arrivals = []
    for scan in document.scans:
        same = _by_uid(existing, scan.series.uid)
        if same is not None:
            arrivals.append(_Arrival(same.id, scan))
            continue
        scan_id, count = scan.id, 0
        code = scan_type(scan.series.modality).removeprefix("xnat:")[:2].upper()
        while scan_id in used:
            count += 1
            scan_id = f"{scan.id}-{'PT' if code == 'PE' else code}{count}"
        used.add(scan_id)
        arrivals.append(_Arrival(scan_id, scan))
    return tuple(arrivals)


def _check_names(arrivals: tuple[_Arrival, ...], existing: ArchivedSession) -> None:
    """Refuse a file of the same name in the same place (MergeSessionsA.checkForConflict)."""
    for arrival in arrivals:
        present = existing.scans.get(arrival.scan_id)
        there = present.resources if present is not None else {}
        for label, resource in arrival.scan.resources.items():
            if label in there and resource.files.keys() & there[label].files.keys():
                raise _conflict("Session already exists with matching files.")
