"""Scripted faults, the time model, and what the server says about itself."""

import ssl
import time

import aiohttp
import anyio
import pytest
import trustme
from raw_client import RawClient, dicom, raw_client, sop

from asyncimport.testserver import Fault, Project, Reset, Status, TestXnat, Timing, serve

pytestmark = pytest.mark.anyio


async def statuses(web: RawClient, count: int) -> list[int]:
    """Send that many files; return the statuses."""
    return [(await web.send(dicom(number))).status for number in range(count)]


async def test_a_status_replaces_the_reply_and_nothing_takes_effect() -> None:
    """The third and fourth import get 503 with its headers; hits are counted."""
    async with raw_client() as web:
        action = Status(503, "busy", {"Retry-After": "1"})
        fault = web.xnat.faults.add(Fault("import", action, nth=3, times=2))
        assert await statuses(web, 5) == [200, 200, 503, 503, 200]
        assert (fault.hits, fault.seen) == (2, 5)
        assert len(web.xnat.imports) == 3
        web.xnat.faults.add(Fault("import", action))
        answer = await web.send(dicom())
        assert (answer.text, answer.headers["Retry-After"]) == ("busy", "1")


@pytest.mark.parametrize("effect", [True, False])
async def test_a_reset_breaks_the_connection_with_or_without_effect(effect: bool) -> None:
    """No reply; the file is there, or is not."""
    async with raw_client() as web:
        fault = web.xnat.faults.add(Fault("import", Reset(effect=effect)))
        with pytest.raises(OSError, match=r"."):
            await web.send(dicom())
        assert fault.hits == 1
        assert bool(web.xnat.prearchive) is effect
        assert (await web.send(dicom())).status == 200


@pytest.mark.parametrize("kind", ["login", "import", "build", "commit", "prearchive", "archive", "listing", "logout"])
async def test_each_kind_of_request_can_be_struck(kind: str) -> None:
    """One fault of each kind strikes its kind only; all are counted by kind."""
    async with raw_client() as web:
        uri = await web.import_session(dicom())
        web.xnat.count.clear()
        fault = web.xnat.faults.add(Fault(kind, Status(418)))
        answers = {
            "login": await web.get("/data/JSESSION"),
            "import": await web.send(dicom(2)),
            "build": await web.post(uri, action="build"),
            "commit": await web.post(uri, {"action": "commit"}),
            "prearchive": await web.post(uri, action="set-status", status="READY"),
            "archive": await web.archive(uri),
            "listing": await web.get("/data/projects"),
            "logout": await web.ask("DELETE", "/data/JSESSION"),
        }
        assert [name for name, answer in answers.items() if answer.status == 418] == [kind]
        assert fault.hits == 1
        assert web.xnat.count == dict.fromkeys(answers, 1)


async def test_any_strikes_whatever_comes() -> None:
    """Kind `any` counts all requests; a later fault on the same request waits."""
    async with raw_client() as web:
        first = web.xnat.faults.add(Fault("any", Status(502), nth=2))
        second = web.xnat.faults.add(Fault("import", Status(503), times=2))
        assert await statuses(web, 3) == [503, 502, 200]
        assert (first.hits, second.hits) == (1, 1)
        web.xnat.faults.clear()


def test_a_fault_of_an_unknown_kind_is_an_error() -> None:
    """A fault that can never strike is a mistake of the test."""
    with pytest.raises(ValueError, match="none of the kinds"):
        Fault("imports", Status(503))


async def test_import_35_the_serial_section_is_one_at_a_time() -> None:
    """Ten imports of 5 ms each under the one lock take 50 ms or more, however many connections."""
    assert await seconds(Timing(serial_seconds=0.005)) >= 0.05


async def test_import_35_the_parallel_section_overlaps_up_to_the_limits() -> None:
    """Ten imports of 50 ms at once; two at a time where there are two threads or database connections."""
    assert await seconds(Timing(parallel_seconds=0.05)) < 0.5
    assert await seconds(Timing(parallel_seconds=0.05, threads=2)) >= 0.25
    assert await seconds(Timing(parallel_seconds=0.05, db_connections=2)) >= 0.25


async def seconds(timing: Timing) -> float:
    """Return how long ten parallel imports take, in seconds."""
    async with raw_client(TestXnat(timing=timing)) as web:
        start = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(web.send, dicom(number))
        return time.perf_counter() - start


async def test_import_35_connections_are_closed_after_their_requests() -> None:
    """The third reply says Connection: close, as Tomcat's hundredth."""
    async with raw_client(TestXnat(timing=Timing(keepalive_requests=3)), user=None) as web:
        closed = [(await web.get("/data/JSESSION")).headers.get("Connection") for _ in range(6)]
        assert closed == [None, None, "close", None, None, "close"]


async def test_the_home_page_shows_what_has_arrived_with_all_values_escaped() -> None:
    """Projects, prearchive, archive; it reloads itself; no login."""
    xnat = TestXnat()
    xnat.add_project(Project("p", "<script>alert(1)</script>"))
    async with raw_client(xnat) as web:
        empty = await web.get("/")
        assert "Nothing yet." in empty.text
        await web.archive_session(dicom(1), dicom(2))
        await web.import_session(dicom(3), EXPT_LABEL="<b>F")
    async with raw_client(xnat, user=None, context="xnat") as web:
        page = await web.get("/")
        assert (page.status, page.type) == (200, "text/html")
        assert "<script>" not in page.text
        assert "<b>" not in page.text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text
        assert "http-equiv='refresh'" in page.text
        for shown in (
            "<td>RECEIVING</td>",
            "<td>MR</td>",
            "<td class='n'>2</td>",
            "3 files received",
            " kB</td>",
        ):
            assert shown in page.text


async def test_the_state_is_json_for_other_processes() -> None:
    """Projects, rows, sessions with counts, requests; no login."""
    async with raw_client() as web:
        await web.archive_session(dicom(1), dicom(2))
        await web.import_session(dicom(3))
        state = (await web.get("/testserver/state", {"Cookie": ""})).json
        assert [project["id"] for project in state["projects"]] == ["demo"]
        assert [(row["session"], row["status"], row["files"]) for row in state["prearchive"]] == [("E", "RECEIVING", 1)]
        (session,) = state["archived"]
        assert (session["subject"], session["session"], session["partial_files"]) == ("S", "E", 0)
        assert [(scan["id"], scan["files"]) for scan in session["scans"]] == [("1", 2)]
        assert state["requests"] == {"import": 3, "build": 1, "archive": 1}
        lines = (await web.get("/testserver/instances")).text.splitlines()
        assert lines == [f"demo\tS\tE\t1\t{sop(1)}", f"demo\tS\tE\t1\t{sop(2)}"]


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
    """A job of ten minutes does not hold it up."""
    xnat = TestXnat(archive_seconds=600)
    async with anyio.create_task_group() as tasks, raw_client(xnat) as web:

        async def archive(uri: str) -> None:
            with pytest.raises(aiohttp.ClientError):
                await web.archive(uri)

        tasks.start_soon(archive, await web.build_session())
        while not xnat.count["archive"]:
            await anyio.lowlevel.checkpoint()
        start = time.perf_counter()
    assert time.perf_counter() - start < 5


def test_the_class_is_not_collected_by_pytest() -> None:
    """Its name begins with Test."""
    assert TestXnat.__test__ is False
