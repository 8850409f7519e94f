"""The bytes of files to send or compare: read, digested, and checked not to have changed."""

import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import aiofiles
import anyio
import anyio.to_thread
import xxhash

from asyncimport.errors import SourceError
from asyncimport.model.files import Algorithm, Body, Digest, File


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


def read_bodies(files: Sequence[File], digests: bool) -> list[Body | SourceError]:  # noqa: FBT001 - of run_sync
    """Return the bodies of files, or the error of each that cannot be read."""
    return [_read(file, digests=digests) for file in files]


def _read(file: File, *, digests: bool) -> Body | SourceError:
    try:
        if file.size > LARGE:
            _check_unchanged(file, os.stat(file.path))  # noqa: PTH116 - the path need not be text
            return _StreamedFile(file, with_sha256=digests)
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
    is_absent = isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError)
    return SourceError(f"the file cannot be read: {(error.strerror or 'unknown error').lower()}", is_absent=is_absent)


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | _READ_FLAGS)


def _check_unchanged(file: File, now: os.stat_result) -> None:
    if not file.is_unchanged(now):
        raise SourceError("the file changed after it was scanned")


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


class _StreamedFile:
    def __init__(self, file: File, *, with_sha256: bool = False) -> None:
        self._file = file
        self._with_sha256 = with_sha256
        self.size = file.size
        self.xxh3: bytes | None = None
        self.sha256: bytes | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        # A cancellation while aiofiles opens or closes would leave its handle open, so both are shielded. This works in
        # tasks of anyio only: aiohttp's own tasks, which asyncio cancels, must not iterate over this.
        try:
            with anyio.CancelScope(shield=True):
                handle = await aiofiles.open(self._file.path, "rb", buffering=0, opener=_open_without_waiting)
            xxh3 = new_hash(Algorithm.XXH3)
            sha256 = new_hash(Algorithm.SHA256) if self._with_sha256 else None
            try:
                left = self.size
                while left:
                    piece = await handle.read(min(_PIECE_BYTES, left))
                    if not piece:
                        raise SourceError("the file shrank while it was sent")
                    left -= len(piece)
                    # 10 us: less than a thread hop, which only the slower digest is worth.
                    xxh3.update(piece)
                    if sha256 is not None:
                        await anyio.to_thread.run_sync(sha256.update, piece)
                    if not left:
                        # Before the last piece, so that a rewritten file never ends as a whole body.
                        await anyio.to_thread.run_sync(_check_unchanged_while_open, self._file, handle.fileno())
                        self.xxh3 = xxh3.digest()
                        self.sha256 = sha256.digest() if sha256 is not None else None
                    yield piece
            finally:
                with anyio.CancelScope(shield=True):
                    await handle.close()
        except OSError as error:
            raise _read_error(error) from error
