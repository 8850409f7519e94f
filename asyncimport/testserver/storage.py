"""Where the bytes go: files below one directory, or nowhere at all (sizes and digests only).

Labels and file names come verbatim from requests. Every part of a path is percent-encoded before it touches
the disk, so no label can name another directory. Whatever blocks runs in a thread.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from aiohttp import ClientError
from aiohttp.http_exceptions import HttpProcessingError
from anyio import CancelScope, to_thread

__all__ = ["Body", "Kept", "Parts", "Storage", "Stream"]

Parts = tuple[str, ...]

IN_MEMORY = 8 * 1024 * 1024
"""Bytes of a body that stay in memory; they also bound where a DICOM header may end."""
_PIECE = 1024 * 1024
_INLINE_DIGEST = 64 * 1024
"""Bytes that are hashed in the event loop: a hop to a thread would take longer."""
_LONGEST_NAME = 200


class Stream(Protocol):
    """The body of a request, as it comes in."""

    async def readany(self) -> bytes:
        """Return what has come, or wait for it; nothing at the end."""


class Kept:
    """A body that has all come in."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def readany(self) -> bytes:
        """Return all, and then nothing."""
        data, self._data = self._data, b""
        return data


@dataclass(frozen=True, slots=True)
class Body:
    """A received request body."""

    head: bytes
    """All of it, or its first 8 MiB."""
    size: int
    digest: bytes | None
    """MD5, when it was made while streaming."""
    spooled: Path | None
    """The file that holds all of it, when it is larger than `head` and bytes are kept."""
    complete: bool
    """False when the connection broke before its end."""


