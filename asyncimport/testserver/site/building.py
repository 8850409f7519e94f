"""Builds a prearchive session's document from the files in its folder."""

import html
import re

import anyio

from .archive import Patient, Scan
from .names import is_primary, resource_content, scan_type, session_type
from .prearchive import Document, PrearchiveRow, RowLockedError, RowStatus
from .resources import Resource, StoredFile
from .site import Site


def build_document(site: Site, row: PrearchiveRow) -> Document:
    """Group the files of the folder into scans by series (XNATSessionBuilder).

    A scan's ID is its folder; if two series share a folder (the same SeriesNumber), the later ones get a suffix `-MR1`,
    `-MR2` ... by their modality. Files whose SOP class is not a primary image go into a resource of their own,
    `secondary` (CatalogBuilder).
    """
    groups: dict[tuple[str, str], list[StoredFile]] = {}
    for folder, files in row.scans.items():
        for file in files.values():
            groups.setdefault((folder, file.series.uid), []).append(file)
    scans: list[Scan] = []
    used: set[str] = set()
    for (folder, _), found in groups.items():
        series = found[0].series
        scan_id, count = folder, 0
        while scan_id in used:
            count += 1
            scan_id = f"{folder}-{series.modality}{count}"
        used.add(scan_id)
        resources: dict[str, Resource] = {}
        for file in found:
            label = "DICOM" if is_primary(file.sop_class) or not site.separate_secondary else "secondary"
            resources.setdefault(label, Resource(0, label)).files[file.name] = file
        scans.append(Scan(scan_id, series, folder, resources=resources))
    study_uid = row.mapped_study or row.study_uid
    return Document(tuple(scans), study_uid, row.patient_name, _label(site, row), _patient(row))


def _patient(row: PrearchiveRow) -> Patient:
    """Return the patient of all files: an attribute in which they differ is empty (XnatAttrDef)."""
    attributes = map(set, zip(*row.patients, strict=True))
    return Patient(*(values.pop() if len(values) == 1 else "" for values in attributes))


def _label(site: Site, row: PrearchiveRow) -> str:
    """Return the label, with its last "PETMR" as "PET" if PET/MR studies become PET sessions (XNATSessionBuilder)."""
    if site.pet_mr_of(row.project) != "pet":
        return row.name
    return re.sub(r"petmr(?!.*petmr)", "PET", row.name, flags=re.IGNORECASE)


async def build(site: Site, row: PrearchiveRow) -> None:
    """Build the session document (PrearcDatabase.buildSession, LockAndSync).

    A file that arrives meanwhile is on disk but not in the document, and the row becomes READY all the same.
    Raises RowLockedError.
    """
    if row.status.is_locked:
        raise RowLockedError
    row.status = RowStatus.LOCKED_BUILDING
    document = build_document(site, row)
    if site.timing.build_seconds:
        await anyio.sleep(site.timing.build_seconds)
    row.document = document
    row.status = RowStatus.READY


def session_xml(row: PrearchiveRow, document: Document) -> str:
    """Return the session document as XML."""
    escape = html.escape
    kind = session_type(document.modalities).removesuffix("Data").removeprefix("xnat:")
    element = f"xnat:{kind.removesuffix('Session').upper()}Session"
    scans = "".join(
        f'<xnat:scan ID="{escape(scan.id)}" UID="{escape(scan.series.uid)}" '
        f'xsi:type="{scan_type(scan.series.modality)}">'
        f"<xnat:series_description>{escape(scan.series.description)}</xnat:series_description>"
        + "".join(
            f'<xnat:file label="{label}" format="DICOM" content="{resource_content(label)}" '
            'xsi:type="xnat:resourceCatalog" '
            f'URI="SCANS/{escape(scan.folder)}/{label}/scan_{escape(scan.id)}_catalog.xml"/>'
            for label in scan.resources
        )
        + "</xnat:scan>"
        for scan in document.scans
    )
    return (
        f'<{element} ID="" UID="{escape(document.study_uid)}" '
        f'project="{escape(row.project or "")}" label="{escape(document.label or row.name)}" '
        'xmlns:xnat="http://nrg.wustl.edu/xnat" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        f"<xnat:dcmPatientName>{escape(document.patient_name)}</xnat:dcmPatientName>"
        f"<xnat:subject_ID>{escape(row.subject)}</xnat:subject_ID><xnat:scans>{scans}</xnat:scans>"
        f"</{element}>"
    )
