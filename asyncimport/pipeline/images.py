"""The line, from file to archived session.

    scan     walk -> recall what the journal knows -> look into the rest -> route, admit
    feed     claim what waits -> parcels, a bounded stream
    upload   read a parcel -> store each file, with retries, under the throttle -> outcomes     (x workers)
             before the first file of a session: what has the archive of it already?
    record   settle outcomes, as many as have come in
    finalize seal a delivery whose session is complete -> build, archive, verify -> close       (x finalizers)

The journal stands between the stages, so they need not know of each other. A stage that has changed something rings
a bell (a stream of one) for the stage that may now go on. Streams are closed by who writes into them; a stage ends
when its stream does, or when the journal says that nothing will ever come again.
"""

import hashlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio.abc import ObjectReceiveStream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from asyncimport.dicom import Identity
from asyncimport.errors import (
    NotKeptError,
    OccupiedError,
    RefusedError,
    SourceError,
    TransientError,
    UsageError,
    primary_error,
)
from asyncimport.journal import Admission, Journal, SopUidConflict
from asyncimport.model import (
    MAY_HAVE_REJECTED,
    Body,
    Claim,
    Failed,
    File,
    FileKind,
    Held,
    Ignored,
    Incomplete,
    Instance,
    Outcome,
    Postponed,
    Refusal,
    Refused,
    Sealed,
    Stored,
    Verdict,
    Withheld,
)
from asyncimport.model.events import (
    Admitted,
    Event,
    Found,
    Noticed,
    RetryScheduled,
    ScanFinished,
    Scanned,
    ServerUnavailable,
    Settled,
    Settling,
)
from asyncimport.model.options import Options
from asyncimport.model.ports import Destination, Routes, Source
from asyncimport.pacing.concurrency import Slot, Throttle
from asyncimport.pacing.outage import Outage, RetryBudget
from asyncimport.pacing.retry import RetryPolicy, retrying
from asyncimport.pacing.shutdown import Stop, StoppedError
from asyncimport.routing import LeftOutError, UnplannedError, UnroutableError, patient_of
from asyncimport.source.digests import xxh3_of

T = TypeVar("T")
_Bell = MemoryObjectSendStream[None]

# A parcel is sent one file after another by one worker. Handing over is what costs with small files and a quick server;
# parcels that take longer than this would leave workers idle at the end.
_PARCEL_FILES = 8
_PARCEL_BYTES = 4 << 20
_PARCEL_SECONDS = 0.05
# As many files as are claimed at a time, if there are, or what is sent in so many seconds, up to a bound: a call of the
# journal costs the same for one as for many.
_LEAST_CLAIMED, _MOST_CLAIMED = 128, 512
_CLAIMED_SECONDS = 0.15
# As many outcomes as may be settled in one transaction, and how many seconds the recorder lets them come together: a
# transaction costs about the same for one as for many.
_MOST_OUTCOMES = 512
_BETWEEN_SETTLEMENTS = 0.02
# Headers that are in memory at a time, when it is asked whether a script has dropped files.
_LOOKS = 512


async def run(
    source: Source,
    destination: Destination,
    journal: Journal,
    router: Routes,
    *,
    options: Options,
    policy: RetryPolicy | None = None,
    report: Callable[[Event], None] = lambda _: None,
    stop: Stop | None = None,
) -> None:
    """Move everything from source to destination; what became of it stands in the journal.

    Raises: FatalError (one, however many stages failed).
    """
    line = _Pipeline(
        source,
        destination,
        journal,
        router,
        options,
        policy or RetryPolicy(attempts=8),
        report,
        stop or Stop(),
    )
    work, work_bell = _bell()
    ready, ready_bell = _bell(options.finalizers)
    parcel_in, parcel_out = anyio.create_memory_object_stream[list[Claim]](options.workers)
    # What XNAT has acknowledged and a kill would send again: little of it, as a full stream ends the recorder's pause.
    outcome_in, outcome_out = anyio.create_memory_object_stream[Outcome](options.workers)
    full, full_bell = _bell()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(line.scan, work.clone(), ready.clone())
            tasks.start_soon(line.feed, work_bell, parcel_in)
            tasks.start_soon(line.record, outcome_out, full_bell, work.clone(), ready.clone())
            for _ in range(options.workers):
                tasks.start_soon(line.upload, parcel_out.clone(), outcome_in.clone(), full.clone(), work.clone())
            for _ in range(options.finalizers):
                tasks.start_soon(line.finalize, ready_bell.clone(), work.clone())
            for own in (work, ready, ready_bell, parcel_out, outcome_in, full):
                own.close()
    except BaseExceptionGroup as errors:
        raise primary_error(errors) from None


