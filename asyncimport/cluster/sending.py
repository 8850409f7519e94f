"""The driver: claims files, gives them to workers, records what became of them, and decides who may send.

Each worker has one call in flight, which brings it files and its lease, and takes back outcomes. A worker that does not
answer keeps its files until its lease is over by the driver's clock. Then they are queued again, and their deliveries
wait for the settle time, as after any interrupted upload.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import anyio
from anyio.abc import TaskGroup

from asyncimport.cluster.checks import read_reply
from asyncimport.cluster.lease import GrantedLease, with_margin
from asyncimport.cluster.messages import Order, Reply, Setup
from asyncimport.cluster.ports import WorkerLink, WorkerLinks, WorkerLostError
from asyncimport.cluster.sending_workers import SendingWorker, WorkerShares, demand_of_workers, note_in_flight, pass_on
from asyncimport.cluster.starting import Starter
from asyncimport.cluster.tally import Tally
from asyncimport.cluster.unseen import UnseenFiles
from asyncimport.errors import AsyncimportError, LoginRefusedError, UnavailableError
from asyncimport.model.activity import WorkerActivity
from asyncimport.model.deliveries import Claim, Failed, Outcome, Stored
from asyncimport.model.events import Notice, SessionFound
from asyncimport.model.texts import counted
from asyncimport.pacing.concurrency import Throttle
from asyncimport.pacing.shutdown import StoppedError
from asyncimport.pipeline.archive_checks import check_first_file
from asyncimport.pipeline.context import Context, Wakeups, notify, wait_for
from asyncimport.pipeline.feed import backlog_of, wait_for_leases
from asyncimport.pipeline.outputs import UploadOutputs

# An idle worker hears of the driver after this share of its lease.
_RENEWAL_SHARE = 1 / 3
# After a call that did not get through, the next one comes after this long (seconds).
_RETRY_SECONDS = 0.2
# How long to wait for workers to confirm that they have ended, when the run ends early. A logout may take 5 s.
_END_SECONDS = 6.0


async def send_by_workers(
    links: WorkerLinks, setup: Setup, context: Context, wakeups: Wakeups, outputs: UploadOutputs
) -> None:
    """Send all files of a run by workers: the upload stage of a pipeline. `setup` tells them where to send.

    Raises: FatalError.
    """
    async with wakeups:
        with outputs:
            await _Driver(links, setup, context, outputs).run(wakeups)


class _Driver:
    """Feeds workers, and serves each one by a task: exchanges orders and replies with it, and takes care of its end."""

    def __init__(self, links: WorkerLinks, setup: Setup, context: Context, outputs: UploadOutputs) -> None:
        self._links = links
        self._setup = setup
        self._context = context
        self._outputs = outputs
        self._sending: list[SendingWorker] = []
        self._joined = 0
        """Workers that send, or begin to."""
        self._last_lost: WorkerLink | None = None
        self._tallies: dict[str, Tally] = {}
        self._worker_ended = anyio.Event()
        self._is_ending = False
        self._unconfirmed = 0
        """Workers that have not confirmed their end, and whose lease may not be over."""
        self._has_noted_leases = False
        """Whether the leases in the journal are those of this run."""
        self._unseen = UnseenFiles(self._sending)
        self._starter = Starter(setup, context, self._sending)
        self._checks = Throttle(context.options.max_finalizers)
        self._limit = context.throttle.limit
        self._limit_version = 0
        """How often the limit has changed: calls under an earlier one say nothing about this one."""

    async def run(self, wakeups: Wakeups) -> None:
        """Send until the journal says that nothing more will come, or until a stop."""
        context = self._context
        try:
            with context.stop.grace_scope():
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._join, tasks)
                    tasks.start_soon(self._wake_at_stop)
                    await self._feed(wakeups, tasks)
                    self._is_ending = True
                    for worker in self._sending:
                        worker.has_work.set()
                    while self._sending:
                        self._worker_ended = anyio.Event()
                        await self._worker_ended.wait()
                    tasks.cancel_scope.cancel()
        finally:
            with anyio.move_on_after(_END_SECONDS, shield=True):
                await self._end_all()
            # Nothing of them was sent: they need not wait for the settle time.
            await self._give_back([one.claim for one in self._unseen.take_kept()], were_sent=False)
            if self._has_noted_leases and not self._unconfirmed:
                with anyio.CancelScope(shield=True):
                    await context.call_journal(context.journal.queue.forget_leases)

    async def _end_all(self) -> None:
        async with anyio.create_task_group() as tasks:
            for worker in self._sending:
                tasks.start_soon(self._end_worker, worker)

    async def _end_worker(self, worker: SendingWorker) -> None:
        self._unconfirmed += 1
        with suppress(WorkerLostError):
            await worker.link.end()
            self._unconfirmed -= 1

    @property
    def _others_begin(self) -> bool:
        """Whether workers have joined that do not send yet."""
        return self._joined > len(self._sending)

    async def _wake_at_stop(self) -> None:
        with self._context.stop.immediate_scope():
            await anyio.sleep_forever()
        for worker in self._sending:
            worker.has_work.set()

    async def _feed(self, wakeups: Wakeups, tasks: TaskGroup) -> None:
        """Claim files for workers that have room."""
        context, queue = self._context, self._context.journal.queue
        with context.stop.immediate_scope():
            await wait_for_leases(context)
            await context.call_journal(partial(queue.note_leases, with_margin(self._setup.lease_seconds)))
            self._has_noted_leases = True
            while await wait_for(wakeups, queue.seconds_to_late):
                if self._unseen.are_kept:
                    self._begin_wait(tasks)
                shares = WorkerShares(self._sending, context.throttle.limit, takes_unseen=self._unseen.go_to_others)
                # Outcomes wake this again: of files that workers have, and of those that are handed out now.
                has_room = shares.total > 0 or not self._sending
                if not has_room or not context.may_feed or self._unseen.is_full:
                    continue
                claim = partial(
                    queue.claim,
                    shares.total,
                    max_active=context.options.max_open_sessions,
                    demand=demand_of_workers(self._sending, context.throttle, queue.first_files),
                    max_backlog=backlog_of(context),
                    shares=shares,
                )
                if await context.call_journal(claim) is None:
                    return
                await self._hand_out(shares, tasks)

    async def _hand_out(self, shares: WorkerShares, tasks: TaskGroup) -> None:
        """Give claimed files to their workers, and have first files checked."""
        if shares.has_unseen:
            self._begin_wait(tasks)
        for worker, files in shares.files.items():
            if worker in self._sending:
                worker.add(files)
            else:
                await self._give_to_others(files)
        for first in shares.first:
            tasks.start_soon(self._check, first)

    def _begin_wait(self, tasks: TaskGroup) -> None:
        if self._unseen.begin_wait():
            tasks.start_soon(self._wait_for_unseen)

    async def _wait_for_unseen(self) -> None:
        self._context.report(Notice("no worker that is ready sees some of the files: waiting for one"))
        with suppress(StoppedError):
            await self._context.stop.sleep(self._context.options.outage_timeout)
            self._unseen.end_wait()
            if self._unseen.go_to_others:
                await self._pass_kept()
            notify(self._outputs.wake_feed)

    async def _pass_kept(self) -> None:
        """Record that nobody sees the files that have waited for other workers."""
        kept = self._unseen.take_kept()
        for outcome in kept:
            self._unseen.forget(outcome.claim)
        await self._outputs.record(kept)

    async def _give_to_others(self, claims: Sequence[Claim]) -> None:
        """Give files of a worker that is gone to those that are left, or queue them."""
        if left := [claim for claim in claims if not self._unseen.give(claim)]:
            await self._give_back(left, were_sent=False)

    async def _check(self, claim: Claim) -> None:
        """Ask the archive before the first file of a delivery, and give the file to a worker."""
        context = self._context
        with suppress(StoppedError), self._checks.slot() as slot:
            await slot.wait_turn()
            outcome = await check_first_file(context, claim, slot)
            if isinstance(outcome, SessionFound):
                notify(self._outputs.wake_feed)
            elif outcome is not None:
                await self._outputs.record([outcome])
            else:
                await self._give_to_others([claim])

    async def _give_back(self, claims: Sequence[Claim], *, were_sent: bool) -> None:
        for claim in claims:
            self._unseen.forget(claim)
        with anyio.CancelScope(shield=True):
            call = partial(self._context.journal.queue.give_back, claims, were_sent=were_sent)
            ready = await self._context.call_journal(call)
        notify(self._outputs.wake_feed)
        notify(self._outputs.wake_finalizers, ready)

    async def _join(self, tasks: TaskGroup) -> None:
        async for link in self._links.joined():
            self._joined += 1
            tasks.start_soon(self._serve, link)

    async def _serve(self, link: WorkerLink) -> None:
        """Let one worker send, again after each time that it was lost. Raises: FatalError if no worker is left."""
        reason = "none has joined"
        try:
            while not self._is_ending and not self._context.stop.requested:
                worker = SendingWorker(link, GrantedLease(self._setup.lease_seconds))
                worker.lease.note_reply(await self._starter.start(link))
                self._sending.append(worker)
                self._unseen.note_worker()
                notify(self._outputs.wake_feed)
                error = await self._exchange_all(worker)
                if error is not None:
                    raise error
        except WorkerLostError as lost:
            reason = str(lost)
            self._context.report(Notice(f"the worker {link.name} is lost: {reason}"))
        except AsyncimportError as error:
            if not isinstance(error, UnavailableError) or self._joined == 1:
                raise
            # The others may reach the server.
            self._context.report(Notice(f"the worker {link.name} cannot send: {error}"))
        finally:
            self._joined, self._last_lost = self._joined - 1, link
        if not self._joined:
            await self._wait_for_workers(link, reason)
        elif not self._others_begin:
            await self._pass_kept()

    async def _wait_for_workers(self, lost: WorkerLink, reason: str) -> None:
        """Wait for others to join. Raises: UnavailableError if none has for too long."""
        with suppress(StoppedError):
            await self._context.stop.sleep(self._context.options.outage_timeout)
            # If others have joined since, and are lost too, that wait is over later.
            if not self._joined and self._last_lost is lost and not self._is_ending:
                raise UnavailableError(f"no worker is left: {reason}", hint="start workers, and run the command again")

    async def _exchange_all(self, worker: SendingWorker) -> AsyncimportError | WorkerLostError | None:
        """Exchange orders and replies until the worker has ended, or is lost. Return the error that ended it."""
        error: AsyncimportError | WorkerLostError | None = None
        has_ended = False
        while not has_ended:
            await self._wait_for_work(worker)
            reply = await self._call(worker, self._order(worker))
            if reply is None:
                self._context.report(Notice(f"the worker {worker.link.name} does not answer"))
                break
            try:
                # All of it before anything is done: if a part is wrong, the worker tells nothing that can be relied on.
                outcomes = read_reply(reply, worker.number, worker.given)
            except ValueError as malformed:
                error = WorkerLostError(str(malformed), is_final=True)
                break
            worker.lease.note_reply(reply.clock)
            await self._handle(worker, reply, outcomes)
            has_ended, error = reply.has_ended, reply.error
        if isinstance(error, LoginRefusedError):
            self._starter.note_refusal(error)
        # Before it is lost: the run may end with its last worker.
        await self._tell(self._tally(worker).ended())
        await self._lose(worker, has_ended=has_ended)
        return error

    async def _lose(self, worker: SendingWorker, *, has_ended: bool) -> None:
        """Give the files of a worker to others, as soon as it cannot send any more."""
        waiting, worker.waiting = worker.waiting, []
        self._sending.remove(worker)
        self._note_in_flight()
        if not has_ended:
            self._unconfirmed += 1
        try:
            await self._give_to_others(waiting)
            if not has_ended:
                await anyio.sleep(worker.lease.seconds_left)
                self._unconfirmed -= 1
            if worker.given and not self._context.stop.requested:
                number = counted(len(worker.given), "file")
                self._context.report(Notice(f"{number} of the worker {worker.link.name} are sent again by others"))
                await self._give_back([*worker.given.values()], were_sent=True)
        finally:
            self._worker_ended.set()

    async def _wait_for_work(self, worker: SendingWorker) -> None:
        """Wait until there is something to tell a worker, at most until its lease is to be renewed."""
        if worker.is_idle and not self._is_ending and not self._context.stop.requested:
            with anyio.move_on_after(worker.lease.seconds_left * _RENEWAL_SHARE):
                await worker.has_work.wait()

    def _order(self, worker: SendingWorker) -> Order:
        context, stop = self._context, self._context.stop
        stop_seconds = stop.grace_seconds if stop.requested else 0.0 if self._is_ending else None
        worker.limit_version = self._limit_version
        return worker.order(
            self._sending,
            limit=context.throttle.limit,
            rate=context.options.max_rate,
            may_log_in=not self._starter.is_refused,
            zips_ended=context.compression.has_ended,
            pause=context.throttle.pause_seconds,
            stop_seconds=stop_seconds,
        )

    async def _call(self, worker: SendingWorker, order: Order) -> Reply | None:
        """Return the reply to an order; None if there is none before the worker's lease is over."""
        with anyio.move_on_after(worker.lease.seconds_left):
            while True:
                try:
                    return await worker.link.exchange(order)
                except WorkerLostError as lost:
                    if lost.is_final:
                        return None
                    await anyio.sleep(_RETRY_SECONDS)
        return None

    async def _handle(self, worker: SendingWorker, reply: Reply, outcomes: Sequence[Outcome]) -> None:
        """Take in a reply: what it tells of the worker, of the server, and of files."""
        tally = self._tally(worker)
        worker.limited_by = tally.limited_by = reply.limited_by or tally.limited_by
        worker.note_reply(reply)
        self._note_in_flight()
        pass_on(reply, worker, self._context)
        self._note_limit()
        if len(worker.given) - len(outcomes) >= max(1, worker.limit):
            # It had more than its slots hold, to the end. The others may not have told yet that they use as many.
            throttle = self._context.throttle
            throttle.note_in_flight(max(throttle.in_flight, throttle.limit))
        settled = self._settle(worker, outcomes)
        self._note_in_flight()
        await self._outputs.record(settled)
        if self._unseen.are_kept:
            notify(self._outputs.wake_feed)
        if worker.is_idle:
            notify(self._outputs.flush)
        if (activity := tally.now(reply.in_flight)) is not None:
            await self._tell(activity)

    def _settle(self, worker: SendingWorker, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Take files from a worker that has told their outcomes; return those outcomes that count."""
        tally, limit_version = self._tally(worker), self._limit_version
        # A limit is in force when all workers that send have heard of it.
        is_in_force = all(one.told_limit_version == limit_version for one in self._sending if one.given)
        settled: list[Outcome] = []
        for outcome in outcomes:
            claim = outcome.claim
            if worker.given.pop(claim.key, None) is None:
                continue  # the worker has told this before
            if isinstance(outcome, Failed) and self._unseen.pass_on(outcome, worker, others_begin=self._others_begin):
                continue
            self._unseen.forget(claim)
            if isinstance(outcome, Stored):
                tally.add(claim.instance.file.size)
                # One of these calls may change the limit: the others were made under the one before.
                self._count(outcome, is_in_force=is_in_force and limit_version == self._limit_version)
            settled.append(outcome)
        return settled

    def _count(self, outcome: Stored, *, is_in_force: bool) -> None:
        """Count a file that was sent, and the time that it took if the limit was in force."""
        context, instance = self._context, outcome.claim.instance
        context.meter.record_upload(outcome.seconds, instance.file.size)
        if outcome.zip_size is not None:
            context.compression.record_size(instance.series_uid, instance.file.size, outcome.zip_size)
        if is_in_force:
            context.throttle.record_success(outcome.seconds, outcome.sent_size, is_zip=outcome.zip_size is not None)
            self._note_limit()

    def _tally(self, worker: SendingWorker) -> Tally:
        return self._tallies.setdefault(worker.link.name, Tally(worker.link.name))

    async def _tell(self, activity: WorkerActivity) -> None:
        """Tell what a worker has done to this process, and by the journal to others."""
        context = self._context
        context.report(activity)
        await context.call_journal(partial(context.journal.queue.note_worker, activity))

    def _note_limit(self) -> None:
        if self._context.throttle.limit != self._limit:
            self._limit = self._context.throttle.limit
            self._limit_version += 1

    def _note_in_flight(self) -> None:
        note_in_flight(self._sending, self._context.throttle, self._context.load)
