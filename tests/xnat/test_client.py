"""The client on a test XNAT: logins are opened, renewed and closed, and other servers are recognised."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
import trustme
from aiohttp import web
from builders import AT_ONCE, DEMO, listening, logged_in
from patience import in_time
from yarl import URL

from asyncimport.errors import (
    LoginExpiredError,
    LoginRefusedError,
    ProjectMissingError,
    ProjectReadOnlyError,
    TransientError,
    UnavailableError,
    UsageError,
)
from asyncimport.pacing.retry import RetryPolicy, call_with_retries
from asyncimport.testserver import Fault, Project, Reset, Status, Tell, TestXnat, serve
from asyncimport.xnat.client import Client, connect
from asyncimport.xnat.login import Credentials
from asyncimport.xnat.replies.response import Reply
from asyncimport.xnat.replies.site import parse_project_id
from asyncimport.xnat.site import check_project
from asyncimport.xnat.transport import Timeouts, Transport

pytestmark = pytest.mark.anyio


def unchanged(reply: Reply) -> Reply:
    """Return a reply as it is."""
    return reply


async def read_user(client: Client) -> str:
    """Ask XNAT who is logged in."""
    reply = await client.request("GET", "/data/auth", unchanged, AT_ONCE)
    return reply.text


async def test_a_login_is_opened_and_closed(xnat: TestXnat, url: str) -> None:
    """One request opens one login for the whole block, and none is left open."""
    async with logged_in(url) as client:
        assert await read_user(client) == "User 'demo' is logged in"
        assert xnat.live_logins("demo") == 1
    assert xnat.live_logins("demo") == 0
    assert (xnat.count["login"], xnat.count["logout"]) == (1, 1)


async def test_a_login_is_closed_after_an_error(xnat: TestXnat, url: str) -> None:
    """The error passes unchanged."""
    with pytest.raises(ZeroDivisionError):
        async with logged_in(url):
            raise ZeroDivisionError
    assert xnat.live_logins("demo") == 0


async def test_a_login_is_closed_after_a_cancellation(xnat: TestXnat, url: str) -> None:
    """A cancelled client still logs out."""
    with anyio.CancelScope() as scope:
        async with logged_in(url):
            scope.cancel()
            await anyio.sleep_forever()
    assert xnat.live_logins("demo") == 0


async def test_a_login_that_is_cancelled_during_its_check_is_closed(xnat: TestXnat, url: str) -> None:
    """The client closes a login from the moment that it has the cookie."""
    with anyio.CancelScope() as scope:
        fault = xnat.faults.add(Fault("listing", Tell(scope.cancel)))
        async with logged_in(url):
            raise AssertionError("the login was not cancelled")
    assert fault.hits == 1
    assert xnat.live_logins("demo") == 0


async def test_a_login_whose_check_failed_is_closed_before_the_next(xnat: TestXnat, url: str) -> None:
    """Attempts do not add up: XNAT limits the logins of a user."""
    fault = xnat.faults.add(Fault("listing", Status(503), times=2))
    async with logged_in(url):
        assert fault.hits == 2
        assert xnat.count["login"] == 3
        assert xnat.live_logins("demo") == 1
    assert xnat.live_logins("demo") == 0


async def test_a_failed_logout_is_no_error(xnat: TestXnat, url: str) -> None:
    """A server that is away ends the login by itself."""
    fault = xnat.faults.add(Fault("logout", Reset()))
    async with logged_in(url):
        pass
    assert fault.hits == 1


async def test_a_logout_from_a_stopped_server_is_no_error(xnat: TestXnat) -> None:
    """The port is closed by then."""
    async with serve(xnat) as url:
        context = logged_in(url)
        client = await context.__aenter__()
        assert await read_user(client) == "User 'demo' is logged in"
    await context.__aexit__(None, None, None)
    assert xnat.count["logout"] == 0


async def test_a_wrong_password_is_tried_once(xnat: TestXnat, url: str) -> None:
    """Twenty refusals lock the account for an hour, so there is no second attempt."""
    with pytest.raises(LoginRefusedError, match="refused the user name or password") as caught:
        async with connect(
            url, Credentials("demo", "wrong"), connections=1, policy=RetryPolicy(attempts=5, first_seconds=0)
        ):
            raise AssertionError("let in with a wrong password")
    assert caught.value.hint
    assert xnat.count["login"] == 1
    assert "wrong" not in repr(caught.value)


@asynccontextmanager
async def guest_house(*, name: str | None) -> AsyncIterator[str]:
    """Serve a site that takes everyone for a guest, and answers 200 to a login with any password."""

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path == "/data/JSESSION":
            return web.Response(text="0123456789ABCDEF", headers={"Set-Cookie": "JSESSIONID=0123456789ABCDEF; Path=/"})
        if name is None:
            return web.Response(status=401)
        return web.Response(text=f"User '{name}' is logged in")

    async with listening(answer) as url:
        yield url


@pytest.mark.parametrize("name", ["guest", None])
async def test_a_guest_is_not_logged_in(name: str | None) -> None:
    """A login counts only if /data/auth names a user; guests get 200 and a cookie too."""
    async with guest_house(name=name) as url:
        with pytest.raises(LoginRefusedError):
            async with logged_in(url):
                raise AssertionError("a guest was let in")


async def test_a_token_logs_in_under_the_name_of_its_owner() -> None:
    """The alias is not the user's name; any name but the guest's is right."""
    async with guest_house(name="somebody") as url, logged_in(url) as client:
        assert await read_user(client) == "User 'somebody' is logged in"


async def test_no_call_is_made_as_a_guest(xnat: TestXnat, url: str) -> None:
    """After a renewal failed on an overloaded server, the next call logs in first."""

    def read(reply: Reply) -> Reply:
        if reply.status == 401:
            raise LoginExpiredError("expired")
        return reply

    async with logged_in(url) as client:
        xnat.expire_logins()
        xnat.faults.add(Fault("login", Status(503)))
        with pytest.raises(TransientError, match="503"):
            await client.call("GET", client.url("/data/auth"), read)
        reply = await client.call("GET", client.url("/data/auth"), unchanged)
        assert reply.text == "User 'demo' is logged in"
    assert xnat.live_logins("demo") == 0


async def test_an_expired_login_is_renewed_once_for_all_calls(xnat: TestXnat, url: str) -> None:
    """When the cookie of 32 requests in flight expires, one new login serves all."""
    together = 32
    waiting = 0
    everybody = asyncio.Event()

    async with logged_in(url) as client:
        # All are answered 401 before the first of them logs in again.
        async def ask() -> None:
            nonlocal waiting

            def read(reply: Reply) -> Reply:
                nonlocal waiting
                if reply.status == 401:
                    waiting += 1
                    raise LoginExpiredError("expired")
                return reply

            with pytest.raises(LoginExpiredError):
                await client.call("GET", client.url("/data/auth"), read)
            if waiting == together:
                everybody.set()
            await everybody.wait()
            assert (await client.call("GET", client.url("/data/auth"), read)).status == 200

        xnat.expire_logins()
        with in_time():
            async with anyio.create_task_group() as tasks:
                for _ in range(together):
                    tasks.start_soon(ask)
        assert waiting == together
        assert xnat.count["login"] == 2
        assert xnat.live_logins("demo") == 1
    assert xnat.live_logins("demo") == 0


async def test_requests_succeed_after_an_expiry(xnat: TestXnat, url: str) -> None:
    """The caller does not notice it."""
    async with logged_in(url) as client:
        xnat.expire_logins()
        assert await client.request("GET", "/data/projects/demo?format=json", parse_project_id, AT_ONCE) == "demo"
        assert xnat.count["login"] == 2


async def test_a_changed_password_ends_the_renewal(xnat: TestXnat, url: str) -> None:
    """A refusal during a run ends it after one attempt."""
    async with logged_in(url) as client:
        xnat.users.clear()
        xnat.expire_logins()
        with pytest.raises(LoginRefusedError):
            await client.request("GET", "/data/projects/demo?format=json", parse_project_id, AT_ONCE)
        assert xnat.count["login"] == 2


class RecordingServer:
    """A server that accepts logins, records the cookies of requests, and gives the answers it is set to."""

    def __init__(self) -> None:
        self.cookies: list[tuple[str, str | None]] = []
        self.agents: set[str] = set()
        self.answers: dict[str, web.Response] = {}

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Record the cookie of a request, and answer."""
        self.cookies.append((f"{request.method} {request.path}", request.headers.get("Cookie")))
        self.agents.add(request.headers["User-Agent"])
        if request.path in self.answers:
            return self.answers.pop(request.path)
        if request.path == "/data/JSESSION":
            answer = web.Response(text="OURS")
            answer.headers.add("Set-Cookie", "JSESSIONID=OURS; Path=/; HttpOnly")
            answer.headers.add("Set-Cookie", 'SESSION_EXPIRATION_TIME="1,2"; Version=1; Path=/')
            answer.headers.add("Set-Cookie", "route=n1; Path=/")
            return answer
        if request.path == "/data/auth":
            return web.Response(text="User 'demo' is logged in")
        return web.Response(text="{}", content_type="application/json")


