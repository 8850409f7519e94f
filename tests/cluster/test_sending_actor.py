"""A worker: sends what it is told, as long as it may."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from builders import AT_ONCE, DEMO, QUICK, claim, image, sop, write
from patience import MOMENT, in_time

from asyncimport.cluster.messages import Order, Packed, Reply, Setup, pack_claims
from asyncimport.cluster.sending_actor import SendingActor
from asyncimport.cluster.sending_thread import SendingThread
from asyncimport.errors import LoginRefusedError
from asyncimport.model.addresses import OUR_SOURCE
from asyncimport.model.choices import Compress
from asyncimport.model.deliveries import Claim
from asyncimport.model.options import Options
from asyncimport.source.folder import FileSource
from asyncimport.testserver import Fault, Stall, Status, TestXnat, Timing, serve
from asyncimport.xnat.login import Credentials

pytestmark = pytest.mark.anyio
LEASE = 2 * MOMENT


def setup(url: str, place: Path, *, credentials: Credentials = DEMO, lease_seconds: float = 5.0) -> Setup:
    """Tell a worker to send files below a place."""
    return Setup(
        host=url,
        credentials=credentials,
        authorities="",
        verify=True,
        timeouts=QUICK,
        options=Options(workers=2),
        file_policy=AT_ONCE,
        call_policy=AT_ONCE,
        source=OUR_SOURCE,
        adopt_rows=False,
        lease_seconds=lease_seconds,
        open_files=partial(FileSource, [place]),
    )


class Driver:
    """Gives orders to one worker, under a lease that no slow machine outlasts."""

    def __init__(self, exchange: Callable[[Order], Awaitable[Reply]], clock: float) -> None:
        self._exchange = exchange
        self._until = clock + LEASE
        self._number = 0

    async def order(self, claims: Sequence[Claim] = (), **more: Any) -> Reply:
        """Give one order, and return its reply."""
        files, deliveries = pack_claims([*claims])
        self._number += 1
        return await self._exchange(
            Order(number=self._number, lease_until=self._until, limit=1, files=files, deliveries=deliveries, **more)
        )

    async def send(self, one: Claim, **more: Any) -> tuple[Packed, Reply]:
        """Let a file be sent; return its outcome, and the reply that tells it: earlier ones come if that takes long."""
        with in_time():
            reply = await self.order([one], **more)
            while not reply.outcomes:
                reply = await self.order(**more)
        (outcome,) = reply.outcomes
        return outcome, reply


async def test_a_worker_sends_and_tells(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """It logs in once, and the reply has all outcomes when nothing is left to send."""
    file = write(tmp_path / "in" / "1", image(1))
    thread = SendingThread(setup(url, tmp_path / "in", lease_seconds=LEASE))
    clock = await thread.start()
    driver = Driver(thread.exchange, clock)
    outcome, reply = await driver.send(claim(file))
    assert outcome[0] == "S"
    assert reply.clock >= clock
    assert len(xnat.imports) == 1
    while not reply.has_ended:
        reply = await driver.order(stop_seconds=1)
    assert reply.error is None
    assert xnat.count["login"] == 1


async def test_orders_leave_nothing_behind(url: str, tmp_path: Path) -> None:
    """There are several a second, for as long as a migration takes."""
    write(tmp_path / "in" / "1", image(1))
    thread = SendingThread(setup(url, tmp_path / "in", lease_seconds=60))
    until = await thread.start() + 60

    async def count_futures(first: int) -> int:
        for number in range(first, first + 100):
            await thread.exchange(Order(number=number, lease_until=until, limit=1))
        gc.collect()
        return sum(isinstance(one, asyncio.Future) for one in gc.get_objects())

    before = await count_futures(1)
    assert await count_futures(101) < before + 50
    await thread.end()


async def test_a_worker_that_may_begin_nothing_ends_what_it_has_begun(tmp_path: Path) -> None:
    """Others have its share meanwhile. Later it goes on."""
    xnat = TestXnat(tmp_path / "xnat", timing=Timing(parallel_seconds=0.5))
    numbers = range(1, 6)
    claims = [claim(write(tmp_path / "in" / str(number), image(number)), number=number) for number in numbers]
    packed, deliveries = pack_claims(claims)
    replies: list[Reply] = []
    async with serve(xnat) as url:
        thread = SendingThread(setup(url, tmp_path / "in", lease_seconds=60))
        until = await thread.start() + 60

        async def exchange_until(outcomes: int, limit: int) -> None:
            while sum(len(reply.outcomes) for reply in replies) < outcomes:
                files = [] if replies else packed
                order = Order(number=len(replies), lease_until=until, limit=limit, files=files, deliveries=deliveries)
                replies.append(await thread.exchange(order))
                assert replies[-1].error is None

        # The fourth is in flight by then, at the end of which the client looks at its link.
        for outcomes, limit in ((3, 1), (4, 0), (5, 1)):
            await exchange_until(outcomes, limit)
        await thread.end()
    assert [one[0] for reply in replies for one in reply.outcomes] == ["S"] * 5


@pytest.mark.parametrize("is_told", [True, False])
async def test_a_worker_makes_no_zips_any_more(xnat: TestXnat, url: str, tmp_path: Path, is_told: bool) -> None:
    """If the driver says so; if it found out itself, it tells the driver."""
    content = {number: image(number, pixels=20_000, PixelData=bytes(20_000)) for number in (1, 2, 3)}
    files = [write(tmp_path / "in" / str(number), content[number]) for number in content]
    about = setup(url, tmp_path / "in", lease_seconds=LEASE)
    thread = SendingThread(replace(about, options=replace(about.options, compress=Compress.ALWAYS)))
    driver = Driver(thread.exchange, await thread.start())
    refused = xnat.faults.add(Fault("import", Status(415), share=1.0, path="DICOM-zip"))
    uri = None
    for number, file in enumerate(files, 1):
        outcome, reply = await driver.send(claim(file, number=number, uri=uri), zips_ended=is_told)
        uri = uri or outcome[4]
        assert reply.zips_ended is (is_told or number > 1)
    await thread.end()
    assert refused.hits == (not is_told)
    assert {record.sop_uid for record in xnat.imports} == {sop(number) for number in content}


async def test_a_worker_that_hears_nothing_ends_with_its_lease(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """What is in flight ends, and what it had to send stays where it is."""
    files = [write(tmp_path / "in" / str(number), image(number)) for number in (1, 2, 3)]
    thread = SendingThread(setup(url, tmp_path / "in", lease_seconds=0.5))
    clock = await thread.start()
    xnat.faults.add(Fault("import", Stall()))
    packed, deliveries = pack_claims([claim(file, number=number) for number, file in enumerate(files, 1)])
    until = clock + 0.5
    order = Order(number=1, lease_until=until, limit=1, files=packed, deliveries=deliveries)
    with in_time():
        reply = await thread.exchange(order)
        while not reply.has_ended:
            # The lease is that of the first order, as if nobody had heard the replies.
            reply = await thread.exchange(Order(number=reply.number + 1, lease_until=until, limit=1))
    assert not reply.outcomes
    assert {record.sop_uid for record in xnat.imports} <= {"1.2.3.4.1"}


async def test_a_worker_that_gets_no_order_ends_too(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """The driver died after it had started the worker."""
    write(tmp_path / "in" / "1", image(1))
    thread = SendingThread(setup(url, tmp_path / "in", lease_seconds=0.2))
    await thread.start()
    with in_time():
        await thread.ended()
    assert not xnat.imports


@pytest.mark.parametrize("is_told", [True, False])
async def test_a_worker_without_a_lease_logs_out(xnat: TestXnat, url: str, tmp_path: Path, is_told: bool) -> None:
    """Else its login would count against the site's limit until it expires. A logout stores nothing."""
    file = write(tmp_path / "in" / "1", image(1))
    thread = SendingThread(setup(url, tmp_path / "in", lease_seconds=5.0 if is_told else 0.5))
    clock = await thread.start()
    xnat.faults.add(Fault("import", Stall()))
    files, deliveries = pack_claims([claim(file)])
    order = Order(number=1, lease_until=clock + (60 if is_told else 0.5), limit=1, files=files, deliveries=deliveries)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(thread.exchange, order)
        with in_time():
            await (thread.end() if is_told else thread.ended())
    assert not xnat.imports
    assert (xnat.count["login"], xnat.count["logout"], xnat.live_logins("demo")) == (1, 1, 0)


