"""Other Python processes: what they import, what they know, and how they end."""

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import psutil
import pytest
from conftest import Commands

from asyncimport.system.interpreter import Worker, WorkerDiedError, WorkerMissingError, child_environment, safe_path
from asyncimport.testserver.samples import generated

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

ROOT = str(Path(__file__).parent.parent.parent)
PROGRAM = Path(sys.executable).parent / "asyncimport"
NAMES = ("anyio", "asyncimport", "aiohttp", "pydicom", "typer", "json", "queue", "pickle", "zlib", "tomllib", "keyring")


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """Make a directory with modules that report when they are imported."""
    place = tmp_path / "trap"
    for name in NAMES:
        module = place / name
        module.mkdir(parents=True)
        (module / "__init__.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'a').write({name!r} + chr(10))\n")
    return place


@contextmanager
def within(directory: Path) -> Iterator[None]:
    """Change to a directory for a while."""
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


async def test_code_in_the_current_directory_does_not_run(trap: Path, tmp_path: Path, commands: Commands) -> None:
    """A worker scans a source of many files, where others may have put modules."""
    generated(trap / "files", sessions=1, files=2_100, size=600, seed=1)
    with within(trap):
        done = await anyio.run_process([PROGRAM, "plan", ".", "-P", "demo", "-q"], env=commands.env, check=False)
    assert done.returncode == 0, done.stderr
    assert b"2,100" in done.stdout
    assert not (tmp_path / "sprung").exists()


async def test_code_in_the_current_directory_does_not_run_in_the_demo(
    trap: Path, tmp_path: Path, commands: Commands
) -> None:
    """The demo's server is another process."""
    with within(trap):
        done = await anyio.run_process([PROGRAM, "demo", "-q"], env=commands.env, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "sprung").exists()


async def test_as_a_module_too_nothing_more_is_imported_from_there(tmp_path: Path, commands: Commands) -> None:
    """Python itself looks there for `asyncimport`; later imports come from elsewhere."""
    for name in ("anyio", "typer", "gc", "platformdirs"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    with within(tmp_path):
        ended = await commands("status")
    assert (ended.code, ended.err.splitlines()[0]) == (
        2,
        f"error: there is no journal in {commands.home}/.local/state/asyncimport",
    )


def started() -> psutil.Process:
    """Return the process of the only worker; the server of the tests' commands is another child."""
    (process,) = (one for one in psutil.Process().children() if "import serve" in one.cmdline()[-1])
    return process


def test_a_worker_gets_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords can have any name: only what an interpreter needs is passed on."""
    for name in ("XNAT_PASS", "XNAT_TOKEN", "HTTPS_PROXY", "ASYNCIMPORT_PROFILE", "AWS_SECRET_ACCESS_KEY", "HOME"):
        monkeypatch.setenv(name, "horse")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    assert child_environment()["LC_ALL"] == "C.UTF-8"
    worker = Worker(os.path.basename)
    assert worker.call("a/b") == "b"
    process = started()
    assert "horse" not in process.environ().values()
    assert "LC_ALL" in process.environ()
    worker.close()


def test_the_current_directory_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As an entry that Python puts first, and as the empty one; if the package is there, it stays."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), "", *sys.path])
    with within(tmp_path):
        assert safe_path() == sys.path[2:]
    assert safe_path() == [str(tmp_path), *sys.path[2:]]
    monkeypatch.setattr(sys, "path", [ROOT, "/elsewhere"])
    with within(Path(ROOT)):
        assert safe_path() == [ROOT, "/elsewhere"]
    monkeypatch.setattr(sys, "path", ["/elsewhere"])
    assert safe_path() == [ROOT, "/elsewhere"]


def test_a_dead_worker_raises_and_is_restarted() -> None:
    """The caller decides what that means."""
    worker = Worker(os._exit)
    for _ in range(2):
        with pytest.raises(WorkerDiedError):
            worker.call(3)


def test_a_worker_that_cannot_start_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whether the system starts none, or one that ends at once."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(tmp_path / "gone"))
        with pytest.raises(WorkerMissingError):
            Worker(os.path.basename).call("a")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", shutil.which("true"))
        with pytest.raises(WorkerMissingError):
            Worker(os.path.basename).call("a")


def test_a_worker_gets_no_ctrl_c() -> None:
    """A terminal sends it to the process group; a direct one is ignored."""
    worker = Worker(os.path.basename)
    assert worker.call("a") == "a"
    process = started()
    assert os.getpgid(process.pid) != os.getpgid(0)
    process.send_signal(signal.SIGINT)
    assert worker.call("a/b") == "b"
    worker.close()


@pytest.mark.parametrize("busy", [False, True])
async def test_a_worker_ends_with_its_parent(busy: bool) -> None:
    """Even with a killed one, and in the middle of its work."""
    call = "threading.Thread(target=worker.call, args=(600,)).start()" if busy else ""
    script = f"""
import psutil, threading, time
from asyncimport.system.interpreter import Worker
worker = Worker(time.sleep)
worker.call(0)
{call}
print(psutil.Process().children()[0].pid, flush=True)
time.sleep(600)
"""
    async with await anyio.open_process([sys.executable, "-c", script]) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(await parent.stdout.receive()))
        parent.kill()
        await anyio.to_thread.run_sync(child.wait, 10)


def test_other_output_does_not_mix_with_the_answers() -> None:
    """A library may print something."""
    worker = Worker(print)
    assert worker.call("x") is None
    assert worker.call("y") is None
    worker.close()
