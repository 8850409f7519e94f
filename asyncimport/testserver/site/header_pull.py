"""Fills in a session from the headers of its files, which requests have put into resources of scans.

As PullSessionDataFromHeaders does for `pullDataFromHeaders=true`, but from one file of each scan.
"""

import re
from pathlib import Path

from anyio import to_thread

from .archive import ArchivedSession, Patient, Scan
from .dicom_header import Header, NotDicomError, read_header
from .resource_owners import ResourceOwner
from .resources import Series
from .site import Site
from .storage import IN_MEMORY

_LABELS = ("DICOM", "secondary")


async def pull_headers(site: Site, session: ArchivedSession) -> None:
    """Set the UIDs, dates and descriptions of a session and its scans; without DICOM files, nothing changes."""
    for scan in session.scans.values():
        header = await _first_header(site, session, scan)
        if header is None:
            continue
        scan.series = Series(header.series_uid, header.series_number, header.modality, header.series_description)
        session.study_uid = header.study_uid
        session.patient = Patient(header.patient_id, header.patient_name, header.birth_date)
        if re.fullmatch(r"\d{8}", header.study_date):
            session.date = f"{header.study_date[:4]}-{header.study_date[4:6]}-{header.study_date[6:]}"


async def _first_header(site: Site, session: ArchivedSession, scan: Scan) -> Header | None:
    """Return the header of a scan's first file that is DICOM."""
    owner = ResourceOwner.of_scan(session, scan)
    for label in _LABELS:
        for name in scan.resources[label].files if label in scan.resources else ():
            path = site.storage.path(owner.file(scan.resources[label], name))
            if path is not None and (header := await to_thread.run_sync(_read, path)) is not None:
                return header
    return None


def _read(path: Path) -> Header | None:
    try:
        with path.open("rb") as file:
            return read_header(file.read(IN_MEMORY))
    except (OSError, NotDicomError):
        return None
