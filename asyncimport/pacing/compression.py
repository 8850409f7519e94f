"""Decides which files go as zips. Pure: it learns from calls as they end, and neither waits nor polls."""

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from asyncimport.model.choices import Compress
from asyncimport.pacing.trial import CallTimes, Trial

# Zips are tried if they could save more than this share of the time of a call.
_MIN_SAVING = 0.15
# Where the system itself tells that they would save this share, they begin without a trial.
_OBVIOUS_SAVING = 0.2
# From this rate on (bytes a second, 2.4 Gbit/s) files get through faster than any machine deflates them.
_FAST_BYTES = 300e6
# Larger files are deflated twice.
_DEFLATED_ONCE = 1 << 20
# Calls and seconds after which it is known what share of their time calls wait for the link: as the system tells, ...
_TOLD_CALLS, _SHARE_SECONDS = 4, 0.25
# ... and as measured. While the number in flight grows, it does so after fewer calls. With too few in flight zips would
# save nothing.
_CALLS_TO_SETTLE, _ROUNDS_TO_SETTLE = 8, 3
# The pause before the next trial doubles with each one that changes nothing. While files go as zips, a trial sends some
# of them over a slow link as they are, so the pause is the longest one there.
_FIRST_PAUSE_SECONDS, _FIRST_PAUSE_OF_ZIPS, _MAX_PAUSE_SECONDS = 10.0, 60.0, 300.0
# How much files deflate before any has been tried, and over how many files it is averaged.
_ASSUMED_RATIO, _AVERAGED_FILES = 2.0, 8
# Failures of the server that are the last; refusals and losses without a stored zip in between. A bad link loses some
# zips in a row too.
_MAX_FAILURES, _MAX_REFUSALS, _MAX_LOSSES = 2, 3, 8
# As so many losses counts an answer that has made all calls wait (Retry-After).
_LOSSES_PER_WAIT = 3
# So are losses that took this long together: a gateway that never answers takes eleven minutes for each.
_MAX_LOST_SECONDS = 1000.0
# A series is given up after this many files that are not worth it; this many series are remembered.
_HOPELESS_FILES, _MAX_SERIES = 3, 1000


@dataclass(slots=True)
class _Waits:
    """Calls since a time, and how long they waited for the link.

    `waited` is how long all calls had waited until then. `bytes` are those that zips would deflate.
    """

    began: float
    waited: float
    calls: int = 0
    seconds: float = 0.0
    bytes: int = 0

    def add(self, seconds: float, size: int) -> None:
        """Add a call."""
        self.calls += 1
        self.seconds += seconds
        self.bytes += size * (1 + (size > _DEFLATED_ONCE))

    def share(self, waited: float) -> float:
        """Return which share of their time these calls waited, if all have waited for so long until now."""
        return min(1.0, (waited - self.waited) / max(self.seconds, 1e-9))


@dataclass(slots=True)
class _Sample:
    """Calls with one number in flight."""

    in_flight: int
    times: CallTimes
    waits: _Waits


