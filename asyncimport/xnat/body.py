"""Send a body, whatever its size, and let nothing wait for ever: aiohttp's writes have no time-out."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from math import inf
from typing import TypeVar

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from yarl import URL

from asyncimport.errors import primary_error
from asyncimport.model import Body, StreamedBody
from asyncimport.xnat.client import Client, bounded
from asyncimport.xnat.replies.response import Reply

T = TypeVar("T")


async def send(
    client: Client, method: str, url: URL, body: Body, read: Callable[[Reply], T], headers: Mapping[str, str]
) -> T:
    """Send a body once, with its length (XNAT refuses chunked ones), and return what `read` makes of the answer.

    Raises: TransientError, SourceError when the file is not what was scanned, and whatever `read` raises.
    """
    if isinstance(body, bytes):
        if client.rate is not None:
            await client.rate.acquire(len(body))
        return await client.call(method, url, read, data=body, headers=headers, in_time=True)
    with bounded(client.timeouts.stall) as scope:
        return await _stream(client, method, url, body, read, headers, scope)


async def _stream(
    client: Client,
    method: str,
    url: URL,
    body: StreamedBody,
    read: Callable[[Reply], T],
    headers: Mapping[str, str],
    scope: anyio.CancelScope,
) -> T:
    """Send a body while it is read; the file is closed when this returns, however it does.

    aiohttp writes bodies in a task of its own, which it cancels from outside, in the middle of whatever is done
    there, and does not wait for. So a task of ours reads, and that one only takes the pieces over.
    """
    headers = {**headers, "Content-Length": str(body.size)}
    into, out = anyio.create_memory_object_stream[bytes](0)
    try:
        with out:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_pour, body, into)
                pieces = _Watched(out, scope, client)
                answer = await client.call(method, url, read, data=pieces, headers=headers)
                # XNAT may have answered before the end of the body.
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as errors:
        raise primary_error(errors) from None
    else:
        return answer


async def _pour(body: StreamedBody, into: MemoryObjectSendStream[bytes]) -> None:
    """Read a body to its end, as fast as its pieces are taken."""
    pieces = aiter(body)
    async with into:
        try:
            async for piece in pieces:
                await into.send(piece)
        finally:
            if isinstance(pieces, AsyncGenerator):
                with anyio.CancelScope(shield=True):
                    await pieces.aclose()


class _Watched:
    """Hands on the pieces of a body and moves the deadline of the request with each: aiohttp's writes have none."""

    def __init__(self, pieces: MemoryObjectReceiveStream[bytes], scope: anyio.CancelScope, client: Client) -> None:
        self._pieces = pieces
        self._scope = scope
        self._timeouts = client.timeouts
        self._rate = client.rate

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await self._pieces.receive()
        except anyio.EndOfStream:
            self._scope.deadline = anyio.current_time() + self._timeouts.reply
            raise StopAsyncIteration from None
        if self._rate is not None:
            self._scope.deadline = inf
            await self._rate.acquire(len(piece))
        self._scope.deadline = anyio.current_time() + self._timeouts.stall
        return piece
