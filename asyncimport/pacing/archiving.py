"""Finds the best number of sessions that are archived at a time. Pure: it learns from those that end.

A server archives with some workers (XNAT: 10 to 40) and a disk. While workers are idle, more sessions at a time are
archived faster. Where the disk is the limit (a slow one, NFS), more only take longer each, and slow the uploads that go
on beside them. So a higher number is kept only if it archives clearly faster, and a lower one if it is hardly slower.
"""

# Where to begin, and the least to try.
_FIRST_LIMIT, _MIN_LIMIT = 4, 2
# A higher number is kept if it archives at least this many times as many sessions in the same time, a lower one if it
# archives at least the second. The distance between the two keeps the limit from going to and fro.
_FASTER, _AS_FAST = 1.10, 0.96
# Sessions that are measured at each number, at least: they end several at a time.
_MEASURED = 8
# This share of them must have found all places taken.
_FULL_SHARE = 0.75
# How many measurements pass after a trial that was no better, at first; then twice as many each time, within bounds.
_MIN_PAUSE, _MAX_PAUSE = 4, 64


class ArchivingLimit:
    """Tries twice as many, or a third fewer, and keeps what is better; `limit` is the number now.

    What counts is the limit over the time that a session takes: how many are archived in a second. How long one takes
    also depends on its files, so it is compared with others of about as many (powers of two).
    """

    def __init__(self, max_limit: int) -> None:
        self._max_limit = max_limit
        self._min_limit = min(_MIN_LIMIT, max_limit)
        self.limit = min(_FIRST_LIMIT, max_limit)
        """Sessions that should be archived at a time now."""
        self._bases: dict[int, float] = {}
        """How long a session of each size class takes: one of the first, so it only serves to compare."""
        self._slowdown = 1.0
        """How much longer sessions took in the last measurement than those."""
        self._before_trial: tuple[int, float] | None = None
        """During a trial: the limit before it, and its throughput."""
        self._goes_up = True
        """Whether the next trial is of more."""
        self._pause, self._measurements_left = _MIN_PAUSE, 0
        self._measure(self.limit)

    @property
    def next_limit(self) -> int:
        """The same: nothing need be ready for a trial."""
        return self.limit

    def record_success(
        self, seconds: float, size: int, *, is_full: bool = True, is_zip: bool = False, link_seconds: float = 0.0
    ) -> None:
        """Record that a session of `size` files was archived, in so many seconds, and whether all places were taken."""
        del is_zip, link_seconds
        if self._sessions_to_skip:
            self._sessions_to_skip -= 1
            return
        base = self._bases.setdefault(size.bit_length(), seconds / self._slowdown or 1.0)
        self._ratios.append(seconds / base)
        self._full += is_full
        if len(self._ratios) >= max(self.limit, _MEASURED):
            self._evaluate()

    def restart(self) -> None:
        """Drop the current trial: the server is in trouble."""
        if self._before_trial is not None:
            self.limit, self._before_trial = self._before_trial[0], None
        self._measure(self.limit)

    def measure_again(self) -> None:
        """Begin the current measurement again."""
        self._measure(self.limit)

    def _measure(self, limit: int) -> None:
        # Sessions that began under another number say nothing about this one.
        self._sessions_to_skip = self.limit if limit != self.limit else 0
        self.limit = limit
        self._ratios: list[float] = []
        self._full = 0

    def _evaluate(self) -> None:
        limit = self.limit
        if self._full < _FULL_SHARE * len(self._ratios):
            # Fewer were ready than may be archived: nothing shows what more or fewer would do.
            self._measure(limit)
            return
        self._slowdown = sum(self._ratios) / len(self._ratios) or 1.0
        throughput = limit / self._slowdown
        if self._before_trial is None:
            self._measurements_left -= 1
            self._try_other(limit, throughput)
            return
        (before, throughput_before), self._before_trial = self._before_trial, None
        went_up = limit > before
        if throughput >= throughput_before * (_FASTER if went_up else _AS_FAST):
            self._goes_up, self._pause, self._measurements_left = went_up, _MIN_PAUSE, -1
            self._try_other(limit, throughput)
            return
        # The other direction is next, at once after a trial of more.
        self._goes_up = not went_up
        self._measurements_left = 0 if went_up else self._pause
        self._pause = self._pause if went_up else min(2 * self._pause, _MAX_PAUSE)
        self._measure(before)

    def _try_other(self, limit: int, throughput: float) -> None:
        """Begin a trial if one is due; the number now has just been measured."""
        trial = self._next_trial() if self._measurements_left < 0 else limit
        if trial != limit:
            self._before_trial = limit, throughput
        self._measure(trial)

    def _next_trial(self) -> int:
        """Return the number to try: the other direction where this one ends."""
        more = min(self._max_limit, 2 * self.limit)
        fewer = max(self._min_limit, self.limit - max(1, self.limit // 3))
        if self._goes_up and more > self.limit:
            return more
        if not self._goes_up and fewer < self.limit:
            return fewer
        # At an end: what has led here was better than the other way.
        self._goes_up, self._measurements_left = not self._goes_up, self._pause
        self._pause = min(2 * self._pause, _MAX_PAUSE)
        return self.limit
