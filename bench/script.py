"""`python -m bench.script`: the script of docs/from-curl.md beside the command that replaces it.

Both send one visit with a report and demographics to a test XNAT that needs 2 ms a file in turn, 20 ms beside others.
Printed are the seconds of whole processes, start and login included: the median of all rounds, and their range.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from asyncimport.testserver import TestXnat, Timing, serve
from asyncimport.testserver.samples import generated
from bench.trees import ROOT

_TIMING = Timing(serial_seconds=0.002, parallel_seconds=0.02, poll_seconds=0.5)
_SUBJECTS = "subject_label,gender,dob,handedness\nS1,female,1970-01-31,left\n"


def _visit(folder: Path, files: int, size: int) -> dict[str, Sequence[str]]:
    """Write a visit, and return the commands that send it."""
    generated(folder / "tree", sessions=1, files=files, size=size)
    images, report, subjects = folder / "visit" / "images", folder / "visit" / "report.pdf", folder / "subjects.csv"
    images.mkdir(parents=True)
    for number, file in enumerate(path for path in (folder / "tree").rglob("*") if path.is_file()):
        file.rename(images / f"{number}.dcm")
    report.write_bytes(b"%PDF-1.4\n")
    subjects.write_text(_SUBJECTS, "utf-8")
    page = (ROOT / "docs" / "from-curl.md").read_text("utf-8")
    [script] = re.findall(r"^```bash\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    upload = (sys.executable, "-m", "asyncimport", "upload", str(report.parent), "-P", "demo", "-S", "S1", "-E", "E1")
    return {
        "script": ("bash", "-c", script, "import.sh", str(images), "demo", "S1", "E1", str(report)),
        "asyncimport": (*upload, "--attach", "*.pdf=REPORTS", "--subjects", str(subjects), "-q"),
    }


async def _seconds(command: Sequence[str], folder: Path, files: int) -> float:
    xnat = TestXnat(folder / "xnat", timing=_TIMING)
    async with serve(xnat) as url:
        home = {"XNAT_HOST": url, "XNAT_USER": "demo", "XNAT_PASS": "demo", "HOME": str(folder)}
        start = anyio.current_time()
        await anyio.run_process(command, env={**os.environ, **home}, stdout=subprocess.DEVNULL)
        seconds = anyio.current_time() - start
    if len(xnat.sop_uids()) != files:
        raise SystemExit(f"the archive holds {len(xnat.sop_uids())} of {files} instances")
    return seconds


async def _compare(rounds: int, files: int, size: int) -> None:
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name in ("script", "asyncimport"):
            with TemporaryDirectory() as folder:
                command = _visit(Path(folder), files, size)[name]
                seconds[name].append(await _seconds(command, Path(folder), files))
    for name, all_seconds in seconds.items():
        middle = statistics.median(all_seconds)
        print(f"{name}: {middle:.1f} s ({min(all_seconds):.1f}-{max(all_seconds):.1f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.script", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--files", type=int, default=200, metavar="N")
    parser.add_argument("--size", type=int, default=100_000, metavar="BYTES")
    options = parser.parse_args()
    anyio.run(_compare, options.rounds, options.files, options.size)
