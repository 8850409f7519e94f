"""Files, the resources that hold them, and items that can be shared."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class FileMetadata:
    """What an uploader says about a file or a resource."""

    format: str = ""
    content: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Series:
    """What all files of one series share."""

    uid: str
    number: str
    modality: str
    description: str


NO_SERIES = Series("", "", "", "")
"""The series of a file that was not imported."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A stored file: an imported instance, or a file that was uploaded to a resource."""

    name: str
    size: int
    digest: bytes | None
    """MD5, or None where checksums are off."""
    sop_uid: str
    series: Series
    complete: bool
    """False if the connection broke inside the body: XNAT lists such a file like any other."""
    sop_class: str = ""
    on_disk: bool = True
    """False if the file has vanished from the disk: the catalog lists it all the same."""
    metadata: FileMetadata | None = None
    """What the upload to a resource said about it; None for imported instances."""


@dataclass(slots=True)
class Resource:
    """A resource (catalog): its number on the site, its label, and its files by their paths within it."""

    number: int
    label: str
    """Empty if a file was uploaded without naming a resource."""
    files: dict[str, StoredFile] = field(default_factory=dict)
    """What its catalog lists."""
    folder: str = ""
    """The name of its folder; the label unless given."""
    metadata: FileMetadata | None = None
    """What an upload said about it; None for a resource made by archiving."""
    uncatalogued: dict[str, StoredFile] = field(default_factory=dict)
    """Files on the disk that are in no catalog: uploads that were cut, or that lost a race."""
    reported_stats: tuple[str, str] | None = None
    """File count and bytes as the database has them; None if they are those of `files`."""
    version: int = 0
    """Counts how often the catalog has been written."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    @property
    def stats(self) -> tuple[str, str]:
        """File count and bytes as listings of resources show them: empty until they have been counted."""
        return self.reported_stats or (str(len(self.files)), str(self.size))

    def recount(self) -> None:
        """Make the database count all catalogued files that are on the disk."""
        present = [file.size for file in self.files.values() if file.on_disk]
        self.reported_stats = None if len(present) == len(self.files) else (str(len(present)), str(sum(present)))

    def has_on_disk(self, name: str) -> bool:
        """Return whether the folder holds a file of this name, catalogued or not."""
        return name in self.uncatalogued or (name in self.files and self.files[name].on_disk)


@dataclass(slots=True, eq=False)
class Shareable:
    """An item of a project that can be shared into other projects."""

    id: str
    project: str
    label: str
    shares: dict[str, str] = field(default_factory=dict, kw_only=True)
    """The projects that it is shared into, and its label in each."""

    def is_in(self, project: str) -> bool:
        """Return whether it is a project's own, or shared into it (hasProject)."""
        return project == self.project or project in self.shares

    def label_in(self, project: str | None) -> str:
        """Return its label as a listing of a project shows it."""
        return self.shares.get(project or "", self.label)
