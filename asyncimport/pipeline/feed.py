"""The feed stage: claim pending files and hand them to the workers in batches."""

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from asyncimport.model.deliveries import Claim
from asyncimport.model.events import Notice
from asyncimport.pipeline.context import Context, Wakeups

# A worker sends a batch file after file, because handing over costs time where files are small and the server is fast.
# Larger batches would leave workers idle at the end.
_BATCH_FILES = 8
_BATCH_BYTES = 4 << 20
_BATCH_SECONDS = 0.05
# Claim what is sent in this time, within bounds: a call of the journal costs the same for one file as for many.
_CLAIM_SECONDS = 0.15
_MIN_CLAIMED, _MAX_CLAIMED = 128, 512
# XNAT reads all rows of its prearchive for each file, so what cannot be archived yet is not sent yet. This many
# subjects a finalizer keep all finalizers busy.
_BACKLOG_PER_FINALIZER = 2


async def feed(context: Context, wakeups: Wakeups, batches: MemoryObjectSendStream[list[Claim]]) -> None:
    """Hand out pending files until the journal says that none will come any more."""
    throttle, options = context.throttle, context.options

    def claim_files() -> list[Claim] | None:
        # No more deliveries can begin at a time than there are slots.
        limit, pace = throttle.limit, throttle.seconds_per_call
        in_time = min(int(_CLAIM_SECONDS * limit / pace), _MAX_CLAIMED) if pace else 0
        files = max(_BATCH_FILES * limit, _MIN_CLAIMED, in_time)
        return context.journal.queue.claim(
            files,
            max_active=options.max_open_sessions,
            max_new=limit,
            max_backlog=backlog_of(context),
        )

    async with wakeups, batches:
        with context.stop.immediate_scope():
            await wait_for_leases(context)
            async for _ in wakeups:
                if not context.may_feed:
                    continue
                while claims := await context.call_journal(claim_files):
                    context.is_drained = False
                    files = files_per_batch(len(claims), throttle.limit, throttle.seconds_per_call)
                    # The first file of a delivery waits for several answers: meanwhile the others send the rest.
                    first = [[claim] for claim in claims if claim.delivery.uri is None]
                    rest = [claim for claim in claims if claim.delivery.uri is not None]
                    for batch in [*first, *split_batches(rest, files, _BATCH_BYTES)]:
                        await batches.send(batch)
                if claims is None:
                    return
                context.is_drained = context.has_scanned


def backlog_of(context: Context) -> int:
    """Return of how many subjects sessions may wait to be archived before others begin."""
    return _BACKLOG_PER_FINALIZER * context.finalizing.limit


async def wait_for_leases(context: Context) -> None:
    """Wait until no worker of an earlier run can send any more: it may have been given what is claimed next."""
    journal = context.journal
    if seconds := journal.leased_seconds:
        context.report(Notice(f"workers of an earlier run may still be sending: waiting {seconds:.0f} s for their end"))
        await anyio.sleep(seconds)
        await context.call_journal(journal.queue.forget_leases)


def files_per_batch(files: int, slots: int, seconds_per_file: float | None) -> int:
    """Return how many files go into a batch: 1 where the time for a file is not known."""
    in_time = int(_BATCH_SECONDS / seconds_per_file) if seconds_per_file else 1
    return max(1, min(_BATCH_FILES, -(-files // slots), in_time))


def split_batches(claims: list[Claim], max_files: int, max_bytes: int) -> list[list[Claim]]:
    """Divide claims into batches, in order, within both limits; a larger file has a batch of its own."""
    batches: list[list[Claim]] = []
    room = 0
    for claim in claims:
        size = claim.instance.file.size
        if not batches or len(batches[-1]) >= max_files or size > room:
            batches.append([])
            room = max_bytes
        batches[-1].append(claim)
        room -= size
    return batches
