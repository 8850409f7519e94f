"""The workers that send, as the driver calls them."""

from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

from distributed import Client

from asyncimport.cluster.calls import RemoteActor, WhileThere, make_actor
from asyncimport.cluster.connect import Cluster
from asyncimport.cluster.messages import Order, Reply, Setup
from asyncimport.cluster.ports import WorkerLostError
from asyncimport.cluster.sending_actor import SendingActor
from asyncimport.cluster.source import ClusterSource
from asyncimport.cluster.worker_reader import WorkerReader
from asyncimport.model.ports import FileReader

T = TypeVar("T")

LEASE_SECONDS = 15.0


class ActorLink:
    """Calls the actor of one worker, by its address. `sees` tells whether it sees a path.

    `while_there` cancels a call when Dask tells that the worker is gone; `on_busy` is called if it takes long to begin.
    """

    def __init__(
        self,
        client: Client,
        address: str,
        name: str,
        sees: Callable[[str], bool] = lambda _: True,
        while_there: WhileThere = nullcontext,
        on_busy: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._while_there = while_there
        self._on_busy = on_busy
        self._address = address
        self._actor: RemoteActor | None = None
        self.name = name
        self.sees = sees

    async def reach(self) -> None:
        """Make the actor. Raises: WorkerLostError."""
        if self._actor is None:
            self._actor = await make_actor(self._client, SendingActor, self._address, self._while_there, self._on_busy)

    async def start(self, setup: Setup) -> float:
        """Log in there. Raises: WorkerLostError, AsyncimportError."""
        clock: float = await self._call("start", setup, uuid4().hex)
        return clock

    async def exchange(self, order: Order) -> Reply:
        """Bring files, and return what became of others. Raises: WorkerLostError."""
        reply: Reply = await self._call("exchange", order)
        return reply

    async def end(self) -> None:
        """End the actor. Raises: WorkerLostError, also if it was lost before: it may still be sending."""
        await self._call("end")
        self._actor = None

    async def _call(self, method: str, *words: Any) -> Any:
        if self._actor is None:
            raise WorkerLostError("it was lost before", is_final=True)
        try:
            return await self._actor.call(method, *words)
        except WorkerLostError as lost:
            if lost.is_final:
                # It may have gone with the connection to the scheduler; then the next start makes another.
                self._actor = None
            raise


class ActorLinks:
    """The workers of a cluster, which send what the source finds."""

    def __init__(self, cluster: Cluster, source: ClusterSource, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self._cluster = cluster
        self._source = source
        self.lease_seconds = lease_seconds

    @property
    def open_files(self) -> Callable[[], FileReader]:
        """What returns the files as a worker sees them; it is called there."""
        return partial(WorkerReader, self._source.settings)

    async def joined(self) -> AsyncIterator[ActorLink]:
        """Yield each worker that is there or joins later, once it is known what it sees."""
        async for worker in self._source.joined():
            yield ActorLink(
                self._cluster.client,
                worker.address,
                worker.name,
                partial(self._source.sees, worker.address),
                partial(self._cluster.while_there, worker.joined),
                partial(self._cluster.note_busy, worker.joined),
            )
