"""Connections and addresses as in Tomcat."""

from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteStream
from raw_client import dicom, raw_client

from asyncimport.testserver import TestXnat, Timing

pytestmark = pytest.mark.anyio
REQUEST = b"GET /data/JSESSION HTTP/1.1\r\nHost: x\r\n\r\n"


async def reply(stream: ByteStream) -> bytes:
    """Read the head and the body of a login's reply, or nothing from a closed connection."""
    received = b""
    try:
        while b"\r\n\r\n" not in received or len(received.partition(b"\r\n\r\n")[2]) < 32:
            received += await stream.receive()
    except anyio.EndOfStream:
        pass
    return received


def address(url: str) -> tuple[str, int]:
    """Return host and port."""
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


async def test_archive_44_a_connection_serves_its_hundred_requests() -> None:
    """The hundredth reply says Connection: close, and the connection ends."""
    async with (
        raw_client(TestXnat(timing=Timing(keepalive_requests=100)), user=None) as web,
        await anyio.connect_tcp(*address(web.url)) as stream,
    ):
        for number in range(1, 101):
            await stream.send(REQUEST)
            assert (b"Connection: close" in await reply(stream)) is (number == 100)
        assert await reply(stream) == b""


async def test_archive_45_an_idle_connection_is_closed() -> None:
    """After the keep-alive time without a request; a request within it keeps the connection."""
    async with (
        raw_client(TestXnat(timing=Timing(keepalive_seconds=0.2)), user=None) as web,
        await anyio.connect_tcp(*address(web.url)) as stream,
    ):
        for _ in range(2):
            await stream.send(REQUEST)
            assert (await reply(stream)).startswith(b"HTTP/1.1 200")
        assert await reply(stream) == b""


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/data/projects?x=[1]", 400),
        ("/data/projects?x=a|b", 400),
        ("/data/projects/{P}", 400),
        ("/data/projects/a%2Fb", 400),
        ("/data/projects/a%2fb", 400),
        ("/data/projects?x=%5B1%5D%7C%2F", 200),
    ],
)
async def test_archive_49_what_must_be_encoded_and_what_may_not(target: str, status: int) -> None:
    """Raw brackets and the like, and an encoded slash in the path: 400 before XNAT sees it."""
    async with raw_client() as web:
        answer = await web.get(target)
        assert answer.status == status
        assert status == 200 or "HTTP Status 400" in answer.text


async def test_archive_49_old_tomcats_were_lenient() -> None:
    """`strict_urls=False`."""
    async with raw_client(TestXnat(strict_urls=False)) as web:
        assert (await web.get("/data/projects?x=[1]")).status == 200
        assert (await web.get("/data/projects/a%2Fb", format="json")).status == 404


async def test_a_refused_large_file_leaves_no_lock(tmp_path: Path) -> None:
    """The same file is accepted right afterwards."""
    body = dicom(PixelData=bytes(9 * 1024 * 1024))
    async with raw_client(TestXnat(tmp_path, disk_full=True)) as web:
        assert (await web.send(body)).status == 400
        web.xnat.disk_full = False
        assert (await web.send(body)).status == 200
