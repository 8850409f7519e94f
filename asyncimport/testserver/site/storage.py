"""Stores bytes as files below one directory, or keeps only sizes and digests.

Labels and file names come verbatim from requests. Every part of a path is percent-encoded before it touches
the disk, so no label can name another directory. Blocking calls run in a thread.
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

from anyio import CancelScope, to_thread

PathParts = tuple[str, ...]
"""A path below the site's directory."""

IN_MEMORY = 8 * 1024 * 1024
"""Bytes of a body that stay in memory; a DICOM header must end within them."""
_PIECE = 1024 * 1024
_INLINE_DIGEST = 64 * 1024
"""Up to this many bytes are hashed in the event loop: a hop to a thread would take longer."""
_LONGEST_NAME = 200


class BodyStream(Protocol):
    """The body of a request as it arrives."""

    async def readany(self) -> bytes:
        """Return what has arrived, or wait for it; empty at the end. Raises ConnectionError if it is cut."""


class BufferedBody:
    """A body that has completely arrived."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def readany(self) -> bytes:
        """Return all of it, and then nothing."""
        data, self._data = self._data, b""
        return data


@dataclass(frozen=True, slots=True)
class Body:
    """A received request body."""

    head: bytes
    """All of it, or its first 8 MiB."""
    size: int
    digest: bytes | None
    """MD5, if it was computed while streaming."""
    spooled: Path | None
    """The file that holds all of it, if it is larger than `head` and bytes are kept."""
    complete: bool
    """False if the connection broke before its end."""

    @property
    def content(self) -> bytes | Path | None:
        """All of it, in memory or as a file; None if only its size and digest are kept."""
        return self.spooled or (self.head if len(self.head) == self.size else None)

    @classmethod
    def of(cls, data: bytes, *, complete: bool = True) -> "Body":
        """Return a body that is all in memory."""
        return cls(data, len(data), None, None, complete)


class Storage:
    """The site's files, addressed by their path parts below its directory."""

    def __init__(self, directory: Path | None, *, keep_bytes: bool, checksums: bool) -> None:
        self._directory = directory if keep_bytes else None
        self.checksums = checksums
        self._made: set[Path] = set()

    def path(self, parts: PathParts) -> Path | None:
        """Return where a file or folder is, or None if bytes are not kept."""
        return _below(self._directory, parts) if self._directory else None

    async def collect(self, stream: BodyStream, *, stop_after: int | None = None) -> bytes | None:
        """Read a body of any size into memory; None if it is cut."""
        data = bytearray()
        try:
            while piece := await stream.readany():
                data += piece
                if stop_after is not None and len(data) >= stop_after:
                    return None
        except ConnectionError:
            return None
        return bytes(data)

    async def receive(self, stream: BodyStream, *, stop_after: int | None = None) -> Body:
        """Read a body to its end, to where the connection breaks, or up to `stop_after` bytes."""
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
        except ConnectionError:
            complete = False
        return Body.of(b"".join(pieces), complete=complete)

    async def _receive_large(self, stream: BodyStream, head: bytes, stop_after: int | None) -> Body:
        """Read the rest of a body that is too large to stay in memory."""
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
        except ConnectionError:
            await to_thread.run_sync(_append, spooled, digest, bytes(piece))
            size += len(piece)
            complete = False
        return Body(head[:IN_MEMORY], size, digest.digest() if digest else None, spooled, complete)

    async def write(self, parts: PathParts, body: Body, head: bytes | None = None) -> tuple[int, bytes | None]:
        """Write a file, replacing one with the same name; return its size and MD5.

        `head`, if given, replaces the body's head (anonymisation).
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
            # Such a large body is not kept, so the true digest is unknown: use one that at least differs.
            digest = body.digest if head is None else _md5(body.digest + head[:_INLINE_DIGEST])
        elif size <= _INLINE_DIGEST:
            digest = _md5(data)
        else:
            digest = await to_thread.run_sync(_md5, data)
        return size, digest

    async def delete(self, parts: PathParts) -> None:
        """Delete a file; does nothing if there is none."""
        if (path := self.path(parts)) is not None:
            await to_thread.run_sync(_unlink, path)

    async def measure(self, parts: PathParts, *, digest: bool) -> tuple[int, bytes | None] | None:
        """Return a file's size, and with `digest` its MD5; None if there is no such file."""
        path = self.path(parts)
        return await to_thread.run_sync(_measure, path, digest) if path is not None else None

    async def change(self, parts: PathParts, edit: Callable[[bytes], bytes]) -> tuple[int, bytes | None] | None:
        """Rewrite a file; return its new size and MD5, or None if bytes are not kept."""
        if (path := self.path(parts)) is None:
            return None
        return await to_thread.run_sync(self._change, path, edit)

    async def discard(self, body: Body) -> None:
        """Delete the spooled file of a body that was refused."""
        if body.spooled is not None:
            with CancelScope(shield=True):
                await to_thread.run_sync(_unlink, body.spooled)

    async def move(self, moves: Iterable[tuple[PathParts, PathParts]]) -> None:
        """Move files, replacing those in the way; a file that has gone is skipped."""
        if (root := self._directory) is not None:
            paths = [(_below(root, old), _below(root, new)) for old, new in moves]
            await to_thread.run_sync(self._move, paths)

    async def remove(self, parts: PathParts) -> None:
        """Remove a folder with everything in it, and its parent if that becomes empty."""
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
        # Copied because other threads add to the set meanwhile.
        self._made.difference_update({made for made in self._made.copy() if made == path or path in made.parents})
        shutil.rmtree(path, ignore_errors=True)
        try:
            path.parent.rmdir()
        except OSError:
            return  # other sessions are in it


def _below(root: Path, parts: PathParts) -> Path:
    return root.joinpath(*map(_encode, parts))


def _encode(part: str) -> str:
    """Turn any text into one safe file name; different texts get different names."""
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
