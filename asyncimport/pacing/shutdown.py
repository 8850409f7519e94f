"""How a run ends early and gracefully."""

import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from math import inf
from types import FrameType

import anyio

# How long to wait after a stop for a journal that another program has locked: a backup takes no longer.
LOCK_SECONDS = 3.0


class Terminated(BaseException):
    """SIGTERM came while nothing else handled it; files are closed as after Ctrl-C."""


def raise_on_sigterm() -> None:
    """Let SIGTERM raise Terminated, as SIGINT raises KeyboardInterrupt, instead of ending the process at once."""

    def raise_terminated(_: int, __: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, raise_terminated)


class StoppedError(Exception):
    """A call is not repeated, because the run is stopping; it has no outcome."""


class Stop:
    """Ends a run early: nothing more is handed out, and calls in flight have `grace` seconds.

    `requested` says whether a stop was requested, and `signal` by which signal first; it is SIGINT if there was none.
    """

    def __init__(self, *, grace: float = 30.0) -> None:
        self.requested = False
        self.signal: int = signal.SIGINT
        self._grace = grace
        self._requested_at = self._grace_ends_at = inf
        self._scopes: dict[anyio.CancelScope, bool] = {}

    @property
    def grace_seconds(self) -> float:
        """How much longer calls in flight may take."""
        return max(0.0, self._grace_ends_at - anyio.current_time())

    def request(self, number: int = signal.SIGINT, *, grace: float | None = None) -> None:
        """Request a stop, as a signal does; the second request also cancels the calls in flight.

        `grace` replaces that of this object.
        """
        if not self.requested:
            self.signal = number
        self._requested_at = anyio.current_time()
        again = 0.0 if self.requested else self._grace
        self._grace_ends_at = self._requested_at + (again if grace is None else grace)
        self.requested = True
        for scope, has_grace in self._scopes.items():
            scope.deadline = self._grace_ends_at if has_grace else self._requested_at

    def wait_deadline(self, seconds: float) -> float:
        """Return when a wait in a thread must end, `seconds` after the first request, or at once after the second."""
        return min(self._requested_at + seconds, self._grace_ends_at)

    def immediate_scope(self) -> AbstractContextManager[None]:
        """Cancel the block as soon as a stop is requested."""
        return self._scope(has_grace=False)

    def grace_scope(self) -> AbstractContextManager[None]:
        """Cancel the block when the grace after a stop is over."""
        return self._scope(has_grace=True)

    async def sleep(self, seconds: float) -> None:
        """Sleep between two attempts, while nothing is in flight. Raises: StoppedError when the run is stopping."""
        with self._scope(has_grace=False):
            await anyio.sleep(seconds)
        if self.requested:
            raise StoppedError

    @contextmanager
    def _scope(self, *, has_grace: bool) -> Iterator[None]:
        # A stage may begin after the stop was requested.
        scope = anyio.CancelScope(deadline=self._grace_ends_at if has_grace else self._requested_at)
        self._scopes[scope] = has_grace
        try:
            with scope:
                yield
        finally:
            del self._scopes[scope]
