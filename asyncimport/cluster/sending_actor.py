"""A worker that sends, as an actor of Dask."""

import asyncio
from typing import TypeVar

from asyncimport.cluster.calls import Actor
from asyncimport.cluster.messages import Order, Reply, Setup
from asyncimport.cluster.sending_thread import SendingThread

T = TypeVar("T")


class SendingActor(Actor):
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
