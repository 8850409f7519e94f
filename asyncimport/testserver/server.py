"""Serves a test XNAT on a real socket."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio

from .app import App
from .call import Engine, Jobs
from .door import Door
from .held import Left
from .operations import build_idle, finish
from .site import TestXnat

__all__ = ["serve"]


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
    state stays in `xnat`, which may be served again, on the same port too (SO_REUSEADDR).
    """
    context = f"/{context.strip('/')}" if context.strip("/") else ""
    async with _alone(), anyio.create_task_group() as tasks:
        door = Door(
            tasks,
            lambda request: app.answer(request),
            (host, port),
            ssl_context=ssl_context,
            keepalive=xnat.timing.keepalive_seconds,
        )
        engine = Engine(Jobs(tasks), xnat.timing, door)
        app = App(xnat, engine, context, secure=ssl_context is not None)
        try:
            await door.open()
            scheme = "https" if ssl_context is not None else "http"
            url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{door.port}{context}"
            app.site_url = xnat.site_url or url
            _begin(xnat, engine)
            tasks.start_soon(_build_idle, xnat, engine)
            yield url
        finally:
            xnat.idle_builder = xnat.finisher = xnat.on_restart = None
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await door.close()


def _begin(xnat: TestXnat, engine: Engine) -> None:
    """Give the site what it has of a running server."""

    def finish_later(left: Left) -> None:
        engine.jobs.start_soon(finish, xnat, engine, left)

    def restart() -> None:
        engine.jobs.cancel()
        engine.door.drop()

    xnat.idle_builder = partial(build_idle, xnat, engine)
    xnat.finisher = finish_later
    xnat.on_restart = restart
    for left in xnat.left:
        finish_later(left)
