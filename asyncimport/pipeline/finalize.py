"""The finalize stage: seal complete sessions, and build, archive and verify them."""

from functools import partial
from time import monotonic

from asyncimport.errors import RefusedError, TransientError
from asyncimport.model.deliveries import Archived, Built, Held, Incomplete, Postponed, SealedDelivery, Verdict
from asyncimport.model.events import Settling
from asyncimport.pacing.shutdown import StoppedError
from asyncimport.pipeline.archive_checks import check_new_subject, explain_missing
from asyncimport.pipeline.context import Context, Signal, Wakeups, notify, wait_for


async def finalize(context: Context, wakeups: Wakeups, wake_feed: Signal) -> None:
    """Finalise one session at a time, until no further one can become complete."""
    deliveries = context.journal.deliveries
    claim = partial(deliveries.claim, settle_seconds=context.options.settle_seconds)
    async with wakeups, wake_feed:
        with context.stop.immediate_scope():
            may_wake = True
            while may_wake:
                async with context.finalizing.slot() as slot:
                    claimed = await context.call_journal(claim)
                    if isinstance(claimed, SealedDelivery):
                        try:
                            verdict = await _finalize(context, claimed)
                        except StoppedError:
                            # The delivery stays sealed, and the next run finalises it.
                            return
                        context.report(await context.call_journal(partial(deliveries.record_verdict, verdict)))
                        notify(wake_feed)
                        if isinstance(verdict, Archived | Built):
                            slot.record_success(claimed.acknowledged)
                        continue
                # It may have found a session that is no longer ready, and the feed may have waited for nothing else.
                notify(wake_feed)
                # Each finalizer finds the same delivery, whenever it looks for work.
                if isinstance(claimed, float) and (until := monotonic() + claimed) > context.settles_at + 1:
                    context.settles_at = until
                    context.report(Settling(claimed))
                may_wake = await wait_for(wakeups, claimed)


async def _finalize(context: Context, sealed: SealedDelivery) -> Verdict:
    destination, delivery = context.destination, sealed.delivery
    try:
        if sealed.expected_count is None and not (sealed.is_archived or sealed.is_open):
            held_before = partial(destination.archived_uids, delivery.session)
            before = await context.outage.call(held_before, delivery)
            if before is not None:
                sealed = await context.call_journal(
                    partial(context.journal.deliveries.record_archived_before, sealed, before)
                )
        if delivery.initial_session is not None and (reason := await check_new_subject(context, sealed)):
            return Held(delivery, reason)
        verdict = await context.outage.call(partial(destination.finalize, sealed), delivery)
        if isinstance(verdict, Incomplete) and verdict.script is not None:
            verdict = await context.outage.call(partial(explain_missing, context, verdict), delivery)
    except RefusedError as error:
        return Held(delivery, str(error))
    except TransientError as error:
        # Other calls get through meanwhile, so this is no verdict on the session.
        return Postponed(delivery, str(error))
    if isinstance(verdict, Incomplete) and (verdict.missing != verdict.rejects or verdict.resent):
        # XNAT may have named files of zips alike. What is sent again goes as it is.
        context.end_zips("the archive lacks files that XNAT acknowledged")
    return verdict
