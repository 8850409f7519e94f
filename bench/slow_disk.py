"""Runs a Python module as if its source were on a slow disk: to open a file below a root takes time.

    python -m bench.slow_disk ROOT SECONDS MODULE ARGUMENTS...

Python tells a hook of every open, in the thread that opens, whoever asks; so nothing of what is measured has to know.
"""

import os
import runpy
import sys
import time


def slow_down(root: str, seconds: float) -> None:
    """Let each open of a file below `root` take this many seconds."""
    below = os.path.join(root, "")  # noqa: PTH118 - compared as text

    def wait(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | os.PathLike) and str(arguments[0]).startswith(below):
            time.sleep(seconds)

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


def main() -> None:
    """Run the command line."""
    root, seconds, module = sys.argv[1], float(sys.argv[2]), sys.argv[3]
    sys.argv = [module, *sys.argv[4:]]
    slow_down(root, seconds)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
