"""Connections of Dask that end without a word, which harms no other one of the thread."""

import socket
import ssl
from contextlib import suppress
from typing import Any

import pytest
from distributed import Security

from asyncimport.cluster.security import TolerantSecurity


@pytest.mark.parametrize("ends", ["client", "server"])
def test_an_end_without_a_word_is_no_error(ends: str) -> None:
    """Python 3.13 would leave it to the next call of the thread, about any connection."""
    security = TolerantSecurity.of(Security.temporary())
    client: Any = security.get_connection_args("client")["ssl_context"]
    server: Any = security.get_listen_args("scheduler")["ssl_context"]
    ours, theirs = socket.socketpair()
    with (
        client.wrap_socket(ours, do_handshake_on_connect=False, suppress_ragged_eofs=False) as one,
        server.wrap_socket(
            theirs, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
        ) as other,
    ):
        shake_hands(one, other)
        leaving, left = (one, other) if ends == "client" else (other, one)
        leaving.shutdown(socket.SHUT_WR)
        assert left.recv(1) == b""


def shake_hands(*both: Any) -> None:
    """Let each do its part until both are ready."""
    waiting = [*both]
    while waiting:
        for side in [*waiting]:
            side.settimeout(0)
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
                waiting.remove(side)


def test_settings_stay() -> None:
    """Without certificates nothing is encrypted, as before."""
    plain = TolerantSecurity.of(Security())
    assert plain.get_connection_args("client")["ssl_context"] is None
    assert plain.get_listen_args("worker")["ssl_context"] is None
    found = Security.temporary(tls_ciphers="ECDHE+AESGCM")
    assert repr(TolerantSecurity.of(found)) == repr(found)
