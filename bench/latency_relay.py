"""A relay that adds latency: every byte arrives half a round trip later, in both directions.

It ends TCP, so it shows what the waiting costs, not how TCP begins slowly over such a distance; for that there are
the two network namespaces of `netns`.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_MOST_UNDER_WAY = 16 << 20


class _End(asyncio.Protocol):
    """One end of a relayed connection. Its input leaves later at the other end."""

    def __init__(self, delay: float, all_ends: "set[_End]") -> None:
        self._delay = delay
        self._all_ends = all_ends
        self._under_way: deque[tuple[float, bytes | None]] = deque()
        self._size = 0
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._extra = 0.0
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self.transport = transport
        self._all_ends.add(self)

    def first_later(self, seconds: float) -> None:
        """Delay the first bytes longer: making a connection takes a round trip."""
        self._extra = asyncio.get_running_loop().time() + seconds

    def data_received(self, data: bytes) -> None:
        self._send_later(data)
        self._size += len(data)
        if self._size > _MOST_UNDER_WAY and not self._paused and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self._send_later(None)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._send_later(None)
        self.transport = None
        self._all_ends.discard(self)

    def abort(self) -> None:
        """Break the connection, and drop the bytes in flight."""
        if self._timer is not None:
            self._timer.cancel()
        self._under_way.clear()
        if self.transport is not None:
            self.transport.abort()

    def _send_later(self, data: bytes | None) -> None:
        loop = asyncio.get_running_loop()
        due = max(loop.time(), self._extra) + self._delay
        self._under_way.append((due, data))
        if self._timer is None:
            self._timer = loop.call_at(due, self._deliver)

    def _deliver(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._under_way:
            due, data = self._under_way[0]
            if due > loop.time():
                self._timer = loop.call_at(due, self._deliver)
                break
            self._under_way.popleft()
            target = self.other.transport if self.other is not None else None
            if target is None:
                continue
            if data is None:
                target.close()
            else:
                self._size -= len(data)
                target.write(data)
        if self._paused and self._size <= _MOST_UNDER_WAY // 2 and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()


@asynccontextmanager
async def far(host: str, port: int, round_trip: float) -> AsyncIterator[int]:
    """Relay a port to a server with this latency. Yields the port to connect to."""
    loop = asyncio.get_running_loop()
    connecting: set[asyncio.Task[None]] = set()
    ends: set[_End] = set()

    async def connect(near: _End) -> None:
        _, there = await loop.create_connection(lambda: _End(round_trip / 2, ends), host, port)
        near.other, there.other = there, near
        if near.transport is not None:
            near.transport.resume_reading()

    class _Near(_End):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            assert self.transport is not None  # noqa: S101 - for the type checker
            self.transport.pause_reading()
            self.first_later(round_trip)
            task = loop.create_task(connect(self))
            connecting.add(task)
            task.add_done_callback(connecting.discard)

    server = await loop.create_server(lambda: _Near(round_trip / 2, ends), "127.0.0.1", 0, backlog=512)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(connecting):
            task.cancel()
        for end in list(ends):
            end.abort()
        await asyncio.sleep(0)  # an aborted connection is closed by the loop, at its next turn
