"""Transfers into resources that break, race or change, and sites without checksums."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from builders import AT_ONCE, folder, logged_in, open_files
from resource_builders import (
    FAILED,
    REFUSED,
    STORED,
    Files,
    batch_of,
    fill,
    fill_one,
    listed_digests,
    make_files,
    make_resources,
    make_session,
    md5_bytes,
    md5_hex,
)

from asyncimport.model.attachments import Attachment, AttachmentState
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
    add_file,
    damage_file,
    file_bytes,
    lose_entry,
    lose_file,
)
from asyncimport.xnat.resource_check import Depth, FileState

pytestmark = pytest.mark.anyio

files, session = pytest.fixture(make_files), pytest.fixture(make_session)


# --- Transfers that break


@pytest.mark.parametrize(
    "action",
    [Status(500), Status(503), Reset(), Reset(effect=True), Gateway(504), Gateway(502, effect=False), ExpireLogins()],
    ids=str,
)
@pytest.mark.parametrize("number", [1, 3])
async def test_an_interrupted_transfer_is_repeated(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, action: Any, number: int
) -> None:
    """A transfer that took effect is listed, and not repeated."""
    fault = xnat.faults.add(Fault("file", action))
    some = files.small(number)
    results = await fill(url, batch_of(*some))
    assert fault.hits == 1
    assert {(one.state, one.sent) for one in results.values()} == {(STORED, True)}
    assert listed_digests(session) == {one.name: md5_bytes(Path(one.file.path).read_bytes()) for one in some}
    took_effect = getattr(action, "effect", False)
    # Of many in one zip, each is sent by itself the second time.
    assert xnat.count["file"] == (1 if took_effect else 1 + number)


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize("size", [1_000, 3 * LARGE])
async def test_a_partial_file_is_overwritten(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, size: int, checksums: bool
) -> None:
    """XNAT keeps the beginning, in no catalog; the whole file is sent again."""
    xnat.storage.checksums = checksums
    content = os.urandom(size)
    xnat.faults.add(Fault("file", Reset(after_bytes=size // 2)))
    results = await fill_one(url, files.write("a", content))
    assert (results.state, results.sent, results.md5) == (STORED, True, md5_hex(content))
    assert await file_bytes(xnat, session, "R", "a") == content
    assert not session.own_resources["R"].uncatalogued
    assert xnat.count["file"] == 2


async def test_a_transfer_interrupted_over_our_own_file_is_repeated(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """The catalog still has the digest of the whole file, but the size differs."""
    content = os.urandom(2_000)
    # The first is cut in the middle, the second, which writes over that, has its reply lost and a third one is cut.
    xnat.faults.add(Fault("file", Reset(after_bytes=500)))
    xnat.faults.add(Fault("file", Reset(after_bytes=700), nth=2))
    attachment = files.write("a", content)
    results = await fill_one(url, attachment)
    assert results.state is STORED
    # And so another time: of what was whole, a transfer over it has left the beginning.
    xnat.faults.add(Fault("file", Reset(after_bytes=900)))
    other = files.write("a", os.urandom(2_000))
    replaced = await fill_one(url, other, replace=True)
    assert (replaced.state, replaced.sent) == (STORED, True)
    assert await file_bytes(xnat, session, "R", "a") == Path(other.file.path).read_bytes()


async def test_a_damaged_file_with_its_own_digest_is_sent_again(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """An entry with our digest and a smaller size is our own partial file."""
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
    results = await fill_one(url, files.write("a", content))
    assert (results.state, results.sent) == (STORED, True)
    assert await file_bytes(xnat, session, "R", "a") == content


async def test_an_equal_size_does_not_prove_a_replacement(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """Old and new file have one size, and the transfer breaks before it begins."""
    xnat.storage.checksums = False
    await add_file(xnat, session, "R", "a", b"old")
    xnat.faults.add(Fault("file", Reset()))
    results = await fill_one(url, files.write("a", b"new"), replace=True)
    assert (results.state, results.sent) == (STORED, True)
    assert await file_bytes(xnat, session, "R", "a") == b"new"


async def test_a_replacement_without_effect_is_noticed_without_checksums(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """XNAT answers 200, the size is equal and no MD5 is listed: only the bytes show the old file."""
    xnat.storage.checksums = False
    await add_file(xnat, session, "R", "a", b"old")
    fault = xnat.faults.add(Fault("file", Status(200)))
    results = await fill_one(url, files.write("a", b"new"), replace=True)
    assert (results.state, results.sent, fault.hits) == (STORED, True, 1)
    assert await file_bytes(xnat, session, "R", "a") == b"new"
    xnat.faults.add(Fault("file", Status(200), share=1))
    results = await fill_one(url, files.write("a", b"xyz"), replace=True)
    assert (results.state, results.reason) == (FAILED, "XNAT holds other bytes than were sent")


@pytest.mark.parametrize("version", ["1.7", "1.8"])
async def test_a_transfer_interrupted_over_an_earlier_state_is_read(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, version: str
) -> None:
    """The listing may be unchanged, so the bytes are read."""
    xnat.profile = PROFILES[version]
    await add_file(xnat, session, "R", "a", b"earlier")
    later = files.write("a", bytes(1_000), previous=md5_hex(b"earlier"), previous_size=7)
    xnat.faults.add(Fault("file", Reset(after_bytes=500)))
    assert (await fill_one(url, later, replace_changed=True)).state is STORED
    assert await file_bytes(xnat, session, "R", "a") == bytes(1_000)
    # So is what an earlier run has left that was killed, if the journal knows of it.
    await add_file(xnat, session, "R", "b", b"earlier")
    await damage_file(xnat, session, "R", "b", bytes(500))
    again = files.write("b", bytes(1_000), previous=md5_hex(b"earlier"), previous_size=7)
    assert (await fill_one(url, again)).state is REFUSED
    assert (await fill_one(url, replace(again, is_started=True))).state is STORED
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
async def test_the_state_of_a_stored_file(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, case: str, version: str, checksums: bool
) -> None:
    """A wrong listing, size or content is found, also on sites without checksums."""
    xnat.profile = PROFILES[version]
    xnat.storage.checksums = checksums
    stored = files.write("a", b"content", previous=md5_hex(b"content"), previous_size=7)
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
            assert await make_resources(client, depth=depth).check_files(batch_of(stored)) == {stored.key: expected}


async def test_only_the_bytes_show_a_damage_of_the_same_size(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """A transfer that lost a race left other bytes with our MD5."""
    stored = files.write("a", b"content", previous=md5_hex(b"content"), previous_size=7)
    await add_file(xnat, session, "R", "a", b"content")
    await damage_file(xnat, session, "R", "a", b"another")
    async with logged_in(url) as client:
        assert await make_resources(client, depth=Depth.SIZE).check_files(batch_of(stored)) == {
            stored.key: FileState.SAME
        }
        assert await make_resources(client, depth=Depth.BYTES).check_files(batch_of(stored)) == {
            stored.key: FileState.DAMAGED
        }


async def test_an_unreadable_file_is_neither_the_same_nor_missing(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """XNAT does not let this user read it."""
    stored = files.write("a", b"content", previous=md5_hex(b"content"), previous_size=7)
    await add_file(xnat, session, "R", "a", b"content")
    xnat.faults.add(Fault("listing", Status(403), path="/files/a", share=1))
    async with logged_in(url) as client:
        assert await make_resources(client, depth=Depth.BYTES).check_files(batch_of(stored)) == {
            stored.key: FileState.UNREADABLE
        }


@pytest.mark.parametrize("checksums", [True, False])
async def test_a_file_missing_on_the_disk_is_sent_again(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, checksums: bool
) -> None:
    """It is listed as if it were there; no `replace` is needed."""
    xnat.storage.checksums = checksums
    stored = files.write("a", b"content", previous=md5_hex(b"content"), previous_size=7)
    await add_file(xnat, session, "R", "a", b"content")
    await lose_file(xnat, session, "R", "a")
    assert (await fill_one(url, stored, depth=Depth.BYTES)).state is STORED
    assert await file_bytes(xnat, session, "R", "a") == b"content"


async def test_begin_gets_the_attachments_before_they_are_sent(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """It does not get those that exist already."""
    await add_file(xnat, session, "R", "a", b"1")
    told: list[tuple[list[str], int]] = []

    async def begin(attachments: Sequence[Attachment]) -> None:
        told.append(([one.name for one in attachments], xnat.count["file"]))

    two = [files.write("a", b"1"), files.write("b", b"2")]
    async with logged_in(url) as client:
        await make_resources(client).fill(batch_of(*two), await folder(), begin)
    assert told == [(["b"], 0)]


async def test_a_lost_race_is_repeated(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """Somebody else writes into the resource: XNAT answers 500, and our file is on the disk but in no catalog."""
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
        results = await fill_one(url, attachment)
    assert (results.state, results.sent) == (STORED, True)
    assert listed_digests(session) == {"theirs": md5_bytes(b"theirs"), "a": md5_bytes(content)}
    assert not session.own_resources["R"].uncatalogued


async def test_a_late_effect_is_harmless(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """A late effect of an interrupted transfer stores the same file once more."""
    late = xnat.faults.add(Fault("file", Late()))
    results = await fill_one(url, files.write("a", b"1"))
    late.release()
    await late.settled()
    assert results.state is STORED
    assert listed_digests(session) == {"a": md5_bytes(b"1")}


async def test_a_transfer_that_always_fails_has_failed(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """The result has the last reason; other files of the resource are stored."""
    xnat.faults.add(Fault("file", Status(500, "<h3>broken by a plugin</h3>"), path="bad", times=9))
    results = await fill(url, batch_of(files.write("bad", b"1"), files.write("good", b"2")), zips=False)
    assert (results["bad"].state, results["good"].state) == (FAILED, STORED)
    assert "broken by a plugin" in str(results["bad"].reason)
    assert list(listed_digests(session)) == ["good"]
    assert xnat.count["file"] == AT_ONCE.attempts + 1


async def test_a_file_that_the_site_alters_has_failed(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """The stored bytes are never those that were sent."""

    def alter() -> None:
        stored = session.own_resources["R"].files.get("a")
        if stored is not None:
            session.own_resources["R"].files["a"] = replace(stored, digest=md5_bytes(b"altered"))

    await add_file(xnat, session, "R", "a", b"old")
    xnat.faults.add(Fault("listing", Tell(alter), path="/files", share=1))
    results = await fill_one(url, files.write("a", b"new"), replace=True)
    assert (results.state, results.reason) == (FAILED, "XNAT holds other bytes than were sent")


@pytest.mark.parametrize("size", [100, 3 * LARGE])
async def test_a_file_that_a_proxy_refuses_is_sent_once(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, size: int
) -> None:
    """A 413 is final for the file, and the next one is sent."""
    xnat.faults.add(Fault("file", Status(413), path="large"))
    results = await fill(url, batch_of(files.write("large", bytes(size)), files.write("small", b"2")), zips=False)
    assert (results["large"].state, results["small"].state) == (REFUSED, STORED)
    assert "larger than a proxy" in str(results["large"].reason)
    assert xnat.count["file"] == 2
    assert list(listed_digests(session)) == ["small"]


async def test_a_file_that_changes_while_it_is_sent(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """It fails, is in no catalog, and its handle is closed; when it is unchanged again, it is stored."""
    attachment = files.write("a", bytes(30 * LARGE))  # more than the buffers of a connection hold
    path = Path(attachment.file.path)

    def change() -> None:
        os.truncate(path, LARGE)

    xnat.faults.add(Fault("file", Tell(change)))
    results = await fill_one(url, attachment)
    assert results.state is FAILED
    assert "shrank" in str(results.reason) or "changed" in str(results.reason)
    assert open_files(path) == 0
    assert listed_digests(session) == {}
    assert (await fill_one(url, files.write("a", bytes(30 * LARGE)))).state is STORED


# --- Sites without checksums


async def test_without_checksums_bytes_are_compared(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """An existing file is downloaded; one that was just sent is known by its size."""
    xnat.storage.checksums = False
    for name, content in (("same", b"1"), ("other", b"2"), ("longer", b"333")):
        await add_file(xnat, session, "R", name, content)
    names = ("same", "other", "longer", "new")
    results = await fill(url, batch_of(*[files.write(name, b"1") for name in names]))
    assert {name: (one.state, one.sent) for name, one in results.items()} == {
        "same": (STORED, False),
        "other": (REFUSED, False),
        "longer": (REFUSED, False),
        "new": (STORED, True),
    }
    assert xnat.count["file"] == 1


async def test_without_checksums_a_duplicate_is_compared(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """Somebody else's file of the same size arrives meanwhile; its size does not make it ours."""
    xnat.storage.checksums = False
    await add_file(xnat, session, "R", "a", b"their", catalogued=False)

    def appear() -> None:
        resource = session.own_resources["R"]
        resource.files["a"] = resource.uncatalogued.pop("a")

    xnat.faults.add(Fault("file", Tell(appear)))
    results = await fill_one(url, files.write("a", b"ours!"))
    assert results.state is REFUSED
    assert await file_bytes(xnat, session, "R", "a") == b"their"


@pytest.mark.parametrize(("replace", "state"), [(False, REFUSED), (True, STORED)])
async def test_a_file_of_others_missing_on_the_disk_stays(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, replace: bool, state: AttachmentState
) -> None:
    """It is refused, or replaced on demand, and other files are stored."""
    xnat.storage.checksums = False
    await add_file(xnat, session, "R", "a", b"x")
    path = xnat.storage.path((*session.path, "RESOURCES", "R", "a"))
    assert path is not None
    path.unlink()
    results = await fill(url, batch_of(files.write("a", b"1"), files.write("b", b"2")), replace=replace)
    assert (results["a"].state, results["b"].state) == (state, STORED)
