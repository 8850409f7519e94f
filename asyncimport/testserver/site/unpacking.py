"""Unpacks uploaded archives, up to a limit on files and bytes."""

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

_ZIPS = (".zip", ".zar", ".xar")
_TARS = (".tar", ".tar.gz", ".tgz")
_MAX_FILES = 20_000
_MIN_BYTES = 64 << 20
"""Bytes that any archive may unpack to."""
_MAX_RATIO = 100
"""Further bytes that it may unpack to, for each byte of its own."""


class BadArchiveError(ValueError):
    """An archive that cannot be unpacked, or that would write outside its folder."""


def is_archive(name: str) -> bool:
    """Return whether a file of this name is unpacked on request."""
    return name.lower().endswith((*_ZIPS, *_TARS, ".gz"))


def unpack(name: str, source: bytes | Path) -> list[tuple[str, bytes]]:
    """Return the files of an archive, by their paths within it. Raises BadArchiveError; blocks while it reads."""
    lower = name.lower()
    limit = UnpackLimit(len(source) if isinstance(source, bytes) else source.stat().st_size)
    file = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    try:
        with file:
            if lower.endswith(_ZIPS):
                found = list(_zip_entries(file, limit))
            elif lower.endswith(_TARS):
                # A compressed tar counts twice: once as a whole, and once by its members.
                is_packed = not lower.endswith(".tar")
                tar = io.BytesIO(unpack_gzip(file, limit)) if is_packed else file
                found = list(tar_entries(tar, limit))
            else:
                found = [(PurePosixPath(name[:-3]).name, unpack_gzip(file, limit))]
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, tarfile.TarError, zlib.error) as error:
        # zipfile raises RuntimeError for an encrypted entry.
        raise BadArchiveError(f"Unable to unpack {name}: {error}") from None
    return [(_safe_path(path), data) for path, data in found]


class UnpackLimit:
    """How many more files and bytes may come out of an archive of this size."""

    def __init__(self, packed_bytes: int) -> None:
        self._files = _MAX_FILES
        self._bytes = _MIN_BYTES + packed_bytes * _MAX_RATIO

    def read(self, file: IO[bytes] | gzip.GzipFile) -> bytes:
        """Read a file while unpacking it. Raises BadArchiveError."""
        self.count_file()
        return self.take(file.read(self._bytes + 1))

    def count_file(self) -> None:
        """Count a file. Raises BadArchiveError."""
        self._files -= 1
        self._check()

    def take(self, data: bytes) -> bytes:
        """Count bytes, and return them. Raises BadArchiveError."""
        self._bytes -= len(data)
        self._check()
        return data

    def _check(self) -> None:
        if self._bytes < 0 or self._files < 0:
            raise BadArchiveError("more comes out of it than this test server has room for")


def unpack_gzip(file: IO[bytes], limit: UnpackLimit) -> bytes:
    """Return what a gzip file holds. Raises BadArchiveError, OSError, EOFError."""
    return limit.read(gzip.GzipFile(fileobj=file))


def _zip_entries(source: IO[bytes], limit: UnpackLimit) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                with archive.open(info) as file:
                    yield info.filename, limit.read(file)


def tar_entries(source: IO[bytes], limit: UnpackLimit) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a tar, by their paths; to XNAT, a link is an empty file (TarUtils). Raises BadArchiveError."""
    try:
        with tarfile.open(fileobj=source, mode="r:") as archive:
            for member in archive:
                if not member.isdir():
                    file = archive.extractfile(member) if member.isfile() else None
                    yield member.name, limit.read(file) if file is not None else b""
    except tarfile.TarError as error:
        raise BadArchiveError(str(error)) from None


def _safe_path(path: str) -> str:
    """Return the path of an entry below the folder that it is unpacked to. Raises BadArchiveError."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if not parts or ".." in parts or parts[0] == "/":
        raise BadArchiveError(f"The entry {path} is outside of its folder")
    return "/".join(parts)
