"""Archived sessions and their scans."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from .names import scan_type
from .resources import Resource, Series, Shareable, StoredFile
from .subjects import Subject


class Patient(NamedTuple):
    """Whom the headers of a session name; empty where they differ or name nobody."""

    id: str = ""
    name: str = ""
    birth_date: str = ""
    """As in DICOM."""


NOBODY = Patient()


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
    declared_type: str = ""
    """Its xsi:type, if it was created by a PUT; otherwise the modality decides."""
    fields: dict[str, str] = field(default_factory=dict)
    """What requests have set beside the series: type, quality, note ..."""

    @property
    def xsi_type(self) -> str:
        """The xsi:type."""
        return self.declared_type or scan_type(self.series.modality)

    @property
    def type(self) -> str:
        """The type: the series description unless a request has set another."""
        return self.fields.get("type", self.series.description)

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID."""
        return self.series.uid

    @property
    def number_of_files(self) -> int:
        """Files in all of its resources."""
        return sum(len(resource.files) for resource in self.resources.values())

    def sop_uids(self, label: str = "DICOM") -> dict[str, str]:
        """Return file name -> SOPInstanceUID of one resource."""
        resource = self.resources.get(label)
        return {name: file.sop_uid for name, file in resource.files.items()} if resource else {}


@dataclass(slots=True, eq=False)
class ArchivedSession(Shareable):
    """An archived imaging session."""

    subject: Subject
    study_uid: str
    xsi_type: str
    date: str
    inserted: datetime
    scans: dict[str, Scan] = field(default_factory=dict)
    own_resources: dict[str, Resource] = field(default_factory=dict)
    """Resources of the session itself, by label; those of its scans are `resources`."""
    prearchive_path: str = ""
    """The prearchive folder that it was first archived from, on XNAT's own disk."""
    patient: Patient = NOBODY
    """dcmPatientId, dcmPatientName, dcmPatientBirthDate."""
    fields: dict[str, str] = field(default_factory=dict)
    """What requests have set beside the attributes above: note, scanner ..."""
    custom: dict[str, str] = field(default_factory=dict)
    """Custom variables."""
    workflow: str = ""
    """Name of an open workflow on it, such as a running pipeline: nothing may be merged meanwhile."""

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
