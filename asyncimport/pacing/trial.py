"""Compares two ways of sending: files as they are, and as zips. Pure: it learns from calls as they end."""

from math import inf

# Zips begin if calls then take less than this share of the time without them, and end above the other share.
_BEGIN_BELOW, _END_ABOVE = 0.92, 0.98
# If zips save more than was foreseen, and more than this beside it, something else has changed meanwhile.
_TOLERANCE = 0.15
# A trial that is still not clear then changes nothing.
_MAX_PARTS = 5
# Calls that are measured in each part, at least.
_MIN_CALLS = 16
_SIZE_CLASSES = 64


class CallTimes:
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

    def over(self, other: "CallTimes") -> float:
        """Return the time of these calls over that of the others, for files of the same size; inf if there are none."""
        quotient, calls = 0.0, 0
        sizes = zip(self.seconds, self.counts, other.seconds, other.counts, strict=True)
        for seconds, count, others, number in sizes:
            if count and others:
                quotient += seconds * number / others
                calls += count
        return quotient / calls if calls else inf


class Trial:
    """Sends files as before, the other way, as before again, and so on, until it is clear which way is better.

    As many bytes in flight take as long, whosever they are, so only the whole flow shows what zips save: `in_flight`
    calls at a time in all parts. What changes meanwhile on the server or the link shows where the parts before and
    after one disagree. Zips that save as much as was foreseen need no further part. `before` are calls as before. Times
    are seconds.
    """

    def __init__(self, before: CallTimes, now: float, *, in_flight: int, zips_before: bool) -> None:
        self.in_flight = in_flight
        self._zips_before = zips_before
        self._parts = [before]
        self._begin_part(now)

    @property
    def is_other_way(self) -> bool:
        """Whether files go the other way now."""
        return len(self._parts) % 2 == 0

    @property
    def had_zips(self) -> bool:
        """Whether there was a zip in it."""
        return any(part.zips for part in self._parts)

    def record(self, seconds: float, size: int, now: float, *, is_zip: bool, foreseen: float) -> bool | None:
        """Record a call that ends now. Return whether the other way is better, None while that is not clear.

        `foreseen` is which share of its time without zips a call should take with them.
        """
        part = self._parts[-1]
        part.add(seconds, size, now, is_zip=is_zip)
        if part.count < max(_MIN_CALLS, self.in_flight):
            return None
        is_better = self._first_look(foreseen) if self.is_other_way else self._second_look()
        if is_better is None:
            self._begin_part(now)
        return is_better

    def _begin_part(self, now: float) -> None:
        # What is still in flight goes the way of the part before.
        self._parts.append(CallTimes(now, self.in_flight))

    def _first_look(self, foreseen: float) -> bool | None:
        """Compare the other way with the part before it."""
        before, changed = self._parts[-2:]
        if self._zips_before:
            return None
        if not changed.zips:
            return False
        is_as_foreseen = foreseen - _TOLERANCE <= changed.over(before) <= _BEGIN_BELOW
        return True if is_as_foreseen else None

    def _second_look(self) -> bool | None:
        """Compare the other way with the parts before and after it."""
        before, changed, after = self._parts[-3:]
        quotients = changed.over(before), changed.over(after)
        threshold = 1 / _END_ABOVE if self._zips_before else _BEGIN_BELOW
        if max(quotients) <= threshold:
            return True
        return False if min(quotients) > threshold or len(self._parts) == _MAX_PARTS else None
