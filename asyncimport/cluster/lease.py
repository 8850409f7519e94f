"""Leases: a worker sends only as long as the driver lets it, by the worker's own clock.

Each reply of a worker carries its clock. The next order lets it send until that time and the length of a lease. The
driver received the reply later than it was made, so it knows, by its own clock, when that lease is over. No clocks of
two machines are compared.
"""

import sys
import time
from collections.abc import Callable
from math import inf
from time import monotonic

# By which share of a lease two clocks may differ at its end. Clocks of computers differ by less than a thousandth.
_MARGIN = 0.05


def lease_clock() -> float:
    """Return seconds of a clock that nobody can set, and that goes on while the machine sleeps."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":
        # `time.monotonic` stands still there while the machine sleeps.
        return time.clock_gettime(time.CLOCK_MONOTONIC)
    return monotonic()


class LeaseOverError(ConnectionAbortedError):
    """Nothing more may be sent: the driver may have given the work to others."""


class Lease:
    """Whether a worker may send. Once it is over it stays so: a late renewal changes nothing.

    It may be read and renewed in different threads.
    """

    def __init__(self, clock: Callable[[], float] = lease_clock) -> None:
        self.clock = clock
        self._until = inf
        """Before the first order there is nothing to send, and the worker may log in."""
        self._is_over = False

    def renew(self, until: float) -> None:
        """Let the worker send until this time of its clock."""
        if not self.is_over:
            self._until = until

    def end(self) -> None:
        """End it now."""
        self._is_over = True

    @property
    def is_over(self) -> bool:
        """Whether it is over."""
        if not self._is_over and self.clock() >= self._until:
            self._is_over = True
        return self._is_over

    @property
    def seconds_left(self) -> float:
        """How long it lasts if it is not renewed."""
        return 0.0 if self.is_over else self._until - self.clock()

    def check(self) -> None:
        """Do nothing while it lasts. Raises: LeaseOverError."""
        if self.is_over:
            raise LeaseOverError("the lease of this worker is over")


class GrantedLease:
    """What the driver knows of a worker's lease: until when, by the driver's clock, the worker may still send."""

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._worker_clock = 0.0
        self._replied_at = 0.0

    def note_reply(self, worker_clock: float) -> None:
        """Note that a reply came in, made at this time of the worker's clock."""
        self._worker_clock, self._replied_at = worker_clock, self._clock()

    @property
    def until(self) -> float:
        """Until when the next order lets the worker send, by the worker's clock."""
        return self._worker_clock + self._seconds

    @property
    def seconds_left(self) -> float:
        """How much longer the worker may send if no reply comes any more."""
        return max(0.0, self._replied_at + with_margin(self._seconds) - self._clock())


def with_margin(seconds: float) -> float:
    """Return how long the driver waits for the end of a lease of this many seconds: its clock may be the faster one."""
    return seconds * (1 + _MARGIN)
