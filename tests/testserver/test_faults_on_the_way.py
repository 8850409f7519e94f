"""Faults between client and XNAT: for each action and kind of request, the reply and the effect."""

import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import anyio
import pytest
from anyio.abc import TaskGroup
from patience import COMMAND, in_time
from raw_client import RawClient, Reply, basic_auth, dicom, raw_client
from yarl import URL

from asyncimport.testserver import (
    ExpireLogins,
    Fault,
    Gateway,
    Late,
    LoginPage,
    Reset,
    Restart,
    RowStatus,
    Stall,
    Status,
    Tell,
    TestXnat,
    add_file,
    serve,
)
from asyncimport.testserver.faults.actions import KINDS, STRIKES, Action

pytestmark = pytest.mark.anyio
PROJECTS = "/data/projects"


@dataclass(slots=True)
class Scene:
    """A site with a session that is not built, E, and one that is, F; and how to ask for each kind of effect."""

    web: RawClient
    received: str
    built: str

    async def ask(self, kind: str) -> Reply:
        """Make a request of a kind; a login request makes a new login."""
        web = self.web
        if kind == "login":
            web.http.cookie_jar.clear()
        asks: dict[str, Callable[[], Awaitable[Reply]]] = {
            "login": lambda: web.ask("POST", "/data/JSESSION", None, basic_auth()),
            "logout": lambda: web.ask("DELETE", "/data/JSESSION"),
            "import": lambda: web.send(dicom(2)),
            "build": lambda: web.post(self.received, action="build"),
            "commit": lambda: web.post(self.received, {"action": "commit"}),
            "prearchive": lambda: web.post(self.received, action="set-status", status="ERROR"),
            "archive": lambda: web.archive(self.built),
            "subject": lambda: web.put(f"{PROJECTS}/demo/subjects/S", gender="male"),
            "resource": lambda: web.put(f"{PROJECTS}/demo/resources/new"),
            "file": lambda: web.put(f"{PROJECTS}/demo/resources/R/files/new", b"1"),
            "refresh": lambda: web.post("/data/services/refresh/catalog", resource="/archive/projects/demo"),
            "listing": lambda: web.get(PROJECTS),
            "other": lambda: web.put(f"{PROJECTS}/new"),
            "any": lambda: web.put(f"{PROJECTS}/new"),
        }
        return await asks[kind]()

    def done(self, kind: str) -> bool:
        """Return whether a request of a kind has had its effect; a listing has none."""
        xnat = self.web.xnat
        row = next(row for row in xnat.prearchive if row.name == "E")
        match kind:
            case "login":
                return xnat.live_logins("demo") == 2
            case "logout":
                return xnat.live_logins("demo") == 0
            case "import":
                return len(list(row.files)) == 2
            case "build" | "commit":
                return row.document is not None
            case "prearchive":
                return row.status is RowStatus.ERROR
            case "archive":
                return bool(xnat.archived)
            case "subject":
                return bool(xnat.subjects())
            case "resource":
                return "new" in xnat.project("demo").resources
            case "file":
                return "new" in xnat.project("demo").resources["R"].files
            case "refresh":
                return "lost" in xnat.project("demo").resources["R"].files
            case "listing":
                return False
            case _:
                return "new" in xnat.projects


@asynccontextmanager
async def scene(xnat: TestXnat | None = None) -> AsyncIterator[Scene]:
    """Prepare a site and a client that does not repeat requests by itself, as aiohttp does with some."""
    async with raw_client(xnat) as web:
        web.http._retry_connection = False
        built = await web.build_session(dicom(5), EXPT_LABEL="F")
        received = await web.import_session(dicom())
        await add_file(web.xnat, web.xnat.project("demo"), "R", "lost", b"1", catalogued=False)
        yield Scene(web, received, built)


kinds = pytest.mark.parametrize("kind", sorted(KINDS))


