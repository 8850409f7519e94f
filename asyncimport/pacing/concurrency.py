"""How many calls are in flight: slots up to a fixed or adaptive limit, fewer after an overload."""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from math import inf
from time import monotonic
from typing import Any, Protocol, Self, TypeVar, cast

import anyio

from asyncimport.errors import primary_error

T = TypeVar("T")
R = TypeVar("R")
_MAX_RETRY_AFTER_SECONDS = 300.0
_SECONDS_BETWEEN_CUTS = 1.0
# `seconds_per_call` is a moving average over about this many calls.
_AVERAGED_CALLS = 8
# An answer may never come, and a limit that is found may be one. So if no call ends for this many times as long as one
# takes, the oldest gives its slot to another. It has that many seconds at least, or the third number where nothing is
# known. The next one does so after twice as long, as the server may only be slow.
_STUCK_CALLS, _MIN_STUCK_SECONDS, _STUCK_SECONDS = 20, 1.0, 30.0


class LimitFinder(Protocol):
    """Finds the best limit by the calls that end: see `AdaptiveLimit` and `ArchivingLimit`."""

    @property
    def limit(self) -> int:
        """Calls that should be in flight now."""
        ...

    @property
    def next_limit(self) -> int:
        """To how many calls the limit may grow next."""
        ...

    def record_success(self, seconds: float, size: int, *, is_full: bool, is_zip: bool, link_seconds: float) -> None:
        """Record a successful call: see `Throttle.record_success`; `is_full`: all slots were in use."""
        ...

    def restart(self) -> None:
        """Drop the current trial: the server is in trouble."""
        ...

    def measure_again(self) -> None:
        """Begin the current measurement again: the calls are of another kind now."""
        ...


