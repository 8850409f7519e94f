"""A source that workers of Dask see: real workers, each with its own mounts where that matters."""

import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from builders import image, write
from dask.config import set as configured
from dask_processes import DaskProcesses, can_mount, dask_processes
from distributed import Client
from local_cluster import local_workers
from patience import RUN, in_time
from relay import Relay, relay

from asyncimport.cluster.connect import Cluster, connect
from asyncimport.cluster.path_map import ScanSettings
from asyncimport.cluster.source import ClusterSource, open_source
from asyncimport.cluster.specs import parse_spec
from asyncimport.errors import SourceError, UnavailableError, UsageError
from asyncimport.model.events import Event, Notice, WorkerJoined, WorkerLeft
from asyncimport.model.files import Algorithm, Digest, File, Ignored
from asyncimport.source.bytes_on_disk import LARGE, xxh3_of
from asyncimport.source.folder import FileSource

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

Found = dict[str, Any]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskProcesses]:
    """Start a scheduler, and two workers that see what this process sees."""
    with dask_processes(tmp_path_factory.mktemp("dask")) as processes:
        processes.start_worker("a")
        processes.start_worker("b")
        yield processes


@asynccontextmanager
async def connected(
    dask: DaskProcesses,
    *names: str,
    report: Callable[[Event], None] = lambda _: None,
    silent_seconds: float = 15.0,
) -> AsyncIterator[Cluster]:
    """Connect, and wait until workers of these names are there."""
    with in_time(RUN):
        async with connect(parse_spec(dask.when_ready()), report=report, silent_seconds=silent_seconds) as cluster:
            async for _ in cluster.changes():
                if {worker.name for worker in cluster.workers.values()} >= set(names):
                    break
            yield cluster


async def scan(source: ClusterSource | FileSource) -> Found:
    """Return what each path is, with its file."""
    found: Found = {}
    async for batch in source.batches():
        files = [item for item in batch if isinstance(item, File)]
        looks = zip(files, await source.identify_many(files), strict=True)
        for path, one in [
            *((file.path, (file, look)) for file, look in looks),
            *((item.file.path, item) for item in batch if isinstance(item, Ignored)),
        ]:
            assert path not in found
            found[path] = one
    return found


async def here(*places: Path, **options: Any) -> FileSource:
    """Return the source as this machine sees it."""
    return await anyio.to_thread.run_sync(lambda: FileSource(places, **options))


