"""What a connection waits for: by real sockets."""

import socket
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

from asyncimport.system.sockets import Sending, sending


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return both ends of a TCP connection on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
        with ours, theirs:
            yield ours, theirs


def test_all_is_acknowledged(ends: tuple[socket.socket, socket.socket]) -> None:
    """The kernel of the other end has all bytes, though nobody has read them."""
    ours, theirs = ends
    assert sending(ours) is Sending.NOTHING
    ours.sendall(b"x" * 1000)
    theirs.recv(1000, socket.MSG_WAITALL)
    assert sending(ours) is Sending.NOTHING


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_a_peer_that_does_not_read(ends: tuple[socket.socket, socket.socket]) -> None:
    """It is the peer that is slow, not the network."""
    ours, _ = ends
    ours.settimeout(0)
    # Until no more has room, here and there.
    while sending(ours) is not Sending.PEER:
        with suppress(BlockingIOError):
            ours.send(b"x" * (1 << 20))
    assert sending(ours) is Sending.PEER


def test_a_closed_socket(ends: tuple[socket.socket, socket.socket]) -> None:
    """It waits for nothing."""
    ours, _ = ends
    ours.close()
    assert sending(ours) is Sending.NOTHING
