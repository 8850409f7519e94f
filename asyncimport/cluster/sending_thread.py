"""A worker: sends the files of the driver's orders, in a thread with a loop of its own.

The loop of the cluster's software stays free for its heartbeats. Orders come from that loop, and replies go back to it.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from threading import Thread

import anyio
import anyio.to_thread

from asyncimport.cluster.lease import Lease
from asyncimport.cluster.messages import Order, Reply, Setup
from asyncimport.cluster.sender import Sender
from asyncimport.cluster.sockets import LeasedSockets
from asyncimport.errors import AsyncimportError, UnavailableError, primary_error
from asyncimport.model.choices import Compress
from asyncimport.pacing.load import Load
from asyncimport.pacing.monitor import OutageMonitor
from asyncimport.xnat.client import connect

_AGAIN = "run the command again"


class SendingThread:
    """Sends until it is told to stop, or its lease is over. Make it in a loop, and call `start` once."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._lease = Lease()
        self._sockets = LeasedSockets(self._lease, setup.lease_seconds)
        self._started: Future[float] = Future()
        self._ended: Future[Reply] = Future()
        # One for all calls: each would stay with what it waits for, and there are several a second.
        self._last = asyncio.wrap_future(self._ended)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sender: Sender | None = None
        self._thread = Thread(target=self._run, name="asyncimport-send", daemon=True)

    async def start(self) -> float:
        """Log in, and return the clock. Raises: AsyncimportError."""
        self._thread.start()
        return await asyncio.wrap_future(self._started)

    async def exchange(self, order: Order) -> Reply:
        """Take an order, and return the next reply."""
        self._lease.renew(order.lease_until)
        reply: Future[Reply] = Future()
        self._call(lambda sender: sender.take(order, reply))
        first, last = asyncio.wrap_future(reply), self._last
        await asyncio.wait([first, last], return_when=asyncio.FIRST_COMPLETED)
        # The last reply can be had again.
        return replace((first if first.done() else last).result(), number=order.number)

    async def end(self) -> None:
        """Send nothing more, drop what is in flight, and wait until that is so."""
        self._lease.end()
        self._call(lambda sender: sender.lease_changed.set())
        if self._thread.ident is not None:
            await self.ended()

    async def ended(self) -> None:
        """Wait until it sends nothing more."""
        await asyncio.shield(self._last)

    def _call(self, call: Callable[[Sender], None]) -> None:
        """Call the sender in its own loop; do nothing if that has not begun, or has ended."""
        if self._loop is not None and self._sender is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(call, self._sender)

    def _run(self) -> None:
        error: AsyncimportError | None = None
        try:
            # Other loops send without the methods of sockets, or with others.
            anyio.run(self._send, backend_options={"loop_factory": asyncio.SelectorEventLoop})
        except BaseExceptionGroup as errors:
            error = _error_for_driver(primary_error(errors))
        except Exception as failure:  # noqa: BLE001 - the driver is told, whatever it is
            error = _error_for_driver(failure)
        if not self._started.done():
            self._started.set_exception(error or UnavailableError("the worker was told to end", hint=_AGAIN))
        outcomes = () if self._sender is None else self._sender.take_outcomes()
        self._ended.set_result(
            Reply(number=0, clock=self._lease.clock(), outcomes=outcomes, has_ended=True, error=error)
        )

    async def _send(self) -> None:
        setup, options = self._setup, self._setup.options
        load = Load()
        monitor = OutageMonitor(options.outage_timeout)
        async with connect(
            setup.host,
            setup.credentials,
            connections=options.max_workers + 1,
            timeouts=setup.timeouts,
            authorities=setup.authorities,
            verify=setup.verify,
            # The driver says how much it is.
            max_rate=options.max_rate,
            times_link=options.compress is Compress.AUTO,
            monitor=monitor,
            load=load,
            sockets=self._sockets,
        ) as client:
            monitor.ping = client.ping
            files = await anyio.to_thread.run_sync(setup.open_files)
            self._sender = sender = Sender(setup, files, client, load, self._lease, self._sockets)
            client.login.permission = sender.permission
            self._loop = asyncio.get_running_loop()
            clock = self._lease.clock()
            # If the driver sends no first order, this ends too.
            self._lease.renew(clock + setup.lease_seconds)
            self._started.set_result(clock)
            async with monitor.guard():
                await sender.run()


def _error_for_driver(error: BaseException) -> AsyncimportError:
    if isinstance(error, AsyncimportError):
        return error
    return UnavailableError(f"the worker failed: {type(error).__name__}: {error}", hint=_AGAIN)