async def test_a_guests_cookie_does_not_replace_ours() -> None:
    """XNAT sends one with a 401; a client that kept it would be a guest from then on."""
    diary = RecordingServer()
    diary.answers["/data/x"] = web.Response(status=503, headers={"Set-Cookie": "JSESSIONID=GUEST; Path=/"})
    async with listening(diary.answer) as url, logged_in(url) as client:
        await client.request("GET", "/data/x", unchanged, AT_ONCE)
        await client.request("GET", "/data/x", unchanged, AT_ONCE)
    assert diary.cookies == [
        ("POST /data/JSESSION", None),
        *[(what, "JSESSIONID=OURS; route=n1") for what in ("GET /data/auth", "GET /data/x", "GET /data/x")],
        ("DELETE /data/JSESSION", "JSESSIONID=OURS; route=n1"),
    ]


async def test_the_user_agent_is_not_a_browsers() -> None:
    """XNAT answers browsers with login pages and CSRF errors."""
    diary = RecordingServer()
    async with listening(diary.answer) as url, logged_in(url):
        pass
    (agent,) = diary.agents
    assert agent.startswith("asyncimport/")
    assert not any(word in agent for word in ("Mozilla", "MSIE", "AppleWebKit", "Opera"))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status: int) -> None:
    """The other host gets no request, and so no cookie."""
    ours, other = RecordingServer(), RecordingServer()
    async with listening(other.answer) as elsewhere, listening(ours.answer) as url, logged_in(url) as client:
        ours.answers["/data/x"] = web.Response(status=status, headers={"Location": f"{elsewhere}/data/x"})
        reply = await client.call("GET", client.url("/data/x"), unchanged)
        assert (reply.status, reply.headers["location"]) == (status, f"{elsewhere}/data/x")
        ours.answers["/data/x"] = web.Response(status=status, headers={"Location": f"{elsewhere}/data/x"})
        # A page that says when the server is back is waited for; what has moved for good is not there to come back.
        kind = UnavailableError if status in {301, 308} else TransientError
        with pytest.raises(kind, match="redirects to http://127"):
            await client.request("GET", "/data/x", parse_project_id, RetryPolicy(attempts=1))
    assert other.cookies == []


