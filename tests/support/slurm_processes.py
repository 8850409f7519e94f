"""A Slurm of one node on this machine, of the test's own: its controller, its node, and no other user's."""

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from free_ports import free_port

_CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/slurm
CredType=cred/slurm
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=64 RealMemory=100000
PartitionName=main Nodes=ALL Default=YES State=UP
"""
_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scancel", "srun")
_SECONDS = 30
# Earlier ones need munge.
_OLDEST = 24


def has_slurm() -> bool:
    """Whether a Slurm is installed that needs no other service for its logins."""
    path = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin"
    if not all(shutil.which(program, path=path) for program in _PROGRAMS):
        return False
    command = [shutil.which("slurmctld", path=path) or "", "-V"]
    version = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return int(version.split()[-1].partition(".")[0]) >= _OLDEST


@contextmanager
def slurm_processes() -> Iterator[dict[str, str]]:
    """Start Slurm, and yield the environment of its commands. Jobs that are left end with it."""
    # The directory of a test is too long for the names of sockets.
    with tempfile.TemporaryDirectory() as directory, free_port() as one, free_port() as other:
        yield from _slurm_in(Path(directory), (one, other))


def _slurm_in(directory: Path, ports: tuple[int, int]) -> Iterator[dict[str, str]]:
    for name in ("state", "spool"):
        (directory / name).mkdir(parents=True)
    key = directory / "slurm.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    config = directory / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    config.write_text(_CONFIG.format(host=host, ports=ports, user=getpass.getuser(), directory=directory))
    (directory / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    env = {"SLURM_CONF": str(config), "PATH": f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin"}
    everything = os.environ | env
    started: list[subprocess.Popen[bytes]] = []
    try:
        with (directory / "log").open("wb") as log:
            for program in ("slurmctld", "slurmd"):
                command = [program, "-D", "-f", str(config)]
                started.append(subprocess.Popen(command, env=everything, stdout=log, stderr=log, cwd=directory))
        # The first job waits until the node is there; before that, nobody may listen yet.
        while subprocess.run(["srun", "true"], env=everything, capture_output=True, timeout=_SECONDS).returncode:
            assert all(process.poll() is None for process in started), (directory / "log").read_text()
        yield env
    finally:
        # The node ends when the jobs have; one that wants it for itself waits for them.
        for command in (["scancel", "--partition=main"], ["srun", "--exclusive", "true"]):
            subprocess.run(command, env=everything, check=False, capture_output=True, timeout=_SECONDS)
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(_SECONDS)
            except subprocess.TimeoutExpired:
                # A step that ends at this very moment may keep it.
                process.kill()
                process.wait()
