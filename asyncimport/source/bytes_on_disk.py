"""The bytes of files to send or compare: read, digested, and checked not to have changed."""

import hashlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from math import inf
from time import monotonic
from typing import Protocol, TypeVar

import anyio.to_thread
import xxhash

from asyncimport.errors import SourceError
from asyncimport.model.files import Algorithm, Body, Digest, File

T = TypeVar("T")


class Hash(Protocol):
    """A digest in progress."""

    def update(self, data: bytes, /) -> object:
        """Add bytes."""
        ...

    def digest(self) -> bytes:
        """Return the digest of all bytes added."""
        ...


def xxh3_of(data: bytes) -> bytes:
    """Return the XXH3-128 of bytes: 3 us for 131 kB; SHA-256 takes 75 us, even with its own CPU instructions."""
    return xxhash.xxh3_128_digest(data)


def new_hash(algorithm: Algorithm) -> Hash:
    """Start a digest."""
    if algorithm is Algorithm.XXH3:
        return xxhash.xxh3_128()
    return hashlib.new(algorithm, usedforsecurity=False)


# Up to this size a body is read in one go: aiohttp warns of larger ones, and a thread hop for each piece costs more.
LARGE = 1 << 20
_PIECE_BYTES = 256 << 10
# A disk is slow from this mean on, over the last reads (one may have waited for another thread of ours). Then this
# many reads are made in threads.
_SLOW_SECONDS = 0.001
_MEAN_OF_READS = 8
_READS_IN_THREADS = 64
# Without waiting: a regular file may be a pipe by now.
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def has_digest(file: File, digest: Digest) -> bool | None:
    """Whether a file has this digest; None if it cannot be read or is not as described. It blocks."""
    known = new_hash(digest.algorithm)
    try:
        _update_hash(file, file.size, known)
    except (SourceError, OSError):
        return None
    return known.digest() == digest.value


class _TwoHashes:
    def __init__(self) -> None:
        self.sha256, self.xxh3 = new_hash(Algorithm.SHA256), new_hash(Algorithm.XXH3)

    def update(self, data: bytes, /) -> None:
        """Add bytes."""
        self.sha256.update(data)
        self.xxh3.update(data)

    def digest(self) -> bytes:
        """Return the stronger one."""
        return self.sha256.digest()


def compute_sha256(file: File, xxh3: bytes | None) -> tuple[bytes, bool] | None:
    """Return the SHA-256 of a file, and whether its XXH3 proves it to hold what was sent; None if it does not.

    It is None too if the file cannot be read or, without a known XXH3, is not as described. It blocks.
    """
    both = _TwoHashes()
    try:
        if xxh3 is not None:
            # Its bytes decide, whatever its inode and times are.
            found = os.stat(file.path)  # noqa: PTH116 - the path need not be text
            file = File(file.path, found.st_size, found.st_mtime_ns)
        _update_hash(file, file.size, both)
    except (SourceError, OSError):
        return None
    if xxh3 is not None and both.xxh3.digest() != xxh3:
        return None
    return both.digest(), xxh3 is not None


async def read_bodies(files: Sequence[File], disk: "DiskReader", *, digests: bool) -> list[Body | SourceError]:
    """Return the bodies of files, or the error of each that cannot be read; large ones are read while they are sent."""
    return await disk.call(
        lambda: [_read(file, disk, digests=digests) for file in files],
        reads=len(files),
        is_slow=any(file.size > LARGE for file in files),
    )


def _read(file: File, disk: "DiskReader", *, digests: bool) -> Body | SourceError:
    try:
        if file.size > LARGE:
            _check_unchanged(file, os.stat(file.path))  # noqa: PTH116 - the path need not be text
            return _StreamedFile(file, disk, with_sha256=digests)
        handle = os.open(file.path, _READ_FLAGS)
        try:
            _check_unchanged(file, os.fstat(handle))
            body = os.read(handle, file.size + 1)
        finally:
            os.close(handle)
        return body if len(body) == file.size else SourceError("the file changed while it was read")
    except SourceError as error:
        return error
    except OSError as error:
        return _read_error(error)


def read_piece(file: File, begin: int, size: int) -> bytes | SourceError:
    """Return bytes of a file from a position on, or the error. It blocks."""
    try:
        with open(file.path, "rb", buffering=0, opener=_open_without_waiting) as handle:
            _check_unchanged(file, os.fstat(handle.fileno()))
            handle.seek(begin)
            piece = handle.read(size)
            _check_unchanged_while_open(file, handle.fileno())
    except SourceError as error:
        return error
    except OSError as error:
        return _read_error(error)
    return piece


def compute_md5(file: File, size: int) -> str | SourceError:
    """Return the MD5 (hexadecimal) of the first `size` bytes of a file, or the error."""
    digest = new_hash(Algorithm.MD5)
    try:
        _update_hash(file, size, digest)
    except SourceError as error:
        return error
    except OSError as error:
        return _read_error(error)
    return digest.digest().hex()


