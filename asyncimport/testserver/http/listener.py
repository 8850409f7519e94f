"""The listening socket and the connections of a running server."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from anyio.abc import TaskGroup

from ..site.gates import Gate

_SHUTDOWN_SECONDS = 0.5
_FOREVER = 3600.0
_BACKLOG = 128
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
    """Accepts connections. It keeps its port while it is closed and opened again.

    It accepts them itself: asyncio's server does not tell which ones it has accepted and not begun to serve, and Python
    3.13 never closes those that it has not when it stops to listen.
    """

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
        self._socket: socket.socket | None = None
        self._beginning: set[anyio.CancelScope] = set()
        """Of connections that are accepted, and not known to the server yet."""

    async def open(self) -> None:
        """Start to accept connections."""
        loop = asyncio.get_running_loop()
        (family, _, _, _, address), *_ = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        # The port can be used again at once, whatever connections linger on it: Python sets SO_REUSEADDR.
        self._socket = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
        self._socket.settimeout(0)
        self.port = self._socket.getsockname()[1]
        loop.add_reader(self._socket, self._accept, self._socket)

    async def close(self) -> None:
        """Stop for good."""
        for gate in self._stalled.values():
            gate.release()
        self._stop_listening()
        self._server.pre_shutdown()
        await self._server.shutdown(_SHUTDOWN_SECONDS)

    def drop(self) -> None:
        """Break all connections."""
        for scope in self._beginning:
            scope.cancel()
        for handler in self._server.connections:
            if handler.transport is not None:
                handler.transport.abort()

    def refuse(self, gate: Gate, seconds: float | None) -> None:
        """Refuse connections until the gate is released or the seconds are over."""
        self._closed += 1
        self._stop_listening()
        self._tasks.start_soon(self._reopen, gate, seconds)

    def _stop_listening(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):  # the client may have left
            connection, _ = listening.accept()
            scope = anyio.CancelScope()
            self._beginning.add(scope)
            self._tasks.start_soon(self._begin, connection, scope)

    async def _begin(self, connection: socket.socket, scope: anyio.CancelScope) -> None:
        """Let the server know a connection, unless it is broken before."""
        loop, is_known = asyncio.get_running_loop(), False
        try:
            # Not all clients can do TLS, or end the handshake.
            with scope, suppress(OSError):
                await loop.connect_accepted_socket(self._server, connection, ssl=self._ssl_context)
                is_known = True
        finally:
            self._beginning.discard(scope)
            if not is_known:
                connection.close()

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
                await self.open()
        finally:
            gate.settle()

    def _lost(self, handler: RequestHandler) -> None:
        if (gate := self._stalled.pop(handler, None)) is not None:
            gate.release()
