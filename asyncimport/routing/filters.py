"""Filters: a run may select a part of the source. What they leave out is not routed."""

import fnmatch
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import field

from asyncimport.model.files import Session
from asyncimport.model.ports import Routes
from asyncimport.model.record import record
from asyncimport.model.texts import nfc
from asyncimport.routing.labels import LeftOutError, UnplannedError, UnroutableError

BEYOND_LIMIT = "it is beyond --max-sessions"
APPEARED = "it appeared after the scan, and may still be being written"


def glob_pattern(globs: Sequence[str]) -> re.Pattern[str] | None:
    """Return a pattern for texts in composed form that match any of these globs; `*` matches `/` too."""
    return re.compile("|".join(fnmatch.translate(nfc(glob)) for glob in globs)) if globs else None


@record
class StudyFilter:
    """The files that a run selects: by modality, by study date (YYYYMMDD or later), and by path.

    What is empty or None selects everything. A filter selects whole studies: one selected file brings all files of its
    study, by `studies`, which a plan finds out. With `parts` it selects files, and a session may get a part of a study.

    Of the studies that a plan knows, `faulty` says why one goes nowhere, `waiting` why one is not sent yet, and
    `left_out` why one is not selected; `beyond_limit` are those after the first sessions that a pilot sends. `text` is
    the filter as the command line writes it.
    """

    modalities: frozenset[str] = frozenset()
    since: str = ""
    include: re.Pattern[str] | None = None
    parts: bool = False
    studies: Collection[str] | None = None
    faulty: Mapping[str, str] = field(default_factory=dict)
    waiting: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    beyond_limit: Collection[str] = ()
    text: str = field(default="", compare=False)

    @property
    def is_everything(self) -> bool:
        """Whether it selects all files of all studies."""
        return not (self.modalities or self.since or self.include)

    @property
    def is_of_parts(self) -> bool:
        """Whether it may select some files of a study and not others."""
        return self.parts and not self.is_everything

    @property
    def needs_path(self) -> bool:
        """Whether it selects by path."""
        return self.include is not None

    def rejection_reason(self, fields: Mapping[str, str], path: str) -> str:
        """Return why a file with these header fields and this path below SOURCE is not selected, or ""."""
        if self.include is not None and not self.include.fullmatch(nfc(path)):
            return "its path was not asked for"
        if self.modalities and fields.get("Modality", "") not in self.modalities:
            return "its modality was not asked for"
        # Old files have points in dates (PS3.5 6.2, DA).
        if self.since and fields.get("StudyDate", "").strip().replace(".", "") < self.since:
            return "the study predates --study-since, or has no date"
        return ""

    def check(self, study_uid: str) -> None:
        """Raise why a study is not sent, if it is not. Raises: UnroutableError, LeftOutError."""
        if self.studies is None or study_uid in self.studies:
            return
        if study_uid in self.faulty:
            raise UnroutableError(self.faulty[study_uid])
        if reason := self.waiting.get(study_uid) or self.left_out.get(study_uid):
            raise LeftOutError(reason)
        raise UnplannedError(BEYOND_LIMIT if study_uid in self.beyond_limit else APPEARED)


EVERYTHING = StudyFilter()
"""The filter that selects all files."""


class FilteredRoutes:
    """Rules that route only selected files. The filter is not one of the rules: the next run may have another."""

    def __init__(self, routes: Routes, study_filter: StudyFilter) -> None:
        self._routes = routes
        self._filter = study_filter
        self.rules = routes.rules
        self.needs_path = routes.needs_path or (study_filter.is_of_parts and study_filter.needs_path)
        self.session_depth = routes.session_depth

    def route(self, study_uid: str, fields: Mapping[str, str], path: str = "") -> Session:
        """Return the session of a file.

        Raises: LeftOutError when it is not selected, with its session if other files of its study are; UnroutableError.
        """
        study_filter = self._filter
        study_filter.check(study_uid)
        if not study_filter.is_of_parts or not (reason := study_filter.rejection_reason(fields, path)):
            return self._routes.route(study_uid, fields, path)
        try:
            session = self._routes.route(study_uid, fields, path)
        except UnroutableError:
            session = None
        raise LeftOutError(reason, session)
