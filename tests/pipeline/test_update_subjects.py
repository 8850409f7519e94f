"""The pipeline of demographics alone: what it records when a run is stopped."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from builders import folder, image, opened, upload, write
from patience import in_time

from asyncimport.demographics.table import Demographics
from asyncimport.model.files import Session
from asyncimport.model.options import Options
from asyncimport.pacing.shutdown import Stop
from asyncimport.pipeline.demographics import DemographicsRequest, update_subjects
from asyncimport.xnat.subjects import SubjectUpdated

pytestmark = pytest.mark.anyio


async def test_an_update_that_is_cancelled_is_not_recorded(url: str, tmp_path: Path) -> None:
    """When the grace of a stop is over, nobody knows what XNAT has: the next run asks again."""
    file = write(tmp_path / "tree" / "1", image(1))
    await upload(url, [tmp_path / "tree"], tmp_path / "journal.db")
    stop = Stop(grace=0)

    class HangingStore:
        async def update(self, _: Demographics, /) -> SubjectUpdated:
            stop.request()
            await anyio.sleep_forever()
            raise AssertionError

        async def find_moved(self, _: Sequence[Session], /) -> str:
            return ""

        async def ping(self) -> bool:
            return True

    request = DemographicsRequest([Demographics("S", {"gender": "female"}, "demo")])
    update = partial(update_subjects, await folder(tmp_path / "tree"), HangingStore())
    async with opened(tmp_path / "journal.db", destination=url) as journal:
        scan = partial(journal.scan.skip_known, retry_refused=False, resend_changed=False, is_filtered=False)
        await anyio.to_thread.run_sync(scan, [file])
        with in_time():
            await update(journal, request, options=Options(), stop=stop)
        (due,) = await anyio.to_thread.run_sync(journal.subjects.due_subjects)
    assert due.stored_fields is None
