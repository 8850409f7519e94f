"""The upload stage of a worker: sends the files of the driver's orders, and replies what has become of them."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TypeVar

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from asyncimport.cluster.lease import Lease
from asyncimport.cluster.messages import Order, Packed, Reply, Setup, pack_outcome, unpack_claims
from asyncimport.cluster.sockets import LeasedSockets
from asyncimport.errors import LoginRefusedError
from asyncimport.model.deliveries import Claim
from asyncimport.model.events import Event, Notice, RetryScheduled, ServerUnavailable
from asyncimport.model.ports import FileReader
from asyncimport.pacing.concurrency import Slot
from asyncimport.pacing.load import Load
from asyncimport.pacing.shutdown import Stop
from asyncimport.pipeline.context import SendContext, make_signal
from asyncimport.pipeline.feed import files_per_batch, split_batches
from asyncimport.pipeline.outputs import Outcomes, UploadOutputs
from asyncimport.pipeline.upload import Uploader
from asyncimport.xnat.client import Client
from asyncimport.xnat.images import XnatDestination

T = TypeVar("T")

# How long a reply waits for more to tell.
_REPLY_SECONDS = 0.25
# No reply comes sooner than this after its order, unless nothing is left to send: each costs the driver time.
_SOONEST_SECONDS = 0.05
_BATCH_BYTES = 4 << 20


async def _skip_check(_: Claim, __: Slot) -> None:
    """Check nothing before the first file of a delivery: the driver has."""


class Sender:
    """The upload stage of one worker, in a loop of its own. Each order gets one reply."""

    def __init__(
        self, setup: Setup, files: FileReader, client: Client, load: Load, lease: Lease, sockets: LeasedSockets
    ) -> None:
        options = replace(setup.options, workers=setup.options.max_workers)
        destination = XnatDestination(
            client, source=setup.source, adopt_rows=setup.adopt_rows, policy=setup.call_policy
        )
        # What no reply has told yet.
        self._outcomes: list[Packed] = []
        self._overloads: list[float | None] = []
        self._retries: list[tuple[str, int | None, int]] = []
        self._notices: list[str] = []
        self._outages: list[str | None] = []
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
            on_overload=self._overloads.append,
        )
        self._context.throttle.allow(0)
        load.is_part = True
        self._client = client
        self._lease = lease
        self._sockets = sockets
        self.lease_changed = asyncio.Event()
        self._batches, self._batches_out = anyio.create_memory_object_stream[list[Claim]](float("inf"))
        self._wants_login = False
        self._may_log_in = asyncio.Event()
        self._unsettled = 0
        """How many files have no outcome yet."""
        self._reply: Future[Reply] | None = None
        """The reply that the driver waits for; None if it has it."""
        self._order_number = 0
        self._due_files, self._due_time = 0, 0.0
        """The reply is due when no more files than this are unsettled, but not before this time unless none is."""
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Send until told to stop, or until the lease is over."""
        context, workers = self._context, self._context.options.max_workers
        uploader = Uploader(context, _skip_check)
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
                    self._unsettled -= len(some)
                    if self._is_reply_due():
                        self._send_reply()
            finally:
                # XNAT has these files, even if the lease is over.
                with suppress(anyio.WouldBlock, anyio.EndOfStream):
                    while True:
                        self._outcomes += map(pack_outcome, outcomes.receive_nowait())

    def _is_reply_due(self) -> bool:
        if self._reply is None:
            return False
        is_time = asyncio.get_running_loop().time() >= self._due_time
        return not self._unsettled or (self._unsettled <= self._due_files and is_time)

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
        """Take an order. The reply follows when it is due, or after a while."""
        self._reply, self._order_number = reply, order.number
        if self._timer is not None:
            self._timer.cancel()
        self.lease_changed.set()
        self._adjust(order)
        if order.stop_seconds is not None:
            self._stop.request(grace=order.stop_seconds)
            # Uploads that wait for a batch end.
            self._batches.close()
        else:
            try:
                self._add_files(order)
            except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                # It is ending, as its last reply will say.
                return
        if self._unsettled or order.stop_seconds is not None:
            # A stop may take longer than the lease: the order that follows this reply renews it.
            self._timer = asyncio.get_running_loop().call_later(_REPLY_SECONDS, self._send_reply)
        else:
            self._send_reply()

    def _adjust(self, order: Order) -> None:
        """Do from now on as an order says."""
        context = self._context
        if order.may_log_in:
            self._may_log_in.set()
        else:
            self._may_log_in.clear()
        context.throttle.allow(order.limit)
        if order.pause:
            context.throttle.pause(order.pause)
        if order.rate and self._client.rate is not None:
            self._client.rate.change(order.rate)
        if order.zips_ended:
            context.compression.end()

    def _add_files(self, order: Order) -> None:
        """Queue the files of an order. Raises: ClosedResourceError, BrokenResourceError if nothing is sent any more."""
        claims = unpack_claims(order.files, order.deliveries)
        self._unsettled += len(claims)
        self._context.waiting_files += len(claims)
        self._due_files = self._unsettled // 2
        self._due_time = asyncio.get_running_loop().time() + _SOONEST_SECONDS
        files = files_per_batch(len(claims), max(1, order.limit), self._context.throttle.seconds_per_call)
        first = [[claim] for claim in claims if claim.delivery.uri is None]
        rest = [claim for claim in claims if claim.delivery.uri is not None]
        for batch in [*first, *split_batches(rest, files, _BATCH_BYTES)]:
            self._batches.send_nowait(batch)

    def _send_reply(self) -> None:
        reply, self._reply = self._reply, None
        if self._timer is not None:
            self._timer.cancel()
        if reply is None or not reply.set_running_or_notify_cancel():
            return
        context = self._context
        context.load.sample()
        reply.set_result(
            Reply(
                number=self._order_number,
                clock=self._lease.clock(),
                outcomes=self.take_outcomes(),
                in_flight=context.throttle.in_flight,
                reading=context.load.reading,
                limited_by=context.load.limit(is_scanning=False),
                overloads=_take_all(self._overloads),
                retries=_take_all(self._retries),
                notices=_take_all(self._notices),
                outages=_take_all(self._outages),
                zips_ended=context.compression.has_ended,
                wants_login=self._wants_login,
            )
        )

    def take_outcomes(self) -> list[Packed]:
        """Return the outcomes that no reply has told yet."""
        return _take_all(self._outcomes)

    def _note(self, event: Event) -> None:
        if isinstance(event, RetryScheduled):
            key = None if event.claim is None else event.claim.key
            self._retries.append((event.reason, key, event.attempt))
        elif isinstance(event, ServerUnavailable):
            self._outages.append(event.reason)
        elif isinstance(event, Notice):
            self._notices.append(event.reason)


def _take_all(items: list[T]) -> list[T]:
    taken = items[:]
    items.clear()
    return taken
