"""Downloads of many files as zip or tar, streamed while they are made."""

import tarfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

from aiohttp import web
from anyio import to_thread

from ..site.catalogs import catalog
from ..site.prearchive import PrearchiveRow
from ..site.storage import PathParts
from .request_context import RequestContext
from .responses import HttpError

ARCHIVES = {"zip": "application/zip", "tar": "application/x-tar", "tar.gz": "application/gzip"}
"""The formats and their media types."""
_Files = list[tuple[str, Path | bytes]]


class _Buffer:
    """A file to write to that keeps what has not been taken yet; it is not seekable."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> int:
        """Keep a piece."""
        self._pieces.append(piece)
        return len(piece)

    def flush(self) -> None:
        """Do nothing: everything written can be taken already."""

    def close(self) -> None:
        """Do nothing: what is left can still be taken."""

    def take(self) -> bytes:
        """Return all that has been written since the last call."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


def download_session(context: RequestContext, row: PrearchiveRow) -> web.Response:
    """Return all files in a session's folder, built or not, as a zip (ZipRepresentation.addFolder).

    A build leaves the catalogs that the session document names among the files (CatalogBuilder).
    """
    names = [
        (f"{row.folder}/SCANS/{scan}/DICOM/{name}", row.file_path(scan, name))
        for scan, names in row.scans.items()
        for name in names
    ]
    files = [*_on_disk(context, names), *_catalogs(row)]
    return web.Response(body=_stream_zip(files, ZIP_DEFLATED), content_type=ARCHIVES["zip"])


def _catalogs(row: PrearchiveRow) -> _Files:
    """Return the catalogs that a build has left in the folder."""
    found: _Files = []
    for scan in row.document.scans if row.document is not None else ():
        for label, resource in scan.resources.items():
            name = f"{row.folder}/SCANS/{scan.folder}/{label}/scan_{scan.id}_catalog.xml"
            found.append((name, catalog(resource, scan.series.uid).encode()))
    return found


def download_files(context: RequestContext, form: str, files: Sequence[tuple[str, PathParts]]) -> web.Response:
    """Return files, each with its path in the archive, as a zip or tar; 404 if there are none."""
    if not files:
        raise HttpError(404)
    found = _on_disk(context, files)
    body = _stream_zip(found, ZIP_STORED) if form == "zip" else _stream_tar(found, packed=form == "tar.gz")
    return web.Response(body=body, content_type=ARCHIVES[form])


def _on_disk(context: RequestContext, files: Sequence[tuple[str, PathParts]]) -> _Files:
    """Return paths in the archive and paths on the disk."""
    found: _Files = []
    for name, parts in files:
        if (path := context.site.storage.path(parts)) is None:
            # A 404 would say that the session is gone, and an empty zip that its files are.
            raise HttpError(501, "This test server keeps sizes and digests of files only.")
        found.append((name, path))
    return found


async def _stream_zip(files: _Files, compression: int) -> AsyncIterator[bytes]:
    """Yield a zip file, one piece for each of its files."""
    buffer = _Buffer()
    with ZipFile(buffer, "w", compression) as archive:
        for name, path in files:
            await to_thread.run_sync(_add, archive, name, path)
            yield buffer.take()
    yield buffer.take()


async def _stream_tar(files: _Files, *, packed: bool) -> AsyncIterator[bytes]:
    """Yield a tar file, one piece for each of its files."""
    buffer = _Buffer()
    mode = "w|gz" if packed else "w|"
    # In stream mode, tarfile calls only write().
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, path in files:
            await to_thread.run_sync(_add, archive, name, path)
            yield buffer.take()
    yield buffer.take()


def _add(archive: ZipFile | tarfile.TarFile, name: str, file: Path | bytes) -> None:
    """Add a file, unless it has gone meanwhile because the session is being archived or deleted.

    Only zip files hold bytes that are not on the disk: the catalogs of a session's download.
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
