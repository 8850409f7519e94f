"""Archive files that may hold DICOM: zip, tar, and files packed by gzip, bzip2 or xz.

Nothing is unpacked to disk. A check takes bounded time and memory, whatever the file claims: it ends after a number of
members or bytes, or at the first DICOM file. Its result names the kind of archive and nothing in it.
"""

import bz2
import lzma
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import IO, Any, Protocol, cast

from asyncimport.dicom import begins_dicom

_MAX_MEMBERS = 256
_MAX_HEADERS = 2 * _MAX_MEMBERS  # of a tar: a long name has a header of its own
_MAX_BYTES = 16 << 20  # read of an archive, or unpacked
_HEAD_BYTES = 512  # enough to recognise a DICOM file, and the size of a tar header
_PIECE_BYTES = 64 << 10
_MAX_STREAMS = 10_000  # streams in one file: some programs pack each 64 kB separately
# Of a zip: zipfile reads the whole directory at once, here some 100,000 members; then it reads members.
_MAX_DIRECTORY_BYTES = 8 << 20
_MAX_ZIP_BYTES = _MAX_DIRECTORY_BYTES + (2 << 20)
_MAX_MEMORY = 256 << 20  # for an xz: its strongest preset takes 65 MiB
_TOO_MUCH_MEMORY = "xz (memory)"

_LOCAL_MEMBER, _END_OF_DIRECTORY = b"PK\x03\x04", b"PK\x05\x06"
_PACKERS: Mapping[bytes, tuple[str, Callable[[], Any]]] = {
    b"\x1f\x8b": ("gz", lambda: zlib.decompressobj(16 + zlib.MAX_WBITS)),
    b"BZh": ("bz2", bz2.BZ2Decompressor),
    b"\xfd7zXZ\0": ("xz", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_MEMORY)),
}
# What the standard library raises for damaged archives and vanished files.
_DAMAGE_ERRORS = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OSError, ValueError, LookupError, OverflowError, NotImplementedError, RecursionError),
)


def container_kind(path: str | bytes) -> str | None:
    """Return the kind of archive, such as "zip" or "tar.gz", if the file is one and may hold DICOM. It blocks."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            return _kind(file)
    except _DAMAGE_ERRORS:
        return None


def _kind(file: IO[bytes]) -> str | None:
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    if head.startswith(_LOCAL_MEMBER):
        return _zip_kind(file)
    for magic, (name, unpack) in _PACKERS.items():
        if head.startswith(magic):
            try:
                inner = _Unpacked(file, unpack).read(_HEAD_BYTES)
            except lzma.LZMAError as error:
                return _TOO_MUCH_MEMORY if "limit" in str(error) else None
            if begins_dicom(inner):
                return name
            file.seek(0)
            return f"tar.{name}" if _is_tar(inner) and _tar_holds_dicom(_Unpacked(file, unpack)) else None
    return "tar" if _is_tar(head) and _tar_holds_dicom(_Bounded(file, _MAX_BYTES)) else None


def container_reason(kind: str) -> str:
    """Return why an archive of this kind is skipped."""
    if kind == _TOO_MUCH_MEMORY:
        return "an xz archive that needs too much memory to look into"
    return f"a {kind} archive that holds DICOM"


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


# --- zip ---


def _zip_kind(file: IO[bytes]) -> str | None:
    try:
        heads = (
            list(_zip_member_heads(file))
            if _zip_directory_bytes(file) <= _MAX_DIRECTORY_BYTES
            else [_first_zip_head(file)]
        )
    except _DAMAGE_ERRORS:
        # Perhaps truncated: the directory is at the end.
        heads = [_first_zip_head(file)]
    if any(head and begins_dicom(head) for head in heads):
        return "zip"
    return "zip (encrypted)" if None in heads else None


def _zip_directory_bytes(file: IO[bytes]) -> int:
    """Return the size of the directory, from the record at the end, which only a comment may follow."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - (64 << 10) - 22, 0))
    tail = file.read()
    found = tail.rfind(_END_OF_DIRECTORY)
    if found < 0:
        raise zipfile.BadZipFile
    return int.from_bytes(tail[found + 12 : found + 16], "little")


def _zip_member_heads(file: IO[bytes]) -> Iterator[bytes | None]:
    # A second record at the end may claim another size of the directory.
    with zipfile.ZipFile(cast("IO[bytes]", _Bounded(file, _MAX_ZIP_BYTES))) as archive:
        for member in islice(archive.infolist(), _MAX_MEMBERS):
            if member.flag_bits & 1:
                yield None
            elif member.file_size and member.compress_type in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                with archive.open(member) as content:
                    yield content.read(_HEAD_BYTES)


