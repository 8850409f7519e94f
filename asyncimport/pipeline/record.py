"""The record stage: write outcomes to the journal, many in one transaction."""

from functools import partial

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from asyncimport.model.deliveries import Outcome, Stored
from asyncimport.model.events import OutcomesRecorded
from asyncimport.pipeline.context import Context, Signal, Wakeups, notify, wait_for
from asyncimport.pipeline.outputs import Outcomes

# A transaction costs about the same for one outcome as for many: wait this long for more, and take no more beyond this
# many.
_SECONDS_BETWEEN_COMMITS = 0.02
_MAX_OUTCOMES = 512


async def record(
    context: Context,
    outcomes: MemoryObjectReceiveStream[Outcomes],
    flushes: Wakeups,
    wake_feed: Signal,
    wake_finalizers: Signal,
) -> None:
    """Record outcomes until the workers have ended; a flush ends the pause between two transactions."""

    async def commit(batch: list[Outcome]) -> None:
        # Shielded: nothing else holds what has been taken from the stream.
        with anyio.CancelScope(shield=True):
            failed = sum(not isinstance(outcome, Stored) for outcome in batch)
            throttle = context.throttle
            activity = context.meter.take(failed=failed, in_flight=throttle.in_flight, allowed=throttle.limit)
            complete = await context.call_journal(partial(context.journal.queue.record_outcomes, batch, activity))
        context.report(OutcomesRecorded(tuple(batch), activity))
        notify(wake_finalizers, complete)
        notify(wake_feed)

    async with outcomes, flushes, wake_feed, wake_finalizers:
        try:
            async for some in outcomes:
                await commit(_take_available(outcomes, some))
                await wait_for(flushes, _SECONDS_BETWEEN_COMMITS)
        finally:
            # When another stage has failed, what XNAT has acknowledged is still recorded.
            while rest := _take_available(outcomes, ()):
                await commit(rest)


def _take_available(stream: MemoryObjectReceiveStream[Outcomes], first: Outcomes) -> list[Outcome]:
    taken = [*first]
    try:
        while len(taken) < _MAX_OUTCOMES:
            taken += stream.receive_nowait()
    except (anyio.WouldBlock, anyio.EndOfStream, anyio.ClosedResourceError):
        pass
    return taken
