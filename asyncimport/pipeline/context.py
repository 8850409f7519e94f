"""What the stages of the image pipeline share, and how one wakes another: by a stream of items that carry nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio.abc import ObjectReceiveStream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from asyncimport.journal import Journal
from asyncimport.model.events import Event, Notice, ServerUnavailable
from asyncimport.model.options import Options
from asyncimport.model.ports import Destination, FileReader, Routes, Source
from asyncimport.pacing.adaptive import AdaptiveLimit
from asyncimport.pacing.archiving import ArchivingLimit
from asyncimport.pacing.compression import Compression
from asyncimport.pacing.concurrency import Throttle
from asyncimport.pacing.load import Load
from asyncimport.pacing.meter import Meter
from asyncimport.pacing.outage import Outage
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.pacing.shutdown import Stop
from asyncimport.system.deflate import expected_rate

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class SendContext:
    """What sends files: where they come from and go to, how, and how much at a time."""

    source: FileReader
    destination: Destination
    options: Options
    policy: RetryPolicy
    report: Callable[[Event], None]
    stop: Stop
    load: Load = field(default_factory=Load)
    throttle: Throttle = field(init=False)
    compression: Compression = field(init=False)
    outage: Outage = field(init=False)
    meter: Meter = field(default_factory=Meter)
    on_overload: Callable[[float | None], None] = lambda _: None
    is_drained: bool = False
    """Whether the scan has ended and every pending file is handed out."""
    waiting_files: int = 0
    """Files that are handed out and that no worker has taken yet."""
    low_files: int = 0
    """When no more than this many wait, there may be others to hand out."""

    def __post_init__(self) -> None:
        """Make what all uploads share."""
        report, most = self.report, self.options.max_workers
        round_trip = self.destination.round_trip
        self.throttle = Throttle(AdaptiveLimit(most, round_trip=round_trip) if self.options.is_adaptive else most)
        self.load.throttle = self.throttle
        self.compression = Compression(self.options.compress, deflate_rate=expected_rate())
        self.outage = Outage(
            self.options.outage_timeout,
            ping=self.destination.ping,
            first_pause=self.policy.first_seconds,
            clock=monotonic,
            sleep=self.stop.sleep,
            slow_down=self.slow_down,
            report=lambda reason: report(ServerUnavailable(reason)),
        )

    def slow_down(self, retry_after: float | None = None) -> None:
        """Send less at a time, as the server is overloaded; send nothing for its Retry-After (seconds)."""
        self.compression.cancel_trial()
        self.throttle.is_frozen = False
        self.throttle.slow_down(retry_after)
        self.on_overload(retry_after)

    def end_zips(self, reason: str) -> None:
        """Send no more zips in this run, for this reason."""
        is_change = self.compression.end()
        self.throttle.is_frozen = False
        if is_change:
            self.report(Notice(f"images are sent as they are from now on: {reason}"))


@dataclass(slots=True, kw_only=True)
class Context(SendContext):
    """One run of the image pipeline: what it works on, how, and how far its stages are."""

    source: Source
    journal: Journal
    routes: Routes
    finalizing: Throttle = field(init=False)
    """Of sessions that are being archived: as many at a time as make it faster."""
    may_feed: bool = field(init=False)
    has_scanned: bool = False
    settles_at: float = 0.0
    """Until when a delivery waits for its settle time, as was reported last."""
    _journal_limiter: anyio.CapacityLimiter = field(init=False)

    def __post_init__(self) -> None:
        """Make what all stages share."""
        SendContext.__post_init__(self)
        self.may_feed = not self.options.check_first
        most = self.options.max_finalizers
        self.finalizing = Throttle(ArchivingLimit(most) if self.options.finalizers is None else most)
        self._journal_limiter = anyio.CapacityLimiter(1)

    async def call_journal(self, method: Callable[[], T]) -> T:
        """Call the journal in a worker thread, one call at a time."""
        return await anyio.to_thread.run_sync(method, limiter=self._journal_limiter)

    def report_notices(self) -> None:
        """Report what the journal has noticed about sessions since the last time."""
        for text in self.journal.sessions.take_notices():
            self.report(Notice(text))


Signal = MemoryObjectSendStream[None]
Wakeups = ObjectReceiveStream[None]


def make_signal(listeners: int = 1) -> tuple[Signal, MemoryObjectReceiveStream[None]]:
    """Return both ends of a signal that can wake this many listeners at once."""
    return anyio.create_memory_object_stream[None](listeners)


def notify(signal: Signal, times: int = 1) -> None:
    """Wake this many listeners; do nothing where a signal is still unread, or nobody listens any more."""
    try:
        for _ in range(times):
            signal.send_nowait(None)
    except (anyio.WouldBlock, anyio.BrokenResourceError):
        pass


async def wait_for(wakeups: Wakeups, max_seconds: float | None) -> bool:
    """Wait for a signal or until the time is over; return False if no signal can come any more."""
    with anyio.move_on_after(max_seconds):
        try:
            await wakeups.receive()
        except anyio.EndOfStream:
            return False
    return True