class Throttle:
    """Halves the limit of calls in flight on overload, and grows it back by one for each full round of successes.

    The highest `limit` is given, or found. It is cut once a second at most, however many calls report the same
    overload. A Retry-After holds back every call, not only the one that received it. Times are seconds.
    """

    def __init__(
        self,
        limit: int | LimitFinder,
        *,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._finder = None if isinstance(limit, int) else limit
        self._ceiling = self._limit = limit if isinstance(limit, int) else limit.limit
        self._sleep = sleep
        self._clock = clock
        self._acquired = 0
        self._waiting: deque[anyio.Event] = deque()
        self._since: dict[Slot, float] = {}
        """When the present call of each slot in use began, the oldest first."""
        self._ended_at = float("-inf")
        """When the last call succeeded, or gave its slot to another."""
        self._released = 0
        """How many slots were released for others since a call succeeded."""
        self._successes = 0
        self._cut_at = float("-inf")
        self._resume_at = float("-inf")
        self._is_frozen = False
        self.seconds_per_call: float | None = None
        """How long recent calls took on average; None before the first has ended."""

    @property
    def limit(self) -> int:
        """Calls that may be in flight now."""
        return self._limit

    @property
    def next_limit(self) -> int:
        """Calls that may be in flight soon, if the limit is about to grow."""
        return self._limit if self.is_cut or self._finder is None else self._finder.next_limit

    @property
    def in_flight(self) -> int:
        """Slots that are in use now."""
        return self._acquired

    @property
    def is_cut(self) -> bool:
        """Whether the limit is still lower than before an overload."""
        return self._limit < self._ceiling

    @property
    def is_fixed(self) -> bool:
        """Whether the limit is a given number."""
        return self._finder is None

    @property
    def is_frozen(self) -> bool:
        """Whether the limit must not grow now, nor be measured."""
        return self._is_frozen

    @is_frozen.setter
    def is_frozen(self, value: bool) -> None:
        if self._is_frozen and not value and self._finder is not None:
            self._finder.measure_again()
        self._is_frozen = value

    @property
    def is_over_limit(self) -> bool:
        """Whether more slots are in use than the limit allows since a cut."""
        return self._acquired > self._limit

    def slot(self) -> "Slot":
        """Return a slot: `async with` for one call, or `with` for several, each after `wait_turn`."""
        return Slot(self)

    def try_acquire(self) -> bool:
        """Take a slot if one is free and nobody waits for it."""
        if self._acquired >= self._limit or self._waiting:
            return False
        self._acquired += 1
        return True

    async def acquire(self) -> None:
        """Wait for a slot; first come, first served."""
        if self.try_acquire():
            return
        acquired = anyio.Event()
        self._waiting.append(acquired)
        try:
            while not acquired.is_set():
                with anyio.move_on_after(self._seconds_to_release()):
                    await acquired.wait()
                if not acquired.is_set() and not self._seconds_to_release():
                    self._release_oldest()
        except BaseException:
            if acquired.is_set():
                # Cancelled just when the slot was assigned: pass it on, or the next caller waits for ever.
                self.release()
            else:
                self._waiting.remove(acquired)
            raise

    def release(self) -> None:
        """Give a slot back."""
        self._acquired -= 1
        self._wake_waiting()

    def call_began(self, slot: "Slot", now: float) -> None:
        """Note that a call begins in a slot."""
        self._since.pop(slot, None)
        self._since[slot] = now

    def call_succeeded(self, slot: "Slot", now: float) -> None:
        """Note that a call has succeeded, and that the next begins in its slot if it still has one."""
        self._ended_at, self._released = now, 0
        if self._since.pop(slot, None) is not None:
            self._since[slot] = now

    def slot_released(self, slot: "Slot") -> None:
        """Note that a slot is no longer in use, and give it back."""
        self._since.pop(slot, None)
        self.release()

    def _seconds_to_release(self) -> float:
        """Return after how long the oldest call gives its slot to another, if none ends until then."""
        if self.is_fixed:
            return inf
        now, pace = self._clock(), self.seconds_per_call
        stuck = _STUCK_SECONDS if pace is None else max(_MIN_STUCK_SECONDS, _STUCK_CALLS * pace)
        began = max(self._ended_at, self._resume_at, next(iter(self._since.values()), now))
        return max(0.0, began + stuck * 2.0**self._released - now)

    def _release_oldest(self) -> None:
        self._ended_at = self._clock()
        self._released += 1
        for slot in list(self._since)[:1]:
            slot.release()

    def now(self) -> float:
        """Return the time of the clock."""
        return self._clock()

    async def wait_retry_after(self) -> bool:
        """Wait until the server's Retry-After is over; return whether there was any to wait for."""
        wait = self._resume_at - self._clock()
        if wait <= 0:
            return False
        await self._sleep(wait)
        return True

    def record_success(
        self, seconds: float = 0.0, size: int = 0, *, is_zip: bool = False, link_seconds: float = 0.0
    ) -> None:
        """Record a successful call while its slot is still in use: how long it took, and the bytes that it sent.

        `link_seconds` is how long all calls have waited for the link so far, 0 if that is unknown. While more calls are
        in flight than the limit allows, those that end began before the cut, and say nothing about the new limit.
        """
        average = self.seconds_per_call
        self.seconds_per_call = seconds if average is None else average + (seconds - average) / _AVERAGED_CALLS
        if self._is_frozen:
            return
        if self._limit < self._ceiling:
            if not self.is_over_limit:
                self._successes += 1
                if self._successes >= self._limit:
                    self._set_limit(self._limit + 1)
        elif self._finder is not None:
            is_full = self._acquired >= self._limit
            self._finder.record_success(seconds, size, is_full=is_full, is_zip=is_zip, link_seconds=link_seconds)
            if self._finder.limit != self._limit:
                self._ceiling = self._finder.limit
                self._set_limit(self._ceiling)

    def slow_down(self, retry_after: float | None = None) -> None:
        """Halve the limit, as the server is overloaded; hold back all calls for its Retry-After (seconds)."""
        now = self._clock()
        if retry_after is not None:
            self.pause(retry_after)
        if now - self._cut_at >= _SECONDS_BETWEEN_CUTS:
            self._cut_at = now
            if self._finder is not None:
                self._finder.restart()
                self._ceiling = self._finder.limit
            self._set_limit(min(self._limit, max(1, self._limit // 2)))

    def allow(self, limit: int) -> None:
        """Set the highest limit, as another process decides it."""
        if limit != self._ceiling:
            self._ceiling = limit
            self._set_limit(limit)

    def note_in_flight(self, calls: int) -> None:
        """Note how many calls other processes have in flight; these take no slots here."""
        self._acquired = calls

    def pause(self, seconds: float) -> None:
        """Begin no call for this long."""
        self._resume_at = max(self._resume_at, self._clock() + min(seconds, _MAX_RETRY_AFTER_SECONDS))

    @property
    def pause_seconds(self) -> float:
        """How much longer no call may begin."""
        return max(0.0, self._resume_at - self._clock())

    def _set_limit(self, limit: int) -> None:
        self._limit = limit
        self._successes = 0
        self._wake_waiting()

    def _wake_waiting(self) -> None:
        while self._waiting and self._acquired < self._limit:
            self._acquired += 1
            self._waiting.popleft().set()


class Slot:
    """One of the calls in flight; several calls may use it one after another."""

    __slots__ = ("_is_acquired", "_since", "_throttle")

    def __init__(self, throttle: Throttle) -> None:
        self._throttle = throttle
        self._is_acquired = False
        self._since = 0.0
        """When the slot was acquired, or its last call ended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    async def __aenter__(self) -> Self:
        try:
            await self.wait_turn()
        except BaseException:
            self.release()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()

    async def wait_turn(self) -> None:
        """Wait until the next call may begin: acquire the slot if it was released, or is over the limit since a cut."""
        throttle = self._throttle
        while True:
            if self._is_acquired and throttle.is_over_limit:
                self.release()
            if not self._is_acquired:
                await throttle.acquire()
                self._is_acquired = True
                self._begin()
            if not await throttle.wait_retry_after():
                return
            if self._is_acquired:
                self._begin()

    def _begin(self) -> None:
        self._since = self._throttle.now()
        self._throttle.call_began(self, self._since)

    def record_success(self, size: int, *, is_zip: bool = False, link_seconds: float = 0.0) -> float:
        """Record a successful call that sent `size` bytes, as the throttle does; return the seconds that it took.

        It took all the time since the call before. Reading and recording occupy the slot too, and the throughput is
        the number of slots divided by that time.
        """
        now = self._throttle.now()
        seconds, self._since = now - self._since, now
        self._throttle.call_succeeded(self, now)
        self._throttle.record_success(seconds, size, is_zip=is_zip, link_seconds=link_seconds)
        return seconds

    def release(self) -> None:
        """Give the slot back until the next `wait_turn`, for example during backoff."""
        if self._is_acquired:
            self._is_acquired = False
            self._throttle.slot_released(self)


async def map_concurrently(call: Callable[[T], Awaitable[R]], items: Iterable[T], workers: int) -> list[R]:
    """Return the results of calls in order, made `workers` at a time. Raises: their primary error."""
    results: dict[int, R] = {}
    waiting = iter(enumerate(items))

    async def work() -> None:
        for place, item in waiting:
            results[place] = await call(item)

    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(workers):
                tasks.start_soon(work)
    except BaseExceptionGroup as errors:
        raise primary_error(errors) from None
    return [results[place] for place in sorted(results)]


async def both(first: Callable[[], Awaitable[T]], second: Callable[[], Awaitable[R]]) -> tuple[T, R]:
    """Return the results of two calls that are made side by side. Raises: their primary error."""
    one, other = await map_concurrently(_call, cast("tuple[Callable[[], Awaitable[Any]], ...]", (first, second)), 2)
    return one, other


async def _call(call: Callable[[], Awaitable[T]]) -> T:
    return await call()
