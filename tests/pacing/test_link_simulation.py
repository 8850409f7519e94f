"""`--compress auto` with `-w auto` over links of many kinds in a virtual time, against plain files with 16 in flight.

Each prints what it found: `pytest -s -n0 tests/pacing/test_link_simulation.py`.
"""

import sys
from dataclasses import replace
from statistics import median
from typing import Any

import pytest
from link_simulation import Sender, send
from simulation import Phase

from asyncimport.model.choices import Compress

SEEDS = (1, 2, 3)
INSTANT = Phase(parallel=0.0005)
REALISTIC = Phase(serial=0.002, parallel=0.020, anonymising=0.030, cores=8, spread=0.3)
CT: dict[str, Any] = {"sizes": lambda _: 526_000}
MR: dict[str, Any] = {"sizes": lambda _: 131_000}
FAST: dict[str, Any] = {"rate": 125e6, "round_trip": 0.002}
MIDDLE: dict[str, Any] = {"rate": 12.5e6, "round_trip": 0.03}
LOSSY: dict[str, Any] = {"rate": 2.5e6, "round_trip": 0.15, "loss": 0.001}
FULL: dict[str, Any] = {"rate": 6e6, "round_trip": 0.03}
# ISA-L, and zlib.
DEFLATING = (1 / 350e6, 1 / 60e6)


def sent(mode: Compress, workers: int | None = None, seeds: int = 3, **given: Any) -> tuple[float, list[Sender]]:
    """Return the median of the bytes on disk that arrived in a second, of some seeds, and all the runs."""
    runs = [send(mode, workers, seed=seed, **{"seconds": 60.0, **given}) for seed in SEEDS[:seeds]]
    return median(run.bytes for run in runs) / given.get("seconds", 60.0), runs


@pytest.mark.parametrize("ratio", [1.7, 2.0])
@pytest.mark.parametrize("phase", [INSTANT, REALISTIC], ids=["instant", "realistic"])
@pytest.mark.parametrize("files", [CT, MR], ids=["ct", "mr"])
@pytest.mark.parametrize("link", [MIDDLE, LOSSY], ids=["100 Mbit/s", "20 Mbit/s"])
def test_a_slow_link_carries_more(link: Any, files: Any, phase: Phase, ratio: float) -> None:
    """In the first minute, search and trial included, it is 1.5 times as much as without zips."""
    given = {**link, **files, "phase": phase, "ratio": ratio}
    plain, _ = sent(Compress.NEVER, 16, **given)
    auto, _ = sent(Compress.AUTO, **given)
    sys.stdout.write(f"plain {plain / link['rate']:.3f} of the link, auto {auto / plain:.2f} times that\n")
    assert auto >= 1.5 * plain
    assert auto >= 0.9 * ratio * plain


@pytest.mark.parametrize("deflating", DEFLATING, ids=["isal", "zlib"])
@pytest.mark.parametrize("phase", [INSTANT, REALISTIC], ids=["instant", "realistic"])
@pytest.mark.parametrize("files", [CT, MR], ids=["ct", "mr"])
def test_a_fast_link_has_the_better_of_both(files: Any, phase: Phase, deflating: float) -> None:
    """1 Gbit/s: the first seconds, with search and trial, do not count."""
    given = {**FAST, **files, "phase": phase, "ratio": 1.9, "deflating": deflating}

    def later(mode: Compress) -> float:
        return sent(mode, seeds=1, **given, seconds=12.0)[0] * 12 - sent(mode, seeds=1, **given, seconds=4.0)[0] * 4

    never, always, auto = (later(mode) for mode in (Compress.NEVER, Compress.ALWAYS, Compress.AUTO))
    sys.stdout.write(f"always {always / never:.2f}, auto {auto / never:.2f} times never\n")
    assert auto >= 0.97 * max(always, never)


@pytest.mark.parametrize("phase", [INSTANT, REALISTIC], ids=["instant", "realistic"])
@pytest.mark.parametrize("files", [CT, MR], ids=["ct", "mr"])
@pytest.mark.parametrize("link", [FAST, MIDDLE, LOSSY], ids=["1 Gbit/s", "100 Mbit/s", "20 Mbit/s"])
def test_what_does_not_deflate_goes_as_it_is(link: Any, files: Any, phase: Phase) -> None:
    """JPEG: what is tried costs nothing."""
    given = {**link, **files, "phase": phase, "ratio": 1.0, "seconds": 10.0 if link is FAST else 60.0}
    never, _ = sent(Compress.NEVER, **given)
    auto, runs = sent(Compress.AUTO, **given)
    assert auto >= 0.98 * never
    assert sum(run.zips for run in runs) == 0


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("size", [131_000, 526_000, 20_000_000])
@pytest.mark.parametrize("rate", [125e6, 62e6, 37e6, 25e6])
def test_a_processor_that_is_slower_than_the_link_costs_nothing(rate: float, size: int, cores: int) -> None:
    """From the first second on: zlib with large files, which it deflates twice, or on one core."""
    given: dict[str, Any] = {
        **FAST,
        "rate": rate,
        "sizes": lambda _: size,
        "phase": INSTANT,
        "ratio": 1.9,
        "deflating": DEFLATING[1],
        "cores": cores,
        "seconds": 20.0,
    }
    never, _ = sent(Compress.NEVER, seeds=1, **given)
    auto, _ = sent(Compress.AUTO, seeds=1, **given)
    sys.stdout.write(f"auto {auto / never:.2f} times never\n")
    assert auto >= 0.98 * never


@pytest.mark.parametrize("phase", [INSTANT, replace(REALISTIC, spread=0.4)], ids=["instant", "realistic"])
@pytest.mark.parametrize("files", [CT, MR], ids=["ct", "mr"])
def test_a_full_link_stays_full(files: Any, phase: Phase) -> None:
    """6 MB/s, 30 ms, and bytes that do not deflate: as much as with 16 in flight, in the first minute."""
    given = {**FULL, **files, "phase": phase, "ratio": 1.0}
    fixed, _ = sent(Compress.NEVER, 16, **given)
    auto, runs = sent(Compress.AUTO, **given)
    sys.stdout.write(f"{auto / fixed:.3f}, limits {[run.throttle.limit for run in runs]}\n")
    assert auto >= 0.98 * fixed
    assert auto >= 0.93 * FULL["rate"]


@pytest.mark.parametrize("files", [CT, MR], ids=["ct", "mr"])
@pytest.mark.parametrize("round_trip", [0.03, 0.15])
def test_a_link_that_loses_packets_gets_many_calls(round_trip: float, files: Any) -> None:
    """1 Gbit/s: each connection gets a small share, so the most that may be in flight are the best number."""
    given = {"rate": 125e6, "round_trip": round_trip, "loss": 0.001, **files, "phase": INSTANT, "ratio": 1.0}
    best, _ = sent(Compress.NEVER, 64, **given)
    auto, runs = sent(Compress.AUTO, **given)
    sys.stdout.write(f"{auto / best:.3f}, limits {[run.throttle.limit for run in runs]}\n")
    assert auto >= 0.8 * best


@pytest.mark.parametrize("phase", [INSTANT, REALISTIC], ids=["instant", "realistic"])
@pytest.mark.parametrize("files", [CT, MR], ids=["ct", "mr"])
def test_no_link_gets_no_zips(files: Any, phase: Phase) -> None:
    """A server on the same machine."""
    _, runs = sent(Compress.AUTO, rate=1e10, round_trip=0.00005, **files, phase=phase, ratio=2.0, seconds=5.0)
    assert sum(run.zips for run in runs) == 0
