"""Starts one command, waits for it, and prints the time and memory of it and its children.

A process of its own, and a small one: the peak memory that the system tells of a command is never lower than what
its parent held when it started it. So it imports next to nothing.
"""

import json
import os
import signal
import sys
import time


def main() -> None:
    """Run the command from standard input, and print its time and memory."""
    task = json.loads(sys.stdin.read())
    os.chdir(task["place"])
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    files = [
        (os.POSIX_SPAWN_OPEN, 0, "in", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, "out", flags, 0o600),
        (os.POSIX_SPAWN_OPEN, 2, "err", flags, 0o600),
    ]
    gave_up = False
    wall, began = time.time(), time.monotonic()
    # A group of its own, so that a kill reaches all its children.
    pid = os.posix_spawnp(task["words"][0], task["words"], task["env"], file_actions=files, setpgroup=0)

    def give_up(*_: object) -> None:
        nonlocal gave_up
        gave_up = True
        os.killpg(pid, signal.SIGKILL)

    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, give_up)
    signal.setitimer(signal.ITIMER_REAL, task["longest"])
    # Of the process and of all children that it has waited for.
    _, status, usage = os.wait4(pid, 0)
    seconds = time.monotonic() - began
    told = {
        "code": os.waitstatus_to_exitcode(status),
        "began": wall,
        "seconds": seconds,
        "cpu": usage.ru_utime + usage.ru_stime,
        "rss": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "gave_up": gave_up,
    }
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