class Storage:
    """The site's files, addressed by their parts below its directory."""

    def __init__(self, directory: Path | None, *, keep_bytes: bool, checksums: bool) -> None:
        self._directory = directory if keep_bytes else None
        self.checksums = checksums
        self._made: set[Path] = set()

    def path(self, parts: Parts) -> Path | None:
        """Return where a file or folder is, or None when bytes are not kept."""
        return _below(self._directory, parts) if self._directory else None

    async def collect(self, stream: Stream, *, stop_after: int | None = None) -> bytes | None:
        """Read a body of any size into memory; None when it is cut."""
        data = bytearray()
        try:
            while piece := await stream.readany():
                data += piece
                if stop_after is not None and len(data) >= stop_after:
                    return None
        except (ConnectionError, ClientError, HttpProcessingError):
            return None
        return bytes(data)

    async def receive(self, stream: Stream, *, stop_after: int | None = None) -> Body:
        """Read a body to its end, or to where the connection breaks, or until `stop_after` bytes."""
        pieces: list[bytes] = []
        size = 0
        complete = True
        try:
            while piece := await stream.readany():
                pieces.append(piece)
                size += len(piece)
                if stop_after is not None and size >= stop_after:
                    pieces[-1] = piece[: len(piece) - (size - stop_after)]
                    size = stop_after
                    complete = False
                    break
                if size > IN_MEMORY:
                    return await self._receive_large(stream, b"".join(pieces), stop_after)
        except (ConnectionError, ClientError, HttpProcessingError):
            complete = False
        return Body(b"".join(pieces), size, None, None, complete)

    async def _receive_large(self, stream: Stream, head: bytes, stop_after: int | None) -> Body:
        """Go on with a body that is larger than what stays in memory."""
        spooled = self._directory / "spool" / secrets.token_hex(8) if self._directory else None
        digest = hashlib.md5(usedforsecurity=False) if self.checksums else None
        size, complete = 0, True
        piece = bytearray(head)
        try:
            while piece:
                await to_thread.run_sync(_append, spooled, digest, bytes(piece))
                size += len(piece)
                if stop_after is not None and size >= stop_after:
                    complete = False
                    break
                piece.clear()
                while len(piece) < _PIECE and (more := await stream.readany()):
                    piece += more
        except (ConnectionError, ClientError, HttpProcessingError):
            await to_thread.run_sync(_append, spooled, digest, bytes(piece))
            size += len(piece)
            complete = False
        return Body(head[:IN_MEMORY], size, digest.digest() if digest else None, spooled, complete)

    async def write(self, parts: Parts, body: Body, head: bytes | None = None) -> tuple[int, bytes | None]:
        """Write a file, replacing one of its name; return its size and MD5.

        `head`, where given, takes the place of the body's head (anonymisation).
        """
        path = self.path(parts)
        data = body.head if head is None else head
        size = body.size - len(body.head) + len(data)
        if body.spooled is not None and path is not None:
            digest = await to_thread.run_sync(self._adopt, body.spooled, path, body, head)
        elif path is not None:
            digest = await to_thread.run_sync(self._write, path, data)
        elif not self.checksums:
            digest = None
        elif body.digest is not None:
            # Nothing is kept of such a large body: a digest that at least differs stands for the true one.
            digest = body.digest if head is None else _md5(body.digest + head[:_INLINE_DIGEST])
        elif size <= _INLINE_DIGEST:
            digest = _md5(data)
        else:
            digest = await to_thread.run_sync(_md5, data)
        return size, digest

    async def delete(self, parts: Parts) -> None:
        """Delete a file that may be there."""
        if (path := self.path(parts)) is not None:
            await to_thread.run_sync(_unlink, path)

    async def measure(self, parts: Parts, *, digest: bool) -> tuple[int, bytes | None] | None:
        """Return a file's size, and its MD5 where that is asked for; None when it is not there."""
        path = self.path(parts)
        return await to_thread.run_sync(_measure, path, digest) if path is not None else None

    async def change(self, parts: Parts, edit: Callable[[bytes], bytes]) -> tuple[int, bytes | None] | None:
        """Rewrite a file; return its new size and MD5, or None where bytes are not kept."""
        if (path := self.path(parts)) is None:
            return None
        return await to_thread.run_sync(self._change, path, edit)

    async def discard(self, body: Body) -> None:
        """Remove what a refused body left behind."""
        if body.spooled is not None:
            with CancelScope(shield=True):
                await to_thread.run_sync(_unlink, body.spooled)

    async def move(self, moves: Iterable[tuple[Parts, Parts]]) -> None:
        """Move files, replacing those in the way; a file that is not there any more is passed over."""
        if (root := self._directory) is not None:
            paths = [(_below(root, old), _below(root, new)) for old, new in moves]
            await to_thread.run_sync(self._move, paths)

    async def remove(self, parts: Parts) -> None:
        """Remove a folder with everything in it, and its parent if that is empty then."""
        if (path := self.path(parts)) is not None:
            await to_thread.run_sync(self._remove, path)

    def _make(self, folder: Path) -> None:
        if folder not in self._made:
            folder.mkdir(parents=True, exist_ok=True)
            self._made.add(folder)

    def _write(self, path: Path, data: bytes) -> bytes | None:
        self._make(path.parent)
        path.write_bytes(data)
        return _md5(data) if self.checksums else None

    def _change(self, path: Path, edit: Callable[[bytes], bytes]) -> tuple[int, bytes | None]:
        data = edit(path.read_bytes())
        return len(data), self._write(path, data)

    def _adopt(self, spooled: Path, path: Path, body: Body, head: bytes | None) -> bytes | None:
        self._make(path.parent)
        if head is None:
            spooled.replace(path)
            return body.digest
        digest = hashlib.md5(head, usedforsecurity=False) if self.checksums else None
        with spooled.open("rb") as source, path.open("wb") as target:
            target.write(head)
            source.seek(len(body.head))
            while piece := source.read(_PIECE):
                target.write(piece)
                if digest is not None:
                    digest.update(piece)
        spooled.unlink()
        return digest.digest() if digest is not None else None

    def _move(self, paths: list[tuple[Path, Path]]) -> None:
        for old, new in paths:
            self._make(new.parent)
            try:
                old.replace(new)
            except FileNotFoundError:
                continue

    def _remove(self, path: Path) -> None:
        # A copy, because other threads add to the set meanwhile.
        self._made.difference_update({made for made in self._made.copy() if made == path or path in made.parents})
        shutil.rmtree(path, ignore_errors=True)
        try:
            path.parent.rmdir()
        except OSError:
            return  # other sessions are in it


def _below(root: Path, parts: Parts) -> Path:
    return root.joinpath(*map(_encode, parts))


def _encode(part: str) -> str:
    """Turn any text into one harmless file name; different texts get different names."""
    name = quote(part, safe=" +,;=@()[]")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_NAME]}%{hashlib.sha256(part.encode()).hexdigest()[:16]}"
    return name or "%"


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _measure(path: Path, digest: bool) -> tuple[int, bytes | None] | None:  # noqa: FBT001 - to_thread has no keywords
    if not path.is_file():
        return None
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest() if digest else None
        return os.fstat(file.fileno()).st_size, md5


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


def _append(spooled: Path | None, digest: "hashlib._Hash | None", piece: bytes) -> None:
    if digest is not None:
        digest.update(piece)
    if spooled is not None:
        spooled.parent.mkdir(parents=True, exist_ok=True)
        with spooled.open("ab") as file:
            file.write(piece)
