"""Brings a delivery into the archive, step by step: read its row and the archive, take the next step, read again.

It may run twice, or after a kill, and comes to the same end.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import anyio

from asyncimport.errors import RefusedError, TransientError
from asyncimport.model.addresses import labels_in_address
from asyncimport.model.deliveries import Archived, Built, Deleted, Delivery, Held, Incomplete, SealedDelivery, Verdict
from asyncimport.model.files import Session
from asyncimport.pacing.concurrency import both
from asyncimport.xnat.archive import UNKNOWN_WHICH, Archive, ArchivedSessions, Comparison, FoundSessions
from asyncimport.xnat.conflicts import ArchiveConflicts
from asyncimport.xnat.delivery_steps import Progress, Step, next_step
from asyncimport.xnat.prearchive import Prearchive
from asyncimport.xnat.replies.archive import Experiment
from asyncimport.xnat.replies.identity import row_conflict, session_conflict, subject_conflict
from asyncimport.xnat.replies.images import Row
from asyncimport.xnat.site import SiteRules

# What a person can do about a session that is not as it should be.
CLEAR_ROW = "archive, move or delete it in XNAT's prearchive, then"
RELABEL = "give this one another label, or rename that one, then `--retry held`"
_CORRECT = "correct it in XNAT, then `--retry held`"


def _new_surplus(sealed: SealedDelivery, comparison: Comparison) -> int:
    """Return how many more instances are new in the archive than were brought (negative: missing); 0: not counted."""
    if sealed.archived_before is None or sealed.expected_count is None:
        return 0
    brought = sealed.expected_count - len(sealed.archived_before)
    return len(comparison.digests.keys() - sealed.archived_before) - brought


def _too_few(delivery: Delivery, missing: int, uri: str) -> Held:
    return Held(delivery, f"the archive has too few instances ({missing:,} missing), {UNKNOWN_WHICH}", uri)


def _is_from_row(found: FoundSessions, delivery: Delivery) -> bool:
    """Whether all sessions were archived from the row of a delivery, by whomever."""
    # An archived session keeps the folder of the row that made it (xnat:imageSessionData/prearchivePath): timestamp and
    # name are those of the row's address. It does not keep those of rows that were merged into it later.
    place = (delivery.uri or "").split("/")[-2:]
    paths = [one.prearchive_path.replace("\\", "/").rstrip("/").split("/")[-2:] for one in found.experiments]
    return len(place) == 2 and all(path == place for path in paths)


def archive_address(session: Session, found: Experiment) -> str:
    """Return the address of an archived session, by its labels."""
    subject = found.subject or session.subject
    return f"/data/archive/projects/{session.project}/subjects/{subject}/experiments/{found.label}"


@dataclass(slots=True, kw_only=True)
class Finalizer:
    """Finalises deliveries; without `may_archive` they stay built. The other options are as of XnatDestination.

    `archived` lists the sessions of a project: a dry run asks it before all else.
    """

    archive: Archive
    prearchive: Prearchive
    conflicts: ArchiveConflicts
    archived: ArchivedSessions
    rules: SiteRules
    may_archive: bool
    overwrite: str
    source: str
    attempts: int
    patience: float
    first_pause: float
    sleep: Callable[[float], Awaitable[None]]

    async def finalize(self, sealed: SealedDelivery) -> Verdict:
        """Build, archive and verify a delivery; of an open one, tell what became of its row. Raises: TransientError."""
        delivery = sealed.delivery
        if sealed.is_archived:
            return await self._verify_again(sealed)
        progress = Progress()
        pause = self.first_pause
        give_up_time = anyio.current_time() + self.patience
        while True:
            progress.wait = pause
            try:
                verdict = await self._take_step(sealed, progress)
            except RefusedError as error:
                verdict = Held(delivery, await self._with_script(delivery, str(error)))
            if verdict is not None:
                return verdict
            if not progress.wait:
                continue
            if anyio.current_time() > give_up_time:
                return Held(delivery, "XNAT has not finished with the session in time")
            await self.sleep(progress.wait)
            pause = min(2 * pause, 30.0)

    async def _take_step(self, sealed: SealedDelivery, progress: Progress) -> Verdict | None:
        """Look where a delivery is, and take the next step; None: look again. Raises: TransientError, RefusedError."""
        delivery = sealed.delivery
        row = await self.prearchive.read_row(delivery.uri)
        found = await self._find(delivery, progress) if row is None else FoundSessions()
        step = next_step(row, is_archived=bool(found.experiments), has_begun=progress.has_begun)
        if step is Step.WAIT:
            return None
        if sealed.is_open and step in {Step.FINISH, Step.STUCK}:
            # XNAT makes a second row only if it does not find the first: somebody else made this one.
            return Held(delivery, "XNAT puts files of this study into a second row of the prearchive beside ours")
        if step is Step.STUCK:
            reason = progress.last_error or "XNAT could not archive the session and marked it in the prearchive"
            return Held(delivery, await self._with_script(delivery, reason))
        if row is not None:
            try:
                end = await self._try_to_finish(sealed, row, progress)
                if not isinstance(end, str):
                    return end
                found = await self._find(delivery, progress)
            except RefusedError:
                # XNAT answers 500 to the build of a row that is gone (PrearcSessionResource), as to one that failed.
                if await self._is_gone(delivery):
                    return None
                raise
        if found.experiments:
            return await self._verify(sealed, found, progress)
        # XNAT's caches may lag behind its archive by a second.
        progress.losses += 1
        if progress.losses < self.attempts:
            return None
        place = await self._find_elsewhere(delivery, sealed.sop_uids)
        return Deleted(delivery) if place is None else Held(delivery, place)

    async def _try_to_finish(self, sealed: SealedDelivery, row: Row, progress: Progress) -> Verdict | str | None:
        """Finish a row as `_finish` does; None: the next look shows what has come of it.

        Raises: TransientError after all attempts, RefusedError.
        """
        # If a proxy gave up on a build that has ended since, the session is not built again.
        is_built = progress.has_begun and row.status == "READY"
        progress.has_begun = True
        try:
            return await self._finish(sealed, row, progress, is_built=is_built)
        except TransientError as error:
            progress.last_error = str(error)
            progress.was_idle = error.idle and not progress.was_idle
            if progress.was_idle:
                progress.wait = 0.0
                return None
            progress.failures += 1
            if progress.failures >= self.attempts:
                raise
            progress.wait = max(progress.wait, error.retry_after or 0.0)
            return None

    async def _verify_again(self, sealed: SealedDelivery) -> Verdict:
        """Verify what an earlier run archived. Raises: TransientError."""
        delivery = sealed.delivery
        try:
            found = await self._find(delivery, Progress())
        except RefusedError as error:
            return Held(delivery, str(error))
        if not found.experiments:
            return Held(delivery, found.problem or "the session is not in the archive any more")
        return await self._verify(sealed, found, Progress())

    async def _verify(self, sealed: SealedDelivery, found: FoundSessions, progress: Progress) -> Verdict:
        """Compare what the archive has with what XNAT acknowledged. Raises: TransientError.

        Somebody may have deleted a row that is gone, and archived another of the same study. If nothing shows that the
        session is from this row, its UIDs prove nothing about the bytes.
        """
        delivery, session = sealed.delivery, sealed.delivery.session
        uri = archive_address(session, found.experiments[0])
        # What an earlier run archived was judged then.
        is_known = sealed.is_archived or progress.may_have_archived or progress.archive_uri is not None
        is_own = is_known or _is_from_row(found, delivery)
        comparison = None
        try:
            found, comparison = await self.archive.compare(
                session, found, sealed.sop_uids, sealed.expected_count, new_label=progress.new_label
            )
        except RefusedError:
            pass
        except TransientError as error:
            if error.unreachable or error.overload or error.may_have_taken_effect:
                raise
        if found.problem is not None:
            return Held(delivery, f"{found.problem}; {_CORRECT}", uri)
        if comparison is None:
            # It is archived, but could not be read: the next run tries again.
            return Archived(delivery, uri, None, origin_unknown=not is_own)
        return await self._judge(sealed, comparison, progress, uri, is_own=is_own)

    async def _judge(
        self, sealed: SealedDelivery, comparison: Comparison, progress: Progress, uri: str, *, is_own: bool
    ) -> Verdict:
        """Decide what a comparison proves; `is_own`: the session is from the delivery's row. Raises: TransientError."""
        delivery, digests, missing = sealed.delivery, comparison.digests, comparison.missing
        if refused := sealed.refused & digests.keys():
            # A write that fails, on a full disk say, can leave a part of a file.
            reason = f"the archive holds instances that XNAT refused, perhaps in part ({len(refused):,})"
            return Held(delivery, reason, uri)
        row_lacks = 0 if progress.row_files is None else max(0, sealed.acknowledged - progress.row_files)
        surplus = _new_surplus(sealed, comparison)
        if comparison.verified == "count" and (surplus < 0 or row_lacks):
            return _too_few(delivery, max(-surplus, row_lacks), uri)
        # Some may have replaced others: all UIDs are new, the row had all files, and no rule drops any.
        has_all = progress.row_files == sealed.acknowledged
        replaces = self.overwrite != "none" and has_all and not digests.keys() & sealed.sop_uids
        if comparison.missing_count and replaces and await self._script(delivery) == "":
            return Archived(
                delivery, uri, "count" if is_own else "present", holds=len(digests), origin_unknown=not is_own
            )
        if comparison.missing_count and not missing:
            return _too_few(delivery, comparison.missing_count, uri)
        # The archive had these UIDs before: only a row with all files proves that those sent again arrived.
        resent = sealed.resent if row_lacks > len(missing) else frozenset()
        if missing or resent:
            script = None if resent else await self._script(delivery)
            doubtful = missing if script else frozenset()
            return Incomplete(
                delivery, uri, missing, script or None, resent, doubtful=doubtful, origin_unknown=not is_own
            )
        return await self._judge_complete(sealed, comparison, progress, uri, is_own=is_own)

    async def _judge_complete(
        self, sealed: SealedDelivery, comparison: Comparison, progress: Progress, uri: str, *, is_own: bool
    ) -> Archived:
        """Decide how well it is proven that the archive has all that was sent. Raises: TransientError."""
        delivery, digests = sealed.delivery, comparison.digests
        # XNAT archived a row that had all files; a script that rejects some then leaves the earlier versions there.
        has_all = progress.row_files == sealed.acknowledged
        has_replaced = bool(sealed.resent) and has_all and progress.archive_uri is not None
        has_replaced = has_replaced and await self._script(delivery) == ""
        is_sure = is_own and sealed.presumed <= (sealed.resent if has_replaced else frozenset())
        if comparison.verified == "uids":
            # An interrupted attempt may have left a part of a file.
            others = frozenset(digests.keys() - sealed.sop_uids) if sealed.is_open else frozenset()
            verified, holds = "uids", None
        else:
            # Others' instances may make up the number, unless the archive has just what was in our row.
            is_sure = is_sure and _new_surplus(sealed, comparison) == 0 and has_all
            verified, holds, others = "count", len(digests), frozenset()
        return Archived(
            delivery,
            uri,
            verified if is_sure else "present",
            has_replaced,
            holds,
            unacknowledged=others,
            origin_unknown=not is_own,
            digests=digests,
        )

    async def _find(self, delivery: Delivery, progress: Progress) -> FoundSessions:
        return await self.archive.find_session(delivery.session, new_label=progress.new_label)

    async def _script(self, delivery: Delivery) -> str | None:
        """Name the script that may drop files when XNAT archives them; "" if there is none, None if that is unknown."""
        return (await self.rules.get(delivery.session.project)).on_archive

    async def _is_gone(self, delivery: Delivery) -> bool:
        try:
            return await self.prearchive.read_row(delivery.uri) is None
        except RefusedError:
            return False

    async def _with_script(self, delivery: Delivery, reason: str) -> str:
        """Add advice to the reason why a session was not archived, if a script may have rejected all of it."""
        script = await self._script(delivery) if "reject" in reason else None
        if not script:
            return reason
        advice = f"if {script} is meant to do so, delete {delivery.uri} in XNAT's prearchive, else change the script"
        return f"{reason}; {advice}; then run this again with `--retry held`"

    async def _finish(self, sealed: SealedDelivery, row: Row, progress: Progress, *, is_built: bool) -> Verdict | str:
        """Build and archive a row, note it in `progress`, and return XNAT's address of the archived session."""
        delivery, session = sealed.delivery, sealed.delivery.session
        if reason := row_conflict(row, delivery.row_session):
            return Held(delivery, f"{reason}; {CLEAR_ROW} `--retry held`")
        if not is_built:
            await self.prearchive.build(delivery)
        count = partial(self._count_files, sealed)
        progress.row_files, other = await both(count, partial(self._label_conflict, delivery))
        if reason := self._foreign_files(sealed, progress.row_files):
            return Held(delivery, f"{reason}; {CLEAR_ROW} `--retry held`")
        if not self.may_archive:
            return Built(delivery, f"/data{delivery.uri}")
        if reason := self._relabel_conflict(sealed, row, progress.row_files):
            return Held(delivery, f"{reason}; {CLEAR_ROW} `--retry held`")
        if other is not None:
            return Held(delivery, f"{other}; {RELABEL}")
        # A built row may have waited for long, and others may have archived the study meanwhile.
        if reason := await self.conflicts.study_conflict(session):
            return Held(delivery, f"{reason}, then `--retry held`")
        try:
            uri = progress.archive_uri = await self.prearchive.archive(delivery)
        except TransientError as error:
            progress.may_have_archived |= error.may_have_taken_effect
            raise
        labels = labels_in_address(uri)
        if labels is not None and (reason := subject_conflict(labels[0], session)):
            return Held(delivery, f"{reason}; {_CORRECT}", uri)
        return uri

    async def _count_files(self, sealed: SealedDelivery) -> int | None:
        return None if sealed.max_row_files is None else await self.prearchive.count_files(sealed.delivery.uri or "")

    def _foreign_files(self, sealed: SealedDelivery, row_files: int | None) -> str | None:
        """Say how many files in a built row are not from us; None if none are, or nobody has counted."""
        max_files = sealed.max_row_files
        if max_files is None or row_files is None:
            return None
        if self.overwrite != "none":
            # With --overwrite late files may replace those in the archive, whichever of our rows they were meant for.
            max_files = max(max_files, len(sealed.sop_uids))
        if row_files <= max_files:
            return None
        surplus, uri = row_files - max_files, sealed.delivery.uri
        return f"the prearchive holds more files than were sent there: {surplus:,} too many ({uri})"

    def _relabel_conflict(self, sealed: SealedDelivery, row: Row, row_files: int | None) -> str | None:
        """Say why a row may not be archived under other labels than its own; None if it may, or keeps its labels."""
        delivery = sealed.delivery
        if delivery.initial_session is None:
            return None
        is_ours = row.source in {None, self.source} and sealed.max_row_files is not None
        if is_ours and row_files is not None and row_files <= (sealed.max_row_files or 0):
            return None
        initial, session = delivery.initial_session, delivery.session
        return (
            f"its row was begun as subject {initial.subject}, session {initial.label}, and may hold more than was sent "
            f"from here, so it cannot become subject {session.subject}, session {session.label}"
        )

    async def _label_conflict(self, delivery: Delivery) -> str | None:
        """Say what else has the session's label in the archive, where XNAT would merge the two; None: nothing."""
        session = delivery.session
        if not self.may_archive:
            return None
        listed = await self.archive.list_labelled(session.project, [session.label], is_reliable=True)
        found = next((one for one in listed if one.label == session.label), None)
        if found is None:
            return None
        # A script may have changed the study UID of what an earlier delivery brought there.
        if delivery.number > 1 and (await self.rules.get(session.project)).maps_studies is not False:
            return subject_conflict(found.subject, session)
        return session_conflict(found, session)

    async def _find_elsewhere(self, delivery: Delivery, sent: frozenset[str]) -> str | None:
        """Say where a lost delivery is, by the SOPInstanceUIDs that were `sent`; None if somebody deleted it."""
        # A person may move a row to another project, which keeps its timestamp and name (PrearcSessionResource), or
        # archive it under another label. What this user may not see looks like deleted.
        session = delivery.session
        place = (delivery.uri or "").split("/")[-2:]
        try:
            rows = await self.prearchive.list_all()
        except RefusedError:
            rows = []
        for row in rows:
            is_same = row.uri.split("/")[-2:] == place and row.study_uid == session.study_uid
            if is_same and row.project != session.project:
                return (
                    f"somebody has moved it to project {row.project} in the prearchive; move it back or delete it "
                    "there, and run the same command with `--retry held`"
                )
        for other in await self.archive.list_study(session.project, session.study_uid):
            if sent & (await self.archive.read_session(other)).keys():
                return (
                    f"it is gone from the prearchive, and the archive has its files as session {other.label}; "
                    f"`asyncimport forget {session.label} --force` lets it begin anew"
                )
        return None
