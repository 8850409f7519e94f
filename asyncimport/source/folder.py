"""The file system as a source: a sorted walk, a look at each header, and the bytes when they are sent.

Nothing here knows of XNAT or of the journal. What blocks runs in worker threads, but for the reading of small files
from a disk of this machine that answers at once.
"""

import os
import stat
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from math import inf
from pathlib import Path
from time import monotonic

import aiofiles
import anyio
import anyio.to_thread

from asyncimport.dicom import Identity
from asyncimport.errors import SourceError, UsageError
from asyncimport.model import Algorithm, Body, Digest, File, FileKind, Ignored
from asyncimport.model.texts import composed
from asyncimport.routing import glob_pattern
from asyncimport.source.digests import Hash, new_hash
from asyncimport.source.headers import (
    MOST_TOGETHER,
    Look,
    each,
    from_plain,
    look_into,
    look_into_many,
    look_into_many_apart,
)
from asyncimport.system.interpreter import Worker, WorkerDiedError, WorkerMissingError
from asyncimport.system.mounts import Devices, is_local

__all__ = ["LARGE", "Folder", "has_digest", "sha256_of"]

# Up to this size a body is read in one go: aiohttp warns of larger ones, and a thread hop a piece costs more.
LARGE = 1 << 20
_PIECE = 256 << 10
# The first batch is small, so that the first file is on its way at once; then a thread hop serves many files.
_FIRST_BATCH = 32
_BATCH = 512
_MANY = 4 * _BATCH
# Seconds from which on a file is slow to read, by the mean of so many lately (one may have waited for another thread of
# ours), and how many reads are made in threads after that.
_SLOW = 0.001
_LATELY = 8
_READS_IN_THREADS = 64
# Without waiting: what the walk met as a regular file may be a pipe by now.
_READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
# What os.fsencode goes by, at half its price.
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


class Folder:
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
        self._devices = Devices()
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
        return self._exclude is None or not self._exclude.fullmatch(composed(name))

    async def batches(self) -> AsyncIterator[list[File | Ignored]]:
        """Yield what the walk meets, in batches; nothing is opened yet."""
        links = await anyio.to_thread.run_sync(partial(_Links, self.places, follow=self._follow_links))
        walk: Iterator[File | Ignored] = chain.from_iterable(
            _walk(place, self._devices, links) for place in self.places
        )
        if self._exclude is not None:
            walk = filter(self._is_wanted, walk)
        size = _FIRST_BATCH
        while batch := await anyio.to_thread.run_sync(lambda: list(islice(walk, size))):  # noqa: B023 - awaited at once
            yield batch
            size = _BATCH
        self._worker.close()

    def identify(self, file: File) -> Identity | Ignored:
        """Look into a file. It blocks: call it in a worker thread."""
        return _found(file, look_into(file.path, ignore_archives=self._ignore_archives))

    async def look(self, files: Sequence[File]) -> list[Identity | Ignored]:
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
            return await anyio.to_thread.run_sync(_bodies, files, self._digests)
        began = monotonic()
        bodies = _bodies(files, self._digests)
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
        return await anyio.to_thread.run_sync(lambda: [_md5(file, size) for file, size in parts])

    def relative(self, path: str) -> str:
        """Return a path relative to the root that it was found below; a root that is a file is its own name."""
        for root in self.places:
            below = os.path.join(root, "")  # noqa: PTH118 - the path need not be text
            if path.startswith(below):
                return path[len(below) :]
        return os.path.basename(path)  # noqa: PTH119 - as above

    async def same_bytes(self, one: str, other: str) -> bool | None:
        """Compare two files; None when that cannot be done, as one of them cannot be read."""
        return await anyio.to_thread.run_sync(_same_bytes, one, other)

    async def have(self, files: Sequence[tuple[File, Digest]]) -> list[bool | None]:
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


def has_digest(file: File, digest: Digest) -> bool | None:
    """Whether the bytes of a file have this digest; None where it cannot be read, or is not as it was described.

    It blocks: call it in a worker thread.
    """
    known = new_hash(digest.algorithm)
    try:
        _take_in(file, file.size, known)
    except (SourceError, OSError):
        return None
    return known.digest() == digest.value


class _Both:
    """Two digests of the same bytes, read once."""

    def __init__(self) -> None:
        self.sha256, self.xxh3 = new_hash(Algorithm.SHA256), new_hash(Algorithm.XXH3)

    def update(self, data: bytes, /) -> None:
        """Take more bytes in."""
        self.sha256.update(data)
        self.xxh3.update(data)

    def digest(self) -> bytes:
        """Return the stronger one."""
        return self.sha256.digest()


