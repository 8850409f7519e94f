"""Endless, bursting and dripping answers: each call ends in time, with an error that says what came."""

import asyncio
import gzip
import socket
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import anyio
import pytest
from aiohttp import web
from builders import listening, logged_in
from patience import in_time

from asyncimport.errors import LoginExpiredError, LoginRefusedError, RefusedError, TransientError, UnavailableError
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.xnat.replies.images import parse_import_uri
from asyncimport.xnat.replies.logins import parse_user_name
from asyncimport.xnat.replies.response import Reply
from asyncimport.xnat.response_body import MAX_REPLY_BYTES
from asyncimport.xnat.transport import Timeouts

pytestmark = pytest.mark.anyio

ONCE = RetryPolicy(attempts=1)
PIECE = b"<html>" + b"x" * 65_530
MUCH = 2_000
"""Chunks of 131 MB in all."""


class Site:
    """A server that accepts any login, and answers other requests with a given body."""

    def __init__(self) -> None:
        self.sent = 0
        self.status = 200
        self.headers: Mapping[str, str] = {}
        self.body: bytes | None = None
        self.piece = PIECE
        self.pause = 0.0
        self.times = MUCH
        self.only = ""

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer."""
        if request.path == "/data/JSESSION" and self.only != "login":
            return web.Response(text="0123456789ABCDEF")
        if request.path == "/data/auth" and self.only != "login":
            return web.Response(text="User 'demo' is logged in")
        if self.body is not None:
            return web.Response(status=self.status, body=self.body, headers=self.headers)
        response = web.StreamResponse(status=self.status, headers=self.headers)
        await response.prepare(request)
        for _ in range(self.times):
            await response.write(self.piece)
            self.sent += len(self.piece)
            await anyio.sleep(self.pause)
        return response


@pytest.fixture
async def site() -> AsyncIterator[tuple[Site, str]]:
    """Serve a site."""
    site = Site()
    async with listening(site.answer) as url:
        yield site, url


def as_it_is(reply: Reply) -> Reply:
    """Return a reply as it is."""
    return reply


@contextmanager
def little_memory() -> Iterator[None]:
    """Check that a block takes less than 12 MB, including the server of this process."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()


stored = partial(parse_import_uri, project="demo", expected=None)


@pytest.mark.parametrize(
    ("status", "kind", "piece", "error", "words"),
    [
        (200, "text/html", PIECE, TransientError, "a web page came instead of XNAT's answer"),
        (200, "text/html", PIECE.replace(b"xxx", b"Login.vm ", 1), LoginExpiredError, "login page"),
        (200, "application/json", PIECE, TransientError, "a web page came instead of XNAT's answer"),
        (200, "text/plain", b"/prearchive/projects/demo/" * 2_000, TransientError, "an answer of more than 1,048,576"),
        (401, "text/html", PIECE, LoginExpiredError, "401"),
        (503, "text/html", PIECE, TransientError, "overloaded or away"),
        (400, "text/plain", b"no such thing " * 4_000, RefusedError, "no such thing"),
    ],
)
async def test_an_endless_answer_is_judged_by_its_beginning(
    site: tuple[Site, str], status: int, kind: str, piece: bytes, error: type[Exception], words: str
) -> None:
    """The beginning of a gateway's page is enough to recognise it; any other endless answer is an error."""
    told, url = site
    async with logged_in(url) as client:
        told.status, told.headers, told.piece = status, {"Content-Type": kind}, piece
        with little_memory(), pytest.raises(error, match=words) as caught:
            await client.call("POST", client.url("/data/services/import"), stored, data=b"x")
    assert told.sent < 16 * MAX_REPLY_BYTES
    if words.startswith("an answer"):
        assert isinstance(caught.value, TransientError)
        assert caught.value.may_have_taken_effect


async def test_an_endless_answer_to_a_login(site: tuple[Site, str]) -> None:
    """A gateway may answer each request with its page."""
    told, url = site
    told.only, told.piece = "login", PIECE.replace(b"xxx", b"Login.vm ", 1)
    with little_memory(), pytest.raises(LoginRefusedError):
        async with logged_in(url):
            pass
    assert told.sent < 16 * MAX_REPLY_BYTES


@pytest.mark.parametrize("packing", ["gzip", "x-gzip", "deflate"])
async def test_a_bursting_answer_is_not_unpacked(site: tuple[Site, str], packing: str) -> None:
    """A packed megabyte may contain a gigabyte."""
    told, url = site
    form = zlib.MAX_WBITS | (0 if packing == "deflate" else 16)
    pack = zlib.compressobj(9, zlib.DEFLATED, form)
    bomb = b"".join(pack.compress(bytes(1 << 20)) for _ in range(1 << 9)) + pack.flush()
    async with logged_in(url) as client:
        told.body, told.headers = bomb, {"Content-Encoding": packing, "Content-Type": "application/json"}
        with little_memory(), pytest.raises(TransientError, match="more than 1,048,576 bytes"):
            await client.call("GET", client.url("/data/projects"), as_it_is)


