"""Two uploads with a journal each meet in one session: neither counts the other's bytes as its own.

XNAT puts the files of one study and label into one prearchive row, whoever sends them, and a file of the same
SOPInstanceUID takes the place of the one before. UIDs and numbers alone would call them equal.
"""

from functools import partial
from pathlib import Path

import anyio
import pytest
from builders import add_row, image, logged_in, looked_at, sop, upload, write
from conftest import Commands

from asyncimport.model.deliveries import Withheld
from asyncimport.model.events import Event, OutcomesRecorded
from asyncimport.model.options import Options
from asyncimport.testserver import Fault, Gateway, Reset, RowStatus, Tell, TestXnat
from asyncimport.xnat.replies.images import parse_archive_uri

pytestmark = pytest.mark.anyio

FILES = 3
LABEL = "P1_20200102"


def tree(place: Path, byte: int) -> Path:
    """Write a session in which all pixels are this byte."""
    for number in range(FILES):
        content = image(
            number,
            PatientID="P1",
            StudyInstanceUID="1.2.1",
            SeriesInstanceUID="1.2.1.1",
            PixelData=bytes([byte]) * 100,
        )
        write(place / str(number), content)
    return place


def pixels(xnat: TestXnat, place: tuple[str, ...]) -> set[bytes]:
    """Return the last bytes of the files below a folder of the server."""
    folder = xnat.storage.path(place)
    assert folder is not None
    return {path.read_bytes()[-1:] for path in folder.rglob("*.dcm")}


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """Write the session as the first machine has it."""
    return tree(tmp_path / "one", 1)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Write it as the second machine has it: the same SOPInstanceUIDs, and other bytes."""
    return tree(tmp_path / "two", 2)


async def test_a_row_that_another_journal_has_begun_is_not_filled(
    xnat: TestXnat, url: str, commands: Commands, one: Path, two: Path, tmp_path: Path
) -> None:
    """Even if both look equal: nothing is sent, a dry run says so, and the first upload ends with its own bytes."""
    commands.login(url)
    first, second = ("--state-dir", tmp_path / "a"), ("--state-dir", tmp_path / "b")
    assert (await commands("upload", one, "-P", "demo", *first, "--no-archive", "-q")).code == 0
    rehearsed = await commands("upload", two, "-P", "demo", *second, "--dry-run", "-o", "json")
    assert rehearsed.code == 9
    assert [problem["code"] for problem in rehearsed.json["problems"]] == ["prearchive-taken"]
    ended = await commands("upload", two, "-P", "demo", *second, "-o", "json")
    assert ended.code == 9
    (held,) = ended.json["details"]
    assert (held["state"], held["verified"]) == ("held", None)
    (row,) = xnat.prearchive
    # It is no orphan that may be deleted: the other upload may be working on it.
    assert ended.json["strays"] == []
    assert f"begun by somebody else (by an upload from another journal: {row.uri})" in held["reason"]
    assert "let that upload end" in held["reason"]
    assert "--adopt-rows" in held["reason"]
    assert (len(xnat.imports), row.status) == (FILES, RowStatus.READY)
    # The journal that has begun it knows it as its own, in a dry run too.
    rehearsed = await commands("upload", one, "-P", "demo", *first, "--dry-run", "-o", "json")
    assert [problem["code"] for problem in rehearsed.json["problems"]] == ["prearchive-begun"]
    ended = await commands("upload", one, "-P", "demo", *first, "-o", "json")
    assert (ended.code, ended.json["details"][0]["verified"]) == (0, "uids")
    assert pixels(xnat, xnat.archived[0].path) == {b"\x01"}
    # The second finds it in the archive, and does not count it as its own.
    ended = await commands("upload", two, "-P", "demo", *second, "-o", "json")
    assert (ended.code, ended.json["details"][0]["verified"]) == (0, "present")
    safe = tmp_path / "safe"
    await commands("verify", "-P", "demo", *second, "--safe-to-delete", safe)
    assert safe.read_text() == ""


async def test_rows_are_adopted_on_purpose(
    xnat: TestXnat, url: str, commands: Commands, one: Path, two: Path, tmp_path: Path
) -> None:
    """With --adopt-rows all files are sent again into the existing row, and counted; a dry run says so."""
    commands.login(url)
    assert (await commands("upload", one, "-P", "demo", "--no-archive", "-q")).code == 0
    words = ("upload", two, "-P", "demo", "--state-dir", tmp_path / "b", "--adopt-rows", "-o", "json")
    rehearsed = await commands(*words, "--dry-run")
    assert (rehearsed.code, [one["code"] for one in rehearsed.json["problems"]]) == (0, ["prearchive-begun"])
    ended = await commands(*words)
    assert (ended.code, ended.json["details"][0]["verified"]) == (0, "uids")
    assert pixels(xnat, xnat.archived[0].path) == {b"\x02"}
    assert not xnat.prearchive


def begin(xnat: TestXnat, source: str) -> None:
    """Let another upload begin the row of the session."""
    add_row(xnat, LABEL, study_uid="1.2.1", subject="P1", source=source)


async def test_two_uploads_that_begin_in_the_same_moment(xnat: TestXnat, url: str, two: Path, tmp_path: Path) -> None:
    """Both have seen no row. The second to send a file sees from the row that it is the other's, and stops."""
    xnat.faults.add(Fault("import", Tell(partial(begin, xnat, "uploader-0123456789abcdef"))))
    told: list[Withheld] = []

    def report(event: Event) -> None:
        if isinstance(event, OutcomesRecorded):
            told.extend(one for one in event.outcomes if isinstance(one, Withheld))

    summary = await upload(url, [two], tmp_path / "book", report=report)
    assert [report.state for report in summary.sessions] == ["held"]
    assert ["a file from here is in it" in one.reason for one in told] == [True]
    assert (summary.files.stored, summary.files.left, xnat.count["import"]) == (0, FILES, 1)
    assert [file.sop_uid for file in xnat.prearchive[0].files] == [sop(0)]
    assert not xnat.archived


