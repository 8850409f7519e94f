"""Zips as XNAT reads them: from the beginning, with no look at the directory (Java's ZipInputStream).

Each entry has its lengths and CRC before its bytes. A wrong CRC, or an end before the end, makes XNAT refuse the zip.
"""

import struct
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread

from asyncimport.dicom.transfer_syntax import is_uncompressed
from asyncimport.errors import SourceError, TransientError
from asyncimport.model.files import Body, StreamedBody, Zip
from asyncimport.system.deflate import Deflater, crc32, deflate, new_deflater

# XNAT unpacks entries that are named like archives, so the name is constant.
_ENTRY = "f.dcm"
# A zip costs the server four transactions more than a file, and an inflation: it must be worth them.
MIN_BYTES = 16 << 10
_MIN_SAVING = 0.1
# Longer ones have lengths of 64 bits, which old versions of Java do not read; (1 << 32) - 1 announces those.
_MAX_BYTES = (1 << 32) - 2
# The first bytes of a large file show whether it is worth reading all of it.
_TRIED_BYTES = 1 << 20

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_VERSION, _DEFLATED, _UTF8 = 20, 8, 0x800
_DATE = 0x21  # 1980-01-01, the first there is: the same files make the same zip


def zip_files(bodies: Mapping[str, bytes]) -> bytes:
    """Return a zip of files, by their names. It blocks."""
    entries, directory, offset = [], [], 0
    for name, body in bodies.items():
        packed = deflate(body)
        local, central = _headers(name, crc32(body), len(packed), len(body), offset)
        entries += [local, packed]
        directory.append(central)
        offset += len(local) + len(packed)
    return b"".join([*entries, *directory, _end(directory, offset)])


async def zip_body(body: Body, limiter: anyio.CapacityLimiter) -> Zip | None:
    """Return a DICOM file as a zip of it alone; None if it is small, compressed already, or less than a tenth smaller.

    Small files are kept in memory; large ones are read and deflated twice, first for the length that XNAT wants to
    know before the body. Threads of `limiter` deflate. Raises: SourceError.
    """
    if isinstance(body, bytes):
        if len(body) < MIN_BYTES or not is_uncompressed(body):
            return None
        packed = await anyio.to_thread.run_sync(zip_files, {_ENTRY: body}, limiter=limiter)
        return Zip(packed) if _is_worth_it(len(packed), len(body)) else None
    if not MIN_BYTES <= body.size <= _MAX_BYTES:
        return None
    return await _measure(body, limiter)


def _is_worth_it(packed: int, size: int) -> bool:
    return packed <= (1 - _MIN_SAVING) * size


async def _measure(body: StreamedBody, limiter: anyio.CapacityLimiter) -> Zip | None:
    """Deflate a large file, and keep only the length and CRC of the result."""
    stream, crc, size, packed = new_deflater(), 0, 0, 0
    async with _reading(body) as pieces:
        async for piece in pieces:
            if not size and not is_uncompressed(piece):
                return None
            crc, ready = await anyio.to_thread.run_sync(_add, stream, piece, crc, limiter=limiter)
            size += len(piece)
            packed += len(ready)
            if size >= _TRIED_BYTES and not _is_worth_it(packed, size):
                return None
    packed += len(stream.flush())
    return Zip(_ZippedFile(body, crc, packed, limiter)) if _is_worth_it(packed, size) else None


def _add(stream: Deflater, piece: bytes, crc: int) -> tuple[int, bytes]:
    return crc32(piece, crc), stream.compress(piece)


class _ZippedFile:
    """A zip of a large file, deflated while it is sent. Its digests are those of the file."""

    def __init__(self, body: StreamedBody, crc: int, packed: int, limiter: anyio.CapacityLimiter) -> None:
        self._body = body
        self._crc = crc
        self._packed = packed
        self._limiter = limiter
        self._local, central = _headers(_ENTRY, crc, packed, body.size, 0)
        self._rest = central + _end([central], len(self._local) + packed)
        self.size = len(self._local) + packed + len(self._rest)

    @property
    def xxh3(self) -> bytes | None:
        return self._body.xxh3

    @property
    def sha256(self) -> bytes | None:
        return self._body.sha256

    async def __aiter__(self) -> AsyncIterator[bytes]:
        stream, crc, left = new_deflater(), 0, self._packed
        yield self._local
        async with _reading(self._body) as pieces:
            async for piece in pieces:
                crc, ready = await anyio.to_thread.run_sync(_add, stream, piece, crc, limiter=self._limiter)
                left -= len(ready)
                if ready and left >= 0:
                    yield ready
        ready = stream.flush()
        # The file may have been rewritten since it was measured: its end is not sent then.
        if crc != self._crc:
            raise SourceError("the file changed while it was read")
        if len(ready) != left:
            # ISA-L's output depends on the size of the pieces, and some file systems give fewer bytes than asked for.
            raise TransientError("the file deflates differently when it is read again", may_have_taken_effect=True)
        yield ready + self._rest


@asynccontextmanager
async def _reading(body: StreamedBody) -> AsyncGenerator[AsyncIterator[bytes]]:
    """Give the pieces of a file, and close it in whatever way this ends."""
    pieces = aiter(body)
    try:
        yield pieces
    finally:
        if isinstance(pieces, AsyncGenerator):
            with anyio.CancelScope(shield=True):
                await pieces.aclose()


def _headers(name: str, crc: int, packed: int, size: int, offset: int) -> tuple[bytes, bytes]:
    """Return the header of an entry, and its line in the directory."""
    encoded = name.encode()
    flags = 0 if name.isascii() else _UTF8
    about = _VERSION, flags, _DEFLATED, 0, _DATE, crc, packed, size, len(encoded), 0
    local = _LOCAL.pack(b"PK\x03\x04", *about)
    central = _CENTRAL.pack(b"PK\x01\x02", _VERSION, *about, 0, 0, 0, 0, offset)
    return local + encoded, central + encoded


def _end(directory: list[bytes], offset: int) -> bytes:
    count = len(directory)
    return _END.pack(b"PK\x05\x06", 0, 0, count, count, sum(map(len, directory)), offset, 0)
