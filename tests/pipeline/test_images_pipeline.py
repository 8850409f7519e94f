"""The image pipeline on real files, a real journal and a real test XNAT."""

import zipfile
from pathlib import Path
from typing import Any

import pydicom
import pytest
from builders import (
    folder,
    image,
    logged_in,
    no_sleep,
    opened,
    router,
    sop,
    uids_below,
    upload,
    write,
)
from patience import in_time

from asyncimport.errors import (
    UsageError,
)
from asyncimport.model.events import (
    Event,
)
from asyncimport.model.options import Options
from asyncimport.model.summary import exit_code
from asyncimport.pipeline.images import upload_images
from asyncimport.testserver import Fault, RowStatus, Tell, TestXnat
from asyncimport.testserver.samples import Written, generated
from asyncimport.xnat.images import XnatDestination

pytestmark = pytest.mark.anyio


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return the directory for the files of a test."""
    return tmp_path / "tree"


def sample(tree: Path, **options: Any) -> Written:
    """Write a small collection: 4 sessions of 60 files."""
    return generated(tree, **{"sessions": 4, "files": 60, "size": 3000, **options})


async def test_everything_arrives(xnat: TestXnat, url: str, tree: Path, journal_path: Path) -> None:
    """Each instance on disk is archived and verified; nothing stays in the prearchive."""
    written = sample(tree)
    summary = await upload(url, [tree], journal_path)
    assert xnat.sop_uids("demo") == await uids_below(tree)
    assert len(xnat.sop_uids("demo")) == written.instances == 60
    assert (summary.files.stored, summary.files.found) == (60, 60)
    assert summary.bytes_stored == written.bytes
    assert [(report.state, report.verified) for report in summary.sessions] == [("archived", "uids")] * 4
    assert not xnat.prearchive
    assert not xnat.partial_files()
    assert xnat.live_logins("demo") == 0
    assert xnat.count["login"] == 1
    assert len(xnat.archived) == 4


async def test_a_second_run_sends_nothing(xnat: TestXnat, url: str, tree: Path, journal_path: Path) -> None:
    """Unchanged files are neither sent nor finalised again."""
    sample(tree)
    await upload(url, [tree], journal_path)
    xnat.count.clear()
    summary = await upload(url, [tree], journal_path)
    assert set(xnat.count) == {"login", "logout", "listing"}
    assert (summary.files.stored, summary.files.already_stored) == (0, 60)
    assert [report.state for report in summary.sessions] == ["archived"] * 4


async def test_large_and_small_files_arrive_side_by_side(
    xnat: TestXnat, url: str, tree: Path, journal_path: Path
) -> None:
    """Files over 1 MiB are streamed from disk."""
    for number in range(1, 13):
        write(tree / f"{number:02}", image(number, pixels=(2 << 20) if number % 3 == 0 else 500))
    await upload(url, [tree], journal_path)
    assert xnat.sop_uids() == {sop(number) for number in range(1, 13)}
    assert not xnat.partial_files()


async def test_the_first_file_of_a_session_goes_alone(xnat: TestXnat, url: str, tree: Path, journal_path: Path) -> None:
    """All files of a session go to the row that the first one made."""
    sample(tree)
    await upload(url, [tree], journal_path)
    assert len({record.uri for record in xnat.imports}) == 4


async def test_new_files_of_an_archived_session_are_merged(
    xnat: TestXnat, url: str, tree: Path, journal_path: Path
) -> None:
    """They are a new delivery, and the session is verified as a whole."""
    write(tree / "1", image(1))
    await upload(url, [tree], journal_path)
    write(tree / "2", image(2))
    summary = await upload(url, [tree], journal_path)
    assert (summary.files.already_stored, summary.files.stored) == (1, 1)
    assert [report.state for report in summary.sessions] == ["archived"]
    (session,) = xnat.archived
    assert {file.sop_uid for file in session.files} == {sop(1), sop(2)}


async def test_without_archiving_sessions_stay_in_the_prearchive(
    xnat: TestXnat, url: str, tree: Path, journal_path: Path
) -> None:
    """They are built; the next run, with archiving, sends nothing and archives them."""
    sample(tree)
    summary = await upload(url, [tree], journal_path, options=Options(workers=4, archive=False))
    assert summary.count("prearchive") == 4
    assert {row.status for row in xnat.prearchive} == {RowStatus.READY}
    xnat.count.clear()
    summary = await upload(url, [tree], journal_path)
    assert xnat.count["import"] == 0
    assert summary.count("archived") == 4
    assert xnat.sop_uids() == await uids_below(tree)


async def test_files_that_cannot_be_sent_are_reported_and_the_rest_arrives(
    xnat: TestXnat, url: str, tree: Path, journal_path: Path
) -> None:
    """Copies, different files with one UID, files without a date, colliding labels, and files that are not DICOM."""
    write(tree / "a" / "1", image(1))
    write(tree / "a" / "2", image(2))
    write(tree / "b" / "copy of 1", image(1))
    write(tree / "b" / "other 2", image(2, pixels=50))
    write(tree / "c" / "undated", image(3, StudyDate=None))
    write(tree / "c" / "collides", image(4, StudyInstanceUID="9.9"))
    write(tree / "d" / "homeless", image(5, StudyInstanceUID=None))
    write(tree / "d" / "notes.dcm", b"notes")
    write(tree / "d" / "empty", b"")
    summary = await upload(url, [tree], journal_path)
    assert xnat.sop_uids() == {sop(1), sop(2)}
    files = summary.files
    assert (files.stored, files.duplicate, files.skipped, files.unreadable, files.not_dicom) == (2, 1, 3, 1, 2)
    reasons = {Path(problem.example).name: problem.reason for problem in summary.problems}
    assert "different content" in reasons["other 2"]
    assert "no StudyDate in the header" in reasons["undated"]
    assert "already belongs to study 1.2.3" in reasons["collides"]
    assert "homeless" in reasons
    assert xnat.count["import"] == 2


async def test_a_zip_of_images_is_reported(url: str, tmp_path: Path) -> None:
    """The images beside it are archived, and the exit code says that files are missing."""
    place = tmp_path / "tree"
    write(place / "1", image(1))
    with zipfile.ZipFile(place / "more.zip", "w") as archive:
        archive.writestr("2", image(2))
    summary = await upload(url, [place], tmp_path / "book")
    assert (summary.files.stored, summary.count("archived")) == (1, 1)
    assert exit_code(summary) == 8


async def test_check_first_sends_nothing_if_labels_collide(
    xnat: TestXnat, url: str, tree: Path, journal_path: Path
) -> None:
    """The error says why, and where to see all reasons."""
    for number in range(1, 60):
        write(tree / "a" / f"{number}", image(number))
    write(tree / "b", image(60, StudyInstanceUID="9.9"))
    with pytest.raises(UsageError, match=r"nothing was sent.*belongs to study") as caught:
        await upload(url, [tree], journal_path, options=Options(workers=4, check_first=True))
    assert "status" in caught.value.hint
    assert xnat.count["import"] == 0
    assert xnat.live_logins("demo") == 0


async def test_check_first_sends_a_source_without_collisions(
    xnat: TestXnat, url: str, tree: Path, journal_path: Path
) -> None:
    """Without collisions it is a run like any other."""
    sample(tree)
    await upload(url, [tree], journal_path, options=Options(workers=4, check_first=True))
    assert xnat.sop_uids() == await uids_below(tree)


async def test_misrouting_stops_a_session_after_its_first_file(
    xnat: TestXnat, url: str, tree: Path, journal_path: Path
) -> None:
    """If the project is deleted during the run, XNAT answers 200 and puts files into Unassigned: one file a session."""
    written = sample(tree)
    xnat.faults.add(Fault("import", Tell(xnat.projects.clear)))
    summary = await upload(url, [tree], journal_path)
    assert xnat.count["import"] == written.sessions
    assert {record.project for record in xnat.imports} == {"Unassigned"}
    assert [report.state for report in summary.sessions] == ["held"] * written.sessions
    assert all("unassigned" in (report.reason or "") for report in summary.sessions)
    assert (xnat.count["build"], xnat.count["archive"]) == (0, 0)


@pytest.mark.parametrize("most_open", [1, 2])
async def test_held_sessions_make_room_for_others(
    xnat: TestXnat, url: str, tree: Path, journal_path: Path, most_open: int
) -> None:
    """A session that is held before the end of the scan does not count as open."""
    sample(tree, sessions=6, files=40)
    options = Options(workers=2, finalizers=1, max_open_sessions=most_open)
    xnat.faults.add(Fault("import", Tell(xnat.projects.clear)))
    with in_time():
        await upload(url, [tree], journal_path, options=options)
    assert xnat.count["import"] == 6


async def test_few_sessions_are_open_at_a_time(xnat: TestXnat, url: str, tree: Path, journal_path: Path) -> None:
    """A long run does not fill the server's prearchive."""
    sample(tree, sessions=8, files=40)
    most = 0

    def report(_: Event) -> None:
        nonlocal most
        most = max(most, len(xnat.prearchive))

    await upload(
        url, [tree], journal_path, options=Options(workers=4, finalizers=1, max_open_sessions=2), report=report
    )
    assert xnat.sop_uids() == await uids_below(tree)
    assert most <= 2


async def test_a_run_with_its_defaults(xnat: TestXnat, url: str, tree: Path, journal_path: Path) -> None:
    """The policy, report and stop have defaults."""
    write(tree / "1", image(1))
    rules = router()
    async with opened(journal_path, rules) as journal, logged_in(url) as client:
        await upload_images(
            await folder(tree), XnatDestination(client, sleep=no_sleep), journal, rules, options=Options()
        )
    (session,) = xnat.archived
    assert {file.sop_uid for file in session.files} == {str(pydicom.dcmread(tree / "1").SOPInstanceUID)}