class _Pipeline:
    """The stages, and what they share."""

    def __init__(
        self,
        source: Source,
        destination: Destination,
        journal: Journal,
        router: Routes,
        options: Options,
        policy: RetryPolicy,
        report: Callable[[Event], None],
        stop: Stop,
    ) -> None:
        self._source = source
        self._destination = destination
        self._journal = journal
        self._router = router
        self._options = options
        self._policy = policy
        self._report = report
        self._stop = stop
        self._may_feed = not options.check_first
        self._has_scanned = self._is_drained = False
        self._throttle = Throttle(options.workers, adaptive=options.adaptive)
        self._budget = RetryBudget()
        self._outage = Outage(
            options.outage_timeout,
            ping=destination.ping,
            first=policy.first,
            clock=monotonic,
            sleep=stop.sleep,
            hold=self._throttle.overloaded,
            report=lambda reason: report(ServerUnavailable(reason)),
        )
        self._taking = anyio.Lock()
        self._turn = anyio.CapacityLimiter(1)
        self._place = ""

    async def scan(self, work: _Bell, ready: _Bell) -> None:
        options = self._options
        async with work, ready:
            with self._stop.at_once():
                # What an earlier run had sealed can be finalised at once.
                _ring(ready, options.finalizers)
                async for batch in self._source.batches():
                    await self._admit(batch)
                    if not options.check_first:
                        _ring(work)
                        if left := self._left(batch):
                            leave = partial(self._journal.scan.directory_done, left, partial=options.partial)
                            _ring(ready, await self._ask(leave))
                gone = await self._ask(
                    partial(
                        self._journal.scan.finish,
                        self._source.roots,
                        archive_built=options.archive,
                        retry_held=options.retry_held,
                        partial=options.partial,
                    )
                )
                if options.check_first and (collisions := await self._ask(self._journal.scan.collisions)):
                    raise UsageError(
                        f"nothing was sent, because {len(collisions)} problem(s) were found: {collisions[0][0]}",
                        hint="see them all with `asyncimport status`; correct the labels, or leave --check-first out",
                    )
                self._may_feed = self._has_scanned = True
                self._report(ScanFinished(gone.files, gone.unsent))
                _ring(ready, options.finalizers)
                _ring(work)

    def _left(self, batch: list[File | Ignored]) -> list[str]:
        """Return the directories, each with whole sessions all of its own, that the walk has left with this batch.

        Of several sources two may have the same session.
        """
        depth = self._router.session_depth
        if depth is None or len(self._source.places) > 1:
            return []
        left: list[str] = []
        for item in batch:
            path = (item if isinstance(item, File) else item.file).path
            below = self._source.relative(path)
            parts = below.split(os.sep, depth)
            place = path[: len(path) - len(parts[depth]) - 1] if len(parts) > depth else ""
            if place != self._place:
                left += [self._place] if self._place else []
                self._place = place
        return left

    async def _admit(self, batch: list[File | Ignored]) -> None:
        self._report(Scanned(len(batch), sum(item.size for item in batch if isinstance(item, File))))
        files = [item for item in batch if isinstance(item, File)]
        ignored = [item for item in batch if isinstance(item, Ignored)]
        options = self._options
        recall = partial(
            self._journal.scan.skip_known,
            retry_refused=options.retry_refused,
            resend_changed=options.resend_changed,
            is_filtered=options.is_filtered,
        )
        known = await self._ask(partial(recall, files))
        looks = await self._source.look(known.unknown)
        admit = partial(self._journal.scan.admit, resend_changed=options.resend_changed)

        def routed() -> Admission:
            return admit([*ignored, *map(self._routed, known.unknown, looks)])

        admissions = [known, await self._ask(routed)]
        proofs: dict[str, bool] = {}
        while conflicts := admissions[-1].conflicts:
            compared = await self._compared(conflicts, proofs)
            admissions.append(await self._ask(partial(admit, compared, proofs=proofs)))
        self._report(Admitted(sum(one.files for one in admissions), sum(one.size for one in admissions)))
        self._tell_notices()

    def _routed(self, file: File, identity: Identity | Ignored) -> Instance | Ignored:
        if isinstance(identity, Ignored):
            return identity
        truncated = identity.truncated if not self._options.send_truncated else None
        try:
            path = self._source.relative(file.path) if self._router.needs_path else ""
            session = self._router.route(identity.study_uid, identity.fields, path)
        except LeftOutError as error:
            if truncated and isinstance(error, UnplannedError):
                # A plan has no place for a study of which nothing is sound, and nobody has said to leave that out.
                return Ignored(file, FileKind.UNREADABLE, truncated, damaged=True)
            reason = f"study {identity.study_uid}: {error}"
            sop_uid = identity.sop_uid if error.session else None
            return Ignored(file, FileKind.EXCLUDED, reason, session=error.session, sop_uid=sop_uid)
        except UnroutableError as error:
            if truncated:
                return Ignored(file, FileKind.UNREADABLE, truncated, damaged=True)
            return Ignored(file, FileKind.SKIPPED, f"study {identity.study_uid}: {error}")
        if truncated:
            return Ignored(file, FileKind.UNREADABLE, truncated, session=session, sop_uid=identity.sop_uid)
        patient, modality = patient_of(identity.fields), identity.fields.get("Modality", "")
        return Instance(file, identity.sop_uid, identity.series_uid, session, patient, modality)

    async def _compared(self, conflicts: Sequence[SopUidConflict], proofs: dict[str, bool]) -> list[Instance | Ignored]:
        """Compare files with what was sent, which goes into the `proofs`, or with others that carry the instance."""
        compared: list[Instance | Ignored] = [
            await self._compare(conflict) for conflict in conflicts if conflict.sent is None
        ]
        sent = [(conflict.instance, conflict.sent) for conflict in conflicts if conflict.sent is not None]
        same = await self._source.have([(instance.file, digest) for instance, digest in sent])
        for (instance, _), is_same in zip(sent, same, strict=True):
            if is_same is None:
                reason = f"cannot be compared with what was sent of this instance ({instance.sop_uid})"
                compared.append(Ignored(instance.file, FileKind.UNREADABLE, reason))
            else:
                proofs[instance.file.path] = is_same
                compared.append(instance)
        return compared

    async def _compare(self, conflict: SopUidConflict) -> Ignored:
        file = conflict.instance.file
        same = await self._source.same_bytes(file.path, conflict.other)
        if same is None:
            reason = f"cannot be compared with another file of the same SOPInstanceUID ({conflict.instance.sop_uid})"
            return Ignored(file, FileKind.UNREADABLE, reason)
        if same:
            return Ignored(file, FileKind.DUPLICATE, "the same bytes as another file", conflict.key)
        return Ignored(
            file,
            FileKind.SKIPPED,
            f"another file has the same SOPInstanceUID ({conflict.instance.sop_uid}) and other bytes",
        )

    async def feed(self, work: ObjectReceiveStream[None], parcels: MemoryObjectSendStream[list[Claim]]) -> None:
        async with work, parcels:
            with self._stop.at_once():
                async for _ in work:
                    if not self._may_feed:
                        continue
                    while claims := await self._ask(self._claim):
                        self._is_drained = False
                        share = _share(len(claims), self._throttle.limit, self._throttle.pace)
                        # What begins a delivery waits for several answers: meanwhile the others send the rest.
                        first = [[claim] for claim in claims if claim.delivery.uri is None]
                        rest = [claim for claim in claims if claim.delivery.uri is not None]
                        for parcel in [*first, *_parcels(rest, share, _PARCEL_BYTES)]:
                            await parcels.send(parcel)
                    if claims is None:
                        return
                    self._is_drained = self._has_scanned

    def _claim(self) -> list[Claim] | None:
        # One first file for each slot is as much as can be on its way.
        limit, pace = self._throttle.limit, self._throttle.pace
        in_time = min(int(_CLAIMED_SECONDS * limit / pace), _MOST_CLAIMED) if pace else 0
        files = max(_PARCEL_FILES * limit, _LEAST_CLAIMED, in_time)
        return self._journal.queue.claim(files, max_active=self._options.max_open_sessions, max_new=limit)

    async def upload(
        self,
        parcels: MemoryObjectReceiveStream[list[Claim]],
        outcomes: MemoryObjectSendStream[Outcome],
        full: _Bell,
        work: _Bell,
    ) -> None:
        async with parcels, outcomes, full, work:
            with self._stop.after_grace(), suppress(StoppedError, anyio.EndOfStream):
                while True:
                    with self._throttle.slot() as slot:
                        # At most one worker holds a parcel while it waits for a slot.
                        async with self._taking:
                            parcel = await self._next(parcels, full)
                            await slot.turn()
                        await self._send_parcel(parcel, slot, outcomes, full, work)

    async def _next(self, parcels: MemoryObjectReceiveStream[list[Claim]], full: _Bell) -> list[Claim]:
        """Take a parcel. Raises: anyio.EndOfStream."""
        try:
            return parcels.receive_nowait()
        except anyio.WouldBlock:
            if self._is_drained:
                # What is sent last is settled at once: its session waits for nothing else.
                _ring(full)
            return await parcels.receive()

    async def _send_parcel(
        self, parcel: list[Claim], slot: Slot, outcomes: MemoryObjectSendStream[Outcome], full: _Bell, work: _Bell
    ) -> None:
        """Send files one after the other in one slot. Raises: StoppedError."""
        for claims in _parcels(parcel, _PARCEL_FILES, self._source.read_ahead):
            bodies = await self._source.read([claim.instance.file for claim in claims])
            digests = await self._digests(bodies)
            for claim, body, digest in zip(claims, bodies, digests, strict=True):
                if self._stop.requested:
                    raise StoppedError
                outcome = await self._look_up(claim, slot, work) if claim.look else None
                if outcome is None and claim.delivery.uri is None:
                    outcome = await self._meet(claim, slot)
                if not isinstance(outcome, Found):
                    await _hand_in(outcomes, outcome or await self._send(claim, body, digest, slot), full)

    async def _look_up(self, claim: Claim, slot: Slot, work: _Bell) -> Found | Withheld | None:
        """Ask the archive what it has of the session of a claim; None: nothing, and the claim is to be sent."""
        try:
            there = await self._asked(partial(self._destination.find, claim), claim, slot)
        except OccupiedError as error:
            return Withheld(claim, str(error))
        except (RefusedError, TransientError) as error:
            # No file is to blame, and each further one would have to ask the same.
            return Withheld(claim, f"the archive could not be asked for its session: {error}")
        if there is not None and there.label:
            is_taken = await self._ask(partial(self._journal.sessions.take_label, claim, there.label))
            self._tell_notices()
            if not is_taken:
                # `_meet` says where the study is, and what to do.
                return None
        adopted = await self._ask(partial(self._journal.existing.adopt, claim, there))
        if there is None or adopted is None:
            return None
        found = Found(claim, there.uri, adopted.files, adopted.size)
        self._report(found)
        _ring(work)
        return found

    async def _meet(self, claim: Claim, slot: Slot) -> Withheld | None:
        """See that the archive has nobody else in the subject of a claim; None: it is to be sent."""
        session = claim.instance.session
        try:
            occupants = await self._asked(partial(self._destination.occupants, session), claim, slot)
        except OccupiedError as error:
            return Withheld(claim, str(error))
        except (RefusedError, TransientError) as error:
            return Withheld(claim, f"the archive could not be asked who is in its subject: {error}")
        if not occupants:
            return None
        reason = await self._ask(partial(self._journal.sessions.check_occupants, session, occupants))
        self._tell_notices()
        return None if reason is None else Withheld(claim, reason)

    async def _meet_moved(self, sealed: Sealed) -> str | None:
        """Say why a session cannot go into a subject that it was not sent to; None: it can."""
        session = sealed.delivery.session
        occupants = await self._outage.call(partial(self._destination.occupants, session), sealed.delivery)
        reason = (
            await self._ask(partial(self._journal.sessions.check_occupants, session, occupants)) if occupants else None
        )
        self._tell_notices()
        return reason

    async def _asked(self, ask: Callable[[], Awaitable[T]], claim: Claim, slot: Slot) -> T:
        """Ask the archive something before a claim is sent. Raises: what `ask` raises."""

        async def attempt() -> T:
            await slot.turn()
            try:
                return await ask()
            except TransientError as error:
                if error.overload:
                    self._throttle.overloaded(error.retry_after)
                # Release the slot during backoff.
                slot.leave()
                raise

        return await self._outage.call(attempt, claim.key)

    def _tell_notices(self) -> None:
        for text in self._journal.sessions.take_notices():
            self._report(Noticed(text))

    async def _digests(self, bodies: Sequence[Body | SourceError]) -> list[bytes | None]:
        """Digest what is to be sent, if there will be receipts; large bodies are digested as they are read."""
        if not self._options.receipts:
            return [None] * len(bodies)
        return await anyio.to_thread.run_sync(
            lambda: [hashlib.sha256(body).digest() if isinstance(body, bytes) else None for body in bodies]
        )

    async def _send(self, claim: Claim, body: Body | SourceError, digest: bytes | None, slot: Slot) -> Outcome:
        if isinstance(body, SourceError):
            return Failed(claim, str(body), unreadable=True)
        trail = _Attempts([monotonic()])
        # Now, as what has just been read is at the processor's hand: later it takes five times as long.
        xxh3 = xxh3_of(body) if isinstance(body, bytes) else None

        async def attempt() -> str:
            await slot.turn()
            trail.attempts += 1
            try:
                try:
                    return await self._destination.store(claim, body)
                except NotKeptError:
                    await self._explain(claim, trail.attempts)
                    # Nothing is known that would drop it: it may have been a mishap.
                    raise
            except TransientError as error:
                self._failed(claim, error, trail)
                # Release the slot during backoff.
                slot.leave()
                raise

        try:
            try:
                uri = await retrying(attempt, self._policy, acquire=self._budget.acquire, sleep=self._stop.sleep)
            except TransientError as error:
                # Between the last two attempts of this file, has any other got through?
                if not self._outage.is_on(error, trail.times[-2]):
                    raise
                uri = await self._outage.wait_until_up(attempt, error, trail.times[0], claim.key)
        except SourceError as error:
            return Failed(
                claim,
                str(error),
                unreadable=True,
                attempts=trail.attempts,
                may_have_taken_effect=trail.may_have_taken_effect,
            )
        except (RefusedError, TransientError) as error:
            return _verdict(claim, error, trail)
        slot.succeeded(claim.instance.file.size)
        self._budget.succeeded()
        self._outage.succeeded()
        if not isinstance(body, bytes):
            xxh3 = body.xxh3
            digest = body.sha256 if self._options.receipts else digest
        merges = False if claim.look else None
        return Stored(claim, uri, trail.attempts, trail.may_have_taken_effect, digest, merges, xxh3)

    async def _explain(self, claim: Claim, attempt: int) -> None:
        """Say which rule of the site is why XNAT has kept nothing of a file, or may be, at the second attempt.

        Raises: RefusedError, TransientError.
        """
        headers = await self._headers([(claim.instance.sop_uid, claim.instance.file)])
        (dropped,) = await self._destination.explain(claim.instance.session, headers, archived=False)
        if dropped is not None and dropped.is_certain:
            message = f"XNAT did not keep the file: {dropped.rule} rejects it (empty 200)"
            raise RefusedError(message, dropped=True) from None
        if dropped is not None and attempt > 1:
            raise RefusedError(f"XNAT did not keep the file: {dropped.rule} {MAY_HAVE_REJECTED} (empty 200)") from None

    async def _headers(self, files: Sequence[tuple[str, File]]) -> list[Mapping[str, str] | None]:
        """Return the header fields of instances (SOPInstanceUIDs) in files; None where they cannot be read there."""

        def identify() -> list[Identity | Ignored]:
            return [self._source.identify(file) for _, file in files]

        # It only reads.
        looks = await anyio.to_thread.run_sync(identify, abandon_on_cancel=True)
        return [
            look.fields if isinstance(look, Identity) and look.sop_uid == uid else None
            for (uid, _), look in zip(files, looks, strict=True)
        ]

    def _failed(self, claim: Claim, error: TransientError, trail: "_Attempts") -> None:
        trail.times.append(monotonic())
        trail.may_have_taken_effect |= error.may_have_taken_effect
        if error.blames_file:
            self._outage.blamed(claim.key)
        self._report(RetryScheduled(str(error), claim, trail.attempts))
        if error.overload:
            self._throttle.overloaded(error.retry_after)

    async def record(
        self,
        outcomes: MemoryObjectReceiveStream[Outcome],
        full: ObjectReceiveStream[None],
        work: _Bell,
        ready: _Bell,
    ) -> None:
        async with outcomes, full, work, ready:
            try:
                async for outcome in outcomes:
                    await self._settle([outcome, *_at_hand(outcomes)], work, ready)
                    await _heard(full, _BETWEEN_SETTLEMENTS)
            finally:
                # When another stage has failed, what XNAT acknowledged up to now is still worth keeping.
                while rest := _at_hand(outcomes):
                    await self._settle(rest, work, ready)

    async def _settle(self, batch: list[Outcome], work: _Bell, ready: _Bell) -> None:
        # Shielded, because what has been taken from the stream stands nowhere else.
        with anyio.CancelScope(shield=True):
            complete = await self._ask(partial(self._journal.queue.record_outcomes, batch))
        self._report(Settled(tuple(batch)))
        _ring(ready, complete)
        _ring(work)

    async def finalize(self, ready: ObjectReceiveStream[None], work: _Bell) -> None:
        claim = partial(self._journal.deliveries.claim, settle_seconds=self._options.settle_seconds)
        async with ready, work:
            with self._stop.at_once():
                listening = True
                while listening:
                    found = await self._ask(claim)
                    if isinstance(found, float):
                        self._report(Settling(found))
                    if not isinstance(found, Sealed):
                        listening = await _heard(ready, found)
                        continue
                    try:
                        verdict = await self._finalized(found)
                    except StoppedError:
                        # It stays sealed, and the next run finalises it.
                        return
                    self._report(await self._ask(partial(self._journal.deliveries.close, verdict)))
                    _ring(work)

    async def _finalized(self, sealed: Sealed) -> Verdict:
        try:
            if sealed.expected is None and not (sealed.archived or sealed.is_open):
                look = partial(self._destination.held_before, sealed.delivery.session)
                before = await self._outage.call(look, sealed.delivery)
                if before is not None:
                    sealed = await self._ask(partial(self._journal.deliveries.expect, sealed, before))
            if sealed.delivery.begun_as is not None and (reason := await self._meet_moved(sealed)):
                return Held(sealed.delivery, reason)
            verdict = await self._outage.call(partial(self._destination.finalize, sealed), sealed.delivery)
            if isinstance(verdict, Incomplete) and verdict.script is not None:
                verdict = await self._outage.call(partial(self._explained, verdict), sealed.delivery)
        except RefusedError as error:
            return Held(sealed.delivery, str(error))
        except TransientError as error:
            # Others get through meanwhile. That is no verdict on the session.
            return Postponed(sealed.delivery, str(error))
        return verdict

    async def _explained(self, verdict: Incomplete) -> Incomplete:
        """Tell apart what a script of the site has dropped, what it may have dropped, and what is lost."""
        delivery = verdict.delivery
        rejects, doubtful = set[str](), set(verdict.missing)
        files = await self._ask(partial(self._journal.deliveries.files_of, delivery, verdict.missing))
        for first in range(0, len(files), _LOOKS):
            part = files[first : first + _LOOKS]
            headers = await self._headers(part)
            dropped = await self._destination.explain(delivery.session, headers, archived=True)
            for (uid, _), why in zip(part, dropped, strict=True):
                if why is None or why.is_certain:
                    doubtful.remove(uid)
                    rejects |= {uid} if why is not None else set()
        return replace(verdict, rejects=frozenset(rejects), doubtful=frozenset(doubtful))

    async def _ask(self, method: Callable[[], T]) -> T:
        """Call the journal in a worker thread, one call at a time."""
        return await anyio.to_thread.run_sync(method, limiter=self._turn)


