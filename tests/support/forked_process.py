"""A process of the fork server, as anyio has processes."""

import os
import select
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, Process
from fork_server import Forked, ForkServer


class ReadEnd(ByteReceiveStream):
    """The end of a pipe that is read."""

    def __init__(self, file: int) -> None:
        os.set_blocking(file, False)
        self._file = file

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """Return some bytes as soon as there are any."""
        while True:
            await anyio.wait_readable(self._file)
            with suppress(BlockingIOError):
                if content := os.read(self._file, max_bytes):
                    return content
                raise anyio.EndOfStream

    async def aclose(self) -> None:
        """Close it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class WriteEnd(ByteSendStream):
    """The end of a pipe that is written."""

    def __init__(self, file: int) -> None:
        os.set_blocking(file, False)
        self._file = file

    async def send(self, item: bytes) -> None:
        """Write it all."""
        while item:
            try:
                item = item[os.write(self._file, item) :]
            except BlockingIOError:
                await anyio.wait_writable(self._file)
            except BrokenPipeError as error:
                raise anyio.BrokenResourceError from error

    async def aclose(self) -> None:
        """Close it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class ForkedProcess(Process):
    """A module that runs in a process of its own, with pipes to this one."""

    def __init__(
        self,
        server: ForkServer,
        module: str,
        words: list[str],
        env: Mapping[str, str],
        directory: Path | None,
        absent: Sequence[str],
    ) -> None:
        pipes = [os.pipe() for _ in range(3)]
        (their_in, our_in), (our_out, their_out), (our_err, their_err) = pipes
        self._forked: Forked = server.start(
            module, words, [their_in, their_out, their_err], env, directory=directory, absent=absent
        )
        for file in (their_in, their_out, their_err):
            os.close(file)
        self._stdin, self._stdout, self._stderr = WriteEnd(our_in), ReadEnd(our_out), ReadEnd(our_err)
        self._code: int | None = None
        self._lock = anyio.Lock()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._forked.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, once it has ended."""
        if self._code is None and select.select([self._forked.report], [], [], 0)[0]:
            self._code = self._forked.exit_code()
        return self._code

    @property
    def stdin(self) -> ByteSendStream:
        """What it reads."""
        return self._stdin

    @property
    def stdout(self) -> ByteReceiveStream:
        """What it writes."""
        return self._stdout

    @property
    def stderr(self) -> ByteReceiveStream:
        """What it writes besides."""
        return self._stderr

    async def wait(self) -> int:
        """Wait for its end."""
        async with self._lock:
            while (code := self.returncode) is None:
                await anyio.wait_readable(self._forked.report)
        return code

    def send_signal(self, signal: signal.Signals) -> None:
        """Send it a signal, if it has not ended."""
        if self.returncode is None:
            os.kill(self.pid, signal)

    def terminate(self) -> None:
        """End it."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it, whatever it does."""
        self.send_signal(signal.SIGKILL)

    async def aclose(self) -> None:
        """Close its pipes, and wait for its end; kill it if that is cancelled."""
        with anyio.CancelScope(shield=True):
            for stream in (self._stdin, self._stdout, self._stderr):
                await stream.aclose()
        try:
            await self.wait()
        except BaseException:
            self.kill()
            with anyio.CancelScope(shield=True):
                await self.wait()
            raise
