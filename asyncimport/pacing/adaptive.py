"""How many calls in flight are worth it. Pure: it learns from calls as they end, and neither waits nor polls."""

from collections.abc import Callable
from time import monotonic

# What is aimed at: three in ten more than fill the server, and one or two more. With fewer it would stand idle now and
# then, as times vary; from 1.5 times as many on, they only wait for each other. So is a probe's reach: see `_judge`.
_SPARE = 1.3
_MORE = 1.5
# What is over in so many seconds waits for nobody that matters. Where calls are quicker the server is faster than the
# client, which does more at a time if more of them are in flight.
_QUICK = 0.0075
# What it begins with, and the least: not too many for a server that two would fill, and while one is on its way, the
# client reads and settles others.
_LEAST = 3
# Calls that tell enough: while it grows and grows, to be exact, to take as the measure.
_FEW, _MANY, _PROBE = 8, 128, 64
# Seconds that they are spread over at least: commits, and whatever else occupies the client for moments, average out.
_SHORTEST = 0.1
# Latency that has grown by less needs no explanation, or is no reason to grow with more care.
_NOTICEABLE = 1.15
_HARDLY_NOTICEABLE = 1.05
# A probe costs a third of the throughput while it lasts: it comes again after so many times its duration, and after
# so many seconds at least. When the last one found a change it comes sooner, as a change seldom comes alone.
_PAUSES = 30
_PAUSES_AFTER_CHANGE = 3
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 10.0
# Of the calls, the share that must find all slots taken for a verdict that there should be more.
_FULL = 0.75
_KINDS = 64


