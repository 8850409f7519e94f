"""A part of the source: what nobody asked for is left out before it is routed."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from asyncimport.model import Session
from asyncimport.routing.labels import LeftOutError, UnplannedError, UnroutableError

__all__ = ["Choice", "Selected"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which studies and series are asked for: of these modalities, since a date (YYYYMMDD), of these studies.

    What is empty or None asks for everything. Of the studies that a plan has `known` those in `wrong` have a reason why
    they go nowhere, those in `waiting` why they do not go yet; `beyond` is why one does not that it does not have.
    """

    modalities: frozenset[str] = frozenset()
    since: str = ""
    studies: Collection[str] | None = None
    known: Collection[str] = ()
    wrong: Mapping[str, str] = field(default_factory=dict)
    waiting: Mapping[str, str] = field(default_factory=dict)
    beyond: str = "it is beyond --limit"

    def of(
        self,
        studies: Collection[str],
        known: Collection[str],
        wrong: Mapping[str, str],
        waiting: Mapping[str, str],
        *,
        has_limit: bool,
    ) -> "Choice":
        """Return the same of these studies only, out of those that a plan knows."""
        beyond = self.beyond if has_limit else "it has come since all was looked at, and may be being written"
        return replace(self, studies=studies, known=known, wrong=wrong, waiting=waiting, beyond=beyond)

    def against(self, fields: Mapping[str, str]) -> str:
        """Say why a file with these header fields is not asked for; "" when it is."""
        if self.modalities and fields.get("Modality", "") not in self.modalities:
            return "its modality was not asked for"
        # Old files have points in dates (PS3.5 6.2, DA).
        if self.since and fields.get("StudyDate", "").strip().replace(".", "") < self.since:
            return "it is of before --since, or has no date"
        return ""

    def check(self, study_uid: str) -> None:
        """Raise what keeps a study from being sent. Raises: UnroutableError, LeftOutError."""
        if self.studies is None or study_uid in self.studies:
            return
        if study_uid in self.wrong:
            raise UnroutableError(self.wrong[study_uid])
        if study_uid in self.waiting:
            raise LeftOutError(self.waiting[study_uid])
        raise (LeftOutError if study_uid in self.known else UnplannedError)(self.beyond)


class _Routes(Protocol):
    @property
    def rules(self) -> Mapping[str, str]: ...

    @property
    def needs_path(self) -> bool: ...

    @property
    def session_depth(self) -> int | None: ...

    def route(self, study_uid: str, fields: Mapping[str, str], path: str = "") -> Session: ...


class Selected:
    """Rules that route what is asked for, as others do. A choice is no rule: the next run may make another."""

    def __init__(self, routes: _Routes, choice: Choice) -> None:
        self._routes = routes
        self._choice = choice
        self.rules = routes.rules
        self.needs_path = routes.needs_path
        self.session_depth = routes.session_depth

    def route(self, study_uid: str, fields: Mapping[str, str], path: str = "") -> Session:
        """Return the session of a file. Raises: LeftOutError when it is not asked for, UnroutableError."""
        if reason := self._choice.against(fields):
            raise LeftOutError(reason)
        self._choice.check(study_uid)
        return self._routes.route(study_uid, fields, path)