@kinds
@pytest.mark.parametrize(
    ("action", "status", "text"),
    [
        (Status(503, "busy"), 503, "busy"),
        (Gateway(502, effect=False), 502, "<h1>502 Bad Gateway</h1>"),
        (LoginPage(), 200, "Login.vm"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, tuple(STRIKES)) else "",
)
async def test_a_reply_in_the_place_of_xnats(kind: str, action: Action, status: int, text: str) -> None:
    """The request has no effect; the next one of the kind is served."""
    async with scene() as at:
        fault = at.web.xnat.faults.add(Fault(kind, action))
        answer = await at.ask(kind)
        assert (answer.status, fault.hits) == (status, 1)
        assert text in answer.text
        assert not at.done(kind)
        assert (await at.ask(kind)).status < 400
        assert at.done(kind) or kind == "listing"


@kinds
async def test_archive_47_a_gateway_gives_up_and_the_work_is_done(kind: str) -> None:
    """504 with nginx's page instead of XNAT's reply; a header can be added."""
    async with scene() as at:
        at.web.xnat.faults.add(Fault(kind, Gateway(headers={"Retry-After": "3"})))
        answer = await at.ask(kind)
        assert (answer.status, answer.type, answer.headers["Retry-After"]) == (504, "text/html", "3")
        assert "<h1>504 Gateway Time-out</h1>" in answer.text
        assert not answer.cookies
        assert at.done(kind) or kind == "listing"


@kinds
async def test_a_gateway_gives_up_at_once_and_the_work_goes_on(kind: str) -> None:
    """The effect takes place without a release."""
    async with scene() as at:
        fault = at.web.xnat.faults.add(Fault(kind, Gateway(503, wait=False)))
        assert (await at.ask(kind)).status == 503
        await fault.settled()
        assert at.done(kind) or kind == "listing"


async def test_an_archiving_goes_on_behind_a_gateway() -> None:
    """The row shows ARCHIVING, and then it is gone."""
    async with scene(TestXnat(archive_seconds=0.05)) as at:
        fault = at.web.xnat.faults.add(Fault("archive", Gateway(wait=False)))
        assert (await at.ask("archive")).status == 504
        while (status := await at.web.row_status(at.built)) == "ARCHIVING":
            await anyio.lowlevel.checkpoint()
        assert status == "_ARCHIVING"
        await fault.settled()
        assert await at.web.row_status(at.built) == "gone"


@kinds
@pytest.mark.parametrize("effect", [True, False])
async def test_a_reset_without_a_reply(kind: str, effect: bool) -> None:
    """With `effect` the request has taken place, without it has not."""
    async with scene() as at:
        fault = at.web.xnat.faults.add(Fault(kind, Reset(effect=effect)))
        with pytest.raises(OSError, match=r"."):
            await at.ask(kind)
        assert fault.hits == 1
        assert at.done(kind) is (effect and kind != "listing")


async def started(tasks: TaskGroup, at: Scene, kind: str, fault: Fault) -> list[BaseException | Reply]:
    """Start a request that a fault strikes; return a list that gets its outcome."""
    ends: list[BaseException | Reply] = []

    async def ask() -> None:
        try:
            ends.append(await at.ask(kind))
        except aiohttp.ClientError as error:
            ends.append(error)

    tasks.start_soon(ask)
    while not fault.gates:
        await anyio.lowlevel.checkpoint()
    return ends


@kinds
@pytest.mark.parametrize("action", [Stall(), Stall(effect=True), Stall(reads=False)], ids=["", "effect", "unread"])
async def test_a_request_stalls_until_the_client_goes_away(kind: str, action: Stall) -> None:
    """No reply; the server notices the lost connection."""
    async with scene() as at:
        fault = at.web.xnat.faults.add(Fault(kind, action))
        async with anyio.create_task_group() as tasks:
            ends = await started(tasks, at, kind, fault)
            assert at.done(kind) is (action.effect and kind != "listing")
            tasks.cancel_scope.cancel()
        await fault.gates[0].settled()
        assert not ends
        assert fault.hits == 1


async def test_a_stalled_request_ends_when_the_fault_lets_it_go() -> None:
    """The connection is reset; the next request is served."""
    async with scene() as at:
        fault = at.web.xnat.faults.add(Fault("import", Stall()))
        async with anyio.create_task_group() as tasks:
            ends = await started(tasks, at, "import", fault)
            assert fault.release() == 1
            assert fault.release() == 0
        assert isinstance(ends[0], OSError)
        assert (await at.ask("import")).status == 200


async def test_a_stalled_request_does_not_hold_the_server_up() -> None:
    """It ends when the server stops."""
    async with anyio.create_task_group() as tasks:
        async with scene() as at:
            fault = at.web.xnat.faults.add(Fault("archive", Stall()))
            ends = await started(tasks, at, "archive", fault)
        await fault.gates[0].settled()
    assert isinstance(ends[0], aiohttp.ClientError)


async def test_a_body_that_nobody_reads_stops_on_its_way() -> None:
    """The client can send only what fits in buffers."""
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        piece = bytes(1024 * 1024)
        for _ in range(64):
            yield piece
            sent += 1

    async with scene() as at:
        fault = at.web.xnat.faults.add(Fault("import", Stall(reads=False)))
        with in_time(COMMAND):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(at.web.send, body())
                while not fault.gates:
                    await anyio.lowlevel.checkpoint()
                # Nothing moves any more when the event loop has nothing else to do, twice as long as needed.
                before = -1
                while sent != before:
                    before = sent
                    for _ in range(2000):
                        await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
        assert sent < 64


@kinds
async def test_all_cookies_die(kind: str) -> None:
    """The request's own cookie too: 401 if it needs a login, and for all later requests."""
    async with scene() as at:
        fault = at.web.xnat.faults.add(Fault(kind, ExpireLogins()))
        answer = await at.ask(kind)
        open_to_all = kind in {"login", "logout"}
        assert answer.status == (200 if open_to_all else 401)
        assert at.web.xnat.live_logins("demo") == (kind == "login")
        assert not at.done(kind) or open_to_all
        assert (await at.web.get(PROJECTS)).status == (200 if kind == "login" else 401)
        assert fault.hits == 1
        assert (await at.web.get(PROJECTS, basic_auth())).status == 200


@pytest.mark.parametrize("tokens", [True, False])
async def test_alias_tokens_die_too_if_wished(tokens: bool) -> None:
    """Without `tokens`, a token outlives the logins."""
    async with raw_client() as web:
        token = (await web.get("/data/services/tokens/issue")).json
        web.xnat.faults.add(Fault("listing", ExpireLogins(tokens=tokens)))
        await web.get(PROJECTS)
        answer = await web.get(PROJECTS, basic_auth(token["alias"], token["secret"]))
        assert answer.status == (401 if tokens else 200)


@kinds
async def test_a_restart_refuses_connections_and_forgets_logins(kind: str) -> None:
    """The connection is reset, new ones are refused, and then, on the same port, no cookie is valid."""
    async with scene() as at:
        fault = at.web.xnat.faults.add(Fault(kind, Restart()))
        with pytest.raises((OSError, aiohttp.ServerDisconnectedError)):
            await at.ask(kind)
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await at.web.get(PROJECTS)
        assert caught.value.errno == errno.ECONNREFUSED
        assert at.web.xnat.live_logins("demo") == 0
        assert not at.done(kind) or kind == "logout"
        assert fault.release() == 1
        await fault.settled()
        assert (await at.web.get(PROJECTS)).status == 401
        assert (await at.web.get(PROJECTS, basic_auth())).status == 200


async def test_a_restart_ends_by_itself_and_two_are_one() -> None:
    """After its seconds; of two restarts the longer one counts."""
    async with scene() as at:
        short = at.web.xnat.faults.add(Fault("listing", Restart(0), path="projects"))
        long = at.web.xnat.faults.add(Fault("import", Restart(), nth=1))
        stalled = at.web.xnat.faults.add(Fault("other", Stall()))
        async with anyio.create_task_group() as tasks:
            ends = await started(tasks, at, "other", stalled)
            with pytest.raises((OSError, aiohttp.ServerDisconnectedError)):
                await at.ask("import")
        assert len(ends) == 1
        with pytest.raises(aiohttp.ClientConnectorError):
            await at.ask("listing")
        long.release()
        await long.settled()
        with pytest.raises((OSError, aiohttp.ServerDisconnectedError)):
            await at.ask("listing")
        await short.settled()
        assert (await at.ask("listing")).status == 401


async def test_requests_under_way_end_with_a_restart_and_their_work_is_lost() -> None:
    """An archiving is cancelled; its row stays locked for ever."""
    async with scene(TestXnat(archive_seconds=600)) as at, anyio.create_task_group() as tasks:
        ends: list[BaseException] = []

        async def archive() -> None:
            try:
                await at.ask("archive")
            except aiohttp.ClientError as error:
                ends.append(error)

        tasks.start_soon(archive)
        while await at.web.row_status(at.built) != "_ARCHIVING":
            await anyio.lowlevel.checkpoint()
        at.web.xnat.restart()
        while not ends:
            await anyio.lowlevel.checkpoint()
        assert (await at.web.get(at.built, basic_auth(), format="json")).rows[0]["status"] == "_ARCHIVING"
        assert (await at.ask("archive")).status == 403


async def test_a_site_is_served_again_on_its_port() -> None:
    """Received data is there; logins are gone after `restart`."""
    async with raw_client() as web:
        uri = await web.import_session(dicom())
        xnat, port = web.xnat, URL(web.url).port or 0
        cookie = {"Cookie": "; ".join(f"{one.key}={one.value}" for one in web.http.cookie_jar)}
    with pytest.raises(OSError, match=r"."):
        await anyio.connect_tcp("127.0.0.1", port)
    async with serve(xnat, port=port) as url, aiohttp.ClientSession(headers=cookie) as http:  # noqa: SIM117
        async with http.get(url + uri, params={"format": "json"}) as reply:
            assert reply.status == 200
    xnat.restart()
    async with serve(xnat, port=port) as url, aiohttp.ClientSession() as http:
        async with http.get(url + uri, headers=cookie) as reply:
            assert reply.status == 401
        async with http.get(url + uri, params={"format": "json"}, headers=basic_auth()) as reply:
            assert (await reply.json())["ResultSet"]["Result"][0]["status"] == "RECEIVING"


@pytest.mark.parametrize("kind", sorted(STRIKES[Late]))
@pytest.mark.parametrize("status", [None, 504])
async def test_the_effect_comes_when_the_test_says_so(kind: str, status: int | None) -> None:
    """The client gets a broken connection or a gateway's reply long before."""
    async with scene() as at:
        fault = at.web.xnat.faults.add(Fault(kind, Late(status=status)))
        if status is None:
            with pytest.raises(OSError, match=r"."):
                await at.ask(kind)
        else:
            assert (await at.ask(kind)).status == status
        assert not at.done(kind)
        assert (await at.web.get(PROJECTS)).status == 200
        assert not at.done(kind)
        assert fault.release() == 1
        await fault.settled()
        assert at.done(kind)


@kinds
async def test_a_function_is_called_and_the_request_served(kind: str) -> None:
    """The fault has no other effect."""
    called: list[None] = []
    async with scene() as at:
        at.web.xnat.faults.add(Fault(kind, Tell(lambda: called.append(None))))
        assert (await at.ask(kind)).status < 400
        assert len(called) == 1
        assert at.done(kind) or kind == "listing"
