"""How many calls are in flight: slots, as many as are given or worth it, and fewer after an overload."""

from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from types import TracebackType
from typing import Self

import anyio

from asyncimport.pacing.adaptive import AdaptiveLimit

# Seconds that a Retry-After is heeded for at most.
_LONGEST_WISH = 300.0
_SECONDS_BETWEEN_CUTS = 1.0
# So many calls are what `pace` is told by.
_LATELY = 8


class Throttle:
    """Concurrency that halves when the server is overloaded and grows back by one for each full round of successes.

    `ceiling` is the number of calls in flight at the best of times; with `adaptive` it is only the bound of what is
    found out to be worth it (see `AdaptiveLimit`). A cut counts once a second, however many calls report the same
    trouble. A Retry-After holds back every call, not only the one that met it. Times are seconds.
    """

    def __init__(
        self,
        ceiling: int,
        *,
        adaptive: bool = False,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._knee = AdaptiveLimit(ceiling, clock=clock) if adaptive else None
        self._ceiling = ceiling if self._knee is None else self._knee.limit
        self._limit = self._ceiling
        self._sleep = sleep
        self._clock = clock
        self._held = 0
        self._waiting: deque[anyio.Event] = deque()
        self._successes = 0
        self._cut_at = float("-inf")
        self._resume_at = float("-inf")
        self._pace: float | None = None

    @property
    def pace(self) -> float | None:
        """How many seconds a call has taken lately, or None where none has ended yet."""
        return self._pace

    @property
    def limit(self) -> int:
        """Calls that may be in flight now."""
        return self._limit

    @property
    def is_crowded(self) -> bool:
        """Whether more slots are held than a cut now allows."""
        return self._held > self._limit

    def slot(self) -> "Slot":
        """Return a slot: `async with` for one call, or `with` for several, each after its `turn`."""
        return Slot(self)

    def try_enter(self) -> bool:
        """Take a slot if there is one and nobody waits for it; `leave` gives it back."""
        if self._held >= self._limit or self._waiting:
            return False
        self._held += 1
        return True

    async def enter(self) -> None:
        """Wait for a slot; whoever came first gets it first."""
        if self.try_enter():
            return
        given = anyio.Event()
        self._waiting.append(given)
        try:
            await given.wait()
        except BaseException:
            if given.is_set():
                # It was given the slot just when it was cancelled: the next one must not wait for ever.
                self.leave()
            else:
                self._waiting.remove(given)
            raise

    def leave(self) -> None:
        """Give a slot back."""
        self._held -= 1
        self._admit()

    def now(self) -> float:
        """Tell the time."""
        return self._clock()

    async def rest(self) -> bool:
        """Wait as long as the server has asked for, if it has; whether there was anything to wait for."""
        wait = self._resume_at - self._clock()
        if wait <= 0:
            return False
        await self._sleep(wait)
        return True

    def succeeded(self, seconds: float = 0.0, size: int = 0) -> None:
        """Note a call that went well, by who still holds its slot: how long it took, for a file of so many bytes.

        While more is in flight than a cut now allows, the calls that end began before it and say nothing of the new
        limit.
        """
        self._pace = seconds if self._pace is None else self._pace + (seconds - self._pace) / _LATELY
        if self._limit < self._ceiling:
            if not self.is_crowded:
                self._successes += 1
                if self._successes >= self._limit:
                    self._set(self._limit + 1)
        elif self._knee is not None:
            self._knee.succeeded(seconds, size, full=self._held >= self._limit)
            if self._knee.limit != self._limit:
                self._ceiling = self._knee.limit
                self._set(self._ceiling)

    def overloaded(self, hint: float | None = None) -> None:
        """Note that the server is overloaded; `hint` is its Retry-After in seconds."""
        now = self._clock()
        if hint is not None:
            self._resume_at = max(self._resume_at, now + min(hint, _LONGEST_WISH))
        if now - self._cut_at >= _SECONDS_BETWEEN_CUTS:
            self._cut_at = now
            if self._knee is not None:
                self._knee.disturbed()
                self._ceiling = self._knee.limit
            self._set(max(1, self._limit // 2))

    def _set(self, limit: int) -> None:
        self._limit = limit
        self._successes = 0
        self._admit()

    def _admit(self) -> None:
        """Give the slots that are free to those who wait."""
        while self._waiting and self._held < self._limit:
            self._held += 1
            self._waiting.popleft().set()


class Slot:
    """A place among the calls in flight, for calls that follow each other."""

    __slots__ = ("_is_held", "_since", "_throttle")

    def __init__(self, throttle: Throttle) -> None:
        self._throttle = throttle
        self._is_held = False
        self._since = 0.0
        """When it was taken, or the last call had ended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()

    async def __aenter__(self) -> Self:
        try:
            await self.turn()
        except BaseException:
            self.leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()

    async def turn(self) -> None:
        """Wait until the next call may begin: the slot may have been given back, or be one too many since a cut."""
        throttle = self._throttle
        while True:
            if self._is_held and throttle.is_crowded:
                self.leave()
            if not self._is_held:
                await throttle.enter()
                self._is_held = True
                self._since = throttle.now()
            if not await throttle.rest():
                return
            self._since = throttle.now()

    def succeeded(self, size: int) -> None:
        """Note a call that went well, for a file of so many bytes.

        It took all the time since the one before: reading and settling are part of what a slot is occupied with, and
        the throughput is the slots over that time.
        """
        now = self._throttle.now()
        self._throttle.succeeded(now - self._since, size)
        self._since = now

    def leave(self) -> None:
        """Give the slot back before its time, to have it again at the next `turn`: release the slot during backoff."""
        if self._is_held:
            self._is_held = False
            self._throttle.leave()
