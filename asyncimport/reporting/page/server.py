"""Serves the live page to browsers on this machine: read-only, and only to those who have its address.

The address holds a token, as other users of the machine can connect too. A page of another site that resolves to this
address (DNS rebinding) is refused by its Host header.
"""

import asyncio
import hmac
import json
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from operator import itemgetter

import anyio
from aiohttp import web
from anyio.from_thread import start_blocking_portal

from asyncimport.errors import UsageError
from asyncimport.reporting.entries import Entry
from asyncimport.reporting.page.content import chart_columns
from asyncimport.reporting.page.live import LiveRun
from asyncimport.reporting.page.render import parts_of, render_page, session_data

# A browser gets news this often at most.
_PAUSE_SECONDS = 0.5
_PULSE_SECONDS = 5.0
_MAX_BROWSERS = 20
_SHUTDOWN_SECONDS = 1.0
_NAMES = frozenset({"127.0.0.1", "[::1]", "localhost"})
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


def address_of(text: str) -> tuple[str, int]:
    """Return host and port of `127.0.0.1:0` or `[::1]:8080`. Raises: UsageError, also if it is not of this machine."""
    host, _, port = text.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    with suppress(ValueError):
        is_here = host == "localhost" or ip_address(host) in {ip_address("127.0.0.1"), ip_address("::1")}
        if is_here and port.isascii() and port.isdecimal() and int(port) < 1 << 16:
            return host, int(port)
    raise UsageError(
        f"invalid --page '{text}': an address of this machine and a port, such as 127.0.0.1:0 (0: a free port)",
        hint="it is for browsers on this machine; from another one, use a tunnel: ssh -L 8080:127.0.0.1:8080",
    )


@contextmanager
def live_page(address: str, *, host: str, project: str) -> Iterator[tuple[str, Callable[[Entry], None]]]:
    """Serve the page of an upload to `host` in a thread of its own; yield its URL, and a function that notes an entry.

    That function never waits. Raises: UsageError if nothing can listen at this address.
    """
    run = LiveRun(host, project)
    # Templates and scripts are read here, not on the loop.
    render_page(run.page())
    parts_of(run.page())
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(_served(run, *address_of(address))) as (url, note),
    ):
        yield url, note


@asynccontextmanager
async def _served(run: LiveRun, host: str, port: int) -> AsyncIterator[tuple[str, Callable[[Entry], None]]]:
    shown = f"[{host}]" if ":" in host else host
    server = _Server(run)
    runner = web.ServerRunner(web.Server(server.answer, access_log=None), shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise UsageError(f"--page {shown}:{port}: {error.strerror}", hint="port 0 takes a free one") from error
        port = runner.addresses[0][1]
        yield f"http://{shown}:{port}/{server.token}/", partial(server.note_from, asyncio.get_running_loop())
        server.end()
    finally:
        await runner.cleanup()


class _Server:
    """Answers requests for the page, and pushes what changes."""

    def __init__(self, run: LiveRun) -> None:
        self.token = secrets.token_urlsafe(24)
        self._run = run
        self._browsers = 0
        self._news = anyio.Event()
        self._ended = anyio.Event()

    def note_from(self, loop: asyncio.AbstractEventLoop, entry: Entry) -> None:
        """Note an entry, from another thread. After the end, nothing is."""
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._note, entry)

    def end(self) -> None:
        """Push the last news."""
        self._ended.set()
        self._news.set()

    def _note(self, entry: Entry) -> None:
        self._run.note(entry)
        self._news.set()
        self._news = anyio.Event()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request."""
        # The port may be that of a tunnel.
        if re.sub(r":\d*$", "", request.host) not in _NAMES:
            return _error(421, "This page is only for browsers on this machine, by the address that was printed.")
        if request.method not in {"GET", "HEAD"}:
            return _error(405, "This page changes nothing.", {"Allow": "GET, HEAD"})
        token, _, name = request.path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode("utf-8", "surrogatepass"), self.token.encode()):
            return _error(404, "The address of this page ends with a token: use the one that was printed.")
        if name == "events" and request.method == "GET":
            return await self._push(request)
        if name:
            return _error(404, "There is no such page.")
        rows = [row for _, row in sorted(self._run.rows(), key=itemgetter(0))]
        page = replace(self._run.page(), sessions=rows, changes=self._run.changes)
        return web.Response(text=render_page(page), content_type="text/html", headers=_HEADERS)

    async def _push(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._browsers >= _MAX_BROWSERS:
            return _error(503, "Too many browsers show this page.", {"Retry-After": "30"})
        self._browsers += 1
        try:
            response = web.StreamResponse(headers=_HEADERS | {"Content-Type": "text/event-stream"})
            await response.prepare(request)
            with suppress(ConnectionError):
                await self._push_changes(response, _since(request))
            return response
        finally:
            self._browsers -= 1

    async def _push_changes(self, response: web.StreamResponse, since: int) -> None:
        is_last = False
        while not is_last:
            is_last, news = self._ended.is_set(), self._news
            changes = self._run.changes
            await response.write(f"id: {changes}\ndata: {self._update(since)}\n\n".encode())
            since = changes
            if is_last:
                await response.write(b"event: end\ndata:\n\n")
                return
            # Without news too, so that times go on, and a lost connection is noticed.
            with anyio.move_on_after(_PULSE_SECONDS):
                await news.wait()
            with anyio.move_on_after(_PAUSE_SECONDS):
                await self._ended.wait()

    def _update(self, since: int) -> str:
        page = self._run.page()
        rows = session_data(self._run.rows(since), page.host)
        return json.dumps({"parts": parts_of(page), "rows": rows, "charts": chart_columns(page.charts)})


def _since(request: web.BaseRequest) -> int:
    """Return the last change that a browser knows: it repeats the last `id` when it connects again."""
    text = request.headers.get("Last-Event-ID") or request.query.get("since", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else 0


def _error(status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=f"{text}\n", headers={**_HEADERS, **(headers or {})})
