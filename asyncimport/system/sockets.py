"""What a TCP connection waits for while it sends."""

import socket
import struct
import sys
from collections.abc import Callable
from enum import Enum, auto
from time import monotonic
from typing import Any, NamedTuple

# struct tcp_info of Linux (include/uapi/linux/tcp.h): tcpi_busy_time and tcpi_rwnd_limited, in microseconds.
_LINUX_TIMES = struct.Struct("=168xQQ")
# After 120 bytes the bytes acknowledged, after 148 the shortest round trip (in us), after 160 the rate at which bytes
# were delivered last (a second), and the time with bytes under way, and held back by the peer's window (in us).
_LINUX_LINK = struct.Struct("=120xQ20xI8xQQQ")
_UNKNOWN_TIME = 0xFFFF_FFFF
# SO_NWRITE of macOS (sys/socket.h): the bytes of the send buffer.
_MACOS_UNSENT = 0x1024


class Sending(Enum):
    """What a connection waits for."""

    NOTHING = auto()
    """All is sent and acknowledged, or this system does not tell."""
    NETWORK = auto()
    """Bytes are on the way, or have to wait for the network."""
    PEER = auto()
    """The peer takes bytes more slowly than the network brings them."""


def sending(connected: socket.socket) -> Sending:
    """Return what a connection waits for now."""
    try:
        if not _has_unsent(connected):
            return Sending.NOTHING
        return Sending.PEER if _is_held_back(connected) else Sending.NETWORK
    except (OSError, ValueError):  # it was closed
        return Sending.NOTHING


def _has_unsent(connected: socket.socket) -> bool:
    if sys.platform == "linux":
        import fcntl
        import termios

        return int.from_bytes(fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder) > 0
    if sys.platform == "darwin":
        return bool(connected.getsockopt(socket.SOL_SOCKET, _MACOS_UNSENT))
    return False


def _is_held_back(connected: socket.socket) -> bool:
    """Whether the peer's window has held bytes back for most of the time that there were some to send."""
    if sys.platform != "linux":
        return False
    info = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LINUX_TIMES.size)
    if len(info) < _LINUX_TIMES.size:  # an old kernel
        return False
    busy, held_back = _LINUX_TIMES.unpack(info)
    return bool(2 * held_back > busy)


class LinkState(NamedTuple):
    """What a connection has sent: bytes, round trip (s), bytes a second of late, seconds with bytes under way.

    The seconds for which the peer's window held bytes back do not count.
    """

    acknowledged: int
    round_trip: float
    rate: int
    busy_seconds: float


def link_state(connection: Any) -> LinkState | None:
    """Return the state of a socket; None if the system does not tell."""
    if sys.platform != "linux":
        return None
    try:
        found: bytes = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LINUX_LINK.size)
    except (OSError, AttributeError):
        return None
    if len(found) < _LINUX_LINK.size:  # an old kernel
        return None
    acknowledged, round_trip, rate, busy, held_back = _LINUX_LINK.unpack(found)
    seconds = 0.0 if round_trip == _UNKNOWN_TIME else round_trip / 1e6
    return LinkState(acknowledged, seconds, rate, (busy - held_back) / 1e6)


def link_seconds(before: LinkState, after: LinkState, requests: int = 1) -> float:
    """Return how long the bytes of requests have waited for the link between two states, but for one round trip each.

    They are under way until the peer has acknowledged them. It may delay that for the last ones, up to its answer, so
    the wait is no longer than the bytes take at the rate of the link.
    """
    at_rate = (after.acknowledged - before.acknowledged) / max(1, after.rate)
    under_way = after.busy_seconds - before.busy_seconds
    return max(0.0, min(under_way - requests * after.round_trip, at_rate))


class LinkMeter:
    """Measures how long the requests of a connection wait for the link, one request at a time.

    `connection` is its socket. The system is asked once in 20 ms at most: for each quick request that takes too long.
    """

    _INTERVAL_SECONDS = 0.02

    def __init__(self, connection: Any, *, clock: Callable[[], float] = monotonic) -> None:
        self._connection = connection
        self._clock = clock
        self._state = link_state(connection)
        self._asked_at = float("-inf")
        self._requests = 0

    @property
    def is_told(self) -> bool:
        """Whether the system tells anything."""
        return self._state is not None

    @property
    def round_trip(self) -> float:
        """The shortest round trip so far, in seconds; 0 if it is unknown."""
        return 0.0 if self._state is None else self._state.round_trip

    def measure(self) -> float | None:
        """Return how long the requests since the last measurement have waited; None if it is too early for another."""
        before, now = self._state, self._clock()
        self._requests += 1
        if before is None or now - self._asked_at < self._INTERVAL_SECONDS:
            return None
        self._state, requests = link_state(self._connection), self._requests
        self._asked_at, self._requests = now, 0
        return None if self._state is None else link_seconds(before, self._state, requests)
