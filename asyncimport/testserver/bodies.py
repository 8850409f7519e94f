"""What the body of an upload holds: the parts of a form, the entries of an archive. Pure functions."""

import gzip
import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from aiohttp import content_disposition_filename, parse_content_disposition

__all__ = ["BadArchiveError", "Part", "entries", "form_parts", "is_archive"]

_ZIPS = (".zip", ".zar", ".xar")
_TARS = (".tar", ".tar.gz", ".tgz")
_BOUNDARY = re.compile(r'boundary="?([^";]+)"?', re.IGNORECASE)


# What an archive may hold: files, and bytes however small it is, and for each of its own.
_MOST_FILES = 20_000
_ALWAYS = 64 << 20
_RATIO = 100


class BadArchiveError(ValueError):
    """An archive that cannot be unpacked, or that would write outside its folder."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a form; a file has a file name, also an empty one."""

    name: str
    filename: str | None
    data: bytes


def form_parts(body: bytes, content_type: str) -> list[Part]:
    """Return the parts of a multipart/form-data body; of a broken one, those that are whole."""
    if (boundary := _BOUNDARY.search(content_type)) is None:
        return []
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode())
    parts = []
    for piece in pieces[1:-1]:
        head, _, data = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        for line in head.decode("utf-8", "replace").split("\r\n"):
            key, _, value = line.partition(":")
            if key.strip().lower() == "content-disposition":
                _, params = parse_content_disposition(value.strip())
                parts.append(Part(params.get("name", ""), content_disposition_filename(params), data))
    return parts


def is_archive(name: str) -> bool:
    """Tell whether a file of this name is unpacked when that is asked for."""
    return name.lower().endswith((*_ZIPS, *_TARS, ".gz"))


def entries(name: str, source: bytes | Path) -> list[tuple[str, bytes]]:
    """Return the files of an archive, by their paths within it. Raises BadArchiveError; reads files, and so blocks."""
    lower = name.lower()
    room = _Room(len(source) if isinstance(source, bytes) else source.stat().st_size)
    file = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    try:
        with file:
            if lower.endswith(_ZIPS):
                found = list(_of_zip(file, room))
            elif lower.endswith(_TARS):
                # What is packed as a whole takes its room twice: once for all of it, once for its members.
                packed = not lower.endswith(".tar")
                found = list(_of_tar(io.BytesIO(room.read(gzip.GzipFile(fileobj=file))) if packed else file, room))
            else:
                found = [(PurePosixPath(name[:-3]).name, room.read(gzip.GzipFile(fileobj=file)))]
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, tarfile.TarError, zlib.error) as error:
        # RuntimeError is what zipfile raises of an encrypted entry.
        raise BadArchiveError(f"Unable to unpack {name}: {error}") from None
    return [(_inside(path), data) for path, data in found]


class _Room:
    """How much more may come out of an archive: of files, and of bytes by how many went in."""

    def __init__(self, packed: int) -> None:
        self._files = _MOST_FILES
        self._bytes = _ALWAYS + packed * _RATIO

    def read(self, file: IO[bytes] | gzip.GzipFile) -> bytes:
        """Read a file that is unpacked. Raises: BadArchiveError."""
        data = file.read(self._bytes + 1)
        self._files -= 1
        self._bytes -= len(data)
        if self._bytes < 0 or self._files < 0:
            raise BadArchiveError("more comes out of it than this test server has room for")
        return data


def _of_zip(source: IO[bytes], room: _Room) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                with archive.open(info) as file:
                    yield info.filename, room.read(file)


def _of_tar(source: IO[bytes], room: _Room) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=source, mode="r:") as archive:
        for member in archive:
            if (file := archive.extractfile(member) if member.isfile() else None) is not None:
                yield member.name, room.read(file)


def _inside(path: str) -> str:
    """Return the path of an entry below the folder that it is unpacked to."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if not parts or ".." in parts or parts[0] == "/":
        raise BadArchiveError(f"The entry {path} is outside of its folder")
    return "/".join(parts)
