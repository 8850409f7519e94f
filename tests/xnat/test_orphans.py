"""Orphans are deleted only with proof, whatever arrives meanwhile, and whatever zip XNAT sends."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from builders import AT_ONCE, SESSION, image, logged_in, sop, upload, write
from conftest import Commands

from asyncimport.errors import RefusedError, TransientError
from asyncimport.model.files import Session
from asyncimport.model.summary import Orphan
from asyncimport.testserver import Fault, Late, PrearchiveRow, Status, Tell, TestXnat, Timing
from asyncimport.xnat.client import Client
from asyncimport.xnat.orphans import delete_orphan
from asyncimport.xnat.replies.images import parse_row
from asyncimport.xnat.replies.response import Reply

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

OURS = Session("demo", "S", "S_20200102", SESSION.study_uid)


@pytest.fixture
async def left(xnat: TestXnat, url: str, tmp_path: Path) -> PrearchiveRow:
    """Archive a session of two instances; a late upload leaves a row with one of them, 5 minutes old."""
    for number in (1, 2):
        write(tmp_path / "visit" / str(number), image(number))
    xnat.faults.add(Fault("import", Late(after=1, of="archive"), nth=2))
    await upload(url, [tmp_path / "visit"], tmp_path / "book")
    (found,) = xnat.prearchive
    age(found, 300)
    return found


def age(found: PrearchiveRow, seconds: float) -> None:
    """Make a row older."""
    found.lastmod -= timedelta(seconds=seconds)
    found.touched -= seconds


def orphan(found: PrearchiveRow) -> Orphan:
    """Return the orphan of a row."""
    return Orphan(OURS, f"/data{found.uri}", found.status, "", "uploader")


async def refused(url: str, found: PrearchiveRow) -> str:
    """Try to delete an orphan; return the reason if it stays."""
    async with logged_in(url) as client:
        with pytest.raises(RefusedError) as caught:
            await delete_orphan(client, orphan(found), AT_ONCE)
    return str(caught.value)


async def send(client: Client, number: int) -> None:
    """Import an instance into the row, as another run may do."""
    query = "import-handler=gradual-DICOM&inbody=true&rename=true&prevent_auto_commit=true&SOURCE=uploader"
    address = client.url(f"/data/services/import?{query}&PROJECT_ID=demo&SUBJECT_ID=S&EXPT_LABEL={OURS.label}")
    kind = {"Content-Type": "application/dicom"}
    await client.call("POST", address, lambda reply: reply.text, data=image(number), headers=kind)


async def test_a_row_that_is_receiving_is_built_before_it_is_deleted(
    xnat: TestXnat, url: str, left: PrearchiveRow
) -> None:
    """Our rows stay RECEIVING until they are built; the next file takes a built row back to RECEIVING."""
    statuses: list[str] = []
    xnat.faults.add(Fault("prearchive", Tell(lambda: statuses.append(left.status)), path=left.uri[1:]))
    async with logged_in(url) as client:
        await delete_orphan(client, orphan(left), AT_ONCE)
    assert (statuses, xnat.prearchive) == (["READY"], [])


# The tenth request is the last look: XNAT has no way to delete a row only if it is still as it was.
@pytest.mark.parametrize("requests", range(1, 10))
async def test_a_file_that_arrives_during_the_check_is_not_lost(
    xnat: TestXnat, url: str, left: PrearchiveRow, requests: int
) -> None:
    """It may arrive after any of our requests; an acknowledged file is never deleted unseen."""
    late = xnat.faults.add(Fault("import", Late(after=requests, of="any")))
    async with logged_in(url) as client:
        with pytest.raises(TransientError, match="broke"):
            await send(client, 3)
        with suppress(RefusedError):
            await delete_orphan(client, orphan(left), AT_ONCE)
        await late.settled()
    assert [gate.is_settled for gate in late.gates] == [True]
    assert sop(3) in {file.sop_uid for found in xnat.prearchive for file in found.files}


async def test_a_file_that_arrives_during_the_build_keeps_the_row(
    xnat: TestXnat, url: str, left: PrearchiveRow
) -> None:
    """After the build the status is READY all the same, but `lastmod` has changed."""
    xnat.timing = Timing(build_seconds=0.3)
    async with logged_in(url) as client, anyio.create_task_group() as tasks:

        def arrive() -> None:
            tasks.start_soon(send, client, 3)

        xnat.faults.add(Fault("build", Tell(arrive)))
        with pytest.raises(RefusedError, match=re.escape("files are coming into it (READY)")):
            await delete_orphan(client, orphan(left), AT_ONCE)
    assert xnat.prearchive == [left]


@pytest.mark.parametrize("seconds", [-300, -290, -250, 598, 610])
async def test_a_recent_row_stays(xnat: TestXnat, url: str, left: PrearchiveRow, seconds: float) -> None:
    """The server's clock counts; its time zone is unknown, so a whole quarter of an hour may be none."""
    age(left, seconds)
    builds = xnat.count["build"]
    assert "within the last minute" in await refused(url, left)
    assert xnat.prearchive == [left]
    assert xnat.count["build"] == builds


async def test_the_clock_of_the_server_counts(xnat: TestXnat, url: str, left: PrearchiveRow) -> None:
    """If it is ahead of ours, rows are not older."""
    xnat.seconds_ahead = 5_000.0
    left.lastmod = xnat.now()
    assert "within the last minute" in await refused(url, left)


