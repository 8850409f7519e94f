"""The throttle: cut by overload, grown by success, and never more in flight than it allows; the knee; the rate."""

from collections.abc import Awaitable, Callable
from itertools import pairwise

import anyio
import pytest
from anyio import wait_all_tasks_blocked
from anyio.abc import TaskGroup
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncimport.errors import UsageError
from asyncimport.model.option import bytes_of
from asyncimport.pacing.adaptive import AdaptiveLimit
from asyncimport.pacing.bandwidth import RateLimit
from asyncimport.pacing.concurrency import Slot, Throttle

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
        throttle.record_success()


async def test_overload_halves_once_a_second() -> None:
    """However many calls report the same trouble, the limit halves once; a second later it may halve again."""
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
    """One call at a time always remains: without it nobody would learn that the server is back."""
    time = Time()
    throttle = throttle_at(ceiling, time)
    limits = []
    for _ in expected:
        throttle.slow_down()
        limits.append(throttle.limit)
        time.now += 1.0
    assert limits == expected


async def test_each_full_round_of_successes_adds_one() -> None:
    """The limit grows by one after as many successes as it allows calls, up to the ceiling and no further."""
    time = Time()
    throttle = throttle_at(8, time)
    throttle.slow_down()
    grown = []
    for successes in (3, 1, 4, 1, 6, 7, 100):
        succeed(throttle, successes)
        grown.append(throttle.limit)
    assert grown == [4, 5, 5, 6, 7, 8, 8]


async def test_overload_begins_the_round_anew() -> None:
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


async def test_an_overload_that_does_not_cut_leaves_the_round_alone() -> None:
    """A report within the second of a cut is the same trouble, and takes back nothing."""
    time = Time()
    throttle = throttle_at(4, time)
    throttle.slow_down()
    succeed(throttle, 1)
    throttle.slow_down()
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
        throttle.slow_down()
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
    """A Retry-After is the whole server's wish: no call begins before its time, whichever of them met it."""
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


async def test_a_later_wish_prolongs_the_wait() -> None:
    """A longer Retry-After counts from when it comes, also for calls that wait already; a shorter one does not."""
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
    """A server that asks for a day is asked again after five minutes."""
    time = Time()
    async with anyio.create_task_group() as tasks:
        throttle = throttle_at(8, time)
        throttle.slow_down(86_400.0)
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
    throttle.slow_down(0.0)
    async with throttle.slot():
        assert throttle.limit == 1


async def test_a_slot_serves_calls_that_follow_each_other() -> None:
    """Between two calls it is kept, but for a slot that is one too many since a cut: that one waits for its turn."""
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


async def test_a_slot_that_is_given_back_is_had_again() -> None:
    """Who waits to repeat a call holds no slot meanwhile, and waits for one like everybody else."""
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
    """It holds for the calls of a slot that is held already."""
    time = Time()
    throttle = throttle_at(2, time)
    async with throttle.slot() as slot, anyio.create_task_group() as tasks:
        throttle.slow_down(10.0)
        tasks.start_soon(slot.wait_turn)
        await wait_all_tasks_blocked()
        assert time.asked == [10.0]
        await time.pass_by(10.0)


@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_no_slot_is_lost_to_who_is_cancelled_just_then(cancelled_first: bool) -> None:
    """A slot that is given at the moment of a cancellation goes to the next who waits."""
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


async def test_no_slot_is_lost_to_who_is_cancelled_in_a_retry_after() -> None:
    """Who is cancelled while the server wants to be left alone gives the slot back."""
    time = Time()
    throttle = throttle_at(1, time)
    throttle.slow_down(60.0)
    with anyio.move_on_after(0.01) as scope:
        async with throttle.slot():
            raise AssertionError
    assert scope.cancelled_caught
    assert throttle.try_acquire()


