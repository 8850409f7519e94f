"""The throttle: cut by overload, grown by success, and never more in flight than it allows."""

from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio import wait_all_tasks_blocked
from anyio.abc import TaskGroup

from asyncimport.limits import Throttle

pytestmark = pytest.mark.anyio


class Time:
    """A clock that is set by hand, and a sleep that ends when the clock has come far enough."""

    def __init__(self) -> None:
        self.now = 100.0
        self.asked: list[float] = []
        self._moved = anyio.Event()

    def clock(self) -> float:
        """Tell the time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Wait for `pass_by` to bring the time."""
        self.asked.append(seconds)
        until = self.now + seconds
        while self.now < until:
            await self._moved.wait()

    async def pass_by(self, seconds: float) -> None:
        """Let time pass, and everything happen that waited for it."""
        self.now += seconds
        moved, self._moved = self._moved, anyio.Event()
        moved.set()
        await wait_all_tasks_blocked()


class Calls:
    """Calls in flight under a throttle, each until it is let go."""

    def __init__(self, throttle: Throttle, tasks: TaskGroup) -> None:
        self._throttle = throttle
        self._tasks = tasks
        self._in_flight: list[anyio.Event] = []

    @property
    def in_flight(self) -> int:
        """Return how many hold a slot now."""
        return len(self._in_flight)

    async def begin(self, number: int) -> None:
        """Start calls, and wait until they hold a slot or wait for one."""
        for _ in range(number):
            self._tasks.start_soon(self._call)
        await wait_all_tasks_blocked()

    async def end(self, number: int, note: Callable[[], None] = lambda: None) -> None:
        """Let the calls that began first come to their end, one by one, and note each of them."""
        for _ in range(number):
            self._in_flight.pop(0).set()
            await wait_all_tasks_blocked()
            note()
            await wait_all_tasks_blocked()

    async def _call(self) -> None:
        async with self._throttle.slot():
            done = anyio.Event()
            self._in_flight.append(done)
            await done.wait()


def throttle_at(ceiling: int, time: Time) -> Throttle:
    """Make a throttle that lives in this time."""
    return Throttle(ceiling, sleep=time.sleep, clock=time.clock)


def succeed(throttle: Throttle, times: int) -> None:
    """Note successes."""
    for _ in range(times):
        throttle.succeeded()


async def test_overload_halves_once_a_second() -> None:
    """However many calls report the same trouble, the limit halves once; a second later it may halve again."""
    time = Time()
    throttle = throttle_at(16, time)
    limits = []
    for pause in (0.0, 0.0, 0.5, 0.4, 0.25, 1.0):
        time.now += pause
        throttle.overloaded()
        limits.append(throttle.limit)
    assert limits == [8, 8, 8, 8, 4, 2]


@pytest.mark.parametrize(("ceiling", "expected"), [(1, [1, 1, 1]), (2, [1, 1, 1]), (5, [2, 1, 1])])
async def test_limit_never_falls_below_one(ceiling: int, expected: list[int]) -> None:
    """One call at a time always remains: without it nobody would learn that the server is back."""
    time = Time()
    throttle = throttle_at(ceiling, time)
    limits = []
    for _ in expected:
        throttle.overloaded()
        limits.append(throttle.limit)
        time.now += 1.0
    assert limits == expected


async def test_each_full_round_of_successes_adds_one() -> None:
    """The limit grows by one after as many successes as it allows calls, up to the ceiling and no further."""
    time = Time()
    throttle = throttle_at(8, time)
    throttle.overloaded()
    grown = []
    for successes in (3, 1, 4, 1, 6, 7, 100):
        succeed(throttle, successes)
        grown.append(throttle.limit)
    assert grown == [4, 5, 5, 6, 7, 8, 8]


async def test_overload_begins_the_round_anew() -> None:
    """Successes before a cut do not count towards the growth after it."""
    time = Time()
    throttle = throttle_at(16, time)
    throttle.overloaded()
    succeed(throttle, 7)
    time.now += 1.0
    throttle.overloaded()
    succeed(throttle, 3)
    assert throttle.limit == 4
    succeed(throttle, 1)
    assert throttle.limit == 5


async def test_an_overload_that_does_not_cut_leaves_the_round_alone() -> None:
    """A report within the second of a cut is the same trouble, and takes back nothing."""
    time = Time()
    throttle = throttle_at(4, time)
    throttle.overloaded()
    succeed(throttle, 1)
    throttle.overloaded()
    succeed(throttle, 1)
    assert throttle.limit == 3


async def test_slots_bound_what_is_in_flight() -> None:
    """With any number of workers, no more calls are in flight than the ceiling, and each end lets one more in."""
    time = Time()
    async with anyio.create_task_group() as tasks:
        calls = Calls(throttle_at(3, time), tasks)
        await calls.begin(10)
        assert calls.in_flight == 3
        await calls.end(1)
        assert calls.in_flight == 3
        await calls.end(8)
        assert calls.in_flight == 1
        await calls.end(1)
    assert calls.in_flight == 0
    assert time.asked == []


