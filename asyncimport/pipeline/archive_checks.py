"""What the archive is asked before a delivery is sent, or archived into another subject."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from asyncimport.errors import RefusedError, SessionConflictError, TransientError
from asyncimport.model.deliveries import Claim, SealedDelivery, Withheld
from asyncimport.model.events import SessionFound
from asyncimport.model.files import ArchivedPatient, Session
from asyncimport.pacing.concurrency import Slot
from asyncimport.pipeline.context import Context

T = TypeVar("T")


async def find_existing(context: Context, claim: Claim, slot: Slot) -> SessionFound | Withheld | None:
    """Adopt what the archive has of a claim's session; return None if the claim is to be sent."""
    journal = context.journal
    try:
        existing = await _call(context, partial(context.destination.find_existing, claim), claim, slot)
    except SessionConflictError as error:
        return Withheld(claim, str(error))
    except (RefusedError, TransientError) as error:
        # This is not the file's fault, and each further file would have to ask the same.
        return Withheld(claim, f"the archive could not be asked for its session: {error}")
    if existing is not None and existing.label:
        is_taken = await context.call_journal(partial(journal.sessions.take_label, claim, existing.label))
        context.report_notices()
        if not is_taken:
            # `check_subject` says where the study is, and what to do.
            return None
    adopted = await context.call_journal(partial(journal.existing.adopt, claim, existing))
    if existing is None or adopted is None:
        return None
    found = SessionFound(claim, existing.uri, adopted.files, adopted.size)
    context.report(found)
    return found


async def check_subject(context: Context, claim: Claim, slot: Slot) -> Withheld | None:
    """Withhold a claim if the archive has another patient in its subject; return None if it is to be sent."""
    session = claim.instance.session
    try:
        occupants = await _call(context, partial(context.destination.archived_patients, session), claim, slot)
    except SessionConflictError as error:
        return Withheld(claim, str(error))
    except (RefusedError, TransientError) as error:
        return Withheld(claim, f"the archive could not be asked who is in its subject: {error}")
    reason = await _rejection_reason(context, session, occupants)
    return None if reason is None else Withheld(claim, reason)


async def check_new_subject(context: Context, sealed: SealedDelivery) -> str | None:
    """Return why a delivery that began under other labels must not go into its new subject; None: it may."""
    session = sealed.delivery.session
    occupants = await context.outage.call(partial(context.destination.archived_patients, session), sealed.delivery)
    return await _rejection_reason(context, session, occupants)


async def _rejection_reason(context: Context, session: Session, occupants: Sequence[ArchivedPatient]) -> str | None:
    if not occupants:
        return None
    reason = await context.call_journal(partial(context.journal.sessions.check_archived_patients, session, occupants))
    context.report_notices()
    return reason


async def _call(context: Context, call: Callable[[], Awaitable[T]], claim: Claim, slot: Slot) -> T:
    """Call the archive in a slot, and wait for a server that is away. Raises: what `call` raises."""

    async def attempt() -> T:
        await slot.wait_turn()
        try:
            return await call()
        except TransientError as error:
            if error.overload:
                context.throttle.slow_down(error.retry_after)
            # Release the slot during backoff.
            slot.release()
            raise

    return await context.outage.call(attempt, claim.key)
