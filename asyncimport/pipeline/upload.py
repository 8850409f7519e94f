"""The upload stage: workers that read batches and store each file, with retries, within the limit of the throttle."""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

import anyio
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream

from asyncimport.errors import NothingStoredError, RefusedError, SessionConflictError, SourceError, TransientError
from asyncimport.model.deliveries import Claim, Failed, Outcome, Refused, Stored, Withheld
from asyncimport.model.events import RetryScheduled, SessionFound
from asyncimport.model.files import Body
from asyncimport.model.states import Refusal
from asyncimport.pacing.concurrency import Slot
from asyncimport.pacing.outage import RetryBudget
from asyncimport.pacing.retry import call_with_retries
from asyncimport.pacing.shutdown import StoppedError
from asyncimport.pipeline.archive_checks import explain_empty_answer
from asyncimport.pipeline.batches import Batch, Batches
from asyncimport.pipeline.context import SendContext, notify
from asyncimport.pipeline.feed import split_batches
from asyncimport.pipeline.outputs import UploadOutputs
from asyncimport.pipeline.sending import FileSender
from asyncimport.source.bytes_on_disk import xxh3_of


@dataclass(slots=True)
class Attempts:
    """The attempts to send one file: `times` (seconds) holds when the first began and when each failed."""

    times: list[float]
    count: int = 0
    may_have_taken_effect: bool = False


Check = Callable[[Claim, Slot], Awaitable[SessionFound | Withheld | None]]
"""Returns why the first file of a delivery is not sent; None if it is."""


class Uploader:
    """What the workers share; each of them is one `run`. `check` is called for the first file of each delivery."""

    def __init__(self, context: SendContext, check: Check) -> None:
        self._context = context
        self._check = check
        self._budget = RetryBudget()
        self._batch_lock = anyio.Lock()
        self._batches = Batches()

    async def run(self, batches: MemoryObjectReceiveStream[list[Claim]], outputs: UploadOutputs) -> None:
        """Send batches until there are none any more."""
        context = self._context
        with batches, outputs, context.stop.grace_scope(), suppress(StoppedError, anyio.EndOfStream):
            while True:
                with context.throttle.slot() as slot:
                    # At most one worker holds a batch while it waits for a slot.
                    async with self._batch_lock:
                        batch = await self._next_batch(batches, outputs)
                        await slot.wait_turn()
                    await self._send_batch(batch, slot, outputs)

    async def _next_batch(self, batches: MemoryObjectReceiveStream[list[Claim]], outputs: UploadOutputs) -> list[Claim]:
        """Take a batch. Raises: anyio.EndOfStream."""
        context, batch = self._context, list[Claim]()
        while not batch:
            if late := self._batches.take_late():
                return late
            try:
                batch = batches.receive_nowait()
            except anyio.WouldBlock:
                if context.is_drained:
                    # The last outcomes are recorded at once: their sessions wait for nothing else.
                    notify(outputs.flush)
                with anyio.move_on_after(self._batches.seconds_to_late()):
                    batch = await batches.receive()
        context.waiting_files -= len(batch)
        if context.waiting_files <= context.low_files:
            notify(outputs.wake_feed)
        return batch

    async def _send_batch(self, files: list[Claim], slot: Slot, outputs: UploadOutputs) -> None:
        """Send files one after another in one slot, unless others take them. Raises: StoppedError."""
        context, batch = self._context, Batch(files)
        for claims in split_batches(files, len(files), context.source.read_ahead):
            context.load.reading += 1
            try:
                bodies = await context.source.read([claim.instance.file for claim in claims])
            finally:
                context.load.reading -= 1
            digests = await self._digests(bodies)
            for claim, body, digest in zip(claims, bodies, digests, strict=True):
                if context.stop.requested:
                    raise StoppedError
                if not self._batches.begin_next(batch):
                    return
                is_first = claim.check_archive or claim.delivery.uri is None
                outcome = await self._check(claim, slot) if is_first else None
                if isinstance(outcome, SessionFound):
                    notify(outputs.wake_feed)
                else:
                    await outputs.record([outcome or await self._send(claim, body, digest, slot)])

    async def _digests(self, bodies: Sequence[Body | SourceError]) -> list[bytes | None]:
        """Return the SHA-256 of each body if it is wanted; large bodies are digested as they are read."""
        if not self._context.options.digests:
            return [None] * len(bodies)
        return await anyio.to_thread.run_sync(
            lambda: [hashlib.sha256(body).digest() if isinstance(body, bytes) else None for body in bodies]
        )

    async def _send(self, claim: Claim, body: Body | SourceError, digest: bytes | None, slot: Slot) -> Outcome:
        if isinstance(body, SourceError):
            return Failed(claim, str(body), unreadable=True, may_be_elsewhere=body.may_be_elsewhere)
        context, attempts, sender = self._context, Attempts([monotonic()]), FileSender(self._context, claim, body)
        # Now, while the body is in the processor's cache: later it takes five times as long.
        xxh3 = xxh3_of(body) if isinstance(body, bytes) else None
        try:
            uri = await self._store(claim, sender, attempts, slot)
        except (SourceError, RefusedError, TransientError) as error:
            attempts.may_have_taken_effect |= sender.may_have_left_part
            return judge(claim, error, attempts)
        seconds = slot.record_success(
            sender.sent_size, is_zip=sender.zip_size is not None, link_seconds=context.destination.link_seconds
        )
        context.meter.record_upload(seconds, claim.instance.file.size)
        self._budget.record_success()
        context.outage.record_success()
        if not isinstance(body, bytes):
            xxh3 = body.xxh3
            digest = body.sha256 if context.options.digests else digest
        return Stored(
            claim,
            uri,
            attempts=attempts.count,
            may_have_taken_effect=attempts.may_have_taken_effect,
            sha256=digest,
            # The archive was asked before, and has nothing that others brought there.
            merges=False if claim.check_archive else None,
            xxh3=xxh3,
            zip_size=sender.zip_size,
            seconds=seconds,
        )

    async def _store(self, claim: Claim, sender: FileSender, attempts: Attempts, slot: Slot) -> str:
        """Store a file, with retries and through outages; return the address of its row.

        Raises: SourceError, RefusedError, TransientError after all attempts.
        """
        context = self._context

        async def attempt() -> str:
            await slot.wait_turn()
            attempts.count += 1
            try:
                try:
                    return await sender.store(attempts.count)
                except NothingStoredError:
                    await explain_empty_answer(context, claim, attempts.count)
                    # No known rule drops it: this may have been a mishap.
                    raise
            except TransientError as error:
                self._note_failure(claim, error, attempts)
                # Release the slot during backoff.
                slot.release()
                raise

        try:
            return await call_with_retries(
                attempt, context.policy, acquire=self._budget.acquire, sleep=context.stop.sleep
            )
        except TransientError as error:
            # Did any other file get through between the last two attempts of this one?
            if not context.outage.is_on(error, attempts.times[-2]):
                raise
            return await context.outage.wait_until_up(attempt, error, attempts.times[0], claim.key)

    def _note_failure(self, claim: Claim, error: TransientError, attempts: Attempts) -> None:
        context = self._context
        attempts.times.append(monotonic())
        attempts.may_have_taken_effect |= error.may_have_taken_effect
        if error.blames_file:
            context.outage.record_rejected_file(claim.key)
        context.report(RetryScheduled(str(error), claim, attempts.count))
        context.meter.record_retry()
        if error.overload:
            context.slow_down(error.retry_after)


