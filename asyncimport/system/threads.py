"""What blocks, in threads beside the loop."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")


@asynccontextmanager
async def opened_in_thread(make: Callable[[], AbstractContextManager[T]]) -> AsyncIterator[T]:
    """Make, enter and leave in worker threads what blocks: files that are opened, locked and closed."""
    with anyio.CancelScope(shield=True):
        # Else a lock that is had just then would not be given back.
        manager = await anyio.to_thread.run_sync(make)
        entered = await anyio.to_thread.run_sync(manager.__enter__)
    try:
        yield entered
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(manager.__exit__, None, None, None)