def sha256_of(file: File, xxh3: bytes | None) -> tuple[bytes, bool] | None:
    """Return the SHA-256 of a file, and whether it holds what was sent, of which the XXH3 may be known.

    None where it holds something else, cannot be read, or is, if no XXH3 is known, not as it was described. It blocks:
    call it in a worker thread.
    """
    both = _Both()
    try:
        if xxh3 is not None:
            # Its bytes tell, whatever its inode and times are by now.
            found = os.stat(file.path)  # noqa: PTH116 - the path need not be text
            file = File(file.path, found.st_size, found.st_mtime_ns)
        _take_in(file, file.size, both)
    except (SourceError, OSError):
        return None
    if xxh3 is not None and both.xxh3.digest() != xxh3:
        return None
    return both.digest(), xxh3 is not None


def _identity(directory: str) -> tuple[int, int] | str:
    """Tell one directory from another: by its real path where a file system has no numbers. Raises: OSError."""
    found = os.stat(directory)  # noqa: PTH116 - the path need not be text
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(directory)


def _identities(places: Sequence[str]) -> Iterator[tuple[int, int] | str]:
    for place in places:
        with suppress(OSError):
            yield _identity(place)


class _Links:
    """Which links one walk follows: those to files of the source, and with `follow` those that lead out of it too.

    Links to directories of the source are not followed, as all that is there is met in its place. No directory is
    walked twice, so that links that lead round in circles, or to one place, do no harm, and neither do places that lie
    in each other, or are one by several names.
    """

    def __init__(self, places: Sequence[str], *, follow: bool) -> None:
        self.follow = follow
        self._homes = [os.path.realpath(place) for place in places]
        self._walked: set[tuple[int, int] | str] = set()
        # Without links two walks meet in the place where one of them begins, or not at all.
        self._meeting = set(_identities(self._homes)) if len(places) > 1 else set()

    def enter(self, directory: str) -> bool:
        """Note that a directory is walked; whether it is for the first time. Raises: OSError."""
        if not (self.follow or self._meeting):
            return True
        identity = _identity(directory)
        if identity in self._walked:
            return False
        if self.follow or identity in self._meeting:
            self._walked.add(identity)
        return True

    def refuse(self, path: str, found: os.stat_result) -> Ignored | None:
        """Say why a link is not followed to what was `found` there; None when it is."""
        real = os.path.realpath(path)
        is_directory = stat.S_ISDIR(found.st_mode)
        what = "directory" if is_directory else "file"
        if any(real == home or real.startswith(os.path.join(home, "")) for home in self._homes):  # noqa: PTH118
            text = "a link to a directory of the source, where all that is in it is met"
            return Ignored(File(path, 0, 0), FileKind.INNER_LINK, text) if is_directory else None
        if self.follow or not (is_directory or stat.S_ISREG(found.st_mode)):
            return None
        return Ignored(
            File(path, 0, 0), FileKind.LINK, f"a link to a {what} outside the source; --follow-links follows it"
        )


def _walk(root: str, devices: Devices, links: _Links) -> Iterator[File | Ignored]:
    """Pass everything below `root`, directories depth first, names in sorted order. `links` says which it follows."""
    try:
        found = os.stat(root)  # noqa: PTH116 - the path need not be text
    except OSError as error:
        yield _unreadable(root, error)
        return
    if not stat.S_ISDIR(found.st_mode):
        yield _look(root, found, devices)
        return
    directories, together = [root], 1
    while directories:
        path = directories.pop()
        try:
            if not links.enter(path):
                continue
            with os.scandir(path) as entries:
                left = sorted(entries, key=lambda entry: entry.name.encode(_ENCODING, _ERRORS), reverse=True)
        except OSError as error:
            yield _unreadable(path, error)
            continue
        below = []
        # Taken from the list, as each keeps what was found out about it, half a kilobyte.
        while some := [left.pop() for _ in range(min(_FIRST_BATCH * together, len(left)))]:
            every, together = each(partial(_met, devices=devices, links=links), some, together)
            for entry, met in zip(some, every, strict=True):
                if met is None:
                    below.append(entry.path)
                else:
                    yield met
        directories.extend(reversed(below))


def _met(entry: os.DirEntry[str], devices: Devices, links: _Links) -> File | Ignored | None:
    """Return what stands in a directory, or None for a directory to be walked."""
    try:
        if entry.is_dir(follow_symlinks=False):
            return None
        found = entry.stat()
        if entry.is_symlink():
            if (refused := links.refuse(entry.path, found)) is not None:
                return refused
            if stat.S_ISDIR(found.st_mode):
                return None
        return _look(entry.path, found, devices)
    except OSError as error:
        return _unreadable(entry.path, error)


