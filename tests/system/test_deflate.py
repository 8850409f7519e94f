"""How fast this process may deflate."""

import os
import sys
from pathlib import Path
from subprocess import run

import pytest

from asyncimport.system.deflate import usable_cores

_RATE = """
import os, sys
if {absent}:
    sys.modules["isal"] = None
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
from asyncimport.system.deflate import NAME, expected_rate
print(NAME, round(expected_rate() / 1e6))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems bind no process to a core")
@pytest.mark.parametrize(("absent", "found"), [(True, "zlib 50"), (False, "ISA-L 280")])
def test_one_core_is_what_one_core_deflates(absent: bool, found: str) -> None:
    """However many the machine has."""
    if not absent:
        pytest.importorskip("isal")
    ended = run([sys.executable, "-c", _RATE.format(absent=absent)], check=True, capture_output=True, text=True)
    assert ended.stdout.strip() == found


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 8), ("150000 100000", 1), ("50000 100000", 1), ("400000 100000", 4), ("", 8)]
)
def test_a_container_has_the_cores_of_its_quota(tmp_path: Path, quota: str, cores: int) -> None:
    """At most those of the machine; without a quota all of them."""
    path = tmp_path / "cpu.max"
    if quota:
        path.write_text(quota)
    limit = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    assert usable_cores(path) == min(cores, limit)
