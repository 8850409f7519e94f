"""The recipes of the page on many machines, tried: certificates for all machines, and jobs of Slurm."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
import yaml  # type: ignore[import-untyped]  # it comes with Dask
from blockbuster import BlockBuster
from conftest import Commands
from dask_processes import HOSTILE, DaskProcesses
from patience import RUN, in_time
from slurm_processes import has_slurm, slurm_processes

from asyncimport.cluster.connect import connect
from asyncimport.cluster.specs import parse_spec
from asyncimport.model.events import Event, Notice
from asyncimport.testserver import Project, TestXnat
from asyncimport.testserver.samples import generated

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.thorough,
    pytest.mark.skipif(sys.platform != "linux", reason="the recipes are for Linux"),
]

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE = (DOCS / "many-machines.md").read_text("utf-8")

# Slurm's commands, as far as dask-jobqueue uses them: a job is a process group, and its number that of the group.
# The script is read at once, as `sbatch` does: dask-jobqueue deletes it afterwards.
SBATCH = """#!/bin/sh
env > "{log}.env"
script=$(cat "$1")
setsid sh -c "$script" > "{log}" 2>&1 < /dev/null &
echo "Submitted batch job $!"
"""
REFUSING_SBATCH = """#!/bin/sh
for number in 0 1 2; do
  if [ "$number" -lt {good} ] && mkdir "{submitted}-$number" 2> /dev/null; then
    echo "Submitted batch job 1$number"
    exit 0
  fi
done
echo "sbatch: error: invalid partition specified: main" >&2
exit 1
"""
# Slurm kills what has not ended by itself: a worker whose scheduler goes at the same moment may hang.
SCANCEL = '#!/bin/sh\necho "$1" >> "{cancelled}"\nkill -KILL -- "-$1"\n'


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


async def test_one_certificate_for_all_machines(
    commands: Commands, certificate: Path, tree: Path, tmp_path: Path
) -> None:
    """Scheduler, worker and command have it by Dask's configuration. Without it nobody gets in."""
    home = certificate
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
        done = await commands(*words, "--dask", dask.when_ready())
        assert done.code == 0, done.err
        commands.env["DASK_CONFIG"] = str(tmp_path / "dask")
        refused = await commands(*words, "--dask", dask.address)
        assert (refused.code, "names none" in refused.err) == (2, True), refused.err
        commands.env["DASK_CONFIG"] = str(home)
        (home / "dask.key").rename(home / "dask.key.old")
        absent = await commands(*words, "--dask", dask.address)
        assert (absent.code, "dask.key, which Dask's configuration names, cannot" in absent.err) == (2, True), (
            absent.err
        )
        commands.env["DASK_CONFIG"] = str(tmp_path / "dask")
        plain = await commands(*words, "--dask", dask.address.replace("tls", "tcp"))
        assert plain.code == 4, plain.err
    finally:
        dask.end()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Make the certificate of the page, in a directory."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here")
    home = tmp_path / "me"
    home.mkdir()
    subprocess.run(["sh", "-ec", block("sh", "openssl")], cwd=home, check=True, capture_output=True)
    return home


async def test_what_runs_in_kubernetes(
    commands: Commands, certificate: Path, tree: Path, tmp_path: Path, xnat: TestXnat, url: str
) -> None:
    """Scheduler, worker and job, with the words and files that the manifest gives them."""
    text = (DOCS / "kubernetes.yaml").read_text("utf-8").replace("/etc/asyncimport/tls", str(certificate))
    found = {one["metadata"]["name"]: one for one in yaml.safe_load_all(text)}
    for name, content in found["asyncimport-dask"]["data"].items():
        (certificate / name).write_text(content)

    def words_of(name: str) -> list[str]:
        """Return the words of the container, and check that it has all that is mounted."""
        pod = found[name]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        assert {"name": "DASK_CONFIG", "value": "/etc/asyncimport/dask"} in container["env"]
        return [*container.get("command", ()), *container["args"]]

    _, _, *of_scheduler = words_of("asyncimport-scheduler")
    _, _, of_worker, *more = words_of("asyncimport-worker")
    of_upload = words_of("asyncimport")
    assert of_worker == of_upload[-1] == f"tls://scheduler:{found['scheduler']['spec']['ports'][0]['port']}"
    (tmp_path / "dask").mkdir()
    dask = DaskProcesses(tmp_path / "dask")
    dask.env["DASK_CONFIG"] = commands.env["DASK_CONFIG"] = str(certificate)
    xnat.add_project(Project("MYPROJECT"))
    commands.login(url)
    try:
        await anyio.to_thread.run_sync(dask.begin, of_scheduler)
        dask.start_worker("a", more=[*more[:-1], str(tmp_path)])
        upload = [word.replace("/data/dicom", str(tree)) for word in of_upload[:-1]]
        done = await commands(*upload, dask.when_ready(), "-o", "json")
        assert (done.code, done.json["files"]["stored"]) == (0, 20), done.err
    finally:
        dask.end()


def describe_cluster(directory: Path, shared: Path, *, jobs: int) -> None:
    """Write the file of the recipe, with directories of the test."""
    text = block("toml").replace("jobs = 4", f"jobs = {jobs}").replace("/home/me/dask", str(shared))
    (directory / "cluster.toml").write_text(text.replace('"/tmp"', f'"{directory}"'))


