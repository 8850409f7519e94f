"""Python in another process: without the current directory on its path, and without our secrets.

With `-m` or `-c` Python imports from the current directory first, which may hold another user's files.
"""

import marshal
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

# The directory of the package: everything in it is trusted as the package is.
_ROOT = str(Path(__file__).parents[2])
# What an interpreter needs to start, to find its libraries, and to read names as this process does. Secrets can have
# any name, so nothing else is passed on.
_NEEDED = frozenset({"LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "WINDIR"})
_NEEDED_PREFIXES = ("LC_", "LD_", "DYLD_")
# A worker that is not ready by then is killed.
_START_SECONDS = 60.0
_LENGTH = struct.Struct("!Q")


def safe_path() -> list[str]:
    """Return the import path without the current directory (unless the package is there), which `-c` puts first."""
    entries = [entry for entry in sys.path if os.path.isabs(entry)]  # noqa: PTH117 - an entry is a text
    if not sys.flags.safe_path and entries and entries[0] == sys.path[0] != _ROOT and _is_current(entries[0]):
        del entries[0]
    return entries if _ROOT in entries else [_ROOT, *entries]


def _is_current(directory: str) -> bool:
    try:
        return Path(directory).samefile(".")
    except OSError:  # one of them is not there
        return False


def python_command(code: str, *words: str) -> list[str]:
    """Return the command of an interpreter that imports from `safe_path` only and runs this code."""
    code = f"import sys; sys.path[:] = {safe_path()!a}; {code}"
    # File names are decoded as in this process.
    return [sys.executable, "-I", "-X", f"utf8={sys.flags.utf8_mode}", "-c", code, *words]


def child_environment() -> dict[str, str]:
    """Return the part of the environment that an interpreter needs: it has no secret."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper() in _NEEDED or name.upper().startswith(_NEEDED_PREFIXES)
    }


class WorkerDiedError(Exception):
    """The worker ended before it answered: it was killed, or the request ended it."""


class WorkerMissingError(Exception):
    """The system cannot start a worker now."""


class Worker:
    """A function called in a process of its own, which starts when needed, and again when it dies.

    The function is in a module of this package. It takes and returns values for `marshal`, which runs no code when it
    reads them. The process ends with this one, in whatever way, and gets no Ctrl-C. One call at a time.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        module, name = function.__module__, function.__name__
        self._code = f"from asyncimport.system.interpreter import serve; from {module} import {name}; serve({name})"
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[[subprocess.Popen[bytes]], Worker] | None = None

    def call(self, value: Any) -> Any:
        """Call the function. It blocks. Raises: WorkerDiedError, WorkerMissingError."""
        process = self._process or self._start()
        try:
            assert process.stdin is not None  # noqa: S101 - it was asked for
            assert process.stdout is not None  # noqa: S101 - it was asked for
            _write(process.stdin, value)
            return _read(process.stdout)
        except (OSError, EOFError):
            self.close()
            raise WorkerDiedError from None

    def close(self) -> None:
        """End the process without waiting for it; a running call raises WorkerDiedError."""
        self._process = None
        if self._end is not None:
            self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            process = subprocess.Popen(  # noqa: S603 - our own command
                python_command(self._code),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=child_environment(),
                # Keep Ctrl-C from it, on Windows too.
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        except (OSError, ValueError):
            raise WorkerMissingError from None
        self._process = process
        self._end = weakref.finalize(self, _end, process)
        self._end.atexit = False  # it ends by itself then
        late = threading.Timer(_START_SECONDS, process.kill)
        late.start()
        try:
            assert process.stdout is not None  # noqa: S101 - it was asked for
            _read(process.stdout)
        except (OSError, EOFError):
            self.close()
            raise WorkerMissingError from None
        finally:
            late.cancel()
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    # A process that hangs at a dead disk ends late.
    threading.Thread(target=_reap, args=(process,), daemon=True).start()


def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        with process:
            pass
    except OSError:
        """What was to be written to it is of no interest any more."""


def serve(function: Callable[[Any], Any]) -> None:
    """Call a function for each request on standard input; the process ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _be_killed_first()
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(sys.stdin.buffer, requests), daemon=True).start()
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)  # nothing else may write among the replies
        _write(replies, None)
        while True:
            _write(replies, function(requests.get()))


def _be_killed_first() -> None:
    """Ask Linux to end this process before its parent when memory runs out."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        """Another system, or not allowed."""


def _receive(file: IO[bytes], requests: "queue.SimpleQueue[Any]") -> None:
    try:
        while True:
            requests.put(_read(file))
    except (OSError, EOFError):
        os._exit(0)  # nobody waits for the current request


def _write(file: IO[bytes], value: Any) -> None:
    content = marshal.dumps(value)
    file.write(_LENGTH.pack(len(content)) + content)
    file.flush()


def _read(file: IO[bytes]) -> Any:
    """Read a value. Raises: EOFError."""
    (length,) = _LENGTH.unpack(_read_exactly(file, _LENGTH.size))
    return marshal.loads(_read_exactly(file, length))  # noqa: S302 - from this package, by a pipe of our own


def _read_exactly(file: IO[bytes], size: int) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise EOFError
    return content
