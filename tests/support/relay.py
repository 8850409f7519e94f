"""A relay of TCP connections that can stop forwarding, as a network does that is cut, or break connections."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress


class Relay:
    """Forwards to a port of this machine; `cut` holds all bytes back, in both directions, until `heal`.

    `on_held` is called when there is something to hold back.
    """

    def __init__(self) -> None:
        self.port = 0
        self.target = 0
        self.on_held: Callable[[], None] = lambda: None
        self._breaks = 0
        self._may_forward = asyncio.Event()
        self._may_forward.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Forward nothing more."""
        self._may_forward.clear()

    def heal(self) -> None:
        """Forward again, first what has come meanwhile."""
        self._may_forward.set()

    def break_connections(self, more: int) -> None:
        """End all connections, and as many more as soon as they are made."""
        self._breaks = more
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection."""
        if self._breaks:
            self._breaks -= 1
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._may_forward.wait()
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers.add(back)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._forward(reader, back))
                both.create_task(self._forward(there, writer))
        except (OSError, asyncio.CancelledError, ExceptionGroup):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError):
                while data := await reader.read(65536):
                    if not self._may_forward.is_set():
                        self.on_held()
                        await self._may_forward.wait()
                    writer.write(data)
                    await writer.drain()
        finally:
            writer.close()

    async def close(self) -> None:
        """End all connections, also those whose peer takes no more bytes."""
        for writer in self._writers:
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def relay() -> AsyncIterator[Relay]:
    """Listen on a free port."""
    made = Relay()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await made.close()
