"""What to do when nothing gets through: retry sparingly, and wait once for all calls."""

import random
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeVar

import anyio

from asyncimport.errors import TransientError, UnavailableError

T = TypeVar("T")


class RetryBudget:
    """How many retries are left: they must not multiply the load of a server in trouble. Without, pauses are long."""

    _MAX_RETRIES = 100.0
    _RETRIES_PER_SUCCESS = 0.2

    def __init__(self) -> None:
        self._retries = self._MAX_RETRIES

    def record_success(self) -> None:
        """Add the share of a successful call."""
        self._retries = min(self._MAX_RETRIES, self._retries + self._RETRIES_PER_SUCCESS)

    def acquire(self) -> bool:
        """Take a retry; return whether one was left."""
        if self._retries < 1:
            return False
        self._retries -= 1
        return True


async def _never_up() -> bool:
    return False


class Outage:
    """Waits for a server that is away, once for all calls, `timeout` seconds at most.

    A caller that has used up its attempts asks `is_on`: if no call got through between its last two attempts, the
    server is to blame, not the file. Then one call at a time is repeated, with pauses that grow from `first_pause`
    seconds, until it gets through. If only one call waits, and `ping` says that the server answers, that call is given
    up after a few minutes: it may be the last file of the run, and one that a proxy cannot cope with.

    `slow_down` holds back all other calls for a pause. `report` gets the reason when an outage begins, and None when it
    ends.
    """

    # XNAT answers the same when its disk is full and when a file is broken. This many files in a row are not broken.
    _MAX_REJECTED_FILES = 3
    _SINGLE_CALL_SECONDS = 180.0
    _MAX_PAUSE_SECONDS = 60.0

    def __init__(
        self,
        timeout: float,
        *,
        ping: Callable[[], Awaitable[bool]] = _never_up,
        first_pause: float = 1.0,
        slow_down: Callable[[float], None] = lambda _: None,
        report: Callable[[str | None], None] = lambda _: None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        clock: Callable[[], float] = monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._timeout = timeout
        self._ping = ping
        self._first_pause = first_pause
        self._slow_down = slow_down
        self._report = report
        self._sleep = sleep
        self._clock = clock
        self._jitter = jitter
        self._lock = anyio.Lock()
        self._succeeded_at = float("-inf")
        self._rejected_files: set[int] = set()
        self._failed_calls: set[object] = set()
        self._is_away = False

    def record_success(self) -> None:
        """Note that a call got through."""
        self._succeeded_at = self._clock()
        self._rejected_files.clear()
        self._failed_calls.clear()
        self._report_end()

    def _report_end(self) -> None:
        if self._is_away:
            self._is_away = False
            self._report(None)

    def record_rejected_file(self, key: int) -> None:
        """Note that the server calls the file `key` broken."""
        self._rejected_files.add(key)

    def is_on(self, error: TransientError, since: float) -> bool:
        """Return whether the server is to blame for an error: nothing got through since `since` (by `clock`)."""
        if self._succeeded_at > since:
            return False
        return not error.is_file_verdict or (
            error.blames_file and len(self._rejected_files) >= self._MAX_REJECTED_FILES
        )

    async def call(self, call: Callable[[], Awaitable[T]], key: object) -> T:
        """Make a call, repeat it while the server is away, and note that it got through. Raises: as `wait_until_up`."""
        try:
            result = await call()
        except TransientError as error:
            return await self.wait_until_up(call, error, self._clock(), key)
        self.record_success()
        return result

    async def wait_until_up(
        self, call: Callable[[], Awaitable[T]], error: TransientError, since: float, key: object
    ) -> T:
        """Repeat `call`, which is about `key`, until it gets through.

        Raises: UnavailableError after the timeout; the call's TransientError when it fails although others get
        through, or would; whatever else it raises.
        """
        entered = self._clock()
        self._failed_calls.add(key)
        async with self._lock:
            if self._succeeded_at <= entered:
                self._is_away = True
                self._report(str(error))
            pause = self._first_pause
            while True:
                if self._succeeded_at <= entered:
                    waited = self._clock() - since
                    if await self._is_hopeless(error, waited):
                        self._report_end()
                        raise error
                    if waited > self._timeout:
                        raise UnavailableError(
                            f"the server has been away for too long: {error}",
                            hint="run the same command again when it is back; --outage-timeout says how long to wait",
                        ) from error
                    self._slow_down(pause)
                    await self._sleep(pause * (0.5 + self._jitter() / 2))
                    pause = min(2 * pause, self._MAX_PAUSE_SECONDS)
                began = self._clock()
                try:
                    result = await call()
                except TransientError as again:
                    if entered < self._succeeded_at < began:
                        raise
                    error = again
                    continue
                self.record_success()
                return result

    async def _is_hopeless(self, error: TransientError, waited: float) -> bool:
        """Return whether a single call has failed for long enough while the server answers a ping."""
        if (
            error.is_file_verdict
            or len(self._failed_calls) > 1
            or waited <= min(self._timeout, self._SINGLE_CALL_SECONDS)
        ):
            return False
        return await self._ping()
