"""The file system as a source: a sorted walk, the header of each file, and the bytes to send.

Nothing here knows XNAT or the journal. What blocks runs in worker threads, except reading bodies from a local disk that
answers at once.
"""

import os
import sys
import threading
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path

import anyio
import anyio.to_thread

from asyncimport.dicom import Identity
from asyncimport.errors import SourceError, UsageError
from asyncimport.model.files import Body, Digest, File, Ignored
from asyncimport.model.states import FileKind
from asyncimport.model.texts import nfc
from asyncimport.routing.filters import glob_pattern
from asyncimport.source.bytes_on_disk import LARGE, DiskReader, compute_md5, has_digest, read_bodies, same_bytes
from asyncimport.source.headers import (
    MAX_TOGETHER,
    HeaderResult,
    from_plain,
    identify_file,
    identify_files,
    identify_files_in_worker,
)
from asyncimport.source.walk import FIRST_BATCH, LinkPolicy, walk
from asyncimport.system.interpreter import Worker, WorkerDiedError, WorkerMissingError
from asyncimport.system.mounts import DeviceCache, is_local

_BATCH_FILES = 512
_FILES_BEFORE_WORKER = 4 * _BATCH_FILES


class FileSource:
    """Directories (or single files), walked in sorted order. Content decides what is DICOM, never a name.

    `follow_links` follows links that lead out of the places. `ignore_archives` treats archive files as any file that is
    not DICOM. With `digests`, large files are digested while they are read. `exclude` has shell patterns of paths below
    a place to skip; their `*` matches `/` too. `is_partial`: only a part of the files is wanted. After
    `files_before_worker`, a worker process reads headers. Raises: UsageError when a place does not exist.
    """

    def __init__(
        self,
        places: Sequence[str | os.PathLike[str]],
        *,
        ignore_archives: bool = False,
        follow_links: bool = False,
        digests: bool = False,
        exclude: Sequence[str] = (),
        is_partial: bool = False,
        files_before_worker: int = _FILES_BEFORE_WORKER,
    ) -> None:
        self._exclude = glob_pattern(exclude)
        self._is_partial = is_partial or self._exclude is not None
        self._ignore_archives = ignore_archives
        self._follow_links = follow_links
        # A worker process is worth its start only after this many files.
        self._left_for_threads = files_before_worker if (os.cpu_count() or 1) > 1 else sys.maxsize
        self._worker = Worker(identify_files_in_worker)
        self._together = 1
        self._digests = digests
        self._devices = DeviceCache()
        self.uncovered: Collection[str] = ()
        """Places that may have files which this machine does not see."""
        self.places = [os.path.abspath(place) for place in places]  # noqa: PTH100 - Path.resolve would follow links
        for place in self.places:
            if not os.path.lexists(place):
                raise UsageError(f"no such file or directory: {place}", hint="check the path of SOURCE")
        self._disk = DiskReader(remote=follow_links or not is_local(map(Path, self.places)))

    @property
    def roots(self) -> Sequence[str]:
        """The places that the walk covers wholly: none if only a part is wanted."""
        return () if self._is_partial else [place for place in self.places if place not in self.uncovered]

    def _is_wanted(self, found: File | Ignored) -> bool:
        name = self.relative((found.file if isinstance(found, Ignored) else found).path)
        return self._exclude is None or not self._exclude.fullmatch(nfc(name))

    @property
    def ahead(self) -> int:
        """Batches that are worth identifying at once: the disk gives no more if several are."""
        return 1

    @property
    def is_in_order(self) -> bool:
        """Whether each directory is left for good when the next one is met."""
        return len(self.places) <= 1

    async def batches(self, places: Sequence[str] | None = None) -> AsyncIterator[list[File | Ignored]]:
        """Yield what the walk finds, or that of some of the places, in batches; it opens nothing."""
        links = await anyio.to_thread.run_sync(partial(LinkPolicy, self.places, follow=self._follow_links))
        walks = (walk(place, self._devices, links) for place in (self.places if places is None else places))
        found: Iterator[File | Ignored] = chain.from_iterable(walks)
        if self._exclude is not None:
            found = filter(self._is_wanted, found)
        size = FIRST_BATCH
        while batch := await anyio.to_thread.run_sync(lambda: list(islice(found, size))):  # noqa: B023 - awaited at once
            yield batch
            size = _BATCH_FILES
        self._worker.close()

    def identify(self, file: File) -> Identity | Ignored:
        """Identify a file. It blocks: call it in a worker thread."""
        return _found(file, identify_file(file.path, ignore_archives=self._ignore_archives))

    async def identify_many(self, files: Sequence[File]) -> list[Identity | Ignored]:
        """Identify files in a thread; after many in a worker process, as that keeps the loop free to send."""
        self._left_for_threads -= len(files)
        paths = [file.path for file in files]
        is_abandoned = threading.Event()
        read = partial(self._identify_in_worker, is_abandoned) if self._left_for_threads < 0 else self._identify_here
        try:
            results = await anyio.to_thread.run_sync(read, paths, abandon_on_cancel=True)
        except anyio.get_cancelled_exc_class():
            is_abandoned.set()
            self._worker.close()
            raise
        return [_found(file, result) for file, result in zip(files, results, strict=True)]

    def _identify_here(self, paths: Sequence[str]) -> list[HeaderResult]:
        results, self._together = identify_files(paths, self._ignore_archives, self._together)
        return results

    def _identify_in_worker(self, is_abandoned: threading.Event, paths: Sequence[str]) -> list[HeaderResult]:
        """Identify files in the worker. If it dies, try them one by one, to find the file that ends it."""
        try:
            return self._ask_worker(paths)
        except WorkerMissingError:
            return self._identify_without_worker(paths)
        except WorkerDiedError:
            results: list[HeaderResult] = []
        for number, path in enumerate(paths):
            if is_abandoned.is_set():
                break
            try:
                results += self._ask_worker([path])
            except WorkerMissingError:
                return results + self._identify_without_worker(paths[number:])
            except WorkerDiedError:
                results.append(("UNREADABLE", "reading its header kills the process that reads it", True))
        return results

    def _ask_worker(self, paths: Sequence[str]) -> list[HeaderResult]:
        results, self._together = self._worker.call((paths, self._ignore_archives, self._together))
        return list(map(from_plain, results))

    def _identify_without_worker(self, paths: Sequence[str]) -> list[HeaderResult]:
        self._left_for_threads = sys.maxsize
        return self._identify_here(paths)

    async def read(self, files: Sequence[File]) -> list[Body | SourceError]:
        """Read the bodies of files for one attempt to send them; large ones are read while they are sent.

        A file that cannot be read, or is not as scanned, gives a SourceError in its place.
        """
        return await read_bodies(files, self._disk, digests=self._digests)

    @property
    def read_ahead(self) -> int:
        """Bytes worth reading at once, as files share a thread hop; without one, each is best read when it is due."""
        return LARGE if self._disk.uses_threads or self._digests else 0

    async def md5(self, parts: Sequence[tuple[File, int]]) -> list[str | SourceError]:
        """Return the MD5 of the first bytes of each file, in one thread hop; errors as from `read`."""
        return await anyio.to_thread.run_sync(lambda: [compute_md5(file, size) for file, size in parts])

    def relative(self, path: str) -> str:
        """Return a path relative to the place that it is below; a place that is a file is its own name."""
        for place in self.places:
            below = os.path.join(place, "")  # noqa: PTH118 - the path need not be text
            if path.startswith(below):
                return path[len(below) :]
        return os.path.basename(path)  # noqa: PTH119 - as above

    async def same_bytes(self, one: str, other: str) -> bool | None:
        """Compare two files; None if one cannot be read."""
        return await anyio.to_thread.run_sync(same_bytes, one, other)

    async def have_digests(self, files: Sequence[tuple[File, Digest]]) -> list[bool | None]:
        """Return for each file whether its bytes have this digest; None if it cannot be read, or changes meanwhile."""
        found: list[bool | None] = [None] * len(files)
        limiter = anyio.CapacityLimiter(MAX_TOGETHER)

        async def one(place: int) -> None:
            found[place] = await anyio.to_thread.run_sync(
                has_digest, *files[place], abandon_on_cancel=True, limiter=limiter
            )

        async with anyio.create_task_group() as tasks:
            for place in range(len(files)):
                tasks.start_soon(one, place)
        return found


def _found(file: File, result: HeaderResult) -> Identity | Ignored:
    if isinstance(result, Identity):
        return result
    kind, reason, damaged = result
    return Ignored(file, FileKind(kind), reason, damaged=damaged)
