"""Workers that others keep busy, that another process replaces, and that were lost, as the driver calls them."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from builders import image, write
from dask_processes import DaskProcesses
from distributed import Client, Scheduler, Worker
from patience import RUN, in_time

from asyncimport.cluster.connect import Cluster, WorkerAddress, connect
from asyncimport.cluster.links import ActorLink
from asyncimport.cluster.messages import Order
from asyncimport.cluster.path_map import ScanSettings
from asyncimport.cluster.ports import WorkerLostError
from asyncimport.cluster.source import open_source
from asyncimport.cluster.specs import parse_spec
from asyncimport.model.events import Event, Notice

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]


@asynccontextmanager
async def connected(
    dask: DaskProcesses, workers: int, report: Callable[[Event], None] = lambda _: None
) -> AsyncIterator[Cluster]:
    """Connect, and wait for so many workers."""
    async with connect(parse_spec(dask.when_ready()), report=report) as cluster:
        with in_time(RUN):
            async for _ in cluster.changes():
                if len(cluster.workers) == workers:
                    break
        yield cluster


def link_to(cluster: Cluster, worker: WorkerAddress) -> ActorLink:
    """Return what calls a worker that sends."""
    while_there = partial(cluster.while_there, worker)
    return ActorLink(cluster.client, worker.address, worker.name, while_there=while_there)


async def test_a_worker_that_others_keep_busy_is_waited_for(dask: DaskProcesses, tmp_path: Path) -> None:
    """It may see what nobody else does. A line says so, and it goes before what others have asked for meanwhile."""
    write(tmp_path / "tree" / "1.dcm", image())
    ends = [tmp_path / "first", tmp_path / "last"]
    for end in ends:
        os.mkfifo(end)
    dask.start_worker("a")
    dask.start_worker("b")
    told, notices = anyio.Event(), list[str]()

    def report(event: Event) -> None:
        if isinstance(event, Notice):
            notices.append(event.reason)
            told.set()

    async with connected(dask, 2, report) as cluster, anyio.create_task_group() as tasks:
        busy = next(iter(cluster.workers.values()))
        expected = f"worker {busy.name} takes long to begin, as if it had other tasks: waiting for it"
        first = cluster.client.submit(ends[0].read_text, workers=[busy.address], pure=False)
        # This waits for its reader: the task has begun.
        writer = await anyio.to_thread.run_sync(ends[0].open, "w")
        last = cluster.client.submit(ends[1].read_text, workers=[busy.address], pure=False)

        def count_tasks(dask_worker: Worker) -> int:
            return len(dask_worker.state.tasks)

        async def release() -> None:
            nonlocal told
            # The other worker may take as long to import everything.
            while expected not in notices:
                await told.wait()
                told = anyio.Event()
            # Our actor is the third: the scheduler has to import it first. Each question is a round trip.
            while (await cluster.client.run(count_tasks, workers=[busy.address]))[busy.address] < 3:
                pass
            await anyio.to_thread.run_sync(writer.close)

        tasks.start_soon(release)
        settings = ScanSettings([str(tmp_path / "tree")])
        async with open_source(cluster, settings, report, patience_seconds=2) as source:
            assert len(source._workers.all) == 2
        assert not last.done()
        await anyio.to_thread.run_sync(ends[1].write_text, "")
        await cluster.client.gather([first, last])


async def test_a_worker_at_the_address_of_another_is_another(
    dask: DaskProcesses, tmp_path: Path, unused_port: int
) -> None:
    """A site starts it again, at a port that is open. Whoever called the earlier one does not call it."""
    write(tmp_path / "tree" / "1.dcm", image())
    process = dask.start_worker("a", ports=(unused_port, unused_port))
    async with (
        connected(dask, 1) as cluster,
        open_source(cluster, ScanSettings([str(tmp_path / "tree")])) as source,
    ):
        joined = source.joined()
        earlier = (await anext(joined)).joined
        links = [link_to(cluster, earlier), link_to(cluster, earlier)]
        await links[0].reach()
        process.kill()
        process.wait()
        dask.start_worker("a", ports=(unused_port, unused_port))
        with in_time(RUN):
            later = (await anext(joined)).joined
        assert (later.address, later is earlier) == (earlier.address, False)
        with pytest.raises(WorkerLostError, match="it has left the cluster"):
            await links[0].end()
        with pytest.raises(WorkerLostError, match="it has left the cluster"):
            await links[1].reach()
        await link_to(cluster, later).reach()


async def test_a_scheduler_is_not_idle_while_workers_are_used(dask: DaskProcesses) -> None:
    """With an idle timeout it would end, and all workers with it. It takes actors for nothing to do."""

    def is_idle(dask_scheduler: Scheduler) -> bool:
        # Only the second look after a change tells.
        return [dask_scheduler.check_idle() for _ in range(3)][-1] is not None

    dask.start_worker("a")
    async with Client(dask.address, asynchronous=True) as watcher:
        async with connected(dask, 1) as cluster:
            link = link_to(cluster, next(iter(cluster.workers.values())))
            await link.reach()
            assert not await watcher.run_on_scheduler(is_idle)
        while not await watcher.run_on_scheduler(is_idle):
            pass


async def test_a_worker_that_was_lost_has_not_confirmed_its_end(dask: DaskProcesses) -> None:
    """It may still be sending: the leases of the run are kept for the next one."""
    dask.start_worker("a")
    async with connected(dask, 1) as cluster:
        link = link_to(cluster, next(iter(cluster.workers.values())))
        await link.reach()
        with pytest.raises(WorkerLostError, match="was not started"):
            await link.exchange(Order(number=1, lease_until=0, limit=0))
        with pytest.raises(WorkerLostError, match="it was lost before"):
            await link.end()
