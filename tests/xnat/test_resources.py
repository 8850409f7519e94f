"""Files into resources of the archive: every trap that XNAT sets there, on the test XNAT and real sockets."""

import asyncio
import hashlib
import io
import json
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from aiohttp import web
from builders import AT_ONCE, DEMO, QUICK, folder, listening, logged_in, no_sleep, open_files, write

from asyncimport.errors import LoginExpiredError, LoginRefusedError, RefusedError, TransientError, UnavailableError
from asyncimport.model import Attachment, AttachmentBatch, AttachmentResult, AttachmentState, Resource, ResourceOwner
from asyncimport.model.events import AttachmentsStored, Event, ServerUnavailable
from asyncimport.model.options import Options
from asyncimport.pacing.shutdown import Stop
from asyncimport.pipeline.attachments import InMemoryQueue, upload_attachments
from asyncimport.source.bytes_on_disk import LARGE
from asyncimport.testserver import (
    PROFILES,
    ArchivedSession,
    ExpireLogins,
    Fault,
    Gateway,
    Late,
    Reset,
    Status,
    Tell,
    TestXnat,
    Timing,
    User,
    add_file,
    add_reader,
    add_session,
    damage_file,
    file_bytes,
    lose_entry,
    lose_file,
    serve,
)
from asyncimport.xnat.client import Client, connect
from asyncimport.xnat.replies.resources import is_duplicate, parse_files
from asyncimport.xnat.replies.response import Reply
from asyncimport.xnat.resource_check import Depth, FileState
from asyncimport.xnat.resources import Resources

pytestmark = pytest.mark.anyio

STUDY = "1.2.840.1"
SESSION = ResourceOwner("demo", "S", "E", STUDY)
STORED, REFUSED, FAILED = AttachmentState.STORED, AttachmentState.REFUSED, AttachmentState.FAILED
WRITES = ("file", "resource", "subject", "refresh", "other")


def md5(data: bytes) -> str:
    """Return the digest as XNAT lists it."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@pytest.fixture
def session(xnat: TestXnat) -> ArchivedSession:
    """Archive a session E of the subject S, with a scan 1."""
    return add_session(xnat, "S", "E", study_uid=STUDY)


@pytest.fixture
def files(tmp_path: Path) -> "Files":
    """Give a directory to write into."""
    return Files(tmp_path / "files")


class Files:
    """Attachments on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._keys = 0

    def write(self, name: str, data: bytes, **said: Any) -> Attachment:
        """Write a file in a place of its own, and describe it."""
        self._keys += 1
        return Attachment(self._keys, write(self.root / str(self._keys) / name, data), name, **said)

    def small(self, number: int, *, size: int = 50) -> list[Attachment]:
        """Write many files that differ."""
        return [self.write(f"{one:04}.csv", f"{one:0{size}}".encode()) for one in range(number)]


def into(*attachments: Attachment, label: str = "R", place: ResourceOwner = SESSION, tags: str = "") -> AttachmentBatch:
    """Make the enclosure of attachments."""
    return AttachmentBatch(Resource(place, label, tags), attachments)


def cabinet(client: Client, **options: Any) -> Resources:
    """Make the destination, with retries and pauses that take no time."""
    return Resources(client, **{"policy": AT_ONCE, "sleep": no_sleep, **options})


async def fill(url: str, enclosure: AttachmentBatch, **options: Any) -> dict[str, AttachmentResult]:
    """Log in and fill a resource; return what became of each file, by its name."""
    async with logged_in(url) as client:
        filed = await cabinet(client, **options).fill(enclosure, await folder())
    assert len(filed) == len(enclosure.attachments)
    return {one.attachment.name: one for one in filed}


async def only(url: str, attachment: Attachment, **options: Any) -> AttachmentResult:
    """Fill a resource with one file."""
    return (await fill(url, into(attachment), **options))[attachment.name]


def listed(session: ArchivedSession, label: str = "R") -> dict[str, bytes | None]:
    """Return the digests in the catalog of one of the session's resources."""
    return {name: file.digest for name, file in session.own_resources[label].files.items()}


def digest(data: bytes) -> bytes:
    """Return the digest as the test XNAT keeps it."""
    return hashlib.md5(data, usedforsecurity=False).digest()


async def test_a_new_file(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """The resource is made, the file is sent once, and is seen by its digest; then there is nothing to do."""
    attachment = files.write("in/a.pdf", b"pdf", format="PDF", content="report")
    filed = await only(url, attachment)
    assert filed == AttachmentResult(attachment, STORED, md5=md5(b"pdf"), sent=True)
    (resource,) = session.own_resources.values()
    assert resource.label == "R"
    stored = resource.files["in/a.pdf"]
    assert stored.metadata is not None
    assert (stored.metadata.format, stored.metadata.content) == ("PDF", "report")
    assert await file_bytes(xnat, session, "R", "in/a.pdf") == b"pdf"
    assert (xnat.count["resource"], xnat.count["file"]) == (1, 1)
    again = await only(url, attachment)
    assert again == AttachmentResult(attachment, STORED, md5=md5(b"pdf"))
    assert xnat.count["file"] == 1


async def test_no_file_at_all(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """What cannot be read has failed, and not even the resource is made."""
    gone, changed = files.write("gone", b"1"), files.write("changed", b"1")
    Path(gone.file.path).unlink()
    write(Path(changed.file.path), b"22")
    filed = await fill(url, into(gone, changed))
    assert {name: one.state for name, one in filed.items()} == {"gone": FAILED, "changed": FAILED}
    assert "no such file" in str(filed["gone"].reason)
    assert "changed after it was scanned" in str(filed["changed"].reason)
    assert xnat.count["resource"] == xnat.count["file"] == 0
    assert session.own_resources == {}


# --- Answers


def answer(text: str, status: int = 200, *, html: bool = False) -> Reply:
    """Make an answer of XNAT's."""
    return Reply(status, {"content-type": "text/html" if html else "text/plain"}, text)


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        (answer(""), False),
        (answer("", 201), False),
        (answer('{"duplicates":["a.pdf"]}', html=True), True),
        (answer('{"duplicates":[]}', html=True), False),
        (answer("[1]"), False),
        (answer("7"), False),
    ],
)
def test_what_xnat_says_of_a_file(reply: Reply, kept: bool) -> None:
    """Whether it has kept another; the list of duplicates is labelled as a page."""
    assert is_duplicate(reply) is kept


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (answer("<html>Login.vm</html>", html=True), LoginExpiredError),
        (answer("<html>a gateway</html>", html=True), TransientError),
        (answer("", 401), LoginExpiredError),
        (answer("", 503), TransientError),
        (answer("<h3>broken</h3>", 500, html=True), TransientError),
        (answer("<h3>Unable to identify experiment</h3>", 404, html=True), RefusedError),
        (answer("", 413), RefusedError),
        (answer("no", 403), RefusedError),
    ],
)
def test_what_is_no_answer_about_a_file(reply: Reply, error: type[Exception]) -> None:
    """It is repeated, after a login it may be, or the last word."""
    with pytest.raises(error):
        is_duplicate(reply)


