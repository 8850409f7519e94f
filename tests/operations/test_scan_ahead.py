"""A scan whose batches are read side by side, as workers do."""

from functools import partial
from pathlib import Path

import anyio.to_thread
import pytest
from memory_pipeline import MemorySource, study_files

from asyncimport.journal import HeaderCache
from asyncimport.operations.plan_draft import scan_headers
from asyncimport.system.threads import opened_in_thread

pytestmark = pytest.mark.anyio


async def test_batches_that_are_read_at_once_share_the_cache(tmp_path: Path) -> None:
    """It is one connection to SQLite, which takes one transaction at a time."""
    source = MemorySource(study_files("1", 400), batch=1, ahead=16)
    async with opened_in_thread(partial(HeaderCache, tmp_path / "cache")) as cache:
        await scan_headers(source, cache)
        studies = await anyio.to_thread.run_sync(lambda: list(cache.studies()))
    assert [study.files for study in studies] == [400]