async def test_a_login_that_is_redirected_names_the_place() -> None:
    """The address may have http instead of https."""
    diary = RecordingServer()
    diary.answers["/data/JSESSION"] = web.Response(status=301, headers={"Location": "https://xnat.example.org/"})
    async with listening(diary.answer) as url:
        with pytest.raises(UnavailableError, match=r"redirects to https://xnat\.example\.org") as caught:
            async with logged_in(url):
                raise AssertionError("logged in at a redirect")
    assert "--host" in caught.value.hint


@pytest.mark.parametrize("context", ["/xnat", "/a/b"])
async def test_a_context_path_is_part_of_the_address(xnat: TestXnat, context: str) -> None:
    """Many sites serve XNAT below a path; a final slash does not matter."""
    async with serve(xnat, context=context) as url:
        assert url.endswith(context)
        async with logged_in(url + "/") as client:
            assert await check_project(client, "demo") == "demo"
    assert xnat.live_logins("demo") == 0


async def test_the_wrong_context_path_is_not_an_xnat(xnat: TestXnat) -> None:
    """The hint shows where the path goes."""
    async with serve(xnat, context="/xnat") as url:
        with pytest.raises(UnavailableError, match="not an XNAT") as caught:
            async with logged_in(url.removesuffix("/xnat")):
                raise AssertionError("logged in beside the XNAT")
    assert "context path" in caught.value.hint


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, "<html><body>It works!</body></html>", "text/html"),
        (404, "nothing here", "text/plain"),
        (200, "Welcome to some other service, which says more than an id", "text/plain"),
        (405, "", "text/plain"),
    ],
)
async def test_another_web_server_is_not_an_xnat(status: int, body: str, kind: str) -> None:
    """It answers, but not as XNAT would."""

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(status=status, text=body, content_type=kind)

    async with listening(answer) as url:
        with pytest.raises(UnavailableError, match="what answers there is not an XNAT"):
            async with logged_in(url):
                raise AssertionError("logged in at no XNAT")


