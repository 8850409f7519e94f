"""What uploads wait for while they are in flight: it tells what limits their speed. For display only."""

from collections import deque
from collections.abc import Callable
from time import monotonic, process_time

from asyncimport.model.record import record
from asyncimport.pacing.concurrency import Throttle
from asyncimport.pacing.monitor import OutageMonitor
from asyncimport.pacing.rate_limit import RateLimit

_WINDOW_SECONDS = 15.0
# From this share of one processor on, the process has no time to do more. Python's threads share one.
_BUSY_PROCESSOR = 0.9
_FULL_SHARE = 0.9
_IDLE_SHARE = 0.5
# If there is nearly always an upload that waits for --max-rate, no more bytes may go, whatever the others wait for.
_LIMITED_SHARE = 0.5
# So it is if this share of what it allows has gone.
_USED_SHARE = 0.85
_RATE = "--max-rate"


@record
class _Sample:
    """How many uploads waited for what at a time (seconds), and the processor time (seconds) used by then."""

    at: float
    processor: float
    slots: int
    in_flight: int
    disk: int
    rate: int
    rate_seconds: float
    network: int


class Load:
    """Counts what uploads wait for. Those who wait count themselves; `sample` looks at them now and then."""

    def __init__(
        self, *, clock: Callable[[], float] = monotonic, processor: Callable[[], float] = process_time
    ) -> None:
        self.reading = 0
        """Uploads that wait for the disk now."""
        self.unfinished_size = 0
        """Bytes sent of files that are read while they are sent, and are not finished."""
        self.throttle: Throttle | None = None
        self.rate: RateLimit | None = None
        self.monitor: OutageMonitor | None = None
        self.count_sending: Callable[[], int] = lambda: 0
        """Returns how many requests wait for the network now."""
        self.is_part = False
        """Whether others send too: that all slots of this process are in use says nothing then."""
        self.told = ""
        """What limits the processes that send, if this one does not."""
        self._clock = clock
        self._processor = processor
        self._samples: deque[_Sample] = deque()

    @property
    def in_flight(self) -> int:
        """Uploads in flight now."""
        return 0 if self.throttle is None else self.throttle.in_flight

    def outage_seconds(self) -> tuple[float, float] | None:
        """Return how long nothing has got through, and how much longer the run waits; None if calls get through."""
        monitor = self.monitor
        return None if monitor is None or monitor.seconds is None else (monitor.seconds, monitor.seconds_left)

    def sample(self) -> None:
        """Look at what uploads wait for. Call it on the loop."""
        now = self._clock()
        rate, rate_seconds = (0, 0.0) if self.rate is None else (self.rate.waiting, self.rate.used_seconds)
        slots = 0 if self.throttle is None else self.throttle.limit
        sending = self.count_sending()
        processor = self._processor()
        self._samples.append(_Sample(now, processor, slots, self.in_flight, self.reading, rate, rate_seconds, sending))
        while now - self._samples[0].at > _WINDOW_SECONDS:
            self._samples.popleft()

    def limit(self, *, is_scanning: bool) -> str:
        """Return what has limited uploads lately: the server, the disk, an option; "" if nothing was in flight."""
        throttle, samples = self.throttle, self._samples
        in_flight, slots = sum(one.in_flight for one in samples), sum(one.slots for one in samples)
        if throttle is None or not in_flight:
            return ""
        if throttle.is_cut:
            return "the server, which was overloaded"
        if is_scanning and in_flight < _IDLE_SHARE * slots:
            return "the scan"
        seconds = samples[-1].at - samples[0].at
        if seconds > 0 and samples[-1].processor - samples[0].processor > _BUSY_PROCESSOR * seconds:
            return "the processor of this computer"
        used = samples[-1].rate_seconds - samples[0].rate_seconds
        waits_for_rate = sum(one.rate > 0 for one in samples) >= _LIMITED_SHARE * len(samples)
        if waits_for_rate or self.told == _RATE or 0 < _USED_SHARE * seconds <= used:
            return _RATE
        disk, network = sum(one.disk for one in samples), sum(one.network for one in samples)
        rate = sum(one.rate for one in samples)
        waits = {"the disk": disk, "the network": network, "the server": in_flight - disk - network - rate}
        most = self.told or max(waits, key=waits.__getitem__)
        if throttle.is_fixed and not self.is_part and in_flight >= _FULL_SHARE * slots:
            return f"--workers and {most}"
        return most
