"""Sends a body of any size, with a time limit that aiohttp's writes lack."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from math import inf
from typing import TypeVar

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from yarl import URL

from asyncimport.errors import primary_error
from asyncimport.model.files import Body, StreamedBody
from asyncimport.xnat.client import Client
from asyncimport.xnat.deadlines import time_limit
from asyncimport.xnat.replies.response import Reply

T = TypeVar("T")


async def send(
    client: Client, method: str, url: URL, body: Body, parse: Callable[[Reply], T], headers: Mapping[str, str]
) -> T:
    """Send a body once, with its length: XNAT refuses chunked ones. Raises: TransientError, SourceError, as `parse`."""
    if isinstance(body, bytes):
        if client.rate is not None:
            await client.rate.acquire(len(body))
        return await client.call(method, url, parse, data=body, headers=headers, has_deadline=True)
    headers = {**headers, "Content-Length": str(body.size)}
    # aiohttp writes bodies in a task that it cancels at any point, and does not wait for. So one of ours reads the
    # file while it is sent, and closes it in whatever way this ends.
    sender, receiver = anyio.create_memory_object_stream[bytes](0)
    with time_limit(client.timeouts.stall) as scope:
        chunks = _TimedChunks(receiver, scope, client)
        try:
            with receiver:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_read, body, sender)
                    result = await client.call(method, url, parse, data=chunks, headers=headers)
                    # XNAT may have replied before the end of the body.
                    tasks.cancel_scope.cancel()
        except BaseExceptionGroup as errors:
            raise primary_error(errors) from None
        finally:
            chunks.forget()
        return result


async def _read(body: StreamedBody, sender: MemoryObjectSendStream[bytes]) -> None:
    """Read a body to its end, as fast as its chunks are taken."""
    chunks = aiter(body)
    async with sender:
        try:
            async for chunk in chunks:
                await sender.send(chunk)
        finally:
            if isinstance(chunks, AsyncGenerator):
                with anyio.CancelScope(shield=True):
                    await chunks.aclose()


class _TimedChunks:
    """The chunks of a body. Each moves the deadline of the request, and waits for the rate limit."""

    def __init__(self, chunks: MemoryObjectReceiveStream[bytes], scope: anyio.CancelScope, client: Client) -> None:
        self._chunks = chunks
        self._scope = scope
        self._timeouts = client.timeouts
        self._rate = client.rate
        self._load = client.load
        self._taken = 0

    def forget(self) -> None:
        """Note that this body is no longer being sent."""
        self._load.unfinished_size -= self._taken
        self._taken = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self._load.reading += 1
        try:
            chunk = await self._chunks.receive()
        except anyio.EndOfStream:
            self._scope.deadline = anyio.current_time() + self._timeouts.reply
            raise StopAsyncIteration from None
        finally:
            self._load.reading -= 1
        if self._rate is not None:
            self._scope.deadline = inf
            await self._rate.acquire(len(chunk))
        self._scope.deadline = anyio.current_time() + self._timeouts.stall
        self._taken += len(chunk)
        self._load.unfinished_size += len(chunk)
        return chunk
