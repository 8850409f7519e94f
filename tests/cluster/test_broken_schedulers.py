"""The connection to the scheduler breaks while a run is at work: it is made again, and all begins anew."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import pytest
from builders import uids_below
from conftest import Commands
from dask_processes import DaskProcesses, dask_processes
from lost_workers import LEASE_SECONDS, Migration
from patience import RUN, in_time
from relay import Relay, relay

from asyncimport import __version__
from asyncimport.cluster.connect import Cluster, WorkerAddress, connect
from asyncimport.cluster.links import ActorLinks
from asyncimport.cluster.path_map import ScanSettings
from asyncimport.cluster.source import open_source
from asyncimport.cluster.specs import parse_spec
from asyncimport.model.events import Event, Notice
from asyncimport.model.files import File, Ignored
from asyncimport.testserver import Fault, Tell, TestXnat
from asyncimport.testserver.samples import generated

pytestmark = [pytest.mark.anyio, pytest.mark.thorough, pytest.mark.usefixtures("two_workers")]

FILES = 400


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write some sessions."""
    generated(tmp_path / "tree", sessions=8, files=FILES, size=4_000, seed=1)
    return tmp_path / "tree"


@asynccontextmanager
async def connected(dask: DaskProcesses, notices: list[str]) -> AsyncIterator[tuple[Cluster, Relay]]:
    """Connect through a relay, and wait for both workers."""

    def report(event: Event) -> None:
        if isinstance(event, Notice):
            notices.append(event.reason)

    async with relay() as way:
        way.target = urlsplit(dask.when_ready()).port or 0
        async with connect(parse_spec(f"tcp://127.0.0.1:{way.port}"), report=report) as cluster:
            async for _ in cluster.changes():
                if len(cluster.workers) == 2:
                    break
            yield cluster, way


@pytest.mark.parametrize("more", [0, 3])
async def test_a_scan_goes_on(dask: DaskProcesses, tree: Path, more: int) -> None:
    """Everything is found, and can be read, by the workers that were there before, also if new connections break."""
    notices: list[str] = []
    async with connected(dask, notices) as (cluster, way):
        settings = ScanSettings(places=[str(tree)])
        async with open_source(cluster, settings, patience_seconds=20) as source:
            found: dict[str, File] = {}
            async for batch in source.batches():
                if not found:
                    way.break_connections(more)
                found |= {item.path: item for item in batch if isinstance(item, File)}
            assert set(found) == {str(path) for path in tree.rglob("*") if path.is_file()}
            way.break_connections(more)
            identities = await source.identify_many([*found.values()])
            assert not [one for one in identities if isinstance(one, Ignored)]
    assert any("connection to the scheduler of Dask broke" in notice for notice in notices), notices


async def test_an_upload_goes_on(xnat: TestXnat, url: str, dask: DaskProcesses, tree: Path, tmp_path: Path) -> None:
    """What was in flight is sent again after a lease; nothing goes into a sealed delivery."""
    notices: list[str] = []
    async with connected(dask, notices) as (cluster, way):
        settings = ScanSettings(places=[str(tree)])
        async with open_source(cluster, settings, patience_seconds=20) as source:
            workers: Any = ActorLinks(cluster, source, lease_seconds=LEASE_SECONDS)
            made = Migration(xnat, url, tree, tmp_path / "journal.db", workers)
            with in_time(RUN):
                summary = await made.run(Fault("import", Tell(lambda: way.break_connections(0)), nth=60))
            await made.check(summary)
    assert any("connection to the scheduler of Dask broke" in notice for notice in notices), notices


async def test_a_worker_that_loses_the_scheduler_ends(
    xnat: TestXnat, url: str, dask: DaskProcesses, tree: Path, tmp_path: Path
) -> None:
    """So Dask does it. Others send what it had, and it may be started again."""
    async with relay() as way:
        way.target = urlsplit(dask.address).port or 0
        direct, dask.address = dask.address, f"tcp://127.0.0.1:{way.port}"
        far = dask.start_worker("far")
        dask.address = direct
        async with connect(parse_spec(direct)) as cluster:
            async for _ in cluster.changes():
                if len(cluster.workers) == 3:
                    break
            async with open_source(cluster, ScanSettings(places=[str(tree)])) as source:
                workers: Any = ActorLinks(cluster, source, lease_seconds=LEASE_SECONDS)
                made = Migration(xnat, url, tree, tmp_path / "journal.db", workers)
                with in_time(RUN):
                    summary = await made.run(Fault("import", Tell(lambda: way.break_connections(0)), nth=60))
                await made.check(summary)
        assert await anyio.to_thread.run_sync(far.wait, 30) is not None


async def test_a_scheduler_that_is_gone_ends_the_run(
    xnat: TestXnat, url: str, commands: Commands, dask: DaskProcesses, tree: Path, tmp_path: Path
) -> None:
    """With a reason, and no traceback. The same command goes on when there is another one."""
    commands.login(url)
    commands.env["DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT"] = "2s"
    words = ("upload", tree, "-P", "demo", "-q", "-o", "json", "--dask")
    assert dask.scheduler is not None
    xnat.faults.add(Fault("import", Tell(dask.scheduler.kill), nth=60))
    ended = await commands(*words, dask.when_ready())
    assert (ended.code, "Traceback" in ended.err, "distributed" in ended.err) == (4, False, False), ended.err
    assert "the connection to the scheduler of Dask broke" in ended.err
    assert "the same command goes on" in ended.err
    (tmp_path / "next").mkdir()
    with dask_processes(tmp_path / "next") as processes:
        processes.start_worker("c")
        done = await commands(*words, processes.when_ready())
    assert done.code == 0, done.err
    assert xnat.sop_uids("demo") == await uids_below(tree)
    assert xnat.prearchive == []


class BreakingClient:
    """Asks a worker for its version over connections of which the first ones break."""

    def __init__(self, breaks: int) -> None:
        self.breaks = breaks

    async def run(self, *_: object, workers: list[str], **__: object) -> dict[str, object]:
        """Return what each worker answers, or why it does not."""
        self.breaks -= 1
        return dict.fromkeys(workers, OSError("it broke") if self.breaks >= 0 else __version__)


@pytest.mark.parametrize(("breaks", "reason"), [(2, None), (3, "no connection to it (it broke)")])
async def test_a_connection_that_breaks_says_nothing_about_versions(breaks: int, reason: str | None) -> None:
    """The worker is asked again, and used when it joins later."""
    client: Any = BreakingClient(breaks)
    cluster = Cluster(client, lambda _: None, insecure=True, silent_seconds=1.0)
    worker = WorkerAddress("tcp://127.0.0.1:1", "a")
    await cluster._use(worker)
    assert cluster.unusable.get("a") == reason
    await cluster._use(worker)
    assert (cluster.unusable, cluster.workers) == ({}, {worker.address: worker})
