"""What the scheduler of Dask and its pages know of an upload: no password, no path, no patient."""

import gzip
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote

import anyio
import anyio.to_thread
import pydicom
import pytest
from conftest import Commands
from dask_processes import DaskProcesses
from distributed import Client

from asyncimport import Credentials, Server, UploadRequest, rules_from, upload
from asyncimport.testserver import Fault, Stall, Tell, TestXnat
from asyncimport.testserver.samples import generated

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.thorough,
    pytest.mark.usefixtures("two_workers"),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the memory of a process"),
]

SECRET = "tell-nobody-4711"


async def test_the_scheduler_knows_no_secret(
    xnat: TestXnat, url: str, commands: Commands, dask: DaskProcesses, tmp_path: Path
) -> None:
    """Neither while files are sent nor afterwards: its tasks, events and pages, and all of its memory."""
    tree = tmp_path / "tree"
    generated(tree, sessions=4, files=80, size=2_000, seed=1)
    commands.login(url)
    xnat.users["demo"] = replace(xnat.users["demo"], password=SECRET)
    commands.env["XNAT_PASS"] = SECRET
    secrets = {SECRET.encode(), str(tree).encode(), *await anyio.to_thread.run_sync(patients_in, tree)}
    assert len(secrets) > 4
    assert dask.scheduler is not None
    is_sending, scheduler = anyio.Event(), dask.scheduler.pid
    xnat.faults.add(Fault("import", Tell(is_sending.set), nth=40))
    held = xnat.faults.add(Fault("import", Stall(), nth=41, times=1000))

    async def look() -> None:
        async with Client(dask.address, asynchronous=True) as client:
            await is_sending.wait()
            try:
                told = await told_by_scheduler(client, tmp_path / "dump")
                assert b"SendingActor" in told
                assert [secret for secret in secrets if secret in told] == []
                assert await anyio.to_thread.run_sync(found_in_memory, scheduler, secrets) == []
            finally:
                xnat.faults.clear()
                held.release()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        done = await commands("upload", tree, "-P", "demo", "--dask", dask.when_ready(), "-q")
    assert done.code == 0, done.err
    assert await anyio.to_thread.run_sync(found_in_memory, scheduler, secrets) == []
    assert await anyio.to_thread.run_sync(found_in_memory, scheduler, {b"SendingActor"}) == [b"SendingActor"]


async def test_a_client_that_asks_through_the_scheduler_tells_it_no_secret(
    xnat: TestXnat, url: str, dask: DaskProcesses, tmp_path: Path
) -> None:
    """Dask's own clients of that kind send it all that a worker is told: ours goes to the worker directly."""
    tree = tmp_path / "tree"
    generated(tree, sessions=1, files=20, size=2_000, seed=1)
    xnat.users["demo"] = replace(xnat.users["demo"], password=SECRET)
    assert dask.scheduler is not None
    secrets, scheduler = {SECRET.encode(), str(tree).encode()}, dask.scheduler.pid
    is_sending = anyio.Event()
    xnat.faults.add(Fault("import", Tell(is_sending.set), nth=10))
    held = xnat.faults.add(Fault("import", Stall(), nth=11, times=1000))

    async def look() -> None:
        await is_sending.wait()
        found.extend(await anyio.to_thread.run_sync(found_in_memory, scheduler, secrets))
        xnat.faults.clear()
        held.release()

    found: list[bytes] = []
    request = UploadRequest(
        server=Server(url, Credentials("demo", SECRET)),
        sources=[tree],
        project="demo",
        routes=rules_from("demo"),
        state_dir=tmp_path / "state",
    )
    async with (
        Client(dask.when_ready(), asynchronous=True, direct_to_workers=False, set_as_default=False) as client,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(look)
        (await upload(request, dask_client=client)).raise_for_error()
    assert (is_sending.is_set(), found) == (True, [])
    assert await anyio.to_thread.run_sync(found_in_memory, scheduler, secrets) == []


def patients_in(tree: Path) -> set[bytes]:
    """Return names and IDs of the patients of a tree."""
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in tree.rglob("*.dcm")]
    return {str(value).encode() for one in headers for value in (one.PatientName, one.PatientID)}


async def told_by_scheduler(client: Client, dump: Path) -> bytes:
    """Return the state of scheduler and workers, with all tasks and events, and what the scheduler's pages say."""
    known: Any = await client.scheduler.identity(n_workers=-1)
    host = f"http://127.0.0.1:{known['services']['dashboard']}"
    state: Any = await client.scheduler.get_cluster_state(exclude=())
    tasks, workers = [*state["scheduler"]["tasks"]], [*known["workers"]]
    await client.dump_cluster_state(str(dump))
    pages = [
        "json/index.html",
        "json/identity.json",
        "json/counts.json",
        "info/main/logs.html",
        "info/main/workers.html",
    ]
    pages += [f"info/task/{quote(task, safe='')}.html" for task in tasks]
    for worker in workers:
        pages += [f"info/{kind}/{quote(worker, safe='')}.html" for kind in ("worker", "logs", "call-stacks")]

    def read() -> bytes:
        parts = [gzip.decompress(dump.with_suffix(".msgpack.gz").read_bytes())]
        for page in pages:
            try:
                with urllib.request.urlopen(f"{host}/{page}") as reply:  # noqa: S310 - our own scheduler
                    parts.append(reply.read())
            except HTTPError as error:
                # Dask cannot make all pages at all times.
                parts.append(error.read())
        return b"".join(parts)

    return await anyio.to_thread.run_sync(read)


def found_in_memory(process: int, secrets: set[bytes]) -> list[bytes]:
    """Return which of these texts a process has in its memory."""
    found = set()
    with Path(f"/proc/{process}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            place, rights, *_ = line.split()
            begin, end = (int(number, 16) for number in place.split("-"))
            if not rights.startswith("rw"):
                continue
            try:
                memory.seek(begin)
                content = memory.read(end - begin)
            except OSError:
                # Of the kernel, or gone meanwhile.
                continue
            found |= {secret for secret in secrets if secret in content}
    return sorted(found)