@pytest.mark.parametrize("packing", ["gzip", "deflate", "Identity"])
async def test_a_packed_listing_is_read(site: tuple[Site, str], packing: str) -> None:
    """Packing saves minutes on a slow link; a listing may be far larger than other answers."""
    told, url = site
    text = '{"ResultSet": {"Result": [' + '{"ID": "ü"},' * 200_000 + "{}]}}"
    packs: Mapping[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
    pack = packs.get(packing, bytes)
    async with logged_in(url) as client:
        told.body, told.headers = pack(text.encode()), {"Content-Encoding": packing}
        reply = await client.request("GET", "/data/projects", as_it_is, ONCE)
    assert reply.text == text


@pytest.mark.parametrize(
    ("packing", "body", "words"),
    [
        ("gzip", b"no gzip", "cannot be unpacked"),
        ("gzip", gzip.compress(b"a listing", mtime=0)[:-12], "ends too early"),
        ("br", b"x", "was not accepted"),
    ],
)
async def test_an_unreadable_answer_is_transient(site: tuple[Site, str], packing: str, body: bytes, words: str) -> None:
    """It is no verdict."""
    told, url = site
    async with logged_in(url) as client:
        told.body, told.headers = body, {"Content-Encoding": packing}
        with pytest.raises(TransientError, match=words):
            await client.request("GET", "/data/projects", as_it_is, ONCE)


async def test_endless_headers_end_the_call() -> None:
    """They are not kept in memory either."""
    sent = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n")
        with suppress(ConnectionError):
            while sent < 64 << 20:
                writer.write(b"X-Header-%d: %s\r\n" % (sent, b"x" * 7_000))
                sent += 7_000
                await writer.drain()
        writer.close()

    listener = socket.create_server(("127.0.0.1", 0))
    # What waits in the system is not what the client has read: connections that are accepted have this buffer, too.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    server = await asyncio.start_server(answer, sock=listener)
    async with server:
        with little_memory(), pytest.raises(UnavailableError, match="does not answer"):
            async with logged_in(f"http://127.0.0.1:{listener.getsockname()[1]}"):
                pass
    assert sent < 16 << 20


async def test_a_dripping_download_ends(site: tuple[Site, str], tmp_path: Path) -> None:
    """Single bytes are no progress."""
    told, url = site
    async with logged_in(url, timeouts=Timeouts(connect=5, stall=0.5, reply=0.5)) as client:
        told.piece, told.pause, told.times = b"x", 0.05, 100
        with in_time(), pytest.raises(TransientError, match="in time"):
            await client.download("/data/zip", tmp_path / "zip", ONCE)
        told.piece, told.pause, told.times = bytes(8 << 10), 0.05, 20
        await client.download("/data/zip", tmp_path / "zip", ONCE)
        assert (tmp_path / "zip").stat().st_size == 20 * (8 << 10)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
async def test_a_full_disk_is_no_verdict_on_a_download(site: tuple[Site, str]) -> None:
    """The disk has the temporary files."""
    told, url = site
    async with logged_in(url) as client:
        told.body = b"x"
        with pytest.raises(TransientError, match="cannot write a file of XNAT's here: No space left"):
            await client.download("/data/zip", Path("/dev/full"), ONCE)


async def test_a_dripping_answer_ends(site: tuple[Site, str]) -> None:
    """The timeout holds for the whole answer."""
    told, url = site
    async with logged_in(url, timeouts=Timeouts(connect=5, stall=0.25, reply=0.25)) as client:
        told.piece, told.pause, told.times = b"x", 0.05, 100
        with in_time(), pytest.raises(TransientError, match="in time"):
            await client.request("GET", "/data/projects", as_it_is, ONCE)
        with in_time(), pytest.raises(TransientError, match="in time"):
            await client.call("POST", client.url("/data/services/import"), as_it_is, data=b"x", has_deadline=True)


def test_a_hostile_page_is_searched_quickly() -> None:
    """The time of the patterns grows with the square of the text."""
    for text in ("<h3>" * 250_000, "<" * 1_000_000, "User '" * 150_000):
        reply = Reply(500, {}, text)
        with little_time():
            assert reply.message
            assert parse_user_name(Reply(200, {}, text)) is None


@contextmanager
def little_time() -> Iterator[None]:
    """Check that a block takes less than two seconds."""
    began = time.process_time()
    yield
    assert time.process_time() - began < 2
