"""Plans how a built prearchive session moves into the archive: labels, merging, scan IDs.

Imitates org.nrg.xnat.archive.PrearcSessionArchiver and MergePrearcToArchiveSession.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .archive import ArchivedSession
from .archive_jobs import ArchiveError
from .conflicts import IncomingScan, MergeOptions, check_names, check_session, scan_of_series
from .names import clean_value, is_label, scan_type, session_type
from .prearchive import Document, PrearchiveRow
from .resources import Resource
from .site import Site
from .storage import PathParts


@dataclass(frozen=True, slots=True)
class Merge:
    """A planned merge. Nothing has changed yet except the subject, which XNAT creates first."""

    session: ArchivedSession
    is_new: bool
    incoming: tuple[IncomingScan, ...]
    row: PrearchiveRow

    def moves(self) -> list[tuple[PathParts, PathParts]]:
        """Return where each file is and where it goes."""
        return [
            (
                self.row.file_path(arriving.scan.folder, name),
                (*self.session.path, "SCANS", arriving.scan_id, label, name),
            )
            for arriving in self.incoming
            for label, resource in arriving.scan.resources.items()
            for name in resource.files
        ]

    def apply(self, site: Site) -> None:
        """Add the scans and files to the archive."""
        orphans = site.orphans.get((self.session.project, self.session.label), set())
        for arriving in self.incoming:
            scan = self.session.scans.get(arriving.scan_id)
            if scan is None:
                scan = site.new_scan(arriving.scan_id, arriving.scan.series)
                self.session.scans[arriving.scan_id] = scan
            for label, resource in arriving.scan.resources.items():
                orphans -= {(arriving.scan_id, label, name) for name in resource.files}
                if label in scan.resources:
                    _merge_catalogs(site, scan.resources[label], resource)
                else:
                    scan.resources[label] = site.new_resource(label, dict(resource.files))
        if self.is_new:
            site.add_experiment(self.session)


def _merge_catalogs(site: Site, target: Resource, source: Resource) -> None:
    """Add entries; a new one replaces any with the same SOPInstanceUID, whatever their names."""
    if site.unique_sop_uids:
        uids = {file.sop_uid for file in source.files.values()}
        for name in [name for name, file in target.files.items() if file.sop_uid in uids]:
            del target.files[name]
    target.files.update(source.files)
    target.version += 1
    target.recount()


def target_names(row: PrearchiveRow, params: Mapping[str, str]) -> tuple[str, str]:
    """Return the labels of session and subject in the archive (fixSessionLabel, fixSubject).

    Parameters come before the session document; for the subject, the patient's name comes last.
    """
    asked = (params.get(key) for key in ("session", "EXPT_LABEL", "label"))
    built = row.document.label if row.document is not None else ""
    session = clean_value(next(filter(None, asked), built or row.name))
    asked = (params.get(key) for key in ("subject", "SUBJECT_ID"))
    subject = clean_value(next(filter(None, asked), row.subject or row.patient_name))
    return session, subject


def plan_merge(
    site: Site, row: PrearchiveRow, document: Document, names: tuple[str, str], options: MergeOptions
) -> Merge:
    """Check everything that can fail and plan the merge; `names` are the labels of session and subject.

    Raises ArchiveError.
    """
    label, subject_label = names
    if row.project is None or not label:
        raise ArchiveError("unable to deduce session label")
    if not subject_label:
        raise ArchiveError("Unable to identify subject.")
    # XNAT fails on these characters only when it saves.
    if not (is_label(label) and is_label(subject_label)):
        raise ArchiveError("Identifiers cannot use special characters.")
    subject = site.subject_for_archiving(row.project, subject_label)
    existing = site.experiment_labelled(row.project, label)
    if existing is not None:
        # XNAT checks this before the project's script runs, so UIDs are compared as they were received.
        check_session(site, row, existing, row.document or document, (label, subject), options)
        incoming = _correct_scan_ids(document, existing)
    else:
        incoming = tuple(IncomingScan(scan.id, scan) for scan in document.scans)
    if not (options.override or options.overwrite_files):
        check_names(site, incoming, existing, (row.project, label))
    if existing is not None:
        return Merge(existing, is_new=False, incoming=incoming, row=row)
    session = ArchivedSession(
        id=site.next_accession("E"),
        project=row.project,
        subject=subject,
        label=label,
        study_uid=document.study_uid,
        xsi_type=session_type(document.modalities),
        date=row.scan_date[:10],
        inserted=site.now(),
        # Later merges do not change it (MergePrearcToArchiveSession.mergeSessions).
        prearchive_path="/".join(("/data/xnat", *row.path)),
        patient=document.patient,
    )
    return Merge(session, is_new=True, incoming=incoming, row=row)


def _correct_scan_ids(document: Document, existing: ArchivedSession) -> tuple[IncomingScan, ...]:
    """Return the scans with their IDs in the existing session (correctScanID).

    A series that the session has keeps its ID there; an ID that another series has gets a suffix such as `-MR1`, from
    two letters of the scan's type.
    """
    if not any(
        scan.id in existing.scans and existing.scans[scan.id].series.uid != scan.series.uid for scan in document.scans
    ):
        return tuple(IncomingScan(scan.id, scan) for scan in document.scans)
    used = set(existing.scans)
    incoming = []
    for scan in document.scans:
        same = scan_of_series(existing, scan.series.uid)
        if same is not None:
            incoming.append(IncomingScan(same.id, scan))
            continue
        scan_id, count = scan.id, 0
        code = scan_type(scan.series.modality).removeprefix("xnat:")[:2].upper()
        while scan_id in used:
            count += 1
            scan_id = f"{scan.id}-{'PT' if code == 'PE' else code}{count}"
        used.add(scan_id)
        incoming.append(IncomingScan(scan_id, scan))
    return tuple(incoming)
