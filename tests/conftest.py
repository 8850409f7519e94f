"""What all tests share: one event loop, nothing that blocks it, a test XNAT, and small DICOM trees."""

import gc
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteReceiveStream, Process
from blockbuster import BlockBuster, blockbuster_ctx
from fork_server import ForkServer, imported_by
from forked_process import ForkedProcess
from free_ports import free_port
from hypothesis import HealthCheck, settings
from patience import COMMAND, be_impatient, in_time

from asyncimport.testserver import TestXnat, serve
from asyncimport.testserver.samples import generated

pytest_plugins = ["dask_processes", "journal_fixtures"]

# A slow machine is no reason to fail.
settings.register_profile("any-speed", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-speed")


@pytest.fixture
def journal_path(tmp_path: Path) -> Path:
    """Return the path for the journal of a test."""
    return tmp_path / "journal.db"


@pytest.fixture
def unused_port() -> Iterator[int]:
    """Find a port that nobody listens on."""
    with free_port() as port:
        yield port


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio: aiohttp knows no other."""
    return "asyncio"


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Turn any blocking call on the event loop, by the client or by the test server, into an error."""
    # Tests themselves may block: they make and read small files between the steps of what is tested.
    with blockbuster_ctx("asyncimport", excluded_modules=["asyncimport.testserver.samples"]) as guard:
        yield guard


@pytest.fixture
def xnat(tmp_path: Path) -> TestXnat:
    """Make a test XNAT that is not being served yet: user, password and project `demo`."""
    return TestXnat(tmp_path / "xnat")


@pytest.fixture
async def url(xnat: TestXnat) -> AsyncIterator[str]:
    """Serve the test XNAT on a real socket, and give its address."""
    async with serve(xnat) as address:
        yield address


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Read standard output as the one JSON object that it must be."""
        return json.loads(self.out)


async def output(process: Process) -> Ended:
    """Wait for the end of a command."""
    assert process.stdout is not None
    assert process.stderr is not None
    with in_time(COMMAND):
        out = b"".join([piece async for piece in process.stdout])
        err = b"".join([piece async for piece in process.stderr])
        return Ended(await process.wait(), out.decode(), err.decode())


class Commands:
    """Runs `asyncimport` as users do: as a process, with nothing of this process's surroundings.

    Where there is a server for it, the process is forked from one that has imported all already, if it does not matter
    how the interpreter is started.
    """

    def __init__(self, home: Path, server: ForkServer | None = None) -> None:
        self.home = home
        self.directory: Path | None = None
        """Where commands run; None: in the directory of the tests."""
        self.absent: Sequence[str] = ()
        """Modules that count as not installed, where commands are forked."""
        self._server = server
        self.env: dict[str, str] = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("XNAT", "ASYNCIMPORT", "XDG", "NETRC", "PYTEST"))
        } | {"HOME": str(home), "COLUMNS": "200", "NO_COLOR": "1", "ASYNCIMPORT_SETTLE_TIME": "0s"}

    def use_keyring(self, name: str = "file_keyring.Keyring") -> None:
        """Let the commands use a keyring, by its class; that of these tests is a file below their home."""
        path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(Path(__file__).parent / "support"))))
        self.env |= {"PYTHON_KEYRING_BACKEND": name, "PYTHONPATH": path}

    def login(self, url: str) -> None:
        """Let the commands find the test XNAT in their environment, as its user `demo`."""
        self.env |= {"XNAT_HOST": url, "XNAT_USER": "demo", "XNAT_PASS": "demo"}

    async def __call__(self, *words: str | os.PathLike[str], stdin: bytes = b"") -> Ended:
        """Run a command to its end."""
        out, err = bytearray(), bytearray()

        async def read(stream: ByteReceiveStream | None, into: bytearray) -> None:
            assert stream is not None
            async for piece in stream:
                into += piece

        async with self.start(*words) as process, anyio.create_task_group() as tasks:
            tasks.start_soon(read, process.stdout, out)
            tasks.start_soon(read, process.stderr, err)
            assert process.stdin is not None
            with suppress(anyio.BrokenResourceError):
                await process.stdin.send(stdin)
            await process.stdin.aclose()
            code = await process.wait()
        return Ended(code, out.decode(), err.decode())

    @asynccontextmanager
    async def start(self, *words: str | os.PathLike[str]) -> AsyncIterator[Process]:
        """Start a command that the test will talk to, or kill."""
        async with await self._open([os.fspath(word) for word in words]) as process:
            try:
                yield process
            finally:
                if process.returncode is None:
                    process.kill()

    async def _open(self, words: list[str]) -> Process:
        if self._server is not None and self._server.is_alike(self.env):
            return ForkedProcess(self._server, "asyncimport", words, self.env, self.directory, self.absent)
        return await anyio.open_process([sys.executable, "-m", "asyncimport", *words], env=self.env, cwd=self.directory)


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer | None]:
    """Start a process that has imported all that `asyncimport` imports."""
    if sys.platform != "linux":  # elsewhere it is not safe to fork what has loaded the libraries
        yield None
        return
    root = Path(__file__).parent.parent
    files = [file for file in (root / "asyncimport").rglob("*.py") if "testserver" not in file.parts]
    ours = [".".join(file.relative_to(root).with_suffix("").parts) for file in files if file.stem != "__main__"]
    others = [name for name in imported_by(files) if not name.startswith("asyncimport")]
    server = ForkServer([*others, *ours], Commands(tmp_path_factory.mktemp("server")).env, Path.cwd())
    yield server
    server.close()


@pytest.fixture
def commands(tmp_path: Path, fork_server: ForkServer | None) -> Commands:
    """Give the command line a home of its own."""
    home = tmp_path / "home"
    home.mkdir()
    return Commands(home, fork_server)


@pytest.fixture
def ready(url: str, commands: Commands) -> Commands:
    """Let the commands find the test XNAT."""
    commands.login(url)
    return commands


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write a small tree of two sessions with six files each."""
    target = tmp_path / "tree"
    generated(target, sessions=2, files=12, size=2_000, seed=1)
    return target


# With CI=true a skipped test is a failure, unless it stands here with its reason.
MAY_SKIP = {
    "tests/journal/test_journal_disk.py::test_a_real_mount": "to mount takes root's rights and /dev/fuse",
    "tests/journal/test_journal_disk.py::test_a_source_on_a_real_mount_is_read_in_threads_only": "as above",
    "tests/credentials/test_credentials.py::TestNetrc::test_unreadable_netrc": "CI runs as root",
    "tests/cli/test_progress_screens.py::test_a_terminal_that_is_resized": "as below: tmux",
    "tests/reporting/test_page_in_browser.py": "where chromium cannot be installed, .ci/run says so",
    "tests/testserver/test_home_page.py": "likewise",
    "tests/cli/test_completion.py": "likewise: not every machine has every shell",
    "tests/cli/test_manual.py": "likewise: groff and mandoc",
    "tests/test_recipes.py::test_systemd_finds_nothing_wrong_with_the_units": "likewise: systemd-analyze",
    "tests/cluster/test_cluster_recipes.py::test_jobs_of_a_real_slurm": "likewise: Slurm, of 24 and later",
    "tests/cluster/test_cluster_source.py::test_a_file_that_one_worker_may_not_read_is_read_by_another": (
        "it takes root's rights, and a checkout that others can read"
    ),
    "tests/cluster/test_partitions.py": "network namespaces take root's rights, which not all containers have",
    "tests/real/": "nobody has a real XNAT here; tests/scenarios/test_real_suite.py runs them on the test XNAT",
}
MAY_SKIP |= dict.fromkeys(
    (
        *(
            f"tests/scenarios/test_bind_mounts.py::test_of_two_sources_that_are_one_each_file_counts_once[{is_first}-{part}]"
            for is_first in (False, True)
            for part in ("", "p1")
        ),
        "tests/scenarios/test_bind_mounts.py::test_a_directory_that_is_twice_in_a_source_is_sent_once",
    ),
    "to mount takes root's rights, or a name space of one's own, which not all containers allow",
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let no test be skipped unseen."""
    report = yield
    places = item.nodeid, item.nodeid.partition("::")[0]
    may_skip = any(name in places or (name.endswith("/") and item.nodeid.startswith(name)) for name in MAY_SKIP)
    unseen = report.skipped and not hasattr(report, "wasxfail") and not may_skip
    if unseen and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, and tests/conftest.py does not say why: {report.longrepr}"
    return report


def pytest_configure(config: pytest.Config) -> None:
    """Trust nobody whom this machine trusts, and let commands be interrupted where a shell has SIGINT ignored."""
    if config.option.timeout:
        # Mutants may hang. What says so is told, before its test is given up.
        be_impatient(config.option.timeout / 4)
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        os.environ.pop(name, None)
    # A shell does so where the tests run in the background.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes minutes, unless it is asked for by its mark: -m endurance. Begin with the slowest tests."""
    items.sort(
        key=lambda item: (item.get_closest_marker("timeout") is None, item.get_closest_marker("thorough") is None)
    )
    if "endurance" not in config.option.markexpr:
        out = [item for item in items if item.get_closest_marker("endurance")]
        items[:] = [item for item in items if item not in out]
        config.hook.pytest_deselected(items=out)


def pytest_collection_finish() -> None:
    """Spare the garbage collector what lives as long as the tests: modules, and the tests themselves."""
    gc.collect()
    gc.freeze()
