"""A scan whose batches are read side by side, as workers do."""

import threading
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import anyio.to_thread
import pytest
from memory_pipeline import MemorySource, study_files

from asyncimport.dicom import Identity
from asyncimport.journal import HeaderCache
from asyncimport.model.files import File, Ignored
from asyncimport.operations.plan_draft import file_problems, scan_headers
from asyncimport.operations.rehearsed_source import RehearsedSource
from asyncimport.pipeline.in_order import in_order
from asyncimport.routing.problems import ProblemCode
from asyncimport.system.threads import opened_in_thread

pytestmark = pytest.mark.anyio


async def test_batches_that_are_read_at_once_share_the_cache(tmp_path: Path) -> None:
    """It is one connection to SQLite, which takes one transaction at a time."""
    source = MemorySource(study_files("1", 400), batch=1, ahead=16)
    async with opened_in_thread(partial(HeaderCache, tmp_path / "cache")) as cache:
        await scan_headers(source, cache)
        studies = await anyio.to_thread.run_sync(lambda: list(cache.studies()))
    assert [study.files for study in studies] == [400]


async def test_studies_keep_the_order_of_the_walk(tmp_path: Path) -> None:
    """A limit takes those that come first, though later batches are asked for before the first one is recorded."""
    files = study_files("2", 20) | study_files("1", 20)
    source = MemorySource(files, batch=1, ahead=16)
    async with opened_in_thread(partial(HeaderCache, tmp_path / "cache")) as cache:
        await scan_headers(source, cache)
        studies = await anyio.to_thread.run_sync(lambda: list(cache.studies()))
    assert {study.study_uid: study.position for study in studies} == {"2": 0, "1": 20}


async def test_files_that_come_again_while_they_are_read_keep_their_order(tmp_path: Path) -> None:
    """A worker is lost, and another one walks again: all that the first one had found comes twice."""
    again = [File(path, 100, 1) for path in study_files("1", 2)]
    last = File("/m/2/001", 100, 1)
    source = MemorySource({**study_files("1", 2), **study_files("2", 1)})

    def record(cache: HeaderCache, files: list[File]) -> None:
        looks = [source.identify(file) for file in files]
        cache.record([(file, look) for file, look in zip(files, looks, strict=True) if isinstance(look, Identity)])

    def positions() -> dict[str, int]:
        with HeaderCache(tmp_path / "cache") as cache:
            for files in (again, again, [last]):
                assert cache.skip_known(files) == files
            for files in (again, again, [last]):
                record(cache, files)
            return {study.study_uid: study.position for study in cache.studies()}

    assert await anyio.to_thread.run_sync(positions) == {"1": 0, "2": 4}


async def test_studies_of_the_first_place_come_first(tmp_path: Path) -> None:
    """Each place is walked by another worker, and that of the second one is faster."""
    source = MemorySource(study_files("2", 20) | study_files("1", 20), roots=("/m/1", "/m/2"))
    async with opened_in_thread(partial(HeaderCache, tmp_path / "cache")) as cache:
        await scan_headers(source, cache)
        studies = await anyio.to_thread.run_sync(lambda: list(cache.studies()))
    assert [study.study_uid for study in sorted(studies, key=lambda study: study.position)] == ["1", "2"]


class _OneThreadCache(HeaderCache):
    """A cache that refuses a second thread."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._asked = threading.Lock()

    def identities(self, files: Sequence[File]) -> dict[str, Identity]:
        """Return what the cache has. Raises: AssertionError."""
        assert self._asked.acquire(blocking=False), "two threads in one statement mix its rows"
        try:
            return super().identities(files)
        finally:
            self._asked.release()


async def test_a_rehearsal_asks_the_cache_for_one_batch_at_a_time(tmp_path: Path) -> None:
    """Also where workers would read many at once."""
    files = study_files("1", 4_000)
    source = MemorySource(files, batch=200, ahead=16)
    found: list[str] = []

    async def take(identities: list[Identity | Ignored]) -> None:
        found.extend(one.sop_uid for one in identities if isinstance(one, Identity))

    async with opened_in_thread(partial(_OneThreadCache, tmp_path / "cache")) as cache:
        await scan_headers(source, cache)
        seen = RehearsedSource(source, cache)

        async def identify(batch: list[File | Ignored]) -> list[Identity | Ignored]:
            return await seen.identify_many([one for one in batch if isinstance(one, File)])

        await in_order(seen.batches(), identify, take, ahead=seen.ahead)
    assert found == [f"1.{number}" for study, number in files.values()]


class _Twins(MemorySource):
    """A source on other machines: two files of one instance have different sizes, and two others one size."""

    async def batches(self) -> AsyncIterator[list[File | Ignored]]:
        """Yield all files. Nothing is at these paths here."""
        yield [File(path, len(path), 1) for path in self.files]


async def test_files_of_one_instance_are_compared_by_the_sizes_that_workers_see(tmp_path: Path) -> None:
    """The machine that runs the command need not see them, or sees others at these paths."""
    source = _Twins({"/m/1": ("1", 1), "/m/longer": ("1", 1), "/m/2": ("1", 2), "/m/3": ("1", 2)})
    async with opened_in_thread(partial(HeaderCache, tmp_path / "cache")) as cache:
        await scan_headers(source, cache)
        problems = await anyio.to_thread.run_sync(partial(file_problems, cache, truncated=False))
    assert {one.code: one.example for one in problems} == {
        ProblemCode.TWIN: "/m/longer",
        ProblemCode.DUPLICATE: "/m/3",
    }
