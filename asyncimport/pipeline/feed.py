"""The feed stage: claim pending files and hand them to the workers in batches."""

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from asyncimport.journal.demand import Demand
from asyncimport.model.deliveries import Claim
from asyncimport.model.events import Notice
from asyncimport.pacing.concurrency import Throttle
from asyncimport.pipeline.context import Context, Wakeups, wait_for

# A worker sends a batch file after file, because handing over costs time where files are small and the server is fast.
# Larger batches would leave workers idle at the end.
_BATCH_FILES = 8
_BATCH_BYTES = 4 << 20
_BATCH_SECONDS = 0.05
# Files that wait for a worker: what is sent in this time, within bounds. When half of them are gone, others are handed
# out, many at once: a call of the journal costs about the same for one file as for many. If more waited, files of open
# sessions would wait behind those of others.
_WAITING_SECONDS = 0.1
_MIN_WAITING, _MAX_WAITING = 4, 512
# How long a first file takes, before that has been measured: as long as this many others, because the archive is asked
# before it. Later: the usual time, with a margin as it varies, and the time until the next files of its session are
# handed out.
_FIRST_ROUNDS, _FIRST_MARGIN, _HAND_OUT_SECONDS = 4.0, 1.2, 0.05
# This many first files, or one for this many slots, may be under way to hide their time; more only to fill the slots.
_MIN_FIRSTS, _SLOTS_PER_FIRST = 3, 8
# XNAT reads all rows of its prearchive for each file, so what cannot be archived yet is not sent yet. This many
# subjects a finalizer keep all finalizers busy.
_BACKLOG_PER_FINALIZER = 2


async def feed(context: Context, wakeups: Wakeups, batches: MemoryObjectSendStream[list[Claim]]) -> None:
    """Hand out pending files until the journal says that none will come any more."""
    throttle, options, queue = context.throttle, context.options, context.journal.queue

    def claim_files() -> list[Claim] | None:
        return queue.claim(
            most_waiting(throttle) - context.waiting_files,
            max_active=options.max_open_sessions,
            demand=demand_of(
                throttle,
                queue.first_files.usual_seconds,
                under_way=throttle.in_flight + context.waiting_files,
                ahead=min(throttle.limit, most_waiting(throttle) // 2),
            ),
            max_backlog=backlog_of(context),
        )

    async with wakeups, batches:
        with context.stop.immediate_scope():
            await wait_for_leases(context)
            while await wait_for(wakeups, queue.seconds_to_late):
                while context.may_feed and context.waiting_files <= (low := most_waiting(throttle) // 2):
                    claims = await context.call_journal(claim_files)
                    if claims is None:
                        return
                    # Where there are none, only a change can bring others.
                    context.low_files = low if claims else -1
                    if not claims:
                        context.is_drained = context.has_scanned
                        break
                    context.is_drained = False
                    context.waiting_files += len(claims)
                    files = files_per_batch(len(claims), throttle.limit, throttle.seconds_per_call)
                    # The first file of a delivery waits for several answers: meanwhile others are sent.
                    first = [[claim] for claim in claims if claim.delivery.uri is None]
                    rest = [claim for claim in claims if claim.delivery.uri is not None]
                    for batch in [*first, *split_batches(rest, files, _BATCH_BYTES)]:
                        await batches.send(batch)


def most_waiting(throttle: Throttle) -> int:
    """Return how many files may wait for a worker."""
    pace = throttle.seconds_per_call
    in_time = int(_WAITING_SECONDS * throttle.limit / pace) if pace else 0
    return min(max(in_time, throttle.limit, _MIN_WAITING), _MAX_WAITING)


def demand_of(throttle: Throttle, first_seconds: float | None, *, under_way: int, ahead: int) -> Demand:
    """Return what keeps all slots in use, beside the files that are `under_way`.

    `first_seconds` is how long a first file takes until it is recorded, None if unknown. `ahead` is how many files are
    needed beyond the slots, so that those who send never wait for others to be handed out.
    """
    pace, limit = throttle.seconds_per_call, throttle.limit
    rounds = (_FIRST_MARGIN * first_seconds + _HAND_OUT_SECONDS) / pace if first_seconds and pace else _FIRST_ROUNDS
    return Demand(
        files=int(throttle.next_limit * (1 + rounds)) - under_way,
        now=limit + ahead - under_way,
        firsts=max(_MIN_FIRSTS, limit // _SLOTS_PER_FIRST),
    )


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