@dataclass(slots=True)
class _Attempts:
    """What came of one file on its way: its attempts, when it began and each of them failed, and if one broke off."""

    times: list[float]
    attempts: int = 0
    may_have_taken_effect: bool = False


def _verdict(claim: Claim, error: RefusedError | TransientError, trail: _Attempts) -> Refused | Failed | Withheld:
    """Judge a file that was not stored, by the last error and those before it."""
    if isinstance(error, OccupiedError):
        return Withheld(claim, str(error), trail.attempts, trail.may_have_taken_effect)
    reason, never_reached_xnat, whole_session, second_row = str(error), False, False, False
    if isinstance(error, RefusedError):
        never_reached_xnat, whole_session, second_row = error.never_reached_xnat, error.whole_session, error.second_row
    else:
        reason = f"{error}, {trail.attempts} times"
        if not error.is_file_verdict:
            return Failed(claim, reason, attempts=trail.attempts, may_have_taken_effect=trail.may_have_taken_effect)
    if trail.may_have_taken_effect and not (never_reached_xnat or whole_session):
        # XNAT keeps what came of a body that broke off. Dropped files are left out of a session that is archived all
        # the same, and this one would be in it, in part.
        return Failed(
            claim, f"{reason}, after an attempt that broke off", attempts=trail.attempts, may_have_taken_effect=True
        )
    return Refused(claim, reason, whole_session, trail.attempts, trail.may_have_taken_effect, _kind(error), second_row)


