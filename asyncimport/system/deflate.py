"""Deflate at level 1: by ISA-L where it is installed (300 to 400 MB/s a core), else by zlib (50 to 80 MB/s)."""

import os
import sys
import zlib
from importlib import import_module
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any, Protocol

import anyio

try:
    _library: Any = import_module("isal.isal_zlib")
except ImportError:
    # There is no wheel for this machine or version of Python.
    _library = zlib
NAME = "zlib" if _library is zlib else "ISA-L"
# Bytes of images that one core deflates in a second, at least.
_RATE = 50e6 if _library is zlib else 280e6
_LEVEL = 1
_SAMPLE_BYTES = 1 << 20
_RAW = -zlib.MAX_WBITS
# Of a control group (version 2), as its processes see it: microseconds of processor time in each period.
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class Deflater(Protocol):
    """A raw deflate stream in progress."""

    def compress(self, data: bytes, /) -> bytes:
        """Add bytes; return what is ready."""
        ...

    def flush(self) -> bytes:
        """End the stream; return the rest."""
        ...


def new_deflater() -> Deflater:
    """Begin a raw deflate stream. It lets other threads run."""
    stream: Deflater = _library.compressobj(_LEVEL, zlib.DEFLATED, _RAW)
    return stream


def deflate(data: bytes) -> bytes:
    """Return bytes as a raw deflate stream."""
    stream = new_deflater()
    return stream.compress(data) + stream.flush()


def crc32(data: bytes, value: int = 0) -> int:
    """Return the CRC-32 of bytes, continued from `value`."""
    found: int = _library.crc32(data, value)
    return found


def measure_rate() -> float:
    """Return how many bytes of an image one core deflates in a second, by the best of three tries. It takes 60 ms."""
    # Pixels of 16 bits, of which 5 are noise.
    sample = bytearray(_SAMPLE_BYTES)
    five_bits = bytes(value & 31 for value in range(256))
    sample[::2] = Random(1).randbytes(_SAMPLE_BYTES // 2).translate(five_bits)  # noqa: S311 - not secret
    seconds = []
    for _ in range(3):
        began = perf_counter()
        deflate(bytes(sample))
        seconds.append(perf_counter() - began)
    return _SAMPLE_BYTES / max(min(seconds), 1e-9)


def expected_rate() -> float:
    """Return how many bytes of images this machine deflates in a second, at least, beside all else that it does."""
    return _RATE * max(1.0, 0.75 * _CORES)


def thread_limiter() -> anyio.CapacityLimiter:
    """Return a limiter for threads that deflate: more of them than cores would only take turns."""
    return anyio.CapacityLimiter(_CORES)


def usable_cores(quota_file: Path = _QUOTA) -> int:
    """Return how many cores this process may use: a container, or a job of a cluster, may have few of the machine's."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    try:
        quota, period = map(int, quota_file.read_text("ascii").split())
    except (OSError, ValueError):
        # There is none, or another system.
        return cores
    return min(cores, max(1, quota // max(1, period)))


# Read once, before there is a loop.
_CORES = usable_cores()
