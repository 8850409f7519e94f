"""A worker that scans, as an actor of Dask: the walk, headers, digests and bytes of the files that it sees.

All paths that come and go are those of the machine that runs the command. What there is one of for each file is pickled
here, so that Dask does not look into it.
"""

import hashlib
import os
import pickle
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from importlib import import_module
from threading import Thread
from typing import Any

import anyio
import anyio.to_thread

from asyncimport.cluster.calls import Actor
from asyncimport.cluster.columns import checked_columns
from asyncimport.cluster.path_map import ScanSettings, map_path
from asyncimport.cluster.worker_reader import WorkerReader
from asyncimport.dicom import Identity
from asyncimport.errors import SourceError
from asyncimport.model.files import Digest, File, Ignored
from asyncimport.model.record import record
from asyncimport.model.states import FileKind
from asyncimport.source.bytes_on_disk import LARGE, read_piece
from asyncimport.system.mounts import TreeIdentity, tree_identity


@record
class Sight:
    """What a worker sees: which tree is at each place; and how it reads the names of files."""

    trees: Mapping[str, TreeIdentity]
    encoding: tuple[str, str]


def encoding_of_names() -> tuple[str, str]:
    """Return how this process reads the names of files."""
    return sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


class ScanningActor(Actor):
    """An actor of Dask: one for each worker and run. Its methods may be called again with the same arguments."""

    def __init__(self) -> None:
        self._walks: dict[int, AsyncIterator[list[File | Ignored]]] = {}
        self._batches: dict[int, tuple[int, bytes]] = {}
        # A call may come again while it is at work.
        self._walking: dict[int, anyio.Lock] = {}
        # The process that reads headers answers one request at a time.
        self._identifying = anyio.Lock()

    async def begin(self, settings: ScanSettings) -> Sight:
        """Take the settings, and return what this worker sees of the places."""
        # An upload wants it next, and it takes a while: the driver logs in and opens its journal meanwhile.
        Thread(target=import_module, args=("asyncimport.cluster.sending_actor",), daemon=True).start()
        self._files = await anyio.to_thread.run_sync(WorkerReader, settings)
        trees = {
            place: tree
            for place, here in self._files.seen.items()
            if (tree := await anyio.to_thread.run_sync(tree_identity, here)) is not None
        }
        return Sight(trees, encoding_of_names())

    async def start_walk(self, walk: int, places: Sequence[str]) -> None:
        """Begin to walk places, one after the other."""
        if walk not in self._walks:
            self._walks[walk] = self._files.walked.batches([self._files.seen[place] for place in places])
            self._walking[walk] = anyio.Lock()

    async def next_batch(self, walk: int, number: int) -> bytes:
        """Return what the walk finds next, pickled; an empty list at its end. Batches are numbered from 0."""
        async with self._walking[walk]:
            last, packed = self._batches.get(walk, (-1, b""))
            if number != last:
                packed = self._packed(await anext(self._walks[walk], []))
                self._batches[walk] = number, packed
            return packed

    def _packed(self, batch: Sequence[File | Ignored]) -> bytes:
        places = [(here, place) for place, here in self._files.seen.items() if here != place]

        def row(item: File | Ignored) -> tuple[Any, ...]:
            file = item if isinstance(item, File) else item.file
            values = map_path(file.path, places), file.size, file.mtime_ns, file.inode, file.ctime_ns
            return values if isinstance(item, File) else (*values, item.kind.value, item.reason, item.damaged)

        return pickle.dumps(list(map(row, batch)))

    async def identify(self, packed: bytes) -> bytes:
        """Identify packed files; return identities, or kind, reason and damage of each other file, pickled."""
        files = [File(*row) for row in pickle.loads(packed)]  # noqa: S301 - of the driver, who may run anything here
        async with self._identifying:
            found = await self._files.source.identify_many([self._files.paths.here_file(file) for file in files])
        return pickle.dumps(
            [one if isinstance(one, Identity) else (one.kind.value, one.reason, one.damaged) for one in found]
        )

    async def states(self, paths: Sequence[str]) -> list[tuple[int, int] | None]:
        """Return size and mtime of files; None for those that are not here."""
        return await anyio.to_thread.run_sync(lambda: [_state(self._files.paths.here(path)) for path in paths])

    async def read(self, files: Sequence[File]) -> list[bytes | SourceError | None]:
        """Return the bytes of files, or why they cannot be read; None for one that is read in pieces."""
        bodies = await self._files.read(files)
        return [body if isinstance(body, bytes | SourceError) else None for body in bodies]

    async def read_piece(self, file: File, begin: int) -> bytes | SourceError:
        """Return some bytes of a large file."""
        return await anyio.to_thread.run_sync(read_piece, self._files.paths.here_file(file), begin, LARGE)

    async def md5(self, parts: Sequence[tuple[File, int]]) -> list[str | SourceError]:
        """Return the MD5 of the first bytes of each file, or its error."""
        return await self._files.source.md5([(self._files.paths.here_file(file), size) for file, size in parts])

    async def have_digests(self, files: Sequence[tuple[File, Digest]]) -> list[bool | None]:
        """Return for each file whether its bytes have this digest; None if it cannot be read."""
        here = [(self._files.paths.here_file(file), digest) for file, digest in files]
        return await self._files.source.have_digests(here)

    async def same_bytes(self, one: str, other: str) -> bool | None:
        """Compare two files; None if one cannot be read here."""
        return await self._files.source.same_bytes(self._files.paths.here(one), self._files.paths.here(other))

    async def sha256(self, path: str) -> bytes | None:
        """Return the SHA-256 of a file; None if it cannot be read here."""
        return await anyio.to_thread.run_sync(_sha256, self._files.paths.here(path))


def pack_files(files: Iterable[File]) -> bytes:
    """Pickle files for `identify`: Dask would pickle them one by one, which takes thirty times as long."""
    return pickle.dumps([(file.path, file.size, file.mtime_ns, file.inode, file.ctime_ns) for file in files])


def _state(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - the path need not be text
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns


def _sha256(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - the path need not be text
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None


_FILE_TYPES = {str}, {int}, {int}, {int, type(None)}, {int, type(None)}


def unpack_batch(packed: bytes) -> list[File | Ignored]:
    """Return a batch of a walk. Raises: ValueError."""
    rows = _rows(packed)
    files = map(File, *checked_columns((row[:5] for row in rows), _FILE_TYPES))
    return [_ignored(file, row[5:]) if row[5:] else file for file, row in zip(files, rows, strict=True)]


def unpack_identities(files: Sequence[File], packed: bytes) -> list[Identity | Ignored]:
    """Return what was identified of these files. Raises: ValueError."""
    return [
        one if type(one) is Identity else _ignored(file, one) for file, one in zip(files, _rows(packed), strict=True)
    ]


def _ignored(file: File, row: Sequence[Any]) -> Ignored:
    kind, reason, damaged = row
    if [type(kind), type(reason), type(damaged)] != [str, str, bool]:
        raise ValueError("fields of a file that is not sent")
    return Ignored(file, FileKind(kind), reason, damaged=damaged)


def _rows(packed: bytes) -> list[Any]:
    """Unpickle. Raises: ValueError."""
    try:
        rows = pickle.loads(packed)  # noqa: S301 - of our worker, whom Dask trusts with any code
    except Exception as error:
        raise ValueError("no pickle") from error
    if type(rows) is not list:
        raise ValueError("no list")
    return rows
