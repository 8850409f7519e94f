"""A server that is away: when this is reported, and when it ends the run. In virtual time, and on real sockets."""

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
from patience import in_time

from asyncimport.errors import TransientError, UnavailableError
from asyncimport.pacing.monitor import OutageMonitor
from asyncimport.testserver import Fault, Reset, Stall, Status, Tell, TestXnat

pytestmark = pytest.mark.anyio


class Jumps(selectors.DefaultSelector):
    """Never waits: when nothing is ready, the time jumps to the next timer."""

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
    """An event loop with virtual time."""

    def __init__(self) -> None:
        self.selector = Jumps()
        super().__init__(self.selector)

    def time(self) -> float:
        """Return the virtual time."""
        return self.selector.now


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run tests of the monitor alone in virtual time."""
    if "url" in request.fixturenames or "commands" in request.fixturenames:
        return "asyncio"
    return "asyncio", {"loop_factory": JumpingLoop}


REFUSED = TransientError("no connection to the server", unreachable=True)


class Server:
    """Answers, fails or hangs. It reports each call to the monitor, as the client does."""

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
        """Make a call of this length. It fails if the server is away, or with the given error."""
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
        """Make a small call."""
        self.asked += 1
        if self.is_away:
            self.monitor.call_started()
            self.monitor.call_failed(REFUSED)
            return False
        await self.call(0.01)
        return True


async def ends(server: Server, work: Callable[[], Awaitable[None]]) -> float | None:
    """Do some work under guard. Return the time at which an outage ended it, or None."""
    try:
        async with server.monitor.guard():
            await work()
    except UnavailableError:
        return server.now
    return None


async def test_the_first_call_that_does_not_get_through_begins_it() -> None:
    """The outage counts from the first failed attempt, not from the last. The run ends in time, even during a pause."""
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
    """The server accepts calls and says nothing, so none fails for ten minutes. It does not answer the ping either."""
    server = Server(6)

    async def hangs() -> bool:
        await server.call(600)
        return True

    server.monitor.ping = hangs
    assert await ends(server, lambda: server.call(600)) == pytest.approx(6)


async def test_before_the_login_nobody_can_be_asked() -> None:
    """The login hangs, so no ping is possible."""
    server = Server(6)
    server.monitor.ping = None
    assert await ends(server, lambda: server.call(60)) == pytest.approx(6)


async def test_a_call_that_takes_its_time_is_no_outage() -> None:
    """An archive step takes minutes, and nothing else is in flight: the server answers a ping."""
    server = Server(6)
    assert await ends(server, lambda: server.call(300)) is None
    assert server.told == []
    assert 300 / 6 <= server.asked <= 300 / 4


async def test_a_call_that_fails_alone_is_no_outage() -> None:
    """One file fails repeatedly, and nothing else is left to send: its own retries decide."""
    server = Server(6)

    async def work() -> None:
        for _ in range(20):
            await server.call(0.1, TransientError("the connection broke", may_have_taken_effect=True))
            await anyio.sleep(2)

    assert await ends(server, work) is None
    assert server.told


async def test_what_gets_through_ends_it() -> None:
    """The server is away for five seconds, again and again. Each beginning and each end is reported."""
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
    """A server may close a connection while other calls get through."""
    server = Server(6)

    async def work() -> None:
        for number in range(40):
            await server.call(0.1, REFUSED if number % 3 == 0 else None)

    assert await ends(server, work) is None
    assert server.told == []


@pytest.mark.parametrize(("failing", "told"), [(4, []), (10, [0.6, 1.1])])
async def test_some_of_many_calls_at_a_time_may_fail(failing: int, told: list[float]) -> None:
    """As long as more are in flight than have failed, they may get through: a gateway may drop every fourth."""
    server = Server(6)

    async def work() -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(server.call, (number + 1) / 10, REFUSED if number < failing else None)
        await server.call()

    assert await ends(server, work) is None
    assert [round(when, 1) for when, _ in server.told] == told


async def test_nothing_to_do_is_no_outage() -> None:
    """Between two calls, and after a cancelled one, no call is waiting."""
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
    """Even then a call has a little time."""
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
    """The time that an earlier run waited does not count."""
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
    """At any stage and for any kind of outage: the run reports it, ends in time, logs out, and can be resumed."""
    commands.login(url)
    ended_at: list[float] = []

    def go_away() -> None:
        xnat.faults.add(Fault("any", action, share=1))
        ended_at.append(monotonic())

    xnat.faults.add(Fault(kind, Tell(go_away), nth=2))
    with in_time():
        ended = await commands("upload", tree, "-P", "demo", "--outage-timeout", "3s", "-w", "4", "-o", "json")
    seconds = monotonic() - ended_at[0]
    assert ended.code == 4, ended.err
    assert "for too long" in ended.json["error"]["message"]
    assert "the server is away: " in ended.err
    assert seconds > 2
    xnat.faults.clear()
    assert (await commands("upload", tree, "-P", "demo", "-q")).code == 0
    assert len(xnat.archived) == 2


async def test_a_login_that_hangs_ends_in_time(commands: Commands, tree: Path) -> None:
    """The server accepts the connection and says nothing."""

    async def silent(_: Any) -> Any:
        await anyio.sleep_forever()

    async with listening(silent) as url:
        commands.login(url)
        with in_time():
            ended = await commands("upload", tree, "-P", "demo", "--outage-timeout", "1s", "-o", "json")
    assert ended.code == 4, ended.err
