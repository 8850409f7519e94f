"""Subjects, and the index of a site's subjects by ID and by label."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from .resources import Resource, Shareable

Value = str | int | float
"""What a field of a subject's demographics may hold."""


@dataclass(slots=True, eq=False)
class Subject(Shareable):
    """A subject of a project."""

    inserted: datetime
    inserted_by: str = "admin"
    demographics: dict[str, Value] = field(default_factory=dict)
    """gender, dob, yob ...: dates and texts as texts, numbers as numbers."""
    fields: dict[str, str] = field(default_factory=dict)
    """group, src, pi_firstname, pi_lastname."""
    custom: dict[str, str] = field(default_factory=dict)
    """Custom variables."""
    locked: bool = False
    """Whether nobody may change it, as with signed data."""
    resources: dict[str, Resource] = field(default_factory=dict)

    @property
    def path(self) -> tuple[str, ...]:
        """Its folder below the site's directory; by its ID, so that a new label moves nothing."""
        return ("archive", self.project, "subjects", self.id)


class SubjectIndex:
    """All subjects of a site, in the order in which they were created."""

    def __init__(self) -> None:
        self._by_id: dict[str, Subject] = {}
        self._by_label: dict[tuple[str, str], list[Subject]] = {}
        self._shared: dict[tuple[str, str], Subject] = {}

    def __iter__(self) -> Iterator[Subject]:
        return iter(self._by_id.values())

    def add(self, subject: Subject) -> Subject:
        """Add a subject."""
        self._by_id[subject.id] = subject
        self._of_same_label(subject).append(subject)
        return subject

    def remove(self, subject: Subject) -> None:
        """Remove a subject."""
        del self._by_id[subject.id]
        self._of_same_label(subject).remove(subject)
        for project in list(subject.shares):
            self.unshare(subject, project)

    def rename(self, subject: Subject, label: str) -> None:
        """Give a subject another label."""
        self._of_same_label(subject).remove(subject)
        subject.label = label
        self._of_same_label(subject).append(subject)

    def move(self, subject: Subject, project: str, label: str) -> None:
        """Make a subject another project's own, under a label there."""
        self._of_same_label(subject).remove(subject)
        subject.project, subject.label = project, label
        self._of_same_label(subject).append(subject)

    def share(self, subject: Subject, project: str, label: str) -> None:
        """Share a subject into another project, under a label there."""
        self.unshare(subject, project)
        subject.shares[project] = label
        self._shared[project, label] = subject

    def unshare(self, subject: Subject, project: str) -> None:
        """End the sharing into a project; does nothing if there is none."""
        if (label := subject.shares.pop(project, None)) is not None:
            self._shared.pop((project, label), None)

    def labelled(self, project: str, label: str) -> Subject | None:
        """Return the subject with this label in a project; its own subjects come before those shared into it.

        Letter case counts. As XnatSubjectdata.GetSubjectByProjectIdentifier.
        """
        own = (subject for subject in self.ignoring_case(project, label) if subject.label == label)
        return next(own, None) or self._shared.get((project, label))

    def find(self, name: str, project: str | None = None) -> Subject | None:
        """Return a subject by label within a project, or else by accession ID, which must be in the project."""
        if project is not None and (found := self.labelled(project, name)) is not None:
            return found
        found = self._by_id.get(name)
        return found if found is not None and (project is None or found.is_in(project)) else None

    def ignoring_case(self, project: str, label: str) -> list[Subject]:
        """Return the subjects of a project whose label equals this one but for letter case."""
        return self._by_label.get((project, label.lower()), [])

    def _of_same_label(self, subject: Subject) -> list[Subject]:
        return self._by_label.setdefault((subject.project, subject.label.lower()), [])
