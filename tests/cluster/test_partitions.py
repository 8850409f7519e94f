"""A worker on a machine of its own, whose network is cut for longer than its lease: it sends nothing after that."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from local_cluster import LocalWorker, local_workers
from lost_workers import LEASE_SECONDS, Migration
from namespaces import Link, Namespace, lacks, namespace

from asyncimport.source.folder import FileSource
from asyncimport.testserver import Fault, Tell, TestXnat, serve
from asyncimport.testserver.samples import generated

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.thorough,
    pytest.mark.skipif(bool(lacks()), reason=lacks()),
]

FILES = 400


@asynccontextmanager
async def migration(
    tmp_path: Path, machine: Namespace, *, workers: int
) -> AsyncIterator[tuple[Migration, LocalWorker]]:
    """Make a tree, a test XNAT, some workers here, and one in the namespace."""
    tree = tmp_path / "tree"
    # What is in the kernel when the link is cut is a part of a file.
    generated(tree, sessions=8, files=FILES, size=60_000)
    xnat = TestXnat(tmp_path / "xnat")
    open_files, host = partial(FileSource, [tree]), machine.to_cluster.here
    async with (
        serve(xnat, machine.to_xnat.here) as url,
        local_workers(open_files, workers=workers, lease_seconds=LEASE_SECONDS, host=host) as started,
    ):
        remote = await started.add_in(machine)
        yield Migration(xnat, url, tree, tmp_path / "journal.db", started), remote


def when_busy(made: Migration, worker: LocalWorker, cut: Callable[[], object]) -> Fault:
    """Cut once, when some files have arrived and this worker has others."""
    is_cut = False

    def look() -> None:
        nonlocal is_cut
        if not is_cut and len(made.xnat.imports) >= 60 and worker.link is not None and worker.link.unanswered:
            is_cut = True
            cut()

    return Fault("import", Tell(look), share=1)


def both(links: list[Link], change: Callable[[Link], None]) -> None:
    """Change the links."""
    for link in links:
        change(link)


@pytest.mark.parametrize("reaches_xnat", [True, False])
async def test_a_worker_whose_link_is_cut_sends_nothing_after_its_lease(tmp_path: Path, reaches_xnat: bool) -> None:
    """Others send what it had, and end the run. When the network is back, what it had in flight does not arrive."""
    with namespace() as machine:
        links = [machine.to_cluster, *([] if reaches_xnat else [machine.to_xnat])]
        async with migration(tmp_path, machine, workers=1) as (made, remote), anyio.create_task_group() as tasks:
            cut = partial(tasks.start_soon, anyio.to_thread.run_sync, partial(both, links, Link.cut))
            summary = await made.run(when_busy(made, remote, cut))
            assert "the worker worker 2 does not answer" in made.notices
            before = len(made.xnat.imports)
            both(links, Link.heal)
            # It answers again, and so it has had the time to send.
            await made.workers.client.run(os.getpid, workers=[remote.address])
            assert len(made.xnat.imports) == before
            await made.check(summary)


@pytest.mark.parametrize("reaches_xnat", [True, False])
async def test_a_worker_whose_link_is_back_joins_again(tmp_path: Path, reaches_xnat: bool) -> None:
    """Under a new lease, and it sends the rest: there is no other."""
    with namespace() as machine:
        links = [machine.to_cluster, *([] if reaches_xnat else [machine.to_xnat])]
        async with migration(tmp_path, machine, workers=0) as (made, remote), anyio.create_task_group() as tasks:

            def change(how: Callable[[Link], None]) -> None:
                tasks.start_soon(anyio.to_thread.run_sync, partial(both, links, how))

            made.on_notice = lambda text: change(Link.heal) if "does not answer" in text else None
            summary = await made.run(when_busy(made, remote, partial(change, Link.cut)))
            assert "the worker worker 1 does not answer" in made.notices
            await made.check(summary)
