"""The source of a dry run: what a scan has just read, and no bodies."""

from collections.abc import AsyncIterator, Sequence

import anyio.to_thread

from asyncimport.dicom import Identity
from asyncimport.errors import SourceError
from asyncimport.journal import HeaderCache
from asyncimport.model.files import Body, Digest, File, Ignored
from asyncimport.model.ports import Source


class RehearsedSource:
    """A source whose headers a scan has just put into the cache. It reads no bodies."""

    read_ahead = 0
    ahead = 1
    """The cache does one thing at a time, and workers read next to nothing."""

    def __init__(self, source: Source, headers: HeaderCache) -> None:
        self._source = source
        self._headers = headers
        self.places = source.places
        self.batches, self.identify, self.relative = source.batches, source.identify, source.relative

    @property
    def roots(self) -> Sequence[str]:
        """The places that the walk covers wholly."""
        return self._source.roots

    @property
    def is_in_order(self) -> bool:
        """Whether each directory is left for good when the next one is met."""
        return self._source.is_in_order

    async def identify_many(self, files: Sequence[File]) -> list[Identity | Ignored]:
        """Return what the cache has, and read the headers of files that changed since."""
        known = await anyio.to_thread.run_sync(self._headers.identities, files)
        rest = [file for file in files if file.path not in known]
        found = (
            dict(zip((file.path for file in rest), await self._source.identify_many(rest), strict=True)) if rest else {}
        )
        return [known.get(file.path) or found[file.path] for file in files]

    async def read(self, files: Sequence[File]) -> list[Body | SourceError]:
        """Return bodies that cannot be sent."""
        return [_NoBody(file.size) for file in files]

    async def same_bytes(self, one: str, other: str) -> bool | None:
        """Compare two files; None if one cannot be read."""
        return await self._source.same_bytes(one, other)

    async def have_digests(self, files: Sequence[tuple[File, Digest]]) -> list[bool | None]:
        """Return for each file whether its bytes have this digest; None if unknown."""
        return await self._source.have_digests(files)


class _NoBody:
    """The body of a file that is not read."""

    xxh3 = sha256 = None

    def __init__(self, size: int) -> None:
        self.size = size

    async def __aiter__(self) -> AsyncIterator[bytes]:
        raise SourceError("a dry run reads no bodies")
        yield b""
