"""The batches that workers send now: what waits behind a file that takes long goes to another worker."""

from collections.abc import Callable
from math import inf
from time import monotonic

from asyncimport.model.deliveries import Claim

# Files are in one batch where each takes a few milliseconds. One that fails is tried again for a minute, and one that
# gets no answer for an hour.
_LATE_SECONDS = 1.0


class Batch:
    """Files that a worker sends one after another; `left` are those that it has not begun, and that are still its."""

    __slots__ = ("left",)

    def __init__(self, claims: list[Claim]) -> None:
        self.left = [*claims]


class Batches:
    """The batches that workers send now, with the time when each began its present file."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._since: dict[Batch, float] = {}
        """Those with files left, in the order of these times."""

    def begin_next(self, batch: Batch) -> bool:
        """Note that the next file of a batch is begun; False if others send it and all that follow."""
        self.end(batch)
        if not batch.left:
            return False
        del batch.left[0]
        if batch.left:
            self._since[batch] = self._clock()
        return True

    def end(self, batch: Batch) -> None:
        """Note that the present file of a batch has ended."""
        self._since.pop(batch, None)

    def take_late(self) -> list[Claim]:
        """Take the files that wait behind one that takes long; none if there are none."""
        if self.seconds_to_late():
            return []
        batch = next(iter(self._since))
        self.end(batch)
        taken, batch.left = batch.left, []
        return taken

    def seconds_to_late(self) -> float:
        """Return after how long files may wait behind one that takes long; inf if none do by then."""
        since = next(iter(self._since.values()), inf)
        return max(0.0, since + _LATE_SECONDS - self._clock())