async def test_jobs_of_slurm(commands: Commands, tree: Path, tmp_path: Path) -> None:
    """They are submitted, do the work, and are cancelled. The certificates are gone afterwards."""
    tools, shared = tmp_path / "bin", tmp_path / "shared"
    tools.mkdir()
    shared.mkdir(mode=0o700)
    log, cancelled = tmp_path / "job.log", tmp_path / "cancelled"
    for name, script in (("sbatch", SBATCH.format(log=log)), ("scancel", SCANCEL.format(cancelled=cancelled))):
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    describe_cluster(tmp_path, shared, jobs=1)
    commands.directory = tmp_path
    # Jobs begin there too, and must not execute what lies there.
    (tmp_path / "multiprocessing.py").write_text(HOSTILE)
    commands.env |= {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "DASK_CONFIG": str(tmp_path)}
    # Slurm keeps the environment for the job.
    commands.env["XNAT_PASS"] = "tell-nobody-4711"
    done = await commands("plan", tree, "-P", "demo", "--dask", "slurm:cluster.toml")
    assert done.code == 0, f"{done.err}\n{log.read_text() if log.exists() else ''}"
    assert "20 files" in done.out
    assert not (tmp_path / "executed").exists()
    environment = Path(f"{log}.env").read_text()
    assert ("PATH=" in environment, "XNAT" in environment) == (True, False)
    assert "waiting for the first worker" in done.err
    assert cancelled.read_text().strip().isdecimal()
    assert [path for path in shared.rglob("*") if path.is_file()] == []


async def test_jobs_of_slurm_end_with_an_operation_that_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blockbuster: BlockBuster
) -> None:
    """By a program that gives up, while jobs wait in the queue of Slurm."""
    # Dask writes certificates for a moment.
    blockbuster.deactivate()
    tools, shared = tmp_path / "bin", tmp_path / "shared"
    tools.mkdir()
    shared.mkdir(mode=0o700)
    cancelled = tmp_path / "cancelled"
    for name, script in (
        ("sbatch", "#!/bin/sh\necho Submitted batch job 17\n"),
        ("scancel", f'#!/bin/sh\necho "$1" >> "{cancelled}"\n'),
    ):
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    describe_cluster(tmp_path, shared, jobs=1)
    with (tmp_path / "cluster.toml").open("a") as file:
        # The usual port may be another scheduler's.
        file.write('scheduler_options = {dashboard_address = "127.0.0.1:0"}\n')
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    with anyio.CancelScope() as scope:

        def report(event: Event) -> None:
            if isinstance(event, Notice) and "waiting for the first worker" in event.reason:
                scope.cancel()

        async with connect(parse_spec(f"slurm:{tmp_path / 'cluster.toml'}"), report=report):
            pass
    assert scope.cancelled_caught
    assert cancelled.read_text().split() == ["17"]


@pytest.mark.parametrize("good", [0, 2], ids=["none", "some"])
async def test_jobs_that_slurm_refuses(commands: Commands, tree: Path, tmp_path: Path, good: int) -> None:
    """Its reason is told, without a traceback, and those that it took are cancelled."""
    tools, shared = tmp_path / "bin", tmp_path / "shared"
    tools.mkdir()
    shared.mkdir(mode=0o700)
    submitted, cancelled = tmp_path / "submitted", tmp_path / "cancelled"
    for name, script in (
        ("sbatch", REFUSING_SBATCH.format(submitted=submitted, good=good)),
        ("scancel", f'#!/bin/sh\necho "$1" >> "{cancelled}"\n'),
    ):
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    describe_cluster(tmp_path, shared, jobs=3)
    commands.directory = tmp_path
    commands.env |= {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "DASK_CONFIG": str(tmp_path)}
    words = ("plan", tree, "-P", "demo", "--dask", "slurm:cluster.toml")
    done = await commands(*words)
    assert done.code == 2
    assert "no job can be started: sbatch: error: invalid partition" in done.err
    assert "Traceback" not in done.err
    assert sorted(cancelled.read_text().split() if good else []) == ["10", "11"][:good]
    (tools / "sbatch").unlink()
    commands.env["PATH"] = str(tools)
    done = await commands(*words)
    assert (done.code, "No such file or directory: 'sbatch'" in done.err) == (2, True), done.err


async def test_jobs_of_a_real_slurm(commands: Commands, tree: Path, tmp_path: Path, xnat: TestXnat, url: str) -> None:
    """They upload, and are gone afterwards, as is what was kept for them."""
    if not has_slurm():
        pytest.skip("there is no Slurm here")
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o700)
    describe_cluster(tmp_path, shared, jobs=2)
    commands.directory = tmp_path
    commands.login(url)
    with slurm_processes() as env:
        commands.env |= env | {"DASK_CONFIG": str(tmp_path)}
        words = ("upload", tree, "-P", "demo", "--dask", "slurm:cluster.toml", "--max-duration", "7h", "-o", "json")
        # The command waits for jobs for as long as it takes, and a test that is given up would wait for the command.
        with in_time(RUN):
            done = await commands(*words)
        assert (done.code, done.json["files"]["stored"]) == (0, 20), done.err
        assert "broke" not in done.err
        workers = (await commands("status", "-P", "demo", "-o", "json")).json["workers"]
        assert {one["worker"] for one in workers} <= {"SLURMCluster-0", "SLURMCluster-1"}
        assert sum(one["files"] for one in workers) == 20
        jobs = subprocess.run(["squeue", "-h", "-t", "PD,R"], env=os.environ | env, capture_output=True, check=True)
        assert jobs.stdout == b""
    assert len(xnat.archived) == 2
    assert [path for path in shared.rglob("*") if path.is_file()] == []
