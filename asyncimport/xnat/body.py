"""Sends a body of any size, with a time limit that aiohttp's writes lack."""

from collections.abc import AsyncIterator, Callable, Mapping
from math import inf
from typing import TypeVar

import anyio.lowlevel
from yarl import URL

from asyncimport.errors import SourceError
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
    with time_limit(client.timeouts.stall) as limit, anyio.CancelScope() as scope:
        chunks = _TimedChunks(body, limit, scope, client)
        try:
            return await client.call(method, url, parse, data=chunks, headers=headers)
        finally:
            chunks.forget()
    # Nobody else cancels this scope.
    assert chunks.error is not None  # noqa: S101 - as above
    raise chunks.error


class _TimedChunks:
    """The chunks of a body. Each moves the deadline of the request, and waits for the rate limit.

    aiohttp takes them in a task of its own, where an error would look like one of the connection: it is kept, and ends
    the request by its scope.
    """

    def __init__(self, body: StreamedBody, limit: anyio.CancelScope, scope: anyio.CancelScope, client: Client) -> None:
        self._chunks: AsyncIterator[bytes] | None = aiter(body)
        self._limit = limit
        self._scope = scope
        self._timeouts = client.timeouts
        self._rate = client.rate
        self._load = client.load
        self._taken = 0
        self.error: Exception | None = None

    def forget(self) -> None:
        """Note that this body is no longer being sent, and close its file."""
        self._chunks = None
        self._load.unfinished_size -= self._taken
        self._taken = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._chunks is None:
            raise StopAsyncIteration
        # Two turns of the loop: a reply that came early is read at the end of the first, and writing on would lose it.
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        self._load.reading += 1
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self._limit.deadline = anyio.current_time() + self._timeouts.reply
            raise
        except Exception as error:
            self.error = error
            if isinstance(error, SourceError):
                error.may_have_taken_effect = self._taken > 0
            self._scope.cancel()
            raise
        finally:
            self._load.reading -= 1
        if self._rate is not None:
            self._limit.deadline = inf
            await self._rate.acquire(len(chunk))
        self._limit.deadline = anyio.current_time() + self._timeouts.stall
        self._taken += len(chunk)
        self._load.unfinished_size += len(chunk)
        return chunk
