"""Compare a run under faults with a row of the table."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio.to_thread
from builders import image, sop, write
from fault_table import STAGES, STRUCK, End, Row, Stage

from asyncimport.journal import JournalReader
from asyncimport.model.summary import Summary, exit_code
from asyncimport.model.texts import counted
from asyncimport.operations.report import ReportRequest, make_report
from asyncimport.source.bytes_on_disk import xxh3_of
from asyncimport.testserver import (
    Fault,
    Late,
    RowStatus,
    TestXnat,
)


def requests_of(stage: str, cell: Row) -> Mapping[str, range]:
    """Return the range of requests of each kind for one session or login."""
    numbers = {**STAGES[stage].requests, **cell.requests}
    return {kind: one if isinstance(one, range) else range(one, one + 1) for kind, one in numbers.items()}


def check_requests(xnat: TestXnat, stage: str, cell: Row, once: Mapping[str, int], listings: range) -> None:
    """Compare the number of requests with the row."""
    each = requests_of(stage, cell)
    for kind in sorted({*xnat.count, *each, *once}):
        numbers = each.get(kind, range(1))
        least, most = (STRUCK * number + once.get(kind, 0) for number in (numbers.start, numbers.stop - 1))
        if kind == "listing":
            least, most = least + listings.start, most + listings.stop - 1
        assert least <= xnat.count[kind] <= most, f"{xnat.count[kind]} times {kind}, not {least} to {most}"


async def check_faults(faults: Sequence[Fault], cell: Row) -> None:
    """Check that every fault has struck, and that none is pending."""
    assert sum(fault.hits for fault in faults) == STRUCK * cell.times
    for fault in faults:
        assert not isinstance(fault.action, Late) or fault.release() == 0
        await fault.settled()


def study(tree: Path, files: int) -> Sequence[Sequence[str]]:
    """Write five sessions S1 to S5 of five patients; return the SOPInstanceUIDs of each."""
    for session in range(1, STRUCK + 1):
        for file in range(files):
            content = image(
                10 * session + file,
                pixels=2000,
                PatientID=f"S{session}",
                StudyInstanceUID=f"1.2.{session}",
                SeriesInstanceUID=f"1.2.{session}.1",
            )
            write(tree / f"{session}{file}", content)
    return [[sop(10 * session + file) for file in range(files)] for session in range(1, STRUCK + 1)]


def check_summary(summary: Summary, stage: Stage, cell: Row) -> None:
    """Compare the summary with the row."""
    files, ends = summary.files, summary.sessions
    stored, refused, left = stage.held if cell.end is End.HELD else (stage.files, 0, 0)
    if cell.end is End.REFUSED:
        stored, refused = stage.files - 1, 1
        assert [problem.files for problem in summary.problems] == [STRUCK]
        assert re.search(cell.why, summary.problems[0].reason)
    assert (files.stored, files.refused, files.failed, files.left) == (
        STRUCK * stored,
        STRUCK * refused,
        0,
        STRUCK * left,
    )
    match cell.end:
        case End.REFUSED:
            assert [(one.state, one.reason) for one in ends] == [("held", "1 of its files was refused")] * STRUCK
        case End.HELD:
            assert [one.state for one in ends] == ["held"] * STRUCK
            assert all(re.search(cell.why, one.reason or "") for one in ends), ends
        case End.BUILT:
            assert [one.state for one in ends] == ["prearchive"] * STRUCK
        case _:
            assert [(one.state, one.verified) for one in ends] == [("archived", "uids")] * STRUCK


def check_files(xnat: TestXnat, sent: Sequence[Sequence[str]], stage: Stage, cell: Row) -> None:
    """Compare archive and prearchive with the row."""
    struck = {uids[stage.nth - 1] for uids in sent} if stage.kind == "import" else set()
    every = {uid for uids in sent for uid in uids}
    rows = [(one.project, file) for one in xnat.prearchive for file in one.files if file.complete]
    waiting = {file.sop_uid for project, file in rows if project == "demo"}
    assert {file.sop_uid for project, file in rows if project == "other"} == (
        {uids[0] for uids in sent} if cell.moved else set()
    )
    match cell.end:
        case End.WELL:
            assert xnat.sop_uids() == every
            assert len(xnat.archived) == STRUCK
            assert not xnat.prearchive
            assert not xnat.partial_files()
        case End.BUILT:
            assert not xnat.archived
            assert waiting == every
            assert {one.status for one in xnat.prearchive} == {RowStatus.READY}
        case End.REFUSED:
            assert not xnat.archived
            assert waiting == every - struck
        case _:
            assert not xnat.archived
            # XNAT has made another row for what came after one that was moved.
            assert waiting == {uid for uids in sent for uid in (uids[1:] if cell.moved else uids[: stage.held[0]])}


async def check_zips(xnat: TestXnat, folder: Path, summary: Summary, cell: Row) -> None:
    """Compare archive, journal, report and exit code with the files in `folder/tree` and with the row."""
    files = [path.read_bytes() for path in (folder / "tree").iterdir()]
    (session,) = summary.sessions
    assert summary.zips == cell.zips
    if cell.end is End.HELD:
        assert re.search(cell.why, session.reason or "")
        assert (session.state, xnat.archived, exit_code(summary)) == ("held", [], 8)
        return
    assert (session.state, session.verified, exit_code(summary)) == ("archived", "uids", 0)
    assert sorted(file.digest or b"" for _, _, file in xnat.instances("demo")) == sorted(
        hashlib.md5(one, usedforsecurity=False).digest() for one in files
    )
    assert xnat.partial_files() == []
    # What a zip left elsewhere is told by a notice.
    assert [row.project for row in xnat.prearchive] == len(xnat.prearchive) * [None]

    def read() -> tuple[list[bytes | None], list[int], str]:
        path = folder / "journal.db"
        with JournalReader.open(path) as reader:
            found = list(reader.stored_instances())
        sizes = [one.file.size if one.zip_size is None else one.zip_size for one in found]
        return [one.xxh3 for one in found], sizes, make_report(ReportRequest(journal=path)).html

    digests, sizes, page = await anyio.to_thread.run_sync(read)
    assert sorted(one or b"" for one in digests) == sorted(map(xxh3_of, files))
    assert sum(sizes) == summary.bytes_sent
    assert (f"{counted(cell.zips, 'file')} as zips" in page) is (cell.zips > 0)
