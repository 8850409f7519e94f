"""Connects to a cluster of Dask, and knows its workers: which there are, and when one joins or leaves.

Dask is imported when a cluster is asked for. It detects workers that die; this listens to what it tells.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectSendStream

from asyncimport import __version__
from asyncimport.cluster.clients import INSTALL_HINT, first_line, open_client, start_fork_server, starting_dask
from asyncimport.cluster.specs import Local, Spec, is_encrypted, is_here
from asyncimport.errors import UnavailableError, UsageError, primary_error
from asyncimport.model.events import Event, Notice, WorkerJoined, WorkerLeft
from asyncimport.model.record import record
from asyncimport.model.texts import plain
from asyncimport.pacing.shutdown import Stop, StoppedError
from asyncimport.system.collector import run_often

if TYPE_CHECKING:
    from distributed import Client, Future

# A worker that has just been started takes seconds to import everything.
_FIRST_WORKER_SECONDS = 15.0
# How long a worker may not answer before it counts as gone, and how often one that is being called is asked.
_SILENT_SECONDS = 15.0
_PING_SHARE = 1 / 3
# How often a worker is asked for its version if the connection to it breaks.
_MOST_TRIES = 3
# How often the scheduler is asked for anything: Dask keeps several connections to it, and if a network breaks them all,
# each one shows that only when it is used.
_MOST_SCHEDULER_TRIES = 8
# An event mostly overtakes the subscription to it: then it is sent again, after this long and then twice as long.
_SUBSCRIBE_SECONDS = 0.02


@record
class WorkerAddress:
    """A worker process of Dask, with the same asyncimport. `name` is for people."""

    address: str
    name: str


@record
class Change:
    """A worker has joined, or has left."""

    worker: WorkerAddress
    has_joined: bool


class Cluster:
    """A cluster that is connected. Make it with `connect`."""

    def __init__(
        self, client: "Client", report: Callable[[Event], None], *, insecure: bool, silent_seconds: float
    ) -> None:
        self.client = client
        self.workers: dict[str, WorkerAddress] = {}
        """The workers that can be used, by address."""
        self.unusable: dict[str, str] = {}
        """Why the others cannot be used, by name."""
        self._report = report
        self._insecure = insecure
        self._listeners: list[MemoryObjectSendStream[Change]] = []
        self._scopes: dict[str, set[anyio.CancelScope]] = {}
        """Of the calls to each worker, by address."""
        self._silent_seconds = silent_seconds
        self._pinged: set[str] = set()
        """Workers that are asked whether they answer, as a call to them takes long."""
        self._tasks: TaskGroup | None = None
        self._connection: object = None
        """The client's connection to the scheduler, which knows what was asked for by this one only."""
        self._work: Future | None = None
        """What the scheduler takes for work to be done."""

    async def changes(self) -> AsyncIterator[Change]:
        """Yield the workers that there are, then each that joins or leaves."""
        put, changes = anyio.create_memory_object_stream[Change](math.inf)
        for worker in self.workers.values():
            put.send_nowait(Change(worker, has_joined=True))
        self._listeners.append(put)
        with changes:
            try:
                async for change in changes:
                    yield change
            finally:
                self._listeners.remove(put)
                put.close()

    @asynccontextmanager
    async def while_there(self, worker: WorkerAddress) -> AsyncIterator[anyio.CancelScope]:
        """Cancel the block when a worker leaves: a call to it would wait for ever.

        One that joins later at the same address is another.
        """
        self._check_connection()
        address = worker.address
        timer = asyncio.get_running_loop().call_later(self._silent_seconds * _PING_SHARE, self._begin_pings, address)
        scopes = self._scopes.setdefault(address, set())
        try:
            with anyio.CancelScope() as scope:
                if self.workers.get(address) is not worker:
                    scope.cancel()
                scopes.add(scope)
                try:
                    yield scope
                finally:
                    scopes.discard(scope)
        finally:
            timer.cancel()
            self._check_connection()

    def release(self) -> None:
        """Let the scheduler be idle again."""
        if self._work is not None:
            self._work.release()

    def note_busy(self, worker: WorkerAddress) -> None:
        """Tell that a worker takes long to begin."""
        self._report(Notice(f"worker {worker.name} takes long to begin, as if it had other tasks: waiting for it"))

    def _begin_pings(self, address: str) -> None:
        if self._tasks is not None and address in self.workers and address not in self._pinged:
            self._pinged.add(address)
            self._tasks.start_soon(self._ping_while_called, address)

    async def _ping_while_called(self, address: str) -> None:
        """Ask a worker whether it answers while it is being called; let it leave if not, and join when it does.

        Dask finds that out after five minutes.
        """
        is_silent, pause = False, self._silent_seconds * _PING_SHARE
        while self._scopes.get(address) and not is_silent:
            with anyio.move_on_after(self._silent_seconds) as limit, suppress(OSError):
                await self.client.rpc(address).identity()
            is_silent = limit.cancelled_caught
            await anyio.sleep(0 if is_silent else pause)
        self._pinged.discard(address)
        if is_silent:
            self._leave(address, "it does not answer")
            await self._join_when_it_answers(address, pause)

    async def _join_when_it_answers(self, address: str, pause: float) -> None:
        """Let a worker that was silent join again, unless Dask loses it, or tells that it has joined."""
        while address not in self.workers and address in await self._known_workers():
            try:
                await self.client.rpc(address).identity()
            except OSError:
                await anyio.sleep(pause)
            else:
                # It is used again, or there is a reason not to.
                await self._join(address)
                return

    def _check_connection(self) -> None:
        """Begin anew with all workers when the client has another connection to the scheduler.

        With the earlier one, the scheduler has let go of the actors, and told nobody who joined or left.
        """
        if self._tasks is not None and self.client.scheduler_comm is not self._connection:
            self._report(Notice("the connection to the scheduler of Dask broke: all workers begin anew"))
            tasks, self._tasks = self._tasks, None
            for address in [*self.workers]:
                self._leave(address, "the connection to the scheduler broke")
            tasks.start_soon(self._watch, tasks)

    async def _watch(self, tasks: TaskGroup) -> None:
        """Listen to what Dask tells of workers; return when those that are there are known."""

        def heard(event: tuple[float, Mapping[str, Any]]) -> None:
            address, action = str(event[1].get("worker")), event[1].get("action")
            if action == "add-worker":
                tasks.start_soon(self._join, address)
            elif action == "remove-worker":
                self._leave(address, "" if event[1].get("expected") else "it died, or the network did")

        await self._subscribe(heard)
        self._tasks = tasks
        # The scheduler takes actors for nothing to do: with an idle timeout it would end, and all workers with it.
        # So it has a task that no worker can run.
        with self._scheduler_errors():
            self._work = self.client.submit(bool, resources={"asyncimport": 1}, pure=False)
        there = [(address, anyio.Event()) for address in await self._known_workers()]
        for address, has_joined in there:
            tasks.start_soon(self._join, address, has_joined)
        # One that hangs keeps nobody waiting for long: it joins later, when it answers.
        with anyio.move_on_after(_FIRST_WORKER_SECONDS):
            for _, has_joined in there:
                await has_joined.wait()

    async def _subscribe(self, heard: Callable[[Any], None]) -> None:
        """Hear the events of all workers from now on, and note the connection that they come by."""
        topic, seconds = f"asyncimport-{id(self)}", _SUBSCRIBE_SECONDS
        while True:
            self._connection, ready = self.client.scheduler_comm, anyio.Event()
            with self._scheduler_errors():
                self.client.subscribe_topic("all", heard)
                # The scheduler takes both in order: after an event of the second, no worker that joins is missed.
                self.client.subscribe_topic(topic, lambda _, ready=ready: ready.set())
            await self._ask_scheduler(partial(self.client.log_event, topic, "ready"))
            with anyio.move_on_after(seconds):
                await ready.wait()
            seconds *= 2
            if ready.is_set() and self.client.scheduler_comm is self._connection:
                break
        self.client.unsubscribe_topic(topic)

    @contextmanager
    def _scheduler_errors(self) -> Iterator[None]:
        """Ask the scheduler in the block. Raises: UnavailableError if it is gone."""
        try:
            yield
        # A client that has given up has no connection any more.
        except (OSError, AttributeError, RuntimeError) as error:
            if not isinstance(error, OSError) and self.client.status not in {"closing", "closed"}:
                raise
            raise UnavailableError(
                f"the connection to the scheduler of Dask broke: {first_line(error)}",
                hint="see whether it runs and what its log says; the same command goes on",
            ) from error

    async def _ask_scheduler(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Ask the scheduler; a few times more if connections break. Raises: UnavailableError."""
        comm: Any = import_module("distributed.comm")
        with self._scheduler_errors():
            for _ in range(1, _MOST_SCHEDULER_TRIES):
                # Where none can be made, Dask has tried for as long as it is told to.
                with suppress(comm.CommClosedError):
                    return await call()
            return await call()

    async def _known_workers(self) -> dict[str, Any]:
        """Return what the scheduler knows of all workers, by address. Raises: UnavailableError."""
        known: dict[str, Any] = await self._ask_scheduler(lambda: self.client.scheduler.identity(n_workers=-1))
        workers: dict[str, Any] = known["workers"]
        return workers

    async def _join(self, address: str, has_joined: anyio.Event | None = None) -> None:
        if (known := (await self._known_workers()).get(address)) is not None:
            await self._use(WorkerAddress(address, _name_of(known.get("name"), address)))
        if has_joined is not None:
            has_joined.set()

    async def _use(self, worker: WorkerAddress) -> None:
        """Use a worker, unless there is a reason not to."""
        why = self._why_not_encrypted(worker) or await self._why_other_version(worker)
        if worker.address in self.workers:
            return
        if why:
            self.unusable[worker.name] = why
            self._report(Notice(f"worker {worker.name} is not used: {why}"))
            return
        self.unusable.pop(worker.name, None)
        self.workers[worker.address] = worker
        self._report(WorkerJoined(worker.name))
        self._tell(Change(worker, has_joined=True))

    def _why_not_encrypted(self, worker: WorkerAddress) -> str:
        is_safe = self._insecure or is_encrypted(worker.address) or is_here(worker.address)
        return "" if is_safe else "its connection is not encrypted; use tls, or --insecure in a network that is safe"

    async def _why_other_version(self, worker: WorkerAddress) -> str:
        version = await self._read_version(worker)
        if version == __version__:
            return ""
        if isinstance(version, OSError):
            # The connection says nothing about what is installed there.
            return f"no connection to it ({plain(str(version))})"
        if isinstance(version, str):
            return f"it has asyncimport {plain(version)}, and this is {__version__}"
        if version is None:
            return "asyncimport is not installed there"
        return f"asyncimport cannot be loaded there: {plain(str(version))}"

    async def _read_version(self, worker: WorkerAddress) -> object:
        """Return the version of asyncimport that a worker has, None for none, or why it cannot be loaded or asked."""
        pydoc: Any = await anyio.to_thread.run_sync(import_module, "pydoc")
        # A function of the standard library: one of ours could not be loaded where asyncimport is not installed.
        locate = partial(
            self.client.run, pydoc.locate, "asyncimport.__version__", workers=[worker.address], on_error="return"
        )
        version: object = None
        for _ in range(_MOST_TRIES):
            version = (await self._ask_scheduler(locate)).get(worker.address)
            if not isinstance(version, OSError):
                break
        return version

    def _leave(self, address: str, why: str) -> None:
        worker = self.workers.pop(address, None)
        if worker is None:
            return
        self._report(WorkerLeft(worker.name, why))
        for scope in self._scopes.pop(address, ()):
            scope.cancel()
        self._tell(Change(worker, has_joined=False))

    def _tell(self, change: Change) -> None:
        for listener in self._listeners:
            listener.send_nowait(change)


def _name_of(name: object, address: str) -> str:
    """Return how people call a worker: by the name it was given, or by its machine and port."""
    text = plain(str(name if name is not None else ""))
    if not text or text == address:
        return address.partition("://")[2]
    return text[:80]


@asynccontextmanager
async def connect(
    spec: "Spec | Client",
    *,
    insecure: bool = False,
    report: Callable[[Event], None] = lambda _: None,
    stop: Stop | None = None,
    silent_seconds: float = _SILENT_SECONDS,
) -> AsyncIterator[Cluster]:
    """Connect to a cluster, or start it, and yield it when it has a worker.

    `spec` may be a client of the caller's (asynchronous, of this loop), who closes it. A stop ends the wait for a
    worker. Raises: UsageError, UnavailableError, StoppedError.
    """
    stop = stop or Stop()
    if isinstance(spec, Local):
        start_fork_server()
    try:
        with starting_dask():
            # It takes a second.
            distributed: Any = await anyio.to_thread.run_sync(import_module, "distributed")
    except ImportError as error:
        raise UsageError("--dask needs Dask, which is not installed", hint=INSTALL_HINT) from error
    run_often()
    try:
        # What Dask opens is closed last, as the end of the tasks cancels all that comes before it.
        async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
            has_workers = False
            with stop.immediate_scope():
                if isinstance(spec, distributed.Client):
                    client, where, may_wait = spec, "the cluster", False
                else:
                    with starting_dask():
                        client, where, may_wait = await open_client(spec, stack, report, insecure=insecure)
                cluster = Cluster(client, report, insecure=insecure, silent_seconds=silent_seconds)
                stack.callback(cluster.release)
                await cluster._watch(tasks)  # noqa: SLF001 - made here
                await _wait_for_worker(cluster, where, report, may_wait=may_wait)
                has_workers = True
            try:
                if not has_workers:
                    raise StoppedError
                yield cluster
            finally:
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as errors:
        raise primary_error(errors) from None


async def _wait_for_worker(cluster: Cluster, where: str, report: Callable[[Event], None], *, may_wait: bool) -> None:
    if cluster.workers:
        return
    if may_wait:
        report(Notice(f"waiting for the first worker of {where}"))
    with anyio.move_on_after(None if may_wait else _FIRST_WORKER_SECONDS if not cluster.unusable else 0):
        async for _ in cluster.changes():
            if cluster.workers:
                return
    if cluster.unusable:
        name, why = next(iter(cluster.unusable.items()))
        raise UsageError(
            f"no worker of {where} can be used: worker {name}: {why}",
            hint="all machines need the same asyncimport, and must be reached from here",
        )
    raise UnavailableError(f"{where} has no worker", hint="start one on each machine: dask worker ADDRESS")
