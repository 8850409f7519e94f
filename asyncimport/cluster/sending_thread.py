"""A worker: sends the files of the driver's orders, in a thread with a loop of its own.

The loop of the cluster's software stays free for its heartbeats. Orders come from that loop, and replies go back to it.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from threading import Thread
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream

from asyncimport.cluster.lease import Lease
from asyncimport.cluster.messages import Order, Packed, Reply, Setup, pack_outcome, unpack_claims
from asyncimport.cluster.sockets import LeasedSockets
from asyncimport.errors import AsyncimportError, LoginRefusedError, UnavailableError, primary_error
from asyncimport.model.choices import Compress
from asyncimport.model.deliveries import Claim
from asyncimport.model.events import Event, Notice, RetryScheduled, ServerUnavailable
from asyncimport.model.ports import FileReader
from asyncimport.pacing.concurrency import Slot
from asyncimport.pacing.load import Load
from asyncimport.pacing.monitor import OutageMonitor
from asyncimport.pacing.shutdown import Stop
from asyncimport.pipeline.context import SendContext, make_signal
from asyncimport.pipeline.feed import files_per_batch, split_batches
from asyncimport.pipeline.outputs import Outcomes, UploadOutputs
from asyncimport.pipeline.upload import Uploader
from asyncimport.xnat.client import Client, connect
from asyncimport.xnat.images import XnatDestination

T = TypeVar("T")

# How long a reply waits for more to tell.
_REPLY_SECONDS = 0.25
# No reply comes sooner than this after its order, unless nothing is left to send: each costs the driver time.
_SOONEST_SECONDS = 0.05
_BATCH_BYTES = 4 << 20
_AGAIN = "run the command again"


class SendingThread:
    """Sends until it is told to stop, or its lease is over. Make it, and call `start` once."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._lease = Lease()
        self._sockets = LeasedSockets(self._lease, setup.lease_seconds)
        self._started: Future[float] = Future()
        self._ended: Future[Reply] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sender: _Sender | None = None
        self._thread = Thread(target=self._run, name="asyncimport-send", daemon=True)

    async def start(self) -> float:
        """Log in, and return the clock. Raises: AsyncimportError."""
        self._thread.start()
        return await asyncio.wrap_future(self._started)

    async def exchange(self, order: Order) -> Reply:
        """Take an order, and return the next reply."""
        self._lease.renew(order.lease_until)
        reply: Future[Reply] = Future()
        if self._loop is not None and self._sender is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._sender.take, order, reply)
        first, last = asyncio.wrap_future(reply), asyncio.wrap_future(self._ended)
        await asyncio.wait([first, last], return_when=asyncio.FIRST_COMPLETED)
        # The last reply can be had again.
        return replace((first if first.done() else last).result(), number=order.number)

    async def end(self) -> None:
        """Send nothing more, drop what is in flight, and wait until that is so."""
        self._lease.end()
        if self._loop is not None and self._sender is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._sender.lease_changed.set)
        if self._thread.ident is not None:
            await self.ended()

    async def ended(self) -> None:
        """Wait until it sends nothing more."""
        await asyncio.wrap_future(self._ended)

    def _run(self) -> None:
        error: AsyncimportError | None = None
        try:
            # Other loops send without the methods of sockets, or with others.
            anyio.run(self._send, backend_options={"loop_factory": asyncio.SelectorEventLoop})
        except BaseExceptionGroup as errors:
            error = _shown(primary_error(errors))
        except Exception as failure:  # noqa: BLE001 - the driver is told, whatever it is
            error = _shown(failure)
        if not self._started.done():
            self._started.set_exception(error or UnavailableError("the worker was told to end", hint=_AGAIN))
        outcomes = () if self._sender is None else self._sender.take_outcomes()
        self._ended.set_result(
            Reply(number=0, clock=self._lease.clock(), outcomes=outcomes, has_ended=True, error=error)
        )

    async def _send(self) -> None:
        setup, options = self._setup, self._setup.options
        load = Load()
        unheard: list[str | None] = []
        monitor = OutageMonitor(options.outage_timeout, report=unheard.append)
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
            self._sender = sender = _Sender(setup, files, client, load, self._lease, self._sockets)
            client.login.permission = sender.permission
            self._loop = asyncio.get_running_loop()
            clock = self._lease.clock()
            # If the driver sends no first order, this ends too.
            self._lease.renew(clock + setup.lease_seconds)
            self._started.set_result(clock)
            async with monitor.guard():
                await sender.run()


