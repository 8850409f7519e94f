"""XNAT as the destination of images: store one file, finalise one delivery.

`store` asks once; whoever calls it repeats. `finalize` is reconciling: look at what XNAT has, take the next step,
look again. It may run twice, or after a kill, and must come to the same end.
"""

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from functools import lru_cache, partial
from urllib.parse import quote, unquote

import anyio
from yarl import URL

from asyncimport import replies
from asyncimport.errors import NotKeptError, RefusedError, TransientError
from asyncimport.model import (
    Archived,
    Body,
    Built,
    Claim,
    Deleted,
    Delivery,
    Held,
    Incomplete,
    Sealed,
    Session,
    Verdict,
)
from asyncimport.replies import Row
from asyncimport.retry import RetryPolicy
from asyncimport.xnat.archive import Found, compare, find_session
from asyncimport.xnat.client import Client, bounded
from asyncimport.xnat.sending import send
from asyncimport.xnat.site import SiteRules
from asyncimport.xnat.whereabouts import why_not_here

__all__ = ["Step", "Xnat", "next_step"]

_DICOM = {"Content-Type": "application/dicom"}


class Step(Enum):
    """What to do next about a sealed delivery."""

    FINISH = auto()  # commit (or build), then archive
    WAIT = auto()  # XNAT is at work on it
    VERIFY = auto()  # it is in the archive
    STUCK = auto()  # our attempt failed and XNAT marked the row
    LOST = auto()  # it is neither here nor there


def next_step(row: Row | None, *, archived: bool, asked: bool) -> Step:
    """Decide from the prearchive row, the archive, and whether this run has asked XNAT to finish already."""
    if row is None:
        return Step.VERIFY if archived else Step.LOST
    if row.is_busy:
        return Step.WAIT
    if row.is_stuck and asked:
        return Step.STUCK
    return Step.FINISH