async def test_a_journal_knows_its_own_rows_after_a_kill(xnat: TestXnat, url: str, one: Path, tmp_path: Path) -> None:
    """A kill before the first answer is recorded leaves a row whose address the journal does not know."""
    with anyio.CancelScope() as scope:
        xnat.faults.add(Fault("listing", Tell(scope.cancel), path=f"/{LABEL}?"))
        await upload(url, [one], tmp_path / "book")
    assert scope.cancelled_caught
    assert len(xnat.prearchive) == 1
    summary = await upload(url, [one], tmp_path / "book")
    assert [report.verified for report in summary.sessions] == ["uids"]
    assert not xnat.prearchive


@pytest.mark.parametrize("others", [True, False])
async def test_only_what_was_archived_from_our_row_is_ours(
    xnat: TestXnat, url: str, one: Path, two: Path, tmp_path: Path, others: bool
) -> None:
    """A built row is gone: another upload has archived an older version, or a person has archived this one."""
    book = tmp_path / "book"
    built = await upload(url, [two], book, options=Options(workers=2, finalizers=1, archive=False))
    assert built.count("prearchive") == 1
    (row,) = xnat.prearchive
    if others:
        xnat.remove_row(row)
        await upload(url, [one], tmp_path / "other")
    else:
        async with logged_in(url) as client:
            await client.call("POST", client.url(f"/data/services/archive?src={row.uri}"), parse_archive_uri)
    sent = xnat.count["import"]
    expected = "present" if others else "uids"
    summary = await upload(url, [two], book)
    assert [(report.state, report.verified) for report in summary.sessions] == [("archived", expected)]
    assert xnat.count["import"] == sent
    (finding,), safe = await looked_at(url, book)
    assert finding.verified == expected
    assert len(safe) == (0 if others else FILES)


@pytest.mark.parametrize("action", [Reset(effect=True), Gateway(504)])
async def test_an_archive_step_whose_answer_is_lost_is_still_ours(
    xnat: TestXnat, url: str, two: Path, tmp_path: Path, action: Reset | Gateway
) -> None:
    """It was asked for, and the row has gone: also where the session was there before, and keeps its older path."""
    await upload(url, [two], tmp_path / "book")
    content = image(9, PatientID="P1", StudyInstanceUID="1.2.1", SeriesInstanceUID="1.2.1.1")
    write(two / "new", content)
    xnat.faults.add(Fault("archive", action))
    summary = await upload(url, [two], tmp_path / "book")
    assert [report.verified for report in summary.sessions] == ["uids"]
    assert len(xnat.sop_uids()) == FILES + 1