async def test_a_refused_connection_is_unavailable(unused_port: int) -> None:
    """After a few attempts the error names the host, and the hint says what to do."""
    url = f"http://127.0.0.1:{unused_port}"
    with pytest.raises(UnavailableError, match=rf"{url} does not answer: no connection") as caught:
        async with logged_in(url):
            raise AssertionError("logged in at nobody's")
    assert caught.value.hint


async def test_a_login_is_repeated_on_an_overloaded_server(xnat: TestXnat, url: str) -> None:
    """A 503 is no refusal."""
    fault = xnat.faults.add(Fault("login", Status(503, headers={"Retry-After": "0"}), times=2))
    async with logged_in(url) as client:
        assert await read_user(client) == "User 'demo' is logged in"
    assert fault.hits == 2


async def test_a_server_that_stays_overloaded_is_unavailable(xnat: TestXnat, url: str) -> None:
    """All attempts fail."""
    xnat.faults.add(Fault("login", Status(503), times=3))
    with pytest.raises(UnavailableError, match="the server answers 503 to the login"):
        async with logged_in(url):
            raise AssertionError("logged in at a server that is away")
    assert xnat.count["login"] == 3


async def test_a_server_that_never_answers_is_unavailable() -> None:
    """The timeout ends a connection that gets no answer."""
    done = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        with pytest.raises(UnavailableError, match="the server did not answer in time"):
            async with logged_in(f"http://127.0.0.1:{port}", timeouts=Timeouts(stall=0.02)):
                raise AssertionError("logged in without an answer")
    finally:
        done.set()
        server.close()
        await server.wait_closed()


async def test_an_interrupted_answer_is_transient(xnat: TestXnat, url: str) -> None:
    """The reason names the kind of failure, but no address: addresses contain labels."""
    async with logged_in(url) as client:
        # aiohttp itself asks a second time on a connection that was open before.
        xnat.faults.add(Fault("listing", Reset(), times=10))
        with pytest.raises(TransientError, match=r"^the connection broke \(\w+\)$") as caught:
            await client.request("GET", "/data/projects/demo?format=json", parse_project_id, AT_ONCE)
        assert not caught.value.unreachable
        xnat.faults.clear()
        assert await client.request("GET", "/data/projects/demo?format=json", parse_project_id, AT_ONCE) == "demo"


@asynccontextmanager
async def certified(xnat: TestXnat, bundle: Path) -> AsyncIterator[str]:
    """Serve over TLS with a certificate of a new authority, which is written to a bundle."""

    def make() -> ssl.SSLContext:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(bundle)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        return context

    async with serve(xnat, ssl_context=await anyio.to_thread.run_sync(make)) as url:
        yield url


async def test_a_certificate_of_an_unknown_authority_is_not_trusted(xnat: TestXnat, tmp_path: Path) -> None:
    """No password is sent; the hint names the option."""
    async with certified(xnat, tmp_path / "ca.pem") as url:
        with pytest.raises(UnavailableError, match=r"certificate is not trusted: .*issuer") as caught:
            async with logged_in(url):
                raise AssertionError("an unknown certificate was trusted")
    assert "--ca-bundle" in caught.value.hint
    assert xnat.count["login"] == 0


async def test_a_certificate_is_trusted_with_its_authority(xnat: TestXnat, tmp_path: Path) -> None:
    """The login works over TLS, with a Secure cookie and an address of numbers; the connection closes cleanly."""
    async with (
        certified(xnat, tmp_path / "ca.pem") as url,
        logged_in(url, ca_bundle=tmp_path / "ca.pem") as client,
    ):
        assert await check_project(client, "demo") == "demo"
    assert xnat.live_logins("demo") == 0


async def test_verification_can_be_switched_off(xnat: TestXnat, tmp_path: Path) -> None:
    """With `verify=False` any certificate is accepted."""
    async with certified(xnat, tmp_path / "ca.pem") as url, logged_in(url, verify=False) as client:
        assert await check_project(client, "demo") == "demo"


@pytest.mark.parametrize("content", [None, b"no certificate"])
async def test_a_bundle_that_cannot_be_used_is_a_usage_error(tmp_path: Path, content: bytes | None) -> None:
    """The file is missing, or not PEM."""
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_bytes(content)
    with pytest.raises(UsageError, match="--ca-bundle") as caught:
        async with logged_in("https://127.0.0.1:1", ca_bundle=bundle):
            raise AssertionError("connected without a bundle")
    assert "PEM" in caught.value.hint


