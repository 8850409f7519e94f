"""A server that is away: when that is told, and when it ends the run. In a time of its own, and on real sockets."""

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic
from typing import Any

import anyio
import pytest
from builders import listening
from conftest import Commands

from asyncimport.errors import TransientError, UnavailableError
from asyncimport.pacing.monitor import OutageMonitor
from asyncimport.testserver import Fault, Reset, Stall, Status, Tell, TestXnat

pytestmark = pytest.mark.anyio


class Jumps(selectors.DefaultSelector):
    """Waits for nothing: where there is nothing to do, the time goes on to what is to be done next."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0

    def select(self, timeout: float | None = None) -> Any:
        """Pass the time."""
        found = super().select(0)
        if not found:
            assert timeout is not None, "nothing will ever happen again"
            self.now += timeout
        return found


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop with a time of its own."""

    def __init__(self) -> None:
        self.selector = Jumps()
        super().__init__(self.selector)

    def time(self) -> float:
        """Tell it."""
        return self.selector.now


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run tests of the monitor alone in virtual time."""
    if "url" in request.fixturenames or "commands" in request.fixturenames:
        return "asyncio"
    return "asyncio", {"loop_factory": JumpingLoop}


REFUSED = TransientError("no connection to the server", unreachable=True)


class Server:
    """Answers, or does not, and hangs if it is told to; the monitor hears of it as from the client."""

    def __init__(self, longest: float) -> None:
        self.told: list[tuple[float, str | None]] = []
        self.monitor = OutageMonitor(longest, report=self._tell, clock=anyio.current_time)
        self.monitor.ping = self.ping
        self.is_away = False
        self.asked = 0
        self._began = anyio.current_time()

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return anyio.current_time() - self._began

    def _tell(self, reason: str | None) -> None:
        self.told.append((self.now, reason))

    async def call(self, seconds: float = 0.1, error: TransientError | None = None) -> None:
        """Make a call that takes its time; it fails when the server is away, or with an error of its own."""
        self.monitor.call_started()
        try:
            await anyio.sleep(seconds)
        except BaseException:
            self.monitor.call_cancelled()
            raise
        if error is not None or self.is_away:
            self.monitor.call_failed(error or REFUSED)
        else:
            self.monitor.call_answered()

    async def ping(self) -> bool:
        """Ask something small."""
        self.asked += 1
        if self.is_away:
            self.monitor.call_started()
            self.monitor.call_failed(REFUSED)
            return False
        await self.call(0.01)
        return True


async def ends(server: Server, work: Callable[[], Awaitable[None]]) -> float | None:
    """Do some work under guard; return when an outage ended it, if one did."""
    try:
        async with server.monitor.guard():
            await work()
    except UnavailableError:
        return server.now
    return None


async def test_the_first_call_that_does_not_get_through_begins_it() -> None:
    """Not the attempt after which somebody has had enough: the run ends in time, whoever is in a pause then."""
    server = Server(6)

    async def work() -> None:
        await server.call(1)
        server.is_away = True
        pause = 0.5
        while True:
            await server.call(0.2)
            await anyio.sleep(pause)
            pause *= 2

    assert await ends(server, work) == pytest.approx(7)
    ((when, reason),) = server.told
    assert (round(when, 1), reason) == (1.9, "no connection to the server")


async def test_calls_that_hang_count() -> None:
    """No call fails for ten minutes, as the server takes them and says nothing: nor does it answer the question."""
    server = Server(6)

    async def hangs() -> bool:
        await server.call(600)
        return True

    server.monitor.ping = hangs
    assert await ends(server, lambda: server.call(600)) == pytest.approx(6)


async def test_before_the_login_nobody_can_be_asked() -> None:
    """The login itself hangs."""
    server = Server(6)
    server.monitor.ping = None
    assert await ends(server, lambda: server.call(60)) == pytest.approx(6)


async def test_a_call_that_takes_its_time_is_no_outage() -> None:
    """An archive step takes minutes, and nothing else is to be done: the server answers when it is asked."""
    server = Server(6)
    assert await ends(server, lambda: server.call(300)) is None
    assert server.told == []
    assert 300 / 6 <= server.asked <= 300 / 4


async def test_a_call_that_fails_alone_is_no_outage() -> None:
    """One file fails again and again, and nothing else is left to be sent: whoever repeats it decides."""
    server = Server(6)

    async def work() -> None:
        for _ in range(20):
            await server.call(0.1, TransientError("the connection broke", may_have_taken_effect=True))
            await anyio.sleep(2)

    assert await ends(server, work) is None
    assert server.told


async def test_what_gets_through_ends_it() -> None:
    """It is away for five seconds, again and again; both ends are told each time."""
    server = Server(6)

    async def work() -> None:
        for _ in range(3):
            server.is_away = True
            for _ in range(9):
                await server.call(0.1)
                await anyio.sleep(0.4)
            server.is_away = False
            await server.call(0.1)

    assert await ends(server, work) is None
    assert [reason is None for _, reason in server.told] == [False, True] * 3


async def test_a_failure_among_successes_is_not_told() -> None:
    """Servers close connections, and others get through."""
    server = Server(6)

    async def work() -> None:
        for number in range(40):
            await server.call(0.1, REFUSED if number % 3 == 0 else None)

    assert await ends(server, work) is None
    assert server.told == []


async def test_nothing_to_do_is_no_outage() -> None:
    """Between two calls, and after one that was dropped, nobody waits for anything."""
    server = Server(6)

    async def work() -> None:
        await server.call(1)
        await anyio.sleep(100)
        with anyio.move_on_after(1):
            await server.call(100)
        await anyio.sleep(100)

    assert await ends(server, work) is None
    assert server.asked == 0


@pytest.mark.parametrize("longest", [0.0, 0.2])
async def test_no_patience_at_all(longest: float) -> None:
    """Even then a call has a moment."""
    server = Server(longest)
    assert await ends(server, lambda: server.call(0.4)) is None
    server.is_away = True
    began = server.now

    async def work() -> None:
        while True:
            await server.call(0.1)

    ended = await ends(server, work)
    assert ended is not None
    assert ended - began <= 1.1


async def test_each_guard_begins_anew() -> None:
    """What an earlier run waited for is no part of the time."""
    server = Server(6)
    server.is_away = True

    async def work() -> None:
        while True:
            await server.call(0.1)
            await anyio.sleep(0.4)

    assert await ends(server, work) == pytest.approx(6)
    assert await ends(server, work) == pytest.approx(12)


# On real sockets


AWAY = [Status(503), Reset(), Stall()]


@pytest.mark.parametrize("action", AWAY, ids=["overloaded", "broken", "hanging"])
@pytest.mark.parametrize("kind", ["import", "archive"])
async def test_a_run_ends_in_time(
    xnat: TestXnat, url: str, commands: Commands, tree: Path, action: Any, kind: str
) -> None:
    """Whatever it is doing when the server goes away, and however that shows: told, ended, logged out, and gone on."""
    commands.login(url)
    ended_at: list[float] = []

    def go_away() -> None:
        xnat.faults.add(Fault("any", action, share=1))
        ended_at.append(monotonic())

    xnat.faults.add(Fault(kind, Tell(go_away), nth=2))
    with anyio.fail_after(60):
        ended = await commands("upload", tree, "-P", "demo", "--outage-timeout", "3s", "-w", "4", "-o", "json")
    seconds = monotonic() - ended_at[0]
    assert ended.code == 4, ended.err
    assert "for too long" in ended.json["error"]["message"]
    assert "the server is away: " in ended.err
    assert 2 < seconds < 15, seconds
    xnat.faults.clear()
    assert (await commands("upload", tree, "-P", "demo", "-q")).code == 0
    assert len(xnat.archived) == 2


async def test_a_login_that_hangs_ends_in_time(commands: Commands, tree: Path) -> None:
    """The server takes the connection and says nothing."""

    async def silent(_: Any) -> Any:
        await anyio.sleep_forever()

    async with listening(silent) as url:
        commands.login(url)
        began = monotonic()
        with anyio.fail_after(60):
            ended = await commands("upload", tree, "-P", "demo", "--outage-timeout", "1s", "-o", "json")
    assert ended.code == 4, ended.err
    assert monotonic() - began < 15
