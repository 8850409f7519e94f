"""Blocking context managers, used from the event loop."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")


@asynccontextmanager
async def opened_in_thread(make: Callable[[], AbstractContextManager[T]]) -> AsyncIterator[T]:
    """Create, enter and exit a blocking context manager, such as a locked file, in worker threads."""
    with anyio.CancelScope(shield=True):
        # A cancellation here would leave a lock that was just acquired.
        manager = await anyio.to_thread.run_sync(make)
        entered = await anyio.to_thread.run_sync(manager.__enter__)
    try:
        yield entered
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(manager.__exit__, None, None, None)
