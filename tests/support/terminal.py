"""A terminal of a given size that a command writes to, and what is on its screen."""

import fcntl
import os
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import anyio
import pyte
from anyio.abc import Process
from patience import COMMAND, in_time


class Terminal:
    """The screen of a command that runs on it. Make one with `open_terminal`."""

    def __init__(self, number: int, process: Process, columns: int, lines: int) -> None:
        self.raw = b""
        """All that the command has written."""
        self._number = number
        self._process = process
        self._screen = pyte.HistoryScreen(columns, lines, history=1000)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def lines(self) -> list[str]:
        """The lines of the screen and those that have left it at the top, without blanks at the end."""
        width = self._screen.columns
        gone = ["".join(line[place].data for place in range(width)) for line in self._screen.history.top]
        lines = [line.rstrip() for line in [*gone, *self._screen.display]]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def type(self, keys: bytes) -> None:
        """Send what somebody types."""
        os.write(self._number, keys)

    def interrupt(self) -> None:
        """Do what Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    async def wait_for(self, is_shown: Callable[[str], bool]) -> list[str]:
        """Return the lines as soon as all of them together are as wanted."""
        with in_time(COMMAND):
            while not is_shown("\n".join(self.lines)):
                if not await self._read():
                    raise AssertionError(f"it has ended with {self.lines}")
        return self.lines

    async def end(self) -> int:
        """Return the exit code, after all that the command writes."""
        with in_time(COMMAND):
            while await self._read():
                pass
            return await self._process.wait()

    async def _read(self) -> bool:
        await anyio.wait_readable(self._number)
        try:
            piece = os.read(self._number, 65_536)
        except OSError:  # what Linux says when the other end is closed
            piece = b""
        self.raw += piece
        self._stream.feed(piece)
        return bool(piece)


@asynccontextmanager
async def open_terminal(
    *words: str | os.PathLike[str], env: Mapping[str, str], columns: int = 80, lines: int = 24
) -> AsyncIterator[Terminal]:
    """Run `asyncimport` on a terminal of its own, which has standard output and standard error."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    command = [sys.executable, "-m", "asyncimport", *map(str, words)]
    try:
        async with await anyio.open_process(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            try:
                yield Terminal(ours, process, columns, lines)
            finally:
                if process.returncode is None:
                    process.kill()
    finally:
        os.close(ours)
