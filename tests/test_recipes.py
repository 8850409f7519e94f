"""The recipes, tried: what cron, systemd and Slurm would run is run here, in the surroundings that they give."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from conftest import Commands, Ended
from patience import COMMAND, in_time

from asyncimport.testserver import Project, TestXnat
from asyncimport.testserver.samples import generated

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.thorough,
    pytest.mark.skipif(sys.platform != "linux", reason="the recipes are for Linux"),
]

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "recipes.md").read_text("utf-8")


def block(kind: str, beginning: str = "") -> str:
    """Return the block of this kind that begins so."""
    (found,) = re.findall(rf"^```{kind}\n({re.escape(beginning)}.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture
def home(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path) -> Path:
    """Make the home of somebody who has installed asyncimport there, has a profile and a netrc, and files to send."""
    xnat.add_project(Project("MYPROJECT"))
    home = commands.home
    (home / ".netrc").write_text("machine 127.0.0.1 login demo password demo\n")
    (home / ".netrc").chmod(0o600)
    config = home / ".config" / "asyncimport" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'default_profile = "a"\n[profiles.a]\nhost = "{url}"\nproject = "MYPROJECT"\n')
    tool = home / "asyncimport" / "bin" / "asyncimport"
    tool.parent.mkdir(parents=True)
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m asyncimport "$@"\n')
    tool.chmod(0o755)
    generated(tmp_path / "data", sessions=3, files=12, size=2_000, seed=1)
    # What was copied long ago is complete.
    for path in (tmp_path / "data").rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    return home


async def run(script: str, env: Mapping[str, str], directory: Path, shell: str = "/bin/sh") -> Ended:
    """Run a script in an environment that has nothing else."""
    with in_time(COMMAND):
        done = await anyio.run_process([shell, "-c", script], env=env, cwd=directory, check=False)
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


async def test_cron(home: Path, tmp_path: Path) -> None:
    """It writes nothing if all went well or another run is at work, and the summary otherwise."""
    (line,) = [line for line in block("text", "MAILTO").splitlines() if line.startswith("*/10")]
    command = line.removeprefix("*/10 * * * * ").replace("/data/incoming", str(tmp_path / "data"))
    assert "%" not in command  # cron would make a new line of it
    # A file is complete when it has not changed for a while, by its ctime too; files of this test are new.
    command = command.replace("--min-age 2m", "--min-age 0s")
    cron = {"HOME": str(home), "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh", "LOGNAME": "me"}
    assert await run(command, cron, home) == Ended(0, "", "")
    assert "3 sessions: 3 archived" in (home / "upload.txt").read_text()
    locked = await run(f"flock upload.lock sh -c {command!r}", cron, home)
    assert (locked.out, locked.err) == ("", "")
    whole = next(path for path in (tmp_path / "data").rglob("*") if path.is_file())
    (tmp_path / "data" / "broken.dcm").write_bytes(whole.read_bytes()[:900])
    told = await run(command, cron, home)
    assert "1 unreadable" in told.out


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
async def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    """The service has few rights, and its command is one that works with what it has."""
    for name in ("asyncimport.service", "asyncimport.timer"):
        text = block("ini", f"# /etc/systemd/system/{name}")
        (tmp_path / name).write_text(text.replace("/opt/asyncimport/bin/asyncimport", "/bin/true"))
    units = [str(tmp_path / name) for name in ("asyncimport.timer", "asyncimport.service")]
    verified = await anyio.run_process(["systemd-analyze", "verify", "--man=no", *units], check=False)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, b"", b"")
    safe = ["systemd-analyze", "security", "--offline=yes", "--threshold=25", units[1]]
    assert (await anyio.run_process(safe, check=False)).returncode == 0


async def test_the_command_of_the_service(home: Path, url: str, tmp_path: Path) -> None:
    """With a state directory, a netrc among its credentials, and no home."""
    service = block("ini", "# /etc/systemd/system/asyncimport.service")
    credentials, state = tmp_path / "credentials", tmp_path / "state"
    credentials.mkdir()
    (state / "asyncimport").mkdir(mode=0o700, parents=True)
    shutil.move(home / ".netrc", credentials / "netrc")
    (credentials / "netrc").chmod(0o400)
    settings = " ".join(re.findall(r"^Environment=(.*)$", service, re.MULTILINE))
    settings = (
        settings.replace("https://xnat.example.org", url).replace("%d", str(credentials)).replace("%S", str(state))
    )
    env = {"PATH": "/usr/bin:/bin"} | dict(word.split("=", 1) for word in settings.split())
    (command,) = re.findall(r"^ExecStart=(.*)$", service, re.MULTILINE)
    command = command.replace("/opt/asyncimport", str(home / "asyncimport")).replace("--min-age 2m", "--min-age 0s")
    done = await run(command.replace("/data/incoming", str(tmp_path / "data")), env, Path("/"))
    assert done.code == 0, done.err
    assert "3 sessions: 3 archived" in done.out
    assert len(list((state / "asyncimport").glob("*.journal"))) == 1


async def test_a_slurm_array(home: Path, tmp_path: Path, commands: Commands, xnat: TestXnat) -> None:
    """Each task uploads its part, and again from the journal that it has brought back."""
    data, work = tmp_path / "data", tmp_path / "work"
    work.mkdir()
    commands.directory = work
    assert (await commands("plan", data, "-P", "MYPROJECT", "--out", "plan.csv", "--split", "3")).code == 0
    script = block("bash").replace("/data/dicom", str(data))
    assert script.startswith("#!/bin/bash\n")
    node = {"HOME": str(home), "PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path / "local")}
    (tmp_path / "local").mkdir()
    done = [await run(script, node | {"SLURM_ARRAY_TASK_ID": part}, work, "/bin/bash") for part in "123123"]
    assert [one.code for one in done] == [0] * 6, done
    assert ["stored by an earlier run" in one.out for one in done] == [False] * 3 + [True] * 3
    assert len(xnat.archived) == 3
    assert os.listdir(tmp_path / "local") == []
    assert sorted(path.name for path in work.glob("journal-*")) == ["journal-1", "journal-2", "journal-3"]
    failed = await run(script.replace("--plan", "--plam"), node | {"SLURM_ARRAY_TASK_ID": "1"}, work, "/bin/bash")
    assert failed.code == 2


def test_the_containerfile_passes_its_linter() -> None:
    """Nothing here can be relied on to build images; it was built and run by buildah."""
    linter = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([linter, ROOT / "docs" / "Containerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