class Compression:
    """Decides for each file whether it goes as a zip.

    With AUTO, files go as they are until the link shows to be the limit: calls wait for it a share `s` of their time,
    and deflating by the ratio `r` would save s (1 - 1/r). If that is enough, a `Trial` compares both ways, and the
    number of calls in flight must not change meanwhile (`is_comparing`). It is repeated now and then. Its pauses grow
    while the result stays the same, and to change takes more than to stay.

    Where the system tells that the link is the limit by far, zips begin without a trial: on such a link it would take
    long. If the link is the limit no longer, the trial follows at once, else after a minute. Where files get through
    faster than they would deflate, at `deflate_rate` bytes a second, there is no trial.

    What deflates by less than a tenth is left alone, after some such files with its whole series. Times are seconds.
    """

    def __init__(
        self, mode: Compress, *, deflate_rate: float = _FAST_BYTES, clock: Callable[[], float] = monotonic
    ) -> None:
        self._mode = mode
        self._fast_bytes = min(deflate_rate, _FAST_BYTES)
        self._clock = clock
        self._is_on = mode is Compress.ALWAYS
        """Whether files go as zips, but for a trial of the other way."""
        self._has_ended = mode is Compress.NEVER
        self._is_expected = mode is Compress.ALWAYS
        self._failures = self._refusals = self._losses = 0
        self._last_loss_at = float("-inf")
        self._lost_seconds = 0.0
        self._ratio = _ASSUMED_RATIO
        self._hopeless: dict[str, int] = {}
        """How many files of a series were not worth it, one after another."""
        self._trial: Trial | None = None
        self._pause = _FIRST_PAUSE_SECONDS
        self._tried_at = float("-inf")
        self._sample: _Sample | None = None
        """Calls since the share was last measured."""
        self._told: _Waits | None = _Waits(clock(), 0.0)
        """Calls since the system's share was last measured; None after a trial."""
        self._share = self._told_share = 0.0
        """Which share of their time calls waited for the link, as measured and as the system tells."""
        self._is_fast = False
        """Whether deflating would be the limit."""
        self._is_untried = False
        """Whether files go as zips because of what the system tells, and no trial has shown that it pays."""
        self._is_doubtful = False
        """Whether a trial has shown that zips save less than the link tells."""

    @property
    def has_ended(self) -> bool:
        """Whether no file goes as a zip any more in this run."""
        return self._has_ended

    @property
    def is_on(self) -> bool:
        """Whether files go as zips now, if they are worth it."""
        is_other_way = self._trial is not None and self._trial.is_other_way
        return not self._has_ended and self._is_on is not is_other_way

    @property
    def is_comparing(self) -> bool:
        """Whether the number of calls in flight must not change now."""
        return self._trial is not None

    def is_worth_trying(self, series: str) -> bool:
        """Whether to make a zip of the next file, which is of this series."""
        return self.is_on and self._hopeless.get(series, 0) < _HOPELESS_FILES

    def record_size(self, series: str, size: int, zip_size: int | None) -> None:
        """Record the size of a file and of its zip; None if that is not worth it."""
        ratio = 1.0 if zip_size is None else size / zip_size
        self._ratio += (ratio - self._ratio) / _AVERAGED_FILES
        if zip_size is None:
            self._give_up(series)
        self._is_expected |= zip_size is not None

    def record_success(
        self,
        series: str,
        seconds: float,
        size: int,
        *,
        is_zip: bool,
        in_flight: int,
        blocked_seconds: float,
        link_seconds: float,
    ) -> None:
        """Record a call that stored a file of a series, of `size` bytes, in `seconds`, deflating included.

        `in_flight` is how many calls may be in flight, `blocked_seconds` how long all have waited for the link so far,
        and `link_seconds` as far as the system tells.
        """
        if is_zip:
            self._refusals = self._losses = 0
            self._lost_seconds = 0.0
            self._hopeless.pop(series, None)
        if self._mode is not Compress.AUTO or self._has_ended:
            return
        now = self._clock()
        if self._trial is not None and in_flight != self._trial.in_flight:
            self.cancel_trial()
        if self._trial is not None:
            foreseen = 1 - self._share * (1 - 1 / self._ratio)
            is_better = self._trial.record(seconds, size, now, is_zip=is_zip, foreseen=foreseen)
            if is_better is not None:
                self._end_trial(self._trial, now, is_better=is_better)
            return
        self._measure_told_share(now, seconds, size, in_flight, link_seconds)
        sample = self._sample
        if sample is None or in_flight != sample.in_flight:
            self._sample = _Sample(in_flight, CallTimes(now, 0), _Waits(now, blocked_seconds))
            return
        sample.waits.add(seconds, size)
        sample.times.add(seconds, size, now, is_zip=is_zip)
        is_settled = sample.times.count >= _CALLS_TO_SETTLE + _ROUNDS_TO_SETTLE * in_flight
        if is_settled and now - sample.times.began >= _SHARE_SECONDS:
            self._sample = None
            self._share = sample.waits.share(blocked_seconds)
            if self._is_trial_due(sample.times, now):
                self._trial = Trial(sample.times, now, in_flight=in_flight, zips_before=self._is_on)

    def _measure_told_share(self, now: float, seconds: float, size: int, in_flight: int, link_seconds: float) -> None:
        """Add a call to what the system tells of the share, and begin zips if that is large."""
        told = self._told
        if told is None:
            self._told = _Waits(now, link_seconds)
            return
        told.add(seconds, size)
        if told.calls < _TOLD_CALLS or now - told.began < _SHARE_SECONDS:
            return
        self._told = _Waits(now, link_seconds)
        self._told_share = told.share(link_seconds)
        if self._is_on:
            return
        # Large files that end together have not been sent in the time between their ends.
        self._is_fast = told.bytes > self._fast_bytes * max(now - told.began, told.seconds / in_flight)
        is_obvious = self._told_share * (1 - 1 / self._ratio) > _OBVIOUS_SAVING
        if is_obvious and not self._is_doubtful and not self._is_fast:
            self._is_on = self._is_untried = True
            self._tried_at, self._pause, self._sample = now, _FIRST_PAUSE_OF_ZIPS, None

    def record_failure(self) -> bool:
        """Record that the server failed on a zip (500). Whether it was the last one."""
        self._failures += 1
        return self._failures >= _MAX_FAILURES

    def record_loss(self, began: float, *, seconds: float = 0.0, has_stopped_all: bool = False) -> bool:
        """Record that a zip got no answer, or one of a server in trouble, and its file was then stored as it is.

        Those that were in flight together, as in an outage, count once; `began` is when this one was sent. If the file
        itself was stored at once, `seconds` is what it took, and `has_stopped_all` whether all calls had to wait for
        it. Whether it was the last one.
        """
        if began < self._last_loss_at:
            return False
        self._last_loss_at = self._clock()
        self._losses += _LOSSES_PER_WAIT if has_stopped_all else 1
        self._lost_seconds += seconds
        return self._losses >= _MAX_LOSSES or self._lost_seconds > _MAX_LOST_SECONDS

    def record_refusal(self, series: str, *, is_stored: bool) -> bool:
        """Record no verdict on a zip, and whether the file was then stored as it is. Whether it was the last zip.

        If it was not, a filter may drop the series.
        """
        self._give_up(series)
        self._refusals += is_stored
        return self._refusals >= _MAX_REFUSALS

    def end(self) -> bool:
        """Send no more zips: the server takes none. Whether anybody expects some."""
        is_change = self._is_expected and not self._has_ended
        self._has_ended = True
        self.cancel_trial()
        return is_change

    def cancel_trial(self) -> None:
        """Drop a trial: the number of calls in flight has changed."""
        self._trial = self._sample = self._told = None

    def _give_up(self, series: str) -> None:
        """Count a file of a series that was not worth a zip."""
        if series not in self._hopeless and len(self._hopeless) >= _MAX_SERIES:
            self._hopeless = {}
        self._hopeless[series] = self._hopeless.get(series, 0) + 1

    def _is_trial_due(self, recent: CallTimes, now: float) -> bool:
        if self._is_on:
            # While the link is the limit, the same files as they are would take longer.
            is_known = self._told_share * (self._ratio - 1) > _MIN_SAVING
            if self._is_untried:
                pause = self._pause if is_known else 0.0
            else:
                pause = _MAX_PAUSE_SECONDS if is_known else self._pause
            return recent.zips > 0 and now >= self._tried_at + pause
        is_due = now >= self._tried_at + self._pause and not self._is_fast
        return is_due and self._share * (1 - 1 / self._ratio) > _MIN_SAVING

    def _end_trial(self, trial: Trial, now: float, *, is_better: bool) -> None:
        """Go the other way from now on if it is better."""
        self.cancel_trial()
        self._is_untried = False
        self._tried_at = now
        self._is_on = self._is_on is not is_better
        if not self._is_on:
            self._is_doubtful |= trial.had_zips
            # The next files may deflate better.
            self._ratio = max(self._ratio, _ASSUMED_RATIO)
        if is_better:
            self._pause = _FIRST_PAUSE_OF_ZIPS if self._is_on else _FIRST_PAUSE_SECONDS
        else:
            self._pause = min(2 * self._pause, _MAX_PAUSE_SECONDS)