class AdaptiveLimit:
    """Finds how many calls in flight fill the server: the number from which on more only wait for each other.

    It begins with few and has nearly twice as many each time, as long as calls do not become slower for it; then it
    goes by what they take.

    Below it, a call takes as long as if it were alone; above it, the longer, the more there are. So `slowness`, what
    calls take over what they take unhurried, tells both where the knee is (limit / slowness) and what to aim at. What
    calls take unhurried depends on the size of the file, so it is kept for each power of two of bytes; and it changes
    with the server, so it is measured anew by a probe: the limit is halved, again and again as long as latency falls
    in proportion, which only waiting does. Probes come at times, and when calls have become much slower: that may
    be a queue, or a slower way there, and those want the opposite.

    What a call takes is all that keeps its slot from the next one, reading included: where the disk or the client is
    what is full, that is the knee. `most` is the greatest limit. Times are seconds. After TCP Vegas (Brakmo 1994) and
    BBR (Cardwell 2016).
    """

    def __init__(self, most: int, *, clock: Callable[[], float] = monotonic) -> None:
        self._most = most
        self._clock = clock
        self._limit = min(_LEAST, most)
        self._unhurried = [0.0] * _KINDS
        self._probed: tuple[int, float] | None = None
        """While probing: the limit before it was halved last, and the slowness there."""
        self._before = self._limit
        """The limit before the probe."""
        self._probe_began = 0.0
        self._probe_at = float("-inf")
        self._pause = _SHORTEST_PAUSE
        self._is_alarmed = False
        self._is_growing = True
        self._is_new = True
        """Whether calls have never been slower than unhurried: then the knee may be anywhere above."""
        self._begin(self._limit)

    @property
    def limit(self) -> int:
        """Calls that should be in flight now."""
        return self._limit

    def succeeded(self, seconds: float, size: int, *, full: bool = True) -> None:
        """Note a call that went well: how long it took, its file's bytes, and whether all slots were taken."""
        if self._skipped:
            self._skipped -= 1
            if not self._skipped:
                self._began = self._clock()
            return
        kind = size.bit_length()
        self._seconds[kind] += seconds
        self._counts[kind] += 1
        self._full += full
        self._count += 1
        if self._count >= self._enough:
            now = self._clock()
            if now - self._began < _SHORTEST:
                self._enough += _FEW
            else:
                self._judge(now)

    def disturbed(self) -> None:
        """Forget what is being measured: the server is in trouble, or the limit was not what it should be."""
        if self._probed is not None:
            self._limit = self._before
            self._probed = None
        self._is_growing = self._is_new = False
        self._begin(self._limit)

    def _begin(self, limit: int) -> None:
        """Measure at a limit, and not before the calls of the one before it and a round of its own have ended."""
        self._skipped = self._limit + limit
        self._began = 0.0
        self._limit = limit
        self._seconds = [0.0] * _KINDS
        self._counts = [0] * _KINDS
        self._full = 0
        self._count = 0
        self._enough = max(limit, _FEW) if self._is_growing else max(2 * limit, _PROBE)

    def _judge(self, now: float) -> None:
        limit, slowness = self._limit, self._slowness()
        self._is_growing = False
        if self._probed is not None:
            self._judge_probe(*self._probed, slowness, now)
            return
        if slowness < 1:
            # Half of it may be chance.
            self._scale(slowness**0.5)
        was_new, self._is_new = self._is_new, self._is_new and slowness < _NOTICEABLE
        mean = sum(self._seconds) / self._count
        quick = min(self._most, int(limit * _QUICK / mean)) if mean else self._most
        target = max(self._target(limit / slowness), quick)
        if self._is_new and slowness < _HARDLY_NOTICEABLE:
            target = min(self._most, 2 * limit - 1)
        if was_new and not self._is_new and limit > 2 * _LEAST:
            # What calls take unhurried has just been measured, with fewer of them and more than the first ones.
            self._probe_at = now + _LONGEST_PAUSE
        is_far_below = _SPARE * target < limit
        if is_far_below and not self._is_alarmed:
            # Calls from before a change and after it are mixed in this: once more.
            self._is_alarmed = True
            self._begin(limit)
            return
        self._is_alarmed = False
        is_used = self._full >= _FULL * self._count
        is_due = is_used and slowness > _NOTICEABLE and now >= self._probe_at and mean > _SPARE * _QUICK
        if limit > 1 and (is_far_below or is_due):
            self._before, self._probe_began = limit, now
            self._probed = limit, slowness
            self._begin(limit // 2)
        elif target > limit and not is_used:
            self._begin(limit)
        elif target >= 1.2 * limit:
            self._is_growing = True
            self._begin(target)
        elif self._count >= max(8 * limit, _MANY):
            self._begin(target)
        else:
            self._enough += max(2 * limit, _FEW)

    def _judge_probe(self, before: int, slowness_before: float, slowness: float, now: float) -> None:
        """Halve once more if latency fell in proportion; otherwise it is the measure of what calls take unhurried.

        So it is if it fell to just what is known: below that, the server would be idle for nothing.
        """
        limit = self._limit
        is_known = 1 / _NOTICEABLE < slowness < _NOTICEABLE
        if limit > 1 and not is_known and slowness < _NOTICEABLE * slowness_before * limit / before:
            self._probed = limit, slowness
            self._begin(limit // 2)
            return
        if not 0.75 < slowness < 1.25:
            self._scale(slowness)
        for kind, count in enumerate(self._counts):
            self._unhurried[kind] = (_PROBE * self._unhurried[kind] / 2 + self._seconds[kind]) / (_PROBE / 2 + count)
        self._probed = None
        target = self._target(before * slowness / slowness_before)
        took = now - self._probe_began
        if 0.8 < target / self._before < 1.25:
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self._probe_at = now + max(self._pause, _PAUSES * took)
        else:
            self._pause = _SHORTEST_PAUSE
            self._probe_at = now + max(self._pause, _PAUSES_AFTER_CHANGE * took)
        # To grow is for a verdict that looks whether the slots are in use.
        self._begin(min(target, self._before))

    def _target(self, knee: float) -> int:
        return min(self._most, max(_LEAST, int(_SPARE * knee + _MORE)))

    def _slowness(self) -> float:
        """Return what calls take over what they take unhurried; of kinds that are new, it is thought to be the same."""
        known = [(s, n, u) for s, n, u in zip(self._seconds, self._counts, self._unhurried, strict=True) if n and u]
        # Each call counts the same: in seconds, one of hundreds of megabytes would drown all others.
        slowness = sum(s / u for s, _, u in known) / sum(n for _, n, _ in known) if known else 1.0
        for kind, count in enumerate(self._counts):
            if count and not self._unhurried[kind]:
                self._unhurried[kind] = self._seconds[kind] / count / slowness
        # A clock may stand still for all that is measured.
        return slowness or 1.0

    def _scale(self, factor: float) -> None:
        self._unhurried = [seconds * factor for seconds in self._unhurried]
