"""Prearchive rows, their statuses, and the session document that a build makes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from .anonymisation import Labels
from .archive import NOBODY, Patient, Scan
from .projects import UNASSIGNED
from .resources import Series, StoredFile


class RowStatus(StrEnum):
    """A prearchive row's status (PrearcUtils.PrearcStatus); a leading underscore means locked."""

    RECEIVING = "RECEIVING"
    RECEIVING_INTERRUPT = "RECEIVING_INTERRUPT"
    BUILDING = "BUILDING"
    READY = "READY"
    ARCHIVING = "ARCHIVING"
    MOVING = "MOVING"
    DELETING = "DELETING"
    CONFLICT = "CONFLICT"
    ERROR = "ERROR"
    SEPARATING = "SEPARATING"
    QUEUED_ARCHIVING = "QUEUED_ARCHIVING"
    QUEUED_BUILDING = "QUEUED_BUILDING"
    QUEUED_DELETING = "QUEUED_DELETING"
    QUEUED_MOVING = "QUEUED_MOVING"
    LOCKED_BUILDING = "_BUILDING"
    LOCKED_ARCHIVING = "_ARCHIVING"
    LOCKED_MOVING = "_MOVING"
    LOCKED_DELETING = "_DELETING"

    @property
    def is_locked(self) -> bool:
        """Whether the row may not be touched (PrearcDatabase.isLocked)."""
        return self.value.startswith("_")


ARCHIVING = frozenset({RowStatus.ARCHIVING, RowStatus.QUEUED_ARCHIVING, RowStatus.LOCKED_ARCHIVING})
BUILDING = frozenset({RowStatus.BUILDING, RowStatus.QUEUED_BUILDING, RowStatus.LOCKED_BUILDING})
DELETING = frozenset({RowStatus.DELETING, RowStatus.QUEUED_DELETING, RowStatus.LOCKED_DELETING})
BUSY = ARCHIVING | BUILDING | DELETING
"""The statuses of rows that are being worked on, so that a client can wait for the end."""


class RowLockedError(Exception):
    """The row is locked, so this work on it is refused."""


@dataclass(frozen=True, slots=True)
class Document:
    """A session document: what a build found in the session's folder."""

    scans: tuple[Scan, ...]
    study_uid: str
    patient_name: str
    label: str = ""
    """The session's label if it is not the row's."""
    patient: Patient = NOBODY

    @property
    def modalities(self) -> set[str]:
        """The modalities of all scans."""
        return {scan.series.modality for scan in self.scans}


@dataclass(slots=True, eq=False)
class PrearchiveRow:
    """A session in the prearchive: one row of XNAT's table and the files of its folder."""

    project: str | None
    timestamp: str
    folder: str
    name: str
    """The session label."""
    study_uid: str
    """As it was received: the column "tag". `mapped_study` is what scripts made of it."""
    subject: str
    patient_name: str
    scan_date: str
    autoarchive: str
    prevent_anon: bool
    prevent_auto_commit: bool
    source: str
    visit: str
    protocol: str
    timezone: str
    uploaded: datetime
    lastmod: datetime
    touched: float
    """Clock reading at lastmod, in seconds."""
    status: RowStatus = RowStatus.RECEIVING
    scans: dict[str, dict[str, StoredFile]] = field(default_factory=dict)
    """Scan folder -> file name -> file, in order of arrival."""
    series: dict[str, Series] = field(default_factory=dict)
    writing: int = 0
    """How many files are being written: its lock files."""
    patients: set[Patient] = field(default_factory=set)
    """Whom the files on the disk name, after scripts."""
    mapped_study: str = ""
    """StudyInstanceUID of the files on the disk, if the site's script has changed it."""
    document: Document | None = None
    logs: list[str] = field(default_factory=list)
    is_direct: bool = False
    """Whether its files go straight into the archive (DirectArchiveSession); then it is in no listing."""

    @property
    def import_uri(self) -> str:
        """The address in the reply to an import, below the context path."""
        if self.is_direct:
            return f"/xapi/direct-archive/{self.project}/{self.study_uid}/{self.name}"
        return f"/data{self.uri}"

    @property
    def uri(self) -> str:
        """`/prearchive/projects/P/TS/FOLDER`, without /data."""
        return f"/prearchive/projects/{self.project or UNASSIGNED}/{self.timestamp}/{self.folder}"

    @property
    def path(self) -> tuple[str, ...]:
        """Its folder below the site's directory."""
        return ("direct" if self.is_direct else "prearchive", self.project or UNASSIGNED, self.timestamp, self.folder)

    @property
    def labels(self) -> Labels:
        """What an anonymisation script calls it."""
        return Labels(self.project or UNASSIGNED, self.subject, self.name)

    @property
    def files(self) -> Iterator[StoredFile]:
        """All files on disk, built or not."""
        for files in self.scans.values():
            yield from files.values()

    def file_path(self, scan_folder: str, name: str) -> tuple[str, ...]:
        """Return where an imported file is, below the site's directory."""
        return (*self.path, "SCANS", scan_folder, "DICOM", name)

    def names_on_disk(self) -> dict[str, set[str]]:
        """Return scan folder -> names of the files that are there now."""
        return {folder: set(files) for folder, files in self.scans.items()}


@dataclass(frozen=True, slots=True)
class ImportRecord:
    """One import and its reply."""

    project: str
    """Where it went: a project ID, or Unassigned."""
    subject: str
    session: str
    sop_uid: str
    status: int
    """200, or 0 if the connection broke before the end of the body. Rejected files are not recorded."""
    uri: str
    """The session's URI as in the reply, without CRLF; shared by all imports of a row."""
