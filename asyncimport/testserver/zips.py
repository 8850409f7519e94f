"""Prearchive sessions as zip files, made while they are sent."""

from collections.abc import AsyncIterator
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

from aiohttp import web
from anyio import to_thread

from .call import Call
from .pages import Refused
from .state import PrearchiveRow

__all__ = ["session_zip"]


class _Pieces:
    """What has been written and not been taken yet; like a socket, it cannot be sought in."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> int:
        """Keep a piece."""
        self._pieces.append(piece)
        return len(piece)

    def flush(self) -> None:
        """Do nothing: there is no buffer."""

    def close(self) -> None:
        """Do nothing: what is left can still be taken."""

    def take(self) -> bytes:
        """Return all that has been written since the last time."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


def session_zip(call: Call, row: PrearchiveRow) -> web.Response:
    """Return a download of what lies in a session's folder, built or not (ZipRepresentation.addFolder)."""
    storage = call.xnat.storage
    files: list[tuple[str, Path]] = []
    for scan, names in row.scans.items():
        for name in names:
            if (path := storage.path((*row.path, "SCANS", scan, "DICOM", name))) is None:
                # Neither 404, which says that the session is gone, nor an empty zip, which says that its files are.
                raise Refused(501, "This test server keeps sizes and digests of files only.")
            files.append((f"{row.folder}/SCANS/{scan}/DICOM/{name}", path))
    return web.Response(body=_zipped(files), content_type="application/zip")


async def _zipped(files: list[tuple[str, Path]]) -> AsyncIterator[bytes]:
    """Yield a zip file, a piece for each of its files."""
    pieces = _Pieces()
    with ZipFile(pieces, "w", ZIP_DEFLATED) as archive:
        for name, path in files:
            await to_thread.run_sync(_add, archive, name, path)
            yield pieces.take()
    yield pieces.take()


def _add(archive: ZipFile, name: str, path: Path) -> None:
    """Add a file, unless it has gone since the folder was looked at: the session may just be archived or deleted."""
    try:
        archive.write(path, name)
    except FileNotFoundError:
        return