def _update_hash(file: File, size: int, digest: Hash) -> None:
    """Hash the first `size` bytes of a file. Raises: SourceError when the file is not as described, OSError."""
    with open(file.path, "rb", buffering=0, opener=_open_without_waiting) as handle:
        _check_unchanged(file, os.fstat(handle.fileno()))
        while size and (piece := handle.read(min(_PIECE_BYTES, size))):
            digest.update(piece)
            size -= len(piece)
        _check_unchanged(file, os.fstat(handle.fileno()))
    if size:
        raise SourceError("the file changed while it was read")


def _read_error(error: OSError) -> SourceError:
    may_be_elsewhere = isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError)
    return SourceError(
        f"the file cannot be read: {(error.strerror or 'unknown error').lower()}", may_be_elsewhere=may_be_elsewhere
    )


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | _READ_FLAGS)


def _check_unchanged(file: File, now: os.stat_result) -> None:
    if not file.is_unchanged(now):
        # Another machine may have the one that was scanned: its own copy, or what is in its cache.
        raise SourceError("the file changed after it was scanned", may_be_elsewhere=True)


def _check_unchanged_while_open(file: File, handle: int) -> None:
    """Check a file after reading. It may have been removed, which changes its ctime and no byte."""
    if not file.looks_unchanged(os.fstat(handle)):
        raise SourceError("the file changed after it was scanned")


def same_bytes(one: str, other: str) -> bool | None:
    """Whether two files have the same bytes; None if one cannot be read."""
    try:
        with (
            open(one, "rb", opener=_open_without_waiting) as first,
            open(other, "rb", opener=_open_without_waiting) as second,
        ):
            while (piece := first.read(_PIECE_BYTES)) == second.read(_PIECE_BYTES):
                if not piece:
                    return True
    except OSError:
        return None
    return False


class DiskReader:
    """Reads from a disk in the loop while it answers at once, else in threads.

    From the page cache a read takes 20 us, which a thread hop would double. If the last reads were slow, the next ones
    are made in threads. A `remote` disk is always read in threads: a dead server blocks its readers for minutes.
    """

    def __init__(self, *, remote: bool, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._left_for_threads: float = inf if remote else 1
        self._seconds_per_read = 0.0

    @property
    def uses_threads(self) -> bool:
        """Whether the next read is made in a thread."""
        return self._left_for_threads > 0

    async def call(self, read: Callable[[], T], *, reads: int = 1, is_slow: bool = False) -> T:
        """Return the result of a function that makes this many reads; a thread calls it also if it `is_slow` itself."""
        if is_slow or self._left_for_threads:
            self._left_for_threads = max(self._left_for_threads - 1, 0)
            # The time says little about the disk: each call waits for Python's lock there.
            return await anyio.to_thread.run_sync(read)
        began = self._clock()
        result = read()
        self._seconds_per_read += ((self._clock() - began) / max(1, reads) - self._seconds_per_read) / _MEAN_OF_READS
        if self._seconds_per_read > _SLOW_SECONDS:
            self._seconds_per_read = _SLOW_SECONDS
            self._left_for_threads = _READS_IN_THREADS
        return result


class _StreamedFile:
    def __init__(self, file: File, disk: DiskReader, *, with_sha256: bool) -> None:
        self.file = file
        self.disk = disk
        self.with_sha256 = with_sha256
        self.size = file.size
        self.xxh3: bytes | None = None
        self.sha256: bytes | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Pieces(self)


class _Handle:
    """An open file. Who uses it last closes it: a thread may still read for a request that has ended."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class _Pieces:
    """The pieces of a file, for any task: aiohttp cancels its own at any point, and waits for no thread."""

    def __init__(self, body: _StreamedFile) -> None:
        self._body = body
        self._left = body.size
        self._handle: _Handle | None = None
        self._is_over = False
        self._xxh3 = new_hash(Algorithm.XXH3)
        self._sha256 = new_hash(Algorithm.SHA256) if body.with_sha256 else None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        body = self._body
        if not self._left:
            raise StopAsyncIteration
        try:
            # XXH3 takes 10 us; only the slower digest is worth a thread hop.
            piece = await body.disk.call(self._read, is_slow=self._sha256 is not None)
        except OSError as error:
            self._end()
            raise _read_error(error) from error
        except BaseException:
            # The traceback of a cancellation may keep this object until the next garbage collection.
            self._end()
            raise
        if not self._left:
            self._end()
            body.xxh3 = self._xxh3.digest()
            body.sha256 = None if self._sha256 is None else self._sha256.digest()
        return piece

    def _end(self) -> None:
        self._is_over, self._handle = True, None

    def _read(self) -> bytes:
        handle = self._handle
        if handle is None:
            handle = self._handle = _Handle(os.open(self._body.file.path, _READ_FLAGS))
        if self._is_over:
            # The request has ended before this thread began.
            self._handle = None
        try:
            return self._read_piece(handle.number)
        finally:
            # The traceback of an error keeps this frame, which must not keep the file open.
            del handle

    def _read_piece(self, handle: int) -> bytes:
        piece = os.read(handle, min(_PIECE_BYTES, self._left))
        if not piece:
            raise SourceError("the file shrank while it was sent")
        self._left -= len(piece)
        self._xxh3.update(piece)
        if self._sha256 is not None:
            self._sha256.update(piece)
        if not self._left:
            # Before the last piece, so that a rewritten file never ends as a whole body.
            _check_unchanged_while_open(self._body.file, handle)
        return piece
