"""Serves a test XNAT on a real socket."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio

from .http.app import App
from .http.listener import Listener
from .site.gates import HeldRow
from .site.runtime import BackgroundJobs, Runtime
from .site.site import Site
from .site.workers import build_idle, resume_row
from .xnat import TestXnat


@asynccontextmanager
async def _unwrapped() -> AsyncIterator[None]:
    """Raise a single error as it is, not as a group of one."""
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from None


@asynccontextmanager
async def serve(
    xnat: TestXnat,
    host: str = "127.0.0.1",
    port: int = 0,
    context: str | None = None,
    *,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """Serve `xnat` and yield its URL, such as http://127.0.0.1:41234/xnat for the context path /xnat.

    Port 0 takes a free one. Without a context path, it is the one that the version usually had. On leaving, running
    jobs are cancelled, as when a server stops; the state stays in `xnat`, which may be served again, on the same port
    too (SO_REUSEADDR).
    """
    context = xnat.profile.context if context is None else context
    context = f"/{context.strip('/')}" if context.strip("/") else ""
    async with _unwrapped(), anyio.create_task_group() as tasks:
        listener = Listener(
            tasks,
            lambda request: app.answer(request),
            (host, port),
            ssl_context=ssl_context,
            keepalive=xnat.timing.keepalive_seconds,
        )
        runtime = Runtime(BackgroundJobs(tasks), xnat.timing)
        app = App(xnat, xnat.faults, runtime, listener, context, secure=ssl_context is not None)
        try:
            await listener.open()
            scheme = "https" if ssl_context is not None else "http"
            url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{listener.port}{context}"
            app.site_url = xnat.site_url or url
            _attach(xnat, runtime, listener)
            tasks.start_soon(_build_idle, xnat, runtime)
            yield url
        finally:
            xnat.idle_builder = xnat.on_hold = xnat.on_restart = None
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await listener.close()


def _attach(site: Site, runtime: Runtime, listener: Listener) -> None:
    """Connect the site's hooks to a running server."""

    def hold(held_row: HeldRow) -> None:
        runtime.jobs.start_soon(resume_row, site, runtime, held_row)

    def restart() -> None:
        runtime.jobs.cancel()
        listener.drop()

    site.idle_builder = partial(build_idle, site, runtime)
    site.on_hold = hold
    site.on_restart = restart
    for held_row in site.held_rows:
        hold(held_row)


async def _build_idle(site: Site, runtime: Runtime) -> None:
    while site.idle_repeat is not None:
        await anyio.sleep(site.idle_repeat)
        await build_idle(site, runtime)
