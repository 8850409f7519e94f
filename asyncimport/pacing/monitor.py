"""Reports when nothing gets through to the server, and ends a run when that lasts too long."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic

import anyio

from asyncimport.errors import TransientError, UnavailableError, primary_error

# The share of the timeout that is kept for a last ping, and its bounds in seconds.
_PING_SHARE = 0.25
_MIN_PING_SECONDS, _MAX_PING_SECONDS = 0.5, 10.0


class OutageMonitor:
    """Ends what it guards when no call has got through for `timeout` seconds since the first that did not.

    The client reports the start and the end of each call. So calls that hang count, and so do pauses and failed calls.
    Any answer of XNAT counts as getting through, even a refusal. Before the end the monitor pings: a call may be slow,
    or fail by itself, while the server answers others. An outage has begun when two calls in a row did not get through,
    and more than are in flight: `report` then gets the reason, and None when a call gets through again.
    """

    def __init__(
        self,
        timeout: float,
        *,
        report: Callable[[str | None], None] = lambda _: None,
        # anyio's clock takes 5 us, and this one is read once a file.
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.ping: Callable[[], Awaitable[bool]] | None = None
        """Asks the server something small; None before login."""
        self._timeout = timeout
        self._clock = clock
        self._ping_seconds = min(max(_PING_SHARE * timeout, _MIN_PING_SECONDS), _MAX_PING_SECONDS)
        self._report = report
        self._changed = anyio.Event()
        self._since: float | None = None
        self._is_reported = False
        self._reset()

    @property
    def is_on(self) -> bool:
        """Whether there is an outage."""
        return self._is_reported

    @property
    def seconds(self) -> float | None:
        """How long nothing has got through; None while calls get through, or none is made."""
        return None if self._since is None or not self._is_reported else self._clock() - self._since

    @property
    def seconds_left(self) -> float:
        """How much longer an outage may last."""
        return max(0.0, self._timeout - (self.seconds or 0.0))

    def call_started(self) -> None:
        """Note that a call starts."""
        self._in_flight += 1
        if self._since is None:
            self._since = self._clock()
            self._changed.set()

    def call_answered(self) -> None:
        """Note that XNAT answered a call."""
        self._in_flight -= 1
        self._failures = 0
        # The time of the calls that are still in flight counts from now.
        self._since = self._clock() if self._in_flight else None
        if self._is_reported:
            self._is_reported = False
            self._report(None)

    def call_failed(self, error: TransientError) -> None:
        """Note that a call did not get through."""
        self._in_flight -= 1
        self._error = str(error)
        self._failures += 1
        if self._failures > max(1, self._in_flight):
            self._report_outage()

    def call_cancelled(self) -> None:
        """Note that a call ended without showing anything, for example because it was cancelled."""
        self._in_flight -= 1
        if not self._in_flight and not self._failures:
            self._since = None

    @asynccontextmanager
    async def guard(self) -> AsyncIterator[None]:
        """Guard a block, one at a time. Raises: UnavailableError when nothing gets through for too long."""
        self._reset()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch)
                try:
                    yield
                finally:
                    tasks.cancel_scope.cancel()
        except BaseExceptionGroup as errors:
            raise primary_error(errors) from None

    def _reset(self) -> None:
        self._since = None
        self._in_flight = 0
        self._failures = 0
        self._error = "it does not answer"
        self._is_reported = False

    async def _watch(self) -> None:
        while True:
            if self._since is None:
                self._changed = anyio.Event()
                await self._changed.wait()
                continue
            # With a very short timeout, a call still has as long as a ping before the first ping.
            wait = self._since + max(self._timeout - self._ping_seconds, self._ping_seconds) - self._clock()
            if wait > 0:
                await anyio.sleep(wait)
            elif not await self._answers():
                self._report_outage()
                raise UnavailableError(
                    f"the server has been away for too long: {self._error}",
                    hint="run the same command again when it is back; --outage-timeout says how long to wait",
                )

    async def _answers(self) -> bool:
        """Return whether the server answers a ping, or a call gets through, before the timeout."""
        since = self._since
        if since is None:
            return True
        with anyio.move_on_after(max(since + self._timeout - self._clock(), self._ping_seconds)):
            if self.ping is not None and await self.ping():
                # The ping itself has noted this, unless it needed no call.
                self._since = self._clock() if self._in_flight else None
                return True
            await anyio.sleep_forever()
        return self._since != since

    def _report_outage(self) -> None:
        if not self._is_reported:
            self._is_reported = True
            self._report(self._error)
