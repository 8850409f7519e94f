"""Workers of Dask on this machine: processes that can be killed, stopped and cut off."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

import anyio
from anyio.abc import Process
from dask.config import set as configured
from distributed import Client, LocalCluster
from free_ports import free_port
from namespaces import Namespace
from relay import relay

from asyncimport.cluster.links import ActorLink
from asyncimport.cluster.messages import Order, Reply, Setup
from asyncimport.model.ports import FileReader

# A network may be cut for as long as a run takes here, and the kernel gives its connections up after half a minute.
_TCP_TIMEOUT = "600s"


class CountingLink(ActorLink):
    """Calls a worker, and knows which files it was given and has told no outcome of."""

    def __init__(self, client: Client, address: str, name: str) -> None:
        super().__init__(client, address, name)
        self.unanswered: dict[int, str] = {}
        """SOPInstanceUIDs of these files, by key."""

    async def start(self, setup: Setup) -> float:
        """Start it: what it had before is with others."""
        self.unanswered.clear()
        return await super().start(setup)

    async def exchange(self, order: Order) -> Reply:
        """Bring files, and return what became of others."""
        self.unanswered.update((key, sop_uid) for key, _, sop_uid, *_ in order.files)
        reply = await super().exchange(order)
        for _, key, *_ in reply.outcomes:
            self.unanswered.pop(key, None)
        return reply


class Way(Protocol):
    """How others reach a worker."""

    def cut(self) -> None:
        """Pass nothing more."""

    def heal(self) -> None:
        """Pass everything again."""


@dataclass(eq=False)
class LocalWorker:
    """A worker process. Everybody reaches it by its way; it reaches the scheduler, and XNAT, without if it is here."""

    process: Process
    address: str
    way: Way
    link: CountingLink | None = None
    """The last one that called it."""

    def signal(self, which: signal.Signals) -> None:
        """Send it a signal, if it is still there."""
        with suppress(ProcessLookupError):
            self.process.send_signal(which)


@dataclass
class LocalWorkers:
    """Workers that see all that this process sees; those that are started later join too."""

    client: Client
    scheduler: str
    open_files: Callable[[], FileReader]
    lease_seconds: float
    stack: AsyncExitStack
    workers: list[LocalWorker] = field(default_factory=list)
    _changed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def busiest(self) -> LocalWorker:
        """The worker that has most files now: others have to send them if it is lost."""
        alive = [worker for worker in self.workers if worker.process.returncode is None]
        return max(alive, key=lambda worker: len(worker.link.unanswered) if worker.link else 0)

    async def joined(self) -> AsyncIterator[CountingLink]:
        """Yield each worker."""
        known = 0
        while True:
            for worker in self.workers[known:]:
                known += 1
                if worker.process.returncode is None:
                    worker.link = CountingLink(self.client, worker.address, f"worker {known}")
                    yield worker.link
            self._changed = anyio.Event()
            await self._changed.wait()

    async def add(self, number: int = 1) -> None:
        """Start workers, and wait until they are there."""
        for started in [await self._start() for _ in range(number)]:
            self.workers.append(started)
        await self._wait()

    async def add_in(self, machine: Namespace) -> LocalWorker:
        """Start a worker in a namespace, and wait until it is there."""
        address = f"{machine.to_cluster.there}:8790"
        process = await self._open(address, address, machine.words)
        self.workers.append(LocalWorker(process, f"tcp://{address}", machine.to_cluster))
        await self._wait()
        return self.workers[-1]

    async def _wait(self) -> None:
        alive = sum(worker.process.returncode is None for worker in self.workers)
        await self.client.wait_for_workers(alive)
        self._changed.set()

    async def _start(self) -> LocalWorker:
        way = await self.stack.enter_async_context(relay())
        way.target = self.stack.enter_context(free_port())
        address = f"127.0.0.1:{way.port}"
        return LocalWorker(await self._open(f"127.0.0.1:{way.target}", address), f"tcp://{address}", way)

    async def _open(self, listens: str, address: str, before: Sequence[str] = ()) -> Process:
        process = await anyio.open_process(
            [
                *before,
                *(sys.executable, "-m", "distributed.cli.dask_worker", self.scheduler, "--no-nanny", "--no-dashboard"),
                *("--nthreads", "1", "--listen-address", f"tcp://{listens}", "--contact-address", f"tcp://{address}"),
            ],
            stdout=None,
            stderr=None,
            env={**os.environ, "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": _TCP_TIMEOUT},
        )
        self.stack.push_async_callback(_end, process)
        return process


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


@asynccontextmanager
async def local_workers(
    open_files: Callable[[], FileReader],
    *,
    workers: int = 2,
    lease_seconds: float = 10.0,
    host: str = "127.0.0.1",
) -> AsyncIterator[LocalWorkers]:
    """Start a scheduler here, and worker processes."""
    with configured({"distributed.comm.timeouts.tcp": _TCP_TIMEOUT}):
        async with (
            LocalCluster(n_workers=0, host=host, dashboard_address=":0", asynchronous=True) as cluster,
            Client(cluster, asynchronous=True, direct_to_workers=True) as client,
            AsyncExitStack() as stack,
        ):
            made = LocalWorkers(client, cluster.scheduler_address, open_files, lease_seconds, stack)
            if workers:
                await made.add(workers)
            yield made
