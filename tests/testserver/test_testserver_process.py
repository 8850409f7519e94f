"""The command `asyncimport testserver`, as people and other programs run it."""

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import anyio
import pytest
from anyio.streams.text import TextReceiveStream
from raw_client import RawClient, basic_auth, dicom, sop

from asyncimport.testserver import TestXnat

pytestmark = pytest.mark.anyio


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[RawClient]:
    """Start `asyncimport testserver` on a free port and yield a client; its `xnat` is not the one that answers."""
    words = ("testserver", "--port", "0", "-o", "json", "--directory", str(tmp_path / "xnat"))
    async with await anyio.open_process([sys.executable, "-m", "asyncimport", *words], stderr=None) as process:
        try:
            assert process.stdout is not None
            told = json.loads(await TextReceiveStream(process.stdout).receive())
            jar = aiohttp.CookieJar(unsafe=True)
            async with aiohttp.ClientSession(cookie_jar=jar, headers={"User-Agent": "test/1"}) as http:
                yield RawClient(TestXnat(), told["url"], http)
        finally:
            process.kill()


async def test_rules_hold_in_another_process(web: RawClient, tmp_path: Path) -> None:
    """Archive 1 and 5; import 5, 7, 8, 9, 22, 24, 29; archive 42 and 49, on one server that takes a while to start."""
    assert (await web.get("/data/projects")).status == 401
    web.http.cookie_jar.clear()
    assert len((await web.get("/data/JSESSION", basic_auth())).text) == 32
    assert (await web.get("/data/auth")).text == "User 'demo' is logged in"
    assert (await web.send(b"")).status == 400
    bad = await web.send(b"no DICOM at all")
    assert (bad.status, bad.message) == (400, "unable to read DICOM object upload.dcm")
    assert "/Unassigned/" in (await web.send(dicom(), PROJECT_ID="typo")).text
    sent = await web.send(dicom())
    assert (sent.status, sent.type, sent.text[-2:]) == (200, "text/uri-list", "\r\n")
    uri = sent.text.strip()
    assert (await web.get(uri)).status == 404
    assert await web.row_status(uri) == "RECEIVING"
    committed = await web.post(uri, action="commit", AA="true")
    assert (committed.status, "Location" in committed.headers) == (301, False)
    assert committed.text == "/data/archive/projects/demo/subjects/S/experiments/E"
    assert await web.row_status(uri) == "gone"
    assert (await web.get("/xapi/anonymize/site/enabled")).json is True
    assert (await web.get("/data/projects?x=[1]")).status == 400
    assert (await web.get("/testserver/instances")).text == f"demo\tS\tE\t1\t{sop(1)}\n"
    (path,) = (tmp_path / "xnat" / "archive").rglob("*.dcm")
    assert path.read_bytes() != dicom()