class Doings:
    """Tasks under a throttle, and what can happen to them."""

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
        """How many are at work."""
        return len(self._holding)

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return len(self._scopes) - len(self._holding)

    async def do(self, what: str, which: int) -> None:
        """Do one thing, to one of the tasks if it is done to a task."""
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
        """Let all come to their end."""
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


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ceiling=st.integers(1, 6),
    doings=st.lists(
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
def test_whatever_happens_no_slot_is_lost(ceiling: int, doings: list[list[tuple[str, int]]]) -> None:
    """Things happen, several at the same moment: nobody waits while there is a slot, and in the end all are free."""

    async def live() -> None:
        time = Time()
        throttle = throttle_at(ceiling, time)
        async with anyio.create_task_group() as tasks:
            doing = Doings(throttle, time, tasks)
            for moment in doings:
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


async def test_without_a_number_it_finds_one() -> None:
    """It begins with few, lets more in as long as they take no longer, and stops at the ceiling."""
    time = Time()
    throttle = Throttle(6, adaptive=True, sleep=time.sleep, clock=time.clock)
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


async def test_what_a_slot_is_occupied_with_counts() -> None:
    """From its being taken on, or the end of its last call; what it waited for before is not its own."""
    time = Time()
    throttle = Throttle(64, adaptive=True, sleep=time.sleep, clock=time.clock)
    noted: list[float] = []
    throttle.record_success = lambda seconds=0.0, size=0: noted.append(seconds + size)  # type: ignore[method-assign]
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


def test_the_pace_is_that_of_the_last_calls() -> None:
    """Nobody knows it before a call has ended; then each call counts an eighth."""
    throttle = Throttle(4)
    assert throttle.seconds_per_call is None
    throttle.record_success(0.8)
    assert throttle.seconds_per_call == 0.8
    throttle.record_success(1.6)
    assert throttle.seconds_per_call == pytest.approx(0.9)


async def test_an_overload_cuts_what_was_found_too() -> None:
    """Then it grows back by one for each full round, and only what was found again is a reason to find out more."""
    time = Time()
    throttle = Throttle(64, adaptive=True, sleep=time.sleep, clock=time.clock)
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


class Line:
    """Calls under a knee that all take as long as a function of their number says."""

    def __init__(self, most: int = 64) -> None:
        self.now = 0.0
        self.knee = AdaptiveLimit(most, clock=lambda: self.now)
        self.limits = [self.knee.limit]

    def run(self, seconds: Callable[[int], float], *, until: float, size: int = 1000, full: bool = True) -> list[int]:
        """Let calls end until so many seconds have passed; return the limits there were."""
        end, self.limits = self.now + until, [self.knee.limit]
        while self.now < end:
            took = seconds(self.knee.limit)
            self.now += took / self.knee.limit
            self.knee.record_success(took, size, is_full=full)
            if self.knee.limit != self.limits[-1]:
                self.limits.append(self.knee.limit)
        return self.limits


def server(unhurried: float, rate: float) -> Callable[[int], float]:
    """Return what calls take at a server that takes so many a second, and so long for each if it is alone."""
    return lambda limit: max(unhurried, limit / rate)


def test_it_grows_as_long_as_calls_take_no_longer() -> None:
    """At first by nearly twice as many each time, up to the bound."""
    assert Line().run(lambda _: 0.1, until=10) == [3, 5, 9, 17, 33, 64]


def test_it_grows_with_care_once_it_has_seen_a_queue() -> None:
    """By a third or so each time, so as not to overshoot."""
    line = Line()
    line.run(server(0.1, 100), until=20)
    limits = line.run(lambda _: 0.1, until=20)
    assert limits[-1] == 64
    assert all(before < after <= 1.3 * before + 1.5 for before, after in pairwise(limits))


@pytest.mark.parametrize("knee", [3, 10, 16, 40])
def test_it_stops_a_little_above_the_knee(knee: int) -> None:
    """Three in ten above, and one: so that the server always has something to do."""
    line = Line()
    line.run(server(0.05, knee / 0.05), until=20)
    assert line.knee.limit in range(knee + 1, int(1.3 * knee + 1.5) + 1)
    assert max(line.run(server(0.05, knee / 0.05), until=60)) <= 1.3 * knee + 1.5


def test_a_probe_goes_no_deeper_than_it_must() -> None:
    """Where calls take just what is known to be unhurried, fewer of them would leave the server idle for nothing."""
    assert Line().run(server(0.05, 8.6 / 0.05), until=3)[:6] == [3, 5, 9, 17, 8, 12]


def test_what_has_just_been_measured_needs_no_probe() -> None:
    """While it grew, calls took what they take unhurried; only after a while there is reason to look again."""
    line = Line()
    assert line.run(server(0.05, 11.5 / 0.05), until=8) == [3, 5, 9, 17, 16]
    assert line.run(server(0.05, 11.5 / 0.05), until=12) == [16, 8, 16]


def test_quick_calls_may_wait_for_each_other() -> None:
    """What all of them take is 7.5 ms: it is the client that is full, and more at a time is less work for it."""
    assert Line().run(server(0.0005, 3_000), until=8) == [3, 5, 22]
    assert Line().run(server(0.0005, 30_000), until=8) == [3, 5, 9, 17, 64]


def test_one_at_a_time_is_never_aimed_at() -> None:
    """While one is on its way, the client reads and settles others."""
    line = Line()
    line.run(server(0.05, 20), until=30)
    assert line.knee.limit == 3


def test_it_follows_a_server_that_takes_fewer() -> None:
    """A queue is told by what happens at half the limit: there, calls take half as long."""
    line = Line()
    line.run(server(0.05, 600), until=20)
    limits = line.run(server(0.05, 100), until=10)
    assert limits[-1] in range(6, 9)


def test_it_follows_a_way_that_becomes_longer() -> None:
    """Calls that take longer at half the limit as well do not wait for each other: more of them are worth it."""
    line = Line()
    line.run(server(0.02, 500), until=20)
    limits = line.run(server(0.1, 500), until=20)
    assert limits[-1] >= 50


def test_it_follows_a_server_that_becomes_quicker() -> None:
    """What calls took before is forgotten: far fewer of them fill the server now."""
    line = Line()
    line.run(server(0.1, 500), until=20)
    limits = line.run(server(0.02, 500), until=20)
    assert limits[-1] in range(10, 16)


def test_one_odd_measure_is_no_alarm() -> None:
    """A pause of the client's, say, makes calls slow for once; the limit does not follow."""
    line = Line()
    line.run(lambda _: 0.1, until=20)
    line.run(lambda _: 2.0, until=1.0)
    assert set(line.run(lambda _: 0.1, until=4.0)) == {64}


def test_slots_that_are_not_at_work_do_not_want_more() -> None:
    """When the scan brings fewer than there are slots, there are enough."""
    line = Line()
    assert line.run(lambda _: 0.1, until=60, full=False) == [3]


def test_large_files_may_take_longer() -> None:
    """A call is compared with those of files of its size."""
    line = Line()
    for number in range(4000):
        size, took = (20_000, 0.05) if number // 50 % 2 else (500_000, 0.4)
        line.now += took / line.knee.limit
        line.knee.record_success(took, size)
    assert line.knee.limit == 64


def test_trouble_in_a_probe_ends_it() -> None:
    """Then the limit is what it was before the probe, for the throttle to cut."""
    line = Line()
    limits = line.run(server(0.05, 200), until=5)
    steady = max(limits)
    while line.knee.limit > steady // 2:
        line.run(server(0.05, 200), until=0.1)
    line.knee.restart()
    assert line.knee.limit > steady // 2 + 1


async def test_a_rate_is_kept_by_all_together() -> None:
    """Each waits until what went before has had its time; what was not used is not made up for."""
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
        ("1.5 GB", 1.5e9),
        ("1T", 1e12),
        ("16MiB", 16 * 2**20),
        ("7b", 7),
    ],
)
def test_sizes(text: str, size: float) -> None:
    """Sizes are written as people write them."""
    assert bytes_of(text, "--max-rate") == size


@pytest.mark.parametrize("text", ["", "fast", "0", "0MB", "-1", "20MB/s", "20Mbit", "MB", "5ib"])
def test_what_is_no_size(text: str) -> None:
    """The error names the option, and shows how to write it."""
    with pytest.raises(UsageError, match="--max-rate") as caught:
        bytes_of(text, "--max-rate")
    assert caught.value.hint
