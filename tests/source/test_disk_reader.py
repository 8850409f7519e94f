"""Tests for reads in the loop or in threads, as the disk answers; the time is scripted."""

import threading
from dataclasses import dataclass

import pytest

from asyncimport.source.bytes_on_disk import DiskReader

pytestmark = pytest.mark.anyio


@dataclass
class Disk:
    """A disk that answers a read after `seconds` of its own clock, and says whether this was in the loop."""

    seconds: float = 0.00002
    now: float = 0.0

    def __post_init__(self) -> None:
        self.reader = DiskReader(remote=False, clock=lambda: self.now)
        self.loop = threading.get_ident()

    def answer(self) -> bool:
        """Answer one read."""
        self.now += self.seconds
        return threading.get_ident() == self.loop

    async def read(self, *, reads: int = 1, is_slow: bool = False) -> bool:
        """Return whether the loop has read, not a thread."""
        return await self.reader.call(self.answer, reads=reads, is_slow=is_slow)


async def test_the_loop_reads_until_the_disk_is_slow() -> None:
    """From the page cache that costs less than a thread; after a slow read, threads make the next 64."""
    disk = Disk()
    assert disk.reader.uses_threads
    assert not await disk.read()  # nobody knows this disk yet
    assert await disk.read()
    assert not disk.reader.uses_threads
    assert not await disk.read(is_slow=True)
    disk.seconds = 0.05
    assert await disk.read()
    disk.seconds = 0.00002
    assert disk.reader.uses_threads
    assert [await disk.read() for _ in range(66)] == 64 * [False] + 2 * [True]


async def test_one_late_answer_does_not_make_a_disk_slow() -> None:
    """Another thread may have delayed one; several do."""
    disk = Disk()
    for _ in range(20):
        await disk.read()
    disk.seconds = 0.004
    assert await disk.read()
    assert not disk.reader.uses_threads
    for _ in range(8):
        await disk.read()
    assert disk.reader.uses_threads


async def test_the_time_of_a_call_is_that_of_all_its_reads() -> None:
    """Many files at once are no slow disk."""
    disk = Disk(seconds=0.02)
    await disk.read()
    for _ in range(20):
        await disk.read(reads=100)
    assert not disk.reader.uses_threads


async def test_a_remote_disk_is_never_read_in_the_loop() -> None:
    """A dead server would block all."""
    here = threading.get_ident()
    remote = DiskReader(remote=True, clock=lambda: 0.0)
    assert here not in [await remote.call(threading.get_ident) for _ in range(100)]
