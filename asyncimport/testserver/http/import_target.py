"""The parameter `dest` of an import (UriParserUtils): a place in the prearchive, or in the archive."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .responses import HttpError

_PREARCHIVE = re.compile(r"/prearchive(?:/projects(?:/([^/]+)(?:/([^/]+)/([^/]+))?)?)?")
_ARCHIVE = re.compile(r"/archive(?:/projects/([^/]+)(?:/subjects/([^/]+)(?:/experiments/([^/]+))?)?)?")


@dataclass(frozen=True, slots=True)
class ImportTarget:
    """Where an import is to go."""

    is_given: bool = False
    is_archive: bool = False
    project: str = ""
    subject: str = ""
    session: str = ""
    folder: tuple[str, str, str] | None = None
    """Project, timestamp and folder of a session in the prearchive."""

    @classmethod
    def parse(cls, dest: str) -> "ImportTarget":
        """Read a `dest`. Raises HttpError (400) if it is no place (GradualDicomImporter, SessionImporter)."""
        if not dest:
            return cls()
        path = dest.rstrip("/").removeprefix("/data").removeprefix("/REST")
        if (match := _PREARCHIVE.fullmatch(path)) is not None:
            project, timestamp, name = (part or "" for part in match.groups())
            folder = (project, timestamp, name) if name else None
            return cls(is_given=True, project=project, session=name, folder=folder)
        if (match := _ARCHIVE.fullmatch(path)) is not None:
            project, subject, session = (part or "" for part in match.groups())
            return cls(is_given=True, is_archive=True, project=project, subject=subject, session=session)
        raise HttpError(400, f"Invalid destination URI ({dest})")

    def with_labels(self, params: Mapping[str, str]) -> Mapping[str, str]:
        """Return parameters with the project and labels of the target, where it has any."""
        labels = {"project": self.project, "subject": self.subject, "session": self.session}
        return {**params, **{name: value for name, value in labels.items() if value}}
