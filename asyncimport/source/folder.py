"""The file system as a source: a sorted walk, a look at each header, and the bytes when they are sent.

Nothing here knows of XNAT or of the journal. What blocks runs in worker threads, but for the reading of small files
from a disk of this machine that answers at once.
"""

import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from math import inf
from pathlib import Path
from time import monotonic

import anyio
import anyio.to_thread

from asyncimport.dicom import Identity
from asyncimport.errors import SourceError, UsageError
from asyncimport.model import Body, Digest, File, FileKind, Ignored
from asyncimport.model.texts import nfc
from asyncimport.routing import glob_pattern
from asyncimport.source.bytes_on_disk import LARGE, compute_md5, has_digest, read_bodies, same_bytes
from asyncimport.source.headers import (
    MOST_TOGETHER,
    Look,
    from_plain,
    look_into,
    look_into_many,
    look_into_many_apart,
)
from asyncimport.source.walk import FIRST_BATCH, Links, walk
from asyncimport.system.interpreter import Worker, WorkerDiedError, WorkerMissingError
from asyncimport.system.mounts import DeviceCache, is_local

_BATCH = 512
_MANY = 4 * _BATCH
# Seconds from which on a file is slow to read, by the mean of so many lately (one may have waited for another thread of
# ours), and how many reads are made in threads after that.
_SLOW = 0.001
_LATELY = 8
_READS_IN_THREADS = 64


