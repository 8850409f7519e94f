"""Connections and addresses as in Tomcat."""

from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from anyio.abc import ByteStream
from raw_client import basic_auth, dicom, raw_client

from asyncimport.testserver import PROFILES, TestXnat, Timing

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


@pytest.mark.parametrize("site", [{"strict_urls": False}, {"profile": PROFILES["1.7"]}], ids=["asked for", "1.7"])
async def test_archive_49_old_tomcats_were_lenient(site: dict[str, Any]) -> None:
    """By version, unless a site says otherwise."""
    async with raw_client(TestXnat(**site)) as web:
        assert (await web.get("/data/projects?x=[1]")).status == 200
        assert (await web.get("/data/projects/a%2Fb", format="json")).status == 404


async def test_a_refused_large_file_leaves_no_lock(tmp_path: Path) -> None:
    """The same file is accepted right afterwards."""
    body = dicom(PixelData=bytes(9 * 1024 * 1024))
    async with raw_client(TestXnat(tmp_path, disk_full=True)) as web:
        assert (await web.send(body)).status == 400
        web.xnat.disk_full = False
        assert (await web.send(body)).status == 200


async def test_archive_46_a_proxy_has_a_limit() -> None:
    """A larger body is nginx's 413, and XNAT sees nothing of it."""
    async with raw_client(TestXnat(max_body=1000)) as web:
        answer = await web.send(dicom(PixelData=bytes(2000)))
        assert (answer.status, "<center>nginx</center>" in answer.text) == (413, True)
        assert (await web.send(dicom(PixelData=bytes(2)))).status == 200
        assert web.xnat.count["import"] == 1


async def test_archive_48_an_early_error_for_a_large_body_may_never_be_seen() -> None:
    """Tomcat swallows so much of the body, and then resets; smaller bodies, and good answers, are not affected."""
    body = dicom(PixelData=bytes(8 << 20))
    async with raw_client(TestXnat(swallowed_bytes=2 << 20), user=None) as web:
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await web.send(body)
        assert (await web.send(dicom())).status == 401
        await web.get("/data/JSESSION", basic_auth())
        assert (await web.send(body)).status == 200


@pytest.mark.parametrize(("starting", "text"), [(404, "Apache Tomcat"), (502, "nginx"), (503, "nginx")])
async def test_archive_50_while_it_starts_xnat_is_not_there(starting: Any, text: str) -> None:
    """Whatever is asked for."""
    async with raw_client() as web:
        web.xnat.starting = starting
        for path in ("/data/projects", "/xapi/siteConfig/buildInfo", "/"):
            answer = await web.get(path)
            assert (answer.status, text in answer.text) == (starting, True)
        web.xnat.starting = None
        assert (await web.get("/data/projects")).status == 200
