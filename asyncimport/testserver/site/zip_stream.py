"""Reads a zip file from its beginning, as Java's ZipInputStream does: the central directory is never looked at."""

import struct
import zlib
from collections.abc import Iterator
from typing import IO

from .unpacking import BadArchiveError, UnpackLimit

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_DESCRIPTOR = struct.Struct("<4sIII")
_SIGNATURE = b"PK\x03\x04"
_DESCRIPTOR_SIGNATURE = b"PK\x07\x08"
_STORED, _DEFLATED = 0, 8
_PIECE = 65_536


def stream_entries(file: IO[bytes], limit: UnpackLimit) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a zip, by their names. What does not begin like one has none.

    Raises BadArchiveError for a wrong CRC, an entry that is cut, encrypted, or stored without its size.
    """
    while (head := file.read(_LOCAL.size)).startswith(_SIGNATURE):
        if len(head) < _LOCAL.size:
            raise BadArchiveError("Unexpected end of ZLIB input stream")
        _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack(head)
        name = file.read(name_length).decode("utf-8", "replace")
        file.read(extra_length)
        has_descriptor = bool(flags & 8)
        if flags & 1:
            raise BadArchiveError("encrypted ZIP entry not supported")
        if method == _STORED and has_descriptor:
            raise BadArchiveError("only DEFLATED entries can have EXT descriptor")
        if method == _STORED:
            data = limit.take(file.read(packed))
            if len(data) != packed:
                raise BadArchiveError("Unexpected end of ZLIB input stream")
        elif method == _DEFLATED:
            data = _inflate(file, limit)
        else:
            raise BadArchiveError("invalid compression method")
        if has_descriptor:
            crc, size = _read_descriptor(file)
        if len(data) != size or zlib.crc32(data) != crc:
            raise BadArchiveError(f"invalid entry CRC (expected 0x{crc:x} but got 0x{zlib.crc32(data):x})")
        if not name.endswith("/"):
            limit.count_file()
            yield name, data


def _inflate(file: IO[bytes], limit: UnpackLimit) -> bytes:
    """Inflate an entry, and leave the file behind its end."""
    inflate, pieces = zlib.decompressobj(-zlib.MAX_WBITS), []
    try:
        while not inflate.eof:
            piece = file.read(_PIECE)
            if not piece:
                raise BadArchiveError("Unexpected end of ZLIB input stream")
            while piece and not inflate.eof:
                pieces.append(limit.take(inflate.decompress(piece, _PIECE)))
                piece = inflate.unconsumed_tail
    except zlib.error as error:
        raise BadArchiveError(str(error)) from None
    file.seek(-len(inflate.unused_data), 1)
    return b"".join(pieces)


def _read_descriptor(file: IO[bytes]) -> tuple[int, int]:
    """Return the CRC and the size of an entry from the record behind it, which may lack its signature."""
    record = file.read(_DESCRIPTOR.size)
    if not record.startswith(_DESCRIPTOR_SIGNATURE):
        record = _DESCRIPTOR_SIGNATURE + record
        file.seek(-4, 1)
    if len(record) < _DESCRIPTOR.size:
        raise BadArchiveError("Unexpected end of ZLIB input stream")
    _, crc, _, size = _DESCRIPTOR.unpack(record[: _DESCRIPTOR.size])
    return crc, size
