"""Counts the files that are opened, whoever does it: Linux tells by inotify.

A file that is opened twice in a row may count once: Linux joins events that are the same.
"""

import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_IN_OPEN, _IN_Q_OVERFLOW, _IN_ISDIR = 0x20, 0x4000, 0x40000000
_EVENT = struct.Struct("iIII")


@dataclass
class Opens:
    """After the block: how many files were opened."""

    files: int = 0


@contextmanager
def opens_below(root: Path) -> Iterator[Opens]:
    """Count opens of files in directories that are below `root` now. Raises: OSError, also on other systems."""
    if sys.platform != "linux":
        raise OSError("there is no inotify")
    libc, counted = ctypes.CDLL(None, use_errno=True), Opens()
    told = libc.inotify_init1(os.O_NONBLOCK)
    try:
        for directory, _, _ in os.walk(root):
            if libc.inotify_add_watch(told, os.fsencode(directory), _IN_OPEN) < 0:
                raise OSError(ctypes.get_errno(), "inotify")
        yield counted
        counted.files = sum(1 for mask in _masks(told) if not mask & _IN_ISDIR)
    finally:
        os.close(told)


def _masks(told: int) -> Iterator[int]:
    """Yield the mask of each event that waits; one that says that events were lost counts as one, too."""
    try:
        while events := os.read(told, 1 << 16):
            at = 0
            while at < len(events):
                _, mask, _, length = _EVENT.unpack_from(events, at)
                yield mask
                at += _EVENT.size + length
    except BlockingIOError:
        return
