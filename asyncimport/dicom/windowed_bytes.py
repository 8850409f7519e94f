"""The bytes of a data set by position, read as they are asked for: of a file, or of the deflated part of one."""

import os
import zlib
from abc import ABC, abstractmethod

from asyncimport.dicom.identity import TooLarge

_WINDOW = 8 << 10
_PIECE = 64 << 10
# Elements, items and delimiters that are stepped over, at a million a second or more.
# 100,000 frames with a functional group of 30 elements each make 3 million.
_MOST_ELEMENTS = 10_000_000
_MOST_ELEMENTS_INFLATED = 4_000_000
# Deflate makes up to 1,032 bytes of one. Images become a third, masks a hundredth of their size.
_MOST_INFLATED = 1 << 30
_MOST_RATIO = 32


class Bytes(ABC):
    """Bytes through a window, which is best moved forward; `size` is where they end, as far as that is known.

    `steps` are those that may still be taken from element to element, of `most_steps` in all.
    """

    def __init__(self, window: bytes, size: int, steps: int) -> None:
        self.window = window
        self.start = 0
        self.size = size
        self.steps = self.most_steps = steps

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

    @abstractmethod
    def ends_with(self, position: int, last: bytes) -> bool:
        """Whether these are the last bytes, and none of them lies before the position."""


class File(Bytes):
    """A file of a known size, whose head has been read. It moves the descriptor's position."""

    def __init__(self, fd: int, size: int, head: bytes) -> None:
        super().__init__(head, size, _MOST_ELEMENTS)
        self.fd = fd

    def _read(self, position: int) -> bytes:
        if position >= self.size:
            return b""
        os.lseek(self.fd, position, os.SEEK_SET)
        return os.read(self.fd, _WINDOW)

    def ends_with(self, position: int, last: bytes) -> bool:
        """Look at the end, and at nothing between."""
        begin = self.size - len(last)
        if begin < position:
            return False
        os.lseek(self.fd, begin, os.SEEK_SET)
        return os.read(self.fd, len(last)) == last


class Inflated(Bytes):
    """What a file of `size` inflates to from a position on (PS3.5 A.5), a piece at a time.

    Raises: zlib.error for damaged data, TooLarge for too many.
    """

    def __init__(self, fd: int, position: int, size: int) -> None:
        super().__init__(b"", 0, _MOST_ELEMENTS_INFLATED)
        self._fd = fd
        self._begin = position
        self._most = max(_MOST_INFLATED, _MOST_RATIO * size)
        self._restart()

    def head(self, count: int) -> bytes:
        """Return the first bytes: as many as asked for, and fewer only where there are no more, or damaged ones."""
        if self.start:
            self._restart()
            self.window, self.start = b"", 0
        pieces = [self.window]
        try:
            while self.size < count and (piece := self._next()):
                pieces.append(piece)
        except zlib.error:
            pass  # which comes again when the end is looked for
        self.window = b"".join(pieces)
        return self.window[:count]

    def _restart(self) -> None:
        self._packed = self._begin  # where to read on: others move the descriptor's position too
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self.size = 0

    def _read(self, position: int) -> bytes:
        if position < self.start:
            self._restart()
            self.window = b""
        window = self.window[max(position - self.start, 0) :]
        while self.size < position + _WINDOW and (piece := self._next()):
            # What lies before the position is inflated and dropped.
            window += piece[max(position - self.size + len(piece), 0) :]
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
            self.size += len(piece)
            if self.size > self._most:
                most = "1 GiB" if self._most == _MOST_INFLATED else f"{_MOST_RATIO} times its size"
                raise TooLarge(f"the deflated data set inflates to more than {most}")
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
