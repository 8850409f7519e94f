"""The rows of the prearchive that a session would go into, before anything of it is sent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import anyio

from asyncimport.errors import RefusedError
from asyncimport.model import Session
from asyncimport.xnat.client import Client
from asyncimport.xnat.deadlines import time_limit
from asyncimport.xnat.replies.images import Row, parse_prearchive

# A listing serves for so many times as long as it took: looking takes a small share of the time, however many rows
# there are and however many sessions begin.
_SERVES = 10


@dataclass(frozen=True, slots=True)
class _Listing:
    """Rows by StudyInstanceUID and label, good until a moment of the loop's clock."""

    rows: Mapping[tuple[str, str], Sequence[Row]]
    until: float


class PrearchiveRows:
    """The rows of each project, listed once for all who ask at the same moment, or with `is_lasting` once for all."""

    def __init__(self, client: Client, *, is_lasting: bool = False) -> None:
        self._client = client
        self._serves = inf if is_lasting else _SERVES
        self._turns: dict[str, anyio.Lock] = {}
        self._listings: dict[str, _Listing] = {}

    async def of(self, session: Session) -> Sequence[Row]:
        """Return the rows that XNAT would put files of a session into (PrearcDatabase.eitherGetOrCreateSession).

        They are as they were a moment ago; none where this user may not list them. Raises: TransientError.
        """
        return (await self.in_project(session.project)).get((session.study_uid, session.label), ())

    async def in_project(self, project: str) -> Mapping[tuple[str, str], Sequence[Row]]:
        """Return the rows of a project, by StudyInstanceUID and label. Raises: TransientError."""
        async with self._turns.setdefault(project, anyio.Lock()):
            listing = self._listings.get(project)
            if listing is None or anyio.current_time() >= listing.until:
                began = anyio.current_time()
                rows = await self._list(project)
                ended = anyio.current_time()
                listing = self._listings[project] = _Listing(rows, ended + self._serves * (ended - began))
        return listing.rows

    async def _list(self, project: str) -> dict[tuple[str, str], list[Row]]:
        url = self._client.url(f"/data/prearchive/projects/{project}?format=json")
        try:
            with time_limit(self._client.timeouts.reply):
                found = await self._client.call("GET", url, parse_prearchive)
        except RefusedError:
            return {}
        rows: dict[tuple[str, str], list[Row]] = {}
        for row in found:
            if row.project == project:
                rows.setdefault((row.study_uid, row.label), []).append(row)
        return rows
