"""Runs operations without an event loop, or inside of one, as in a notebook."""

from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from anyio.from_thread import start_blocking_portal

P = ParamSpec("P")
T = TypeVar("T")


def run_sync(operation: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run an operation on a loop in a thread of its own, and wait for its end: `run_sync(upload, request)`.

    Ctrl-C ends the wait at once. The same operation resumes the next time.
    """
    with start_blocking_portal() as portal:
        future = portal.start_task_soon(lambda: operation(*args, **kwargs))
        try:
            return future.result()
        except BaseException:
            # Otherwise the portal waits for the operation.
            future.cancel()
            raise
