"""The bytes of a large file that only workers see, read in pieces while it is sent."""

from collections.abc import AsyncIterator, Awaitable, Callable

from asyncimport.errors import SourceError
from asyncimport.model.files import Algorithm, File
from asyncimport.source.bytes_on_disk import new_hash


class RemoteBody:
    """A body in pieces; `piece` returns bytes from a position on, or an error. It has no SHA-256."""

    sha256: bytes | None = None

    def __init__(self, file: File, piece: Callable[[File, int], Awaitable[bytes | SourceError]]) -> None:
        self._file = file
        self._piece = piece
        self.size = file.size
        self.xxh3: bytes | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Start at the first byte. Raises: SourceError when the file is not as scanned."""
        digest, begin = new_hash(Algorithm.XXH3), 0
        while begin < self.size:
            piece = await self._piece(self._file, begin)
            if isinstance(piece, SourceError):
                raise piece
            if not piece or begin + len(piece) > self.size:
                raise SourceError("the file changed while it was read")
            digest.update(piece)
            begin += len(piece)
            if begin == self.size:
                self.xxh3 = digest.digest()
            yield piece
