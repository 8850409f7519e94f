"""The subjects of a site, by accession id and by label. Pure state."""

from collections.abc import Iterator

from .state import Subject

__all__ = ["Roster"]


class Roster:
    """All subjects, in order of their making."""

    def __init__(self) -> None:
        self._by_id: dict[str, Subject] = {}
        self._by_label: dict[tuple[str, str], list[Subject]] = {}
        self._shared: dict[tuple[str, str], Subject] = {}

    def __iter__(self) -> Iterator[Subject]:
        return iter(self._by_id.values())

    def add(self, subject: Subject) -> Subject:
        """Add a subject."""
        self._by_id[subject.id] = subject
        self._alike(subject).append(subject)
        return subject

    def remove(self, subject: Subject) -> None:
        """Forget a subject."""
        del self._by_id[subject.id]
        self._alike(subject).remove(subject)

    def rename(self, subject: Subject, label: str) -> None:
        """Give a subject another label."""
        self._alike(subject).remove(subject)
        subject.label = label
        self._alike(subject).append(subject)

    def share(self, subject: Subject, project: str, label: str) -> None:
        """Share a subject into another project, under a label there."""
        subject.shares[project] = label
        self._shared[project, label] = subject

    def labelled(self, project: str, label: str) -> Subject | None:
        """Return the subject of a label in a project, letter case included: its own before one that is shared into it.

        As XnatSubjectdata.GetSubjectByProjectIdentifier.
        """
        own = (subject for subject in self.alike(project, label) if subject.label == label)
        return next(own, None) or self._shared.get((project, label))

    def find(self, name: str, project: str | None = None) -> Subject | None:
        """Return a subject by label within a project, or else by accession id, which the project has to have."""
        if project is not None and (found := self.labelled(project, name)) is not None:
            return found
        found = self._by_id.get(name)
        return found if found is not None and (project is None or found.is_in(project)) else None

    def alike(self, project: str, label: str) -> list[Subject]:
        """Return the subjects of a project that have a label but for letter case."""
        return self._by_label.get((project, label.lower()), [])

    def _alike(self, subject: Subject) -> list[Subject]:
        return self._by_label.setdefault((subject.project, subject.label.lower()), [])
