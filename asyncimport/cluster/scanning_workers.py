"""The workers that a source asks: what each of them sees, and which one answers a question.

Workers may see different files at one path. A **view** is the tree that some of them see at a place: workers that see
the same one (`tree_identity`) stand in for each other.
"""

import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

import anyio
from anyio.abc import TaskGroup

from asyncimport.cluster.calls import RemoteActor, make_actor
from asyncimport.cluster.checks import check_answer
from asyncimport.cluster.connect import Cluster, WorkerAddress
from asyncimport.cluster.messages import MALFORMED
from asyncimport.cluster.path_map import ScanSettings
from asyncimport.cluster.ports import WorkerLostError
from asyncimport.cluster.scanning_actor import ScanningActor, Sight, encoding_of_names
from asyncimport.errors import UnavailableError, UsageError
from asyncimport.model.events import Event, Notice
from asyncimport.model.record import record
from asyncimport.model.texts import counted, plain

_MOST_LOSSES = 3
# After which share of the patience a worker is reported that takes long to begin, and how long others wait for it.
_BUSY_SHARE = 1 / 4
_WAIT_SHARE = 1 / 4


@record
class View:
    """What some workers see at a place, by an identity of the tree."""

    place: str
    tree: str


class ScanningWorker:
    """A worker that walks and reads: its actor, and what it sees."""

    def __init__(
        self, worker: WorkerAddress, actor: RemoteActor, views: Sequence[View], lasting: Mapping[str, str]
    ) -> None:
        self.joined = worker
        self.address, self.name = worker.address, worker.name
        self.actor = actor
        self.views = frozenset(views)
        self.places = {view.place for view in views}
        self.lasting = lasting
        self.calls = 0
        """Calls that it has not answered yet."""


Fits = Callable[[ScanningWorker], bool]
Read = Callable[[Any], Any]


def has(*views: View) -> Fits:
    """Return whether a worker has all of these views."""
    wanted = set(views)
    return lambda worker: wanted <= worker.views


def views_of(place: str, workers: Iterable[ScanningWorker]) -> list[View]:
    """Return what workers see at a place, whichever answered first: of equal files each run takes the same one."""
    in_order = sorted(workers, key=lambda worker: worker.lasting.get(place, ""))
    return list(dict.fromkeys(view for worker in in_order for view in worker.views if view.place == place))


