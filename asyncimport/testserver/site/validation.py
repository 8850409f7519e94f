"""What would keep a prearchive session out of the archive, all of it (PrearcSessionValidator)."""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from .archive import ArchivedSession
from .archive_jobs import ArchiveError
from .conflicts import IncomingScan, check_names, scan_of_series, validate_files
from .merging import target_names
from .names import session_type
from .prearchive import Document, PrearchiveRow
from .site import Site


class Notice(NamedTuple):
    """One finding. A conflict goes with `overwrite`, a failure does not."""

    code: int
    type: Literal["WARN", "CONFLICT", "FAIL"]
    message: str


def validate(site: Site, row: PrearchiveRow, params: Mapping[str, str]) -> list[Notice]:
    """Return the findings on a built session, by code. Nothing changes; the project's script is not applied."""
    if row.document is None or row.project is None:
        return [Notice(13, "FAIL", "The session has not been built.")]
    return sorted(_notices(site, row, row.document, target_names(row, params)), key=lambda notice: notice.code)


def _notices(site: Site, row: PrearchiveRow, document: Document, names: tuple[str, str]) -> Iterator[Notice]:
    label, subject = names
    project = row.project or ""
    if not label:
        yield Notice(8, "FAIL", "unable to deduce session label")
        return
    existing = site.experiment_labelled(project, label)
    if existing is not None and existing.workflow:
        message = f"Session processing may already be in progress: {existing.workflow}.  Concurrent modification is "
        yield Notice(10, "CONFLICT", message + "discouraged.")
    if not subject:
        yield Notice(11, "FAIL", "Unable to identify subject.")
    if existing is not None:
        yield from _existing_notices(site, row, document, existing)
        if subject and site.matching_subject(project, subject) is not existing.subject:
            message = "Invalid modification of session subject via archive process."
            yield Notice(4, "FAIL", f"{message}: {existing.label} Already Exists for another Subject")
    incoming = tuple(IncomingScan(scan.id, scan) for scan in document.scans)
    try:
        check_names(site, incoming, existing, (project, label))
    except ArchiveError as error:
        yield Notice(14, "CONFLICT", error.message)
    try:
        validate_files(site, row.names_on_disk(), document)
    except ArchiveError as error:
        yield Notice(22 if "duplicated" in error.message else 20, "WARN", error.message)


def _existing_notices(
    site: Site, row: PrearchiveRow, document: Document, existing: ArchivedSession
) -> Iterator[Notice]:
    """Yield what an existing session of the label means (checkForConflicts)."""
    yield Notice(1, "CONFLICT", "Session already exists, retry with overwrite enabled")
    if existing.project != row.project:
        yield Notice(3, "FAIL", "Invalid modification of session project via archive process.")
    if "" not in {existing.study_uid, document.study_uid} and existing.study_uid != document.study_uid:
        if site.project(existing.project).allows_other_studies:
            yield Notice(19, "CONFLICT", "StudyInstanceUIDs do not match. Continue to override.")
        else:
            yield Notice(5, "CONFLICT", "Invalid modification of session UID via archive process.")
    if site.prevent_cross_modality_merge and existing.xsi_type != session_type(document.modalities):
        message = "Invalid modification of session modality via archive process.  Data may require a manual merge."
        yield Notice(19, "FAIL", message)
    for scan in document.scans:
        same_id, same_uid = existing.scans.get(scan.id), scan_of_series(existing, scan.series.uid)
        contained = "Session already contains a scan"
        if same_id is not None and same_id.series.uid == scan.series.uid:
            yield Notice(16, "CONFLICT", f"{contained} ({scan.id}) with the same UID and number.")
        elif same_id is not None:
            message = "with the same number, but a different UID. - New scan will be renamed during archive."
            yield Notice(17, "CONFLICT", f"{contained} ({scan.id}) {message}")
        if same_uid is not None and same_id is None:
            yield Notice(18, "CONFLICT", f"{contained} ({same_uid.id}) with the same UID, but a different number.")