def _shown(error: BaseException) -> AsyncimportError:
    if isinstance(error, AsyncimportError):
        return error
    return UnavailableError(f"the worker failed: {type(error).__name__}: {error}", hint=_AGAIN)


async def _checked(_: Claim, __: Slot) -> None:
    """Nothing is left to check: the driver has done so."""


class _Sender:
    """The upload stage of one worker, in its own loop."""

    def __init__(
        self, setup: Setup, files: FileReader, client: Client, load: Load, lease: Lease, sockets: LeasedSockets
    ) -> None:
        options = replace(setup.options, workers=setup.options.max_workers)
        destination = XnatDestination(
            client, source=setup.source, adopt_rows=setup.adopt_rows, policy=setup.call_policy
        )
        self._stop = Stop()
        self._context = SendContext(
            source=files,
            destination=destination,
            options=options,
            policy=setup.file_policy,
            report=self._note,
            stop=self._stop,
            load=load,
            # An upload that finds no batch says so.
            is_drained=True,
            on_overload=self._note_overload,
        )
        self._context.throttle.allow(0)
        self._client = client
        self._lease = lease
        self._sockets = sockets
        self.lease_changed = asyncio.Event()
        self._batches, self._batches_out = anyio.create_memory_object_stream[list[Claim]](float("inf"))
        self._outcomes: list[Packed] = []
        self._overloads: list[float | None] = []
        self._retries: list[tuple[str, int | None, int]] = []
        self._notices: list[str] = []
        self._outages: list[str | None] = []
        self._wants_login = False
        self._may_log_in = asyncio.Event()
        self._open = self._low = 0
        """How many files have no outcome yet, and at how many the driver wants to know."""
        self._soonest = 0.0
        """When it may know, unless there are none."""
        self._number = 0
        self._waiting: Future[Reply] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Send until told to stop, or until the lease is over."""
        context, workers = self._context, self._context.options.max_workers
        uploader = Uploader(context, _checked)
        outcomes_in, outcomes = anyio.create_memory_object_stream[Outcomes](float("inf"))
        # Nobody is to be woken: the driver asks.
        signal, listener = make_signal()
        async with self._batches, anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_lease, tasks.cancel_scope)
            async with listener, self._batches_out, anyio.create_task_group() as uploads:
                uploads.start_soon(self._collect, outcomes)
                with UploadOutputs(outcomes_in, signal, signal, signal) as outputs:
                    for _ in range(workers):
                        uploads.start_soon(uploader.run, self._batches_out.clone(), outputs.clone())
            tasks.cancel_scope.cancel()

    async def _watch_lease(self, scope: anyio.CancelScope) -> None:
        while left := self._lease.seconds_left:
            with anyio.move_on_after(left):
                await self.lease_changed.wait()
                self.lease_changed.clear()
        # From now on no socket sends. Others may be given these files now.
        self._sockets.reset()
        scope.cancel()

    async def _collect(self, outcomes: MemoryObjectReceiveStream[Outcomes]) -> None:
        async with outcomes:
            try:
                async for some in outcomes:
                    self._outcomes += map(pack_outcome, some)
                    self._open -= len(some)
                    if self._waiting is not None and (not self._open or self._is_time_to_answer()):
                        self._answer()
            finally:
                # XNAT has these files, even if the lease is over.
                with suppress(anyio.WouldBlock, anyio.EndOfStream):
                    while True:
                        self._outcomes += map(pack_outcome, outcomes.receive_nowait())

    def _is_time_to_answer(self) -> bool:
        return self._open <= self._low and asyncio.get_running_loop().time() >= self._soonest

    @asynccontextmanager
    async def permission(self) -> AsyncIterator[None]:
        """Wait until the driver lets this worker log in again. After a refusal it lets nobody else."""
        self._wants_login = True
        is_refused = False
        try:
            await self._may_log_in.wait()
            yield
        except LoginRefusedError:
            is_refused = True
            raise
        finally:
            self._wants_login = is_refused

    def take(self, order: Order, reply: Future[Reply]) -> None:
        """Take an order; the reply follows."""
        context = self._context
        self.lease_changed.set()
        if order.may_log_in:
            self._may_log_in.set()
        else:
            self._may_log_in.clear()
        self._waiting, self._number = reply, order.number
        if self._timer is not None:
            self._timer.cancel()
        context.throttle.allow(order.limit)
        if order.pause:
            context.throttle.pause(order.pause)
        if order.rate and self._client.rate is not None:
            self._client.rate.change(order.rate)
        if order.zips_ended:
            context.compression.end()
        if order.stop_seconds is not None:
            self._stop.request(grace=order.stop_seconds)
            # Uploads that wait for a batch end.
            self._batches.close()
            # The last reply may take longer than the lease: that of this order renews it.
            self._timer = asyncio.get_running_loop().call_later(_REPLY_SECONDS, self._answer)
            return
        claims = unpack_claims(order.files, order.deliveries)
        self._soonest = asyncio.get_running_loop().time() + _SOONEST_SECONDS
        self._open += len(claims)
        context.waiting_files += len(claims)
        self._low = self._open // 2
        files = files_per_batch(len(claims), max(1, order.limit), context.throttle.seconds_per_call)
        first = [[claim] for claim in claims if claim.delivery.uri is None]
        rest = [claim for claim in claims if claim.delivery.uri is not None]
        try:
            for batch in [*first, *split_batches(rest, files, _BATCH_BYTES)]:
                self._batches.send_nowait(batch)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            # It is ending, as its last reply will say.
            return
        if self._open:
            self._timer = asyncio.get_running_loop().call_later(_REPLY_SECONDS, self._answer)
        else:
            self._answer()

    def _answer(self) -> None:
        reply, self._waiting = self._waiting, None
        if self._timer is not None:
            self._timer.cancel()
        if reply is None or not reply.set_running_or_notify_cancel():
            return
        context = self._context
        context.load.sample()
        reply.set_result(
            Reply(
                number=self._number,
                clock=self._lease.clock(),
                outcomes=self.take_outcomes(),
                in_flight=context.throttle.in_flight,
                reading=context.load.reading,
                limited_by=context.load.limit(is_scanning=False),
                overloads=_take(self._overloads),
                retries=_take(self._retries),
                notices=_take(self._notices),
                outages=_take(self._outages),
                zips_ended=context.compression.has_ended,
                wants_login=self._wants_login,
            )
        )

    def _note_overload(self, retry_after: float | None) -> None:
        self._overloads.append(retry_after)

    def take_outcomes(self) -> list[Packed]:
        """Return the outcomes that no reply has told yet."""
        return _take(self._outcomes)

    def _note(self, event: Event) -> None:
        if isinstance(event, RetryScheduled):
            key = None if event.claim is None else event.claim.key
            self._retries.append((event.reason, key, event.attempt))
        elif isinstance(event, ServerUnavailable):
            self._outages.append(event.reason)
        elif isinstance(event, Notice):
            self._notices.append(event.reason)


def _take(items: list[T]) -> list[T]:
    """Return the items of a list, and empty it."""
    taken = items[:]
    items.clear()
    return taken
