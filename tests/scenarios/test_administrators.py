"""An administrator archives, deletes or moves a prearchive session during the upload: nothing is lost."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from builders import image, logged_in, sop, upload, write

from asyncimport.journal import JournalReader
from asyncimport.model.choices import Overwrite
from asyncimport.model.deliveries import Deleted
from asyncimport.model.events import Event, OutcomesRecorded
from asyncimport.model.options import Options
from asyncimport.model.summary import Summary
from asyncimport.pacing.shutdown import Stop
from asyncimport.testserver import Administer, Fault, PrearchiveRow, Project, Reset, Script, Tell, TestXnat
from asyncimport.xnat.replies.images import check_build, parse_archive_uri

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

FILES = 8
ALL = {sop(number) for number in range(1, FILES + 1)}
ONE = Options(workers=1, finalizers=1)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """Return the path of the journal."""
    return tmp_path / "book"


@pytest.fixture
def visit(tmp_path: Path) -> Path:
    """Write a session of eight instances."""
    for number in range(1, FILES + 1):
        write(tmp_path / "visit" / str(number), image(number))
    return tmp_path / "visit"


def only(summary: Summary) -> tuple[str, str | None, str | None]:
    """Return state, verification and reason of the one session."""
    (report,) = summary.sessions
    return report.state, report.verified, report.reason


async def deliveries(book: Path) -> Sequence[tuple[int, str]]:
    """Return number and state of the deliveries in a journal."""

    def read() -> Sequence[tuple[int, str]]:
        with JournalReader.open(book) as reader:
            return [(one.number, one.state) for one in reader.deliveries()]

    return await anyio.to_thread.run_sync(read)


def files_of(row: PrearchiveRow) -> int:
    """Count the files in a row of the prearchive."""
    return sum(1 for _ in row.files)


async def stopped_after(url: str, visit: Path, book: Path, files: int) -> None:
    """Upload this many files, and stop."""
    stop = Stop()
    stored = 0

    def report(event: Event) -> None:
        nonlocal stored
        if isinstance(event, OutcomesRecorded):
            stored += len(event.outcomes)
            if stored >= files:
                stop.request()

    await upload(url, [visit], book, options=ONE, report=report, stop=stop)


@pytest.mark.parametrize("workers", [1, 8])
async def test_a_session_that_was_archived_half_is_completed(
    xnat: TestXnat, url: str, visit: Path, book: Path, workers: int
) -> None:
    """An administrator archives it as it is. The other files go into a new delivery, and all are verified."""
    fault = xnat.faults.add(Fault("import", Administer("archive"), nth=5))
    summary = await upload(url, [visit], book, options=Options(workers=workers, finalizers=1))
    assert fault.hits == 1
    assert only(summary) == ("archived", "uids", None)
    assert (summary.files.stored, summary.files.refused, summary.files.left) == (FILES, 0, 0)
    assert xnat.sop_uids() == ALL
    assert len(xnat.archived) == 1
    assert xnat.prearchive == []
    if workers == 1:
        assert await deliveries(book) == [(1, "ARCHIVED"), (2, "ARCHIVED")]


@pytest.mark.parametrize("workers", [1, 8])
async def test_a_session_that_was_deleted_is_sent_again(
    xnat: TestXnat, url: str, visit: Path, book: Path, workers: int
) -> None:
    """The acknowledged files are deleted with the row: all files go into a new delivery."""
    told: list[Event] = []
    fault = xnat.faults.add(Fault("import", Administer("delete"), nth=5))
    summary = await upload(url, [visit], book, options=Options(workers=workers, finalizers=1), report=told.append)
    assert fault.hits == 1
    assert [event.files for event in told if isinstance(event, Deleted)] in ([4], [3], [2], [1])
    assert only(summary) == ("archived", "uids", None)
    assert (summary.files.stored, summary.files.refused, summary.files.left) == (FILES, 0, 0)
    assert xnat.sop_uids() == ALL
    assert xnat.prearchive == []
    assert await deliveries(book) == [(1, "DELETED"), (2, "ARCHIVED")]


async def test_a_part_of_a_file_in_the_archive_does_not_stand_for_the_whole(
    xnat: TestXnat, url: str, visit: Path, book: Path
) -> None:
    """An upload breaks off and the row is archived with a partial file; then the row with the whole file is deleted."""
    xnat.faults.add(Fault("import", Reset(after_bytes=1_000), nth=3))
    xnat.faults.add(Fault("import", Administer("archive"), nth=4))
    xnat.faults.add(Fault("build", Administer("delete"), nth=1))
    summary = await upload(url, [visit], book, options=ONE)
    state, verified, _ = only(summary)
    assert xnat.sop_uids() == ALL
    assert (state, verified) == ("archived", "present")


async def test_a_part_in_the_archive_is_not_known_to_be_replaced_where_a_script_may_drop_files(
    xnat: TestXnat, url: str, visit: Path, book: Path
) -> None:
    """The whole file is sent later and archived with `overwrite`, but the script may have dropped it."""
    xnat.project("demo").script = Script(reject=lambda _: False)
    xnat.faults.add(Fault("import", Reset(after_bytes=1_000), nth=3))
    xnat.faults.add(Fault("import", Administer("archive"), nth=4))
    summary = await upload(url, [visit], book, options=ONE, overwrite=Overwrite.APPEND)
    state, verified, _ = only(summary)
    assert xnat.sop_uids() == ALL
    assert (state, verified, summary.sessions[0].presumed) == ("archived", "present", 1)


async def test_a_session_that_is_deleted_again_and_again_is_held(
    xnat: TestXnat, url: str, visit: Path, book: Path
) -> None:
    """A run sends it again once. After that the session is held, and the next run tries again."""
    for nth in (5, 10, 15):
        xnat.faults.add(Fault("import", Administer("delete"), nth=nth))
    summary = await upload(url, [visit], book, options=ONE)
    state, _, reason = only(summary)
    assert (state, reason) == ("held", "somebody has deleted it from the prearchive, and once more in the same run")
    assert not xnat.archived
    xnat.faults.clear()
    summary = await upload(url, [visit], book, options=ONE)
    assert only(summary) == ("archived", "uids", None)
    assert xnat.sop_uids() == ALL


@pytest.mark.parametrize("after", ["restored", "deleted"])
async def test_a_session_that_was_moved_is_held_and_says_where(
    xnat: TestXnat, url: str, visit: Path, book: Path, after: str
) -> None:
    """It is not sent a second time while the other project has it."""
    xnat.add_project(Project("other"))
    xnat.faults.add(Fault("import", Administer("move", to="other"), nth=5))
    summary = await upload(url, [visit], book, options=ONE)
    state, _, reason = only(summary)
    assert state == "held"
    assert reason is not None
    assert reason.startswith(
        "somebody has moved it to project other in the prearchive; move it back or delete it there"
    )
    assert not xnat.archived
    moved = next(row for row in xnat.prearchive if row.project == "other")
    assert files_of(moved) == 4
    # A second run finds the same.
    assert only(await upload(url, [visit], book, options=ONE))[::2] == (state, reason)
    assert files_of(moved) == 4
    if after == "restored":
        # Meanwhile XNAT has made another row, which blocks the row that comes back.
        for row in xnat.prearchive:
            xnat.remove_row(row)
        moved.project = "demo"
        xnat.add_row(moved)
    else:
        xnat.remove_row(moved)
    summary = await upload(url, [visit], book, options=ONE)
    assert only(summary) == ("archived", "uids", None)
    assert xnat.sop_uids() == ALL
    assert await deliveries(book) == ([(1, "ARCHIVED")] if after == "restored" else [(1, "DELETED"), (2, "ARCHIVED")])


async def test_a_session_that_went_to_unassigned_is_sent_again(
    xnat: TestXnat, url: str, visit: Path, book: Path
) -> None:
    """Without the right to see Unassigned rows it looks deleted. To send it again loses nothing."""
    xnat.faults.add(Fault("import", Administer("move"), nth=5))
    summary = await upload(url, [visit], book, options=ONE)
    assert only(summary) == ("archived", "uids", None)
    assert xnat.sop_uids() == ALL


async def test_a_session_that_was_archived_under_another_label_is_held(
    xnat: TestXnat, url: str, visit: Path, book: Path
) -> None:
    """An administrator may correct a label when archiving. Its files are not sent again under the old label."""
    await stopped_after(url, visit, book, 4)
    (row,) = xnat.prearchive
    async with logged_in(url) as client:
        await client.call("POST", client.url(f"/data{row.uri}?action=build"), check_build)
        address = client.url(f"/data/services/archive?src={row.uri}&session=corrected")
        await client.call("POST", address, parse_archive_uri)
    summary = await upload(url, [visit], book, options=ONE)
    state, _, reason = only(summary)
    assert state == "held"
    assert reason is not None
    assert reason.startswith("it is gone from the prearchive, and the archive has its files as session corrected")
    assert [session.label for session in xnat.archived] == ["corrected"]


@pytest.mark.parametrize("act", ["archive", "delete"])
async def test_what_happened_between_two_runs_is_noticed(
    xnat: TestXnat, url: str, visit: Path, book: Path, act: str
) -> None:
    """A run is stopped, an administrator archives or deletes the session, the run resumes: all is verified, exit 0."""
    await stopped_after(url, visit, book, 4)
    (row,) = xnat.prearchive
    assert 4 <= files_of(row) < FILES
    fault = xnat.faults.add(Fault("import", Administer(act)))  # type: ignore[arg-type]
    summary = await upload(url, [visit], book, options=replace(ONE, workers=8))
    assert fault.hits == 1
    assert only(summary) == ("archived", "uids", None)
    assert (summary.files.refused, summary.files.failed, summary.files.left) == (0, 0, 0)
    assert xnat.sop_uids() == ALL
    assert xnat.prearchive == []


async def test_a_second_row_beside_the_first_holds_the_session(
    xnat: TestXnat, url: str, visit: Path, book: Path
) -> None:
    """Somebody else has made the second row. Nothing more is sent until it is gone."""

    def second_row() -> None:
        (row,) = xnat.prearchive
        xnat.remove_row(row)
        xnat.add_row(replace(row, timestamp="20200101_000000000", scans={}))
        xnat.add_row(row)

    xnat.faults.add(Fault("import", Tell(second_row), nth=5))
    summary = await upload(url, [visit], book, options=ONE)
    why = "XNAT puts files of this study into a second row of the prearchive beside ours"
    assert only(summary) == ("held", None, why)
    assert (summary.files.stored, summary.files.refused + summary.files.left) == (4, 4)
    assert not xnat.archived
    second, first = xnat.prearchive
    assert files_of(first) == 4
    xnat.remove_row(second)
    summary = await upload(url, [visit], book, options=ONE)
    assert only(summary) == ("archived", "uids", None)
    assert xnat.sop_uids() == ALL
