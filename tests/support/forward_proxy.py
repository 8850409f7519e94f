"""A small forward proxy, and a test XNAT behind TLS."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread
import trustme
from yarl import URL

from asyncimport.testserver import TestXnat, serve

NAME = "xnat.example.org"


@dataclass
class ForwardProxy:
    """A forward proxy to one server, whatever name the client asks for; `secret` is the user:password it requires."""

    port: int
    secret: str = ""
    status: int = 200
    """Its answer to CONNECT."""
    url: str = ""
    requests: list[str] = field(default_factory=list)
    """The first line of each request."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection: a tunnel, or one forwarded request."""
        with suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.rstrip().split("\r\n")
            self.requests.append(first)
            wanted = f"Basic {base64.b64encode(self.secret.encode()).decode()}"
            if self.secret and f"Proxy-Authorization: {wanted}" not in lines:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n")
                writer.write(b"Proxy-Authenticate: Basic realm=proxy\r\nContent-Length: 0\r\n\r\n")
            elif self.status != 200:
                writer.write(f"HTTP/1.1 {self.status} No\r\nContent-Length: 0\r\n\r\n".encode())
            else:
                await self._forward(first, lines, reader, writer)
        with suppress(OSError):
            writer.close()
            await writer.wait_closed()

    async def _forward(
        self, first: str, lines: list[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.port)
        method, target, version = first.split()
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            # One request a connection: the next would have to be rewritten too.
            ours = ("proxy-", "connection:")
            kept = [line for line in lines if not line.lower().startswith(ours)]
            request = [f"{method} {URL(target).raw_path_qs} {version}", *kept, "Connection: close", "", ""]
            to_server.write("\r\n".join(request).encode())
        await asyncio.gather(_pump(reader, to_server), _pump(from_server, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()
    with suppress(OSError):
        writer.close()


@asynccontextmanager
async def forward_proxy(
    server: str, *, secret: str = "", status: int = 200, tls: ssl.SSLContext | None = None
) -> AsyncIterator[ForwardProxy]:
    """Run a proxy that connects to this server, whatever the client asks for; `tls` encrypts the way to the proxy."""
    proxy = ForwardProxy(int(server.rpartition(":")[2]), secret, status)
    listener = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=tls)
    proxy.url = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        listener.close()


def make_tls_context(bundle: Path, name: str = NAME) -> ssl.SSLContext:
    """Make a certificate for a server name by a new authority, whose certificate is written to a bundle."""
    ours = trustme.CA()
    ours.cert_pem.write_to_path(bundle)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.issue_cert(name).configure_cert(context)
    return context


@asynccontextmanager
async def serve_tls(xnat: TestXnat, bundle: Path) -> AsyncIterator[str]:
    """Serve a test XNAT over TLS, under a name that does not resolve."""
    async with serve(xnat, ssl_context=await anyio.to_thread.run_sync(make_tls_context, bundle)) as url:
        yield url
