"""A scheduler of Dask and its workers, as processes: what a site would start on its machines."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
from patience import COMMAND

# Later files hide what was mounted before; the mount ends with the process.
_MOUNTED = 'while [ "$1" != -- ]; do mount --bind "$1" "$2" && shift 2 || exit 77; done; shift; exec "$@"'

# A module that says that it was executed, and goes on as the one whose name it has.
HOSTILE = """import sys
open("executed", "w").close()
del sys.modules[__name__], sys.path[0]
import multiprocessing
"""


class DaskProcesses:
    """Starts a scheduler, and workers that may each see other directories. All end with `end`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._started: list[subprocess.Popen[bytes]] = []
        self.address = ""
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.log = directory / "dask.log"
        self.env: dict[str, str] = {}
        self._reader: Thread | None = None
        self._has_told, self._has_worker = Event(), Event()

    def begin(self, more: Sequence[str] = ()) -> None:
        """Start the scheduler, and wait until it listens."""
        words = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0", *more]
        self._has_worker.clear()
        self.scheduler = process = self._start("scheduler", *words)
        self._reader = Thread(target=self._read, args=(process,))
        self._reader.start()
        self._has_told.wait()
        if not self.address:
            raise AssertionError(self.log.read_text())

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        """Keep what the scheduler says, to its end: it would wait where nobody reads."""
        assert process.stderr is not None
        with self.log.open("ab", buffering=0) as log, process.stderr:
            for line in process.stderr:
                log.write(line)
                if b"Scheduler at:" in line:
                    self.address = line.split()[-1].decode()
                    self._has_told.set()
                if b"Register worker addr" in line:
                    self._has_worker.set()
        self._has_told.set()
        self._has_worker.set()

    def when_ready(self) -> str:
        """Return the scheduler's address when it has a worker: a command waits for its first one for 15 s only."""
        self._has_worker.wait(COMMAND)
        return self.address

    def start_worker(
        self,
        name: str,
        *,
        mounts: Mapping[Path, Path] | None = None,
        env: Mapping[str, str] | None = None,
        user: int | None = None,
        ports: tuple[int, int] | None = None,
        more: Sequence[str] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a worker that has each directory (key of `mounts`) at another path, too.

        `ports`: where it listens, and where others connect.
        """
        before: list[str] = []
        if mounts is not None:
            pairs = [str(path) for pair in mounts.items() for path in pair]
            before = ["unshare", "--mount", "--map-root-user", "sh", "-c", _MOUNTED, "sh", *pairs, "--"]
        if user is not None:
            before = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        scratch = self._directory / name
        scratch.mkdir(exist_ok=True)
        scratch.chmod(0o777)
        words = [self.address, "--name", name, "--nthreads", "1", "--no-dashboard", "--local-directory", str(scratch)]
        words += more
        if ports is not None:
            listen, contact = (f"tcp://127.0.0.1:{port}" for port in ports)
            words += ["--listen-address", listen, "--contact-address", contact]
        return self._start("worker", *words, "--no-nanny", before=before, env=env)

    def _start(
        self, kind: str, *words: str, before: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        command = [*before, sys.executable, "-m", f"distributed.cli.dask_{kind}", *words]
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("XNAT", "ASYNCIMPORT"))
        }
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                env={**environment, **self.env, **(env or {})},
                stdout=log,
                stderr=subprocess.PIPE if kind == "scheduler" else log,
                stdin=subprocess.DEVNULL,
                # Python imports from the current directory first.
                cwd=self._directory,
            )
        self._started.append(process)
        return process

    def end(self) -> None:
        """End all processes that run."""
        for process in reversed(self._started):
            process.send_signal(signal.SIGCONT)
            process.kill()
        while self._started:
            self._started.pop().wait()
        if self._reader is not None:
            self._reader.join()


@contextmanager
def dask_processes(directory: Path, more: Sequence[str] = ()) -> Iterator[DaskProcesses]:
    """Yield a scheduler without workers."""
    processes = DaskProcesses(directory)
    try:
        processes.begin(more)
        yield processes
    finally:
        processes.end()


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[DaskProcesses]:
    """Start a scheduler for workers of this test."""
    (tmp_path / "dask").mkdir()
    with dask_processes(tmp_path / "dask") as processes:
        yield processes


@pytest.fixture
def two_workers(dask: DaskProcesses) -> DaskProcesses:
    """Start two workers that see what this process sees."""
    dask.start_worker("a")
    dask.start_worker("b")
    return dask


def can_mount(directory: Path) -> bool:
    """Whether mounts of one process only are possible here."""
    one, other = directory / "one", directory / "other"
    one.mkdir()
    other.mkdir()
    words = ["unshare", "--mount", "--map-root-user", "sh", "-c", _MOUNTED, "sh", str(one), str(other), "--", "true"]
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
