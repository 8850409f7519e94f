"""How a run ends early and well."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from types import FrameType

import anyio

# How long another program's lock on a journal is still waited for after a stop: a backup's takes no longer.
LOCK_SECONDS = 3.0


class Terminated(BaseException):
    """SIGTERM came where nobody listens for it: what is open is closed, as after Ctrl-C."""


def end_on_sigterm() -> None:
    """Let SIGTERM raise Terminated, as SIGINT raises KeyboardInterrupt, in place of ending the process at once."""

    def received(_: int, __: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, received)


class StoppedError(Exception):
    """A call that was to be repeated is not, because the run is to end; it has no outcome."""


class Stop:
    """A way to end a run early and well: nothing more is handed out, what is in flight has `grace` seconds.

    `requested` says whether it was asked to end, `signal` by which signal first: SIGINT, if by none.
    """

    def __init__(self, *, grace: float = 30.0) -> None:
        self.requested = False
        self.signal: int = signal.SIGINT
        self._grace = grace
        self._at_once = self._after_grace = inf
        self._scopes: dict[anyio.CancelScope, bool] = {}

    def request(self, number: int = signal.SIGINT) -> None:
        """Ask for the end, as a signal does; the second time, drop what is in flight too."""
        if not self.requested:
            self.signal = number
        self._at_once = anyio.current_time()
        self._after_grace = self._at_once + (0.0 if self.requested else self._grace)
        self.requested = True
        for scope, waits in self._scopes.items():
            scope.deadline = self._after_grace if waits else self._at_once

    def ends_at(self, seconds: float) -> float:
        """Return when a wait in a thread ends, by the monotonic clock: so long after a stop was asked for.

        After the second time it is at once; before the first, never.
        """
        return min(self._at_once + seconds, self._after_grace)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Bound a block that ends as soon as it is asked to."""
        with self._scope(waits=False):
            yield

    @contextmanager
    def after_grace(self) -> Iterator[None]:
        """Bound a block that may finish what it has in hand."""
        with self._scope(waits=True):
            yield

    async def sleep(self, seconds: float) -> None:
        """Sleep between two attempts, when nothing is in flight.

        Raises: StoppedError when the run is to end.
        """
        with self._scope(waits=False):
            await anyio.sleep(seconds)
        if self.requested:
            raise StoppedError

    @contextmanager
    def _scope(self, *, waits: bool) -> Iterator[None]:
        # A stage may begin after it was asked to end.
        scope = anyio.CancelScope(deadline=self._after_grace if waits else self._at_once)
        self._scopes[scope] = waits
        try:
            with scope:
                yield
        finally:
            del self._scopes[scope]
