"""The service-time model: what is serial, what is parallel, and up to which limits."""

import time

import anyio
import pytest
from raw_client import dicom, raw_client

from asyncimport.testserver import TestXnat, Timing
from asyncimport.testserver.site.runtime import SerialTime

pytestmark = pytest.mark.anyio


async def test_import_35_the_serial_section_is_one_at_a_time() -> None:
    """Ten imports of 5 ms each under the one lock take 50 ms or more, however many connections."""
    assert await seconds(Timing(serial_seconds=0.005)) >= 0.05


def test_a_late_start_makes_no_other_wait_longer() -> None:
    """A machine that is busy with the client must not look like a server that is slow."""
    section = SerialTime()
    assert [section.take(now, 2) for now in (10, 11, 13.9, 20)] == [12, 14, 16, 22]


async def test_import_35_the_parallel_section_overlaps_up_to_the_limits() -> None:
    """Ten imports at once; two at a time where there are two threads or database connections."""
    assert await seconds(Timing(parallel_seconds=0.5)) < 5
    assert await seconds(Timing(parallel_seconds=0.05, threads=2)) >= 0.25
    assert await seconds(Timing(parallel_seconds=0.05, db_connections=2)) >= 0.25


async def test_import_35_every_row_of_the_site_makes_the_look_up_longer() -> None:
    """Those of others too: they are under the one lock of all imports."""
    assert await seconds(Timing(row_seconds=0.001, other_rows=10)) >= 0.1
    xnat = TestXnat(timing=Timing(row_seconds=0.001))
    async with raw_client(xnat) as web:
        for number in range(20):
            await web.send(dicom(1, StudyInstanceUID=f"1.{number}"))
        start = time.perf_counter()
        await web.send(dicom(2, StudyInstanceUID="1.0"))
        assert time.perf_counter() - start >= 0.02


async def test_import_35_lock_files_are_made_one_at_a_time() -> None:
    """Milliseconds each on a network disk."""
    assert await seconds(Timing(shadow_lock_seconds=0.005)) >= 0.05


async def test_import_35_bytes_take_their_time() -> None:
    """Of a body, outside of all locks; of an archive, what comes out of it too."""
    size = len(dicom(1))
    assert await seconds(Timing(byte_seconds=0.5 / size)) < 5
    assert await seconds(Timing(byte_seconds=0.05 / size, threads=1)) >= 0.5


async def test_import_35_so_many_sessions_are_archived_at_once() -> None:
    """The others wait in their queue."""
    timing = Timing(archive_workers=2)
    async with raw_client(TestXnat(archive_seconds=0.1, timing=timing)) as web:
        uris = [await web.build_session(dicom(1, StudyInstanceUID=f"1.{n}"), EXPT_LABEL=f"E{n}") for n in range(4)]
        start = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for uri in uris:
                tasks.start_soon(web.archive, uri)
        assert time.perf_counter() - start >= 0.2
        assert len(web.xnat.archived) == 4


async def seconds(timing: Timing) -> float:
    """Return how long ten parallel imports take, in seconds."""
    async with raw_client(TestXnat(timing=timing)) as web:
        start = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(web.send, dicom(number))
        return time.perf_counter() - start
