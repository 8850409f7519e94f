"""Downloads of many files as zip or tar, made while they are sent."""

import tarfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

from aiohttp import web
from anyio import to_thread

from .call import Call
from .catalogs import catalog
from .pages import Refused
from .places import Place
from .state import PrearchiveRow
from .storage import Parts

__all__ = ["ARCHIVES", "files_archive", "session_zip"]

ARCHIVES = {"zip": "application/zip", "tar": "application/x-tar", "tar.gz": "application/gzip"}
"""The formats and their media types."""

_Files = list[tuple[str, Path | bytes]]


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
    """Return a download of what lies in a session's folder, built or not (ZipRepresentation.addFolder).

    A build leaves the catalogs that the session document names among the files (CatalogBuilder).
    """
    names = [
        (f"{row.folder}/SCANS/{scan}/DICOM/{name}", (*row.path, "SCANS", scan, "DICOM", name))
        for scan, names in row.scans.items()
        for name in names
    ]
    files = [*_kept(call, names), *_catalogs(row)]
    return web.Response(body=_zipped(files, ZIP_DEFLATED), content_type=ARCHIVES["zip"])


def _catalogs(row: PrearchiveRow) -> _Files:
    """Return the catalogs that a build has left in the folder."""
    found: _Files = []
    for scan in row.document.scans if row.document is not None else ():
        for label, resource in scan.resources.items():
            name = f"{row.folder}/SCANS/{scan.folder}/{label}/scan_{scan.id}_catalog.xml"
            place = Place("", "", (), "", {}, "scans", scan.id, series_uid=scan.series.uid)
            found.append((name, catalog(place, resource).encode()))
    return found


def files_archive(call: Call, form: str, files: Sequence[tuple[str, Parts]]) -> web.Response:
    """Return a download of files of resources, each with its path in it; 404 where there are none."""
    if not files:
        raise Refused(404)
    kept = _kept(call, files)
    body = _zipped(kept, ZIP_STORED) if form == "zip" else _tarred(kept, packed=form == "tar.gz")
    return web.Response(body=body, content_type=ARCHIVES[form])


def _kept(call: Call, files: Sequence[tuple[str, Parts]]) -> _Files:
    """Return names in an archive and paths on the disk."""
    found: _Files = []
    for name, parts in files:
        if (path := call.xnat.storage.path(parts)) is None:
            # Neither 404, which says that the session is gone, nor an empty zip, which says that its files are.
            raise Refused(501, "This test server keeps sizes and digests of files only.")
        found.append((name, path))
    return found


async def _zipped(files: _Files, compression: int) -> AsyncIterator[bytes]:
    """Yield a zip file, a piece for each of its files."""
    pieces = _Pieces()
    with ZipFile(pieces, "w", compression) as archive:
        for name, path in files:
            await to_thread.run_sync(_add, archive, name, path)
            yield pieces.take()
    yield pieces.take()


async def _tarred(files: _Files, *, packed: bool) -> AsyncIterator[bytes]:
    """Yield a tar file, a piece for each of its files."""
    pieces = _Pieces()
    mode = "w|gz" if packed else "w|"
    # Of a stream nothing but write() is called.
    with tarfile.open(fileobj=pieces, mode=mode) as archive:  # type: ignore[call-overload]
        for name, path in files:
            await to_thread.run_sync(_add, archive, name, path)
            yield pieces.take()
    yield pieces.take()


def _add(archive: ZipFile | tarfile.TarFile, name: str, file: Path | bytes) -> None:
    """Add a file, unless it has gone since the folder was looked at: the session may just be archived or deleted.

    Only zip files hold what is not on the disk: the catalogs of a session's download.
    """
    if isinstance(file, bytes):
        if isinstance(archive, ZipFile):
            archive.writestr(name, file)
        return
    try:
        if isinstance(archive, ZipFile):
            archive.write(file, name)
        else:
            archive.add(file, name)
    except FileNotFoundError:
        return