def judge(
    claim: Claim, error: SourceError | RefusedError | TransientError, attempts: Attempts
) -> Refused | Failed | Withheld:
    """Return the outcome of a file that was not stored."""
    count, may_have_taken_effect = attempts.count, attempts.may_have_taken_effect
    if isinstance(error, SourceError):
        effect = attempts.may_have_taken_effect or error.may_have_taken_effect
        return Failed(claim, str(error), unreadable=True, attempts=count, may_have_taken_effect=effect)
    if isinstance(error, SessionConflictError):
        return Withheld(claim, str(error), count, may_have_taken_effect)
    reason, never_reached_xnat, whole_session, second_row = str(error), False, False, False
    if isinstance(error, RefusedError):
        never_reached_xnat, whole_session, second_row = error.never_reached_xnat, error.whole_session, error.second_row
    else:
        reason = f"{error}, {count} times"
        if not error.is_file_verdict:
            return Failed(claim, reason, attempts=count, may_have_taken_effect=may_have_taken_effect)
    if may_have_taken_effect and not (never_reached_xnat or whole_session):
        # XNAT keeps what arrived of an interrupted body. A session is archived without dropped files, and would hold
        # a part of this one.
        reason = f"{reason}, after an attempt that broke off"
        return Failed(claim, reason, attempts=count, may_have_taken_effect=True)
    return Refused(
        claim,
        reason,
        whole_session=whole_session,
        attempts=count,
        may_have_taken_effect=may_have_taken_effect,
        kind=_kind(error),
        second_row=second_row,
    )


def _kind(error: RefusedError | TransientError) -> Refusal:
    if isinstance(error, RefusedError):
        return Refusal.DROPPED if error.dropped else Refusal.SERVER if error.blames_server else Refusal.FILE
    # XNAT also says that it cannot read a sound file, for example when its disk is full. We have read this one.
    return Refusal.SERVER if error.blames_file else Refusal.FILE
