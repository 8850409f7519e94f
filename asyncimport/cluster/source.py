"""A source whose files the workers of a cluster see: they walk, read headers, and compare bytes.

Workers may see different files at one path. A **view** is the tree that some of them see at a place: workers that see
the same one (`tree_identity`) stand in for each other. Each view is walked, so that nothing is missed; a file that
several views have must be the same one, as the journal knows files by their paths.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectSendStream

from asyncimport.cluster.connect import Cluster, DaskWorker
from asyncimport.cluster.ports import WorkerLostError
from asyncimport.cluster.remote_body import RemoteBody
from asyncimport.cluster.worker_files import (
    ScanSettings,
    WorkerFiles,
    below,
    encoding_of_names,
    unpack_batch,
    unpack_identities,
)
from asyncimport.dicom import Identity
from asyncimport.errors import SourceError, UnavailableError, UsageError, primary_error
from asyncimport.model.events import Event, Notice
from asyncimport.model.files import Body, Digest, File, Ignored
from asyncimport.model.record import record
from asyncimport.model.states import FileKind
from asyncimport.model.texts import counted, plain
from asyncimport.pacing.shutdown import Stop, StoppedError
from asyncimport.source.bytes_on_disk import LARGE

T = TypeVar("T")

# How long to wait for another worker that sees what a lost one saw.
PATIENCE_SECONDS = 60.0
_MOST_AHEAD = 32
_MOST_LOSSES = 3


@record
class View:
    """What some workers see at a place, by an identity of the tree."""

    place: str
    tree: str


class _Member:
    """A worker, its actor, and what it sees."""

    def __init__(self, worker: DaskWorker, actor: Any, views: Sequence[View], lasting: Mapping[str, str]) -> None:
        self.worker = worker
        self.actor = actor
        self.views = frozenset(views)
        self.lasting = lasting
        self.calls = 0
        """Calls that it has not answered yet."""
        self.walks = 0
        """Walks that are not at their end."""


class ClusterSource:
    """Directories, or files, as the workers see them. Make it with `open_source`."""

    read_ahead = LARGE

    def __init__(
        self,
        cluster: Cluster,
        settings: ScanSettings,
        report: Callable[[Event], None],
        *,
        is_partial: bool = False,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._cluster = cluster
        self.settings = settings
        self.places = settings.places
        self._report = report
        self._is_partial = is_partial or bool(settings.exclude)
        self._patience = patience_seconds
        self._members: dict[str, _Member] = {}
        self._views: dict[str, list[View]] = {}
        """Of each place: those that there were at the beginning."""
        self._lasting: dict[str, set[str]] = {place: set() for place in settings.places}
        self.uncovered: Collection[str] = ()
        """Places that may have files which no worker of this run sees."""
        self._changed = anyio.Event()
        self._has_ended = False
        self._walks = count()
        self._is_in_order = False
        self._notices: set[str] = set()
        self._tasks: TaskGroup

    # --- the workers ---

    async def _begin(self, tasks: TaskGroup) -> None:
        """Ask all workers what they see. Raises: UsageError when nobody sees a place."""
        self._tasks = tasks
        async with anyio.create_task_group() as asking:
            for worker in self._cluster.workers.values():
                asking.start_soon(self._join, worker)
        for place in self.places:
            seen = [view for member in self._members.values() for view in member.views if view.place == place]
            self._views[place] = list(dict.fromkeys(seen))
            if not seen:
                raise UsageError(
                    f"no worker sees {plain(place)}",
                    hint="check the path of SOURCE, the mounts of workers, and --path-map",
                )
            if blind := len(self._members) - sum(self.sees(address, place) for address in self._members):
                self._notice(f"{counted(blind, 'worker')} of {len(self._members)} cannot see {plain(place)}")
        self._lasting = {
            place: {member.lasting[place] for member in self._members.values() if place in member.lasting}
            for place in self.places
        }
        tasks.start_soon(self._follow)

    async def _follow(self) -> None:
        async for change in self._cluster.changes():
            if change.has_joined and change.worker.address not in self._members:
                self._tasks.start_soon(self._join, change.worker)
            elif not change.has_joined:
                self._members.pop(change.worker.address, None)
                self._tell_change()

    async def _join(self, worker: DaskWorker) -> None:
        """Ask a worker what it sees, and use it."""
        client = self._cluster.client
        async with self._cluster.while_there(worker):
            actor = await client.submit(WorkerFiles, actor=True, workers=[worker.address], pure=False)
            sight = await actor.begin(self.settings)
            if sight.encoding != encoding_of_names():
                self._notice(f"worker {worker.name} is not used: it reads names of files as {sight.encoding[0]}")
                return
            views = [View(place, tree.now) for place, tree in sight.trees.items()]
            if self._views and any(view not in self._views[view.place] for view in views):
                self._notice(f"worker {worker.name} has joined late and sees other files, which this run leaves out")
                views = [view for view in views if view in self._views[view.place]]
            lasting = {place: tree.lasting for place, tree in sight.trees.items()}
            self._members[worker.address] = _Member(worker, actor, views, lasting)
            self._tell_change()

    def _tell_change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _notice(self, text: str) -> None:
        if text not in self._notices:
            self._notices.add(text)
            self._report(Notice(text))

    async def joined(self) -> AsyncIterator[DaskWorker]:
        """Yield each worker once it is known what it sees; end with the source."""
        known: set[str] = set()
        while not self._has_ended:
            changed = self._changed
            known &= self._members.keys()
            for address, member in list(self._members.items()):
                if address not in known:
                    known.add(address)
                    yield member.worker
            if changed is self._changed:
                await changed.wait()

    def sees(self, address: str, path: str) -> bool:
        """Whether a worker sees the place of a file."""
        member, place = self._members.get(address), self._place_of(path)
        return member is not None and (place is None or any(view.place == place for view in member.views))

    def _place_of(self, path: str) -> str | None:
        return next((place for place in self.places if below(place, path) is not None), None)

    async def _call(self, member: _Member, method: str, *words: Any) -> Any:
        """Call a worker. Raises: WorkerLostError."""
        member.calls += 1
        try:
            async with self._cluster.while_there(member.worker):
                try:
                    return await getattr(member.actor, method)(*words)
                except (OSError, RuntimeError) as error:
                    # What our functions raise is in their results. This is Dask's word for a connection that broke.
                    self._members.pop(member.worker.address, None)
                    raise WorkerLostError(str(error)) from error
            raise WorkerLostError("it has left", is_final=True)
        finally:
            member.calls -= 1

    async def _member(self, fits: Callable[[_Member], bool], what: str, avoid: _Member | None = None) -> _Member:
        """Return the least busy worker that fits; wait if there is none. Raises: UnavailableError."""
        with anyio.move_on_after(self._patience):
            while True:
                fitting = [one for one in self._members.values() if fits(one)]
                if others := [one for one in fitting if one is not avoid] or fitting:
                    return min(others, key=lambda one: one.calls)
                self._notice(f"no worker is left that sees {plain(what)}: waiting for one")
                await self._changed.wait()
        raise UnavailableError(
            f"no worker is left that sees {plain(what)}", hint="start workers again; the same command goes on"
        )

    async def _ask(self, fits: Callable[[_Member], bool], what: str, method: str, *words: Any) -> tuple[_Member, Any]:
        """Call a worker that fits; another one if it is lost. Raises: UnavailableError."""
        for _ in range(_MOST_LOSSES):
            member = await self._member(fits, what)
            try:
                return member, await self._call(member, method, *words)
            except WorkerLostError:
                continue
        raise UnavailableError(
            f"{_MOST_LOSSES} workers were lost while they read {plain(what)}",
            hint="the logs of the workers may say why; the same command goes on",
        )

    # --- the walk ---

    @property
    def roots(self) -> Sequence[str]:
        """The places that the walk covers wholly: none if only a part is wanted, or a worker of earlier is absent."""
        return [] if self._is_partial else [place for place in self.places if place not in self.uncovered]

    @property
    def trees(self) -> Mapping[str, set[str]]:
        """What the workers see at each place, for the journal."""
        return self._lasting

    @property
    def ahead(self) -> int:
        """Batches that are worth identifying at once: two for each worker."""
        return max(1, min(2 * len(self._members), _MOST_AHEAD))

    @property
    def is_in_order(self) -> bool:
        """Whether each directory is left for good when the next one is met."""
        return self._is_in_order

    async def batches(self) -> AsyncIterator[list[File | Ignored]]:
        """Yield what the walks find. Places that the same workers see are walked one after the other."""
        chains: dict[frozenset[str], list[View]] = {}
        for place in self.places:
            for view in self._views[place]:
                seen_by = frozenset(one.worker.address for one in self._members.values() if view in one.views)
                chains.setdefault(seen_by, []).append(view)
        self._is_in_order = len(self.places) == len(chains) == 1
        put, found = anyio.create_memory_object_stream[list[File | Ignored] | Exception](len(chains))
        for views in chains.values():
            self._tasks.start_soon(self._walk, views, put.clone())
        put.close()
        with found:
            async for batch in found:
                if isinstance(batch, Exception):
                    raise batch
                yield batch

    async def _walk(self, views: Sequence[View], put: MemoryObjectSendStream[list[File | Ignored] | Exception]) -> None:
        """Walk views that the same workers see, from the beginning again if a worker is lost."""
        async with put:
            try:
                while not await self._walk_once(views, put):
                    self._is_in_order = False
            except anyio.BrokenResourceError:
                pass  # nobody reads any more
            except Exception as error:  # noqa: BLE001 - raised where the walk is read
                await put.send(error)

    async def _walk_once(
        self, views: Sequence[View], put: MemoryObjectSendStream[list[File | Ignored] | Exception]
    ) -> bool:
        """Walk all views; return False if the worker is lost. Raises: UnavailableError, UsageError."""
        places = [view.place for view in views]
        member = await self._member(member_of(*views), places[0])
        walk = next(self._walks)
        member.walks += 1
        try:
            await self._call(member, "start_walk", walk, places)
            for number in count():
                batch = unpack_batch(await self._call(member, "next_batch", walk, number))
                if not batch:
                    return True
                if any(len(self._views[place]) > 1 for place in places):
                    batch = await self._only_here(batch, views)
                await put.send(batch)
        except WorkerLostError:
            self._notice(f"worker {member.worker.name} was lost: another one walks {plain(places[0])} again")
        finally:
            member.walks -= 1
        return False

    async def _only_here(self, batch: Sequence[File | Ignored], views: Sequence[View]) -> list[File | Ignored]:
        """Leave out files that an earlier view of their place has too. Raises: UsageError if it is another file."""
        left = list(batch)
        for view in views:
            for other in self._views[view.place]:
                files = [one for one in left if isinstance(one, File) and self._place_of(one.path) == view.place]
                if other == view or not files:
                    continue
                states = await self._ask(member_of(other), view.place, "states", [file.path for file in files])
                for file, state in zip(files, states[1], strict=True):
                    if state not in {None, (file.size, file.mtime_ns)}:
                        raise UsageError(
                            f"two workers see different files at {plain(file.path)}",
                            hint="give their directories different names, with --path-map",
                        )
                if self._views[view.place].index(other) < self._views[view.place].index(view):
                    twice = {file for file, state in zip(files, states[1], strict=True) if state is not None}
                    left = [one for one in left if one not in twice]
        return left

    # --- files ---

    async def identify_many(self, files: Sequence[File]) -> list[Identity | Ignored]:
        """Identify files on one of the workers that see them."""
        return await self._by_view(files, lambda file: file, self._identify)

    def identify(self, file: File) -> Identity | Ignored:
        """Identify one file. It blocks: call it in a worker thread of anyio."""
        return anyio.from_thread.run(self.identify_many, [file])[0]

    async def _identify(self, files: Sequence[File], fits: Callable[[_Member], bool]) -> list[Identity | Ignored]:
        member, packed = await self._ask(fits, files[0].path, "identify", files)
        found = unpack_identities(files, packed)
        unreadable = [place for place, one in enumerate(found) if _is_unreadable(one)]
        if unreadable and any(one is not member and fits(one) for one in self._members.values()):
            # Another worker may have the right to read it, or the file in its cache.
            other = await self._member(fits, files[0].path, avoid=member)
            again = [files[place] for place in unreadable]
            try:
                more = unpack_identities(again, await self._call(other, "identify", again))
            except WorkerLostError:
                return found
            for place, one in zip(unreadable, more, strict=True):
                if not _is_unreadable(one):
                    found[place] = one
                    self._notice(f"worker {member.worker.name} cannot read files that {other.worker.name} can")
        return found

    async def _by_view(
        self,
        items: Sequence[T],
        file_of: Callable[[T], File],
        ask: Callable[[Sequence[T], Callable[[_Member], bool]], Awaitable[Sequence[Any]]],
    ) -> list[Any]:
        """Ask, for each item, workers that see its file; return the answers in order."""
        groups: dict[View | None, list[int]] = {}
        for position, view in enumerate(await self._views_of([file_of(item) for item in items])):
            groups.setdefault(view, []).append(position)
        answers: list[Any] = [None] * len(items)
        for view, positions in groups.items():
            fits = member_of() if view is None else member_of(view)
            for position, answer in zip(positions, await ask([items[one] for one in positions], fits), strict=True):
                answers[position] = answer
        return answers

    async def _views_of(self, files: Sequence[File]) -> list[View | None]:
        """Return the view that has each file; that of its place if there is only one."""
        found: list[View | None] = []
        unsure: dict[str, list[int]] = {}
        for position, file in enumerate(files):
            views = self._views.get(self._place_of(file.path) or "", [])
            found.append(views[0] if views else None)
            if len(views) > 1:
                unsure.setdefault(views[0].place, []).append(position)
        for place, positions in unsure.items():
            for view in reversed(self._views[place]):
                paths = [files[position].path for position in positions]
                _, states = await self._ask(member_of(view), place, "states", paths)
                for position, state in zip(positions, states, strict=True):
                    if state is not None:
                        found[position] = view
        return found

    async def read(self, files: Sequence[File]) -> list[Body | SourceError]:
        """Read the bodies of files through the workers that see them."""

        async def ask(some: Sequence[File], fits: Callable[[_Member], bool]) -> list[Body | SourceError]:
            _, bodies = await self._ask(fits, some[0].path, "read", some)

            async def piece(file: File, begin: int) -> bytes | SourceError:
                return (await self._ask(fits, file.path, "read_piece", file, begin))[1]  # type: ignore[no-any-return]

            return [RemoteBody(file, piece) if body is None else body for file, body in zip(some, bodies, strict=True)]

        return await self._by_view(files, lambda file: file, ask)

    async def md5(self, parts: Sequence[tuple[File, int]]) -> list[str | SourceError]:
        """Return the MD5 of the first bytes of each file; errors as from `read`."""
        return await self._by_view(parts, lambda part: part[0], self._asker("md5"))

    async def have_digests(self, files: Sequence[tuple[File, Digest]]) -> list[bool | None]:
        """Return for each file whether its bytes have this digest; None if it cannot be read."""
        return await self._by_view(files, lambda item: item[0], self._asker("have_digests"))

    def _asker(self, method: str) -> Callable[[Sequence[Any], Callable[[_Member], bool]], Awaitable[Sequence[Any]]]:
        async def ask(items: Sequence[Any], fits: Callable[[_Member], bool]) -> Sequence[Any]:
            path = items[0][0].path
            return (await self._ask(fits, path, method, items))[1]  # type: ignore[no-any-return]

        return ask

    async def same_bytes(self, one: str, other: str) -> bool | None:
        """Compare two files: on a worker that sees both, else by their digests."""
        first, second = await self._views_of([File(one, 0, 0), File(other, 0, 0)])
        both = member_of(*(view for view in (first, second) if view is not None))
        if any(both(member) for member in self._members.values()):
            return (await self._ask(both, one, "same_bytes", one, other))[1]  # type: ignore[no-any-return]
        digests = [
            (await self._ask(member_of(*([view] if view else [])), path, "sha256", path))[1]
            for view, path in ((first, one), (second, other))
        ]
        return None if None in digests else digests[0] == digests[1]

    def relative(self, path: str) -> str:
        """Return a path relative to the place that it is below; a place that is a file is its own name."""
        for place in self.places:
            if rest := below(place, path):
                return rest.removeprefix(os.sep)
        return os.path.basename(path)  # noqa: PTH119 - the path need not be text


def member_of(*views: View) -> Callable[[_Member], bool]:
    """Return whether a worker has all of these views."""
    wanted = set(views)
    return lambda member: wanted <= member.views


def _is_unreadable(found: Identity | Ignored) -> bool:
    return isinstance(found, Ignored) and found.kind is FileKind.UNREADABLE


@asynccontextmanager
async def open_source(
    cluster: Cluster,
    settings: ScanSettings,
    report: Callable[[Event], None] = lambda _: None,
    *,
    is_partial: bool = False,
    patience_seconds: float = PATIENCE_SECONDS,
    stop: Stop | None = None,
) -> AsyncIterator[ClusterSource]:
    """Yield the source that the workers see. Raises: UsageError when nobody sees a place, StoppedError."""
    stop = stop or Stop()
    source = ClusterSource(cluster, settings, report, is_partial=is_partial, patience_seconds=patience_seconds)
    try:
        async with anyio.create_task_group() as tasks:
            with stop.immediate_scope():
                await source._begin(tasks)  # noqa: SLF001 - made here
            try:
                if stop.requested:
                    raise StoppedError
                yield source
            finally:
                source._has_ended = True  # noqa: SLF001 - as above
                source._tell_change()  # noqa: SLF001 - as above
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as errors:
        raise primary_error(errors) from None
