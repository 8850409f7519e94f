"""The workers of a cluster, as the driver calls them."""

from collections.abc import AsyncIterator, Callable
from functools import partial

from asyncimport.cluster.actor import ActorLink
from asyncimport.cluster.connect import Cluster
from asyncimport.cluster.source import ClusterSource
from asyncimport.cluster.worker_files import files_of_worker
from asyncimport.model.ports import FileReader

LEASE_SECONDS = 15.0


class ClusterWorkers:
    """Workers that send what the source finds."""

    def __init__(self, cluster: Cluster, source: ClusterSource, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self._cluster = cluster
        self._source = source
        self.lease_seconds = lease_seconds

    @property
    def open_files(self) -> Callable[[], FileReader]:
        """What returns the files as a worker sees them; it is called there."""
        return partial(files_of_worker, self._source.settings)

    async def joined(self) -> AsyncIterator[ActorLink]:
        """Yield each worker that is there or joins later, once it is known what it sees."""
        async for worker in self._source.joined():
            yield ActorLink(
                self._cluster.client,
                worker.address,
                worker.name,
                partial(self._source.sees, worker.address),
                partial(self._cluster.while_there, worker),
            )
