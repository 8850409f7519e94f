"""The destination of a dry run: it looks wherever a run looks, and takes for done what a run would ask of XNAT."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count

import anyio.to_thread

from asyncimport.dicom import Identity
from asyncimport.errors import RefusedError, TransientError
from asyncimport.model import (
    Archived,
    ArchivedContent,
    Body,
    Claim,
    Delivery,
    File,
    Ignored,
    SealedDelivery,
    Session,
    Verdict,
)
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.xnat.archive import ArchivedSessions
from asyncimport.xnat.client import Client
from asyncimport.xnat.images import Steps, XnatDestination
from asyncimport.xnat.occupants import Occupants
from asyncimport.xnat.prearchive import PrearchiveRows
from asyncimport.xnat.replies.images import Row
from asyncimport.xnat.site import DropRule, SiteRules, explain_drop


async def _at_once(_: float) -> None:
    """Wait for nothing."""


class DryRun(XnatDestination):
    """XNAT as it would be if it took everything: a run with this destination is the run, up to each first write.

    `identify` looks into a file, where the site has rules that drop some. `archived` and `rules` are what was asked of
    the site before. All rows that the run would begin are built at once, and all that it would archive is.
    """

    def __init__(
        self,
        client: Client,
        *,
        identify: Callable[[File], Identity | Ignored],
        archived: ArchivedSessions,
        rules: SiteRules,
        archive: bool = True,
        overwrite: str = "none",
        source: str,
        adopt_rows: bool = False,
    ) -> None:
        super().__init__(
            client,
            archive=archive,
            overwrite=overwrite,
            source=source,
            adopt_rows=adopt_rows,
            # XNAT is never behind, and what it is at work on is done by then.
            sleep=_at_once,
        )
        self._rules = rules
        self._archived = archived
        # Nothing of ours changes them.
        self._rows = PrearchiveRows(client, is_lasting=True)
        self._occupants = Occupants(client, archived, rules, RetryPolicy())
        self._identify = identify
        self._numbers = count(1)
        self._dropping: dict[str, Sequence[DropRule]] = {}
        """What drops files as they come in, by project."""
        self._begun: dict[str, Row] = {}
        """Rows that the run would begin, by their addresses."""

    async def find_existing(self, claim: Claim) -> ArchivedContent | None:
        """Tell what the archive has of the session of a claim; a listing of the project tells that it has nothing."""
        return None if await self._is_new(claim.instance.session) else await super().find_existing(claim)

    async def _is_new(self, session: Session) -> bool:
        """Whether the listing of the project, which is made once, has nothing of a session."""
        listed = await self._archived.in_project(session.project)
        return listed is not None and not any(
            one.study_uid == session.study_uid or one.label.lower() == session.label.lower() for one in listed
        )

    async def _in_the_way(self, delivery: Delivery) -> str | None:
        return None if await self._is_new(delivery.session) else await super()._in_the_way(delivery)

    async def _import(self, claim: Claim, _: Body) -> str:
        session = claim.delivery.row_session
        rules = self._dropping.get(session.project)
        if rules is None:
            rules = self._dropping[session.project] = (await self._rules.get(session.project)).import_rules
        if rules:
            found = await anyio.to_thread.run_sync(self._identify, claim.instance.file)
            dropped = explain_drop(rules, found.fields if isinstance(found, Identity) else None)
            if dropped is not None and dropped.is_certain:
                raise RefusedError(f"XNAT does not keep the file: {dropped.rule} rejects it", dropped=True)
        return claim.delivery.uri or await self._row_for(session)

    async def _row_for(self, session: Session) -> str:
        """Return the address of the row that the first file of a session would go into."""
        for row in await self._rows.of(session):
            return row.uri
        uri = f"/prearchive/projects/{session.project}/dry-run-{next(self._numbers)}/{session.label}"
        names = session.project, session.subject, session.label, session.study_uid
        self._begun[uri] = Row("READY", uri, *names, source=self._source)
        return uri

    async def _look(self, uri: str | None) -> Row | None:
        row = self._begun.get(uri or "") or await super()._look(uri)
        return replace(row, status="READY") if row is not None and row.is_busy else row

    async def _look_before(self, session: Session) -> None:
        with suppress(TransientError):
            await super()._look_before(session)

    async def _build(self, delivery: Delivery) -> None:
        """Leave the row as it is."""

    async def _count_files(self, uri: str) -> int | None:
        # What this run sends is not counted: it may take the place of what is there.
        return 0 if uri in self._begun else await super()._count_files(uri)

    async def _move(self, delivery: Delivery) -> str:
        session = delivery.session
        return f"/data/archive/projects/{session.project}/subjects/{session.subject}/experiments/{session.label}"

    async def _finish(self, sealed: SealedDelivery, row: Row, steps: Steps, *, is_built: bool) -> Verdict | str:
        end = await super()._finish(sealed, row, steps, is_built=is_built)
        return Archived(sealed.delivery, end, "uids") if isinstance(end, str) else end
