"""XNAT as the destination of images: store one file, finalise one delivery.

`store` asks once; whoever calls it repeats. `finalize` is reconciling: look at what XNAT has, take the next step,
look again. It may run twice, or after a kill, and must come to the same end.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache, partial
from typing import TypeVar
from urllib.parse import quote, unquote

import anyio
import anyio.to_thread
from yarl import URL

from asyncimport.errors import RefusedError, SessionConflictError, TransientError
from asyncimport.model import (
    Archived,
    ArchivedContent,
    ArchivedPatient,
    Body,
    Built,
    Claim,
    Deleted,
    Delivery,
    Dropped,
    Held,
    Incomplete,
    SealedDelivery,
    Session,
    Verdict,
)
from asyncimport.model.addresses import OUR_SOURCE, labels_in_address
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.xnat.archive import (
    NOBODY_KNOWS_WHICH,
    ArchivedSessions,
    Comparison,
    Found,
    find_and_compare,
    find_experiment,
    find_session,
    held_of_session,
)
from asyncimport.xnat.body import send
from asyncimport.xnat.client import Client
from asyncimport.xnat.deadlines import time_limit
from asyncimport.xnat.occupants import Occupants
from asyncimport.xnat.prearchive import PrearchiveRows
from asyncimport.xnat.replies.archive import Experiment
from asyncimport.xnat.replies.identity import row_conflict, session_conflict, subject_conflict
from asyncimport.xnat.replies.images import (
    Row,
    check_build,
    parse_archive_uri,
    parse_file_count,
    parse_import_uri,
    parse_row,
)
from asyncimport.xnat.replies.response import Reply
from asyncimport.xnat.site import SiteRules, explain_drop
from asyncimport.xnat.whereabouts import why_not_here

T = TypeVar("T")

_DICOM = {"Content-Type": "application/dicom"}
# What a person can do about a session that is not what it should be.
_CLEAR_AWAY = "archive, move or delete it in XNAT's prearchive, then"
_WAIT = "let that upload end, or"
_ADOPT = "; `--adopt-rows` fills it all the same"
_OTHER_LABEL = "give this one another label, or rename that one, then `--retry held`"
_MOVE_IT = "correct it in XNAT, then `--retry held`"


class Step(Enum):
    """What to do next about a sealed delivery."""

    FINISH = auto()  # build, then archive
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


class XnatDestination:
    """The destination of a run.

    `overwrite` ("append", "delete" or "none") goes to the archive step, and so do `trigger_pipelines` (None: as XNAT is
    set up) and `event_reason`, which sites with an audit trail ask for. `patience` is how many seconds XNAT may be
    at work on one session; `first_pause` how long to wait before the second look at it (pauses double up to 30 s).
    `source` is what prearchive rows of this journal, and of no other, name as theirs; only those are filled, or with
    `adopt_rows` those of other journals too.
    """

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
    ) -> None:
        self._client = client
        self._archive = archive
        self._overwrite = overwrite
        self._manners = "" if trigger_pipelines is None else f"&triggerPipelines={str(trigger_pipelines).lower()}"
        self._manners += f"&event_reason={quote(event_reason, safe='')}" if event_reason else ""
        self._source = source
        self._adopt_rows = adopt_rows
        self._policy = policy or RetryPolicy()
        self._patience = patience
        self._first_pause = first_pause
        self._sleep = sleep
        self._import_url = lru_cache(maxsize=1024)(self._make_import_url)
        self._rules = SiteRules(client, self._policy)
        self._rows = PrearchiveRows(client)
        self._occupants = Occupants(client, ArchivedSessions(client, self._policy), self._rules, self._policy)

    def _make_import_url(self, session: Session) -> URL:
        """Return the address that imports into this session.

        `rename`: files get names from their UIDs, so that parallel files do not collide and a repeated file
        overwrites itself. `prevent_auto_commit` keeps XNAT's idle builder from taking half a session
        (SessionXMLRebuilder), and `SOURCE` tells whose row it is; both are read from whichever file makes the row,
        hence on all of them. `PROJECT_ID`, as `project` is ignored.
        """
        return self._client.url(
            "/data/services/import?import-handler=gradual-DICOM&inbody=true"
            f"&PROJECT_ID={quote(session.project)}&SUBJECT_ID={quote(session.subject)}"
            f"&EXPT_LABEL={quote(session.label)}&rename=true&prevent_auto_commit=true"
            f"&SOURCE={quote(self._source)}"
        )

    async def store(self, claim: Claim, body: Body) -> str:
        """Import one file, once, and return the prearchive URI it went to.

        Before the first file of a delivery it looks for a row that somebody else has begun, and after it at the row
        that the file went to. Raises: TransientError, NothingStoredError, SessionConflictError, RefusedError,
        SourceError when the file is not what was scanned.
        """
        begins = claim.delivery.uri is None
        if begins:
            await self._look_before(claim.delivery.row_session)
        uri = await self._import(claim, body)
        if begins:
            await self._look_after(claim.delivery, uri)
        return uri

    async def _look_before(self, session: Session) -> None:
        """See that no row stands where the session would go, or one that it may go into.

        Raises: SessionConflictError, TransientError.
        """
        for row in await self._rows.of(session):
            if reason := self._other_row(row, session):
                raise SessionConflictError(reason)
            if row.is_busy:
                raise TransientError(f"XNAT is at work on a prearchive session of this study ({row.status})")

    async def _look_after(self, delivery: Delivery, uri: str) -> None:
        """See that the row of the first file is as it should be: it may have been begun in the same moment.

        Raises: SessionConflictError, TransientError.
        """
        try:
            row = await self._look(uri)
        except RefusedError:
            # Without the right to look it will be held when it is to be finished.
            return
        if row is not None and (
            reason := self._other_row(row, delivery.row_session, ", and a file from here is in it")
        ):
            raise SessionConflictError(reason)

    def _other_row(self, row: Row, session: Session, more: str = "") -> str | None:
        """Say why a session does not go into a row that it has not begun, and what to do about it; None: it may."""
        reason = row_conflict(row, session, None if self._adopt_rows else self._source)
        if reason is None:
            return None
        if row_conflict(row, session) is None:
            return f"{reason}{more}; {_WAIT} {_CLEAR_AWAY} run this again{_ADOPT}"
        return f"{reason}{more}; {_CLEAR_AWAY} run this again"

    async def find_drop_rules(
        self, session: Session, headers: Sequence[Mapping[str, str] | None], *, archived: bool
    ) -> list[Dropped | None]:
        """Tell of files by their header fields which rule drops each as it comes in, or as it is archived; None: none.

        Fields that are None are not known. Raises: TransientError.
        """
        found = await self._rules.get(session.project)
        rules = found.archive_rules if archived else found.import_rules
        # Patterns of the site take their time, each in bounds.
        return await anyio.to_thread.run_sync(lambda: [explain_drop(rules, fields) for fields in headers])

    async def ping(self) -> bool:
        """Tell whether XNAT answers at all."""
        return await self._client.ping()

    async def find_existing(self, claim: Claim) -> ArchivedContent | None:
        """Tell what the archive has of the session of a claim already; None: nothing.

        Where a script gives instances new UIDs nobody can tell which it has: they are sent only if they may take the
        place of what is there. Raises: SessionConflictError, TransientError.
        """
        session = claim.instance.session
        there = await find_session(self._client, session, self._policy, self._rules)
        if there.problem is not None:
            raise SessionConflictError(f"{there.problem}; {_OTHER_LABEL}")
        label = ""
        if not there.experiments:
            elsewhere = await self._occupants.session_of_study(session)
            if elsewhere is None:
                return None
            there, label = Found((elsewhere,)), elsewhere.label
        held = await held_of_session(self._client, session, there.experiments, frozenset(), self._policy)
        is_first = claim.delivery.number == 1
        hidden = held and is_first and claim.instance.sop_uid not in held and self._overwrite == "none"
        if hidden and (await self._rules.get(session.project)).maps_instances:
            raise SessionConflictError(
                "the archive has this session already, and a script gives instances new UIDs, so nobody can tell which "
                "of them; `--overwrite append --retry held` sends all, in the place of what is there"
            )
        kind = there.experiments[0].type
        if len(there.experiments) > 1 or await self._rules.merges_modalities():
            kind = ""
        return ArchivedContent(_address(session, there.experiments[0]), frozenset(held), kind, label)

    async def archived_patients(self, session: Session) -> Sequence[ArchivedPatient]:
        """Tell whom the archived sessions of the subject of a session name: one listing of a project serves for all.

        Raises: SessionConflictError when a label of the session is the ID of something else, TransientError.
        """
        return await self._occupants.of(session)

    async def archived_uids(self, session: Session) -> frozenset[str] | None:
        """Tell what the archive holds of a session, where a script gives instances new UIDs; None: none does.

        Raises: TransientError, RefusedError.
        """
        if not (await self._rules.get(session.project)).maps_instances:
            return None
        there = await find_session(self._client, session, self._policy, self._rules)
        # What is not ours will hold the delivery.
        return frozenset(await held_of_session(self._client, session, there.experiments, frozenset(), self._policy))

    async def _import(self, claim: Claim, body: Body) -> str:
        session = claim.delivery.row_session
        url = self._import_url(session)
        read = partial(parse_import_uri, project=session.project, expected=claim.delivery.uri)
        return await send(self._client, "POST", url, body, read, _DICOM)

    async def finalize(self, sealed: SealedDelivery) -> Verdict:
        """Build, archive and verify one delivery; of one that is open, find out what has become of its row.

        Raises: TransientError when the server is away, or a step failed as often as any other call may.
        """
        delivery = sealed.delivery
        if sealed.archived:
            return await self._look_again(sealed)
        asked = was_idle = False
        failures = lost = 0
        trouble = ""
        steps = Steps()
        pause = self._first_pause
        give_up = anyio.current_time() + self._patience
        while True:
            wait, step = pause, Step.WAIT
            try:
                row = await self._look(delivery.uri)
                found = await self._find(delivery, steps) if row is None else Found()
                step = next_step(row, archived=bool(found.experiments), asked=asked)
                if sealed.is_open and step in {Step.FINISH, Step.STUCK}:
                    # XNAT makes a second row only where it does not find the first one: somebody else has made this.
                    return Held(
                        delivery, "XNAT puts files of this study into a second row of the prearchive beside ours"
                    )
                if step is Step.STUCK:
                    reason = trouble or "XNAT could not archive the session and marked it in the prearchive"
                    return Held(delivery, await self._with_script(delivery, reason))
                if row is not None and step is Step.FINISH:
                    # A build that a proxy did not wait for has come to its end: not again, or it never would.
                    is_built = asked and row.status == "READY"
                    asked = True
                    try:
                        end = await self._finish(sealed, row, steps, is_built=is_built)
                    except TransientError as error:
                        # What it came to is seen when it is looked at again.
                        trouble = str(error)
                        was_idle = error.idle and not was_idle
                        if was_idle:
                            continue
                        failures += 1
                        if failures >= self._policy.attempts:
                            raise
                        wait = max(pause, error.retry_after or 0.0)
                    else:
                        if not isinstance(end, str):
                            return end
                        # XNAT's caches may lag behind its archive by a second.
                        found = await self._find(delivery, steps)
                        step = Step.LOST
                if found.experiments:
                    return await self._verify(sealed, found, steps)
                if step is Step.LOST:
                    lost += 1
                    if lost >= self._policy.attempts:
                        why = await why_not_here(self._client, delivery, sealed.sop_uids, self._policy)
                        return Deleted(delivery) if why is None else Held(delivery, why)
            except RefusedError as error:
                # XNAT answers 500 to the build of a row that is gone (PrearcSessionResource), as to one that failed.
                if step is not Step.FINISH or not await self._is_gone(delivery):
                    return Held(delivery, await self._with_script(delivery, str(error)))
            if anyio.current_time() > give_up:
                return Held(delivery, "XNAT has not finished with the session in time")
            await self._sleep(wait)
            pause = min(2 * pause, 30.0)

    async def _look_again(self, sealed: SealedDelivery) -> Verdict:
        """Verify what an earlier run archived. Raises: TransientError."""
        delivery = sealed.delivery
        try:
            there = await self._find(delivery, Steps())
        except RefusedError as error:
            return Held(delivery, str(error))
        if not there.experiments:
            return Held(delivery, there.problem or "the session is not in the archive any more")
        return await self._verify(sealed, there, Steps())

    async def _look(self, uri: str | None) -> Row | None:
        return await self._client.request("GET", f"/data{uri}?format=json", parse_row, self._policy)

    async def _is_gone(self, delivery: Delivery) -> bool:
        try:
            return await self._look(delivery.uri) is None
        except RefusedError:
            return False

    async def _with_script(self, delivery: Delivery, reason: str) -> str:
        """Say more of why a session was not archived, where a script that rejects files may have left none of it."""
        script = (await self._rules.get(delivery.session.project)).on_archive if "reject" in reason else None
        if not script:
            return reason
        ways = f"if {script} is to do so, delete {delivery.uri} in XNAT's prearchive, else change it"
        return f"{reason}; {ways}; then run this again with `--retry held`"

    async def _find(self, delivery: Delivery, steps: "Steps") -> Found:
        """Look for the session in the archive."""
        return await find_session(self._client, delivery.session, self._policy, self._rules, named=steps.named)

    async def _finish(self, sealed: SealedDelivery, row: Row, steps: "Steps", *, is_built: bool) -> Verdict | str:
        """Take the row to its end, and return the address that XNAT gives it in the archive.

        What is seen of it on the way is noted in `steps`.
        `build`, and not `commit`: that archives by itself on auto-archive projects, where the session may be meant to
        stay, without `overwrite`, and before anybody has looked at what it holds. The archive step works on all.
        """
        delivery, session = sealed.delivery, sealed.delivery.session
        if reason := row_conflict(row, delivery.row_session):
            return Held(delivery, f"{reason}; {_CLEAR_AWAY} `--retry held`")
        if not is_built:
            await self._build(delivery)
        if sealed.most_files is not None:
            steps.row_files = await self._count_files(delivery.uri or "")
        if reason := self._surplus(sealed, steps.row_files):
            return Held(delivery, f"{reason}; {_CLEAR_AWAY} `--retry held`")
        if not self._archive:
            return Built(delivery, f"/data{delivery.uri}")
        if reason := self._not_ours(sealed, row, steps.row_files):
            return Held(delivery, f"{reason}; {_CLEAR_AWAY} `--retry held`")
        if reason := await self._in_the_way(delivery):
            return Held(delivery, f"{reason}; {_OTHER_LABEL}")
        # What was built may have waited for long, and others have brought the study meanwhile.
        if reason := await self._occupants.study_elsewhere(session):
            return Held(delivery, f"{reason}, then `--retry held`")
        try:
            uri = steps.answer = await self._move(delivery)
        except TransientError as error:
            steps.asked |= error.may_have_taken_effect
            raise
        there = labels_in_address(uri)
        if there is not None and (reason := subject_conflict(there[0], session)):
            return Held(delivery, f"{reason}; {_MOVE_IT}", uri)
        return uri

    async def _build(self, delivery: Delivery) -> None:
        """Have a row built. Raises: TransientError, RefusedError."""
        await self._ask_for(f"/data{delivery.uri}?action=build&SOURCE={OUR_SOURCE}{self._manners}", check_build)

    async def _count_files(self, uri: str) -> int | None:
        """Return how many files the document of a row names; None without one. Raises: TransientError, RefusedError."""
        return await self._client.request("GET", f"/data{uri}/resources?format=json", parse_file_count, self._policy)

    async def _move(self, delivery: Delivery) -> str:
        """Have a built row archived, and return its address there. Raises: TransientError, RefusedError."""
        session = delivery.session
        overwrite = "" if self._overwrite == "none" else f"&overwrite={self._overwrite}"
        # Which outweigh the row's own (PrearcSessionArchiver.fixSubject, fixSessionLabel).
        names = (
            ""
            if delivery.initial_session is None
            else f"&subject={quote(session.subject)}&session={quote(session.label)}"
        )
        path = f"/data/services/archive?src={quote(delivery.uri or '')}{names}{overwrite}{self._manners}"
        return await self._ask_for(path, parse_archive_uri)

    async def _ask_for(self, path: str, read: Callable[[Reply], T]) -> T:
        """Ask XNAT, once, for something that takes its time."""
        with time_limit(self._client.timeouts.stall + self._client.timeouts.reply):
            return await self._client.call("POST", self._client.url(path), read)

    def _surplus(self, sealed: SealedDelivery, found: int | None) -> str | None:
        """Say how many files of a built row did not come from us; None where all did, or nobody has counted them."""
        uri, most = sealed.delivery.uri, sealed.most_files
        if most is None or found is None:
            return None
        if self._overwrite != "none":
            # Who asks for it lets files that came late take their place, whichever row of ours they were meant for.
            most = max(most, len(sealed.sop_uids))
        if found <= most:
            return None
        return f"the prearchive holds more files than were sent there: {found - most:,} too many ({uri})"

    def _not_ours(self, sealed: SealedDelivery, row: Row, found: int | None) -> str | None:
        """Say why a row may not be archived under other labels than its own; None: it is wholly ours, or has ours."""
        delivery = sealed.delivery
        if delivery.initial_session is None:
            return None
        is_ours = row.source in {None, self._source} and sealed.most_files is not None
        if is_ours and found is not None and found <= (sealed.most_files or 0):
            return None
        begun, session = delivery.initial_session, delivery.session
        return (
            f"its row was begun as subject {begun.subject}, session {begun.label}, and is not known to hold only what "
            f"was sent from here, so it cannot become subject {session.subject}, session {session.label}"
        )

    async def _in_the_way(self, delivery: Delivery) -> str | None:
        """Say what has the label in the archive, if it is not this session: XNAT would merge the two by the label."""
        session = delivery.session
        there = await find_experiment(self._client, session, self._policy, any_study=True)
        if there is None:
            return None
        # A script may have mapped the study of what an earlier delivery has brought there.
        if delivery.number > 1 and (await self._rules.get(session.project)).maps_studies is not False:
            return subject_conflict(there.subject, session)
        return session_conflict(there, session)

    async def _verify(self, sealed: SealedDelivery, there: Found, steps: "Steps") -> Verdict:
        """Compare what the archive holds with what XNAT acknowledged.

        A row that is gone may have been deleted, and another of the same study archived. If nothing shows that it is
        this one's, its UIDs prove nothing of the bytes.
        """
        delivery, session, row_files = sealed.delivery, sealed.delivery.session, steps.row_files
        uri = _address(session, there.experiments[0])
        # Of what an earlier run has archived it was seen then.
        own = sealed.archived or steps.has_archived or _is_of_row(there, delivery)
        try:
            there, found = await find_and_compare(
                self._client,
                session,
                there,
                sealed.sop_uids,
                self._policy,
                self._rules,
                sealed.expected,
                named=steps.named,
            )
        except (RefusedError, TransientError) as error:
            if isinstance(error, TransientError) and (
                error.unreachable or error.overload or error.may_have_taken_effect
            ):
                raise
            found = None
        if there.problem is not None:
            return Held(delivery, f"{there.problem}; {_MOVE_IT}", uri)
        if found is None:
            # It is archived; that it could not be looked into is told apart, and the next run looks again.
            return Archived(delivery, uri, None, unproven=not own)
        if leftover := sealed.refused & found.held.keys():
            # A write that fails (a full disk, say) can leave a part of the file where the whole should be.
            return Held(
                delivery,
                f"the archive holds {len(leftover)} instances that XNAT refused, perhaps in part",
            )
        new = _is_new(sealed, found)
        if found.verified == "count" and (new < 0 or (row_files is not None and row_files < sealed.files)):
            short = max(-new, sealed.files - (sealed.files if row_files is None else row_files))
            return Held(delivery, f"the archive has {short} instances too few, {NOBODY_KNOWS_WHICH}", uri)
        if found.short and await self._have_taken_places(sealed, found.held, row_files):
            return Archived(delivery, uri, "count" if own else "present", holds=len(found.held), unproven=not own)
        if found.short and not found.missing:
            return Held(delivery, f"the archive has {found.short} instances too few, {NOBODY_KNOWS_WHICH}", uri)
        # Their UIDs were there before: that the row had all files is what tells of those that were sent again.
        lost = sealed.files - row_files if sealed.resent and row_files is not None else 0
        resent = sealed.resent if lost > len(found.missing) else frozenset()
        if not found.missing and not resent:
            proven = bool(sealed.resent) and row_files == sealed.files and steps.answer is not None
            # A script that rejects files as they are archived leaves the earlier versions there.
            proven = proven and (await self._rules.get(session.project)).on_archive == ""
            is_sure = own and sealed.presumed <= (sealed.resent if proven else frozenset())
            if found.verified == "uids":
                # An attempt that broke off may have left a part of a file there.
                others = frozenset(found.held.keys() - sealed.sop_uids) if sealed.is_open else frozenset()
                verified = "uids" if is_sure else "present"
                return Archived(
                    delivery, uri, verified, proven, unacknowledged=others, unproven=not own, digests=found.held
                )
            # The number may be made up by others': of what is in the archive that was in our row all, and no more.
            is_sure = is_sure and new == 0 and row_files == sealed.files
            verified = "count" if is_sure else "present"
            return Archived(delivery, uri, verified, proven, len(found.held), unproven=not own, digests=found.held)
        dropping = (await self._rules.get(session.project)).on_archive if not resent else None
        doubtful = found.missing if dropping else frozenset()
        return Incomplete(delivery, uri, found.missing, dropping or None, resent, doubtful=doubtful, unproven=not own)

    async def _have_taken_places(self, sealed: SealedDelivery, held: Mapping[str, str], row_files: int | None) -> bool:
        """Whether fewer instances than were added up may be all of them: some have taken the place of others.

        All have new UIDs then, their row had all files, and nothing drops any in the archive.
        """
        if self._overwrite == "none" or row_files != sealed.files or held.keys() & sealed.sop_uids:
            return False
        return (await self._rules.get(sealed.delivery.session.project)).on_archive == ""


@dataclass(slots=True)
class Steps:
    """What this run has seen of a delivery on its way into the archive.

    `row_files` is how many files its row held when it was built; None: nobody has counted. `answer` is where XNAT says
    that it has archived it; `asked`: it was asked to, and may have done so, though the answer was lost.
    """

    row_files: int | None = None
    asked: bool = False
    answer: str | None = None

    @property
    def has_archived(self) -> bool:
        """Whether it was this run that had the row archived."""
        return self.asked or self.answer is not None

    @property
    def named(self) -> str | None:
        """The label that XNAT says it has given the session."""
        return unquote(self.answer.rpartition("/")[2]) if self.answer else None


def _is_new(sealed: SealedDelivery, found: Comparison) -> int:
    """Return how many more instances are new in the archive than the delivery has brought there; 0: nobody counted.

    Less than 0: so many lack, whatever the number of all says.
    """
    if sealed.archived_before is None or sealed.expected is None:
        return 0
    return len(found.held.keys() - sealed.archived_before) - (sealed.expected - len(sealed.archived_before))


def _is_of_row(there: Found, delivery: Delivery) -> bool:
    """Whether sessions were archived from the row of a delivery, whoever did it.

    An archived session keeps the folder of the row that made it (xnat:imageSessionData/prearchivePath): timestamp and
    name are those of the row's address. Of rows that were merged into it later nothing is left.
    """
    place = (delivery.uri or "").split("/")[-2:]
    paths = [one.prearchive_path.replace("\\", "/").rstrip("/").split("/")[-2:] for one in there.experiments]
    return len(place) == 2 and all(path == place for path in paths)


def _address(session: Session, there: Experiment) -> str:
    subject = there.subject or session.subject
    return f"/data/archive/projects/{session.project}/subjects/{subject}/experiments/{there.label}"
