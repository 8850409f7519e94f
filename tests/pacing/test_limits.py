"""The throttle, the adaptive limit and the rate limit."""

from collections.abc import Awaitable, Callable
from itertools import pairwise
from math import inf

import anyio
import pytest
from anyio import wait_all_tasks_blocked
from anyio.abc import TaskGroup
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patience import COMMAND, in_time

from asyncimport.errors import UsageError
from asyncimport.model.option import bytes_of
from asyncimport.pacing.adaptive import AdaptiveLimit
from asyncimport.pacing.concurrency import Slot, Throttle
from asyncimport.pacing.rate_limit import RateLimit

pytestmark = pytest.mark.anyio


class Time:
    """A clock that a test sets, and a sleep that follows it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.asked: list[float] = []
        self._moved = anyio.Event()

    def clock(self) -> float:
        """Return the time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Sleep until `pass_by` has moved the clock."""
        self.asked.append(seconds)
        until = self.now + seconds
        while self.now < until:
            await self._moved.wait()

    async def pass_by(self, seconds: float) -> None:
        """Move the clock, and let all tasks run that waited for it."""
        self.now += seconds
        moved, self._moved = self._moved, anyio.Event()
        moved.set()
        await wait_all_tasks_blocked()


class Calls:
    """Calls in flight under a throttle, each until the test ends it."""

    def __init__(self, throttle: Throttle, tasks: TaskGroup) -> None:
        self._throttle = throttle
        self._tasks = tasks
        self._in_flight: list[anyio.Event] = []

    @property
    def in_flight(self) -> int:
        """Return how many calls hold a slot."""
        return len(self._in_flight)

    async def begin(self, number: int) -> None:
        """Start calls, and wait until each holds a slot or waits for one."""
        for _ in range(number):
            self._tasks.start_soon(self._call)
        await wait_all_tasks_blocked()

    async def end(self, number: int, note: Callable[[], None] = lambda: None) -> None:
        """End the oldest calls one by one, and call `note` for each."""
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
    """Make a throttle with this clock."""
    return Throttle(ceiling, sleep=time.sleep, clock=time.clock)


def succeed(throttle: Throttle, times: int) -> None:
    """Record successes."""
    for _ in range(times):
        throttle.record_success()


async def test_overload_halves_once_a_second() -> None:
    """The limit halves once a second at most, however many calls report the overload."""
    time = Time()
    throttle = throttle_at(16, time)
    limits = []
    for pause in (0.0, 0.0, 0.5, 0.4, 0.25, 1.0):
        time.now += pause
        throttle.slow_down()
        limits.append(throttle.limit)
    assert limits == [8, 8, 8, 8, 4, 2]


@pytest.mark.parametrize(("ceiling", "expected"), [(1, [1, 1, 1]), (2, [1, 1, 1]), (5, [2, 1, 1])])
async def test_limit_never_falls_below_one(ceiling: int, expected: list[int]) -> None:
    """One call always remains, to notice when the server is back."""
    time = Time()
    throttle = throttle_at(ceiling, time)
    limits = []
    for _ in expected:
        throttle.slow_down()
        limits.append(throttle.limit)
        time.now += 1.0
    assert limits == expected


async def test_each_full_round_of_successes_adds_one() -> None:
    """The limit grows by one after as many successes as it allows calls, up to the ceiling."""
    time = Time()
    throttle = throttle_at(8, time)
    throttle.slow_down()
    grown = []
    for successes in (3, 1, 4, 1, 6, 7, 100):
        succeed(throttle, successes)
        grown.append(throttle.limit)
    assert grown == [4, 5, 5, 6, 7, 8, 8]


async def test_a_cut_restarts_the_round() -> None:
    """Successes before a cut do not count towards the growth after it."""
    time = Time()
    throttle = throttle_at(16, time)
    throttle.slow_down()
    succeed(throttle, 7)
    time.now += 1.0
    throttle.slow_down()
    succeed(throttle, 3)
    assert throttle.limit == 4
    succeed(throttle, 1)
    assert throttle.limit == 5


async def test_an_overload_within_a_second_of_a_cut_does_not_restart_the_round() -> None:
    """A report within a second of a cut is about the same overload."""
    time = Time()
    throttle = throttle_at(4, time)
    throttle.slow_down()
    succeed(throttle, 1)
    throttle.slow_down()
    succeed(throttle, 1)
    assert throttle.limit == 3


async def test_no_more_calls_are_in_flight_than_slots() -> None:
    """With any number of workers, each call that ends lets one more in."""
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
    """After a cut, no call begins until fewer are in flight than the new limit."""
    time = Time()
    async with anyio.create_task_group() as tasks:
        throttle = throttle_at(8, time)
        calls = Calls(throttle, tasks)
        await calls.begin(20)
        throttle.slow_down()
        assert (throttle.limit, calls.in_flight) == (4, 8)
        await calls.end(4)
        assert calls.in_flight == 4
        await calls.end(1)
        assert calls.in_flight == 4
        while calls.in_flight:
            await calls.end(1)


async def test_calls_from_before_a_cut_do_not_raise_the_limit() -> None:
    """Successes of calls that began before a cut say nothing about the new limit."""
    time = Time()
    async with anyio.create_task_group() as tasks:
        throttle = throttle_at(8, time)
        calls = Calls(throttle, tasks)
        await calls.begin(20)
        for _ in range(3):
            throttle.slow_down()
            time.now += 1.0
        assert (throttle.limit, calls.in_flight) == (1, 8)
        for left in (7, 6, 5, 4, 3, 2):
            await calls.end(1, throttle.record_success)
            assert (throttle.limit, calls.in_flight) == (1, left)
        await calls.end(1, throttle.record_success)
        assert (throttle.limit, calls.in_flight) == (2, 2)
        while calls.in_flight:
            await calls.end(1, throttle.record_success)


async def test_growth_lets_waiting_calls_in() -> None:
    """When the limit grows, a call that waits begins at once."""
    time = Time()
    async with anyio.create_task_group() as tasks:
        throttle = throttle_at(2, time)
        throttle.slow_down()
        calls = Calls(throttle, tasks)
        await calls.begin(4)
        assert calls.in_flight == 1
        throttle.record_success()
        await wait_all_tasks_blocked()
        assert calls.in_flight == 2
        while calls.in_flight:
            await calls.end(1)


async def test_retry_after_holds_back_every_call() -> None:
    """No call begins before a Retry-After is over, whichever call received it."""
    time = Time()
    async with anyio.create_task_group() as tasks:
        throttle = throttle_at(8, time)
        throttle.slow_down(10.0)
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


async def test_a_later_retry_after_extends_the_wait() -> None:
    """A longer Retry-After also holds for calls that already wait; a shorter one changes nothing."""
    time = Time()
    async with anyio.create_task_group() as tasks:
        throttle = throttle_at(8, time)
        throttle.slow_down(10.0)
        calls = Calls(throttle, tasks)
        await calls.begin(1)
        await time.pass_by(5.0)
        throttle.slow_down(2.0)
        throttle.slow_down(20.0)
        await time.pass_by(5.0)
        assert (calls.in_flight, time.asked) == (0, [10.0, 15.0])
        await time.pass_by(15.0)
        assert calls.in_flight == 1
        await calls.end(1)


async def test_retry_after_is_bounded_to_five_minutes() -> None:
    """A server that asks for a day is called again after five minutes."""
    time = Time()
    async with anyio.create_task_group() as tasks:
        throttle = throttle_at(8, time)
        throttle.slow_down(86_400.0)
        calls = Calls(throttle, tasks)
        await calls.begin(1)
        await time.pass_by(300.0)
        assert (calls.in_flight, time.asked) == (1, [300.0])
        await calls.end(1)


async def test_a_failing_call_releases_its_slot() -> None:
    """After an error or a cancellation the next call gets the slot."""
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


async def test_the_default_clock_is_the_real_time() -> None:
    """A Retry-After of 0 s holds nothing back."""
    throttle = Throttle(2)
    throttle.slow_down(0.0)
    async with throttle.slot():
        assert throttle.limit == 1


async def test_calls_that_follow_each_other_share_a_slot() -> None:
    """The slot is kept between two calls, unless it is over the limit since a cut."""
    time = Time()
    throttle = throttle_at(2, time)
    turns: list[str] = []

    async def calls(name: str, go_on: anyio.Event) -> None:
        with throttle.slot() as slot:
            await slot.wait_turn()
            turns.append(name)
            await go_on.wait()
            await slot.wait_turn()
            turns.append(name)

    async with anyio.create_task_group() as tasks:
        first, second = anyio.Event(), anyio.Event()
        tasks.start_soon(calls, "first", first)
        tasks.start_soon(calls, "second", second)
        await wait_all_tasks_blocked()
        throttle.slow_down()
        assert throttle.is_over_limit
        first.set()
        await wait_all_tasks_blocked()
        assert turns == ["first", "second"]
        assert not throttle.is_over_limit
        second.set()
        await wait_all_tasks_blocked()
        assert turns == ["first", "second", "second", "first"]


async def test_a_released_slot_is_acquired_again() -> None:
    """During backoff another call uses the slot."""
    throttle = throttle_at(1, Time())
    async with throttle.slot() as slot:
        slot.release()
        slot.release()
        async with anyio.create_task_group() as tasks:
            calls = Calls(throttle, tasks)
            await calls.begin(1)
            assert calls.in_flight == 1
            tasks.start_soon(slot.wait_turn)
            await wait_all_tasks_blocked()
            assert not throttle.try_acquire()
            await calls.end(1)
        assert not throttle.try_acquire()
    assert throttle.try_acquire()


async def test_a_retry_after_holds_back_the_next_call_of_a_slot() -> None:
    """A slot that is kept between calls waits too."""
    time = Time()
    throttle = throttle_at(2, time)
    async with throttle.slot() as slot, anyio.create_task_group() as tasks:
        throttle.slow_down(10.0)
        tasks.start_soon(slot.wait_turn)
        await wait_all_tasks_blocked()
        assert time.asked == [10.0]
        await time.pass_by(10.0)


@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_no_slot_is_lost_when_a_waiting_call_is_cancelled(cancelled_first: bool) -> None:
    """A slot that is assigned at the moment of a cancellation goes to the next call."""
    throttle = throttle_at(1, Time())
    assert throttle.try_acquire()
    async with anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()

        async def gives_up() -> None:
            with scope:
                async with throttle.slot():
                    await anyio.sleep_forever()

        tasks.start_soon(gives_up)
        await wait_all_tasks_blocked()
        calls = Calls(throttle, tasks)
        await calls.begin(1)
        for happens in (scope.cancel, throttle.release) if cancelled_first else (throttle.release, scope.cancel):
            happens()
        await wait_all_tasks_blocked()
        assert calls.in_flight == 1
        await calls.end(1)
    assert throttle.try_acquire()


async def test_no_slot_is_lost_when_a_call_is_cancelled_in_a_retry_after() -> None:
    """A call that is cancelled while it waits releases its slot."""
    time = Time()
    throttle = throttle_at(1, time)
    throttle.slow_down(60.0)
    with anyio.move_on_after(0.01) as scope:
        async with throttle.slot():
            raise AssertionError
    assert scope.cancelled_caught
    assert throttle.try_acquire()


class Actions:
    """Tasks under a throttle, and random actions on them."""

    def __init__(self, throttle: Throttle, time: Time, tasks: TaskGroup) -> None:
        self.throttle = throttle
        self._time = time
        self._tasks = tasks
        self._scopes: dict[int, anyio.CancelScope] = {}
        self._ends: dict[int, anyio.Event] = {}
        self._turns: dict[int, anyio.Event] = {}
        self._holding: set[int] = set()
        self._count = 0

    @property
    def holding(self) -> int:
        """Return how many tasks hold a slot."""
        return len(self._holding)

    @property
    def waiting(self) -> int:
        """Return how many tasks wait for a slot."""
        return len(self._scopes) - len(self._holding)

    async def do(self, what: str, which: int) -> None:
        """Do one action, on one of the tasks where it needs one."""
        names = sorted(self._scopes)
        name = names[which % len(names)] if names else None
        match what:
            case "begin":
                self._count += 1
                self._tasks.start_soon(self._task, self._count)
            case "succeed":
                self.throttle.record_success()
            case "overload":
                self.throttle.slow_down()
            case "wait":
                await self._time.pass_by(1.0)
            case "cancel" if name is not None:
                self._scopes[name].cancel()
            case "end" if name is not None:
                self._ends[name].set()
                self._turns[name].set()
            case "turn" if name is not None:
                self._turns[name].set()

    async def end(self) -> None:
        """End all tasks."""
        while self._scopes:
            for name in sorted(self._scopes):
                await self.do("end", sorted(self._scopes).index(name))
            await wait_all_tasks_blocked()

    async def _task(self, name: int) -> None:
        self._ends[name], self._turns[name] = anyio.Event(), anyio.Event()
        with anyio.CancelScope() as self._scopes[name]:
            async with self.throttle.slot() as slot:
                await self._at_work(name, slot)
        del self._scopes[name]

    async def _at_work(self, name: int, slot: Slot) -> None:
        try:
            while not self._ends[name].is_set():
                self._holding.add(name)
                await self._turns[name].wait()
                self._turns[name] = anyio.Event()
                self._holding.discard(name)
                await slot.wait_turn()
        finally:
            self._holding.discard(name)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ceiling=st.integers(1, 6),
    actions=st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(["begin", "begin", "end", "turn", "cancel", "succeed", "overload", "wait"]),
                st.integers(0, 20),
            ),
            max_size=6,
        ),
        max_size=12,
    ),
)
def test_whatever_happens_no_slot_is_lost(ceiling: int, actions: list[list[tuple[str, int]]]) -> None:
    """After any sequence of actions, no task waits while a slot is free, and in the end all slots are free."""

    async def live() -> None:
        time = Time()
        throttle = throttle_at(ceiling, time)
        async with anyio.create_task_group() as tasks:
            doing = Actions(throttle, time, tasks)
            for moment in actions:
                allowed = max(doing.holding, throttle.limit)
                for what, which in moment:
                    await doing.do(what, which)
                    allowed = max(allowed, throttle.limit)
                await wait_all_tasks_blocked()
                assert doing.holding <= allowed
                assert not doing.waiting or doing.holding >= throttle.limit
            await doing.end()
        assert [throttle.try_acquire() for _ in range(ceiling + 1)].count(True) == throttle.limit

    anyio.run(live)


async def test_an_adaptive_throttle_finds_a_limit() -> None:
    """The limit begins low, grows while latency stays, and stops at the ceiling."""
    time = Time()
    throttle = Throttle(AdaptiveLimit(6, clock=time.clock), sleep=time.sleep, clock=time.clock)
    async with anyio.create_task_group() as tasks:
        calls = Calls(throttle, tasks)
        await calls.begin(8)
        assert (throttle.limit, calls.in_flight) == (3, 3)
        for _ in range(300):
            time.now += 0.1 / throttle.limit
            throttle.record_success(0.1, 1000)
        await wait_all_tasks_blocked()
        assert (throttle.limit, calls.in_flight) == (6, 6)
        while calls.in_flight:
            await calls.end(1)


async def test_a_call_that_gets_no_answer_gives_its_slot_to_another() -> None:
    """It has none then, and waits for one before its next call."""
    throttle = Throttle(AdaptiveLimit(64))
    async with throttle.slot() as quick:
        quick.record_success(1)
    stuck = [throttle.slot() for _ in range(throttle.limit)]
    for slot in stuck:
        await slot.wait_turn()
    with in_time(COMMAND):
        async with throttle.slot():
            assert throttle.in_flight == throttle.limit == 3
            stuck[0].record_success(1)
            stuck[0].release()
            assert throttle.in_flight == 3
    assert throttle.in_flight == 2
    with in_time(COMMAND):
        await stuck[0].wait_turn()
    assert throttle.in_flight == 3
    for slot in stuck:
        slot.release()
    assert throttle.in_flight == 0


async def test_the_time_between_two_calls_of_a_slot_counts() -> None:
    """Latency counts from the acquisition of the slot or the end of its last call; waiting before does not count."""
    time = Time()
    throttle = Throttle(AdaptiveLimit(64, clock=time.clock), sleep=time.sleep, clock=time.clock)
    noted: list[float] = []

    def note(seconds: float = 0.0, size: int = 0, *, is_zip: bool = False, link_seconds: float = 0.0) -> None:
        noted.append(seconds + size + is_zip + link_seconds)

    throttle.record_success = note  # type: ignore[method-assign]
    with throttle.slot() as slot:
        await slot.wait_turn()
        time.now += 1.0
        await slot.wait_turn()
        time.now += 1.0
        slot.record_success(100)
        time.now += 3.0
        await slot.wait_turn()
        slot.record_success(0)
        slot.release()
        time.now += 5.0
        await slot.wait_turn()
        slot.record_success(0)
        throttle.slow_down(10.0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(slot.wait_turn)
            await wait_all_tasks_blocked()
            await time.pass_by(10.0)
        time.now += 2.0
        slot.record_success(0)
    assert noted == [102.0, 3.0, 0.0, 2.0]


def test_seconds_per_call_is_a_moving_average() -> None:
    """It is None before the first call has ended; each later call counts an eighth."""
    throttle = Throttle(4)
    assert throttle.seconds_per_call is None
    throttle.record_success(0.8)
    assert throttle.seconds_per_call == 0.8
    throttle.record_success(1.6)
    assert throttle.seconds_per_call == pytest.approx(0.9)


async def test_an_overload_cuts_the_adaptive_limit_too() -> None:
    """It grows back by one for each full round; only then the adaptive limit measures again."""
    time = Time()
    throttle = Throttle(AdaptiveLimit(64, clock=time.clock), sleep=time.sleep, clock=time.clock)
    while throttle.limit < 20:
        while throttle.try_acquire():
            pass
        time.now += 0.1 / throttle.limit
        throttle.record_success(0.1, 1000)
    found = throttle.limit
    throttle.slow_down()
    assert throttle.limit == found // 2
    while throttle.is_over_limit:
        throttle.release()
    rounds = []
    while throttle.limit < found:
        before, successes = throttle.limit, 0
        while throttle.limit == before:
            throttle.record_success(0.1, 1000)
            successes += 1
        rounds.append((successes, throttle.limit - before))
    assert rounds == [(limit, 1) for limit in range(found // 2, found)]


class SimulatedCalls:
    """Calls under an adaptive limit, whose latency is a function of their number."""

    def __init__(self, most: int = 64, round_trip: float = 0.0) -> None:
        self.now = 0.0
        self.link_seconds = 0.0
        self.adaptive = AdaptiveLimit(most, round_trip=round_trip, clock=lambda: self.now)
        self.limits = [self.adaptive.limit]

    def run(
        self,
        seconds: Callable[[int], float],
        *,
        until: float,
        size: int = 1000,
        full: bool = True,
        beside_link: float = inf,
        ends: Callable[[int], bool] = lambda _: False,
    ) -> list[int]:
        """Let calls end for `until` seconds; return the limits. All but `beside_link` seconds wait for the link.

        It `ends` sooner at a limit.
        """
        end, self.limits = self.now + until, [self.adaptive.limit]
        while self.now < end and not ends(self.adaptive.limit):
            took = seconds(self.adaptive.limit)
            self.now += took / self.adaptive.limit
            self.link_seconds += max(0.0, took - beside_link)
            self.adaptive.record_success(took, size, is_full=full, link_seconds=self.link_seconds)
            if self.adaptive.limit != self.limits[-1]:
                self.limits.append(self.adaptive.limit)
        return self.limits


def server(base_latency: float, rate: float) -> Callable[[int], float]:
    """Return the latency of a server with a throughput of `rate` and a latency of `base_latency` without a queue."""
    return lambda limit: max(base_latency, limit / rate)


def test_the_limit_nearly_doubles_while_latency_stays() -> None:
    """It grows up to the highest limit."""
    assert SimulatedCalls().run(lambda _: 0.1, until=10) == [3, 5, 9, 17, 33, 64]


def test_the_limit_grows_slowly_after_a_queue_was_seen() -> None:
    """It grows by about a third at a time."""
    calls = SimulatedCalls()
    calls.run(server(0.1, 100), until=20)
    limits = calls.run(lambda _: 0.1, until=20)
    assert limits[-1] == 64
    assert all(before < after <= 1.3 * before + 1.5 for before, after in pairwise(limits))


@pytest.mark.parametrize("capacity", [3, 10, 16, 40])
def test_the_limit_settles_a_little_above_the_capacity(capacity: int) -> None:
    """It settles 30 % above the capacity plus one, so that the server never idles."""
    calls = SimulatedCalls()
    calls.run(server(0.05, capacity / 0.05), until=20)
    assert calls.adaptive.limit in range(capacity + 1, int(1.3 * capacity + 1.5) + 1)
    assert max(calls.run(server(0.05, capacity / 0.05), until=60)) <= 1.3 * capacity + 1.5


def test_a_probe_ends_at_the_known_latency() -> None:
    """With fewer calls the server would idle for nothing."""
    assert SimulatedCalls().run(server(0.05, 8.6 / 0.05), until=3)[:6] == [3, 5, 9, 17, 8, 12]


def test_no_probe_follows_a_fresh_measurement() -> None:
    """While the limit grew, latency was measured without a queue; the next probe comes later."""
    calls = SimulatedCalls()
    assert calls.run(server(0.05, 11.5 / 0.05), until=8) == [3, 5, 9, 17, 16]
    assert calls.run(server(0.05, 11.5 / 0.05), until=12) == [16, 8, 16]


def test_quick_calls_may_queue() -> None:
    """For calls under 7.5 ms the client is the bottleneck, and works more efficiently with more in flight."""
    assert SimulatedCalls().run(server(0.0005, 3_000), until=8) == [3, 5, 22]
    assert SimulatedCalls().run(server(0.0005, 30_000), until=8) == [3, 5, 9, 17, 64]


@pytest.mark.parametrize(("round_trip", "limit"), [(0.0, 3), (0.002, 3), (0.03, 6), (0.1, 13), (0.5, 16)])
def test_the_first_limit_follows_the_round_trip(round_trip: float, limit: int) -> None:
    """A server that is far away takes more calls, and to find that out takes long."""
    assert SimulatedCalls(round_trip=round_trip).limits == [limit]
    assert AdaptiveLimit(4, round_trip=round_trip).limit == min(limit, 4)


def test_a_full_link_is_not_emptied_by_probes() -> None:
    """Calls that wait for it show that it is full, however slow they are, and no server waits with them."""
    calls = SimulatedCalls()
    link = server(0.05, 8.6 / 0.05)
    limits = calls.run(link, until=120, beside_link=0.04)
    assert limits[:4] == [3, 5, 9, 17]
    # A few more are tried now and then, which carry no more.
    assert limits[4:] == [26, 17] * (len(limits[4:]) // 2)
    assert len(limits) <= 16
    # It becomes slower: the limit stays, as long as few calls wait.
    assert set(calls.run(server(0.05, 7 / 0.05), until=60, beside_link=0.04)) <= {17, 26}
    # A server that is the limit is measured.
    assert min(calls.run(server(0.05, 7 / 0.05), until=60)) == 5


def test_a_crowded_link_loses_slots_that_only_wait() -> None:
    """Sixteen that wait are left: others keep the link from those who use it too, and a stop would wait for them."""
    calls = SimulatedCalls()
    calls.run(lambda _: 0.1, until=10)
    limits = calls.run(server(0.1, 20), until=120, beside_link=0.09)
    assert limits[0] == 64
    settled = limits[limits.index(17) :]
    assert len(settled) in range(5, 13)
    assert settled == [17, 26] * (len(settled) // 2) + [17], "a few more are tried, and carry no more"


def test_a_link_whose_connections_have_a_share_each_gets_more_calls() -> None:
    """It loses packets: calls take longer than the first ones did, as windows have shrunk, however many there are."""
    calls = SimulatedCalls()
    calls.run(lambda _: 0.03, until=1, ends=lambda limit: limit == 9)
    calls.run(lambda _: 0.1, until=60, beside_link=0.02)
    assert calls.adaptive.limit == 64
    # Without the link it is the server that takes longer, which a probe finds out.
    calls.run(server(0.1, 100), until=60)
    assert calls.adaptive.limit in range(10, 16)


def test_more_calls_on_a_link_end_with_an_overload() -> None:
    """The trial may be what overloads the server."""
    calls = SimulatedCalls()
    calls.run(server(0.05, 8.6 / 0.05), until=10, beside_link=0.04)
    calls.run(server(0.05, 8.6 / 0.05), until=60, beside_link=0.04, ends=lambda limit: limit == 26)
    calls.adaptive.restart()
    assert calls.adaptive.limit == 17


def test_the_limit_is_at_least_three() -> None:
    """While one call is in flight, the client reads and records others."""
    calls = SimulatedCalls()
    calls.run(server(0.05, 20), until=30)
    assert calls.adaptive.limit == 3


@pytest.mark.parametrize(
    ("before", "after", "seconds", "limits"),
    [
        # Latency that halves with the limit shows a queue.
        pytest.param((0.05, 600), (0.05, 100), 10, range(6, 9), id="server that loses capacity"),
        # Latency that stays at half the limit shows a slower network, which takes more calls.
        pytest.param((0.02, 500), (0.1, 500), 20, range(50, 65), id="network that becomes slower"),
        # The old latency is forgotten: fewer calls fill the server now.
        pytest.param((0.1, 500), (0.02, 500), 20, range(10, 16), id="server that becomes faster"),
    ],
)
def test_the_limit_follows_what_changes(
    before: tuple[float, float], after: tuple[float, float], seconds: float, limits: range
) -> None:
    """Latency and capacity change under way."""
    calls = SimulatedCalls()
    calls.run(server(*before), until=20)
    assert calls.run(server(*after), until=seconds)[-1] in limits


def test_one_slow_measurement_does_not_lower_the_limit() -> None:
    """A pause of the client makes calls slow once."""
    calls = SimulatedCalls()
    calls.run(lambda _: 0.1, until=20)
    calls.run(lambda _: 2.0, until=1.0)
    assert set(calls.run(lambda _: 0.1, until=4.0)) == {64}


def test_unused_slots_do_not_raise_the_limit() -> None:
    """While the scan finds fewer files than there are slots, the limit stays."""
    calls = SimulatedCalls()
    assert calls.run(lambda _: 0.1, until=60, full=False) == [3]


def test_latency_is_compared_within_a_size_class() -> None:
    """Large files take longer, and do not lower the limit."""
    calls = SimulatedCalls()
    for number in range(4000):
        size, took = (20_000, 0.05) if number // 50 % 2 else (500_000, 0.4)
        calls.now += took / calls.adaptive.limit
        calls.adaptive.record_success(took, size)
    assert calls.adaptive.limit == 64


def test_an_overload_ends_a_probe() -> None:
    """The limit is again what it was before the probe, and the throttle cuts that."""
    calls = SimulatedCalls()
    limits = calls.run(server(0.05, 200), until=5)
    steady = max(limits)
    while calls.adaptive.limit > steady // 2:
        calls.run(server(0.05, 200), until=0.1)
    calls.adaptive.restart()
    assert calls.adaptive.limit > steady // 2 + 1


async def test_all_calls_together_keep_to_the_rate() -> None:
    """Each call waits until all bytes before its own have had their time; unused time is not made up for."""
    time = Time()
    rate = RateLimit(1000.0, sleep=time.sleep, clock=time.clock)
    ended: list[float] = []

    async def acquire(size: int) -> None:
        await rate.acquire(size)
        ended.append(time.now)

    async with anyio.create_task_group() as tasks:
        for size in (2100, 3000, 1000):
            tasks.start_soon(acquire, size)
        await wait_all_tasks_blocked()
        for _ in range(10):
            await time.pass_by(1.0)
    assert ended == [100.0, 102.0, 105.0]
    time.asked.clear()
    await rate.acquire(1100)
    assert time.asked == []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rate.acquire, 1)
        await wait_all_tasks_blocked()
        assert time.asked == [pytest.approx(1.0)]
        await time.pass_by(1.1)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("500000", 5e5),
        ("500kB", 5e5),
        ("20MB", 2e7),
        ("20m", 2e7),
        ("20MB/s", 2e7),
        ("10GiB/s", 10 * 2**30),
        ("1.5 GB", 1.5e9),
        ("1T", 1e12),
        ("16MiB", 16 * 2**20),
        ("7b", 7),
    ],
)
def test_sizes(text: str, size: float) -> None:
    """Sizes are written as people write them."""
    assert bytes_of(text, "--max-rate") == size


@pytest.mark.parametrize("text", ["", "fast", "0", "0MB", "-1", "20MB/h", "20Mbit/s", "MB", "5ib", "1e3"])
def test_invalid_sizes(text: str) -> None:
    """The error names the option, and shows how to write it."""
    with pytest.raises(UsageError, match="--max-rate") as caught:
        bytes_of(text, "--max-rate")
    assert caught.value.hint


def test_an_overload_lets_no_call_begin_where_another_process_allows_none() -> None:
    """Its share is in use elsewhere."""
    throttle = Throttle(4)
    throttle.allow(0)
    throttle.slow_down()
    assert throttle.limit == 0
    throttle.allow(2)
    assert throttle.limit == 2
