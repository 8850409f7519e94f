"""The bytes of a data set by position: of a file, or of the deflated part of one."""

import os
import zlib
from abc import ABC, abstractmethod

from asyncimport.dicom.identity import TooLarge

_WINDOW = 8 << 10
_PIECE = 64 << 10
# Elements, items and delimiters to step over, at a million a second or more. 100,000 frames with a functional group of
# 30 elements each make 3 million.
_MAX_ELEMENTS = 10_000_000
_MAX_ELEMENTS_INFLATED = 4_000_000
# One byte inflates to up to 1,032. Images deflate to a third, masks to a hundredth of their size.
_MAX_INFLATED = 1 << 30
_MAX_RATIO = 32


class WindowedBytes(ABC):
    """Bytes read through a window, best moved forward; `size` is where they end, `steps_left` are still allowed."""

    def __init__(self, window: bytes, size: int, steps_left: int) -> None:
        self.window = window
        self.start = 0
        self.size = size
        self.steps_left = self.max_steps = steps_left

    def at(self, position: int, count: int) -> bytes:
        """Return `count` bytes from a position, or fewer at the end."""
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
        """Whether these are the last bytes, and all lie at or after the position."""


class WindowedFile(WindowedBytes):
    """A file of a known size, whose head has been read. It moves the descriptor's position."""

    def __init__(self, fd: int, size: int, head: bytes) -> None:
        super().__init__(head, size, _MAX_ELEMENTS)
        self.fd = fd

    def _read(self, position: int) -> bytes:
        if position >= self.size:
            return b""
        os.lseek(self.fd, position, os.SEEK_SET)
        return os.read(self.fd, _WINDOW)

    def ends_with(self, position: int, last: bytes) -> bool:
        """Read only the end."""
        begin = self.size - len(last)
        if begin < position:
            return False
        os.lseek(self.fd, begin, os.SEEK_SET)
        return os.read(self.fd, len(last)) == last


class InflatedBytes(WindowedBytes):
    """What a file of `size` inflates to from a position on (PS3.5 A.5). Raises: zlib.error, TooLarge."""

    def __init__(self, fd: int, position: int, size: int) -> None:
        super().__init__(b"", 0, _MAX_ELEMENTS_INFLATED)
        self._fd = fd
        self._begin = position
        self._most = max(_MAX_INFLATED, _MAX_RATIO * size)
        self._restart()

    def head(self, count: int) -> bytes:
        """Return the first `count` bytes, or fewer if the data end or are damaged."""
        if self.start:
            self._restart()
            self.window, self.start = b"", 0
        pieces = [self.window]
        try:
            while self.size < count and (piece := self._inflate_piece()):
                pieces.append(piece)
        except zlib.error:
            pass  # `is_complete` raises it again
        self.window = b"".join(pieces)
        return self.window[:count]

    def _restart(self) -> None:
        self._packed = self._begin  # others move the descriptor's position too
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self.size = 0

    def _read(self, position: int) -> bytes:
        if position < self.start:
            self._restart()
            self.window = b""
        window = self.window[max(position - self.start, 0) :]
        while self.size < position + _WINDOW and (piece := self._inflate_piece()):
            # Bytes before the position are inflated and dropped.
            window += piece[max(position - self.size + len(piece), 0) :]
        return window

    def _inflate_piece(self) -> bytes:
        """Inflate a further piece; b"" at the end."""
        while not self._inflate.eof:
            packed = self._inflate.unconsumed_tail
            if not packed:
                os.lseek(self._fd, self._packed, os.SEEK_SET)
                packed = os.read(self._fd, _PIECE)
                self._packed += len(packed)
            piece = self._inflate.decompress(packed, _PIECE)
            self.size += len(piece)
            if self.size > self._most:
                most = "1 GiB" if self._most == _MAX_INFLATED else f"{_MAX_RATIO} times its size"
                raise TooLarge(f"the deflated data set inflates to more than {most}")
            if piece or not packed:
                return piece
        return b""

    def ends_with(self, position: int, last: bytes) -> bool:  # noqa: ARG002
        """Return False: only inflating everything would tell."""
        return False

    def is_complete(self) -> bool:
        """Inflate the rest; whether its end was reached."""
        while self._inflate_piece():
            pass
        return self._inflate.eof
