"""The nouns of an XNAT site: users, projects, prearchive rows, archived sessions. No HTTP, no files."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from .profile import Right
from .rules import Script, SeriesFilter

__all__ = [
    "EVERYONE",
    "GUEST",
    "UNASSIGNED",
    "ArchivedSession",
    "Document",
    "ImportRecord",
    "PrearchiveRow",
    "Project",
    "Resource",
    "RowStatus",
    "Scan",
    "Series",
    "StoredFile",
    "Subject",
    "User",
]

UNASSIGNED = "Unassigned"
EVERYONE = "*"


@dataclass(frozen=True, slots=True)
class User:
    """One who may log in."""

    name: str
    password: str = field(repr=False)
    all_data: bool = False
    """All-data access: reads and edits every project, sees Unassigned prearchive rows and the site's settings."""
    password_expired: bool = False
    """Whether every request is redirected to where the password can be changed."""


GUEST = User("guest", "")
"""Who asks without a login; reads public projects where the site is open to guests."""


@dataclass(slots=True, eq=False)
class Project:
    """A project; its fields may be set at any time."""

    id: str
    name: str = ""
    prearchive_code: int = 0
    """0 leaves sessions in the prearchive, 4 archives them on commit, 5 also overwrites files."""
    readers: Iterable[str] = ()
    """Names of users who may read; editors may read too."""
    editors: Iterable[str] = (EVERYONE,)
    creators: Iterable[str] | None = None
    """Names of editors who may also make new sessions, as the listing of projects tells; None: all of them."""
    aliases: Iterable[str] = ()
    description: str = ""
    public: bool = False
    """Whether guests may read it on a site that lets them in."""
    series_filter: SeriesFilter | None = None
    script: Script | None = None
    """Its anonymisation script, which runs when a session is archived."""
    allows_other_studies: bool = False
    """Whether another StudyInstanceUID may be merged into a session."""
    pipelines: Iterable[str] = ()
    """Names of the pipelines that are set up here; none of them ever runs."""
    subscriptions: Mapping[str, bool] = field(default_factory=dict)
    """Names of the event service's subscriptions, and whether they are active; none of them ever does anything."""

    def allows(self, user: User, right: Right) -> bool:
        """Tell whether the user has the right here."""
        if user is GUEST:
            return self.public and right == "read"
        if right == "create":
            may = self.creators is None or user.all_data or user.name in self.creators or EVERYONE in self.creators
            return may and self.allows(user, "edit")
        if user.all_data or user.name in self.editors or EVERYONE in self.editors:
            return True
        return right == "read" and (user.name in self.readers or EVERYONE in self.readers)


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
    def locked(self) -> bool:
        """Whether the row may not be touched (PrearcDatabase.isLocked)."""
        return self.value.startswith("_")


@dataclass(frozen=True, slots=True)
class Series:
    """What all files of one series share."""

    uid: str
    number: str
    modality: str
    description: str


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One stored instance."""

    name: str
    size: int
    digest: bytes | None
    """MD5, or None where checksums are off."""
    sop_uid: str
    series: Series
    complete: bool
    """False when the connection was cut in mid-body: XNAT lists such a file like any other."""
    sop_class: str = ""
    on_disk: bool = True
    """False when the file has vanished from the disk: the catalog lists it all the same."""


@dataclass(slots=True)
class Resource:
    """A resource (catalog) of a scan: its number on the site, its label, its files by name."""

    number: int
    label: str
    files: dict[str, StoredFile] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


@dataclass(slots=True)
class Scan:
    """A scan: one series of a session."""

    id: str
    series: Series
    folder: str
    """Its folder below SCANS/."""
    number: int = 0
    """Its xnat_imagescandata_id."""
    resources: dict[str, Resource] = field(default_factory=dict)

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID."""
        return self.series.uid

    def sop_uids(self, label: str = "DICOM") -> dict[str, str]:
        """Return file name -> SOPInstanceUID of one resource."""
        resource = self.resources.get(label)
        return {name: file.sop_uid for name, file in resource.files.items()} if resource else {}


@dataclass(frozen=True, slots=True)
class Document:
    """A session document: what a build found in the session's folder."""

    scans: tuple[Scan, ...]
    study_uid: str
    patient_name: str

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
    """Clock reading of lastmod, in seconds."""
    status: RowStatus = RowStatus.RECEIVING
    scans: dict[str, dict[str, StoredFile]] = field(default_factory=dict)
    """Scan folder -> file name -> file, in order of arrival."""
    series: dict[str, Series] = field(default_factory=dict)
    writing: int = 0
    """How many files are being written: its lock files."""
    document: Document | None = None
    logs: list[str] = field(default_factory=list)

    @property
    def uri(self) -> str:
        """`/prearchive/projects/P/TS/FOLDER`, without /data."""
        return f"/prearchive/projects/{self.project or UNASSIGNED}/{self.timestamp}/{self.folder}"

    @property
    def path(self) -> tuple[str, ...]:
        """Its folder below the site's directory."""
        return ("prearchive", self.project or UNASSIGNED, self.timestamp, self.folder)

    @property
    def files(self) -> Iterator[StoredFile]:
        """All files on disk, built or not."""
        for files in self.scans.values():
            yield from files.values()


@dataclass(frozen=True, slots=True)
class Subject:
    """A subject of a project."""

    id: str
    project: str
    label: str
    inserted: datetime


@dataclass(slots=True, eq=False)
class ArchivedSession:
    """An archived imaging session."""

    id: str
    project: str
    subject: Subject
    label: str
    study_uid: str
    xsi_type: str
    date: str
    inserted: datetime
    scans: dict[str, Scan] = field(default_factory=dict)
    workflow: str = ""
    """Name of a workflow that is open on it, such as a pipeline under way: nothing may be merged meanwhile."""

    @property
    def uri(self) -> str:
        """`/archive/projects/P/subjects/S/experiments/E`, without /data."""
        return f"/archive/projects/{self.project}/subjects/{self.subject.label}/experiments/{self.label}"

    @property
    def path(self) -> tuple[str, ...]:
        """Its folder below the site's directory."""
        return ("archive", self.project, "arc001", self.label)

    @property
    def resources(self) -> Iterator[tuple[Scan, Resource]]:
        """All resources of all scans."""
        for scan in self.scans.values():
            for resource in scan.resources.values():
                yield scan, resource

    @property
    def files(self) -> Iterator[StoredFile]:
        """All files of all resources of all scans."""
        for _, resource in self.resources:
            yield from resource.files.values()


@dataclass(frozen=True, slots=True)
class ImportRecord:
    """One import as it was answered."""

    project: str
    """As it ended up: an id, or Unassigned."""
    subject: str
    session: str
    sop_uid: str
    status: int
    """200, or 0 when the connection was cut before the end of the body. Rejected files are not recorded."""
    uri: str
    """The session's URI as in the reply, without CRLF; shared by all imports of a row."""
