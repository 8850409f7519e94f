"""The listening socket and the connections of a running server."""

import ssl
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from anyio.abc import TaskGroup

from ..site.gates import Gate

_SHUTDOWN_SECONDS = 0.5
_FOREVER = 3600.0
# Three for a connection; but clients in this process may connect during the first of them.
_TURNS_TO_ACCEPT = 20
Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _Server(web.Server):
    """A server that reports lost connections."""

    def __init__(self, answer: Answer, keepalive: float | None, on_lost: Callable[[RequestHandler], None]) -> None:
        super().__init__(answer, access_log=None, keepalive_timeout=_FOREVER if keepalive is None else keepalive)
        self._on_lost = on_lost

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Report a lost connection."""
        super().connection_lost(handler, exc)
        self._on_lost(handler)


class Listener:
    """Accepts connections. It keeps its port while it is closed and opened again."""

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
        self._closed = 0
        self._stalled: dict[RequestHandler, Gate] = {}
        self._server = _Server(answer, keepalive, self._lost)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=_SHUTDOWN_SECONDS)
        self._site: web.TCPSite | None = None

    async def open(self) -> None:
        """Start to accept connections."""
        await self._runner.setup()
        await self._listen()

    async def close(self) -> None:
        """Stop for good."""
        for gate in self._stalled.values():
            gate.release()
        await self._stop_listening()
        await self._runner.cleanup()

    def drop(self) -> None:
        """Break all connections."""
        for handler in self._server.connections:
            if handler.transport is not None:
                handler.transport.abort()

    async def refuse(self, gate: Gate, seconds: float | None) -> None:
        """Refuse connections until the gate is released or the seconds are over."""
        self._closed += 1
        await self._stop_listening()
        self._tasks.start_soon(self._reopen, gate, seconds)

    async def _stop_listening(self) -> None:
        if self._site is not None:
            # A connection that has just been accepted is known to its server some turns of the loop later. Python 3.13
            # never closes one that is not known when the server stops to listen.
            for _ in range(_TURNS_TO_ACCEPT):
                await anyio.lowlevel.checkpoint()
            await self._site.stop()
            self._site = None

    def release_when_lost(self, request: web.BaseRequest, gate: Gate) -> None:
        """Release a gate when the connection of a request is lost, or the server stops."""
        if request.transport is None:
            gate.release()
        else:
            self._stalled[request.protocol] = gate

    async def _reopen(self, gate: Gate, seconds: float | None) -> None:
        try:
            with anyio.move_on_after(seconds):
                await gate.released()
            self._closed -= 1
            if not self._closed:
                await self._listen()
        finally:
            gate.settle()

    async def _listen(self) -> None:
        # asyncio sets SO_REUSEADDR, so the port can be used again at once, whatever connections linger on it.
        self._site = web.TCPSite(self._runner, self.host, self.port, ssl_context=self._ssl_context)
        await self._site.start()
        self.port = self._runner.addresses[0][1]

    def _lost(self, handler: RequestHandler) -> None:
        if (gate := self._stalled.pop(handler, None)) is not None:
            gate.release()
