"""Moves a built prearchive session into the archive: names, merging, scan numbers. Pure state.

All of it imitates org.nrg.xnat.archive.PrearcSessionArchiver and MergePrearcToArchiveSession.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .conflicts import Arrival, Terms, check_names, check_session, scan_of_series
from .names import clean_value, is_label, scan_type, session_type
from .site import TestXnat
from .state import ArchivedSession, Document, PrearchiveRow, Resource
from .storage import Parts
from .tracking import ArchiveFailed

__all__ = ["Merge", "plan_merge", "target_names"]


@dataclass(frozen=True, slots=True)
class Merge:
    """What is to be done: nothing has changed yet but the subject, which XNAT makes first."""

    session: ArchivedSession
    new: bool
    arrivals: tuple[Arrival, ...]
    row: PrearchiveRow

    def moves(self) -> list[tuple[Parts, Parts]]:
        """Return where each file is and where it goes."""
        return [
            (
                (*self.row.path, "SCANS", arrival.scan.folder, "DICOM", name),
                (*self.session.path, "SCANS", arrival.scan_id, label, name),
            )
            for arrival in self.arrivals
            for label, resource in arrival.scan.resources.items()
            for name in resource.files
        ]

    def apply(self, xnat: TestXnat) -> None:
        """Enter the scans and files in the archive."""
        orphans = xnat.orphans.get((self.session.project, self.session.label), set())
        for arrival in self.arrivals:
            scan = self.session.scans.get(arrival.scan_id)
            if scan is None:
                scan = xnat.new_scan(arrival.scan_id, arrival.scan.series)
                self.session.scans[arrival.scan_id] = scan
            for label, resource in arrival.scan.resources.items():
                orphans -= {(arrival.scan_id, label, name) for name in resource.files}
                if label in scan.resources:
                    _merge_catalogs(xnat, scan.resources[label], resource)
                else:
                    scan.resources[label] = xnat.new_resource(label, dict(resource.files))
        if self.new:
            xnat.add_experiment(self.session)


def _merge_catalogs(xnat: TestXnat, into: Resource, arrived: Resource) -> None:
    """Add entries; one of the same SOPInstanceUID takes the other's place, whatever their names."""
    if xnat.unique_sop_uids:
        uids = {file.sop_uid for file in arrived.files.values()}
        for name in [name for name, file in into.files.items() if file.sop_uid in uids]:
            del into.files[name]
    into.files.update(arrived.files)
    into.version += 1
    into.recount()


def target_names(row: PrearchiveRow, params: Mapping[str, str]) -> tuple[str, str]:
    """Return the labels of session and subject in the archive (fixSessionLabel, fixSubject).

    Parameters outweigh the session document, and the patient's name is the last resort for the subject.
    """
    asked = (params.get(key) for key in ("session", "EXPT_LABEL", "label"))
    built = row.document.label if row.document is not None else ""
    session = clean_value(next(filter(None, asked), built or row.name))
    asked = (params.get(key) for key in ("subject", "SUBJECT_ID"))
    subject = clean_value(next(filter(None, asked), row.subject or row.patient_name))
    return session, subject


def plan_merge(
    xnat: TestXnat,
    row: PrearchiveRow,
    document: Document,
    names: tuple[str, str],
    terms: Terms,
) -> Merge:
    """Check everything that can fail and say what is to be done. Raises ArchiveFailed.

    `names` are the labels of session and subject.
    """
    label, subject_label = names
    if row.project is None or not label:
        raise ArchiveFailed("unable to deduce session label")
    if not subject_label:
        raise ArchiveFailed("Unable to identify subject.")
    # What cleaning leaves of the characters that a label may not have fails when it is saved.
    if not (is_label(label) and is_label(subject_label)):
        raise ArchiveFailed("Identifiers cannot use special characters.")
    subject = xnat.subject_of_archive(row.project, subject_label)
    existing = xnat.experiment_labelled(row.project, label)
    if existing is not None:
        # The project's script has not run yet then, so what it maps is compared as it came.
        check_session(xnat, row, existing, row.document or document, (label, subject), terms)
        arrivals = _correct_scan_ids(document, existing)
    else:
        arrivals = tuple(Arrival(scan.id, scan) for scan in document.scans)
    if not (terms.override or terms.overwrite_files):
        check_names(xnat, arrivals, existing, (row.project, label))
    if existing is not None:
        return Merge(existing, new=False, arrivals=arrivals, row=row)
    session = ArchivedSession(
        id=xnat.accession("E"),
        project=row.project,
        subject=subject,
        label=label,
        study_uid=document.study_uid,
        xsi_type=session_type(document.modalities),
        date=row.scan_date[:10],
        inserted=xnat.now(),
        # It stays in the session, whatever is merged into that later (MergePrearcToArchiveSession.mergeSessions).
        prearchive_path="/".join(("/data/xnat", *row.path)),
        patient=document.patient,
    )
    return Merge(session, new=True, arrivals=arrivals, row=row)


def _correct_scan_ids(document: Document, existing: ArchivedSession) -> tuple[Arrival, ...]:
    """Give scans their ids in the existing session (correctScanID).

    A series that is there keeps the id it has there; a number that another series has gets `-MR1` etc. by
    two letters of the scan's type.
    """
    if not any(
        scan.id in existing.scans and existing.scans[scan.id].series.uid != scan.series.uid for scan in document.scans
    ):
        return tuple(Arrival(scan.id, scan) for scan in document.scans)
    used = set(existing.scans)
    arrivals = []
    for scan in document.scans:
        same = scan_of_series(existing, scan.series.uid)
        if same is not None:
            arrivals.append(Arrival(same.id, scan))
            continue
        scan_id, count = scan.id, 0
        code = scan_type(scan.series.modality).removeprefix("xnat:")[:2].upper()
        while scan_id in used:
            count += 1
            scan_id = f"{scan.id}-{'PT' if code == 'PE' else code}{count}"
        used.add(scan_id)
        arrivals.append(Arrival(scan_id, scan))
    return tuple(arrivals)
