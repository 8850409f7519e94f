"""The bytes of files when they are sent or compared: read, digested, and checked not to have changed."""

import os
from collections.abc import AsyncIterator, Sequence

import aiofiles
import anyio
import anyio.to_thread

from asyncimport.errors import SourceError
from asyncimport.model import Algorithm, Body, Digest, File
from asyncimport.source.digests import Hash, new_hash

# Up to this size a body is read in one go: aiohttp warns of larger ones, and a thread hop a piece costs more.
LARGE = 1 << 20
_PIECE = 256 << 10
# Without waiting: what the walk met as a regular file may be a pipe by now.
_READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


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


def compute_sha256(file: File, xxh3: bytes | None) -> tuple[bytes, bool] | None:
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


def read_bodies(files: Sequence[File], digests: bool) -> list[Body | SourceError]:  # noqa: FBT001 - of run_sync
    """Return the bodies of files, or why there is none."""
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


def compute_md5(file: File, size: int) -> str | SourceError:
    """Return the MD5, in hex, of the first bytes of a file, or why it cannot be read."""
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


def same_bytes(one: str, other: str) -> bool | None:
    """Whether two files have the same bytes; None where one of them cannot be read."""
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