class ScanningWorkers:
    """The workers of a cluster that a source asks, by their address."""

    def __init__(
        self, cluster: Cluster, settings: ScanSettings, report: Callable[[Event], None], patience_seconds: float
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._inside = {place: os.path.join(place, "") for place in settings.places}  # noqa: PTH118 - compared as text
        self._report = report
        self._patience = patience_seconds
        self.all: dict[str, ScanningWorker] = {}
        self.views: dict[str, list[View]] = {}
        """Of each place: those that there were at the beginning."""
        self.lasting: Mapping[str, set[str]] = {}
        """What the workers see at each place, by identities that last longer than a run."""
        self._unreachable = ""
        self._left: set[str] = set()
        """The addresses of workers that have left while they were asked what they see."""
        self._tasks: TaskGroup | None = None
        self._asked_again: set[str] = set()
        """The addresses of workers that were lost once, and asked again what they see."""
        self._changed = anyio.Event()
        self._has_ended = False
        self._notices: set[str] = set()

    async def begin(self, tasks: TaskGroup) -> None:
        """Ask all workers what they see. Raises: UsageError when nobody sees a place, UnavailableError."""
        async with anyio.create_task_group() as asking:
            for worker in self._cluster.workers.values():
                asking.start_soon(self._join, worker)
        if self._left:
            # They may have been silent while they imported everything, or the connection to the scheduler broke.
            await self._wait_for_those_that_left()
        if self._unreachable and not self.all:
            raise UnavailableError(
                f"no worker answers: {self._unreachable}",
                hint="this machine must reach the addresses and ports of the workers; their logs say why they ended",
            )
        for place in self._settings.places:
            self.views[place] = views_of(place, self.all.values())
            if not self.views[place]:
                raise UsageError(
                    f"no worker sees {plain(place)}",
                    hint="check the path of SOURCE, the mounts of workers, and --path-map",
                )
            if blind := len(self.all) - sum(self.sees(address, place) for address in self.all):
                self.notice(f"{counted(blind, 'worker')} of {len(self.all)} cannot see {plain(place)}")
        self.lasting = {
            place: {worker.lasting[place] for worker in self.all.values() if place in worker.lasting}
            for place in self._settings.places
        }
        self._tasks = tasks
        tasks.start_soon(self._follow, tasks)

    async def _wait_for_those_that_left(self) -> None:
        """Wait until they have joined again, as nobody else may see what they see; not for long if there are others."""
        if not self.all:
            self.notice("no worker is left: waiting for one")
        with anyio.move_on_after(self._patience) as limit:
            async for change in self._cluster.changes():
                known = self.all.get(change.worker.address)
                if change.has_joined and (known is None or known.joined is not change.worker):
                    await self._join(change.worker)
                if self.all:
                    limit.deadline = min(limit.deadline, anyio.current_time() + self._patience * _WAIT_SHARE)
                if self._left <= self.all.keys():
                    return

    def end(self) -> None:
        """Let `joined` end."""
        self._has_ended = True
        self._tell_change()

    async def _follow(self, tasks: TaskGroup) -> None:
        async for change in self._cluster.changes():
            if change.has_joined and change.worker.address not in self.all:
                tasks.start_soon(self._join, change.worker)
            elif not change.has_joined:
                self.all.pop(change.worker.address, None)
                self._asked_again.discard(change.worker.address)
                self._tell_change()

    async def _join(self, worker: WorkerAddress) -> None:
        """Ask a worker what it sees, and use it."""
        for _ in range(_MOST_LOSSES):
            try:
                return await self._ask_sight(worker)
            except WorkerLostError as lost:
                self._unreachable = plain(str(lost))
                if self._cluster.workers.get(worker.address) is not worker:
                    self._left.add(worker.address)
                    return None
        self.notice(f"worker {worker.name} is not used: no connection to it ({self._unreachable})")
        return None

    async def _ask_sight(self, worker: WorkerAddress) -> None:
        while_there = partial(self._cluster.while_there, worker)
        on_busy = partial(self._cluster.note_busy, worker)
        actor = await make_actor(
            self._cluster.client, ScanningActor, worker.address, while_there, on_busy, self._patience * _BUSY_SHARE
        )
        sight: Sight = _read(partial(check_answer, "begin", ()), await actor.call("begin", self._settings))
        if sight.encoding != encoding_of_names():
            self.notice(f"worker {worker.name} is not used: it reads names of files as {sight.encoding[0]}")
            return
        views = [View(place, tree.now) for place, tree in sight.trees.items()]
        if self.views and any(view not in self.views[view.place] for view in views):
            self.notice(f"worker {worker.name} has joined late and sees other files, which this run leaves out")
            views = [view for view in views if view in self.views[view.place]]
        lasting = {place: tree.lasting for place, tree in sight.trees.items()}
        self.all[worker.address] = ScanningWorker(worker, actor, views, lasting)
        self._tell_change()

    def _tell_change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def notice(self, text: str) -> None:
        """Tell something once."""
        if text not in self._notices:
            self._notices.add(text)
            self._report(Notice(text))

    async def joined(self) -> AsyncIterator[ScanningWorker]:
        """Yield each worker once it is known what it sees; end with the source."""
        known: dict[str, WorkerAddress] = {}
        while not self._has_ended:
            changed = self._changed
            for address, worker in list(self.all.items()):
                # It may have begun anew, or another process is where it was.
                if known.get(address) is not worker.joined:
                    known[address] = worker.joined
                    yield worker
            if changed is self._changed:
                await changed.wait()

    def sees(self, address: str, path: str) -> bool:
        """Whether a worker sees the place of a file."""
        worker = self.all.get(address)
        if worker is None or len(worker.places) == len(self._inside):
            return worker is not None
        place = self.place_of(path)
        return place is None or place in worker.places

    def place_of(self, path: str) -> str | None:
        """Return the place that a file is below."""
        # It is called for each file: `below` would take most of the time.
        for place, inside in self._inside.items():
            if path.startswith(inside) or path == place:
                return place
        return None

    async def find(self, fits: Fits, what: str, avoid: ScanningWorker | None = None) -> ScanningWorker:
        """Return the least busy worker that fits; wait if there is none. Raises: UnavailableError."""
        with anyio.move_on_after(self._patience):
            while True:
                fitting = [one for one in self.all.values() if fits(one)]
                if others := [one for one in fitting if one is not avoid] or fitting:
                    return min(others, key=lambda one: one.calls)
                self.notice(f"no worker is left that sees {plain(what)}: waiting for one")
                await self._changed.wait()
        raise UnavailableError(
            f"no worker is left that sees {plain(what)}", hint="start workers again; the same command goes on"
        )

    async def call(self, worker: ScanningWorker, method: str, *words: Any, read: Read | None = None) -> Any:
        """Call a worker, again if the connection breaks. `read` makes of the answer what is returned.

        Raises: WorkerLostError.
        """
        read = read or partial(check_answer, method, words)
        worker.calls += 1
        try:
            for losses in count(1):
                try:
                    return _read(read, await worker.actor.call(method, *words))
                except WorkerLostError as lost:
                    if lost.is_final or losses == _MOST_LOSSES:
                        self._lose(worker)
                        raise
        finally:
            worker.calls -= 1

    def _lose(self, worker: ScanningWorker) -> None:
        """Ask a worker no more, unless it begins anew: its actor may have gone with the connection to the scheduler."""
        if self.all.get(worker.address) is worker:
            del self.all[worker.address]
            known = self._cluster.workers.get(worker.address)
            if known is not None and self._tasks is not None and worker.address not in self._asked_again:
                self._asked_again.add(worker.address)
                self._tasks.start_soon(self._join, known)

    async def ask(
        self, fits: Fits, what: str, method: str, *words: Any, read: Read | None = None
    ) -> tuple[ScanningWorker, Any]:
        """Call a worker that fits; another one if it is lost. Raises: UnavailableError."""
        reason: object = None
        for _ in range(_MOST_LOSSES):
            worker = await self.find(fits, what)
            try:
                return worker, await self.call(worker, method, *words, read=read)
            except WorkerLostError as lost:
                reason = lost
        raise UnavailableError(
            f"{_MOST_LOSSES} workers were lost while they read {plain(what)}: {plain(str(reason))}",
            hint="the logs of the workers may say why; the same command goes on",
        )


def _read(read: Read, answer: Any) -> Any:
    """Read an answer. Raises: WorkerLostError if it is malformed."""
    try:
        return read(answer)
    except (ValueError, TypeError) as error:
        # Nothing of it is shown: there may be names in it.
        raise WorkerLostError(MALFORMED, is_final=True) from error
