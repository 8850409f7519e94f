"""Serving a test XNAT: TLS, errors of its user, stopping, connections."""

import gc
import socket
import ssl
from contextlib import suppress

import aiohttp
import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trustme
from patience import in_time
from raw_client import raw_client
from yarl import URL

from asyncimport.testserver import Fault, Restart, TestXnat, Timing, serve

pytestmark = pytest.mark.anyio


async def test_import_35_connections_are_closed_after_their_requests() -> None:
    """The third reply says Connection: close, as Tomcat's hundredth."""
    async with raw_client(TestXnat(timing=Timing(keepalive_requests=3)), user=None) as web:
        closed = [(await web.get("/data/JSESSION")).headers.get("Connection") for _ in range(6)]
        assert closed == [None, None, "close", None, None, "close"]


def certified() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return contexts of a server and of a client that trusts it."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    return server, client


async def test_https() -> None:
    """With a context for TLS the URL is https and cookies are Secure."""
    server, client = await anyio.to_thread.run_sync(certified)
    async with serve(TestXnat(), ssl_context=server) as url, aiohttp.ClientSession() as http:
        assert url.startswith("https://127.0.0.1:")
        async with http.get(url + "/data/JSESSION", ssl=client) as reply:
            assert reply.headers["Set-Cookie"].endswith("; HttpOnly; Secure")


async def test_a_failure_of_the_user_of_a_server_is_shown_as_it_is() -> None:
    """Not wrapped in an exception group."""
    with pytest.raises(ZeroDivisionError):
        async with serve(TestXnat()):
            raise ZeroDivisionError


async def test_a_server_stops_at_once_with_requests_under_way() -> None:
    """A job of ten minutes does not delay it."""
    xnat = TestXnat(archive_seconds=600)
    with in_time():
        async with anyio.create_task_group() as tasks, raw_client(xnat) as web:

            async def archive(uri: str) -> None:
                with pytest.raises(aiohttp.ClientError):
                    await web.archive(uri)

            tasks.start_soon(archive, await web.build_session())
            while not xnat.count["archive"]:
                await anyio.lowlevel.checkpoint()


def test_the_class_is_not_collected_by_pytest() -> None:
    """Its name begins with Test."""
    assert TestXnat.__test__ is False


@pytest.mark.parametrize("turns", range(6))
async def test_connections_that_are_accepted_while_it_stops_are_closed(turns: int) -> None:
    """One that is not closed is a warning when it is collected, and warnings are errors."""
    async with serve(TestXnat()) as url:
        address = ("127.0.0.1", URL(url).port or 0)
        clients = await anyio.to_thread.run_sync(lambda: [socket.create_connection(address) for _ in range(5)])
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
    for client in clients:
        client.close()
    gc.collect()


async def test_a_restart_breaks_connections_that_have_just_been_made() -> None:
    """However far the server has got with them."""
    xnat = TestXnat()
    restart = xnat.faults.add(Fault("any", Restart()))
    async with serve(xnat) as url:
        address = ("127.0.0.1", URL(url).port or 0)
        async with await anyio.connect_tcp(*address) as other:
            await other.send(b"GET /data/version HTTP/1.1\r\nHost: x\r\n\r\n")
            clients = [socket.create_connection(address) for _ in range(20)]
            for client in clients:
                with client, suppress(ConnectionResetError):
                    assert await anyio.to_thread.run_sync(client.recv, 1) == b""
        restart.release()
