"""Servers and a client in a virtual time: what a limit of calls in flight makes of them, without waiting.

A discrete-event simulation. What happens is a generator that yields the seconds until it goes on. It waits for
stations, which serve so many at a time in the order of arrival, and for places in a pool. All randomness is seeded.
"""

import heapq
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from math import inf
from random import Random

from asyncimport.pacing.concurrency import Throttle

Steps = Generator[float, None, None]
Sizes = Callable[[Random], int]


class Clock:
    """A virtual clock, in seconds, with a queue of events."""

    def __init__(self) -> None:
        self.now = 0.0
        self._agenda: list[tuple[float, int, Steps]] = []
        self._count = 0
        self._current: Steps | None = None

    def time(self) -> float:
        """Return the time."""
        return self.now

    def start(self, steps: Steps) -> None:
        """Start a process now."""
        self._count += 1
        heapq.heappush(self._agenda, (self.now, self._count, steps))

    def run(self, until: float) -> None:
        """Run all events before a time."""
        agenda = self._agenda
        while agenda and agenda[0][0] < until:
            self.now, number, steps = heapq.heappop(agenda)
            self._current = steps
            seconds = next(steps, inf)
            if seconds < inf:
                heapq.heappush(agenda, (self.now + seconds, number, steps))
        self.now = until

    @property
    def current(self) -> Steps:
        """Return the running process; after `yield inf` it goes on when it is started again."""
        assert self._current is not None
        return self._current


class Pool:
    """A pool of places that are acquired and released."""

    def __init__(self, clock: Clock, places: int) -> None:
        self._clock = clock
        self._free = places
        self._waiting: deque[Steps] = deque()

    def take(self) -> Steps:
        """Wait for a place."""
        if self._free:
            self._free -= 1
        else:
            self._waiting.append(self._clock.current)
            yield inf

    def give(self) -> None:
        """Release a place."""
        if self._waiting:
            self._clock.start(self._waiting.popleft())
        else:
            self._free += 1


class Station:
    """Serves up to `places` at a time, in the order of arrival."""

    def __init__(self, places: int) -> None:
        self._free_at = [0.0] * places

    def wait(self, now: float, seconds: float) -> float:
        """Return the seconds until a customer is served who arrives now and takes `seconds`."""
        end = max(now, self._free_at[0]) + seconds
        heapq.heapreplace(self._free_at, end)
        return end - now

    def resize(self, now: float, places: int) -> None:
        """Change the number of places; customers in service stay."""
        busy = sorted(self._free_at)[-places:]
        self._free_at = [now] * (places - len(busy)) + busy


@dataclass(frozen=True, slots=True)
class Phase:
    """What a server spends on a file, for `seconds`; all times are seconds.

    The way takes `round_trip`, and `per_megabyte` on a link that is shared in pieces. While the server is at work on a
    file, it takes one of its connections to the database. It holds the one lock for `serial`; then `parallel` passes;
    then one of `cores` works for `working`, and `anonymising` for each megabyte. `spread` is the sigma of a lognormal
    factor of mean 1 on all of these. Who finds `most` inside is refused.
    """

    name: str = ""
    seconds: float = inf
    round_trip: float = 0.0
    per_megabyte: float = 0.0
    serial: float = 0.0
    parallel: float = 0.0
    working: float = 0.0
    anonymising: float = 0.0
    cores: int = 64
    spread: float = 0.0
    most: float = inf


