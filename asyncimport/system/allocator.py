"""The allocator of the C library, which gives the memory of each body back to the system."""

import ctypes
import sys

# By the header malloc.h of glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
# A body is in memory up to 1 MiB, and once more beside its headers when it is written.
_LARGEST = 2 << 20
_KEPT = 16 << 20


def keep_freed_memory() -> None:
    """Let glibc keep up to 16 MiB that are free: for each body, the system would fill new pages with zeros.

    That took a twentieth of the time of an upload of files of 526 kB. All threads share these: with 16 MiB for each of
    them, a run that makes zips took up to 134 MB. Other allocators are left as they are.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _KEPT)
