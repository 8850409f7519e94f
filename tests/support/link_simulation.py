"""Links in a virtual time: connections with windows share a queue, and files go as they are or as zips."""

from collections.abc import Generator
from dataclasses import dataclass, field
from random import Random

from simulation import Clock, Phase, Server, Sizes, Station, Steps

from asyncimport.model.choices import Compress
from asyncimport.pacing.adaptive import AdaptiveLimit
from asyncimport.pacing.compression import Compression
from asyncimport.pacing.concurrency import Throttle

_SEGMENT = 1_448
# Headers of packets and of TLS.
_WIRE_FACTOR = 1.04
_MAX_WINDOW = 4e6
# A zip costs the server this much for each byte of its file.
_INFLATING = 0.006e-6


@dataclass(slots=True)
class Connection:
    """A TCP connection: its window in bytes, where slow start ends, and when it was last used (None: it is new)."""

    window: float = 10.0 * _SEGMENT
    threshold: float = _MAX_WINDOW
    used: float | None = None


@dataclass(slots=True)
class Link:
    """A link of `rate` bytes a second, with a queue of `queue` seconds, that loses a share of packets."""

    clock: Clock
    rng: Random
    rate: float
    round_trip: float
    loss: float = 0.0
    queue: float = 0.1
    _free_at: float = 0.0

    def send(self, connection: Connection, size: int) -> Generator[float, None, float]:
        """Send bytes until they are at the other end; return how long they were under way."""
        clock = self.clock
        if connection.used is None:
            yield 2 * self.round_trip
        elif clock.now - connection.used > 0.2 + self.round_trip:
            connection.window = 10.0 * _SEGMENT
        began, left = clock.now, size
        while left:
            burst = min(int(connection.window), left)
            left -= burst
            is_lost = self._free_at - clock.now > self.queue or (
                self.loss and self.rng.random() > (1 - self.loss) ** (burst / _SEGMENT)
            )
            seconds = burst * _WIRE_FACTOR / self.rate
            self._free_at = max(self._free_at, clock.now) + seconds
            waits = self._free_at - clock.now
            if is_lost:
                connection.window = connection.threshold = max(2.0 * _SEGMENT, 0.7 * connection.window)
                waits += self.round_trip
            elif connection.window < connection.threshold:
                connection.window = min(2 * connection.window, _MAX_WINDOW)
            else:
                connection.window += _SEGMENT
            # The next ones leave when these are acknowledged.
            yield max(waits, self.round_trip + seconds) if left else waits
        yield self.round_trip / 2
        connection.used = clock.now
        return clock.now - began


@dataclass(slots=True)
class Sender:
    """Sends files over a link to a server, as `asyncimport upload` does.

    A file of `size` bytes is a zip of size / `ratio`; `deflating` is the seconds of one of `cores` for a byte of it,
    which large files take twice.
    """

    clock: Clock
    link: Link
    server: Server
    throttle: Throttle
    compression: Compression
    rng: Random
    sizes: Sizes
    ratio: float
    deflating: float = 1 / 350e6
    cores: int = 2
    seconds: float = 0.0003
    workers: int = 64
    files: int = 0
    bytes: int = 0
    zips: int = 0
    _link_seconds: float = 0.0
    _idle: list[Connection] = field(default_factory=list)
    _thread: Station = field(default_factory=lambda: Station(1))
    _cores: Station = field(init=False)

    def __post_init__(self) -> None:
        self._cores = Station(self.cores)

    def begin(self) -> None:
        """Start sending."""
        self.clock.start(self._fill())

    def _fill(self) -> Steps:
        while self.workers and self.throttle.try_acquire():
            self.workers -= 1
            self.clock.start(self._send())
        yield from ()

    def _send(self) -> Steps:
        clock, began, size = self.clock, self.clock.now, self.sizes(self.rng)
        yield self._thread.wait(clock.now, self.seconds / 2)
        packed = 0
        if self.compression.is_worth_trying("series"):
            yield self._cores.wait(clock.now, size * self.deflating * (1 + (size > 1 << 20)))
            packed = round(size / self.ratio) if self.ratio >= 1 / 0.9 else 0
            self.compression.record_size("series", size, packed or None)
        connection = self._idle.pop() if self._idle else Connection()
        under_way = yield from self.link.send(connection, packed or size)
        if packed:
            yield size * _INFLATING
        yield from self.server.serve(size)
        yield self.link.round_trip / 2
        self._idle.append(connection)
        yield self._thread.wait(clock.now, self.seconds / 2)
        self._link_seconds += max(0.0, under_way - self.link.round_trip)
        self.files += 1
        self.bytes += size
        self.zips += bool(packed)
        throttle, seconds = self.throttle, clock.now - began
        self.compression.record_success(
            "series",
            seconds,
            size,
            is_zip=bool(packed),
            in_flight=throttle.limit,
            blocked_seconds=self._link_seconds,
            link_seconds=self._link_seconds,
        )
        throttle.is_frozen = self.compression.is_comparing
        throttle.record_success(seconds, packed or size, is_zip=bool(packed), link_seconds=self._link_seconds)
        throttle.release()
        self.workers += 1
        yield from self._fill()


def send(
    mode: Compress,
    workers: int | None = None,
    *,
    rate: float,
    round_trip: float,
    phase: Phase,
    seed: int,
    sizes: Sizes,
    ratio: float,
    loss: float = 0.0,
    deflating: float = 1 / 350e6,
    cores: int = 2,
    seconds: float = 60.0,
) -> Sender:
    """Send files for some seconds, with a number in flight or an adaptive one."""
    clock = Clock()
    throttle = Throttle(workers or AdaptiveLimit(64, round_trip=round_trip, clock=clock.time), clock=clock.time)
    sender = Sender(
        clock,
        Link(clock, Random(seed), rate, round_trip, loss),
        Server(clock, [phase], Random(100 + seed)),
        throttle,
        Compression(mode, deflate_rate=0.8 * max(1.0, 0.75 * cores) / deflating, clock=clock.time),
        Random(200 + seed),
        sizes,
        ratio,
        deflating,
        cores,
    )
    sender.begin()
    clock.run(seconds)
    return sender
