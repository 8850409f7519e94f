"""The listening socket and the connections of a running server, which may be shut for a while and opened again."""

import ssl
from collections.abc import Awaitable, Callable

import anyio
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from anyio.abc import TaskGroup

from .held import Held

__all__ = ["Answer", "Door"]

_SHUTDOWN_SECONDS = 0.5
_FOREVER = 3600.0

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _Server(web.Server):
    """A server that tells of connections that have gone."""

    def __init__(self, answer: Answer, keepalive: float | None, gone: Callable[[RequestHandler], None]) -> None:
        super().__init__(answer, access_log=None, keepalive_timeout=_FOREVER if keepalive is None else keepalive)
        self._gone = gone

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Note that a connection has gone."""
        super().connection_lost(handler, exc)
        self._gone(handler)


class Door:
    """Where clients come in. It keeps its port however often it is shut and opened."""

    def __init__(
        self,
        tasks: TaskGroup,
        answer: Answer,
        address: tuple[str, int],
        *,
        ssl_context: ssl.SSLContext | None,
        keepalive: float | None,
    ) -> None:
        self.host, self.port = address
        self._tasks = tasks
        self._ssl_context = ssl_context
        self._shut = 0
        self._stalled: dict[RequestHandler, Held] = {}
        self._server = _Server(answer, keepalive, self._gone)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=_SHUTDOWN_SECONDS)
        self._site: web.TCPSite | None = None

    async def open(self) -> None:
        """Let clients in."""
        await self._runner.setup()
        await self._listen()

    async def close(self) -> None:
        """Stop for good."""
        for held in self._stalled.values():
            held.release()
        await self._runner.cleanup()

    def drop(self) -> None:
        """Break all connections."""
        for handler in self._server.connections:
            if handler.transport is not None:
                handler.transport.abort()

    async def refuse(self, held: Held, seconds: float | None) -> None:
        """Refuse connections until `held` is let go or the seconds are over."""
        self._shut += 1
        if self._site is not None:
            await self._site.stop()
            self._site = None
        self._tasks.start_soon(self._reopen, held, seconds)

    def release_when_gone(self, request: web.BaseRequest, held: Held) -> None:
        """Let something go when its client goes away, or the server stops."""
        if request.transport is None:
            held.release()
        else:
            self._stalled[request.protocol] = held

    async def _reopen(self, held: Held, seconds: float | None) -> None:
        try:
            with anyio.move_on_after(seconds):
                await held.released()
            self._shut -= 1
            if not self._shut:
                await self._listen()
        finally:
            held.end()

    async def _listen(self) -> None:
        # asyncio sets SO_REUSEADDR: the port may be used again at once, whatever connections linger on it.
        self._site = web.TCPSite(self._runner, self.host, self.port, ssl_context=self._ssl_context)
        await self._site.start()
        self.port = self._runner.addresses[0][1]

    def _gone(self, handler: RequestHandler) -> None:
        if (held := self._stalled.pop(handler, None)) is not None:
            held.release()
