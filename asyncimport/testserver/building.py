"""Turns what is in a prearchive session's folder into its session document."""

import html
import re

import anyio

from .names import content, is_primary, scan_type, session_type
from .pages import Refused
from .site import TestXnat
from .state import Document, PrearchiveRow, Resource, RowStatus, Scan, StoredFile

__all__ = ["build", "build_document", "session_xml"]


def build_document(xnat: TestXnat, row: PrearchiveRow) -> Document:
    """Group the files of the folder into scans by series (XNATSessionBuilder).

    A scan is named by its folder; where two series share one (the same SeriesNumber), the later ones get
    `-MR1`, `-MR2` ... by their modality. Its files of SOP classes that XNAT does not count as images have a
    catalog of their own, `secondary` (CatalogBuilder).
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
            label = "DICOM" if is_primary(file.sop_class) or not xnat.separate_secondary else "secondary"
            resources.setdefault(label, Resource(0, label)).files[file.name] = file
        scans.append(Scan(scan_id, series, folder, resources=resources))
    study_uid = row.mapped_study or row.study_uid
    return Document(tuple(scans), study_uid, row.patient_name, _label(xnat, row), _patient(row))


def _patient(row: PrearchiveRow) -> tuple[str, str, str]:
    """Return what all files say of the patient: what they differ in is left out (XnatAttrDef)."""
    one, two, three = ({patient[place] for patient in row.patients} for place in range(3))
    return tuple(found.pop() if len(found) == 1 else "" for found in (one, two, three))  # type: ignore[return-value]


def _label(xnat: TestXnat, row: PrearchiveRow) -> str:
    """Return the label, whose last "PETMR" is "PET" where PET/MR are PET sessions (XNATSessionBuilder)."""
    if xnat.pet_mr_of(row.project) != "pet":
        return row.name
    return re.sub(r"petmr(?!.*petmr)", "PET", row.name, flags=re.IGNORECASE)


async def build(xnat: TestXnat, row: PrearchiveRow) -> None:
    """Build the session document (PrearcDatabase.buildSession, LockAndSync).

    A file that arrives meanwhile is on disk but not in the document, and the row says READY all the same.
    """
    if row.status.locked:
        raise Refused(409, "session document locked")
    row.status = RowStatus.LOCKED_BUILDING
    document = build_document(xnat, row)
    if xnat.timing.build_seconds:
        await anyio.sleep(xnat.timing.build_seconds)
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
            f'<xnat:file label="{label}" format="DICOM" content="{content(label)}" xsi:type="xnat:resourceCatalog" '
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
