"""Serves a test XNAT on a real socket."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio
from aiohttp import web

from .app import App
from .call import Engine
from .operations import build_idle
from .site import TestXnat

__all__ = ["serve"]

_SHUTDOWN_SECONDS = 0.5
_FOREVER = 3600.0


@asynccontextmanager
async def _alone() -> AsyncIterator[None]:
    """Show a failure of whoever uses the server as it is, not as a group of one."""
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from None


async def _build_idle(xnat: TestXnat, engine: Engine) -> None:
    while xnat.idle_repeat is not None:
        await anyio.sleep(xnat.idle_repeat)
        await build_idle(xnat, engine)


@asynccontextmanager
async def serve(
    xnat: TestXnat,
    host: str = "127.0.0.1",
    port: int = 0,
    context: str = "",
    *,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """Serve `xnat` and yield its URL, such as http://127.0.0.1:41234/xnat for the context path /xnat.

    Port 0 takes a free one. On leaving, jobs still under way are given up, as when a server stops; the
    state stays in `xnat`, which may be served again.
    """
    context = f"/{context.strip('/')}" if context.strip("/") else ""
    async with _alone(), anyio.create_task_group() as jobs:
        engine = Engine(jobs, xnat.timing)
        app = App(xnat, engine, context, secure=ssl_context is not None)
        idle = xnat.timing.keepalive_seconds
        server = web.Server(app.answer, access_log=None, keepalive_timeout=_FOREVER if idle is None else idle)
        runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_SECONDS)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, ssl_context=ssl_context).start()
            bound = runner.addresses[0][1]
            scheme = "https" if ssl_context is not None else "http"
            url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{bound}{context}"
            app.site_url = xnat.site_url or url
            xnat.idle_builder = partial(build_idle, xnat, engine)
            jobs.start_soon(_build_idle, xnat, engine)
            yield url
        finally:
            xnat.idle_builder = None
            jobs.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await runner.cleanup()
