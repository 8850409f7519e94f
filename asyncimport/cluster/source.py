"""A source whose files the workers of a cluster see: they walk, read headers, and compare bytes."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.from_thread

from asyncimport.cluster.connect import Cluster
from asyncimport.cluster.path_map import ScanSettings, below
from asyncimport.cluster.ports import WorkerLostError
from asyncimport.cluster.remote_body import RemoteBody
from asyncimport.cluster.scanning_actor import pack_files, unpack_identities
from asyncimport.cluster.scanning_workers import Fits, ScanningWorker, ScanningWorkers, View, has
from asyncimport.cluster.walk import Walk
from asyncimport.dicom import Identity
from asyncimport.errors import SourceError, primary_error
from asyncimport.model.events import Event
from asyncimport.model.files import Body, Digest, File, Ignored
from asyncimport.model.states import FileKind
from asyncimport.pacing.shutdown import Stop, StoppedError
from asyncimport.source.bytes_on_disk import LARGE

T = TypeVar("T")

# How long to wait for another worker that sees what a lost one saw.
PATIENCE_SECONDS = 60.0
_MOST_AHEAD = 32


class ClusterSource:
    """Directories, or files, as the workers see them. Make it with `open_source`."""

    read_ahead = LARGE

    def __init__(self, workers: ScanningWorkers, walk: Walk, settings: ScanSettings, *, is_partial: bool) -> None:
        self._workers = workers
        self._walk = walk
        self.settings = settings
        self.places = settings.places
        self._is_partial = is_partial or bool(settings.exclude)
        self.uncovered: Collection[str] = ()
        """Places that may have files which no worker of this run sees."""

    @property
    def roots(self) -> Sequence[str]:
        """The places that the walk covers wholly: none if only a part is wanted, or a worker of earlier is absent."""
        return [] if self._is_partial else [place for place in self.places if place not in self.uncovered]

    @property
    def trees(self) -> Mapping[str, set[str]]:
        """What the workers see at each place, for the journal."""
        return self._workers.lasting

    @property
    def ahead(self) -> int:
        """Batches that are worth identifying at once: one for each worker, and one that comes or goes."""
        # Each takes 2 MB here, with all that it becomes.
        return min(1 + len(self._workers.all), _MOST_AHEAD)

    @property
    def is_in_order(self) -> bool:
        """Whether each directory is left for good when the next one is met."""
        return self._walk.is_in_order

    def batches(self) -> AsyncIterator[list[File | Ignored]]:
        """Yield what the walks of the workers find."""
        return self._walk.batches()

    def joined(self) -> AsyncIterator[ScanningWorker]:
        """Yield each worker once it is known what it sees; end with the source."""
        return self._workers.joined()

    def sees(self, address: str, path: str) -> bool:
        """Whether a worker sees the place of a file."""
        return self._workers.sees(address, path)

    async def identify_many(self, files: Sequence[File]) -> list[Identity | Ignored]:
        """Identify files on one of the workers that see them."""
        return await self._by_view(files, lambda file: file, self._identify)

    def identify(self, file: File) -> Identity | Ignored:
        """Identify one file. It blocks: call it in a worker thread of anyio."""
        return anyio.from_thread.run(self.identify_many, [file])[0]

    async def _identify(self, files: Sequence[File], fits: Fits) -> list[Identity | Ignored]:
        words = ("identify", pack_files(files))
        found: list[Identity | Ignored]
        worker, found = await self._workers.ask(fits, files[0].path, *words, read=partial(unpack_identities, files))
        unreadable = [place for place, one in enumerate(found) if _is_unreadable(one)]
        if unreadable and any(one is not worker and fits(one) for one in self._workers.all.values()):
            # Another worker may have the right to read it, or the file in its cache.
            other = await self._workers.find(fits, files[0].path, avoid=worker)
            again = [files[place] for place in unreadable]
            try:
                read = partial(unpack_identities, again)
                more = await self._workers.call(other, "identify", pack_files(again), read=read)
            except WorkerLostError:
                return found
            for place, one in zip(unreadable, more, strict=True):
                if not _is_unreadable(one):
                    found[place] = one
                    self._workers.notice(f"worker {worker.name} cannot read files that {other.name} can")
        return found

    async def _by_view(
        self,
        items: Sequence[T],
        file_of: Callable[[T], File],
        ask: Callable[[Sequence[T], Fits], Awaitable[Sequence[Any]]],
    ) -> list[Any]:
        """Ask, for each item, workers that see its file; return the answers in order."""
        if len(self.places) == 1 and len(views := self._workers.views[self.places[0]]) == 1:
            return [*await ask(items, has(views[0]))] if items else []
        groups: dict[View | None, list[int]] = {}
        for position, view in enumerate(await self._views_of([file_of(item) for item in items])):
            groups.setdefault(view, []).append(position)
        answers: list[Any] = [None] * len(items)
        for view, positions in groups.items():
            fits = has() if view is None else has(view)
            for position, answer in zip(positions, await ask([items[one] for one in positions], fits), strict=True):
                answers[position] = answer
        return answers

    async def _views_of(self, files: Sequence[File]) -> list[View | None]:
        """Return the view that has each file; that of its place if there is only one."""
        found: list[View | None] = []
        unsure: dict[str, list[int]] = {}
        for position, file in enumerate(files):
            views = self._workers.views.get(self._workers.place_of(file.path) or "", [])
            found.append(views[0] if views else None)
            if len(views) > 1:
                unsure.setdefault(views[0].place, []).append(position)
        for place, positions in unsure.items():
            for view in reversed(self._workers.views[place]):
                paths = [files[position].path for position in positions]
                _, states = await self._workers.ask(has(view), place, "states", paths)
                for position, state in zip(positions, states, strict=True):
                    if state is not None:
                        found[position] = view
        return found

    async def read(self, files: Sequence[File]) -> list[Body | SourceError]:
        """Read the bodies of files through the workers that see them."""

        async def ask(some: Sequence[File], fits: Fits) -> list[Body | SourceError]:
            _, bodies = await self._workers.ask(fits, some[0].path, "read", some)

            async def piece(file: File, begin: int) -> bytes | SourceError:
                return (await self._workers.ask(fits, file.path, "read_piece", file, begin))[1]  # type: ignore[no-any-return]

            return [RemoteBody(file, piece) if body is None else body for file, body in zip(some, bodies, strict=True)]

        return await self._by_view(files, lambda file: file, ask)

    async def md5(self, parts: Sequence[tuple[File, int]]) -> list[str | SourceError]:
        """Return the MD5 of the first bytes of each file; errors as from `read`."""
        return await self._by_view(parts, lambda part: part[0], self._asker("md5"))

    async def have_digests(self, files: Sequence[tuple[File, Digest]]) -> list[bool | None]:
        """Return for each file whether its bytes have this digest; None if it cannot be read."""
        return await self._by_view(files, lambda item: item[0], self._asker("have_digests"))

    def _asker(self, method: str) -> Callable[[Sequence[Any], Fits], Awaitable[Sequence[Any]]]:
        async def ask(items: Sequence[Any], fits: Fits) -> Sequence[Any]:
            path = items[0][0].path
            return (await self._workers.ask(fits, path, method, items))[1]  # type: ignore[no-any-return]

        return ask

    async def same_bytes(self, one: str, other: str) -> bool | None:
        """Compare two files: on a worker that sees both, else by their digests."""
        first, second = await self._views_of([File(one, 0, 0), File(other, 0, 0)])
        both = has(*(view for view in (first, second) if view is not None))
        if any(both(worker) for worker in self._workers.all.values()):
            return (await self._workers.ask(both, one, "same_bytes", one, other))[1]  # type: ignore[no-any-return]
        digests = [
            (await self._workers.ask(has(*([view] if view else [])), path, "sha256", path))[1]
            for view, path in ((first, one), (second, other))
        ]
        return None if None in digests else digests[0] == digests[1]

    def relative(self, path: str) -> str:
        """Return a path relative to the place that it is below; a place that is a file is its own name."""
        for place in self.places:
            if rest := below(place, path):
                return rest.removeprefix(os.sep)
        return os.path.basename(path)  # noqa: PTH119 - the path need not be text


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
    workers = ScanningWorkers(cluster, settings, report, patience_seconds)
    try:
        async with anyio.create_task_group() as tasks:
            with stop.immediate_scope():
                await workers.begin(tasks)
            try:
                if stop.requested:
                    raise StoppedError
                walk = Walk(workers, settings.places, tasks)
                yield ClusterSource(workers, walk, settings, is_partial=is_partial)
            finally:
                workers.end()
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as errors:
        raise primary_error(errors) from None