class Server:
    """A server with one or several phases, one after another."""

    _PIECE = 256_000

    def __init__(self, clock: Clock, phases: Sequence[Phase], rng: Random, *, connections: int = 40) -> None:
        self._clock = clock
        self._rng = rng
        self._phases = phases
        self._phase = phases[0]
        self._inside = 0
        self._link, self._lock, self._cores = Station(1), Station(1), Station(self._phase.cores)
        self._connections = Pool(clock, connections)
        clock.start(self._live())

    def _live(self) -> Steps:
        for phase in self._phases:
            self._phase = phase
            self._cores.resize(self._clock.now, phase.cores)
            yield phase.seconds

    def serve(self, size: int) -> Generator[float, None, bool]:
        """Take a file of `size` bytes; False when it is refused."""
        clock, phase = self._clock, self._phase
        if phase.round_trip:
            yield phase.round_trip / 2
        if phase.per_megabyte:
            for begin in range(0, size, self._PIECE):
                yield self._link.wait(clock.now, min(self._PIECE, size - begin) * 1e-6 * phase.per_megabyte)
        if self._inside >= phase.most:
            return False
        self._inside += 1
        yield from self._connections.take()
        factor = self._rng.lognormvariate(-(phase.spread**2) / 2, phase.spread) if phase.spread else 1.0
        if phase.serial:
            yield self._lock.wait(clock.now, phase.serial * factor)
        if phase.parallel:
            yield phase.parallel * factor
        if working := phase.working + phase.anonymising * size * 1e-6:
            yield self._cores.wait(clock.now, working * factor)
        self._connections.give()
        self._inside -= 1
        if phase.round_trip:
            yield phase.round_trip / 2
        return True


@dataclass(slots=True)
class Client:
    """Sends files as its throttle lets it, a slot for each that it is at work on.

    On its only thread each file takes `seconds`, and its share of a `turn` of the loop, which all that are in flight
    have in common; `between` passes between two calls of a slot, in which it reads and settles; a call that is the
    first of its connection takes `connecting` more. `sourced` is how many files a second it is given to send. A worker
    whose file was refused waits a second or so, without a slot, before it tries again.
    """

    clock: Clock
    server: Server
    throttle: Throttle
    rng: Random
    sizes: Sizes = lambda _: 20_000
    seconds: float = 0.00015
    turn: float = 0.0
    between: float = 0.0
    connecting: float = 0.0
    sourced: float = inf
    workers: int = 64
    in_flight: int = 0
    refused: int = 0
    ends: list[float] = field(default_factory=list)
    """The times when successful calls ended."""
    flights: list[int] = field(default_factory=list)
    """The calls in flight at each of these times, that call included."""
    _thread: Station = field(default_factory=lambda: Station(1))
    _connections: int = 0
    _given: float = 0.0

    def begin(self) -> None:
        """Start sending."""
        self.clock.start(self._read() if self.sourced < inf else self._fill())

    def _read(self) -> Steps:
        while True:
            self._given += 1
            yield from self._fill()
            yield 1 / self.sourced

    def _fill(self) -> Steps:
        while self.workers and (self.sourced == inf or self._given >= 1) and self.throttle.try_acquire():
            self._given -= 1
            self.workers -= 1
            self.clock.start(self._send())
        yield from ()

    def _send(self) -> Steps:
        clock, throttle = self.clock, self.throttle
        began = clock.now
        if self.between:
            yield self.between
        size = self.sizes(self.rng)
        self.in_flight += 1
        if self.in_flight > self._connections:
            self._connections += 1
            yield self.connecting
        yield self._thread.wait(clock.now, self.seconds / 2 + self.turn / self.in_flight)
        served = yield from self.server.serve(size)
        yield self._thread.wait(clock.now, self.seconds / 2)
        if served:
            self.ends.append(clock.now)
            self.flights.append(self.in_flight)
            throttle.record_success(clock.now - began, size)
        else:
            self.refused += 1
            throttle.slow_down()
        self.in_flight -= 1
        throttle.release()
        if not served:
            self._given += 1
            yield 0.5 + self.rng.random()
        self.workers += 1
        yield from self._fill()

    @property
    def waiting(self) -> int:
        """Return how many files wait to be sent."""
        return int(self._given)

    def rate(self, begin: float, end: float) -> float:
        """Return the files a second between two times."""
        return (bisect_left(self.ends, end) - bisect_left(self.ends, begin)) / (end - begin)

    def most(self, begin: float, end: float) -> int:
        """Return the highest number in flight between two times."""
        return max(self.flights[bisect_left(self.ends, begin) : bisect_left(self.ends, end)], default=0)
