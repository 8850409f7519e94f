"""Workers of Dask on this machine, as processes."""

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from distributed import Client, LocalCluster

from asyncimport.cluster.actor import ActorLink
from asyncimport.model.ports import FileReader


@dataclass
class LocalWorkers:
    """Worker processes that see all that this process sees. `processes` has their process numbers, by address."""

    client: Client
    open_files: Callable[[], FileReader]
    lease_seconds: float
    processes: dict[str, int] = field(default_factory=dict)

    async def joined(self) -> AsyncIterator[ActorLink]:
        """Yield each worker; nobody joins later."""
        for number, address in enumerate(self.processes):
            yield ActorLink(self.client, address, f"worker {number}")
        await anyio.sleep_forever()

    def signal(self, number: int, which: signal.Signals) -> None:
        """Send a signal to a worker."""
        os.kill([*self.processes.values()][number], which)


@asynccontextmanager
async def local_workers(
    open_files: Callable[[], FileReader], *, workers: int = 2, lease_seconds: float = 10.0
) -> AsyncIterator[LocalWorkers]:
    """Start worker processes, and end them."""
    async with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, asynchronous=True
        ) as cluster,
        Client(cluster, asynchronous=True, direct_to_workers=True) as client,
    ):
        processes = await client.run(os.getpid)
        yield LocalWorkers(client, open_files, lease_seconds, processes)
