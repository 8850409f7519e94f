"""Look for what interrupted uploads have left in the prearchive."""

from functools import partial

import anyio.to_thread

from asyncimport.journal import JournalReader
from asyncimport.model.summary import Orphan
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.xnat.client import Client
from asyncimport.xnat.orphans import find_orphans


async def orphans_of(client: Client, reader: JournalReader) -> list[Orphan]:
    """Find the prearchive rows of our sessions that are no delivery of ours. Raises: TransientError, RefusedError."""
    deliveries = await anyio.to_thread.run_sync(partial(reader.deliveries, counts=False))
    source = (await anyio.to_thread.run_sync(reader.metadata)).get("source")
    # At the address of an archived or deleted delivery there is nothing, or a later row.
    live = {one.uri for one in deliveries if one.uri and one.state not in {"ARCHIVED", "DELETED"}}
    found: list[Orphan] = []
    for project in sorted({one.session.project for one in deliveries}):
        sessions = {one.session for one in deliveries if one.session.project == project}
        found += await find_orphans(client, project, sessions, live, RetryPolicy(), source)
    return found
