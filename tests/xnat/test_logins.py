"""Logins during a run: how many are made, how many are open, and how the run ends when XNAT refuses more."""

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web
from builders import AT_ONCE, listening, logged_in, uids_below, upload
from conftest import Commands, Ended, output
from patience import COMMAND, in_time
from yarl import URL

from asyncimport.errors import LoginRefusedError
from asyncimport.model.options import Options
from asyncimport.testserver import ExpireLogins, Fault, Status, Tell, TestXnat, User
from asyncimport.testserver.samples import generated
from asyncimport.xnat.replies.site import parse_project_id

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

WORKERS = 32
FILES, SESSIONS = 480, 4
# What XNAT has acknowledged and the journal may not know when the run ends: in flight, handed in, being settled.
IN_FLIGHT = 3 * WORKERS
PASSED_ON = ("Authorization", "Cookie", "Content-Type", "User-Agent")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write sessions that keep all workers busy."""
    target = tmp_path / "tree"
    generated(target, sessions=SESSIONS, files=FILES, size=500, seed=21)
    return target


@dataclass
class Gate:
    """A relay to the test XNAT that holds the second login until some requests have been answered 401."""

    denials: int
    denied: int = 0
    logins: int = 0
    enough: anyio.Event = field(default_factory=anyio.Event)

    async def answer(self, http: aiohttp.ClientSession, url: str, request: web.BaseRequest) -> web.Response:
        """Relay a request and its answer."""
        if request.path == "/data/JSESSION" and request.method == "POST":
            self.logins += 1
            if self.logins > 1:
                await self.enough.wait()
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        target = URL(f"{url}{request.raw_path}", encoded=True)
        async with http.request(request.method, target, headers=headers, data=await request.read()) as got:
            self.denied += got.status == 401
            if self.denied >= self.denials:
                self.enough.set()
            answer = web.Response(status=got.status, body=await got.read(), content_type=got.content_type)
            for cookie in got.headers.getall("Set-Cookie", []):
                answer.headers.add("Set-Cookie", cookie)
        return answer


@asynccontextmanager
async def gated(url: str, gate: Gate) -> AsyncIterator[str]:
    """Serve the relay."""
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as http,
        listening(partial(gate.answer, http, url)) as address,
    ):
        yield address


async def test_one_login_serves_all_workers_after_an_expiry(
    xnat: TestXnat, url: str, tree: Path, tmp_path: Path
) -> None:
    """XNAT gives the new login only after all 32 workers got a 401, and it serves all."""
    gate = Gate(WORKERS)
    expiry = xnat.faults.add(Fault("import", ExpireLogins(), nth=150))
    with in_time(COMMAND):
        async with gated(url, gate) as address:
            # All of it is scanned before: no worker waits for work.
            options = Options(workers=WORKERS, finalizers=2, check_first=True)
            summary = await upload(address, [tree], tmp_path / "book", options=options)
    assert expiry.hits == 1
    assert gate.denied >= WORKERS
    assert gate.logins == xnat.count["login"] == 2
    assert summary.files.stored == FILES
    assert xnat.sop_uids() == await uids_below(tree)
    assert xnat.live_logins("demo") == 0


# How many are alive


class Census:
    """Counts the open logins at each request."""

    def __init__(self, xnat: TestXnat) -> None:
        self.most = 0
        self._xnat = xnat
        # The first fault that strikes is the one that acts: this one, of all requests, has to stand last.
        xnat.faults.add(Fault("any", Tell(self._count), share=1.0))

    def _count(self) -> None:
        self.most = max(self.most, self._xnat.live_logins("demo"))


async def test_expired_logins_do_not_add_up(xnat: TestXnat, url: str, commands: Commands, tree: Path) -> None:
    """However often a login expires, at most one is open and one is being made, and none is left."""
    # Further apart than what 32 workers may still send with a dead login: the new one is to live for a while.
    apart = WORKERS + 8
    expiries = [
        *[xnat.faults.add(Fault("import", ExpireLogins(), nth=nth)) for nth in range(apart, FILES, apart)],
        xnat.faults.add(Fault("build", ExpireLogins(), nth=SESSIONS)),
    ]
    census = Census(xnat)
    commands.login(url)
    ended = await commands("upload", tree, "-P", "demo", "-w", str(WORKERS), "-o", "json")
    assert ended.code == 0, ended.out
    assert [fault.hits for fault in expiries] == [1] * len(expiries)
    assert xnat.count["login"] == 1 + len(expiries)
    assert xnat.sop_uids() == await uids_below(tree)
    assert 1 <= census.most <= 2
    assert xnat.live_logins("demo") == 0


STOPS = [
    (signal.SIGINT, "listing", 1),
    (signal.SIGTERM, "listing", 2),
    (signal.SIGINT, "import", 300),
    (signal.SIGTERM, "import", 300),
    (signal.SIGINT, "login", 2),
    (signal.SIGTERM, "login", 3),
    (signal.SIGINT, "archive", 1),
    (signal.SIGTERM, "archive", 2),
]


@pytest.mark.parametrize(("number", "kind", "nth"), STOPS, ids=[f"{n.name}-{kind}-{nth}" for n, kind, nth in STOPS])
async def test_a_stopped_run_leaves_no_login(
    xnat: TestXnat, url: str, commands: Commands, tree: Path, number: signal.Signals, kind: str, nth: int
) -> None:
    """The signal comes during the check of the login, during the work, or during a renewal."""
    commands.login(url)
    async with commands.start("upload", tree, "-P", "demo", "-w", str(WORKERS), "-o", "json") as process:
        fault = xnat.faults.add(Fault(kind, Tell(lambda: process.send_signal(number)), nth=nth))
        xnat.faults.add(Fault("import", ExpireLogins(), nth=100))
        xnat.faults.add(Fault("import", ExpireLogins(), nth=250))
        census = Census(xnat)
        ended = await output(process)
    assert fault.hits == 1
    assert ended.code == 128 + number, ended.err
    assert census.most <= 2
    assert xnat.live_logins("demo") == 0
    xnat.faults.clear()
    ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert ended.code == 0, ended.out
    assert xnat.sop_uids() == await uids_below(tree)
    assert xnat.live_logins("demo") == 0


# No more are given


def token_login(commands: Commands, xnat: TestXnat, url: str) -> None:
    """Let the commands log in with a fresh token."""
    token = xnat.tokens.issue("demo")
    commands.env |= {"XNAT_HOST": url, "XNAT_TOKEN": f"{token.alias}:{token.secret}"}


async def check_refused(
    xnat: TestXnat, commands: Commands, tree: Path, ended: Ended, renew: Callable[[], Any], secret: str
) -> None:
    """Check that the run ended after one attempt, blamed no file, and continues with the right login."""
    assert ended.code == 3, ended.err
    error, hint = ended.err.splitlines()
    assert error == "error: XNAT refused the user name or password"
    assert hint.startswith("hint: ")
    assert secret not in ended.out + ended.err
    summary = ended.json
    assert summary["exit_code"] == 3
    assert f"error: {summary['error']['message']}" == error
    assert xnat.count["login"] == 2, "the one that was good, and the one that was refused"
    assert xnat.live_logins("demo") == 0
    files = summary["files"]
    assert files["failed"] == files["refused"] == files["unreadable"] == files["skipped"] == 0
    assert files["stored"] + files["left"] == files["found"]
    assert summary["sessions"]["held"] == 0
    assert summary["problems"] == []
    assert 0 < files["stored"] <= len(xnat.imports)

    xnat.faults.clear()
    renew()
    again = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert again.code == 0, again.out
    assert again.json["files"]["already_stored"] == files["stored"]
    assert again.json["sessions"]["archived"] == len(xnat.archived) == SESSIONS
    assert xnat.count["login"] == 3
    assert xnat.count["import"] <= FILES + IN_FLIGHT + WORKERS  # the latter were answered 401
    assert xnat.sop_uids() == await uids_below(tree)
    assert not xnat.prearchive
    assert xnat.live_logins("demo") == 0


MOMENTS = [("import", 200), ("import", FILES - 5), ("build", 1), ("archive", SESSIONS)]


@pytest.mark.parametrize(("kind", "nth"), MOMENTS)
async def test_a_token_that_expires_during_a_run(
    xnat: TestXnat, url: str, commands: Commands, tree: Path, kind: str, nth: int
) -> None:
    """A token is valid for two days; the same command continues with a fresh one."""
    token_login(commands, xnat, url)
    fault = xnat.faults.add(Fault(kind, ExpireLogins(tokens=True), nth=nth))
    ended = await commands("upload", tree, "-P", "demo", "-w", str(WORKERS), "-o", "json")
    assert fault.hits == 1
    secret = commands.env["XNAT_TOKEN"].partition(":")[2]
    await check_refused(xnat, commands, tree, ended, partial(token_login, commands, xnat, url), secret)


async def test_a_token_outlives_its_login(xnat: TestXnat, url: str, commands: Commands, tree: Path) -> None:
    """If only the login expires, it is renewed with the token."""
    token_login(commands, xnat, url)
    xnat.faults.add(Fault("import", ExpireLogins(), nth=300))
    ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert ended.code == 0, ended.out
    assert xnat.count["login"] == 2
    assert xnat.live_logins("demo") == 0


@pytest.mark.parametrize(("kind", "nth"), MOMENTS)
async def test_a_password_that_is_changed_during_a_run(
    xnat: TestXnat, url: str, commands: Commands, tree: Path, kind: str, nth: int
) -> None:
    """A run with the old password does not lock the account: it makes one attempt."""
    commands.login(url)
    commands.env["XNAT_PASS"] = "correct-horse"
    xnat.add_user(User("demo", "correct-horse"))

    def change() -> None:
        xnat.add_user(User("demo", "battery-staple"))
        xnat.expire_logins()

    def renew() -> None:
        commands.env["XNAT_PASS"] = "battery-staple"

    fault = xnat.faults.add(Fault(kind, Tell(change), nth=nth))
    ended = await commands("upload", tree, "-P", "demo", "-w", str(WORKERS), "-o", "json")
    assert fault.hits == 1
    await check_refused(xnat, commands, tree, ended, renew, "correct-horse")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_run_that_is_stopped_while_it_logs_in_leaves_no_login(
    xnat: TestXnat, url: str, commands: Commands, tree: Path, number: signal.Signals
) -> None:
    """When the run handles the signal, XNAT has made the login, and its cookie is on the way."""
    commands.login(url)
    async with commands.start("upload", tree, "-P", "demo", "-o", "json") as process:
        xnat.faults.add(Fault("login", Tell(lambda: process.send_signal(number))))
        ended = await output(process)
    assert ended.code == 128 + number
    assert xnat.live_logins("demo") == 0


async def test_a_run_that_is_stopped_twice_while_it_logs_in_again_leaves_no_login(
    xnat: TestXnat, url: str, commands: Commands, tree: Path
) -> None:
    """The second signal cancels what is in flight, also the renewal of a login."""
    commands.login(url)
    async with commands.start("upload", tree, "-P", "demo", "-w", str(WORKERS), "-o", "json") as process:

        def stop() -> None:
            process.send_signal(signal.SIGINT)

        xnat.faults.add(Fault("import", ExpireLogins(), nth=100))
        xnat.faults.add(Fault("import", Tell(stop), nth=101))
        xnat.faults.add(Fault("login", Tell(stop), nth=2))
        await output(process)
    assert xnat.live_logins("demo") == 0


async def test_denials_of_a_valid_login_do_not_add_up(xnat: TestXnat, url: str, commands: Commands, tree: Path) -> None:
    """A gateway answers 401, but the login is valid: it is closed before another is made."""
    for nth in range(WORKERS + 8, FILES, WORKERS + 8):
        xnat.faults.add(Fault("import", Status(401), nth=nth))
    census = Census(xnat)
    commands.login(url)
    ended = await commands("upload", tree, "-P", "demo", "-w", str(WORKERS), "-o", "json")
    assert ended.code == 0, ended.out
    assert xnat.sop_uids() == await uids_below(tree)
    assert census.most <= 2
    assert xnat.live_logins("demo") == 0


async def test_a_login_that_expires_before_its_check_is_repeated(
    xnat: TestXnat, url: str, commands: Commands, tree: Path
) -> None:
    """XNAT accepted the password, so an unknown login a moment later is no refusal."""
    commands.login(url)
    fault = xnat.faults.add(Fault("listing", ExpireLogins(), path="auth"))
    ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert fault.hits == 1
    assert ended.code == 0, ended.err


async def test_all_workers_together_try_a_refused_password_once(xnat: TestXnat, url: str) -> None:
    """Eight calls meet the dead login at a time; the first one's refusal is the last word for all of them."""
    refused: list[str] = []
    async with logged_in(url) as client:
        xnat.users.clear()
        xnat.expire_logins()

        async def ask() -> None:
            try:
                await client.request("GET", "/data/projects/demo?format=json", parse_project_id, AT_ONCE)
            except LoginRefusedError as error:
                refused.append(str(error))

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(ask)
    assert refused == ["XNAT refused the user name or password"] * 8
    assert xnat.count["login"] == 2
