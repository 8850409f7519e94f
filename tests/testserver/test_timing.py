"""The service-time model: what is serial, what is parallel, and up to which limits."""

import time

import anyio
import pytest
from raw_client import dicom, raw_client

from asyncimport.testserver import TestXnat, Timing

pytestmark = pytest.mark.anyio


async def test_import_35_the_serial_section_is_one_at_a_time() -> None:
    """Ten imports of 5 ms each under the one lock take 50 ms or more, however many connections."""
    assert await seconds(Timing(serial_seconds=0.005)) >= 0.05


async def test_import_35_the_parallel_section_overlaps_up_to_the_limits() -> None:
    """Ten imports of 50 ms at once; two at a time where there are two threads or database connections."""
    assert await seconds(Timing(parallel_seconds=0.05)) < 0.5
    assert await seconds(Timing(parallel_seconds=0.05, threads=2)) >= 0.25
    assert await seconds(Timing(parallel_seconds=0.05, db_connections=2)) >= 0.25


async def seconds(timing: Timing) -> float:
    """Return how long ten parallel imports take, in seconds."""
    async with raw_client(TestXnat(timing=timing)) as web:
        start = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(web.send, dicom(number))
        return time.perf_counter() - start
