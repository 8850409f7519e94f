"""xnatctl, the nearest contender, in its own virtual environment, which is kept."""

import os
import subprocess
import sys
from pathlib import Path

import platformdirs

from bench.trees import clean_environment


class Installed:
    """A command line tool from PyPI, and whether it can be run here."""

    def __init__(self, name: str) -> None:
        cache = os.environ.get("ASYNCIMPORT_BENCH_CACHE") or platformdirs.user_cache_path("asyncimport-bench")
        self.name = name
        self.place = Path(cache) / f"{name}-{sys.version_info[0]}.{sys.version_info[1]}"
        self.lacks = "" if self.program.exists() else f"{name} is not installed; a run without --quick installs it"

    @property
    def program(self) -> Path:
        """Its executable."""
        return self.place / "bin" / self.name

    def install(self) -> None:
        """Install it if needed. If that fails, `lacks` says why."""
        if not self.lacks:
            return
        for words in (
            [sys.executable, "-m", "venv", str(self.place)],
            [str(self.place / "bin" / "python"), "-m", "pip", "install", "--quiet", self.name],
        ):
            done = subprocess.run(words, check=False, capture_output=True, text=True, env=clean_environment())
            if done.returncode:
                last = (done.stderr or done.stdout).strip().splitlines()[-1:]
                self.lacks = f"{self.name} could not be installed: {' '.join(last)[:160]}"
                return
        self.lacks = ""

    def version(self) -> str:
        """Return its version."""
        if self.lacks:
            return ""
        done = subprocess.run([self.program, "--version"], check=False, capture_output=True, text=True)
        return done.stdout.strip().rpartition(" ")[2]


XNATCTL = Installed("xnatctl")
