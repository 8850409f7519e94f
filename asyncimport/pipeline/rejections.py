"""Which rule of the site dropped a file: asked when XNAT kept nothing of it, or the archive lacks it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import anyio.to_thread

from asyncimport.dicom import Identity
from asyncimport.errors import RefusedError
from asyncimport.model.deliveries import MAY_HAVE_REJECTED, Claim, Incomplete
from asyncimport.model.files import File, Ignored
from asyncimport.pipeline.context import Context

# Headers that are in memory at a time.
_HEADERS = 512


async def explain_empty_answer(context: Context, claim: Claim, attempt: int) -> None:
    """Return if no rule explains an empty answer to a file; a possible rule counts from the second attempt on.

    Raises: RefusedError if a rule does, TransientError.
    """
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


async def _read_headers(context: Context, files: Sequence[tuple[str, File]]) -> list[Mapping[str, str] | None]:
    """Return the header fields of instances (SOPInstanceUID and file); None where the file holds another, or none."""

    def identify() -> list[Identity | Ignored]:
        return [context.source.identify(file) for _, file in files]

    # The thread only reads.
    identities = await anyio.to_thread.run_sync(identify, abandon_on_cancel=True)
    return [
        identity.fields if isinstance(identity, Identity) and identity.sop_uid == uid else None
        for (uid, _), identity in zip(files, identities, strict=True)
    ]
