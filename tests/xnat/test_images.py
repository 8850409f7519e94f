"""Storing files and finalising deliveries, on a test XNAT, and on small servers for what that never does."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import anyio.to_thread
import pytest
from aiohttp import web
from builders import (
    AT_ONCE,
    DEMO,
    SESSION,
    body_of,
    claim,
    image,
    listening,
    logged_in,
    no_sleep,
    open_files,
    sealed,
    sop,
    write,
)
from patience import in_time
from yarl import URL

from asyncimport.errors import LoginRefusedError, RefusedError, SourceError, TransientError
from asyncimport.model.deliveries import Archived, Built, Deleted, Held, Incomplete, SealedDelivery, Verdict
from asyncimport.model.files import Session
from asyncimport.pacing.rate_limit import RateLimit
from asyncimport.source.bytes_on_disk import LARGE
from asyncimport.testserver import Fault, Project, Reset, RowStatus, Script, Status, Tell, TestXnat, serve
from asyncimport.xnat.archive import Archive
from asyncimport.xnat.client import Client
from asyncimport.xnat.delivery_steps import Step, next_step
from asyncimport.xnat.images import XnatDestination
from asyncimport.xnat.replies.archive import Experiment
from asyncimport.xnat.replies.images import Row
from asyncimport.xnat.transport import Timeouts, Transport

pytestmark = pytest.mark.anyio

URI = "/prearchive/projects/demo/20260101_000000000/E"
ARCHIVED = "/data/archive/projects/demo/subjects/S/experiments/E"


def destination(client: Client, **options: Any) -> XnatDestination:
    """Make the destination, with retries and pauses that take no time."""
    return XnatDestination(client, **{"policy": AT_ONCE, "sleep": no_sleep, **options})


@asynccontextmanager
async def reaching(url: str, **options: Any) -> AsyncIterator[XnatDestination]:
    """Log in, and make the destination."""
    async with logged_in(url) as client:
        yield destination(client, **options)


# --- store


class Sink:
    """A server without rows that records imports as they arrive, and accepts them."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], dict[str, str], bytes]] = []

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Accept any login; record an import."""
        if request.path == "/data/JSESSION":
            return web.Response(text="OURS")
        if request.path == "/data/auth":
            return web.Response(text="User 'demo' is logged in")
        if request.method == "GET" and request.path.startswith("/data/prearchive/"):
            return web.json_response({"ResultSet": {"Result": []}})
        assert (request.method, request.path) == ("POST", "/data/services/import")
        content = b"".join([piece async for piece in request.content.iter_any()])
        self.requests.append((dict(request.query), dict(request.headers), content))
        return web.Response(text=f"/data{URI}\r\n")


@pytest.mark.parametrize("size", [10, LARGE, LARGE + 1, 3 * LARGE + 17])
async def test_every_import_is_as_xnat_needs_it(tmp_path: Path, size: int) -> None:
    """Each request, whole or streamed, has all parameters, media type and length, and the bytes of the file."""
    sink = Sink()
    content = os.urandom(size)
    file = write(tmp_path / "file", content)
    async with listening(sink.answer) as url, reaching(url) as xnat:
        for expected in (None, URI):
            assert await xnat.store(claim(file, uri=expected), await body_of(file)) == URI
    assert len(sink.requests) == 2
    for query, headers, received in sink.requests:
        assert query == {
            "import-handler": "gradual-DICOM",
            "inbody": "true",
            "PROJECT_ID": "demo",
            "SUBJECT_ID": "S",
            "EXPT_LABEL": "E",
            "rename": "true",
            "prevent_auto_commit": "true",
            "SOURCE": "uploader",
        }
        assert headers["Content-Type"] == "application/dicom"
        assert headers["Content-Length"] == str(size)
        assert "Transfer-Encoding" not in headers
        assert "Authorization" not in headers
        assert headers["Cookie"] == "JSESSIONID=OURS"
        assert received == content


@pytest.mark.parametrize("pixels", [100, 2 * LARGE, 9 * LARGE])
async def test_bytes_arrive_on_the_servers_disk(xnat: TestXnat, url: str, tmp_path: Path, pixels: int) -> None:
    """XNAT stores the bytes of small, streamed and spooled bodies, if no script changes them."""
    xnat.script = None
    file = write(tmp_path / "file", image(pixels=pixels))
    async with reaching(url) as there:
        uri = await there.store(claim(file), await body_of(file))
    (row,) = xnat.prearchive
    assert row.uri == uri
    (stored,) = row.files
    path = xnat.storage.path((*row.path, "SCANS", "1", "DICOM", stored.name))
    assert path is not None
    assert path.read_bytes() == Path(file.path).read_bytes()
    assert (row.subject, row.name, row.prevent_auto_commit, row.source) == ("S", "E", True, "uploader")


async def test_an_expiry_in_mid_body_is_repeated(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """The login is renewed, and the next call sends the whole body."""
    file = write(tmp_path / "file", image(pixels=2 * LARGE))
    async with reaching(url) as there:
        body = await body_of(file)
        xnat.expire_logins()
        with pytest.raises(TransientError):
            await there.store(claim(file), body)
        await there.store(claim(file), body)
    assert [record.status for record in xnat.imports] == [200]
    assert xnat.count["login"] == 2


async def test_a_refusal_reaches_the_caller(url: str, tmp_path: Path) -> None:
    """The answer to a streamed body is judged like any other: a second row, a wrong project."""
    file = write(tmp_path / "file", image(pixels=2 * LARGE))
    async with reaching(url) as there:
        with pytest.raises(RefusedError, match="second prearchive session") as caught:
            await there.store(claim(file, uri=URI), await body_of(file))
        assert caught.value.whole_session
        elsewhere = Session("elsewhere", "S", "E", "1.2.3")
        with pytest.raises(RefusedError, match="unassigned"):
            await there.store(claim(file, session=elsewhere), await body_of(file))


def grow(path: Path) -> None:
    """Append a byte."""
    os.truncate(path, path.stat().st_size + 1)


def shrink(path: Path) -> None:
    """Take the last bytes."""
    os.truncate(path, path.stat().st_size - 100)


def rewrite(path: Path) -> None:
    """Write other bytes of the same length."""
    path.write_bytes(b"x" * path.stat().st_size)
    os.utime(path, ns=(1, 1))


class Meddling:
    """A body whose file changes after the first chunk."""

    xxh3 = sha256 = None

    def __init__(self, body: Any, change: Callable[[], None]) -> None:
        self.size: int = body.size
        self._body = body
        self._change = change

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the chunks of the body."""
        first = True
        async for piece in self._body:
            yield piece
            if first:
                await anyio.to_thread.run_sync(self._change)
            first = False


