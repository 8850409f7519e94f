"""The walk of a cluster: each view is walked by a worker that has it.

So nothing is missed; a file that several views have must be the same one, as the journal knows files by their paths.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from itertools import count

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectSendStream

from asyncimport.cluster.ports import WorkerLostError
from asyncimport.cluster.scanning_actor import unpack_batch
from asyncimport.cluster.scanning_workers import ScanningWorkers, View, has
from asyncimport.errors import UsageError
from asyncimport.model.files import File, Ignored
from asyncimport.model.texts import plain

Batch = list[File | Ignored]
# The header is there.
_HEAD_BYTES = 1 << 16


class Walk:
    """Walks places by workers, in `tasks`."""

    def __init__(self, workers: ScanningWorkers, places: Sequence[str], tasks: TaskGroup) -> None:
        self._workers = workers
        self._places = places
        self._tasks = tasks
        self._numbers = count()
        self.is_in_order = False
        """Whether each directory is left for good when the next one is met."""
        self.walkers: list[str] = []
        """The addresses of the workers that are walking."""

    async def batches(self) -> AsyncIterator[Batch]:
        """Yield what the walks find. Places that the same workers see are walked one after the other."""
        chains: dict[frozenset[str], list[View]] = {}
        for place in self._places:
            for view in self._workers.views[place]:
                seen_by = frozenset(address for address, one in self._workers.all.items() if view in one.views)
                # Those that nobody sees now may come back with different workers.
                chains.setdefault(seen_by or frozenset({view.place, view.tree}), []).append(view)
        self.is_in_order = len(self._places) == len(chains) == 1
        put, found = anyio.create_memory_object_stream[Batch | Exception](len(chains))
        for views in chains.values():
            self._tasks.start_soon(self._walk, views, put.clone())
        put.close()
        with found:
            async for batch in found:
                if isinstance(batch, Exception):
                    raise batch
                yield batch

    async def _walk(self, views: Sequence[View], put: MemoryObjectSendStream[Batch | Exception]) -> None:
        """Walk views that the same workers see, from the beginning again if a worker is lost."""
        async with put:
            with suppress(anyio.BrokenResourceError):  # nobody reads any more
                try:
                    while not await self._walk_once(views, put):
                        self.is_in_order = False
                except Exception as error:  # noqa: BLE001 - raised where the walk is read
                    await put.send(error)

    async def _walk_once(self, views: Sequence[View], put: MemoryObjectSendStream[Batch | Exception]) -> bool:
        """Walk all views; return False if the worker is lost. Raises: UnavailableError, UsageError."""
        workers, places = self._workers, [view.place for view in views]
        worker = await workers.find(has(*views), places[0])
        walk, address = next(self._numbers), worker.address
        self.walkers.append(address)
        try:
            await workers.call(worker, "start_walk", walk, places)
            for number in count():
                batch = await workers.call(worker, "next_batch", walk, number, read=unpack_batch)
                if not batch:
                    return True
                if any(len(workers.views[place]) > 1 for place in places):
                    batch = await self._only_here(batch, views)
                await put.send(batch)
        except WorkerLostError:
            workers.notice(f"worker {worker.name} was lost: another one walks {plain(places[0])} again")
        finally:
            self.walkers.remove(address)
        return False

    async def _only_here(self, batch: Batch, views: Sequence[View]) -> Batch:
        """Leave out files that an earlier view of their place has too. Raises: UsageError if it is another file."""
        workers, left = self._workers, list(batch)
        for view in views:
            several = workers.views[view.place]
            for other in several:
                files = [one for one in left if isinstance(one, File) and workers.place_of(one.path) == view.place]
                if other == view or not files:
                    continue
                paths = [file.path for file in files]
                _, states = await workers.ask(has(other), view.place, "states", paths)
                twice = [file for file, state in zip(files, states, strict=True) if state is not None]
                for file, state in zip(files, states, strict=True):
                    if state not in {None, (file.size, file.mtime_ns)}:
                        raise _differs(file)
                if twice and several.index(other) < several.index(view):
                    await self._compare(twice, view, other)
                    here = set(twice)
                    left = [one for one in left if one not in here]
        return left

    async def _compare(self, files: Sequence[File], view: View, other: View) -> None:
        """Compare how files begin in two views: clocks and sizes may agree by chance. Raises: UsageError."""
        # Inode and ctime are those of one view.
        parts = [(File(file.path, file.size, file.mtime_ns), min(file.size, _HEAD_BYTES)) for file in files]
        _, heads = await self._workers.ask(has(view), view.place, "md5", parts)
        _, others = await self._workers.ask(has(other), view.place, "md5", parts)
        for file, one, two in zip(files, heads, others, strict=True):
            # One that cannot be read is reported when it is identified.
            if isinstance(one, str) and isinstance(two, str) and one != two:
                raise _differs(file)


def _differs(file: File) -> UsageError:
    return UsageError(
        f"two workers see different files at {plain(file.path)}",
        hint="give their directories different names, with --path-map",
    )
