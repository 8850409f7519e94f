"""Ports of this machine that nobody else gets."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def free_port() -> Iterator[int]:
    """Yield a port that nobody listens on, and keep it for a program that is told to.

    A port that is free now may be that of any connection a moment later.
    """
    with socket.socket() as kept:
        # With this option, which servers set too, one may listen on what another holds.
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        port: int = kept.getsockname()[1]
        if sys.platform != "linux":
            kept.close()
        yield port
