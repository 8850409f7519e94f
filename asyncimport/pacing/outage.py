"""What to do when nothing gets through: repeat sparingly, and wait once for all."""

import random
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeVar

import anyio

from asyncimport.errors import TransientError, UnavailableError

T = TypeVar("T")


class RetryBudget:
    """How many repetitions there are to spare: a share of what succeeds, and some to begin with.

    A server in trouble gets few repetitions in place of many: who finds none to spare waits long before the next.
    """

    _MOST = 100.0
    _SHARE = 0.2

    def __init__(self) -> None:
        self._left = self._MOST

    def succeeded(self) -> None:
        """Note a call that went well."""
        self._left = min(self._MOST, self._left + self._SHARE)

    def acquire(self) -> bool:
        """Take a repetition; whether there was one to spare."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


async def _nobody_knows() -> bool:
    return False


class Outage:
    """Waits for a server that is away, once for all who need it, `longest` seconds at most.

    Who has used up all attempts asks `is_on`: if nothing at all got through between its last two, the server and not
    the file is to blame. Then one call at a time is repeated with pauses that grow from `first` seconds, until it
    gets through. But when a single one asks, and `ping` says that the server answers, it is given up after a few
    minutes: it may be the last file of the run, and one that a proxy cannot cope with. `hold` keeps all other calls
    back for a pause; `report` is told of the beginning (with the reason) and of the end (None).
    """

    # XNAT answers a full disk as it answers a broken file. So many files broken in a row are not broken.
    _TOO_MANY_BLAMED = 3
    _PATIENCE = 180.0
    _LONGEST_PAUSE = 60.0

    def __init__(
        self,
        longest: float,
        *,
        ping: Callable[[], Awaitable[bool]] = _nobody_knows,
        first: float = 1.0,
        hold: Callable[[float], None] = lambda _: None,
        report: Callable[[str | None], None] = lambda _: None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        clock: Callable[[], float] = monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._longest = longest
        self._ping = ping
        self._first = first
        self._hold = hold
        self._report = report
        self._sleep = sleep
        self._clock = clock
        self._jitter = jitter
        self._turn = anyio.Lock()
        self._succeeded_at = float("-inf")
        self._blamed: set[int] = set()
        self._struck: set[object] = set()
        self._is_away = False

    def succeeded(self) -> None:
        """Note that a call got through."""
        self._succeeded_at = self._clock()
        self._blamed.clear()
        self._struck.clear()
        self._back()

    def _back(self) -> None:
        """Tell the end of an outage, whoever has met it."""
        if self._is_away:
            self._is_away = False
            self._report(None)

    def blamed(self, key: int) -> None:
        """Note that the server calls the file `key` broken."""
        self._blamed.add(key)

    def is_on(self, error: TransientError, since: float) -> bool:
        """Whether an error is the server's and not the call's: nothing got through since `since` (by `clock`)."""
        if self._succeeded_at > since:
            return False
        return not error.is_file_verdict or (error.blames_file and len(self._blamed) >= self._TOO_MANY_BLAMED)

    async def call(self, call: Callable[[], Awaitable[T]], key: object) -> T:
        """Make a call that is about `key`, repeat it while the server is away, and note that it got through.

        Raises: as `wait_until_up`.
        """
        try:
            result = await call()
        except TransientError as error:
            return await self.wait_until_up(call, error, self._clock(), key)
        self.succeeded()
        return result

    async def wait_until_up(
        self, call: Callable[[], Awaitable[T]], error: TransientError, since: float, key: object
    ) -> T:
        """Repeat `call`, which is about `key`, until it gets through.

        Raises: UnavailableError after the longest time; the call's TransientError when it fails though others get
        through, or would; whatever else it raises.
        """
        entered = self._clock()
        self._struck.add(key)
        async with self._turn:
            if self._succeeded_at <= entered:
                self._is_away = True
                self._report(str(error))
            pause = self._first
            while True:
                if self._succeeded_at <= entered:
                    waited = self._clock() - since
                    if await self._is_hopeless(error, waited):
                        self._back()
                        raise error
                    if waited > self._longest:
                        raise UnavailableError(
                            f"the server has been away for too long: {error}",
                            hint="run the same command again when it is back; --outage-timeout says how long to wait",
                        ) from error
                    self._hold(pause)
                    await self._sleep(pause * (0.5 + self._jitter() / 2))
                    pause = min(2 * pause, self._LONGEST_PAUSE)
                began = self._clock()
                try:
                    result = await call()
                except TransientError as again:
                    if entered < self._succeeded_at < began:
                        raise
                    error = again
                    continue
                self.succeeded()
                return result

    async def _is_hopeless(self, error: TransientError, waited: float) -> bool:
        """Whether it is time to see that a call fails all by itself."""
        if error.is_file_verdict or len(self._struck) > 1 or waited <= min(self._longest, self._PATIENCE):
            return False
        return await self._ping()
