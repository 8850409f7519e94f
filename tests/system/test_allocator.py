"""Memory that is free is used again."""

import ctypes
import subprocess
import sys

import pytest

_SCRIPT = """
import resource, sys
from collections import deque
from asyncimport.system.allocator import keep_freed_memory

def faults():
    before, bodies = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, deque(maxlen=8)
    for _ in range(200):
        bodies.append(b"x" * 500_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    keep_freed_memory()
faults()
print(faults())
"""


def faults(way: str) -> int:
    """Return how many pages a process asks the system for, for 200 bodies of which 8 are there at a time."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT, way], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library has no such setting"
)
def test_bodies_use_the_same_memory_again() -> None:
    """Pages are not given back, to be asked for again."""
    assert faults("keep") < faults("leave") / 4
