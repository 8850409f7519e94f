"""Decides which files go as zips. Pure: it learns from calls as they end, and neither waits nor polls."""

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from asyncimport.model.choices import Compress

# Zips are tried if they could save more than this share of the time of a call.
_MIN_SAVING = 0.15
# Where the system itself tells that they would save this share, they begin without a trial.
_OBVIOUS_SAVING = 0.2
# From this rate on (bytes a second, 2.4 Gbit/s) files get through faster than any machine deflates them.
_FAST_BYTES = 300e6
# Larger files are deflated twice.
_DEFLATED_ONCE = 1 << 20
# They begin if calls then take less than this share of the time without them, and end above the other share.
_BEGIN_BELOW, _END_ABOVE = 0.92, 0.98
# If they save more than was foreseen, and more than this beside it, something else has changed meanwhile.
_TOLERANCE = 0.15
# A trial that is still not clear then changes nothing.
_MAX_PARTS = 5
# Calls and seconds after which the system has told what share of their time calls wait for the link.
_SHARE_CALLS, _SHARE_SECONDS = 4, 0.25
# While the number in flight grows, it does so after fewer calls. With too few in flight zips would save nothing.
_CALLS_TO_SETTLE, _ROUNDS_TO_SETTLE = 8, 3
# Calls that are measured in each part of a trial, at least.
_TRIAL_CALLS = 16
# The pause before the next trial doubles with each one that changes nothing. While files go as zips, a trial sends some
# of them over a slow link as they are, so the pause is the longest one there.
_FIRST_PAUSE_SECONDS, _FIRST_PAUSE_OF_ZIPS, _MAX_PAUSE_SECONDS = 10.0, 60.0, 300.0
# How much files deflate before any has been tried, and over how many files it is averaged.
_ASSUMED_RATIO, _AVERAGED_FILES = 2.0, 8
# Failures of the server that are the last; refusals and losses without a stored zip in between. A bad link loses some
# zips in a row too.
_MAX_FAILURES, _MAX_REFUSALS, _MAX_LOSSES = 2, 3, 8
# So are losses that took this long together: a gateway that never answers takes eleven minutes for each.
_MAX_LOST_SECONDS = 1000.0
# A series is given up after this many files that are not worth it; this many series are remembered.
_HOPELESS_FILES, _MAX_SERIES = 3, 1000
_SIZE_CLASSES = 64


class _Times:
    """The seconds of calls, for each power of two of bytes on disk, without the first `skipped` ones."""

    def __init__(self, began: float, skipped: int) -> None:
        self.began = began
        self._skipped = skipped
        self.seconds = [0.0] * _SIZE_CLASSES
        self.counts = [0] * _SIZE_CLASSES
        self.count = self.zips = 0

    def add(self, seconds: float, size: int, now: float, *, is_zip: bool) -> None:
        """Add a call that ends now, unless it is one of the first, or began before these had ended."""
        self.zips += is_zip
        if self._skipped:
            self._skipped -= 1
            self.began = now
        elif now - seconds >= self.began:
            self.seconds[size.bit_length()] += seconds
            self.counts[size.bit_length()] += 1
            self.count += 1

    def over(self, other: "_Times") -> float:
        """Return the time of these calls over that of the others, for files of the same size; 1 if there are none."""
        quotient, calls = 0.0, 0
        for seconds, count, others, number in zip(self.seconds, self.counts, other.seconds, other.counts, strict=True):
            if count and others:
                quotient += seconds * number / others
                calls += count
        return quotient / calls if calls else 1.0


@dataclass(slots=True)
class _Told:
    """The calls since a time, for what the system tells of the link.

    `link_seconds` is how long all calls had waited for it until then. `bytes` are those that zips would deflate.
    """

    began: float
    link_seconds: float
    calls: int = 0
    seconds: float = 0.0
    bytes: int = 0


