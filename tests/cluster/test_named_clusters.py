"""`--dask @module:name`, a first worker that does not come, and no Dask at all: as somebody types them."""

import signal
import sys
from pathlib import Path

import anyio
import pytest
from conftest import Commands
from patience import RUN, in_time

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

MODULE = """
from distributed import LocalCluster

def make(workers=1):
    return LocalCluster(n_workers=workers, **settings)

def interrupted():
    stop = "import os, signal\\ndef dask_setup(worker): os.kill(os.getpid(), signal.SIGINT)"
    return LocalCluster(n_workers=1, preload=stop, **settings)

def address():
    kept.append(make())
    return kept[0].scheduler_address

def failing():
    raise RuntimeError("no machine\\nis free")

def empty():
    return make(0)

kept = []
nothing = 7
# Dask may have something to say of a busy machine, with a traceback.
settings = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": 60}
"""


@pytest.fixture
def site(commands: Commands, tmp_path: Path) -> Commands:
    """Return commands that find a module of the site."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "mysite.py").write_text(MODULE)
    commands.env["PYTHONPATH"] = str(tmp_path / "modules")
    return commands


@pytest.mark.parametrize("name", ["make", "address", "interrupted"])
async def test_a_cluster_of_a_module(site: Commands, tree: Path, name: str) -> None:
    """A function returns a cluster of Dask, or the address of one. Ctrl-C, which all its processes get, ends none."""
    ended = await site("plan", tree, "-P", "demo", "-o", "json", "--dask", f"@mysite:{name}")
    assert ended.code == 0, ended.err
    assert sum(row["files"] for row in ended.json["rows"]) == 12


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("@mysite:nothing", "--dask @mysite:nothing is neither a cluster of Dask nor an address"),
        ("@mysite:absent", "has no attribute 'absent'"),
        ("@mysite:failing", "--dask @mysite:failing: RuntimeError: no machine is free"),
        ("@othersite:make", "No module named 'othersite'"),
    ],
)
async def test_a_module_without_a_cluster(site: Commands, tree: Path, spec: str, reason: str) -> None:
    """A line says so, and another what to do."""
    ended = await site("plan", tree, "-P", "demo", "--dask", spec)
    error, hint = ended.err.splitlines()
    assert (ended.code, error[:7], hint[:6]) == (2, "error: ", "hint: ")
    assert reason in error


async def test_ctrl_c_while_the_first_worker_is_awaited(site: Commands, tree: Path) -> None:
    """The run ends at once, as stopped."""
    with in_time(RUN):
        async with site.start("plan", tree, "-P", "demo", "--dask", "@mysite:empty") as process:
            assert process.stderr is not None
            told = b""
            async for text in process.stderr:
                told += text
                if b"waiting for the first worker of @mysite:empty" in told and told.endswith(b"\n"):
                    process.send_signal(signal.SIGINT)
                    break
            told += b"".join([text async for text in process.stderr])
            assert await process.wait() == 130, told.decode()
    assert b"Traceback" not in told
    assert b"stopped" in told


STOPS = """
import os, signal

def dask_setup(nanny):
    os.kill(os.getpid(), signal.SIGINT)
"""

FORKS = """
import multiprocessing, os, signal
from multiprocessing import forkserver
from asyncimport.cluster.clients import start_fork_server

start_fork_server()
server = forkserver._forkserver._forkserver_pid
os.kill(server, signal.SIGINT)
process = multiprocessing.get_context("forkserver").Process(target=print, args=["forked"])
process.start()
process.join()
print(forkserver._forkserver._forkserver_pid == server)
"""


async def test_ctrl_c_while_the_processes_of_this_machine_start(site: Commands, tree: Path, tmp_path: Path) -> None:
    """They start, are ended, and nothing else is said. The signal comes with the first of them."""
    (tmp_path / "modules" / "stops.py").write_text(STOPS)
    fresh = Commands(tmp_path)  # one that reads the configuration anew
    fresh.env |= {"PYTHONPATH": site.env["PYTHONPATH"], "DASK_DISTRIBUTED__NANNY__PRELOAD": "stops"}
    ended = await fresh("plan", tree, "-P", "demo", "-q", "--dask", "local:2")
    assert (ended.code, ended.err) == (130, "stopped\n")


@pytest.mark.skipif(sys.platform != "linux", reason="others do not fork")
async def test_ctrl_c_while_the_first_process_imports() -> None:
    """It goes on, and says nothing: the command says that it was stopped."""
    with in_time(RUN):
        ended = await anyio.run_process([sys.executable, "-c", FORKS], check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"forked\nTrue\n", b"")


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("CONFIG", "distributed: [torn", "is malformed"),
        ("CONFIG", "a text", "is malformed"),
        ("DISTRIBUTED__ADMIN__TICK__LIMIT", "soon", "Invalid time unit: soon"),
        ("DISTRIBUTED__CLIENT__HEARTBEAT", "0s", "ValueError: Periodic callback must have a positive callback_time"),
    ],
)
async def test_a_configuration_that_dask_does_not_take(
    tree: Path, tmp_path: Path, variable: str, value: str, reason: str
) -> None:
    """One line says what is wrong, wherever Dask meets it."""
    commands = Commands(tmp_path)  # one that reads the configuration anew
    if variable == "CONFIG":
        (tmp_path / "dask.yaml").write_text(value)
        value = str(tmp_path / "dask.yaml")
    commands.env[f"DASK_{variable}"] = value
    ended = await commands("plan", tree, "-P", "demo", "--dask", "local:1")
    error, hint = ended.err.splitlines()
    assert (ended.code, error[:28], hint[:6]) == (2, "error: Dask does not start: ", "hint: "), ended.err
    assert reason in error
    assert len(error) < 300


@pytest.mark.parametrize("command", ["plan", "upload"])
async def test_without_dask(ready: Commands, tree: Path, command: str) -> None:
    """As after `pip install asyncimport`: the hint names the extra."""
    ready.absent = ("distributed",)
    ended = await ready(command, tree, "-P", "demo", "--dask", "local:1")
    assert ended.code == 2, ended.err
    assert ended.err.splitlines()[-2:] == [
        "error: --dask needs Dask, which is not installed",
        "hint: install it: pip install 'asyncimport[dask]'",
    ]
