"""Starts Python processes by fork, from a process that has imported already what they need.

A process that is started so has its own arguments, environment, directory, files and signals, and ends as any other
does. What it shares with the others is how the interpreter itself was started: see `is_alike`.
"""

import atexit
import gc
import importlib
import json
import os
import re
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

_MAX_BYTES = 1 << 20
_IMPORT = re.compile(r"^ *(?:import (\w[\w.]*)(?:  #.*)?$|from (\w[\w.]*) import )", re.MULTILINE)
# Modules that libraries import only when they are used.
_IMPORTED_LATE = ("anyio._backends._asyncio", "rich._emoji_codes", "typer._click.decorators", "importlib.readers")
_SUPPORT = str(Path(__file__).parent / "support")
# Variables that an interpreter heeds when it starts, or that libraries may read when they are imported.
_AT_START = ("PYTHON", "LANG", "LC_", "LD_", "COV_", "COVERAGE_")


@dataclass(frozen=True, slots=True)
class Forked:
    """A process: its number, and where its exit code will come from (negative: the signal that ended it)."""

    pid: int
    report: socket.socket

    def exit_code(self) -> int:
        """Wait for the end. Raises: EOFError if the server was killed; TimeoutError as `report` is set."""
        with self.report:
            return _number(self.report)


class ForkServer:
    """A process that starts others, with modules that it imports first. It ends with this one."""

    def __init__(self, modules: Iterable[str], env: Mapping[str, str], directory: Path) -> None:
        self._env = dict(env)
        self._directory = directory
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Messages hold an environment.
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MAX_BYTES)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *modules],
                env=self._env,
                cwd=directory,
                # Pipes, as its children have: how Python buffers them is decided when it starts.
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )

    def is_alike(self, env: Mapping[str, str]) -> bool:
        """Return whether an interpreter that is started here, with this environment, would start as the server did."""
        return Path.cwd() == self._directory and _at_start(env) == _at_start(self._env)

    def start(
        self,
        module: str,
        words: Sequence[str],
        files: Sequence[int],
        env: Mapping[str, str] | None = None,
        *,
        new_session: bool = False,
        directory: Path | None = None,
        absent: Sequence[str] = (),
    ) -> Forked:
        """Run a module, as `python -m` does, with three open files as its input, output and error output.

        `absent` modules cannot be imported, as if they were not installed.
        """
        request = {"module": module, "words": words, "env": self._env if env is None else dict(env)}
        request |= {"directory": str(directory or self._directory), "absent": list(absent)}
        report, theirs = socket.socketpair()
        with theirs:
            message = json.dumps(request | {"new_session": new_session}).encode()
            socket.send_fds(self._control, [message], [*files, theirs.fileno()])
        return Forked(_number(report), report)

    def close(self) -> None:
        """End the server; what it has started goes on."""
        self._control.close()
        self._process.communicate()


def _at_start(env: Mapping[str, str]) -> dict[str, str]:
    """Return what decides how an interpreter starts. The keyring is chosen later, and found in `support` (`run`)."""
    found = {name: value for name, value in env.items() if name.startswith(_AT_START)}
    for name in ("PYTHON_KEYRING_BACKEND", "PYTHONDONTWRITEBYTECODE"):  # all is imported already
        found.pop(name, None)
    path = [place for place in found.pop("PYTHONPATH", "").split(os.pathsep) if place not in {"", _SUPPORT}]
    return found | {"PYTHONPATH": os.pathsep.join(path)}


def _number(report: socket.socket) -> int:
    content = report.recv(4, socket.MSG_WAITALL)
    if len(content) < 4:
        raise EOFError
    return int.from_bytes(content, "little", signed=True)


def imported_by(files: Iterable[Path]) -> list[str]:
    """Return the modules that files import, wherever in the file that is."""
    return sorted({max(names) for file in files for names in _IMPORT.findall(file.read_text("utf-8"))})


# --- In the server


@dataclass(frozen=True, slots=True)
class _Request:
    """What a process is to run."""

    message: Mapping[str, Any]
    files: Sequence[int]

    def run(self) -> None:
        """Run it in this process."""
        os.environ.clear()
        os.environ.update(self.message["env"])
        for target, file in enumerate(self.files):
            os.dup2(file, target)
            os.close(file)
        # The server's own streams believe that these are other files.
        for number, (name, mode, buffering) in enumerate((("stdin", "r", -1), ("stdout", "w", -1), ("stderr", "w", 1))):
            setattr(sys, name, open(number, mode, buffering, encoding="utf-8"))  # noqa: SIM115, PTH123 - until the end
        if self.message["new_session"]:
            os.setsid()
        os.chdir(self.message["directory"])
        sys.modules.update(dict.fromkeys(self.message["absent"]))
        sys.path[0] = str(Path.cwd())
        if _SUPPORT in os.environ.get("PYTHONPATH", "").split(os.pathsep):
            sys.path.insert(1, _SUPPORT)
        sys.argv[1:] = self.message["words"]
        runpy.run_module(self.message["module"], run_name="__main__", alter_sys=True)


def _serve(control: socket.socket) -> _Request | None:
    """Start what is asked for, and report numbers and exit codes, until nobody is there to ask.

    Returns: in each process that was started what it is to run; None in the server, at its end.
    """
    reports: dict[int, socket.socket] = {}
    receive, send = socket.socketpair()
    receive.settimeout(0)
    send.settimeout(0)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(send.fileno())
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(receive, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if receive in ready:
                receive.recv(4096)
                _reap(reports)
            if control in ready:
                message, fds, *_ = socket.recv_fds(control, _MAX_BYTES, 4)
                if not message:
                    return None
                *files, report = fds
                if (pid := os.fork()) == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    # Libraries may take them when they are imported (dask-jobqueue).
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                    signal.signal(signal.SIGTERM, signal.SIG_DFL)
                    for ours in (control, receive, send, *reports.values()):
                        ours.close()
                    os.close(report)
                    return _Request(json.loads(message), files)
                reports[pid] = socket.socket(fileno=report)
                _send(reports[pid], pid)
                for file in files:
                    os.close(file)


def _reap(reports: dict[int, socket.socket]) -> None:
    while reports:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with reports.pop(pid) as report:
            _send(report, os.waitstatus_to_exitcode(status))


def _send(report: socket.socket, number: int) -> None:
    with suppress(OSError):  # nobody waits for it
        report.sendall(number.to_bytes(4, "little", signed=True))


def _main(control: int, modules: Sequence[str]) -> None:
    for module in (*modules, *_IMPORTED_LATE):
        with suppress(ImportError):  # of another system
            importlib.import_module(module)
    gc.collect()
    gc.freeze()
    if (request := _serve(socket.socket(fileno=control))) is not None:
        try:
            request.run()
        except SystemExit as end:
            if end.code is None or isinstance(end.code, int):
                _exit(end.code or 0)
            raise


def _exit(code: int) -> NoReturn:
    """End as the interpreter does, but leave memory as it is: to free it, the kernel would have to copy it first."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, and has no public name
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2:])
