"""The machine of a measurement, and caveats for its figures."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from bench.instant_server import NGINX
from bench.xnatctl import XNATCTL

CAVEATS = (
    "Client and server share this machine's cores: what a server takes, a client lacks. server_cpu_ms tells how much.",
    "The source was written just before: files come from the page cache, unless a scenario says otherwise.",
    "Seconds are those of the whole process, start-up of Python included, for every contender alike.",
    "What `ceiling memory` takes to read the bodies before is left out.",
    "Only asyncimport looks into files, keeps a journal, commits, archives and verifies; the others only send.",
    "CPU is that of a client with all its children.",
    "The peak memory of a client is never told lower than what the bench itself held when it started it.",
    "On the instant server files are counted, with their bytes, but not told apart; on the others instances are.",
)


def _of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _first_line(*words: str) -> str:
    if shutil.which(words[0]) is None:
        return ""
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    return "" if done.returncode else next(iter((done.stdout or done.stderr).splitlines()), "")


def _revision(root: str) -> str:
    return _first_line("git", "-C", root, "describe", "--always", "--dirty", "--abbrev=10")


def machine(root: str) -> dict[str, object]:
    """Describe the machine and the software."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "aiohttp": _of("aiohttp"),
        "anyio": _of("anyio"),
        "uvloop": _of("uvloop") or "not installed",
        "nginx": _first_line(NGINX, "-v").rpartition("/")[2] if NGINX else "not installed",
        "curl": " ".join(_first_line("curl", "--version").split()[1:2]) or "not installed",
        "xnatctl": XNATCTL.version() or XNATCTL.lacks,
        "revision": _revision(root),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def _processor() -> str:
    if sys.platform == "linux":
        with open("/proc/cpuinfo") as lines:  # noqa: PTH123 - no file of ours
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor()


def as_lines(described: dict[str, object]) -> Sequence[str]:
    """Return it as lines of text."""
    return [", ".join(f"{name} {value}" for name, value in described.items())]