def study(place: Path, number: int, files: int = 3) -> None:
    """Write a study of some files."""
    for one in range(files):
        content = image(100 * number + one, StudyInstanceUID=f"1.2.{number}", PatientID=f"P{number}")
        write(place / f"{one}.dcm", content)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Write what a walk may meet: names that are no text, links, pipes, damage, archives."""
    place = tmp_path / "tree"
    study(place / "p1" / "visit 1", 1)
    study(place / os.fsdecode(b"p\xff\n2"), 2)
    study(place / "p3" / "a\x1b[31m", 3)
    study(tmp_path / "outside", 4)
    write(place / "p1" / "cut.dcm", image(5)[:-60])
    write(place / "p1" / "empty.dcm", b"")
    write(place / "p1" / "note.txt", b"a note")
    (place / "p1" / "broken").symlink_to("nowhere")
    (place / "p1" / "circle").symlink_to("circle")
    (place / "p1" / "up").symlink_to("..")
    (place / "p1" / "link.dcm").symlink_to(place / "p1" / "visit 1" / "0.dcm")
    (place / "p1" / "out").symlink_to(tmp_path / "outside")
    os.mkfifo(place / "p1" / "pipe")
    with zipfile.ZipFile(place / "p1" / "packed.zip", "w") as archive:
        archive.writestr("1.dcm", image(6))
    (place / ("n" * 250)).mkdir()
    study(place / ("n" * 250), 7, 40)
    return place


@pytest.mark.parametrize("options", [{}, {"follow_links": True}, {"exclude": ("p1/visit*",), "ignore_archives": True}])
async def test_workers_find_what_this_machine_finds(
    shared: DaskProcesses, hostile: Path, options: dict[str, Any]
) -> None:
    """Each path with the same file, header or reason."""
    settings = ScanSettings(places=[str(hostile)], **options)
    async with connected(shared, "a", "b") as cluster, open_source(cluster, settings) as source:
        found = await scan(source)
        assert source.is_in_order
        assert list(source.roots) == ([] if "exclude" in options else [str(hostile)])
    assert found == await scan(await here(hostile, **options))
    assert len(found) > 45


async def test_places_that_contain_each_other_are_walked_once(shared: DaskProcesses, hostile: Path) -> None:
    """As on one machine, in any order, and by another name."""
    again = hostile.parent / "again"
    again.symlink_to(hostile / "p1")
    for places in ([hostile / "p1", hostile], [hostile, hostile / "p1"], [again, hostile]):
        async with (
            connected(shared, "a", "b") as cluster,
            open_source(cluster, ScanSettings(places=[*map(str, places)])) as source,
        ):
            assert await scan(source) == await scan(await here(*places))


async def test_paths_are_those_of_the_command(shared: DaskProcesses, hostile: Path) -> None:
    """Here, where the path does not exist: the workers have it elsewhere."""
    settings = ScanSettings(places=["/nowhere/of/mine"], path_map=[("/nowhere/of", str(hostile.parent)), ("/x", "/y")])
    (hostile.parent / "mine").symlink_to(hostile)
    async with connected(shared, "a", "b") as cluster, open_source(cluster, settings) as source:
        found = await scan(source)
        assert source.relative("/nowhere/of/mine/p1/note.txt") == "p1/note.txt"
        (body,) = await source.read([found["/nowhere/of/mine/p1/note.txt"][0]])
        assert body == b"a note"
    local = await scan(await here(hostile))
    assert {path.removeprefix("/nowhere/of/mine") for path in found} == {
        path.removeprefix(str(hostile)) for path in local
    }


async def test_a_path_that_nobody_sees_is_an_error(shared: DaskProcesses, tmp_path: Path) -> None:
    """As it is on one machine, and the hint names the map."""
    async with connected(shared, "a") as cluster:
        with pytest.raises(UsageError, match="no worker sees") as caught:
            async with open_source(cluster, ScanSettings(places=[str(tmp_path), str(tmp_path / "nothing")])):
                pass
    assert "--path-map" in caught.value.hint


async def test_bytes_come_through_the_workers(shared: DaskProcesses, tmp_path: Path) -> None:
    """Small ones at once, large ones in pieces; a file that has changed gives its error."""
    small, large = write(tmp_path / "small", b"123"), write(tmp_path / "large", os.urandom(2 * LARGE + 5))
    gone, changed = write(tmp_path / "gone", b"1"), write(tmp_path / "changed", b"1")
    same = write(tmp_path / "same", b"123")
    Path(gone.path).unlink()
    Path(changed.path).write_bytes(b"2345")
    async with (
        connected(shared, "a", "b") as cluster,
        open_source(cluster, ScanSettings(places=[str(tmp_path)])) as source,
    ):
        bodies = await source.read([small, large, gone, changed])
        assert bodies[0] == b"123"
        assert b"".join([piece async for piece in bodies[1]]) == Path(large.path).read_bytes()  # type: ignore[union-attr]
        assert bodies[1].xxh3 == xxh3_of(Path(large.path).read_bytes())  # type: ignore[union-attr]
        assert [isinstance(body, SourceError) for body in bodies[2:]] == [True, True]
        assert await source.same_bytes(small.path, same.path) is True
        assert await source.same_bytes(small.path, large.path) is False
        assert await source.same_bytes(small.path, gone.path) is None
        digest = Digest(Algorithm.XXH3, xxh3_of(b"123"))
        assert await source.have_digests([(small, digest), (large, digest), (gone, digest)]) == [True, False, None]
        assert (await source.md5([(small, 2)]))[0] == "c20ad4d76fe97759aa27a0c99bff6710"
        look = await anyio.to_thread.run_sync(source.identify, small)
        assert isinstance(look, Ignored)
        Path(large.path).write_bytes(b"")
        with pytest.raises(SourceError):
            await body_of_stream(bodies[1])


async def body_of_stream(body: Any) -> bytes:
    """Read a body in pieces."""
    return b"".join([piece async for piece in body])


async def test_a_worker_that_dies_in_the_walk_loses_nothing(dask: DaskProcesses, tmp_path: Path) -> None:
    """Another one walks again. Nothing counts as finished before the end, as directories come twice."""
    place = tmp_path / "tree"
    for number in range(40):
        study(place / f"p{number}", number, 40)
    processes = {name: dask.start_worker(name) for name in ("a", "b")}
    events: list[Event] = []
    async with (
        connected(dask, "a", "b", report=events.append) as cluster,
        open_source(cluster, ScanSettings(places=[str(place)]), events.append) as source,
    ):
        found: set[str] = set()
        async for batch in source.batches():
            if not found:
                (walker,) = source._walk.walkers
                processes[cluster.workers[walker].name].kill()
            found |= {item.path for item in batch if isinstance(item, File)}
        assert found == {str(path) for path in place.rglob("*.dcm")}
        assert not source.is_in_order
        assert source.roots == [str(place)]
        files = [File.of(path, Path(path).stat(), has_stable_inodes=True) for path in sorted(found)]
        identities = await source.identify_many(files)
        assert not [one for one in identities if isinstance(one, Ignored)]
    assert [event for event in events if isinstance(event, WorkerLeft)]
    assert any("walks" in event.reason for event in events if isinstance(event, Notice))


async def test_a_worker_that_hangs_keeps_nobody_waiting(dask: DaskProcesses) -> None:
    """It is stopped, and Dask has not noticed. It joins when it goes on."""
    dask.start_worker("a")
    victim = dask.start_worker("b")
    async with connected(dask, "a", "b"):
        victim.send_signal(signal.SIGSTOP)
    async with connected(dask, "a") as cluster:
        assert [worker.name for worker in cluster.workers.values()] == ["a"]
        victim.send_signal(signal.SIGCONT)
        async for _ in cluster.changes():
            if len(cluster.workers) == 2:
                break


async def test_a_worker_that_hangs_in_the_walk_is_replaced(dask: DaskProcesses, tmp_path: Path) -> None:
    """Dask would notice after five minutes. It takes part again when it goes on."""
    for number in range(40):
        study(tmp_path / "tree" / f"p{number}", number, 40)
    processes = {name: dask.start_worker(name) for name in ("a", "b")}
    settings = ScanSettings(places=[str(tmp_path / "tree")])
    async with (
        connected(dask, "a", "b", silent_seconds=0.5) as cluster,
        open_source(cluster, settings) as source,
    ):
        found: set[str] = set()
        victim = None
        async for batch in source.batches():
            if victim is None:
                (walker,) = source._walk.walkers
                victim = processes[cluster.workers[walker].name]
                victim.send_signal(signal.SIGSTOP)
            found |= {item.path for item in batch if isinstance(item, File)}
        assert found == {str(path) for path in (tmp_path / "tree").rglob("*.dcm")}
        assert victim is not None
        victim.send_signal(signal.SIGCONT)
        async for _ in cluster.changes():
            if len(cluster.workers) == 2:
                break


async def test_the_only_worker_may_hang_for_a_while(dask: DaskProcesses, tmp_path: Path) -> None:
    """Such as one that imports everything from a slow file server: the scan begins when it answers again."""
    study(tmp_path / "tree", 1, 3)
    worker = dask.start_worker("a")
    notices: list[str] = []

    def note(event: Event) -> None:
        notices.append(event.reason if isinstance(event, Notice) else "")
        if notices[-1] == "no worker is left: waiting for one":
            worker.send_signal(signal.SIGCONT)

    async with connected(dask, "a", silent_seconds=0.5) as cluster:
        worker.send_signal(signal.SIGSTOP)
        async with open_source(cluster, ScanSettings(places=[str(tmp_path / "tree")]), note) as source:
            assert len(await scan(source)) == 3
    assert "no worker is left: waiting for one" in notices


async def test_without_any_worker_the_scan_ends_with_an_error(dask: DaskProcesses, tmp_path: Path) -> None:
    """What was not walked is not taken for gone: the scan has no end."""
    for number in range(20):
        study(tmp_path / "tree" / f"p{number}", number, 40)
    worker = dask.start_worker("a")
    async with (
        connected(dask, "a") as cluster,
        open_source(cluster, ScanSettings(places=[str(tmp_path / "tree")]), patience_seconds=0.5) as source,
    ):

        async def walk() -> None:
            async for _ in source.batches():
                worker.kill()

        with pytest.raises(UnavailableError, match="no worker is left"):
            await walk()


@asynccontextmanager
async def behind_a_relay(dask: DaskProcesses, port: int, more: int) -> AsyncIterator[tuple[Cluster, list[str]]]:
    """Connect to workers; one is behind a relay, which breaks its connections once it has joined, and so many more."""
    notices: list[str] = []
    async with relay() as way:
        way.target = port
        dask.start_worker("far", ports=(port, way.port))

        def report(event: Event) -> None:
            if isinstance(event, WorkerJoined) and event.worker == "far":
                way.break_connections(more)
            elif isinstance(event, Notice):
                notices.append(event.reason)

        async with connected(dask, "far", report=report) as cluster:
            yield cluster, notices


async def test_a_broken_connection_to_a_worker_is_made_again(
    dask: DaskProcesses, tmp_path: Path, unused_port: int
) -> None:
    """It breaks while the worker begins: nobody hears of it."""
    study(tmp_path / "tree", 1)
    settings = ScanSettings(places=[str(tmp_path / "tree")])
    async with behind_a_relay(dask, unused_port, 1) as (cluster, notices), open_source(cluster, settings) as source:
        assert len(await scan(source)) == 3
        assert notices == []


async def test_a_worker_that_cannot_be_reached_is_not_used(
    dask: DaskProcesses, tmp_path: Path, unused_port: int
) -> None:
    """The others do the work. If there is none, that is an error and no traceback."""
    study(tmp_path / "tree", 1)
    settings = ScanSettings(places=[str(tmp_path / "tree")])
    async with behind_a_relay(dask, unused_port, 1_000_000) as (cluster, notices):
        with pytest.raises(UnavailableError, match="no worker answers: ") as caught:
            async with open_source(cluster, settings):
                pass
        assert "addresses and ports" in caught.value.hint
        dask.start_worker("near")
        async for _ in cluster.changes():
            if len(cluster.workers) == 2:
                break
        async with open_source(cluster, settings, lambda event: notices.append(str(event))) as source:
            assert len(await scan(source)) == 3
        assert any("worker far is not used: no connection to it" in notice for notice in notices), notices


async def test_connections_that_break_cost_no_worker(tmp_path: Path) -> None:
    """The only worker is asked again, and its walk goes on."""
    for number in range(2000):
        write(tmp_path / "tree" / f"{number // 100}" / f"{number}.txt", b"x")
    settings = ScanSettings(places=[str(tmp_path / "tree")])
    notices: list[Event] = []
    async with (
        local_workers(partial(FileSource, [tmp_path / "tree"]), workers=1) as made,
        connect(made.client) as cluster,
        open_source(cluster, settings, notices.append, patience_seconds=3) as source,
    ):
        way = made.workers[0].way
        assert isinstance(way, Relay)
        found: list[str] = []
        batches = 0
        async for batch in source.batches():
            found += [item.path if isinstance(item, File) else item.file.path for item in batch]
            batches += 1
            way.break_connections(batches % 2)
        assert batches > 1
        assert len(found) == len(set(found)) == 2000
        assert not notices


async def test_a_scheduler_that_is_gone_is_an_error(dask: DaskProcesses) -> None:
    """It went away after the connection was made: there is a hint, and no traceback."""
    async with Client(dask.address, asynchronous=True, timeout=1) as client:
        assert dask.scheduler is not None
        dask.scheduler.kill()
        dask.scheduler.wait()
        with (
            configured({"distributed.comm.timeouts.connect": "1s"}),
            pytest.raises(UnavailableError, match="connection to the scheduler of Dask broke: ") as caught,
        ):
            async with connect(client):
                pass
        assert "its log" in caught.value.hint


@pytest.fixture
def workers_of_servers() -> dict[str, "subprocess.Popen[bytes]"]:
    """Return the processes of the workers of `servers`, by their names."""
    return {}


@pytest.fixture
def servers(tmp_path: Path, dask: DaskProcesses, workers_of_servers: dict[str, "subprocess.Popen[bytes]"]) -> Path:
    """Make two file servers with other files: at one path, each of the workers `one` and `two` has one of them."""
    if not can_mount(tmp_path / "dask"):
        pytest.skip("nothing may be mounted here")
    study(tmp_path / "server 1" / "p1", 1)
    study(tmp_path / "server 2" / "p2", 2)
    (tmp_path / "data").mkdir()
    for number, name in enumerate(("one", "two"), 1):
        mounts = {tmp_path / f"server {number}": tmp_path / "data"}
        workers_of_servers[name] = dask.start_worker(name, mounts=mounts)
    return tmp_path / "data"


async def test_files_of_several_servers_are_one_source(dask: DaskProcesses, servers: Path) -> None:
    """Each worker walks what only it sees. Headers and bytes come from the worker that has them."""
    async with (
        connected(dask, "one", "two") as cluster,
        open_source(cluster, ScanSettings(places=[str(servers)])) as source,
    ):
        found = await scan(source)
        assert sorted(found) == [str(servers / f"p{number}" / f"{one}.dcm") for number in (1, 2) for one in range(3)]
        assert not [one for one in found.values() if isinstance(one[1], Ignored)]
        assert not source.is_in_order
        first, other = found[str(servers / "p1" / "0.dcm")][0], found[str(servers / "p2" / "0.dcm")][0]
        bodies = await source.read([first, other])
        assert bodies == [
            (servers.parent / "server 1" / "p1" / "0.dcm").read_bytes(),
            (servers.parent / "server 2" / "p2" / "0.dcm").read_bytes(),
        ]
        assert await source.same_bytes(first.path, other.path) is False
        assert all(source.sees(address, first.path) for address in cluster.workers)


async def test_a_worker_that_hangs_when_the_scan_begins_is_waited_for(
    dask: DaskProcesses, servers: Path, workers_of_servers: dict[str, "subprocess.Popen[bytes]"]
) -> None:
    """Nobody else sees its files: a scan without it would have only those of the other server."""
    victim = workers_of_servers["two"]

    def note(event: Event) -> None:
        if isinstance(event, WorkerLeft) and event.worker == "two":
            victim.send_signal(signal.SIGCONT)

    # The other one must not be silent for as long, also on a busy machine.
    async with connected(dask, "one", "two", report=note, silent_seconds=3) as cluster:
        victim.send_signal(signal.SIGSTOP)
        async with open_source(cluster, ScanSettings(places=[str(servers)]), patience_seconds=RUN) as source:
            assert len(await scan(source)) == 6


async def test_one_path_with_two_files_is_an_error(dask: DaskProcesses, servers: Path) -> None:
    """The journal knows files by their paths. The same file on both is one."""

    def put(number: int, text: str) -> None:
        """Put a file onto a server. Its time is always the same, as of files that a script has made."""
        path = servers.parent / f"server {number}" / "same.txt"
        path.write_text(text)
        os.utime(path, (1_600_000_000, 1_600_000_000))

    same = "the same" * 10_000
    put(1, same)
    put(2, same)
    async with connected(dask, "one", "two") as cluster:
        async with open_source(cluster, ScanSettings(places=[str(servers)])) as source:
            found = await scan(source)
            assert len(found) == 7
        for other in (f"{same} at the beginning", same.upper()):
            put(2, other)
            async with open_source(cluster, ScanSettings(places=[str(servers)])) as source:
                with pytest.raises(UsageError, match="different files at"):
                    await scan(source)


async def test_a_worker_that_joins_late_takes_part_if_it_sees_the_same(dask: DaskProcesses, servers: Path) -> None:
    """One that sees other files is left out: the walk of its files has not begun."""
    notices: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, Notice):
            notices.append(event.reason)

    async with (
        connected(dask, "one", "two") as cluster,
        open_source(cluster, ScanSettings(places=[str(servers)]), note) as source,
    ):
        joined = source.joined()
        assert {(await anext(joined)).name, (await anext(joined)).name} == {"one", "two"}
        dask.start_worker("three")
        late = await anext(joined)
        assert late.name == "three"
        assert not source.sees(late.address, str(servers / "p1" / "0.dcm"))
        assert any("three has joined late" in notice for notice in notices), notices


async def test_a_file_that_one_worker_may_not_read_is_read_by_another(dask: DaskProcesses, tmp_path: Path) -> None:
    """It is told which worker lacks the right."""
    if os.getuid() != 0:
        pytest.skip("only root can start a worker as somebody else")
    if not all(parent.stat().st_mode & 0o001 for path in (sys.prefix, __file__) for parent in Path(path).parents):
        pytest.skip("somebody else cannot read this program")
    study(tmp_path / "tree", 1, 40)
    for path in (tmp_path / "tree").iterdir():
        path.chmod(0o600)
    notices: list[Event] = []
    dask.start_worker("root")
    dask.start_worker("nobody", user=65534)
    parent = tmp_path
    while parent != parent.parent:
        if not parent.stat().st_mode & 0o005:
            parent.chmod(parent.stat().st_mode | 0o055)
        parent = parent.parent
    async with (
        connected(dask, "root", "nobody") as cluster,
        open_source(cluster, ScanSettings(places=[str(tmp_path / "tree")]), notices.append) as source,
    ):
        files = [item async for batch in source.batches() for item in batch if isinstance(item, File)]
        async with anyio.create_task_group() as tasks:
            found: list[Any] = []

            async def identify(some: list[File]) -> None:
                found.extend(await source.identify_many(some))

            for start in range(0, len(files), 10):
                tasks.start_soon(identify, files[start : start + 10])
    assert len(found) == 40
    assert not [one for one in found if isinstance(one, Ignored)]
    assert any("nobody cannot read" in event.reason for event in notices if isinstance(event, Notice))
