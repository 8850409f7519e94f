"""Operations for those who have no event loop, or are inside of one, as a notebook is."""

from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from anyio.from_thread import start_blocking_portal

P = ParamSpec("P")
T = TypeVar("T")


def run_sync(operation: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run an operation on a loop in a thread of its own, and wait for its end: `run_sync(upload, request)`.

    Ctrl-C ends the wait at once; the same operation goes on from there the next time.
    """
    with start_blocking_portal() as portal:
        future = portal.start_task_soon(lambda: operation(*args, **kwargs))
        try:
            return future.result()
        except BaseException:
            # The portal waits for what is still running.
            future.cancel()
            raise
