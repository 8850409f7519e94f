"""What does not depend on each other is asked side by side: each round trip is a tenth of a second to a far server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from aiohttp import web
from builders import AT_ONCE, claim, image, listening, logged_in, write
from patience import in_time

from asyncimport.xnat.archive import READS_AT_ONCE, Archive
from asyncimport.xnat.client import Client
from asyncimport.xnat.images import XnatDestination
from asyncimport.xnat.replies.archive import Experiment
from asyncimport.xnat.site import check_project

pytestmark = pytest.mark.anyio


class Together:
    """A server that answers requests for some paths when all of them have come, and notes how many it had at once."""

    def __init__(self, *paths: str) -> None:
        self.paths = paths
        self.most = 0
        self._here: set[str] = set()
        self._all_here = anyio.Event()

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Accept any login. The answers are those of an XNAT without sessions, filters and scripts."""
        path = request.path_qs
        # The longest that fits: one path may begin like another.
        if one := max((one for one in self.paths if one in path), key=len, default=""):
            self._here.add(one)
            self.most = max(self.most, len(self._here))
            if self._here == set(self.paths):
                self._all_here.set()
            with in_time():
                await self._all_here.wait()
        if path == "/data/JSESSION":
            return web.Response(text="OURS")
        if path == "/data/auth":
            return web.Response(text="User 'demo' is logged in")
        if path.startswith("/xapi/"):
            return web.Response(text="false")
        if "/projects/demo?" in path:
            return web.json_response({"items": [{"data_fields": {"ID": "demo"}}]})
        if path.startswith("/data/projects?"):
            return web.json_response({"ResultSet": {"Result": [{"id": "demo"}]}})
        if path.endswith("/XNAT_E1/resources?all=true&format=json"):
            rows = [{"category": "scans", "cat_id": scan, "label": "DICOM", "format": "DICOM"} for scan in "123456"]
            return web.json_response({"ResultSet": {"Result": rows}})
        if path.endswith("/resources/DICOM?format=xml"):
            entry = f'<cat:entry UID="1.{path.split("/")[5]}"/>'
            return web.Response(text=f'<cat:Catalog xmlns:cat="c"><cat:entries>{entry}</cat:entries></cat:Catalog>')
        if path.endswith("/XNAT_E1?format=json"):
            scans = [{"data_fields": {"ID": scan}} for scan in "123456"]
            children = [{"field": "scans/scan", "items": scans}]
            return web.json_response({"items": [{"children": children, "data_fields": {"label": "E"}}]})
        return web.json_response({"ResultSet": {"Result": []}})


@asynccontextmanager
async def asking(server: Together) -> AsyncIterator[Client]:
    """Log in to such a server."""
    async with listening(server.answer) as url, logged_in(url) as client:
        yield client


async def test_a_project_and_the_right_to_edit_it_are_asked_together() -> None:
    """Neither answer says what to ask next."""
    server = Together("/data/projects/demo?", "/data/projects?permissions=edit")
    async with asking(server) as client:
        assert await check_project(client, "demo", AT_ONCE) == "demo"
    assert server.most == 2


async def test_what_the_first_file_waits_for_is_asked_together(tmp_path: Path) -> None:
    """The archive by labels and as a whole, the filters and scripts; nothing of it is asked again."""
    server = Together(
        "label=E,",
        "dcmPatientId",
        "enableSitewideSeriesImportFilter",
        "/config/seriesImportFilter/",
        "/anonymize/site",
        "/anonymize/site/enabled",
        "/anonymize/projects/demo/enabled",
    )
    file = write(tmp_path / "file", image(1))
    async with asking(server) as client:
        xnat = XnatDestination(client, policy=AT_ONCE)
        assert await xnat.find_existing(claim(file)) is None
    assert server.most == len(server.paths)


async def test_catalogs_of_a_session_are_read_together_and_kept_in_order() -> None:
    """Of two copies of an instance, the same one counts each time."""
    server = Together(*(f"/scans/{number}/" for number in range(1, READS_AT_ONCE + 1)))
    async with asking(server) as client:
        digests = await Archive(client, AT_ONCE).read_session(Experiment("XNAT_E1", "E", "1.2.3"))
    assert server.most == READS_AT_ONCE
    assert [*digests] == [f"1.{number}" for number in range(1, 7)]
