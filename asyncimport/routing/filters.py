"""A part of the source: what nobody asked for is left out before it is routed."""

import fnmatch
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from asyncimport.model import Session
from asyncimport.model.texts import nfc
from asyncimport.routing.labels import LeftOutError, UnplannedError, UnroutableError


def glob_pattern(globs: Sequence[str]) -> re.Pattern[str] | None:
    """Return what matches any of these shell patterns, whose `*` passes `/` too; None when there are none.

    It matches texts in composed form.
    """
    return re.compile("|".join(fnmatch.translate(nfc(glob)) for glob in globs)) if globs else None


@dataclass(frozen=True, slots=True)
class StudyFilter:
    """What is asked for: files of these modalities, since a date (YYYYMMDD), with paths that match.

    What is empty or None asks for everything. A choice is one of studies: any file that is asked for brings all of its
    study, by `studies`, which a plan has found out. With `parts` it is one of files, and sessions may get a part of a
    study.

    Of the studies that a plan knows those in `wrong` have a reason why they go nowhere, those in `waiting` why they do
    not go yet, those in `left` why nobody asked for them; `beyond` is why the others are not sent.
    """

    modalities: frozenset[str] = frozenset()
    since: str = ""
    include: re.Pattern[str] | None = None
    parts: bool = False
    studies: Collection[str] | None = None
    known: Collection[str] = ()
    wrong: Mapping[str, str] = field(default_factory=dict)
    waiting: Mapping[str, str] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)
    beyond: str = "it is beyond --max-sessions"

    @property
    def is_everything(self) -> bool:
        """Whether all files are asked for, of whatever study."""
        return not (self.modalities or self.since or self.include)

    @property
    def is_of_parts(self) -> bool:
        """Whether some files of a study may be asked for, and others not."""
        return self.parts and not self.is_everything

    @property
    def needs_path(self) -> bool:
        """Whether paths decide."""
        return self.include is not None

    def of(
        self,
        studies: Collection[str],
        known: Collection[str],
        *,
        wrong: Mapping[str, str],
        waiting: Mapping[str, str],
        left: Mapping[str, str],
        has_limit: bool,
    ) -> "StudyFilter":
        """Return the same of these studies only, out of those that a plan knows."""
        beyond = self.beyond if has_limit else "it has come since all was looked at, and may be being written"
        return replace(self, studies=studies, known=known, wrong=wrong, waiting=waiting, left=left, beyond=beyond)

    def rejection_reason(self, fields: Mapping[str, str], path: str) -> str:
        """Say why a file with these header fields, and this path below SOURCE, is not asked for; "" when it is."""
        if self.include is not None and not self.include.fullmatch(nfc(path)):
            return "its path was not asked for"
        if self.modalities and fields.get("Modality", "") not in self.modalities:
            return "its modality was not asked for"
        # Old files have points in dates (PS3.5 6.2, DA).
        if self.since and fields.get("StudyDate", "").strip().replace(".", "") < self.since:
            return "it is of before --study-since, or has no date"
        return ""

    def check(self, study_uid: str) -> None:
        """Raise what keeps a study from being sent. Raises: UnroutableError, LeftOutError."""
        if self.studies is None or study_uid in self.studies:
            return
        if study_uid in self.wrong:
            raise UnroutableError(self.wrong[study_uid])
        if reason := self.waiting.get(study_uid) or self.left.get(study_uid):
            raise LeftOutError(reason)
        raise (LeftOutError if study_uid in self.known else UnplannedError)(self.beyond)


EVERYTHING = StudyFilter()
"""The choice of all that there is."""


class _Routes(Protocol):
    @property
    def rules(self) -> Mapping[str, str]: ...

    @property
    def needs_path(self) -> bool: ...

    @property
    def session_depth(self) -> int | None: ...

    def route(self, study_uid: str, fields: Mapping[str, str], path: str = "") -> Session: ...


class FilteredRoutes:
    """Rules that route what is asked for, as others do. A choice is no rule: the next run may make another."""

    def __init__(self, routes: _Routes, study_filter: StudyFilter) -> None:
        self._routes = routes
        self._choice = study_filter
        self.rules = routes.rules
        self.needs_path = routes.needs_path or (study_filter.is_of_parts and study_filter.needs_path)
        self.session_depth = routes.session_depth

    def route(self, study_uid: str, fields: Mapping[str, str], path: str = "") -> Session:
        """Return the session of a file.

        Raises: LeftOutError when it is not asked for, with its session if others of its study are, UnroutableError.
        """
        study_filter = self._choice
        study_filter.check(study_uid)
        if not study_filter.is_of_parts or not (reason := study_filter.rejection_reason(fields, path)):
            return self._routes.route(study_uid, fields, path)
        try:
            session = self._routes.route(study_uid, fields, path)
        except UnroutableError:
            session = None
        raise LeftOutError(reason, session)
