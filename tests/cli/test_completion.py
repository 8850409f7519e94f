"""Completion of commands and options by Tab, in real shells, as `--install-completion` sets it up."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from patience import COMMAND

pytestmark = [pytest.mark.thorough, pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty")]

SHELLS = {"bash": ["bash", "-i"], "zsh": ["zsh", "-i"], "fish": ["fish", "-i"]}


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    """Return the name of each shell that is here."""
    name = str(request.param)
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    return name


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a person with a new home, who has installed the command."""
    commands = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {"HOME": str(tmp_path), "PATH": commands, "TERM": "dumb", "LC_ALL": "C.UTF-8", "PS1": "$ "}


def typed(shell: str, environment: dict[str, str], keys: str, until: str, directory: Path) -> str:
    """Type into a shell on a terminal, and return what it shows, when that has some text or it has hung.

    The keys are typed when it waits, and Tab again when nothing has come of them: zsh only loads the script at first.
    """
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(directory)
        os.execvpe(shell, SHELLS[shell], environment)  # noqa: S606 - a shell, as a terminal starts it
    shown = b""
    end = time.monotonic() + COMMAND
    try:
        while until.encode() not in shown and time.monotonic() < end:
            if select.select([terminal], [], [], 2.0)[0]:
                shown += os.read(terminal, 65_536).replace(b"\a", b"")
            else:
                os.write(terminal, keys.encode())
                keys = "\t"
    finally:
        os.close(terminal)
        os.waitpid(process, 0)
    return shown.decode(errors="replace")


@pytest.mark.parametrize(
    ("begun", "whole"),
    [
        ("asyncimport dem", "asyncimport demo"),
        ("asyncimport upload --proj", "--project"),
        ("asyncimport upload --max-sess", "--max-sessions"),
        ("asyncimport upload --overwrite app", "--overwrite append"),
    ],
    ids=["command", "option", "rare option", "value"],
)
def test_tab_completes(shell: str, environment: dict[str, str], tmp_path: Path, begun: str, whole: str) -> None:
    """Commands, all options, and the values of choices."""
    install = [shell, "-c", "asyncimport --install-completion; true"]
    done = subprocess.run(install, env=environment, capture_output=True, text=True, check=False)
    assert f"{shell} completion installed" in done.stdout, done.stderr
    assert whole in typed(shell, environment, f"{begun}\t", whole, tmp_path)


def test_the_script_can_be_shown(shell: str, environment: dict[str, str]) -> None:
    """Somebody who manages shells for others installs it by hand."""
    show = [shell, "-c", "asyncimport --show-completion; true"]
    done = subprocess.run(show, env=environment, capture_output=True, text=True, check=False)
    assert "_ASYNCIMPORT_COMPLETE" in done.stdout, done.stderr
