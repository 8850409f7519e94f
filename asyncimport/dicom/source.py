"""The bytes of a data set by position, read as they are asked for: of a file, or of the deflated part of one."""

import os
import zlib
from abc import ABC, abstractmethod

__all__ = ["Bytes", "File", "Inflated"]

_WINDOW = 8 << 10
_PIECE = 64 << 10


class Bytes(ABC):
    """Bytes through a window, which is best moved forward."""

    def __init__(self, window: bytes) -> None:
        self.window = window
        self.start = 0

    def at(self, position: int, count: int) -> bytes:
        """Return as many bytes as asked for, and fewer only where there are no more."""
        offset = position - self.start
        if offset < 0 or offset + count > len(self.window):
            self.window = self._read(position)
            self.start = position
            offset = 0
        return self.window[offset : offset + count]

    @abstractmethod
    def _read(self, position: int) -> bytes:
        """Read a window that begins at `position`; it may be empty."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Where the bytes end, known when reading has come there."""

    @abstractmethod
    def ends_with(self, position: int, last: bytes) -> bool:
        """Whether these are the last bytes, and none of them lies before the position."""


class File(Bytes):
    """A file of a known size, whose head has been read. It moves the descriptor's position."""

    def __init__(self, fd: int, size: int, head: bytes) -> None:
        super().__init__(head)
        self.fd = fd
        self._size = size

    @property
    def size(self) -> int:
        """Where the file ends."""
        return self._size

    def _read(self, position: int) -> bytes:
        if position >= self._size:
            return b""
        os.lseek(self.fd, position, os.SEEK_SET)
        return os.read(self.fd, _WINDOW)

    def ends_with(self, position: int, last: bytes) -> bool:
        """Look at the end, and at nothing between."""
        begin = self._size - len(last)
        if begin < position:
            return False
        os.lseek(self.fd, begin, os.SEEK_SET)
        return os.read(self.fd, len(last)) == last


class Inflated(Bytes):
    """What a file inflates to from a position on (PS3.5 A.5), a piece at a time. Raises zlib.error."""

    def __init__(self, fd: int, position: int) -> None:
        super().__init__(b"")
        self._fd = fd
        self._begin = position
        self._restart()

    def _restart(self) -> None:
        self._packed = self._begin  # where to read on: others move the descriptor's position too
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._end = 0  # of what has been inflated

    @property
    def size(self) -> int:
        """Where the bytes end, as far as they have been inflated."""
        return self._end

    def _read(self, position: int) -> bytes:
        if position < self.start:
            self._restart()
            self.window = b""
        window = self.window[max(position - self.start, 0) :]
        while self._end < position + _WINDOW and (piece := self._next()):
            # What lies before the position is inflated and dropped.
            window += piece[max(position - self._end + len(piece), 0) :]
        return window

    def _next(self) -> bytes:
        """Inflate a further piece; nothing, when there is no more."""
        while not self._inflate.eof:
            packed = self._inflate.unconsumed_tail
            if not packed:
                os.lseek(self._fd, self._packed, os.SEEK_SET)
                packed = os.read(self._fd, _PIECE)
                self._packed += len(packed)
            piece = self._inflate.decompress(packed, _PIECE)
            self._end += len(piece)
            if piece or not packed:
                return piece
        return b""

    def ends_with(self, position: int, last: bytes) -> bool:  # noqa: ARG002
        """Whether it does is not known before all has been inflated."""
        return False

    def complete(self) -> bool:
        """Inflate the rest, and say whether it came to its end."""
        while self._next():
            pass
        return self._inflate.eof