class FileSource:
    """Directories (or single files), walked in sorted order. Content decides what is DICOM, never a name.

    Links that lead out of the places are followed with `follow_links` only.
    Archives that hold DICOM are told apart from what is merely not DICOM, unless `ignore_archives`. With `digests`,
    large files are digested while they are read. After `many` files, headers are read in another process. Paths below
    a root that match one of `exclude` are passed over: shell patterns, whose `*` passes `/` too.
    `is_part`: not all that is met is asked for. Raises: UsageError when a root does not exist.
    """

    def __init__(
        self,
        roots: Sequence[str | os.PathLike[str]],
        *,
        ignore_archives: bool = False,
        follow_links: bool = False,
        digests: bool = False,
        exclude: Sequence[str] = (),
        is_part: bool = False,
        many: int = _MANY,
    ) -> None:
        self._exclude = glob_pattern(exclude)
        self._is_part = is_part or self._exclude is not None
        self._ignore_archives = ignore_archives
        self._follow_links = follow_links
        # Of so many files the headers are read in threads before it is worth while to begin a process.
        self._left_for_threads = many if (os.cpu_count() or 1) > 1 else sys.maxsize
        self._worker = Worker(look_into_many_apart)
        self._together = 1
        self._digests = digests
        self._devices = DeviceCache()
        self._reads_in_threads: float = 1
        self._pace = 0.0
        """Seconds that a file takes to be read, lately."""
        self.places = [os.path.abspath(root) for root in roots]  # noqa: PTH100 - Path.resolve would follow links
        for root in self.places:
            if not os.path.lexists(root):
                raise UsageError(f"no such file or directory: {root}", hint="check the path of SOURCE")
        if follow_links or not is_local(map(Path, self.places)):
            # A server that goes away keeps whoever reads from it waiting, for minutes: never the loop.
            self._reads_in_threads = inf

    @property
    def roots(self) -> Sequence[str]:
        """The places that the walk covers wholly: none where only a part is asked for."""
        return () if self._is_part else self.places

    def _is_wanted(self, found: File | Ignored) -> bool:
        name = self.relative((found.file if isinstance(found, Ignored) else found).path)
        return self._exclude is None or not self._exclude.fullmatch(nfc(name))

    async def batches(self) -> AsyncIterator[list[File | Ignored]]:
        """Yield what the walk meets, in batches; nothing is opened yet."""
        links = await anyio.to_thread.run_sync(partial(Links, self.places, follow=self._follow_links))
        walks = (walk(place, self._devices, links) for place in self.places)
        found: Iterator[File | Ignored] = chain.from_iterable(walks)
        if self._exclude is not None:
            found = filter(self._is_wanted, found)
        size = FIRST_BATCH
        while batch := await anyio.to_thread.run_sync(lambda: list(islice(found, size))):  # noqa: B023 - awaited at once
            yield batch
            size = _BATCH
        self._worker.close()

    def identify(self, file: File) -> Identity | Ignored:
        """Look into a file. It blocks: call it in a worker thread."""
        return _found(file, look_into(file.path, ignore_archives=self._ignore_archives))

    async def identify_many(self, files: Sequence[File]) -> list[Identity | Ignored]:
        """Look into files, in one thread hop; the headers of many files are read in a process of their own.

        Reading headers is pure Python, and would keep the loop from sending. It only reads, so that nothing is lost
        when a stop leaves it behind at a slow disk, where many are read at once.
        """
        self._left_for_threads -= len(files)
        paths = [file.path for file in files]
        is_left = threading.Event()
        read = partial(self._looks_apart, is_left) if self._left_for_threads < 0 else self._looks_here
        try:
            looks = await anyio.to_thread.run_sync(read, paths, abandon_on_cancel=True)
        except anyio.get_cancelled_exc_class():
            is_left.set()
            self._worker.close()
            raise
        return [_found(file, look) for file, look in zip(files, looks, strict=True)]

    def _looks_here(self, paths: Sequence[str]) -> list[Look]:
        looks, self._together = look_into_many(paths, self._ignore_archives, self._together)
        return looks

    def _looks_apart(self, is_left: threading.Event, paths: Sequence[str]) -> list[Look]:
        """Look into files in the worker; if it dies, one by one in another, to find out which of them ended it.

        It stops when nobody waits for it. Where no worker can be started, headers are read from here.
        """
        try:
            return self._ask_worker(paths)
        except WorkerMissingError:
            return self._looks_without_worker(paths)
        except WorkerDiedError:
            looks: list[Look] = []
        for number, path in enumerate(paths):
            if is_left.is_set():
                break
            try:
                looks += self._ask_worker([path])
            except WorkerMissingError:
                return looks + self._looks_without_worker(paths[number:])
            except WorkerDiedError:
                looks.append(("UNREADABLE", "to read its header ends the process that reads it", True))
        return looks

    def _ask_worker(self, paths: Sequence[str]) -> list[Look]:
        """Look into files in the worker. Raises: WorkerDiedError, WorkerMissingError."""
        looks, self._together = self._worker.call((paths, self._ignore_archives, self._together))
        return list(map(from_plain, looks))

    def _looks_without_worker(self, paths: Sequence[str]) -> list[Look]:
        self._left_for_threads = sys.maxsize
        return self._looks_here(paths)

    async def read(self, files: Sequence[File]) -> list[Body | SourceError]:
        """Read the bodies of files for one attempt to send them; large ones are read as they go.

        A file that is gone, cannot be read or is not what was scanned gives a SourceError in its place. As long as a
        disk of this machine answers at once, files are read in the loop: 20 us each from the page cache, to which the
        hop to a thread and back would add as much again. If the last ones were slow, the next are read in threads.
        """
        if self._reads_in_threads or any(file.size > LARGE for file in files):
            self._reads_in_threads = max(self._reads_in_threads - 1, 0)
            # How long that takes tells little of the disk: Python's lock is waited for there, with each call.
            return await anyio.to_thread.run_sync(read_bodies, files, self._digests)
        began = monotonic()
        bodies = read_bodies(files, self._digests)
        self._pace += ((monotonic() - began) / max(1, len(files)) - self._pace) / _LATELY
        if self._pace > _SLOW:
            self._pace = _SLOW
            self._reads_in_threads = _READS_IN_THREADS
        return bodies

    @property
    def read_ahead(self) -> int:
        """Bytes that are worth reading at a time: a hop to a thread is shared by several files.

        Where no hop is needed, each is best read when it is its turn, and sent while the processor has it at hand.
        """
        return LARGE if self._reads_in_threads or self._digests else 0

    async def md5(self, parts: Sequence[tuple[File, int]]) -> list[str | SourceError]:
        """Return the MD5 of the first so many bytes of each file, in one thread hop; errors as from `read`."""
        return await anyio.to_thread.run_sync(lambda: [compute_md5(file, size) for file, size in parts])

    def relative(self, path: str) -> str:
        """Return a path relative to the root that it was found below; a root that is a file is its own name."""
        for root in self.places:
            below = os.path.join(root, "")  # noqa: PTH118 - the path need not be text
            if path.startswith(below):
                return path[len(below) :]
        return os.path.basename(path)  # noqa: PTH119 - as above

    async def same_bytes(self, one: str, other: str) -> bool | None:
        """Compare two files; None when that cannot be done, as one of them cannot be read."""
        return await anyio.to_thread.run_sync(same_bytes, one, other)

    async def have_digests(self, files: Sequence[tuple[File, Digest]]) -> list[bool | None]:
        """Tell of each file whether its bytes have this digest; None where it cannot be read, or changes meanwhile.

        Several are read at a time. It only reads, so that nothing is lost when a stop leaves it behind.
        """
        found: list[bool | None] = [None] * len(files)
        limiter = anyio.CapacityLimiter(MOST_TOGETHER)

        async def one(place: int) -> None:
            found[place] = await anyio.to_thread.run_sync(
                has_digest, *files[place], abandon_on_cancel=True, limiter=limiter
            )

        async with anyio.create_task_group() as tasks:
            for place in range(len(files)):
                tasks.start_soon(one, place)
        return found


def _found(file: File, look: Look) -> Identity | Ignored:
    if isinstance(look, Identity):
        return look
    kind, reason, damaged = look
    return Ignored(file, FileKind(kind), reason, damaged=damaged)
