"""Finds the best number of calls in flight. Pure: it learns from calls as they end, and neither waits nor polls."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

# The target is 30 % more calls than fill the server, plus one or two, so that it does not idle when latency varies.
# From 1.5 times as many on, calls only queue. A probe reaches as far: see `_evaluate`.
_TARGET_FACTOR = 1.3
_TARGET_EXTRA = 1.5
# Calls under this time (seconds) may queue. The client is then slower than the server, and works more efficiently with
# more calls in flight.
_QUICK_SECONDS = 0.0075
# The first and the lowest limit: not too many for a server that two calls fill, and while one call is in flight the
# client reads and records others.
_MIN_LIMIT = 3
# The first limit is one higher for this much of a round trip (seconds), up to a bound: on a long way too few leave the
# server idle for long, until that shows.
_FIRST_SECONDS, _MAX_FIRST_LIMIT = 0.01, 16
# The link is full if at least this many calls wait for it at a time, and for at least this share of their time. Up to
# the last number, they may wait for the windows of their connections, and not fill the link; above it, further calls
# would only wait too.
_FULL_LINK, _LINK_SHARE, _CROWDED_LINK = 2.0, 0.2, 16.0
# On a link, this many times as many calls are tried, or as few. The larger number stays if it carries more, by the
# quotient of both to this power: half as many again must carry 8 % more.
_LINK_STEP, _LINK_GAIN = 1.5, 0.2
# Calls that are measured: while the limit grows, before small changes, and in a probe.
_FEW_CALLS, _MANY_CALLS, _PROBE_CALLS = 8, 128, 64
# The shortest measurement in seconds: it averages out commits and other short pauses of the client.
_MIN_MEASURE_SECONDS = 0.1
# A probe that has taken as long is content with fewer calls: on a slow link each is a loss.
_LONG_PROBE_SECONDS = 0.5
# Growth of latency below the first factor needs no explanation; below the second, the limit goes on growing fast.
_NOTICEABLE = 1.15
_HARDLY_NOTICEABLE = 1.05
# A probe costs a third of the throughput while it lasts. The pause before the next is this many times its duration,
# within bounds in seconds. It is shorter after a probe that found a change, because changes seldom come alone.
_PAUSE_FACTOR = 30
_PAUSE_FACTOR_AFTER_CHANGE = 3
_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 1.0, 10.0
# Between trials on a link that change nothing.
_MAX_LINK_PAUSE_SECONDS = 60.0
# The limit grows only if this share of calls found all slots in use.
_FULL_SHARE = 0.75
# One for each power of two of bytes on the wire, and as many for zips, which the server has to inflate.
_SIZE_CLASSES = 64


@dataclass(slots=True)
class _Measurement:
    """Successful calls under one limit: how long they took, what they sent, how many found all slots in use.

    Calls that are to be skipped began under the limit before, or are the first ones under this. `link_seconds` is how
    long all calls had waited for the link when it began.
    """

    calls_to_skip: int
    needed_calls: int
    link_seconds: float
    began: float = 0.0
    seconds: list[float] = field(default_factory=lambda: [0.0] * 2 * _SIZE_CLASSES)
    counts: list[int] = field(default_factory=lambda: [0] * 2 * _SIZE_CLASSES)
    count: int = 0
    size: int = 0
    full_count: int = 0

    @property
    def mean(self) -> float:
        """How long a call took."""
        return sum(self.seconds) / self.count

    @property
    def is_used(self) -> bool:
        """Whether the calls that the limit allows were made."""
        return self.full_count >= _FULL_SHARE * self.count

    def rate(self, now: float) -> float:
        """Return the bytes a second."""
        return self.size / max(now - self.began, 1e-9)


@dataclass(slots=True)
class _Probe:
    """The limit before a probe, and when that began; the limit before it was last halved, and the slowdown there."""

    first_limit: int
    began: float
    limit: int
    slowdown: float


class AdaptiveLimit:
    """Finds the number of calls in flight that fills the server; more calls only queue.

    It begins with few calls and nearly doubles their number as long as latency does not grow. From then on latency
    decides. Below the capacity of the server, a call takes as long as if it were alone; above it, latency grows with
    the number of calls. So `slowdown`, latency divided by the latency without a queue, tells the capacity
    (limit / slowdown), and the target follows from that.

    The latency without a queue depends on the size of the file, so it is kept for each power of two of bytes. It also
    changes with the server, so a probe measures it again: the limit is halved as long as latency falls in proportion,
    which only happens if calls were queueing. Probes come from time to time, and when calls have become much slower:
    that may be a queue or a slower network, which need opposite answers.

    On a full link calls queue in any case, and no server waits with them: more in flight than needed do not harm, and
    fewer leave the link idle. A link that loses packets is another matter: there each connection gets a small share of
    it, however many there are. Latency looks the same on both. So while calls are seen to wait for the link there are
    no probes, but trials: of more calls, or of fewer if many wait. The larger number stays if it carries more bytes.

    Latency is all the time between two calls of a slot, reading included. So if the disk or the client is the
    bottleneck, that is the capacity. `max_limit` bounds the limit; the first one depends on the `round_trip` to the
    server (0: unknown). Times are seconds. After TCP Vegas (Brakmo 1994) and BBR (Cardwell 2016).
    """

    def __init__(self, max_limit: int, *, round_trip: float = 0.0, clock: Callable[[], float] = monotonic) -> None:
        self._max_limit = max_limit
        self._clock = clock
        self._limit = min(_MIN_LIMIT + int(round_trip / _FIRST_SECONDS), _MAX_FIRST_LIMIT, max_limit)
        self._base_latencies = [0.0] * 2 * _SIZE_CLASSES
        """The latency without a queue, for each size class; 0 if unknown."""
        self._probe: _Probe | None = None
        self._next_probe_at = float("-inf")
        self._pause = _MIN_PAUSE_SECONDS
        self._is_drop_suspected = False
        """Whether the last measurement asked for far fewer calls: then another one decides."""
        self._link_trial: tuple[int, float] | None = None
        """While more or fewer calls are tried on the link: the limit before, and the bytes a second."""
        self._next_link_trial_at = float("-inf")
        self._link_pause = _MIN_PAUSE_SECONDS
        self._carries_more = False
        """Whether the last trial has shown that the link carries more with more calls."""
        self._is_growing = True
        self._has_never_queued = True
        """Whether calls have never been slower than without a queue: the capacity may then be far above the limit."""
        self._link_seconds = 0.0
        """How long all calls have waited for the link so far."""
        self._current = self._measurement(self._limit)

    @property
    def limit(self) -> int:
        """Calls that should be in flight now."""
        return self._limit

    @property
    def next_limit(self) -> int:
        """To how many calls the limit may grow next: nearly twice as many, until a queue has shown."""
        return min(self._max_limit, 2 * self._limit - 1) if self._has_never_queued else self._limit

    def record_success(
        self, seconds: float, size: int, *, is_full: bool = True, is_zip: bool = False, link_seconds: float = 0.0
    ) -> None:
        """Record a successful call: its latency, the bytes that it sent, and whether all slots were in use.

        `link_seconds` is how long all calls have waited for the link so far, 0 if that is unknown.
        """
        self._link_seconds = link_seconds
        current = self._current
        if current.calls_to_skip:
            current.calls_to_skip -= 1
            if not current.calls_to_skip:
                current.began, current.link_seconds = self._clock(), link_seconds
            return
        size_class = size.bit_length() + is_zip * _SIZE_CLASSES
        current.seconds[size_class] += seconds
        current.counts[size_class] += 1
        current.count += 1
        current.size += size
        current.full_count += is_full
        if current.count >= current.needed_calls:
            now = self._clock()
            if now - current.began < _MIN_MEASURE_SECONDS:
                current.needed_calls += _FEW_CALLS
            else:
                self._evaluate(now)
        elif self._probe is not None and current.count >= max(2 * self._limit, _FEW_CALLS):
            now = self._clock()
            if now - current.began >= _LONG_PROBE_SECONDS:
                self._evaluate(now)

    def restart(self) -> None:
        """Drop the current measurement: the server is in trouble, or the limit was not in force."""
        if self._probe is not None:
            self._limit = self._probe.first_limit
            self._probe = None
        if self._link_trial is not None:
            self._limit = min(self._limit, self._link_trial[0])
            self._link_trial = None
        self._is_growing = self._has_never_queued = False
        self._measure(self._limit)

    def measure_again(self) -> None:
        """Begin the current measurement again: the calls are of another kind now."""
        if self._probe is None:
            self._link_trial = None
            self._measure(self._limit)

    def _measure(self, limit: int) -> None:
        """Set a limit and measure there, after the calls of the old limit and one round of its own have ended."""
        self._current = self._measurement(limit)
        self._limit = limit

    def _measurement(self, limit: int) -> _Measurement:
        needed_calls = max(limit, _FEW_CALLS) if self._is_growing else max(2 * limit, _PROBE_CALLS)
        return _Measurement(self._limit + limit, needed_calls, self._link_seconds)

    def _measure_on(self, target: int) -> None:
        """Go on with the measurement; after many calls, set a limit that differs little."""
        limit, current = self._limit, self._current
        if current.count >= max(8 * limit, _MANY_CALLS):
            self._measure(target)
        else:
            current.needed_calls += max(2 * limit, _FEW_CALLS)

    def _evaluate(self, now: float) -> None:
        """Learn from a measurement, and decide what to measure next."""
        self._is_growing = False
        slowdown = self._slowdown()
        if self._probe is not None:
            self._evaluate_probe(self._probe, slowdown, now)
            return
        if slowdown < 1:
            # Half of it may be chance.
            self._scale_base_latencies(slowdown**0.5)
        target = self._next_target(slowdown, now)
        calls_on_link = self._calls_on_link(now)
        if calls_on_link and target <= self._limit:
            self._evaluate_on_link(calls_on_link, now)
        else:
            self._link_trial = None
            self._approach(target, slowdown, now)

    def _next_target(self, slowdown: float, now: float) -> int:
        """Return how many calls should be in flight, as far as latency tells."""
        limit, mean, had_never_queued = self._limit, self._current.mean, self._has_never_queued
        self._has_never_queued = had_never_queued and slowdown < _NOTICEABLE
        if had_never_queued and not self._has_never_queued and limit > 2 * _MIN_LIMIT:
            # The latency without a queue has just been measured, at several limits below this one.
            self._next_probe_at = now + _MAX_PAUSE_SECONDS
        if self._has_never_queued and slowdown < _HARDLY_NOTICEABLE:
            return min(self._max_limit, 2 * limit - 1)
        quick_limit = min(self._max_limit, int(limit * _QUICK_SECONDS / mean)) if mean else self._max_limit
        return max(self._target(limit / slowdown), quick_limit)

    def _approach(self, target: int, slowdown: float, now: float) -> None:
        """Raise the limit to a target, probe, or measure on."""
        limit, current = self._limit, self._current
        is_far_below = _TARGET_FACTOR * target < limit
        if is_far_below and not self._is_drop_suspected:
            # This may mix calls from before a change and after it: measure again.
            self._is_drop_suspected = True
            self._measure(limit)
            return
        self._is_drop_suspected = False
        is_slow = slowdown > _NOTICEABLE and current.mean > _TARGET_FACTOR * _QUICK_SECONDS
        is_probe_due = current.is_used and is_slow and now >= self._next_probe_at
        if limit > 1 and (is_far_below or is_probe_due):
            self._probe = _Probe(limit, now, limit, slowdown)
            self._measure(limit // 2)
        elif target > limit and not current.is_used:
            self._measure(limit)
        elif target >= 1.2 * limit:
            self._is_growing = True
            self._measure(target)
        else:
            self._measure_on(target)

    def _evaluate_probe(self, probe: _Probe, slowdown: float, now: float) -> None:
        """Halve the limit again if latency fell in proportion; otherwise take it as the latency without a queue."""
        limit, current = self._limit, self._current
        is_known = 1 / _NOTICEABLE < slowdown < _NOTICEABLE
        if limit > 1 and not is_known and slowdown < _NOTICEABLE * probe.slowdown * limit / probe.limit:
            probe.limit, probe.slowdown = limit, slowdown
            self._measure(limit // 2)
            return
        if not 0.75 < slowdown < 1.25:
            self._scale_base_latencies(slowdown)
        weight = _PROBE_CALLS / 2
        for size_class, (seconds, count) in enumerate(zip(current.seconds, current.counts, strict=True)):
            base = self._base_latencies[size_class]
            self._base_latencies[size_class] = (weight * base + seconds) / (weight + count)
        self._probe = None
        target = self._target(probe.limit * slowdown / probe.slowdown)
        if 0.8 < target / probe.first_limit < 1.25:
            self._pause, factor = min(2 * self._pause, _MAX_PAUSE_SECONDS), _PAUSE_FACTOR
        else:
            self._pause, factor = _MIN_PAUSE_SECONDS, _PAUSE_FACTOR_AFTER_CHANGE
        self._next_probe_at = now + max(self._pause, factor * (now - probe.began))
        # Only an evaluation that sees whether the slots are in use raises the limit.
        self._measure(min(target, probe.first_limit))

    def _evaluate_on_link(self, calls_on_link: float, now: float) -> None:
        """Keep the better one of two limits, and try another one now and then."""
        limit, rate = self._limit, self._current.rate(now)
        is_crowded = calls_on_link > _CROWDED_LINK
        more = min(self._max_limit, int(_LINK_STEP * limit) + 1)
        fewer = int(limit / min(_LINK_STEP, calls_on_link / _CROWDED_LINK)) if is_crowded else limit
        other = limit
        if self._link_trial is not None:
            (fewest, low), (most, high) = sorted([self._link_trial, (limit, rate)])
            before, self._link_trial = self._link_trial[0], None
            self._carries_more = high > low * (most / fewest) ** _LINK_GAIN
            if self._carries_more is not (limit > before):
                self._link_pause = min(2 * self._link_pause, _MAX_LINK_PAUSE_SECONDS)
                self._next_link_trial_at = now + self._link_pause
                self._measure(before)
                return
            self._link_pause, self._next_link_trial_at = _MIN_PAUSE_SECONDS, now + _MIN_PAUSE_SECONDS
            other = more if self._carries_more else fewer
        elif self._current.is_used and now >= self._next_link_trial_at:
            other = more if more > limit and (self._carries_more or not is_crowded) else fewer
        if other != limit:
            self._link_trial = limit, rate
            self._measure(other)
        else:
            self._measure_on(limit)

    def _calls_on_link(self, now: float) -> float:
        """Return how many calls waited for a link that they kept busy; 0 if they did not."""
        current = self._current
        waited = self._link_seconds - current.link_seconds
        calls = waited / max(now - current.began, 1e-9)
        return calls if calls >= _FULL_LINK and waited >= _LINK_SHARE * sum(current.seconds) else 0.0

    def _target(self, capacity: float) -> int:
        return min(self._max_limit, max(_MIN_LIMIT, int(_TARGET_FACTOR * capacity + _TARGET_EXTRA)))

    def _slowdown(self) -> float:
        """Return latency over the latency without a queue, and assume the same slowdown for new size classes."""
        current, bases = self._current, self._base_latencies
        known = [
            (seconds / base, count)
            for seconds, count, base in zip(current.seconds, current.counts, bases, strict=True)
            if count and base
        ]
        # Each call counts the same: weighted by seconds, one of hundreds of megabytes would hide all others.
        slowdown = sum(total for total, _ in known) / sum(count for _, count in known) if known else 1.0
        for size_class, count in enumerate(current.counts):
            if count and not bases[size_class]:
                bases[size_class] = current.seconds[size_class] / count / slowdown
        # The clock may not have moved during the measurement.
        return slowdown or 1.0

    def _scale_base_latencies(self, factor: float) -> None:
        self._base_latencies = [seconds * factor for seconds in self._base_latencies]
