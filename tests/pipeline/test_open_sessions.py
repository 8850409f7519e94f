"""How many prearchive rows have a part of their files, on the test XNAT, at each file that arrives."""

from collections import Counter
from pathlib import Path

import pytest
from builders import image, upload, write

from asyncimport.model.options import Options
from asyncimport.testserver import TestXnat, Timing, serve
from asyncimport.testserver.site.storage import Body, PathParts, Storage

pytestmark = pytest.mark.anyio


class Arrivals(Storage):
    """Counts the rows that have some of their files, and not all."""

    def __init__(self, files: int) -> None:
        super().__init__(None, keep_bytes=False, checksums=False)
        self._files = files
        self._rows: Counter[str] = Counter()
        self.most_open = 0

    async def write(self, parts: PathParts, body: Body, head: bytes | None = None) -> tuple[int, bytes | None]:
        """Count a file that arrives."""
        if parts[0] == "prearchive":
            # prearchive, project, timestamp, session, ...
            self._rows[parts[3]] += 1
            self.most_open = max(self.most_open, sum(files < self._files for files in self._rows.values()))
        return await super().write(parts, body, head)


@pytest.mark.parametrize(("workers", "most"), [(8, 12), (None, 24)], ids=["-w 8", "-w auto"])
async def test_sessions_are_sent_one_after_another(
    tmp_path: Path, journal_path: Path, workers: int | None, most: int
) -> None:
    """Of 40 sessions a few are open at a time: some more while the limit grows, or a first file is late."""
    xnat = TestXnat(timing=Timing(parallel_seconds=0.02))
    xnat.storage = arrivals = Arrivals(12)
    for number in range(40):
        uid = f"1.2.{number}"
        for file in range(12):
            content = image(
                100 * number + file, PatientID=f"P{number}", StudyInstanceUID=uid, SeriesInstanceUID=f"{uid}.1"
            )
            write(tmp_path / "tree" / f"{number:02}" / f"{file:02}", content)
    async with serve(xnat) as url:
        summary = await upload(url, [tmp_path / "tree"], journal_path, options=Options(workers=workers))
    assert summary.files.stored == 480
    assert 0 < arrivals.most_open <= most