class Xnat:
    """The destination of a run.

    `overwrite` ("append", "delete" or "none") goes to the archive step, and so do `trigger_pipelines` (None: as XNAT is
    set up) and `event_reason`, which sites with an audit trail ask for. `patience` is how many seconds XNAT may be
    at work on one session; `first_pause` how long to wait before the second look at it (pauses double up to 30 s).
    """

    def __init__(
        self,
        client: Client,
        *,
        archive: bool = True,
        overwrite: str = "none",
        trigger_pipelines: bool | None = None,
        event_reason: str = "",
        policy: RetryPolicy | None = None,
        patience: float = 3600.0,
        first_pause: float = 1.0,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._client = client
        self._archive = archive
        self._overwrite = overwrite
        self._manners = "" if trigger_pipelines is None else f"&triggerPipelines={str(trigger_pipelines).lower()}"
        self._manners += f"&event_reason={quote(event_reason, safe='')}" if event_reason else ""
        self._policy = policy or RetryPolicy()
        self._patience = patience
        self._first_pause = first_pause
        self._sleep = sleep
        self._import_url = lru_cache(maxsize=1024)(self._make_import_url)
        self._rules = SiteRules(client, self._policy)

    def _make_import_url(self, session: Session) -> URL:
        """Return the address that imports into this session.

        `rename`: files get names from their UIDs, so that parallel files do not collide and a repeated file
        overwrites itself. `prevent_auto_commit` and `SOURCE=uploader` (read from whichever file makes the row, hence
        on all of them) keep XNAT's idle builder from taking half a session. `PROJECT_ID`, as `project` is ignored.
        """
        return self._client.url(
            "/data/services/import?import-handler=gradual-DICOM&inbody=true"
            f"&PROJECT_ID={quote(session.project)}&SUBJECT_ID={quote(session.subject)}"
            f"&EXPT_LABEL={quote(session.label)}&rename=true&prevent_auto_commit=true&SOURCE=uploader"
        )

    async def store(self, claim: Claim, body: Body) -> str:
        """Import one file, once, and return the prearchive URI it went to.

        Raises: TransientError, RefusedError, SourceError when the file is not what was scanned.
        """
        try:
            return await self._import(claim, body)
        except NotKeptError:
            # A filter's verdict is final. Where there is none to give it, it may have been a mishap.
            found = await self._rules.of(claim.instance.session.project)
            if found.on_import == "":
                raise
            what = found.on_import or "a series import filter or anonymisation script"
            message = f"XNAT did not keep the file: {what} rejects it (empty 200)"
            raise RefusedError(message, dropped=True) from None

    async def is_there(self) -> bool:
        """Tell whether XNAT answers at all."""
        return await self._client.is_there()

    async def holds(self, session: Session) -> bool | None:
        """Tell whether the archive has a session of this label already; None when it cannot be asked."""
        try:
            found = await find_session(self._client, session, self._policy, self._rules)
            return bool(found.experiments) or found.problem is not None
        except (RefusedError, TransientError):
            return None

    async def _import(self, claim: Claim, body: Body) -> str:
        session = claim.instance.session
        url = self._import_url(session)
        read = partial(replies.stored, project=session.project, expected=claim.delivery.uri)
        return await send(self._client, "POST", url, body, read, _DICOM)

    async def finalize(self, sealed: Sealed) -> Verdict:
        """Commit, archive and verify one delivery; of one that is open, find out what has become of its row.

        Raises: TransientError when the server is away.
        """
        delivery = sealed.delivery
        if sealed.archived:
            return await self._look_again(sealed)
        asked = False
        failures = lost = 0
        trouble = ""
        answer: str | None = None
        pause = self._first_pause
        give_up = anyio.current_time() + self._patience
        while True:
            try:
                # A server that does not even let itself be looked at is away, and that is no verdict on the session.
                row = await self._look(delivery)
                found = await self._find(delivery, answer) if row is None else Found()
            except RefusedError as error:
                return Held(delivery, str(error))
            if found.problem is not None:
                return Held(delivery, found.problem)
            step = next_step(row, archived=bool(found.experiments), asked=asked)
            if sealed.is_open and step in {Step.FINISH, Step.STUCK}:
                # XNAT makes a second row only where it does not find the first one: somebody else has made this one.
                return Held(delivery, "XNAT puts files of this study into a second row of the prearchive beside ours")
            try:
                if step is Step.VERIFY:
                    return await self._verify(sealed, found)
                if step is Step.STUCK:
                    return Held(
                        delivery,
                        trouble or "XNAT could not archive the session and marked it in the prearchive",
                    )
                if step is Step.FINISH:
                    # A build that a proxy did not wait for has come to its end: not again, or it never would.
                    is_built = asked and row is not None and row.status == "READY"
                    asked = True
                    end = await self._finish(delivery, is_built=is_built)
                    if isinstance(end, Built):
                        return end
                    answer = end
                    return await self._verify(sealed, await self._find(delivery, answer))
                if step is Step.LOST:
                    lost += 1
                    if lost >= self._policy.attempts:
                        why = await why_not_here(self._client, delivery, sealed.sop_uids, self._policy)
                        return Deleted(delivery) if why is None else Held(delivery, why)
            except RefusedError as error:
                # XNAT answers 500 to the build of a row that is gone (PrearcSessionResource), as to one that failed.
                if self._archive or step is not Step.FINISH or not await self._is_gone(delivery):
                    return Held(delivery, str(error))
            except TransientError as error:
                trouble = str(error)
                failures += 1
                if failures >= self._policy.attempts:
                    return Held(delivery, trouble)
            if anyio.current_time() > give_up:
                return Held(delivery, "XNAT has not finished with the session in time")
            await self._sleep(pause)
            pause = min(2 * pause, 30.0)

    async def _look_again(self, sealed: Sealed) -> Verdict:
        """Verify what an earlier run archived. Raises: TransientError."""
        delivery = sealed.delivery
        try:
            there = await self._find(delivery, None)
        except RefusedError as error:
            return Held(delivery, str(error))
        if not there.experiments:
            return Held(delivery, there.problem or "the session is not in the archive any more")
        return await self._verify(sealed, there)

    async def _look(self, delivery: Delivery) -> Row | None:
        return await self._client.ask("GET", f"/data{delivery.uri}?format=json", replies.row, self._policy)

    async def _is_gone(self, delivery: Delivery) -> bool:
        try:
            return await self._look(delivery) is None
        except RefusedError:
            return False

    async def _find(self, delivery: Delivery, answer: str | None) -> Found:
        """Look for the session in the archive; `answer` is where XNAT has said that it archived it."""
        named = unquote(answer.rpartition("/")[2]) if answer else None
        return await find_session(self._client, delivery.session, self._policy, self._rules, named=named)

    async def _finish(self, delivery: Delivery, *, is_built: bool) -> Built | str:
        """Take the row to its end, and return the address that XNAT gives it in the archive.

        `build` where the session is to stay in the prearchive, because `commit` archives on auto-archive projects.
        """
        action = "commit" if self._archive else "build"
        at_work = self._client.timeouts.stall + self._client.timeouts.reply
        if not is_built:
            url = self._client.url(f"/data{delivery.uri}?action={action}&SOURCE=uploader{self._manners}")
            with bounded(at_work):
                archive_uri = await self._client.call("POST", url, replies.committed)
            if archive_uri is not None:
                return archive_uri
        if not self._archive:
            return Built(delivery, f"/data{delivery.uri}")
        overwrite = "" if self._overwrite == "none" else f"&overwrite={self._overwrite}"
        url = self._client.url(f"/data/services/archive?src={quote(delivery.uri or '')}{overwrite}{self._manners}")
        with bounded(at_work):
            return await self._client.call("POST", url, replies.archived)

    async def _verify(self, sealed: Sealed, there: Found) -> Verdict:
        """Compare what the archive holds with what XNAT acknowledged."""
        delivery, session = sealed.delivery, sealed.delivery.session
        if there.problem is not None:
            return Held(delivery, there.problem)
        if not there.experiments:
            # XNAT's caches may lag behind its archive by a second.
            raise TransientError("the archived session cannot be found under its label and study")
        label = there.experiments[0].label
        uri = f"/data/archive/projects/{session.project}/subjects/{session.subject}/experiments/{label}"
        try:
            found = await compare(self._client, session, there.experiments, sealed.sop_uids, self._policy, self._rules)
        except (RefusedError, TransientError) as error:
            if isinstance(error, TransientError) and (error.unreachable or error.overload):
                raise
            # It is archived; that it could not be looked into is told apart, and `verify` can do it later.
            return Archived(delivery, uri, None)
        if leftover := sealed.refused & found.held:
            # A write that fails (a full disk, say) can leave a part of the file where the whole should be.
            return Held(
                delivery,
                f"the archive holds {len(leftover)} instances that XNAT refused, perhaps in part",
            )
        if not found.missing:
            return Archived(delivery, uri, found.verified)
        dropping = (await self._rules.of(session.project)).on_archive
        expected = f"{dropping} rejects files, and the archive does not hold this one" if dropping else None
        return Incomplete(delivery, uri, found.missing, expected)
