"""XNAT as the destination of images: `store` sends one file, `finalize` brings a delivery into the archive."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from urllib.parse import quote

import anyio
import anyio.to_thread
from yarl import URL

from asyncimport.errors import RefusedError, SessionConflictError, TransientError, ZipRefusedError
from asyncimport.model.addresses import OUR_SOURCE
from asyncimport.model.deliveries import ArchivedContent, Claim, Delivery, Dropped, SealedDelivery, Verdict
from asyncimport.model.files import ArchivedPatient, Body, Session, Zip
from asyncimport.pacing.concurrency import both, map_concurrently
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.system.deflate import thread_limiter
from asyncimport.xnat.archive import Archive, FoundSessions, KnownSite
from asyncimport.xnat.body import send
from asyncimport.xnat.client import Client
from asyncimport.xnat.conflicts import ArchiveConflicts
from asyncimport.xnat.finalizer import CLEAR_ROW, RELABEL, Finalizer, archive_address
from asyncimport.xnat.prearchive import Prearchive, PrearchiveRows
from asyncimport.xnat.replies.identity import row_conflict
from asyncimport.xnat.replies.images import Row, parse_import_uri, parse_zip_uri
from asyncimport.xnat.site import explain_drop
from asyncimport.xnat.zip_body import zip_body

_HEADERS = {"Content-Type": "application/dicom"}
_ZIP_HEADERS = {"Content-Type": "application/zip"}


class XnatDestination:
    """The destination of a run.

    `overwrite` ("append", "delete" or "none") goes to the archive step, and so do `trigger_pipelines` (None: the site's
    setting) and `event_reason`, which sites with an audit trail require. `patience` is how many seconds XNAT may work
    on one session, `first_pause` how long to wait before reading its row again (pauses double up to 30 s). `source` is
    what this journal's prearchive rows name as theirs: only these are filled, or with `adopt_rows` those of other
    journals too. `site` has what was read before. All methods raise TransientError.
    """

    finalizer_type = Finalizer

    def __init__(
        self,
        client: Client,
        *,
        archive: bool = True,
        overwrite: str = "none",
        trigger_pipelines: bool | None = None,
        event_reason: str = "",
        source: str = OUR_SOURCE,
        adopt_rows: bool = False,
        policy: RetryPolicy | None = None,
        patience: float = 3600.0,
        first_pause: float = 1.0,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        site: KnownSite | None = None,
        prearchive: Prearchive | None = None,
    ) -> None:
        policy = policy or RetryPolicy()
        self._client = client
        self._overwrite = overwrite
        self._source = source
        self._adopt_rows = adopt_rows
        self._import_url = lru_cache(maxsize=1024)(self._make_import_url)
        self._deflating = thread_limiter()
        site = site or KnownSite.of(client, policy)
        self._rules, self._archived = site.rules, site.archived
        self._archive = Archive(client, policy, self._rules)
        self._rows = PrearchiveRows(client)
        self._conflicts = ArchiveConflicts(client, site, policy)
        self._prearchive = prearchive or Prearchive(
            client, policy, overwrite=overwrite, trigger_pipelines=trigger_pipelines, event_reason=event_reason
        )
        self._finalizer = self.finalizer_type(
            archive=self._archive,
            prearchive=self._prearchive,
            conflicts=self._conflicts,
            archived=self._archived,
            rules=self._rules,
            may_archive=archive,
            overwrite=overwrite,
            source=source,
            attempts=policy.attempts,
            patience=patience,
            first_pause=first_pause,
            sleep=sleep,
        )

    def _make_import_url(self, session: Session, handler: str) -> URL:
        """Return the address that imports into a session, by the importer of files or the one of zips."""
        # rename: XNAT names files by their UIDs, so parallel ones do not collide, and a repeated one overwrites itself.
        # prevent_auto_commit: XNAT's idle builder does not archive half a session (SessionXMLRebuilder). SOURCE: whose
        # row it is. Both are read from the file that makes the row, so all do so. PROJECT_ID: XNAT ignores `project`.
        # With `dest` or `action` XNAT would build the session after each zip.
        return self._client.url(
            f"/data/services/import?import-handler={handler}&inbody=true"
            f"&PROJECT_ID={quote(session.project)}&SUBJECT_ID={quote(session.subject)}"
            f"&EXPT_LABEL={quote(session.label)}&rename=true&prevent_auto_commit=true"
            f"&SOURCE={quote(self._source)}"
        )

    @property
    def blocked_seconds(self) -> float:
        """How long all bodies together have waited to be sent."""
        return self._client.blocked_seconds

    @property
    def link_seconds(self) -> float:
        """The same, as far as the system tells it."""
        return self._client.link_seconds

    @property
    def round_trip(self) -> float:
        """The shortest round trip so far, in seconds; 0 if it is unknown."""
        return self._client.round_trip

    async def make_zip(self, body: Body) -> Zip | None:
        """Return a file as a zip; None if that is not worth it.

        Raises: ZipRefusedError if XNAT takes none, SourceError, TransientError.
        """
        packed = await zip_body(body, self._deflating)
        if packed is not None and not await self._rules.takes_zips():
            raise ZipRefusedError("this XNAT is older than 1.8, or does not show its version", ends_zips=True)
        return packed

    async def store(self, claim: Claim, body: Body | Zip) -> str:
        """Import one file, once, and return the prearchive URI that it went to.

        Before the first file of a delivery, which is no zip, the rows that it could go into are checked; after it, the
        row it went to. Raises: NothingStoredError, SessionConflictError, RefusedError, ZipRefusedError, SourceError if
        the file is not what was scanned.
        """
        if isinstance(body, Zip):
            return await self._import_zip(claim, body.body)
        is_first = claim.delivery.uri is None
        if is_first:
            await self._check_rows(claim.delivery.row_session)
        uri = await self._import(claim, body)
        if is_first:
            await self._check_first_row(claim.delivery, uri)
        return uri

    async def _import(self, claim: Claim, body: Body) -> str:
        session = claim.delivery.row_session
        parse = partial(parse_import_uri, project=session.project, expected=claim.delivery.uri)
        url = self._import_url(session, "gradual-DICOM")
        return await send(self._client, "POST", url, body, parse, _HEADERS)

    async def _import_zip(self, claim: Claim, body: Body) -> str:
        assert claim.delivery.uri is not None  # noqa: S101 - the first file of a delivery is no zip
        url = self._import_url(claim.delivery.row_session, "DICOM-zip")
        parse = partial(parse_zip_uri, expected=claim.delivery.uri)
        return await send(self._client, "POST", url, body, parse, _ZIP_HEADERS)

    async def _check_rows(self, session: Session) -> None:
        """Check the rows that XNAT would put a session into. Raises: SessionConflictError, TransientError."""
        for row in await self._rows.list_session(session):
            if reason := self._row_conflict(row, session):
                raise SessionConflictError(reason)
            if row.is_busy:
                raise TransientError(f"XNAT is working on a prearchive session of this study ({row.status})")

    async def _check_first_row(self, delivery: Delivery, uri: str) -> None:
        """Check the row of the first file: somebody else may have begun it at the same moment."""
        try:
            row = await self._prearchive.read_row(uri)
        except RefusedError:
            # This user may not read it: finalising will hold the delivery.
            return
        if row is not None and (
            reason := self._row_conflict(row, delivery.row_session, ", and a file from here is in it")
        ):
            raise SessionConflictError(reason)

    def _row_conflict(self, row: Row, session: Session, more: str = "") -> str | None:
        """Say why a session may not go into a row that it has not begun, and what to do about it; None if it may."""
        reason = row_conflict(row, session, None if self._adopt_rows else self._source)
        if reason is None:
            return None
        if row_conflict(row, session) is None:
            advice = f"let that upload end, or {CLEAR_ROW} run this again; `--adopt-rows` fills it all the same"
            return f"{reason}{more}; {advice}"
        return f"{reason}{more}; {CLEAR_ROW} run this again"

    async def find_drop_rules(
        self, session: Session, headers: Sequence[Mapping[str, str] | None], *, archived: bool
    ) -> list[Dropped | None]:
        """Return the rule, if any, that drops each file at import or archiving, by its header (None: unknown)."""
        found = await self._rules.get(session.project)
        rules = found.archive_rules if archived else found.import_rules
        # The site's patterns may take some time, within limits.
        return await anyio.to_thread.run_sync(lambda: [explain_drop(rules, fields) for fields in headers])

    async def ping(self) -> bool:
        """Whether XNAT answers at all."""
        return await self._client.ping()

    async def find_existing(self, claim: Claim) -> ArchivedContent | None:
        """Return what the archive has of a claim's session; None if it has nothing.

        Where a script changes UIDs, nobody can tell which instances it has: they are sent only if they may replace
        those in the archive. Raises: SessionConflictError, TransientError.
        """
        session = claim.instance.session
        found, _ = await both(partial(self._archive.find_session, session), partial(self._prefetch, session.project))
        if found.problem is not None:
            raise SessionConflictError(f"{found.problem}; {RELABEL}")
        label = ""
        if not found.experiments:
            other = await self._conflicts.find_session_of_study(session)
            if other is None:
                return None
            found, label = FoundSessions((other,)), other.label
        held = frozenset(await self._archive.read_digests(session, found.experiments))
        is_first = claim.delivery.number == 1
        is_hidden = held and is_first and claim.instance.sop_uid not in held and self._overwrite == "none"
        if is_hidden and (await self._rules.get(session.project)).maps_instances:
            raise SessionConflictError(
                "the archive has this session already, and a script changes UIDs, so nobody can tell which of them it "
                "has; `--overwrite append --retry held` sends all, in place of what is there"
            )
        kind = found.experiments[0].type
        if len(found.experiments) > 1 or await self._rules.merges_modalities():
            kind = ""
        return ArchivedContent(archive_address(session, found.experiments[0]), held, kind, label)

    async def _prefetch(self, project: str) -> None:
        """Read what sending and archiving will ask of a project: one round trip later, not one for each."""
        reads = self._archived.list_project, self._rules.get

        async def read(what: Callable[[str], Awaitable[object]]) -> None:
            # Who needs it asks again, and reports the error.
            with suppress(RefusedError, TransientError):
                await what(project)

        await map_concurrently(read, reads, len(reads))

    async def archived_patients(self, session: Session) -> Sequence[ArchivedPatient]:
        """Return the patients in the archived sessions of a session's subject. Raises: SessionConflictError."""
        return await self._conflicts.check(session)

    async def archived_uids(self, session: Session) -> frozenset[str] | None:
        """Return the SOPInstanceUIDs that the archive has of a session, if a script changes UIDs, else None."""
        if not (await self._rules.get(session.project)).maps_instances:
            return None
        found = await self._archive.find_session(session)
        # If that is another session, finalising will hold the delivery.
        return frozenset(await self._archive.read_digests(session, found.experiments))

    async def finalize(self, sealed: SealedDelivery) -> Verdict:
        """Build, archive and verify a delivery; again at any time, also after a kill. Raises: TransientError."""
        return await self._finalizer.finalize(sealed)
