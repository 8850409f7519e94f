"""The nouns of an XNAT site: users, projects, prearchive rows, archived sessions. No HTTP, no files."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from .profile import PetMr, Right
from .rules import Script, SeriesFilter

__all__ = [
    "EVERYONE",
    "GUEST",
    "NO_SERIES",
    "UNASSIGNED",
    "ArchivedSession",
    "Described",
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
    "Value",
]

Value = str | int | float
"""What a field of a subject's demographics may hold."""
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


@dataclass(frozen=True, slots=True)
class Described:
    """What an uploader says of a file, or of a resource."""

    format: str = ""
    content: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()


GUEST = User("guest", "")
"""Who asks without a login; reads public projects where the site is open to guests."""


@dataclass(frozen=True, slots=True)
class Series:
    """What all files of one series share."""

    uid: str
    number: str
    modality: str
    description: str


NO_SERIES = Series("", "", "", "")
"""Of a file that did not come by import."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One stored file: an instance that was imported, or what was uploaded to a resource."""

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
    said: Described | None = None
    """What was said of it when it was uploaded to a resource; None for what came as DICOM by import."""


@dataclass(slots=True)
class Resource:
    """A resource (catalog): its number on the site, its label, and its files by their paths within it."""

    number: int
    label: str
    """Empty where a file was uploaded without naming a resource."""
    files: dict[str, StoredFile] = field(default_factory=dict)
    """What its catalog lists."""
    folder: str = ""
    """The name of its folder; the label unless given."""
    said: Described | None = None
    """What was said of it; None for one that an archiving has made."""
    uncatalogued: dict[str, StoredFile] = field(default_factory=dict)
    """What is on the disk and in no catalog: uploads that were cut, or that lost a race."""
    told: tuple[str, str] | None = None
    """Count and bytes as the database tells them; None where they are those of `files`."""
    version: int = 0
    """Counts how often the catalog has been written."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    @property
    def stats(self) -> tuple[str, str]:
        """Count and bytes as listings of resources show them: empty as long as nobody has counted."""
        return self.told or (str(len(self.files)), str(self.size))

    def recount(self) -> None:
        """Let the database tell of all catalogued files that are on the disk."""
        present = [file.size for file in self.files.values() if file.on_disk]
        self.told = None if len(present) == len(self.files) else (str(len(present)), str(sum(present)))

    def has_on_disk(self, name: str) -> bool:
        """Tell whether there is a file of this name in the folder, catalogued or not."""
        return name in self.uncatalogued or (name in self.files and self.files[name].on_disk)


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
    """Names of users who may make new subjects and sessions, editors or not; None: all editors."""
    deleters: Iterable[str] | None = None
    """Names of editors who may also delete; None: all of them."""
    aliases: Iterable[str] = ()
    description: str = ""
    public: bool = False
    """Whether guests may read it on a site that lets them in."""
    series_filter: SeriesFilter | None = None
    script: Script | None = None
    """Its anonymisation script, which runs when a session is archived."""
    allows_other_studies: bool = False
    """Whether another StudyInstanceUID may be merged into a session."""
    pet_mr: PetMr = ""
    """What is done with PET and MR in one study; what the site says, unless given."""
    pipelines: Iterable[str] = ()
    """Names of the pipelines that are set up here; none of them ever runs."""
    subscriptions: Mapping[str, bool] = field(default_factory=dict)
    """Names of the event service's subscriptions, and whether they are active; none of them ever does anything."""
    resources: dict[str, Resource] = field(default_factory=dict)

    def allows(self, user: User, right: Right) -> bool:
        """Tell whether the user has the right here."""
        if user is GUEST:
            return self.public and right == "read"
        if user.all_data:
            return True
        edits = _named(user, self.editors)
        match right:
            case "read":
                return edits or _named(user, self.readers) or _named(user, self.creators or ())
            case "edit":
                return edits
            case "create":
                return edits if self.creators is None else _named(user, self.creators)
            case "delete":
                return edits and (self.deleters is None or _named(user, self.deleters))


def _named(user: User, names: Iterable[str]) -> bool:
    return user.name in names or EVERYONE in names


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
    label: str = ""
    """The session's label where it is not the row's."""
    patient: tuple[str, str, str] = ("", "", "")
    """PatientID, PatientName, PatientBirthDate of its files on the disk; empty where these differ."""

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
    """As it came: the column "tag". What scripts make of it is `mapped_study`."""
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
    patients: set[tuple[str, str, str]] = field(default_factory=set)
    """PatientID, PatientName, PatientBirthDate of its files on the disk, as scripts have left them."""
    mapped_study: str = ""
    """StudyInstanceUID of its files on the disk, where the site's script has changed it."""
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


@dataclass(slots=True, eq=False)
class Subject:
    """A subject of a project."""

    id: str
    project: str
    label: str
    inserted: datetime
    inserted_by: str = "admin"
    demographics: dict[str, Value] = field(default_factory=dict)
    """gender, dob, yob ...: dates and texts as texts, numbers as numbers."""
    fields: dict[str, str] = field(default_factory=dict)
    """group, src, pi_firstname, pi_lastname."""
    custom: dict[str, str] = field(default_factory=dict)
    """Custom variables."""
    locked: bool = False
    """Whether nobody may change it, as data that was signed is."""
    resources: dict[str, Resource] = field(default_factory=dict)
    shares: dict[str, str] = field(default_factory=dict)
    """The projects that it is shared into, and its label in each."""

    @property
    def path(self) -> tuple[str, ...]:
        """Its folder below the site's directory; by its id, so that a new label moves nothing."""
        return ("archive", self.project, "subjects", self.id)

    def is_in(self, project: str) -> bool:
        """Tell whether it is a project's own, or shared into it (hasProject)."""
        return project == self.project or project in self.shares

    def label_in(self, project: str | None) -> str:
        """Return its label as a list of a project's has it."""
        return self.shares.get(project or "", self.label)


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
    own_resources: dict[str, Resource] = field(default_factory=dict)
    """Resources of the session itself, by label; those of its scans are `resources`."""
    prearchive_path: str = ""
    """The folder of the prearchive that it was archived from first, on XNAT's own disk."""
    patient: tuple[str, str, str] = ("", "", "")
    """Its dcmPatientId, dcmPatientName, dcmPatientBirthDate, as in DICOM."""
    workflow: str = ""
    """Name of a workflow that is open on it, such as a pipeline under way: nothing may be merged meanwhile."""
    shares: dict[str, str] = field(default_factory=dict)
    """The projects that it is shared into, and its label in each."""

    @property
    def uri(self) -> str:
        """`/archive/projects/P/subjects/S/experiments/E`, without /data."""
        return f"/archive/projects/{self.project}/subjects/{self.subject.label}/experiments/{self.label}"

    @property
    def path(self) -> tuple[str, ...]:
        """Its folder below the site's directory."""
        return ("archive", self.project, "arc001", self.label)

    def is_in(self, project: str) -> bool:
        """Tell whether it is a project's own, or shared into it (hasProject)."""
        return project == self.project or project in self.shares

    def label_in(self, project: str | None) -> str:
        """Return its label as a list of a project's has it."""
        return self.shares.get(project or "", self.label)

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