async def test_credentials_show_in_no_repr(xnat: TestXnat, url: str) -> None:
    """Nor does the header that is made of them."""
    assert "secret" not in repr(Credentials("user", "secret"))
    assert repr(Credentials("user", "secret")) == "Credentials('user', ...)"
    async with logged_in(url) as client:
        assert DEMO.password not in repr(client).replace("asyncimport", "")
        assert "JSESSIONID" not in repr(client)
        xnat.faults.add(Fault("any", Reset(), times=10))
        with pytest.raises(TransientError) as caught:
            await read_user(client)
        assert "JSESSIONID" not in repr(caught.value)


async def test_paths_are_sent_as_they_are(xnat: TestXnat) -> None:
    """Paths are encoded already."""
    transport = Transport(None, URL("http://h:1/xnat"))  # type: ignore[arg-type]
    assert str(transport.url("/data/x%2Fy?a=%20")) == "http://h:1/xnat/data/x%2Fy?a=%20"
    assert not xnat.count


async def test_a_project_that_may_be_edited_is_fine(url: str) -> None:
    """The check returns its ID."""
    async with logged_in(url) as client:
        assert await check_project(client, "demo") == "demo"


async def test_an_alias_gives_the_projects_id(xnat: TestXnat, url: str) -> None:
    """Imports need the ID: XNAT would not find the project by an alias there."""
    xnat.project("demo").aliases = ["other"]
    async with logged_in(url) as client:
        assert await check_project(client, "other") == "demo"


async def test_a_missing_project_is_an_error(xnat: TestXnat, url: str) -> None:
    """XNAT gives the same answer for a project that this user may not see."""
    xnat.add_project(Project("hidden", editors=()))
    async with logged_in(url) as client:
        for name in ("nowhere", "hidden"):
            with pytest.raises(ProjectMissingError, match=f"project {name} does not exist") as caught:
                await check_project(client, name)
            assert caught.value.hint


async def test_a_project_that_may_only_be_read_is_refused(xnat: TestXnat, url: str) -> None:
    """Otherwise XNAT would accept the files, and refuse to archive them."""
    xnat.add_project(Project("library", editors=(), readers=["demo"]))
    async with logged_in(url) as client:
        with pytest.raises(ProjectReadOnlyError, match="may read project library") as caught:
            await check_project(client, "library")
        assert caught.value.hint


async def test_a_project_that_cannot_be_checked_is_unavailable(xnat: TestXnat, url: str) -> None:
    """The server fails after the login."""
    async with logged_in(url) as client:
        xnat.faults.add(Fault("listing", Status(502), times=99))
        with pytest.raises(UnavailableError, match=r"the project could not be checked: .*502"):
            await check_project(client, "demo", AT_ONCE)
        xnat.faults.clear()
        assert await check_project(client, "demo", AT_ONCE) == "demo"


@asynccontextmanager
async def closing(*, served: int) -> AsyncIterator[tuple[str, list[int]]]:
    """Serve some POSTs on each connection, and close it at the next; the list counts those of each connection."""
    came: dict[object, list[int]] = {}
    posts: list[int] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path == "/data/auth":
            return web.Response(text="User 'demo' is logged in")
        if request.path == "/data/JSESSION":
            return web.Response(text="OURS")
        count = came.setdefault(request.transport, [0])
        count[0] += 1
        posts.append(count[0])
        if count[0] > served and request.transport is not None:
            request.transport.close()
        return web.Response(text="done")

    async with listening(answer) as url:
        yield url, posts


async def test_a_connection_that_was_closed_while_idle_costs_no_attempt() -> None:
    """The call is repeated once, at once, on another connection, though it has one attempt only."""
    once = RetryPolicy(attempts=1)

    async def post(client: Client) -> str:
        return await client.call("POST", client.url("/data/x"), lambda reply: reply.text)

    async with closing(served=1) as (url, posts), logged_in(url) as client:
        for _ in range(3):
            assert await call_with_retries(lambda: post(client), once) == "done"
        assert posts == [1, 2, 1, 2, 1]
    async with closing(served=0) as (url, posts), logged_in(url) as client:
        with pytest.raises(TransientError, match="the connection broke") as caught:
            await call_with_retries(lambda: post(client), once)
        # The login went over the connection before; the next one is new, and that it breaks is no accident.
        assert len(posts) == 2
        assert not caught.value.idle
        assert caught.value.may_have_taken_effect
