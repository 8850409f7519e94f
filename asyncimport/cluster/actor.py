"""The worker as an actor of Dask, and calls to it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, TypeVar
from uuid import uuid4

from distributed import Client

from asyncimport.cluster.calls import call_actor, make_actor
from asyncimport.cluster.messages import Order, Reply, Setup
from asyncimport.cluster.worker import SendingThread

T = TypeVar("T")


class SendingActor:
    """Sends files, in the process of a worker. Each call may come twice: a connection may break before the reply.

    The second one may come late, from a network that was cut: what it orders is done, and others may have sealed that.
    """

    def __init__(self) -> None:
        self._start: tuple[str, asyncio.Task[float]] | None = None
        self._exchange: tuple[int, asyncio.Task[Reply]] | None = None
        self._thread: SendingThread | None = None

    async def start(self, setup: Setup, key: str) -> float:
        """Start sending, after the end of what was started before. Raises: AsyncimportError."""
        if self._start is None or self._start[0] != key:
            self._start = key, asyncio.ensure_future(self._restart(setup))
        return await asyncio.shield(self._start[1])

    async def _restart(self, setup: Setup) -> float:
        await self.end()
        self._exchange = None
        self._thread = SendingThread(setup)
        return await self._thread.start()

    async def exchange(self, order: Order) -> Reply:
        """Take an order, and return the reply. Raises: RuntimeError for one that is not the last."""
        if self._thread is None:
            raise RuntimeError("the worker was not started")
        if self._exchange is not None and order.number < self._exchange[0]:
            raise RuntimeError("a later order has come before")
        if self._exchange is None or self._exchange[0] != order.number:
            self._exchange = order.number, asyncio.ensure_future(self._thread.exchange(order))
        return await asyncio.shield(self._exchange[1])

    async def end(self) -> None:
        """Send nothing more, and wait until nothing is in flight."""
        if self._thread is not None:
            await self._thread.end()


class ActorLink:
    """Calls the actor of one worker, by its address. `sees` tells whether it sees a path.

    `while_there` cancels a call when Dask tells that the worker is gone.
    """

    def __init__(
        self,
        client: Client,
        address: str,
        name: str,
        sees: Callable[[str], bool] = lambda _: True,
        while_there: Callable[[], AbstractAsyncContextManager[object]] = nullcontext,
    ) -> None:
        self._client = client
        self._while_there = while_there
        self._address = address
        self._actor: Any = None
        self.name = name
        self.sees = sees

    async def start(self, setup: Setup) -> float:
        """Start the actor, and log in there. Raises: WorkerLostError, AsyncimportError."""
        if self._actor is None:
            self._actor = await make_actor(self._client, SendingActor, self._address, self._while_there)
        return await self._call(lambda: self._actor.start(setup, uuid4().hex))

    async def exchange(self, order: Order) -> Reply:
        """Bring files, and return what became of others. Raises: WorkerLostError."""
        return await self._call(lambda: self._actor.exchange(order))

    async def end(self) -> None:
        """End the actor. Raises: WorkerLostError."""
        if self._actor is not None:
            await self._call(lambda: self._actor.end())
            self._actor = None

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        return await call_actor(self._client, self._while_there, call)
