"""The destination of a dry run: it reads what a run reads, and assumes that every change succeeds."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import count

import anyio.to_thread

from asyncimport.dicom import Identity
from asyncimport.errors import RefusedError, TransientError
from asyncimport.model.deliveries import Archived, ArchivedContent, Claim, Delivery, SealedDelivery, Verdict
from asyncimport.model.files import Body, File, Ignored, Session, Zip
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.xnat.archive import ArchivedSessions, KnownSite
from asyncimport.xnat.client import Client
from asyncimport.xnat.delivery_steps import Progress
from asyncimport.xnat.finalizer import Finalizer
from asyncimport.xnat.images import XnatDestination
from asyncimport.xnat.prearchive import Prearchive, PrearchiveRows
from asyncimport.xnat.replies.images import Row
from asyncimport.xnat.site import explain_drop


async def _skip_pause(_: float) -> None:
    pass


class _DryRunPrearchive(Prearchive):
    """A prearchive that has the rows that the run would begin, and changes nothing."""

    def __init__(self, client: Client, policy: RetryPolicy, begun: dict[str, Row]) -> None:
        super().__init__(client, policy)
        self._begun = begun

    async def read_row(self, uri: str | None) -> Row | None:
        row = self._begun.get(uri or "") or await super().read_row(uri)
        return replace(row, status="READY") if row is not None and row.is_busy else row

    async def count_files(self, uri: str) -> int | None:
        # What this run would send is not counted: it may replace what is there. A row that the run would build has no
        # document to count by.
        return 0 if uri in self._begun else await super().count_files(uri) or 0

    async def build(self, delivery: Delivery) -> None:
        pass

    async def archive(self, delivery: Delivery) -> str:
        session = delivery.session
        return f"/data/archive/projects/{session.project}/subjects/{session.subject}/experiments/{session.label}"


class _DryRunFinalizer(Finalizer):
    """Takes what would be archived for verified."""

    async def _label_conflict(self, delivery: Delivery) -> str | None:
        return None if await _is_new(self.archived, delivery.session) else await super()._label_conflict(delivery)

    async def _finish(self, sealed: SealedDelivery, row: Row, progress: Progress, *, is_built: bool) -> Verdict | str:
        end = await super()._finish(sealed, row, progress, is_built=is_built)
        return Archived(sealed.delivery, end, "uids") if isinstance(end, str) else end


class DryRunDestination(XnatDestination):
    """An XNAT that accepts everything: a run with this destination is like the real one, up to each first write.

    `identify` reads the header of a file, where the site has rules that drop some. `site` has what was read before. All
    rows that the run would begin are built at once, and archived.
    """

    finalizer_type = _DryRunFinalizer

    def __init__(
        self,
        client: Client,
        *,
        identify: Callable[[File], Identity | Ignored],
        site: KnownSite,
        archive: bool = True,
        overwrite: str = "none",
        source: str,
        adopt_rows: bool = False,
    ) -> None:
        self._begun_rows: dict[str, Row] = {}
        """The rows that the run would begin, by their addresses."""
        super().__init__(
            client,
            archive=archive,
            overwrite=overwrite,
            source=source,
            adopt_rows=adopt_rows,
            site=site,
            prearchive=_DryRunPrearchive(client, RetryPolicy(), self._begun_rows),
            # XNAT's caches never lag, and what it works on is done.
            sleep=_skip_pause,
        )
        # Nothing of ours changes the rows.
        self._rows = PrearchiveRows(client, is_lasting=True)
        self._identify = identify
        self._numbers = count(1)

    async def find_existing(self, claim: Claim) -> ArchivedContent | None:
        """Return what the archive has of a claim's session; one listing of its project tells if it has nothing."""
        return None if await _is_new(self._archived, claim.instance.session) else await super().find_existing(claim)

    async def make_zip(self, _: Body) -> Zip | None:
        """Make none: bodies are not read."""
        return None

    async def _import(self, claim: Claim, _: Body) -> str:
        session = claim.delivery.row_session
        if rules := (await self._rules.get(session.project)).import_rules:
            found = await anyio.to_thread.run_sync(self._identify, claim.instance.file)
            dropped = explain_drop(rules, found.all_fields if isinstance(found, Identity) else None)
            if dropped is not None and dropped.is_certain:
                raise RefusedError(f"XNAT does not keep the file: {dropped.rule} rejects it", dropped=True)
        if claim.delivery.uri:
            return claim.delivery.uri
        if rows := await self._rows.list_session(session):
            return rows[0].uri
        uri = f"/prearchive/projects/{session.project}/dry-run-{next(self._numbers)}/{session.label}"
        names = session.project, session.subject, session.label, session.study_uid
        self._begun_rows[uri] = Row("READY", uri, *names, source=self._source)
        return uri

    async def _check_rows(self, session: Session) -> None:
        with suppress(TransientError):
            await super()._check_rows(session)


async def _is_new(archived: ArchivedSessions, session: Session) -> bool:
    """Whether the listing of the project, which is made once, has nothing of a session."""
    listed = await archived.list_project(session.project)
    return listed is not None and not any(
        one.study_uid == session.study_uid or one.label.lower() == session.label.lower() for one in listed
    )