def _kind(error: RefusedError | TransientError) -> Refusal:
    """Say whose doing a refusal is: a rule's of the site, the server's at the moment, or the file's."""
    if isinstance(error, RefusedError):
        return Refusal.DROPPED if error.dropped else Refusal.SERVER if error.by_state else Refusal.FILE
    # XNAT says of sound files too that it cannot read them, when its disk is full, say; and this one was read by us.
    return Refusal.SERVER if error.blames_file else Refusal.FILE


def _bell(places: int = 1) -> tuple[_Bell, MemoryObjectReceiveStream[None]]:
    return anyio.create_memory_object_stream[None](places)


def _ring(bell: _Bell, times: int = 1) -> None:
    """Wake who listens; a ring that is still unheard stands for this one too, and nobody may be left to hear it."""
    try:
        for _ in range(times):
            bell.send_nowait(None)
    except (anyio.WouldBlock, anyio.BrokenResourceError):
        pass


async def _heard(bell: ObjectReceiveStream[None], longest: float | None) -> bool:
    """Wait for a ring, `longest` seconds at most; False when there will be none any more."""
    with anyio.move_on_after(longest):
        try:
            await bell.receive()
        except anyio.EndOfStream:
            return False
    return True


async def _hand_in(outcomes: MemoryObjectSendStream[Outcome], outcome: Outcome, full: _Bell) -> None:
    """Pass an outcome on, also when this stage has been cancelled meanwhile: XNAT has the file.

    The recorder takes all there is before it ends; if it has failed, that is what ends the run.
    """
    try:
        outcomes.send_nowait(outcome)
    except anyio.BrokenResourceError:
        pass
    except anyio.WouldBlock:
        _ring(full)
        with suppress(anyio.BrokenResourceError), anyio.CancelScope(shield=True):
            await outcomes.send(outcome)


def _at_hand(outcomes: MemoryObjectReceiveStream[Outcome]) -> list[Outcome]:
    """Take what has come in, without waiting."""
    taken: list[Outcome] = []
    try:
        while len(taken) < _MOST_OUTCOMES:
            taken.append(outcomes.receive_nowait())
    except (anyio.WouldBlock, anyio.EndOfStream, anyio.ClosedResourceError):
        pass
    return taken


def _share(claims: int, slots: int, pace: float | None) -> int:
    """Return how many files of so many go into a parcel, by the seconds that one takes; unknown, they may be many."""
    in_time = int(_PARCEL_SECONDS / pace) if pace else 1
    return max(1, min(_PARCEL_FILES, -(-claims // slots), in_time))


def _parcels(claims: list[Claim], most: int, most_bytes: int) -> list[list[Claim]]:
    """Divide claims into parcels, in order, of so many files and bytes at most, but of one at least."""
    parcels: list[list[Claim]] = []
    room = 0
    for claim in claims:
        size = claim.instance.file.size
        if not parcels or len(parcels[-1]) >= most or size > room:
            parcels.append([])
            room = most_bytes
        parcels[-1].append(claim)
        room -= size
    return parcels
