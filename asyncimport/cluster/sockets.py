"""Sockets that send nothing without a lease."""

import socket
import struct
import sys
from collections.abc import Iterable
from typing import Any
from weakref import WeakSet

from asyncimport.cluster.lease import Lease

_RESET = struct.pack("ii", 1, 0)


class LeasedSockets:
    """Makes the sockets of a worker. Each asks the lease at each call that sends.

    The loop cannot be the place for that: a process that was stopped, and goes on after its lease, may be anywhere in
    it. What is in the kernel by the end of the lease may still go out, and the settle time is for that; `reset` drops
    what has not gone out by then.
    """

    def __init__(self, lease: Lease, seconds: float) -> None:
        self._lease = lease
        self._milliseconds = int(seconds * 1000)
        self._open: WeakSet[socket.socket] = WeakSet()

    def __call__(self, address: tuple[Any, ...]) -> socket.socket:
        """Make a socket for an entry of `getaddrinfo`."""
        family, kind, protocol, *_ = address
        made = _LeasedSocket(self._lease, family, kind, protocol)
        if sys.platform == "linux":
            # Else the kernel would go on sending a body for a quarter of an hour, when a network is back.
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._milliseconds)
        self._open.add(made)
        return made

    def reset(self) -> None:
        """Let the kernel drop what it has not sent yet, when these sockets are closed."""
        for one in list(self._open):
            if one.fileno() >= 0:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


class _LeasedSocket(socket.socket):
    """A socket that asks before it sends. asyncio sends by these methods only."""

    def __init__(self, lease: Lease, family: int, kind: int, protocol: int) -> None:
        super().__init__(family, kind, protocol)
        self._lease = lease

    def send(self, data: Any, flags: int = 0, /) -> int:
        """Send. Raises: LeaseOverError, OSError."""
        self._lease.check()
        return super().send(data, flags)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send. Raises: LeaseOverError, OSError."""
        self._lease.check()
        super().sendall(data, flags)

    def sendmsg(self, buffers: Iterable[Any], *rest: Any) -> int:
        """Send. Raises: LeaseOverError, OSError."""
        self._lease.check()
        return super().sendmsg(buffers, *rest)
