"""Runs a Python module, and samples each millisecond where its main thread, with the event loop, is.

    python -m bench.profile FILE MODULE ARGUMENTS...

FILE gets seconds by place, as JSON, and the CPU seconds of the main thread, of the other threads, of child processes.
Who waits for Python's lock after a call into the system is counted with that call.
"""

import json
import resource
import runpy
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

PLACES = ("starting", "waiting", "writing", "receiving", "reading", "aiohttp", "asyncio", "anyio", "own", "elsewhere")
_STEP = 0.001
# A place for a file and its functions (none: all of them). The first match counts.
_KNOWN = (
    ("/selectors.py", ("select",), "waiting"),
    ("/asyncio/selector_events.py", ("write", "writelines", "_write_ready", "_write_send"), "writing"),
    ("/asyncio/selector_events.py", ("_read_ready", "_read_ready__data_received"), "receiving"),
    ("/asyncimport/source/bytes_on_disk.py", (), "reading"),
    ("/bench/ceiling.py", ("_read",), "reading"),
    ("/aiohttp/", (), "aiohttp"),
    ("/yarl/", (), "aiohttp"),
    ("/asyncio/", (), "asyncio"),
    ("/anyio/", (), "anyio"),
    ("/asyncimport/", (), "own"),
    ("/bench/ceiling.py", (), "own"),
)
_LOOP = "_run_once"


def _of(code: CodeType) -> str | None:
    path = code.co_filename.replace("\\", "/")
    return next((place for part, names, place in _KNOWN if part in path and (not names or code.co_name in names)), None)


def _place(frame: FrameType | None) -> str:
    """Return the innermost known place of a thread, if the loop runs."""
    found = None
    while frame is not None:
        found = found or _of(frame.f_code)
        if frame.f_code.co_name == _LOOP:
            return found or "elsewhere"
        frame = frame.f_back
    return "starting"


def main() -> None:
    """Run the command line."""
    told, module = Path(sys.argv[1]), sys.argv[2]
    sys.argv = [module, *sys.argv[3:]]
    counts: Counter[str] = Counter()
    signal.signal(signal.SIGALRM, lambda _, frame: counts.update((_place(frame),)))
    signal.setitimer(signal.ITIMER_REAL, _STEP, _STEP)
    began = time.perf_counter()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        seconds = time.perf_counter() - began
        own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        loop = time.thread_time()
        # A signal that comes while another is delivered is lost, so the shares count and not the steps.
        step = seconds / max(1, counts.total())
        figures = {
            **{place: counts[place] * step for place in PLACES},
            "loop_cpu": loop,
            "threads_cpu": own.ru_utime + own.ru_stime - loop,
            "children_cpu": children.ru_utime + children.ru_stime,
        }
        told.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
