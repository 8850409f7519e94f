"""The page of an upload while it runs: for browsers of this machine that have its address, and pushed."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
import pytest
from builders import claim
from conftest import Commands
from entries_of_a_run import CLAIM, EVERYTHING, SESSION
from patience import RUN, allowed, in_time

from asyncimport.errors import UsageError
from asyncimport.model.activity import Activity
from asyncimport.model.deliveries import Archived, Stored
from asyncimport.model.events import Admitted, Notice, OutcomesRecorded
from asyncimport.model.files import File, Session
from asyncimport.reporting.entries import RunStarted
from asyncimport.reporting.page.content import chart_columns
from asyncimport.reporting.page.live import LiveRun
from asyncimport.reporting.page.server import address_of, live_page
from asyncimport.system.threads import opened_in_thread
from asyncimport.testserver import TestXnat
from asyncimport.testserver.samples import generated

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

STARTED = RunStarted("1", "0.1", "https://xnat.test", "P", {"workers": 4}, {"sources": ["/data"]})
ARCHIVED = Archived(CLAIM.delivery, "/data/archive/projects/P/subjects/S/experiments/E 1", "uids")


@pytest.fixture
def page() -> Iterator[tuple[str, Any]]:
    """Serve a page on a free port; yield its address, and the function that notes an entry."""
    with live_page("127.0.0.1:0", host="https://xnat.test", project="P") as served:
        yield served


@pytest.fixture
async def browser() -> AsyncIterator[aiohttp.ClientSession]:
    """Make a client that keeps no cookies."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=allowed(RUN))) as session:
        yield session


class Events:
    """What a browser is pushed."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.last_id = ""

    async def next(self) -> dict[str, Any] | None:
        """Wait for the next news; None at the end."""
        lines = []
        while line := (await self._response.content.readline()).decode().rstrip("\n"):
            lines.append(line)
        fields = dict(line.split(": ", 1) for line in lines if ": " in line)
        if "event: end" in lines or not lines:
            return None
        self.last_id = fields["id"]
        found: dict[str, Any] = json.loads(fields["data"])
        return found

    async def until(self, text: str) -> dict[str, Any]:
        """Wait for news with this text in a part of the page, or in a row."""
        while (news := await self.next()) is not None:
            if text in json.dumps(news):
                return news
        raise AssertionError(text)


@asynccontextmanager
async def events(browser: aiohttp.ClientSession, url: str, **headers: str) -> AsyncIterator[Events]:
    """Listen to what is pushed."""
    async with browser.get(f"{url}events", headers=headers) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        yield Events(response)


class TestWhoMaySeeIt:
    """It is for those who were given its address, on this machine."""

    @pytest.mark.parametrize(
        "text",
        ["0.0.0.0:0", "192.0.2.1:80", "example.org:80", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:99999", "", ":0",
         "127.0.0.2:0", "[::]:0", "localhost.example.org:1", "127.0.0.1:-1", "127.0.0.1:²"],
    )  # fmt: skip
    def test_it_listens_to_this_machine_only(self, text: str) -> None:
        """Any other address is refused, with what to do from another machine."""
        with pytest.raises(UsageError, match="invalid --page") as caught:
            address_of(text)
        assert "ssh -L" in caught.value.hint

    @pytest.mark.parametrize(
        ("text", "host", "port"),
        [("127.0.0.1:0", "127.0.0.1", 0), ("localhost:81", "localhost", 81), ("[::1]:2", "::1", 2)],
    )
    def test_addresses_of_this_machine(self, text: str, host: str, port: int) -> None:
        """By number and by name."""
        assert address_of(text) == (host, port)

    def test_a_port_that_is_taken(self) -> None:
        """Nothing is uploaded before somebody has seen that."""
        with live_page("127.0.0.1:0", host="h", project="P") as (url, _):
            port = url.split(":")[2].split("/")[0]
            again = live_page(f"127.0.0.1:{port}", host="h", project="P")
            with pytest.raises(UsageError, match=f"--page 127.0.0.1:{port}: .*in use") as caught, again:
                pass
        assert "port 0" in caught.value.hint

    async def test_only_with_its_token(self, page: tuple[str, Any], browser: aiohttp.ClientSession) -> None:
        """Other users of the machine can connect, and learn nothing; each run has another token."""
        url, note = page
        note(STARTED)
        root, token = re.fullmatch(r"(http://127\.0\.0\.1:\d+/)(\S{32})/", url).groups()  # type: ignore[union-attr]
        for path in ("", "events", f"{token[:-1]}/", f"{token}x/", f"x/{token}/", f"{token}/../", "%00/", "ä/"):
            async with browser.get(root + path) as response:
                text = await response.text()
                assert response.status == 404
                assert "xnat.test" not in text
                assert token not in text
        async with browser.get(url) as response:
            assert response.status == 200
            assert "xnat.test" in await response.text()
        async with opened_in_thread(partial(live_page, "127.0.0.1:0", host="h", project="P")) as (other, _):
            assert token not in other

    @pytest.mark.parametrize("host", ["evil.test", "evil.test:80", "", "127.0.0.1.evil.test", "localhost:80.evil.test"])
    async def test_pages_of_other_sites(self, page: tuple[str, Any], browser: aiohttp.ClientSession, host: str) -> None:
        """A name of theirs that resolves to this machine is no name of this page."""
        async with browser.get(page[0], headers={"Host": host}) as response:
            assert response.status in {400, 421}

    async def test_a_tunnel_has_another_port(self, page: tuple[str, Any], browser: aiohttp.ClientSession) -> None:
        """The name is still that of the browser's own machine."""
        async with browser.get(page[0], headers={"Host": "localhost:8080"}) as response:
            assert response.status == 200

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
    async def test_it_changes_nothing(self, page: tuple[str, Any], browser: aiohttp.ClientSession, method: str) -> None:
        """There is no call but to read, and no other site is allowed to."""
        async with browser.request(method, page[0]) as response:
            assert response.status == 405
            assert response.headers["Allow"] == "GET, HEAD"
            assert "Access-Control-Allow-Origin" not in response.headers

    async def test_nothing_of_it_is_kept(self, page: tuple[str, Any], browser: aiohttp.ClientSession) -> None:
        """Neither in a cache nor in a frame of others, nor in their logs."""
        async with browser.get(page[0]) as response:
            headers = response.headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


