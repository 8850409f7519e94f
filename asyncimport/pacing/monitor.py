"""Whether anything gets through to the server: told when nothing does, and the end when that lasts too long."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic

import anyio

from asyncimport.errors import TransientError, UnavailableError, primary_error

# The share of the longest outage that is kept for a last look whether the server answers, and its bounds in seconds.
_LAST_LOOK = 0.25
_SHORTEST_LOOK, _LONGEST_LOOK = 0.5, 10.0


class OutageMonitor:
    """Ends what it guards when no call has got through for `longest` seconds, counted from the first that did not.

    The client tells of each call: that it begins, and how it ends. So calls that hang count, and pauses, and calls that
    have just failed; whatever XNAT answers, if only that it refuses, has got through. Before the end `ping` is
    asked: a call may take its time, or fail all by itself, at a server that answers others. An outage has begun when
    two calls in a row did not get through: then `report` is told why, and with None when one does again.
    """

    def __init__(
        self,
        longest: float,
        *,
        report: Callable[[str | None], None] = lambda _: None,
        # anyio's clock takes 5 us, and it is asked once a file.
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.ping: Callable[[], Awaitable[bool]] | None = None
        """Asks the server something small; None as long as nobody is logged in."""
        self._longest = longest
        self._clock = clock
        self._look = min(max(_LAST_LOOK * longest, _SHORTEST_LOOK), _LONGEST_LOOK)
        self._report = report
        self._changed = anyio.Event()
        self._since: float | None = None
        self._is_told = False
        self._reset()

    @property
    def is_on(self) -> bool:
        """Whether there is an outage."""
        return self._is_told

    def began(self) -> None:
        """Note that a call begins."""
        self._in_flight += 1
        if self._since is None:
            self._since = self._clock()
            self._changed.set()

    def got_through(self) -> None:
        """Note that a call ends, as XNAT has answered it."""
        self._in_flight -= 1
        self._failures = 0
        # Those that are still on their way count from now on.
        self._since = self._clock() if self._in_flight else None
        if self._is_told:
            self._is_told = False
            self._report(None)

    def failed(self, error: TransientError) -> None:
        """Note that a call ends, and did not get through."""
        self._in_flight -= 1
        self._error = str(error)
        self._failures += 1
        if self._failures > 1:
            self._tell()

    def dropped(self) -> None:
        """Note that a call ends without telling anything, as when it is cancelled."""
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
        self._is_told = False

    async def _watch(self) -> None:
        while True:
            if self._since is None:
                self._changed = anyio.Event()
                await self._changed.wait()
                continue
            # A look that is no part of the time would be the first call for who has none.
            wait = self._since + max(self._longest - self._look, self._look) - self._clock()
            if wait > 0:
                await anyio.sleep(wait)
            elif not await self._answers():
                self._tell()
                raise UnavailableError(
                    f"the server has been away for too long: {self._error}",
                    hint="run the same command again when it is back; --outage-timeout says how long to wait",
                )

    async def _answers(self) -> bool:
        """Look whether the server answers, or a call gets through, before the time is over."""
        since = self._since
        if since is None:
            return True
        with anyio.move_on_after(max(since + self._longest - self._clock(), self._look)):
            if self.ping is not None and await self.ping():
                # It has told so itself, unless it did not need to ask.
                self._since = self._clock() if self._in_flight else None
                return True
            await anyio.sleep_forever()
        return self._since != since

    def _tell(self) -> None:
        if not self._is_told:
            self._is_told = True
            self._report(self._error)
