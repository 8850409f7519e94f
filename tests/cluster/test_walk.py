"""The walk of workers, with actors in this process: what becomes of it when workers are lost, all at once even."""

import pickle
from collections.abc import Callable
from typing import Any, cast

import anyio
import pytest
from distributed import Client
from patience import in_time

from asyncimport.cluster.calls import RemoteActor
from asyncimport.cluster.connect import Cluster, WorkerAddress
from asyncimport.cluster.path_map import ScanSettings
from asyncimport.cluster.ports import WorkerLostError
from asyncimport.cluster.scanning_workers import ScanningWorker, ScanningWorkers, View, views_of
from asyncimport.cluster.walk import Walk
from asyncimport.errors import UnavailableError
from asyncimport.model.events import Event

pytestmark = pytest.mark.anyio


class Actor:
    """An actor that finds one file at each place, or does what a test says."""

    def __init__(self, call: Callable[[], Any] | None = None) -> None:
        self._call = call
        self._found: list[str] = []

    async def call(self, method: str, *words: Any) -> Any:
        """Call a method of `ScanningActor`."""
        if self._call is not None:
            await self._call()
        if method == "start_walk":
            self._found = [f"{place}/1" for place in words[1]]
            return None
        found, self._found = self._found, []
        return pickle.dumps([(path, 1, 1, None, None) for path in found])


def worker(name: str, *views: View, call: Callable[[], Any] | None = None, lasting: str = "") -> ScanningWorker:
    """Return a worker that has these views."""
    actor = cast("RemoteActor", Actor(call))
    return ScanningWorker(WorkerAddress(name, name), actor, views, {view.place: lasting for view in views})


def workers_of(
    *workers: ScanningWorker, report: Callable[[Event], None] = lambda _: None, patience_seconds: float = 0
) -> ScanningWorkers:
    """Return these workers of a cluster."""
    cluster = Cluster(cast("Client", None), report, insecure=False, silent_seconds=1)
    settings = ScanSettings(places=[view.place for worker in workers for view in worker.views])
    made = ScanningWorkers(cluster, settings, report, patience_seconds)
    for one in workers:
        made.all[one.address] = one
        for view in one.views:
            made.views[view.place] = [view]
    return made


async def test_an_error_of_a_walk_that_nobody_reads_any_more_is_none() -> None:
    """Two file servers are lost. The run ends in order by the first error, and the second must not cut that off."""
    is_over = anyio.Event()

    async def lose() -> None:
        raise WorkerLostError("gone", is_final=True)

    async def lose_later() -> None:
        await is_over.wait()
        raise WorkerLostError("gone", is_final=True)

    workers = workers_of(worker("a", View("/a", "1"), call=lose), worker("b", View("/b", "2"), call=lose_later))
    async with anyio.create_task_group() as tasks:
        walk = Walk(workers, ["/a", "/b"], tasks)
        with pytest.raises(UnavailableError, match="no worker is left that sees /a"):
            async for _ in walk.batches():
                pass
        is_over.set()


async def test_places_whose_workers_are_all_away_are_walked_by_those_that_come_back() -> None:
    """The connection to the scheduler broke, say. They need not be one worker that sees all."""
    one, two = worker("a", View("/a", "1")), worker("b", View("/b", "2"))
    is_waiting = anyio.Event()
    workers = workers_of(one, two, report=lambda _: is_waiting.set(), patience_seconds=3600)

    async def come_back() -> None:
        await is_waiting.wait()
        workers.all |= {"a": one, "b": two}
        workers.end()

    workers.all.clear()
    with in_time():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(come_back)
            found = [batch async for batch in Walk(workers, ["/a", "/b"], tasks).batches()]
    assert sorted(item.path for batch in found for item in batch) == ["/a/1", "/b/1"]  # type: ignore[union-attr]


def test_equal_files_are_those_of_the_same_worker_in_each_run() -> None:
    """Whoever answers first. Inodes of the others are others, and all bytes would be compared with what was sent."""
    one, two = worker("a", View("/a", "1"), lasting="x"), worker("b", View("/a", "2"), lasting="y")
    assert views_of("/a", [one, two]) == views_of("/a", [two, one]) == [View("/a", "1"), View("/a", "2")]
    assert views_of("/b", [one, two]) == []