@pytest.mark.parametrize("change", [grow, shrink, rewrite])
async def test_a_file_that_changes_while_it_is_sent(
    xnat: TestXnat, url: str, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """The error blames the file, not the connection. XNAT acknowledges nothing, and may keep a part."""
    path = tmp_path / "file"
    file = write(path, image(pixels=3 * LARGE))
    other = write(tmp_path / "other", image(2, pixels=2 * LARGE))
    async with reaching(url) as there:
        with in_time(), pytest.raises(SourceError) as told:
            await there.store(claim(file), Meddling(await body_of(file), lambda: change(path)))
        assert told.value.may_have_taken_effect
        assert open_files(path) == 0
        await there.store(claim(other), await body_of(other))
    assert [record.sop_uid for record in xnat.imports if record.status == 200] == [sop(2)]


async def test_a_file_that_is_missing_when_it_is_sent(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """The request has begun, but has no body."""
    file = write(tmp_path / "file", image(pixels=2 * LARGE))
    async with reaching(url) as there:
        body = await body_of(file)
        Path(file.path).unlink()
        with in_time(), pytest.raises(SourceError, match="no such file") as told:
            await there.store(claim(file), body)
        assert not told.value.may_have_taken_effect
    assert not xnat.imports


async def test_a_file_that_is_removed_while_it_is_sent_arrives_whole(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """The open file keeps the bytes that were scanned."""
    path = tmp_path / "file"
    file = write(path, image(pixels=3 * LARGE))
    async with reaching(url) as there:
        await there.store(claim(file), Meddling(await body_of(file), path.unlink))
    assert [(record.status, record.sop_uid) for record in xnat.imports] == [(200, sop(1))]


@asynccontextmanager
async def deaf(timeouts: Timeouts) -> AsyncIterator[XnatDestination]:
    """Make a destination, without a login, for a server that accepts connections, but neither reads nor answers."""
    over = asyncio.Event()

    async def ignore(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    server = await asyncio.start_server(ignore, "127.0.0.1", 0, limit=4096)
    url = URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
            yield destination(Client(Transport(http, url), DEMO, timeouts))
    finally:
        over.set()
        server.close()
        await server.wait_closed()


async def test_a_server_that_stops_reading_is_given_up(tmp_path: Path) -> None:
    """A body that makes no progress for the stall time is a transient error, long before the reply time."""
    path = tmp_path / "file"
    file = write(path, bytes(30 << 20))
    async with deaf(Timeouts(stall=0.1, reply=600)) as there:
        with in_time(), pytest.raises(TransientError, match="did not answer in time") as caught:
            await there.store(claim(file, uri=URI), await body_of(file))
        assert caught.value.overload
        assert open_files(path) == 0


@pytest.mark.parametrize("size", [10, LARGE + 1])
async def test_a_server_that_does_not_answer_is_given_up(tmp_path: Path, size: int) -> None:
    """The body is in the system's buffers, but no reply comes in time."""
    file = write(tmp_path / "file", bytes(size))
    async with deaf(Timeouts(stall=0.05, reply=0.05)) as there:
        with in_time(), pytest.raises(TransientError, match="did not answer in time"):
            await there.store(claim(file), await body_of(file))


class Ticking:
    """A body whose chunks together take longer than a stall may."""

    size = 8
    xxh3 = sha256 = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield a byte at a time."""
        for _ in range(self.size):
            await anyio.sleep(0.2)
            yield b"x"


async def test_a_slow_body_that_makes_progress_is_not_given_up(tmp_path: Path) -> None:
    """There is no total limit, only one between chunks."""
    sink = Sink()
    file = write(tmp_path / "file", bytes(8))
    async with (
        listening(sink.answer) as url,
        logged_in(url, timeouts=Timeouts(stall=1, reply=50)) as client,
    ):
        assert await destination(client).store(claim(file), Ticking()) == URI
    assert [content for _, _, content in sink.requests] == [b"x" * 8]


async def test_an_answer_before_the_end_of_the_body_counts(tmp_path: Path) -> None:
    """A proxy answers 413 while the body is sent: that counts, and no file stays open."""

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path == "/data/services/import":
            await request.content.read(1)
            return web.Response(status=413)
        return await Sink().answer(request)

    path = tmp_path / "file"
    file = write(path, bytes(5 * LARGE))
    async with listening(answer) as url, reaching(url) as there:
        with in_time(), pytest.raises((RefusedError, TransientError)) as caught:
            await there.store(claim(file), await body_of(file))
        assert open_files(path) == 0
    assert "413" in str(caught.value) or "connection broke" in str(caught.value)


async def test_a_cancelled_body_is_closed_at_once(tmp_path: Path) -> None:
    """At any point of a cancellation, the file is closed when `store` ends."""
    path = tmp_path / "file"
    file = write(path, bytes(2 * LARGE))
    async with deaf(Timeouts()) as there:
        body = await body_of(file)
        for steps in range(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(there.store, claim(file), body)
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            assert open_files(path) == 0


async def test_a_connection_that_is_reset_in_mid_body_is_transient(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """XNAT keeps a part of the file, and the repetition replaces it."""
    file = write(tmp_path / "file", image(pixels=3 * LARGE))
    async with reaching(url) as there:
        xnat.faults.add(Fault("import", Reset(after_bytes=LARGE)))
        with pytest.raises(TransientError, match="the connection broke"):
            await there.store(claim(file), await body_of(file))
        uri = await there.store(claim(file), await body_of(file))
        assert isinstance(await there.finalize(sealed(uri, 1)), Archived)
    assert xnat.sop_uids() == {sop(1)}
    assert not xnat.partial_files()


async def test_the_import_address_is_built_once_a_session(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """Its labels are encoded, and two sessions do not share one."""
    file = write(tmp_path / "file", image())
    async with reaching(url) as there:
        for label in ("E", "F", "E"):
            await there.store(claim(file, session=Session("demo", "S", label, "1.2.3")), await body_of(file))
    assert [record.session for record in xnat.imports] == ["E", "F", "E"]
    assert len({record.uri for record in xnat.imports}) == 2


# --- next_step

BUSY = [
    "ARCHIVING",
    "BUILDING",
    "DELETING",
    "MOVING",
    "SEPARATING",
    "QUEUED_ARCHIVING",
    "QUEUED_BUILDING",
    "_ARCHIVING",
    "_BUILDING",
    "_CONFLICT",
]


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("archived", [False, True])
def test_the_next_step_depends_on_row_and_archive(archived: bool, begun: bool) -> None:
    """All cases: no row, busy rows, marked rows, and rows that wait for us."""
    assert next_step(None, is_archived=archived, has_begun=begun) is (Step.VERIFY if archived else Step.LOST)
    for status in BUSY:
        assert next_step(Row(status), is_archived=archived, has_begun=begun) is Step.WAIT
    for status in ("CONFLICT", "ERROR"):
        # A mark of an earlier run's attempt does not count: the cause may be mended.
        assert next_step(Row(status), is_archived=archived, has_begun=begun) is (Step.STUCK if begun else Step.FINISH)
    for status in ("RECEIVING", "RECEIVING_INTERRUPT", "READY", "", "NEW_IN_2030"):
        assert next_step(Row(status), is_archived=archived, has_begun=begun) is Step.FINISH


# --- finalize


async def sent(
    there: XnatDestination, folder: Path, *numbers: int, session: Session = SESSION, **attributes: Any
) -> str:
    """Store instances of a session, and return the URI of their row."""
    uri = None
    for number in numbers:
        file = write(folder / f"{number}", image(number, **attributes))
        uri = await there.store(claim(file, session=session, uri=uri), await body_of(file))
    assert uri is not None
    return uri


@pytest.mark.parametrize("code", [0, 4, 5])
async def test_a_delivery_is_archived_and_verified(xnat: TestXnat, url: str, tmp_path: Path, code: int) -> None:
    """By build and archive, also on auto-archive projects; a second call gives the same verdict."""
    xnat.project("demo").prearchive_code = code
    async with reaching(url) as there:
        uri = await sent(there, tmp_path, 1, 2, 3)
        verdict = await there.finalize(sealed(uri, 1, 2, 3))
        assert verdict == Archived(sealed(uri).delivery, ARCHIVED, "uids")
        assert (xnat.count["build"], xnat.count["archive"]) == (1, 1)
        assert await there.finalize(sealed(uri, 1, 2, 3)) == verdict
        assert (xnat.count["build"], xnat.count["archive"]) == (1, 1)
    assert xnat.sop_uids("demo") == {sop(1), sop(2), sop(3)}
    assert not xnat.prearchive


async def test_an_archive_step_that_redirects_has_succeeded(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """The project became auto-archive after the row was made, so the archive step answers 303."""
    fault = Fault("archive", Status(303, headers={"Location": f"http://other.example.org{ARCHIVED}"}))
    async with reaching(url) as there:
        uri = await sent(there, tmp_path, 1)
        await there.finalize(sealed(uri, 1))
        uri = await sent(there, tmp_path, 2)
        xnat.faults.add(fault)
        verdict = await there.finalize(sealed(uri, 1))
    # The answer claims what the archive of the first delivery bears out.
    assert fault.hits == 1
    assert isinstance(verdict, Archived)


async def test_without_archiving_a_delivery_is_built_and_never_committed(
    xnat: TestXnat, url: str, tmp_path: Path
) -> None:
    """A commit would archive on an auto-archive project. A later run with archiving continues from the built row."""
    xnat.project("demo").prearchive_code = 4
    async with logged_in(url) as client:
        there = destination(client, archive=False)
        uri = await sent(there, tmp_path, 1)
        verdict = await there.finalize(sealed(uri, 1))
        assert verdict == Built(sealed(uri).delivery, f"/data{uri}")
        assert await there.finalize(sealed(uri, 1)) == verdict
        assert (xnat.count["build"], xnat.count["commit"], xnat.count["archive"]) == (2, 0, 0)
        (row,) = xnat.prearchive
        assert (row.status, xnat.archived) == (RowStatus.READY, [])
        assert isinstance(await destination(client).finalize(sealed(uri, 1)), Archived)
    assert xnat.sop_uids() == {sop(1)}


async def test_a_conflict_holds_the_delivery_with_the_message_of_xnat(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """XNAT refuses the same files with a 500, and gets no second request in this run."""
    async with reaching(url) as there:
        uri = await sent(there, tmp_path, 1)
        assert isinstance(await there.finalize(sealed(uri, 1)), Archived)
        uri = await sent(there, tmp_path, 1)
        verdict = await there.finalize(sealed(uri, 1))
        assert isinstance(verdict, Held)
        assert "Session already exists with matching files" in verdict.reason
        assert xnat.count["archive"] == 2
        # Another run looks again, in case a person has mended it.
        assert await there.finalize(sealed(uri, 1)) == verdict
        assert xnat.count["archive"] == 3


@pytest.mark.parametrize("overwrite", ["append", "delete", "none"])
async def test_overwrite_goes_to_the_archive_step(xnat: TestXnat, url: str, tmp_path: Path, overwrite: str) -> None:
    """The same instances in a second row conflict, unless they may be replaced."""
    async with reaching(url, overwrite=overwrite) as there:
        uri = await sent(there, tmp_path, 1)
        assert isinstance(await there.finalize(sealed(uri, 1)), Archived)
        uri = await sent(there, tmp_path, 1)
        verdict = await there.finalize(sealed(uri, 1))
    if overwrite == "none":
        assert isinstance(verdict, Held)
        assert "matching files" in verdict.reason
        assert [row.status for row in xnat.prearchive] == [RowStatus.CONFLICT]
    else:
        assert isinstance(verdict, Archived)
        assert not xnat.prearchive


@pytest.mark.parametrize("code", [0, 4])
async def test_overwrite_applies_on_auto_archive_projects(xnat: TestXnat, url: str, tmp_path: Path, code: int) -> None:
    """A commit would archive without `overwrite`, so nothing is committed."""
    xnat.project("demo").prearchive_code = code
    async with reaching(url, overwrite="append") as there:
        for _ in range(2):
            uri = await sent(there, tmp_path, 1)
            assert isinstance(await there.finalize(sealed(uri, 1)), Archived)
    assert xnat.count["commit"] == 0


# --- identity


@pytest.mark.parametrize("code", [0, 4])
@pytest.mark.parametrize("overwrite", ["append", "delete", "none"])
async def test_nothing_is_merged_into_another_study(
    xnat: TestXnat, url: str, tmp_path: Path, overwrite: str, code: int
) -> None:
    """XNAT merges by label, and with `overwrite` would mix two studies: the delivery is held before."""
    xnat.project("demo").prearchive_code = code
    async with reaching(url, overwrite=overwrite) as there:
        other = Session("demo", "S", "E", "9.9")
        uri = await sent(there, tmp_path, 5, session=other, StudyInstanceUID="9.9")
        assert isinstance(await there.finalize(sealed(uri, 5, session=other)), Archived)
        uri = await sent(there, tmp_path, 1, 2)
        verdict = await there.finalize(sealed(uri, 1, 2))
    assert isinstance(verdict, Held)
    assert verdict.reason.startswith("the archive has another study under this label (E: 9.9); ")
    assert "append" not in verdict.reason
    assert "--retry held" in verdict.reason
    (session,) = xnat.archived
    assert [file.sop_uid for file in session.files] == [sop(5)]
    assert len(list(xnat.prearchive[0].files)) == 2


async def test_nothing_is_merged_into_another_subjects_session(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """XNAT would refuse it. The reason names both subjects."""
    async with reaching(url) as there:
        other = Session("demo", "OTHER", "E", "1.2.3")
        uri = await sent(there, tmp_path, 1, session=other)
        assert isinstance(await there.finalize(sealed(uri, 1, session=other)), Archived)
        uri = await sent(there, tmp_path, 2)
        verdict = await there.finalize(sealed(uri, 1, 2))
    assert isinstance(verdict, Held)
    assert verdict.reason.startswith("the archive has it under another subject (OTHER, not S)")
    assert xnat.count["archive"] == 1


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("subject", "OTHER", "its subject is OTHER, not S"),
        ("source", "", "its source is '', not uploader"),
        ("prevent_auto_commit", False, "XNAT archives it by itself"),
    ],
)
@pytest.mark.parametrize("archive", [False, True])
async def test_a_row_of_somebody_else_is_not_finished(
    xnat: TestXnat, url: str, tmp_path: Path, name: str, value: object, why: str, archive: bool
) -> None:
    """The file that began a row decides whose it is: the row stays, and the delivery is held."""
    async with reaching(url, archive=archive) as there:
        uri = await sent(there, tmp_path, 1)
        setattr(xnat.prearchive[0], name, value)
        verdict = await there.finalize(sealed(uri, 1))
    assert isinstance(verdict, Held)
    assert why in verdict.reason
    assert uri in verdict.reason
    assert (xnat.count["build"], xnat.count["archive"]) == (0, 0)


def counted(uri: str, *numbers: int, most: int) -> SealedDelivery:
    """Make a sealed delivery whose files are counted."""
    return replace(sealed(uri, *numbers), max_row_files=most)


@pytest.mark.parametrize("code", [0, 4])
@pytest.mark.parametrize("archive", [False, True])
async def test_files_that_we_did_not_send_hold_the_delivery(
    xnat: TestXnat, url: str, tmp_path: Path, code: int, archive: bool
) -> None:
    """They are counted when the row is built, before it is archived, also on auto-archive projects."""
    xnat.project("demo").prearchive_code = code
    async with reaching(url, archive=archive) as there:
        uri = await sent(there, tmp_path, 1, 2, 3)
        verdict = await there.finalize(counted(uri, 1, most=1))
        assert isinstance(verdict, Held)
        assert verdict.reason.startswith(f"the prearchive holds more files than were sent there: 2 too many ({uri}); ")
        assert not xnat.archived
        ended = await there.finalize(counted(uri, 1, 2, 3, most=3))
        assert isinstance(ended, Archived if archive else Built)


async def test_a_row_that_turns_out_another_subjects_when_it_is_archived(
    xnat: TestXnat, url: str, tmp_path: Path
) -> None:
    """The archive step's answer counts: the verdict is not that the session is where it should be."""

    def change() -> None:
        xnat.prearchive[0].subject = "OTHER"

    xnat.faults.add(Fault("archive", Tell(change)))
    async with reaching(url) as there:
        uri = await sent(there, tmp_path, 1)
        verdict = await there.finalize(sealed(uri, 1))
        elsewhere = ARCHIVED.replace("/S/", "/OTHER/")
        assert verdict == Held(
            sealed(uri).delivery,
            "the archive has it under another subject (OTHER, not S); correct it in XNAT, then `--retry held`",
            elsewhere,
        )
        # A run that goes on from here has no answer, and looks at the session itself.
        assert await there.finalize(sealed(uri, 1)) == verdict
        session = xnat.archived[0]
        session.subject = xnat.add_subject("demo", "S")
        assert await there.finalize(sealed(uri, 1)) == Archived(sealed(uri).delivery, ARCHIVED, "uids")


async def test_a_subject_in_another_case_is_the_same(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """XNAT ignores case when it archives, and keeps the older label, which the verdict has."""
    xnat.add_subject("demo", "s")
    async with reaching(url) as there:
        uri = await sent(there, tmp_path, 1)
        verdict = await there.finalize(sealed(uri, 1))
        assert verdict == Archived(sealed(uri).delivery, ARCHIVED.replace("/S/", "/s/"), "uids")
        assert await there.finalize(sealed(uri, 1)) == verdict
        uri = await sent(there, tmp_path, 2)
        assert isinstance(await there.finalize(sealed(uri, 1, 2)), Archived)


async def test_new_instances_join_an_archived_session(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """A second delivery is merged, and the instances of all scans are compared."""
    async with reaching(url) as there:
        uri = await sent(there, tmp_path, 1)
        await there.finalize(sealed(uri, 1))
        uri = await sent(there, tmp_path, 2, SeriesNumber=2, SeriesInstanceUID="1.2.3.5")
        assert isinstance(await there.finalize(sealed(uri, 1, 2)), Archived)
    (session,) = xnat.archived
    assert len(session.scans) == 2


async def test_missing_instances_are_reported(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """XNAT acknowledged five instances; two of them are not in the archive."""
    async with reaching(url) as there:
        uri = await sent(there, tmp_path, 1, 2, 3)
        verdict = await there.finalize(sealed(uri, 1, 2, 3, 4, 5))
    archive = "/data/archive/projects/demo/subjects/S/experiments/E"
    assert verdict == Incomplete(sealed(uri).delivery, archive, frozenset({sop(4), sop(5)}))
    assert xnat.sop_uids() == {sop(1), sop(2), sop(3)}


async def test_all_dicom_of_all_scans_is_read() -> None:
    """A scan may have any ID, which is encoded as XNAT decodes it."""
    asked: list[str] = []
    rows = [
        {"category": category, "cat_id": scan, "label": label, "format": kind}
        for category, scan, label, kind in [
            ("scans", "1", "DICOM", "DICOM"),
            ("scans", "knee, left/2", "secondary", "DICOM"),
            ("scans", "1", "SNAPSHOTS", "GIF"),
            ("resources", "", "DICOM", "DICOM"),
        ]
    ]

    async def answer(request: web.BaseRequest) -> web.Response:
        if not request.path.startswith("/data/experiments/"):
            return await Sink().answer(request)
        asked.append(request.raw_path)
        if request.path.endswith("/resources"):
            return web.json_response({"ResultSet": {"Result": rows}})
        if request.path.endswith("/XNAT_E1"):
            scans = [{"data_fields": {"ID": scan}} for scan in ("1", "knee, left/2", "3")]
            children = [{"field": "scans/scan", "items": scans}]
            return web.json_response({"items": [{"children": children, "data_fields": {"label": "E"}}]})
        entries = f'<cat:entry UID="1.{len(asked)}"/><cat:entry/>'
        return web.Response(text=f'<cat:Catalog xmlns:cat="c"><cat:entries>{entries}</cat:entries></cat:Catalog>')

    async with listening(answer) as url, logged_in(url) as client:
        held = await Archive(client, AT_ONCE).read_session(Experiment("XNAT_E1", "E", "1.2.3"))
    assert held == {"1.2": "", "1.3": ""}
    first, *catalogs, last = asked
    assert (first, last) == (
        "/data/experiments/XNAT_E1/resources?all=true&format=json",
        "/data/experiments/XNAT_E1?format=json",
    )
    assert sorted(catalogs) == [
        "/data/experiments/XNAT_E1/scans/1/resources/DICOM?format=xml",
        "/data/experiments/XNAT_E1/scans/knee%5BCOMMA%5D%20left%5BSLASH%5D2/resources/secondary?format=xml",
    ]


async def test_an_earlier_attempt_may_have_archived_it(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """After a kill between archiving and recording it, the row is gone, and the archived session is verified."""
    async with reaching(url) as there:
        uri = await sent(there, tmp_path, 1)
        xnat.faults.add(Fault("archive", Reset(effect=True)))
        verdict = await there.finalize(sealed(uri, 1))
        assert isinstance(verdict, Archived)
        assert xnat.count["archive"] == 1
        assert await there.finalize(sealed(uri, 1)) == verdict
        assert isinstance(await there.finalize(sealed(uri, 1, 2)), Incomplete)


@pytest.mark.parametrize(
    "fault",
    [
        *(
            pytest.param(
                partial(Fault, kind, Reset(effect=effect)), id=f"the {kind} {'took' if effect else 'took no'} effect"
            )
            for kind in ("build", "archive")
            for effect in (False, True)
        ),
        # XNAT may still be working behind it.
        *(pytest.param(partial(Fault, "archive", Status(code)), id=f"{code} of a gateway") for code in (502, 503, 504)),
        # The first listing is the row, the second the session to verify.
        pytest.param(partial(Fault, "listing", Status(404), nth=2), id="the archive lists it late"),
    ],
)
async def test_a_lost_answer_is_made_up_for_by_reading_the_row(
    xnat: TestXnat, url: str, tmp_path: Path, fault: Callable[[], Fault]
) -> None:
    """Whether or not the step took place, it is no verdict: the next one depends on the row and the archive."""
    async with reaching(url) as there:
        uri = await sent(there, tmp_path, 1)
        added = xnat.faults.add(fault())
        assert isinstance(await there.finalize(sealed(uri, 1)), Archived)
    assert added.hits == 1
    assert xnat.sop_uids() == {sop(1)}


async def test_an_expired_login_while_finalising_is_no_verdict(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """During a long archive step the login expires: the client logs in, and reads the row again."""
    async with reaching(url) as there:
        uri = await sent(there, tmp_path, 1)
        xnat.faults.add(Fault("listing", Tell(xnat.expire_logins)))
        assert isinstance(await there.finalize(sealed(uri, 1)), Archived)


class Pauses:
    """A sleep that takes no time, records its lengths, and acts at one of them."""

    def __init__(self, then: Callable[[], None] = lambda: None, *, at: int = 1) -> None:
        self.seconds: list[float] = []
        self._then = then
        self._at = at

    async def __call__(self, seconds: float) -> None:
        """Record a pause."""
        self.seconds.append(seconds)
        if len(self.seconds) == self._at:
            self._then()
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("status", [RowStatus.LOCKED_BUILDING, RowStatus.QUEUED_ARCHIVING, RowStatus.ARCHIVING])
async def test_a_busy_row_is_left_alone(xnat: TestXnat, url: str, tmp_path: Path, status: RowStatus) -> None:
    """The row is read again after pauses that grow to half a minute; nothing is done to it meanwhile."""

    def release() -> None:
        xnat.prearchive[0].status = RowStatus.READY

    pauses = Pauses(release, at=7)
    async with reaching(url, sleep=pauses) as there:
        uri = await sent(there, tmp_path, 1)
        xnat.prearchive[0].status = status
        assert isinstance(await there.finalize(sealed(uri, 1)), Archived)
    assert pauses.seconds == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert (xnat.count["build"], xnat.count["archive"]) == (1, 1)


async def test_nothing_is_sent_into_a_row_that_xnat_archives(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """The first file of a delivery waits: it would get a 200 and vanish."""
    async with reaching(url) as there:
        await sent(there, tmp_path, 1)
    xnat.prearchive[0].status = RowStatus.LOCKED_ARCHIVING
    async with reaching(url) as there:
        with pytest.raises(TransientError, match="working on a prearchive session"):
            await sent(there, tmp_path, 2)
    assert xnat.count["import"] == 1


async def test_a_row_that_locks_before_its_build_is_waited_for(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """The row is free when it is read, and locked when it is built: XNAT answers 409, and the build is repeated."""
    xnat.faults.add(Fault("build", Status(409, "session document locked")))
    xnat.faults.add(Fault("archive", Status(403, "Operation already in progress on this prearchive entry.")))
    pauses = Pauses()
    async with reaching(url, sleep=pauses) as there:
        uri = await sent(there, tmp_path, 1)
        assert isinstance(await there.finalize(sealed(uri, 1)), Archived)
    assert len(pauses.seconds) == 2


async def test_patience_ends(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """XNAT works on the session without end."""
    async with reaching(url, patience=-1) as there:
        uri = await sent(there, tmp_path, 1)
        xnat.prearchive[0].status = RowStatus.LOCKED_ARCHIVING
        verdict = await there.finalize(sealed(uri, 1))
    assert verdict == Held(sealed(uri).delivery, "XNAT has not finished with the session in time")


async def test_a_lost_delivery_is_searched_for(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """Somebody has deleted the row. The verdict comes after a few attempts, because XNAT's caches lag."""
    pauses = Pauses()
    async with reaching(url, sleep=pauses) as there:
        uri = await sent(there, tmp_path, 1)
        xnat.remove_row(xnat.prearchive[0])
        verdict = await there.finalize(sealed(uri, 1))
    assert verdict == Deleted(sealed(uri).delivery)
    assert len(pauses.seconds) == AT_ONCE.attempts - 1


async def test_another_study_under_the_label_is_not_ours(url: str, tmp_path: Path) -> None:
    """The row is gone, and the label belongs to another study: the delivery is held at once."""
    pauses = Pauses()
    async with reaching(url, sleep=pauses) as there:
        other = Session("demo", "S", "E", "9.9")
        uri = await sent(there, tmp_path, 1, session=other, StudyInstanceUID="9.9")
        await there.finalize(sealed(uri, 1, session=other))
        verdict = await there.finalize(sealed(uri, 1))
    reason = "the archive has another study under this label (E: 9.9); correct it in XNAT, then `--retry held`"
    assert verdict == Held(sealed(uri).delivery, reason, ARCHIVED)
    assert not pauses.seconds


@pytest.mark.parametrize("mark", [RowStatus.CONFLICT, RowStatus.ERROR])
async def test_a_row_that_our_attempt_marked_is_held(xnat: TestXnat, url: str, tmp_path: Path, mark: RowStatus) -> None:
    """The answer got lost, and XNAT marked the row: the delivery is held with the last message."""

    def set_mark() -> None:
        xnat.prearchive[0].status = mark

    xnat.faults.add(Fault("archive", Status(504)))
    async with reaching(url, sleep=Pauses(set_mark)) as there:
        uri = await sent(there, tmp_path, 1)
        verdict = await there.finalize(sealed(uri, 1))
    assert verdict == Held(sealed(uri).delivery, "the server is overloaded or away (504)")


@pytest.mark.parametrize("kind", ["build", "archive"])
async def test_a_step_that_always_fails_is_no_verdict(xnat: TestXnat, url: str, tmp_path: Path, kind: str) -> None:
    """It is tried as often as any other call; then the caller decides, and another run continues."""
    pauses = Pauses()
    async with reaching(url, sleep=pauses) as there:
        uri = await sent(there, tmp_path, 1)
        fault = xnat.faults.add(Fault(kind, Status(503, headers={"Retry-After": "17"}), times=100))
        with pytest.raises(TransientError, match="overloaded or away"):
            await there.finalize(sealed(uri, 1))
        assert fault.hits == AT_ONCE.attempts
        assert pauses.seconds == [17.0] * (AT_ONCE.attempts - 1)
        xnat.faults.clear()
        assert isinstance(await there.finalize(sealed(uri, 1)), Archived)


@pytest.mark.parametrize("nth", [1, 2])
async def test_an_unreadable_server_is_no_verdict(xnat: TestXnat, url: str, tmp_path: Path, nth: int) -> None:
    """Before the build or after the archiving, the delivery stays sealed; HELD would wait for a person."""
    async with reaching(url) as there:
        uri = await sent(there, tmp_path, 1)
        xnat.faults.add(Fault("listing", Status(503), nth=nth, times=100))
        with pytest.raises(TransientError) as caught:
            await there.finalize(sealed(uri, 1))
        assert caught.value.overload
        assert xnat.count["build"] == (nth > 1)
        xnat.faults.clear()
        assert isinstance(await there.finalize(sealed(uri, 1)), Archived)


async def test_a_stopped_server_is_no_verdict(xnat: TestXnat, tmp_path: Path) -> None:
    """The caller decides whether to wait for it."""
    async with serve(xnat) as url:
        context = reaching(url)
        there = await context.__aenter__()
        uri = await sent(there, tmp_path, 1)
    with pytest.raises(TransientError, match="no connection to the server") as caught:
        await there.finalize(sealed(uri, 1))
    assert caught.value.unreachable
    await context.__aexit__(None, None, None)


async def test_a_login_that_is_refused_while_finalising_ends_the_run(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """The error is fatal, and no verdict."""
    async with reaching(url) as there:
        uri = await sent(there, tmp_path, 1)
        xnat.users.clear()
        xnat.expire_logins()
        with pytest.raises(LoginRefusedError):
            await there.finalize(sealed(uri, 1))


async def test_no_right_to_edit_holds_the_delivery(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """An import needs only the right to read; XNAT refuses the other steps with its message."""
    xnat.add_project(Project("library", editors=(), readers=["demo"]))
    session = Session("library", "S", "E", "1.2.3")
    async with reaching(url) as there:
        uri = await sent(there, tmp_path, 1, session=session)
        verdict = await there.finalize(sealed(uri, 1, session=session))
    assert isinstance(verdict, Held)
    assert not xnat.archived


async def test_pipelines_and_reason_go_with_every_finalising_call() -> None:
    """The build call has them too."""
    asked: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.method == "POST":
            asked.append(request.rel_url.raw_query_string)
        if request.path == "/data/auth":
            return web.Response(text="User 'demo' is logged in")
        if request.path.startswith("/data/pr") and request.method == "GET":
            is_row = request.path.startswith("/data/prearchive")
            return web.json_response({"ResultSet": {"Result": [{"status": "READY"}] if is_row else []}})
        if request.path == "/data/services/archive":
            return web.Response(status=403, text="no")
        return web.Response(text="SESSION")

    async with listening(answer) as url, logged_in(url) as client:
        there = XnatDestination(
            client, policy=AT_ONCE, sleep=no_sleep, trigger_pipelines=False, event_reason="migration & co"
        )
        assert isinstance(await there.finalize(sealed("/prearchive/projects/demo/1/E", 1)), Held)
    build, archive = asked[-2:]
    for query in (build, archive):
        assert "&triggerPipelines=false&event_reason=migration%20%26%20co" in query


@pytest.mark.parametrize("size", [LARGE // 4, 3 * LARGE])
async def test_the_rate_limit_bounds_bytes_a_second(url: str, tmp_path: Path, size: int) -> None:
    """Whole and streamed bodies wait for the bytes before them."""
    file = write(tmp_path / "1", image(pixels=size))
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    async with logged_in(url) as client:
        client.rate = RateLimit(1_000.0, sleep=wait, clock=lambda: 0.0)
        for _ in range(2):
            await XnatDestination(client).store(claim(file), await body_of(file))
    # A tenth of a second is given on credit; the last piece need not be waited for.
    pieces = 1 if size < LARGE else -(-file.size // (256 << 10))
    last = file.size - (pieces - 1) * (256 << 10)
    assert len(waits) == 2 * pieces - 1
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx((2 * file.size - last) / 1_000.0 - 0.1)


async def finalized(url: str, place: Path, there: tuple[int, ...], acknowledged: tuple[int, ...]) -> Verdict:
    """Send some instances, and finalise a delivery of which XNAT has acknowledged these."""
    async with logged_in(url) as client:
        destination = XnatDestination(client, policy=AT_ONCE, sleep=no_sleep)
        uri = None
        for number in there:
            file = write(place / str(number), image(number))
            uri = await destination.store(claim(file, number=number, uri=uri), await body_of(file))
        return await destination.finalize(sealed(uri or "", *acknowledged))


@pytest.mark.parametrize(
    ("script", "acknowledged", "missing"),
    [
        # The archive holds as many as were sent, but not those, and nothing in XNAT gives instances new UIDs.
        pytest.param(None, (4, 5, 6), (4, 5, 6), id="as many others, and no script"),
        # A script that gives new UIDs gives them to all instances: where some are as they were, others are lost.
        pytest.param(Script(map_uid=lambda uid: uid), (2, 3, 4), (4,), id="a script kept other UIDs"),
    ],
)
async def test_other_instances_do_not_stand_in_for_those_that_were_sent(
    xnat: TestXnat,
    url: str,
    tmp_path: Path,
    script: Script | None,
    acknowledged: tuple[int, ...],
    missing: tuple[int, ...],
) -> None:
    """What was acknowledged and is not in the archive is missing."""
    xnat.script = script
    verdict = await finalized(url, tmp_path, (1, 2, 3), acknowledged)
    assert isinstance(verdict, Incomplete)
    assert verdict.missing == {sop(number) for number in missing}


async def test_a_session_whose_catalogs_cannot_be_read_is_not_verified(
    xnat: TestXnat, url: str, tmp_path: Path
) -> None:
    """The session is archived, and its catalogs cannot be read."""
    no = Fault("listing", Status(403, "<h3>no</h3>"), nth=2, times=10)

    def archiving() -> None:
        xnat.faults.add(no)

    xnat.faults.add(Fault("archive", Tell(archiving)))
    verdict = await finalized(url, tmp_path, (1, 2), (1, 2))
    assert isinstance(verdict, Archived)
    assert verdict.verified is None
