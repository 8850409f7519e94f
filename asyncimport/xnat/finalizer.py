"""Brings a delivery into the archive, step by step: read its row and the archive, take the next step, read again.

It may run twice, or after a kill, and comes to the same end.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto

import anyio

from asyncimport.errors import RefusedError, TransientError
from asyncimport.model.addresses import labels_in_address
from asyncimport.model.deliveries import Built, Deleted, Delivery, Held, SealedDelivery, Verdict
from asyncimport.xnat.archive import Archive, ArchivedSessions, FoundSessions
from asyncimport.xnat.conflicts import ArchiveConflicts
from asyncimport.xnat.prearchive import Prearchive
from asyncimport.xnat.replies.identity import row_conflict, session_conflict, subject_conflict
from asyncimport.xnat.replies.images import Row
from asyncimport.xnat.site import SiteRules
from asyncimport.xnat.verification import CORRECT, Progress, verify

# What a person can do about a session that is not as it should be.
CLEAR_ROW = "archive, move or delete it in XNAT's prearchive, then"
RELABEL = "give this one another label, or rename that one, then `--retry held`"


class Step(Enum):
    """What to do next about a sealed delivery."""

    FINISH = auto()  # build it, then archive it
    WAIT = auto()  # XNAT is working on it
    VERIFY = auto()  # it is in the archive
    STUCK = auto()  # our attempt failed, and XNAT marked the row
    LOST = auto()  # it is in neither place


def next_step(row: Row | None, *, is_archived: bool, has_begun: bool) -> Step:
    """Decide by the prearchive row, the archive, and whether this run has begun to finish it."""
    if row is None:
        return Step.VERIFY if is_archived else Step.LOST
    if row.is_busy:
        return Step.WAIT
    if row.is_stuck and has_begun:
        return Step.STUCK
    return Step.FINISH


@dataclass(slots=True, kw_only=True)
class Finalizer:
    """Finalises deliveries. `archived` lists the sessions of a project; the other options are as of XnatDestination."""

    archive: Archive
    prearchive: Prearchive
    conflicts: ArchiveConflicts
    archived: ArchivedSessions
    rules: SiteRules
    archives: bool
    overwrite: str
    source: str
    attempts: int
    patience: float
    first_pause: float
    sleep: Callable[[float], Awaitable[None]]

    async def finalize(self, sealed: SealedDelivery) -> Verdict:
        """Build, archive and verify a delivery; of an open one, find out what has become of its row.

        Raises: TransientError if the server is away, or a step failed as often as any call may.
        """
        delivery = sealed.delivery
        if sealed.archived:
            return await self._verify_again(sealed)
        has_begun = was_idle = False
        failures = losses = 0
        last_error = ""
        progress = Progress()
        pause = self.first_pause
        give_up_time = anyio.current_time() + self.patience
        while True:
            wait, step = pause, Step.WAIT
            try:
                row = await self.prearchive.read_row(delivery.uri)
                found = await self._find(delivery, progress) if row is None else FoundSessions()
                step = next_step(row, is_archived=bool(found.experiments), has_begun=has_begun)
                if sealed.is_open and step in {Step.FINISH, Step.STUCK}:
                    # XNAT makes a second row only if it does not find the first: somebody else made this one.
                    return Held(
                        delivery, "XNAT puts files of this study into a second row of the prearchive beside ours"
                    )
                if step is Step.STUCK:
                    reason = last_error or "XNAT could not archive the session and marked it in the prearchive"
                    return Held(delivery, await self._with_script(delivery, reason))
                if row is not None and step is Step.FINISH:
                    # If a proxy gave up on a build that has ended since, the session is not built again.
                    is_built = has_begun and row.status == "READY"
                    has_begun = True
                    try:
                        end = await self._finish(sealed, row, progress, is_built=is_built)
                    except TransientError as error:
                        # The next look shows what has come of it.
                        last_error = str(error)
                        was_idle = error.idle and not was_idle
                        if was_idle:
                            continue
                        failures += 1
                        if failures >= self.attempts:
                            raise
                        wait = max(pause, error.retry_after or 0.0)
                    else:
                        if not isinstance(end, str):
                            return end
                        # XNAT's caches may lag behind its archive by a second.
                        found = await self._find(delivery, progress)
                        step = Step.LOST
                if found.experiments:
                    return await verify(self.archive, self.rules, sealed, found, progress, overwrite=self.overwrite)
                if step is Step.LOST:
                    losses += 1
                    if losses >= self.attempts:
                        place = await self._find_elsewhere(delivery, sealed.sop_uids)
                        return Deleted(delivery) if place is None else Held(delivery, place)
            except RefusedError as error:
                # XNAT answers 500 to the build of a row that is gone (PrearcSessionResource), as to one that failed.
                if step is not Step.FINISH or not await self._is_gone(delivery):
                    return Held(delivery, await self._with_script(delivery, str(error)))
            if anyio.current_time() > give_up_time:
                return Held(delivery, "XNAT has not finished with the session in time")
            await self.sleep(wait)
            pause = min(2 * pause, 30.0)

    async def _verify_again(self, sealed: SealedDelivery) -> Verdict:
        """Verify what an earlier run archived. Raises: TransientError."""
        delivery = sealed.delivery
        try:
            found = await self._find(delivery, Progress())
        except RefusedError as error:
            return Held(delivery, str(error))
        if not found.experiments:
            return Held(delivery, found.problem or "the session is not in the archive any more")
        return await verify(self.archive, self.rules, sealed, found, Progress(), overwrite=self.overwrite)

    async def _find(self, delivery: Delivery, progress: Progress) -> FoundSessions:
        return await self.archive.find_session(delivery.session, new_label=progress.new_label)

    async def _is_gone(self, delivery: Delivery) -> bool:
        try:
            return await self.prearchive.read_row(delivery.uri) is None
        except RefusedError:
            return False

    async def _with_script(self, delivery: Delivery, reason: str) -> str:
        """Add advice to the reason why a session was not archived, if a script may have rejected all of it."""
        script = (await self.rules.get(delivery.session.project)).on_archive if "reject" in reason else None
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
        if sealed.most_files is not None:
            progress.row_files = await self.prearchive.count_files(delivery.uri or "")
        if reason := self._surplus(sealed, progress.row_files):
            return Held(delivery, f"{reason}; {CLEAR_ROW} `--retry held`")
        if not self.archives:
            return Built(delivery, f"/data{delivery.uri}")
        if reason := self._relabel_conflict(sealed, row, progress.row_files):
            return Held(delivery, f"{reason}; {CLEAR_ROW} `--retry held`")
        if reason := await self._label_conflict(delivery):
            return Held(delivery, f"{reason}; {RELABEL}")
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
            return Held(delivery, f"{reason}; {CORRECT}", uri)
        return uri

    def _surplus(self, sealed: SealedDelivery, row_files: int | None) -> str | None:
        """Say how many files in a built row are not from us; None if none are, or nobody has counted."""
        max_files = sealed.most_files
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
        is_ours = row.source in {None, self.source} and sealed.most_files is not None
        if is_ours and row_files is not None and row_files <= (sealed.most_files or 0):
            return None
        initial, session = delivery.initial_session, delivery.session
        return (
            f"its row was begun as subject {initial.subject}, session {initial.label}, and may hold more than was sent "
            f"from here, so it cannot become subject {session.subject}, session {session.label}"
        )

    async def _label_conflict(self, delivery: Delivery) -> str | None:
        """Say what else has the session's label in the archive, where XNAT would merge the two; None: nothing."""
        session = delivery.session
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
