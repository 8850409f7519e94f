"""Runs that are cancelled at any moment: nothing leaks, the journal is right, and the next run finishes the work."""

import asyncio
import gc
import os
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random

import anyio
import anyio.to_thread
import pytest
from builders import image, states_in, uids_below, upload, write
from patience import in_time
from yarl import URL

from asyncimport.model.options import Options
from asyncimport.pacing.shutdown import Stop
from asyncimport.testserver import Fault, Reset, Status, Tell, TestXnat, Timing, serve
from asyncimport.testserver.samples import generated

pytestmark = pytest.mark.anyio

OPTIONS = Options(workers=4, finalizers=2)
SEEDS = range(15)


def open_below(folder: Path) -> list[str]:
    """List what this process has open below a folder."""
    links = []
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(str(Path(f"/proc/self/fd/{number}").readlink()))
        except FileNotFoundError:  # the listing's own
            continue
    return [link for link in links if link.startswith(f"{folder}/")]


@asynccontextmanager
async def nothing_left(tmp_path: Path) -> AsyncIterator[None]:
    """Check that a block leaves no task, no open file and no unclosed stream (a ResourceWarning is an error)."""
    before, threads = asyncio.all_tasks(), anyio.to_thread.current_default_thread_limiter()
    yield
    with in_time():
        # Connections that the client has closed are still being noticed by the server; and a thread that reads headers
        # for a run that was cancelled ends with the file that it has open.
        while asyncio.all_tasks() - before or threads.borrowed_tokens:
            await anyio.lowlevel.checkpoint()
    gc.collect()
    assert open_below(tmp_path) == []


def check_journal(path: Path) -> None:
    """Check the integrity of the journal."""
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        sealed_too_early = connection.execute(
            "SELECT count(*) FROM delivery d WHERE d.state <> 'OPEN' AND d.state <> 'HELD' AND EXISTS "
            "(SELECT 1 FROM instance i WHERE i.session = d.session AND i.state = 'PENDING')"
        ).fetchone()
        assert sealed_too_early == (0,)
    finally:
        connection.close()


def collection(tree: Path, *, seed: int) -> int:
    """Write four sessions, one of them with files that are streamed; return the number of files."""
    written = generated(tree / "small", sessions=3, files=36, size=2000, seed=seed)
    for number in range(1, 4):
        write(tree / "large" / f"{number}", image(number, pixels=2 << 20))
    return written.files + 3


@asynccontextmanager
async def cancelled_after(xnat: TestXnat, requests: int, steps: int) -> AsyncIterator[None]:
    """Cancel the block `steps` turns of the loop after the server got `requests` requests."""
    reached = anyio.Event()

    async def count() -> None:
        await reached.wait()
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()

    xnat.faults.add(Fault("any", Tell(reached.set), nth=requests))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        yield
        tasks.cancel_scope.cancel()
    xnat.faults.clear()


def cancel(task: "asyncio.Task[object]") -> None:
    """Cancel a task as asyncio does."""
    task.cancel()


async def check_next_run(xnat: TestXnat, url: str, tmp_path: Path, tree: Path, journal_path: Path, files: int) -> None:
    """Check that the journal is right, and that one more run archives everything."""
    if journal_path.exists():
        check_journal(journal_path)
        stored = {uid for uid, state in (await states_in(journal_path)).items() if state == "STORED"}
        assert stored <= {record.sop_uid for record in xnat.imports if record.status == 200}
    assert xnat.live_logins("demo") == 0
    xnat.faults.clear()
    async with serve(xnat, port=URL(url).port or 0), nothing_left(tmp_path):
        summary = await upload(url, [tree], journal_path, options=OPTIONS)
    assert xnat.sop_uids() == await uids_below(tree)
    assert not xnat.partial_files()
    assert not xnat.prearchive
    assert summary.files.left == summary.files.failed == summary.files.refused == 0
    assert summary.count("archived") == 4
    # At most what was in flight was sent twice.
    assert len([record for record in xnat.imports if record.status == 200]) <= files + OPTIONS.max_workers
    check_journal(journal_path)


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_run_is_cancelled_at_a_moment(xnat: TestXnat, tmp_path: Path, seed: int) -> None:
    """The moment falls anywhere: into the login, the walk, a body, a transaction or a verdict."""
    tree, journal_path = tmp_path / "tree", tmp_path / "book" / "journal.db"
    files = collection(tree, seed=seed)
    rng = Random(seed)
    requests, steps = rng.randint(1, 70), rng.randint(0, 80)
    sys.stdout.write(f"seed {seed}: {steps} steps after request {requests}\n")
    async with serve(xnat) as url, nothing_left(tmp_path), cancelled_after(xnat, requests, steps):
        await upload(url, [tree], journal_path, options=OPTIONS)
    await check_next_run(xnat, url, tmp_path, tree, journal_path, files)


