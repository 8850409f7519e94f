"""The prearchive: listings of a project, and the calls that read, build and archive one row."""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import TypeVar
from urllib.parse import quote

import anyio

from asyncimport.errors import MergeRefusedError, RefusedError
from asyncimport.model.addresses import OUR_SOURCE
from asyncimport.model.deliveries import Delivery
from asyncimport.model.files import Session
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.xnat.client import Client
from asyncimport.xnat.deadlines import time_limit
from asyncimport.xnat.replies.images import (
    Row,
    check_build,
    parse_archive_uri,
    parse_file_count,
    parse_prearchive,
    parse_row,
)
from asyncimport.xnat.replies.response import Reply

T = TypeVar("T")
# A listing is used ten times as long as it took, so listing takes a small share of the time however many rows there are
# and however many sessions begin.
_REUSE_FACTOR = 10


# Rows by StudyInstanceUID and label.
_Rows = Mapping[tuple[str, str], Sequence[Row]]


class PrearchiveRows:
    """The rows of each project: one listing for all calls of the same moment, or with `is_lasting` one for all."""

    def __init__(self, client: Client, *, is_lasting: bool = False) -> None:
        self._client = client
        self._reuse_factor = inf if is_lasting else _REUSE_FACTOR
        self._locks: dict[str, anyio.Lock] = {}
        self._listings: dict[str, tuple[_Rows, float]] = {}
        """The rows of a project, and until when they are used, by the loop's clock."""

    async def list_session(self, session: Session) -> Sequence[Row]:
        """Return a moment ago's rows that XNAT would put a session's files into; none if they are not shown."""
        return (await self.list_project(session.project)).get((session.study_uid, session.label), ())

    async def list_project(self, project: str) -> _Rows:
        """Return the rows of a project. Raises: TransientError."""
        async with self._locks.setdefault(project, anyio.Lock()):
            rows, until = self._listings.get(project, ({}, -inf))
            start = anyio.current_time()
            if start >= until:
                rows = await self._list(project)
                end = anyio.current_time()
                self._listings[project] = rows, end + self._reuse_factor * (end - start)
        return rows

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


class Prearchive:
    """Reads, builds and archives rows; options as of XnatDestination. All raise TransientError, RefusedError."""

    def __init__(
        self,
        client: Client,
        policy: RetryPolicy,
        *,
        overwrite: str = "none",
        trigger_pipelines: bool | None = None,
        event_reason: str = "",
    ) -> None:
        self._client = client
        self._policy = policy
        self._overwrite = "" if overwrite == "none" else f"&overwrite={overwrite}"
        self._options = "" if trigger_pipelines is None else f"&triggerPipelines={str(trigger_pipelines).lower()}"
        self._options += f"&event_reason={quote(event_reason, safe='')}" if event_reason else ""

    async def read_row(self, uri: str | None) -> Row | None:
        """Return a row; None if it is gone."""
        return await self._client.request("GET", f"/data{uri}?format=json", parse_row, self._policy)

    async def count_files(self, uri: str) -> int | None:
        """Return how many files the document of a row names; None if it has no document."""
        return await self._client.request("GET", f"/data{uri}/resources?format=json", parse_file_count, self._policy)

    async def list_all(self) -> list[Row]:
        """Return the rows of all projects that this user may edit."""
        path = "/data/prearchive/projects?format=json"
        return await self._client.request("GET", path, parse_prearchive, self._policy)

    async def build(self, delivery: Delivery) -> None:
        """Have the row of a delivery built, once.

        Not by `commit`, which archives by itself on auto-archive projects: also sessions that are to stay, without
        `overwrite`, and before anybody has compared what the row holds. The archive step works on all projects.
        """
        await self._post(f"/data{delivery.uri}?action=build&SOURCE={OUR_SOURCE}{self._options}", check_build)

    async def archive(self, delivery: Delivery) -> str:
        """Have the built row of a delivery archived, once, and return its address there."""
        labels = ""
        if delivery.initial_session is not None:
            # These outweigh the row's own (PrearcSessionArchiver.fixSubject, fixSessionLabel).
            labels = f"&subject={quote(delivery.session.subject)}&session={quote(delivery.session.label)}"
        path = f"/data/services/archive?src={quote(delivery.uri or '')}{labels}{self._overwrite}{self._options}"
        try:
            return await self._post(path, parse_archive_uri)
        except MergeRefusedError:
            # Versions before 1.7 merge only with `overwrite`, which switches checks off in later ones. That the
            # archived session is this one was checked before.
            if self._overwrite:
                raise
            return await self._post(f"{path}&overwrite=append", parse_archive_uri)

    async def _post(self, path: str, parse: Callable[[Reply], T]) -> T:
        with time_limit(self._client.timeouts.stall + self._client.timeouts.reply):
            return await self._client.call("POST", self._client.url(path), parse)
