"""What a TCP connection waits for while it sends."""

import socket
import struct
import sys
from enum import Enum, auto

# struct tcp_info of Linux (include/uapi/linux/tcp.h): tcpi_busy_time and tcpi_rwnd_limited, in microseconds.
_LINUX_TIMES = struct.Struct("=168xQQ")
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
