"""Runs a Python module as if its source were on a slow disk: to open a file below a root takes time, to read it too.

    python -m bench.slow_disk ROOT SECONDS RATE MODULE ARGUMENTS...

RATE is bytes a second of all reads of the process together; 0 for no limit. A worker of Dask that preloads this module
has the disk that the environment names (`DISK`). Python tells a hook of every open, in the thread that opens, whoever
asks; so nothing of what is measured has to know. The bytes of a file are waited for when it is opened. A header is a
small part of a file, and often in the cache: who opens a file for its header waits for none.
"""

import json
import os
import runpy
import sys
import threading
import time
from typing import NamedTuple

DISK = "BENCH_DISK"
_HEADERS = os.sep + os.path.join("asyncimport", "dicom", "")  # noqa: PTH118 - compared as text


class Disk(NamedTuple):
    """A slow disk: how long it takes to open a file, and how many bytes a second it reads (0: no limit)."""

    open_seconds: float = 0.0
    rate: float = 0.0


def slow_down(root: str, disk: Disk) -> None:
    """Let each open of a file below `root` take its time, and its bytes theirs."""
    below = os.path.join(root, "")  # noqa: PTH118 - compared as text
    lock = threading.Lock()
    free_at = 0.0

    def wait(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal free_at
        path = arguments[0] if event == "open" else None
        if not isinstance(path, str | os.PathLike) or not str(path).startswith(below):
            return
        if disk.open_seconds:
            time.sleep(disk.open_seconds)
        if disk.rate and _HEADERS not in sys._getframe(1).f_code.co_filename:  # noqa: SLF001 - who opens it
            with lock:
                now = time.monotonic()
                free_at = max(now, free_at) + os.path.getsize(path) / disk.rate  # noqa: PTH202 - as above
                left = free_at - now
            time.sleep(left)

    sys.addaudithook(wait)


def count_opens(root: str) -> list[int]:
    """Count the opens of files below `root` in the only item of the returned list."""
    below = os.path.join(root, "")  # noqa: PTH118 - compared as text
    count = [0]

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | os.PathLike) and str(arguments[0]).startswith(below):
            count[0] += 1

    sys.addaudithook(note)
    return count


def dask_setup(_: object) -> None:
    """Give the worker that preloads this module its disk. Dask calls it."""
    if told := os.environ.get(DISK):
        root, *disk = json.loads(told)
        slow_down(root, Disk(*disk))


def main() -> None:
    """Run the command line."""
    root, seconds, rate, module = sys.argv[1:5]
    sys.argv = [module, *sys.argv[5:]]
    slow_down(root, Disk(float(seconds), float(rate)))
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