async def test_a_cut_lets_calls_end_before_others_begin() -> None:
    """After a cut, what is in flight goes on; nothing new begins before there is less of it than the new limit."""
    time = Time()
    async with anyio.create_task_group() as tasks:
        throttle = throttle_at(8, time)
        calls = Calls(throttle, tasks)
        await calls.begin(20)
        throttle.overloaded()
        assert (throttle.limit, calls.in_flight) == (4, 8)
        await calls.end(4)
        assert calls.in_flight == 4
        await calls.end(1)
        assert calls.in_flight == 4
        while calls.in_flight:
            await calls.end(1)


async def test_calls_from_before_a_cut_do_not_raise_the_limit() -> None:
    """Successes of calls that began before deep cuts say nothing of the new limit, and let nobody else in."""
    time = Time()
    async with anyio.create_task_group() as tasks:
        throttle = throttle_at(8, time)
        calls = Calls(throttle, tasks)
        await calls.begin(20)
        for _ in range(3):
            throttle.overloaded()
            time.now += 1.0
        assert (throttle.limit, calls.in_flight) == (1, 8)
        for left in (7, 6, 5, 4, 3, 2):
            await calls.end(1, throttle.succeeded)
            assert (throttle.limit, calls.in_flight) == (1, left)
        await calls.end(1, throttle.succeeded)
        assert (throttle.limit, calls.in_flight) == (2, 2)
        while calls.in_flight:
            await calls.end(1, throttle.succeeded)


async def test_growth_lets_waiting_calls_in() -> None:
    """When the limit grows, a call that waits begins at once."""
    time = Time()
    async with anyio.create_task_group() as tasks:
        throttle = throttle_at(2, time)
        throttle.overloaded()
        calls = Calls(throttle, tasks)
        await calls.begin(4)
        assert calls.in_flight == 1
        throttle.succeeded()
        await wait_all_tasks_blocked()
        assert calls.in_flight == 2
        while calls.in_flight:
            await calls.end(1)


async def test_retry_after_holds_back_every_call() -> None:
    """A Retry-After is the whole server's wish: no call begins before its time, whichever of them met it."""
    time = Time()
    async with anyio.create_task_group() as tasks:
        throttle = throttle_at(8, time)
        throttle.overloaded(10.0)
        calls = Calls(throttle, tasks)
        await calls.begin(3)
        assert (calls.in_flight, time.asked) == (0, [10.0, 10.0, 10.0])
        await time.pass_by(9.0)
        await calls.begin(1)
        assert (calls.in_flight, time.asked[3:]) == (0, [1.0])
        await time.pass_by(1.0)
        assert calls.in_flight == 4
        while calls.in_flight:
            await calls.end(1)


async def test_a_later_wish_prolongs_the_wait() -> None:
    """A longer Retry-After counts from when it comes, also for calls that wait already; a shorter one does not."""
    time = Time()
    async with anyio.create_task_group() as tasks:
        throttle = throttle_at(8, time)
        throttle.overloaded(10.0)
        calls = Calls(throttle, tasks)
        await calls.begin(1)
        await time.pass_by(5.0)
        throttle.overloaded(2.0)
        throttle.overloaded(20.0)
        await time.pass_by(5.0)
        assert (calls.in_flight, time.asked) == (0, [10.0, 15.0])
        await time.pass_by(15.0)
        assert calls.in_flight == 1
        await calls.end(1)


async def test_retry_after_is_bounded_to_five_minutes() -> None:
    """A server that asks for a day is asked again after five minutes."""
    time = Time()
    async with anyio.create_task_group() as tasks:
        throttle = throttle_at(8, time)
        throttle.overloaded(86_400.0)
        calls = Calls(throttle, tasks)
        await calls.begin(1)
        await time.pass_by(300.0)
        assert (calls.in_flight, time.asked) == (1, [300.0])
        await calls.end(1)


async def test_a_failing_call_gives_its_slot_back() -> None:
    """An error or a cancellation inside leaves the slot free for the next."""
    throttle = throttle_at(1, Time())

    async def fail(end: Callable[[], Awaitable[None]]) -> None:
        async with throttle.slot():
            await end()

    async def breaks() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await fail(breaks)
    with anyio.CancelScope() as scope:

        async def is_cancelled() -> None:
            scope.cancel()
            await anyio.sleep_forever()

        await fail(is_cancelled)
    assert scope.cancelled_caught
    async with anyio.create_task_group() as tasks:
        calls = Calls(throttle, tasks)
        await calls.begin(2)
        assert calls.in_flight == 1
        await calls.end(2)


async def test_lives_in_real_time_by_default() -> None:
    """Without a clock given it uses the loop's, and a wish of no seconds is none."""
    throttle = Throttle(2)
    throttle.overloaded(0.0)
    async with throttle.slot():
        assert throttle.limit == 1