@pytest.mark.parametrize("seed", SEEDS[:10])
async def test_a_run_is_cancelled_at_a_request(xnat: TestXnat, tmp_path: Path, seed: int) -> None:
    """The server is at work on a request, and other requests meet faults."""
    rng = Random(seed)
    tree, journal_path = tmp_path / "tree", tmp_path / "book" / "journal.db"
    files = collection(tree, seed=seed)
    kind, nth = rng.choice(
        [("import", rng.randint(1, 40)), ("build", rng.randint(1, 4)), ("archive", rng.randint(1, 4)), ("listing", 5)]
    )
    sys.stdout.write(f"seed {seed}: {kind} {nth}\n")
    xnat.faults.add(Fault("import", Status(503, headers={"Retry-After": "0"}), nth=rng.randint(1, 10)))
    xnat.faults.add(Fault("import", Reset(after_bytes=1000), nth=rng.randint(1, 10)))
    async with serve(xnat) as url, nothing_left(tmp_path):
        with anyio.CancelScope() as scope:
            xnat.faults.add(Fault(kind, Tell(scope.cancel), nth=nth))
            await upload(url, [tree], journal_path, options=OPTIONS)
    assert scope.cancelled_caught
    await check_next_run(xnat, url, tmp_path, tree, journal_path, files)


@pytest.mark.parametrize("seed", SEEDS[:5])
async def test_a_run_is_cancelled_again_and_again(xnat: TestXnat, tmp_path: Path, seed: int) -> None:
    """Each run gets a little further."""
    rng = Random(seed)
    tree, journal_path = tmp_path / "tree", tmp_path / "book" / "journal.db"
    collection(tree, seed=seed)
    port = 0
    for _ in range(6):
        requests, steps = rng.randint(4, 30), rng.randint(0, 80)
        async with serve(xnat, port=port) as url, nothing_left(tmp_path), cancelled_after(xnat, requests, steps):
            await upload(url, [tree], journal_path, options=OPTIONS)
        port = URL(url).port or 0
        check_journal(journal_path)
        assert xnat.live_logins("demo") == 0
    async with serve(xnat, port=port) as url:
        await upload(url, [tree], journal_path, options=OPTIONS)
    assert xnat.sop_uids() == await uids_below(tree)
    assert not xnat.partial_files()


@pytest.mark.parametrize("seed", SEEDS[:5])
async def test_a_run_is_stopped_twice_at_a_moment(xnat: TestXnat, tmp_path: Path, seed: int) -> None:
    """After two stops the run returns, and all holds as after a cancellation."""
    rng = Random(seed)
    tree, journal_path = tmp_path / "tree", tmp_path / "book" / "journal.db"
    files = collection(tree, seed=seed)
    stop = Stop()
    nth = rng.randint(1, 30)
    sys.stdout.write(f"seed {seed}: import {nth}\n")
    xnat.faults.add(Fault("import", Tell(stop.request), nth=nth))
    xnat.faults.add(Fault("import", Tell(stop.request), nth=nth + rng.randint(1, 3)))
    async with serve(xnat) as url, nothing_left(tmp_path):
        await upload(url, [tree], journal_path, options=OPTIONS, stop=stop)
    assert stop.requested
    await check_next_run(xnat, url, tmp_path, tree, journal_path, files)


@pytest.mark.parametrize("seed", SEEDS[:5])
async def test_the_task_of_a_run_is_cancelled_by_asyncio(xnat: TestXnat, tmp_path: Path, seed: int) -> None:
    """Asyncio knows no scopes and shields: this is like an interrupted loop."""
    rng = Random(seed)
    tree, journal_path = tmp_path / "tree", tmp_path / "book" / "journal.db"
    files = collection(tree, seed=seed)
    async with serve(xnat) as url, nothing_left(tmp_path):
        task = asyncio.create_task(upload(url, [tree], journal_path, options=OPTIONS))
        xnat.faults.add(Fault("import", Tell(partial(cancel, task)), nth=rng.randint(1, 40)))
        with pytest.raises(asyncio.CancelledError):
            await task
    await check_next_run(xnat, url, tmp_path, tree, journal_path, files)


@pytest.mark.parametrize("kind", ["import", "build", "archive"])
async def test_a_cancellation_does_not_wait_for_a_server_that_hangs(tmp_path: Path, kind: str) -> None:
    """The run ends at once, although XNAT would take minutes."""
    tree, journal_path = tmp_path / "tree", tmp_path / "book" / "journal.db"
    write(tree / "1", image(1))
    slow = Timing(
        parallel_seconds=600 if kind == "import" else 0,
        build_seconds=600 if kind == "build" else 0,
    )
    xnat = TestXnat(timing=slow, archive_seconds=600 if kind == "archive" else 0)
    async with serve(xnat) as url:
        with anyio.CancelScope() as scope, in_time():
            xnat.faults.add(Fault(kind, Tell(scope.cancel)))
            await upload(url, [tree], journal_path)
        assert scope.cancelled_caught
        assert xnat.live_logins("demo") == 0
    check_journal(journal_path)


async def test_a_run_is_cancelled_before_it_starts(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """Nobody logs in, and nothing is left open."""
    write(tmp_path / "tree" / "1", image(1))
    async with nothing_left(tmp_path):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await upload(url, [tmp_path / "tree"], tmp_path / "book.db")
    assert scope.cancelled_caught
    assert xnat.count["login"] == 0
