"""Workers that are killed, stopped or cut off: nothing is lost, nothing goes into a sealed delivery, little twice."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
from local_cluster import LocalWorker, local_workers
from lost_workers import LEASE_SECONDS, Migration
from relay import Relay

from asyncimport.pacing.shutdown import Stop
from asyncimport.source.folder import FileSource
from asyncimport.testserver import Fault, Tell, TestXnat, serve
from asyncimport.testserver.samples import generated

pytestmark = pytest.mark.anyio

FILES = 800


@asynccontextmanager
async def migration(
    tmp_path: Path, *, workers: int = 2, lease_seconds: float = LEASE_SECONDS
) -> AsyncIterator[Migration]:
    """Make a tree, a test XNAT and workers."""
    tree = tmp_path / "tree"
    generated(tree, sessions=8, files=FILES, size=4_000)
    xnat = TestXnat(tmp_path / "xnat")
    async with (
        serve(xnat) as url,
        local_workers(partial(FileSource, [tree]), workers=workers, lease_seconds=lease_seconds) as started,
    ):
        yield Migration(xnat, url, tree, tmp_path / "journal.db", started)


async def test_a_killed_worker_is_replaced_by_others(tmp_path: Path) -> None:
    """What it had is sent again after its lease."""
    async with migration(tmp_path) as made:
        summary = await made.run(Fault("import", Tell(partial(made.lose, signal.SIGKILL)), nth=60))
        assert 0 < made.given_back < FILES
        await made.check(summary)


async def test_a_worker_that_was_stopped_for_longer_than_its_lease_sends_nothing_more(tmp_path: Path) -> None:
    """It goes on when others have its files: it must not send one of them."""
    async with migration(tmp_path) as made:
        summary = await made.run(Fault("import", Tell(partial(made.lose, signal.SIGSTOP)), nth=60))
        assert 0 < made.given_back < FILES
        (victim,), before = made.lost, len(made.xnat.imports)
        victim.signal(signal.SIGCONT)
        # It answers again, and so it has had the time to send.
        await made.workers.client.run(os.getpid, workers=[victim.address])
        assert len(made.xnat.imports) == before
        await made.check(summary)


async def test_a_stopped_worker_that_goes_on_joins_again(tmp_path: Path) -> None:
    """Its files are with others then; it gets new ones, under a new lease."""
    async with migration(tmp_path, workers=1) as made:
        victim = made.workers.workers[0]
        made.on_notice = lambda text: victim.signal(signal.SIGCONT) if "sent again" in text else None
        summary = await made.run(Fault("import", Tell(lambda: victim.signal(signal.SIGSTOP)), nth=60))
        assert 0 < made.given_back < FILES
        await made.check(summary)


async def test_a_worker_that_is_cut_off_stops_by_itself(tmp_path: Path) -> None:
    """It still reaches XNAT, but not the driver: it stops with its lease, and goes on when it is reached again."""
    async with migration(tmp_path, workers=1) as made:
        victim = made.workers.workers[0]
        sent: list[int] = []

        def heal(text: str) -> None:
            if "sent again" in text:
                sent.append(len(made.xnat.imports))
                victim.way.heal()

        made.on_notice = heal
        summary = await made.run(Fault("import", Tell(victim.way.cut), nth=60))
        assert sent[0] >= 60
        assert made.given_back > 0
        await made.check(summary)


async def test_a_cut_that_is_shorter_than_the_lease_costs_nothing(tmp_path: Path) -> None:
    """The reply comes late, and nothing is sent again."""
    async with migration(tmp_path, lease_seconds=60) as made:
        held: list[LocalWorker] = []

        def heal(worker: LocalWorker) -> None:
            held.append(worker)
            worker.way.heal()

        for worker in made.workers.workers:
            assert isinstance(worker.way, Relay)
            worker.way.on_held = partial(heal, worker)
        summary = await made.run(Fault("import", Tell(made.lose), nth=60))
        assert set(held) == set(made.lost)
        assert made.given_back == 0
        await made.check(summary)


async def test_a_stop_ends_all_workers_well(tmp_path: Path) -> None:
    """What is in flight is recorded, and the next run sends the rest, at once and without waiting for leases."""
    async with migration(tmp_path, lease_seconds=60) as made:
        stop = Stop()
        summary = await made.run(Fault("import", Tell(stop.request), nth=60), stop=stop)
        assert 60 <= summary.files.stored < FILES
        assert made.resent == 0
        assert await made.stored() == {record.sop_uid for record in made.xnat.imports}
        summary = await made.run()
        assert not any("earlier run" in text for text in made.notices)
        await made.check(summary)


async def test_a_second_stop_leaves_the_lease_to_the_next_run(tmp_path: Path) -> None:
    """A worker that cannot be told to end may go on sending: the next run waits for the end of its lease."""
    async with migration(tmp_path, workers=1) as made:
        stop, victim = Stop(), made.workers.workers[0]

        def give_up() -> None:
            victim.way.cut()
            stop.request()
            stop.request()

        await made.run(Fault("import", Tell(give_up), nth=60), stop=stop)
        victim.way.heal()
        resent_at_most = len(made.xnat.imports)
        summary = await made.run()
        assert any("earlier run" in text for text in made.notices)
        await made.check(summary, most_resent=resent_at_most)


async def test_no_worker_is_left(tmp_path: Path) -> None:
    """A run whose workers are all gone waits for others: a new one joins, and ends it."""
    async with migration(tmp_path, workers=1) as made, anyio.create_task_group() as tasks:
        victim = made.workers.workers[0]

        def replace(text: str) -> None:
            if "does not answer" in text:
                tasks.start_soon(made.workers.add)

        made.on_notice = replace
        summary = await made.run(Fault("import", Tell(lambda: victim.signal(signal.SIGKILL)), nth=60))
        await made.check(summary)