def test_files_that_belong_elsewhere_are_left_out() -> None:
    """Where XNAT does not find a resource it may list what is around; sizes and digests may be unknown."""
    rows = [
        {"URI": "/data/experiments/X/resources/7/files/in/a.pdf", "Size": "3", "digest": "ABC", "collection": "R"},
        {"URI": "/data/experiments/X/resources/7/files/b", "Size": "", "digest": "", "collection": "R"},
        {"URI": "/data/projects/P/resources/8/files/c", "Size": "3", "digest": "abc", "collection": "OTHER"},
        {"URI": "/data/experiments/X/resources/7", "Size": "3", "digest": "abc", "collection": "R"},
    ]
    found = parse_files(answer(json.dumps({"ResultSet": {"Result": rows}})), "R")
    assert {name: (file.size, file.md5) for name, file in found.items()} == {"in/a.pdf": (3, "abc"), "b": (None, "")}
    assert parse_files(answer("", 404), "R") == {}
    with pytest.raises(RefusedError):
        parse_files(answer("no", 403), "R")


# --- Rights


async def test_a_user_who_may_only_read(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """XNAT would take the file with 200 and store nothing: the resource tells before anything is sent."""
    add_reader(xnat, "reader")
    xnat.users["demo"] = User("demo", "demo")
    xnat.project("demo").editors = ["boss"]
    xnat.project("demo").readers = ["demo"]
    filed = await only(url, files.write("a", b"1"))
    assert (filed.state, filed.md5) == (REFUSED, None)
    assert "does not let this user add files here (403" in str(filed.reason)
    assert xnat.count["file"] == 0
    assert session.own_resources == {}


async def test_an_empty_200_is_not_believed(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """The right to edit goes when the resource is made: nothing is stored, XNAT says 200, and we say so."""

    def withdraw() -> None:
        xnat.project("demo").editors = []
        xnat.project("demo").readers = ["demo"]

    xnat.faults.add(Fault("file", Tell(withdraw)))
    filed = await only(url, files.write("a", b"1"))
    assert filed.state is REFUSED
    assert "answered 200 and stored nothing" in str(filed.reason)
    assert listed(session) == {}
    assert xnat.count["file"] == 2


async def test_a_listing_that_is_refused_in_the_middle(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """What was not seen there is no success, and the run goes on."""
    xnat.faults.add(Fault("listing", Status(403, "<h3>no</h3>"), path="/files", nth=2))
    filed = await fill(url, into(*files.small(3)))
    assert {one.state for one in filed.values()} == {REFUSED}
    assert "does not list the files (403" in str(filed["0000.csv"].reason)
    assert len(session.own_resources["R"].files) == 3


# --- Names that are taken


async def test_the_same_bytes_are_there(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """Whoever put them there: nothing is sent."""
    await add_file(xnat, session, "R", "a", b"same")
    filed = await only(url, files.write("a", b"same"))
    assert (filed.state, filed.sent, filed.md5) == (STORED, False, md5(b"same"))
    assert xnat.count["file"] == 0


@pytest.mark.parametrize(
    ("options", "previous", "state"),
    [
        ({}, None, REFUSED),
        ({}, md5(b"theirs"), REFUSED),
        ({"replace_changed": True}, None, REFUSED),
        ({"replace_changed": True}, md5(b"another"), REFUSED),
        ({"replace_changed": True}, md5(b"theirs"), STORED),
        ({"replace": True}, None, STORED),
    ],
)
async def test_other_bytes_are_there(
    xnat: TestXnat,
    url: str,
    session: ArchivedSession,
    files: Files,
    options: dict[str, bool],
    previous: str | None,
    state: AttachmentState,
) -> None:
    """They stay, unless replacing is asked for; that of changed files only where they are our own earlier state."""
    await add_file(xnat, session, "R", "a", b"theirs")
    filed = await only(url, files.write("a", b"ours", previous=previous), **options)
    assert (filed.state, filed.sent) == (state, state is STORED)
    assert listed(session)["a"] == digest(b"ours" if state is STORED else b"theirs")
    if state is REFUSED:
        assert "another file of this name" in str(filed.reason)
        assert xnat.count["file"] == 0


async def test_some_of_many_are_taken(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """Each is judged by itself."""
    await add_file(xnat, session, "R", "same", b"1")
    await add_file(xnat, session, "R", "other", b"2")
    three = [files.write("same", b"1"), files.write("other", b"3"), files.write("new", b"4")]
    filed = await fill(url, into(*three))
    assert [(one.state, one.sent) for one in (filed[name.name] for name in three)] == [
        (STORED, False),
        (REFUSED, False),
        (STORED, True),
    ]
    assert listed(session) == {"same": digest(b"1"), "other": digest(b"2"), "new": digest(b"4")}


async def test_duplicates_that_no_listing_shows(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """What a broken transfer has left on the disk is in no catalog: it is written over, and seen."""
    await add_file(xnat, session, "R", "a", b"whole fi", catalogued=False, complete=False)
    filed = await only(url, files.write("a", b"whole file"))
    assert (filed.state, filed.sent) == (STORED, True)
    assert listed(session) == {"a": digest(b"whole file")}
    assert xnat.count["file"] == 2


async def test_duplicates_among_many(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """Of a zip the others are stored, and the one that was left on the disk is then sent by itself."""
    await add_file(xnat, session, "R", "0001.csv", b"0", catalogued=False)
    filed = await fill(url, into(*(some := files.small(5))))
    assert {(one.state, one.sent) for one in filed.values()} == {(STORED, True)}
    assert listed(session) == {one.name: digest(Path(one.file.path).read_bytes()) for one in some}
    assert xnat.count["file"] == 2


@pytest.mark.parametrize("checksums", [True, False])
async def test_the_beginning_of_a_file_is_ours_if_an_earlier_run_began_it(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, checksums: bool
) -> None:
    """A catalog that was refreshed shows what a broken transfer has left; else it is a shorter file of somebody's."""
    xnat.storage.checksums = checksums
    await add_file(xnat, session, "R", "a", b"whole fi")
    await add_file(xnat, session, "R", "b", b"whole FI")
    await add_file(xnat, session, "R", "c", b"whole fi")
    attachments = [files.write(name, b"whole file", is_started=name in "ab") for name in "abc"]
    filed = await fill(url, into(*attachments))
    assert [filed[name].state for name in "abc"] == [STORED, REFUSED, REFUSED]
    assert await file_bytes(xnat, session, "R", "a") == b"whole file"
    assert await file_bytes(xnat, session, "R", "b") == b"whole FI"
    assert await file_bytes(xnat, session, "R", "c") == b"whole fi"


async def test_what_no_listing_shows_is_looked_at(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """A file whose entry the catalog has lost is nobody's to write over: the catalog is refreshed, and shows it."""
    for name, content in (("theirs", b"another"), ("same", b"same"), ("cut", b"begin")):
        await add_file(xnat, session, "R", name, content)
        lose_entry(session, "R", name)
    three = [files.write("theirs", b"our own file"), files.write("same", b"same"), files.write("cut", b"beginning")]
    filed = await fill(url, into(*three), zips=False)
    assert [(filed[one.name].state, filed[one.name].sent) for one in three] == [
        (REFUSED, False),
        (STORED, False),
        (STORED, True),
    ]
    assert await file_bytes(xnat, session, "R", "theirs") == b"another"
    assert listed(session) == {"theirs": digest(b"another"), "same": digest(b"same"), "cut": digest(b"beginning")}


@pytest.mark.parametrize("status", [403, 500])
async def test_a_catalog_that_cannot_be_refreshed(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, status: int
) -> None:
    """What XNAT keeps and does not show stays as it is, and the reason says so; `--replace` puts ours in its place."""
    await add_file(xnat, session, "R", "a", b"theirs", catalogued=False)
    xnat.faults.add(Fault("refresh", Status(status), share=1))
    filed = await only(url, files.write("a", b"ours"))
    assert (filed.state, filed.blames_server) == (REFUSED, True)
    assert "its catalog does not list" in str(filed.reason)
    assert await file_bytes(xnat, session, "R", "a") == b"theirs"
    # What a transfer of this very run has left is ours without being seen.
    xnat.faults.add(Fault("file", Reset(after_bytes=500)))
    assert (await only(url, files.write("b", bytes(1_000)))).state is STORED
    assert (await only(url, files.write("a", b"ours"), replace=True)).state is STORED
    assert await file_bytes(xnat, session, "R", "a") == b"ours"


async def test_it_is_looked_again_before_a_repeated_write(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """While we wait for another attempt somebody else stores a file under the name: it is not written over."""

    async def pause(_: float) -> None:
        if "a" not in session.own_resources["R"].files:
            session.own_resources["R"].uncatalogued.pop("a", None)
            await add_file(xnat, session, "R", "a", b"theirs")

    xnat.faults.add(Fault("file", Reset(after_bytes=500)))
    filed = await only(url, files.write("a", bytes(1_000)), sleep=pause)
    assert filed.state is REFUSED
    assert await file_bytes(xnat, session, "R", "a") == b"theirs"


async def test_it_is_looked_right_before_each_write_over_something(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """While one changed file is sent, somebody replaces the next: that is not our earlier state any more."""
    for name in "ab":
        await add_file(xnat, session, "R", name, b"earlier")

    def replaced() -> None:
        resource = session.own_resources["R"]
        resource.files["b"] = replace(resource.files["b"], digest=digest(b"theirs!"))

    xnat.faults.add(Fault("file", Tell(replaced)))
    two = [files.write(name, b"later", previous=md5(b"earlier"), previous_size=7) for name in "ab"]
    filed = await fill(url, into(*two), replace_changed=True, zips=False)
    assert (filed["a"].state, filed["b"].state) == (STORED, REFUSED)
    assert listed(session) == {"a": digest(b"later"), "b": digest(b"theirs!")}


async def test_a_changed_file_is_not_sent_as_what_was_lost(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """XNAT has lost what was stored, and the file holds other bytes by now: these go only where that is asked for."""
    changed = files.write("a", b"later", previous=md5(b"earlier"), previous_size=7)
    filed = await only(url, changed)
    assert (filed.state, filed.blames_server, xnat.count["file"]) == (REFUSED, True, 0)
    assert not session.own_resources
    assert "has changed since it was stored" in str(filed.reason)
    assert (await only(url, changed, replace_changed=True)).state is STORED
    # The same bytes go in any case.
    assert (await only(url, files.write("b", b"same", previous=md5(b"same"), previous_size=4))).state is STORED


async def test_somebody_else_is_faster(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """Their file comes between our look and our sending: XNAT keeps it, and so do we."""
    await add_file(xnat, session, "R", "a", b"theirs", catalogued=False)

    def appear() -> None:
        resource = session.own_resources["R"]
        resource.files["a"] = resource.uncatalogued.pop("a")

    xnat.faults.add(Fault("file", Tell(appear)))
    filed = await only(url, files.write("a", b"our own"))
    assert (filed.state, filed.sent) == (REFUSED, False)
    assert "another file of this name" in str(filed.reason)
    assert await file_bytes(xnat, session, "R", "a") == b"theirs"
    assert xnat.count["file"] == 1


async def test_somebody_else_is_faster_and_the_connection_breaks(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """We do not even know that XNAT has kept theirs: it is not written over all the same."""
    await add_file(xnat, session, "R", "a", b"theirs", catalogued=False)

    def appear() -> None:
        resource = session.own_resources["R"]
        resource.files["a"] = resource.uncatalogued.pop("a")

    # The connection breaks, and the next that asks what is there finds theirs.
    xnat.faults.add(Fault("file", Reset()))
    xnat.faults.add(Fault("listing", Tell(appear), path="/files", nth=2))
    filed = await only(url, files.write("a", b"our own"))
    assert filed.state is REFUSED
    assert await file_bytes(xnat, session, "R", "a") == b"theirs"


# --- Transfers that break


@pytest.mark.parametrize(
    "action",
    [Status(500), Status(503), Reset(), Reset(effect=True), Gateway(504), Gateway(502, effect=False), ExpireLogins()],
    ids=str,
)
@pytest.mark.parametrize("number", [1, 3])
async def test_it_is_sent_again(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, action: Any, number: int
) -> None:
    """Whatever the transfer broke of; what did take effect is seen, and not sent twice."""
    fault = xnat.faults.add(Fault("file", action))
    some = files.small(number)
    filed = await fill(url, into(*some))
    assert fault.hits == 1
    assert {(one.state, one.sent) for one in filed.values()} == {(STORED, True)}
    assert listed(session) == {one.name: digest(Path(one.file.path).read_bytes()) for one in some}
    took_effect = getattr(action, "effect", False)
    # Of many in one zip, each is sent by itself the second time.
    assert xnat.count["file"] == (1 if took_effect else 1 + number)


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize("size", [1_000, 3 * LARGE])
async def test_a_transfer_that_breaks_in_the_middle(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, size: int, checksums: bool
) -> None:
    """XNAT keeps the beginning, in no catalog: it is sent again, whole, and written over."""
    xnat.storage.checksums = checksums
    content = os.urandom(size)
    xnat.faults.add(Fault("file", Reset(after_bytes=size // 2)))
    filed = await only(url, files.write("a", content))
    assert (filed.state, filed.sent, filed.md5) == (STORED, True, md5(content))
    assert await file_bytes(xnat, session, "R", "a") == content
    assert not session.own_resources["R"].uncatalogued
    assert xnat.count["file"] == 2


async def test_a_transfer_that_breaks_over_our_own(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """The catalog still tells the digest of the whole: the size shows that it is not what is there."""
    content = os.urandom(2_000)
    # The first is cut in the middle, the second, which writes over that, has its reply lost and a third one is cut.
    xnat.faults.add(Fault("file", Reset(after_bytes=500)))
    xnat.faults.add(Fault("file", Reset(after_bytes=700), nth=2))
    attachment = files.write("a", content)
    filed = await only(url, attachment)
    assert filed.state is STORED
    # And so another time: of what was whole, a transfer over it has left the beginning.
    xnat.faults.add(Fault("file", Reset(after_bytes=900)))
    other = files.write("a", os.urandom(2_000))
    replaced = await only(url, other, replace=True)
    assert (replaced.state, replaced.sent) == (STORED, True)
    assert await file_bytes(xnat, session, "R", "a") == Path(other.file.path).read_bytes()


async def test_a_damaged_file_under_its_own_digest(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """An entry with our digest and a smaller size is our file, broken: it is sent again without being asked."""
    content = b"0123456789"
    stored = await add_file(xnat, session, "R", "a", content)
    path = xnat.storage.path((*session.path, "RESOURCES", "R", "a"))
    assert path is not None
    path.write_bytes(content[:4])
    session.own_resources["R"].files["a"] = type(stored)(
        "a", 4, stored.digest, "", stored.series, complete=False, metadata=stored.metadata
    )
    # Nor is it taken for whole when the next transfer breaks before it begins.
    xnat.faults.add(Fault("file", Reset()))
    filed = await only(url, files.write("a", content))
    assert (filed.state, filed.sent) == (STORED, True)
    assert await file_bytes(xnat, session, "R", "a") == content


async def test_replacing_without_checksums_is_not_taken_for_done(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """Old and new have one size: when the transfer breaks before it begins, the size proves nothing."""
    xnat.storage.checksums = False
    await add_file(xnat, session, "R", "a", b"old")
    xnat.faults.add(Fault("file", Reset()))
    filed = await only(url, files.write("a", b"new"), replace=True)
    assert (filed.state, filed.sent) == (STORED, True)
    assert await file_bytes(xnat, session, "R", "a") == b"new"


async def test_replacing_without_effect_is_noticed_without_checksums(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """The answer is 200, old and new have one size, and no MD5 is listed: the bytes tell that it is the old one."""
    xnat.storage.checksums = False
    await add_file(xnat, session, "R", "a", b"old")
    fault = xnat.faults.add(Fault("file", Status(200)))
    filed = await only(url, files.write("a", b"new"), replace=True)
    assert (filed.state, filed.sent, fault.hits) == (STORED, True, 1)
    assert await file_bytes(xnat, session, "R", "a") == b"new"
    xnat.faults.add(Fault("file", Status(200), share=1))
    filed = await only(url, files.write("a", b"xyz"), replace=True)
    assert (filed.state, filed.reason) == (FAILED, "XNAT holds other bytes than were sent")


@pytest.mark.parametrize("version", ["1.7", "1.8"])
async def test_a_cut_over_an_earlier_state(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, version: str
) -> None:
    """The listing may be as before, size and all: what an attempt that broke has left is read."""
    xnat.profile = PROFILES[version]
    await add_file(xnat, session, "R", "a", b"earlier")
    later = files.write("a", bytes(1_000), previous=md5(b"earlier"), previous_size=7)
    xnat.faults.add(Fault("file", Reset(after_bytes=500)))
    assert (await only(url, later, replace_changed=True)).state is STORED
    assert await file_bytes(xnat, session, "R", "a") == bytes(1_000)
    # So is what an earlier run has left that was killed, if the journal knows of it.
    await add_file(xnat, session, "R", "b", b"earlier")
    await damage_file(xnat, session, "R", "b", bytes(500))
    again = files.write("b", bytes(1_000), previous=md5(b"earlier"), previous_size=7)
    assert (await only(url, again)).state is REFUSED
    assert (await only(url, replace(again, is_started=True))).state is STORED
    assert await file_bytes(xnat, session, "R", "b") == bytes(1_000)


HELD: dict[str, tuple[bytes | None, bytes | None]] = {
    # What the catalog lists and what is on the disk, for each thing that may have become of a file.
    "same": (b"content", b"content"),
    "missing": (None, None),
    "missing, on the disk": (None, b"content"),
    "missing, listed": (b"content", None),
    "damaged, cut": (b"content", b"cont"),
    "damaged, longer": (b"content", b"contents!"),
    "other": (b"another", b"another"),
    "other, shorter": (b"anoth", b"anoth"),
}


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize("version", ["1.7", "1.8"])
@pytest.mark.parametrize("case", HELD)
async def test_what_became_of_a_stored_file(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, case: str, version: str, checksums: bool
) -> None:
    """Listing, size and bytes: whatever of them is wrong is found, on sites without checksums too."""
    xnat.profile = PROFILES[version]
    xnat.storage.checksums = checksums
    stored = files.write("a", b"content", previous=md5(b"content"), previous_size=7)
    catalogued, on_disk = HELD[case]
    await add_file(xnat, session, "R", "other", b"1")
    if catalogued is not None or on_disk is not None:
        await add_file(xnat, session, "R", "a", catalogued or b"content")
    if catalogued is None and on_disk is not None:
        lose_entry(session, "R", "a")
    if catalogued is not None and on_disk is None:
        await lose_file(xnat, session, "R", "a")
    if catalogued is not None and on_disk not in {None, catalogued}:
        assert on_disk is not None
        await damage_file(xnat, session, "R", "a", on_disk)
    expected = FileState(case.partition(",")[0])
    if expected is FileState.DAMAGED and not checksums:
        expected = FileState.OTHER
    for depth in (Depth.SIZE, Depth.BYTES):
        async with logged_in(url) as client:
            assert await cabinet(client, depth=depth).check_files(into(stored)) == {stored.key: expected}


async def test_other_bytes_of_the_same_size(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """A transfer that lost a race has left them under our MD5: only the bytes tell."""
    stored = files.write("a", b"content", previous=md5(b"content"), previous_size=7)
    await add_file(xnat, session, "R", "a", b"content")
    await damage_file(xnat, session, "R", "a", b"another")
    async with logged_in(url) as client:
        assert await cabinet(client, depth=Depth.SIZE).check_files(into(stored)) == {stored.key: FileState.SAME}
        assert await cabinet(client, depth=Depth.BYTES).check_files(into(stored)) == {stored.key: FileState.DAMAGED}


async def test_a_file_that_may_not_be_read(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """Nobody knows what it is: it is not called the same, nor missing."""
    stored = files.write("a", b"content", previous=md5(b"content"), previous_size=7)
    await add_file(xnat, session, "R", "a", b"content")
    xnat.faults.add(Fault("listing", Status(403), path="/files/a", share=1))
    async with logged_in(url) as client:
        assert await cabinet(client, depth=Depth.BYTES).check_files(into(stored)) == {stored.key: FileState.UNREADABLE}


@pytest.mark.parametrize("checksums", [True, False])
async def test_what_is_gone_from_the_disk_is_put_back(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, checksums: bool
) -> None:
    """The listing says that all is well: the bytes are asked for, and sent, though nothing may be replaced."""
    xnat.storage.checksums = checksums
    stored = files.write("a", b"content", previous=md5(b"content"), previous_size=7)
    await add_file(xnat, session, "R", "a", b"content")
    await lose_file(xnat, session, "R", "a")
    assert (await only(url, stored, depth=Depth.BYTES)).state is STORED
    assert await file_bytes(xnat, session, "R", "a") == b"content"


async def test_it_is_told_what_is_about_to_be_sent(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """Before it is: what is there already is not told."""
    await add_file(xnat, session, "R", "a", b"1")
    told: list[tuple[list[str], int]] = []

    async def begin(attachments: Sequence[Attachment]) -> None:
        told.append(([one.name for one in attachments], xnat.count["file"]))

    two = [files.write("a", b"1"), files.write("b", b"2")]
    async with logged_in(url) as client:
        await cabinet(client).fill(into(*two), await folder(), begin)
    assert told == [(["b"], 0)]


async def test_a_race_that_is_lost(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """Somebody else writes into the resource meanwhile: 500, our file is on the disk and in no catalog."""
    await add_file(xnat, session, "R", "theirs", b"theirs")

    def bump() -> None:
        session.own_resources["R"].version += 1

    xnat.timing = Timing(saving_seconds=0.01)
    content = b"ours"
    attachment = files.write("a", content)
    async with anyio.create_task_group() as tasks:

        async def meddle() -> None:
            while xnat.count["file"] < 1:
                await anyio.lowlevel.checkpoint()
            bump()

        tasks.start_soon(meddle)
        filed = await only(url, attachment)
    assert (filed.state, filed.sent) == (STORED, True)
    assert listed(session) == {"theirs": digest(b"theirs"), "a": digest(content)}
    assert not session.own_resources["R"].uncatalogued


async def test_a_late_effect_does_no_harm(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """What XNAT still does of a transfer that broke off is the same file once more."""
    late = xnat.faults.add(Fault("file", Late()))
    filed = await only(url, files.write("a", b"1"))
    late.release()
    await late.settled()
    assert filed.state is STORED
    assert listed(session) == {"a": digest(b"1")}


async def test_a_transfer_that_never_gets_through(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """It has failed, with the last reason, and others of the resource are not."""
    xnat.faults.add(Fault("file", Status(500, "<h3>broken by a plugin</h3>"), path="bad", times=9))
    filed = await fill(url, into(files.write("bad", b"1"), files.write("good", b"2")), zips=False)
    assert (filed["bad"].state, filed["good"].state) == (FAILED, STORED)
    assert "broken by a plugin" in str(filed["bad"].reason)
    assert list(listed(session)) == ["good"]
    assert xnat.count["file"] == AT_ONCE.attempts + 1


async def test_a_site_that_alters_files(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """What is there is never what was sent: it has failed, and is not called stored."""

    def alter() -> None:
        stored = session.own_resources["R"].files.get("a")
        if stored is not None:
            session.own_resources["R"].files["a"] = replace(stored, digest=digest(b"altered"))

    await add_file(xnat, session, "R", "a", b"old")
    xnat.faults.add(Fault("listing", Tell(alter), path="/files", share=1))
    filed = await only(url, files.write("a", b"new"), replace=True)
    assert (filed.state, filed.reason) == (FAILED, "XNAT holds other bytes than were sent")


@pytest.mark.parametrize("size", [100, 3 * LARGE])
async def test_a_file_that_a_proxy_does_not_let_through(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, size: int
) -> None:
    """413 is the last word on it: it is sent once, and the next file is."""
    xnat.faults.add(Fault("file", Status(413), path="large"))
    filed = await fill(url, into(files.write("large", bytes(size)), files.write("small", b"2")), zips=False)
    assert (filed["large"].state, filed["small"].state) == (REFUSED, STORED)
    assert "larger than a proxy" in str(filed["large"].reason)
    assert xnat.count["file"] == 2
    assert list(listed(session)) == ["small"]


async def test_a_file_that_changes_while_it_is_sent(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """It has failed, nothing of it is in a catalog, its handle is closed; unchanged again, it goes through."""
    attachment = files.write("a", bytes(3 * LARGE))
    path = Path(attachment.file.path)

    def change() -> None:
        os.truncate(path, LARGE)

    xnat.faults.add(Fault("file", Tell(change)))
    filed = await only(url, attachment)
    assert filed.state is FAILED
    assert "shrank" in str(filed.reason) or "changed" in str(filed.reason)
    assert open_files(path) == 0
    assert listed(session) == {}
    assert (await only(url, files.write("a", bytes(3 * LARGE)))).state is STORED


# --- Sites without checksums


async def test_without_checksums_bytes_are_compared(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """What is there under a name is fetched; what was just sent is known by its size."""
    xnat.storage.checksums = False
    for name, content in (("same", b"1"), ("other", b"2"), ("longer", b"333")):
        await add_file(xnat, session, "R", name, content)
    names = ("same", "other", "longer", "new")
    filed = await fill(url, into(*[files.write(name, b"1") for name in names]))
    assert {name: (one.state, one.sent) for name, one in filed.items()} == {
        "same": (STORED, False),
        "other": (REFUSED, False),
        "longer": (REFUSED, False),
        "new": (STORED, True),
    }
    assert xnat.count["file"] == 1


async def test_without_checksums_a_duplicate_is_compared(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """Somebody else's file of the same size comes between look and sending: a size does not make it ours."""
    xnat.storage.checksums = False
    await add_file(xnat, session, "R", "a", b"their", catalogued=False)

    def appear() -> None:
        resource = session.own_resources["R"]
        resource.files["a"] = resource.uncatalogued.pop("a")

    xnat.faults.add(Fault("file", Tell(appear)))
    filed = await only(url, files.write("a", b"ours!"))
    assert filed.state is REFUSED
    assert await file_bytes(xnat, session, "R", "a") == b"their"


@pytest.mark.parametrize(("replace", "state"), [(False, REFUSED), (True, STORED)])
async def test_a_file_that_is_listed_and_gone(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, replace: bool, state: AttachmentState
) -> None:
    """Nobody can tell what it was: it is refused, or replaced where that is asked for, and others go on."""
    xnat.storage.checksums = False
    await add_file(xnat, session, "R", "a", b"x")
    path = xnat.storage.path((*session.path, "RESOURCES", "R", "a"))
    assert path is not None
    path.unlink()
    filed = await fill(url, into(files.write("a", b"1"), files.write("b", b"2")), replace=replace)
    assert (filed["a"].state, filed["b"].state) == (state, STORED)


# --- How it is sent


async def test_many_small_files_go_in_few_requests(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """As zips that XNAT takes apart; the digests say that all of them arrived."""
    some = files.small(700)
    filed = await fill(url, into(*some))
    assert {one.state for one in filed.values()} == {STORED}
    assert listed(session) == {one.name: digest(Path(one.file.path).read_bytes()) for one in some}
    assert xnat.count["file"] == 2
    xnat.count.clear()
    await fill(url, into(*some))
    assert xnat.count["file"] == 0


async def test_zips_are_of_a_kind_and_of_a_size(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """What is said of a request is said of all in it; large files go by themselves."""
    kinds = [files.write(f"{kind}{one}", b"1", format=kind) for kind in ("", "PDF") for one in range(3)]
    large = files.write("large", bytes(300 << 10))
    middling = [files.write(f"m{one}", os.urandom(250 << 10)) for one in range(40)]
    filed = await fill(url, into(*kinds, large, *middling))
    assert {one.state for one in filed.values()} == {STORED}
    # Two kinds, of one of which 10 MB take two zips, and the large one.
    assert xnat.count["file"] == 4
    formats = Counter(file.metadata.format for file in session.own_resources["R"].files.values() if file.metadata)
    assert formats == {"": 44, "PDF": 3}


async def test_small_files_one_by_one(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """On demand, each has a request."""
    await fill(url, into(*files.small(5)), zips=False)
    assert xnat.count["file"] == 5
    assert len(listed(session)) == 5


async def test_a_file_that_is_a_zip_stays_one(url: str, session: ArchivedSession, files: Files) -> None:
    """Alone and among others."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("inner", b"1")
    alone, one, two = (files.write(name, out.getvalue()) for name in ("alone.zip", "one.zip", "two.zip"))
    assert (await only(url, alone)).state is STORED
    filed = await fill(url, into(one, two))
    assert {one.state for one in filed.values()} == {STORED}
    assert sorted(listed(session)) == ["alone.zip", "one.zip", "two.zip"]


@pytest.mark.parametrize("action", [Status(400, "<h3>no zip here</h3>"), Status(413), Status(500), Status(200)])
async def test_a_zip_that_is_not_taken(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, action: Status
) -> None:
    """Refused, broken or answered with nothing done: its files go one by one."""
    xnat.faults.add(Fault("file", action, path="attachments.zip"))
    filed = await fill(url, into(*files.small(4)))
    assert {(one.state, one.sent) for one in filed.values()} == {(STORED, True)}
    assert len(listed(session)) == 4
    assert xnat.count["file"] == 1 + 4


async def test_a_zip_of_which_some_are_gone(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """Between look and sending: they have failed, the others arrive."""
    some = files.small(4)
    gone = Path(some[2].file.path)

    def remove() -> None:
        asyncio.get_running_loop().call_soon(gone.unlink)

    xnat.faults.add(Fault("resource", Tell(remove)))
    filed = await fill(url, into(*some))
    assert Counter(one.state for one in filed.values()) == {STORED: 3, FAILED: 1}
    assert filed["0002.csv"].state is FAILED
    assert len(listed(session)) == 3


class Sink:
    """A server that takes files down as they come over the wire, and lists them."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], dict[str, str], bytes]] = []
        self.made: list[dict[str, str]] = []

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Log in whoever comes; note a file; list all that came."""
        path = request.path
        if path == "/data/JSESSION":
            return web.Response(text="OURS")
        if path == "/data/auth":
            return web.Response(text="User 'demo' is logged in")
        if path == "/data/projects/demo/experiments":
            row = {"ID": "X_E1", "label": "E", "UID": STUDY, "project": "demo", "subject_label": "S"}
            return web.json_response({"ResultSet": {"Result": [row]}})
        assert path.startswith("/data/experiments/X_E1/resources/R")
        if request.method == "GET":
            rows = [
                {
                    "Name": name.rpartition("/")[2],
                    "Size": str(len(data)),
                    "digest": md5(data),
                    "URI": f"/data/experiments/X_E1/resources/1/files/{name}",
                }
                for name, data in self._files()
            ]
            return web.json_response({"ResultSet": {"Result": [{**row, "collection": "R"} for row in rows]}})
        if not path.endswith("/files") and "/files/" not in path:
            self.made.append(dict(request.query))
            return web.Response()
        content = b"".join([piece async for piece in request.content.iter_any()])
        self.requests.append((path.partition("/files/")[2], dict(request.query), dict(request.headers), content))
        return web.Response()

    def _files(self) -> Iterable[tuple[str, bytes]]:
        for name, query, _, content in self.requests:
            if "extract" in query:
                with zipfile.ZipFile(io.BytesIO(content)) as archive:
                    yield from ((one, archive.read(one)) for one in archive.namelist())
            else:
                yield name, content


@pytest.mark.parametrize("size", [1, 300 << 10, LARGE, LARGE + 1, 3 * LARGE + 17])
async def test_every_file_is_sent_as_xnat_needs_it(files: Files, size: int) -> None:
    """As a body of known length, of which it is said that it is the file, with the reason; never chunked."""
    sink = Sink()
    content = os.urandom(size)
    attachment = files.write("in/a.pdf", content, format="PDF", content="a report")
    async with listening(sink.answer) as url:
        filed = await fill(url, into(attachment, tags="x,y"), event_reason="visit 1")
    assert filed["in/a.pdf"].state is STORED
    assert sink.made == [{"tags": "x,y", "event_reason": "visit 1"}]
    ((name, query, headers, received),) = sink.requests
    assert name == "in/a.pdf"
    assert query == {"inbody": "true", "format": "PDF", "content": "a report", "event_reason": "visit 1"}
    assert headers["Content-Length"] == str(size)
    assert "Transfer-Encoding" not in headers
    assert headers["Content-Type"] == "application/octet-stream"
    assert received == content


async def test_zips_are_sent_as_xnat_needs_them(files: Files) -> None:
    """By a name that XNAT takes for a zip, with the files by their paths; the same files make the same zip."""
    bodies = []
    for _ in range(2):
        sink = Sink()
        some = [files.write("in/a.csv", b"1"), files.write("b.csv", b"2")]
        async with listening(sink.answer) as url:
            await fill(url, into(*some))
        ((name, query, headers, received),) = sink.requests
        assert (name, query["extract"], query["inbody"]) == ("attachments.zip", "true", "true")
        assert "overwrite" not in query
        assert int(headers["Content-Length"]) == len(received)
        with zipfile.ZipFile(io.BytesIO(received)) as archive:
            assert {one: archive.read(one) for one in archive.namelist()} == {"in/a.csv": b"1", "b.csv": b"2"}
        bodies.append(received)
    assert bodies[0] == bodies[1]


async def test_tags_are_given_once(url: str, session: ArchivedSession, files: Files) -> None:
    """XNAT adds them again with each request that names them."""
    await fill(url, into(*files.small(5), tags="x,y"), zips=False)
    await fill(url, into(*files.small(7), tags="x,y"), zips=False)
    said = session.own_resources["R"].metadata
    assert said is not None
    assert said.tags == ("x", "y")


async def test_the_resource_is_there_before(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """409 is fine."""
    await add_file(xnat, session, "R", "theirs", b"1")
    assert (await only(url, files.write("ours", b"2"))).state is STORED
    assert list(listed(session)) == ["theirs", "ours"]
    assert len(session.own_resources) == 1


@pytest.mark.parametrize("reason", ["", "visit 1"])
async def test_sites_with_an_audit_trail(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, reason: str
) -> None:
    """They refuse what has no reason with a 500 that looks like a broken server: there is always one."""
    xnat.needs_reason = True
    assert (await only(url, files.write("a", b"1"), event_reason=reason)).state is STORED
    assert list(listed(session)) == ["a"]


# --- Where to


async def test_the_session_by_its_study(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """One is found; none and several are refused, and so is a label of another study."""
    place = ResourceOwner("demo", study_uid=STUDY)
    assert (await fill(url, into(files.write("a", b"1"), place=place)))["a"].state is STORED
    assert list(listed(session)) == ["a"]
    none = (await fill(url, into(files.write("a", b"1"), place=ResourceOwner("demo", study_uid="9.9"))))["a"]
    assert (none.state, none.reason) == (REFUSED, "the archive has no session of study 9.9 in project demo")
    wrong = (await fill(url, into(files.write("a", b"1"), place=ResourceOwner("demo", "", "E", "9.9"))))["a"]
    assert (wrong.state, wrong.reason) == (REFUSED, "the archive has no such session of this study in project demo (E)")
    twin = add_session(xnat, "S", "F", study_uid=STUDY)
    two = (await fill(url, into(files.write("b", b"1"), place=place)))["b"]
    assert (two.state, two.reason) == (REFUSED, f"the archive has 2 sessions of study {STUDY} in project demo")
    assert twin.own_resources == {}
    label = (await fill(url, into(files.write("b", b"1"), place=ResourceOwner("demo", "", "F", STUDY))))["b"]
    assert label.state is STORED
    assert list(listed(twin)) == ["b"]


@pytest.mark.parametrize("uid", ["1.2&UID=1.2.840.1", "*", "1.2.840.1,1", "1.2.840.*"])
async def test_a_study_that_is_none(xnat: TestXnat, url: str, session: ArchivedSession, files: Files, uid: str) -> None:
    """A table may have anything in this column: it cannot widen the question."""
    filed = (await fill(url, into(files.write("a", b"1"), place=ResourceOwner("demo", study_uid=uid))))["a"]
    assert filed.state is REFUSED
    assert session.own_resources == {}
    assert xnat.count["resource"] == 0


async def test_a_session_that_is_not_there(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """XNAT's listings would go on with the project's files: they are not taken for the session's."""
    await add_file(xnat, xnat.project("demo"), "R", "a", b"1")
    filed = (await fill(url, into(files.write("a", b"1"), place=ResourceOwner("demo", "", "NOPE"))))["a"]
    assert (filed.state, filed.reason) == (REFUSED, "the archive has no such session in project demo (NOPE)")
    assert session.own_resources == {}


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("scan", ["9", "ALL", "*", "1,9"])
async def test_a_scan_that_is_not_there(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, scan: str, dry_run: bool
) -> None:
    """Nor do patterns, which XNAT would take, put a file anywhere."""
    place = ResourceOwner("demo", "", "E", "", scan)
    filed = (await fill(url, into(files.write("a", b"1"), place=place), dry_run=dry_run))["a"]
    assert (filed.state, filed.reason) == (REFUSED, f"the session has no scan {scan}")
    assert session.scans["1"].resources == {}
    assert xnat.count["file"] == xnat.count["resource"] == 0


@pytest.mark.parametrize("scan", ["1", "1-MR1", "T1 a/b,c"])
async def test_a_scan(xnat: TestXnat, url: str, files: Files, scan: str) -> None:
    """By its ID, whatever is in it."""
    session = add_session(xnat, "S", "E", scans={"0": "MR", scan: "MR"})
    place = ResourceOwner("demo", "", "E", "", scan)
    assert (await fill(url, into(files.write("a", b"1"), place=place)))["a"].state is STORED
    assert list(session.scans[scan].resources["R"].files) == ["a"]
    assert session.scans["0"].resources == {}
    assert session.own_resources == {}


async def test_a_subject_and_a_project(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """Each in its own place; a subject that is not there is refused."""
    for place in (ResourceOwner("demo", "S"), ResourceOwner("demo")):
        assert (await fill(url, into(files.write("a", b"1"), place=place)))["a"].state is STORED
    assert session.subject is not None
    assert list(session.subject.resources["R"].files) == ["a"]
    assert list(xnat.project("demo").resources["R"].files) == ["a"]
    assert session.own_resources == {}
    none = (await fill(url, into(files.write("b", b"1"), place=ResourceOwner("demo", "NOPE"))))["b"]
    assert (none.state, none.reason) == (REFUSED, "the archive has no such subject in project demo (NOPE)")
    assert list(xnat.project("demo").resources["R"].files) == ["a"]


async def test_a_resource_whose_label_is_a_number_of_another(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """Labels that are numbers are refused before; were one asked for, another resource's files would not be ours."""
    await add_file(xnat, xnat.project("demo"), "P", "a", b"1")
    number = str(xnat.project("demo").resources["P"].number)
    filed = (await fill(url, into(files.write("a", b"1"), label=number)))["a"]
    assert (filed.state, filed.sent) == (STORED, True)
    assert list(listed(session, number)) == ["a"]


@pytest.mark.parametrize("version", ["1.6.1", "1.8"])
async def test_old_versions_below_a_context_path(tmp_path: Path, files: Files, version: str) -> None:
    """Nothing is asked that XNAT 1.6 does not know, and every address has the context path."""
    xnat = TestXnat(tmp_path / "old", profile=PROFILES[version])
    session = add_session(xnat, "S", "E", study_uid=STUDY)
    async with serve(xnat, context="/xnat") as url:
        for place in (
            SESSION,
            ResourceOwner("demo", study_uid=STUDY),
            ResourceOwner("demo", "", "E", "", "1"),
            ResourceOwner("demo", "S"),
        ):
            some = files.small(3)
            filed = await fill(url, into(*some, place=place))
            assert {(one.state) for one in filed.values()} == {STORED}
        xnat.storage.checksums = False
        await add_file(xnat, session, "R", "same", b"1")
        assert (await only(url, files.write("same", b"1"))).sent is False
    assert len(listed(session)) == 4


async def test_a_dry_run(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """It says what would be, and asks for nothing that changes."""
    await add_file(xnat, session, "R", "same", b"1")
    await add_file(xnat, session, "R", "other", b"2")
    await add_file(xnat, session, "R", "half", b"1")
    contents = {"same": b"1", "other": b"3", "half": b"12", "new": b"4"}
    three = [files.write(name, content, is_started=name == "half") for name, content in contents.items()]
    filed = await fill(url, into(*three), dry_run=True)
    assert {name: one.state.value for name, one in filed.items()} == {
        "same": "STORED",
        "other": "REFUSED",
        "half": "PENDING",
        "new": "PENDING",
    }
    assert {kind: xnat.count[kind] for kind in WRITES} == dict.fromkeys(WRITES, 0)
    assert list(session.own_resources) == ["R"]


_NO_SUCH_RESOURCE = [
    None,
    Status(404, "", {"Content-Type": "text/html"}),
    Status(404),
    Status(404, "<h3>Unable to find the specified resource.</h3>", {"Content-Type": "text/html"}),
    Status(404, "<html><title>404 Not Found</title></html>", {"Content-Type": "text/html"}),
    Status(500, "<h3>NullPointerException</h3>", {"Content-Type": "text/html"}),
]


@pytest.mark.parametrize("answer", _NO_SUCH_RESOURCE)
async def test_a_dry_run_onto_a_resource_that_is_not_there(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, answer: Status | None
) -> None:
    """However XNAT says that there are no files: it would be made, which a few requests tell."""
    if answer is not None:
        xnat.faults.add(Fault("listing", answer, path="/files", share=1))
    before = xnat.count["listing"]
    filed = await fill(url, into(files.write("a", b"1"), files.write("b", b"2"), label="NEW"), dry_run=True)
    assert {(one.state.value, one.reason) for one in filed.values()} == {("PENDING", "the resource would be made")}
    assert xnat.count["listing"] - before <= 4
    assert {kind: xnat.count[kind] for kind in WRITES} == dict.fromkeys(WRITES, 0)
    assert session.own_resources == {}


async def test_a_dry_run_onto_an_empty_resource(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """It is there, and would not be made."""
    await add_file(xnat, session, "EMPTY", "on-the-disk-only", b"1", catalogued=False)
    filed = await fill(url, into(files.write("a", b"1"), label="EMPTY"), dry_run=True)
    assert (filed["a"].state.value, filed["a"].reason) == ("PENDING", None)


@pytest.mark.parametrize("answer", _NO_SUCH_RESOURCE[1:4])
async def test_a_resource_that_xnat_does_not_find(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, answer: Status
) -> None:
    """It is made, and filled, whatever the first listing was answered with."""
    xnat.faults.add(Fault("listing", answer, path="/files"))
    assert (await only(url, files.write("a", b"1"))).sent
    assert list(listed(session)) == ["a"]


# --- Several at a time


async def run(
    client: Client,
    waiting: Any,
    *,
    report: Callable[[Event], None] = lambda _: None,
    options: Options | None = None,
    **how: Any,
) -> list[AttachmentResult]:
    """Do what the command does with what waits; return what became of it."""
    filed: list[AttachmentResult] = []

    def note(event: Event) -> None:
        report(event)
        if isinstance(event, AttachmentsStored):
            filed.extend(event.results)

    await upload_attachments(await folder(), cabinet(client, **how), waiting, options=options or Options(), report=note)
    return filed


async def test_never_two_writes_at_once_into_one_resource(xnat: TestXnat, files: Files) -> None:
    """Many resources are filled side by side, each by one request at a time: XNAT would answer one of two with 500."""
    xnat.timing = Timing(saving_seconds=0.005)
    sessions = [add_session(xnat, "S", f"E{number}") for number in range(12)]
    enclosures = [
        into(*files.small(4), label=label, place=ResourceOwner("demo", "S", session.label))
        for session in sessions
        for label in ("A", "B")
    ]
    async with serve(xnat) as url, logged_in(url) as client:
        filed = await run(client, InMemoryQueue(enclosures), zips=False)
    assert len(filed) == 96
    assert {(one.state, one.sent) for one in filed} == {(STORED, True)}
    # A race that is lost costs a request more.
    assert xnat.count["file"] == 96
    assert all(len(listed(session, label)) == 4 for session in sessions for label in ("A", "B"))


async def test_one_resource_by_several_names(xnat: TestXnat, session: ArchivedSession, files: Files) -> None:
    """A table may name a session by its label, by its study, with its subject: its files go one after the other."""
    xnat.timing = Timing(saving_seconds=0.005)
    places = [
        SESSION,
        ResourceOwner("demo", "", "E"),
        ResourceOwner("demo", study_uid=STUDY),
        ResourceOwner("demo", "S", "E"),
    ]
    enclosures = [
        into(*[files.write(f"{number}-{one}", b"1") for one in range(4)], place=place)
        for number, place in enumerate(places)
    ]
    async with serve(xnat) as url, logged_in(url) as client:
        filed = await run(client, InMemoryQueue(enclosures), zips=False)
    assert {(one.state, one.sent) for one in filed} == {(STORED, True)}
    assert xnat.count["file"] == len(listed(session)) == 16


async def test_a_pile_hands_out_all_there_is(files: Files) -> None:
    """Of a resource 500 at a time, the next when those are filed away; also when two enclosures name one resource."""
    some = files.small(1_201, size=10)
    pile = InMemoryQueue([into(*some[:600]), into(*some[600:]), into(files.write("x", b"1"), label="Q")])
    handed: list[AttachmentBatch] = []
    names: list[str] = []
    while (enclosure := pile.claim()) is not None:
        handed.append(enclosure)
    assert [len(one.attachments) for one in handed] == [500, 500, 1]
    while handed:
        enclosure = handed.pop()
        names += [one.name for one in enclosure.attachments]
        pile.record(enclosure, ())
        if (more := pile.claim()) is not None:
            handed.append(more)
    assert sorted(names) == sorted([*(one.name for one in some), "x"])


# --- Outages


async def test_a_server_that_is_away(xnat: TestXnat, session: ArchivedSession, files: Files) -> None:
    """`fill` says so, and its caller decides."""
    async with serve(xnat) as url:
        port = int(url.rpartition(":")[2])
        async with logged_in(url) as client:
            there = cabinet(client)
            await there.fill(into(files.write("a", b"1")), await folder())
            xnat.faults.add(Fault("any", Reset(), share=1))
            with pytest.raises(TransientError):
                await there.fill(into(files.write("b", b"1")), await folder())
            assert not await there.ping()
            xnat.faults.clear()
            assert await there.ping()
            assert (await there.fill(into(files.write("b", b"1")), await folder()))[0].state is STORED
    assert port
    assert sorted(listed(session)) == ["a", "b"]


async def test_an_outage_is_outlasted(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """In the middle nothing is answered for a while: all arrives once, and both ends of it are told."""
    told: list[str | None] = []

    def report(event: Event) -> None:
        if isinstance(event, ServerUnavailable):
            told.append(event.reason)

    away = AT_ONCE.attempts * 2

    def go_away() -> None:
        xnat.faults.add(Fault("any", Status(503), times=away))

    xnat.faults.add(Fault("file", Tell(go_away), nth=2))
    enclosures = [into(*files.small(3), label=label) for label in ("A", "B", "C")]
    async with logged_in(url) as client:
        options = Options(outage_timeout=60, attachment_workers=1)
        filed = await run(client, InMemoryQueue(enclosures), report=report, options=options, zips=False)
    assert {one.state for one in filed} == {STORED}
    assert [len(listed(session, label)) for label in ("A", "B", "C")] == [3, 3, 3]
    assert [reason is None for reason in told] == [False, True]


async def test_an_outage_that_is_too_long(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """The run ends, and what arrived before is filed away."""

    def go_away() -> None:
        xnat.faults.add(Fault("any", Status(503), share=1))

    xnat.faults.add(Fault("resource", Tell(go_away), path="resources/B"))
    enclosures = [into(*files.small(2), label=label) for label in ("A", "B")]
    events: list[Event] = []
    async with logged_in(url) as client:
        with pytest.raises(UnavailableError, match="away for too long"):
            await run(
                client,
                InMemoryQueue(enclosures),
                report=events.append,
                options=Options(outage_timeout=0, attachment_workers=1),
            )
    assert [event.resource.label for event in events if isinstance(event, AttachmentsStored)] == ["A"]
    assert (len(listed(session, "A")), len(listed(session, "B"))) == (2, 0)


async def test_a_stop_while_the_server_is_away(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """Nobody waits for it: what was on its way has no outcome, and is as it was."""
    stop = Stop()
    filed: list[Event] = []

    def report(event: Event) -> None:
        if isinstance(event, ServerUnavailable):
            stop.request()
        filed.append(event)

    xnat.faults.add(Fault("any", Status(503), path="resources", share=1))
    async with logged_in(url) as client:
        with anyio.fail_after(10):
            waiting = InMemoryQueue([into(*files.small(2))])
            await upload_attachments(
                await folder(), cabinet(client), waiting, options=Options(outage_timeout=3600), report=report, stop=stop
            )
    assert not [event for event in filed if isinstance(event, AttachmentsStored)]
    assert session.own_resources == {}


async def test_one_resource_that_is_broken(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """The server answers, and fails at this one only: it is given up, and the others arrive."""
    xnat.faults.add(Fault("any", Status(500), path="resources/B", share=1))
    enclosures = [into(*files.small(2), label=label) for label in ("B", "A", "C")]
    async with logged_in(url) as client:
        filed = await run(client, InMemoryQueue(enclosures), options=Options(outage_timeout=0, attachment_workers=1))
    assert [one.state for one in filed] == [FAILED, FAILED, STORED, STORED, STORED, STORED]
    assert list(session.own_resources) == ["A", "C"]


async def test_a_login_that_expires(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """Between any two requests; it is renewed, and nothing is lost or sent twice."""
    xnat.faults.add(Fault("any", ExpireLogins(), share=0.3, seed=4, times=5))
    async with logged_in(url) as client:
        filed = await run(client, InMemoryQueue([into(*files.small(3), label=label) for label in "ABCD"]), zips=False)
    assert {one.state for one in filed} == {STORED}
    assert [len(listed(session, label)) for label in "ABCD"] == [3] * 4


async def test_a_password_that_is_no_longer_good(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """It ends the run at once, before refusals lock the account."""
    async with connect(url, DEMO, connections=8, timeouts=QUICK, policy=AT_ONCE) as client:
        xnat.add_user(User("demo", "another"))
        xnat.expire_logins()
        with pytest.raises(LoginRefusedError):
            await run(client, InMemoryQueue([into(*files.small(3), label=label) for label in "ABCD"]))
    assert session.own_resources == {}