async def test_an_order_that_comes_late_sends_nothing(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """A connection broke, the call was made again, and its first copy arrives after the next order."""
    (tmp_path / "in").mkdir()
    actor, orders = SendingActor(), list[Order]()

    async def exchange(order: Order) -> Reply:
        orders.append(order)
        return await actor.exchange(order)

    driver = Driver(exchange, await actor.start(setup(url, tmp_path / "in", lease_seconds=LEASE), "key"))
    for number in (1, 2):
        await driver.send(claim(write(tmp_path / "in" / str(number), image(number)), number=number))
    with pytest.raises(RuntimeError, match="later order"):
        await actor.exchange(orders[0])
    await actor.end()
    assert len(xnat.imports) == 2


async def test_a_worker_that_is_to_stop_is_heard_of_meanwhile(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """What is in flight may take longer than its lease, which each reply renews."""
    file = write(tmp_path / "in" / "1", image(1))
    thread = SendingThread(setup(url, tmp_path / "in", lease_seconds=LEASE))
    driver = Driver(thread.exchange, await thread.start())
    stalled = xnat.faults.add(Fault("import", Stall()))
    with in_time():
        await driver.order([claim(file)])
        while not stalled.hits:
            await driver.order()
        reply = await driver.order(stop_seconds=60)
    assert not reply.has_ended
    await thread.end()


async def test_a_refused_login_is_the_drivers_error(url: str, tmp_path: Path) -> None:
    """With its own kind."""
    (tmp_path / "in").mkdir()
    thread = SendingThread(setup(url, tmp_path / "in", credentials=Credentials("demo", "wrong")))
    with pytest.raises(LoginRefusedError):
        await thread.start()


async def test_the_end_of_a_worker_is_waited_for(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """Nothing is in flight afterwards; a new one may begin."""
    file = write(tmp_path / "in" / "1", image(1))
    thread = SendingThread(setup(url, tmp_path / "in"))
    clock = await thread.start()
    files, deliveries = pack_claims([claim(file)])
    await thread.end()
    reply = await thread.exchange(Order(number=1, lease_until=clock + 5, limit=1, files=files, deliveries=deliveries))
    assert reply.has_ended
    assert not xnat.imports


async def test_an_order_for_a_worker_that_is_ending(
    xnat: TestXnat, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The last reply answers it, and nothing is sent or logged."""
    claims = [claim(write(tmp_path / "in" / str(number), image(number)), number=number) for number in (1, 2)]
    (files, deliveries), (late, _) = pack_claims(claims[:1]), pack_claims(claims[1:])
    xnat.faults.add(Fault("import", Stall()))
    thread = SendingThread(setup(url, tmp_path / "in"))
    until = await thread.start() + 5
    replies: dict[int, Reply] = {}

    async def exchange(order: Order) -> None:
        replies[order.number] = await thread.exchange(order)

    async with anyio.create_task_group() as tasks:
        for order in (
            Order(number=1, lease_until=until, limit=1, files=files, deliveries=deliveries),
            Order(number=2, lease_until=until, limit=1, stop_seconds=0.5),
            Order(number=3, lease_until=until, limit=1, files=late, deliveries=deliveries),
        ):
            tasks.start_soon(exchange, order)
            await anyio.wait_all_tasks_blocked()
    assert replies[3].has_ended
    assert not xnat.imports
    assert not caplog.records