class TestWhatIsPushed:
    """What has changed, once, and the end."""

    async def test_only_what_has_changed(self, page: tuple[str, Any], browser: aiohttp.ClientSession) -> None:
        """The first news has all; then come rows that are new or different."""
        url, note = page
        note(STARTED)
        note(OutcomesRecorded((Stored(CLAIM, "/uri"),), Activity(1, 1_000, in_flight=3, allowed=4)))
        async with events(browser, url) as pushed:
            news = await pushed.until("sending")
            assert [row[9] for row in news["rows"]] == ["sending"]
            assert news["charts"]["in_flight"] == [3]
            note(Admitted(5, 5_000))
            assert (await pushed.until("of 5 so far"))["rows"] == []
            note(ARCHIVED)
            (row,) = (await pushed.until("archived"))["rows"]
            assert row[13] == "https://xnat.test/data/archive/projects/P/subjects/S/experiments/E%201?format=html"

    async def test_zips_have_their_bytes(self, page: tuple[str, Any], browser: aiohttp.ClientSession) -> None:
        """Bytes that were sent, and those on disk."""
        url, note = page
        note(STARTED)
        async with events(browser, url) as pushed:
            note(OutcomesRecorded((Stored(CLAIM, "/uri", zip_size=400),)))
            await pushed.until("400 B sent for 1.0 kB")

    async def test_a_browser_that_comes_back(self, page: tuple[str, Any], browser: aiohttp.ClientSession) -> None:
        """It says what it knows, and gets what it has missed."""
        url, note = page
        note(STARTED)
        other = claim(File("/b", 1, 1), session=Session("P", "S2", "E2", "1.2.4"))
        note(OutcomesRecorded((Stored(CLAIM, "/uri"),)))
        async with events(browser, url) as pushed:
            await pushed.until(SESSION.label)
        note(OutcomesRecorded((Stored(other, "/uri"),)))
        async with events(browser, url, **{"Last-Event-ID": pushed.last_id}) as again:
            assert [row[1] for row in (await again.until("E2"))["rows"]] == ["E2"]
        async with events(browser, url, **{"Last-Event-ID": "9" * 30}) as wrong:
            assert len((await wrong.until("E2"))["rows"]) == 2

    async def test_the_page_has_what_was_before(self, page: tuple[str, Any], browser: aiohttp.ClientSession) -> None:
        """It says which news it knows, so that none is lost between the page and its connection."""
        url, note = page
        note(STARTED)
        note(OutcomesRecorded((Stored(CLAIM, "/uri"),)))
        async with browser.get(url) as response:
            found = re.search(r'<script type="application/json" id="data">(.*?)</script>', await response.text())
        assert found is not None
        data = json.loads(found[1])
        assert ([row[1] for row in data["rows"]], data["changes"], data["live"]) == ([SESSION.label], 2, True)

    async def test_the_end_is_pushed(self, browser: aiohttp.ClientSession) -> None:
        """The last news has the result of the run, and the connection ends: nobody waits for a browser."""
        served = partial(live_page, "127.0.0.1:0", host="https://xnat.test", project="P")
        async with opened_in_thread(served) as (url, note):
            note(STARTED)
            response = await browser.get(f"{url}events")
            pushed = Events(response)
            await pushed.until("running")
            note(EVERYTHING["run_ended"])
        with in_time():
            news = await pushed.until("some files did not arrive")
            assert news is not None
            while await pushed.next() is not None:
                pass
            assert response.content.at_eof()
        response.close()
        note(STARTED)  # nothing takes note of it, and nothing fails

    async def test_many_browsers(self, page: tuple[str, Any], browser: aiohttp.ClientSession) -> None:
        """Those that are too many are sent away, and may come again."""
        url, _ = page
        listening = [await browser.get(f"{url}events") for _ in range(20)]
        async with browser.get(f"{url}events") as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "30")
        for one in listening:
            one.close()
        with in_time():
            while (response := await browser.get(f"{url}events")).status == 503:
                await response.read()
        assert response.status == 200
        response.close()