async def test_a_row_that_another_tool_is_filling_is_not_built(xnat: TestXnat, url: str, left: PrearchiveRow) -> None:
    """XNAT's idle builder will build it; a build of ours would prevent that."""
    builds = xnat.count["build"]
    left.source = ""
    assert await refused(url, left) == "it is receiving files (RECEIVING)"
    assert xnat.count["build"] == builds


def emptied(xnat: TestXnat, left: PrearchiveRow) -> None:
    """Delete the file."""
    on_disk(xnat, left).unlink()


def on_disk(xnat: TestXnat, left: PrearchiveRow) -> Path:
    """Return the one file of the row."""
    directory = xnat.storage.path(left.path)
    assert directory is not None
    (found,) = directory.rglob("*.dcm")
    return found


def rewritten(content: bytes, xnat: TestXnat, left: PrearchiveRow) -> None:
    """Replace the file."""
    on_disk(xnat, left).write_bytes(content)


ODD: dict[str, tuple[Callable[[TestXnat, PrearchiveRow], None], str]] = {
    "no entry": (emptied, "XNAT sent no file of it"),
    "an empty one": (partial(rewritten, b""), r"a file in it is no DICOM file \(empty\)"),
    "no DICOM": (partial(rewritten, b"report" * 100), r"a file in it is no DICOM file \(not DICOM\)"),
    "no UID": (partial(rewritten, image(2).replace(sop(2).encode(), b"\0" * 9)), "a file in it cannot be read"),
    "a bomb": (partial(rewritten, image(2, pixels=100_000_000)), "unpacks to far more than it holds"),
}


@pytest.mark.parametrize(("change", "reason"), ODD.values(), ids=ODD.keys())
async def test_a_row_with_an_unreadable_file_stays(
    xnat: TestXnat, url: str, left: PrearchiveRow, change: Callable[[TestXnat, PrearchiveRow], None], reason: str
) -> None:
    """A file that was not found in the archive may be the only copy."""
    await anyio.to_thread.run_sync(change, xnat, left)
    assert re.search(reason, await refused(url, left))
    assert xnat.prearchive == [left]


async def test_an_incomplete_zip_keeps_the_row(xnat: TestXnat, url: str, left: PrearchiveRow) -> None:
    """The document names two files, but the zip has one."""
    async with logged_in(url) as client:
        await send(client, 1)
    age(left, 300)
    directory = xnat.storage.path(left.path)
    assert directory is not None
    next(directory.rglob("*.dcm")).unlink()
    assert await refused(url, left) == "XNAT sent only 1 of its 2 files"


@pytest.mark.parametrize("body", ["", "PK\3\4 no zip", "<html>sorry</html>"])
async def test_a_reply_that_is_no_zip_keeps_the_row(xnat: TestXnat, url: str, left: PrearchiveRow, body: str) -> None:
    """It may be a gateway's page, or half a zip."""
    xnat.faults.add(Fault("listing", Status(200, body), path=left.uri[1:], nth=4))
    assert "no zip that can be read" in await refused(url, left)
    assert xnat.prearchive == [left]


async def test_the_command_reports_an_unreadable_zip_in_one_line(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """There is no traceback, and the other rows are checked."""
    for number in (1, 2):
        write(tmp_path / "visit" / str(number), image(number))
    xnat.faults.add(Fault("import", Late(after=1, of="archive"), nth=2))
    commands.login(url)
    assert (await commands("upload", tmp_path / "visit", "-P", "demo", "-q")).code == 0
    (found,) = xnat.prearchive
    age(found, 300)
    xnat.faults.add(Fault("listing", Status(200, "no zip"), path=found.uri[1:], nth=4))
    told = await commands("verify", "--delete-orphans", "-o", "json")
    (one,) = told.json["strays"]
    assert one["outcome"] == "left: XNAT sent no zip that can be read (BadZipFile)"
    assert "Traceback" not in told.err


@pytest.mark.parametrize(
    ("lastmod", "date", "seconds"),
    [
        ("2026-01-31 12:00:00.5", "Sat, 31 Jan 2026 12:00:30 GMT", 29.5),
        ("2026-01-31 12:00:00.123", "Sat, 31 Jan 2026 17:32:00 GMT", 119.877),
        ("2026-01-31 12:00:01.0", "Sat, 31 Jan 2026 12:00:00 GMT", 0.0),
        ("2026-01-31 12:00:00.0", "", 0.0),
        ("", "Sat, 31 Jan 2026 12:00:30 GMT", 0.0),
        ("soon", "Sat, 31 Jan 2026 12:00:30 GMT", 0.0),
        ("2026-01-31 12:00:00.0", "Sat, 99 Jan 99999999999999999999 12:00:30 GMT", 0.0),
    ],
)
def test_the_minimum_age_of_a_row(lastmod: str, date: str, seconds: float) -> None:
    """If it is unknown, a file may have arrived just now."""
    text = json.dumps({"ResultSet": {"Result": [{"status": "READY", "lastmod": lastmod}]}})
    found = parse_row(Reply(200, {"date": date}, text))
    assert found is not None
    assert found.min_age_seconds == pytest.approx(seconds)
