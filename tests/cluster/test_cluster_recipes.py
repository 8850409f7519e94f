"""The recipes of the page on many machines, tried: certificates for all machines, and jobs of Slurm."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import anyio.to_thread
import pytest
from conftest import Commands
from dask_processes import HOSTILE, DaskProcesses

from asyncimport.testserver.samples import generated

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.thorough,
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="the recipes are for Linux"),
]

PAGE = (Path(__file__).parent.parent.parent / "docs" / "many-machines.md").read_text("utf-8")

# Slurm's commands, as far as dask-jobqueue uses them: a job is a process group, and its number that of the group.
# The script is read at once, as `sbatch` does: dask-jobqueue deletes it afterwards.
SBATCH = """#!/bin/sh
script=$(cat "$1")
setsid sh -c "$script" > "{log}" 2>&1 < /dev/null &
echo "Submitted batch job $!"
"""
SCANCEL = '#!/bin/sh\necho "$1" >> "{cancelled}"\nkill -- "-$1"\n'


def block(kind: str, beginning: str = "") -> str:
    """Return the block of this kind that begins so."""
    (found,) = re.findall(rf"^```{kind}\n({re.escape(beginning)}.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    """Return commands that read Dask's configuration anew."""
    (tmp_path / "home").mkdir()
    return Commands(tmp_path / "home")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write some sessions."""
    generated(tmp_path / "tree", sessions=2, files=20, size=2_000, seed=1)
    return tmp_path / "tree"


async def test_one_certificate_for_all_machines(commands: Commands, tree: Path, tmp_path: Path) -> None:
    """Scheduler, worker and command have it by Dask's configuration. Without it nobody gets in."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here")
    home = tmp_path / "me"
    home.mkdir()
    subprocess.run(["sh", "-ec", block("sh", "openssl")], cwd=home, check=True, capture_output=True)
    (home / "tls.yaml").write_text(block("yaml").replace("/home/me", str(home)))
    (tmp_path / "dask").mkdir()
    dask = DaskProcesses(tmp_path / "dask")
    dask.env["DASK_CONFIG"] = str(home)
    words = ("plan", tree, "-P", "demo", "-q")
    try:
        await anyio.to_thread.run_sync(dask.begin)
        assert dask.address.startswith("tls://")
        dask.start_worker("a")
        commands.env["DASK_CONFIG"] = str(home)
        done = await commands(*words, "--dask", dask.address)
        assert done.code == 0, done.err
        commands.env["DASK_CONFIG"] = str(tmp_path / "dask")
        refused = await commands(*words, "--dask", dask.address)
        assert (refused.code, "names none" in refused.err) == (2, True), refused.err
        plain = await commands(*words, "--dask", dask.address.replace("tls", "tcp"))
        assert plain.code == 4, plain.err
    finally:
        dask.end()


async def test_jobs_of_slurm(commands: Commands, tree: Path, tmp_path: Path) -> None:
    """They are submitted, do the work, and are cancelled. The certificates are gone afterwards."""
    tools, shared = tmp_path / "bin", tmp_path / "shared"
    tools.mkdir()
    shared.mkdir(mode=0o700)
    log, cancelled = tmp_path / "job.log", tmp_path / "cancelled"
    for name, script in (("sbatch", SBATCH.format(log=log)), ("scancel", SCANCEL.format(cancelled=cancelled))):
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    text = block("toml").replace("jobs = 4", "jobs = 1").replace("/home/me/dask", str(shared))
    (tmp_path / "cluster.toml").write_text(text.replace('"/tmp"', f'"{tmp_path}"'))
    commands.directory = tmp_path
    # Jobs begin there too, and must not execute what lies there.
    (tmp_path / "multiprocessing.py").write_text(HOSTILE)
    commands.env |= {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "DASK_CONFIG": str(tmp_path)}
    done = await commands("plan", tree, "-P", "demo", "--dask", "slurm:cluster.toml")
    assert done.code == 0, f"{done.err}\n{log.read_text() if log.exists() else ''}"
    assert "20 files" in done.out
    assert not (tmp_path / "executed").exists()
    assert "waiting for the first worker" in done.err
    assert cancelled.read_text().strip().isdecimal()
    assert [path for path in shared.rglob("*") if path.is_file()] == []