class TestWhatItShows:
    """The run by its events."""

    @pytest.mark.parametrize("name", sorted(EVERYTHING))
    def test_every_event(self, name: str) -> None:
        """None of them breaks the page, in whatever order they come."""
        run = LiveRun("https://xnat.test", "P", clock=lambda: 1_000.0)
        for entry in (STARTED, EVERYTHING[name], EVERYTHING["file_stored"], EVERYTHING[name]):
            run.note(entry)
            assert run.page().title == "Upload into P"
        assert run.changes == 4

    @pytest.mark.parametrize(
        ("entries", "status"),
        [
            ([], "starting"),
            (["run_began"], "running, and still scanning"),
            (["run_began", "scan_finished"], "running"),
            (["run_began", "server_away"], "waiting for the server: the server is overloaded or away (503)"),
            (["run_began", "server_away", "server_back"], "running, and still scanning"),
            (["run_began", "session_waits"], "waiting, in case an interrupted upload still lands"),
            (["run_began", "server_away", "run_ended"], "finished, but some files did not arrive"),
            (["run_began", "run_ended", "run_began"], "running, and still scanning"),
        ],
    )
    def test_the_state_in_words(self, entries: list[str], status: str) -> None:
        """What the run does, or waits for."""
        run = LiveRun("https://xnat.test", "P", clock=lambda: 1_000.0)
        for name in entries:
            run.note(EVERYTHING[name])
        assert run.page().status.startswith(status)

    @pytest.mark.parametrize(
        ("name", "state"),
        [("session_archived", "archived"), ("session_built", "prearchive"), ("session_held", "held"),
         ("session_postponed", "open"), ("session_deleted", "sending"), ("session_incomplete", "sending"),
         ("file_withheld", "held")],
    )  # fmt: skip
    def test_the_state_of_a_session(self, name: str, state: str) -> None:
        """By its last verdict; causes say why."""
        run = LiveRun("https://xnat.test", "P")
        for entry in (STARTED, EVERYTHING["file_stored"], EVERYTHING[name]):
            run.note(entry)
        ((_, row),) = run.rows()
        assert row.state == state
        assert bool(run.page().causes) == (state in {"held", "open"})

    def test_a_chart_does_not_fall_at_its_end(self) -> None:
        """The interval that goes on is left out, as its rate is not known; when the run has ended, all are shown."""
        now = 0.0
        run = LiveRun("https://xnat.test", "P", clock=lambda: now)
        run.note(STARTED)
        for now in (0.5, 1.5, 2.1):  # noqa: B007 - it is the clock
            run.note(OutcomesRecorded((), Activity(10, 1_000)))
        assert chart_columns(run.page().charts)["files"] == [10, 10]
        run.note(EVERYTHING["run_ended"])
        assert chart_columns(run.page().charts)["files"] == [10, 10, 10, 0]

    def test_equal_causes_are_one(self) -> None:
        """A server that fails for an hour is one line, and so are notices that differ in details."""
        run = LiveRun("https://xnat.test", "P")
        for number in range(5_000):
            run.note(EVERYTHING["call_repeated"])
            run.note(Notice(f"reason {number}"))
        causes = run.page().causes
        assert [cause.kind for cause in causes] == ["notice", "repeated"]
        assert causes[1].hit == "5,000 attempts"


async def test_an_upload_with_its_page(
    commands: Commands, xnat: TestXnat, url: str, tmp_path: Any, unused_port: int
) -> None:
    """The address is printed before anything is sent, with -q too, and the page ends with the upload."""
    generated(tmp_path / "files", sessions=2, files=10, size=2_000, seed=1)
    commands.login(url)
    ended = await commands("upload", tmp_path / "files", "-P", "demo", "-q", "--page", f"127.0.0.1:{unused_port}")
    assert ended.code == 0
    assert re.match(rf"page: http://127\.0\.0\.1:{unused_port}/\S{{32}}/\n", ended.err)
    assert len(list(xnat.archived)) == 2
    refused = await commands("upload", tmp_path / "files", "-P", "demo", "--page", "0.0.0.0:80")
    assert refused.code == 2
    assert "invalid --page '0.0.0.0:80'" in refused.err
