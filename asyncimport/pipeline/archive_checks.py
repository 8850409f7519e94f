"""What the site is asked before a delivery is sent, or archived into another subject, and why it has dropped a file."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import anyio.to_thread

from asyncimport.dicom import Identity
from asyncimport.errors import RefusedError, SessionConflictError, TransientError
from asyncimport.model.deliveries import MAY_HAVE_REJECTED, Claim, Incomplete, SealedDelivery, Withheld
from asyncimport.model.events import SessionFound
from asyncimport.model.files import ArchivedPatient, File, Ignored, Session
from asyncimport.pacing.concurrency import Slot
from asyncimport.pipeline.context import Context, SendContext

T = TypeVar("T")
# Headers that are in memory at a time.
_HEADERS = 512


async def check_first_file(context: Context, claim: Claim, slot: Slot) -> SessionFound | Withheld | None:
    """Ask the archive about the session of the first file of a delivery; return None if the file is to be sent."""
    outcome = await find_existing(context, claim, slot) if claim.check_archive else None
    if outcome is None and claim.delivery.uri is None:
        outcome = await check_subject(context, claim, slot)
    return outcome


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
                context.slow_down(error.retry_after)
            # Release the slot during backoff.
            slot.release()
            raise

    return await context.outage.call(attempt, claim.key)


async def explain_empty_answer(context: SendContext, claim: Claim, attempt: int) -> None:
    """Explain an empty answer. Raises: RefusedError if a rule does, or may from attempt 2 on; TransientError."""
    headers = await _read_headers(context, [(claim.instance.sop_uid, claim.instance.file)])
    (dropped,) = await context.destination.find_drop_rules(claim.instance.session, headers, archived=False)
    if dropped is not None and dropped.is_certain:
        message = f"XNAT did not keep the file: {dropped.rule} rejects it (empty 200)"
        raise RefusedError(message, dropped=True) from None
    if dropped is not None and attempt > 1:
        raise RefusedError(f"XNAT did not keep the file: {dropped.rule} {MAY_HAVE_REJECTED} (empty 200)") from None


async def explain_missing(context: Context, verdict: Incomplete) -> Incomplete:
    """Tell apart what a script of the site has dropped, what it may have dropped, and what is lost."""
    delivery = verdict.delivery
    rejects, doubtful = set[str](), set(verdict.missing)
    files = await context.call_journal(partial(context.journal.deliveries.files_of, delivery, verdict.missing))
    for first in range(0, len(files), _HEADERS):
        part = files[first : first + _HEADERS]
        headers = await _read_headers(context, part)
        dropped = await context.destination.find_drop_rules(delivery.session, headers, archived=True)
        for (uid, _), rule in zip(part, dropped, strict=True):
            if rule is None or rule.is_certain:
                doubtful.remove(uid)
                rejects |= {uid} if rule is not None else set()
    return replace(verdict, rejects=frozenset(rejects), doubtful=frozenset(doubtful))


async def _read_headers(context: SendContext, files: Sequence[tuple[str, File]]) -> list[Mapping[str, str] | None]:
    """Return the header fields of instances (SOPInstanceUID and file); None where the file holds another, or none."""

    def identify() -> list[Identity | Ignored]:
        return [context.source.identify(file) for _, file in files]

    # The thread only reads.
    identities = await anyio.to_thread.run_sync(identify, abandon_on_cancel=True)
    return [
        identity.all_fields if isinstance(identity, Identity) and identity.sop_uid == uid else None
        for (uid, _), identity in zip(files, identities, strict=True)
    ]