def _look(path: str, found: os.stat_result, devices: Devices) -> File | Ignored:
    if stat.S_ISREG(found.st_mode):
        return File.of(path, found, lasting=devices.keep_inodes(path, found))
    return Ignored(File(path, 0, 0), FileKind.NOT_DICOM, "a pipe, socket or device")


def _unreadable(path: str, error: OSError) -> Ignored:
    reason = (error.strerror or "cannot be read").lower()
    return Ignored(File(path, 0, 0), FileKind.UNREADABLE, reason, damaged=True)


def _bodies(files: Sequence[File], digests: bool) -> list[Body | SourceError]:  # noqa: FBT001 - of run_sync
    return [_read(file, digests=digests) for file in files]


def _read(file: File, *, digests: bool) -> Body | SourceError:
    try:
        if file.size > LARGE:
            _check(file, os.stat(file.path))  # noqa: PTH116 - the path need not be text
            return _Large(file, with_sha256=digests)
        handle = os.open(file.path, _READING)
        try:
            _check(file, os.fstat(handle))
            body = os.read(handle, file.size + 1)
        finally:
            os.close(handle)
        return body if len(body) == file.size else SourceError("the file changed while it was read")
    except SourceError as error:
        return error
    except OSError as error:
        return _cannot_be_read(error)


def _md5(file: File, size: int) -> str | SourceError:
    digest = new_hash(Algorithm.MD5)
    try:
        _take_in(file, size, digest)
    except SourceError as error:
        return error
    except OSError as error:
        return _cannot_be_read(error)
    return digest.digest().hex()


def _take_in(file: File, size: int, digest: Hash) -> None:
    """Read the first so many bytes of a file. Raises: SourceError when it is not as it was described, OSError."""
    with open(file.path, "rb", buffering=0, opener=_opened) as handle:
        _check(file, os.fstat(handle.fileno()))
        while size and (piece := handle.read(min(_PIECE, size))):
            digest.update(piece)
            size -= len(piece)
        _check(file, os.fstat(handle.fileno()))
    if size:
        raise SourceError("the file changed while it was read")


def _cannot_be_read(error: OSError) -> SourceError:
    return SourceError(f"the file cannot be read: {(error.strerror or 'unknown error').lower()}")


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | _READING)


def _check(file: File, now: os.stat_result) -> None:
    if not file.is_unchanged(now):
        raise SourceError("the file changed after it was scanned")


def _check_open(file: File, handle: int) -> None:
    """Check a file that has been read: it may have been removed meanwhile, which changes its ctime and no byte."""
    if not file.looks_unchanged(os.fstat(handle)):
        raise SourceError("the file changed after it was scanned")


def _same_bytes(one: str, other: str) -> bool | None:
    try:
        with (
            open(one, "rb", opener=_opened) as first,
            open(other, "rb", opener=_opened) as second,
        ):
            while (piece := first.read(_PIECE)) == second.read(_PIECE):
                if not piece:
                    return True
    except OSError:
        return None
    return False


class _Large:
    """The bytes of a large file in pieces, counted: exactly as many as were scanned, or a SourceError."""

    def __init__(self, file: File, *, with_sha256: bool = False) -> None:
        self._file = file
        self._with_sha256 = with_sha256
        self.size = file.size
        self.xxh3: bytes | None = None
        self.sha256: bytes | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        # A cancellation in the middle of opening or closing would leave aiofiles' handle open: both are shielded.
        # That holds in tasks of anyio only; aiohttp's own, which asyncio cancels, must not iterate over this.
        try:
            with anyio.CancelScope(shield=True):
                handle = await aiofiles.open(self._file.path, "rb", buffering=0, opener=_opened)
            xxh3 = new_hash(Algorithm.XXH3)
            sha256 = new_hash(Algorithm.SHA256) if self._with_sha256 else None
            try:
                left = self.size
                while left:
                    piece = await handle.read(min(_PIECE, left))
                    if not piece:
                        raise SourceError("the file shrank while it was sent")
                    left -= len(piece)
                    # 10 us: less than the hop to a thread, which the slower digest is worth.
                    xxh3.update(piece)
                    if sha256 is not None:
                        await anyio.to_thread.run_sync(sha256.update, piece)
                    if not left:
                        # Before the last piece, so that a file that was rewritten never ends as a whole body.
                        await anyio.to_thread.run_sync(_check_open, self._file, handle.fileno())
                        self.xxh3 = xxh3.digest()
                        self.sha256 = sha256.digest() if sha256 is not None else None
                    yield piece
            finally:
                with anyio.CancelScope(shield=True):
                    await handle.close()
        except OSError as error:
            raise _cannot_be_read(error) from error