class Compression:
    """Decides for each file whether it goes as a zip.

    With AUTO, files go as they are until the link shows to be the limit: calls wait for it a share `s` of their time,
    and deflating by the ratio `r` would save s (1 - 1/r). If that is enough, a trial compares both ways, with the same
    number of calls in flight (`is_comparing`): as many bytes in flight take as long, whosever they are, so only the
    whole flow shows what zips save. It has parts: as before, which is over when it shows that a trial is due, the other
    way, as before again, and so on, until the parts before and after one agree: what changes meanwhile on the server or
    the link shows there. Zips that save as much as was foreseen need no further part. The trial is repeated now and
    then. Its pauses grow while the result stays the same, and to change takes more than to stay.

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
        self._has_ended = mode is Compress.NEVER
        self._is_expected = mode is Compress.ALWAYS
        self._failures = self._refusals = self._losses = 0
        self._last_loss_at = float("-inf")
        self._lost_seconds = 0.0
        self._ratio = _ASSUMED_RATIO
        self._hopeless: dict[str, int] = {}
        """How many files of a series were not worth it, one after another."""
        self._trial: list[_Times] = []
        """The parts of a trial so far: calls as before it, the other way, as before, and so on."""
        self._pause = _FIRST_PAUSE_SECONDS
        self._tried_at = float("-inf")
        self._recent: _Times | None = None
        """Calls since the share was last measured, with one number in flight."""
        self._in_flight = 0
        self._seconds = self._blocked_before = 0.0
        """What calls took since then, and how long all had waited."""
        self._share = self._told_share = 0.0
        """Which share of their time they waited, and of late by what the system tells."""
        self._told: _Told | None = _Told(clock(), 0.0)
        """The calls since the latter was last measured; None after a trial."""
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
        return not self._has_ended and self._is_on is (not self._trial or len(self._trial) % 2 == 1)

    @property
    def is_comparing(self) -> bool:
        """Whether the number of calls in flight must not change now."""
        return bool(self._trial)

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
        if self._trial and in_flight != self._in_flight:
            self.cancel_trial()
        if self._trial:
            part = self._trial[-1]
            part.add(seconds, size, now, is_zip=is_zip)
            if part.count >= max(_TRIAL_CALLS, in_flight):
                self._end_part(now, in_flight)
            return
        self._measure_told_share(now, seconds, size, in_flight, link_seconds)
        recent = self._recent
        if recent is None or in_flight != self._in_flight:
            self._recent, self._in_flight = _Times(now, 0), in_flight
            self._seconds, self._blocked_before = 0.0, blocked_seconds
            return
        self._seconds += seconds
        recent.add(seconds, size, now, is_zip=is_zip)
        if recent.count >= _CALLS_TO_SETTLE + _ROUNDS_TO_SETTLE * in_flight and now - recent.began >= _SHARE_SECONDS:
            self._recent = None
            self._share = min(1.0, (blocked_seconds - self._blocked_before) / max(self._seconds, 1e-9))
            if self._is_trial_due(recent, now):
                self._trial = [recent, _Times(now, in_flight)]

    def _measure_told_share(self, now: float, seconds: float, size: int, in_flight: int, link_seconds: float) -> None:
        """Add a call to what the system tells of the share, and begin zips if that is large."""
        told = self._told
        if told is None:
            self._told = _Told(now, link_seconds)
            return
        told.calls += 1
        told.seconds += seconds
        told.bytes += size * (1 + (size > _DEFLATED_ONCE))
        if told.calls < _SHARE_CALLS or now - told.began < _SHARE_SECONDS:
            return
        self._told = _Told(now, link_seconds)
        self._told_share = min(1.0, (link_seconds - told.link_seconds) / max(told.seconds, 1e-9))
        if self._is_on:
            return
        # Large files that end together have not been sent in the time between their ends.
        self._is_fast = told.bytes > self._fast_bytes * max(now - told.began, told.seconds / in_flight)
        is_obvious = self._told_share * (1 - 1 / self._ratio) > _OBVIOUS_SAVING
        if is_obvious and not self._is_doubtful and not self._is_fast:
            self._is_on = self._is_untried = True
            self._tried_at, self._recent = now, None

    def record_failure(self) -> bool:
        """Record that the server failed on a zip (500). Whether it was the last one."""
        self._failures += 1
        return self._failures >= _MAX_FAILURES

    def record_loss(self, began: float, *, seconds: float = 0.0) -> bool:
        """Record that a zip got no answer, or one of a server in trouble, and its file was then stored as it is.

        Those that were in flight together, as in an outage, count once; `began` is when this one was sent. `seconds` is
        what it took, if the file itself was stored at once. Whether it was the last one.
        """
        if began < self._last_loss_at:
            return False
        self._last_loss_at = self._clock()
        self._losses += 1
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
        self._trial, self._recent, self._told = [], None, None

    def _give_up(self, series: str) -> None:
        """Count a file of a series that was not worth a zip."""
        if series not in self._hopeless and len(self._hopeless) >= _MAX_SERIES:
            self._hopeless = {}
        self._hopeless[series] = self._hopeless.get(series, 0) + 1

    def _is_trial_due(self, recent: _Times, now: float) -> bool:
        if self._is_on:
            # While the link is the limit, the same files as they are would take longer.
            is_known = self._told_share * (self._ratio - 1) > _MIN_SAVING
            if self._is_untried:
                pause = _FIRST_PAUSE_OF_ZIPS if is_known else 0.0
            else:
                pause = _MAX_PAUSE_SECONDS if is_known else self._pause
            return recent.zips > 0 and now >= self._tried_at + pause
        is_due = now >= self._tried_at + self._pause and not self._is_fast
        return is_due and self._share * (1 - 1 / self._ratio) > _MIN_SAVING

    def _end_part(self, now: float, in_flight: int) -> None:
        parts = len(self._trial)
        threshold = 1 / _END_ABOVE if self._is_on else _BEGIN_BELOW
        if parts % 2:
            before, changed, after = self._trial[-3:]
            quotients = changed.over(before), changed.over(after)
            is_clear = max(quotients) <= threshold or min(quotients) > threshold or parts == _MAX_PARTS
        else:
            before, changed = self._trial[-2:]
            quotients = changed.over(before) if changed.zips or self._is_on else 1.0, 0.0
            foreseen = 1 - self._share * (1 - 1 / self._ratio)
            is_clear = not self._is_on and (not changed.zips or foreseen - _TOLERANCE <= quotients[0] <= threshold)
        if not is_clear:
            # What is still in flight went the other way.
            self._trial.append(_Times(now, in_flight))
            return
        self._is_untried = False
        stays = max(quotients) > threshold
        self._is_on = self._is_on is stays
        self.cancel_trial()
        if not self._is_on:
            self._is_doubtful |= before.zips + changed.zips > 0
            # The next files may deflate better.
            self._ratio = max(self._ratio, _ASSUMED_RATIO)
        first = _FIRST_PAUSE_OF_ZIPS if self._is_on else _FIRST_PAUSE_SECONDS
        self._pause = min(2 * self._pause, _MAX_PAUSE_SECONDS) if stays else first
        self._tried_at = now
