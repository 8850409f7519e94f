"""Archives that hold DICOM, and so are not just some other file: zip, tar, and what gzip, bzip2 or xz packed.

Nothing is unpacked. A look costs bounded time and memory whatever the archive claims to be: it ends after so many
members, so many bytes, or at the first DICOM file. What is returned names the kind of archive and nothing in it.
"""

import bz2
import gzip
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import IO, Any, Literal, cast

from asyncimport.dicom import begins_dicom

__all__ = ["kind_of_container", "looks_like_container"]

_MOST_MEMBERS = 256
_MOST_BYTES = 16 << 20  # read of an archive, or unpacked
_HEAD = 512  # shows a DICOM file, and is the header of a tar
_MOST_DIRECTORY = 8 << 20  # of a zip: some 100,000 members, which zipfile reads at once

_LOCAL_MEMBER, _END_OF_DIRECTORY = b"PK\x03\x04", b"PK\x05\x06"
_PACKERS: Mapping[bytes, tuple[str, Callable[[IO[bytes]], Any]]] = {
    b"\x1f\x8b": ("gz", gzip.open),
    b"BZh": ("bz2", bz2.open),
    b"\xfd7zXZ\0": ("xz", lzma.open),
}
# What the standard library raises for archives that are damaged, and for files that are gone.
_BROKEN = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OSError, ValueError, NotImplementedError),
)


def looks_like_container(head: bytes) -> bool:
    """Whether a file that begins so may be an archive; 512 bytes tell."""
    return head.startswith((_LOCAL_MEMBER, *_PACKERS)) or _is_tar(head)


def kind_of_container(path: str | bytes) -> str | None:
    """Name the kind of archive, such as "zip" or "tar.gz", if the file is one and holds DICOM.

    An encrypted zip cannot be looked into: it is named as such, as it may hold DICOM. It blocks.
    """
    try:
        with open(path, "rb", opener=_opened) as file:
            return _kind(file)
    except _BROKEN:
        return None


def _kind(file: IO[bytes]) -> str | None:
    head = file.read(_HEAD)
    file.seek(0)
    if head.startswith(_LOCAL_MEMBER):
        return _kind_of_zip(file)
    for magic, (name, unpack) in _PACKERS.items():
        if head.startswith(magic):
            with unpack(file) as unpacked:
                inner = unpacked.read(_HEAD)
                if begins_dicom(inner):
                    return name
                unpacked.seek(0)
                return f"tar.{name}" if _is_tar(inner) and _tar_holds_dicom(unpacked, "r|") else None
    return "tar" if _is_tar(head) and _tar_holds_dicom(file, "r:") else None


def _opened(path: str, flags: int) -> int:
    """Open without waiting: what was a file may be a pipe by now."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


# --- zip ---


def _kind_of_zip(file: IO[bytes]) -> str | None:
    try:
        heads = list(_heads_in_zip(file)) if _directory_of_zip(file) <= _MOST_DIRECTORY else [_first_in_zip(file)]
    except _BROKEN:
        # Perhaps cut, as the directory stands at the end.
        heads = [_first_in_zip(file)]
    if any(head and begins_dicom(head) for head in heads):
        return "zip"
    return "zip (encrypted)" if None in heads else None


def _directory_of_zip(file: IO[bytes]) -> int:
    """Return the size of the directory: a record at the end names it, behind which only a comment may stand."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - (64 << 10) - 22, 0))
    tail = file.read()
    found = tail.rfind(_END_OF_DIRECTORY)
    if found < 0:
        raise zipfile.BadZipFile
    return int.from_bytes(tail[found + 12 : found + 16], "little")


def _heads_in_zip(file: IO[bytes]) -> Iterator[bytes | None]:
    """Yield the first bytes of members, and None for encrypted ones."""
    with zipfile.ZipFile(file) as archive:
        for member in islice(archive.infolist(), _MOST_MEMBERS):
            if member.flag_bits & 1:
                yield None
            elif member.file_size and member.compress_type in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                with archive.open(member) as content:
                    yield content.read(_HEAD)


def _first_in_zip(file: IO[bytes]) -> bytes | None:
    """Return the first bytes of the first member, by the header before it."""
    file.seek(0)
    _, _, flags, method, *_, name, extra = struct.unpack("<4s5H3L2H", file.read(30))
    file.seek(name + extra, os.SEEK_CUR)
    packed = file.read(2 * _HEAD)
    if flags & 1:
        return None
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, _HEAD) if method == zipfile.ZIP_DEFLATED else packed


# --- tar ---


def _is_tar(head: bytes) -> bool:
    """Whether this is the header of a member, by its checksum: old tars have no magic."""
    try:
        tarfile.TarInfo.frombuf(head[:_HEAD], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _tar_holds_dicom(file: IO[bytes], mode: Literal["r:", "r|"]) -> bool:
    """Look at members; of what was packed as a whole ("r|") each one must be unpacked to come to the next."""
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", _Bounded(file)), mode=mode) as archive:
            for member in islice(archive, _MOST_MEMBERS):
                content = archive.extractfile(member) if member.isreg() else None
                if content and begins_dicom(content.read(_HEAD)):
                    return True
    except _BROKEN:
        pass
    return False


class _Bounded:
    """A file that ends when so many bytes have been read, wherever they stood in it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = _MOST_BYTES
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        """Read as a file does, within the bound."""
        content = self._file.read(min(size, self._left) if size >= 0 else self._left)
        self._left -= len(content)
        return content