def _first_zip_head(file: IO[bytes]) -> bytes | None:
    """Return the first bytes of the first member, found by its own header."""
    file.seek(0)
    _, _, flags, method, *_, name, extra = struct.unpack("<4s5H3L2H", file.read(30))
    file.seek(name + extra, os.SEEK_CUR)
    packed = file.read(2 * _HEAD_BYTES)
    if flags & 1:
        return None
    return (
        zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, _HEAD_BYTES)
        if method == zipfile.ZIP_DEFLATED
        else packed
    )


# --- tar ---


def _is_tar(head: bytes) -> bool:
    """Whether this is the header of a member, by its checksum: old tars have no magic."""
    try:
        tarfile.TarInfo.frombuf(head[:_HEAD_BYTES], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


_EXTENDED = frozenset({tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE})
_NAMES = frozenset({tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK})
_MAX_EXTENDED_BYTES = 16 << 10
# The size of a member above 8 GiB may be in an extra header before its own (POSIX pax).
_SIZE = re.compile(rb"(?:\A|\n)[0-9]{1,9} size=([0-9]{1,18})\n")


def _tar_holds_dicom(file: "_Readable") -> bool:
    """Read from header to header: tarfile reads long names of any length, and recurses for each."""
    members = 0
    size: int | None = None
    try:
        for _ in range(_MAX_HEADERS):
            member = tarfile.TarInfo.frombuf(header := file.read(_HEAD_BYTES), "utf-8", "surrogateescape")
            if member.type in _EXTENDED:
                extended = file.read(min(member.size, _MAX_EXTENDED_BYTES))
                size = int(found[1]) if (found := _SIZE.search(extended)) else size
                file.skip(_padded(member.size) - len(extended))
                continue
            if size is not None and member.type not in _NAMES:
                member.size, size = size, None
            if member.type == tarfile.GNUTYPE_SPARSE:
                more = header[482]
                while more:
                    more = file.read(_HEAD_BYTES)[504]
            content = b""
            if member.isreg():
                members += 1
                content = file.read(min(member.size, _HEAD_BYTES))
                if begins_dicom(content):
                    return True
            if members == _MAX_MEMBERS:
                break
            # Directories and links have no content, whatever size they claim.
            if member.isreg() or member.type not in tarfile.SUPPORTED_TYPES or member.type in _NAMES:
                file.skip(_padded(member.size) - len(content))
    except _DAMAGE_ERRORS:
        pass
    return False


def _padded(size: int) -> int:
    if size < 0:
        raise ValueError("a negative size")
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


# --- bounded reading ---


class _Readable(Protocol):
    def read(self, size: int) -> bytes: ...

    def skip(self, count: int) -> None: ...


class _Bounded:
    """A file that ends after a number of bytes read, wherever they are in it."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file = file
        self._left = most
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        """Read as a file does, within the limit."""
        content = self._file.read(min(size, self._left) if size >= 0 else self._left)
        self._left -= len(content)
        return content

    def skip(self, count: int) -> None:
        """Skip bytes without reading them."""
        self.seek(count, os.SEEK_CUR)


class _Unpacked:
    """The unpacked content of a file; it ends after a number of bytes read or unpacked."""

    def __init__(self, file: IO[bytes], unpack: Callable[[], Any]) -> None:
        self._file = _Bounded(file, _MAX_BYTES)
        self._unpack = unpack
        self._left = _MAX_BYTES
        self._streams = _MAX_STREAMS
        self._stream = unpack()
        self._packed = b""

    def read(self, size: int) -> bytes:
        """Read `size` bytes, or fewer at the end. Raises what the standard library raises for damaged archives."""
        pieces = []
        size = min(size, self._left)
        while size and (piece := self._next(size)):
            pieces.append(piece)
            size -= len(piece)
            self._left -= len(piece)
        return b"".join(pieces)

    def skip(self, count: int) -> None:
        """Unpack bytes and drop them."""
        while count and (piece := self.read(min(count, _PIECE_BYTES))):
            count -= len(piece)

    def _next(self, size: int) -> bytes:
        while self._streams:
            if self._stream.eof:
                # Another stream may follow, or zeros: tapes are padded.
                self._packed = (self._stream.unused_data or self._packed).lstrip(b"\0")
                self._packed = self._packed or self._file.read(_PIECE_BYTES).lstrip(b"\0")
                if not self._packed:
                    return b""
                self._stream = self._unpack()
                self._streams -= 1
            packed = self._packed
            if not packed and getattr(self._stream, "needs_input", True):
                packed = self._file.read(_PIECE_BYTES)
            piece: bytes = self._stream.decompress(packed, size)
            self._packed = getattr(self._stream, "unconsumed_tail", b"")
            if piece or (not packed and not self._stream.eof):
                return piece
        return b""
