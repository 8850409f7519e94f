"""What a resource gets and keeps: names that are taken, rights, files that somebody else replaces."""

from dataclasses import replace
from pathlib import Path

import pytest
from builders import write
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
    make_session,
    md5_bytes,
    md5_hex,
)

from asyncimport.model.attachments import AttachmentResult, AttachmentState
from asyncimport.testserver import (
    ArchivedSession,
    Fault,
    Reset,
    Status,
    Tell,
    TestXnat,
    User,
    add_file,
    add_reader,
    file_bytes,
    lose_entry,
)

pytestmark = pytest.mark.anyio

files, session = pytest.fixture(make_files), pytest.fixture(make_session)


async def test_a_new_file(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """The resource is created and the file sent once, which the digest proves; a second call sends nothing."""
    attachment = files.write("in/a.pdf", b"pdf", format="PDF", content="report")
    results = await fill_one(url, attachment)
    assert results == AttachmentResult(attachment, STORED, md5=md5_hex(b"pdf"), sent=True)
    (resource,) = session.own_resources.values()
    assert resource.label == "R"
    stored = resource.files["in/a.pdf"]
    assert stored.metadata is not None
    assert (stored.metadata.format, stored.metadata.content) == ("PDF", "report")
    assert await file_bytes(xnat, session, "R", "in/a.pdf") == b"pdf"
    assert (xnat.count["resource"], xnat.count["file"]) == (1, 1)
    again = await fill_one(url, attachment)
    assert again == AttachmentResult(attachment, STORED, md5=md5_hex(b"pdf"))
    assert xnat.count["file"] == 1


async def test_unreadable_files_fail(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """Not even the resource is created for them."""
    gone, changed = files.write("gone", b"1"), files.write("changed", b"1")
    Path(gone.file.path).unlink()
    write(Path(changed.file.path), b"22")
    results = await fill(url, batch_of(gone, changed))
    assert {name: one.state for name, one in results.items()} == {"gone": FAILED, "changed": FAILED}
    assert "no such file" in str(results["gone"].reason)
    assert "changed after it was scanned" in str(results["changed"].reason)
    assert xnat.count["resource"] == xnat.count["file"] == 0
    assert session.own_resources == {}


# --- Rights


async def test_a_user_without_the_right_to_edit_is_refused(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """XNAT would answer 200 to the file and store nothing; creating the resource shows it before."""
    add_reader(xnat, "reader")
    xnat.users["demo"] = User("demo", "demo")
    xnat.project("demo").editors = ["boss"]
    xnat.project("demo").readers = ["demo"]
    results = await fill_one(url, files.write("a", b"1"))
    assert (results.state, results.md5) == (REFUSED, None)
    assert "does not let this user add files here (403" in str(results.reason)
    assert xnat.count["file"] == 0
    assert session.own_resources == {}


async def test_an_empty_200_is_not_believed(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """The right to edit is lost after the resource is created: XNAT answers 200 and stores nothing."""

    def withdraw() -> None:
        xnat.project("demo").editors = []
        xnat.project("demo").readers = ["demo"]

    xnat.faults.add(Fault("file", Tell(withdraw)))
    results = await fill_one(url, files.write("a", b"1"))
    assert results.state is REFUSED
    assert "answered 200 and stored nothing" in str(results.reason)
    assert listed_digests(session) == {}
    assert xnat.count["file"] == 2


async def test_a_refused_listing_is_no_success(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """Files that were not listed are refused, and the run goes on."""
    xnat.faults.add(Fault("listing", Status(403, "<h3>no</h3>"), path="/files", nth=2))
    results = await fill(url, batch_of(*files.small(3)))
    assert {one.state for one in results.values()} == {REFUSED}
    assert "does not list the files (403" in str(results["0000.csv"].reason)
    assert len(session.own_resources["R"].files) == 3


# --- Names that are taken


async def test_existing_bytes_are_not_sent(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """It does not matter who stored them."""
    await add_file(xnat, session, "R", "a", b"same")
    results = await fill_one(url, files.write("a", b"same"))
    assert (results.state, results.sent, results.md5) == (STORED, False, md5_hex(b"same"))
    assert xnat.count["file"] == 0


@pytest.mark.parametrize(
    ("options", "previous", "state"),
    [
        ({}, None, REFUSED),
        ({}, md5_hex(b"theirs"), REFUSED),
        ({"replace_changed": True}, None, REFUSED),
        ({"replace_changed": True}, md5_hex(b"another"), REFUSED),
        ({"replace_changed": True}, md5_hex(b"theirs"), STORED),
        ({"replace": True}, None, STORED),
    ],
)
async def test_other_bytes_stay_unless_they_may_be_replaced(
    xnat: TestXnat,
    url: str,
    session: ArchivedSession,
    files: Files,
    options: dict[str, bool],
    previous: str | None,
    state: AttachmentState,
) -> None:
    """With `replace_changed` only our own earlier state is replaced."""
    await add_file(xnat, session, "R", "a", b"theirs")
    results = await fill_one(url, files.write("a", b"ours", previous=previous), **options)
    assert (results.state, results.sent) == (state, state is STORED)
    assert listed_digests(session)["a"] == md5_bytes(b"ours" if state is STORED else b"theirs")
    if state is REFUSED:
        assert "another file of this name" in str(results.reason)
        assert xnat.count["file"] == 0


async def test_each_of_many_files_is_judged_by_itself(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """Some names are taken by other files."""
    await add_file(xnat, session, "R", "same", b"1")
    await add_file(xnat, session, "R", "other", b"2")
    three = [files.write("same", b"1"), files.write("other", b"3"), files.write("new", b"4")]
    results = await fill(url, batch_of(*three))
    assert [(one.state, one.sent) for one in (results[name.name] for name in three)] == [
        (STORED, False),
        (REFUSED, False),
        (STORED, True),
    ]
    assert listed_digests(session) == {"same": md5_bytes(b"1"), "other": md5_bytes(b"2"), "new": md5_bytes(b"4")}


async def test_a_hidden_beginning_of_ours_is_overwritten(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """An interrupted transfer left it on the disk, in no catalog."""
    await add_file(xnat, session, "R", "a", b"whole fi", catalogued=False, complete=False)
    results = await fill_one(url, files.write("a", b"whole file"))
    assert (results.state, results.sent) == (STORED, True)
    assert listed_digests(session) == {"a": md5_bytes(b"whole file")}
    assert xnat.count["file"] == 2


async def test_a_hidden_file_among_many_is_sent_alone(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """The other files of the zip are stored."""
    await add_file(xnat, session, "R", "0001.csv", b"0", catalogued=False)
    results = await fill(url, batch_of(*(some := files.small(5))))
    assert {(one.state, one.sent) for one in results.values()} == {(STORED, True)}
    assert listed_digests(session) == {one.name: md5_bytes(Path(one.file.path).read_bytes()) for one in some}
    assert xnat.count["file"] == 2


@pytest.mark.parametrize("checksums", [True, False])
async def test_a_beginning_is_ours_only_if_an_earlier_run_sent_it(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, checksums: bool
) -> None:
    """A refreshed catalog lists what an interrupted transfer left; otherwise a shorter file is somebody else's."""
    xnat.storage.checksums = checksums
    await add_file(xnat, session, "R", "a", b"whole fi")
    await add_file(xnat, session, "R", "b", b"whole FI")
    await add_file(xnat, session, "R", "c", b"whole fi")
    attachments = [files.write(name, b"whole file", is_started=name in "ab") for name in "abc"]
    results = await fill(url, batch_of(*attachments))
    assert [results[name].state for name in "abc"] == [STORED, REFUSED, REFUSED]
    assert await file_bytes(xnat, session, "R", "a") == b"whole file"
    assert await file_bytes(xnat, session, "R", "b") == b"whole FI"
    assert await file_bytes(xnat, session, "R", "c") == b"whole fi"


async def test_a_hidden_file_of_others_is_not_overwritten(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """The catalog has lost its entry; a refresh shows it again."""
    for name, content in (("theirs", b"another"), ("same", b"same"), ("cut", b"begin")):
        await add_file(xnat, session, "R", name, content)
        lose_entry(session, "R", name)
    three = [files.write("theirs", b"our own file"), files.write("same", b"same"), files.write("cut", b"beginning")]
    results = await fill(url, batch_of(*three), zips=False)
    assert [(results[one.name].state, results[one.name].sent) for one in three] == [
        (REFUSED, False),
        (STORED, False),
        (STORED, True),
    ]
    assert await file_bytes(xnat, session, "R", "theirs") == b"another"
    assert listed_digests(session) == {
        "theirs": md5_bytes(b"another"),
        "same": md5_bytes(b"same"),
        "cut": md5_bytes(b"beginning"),
    }


@pytest.mark.parametrize("status", [403, 500])
async def test_a_hidden_file_stays_if_the_catalog_cannot_be_refreshed(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, status: int
) -> None:
    """The reason says so, and `--replace` replaces the file."""
    await add_file(xnat, session, "R", "a", b"theirs", catalogued=False)
    xnat.faults.add(Fault("refresh", Status(status), share=1))
    results = await fill_one(url, files.write("a", b"ours"))
    assert (results.state, results.blames_server) == (REFUSED, True)
    assert "its catalog does not list" in str(results.reason)
    assert await file_bytes(xnat, session, "R", "a") == b"theirs"
    # What a transfer of this very run has left is ours without being seen.
    xnat.faults.add(Fault("file", Reset(after_bytes=500)))
    assert (await fill_one(url, files.write("b", bytes(1_000)))).state is STORED
    assert (await fill_one(url, files.write("a", b"ours"), replace=True)).state is STORED
    assert await file_bytes(xnat, session, "R", "a") == b"ours"


async def test_the_resource_is_listed_before_a_repeated_write(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """A file that somebody else stores during the pause is not overwritten."""

    async def pause(_: float) -> None:
        if "a" not in session.own_resources["R"].files:
            session.own_resources["R"].uncatalogued.pop("a", None)
            await add_file(xnat, session, "R", "a", b"theirs")

    xnat.faults.add(Fault("file", Reset(after_bytes=500)))
    results = await fill_one(url, files.write("a", bytes(1_000)), sleep=pause)
    assert results.state is REFUSED
    assert await file_bytes(xnat, session, "R", "a") == b"theirs"


async def test_the_resource_is_listed_before_each_overwrite(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """While one changed file is sent, somebody replaces the next, which is then no longer our earlier state."""
    for name in "ab":
        await add_file(xnat, session, "R", name, b"earlier")

    def replaced() -> None:
        resource = session.own_resources["R"]
        resource.files["b"] = replace(resource.files["b"], digest=md5_bytes(b"theirs!"))

    xnat.faults.add(Fault("file", Tell(replaced)))
    two = [files.write(name, b"later", previous=md5_hex(b"earlier"), previous_size=7) for name in "ab"]
    results = await fill(url, batch_of(*two), replace_changed=True, zips=False)
    assert (results["a"].state, results["b"].state) == (STORED, REFUSED)
    assert listed_digests(session) == {"a": md5_bytes(b"later"), "b": md5_bytes(b"theirs!")}


async def test_a_changed_file_does_not_replace_a_lost_one(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """XNAT has lost the stored file, and the file on disk has changed: it is sent only on demand."""
    changed = files.write("a", b"later", previous=md5_hex(b"earlier"), previous_size=7)
    results = await fill_one(url, changed)
    assert (results.state, results.blames_server, xnat.count["file"]) == (REFUSED, True, 0)
    assert not session.own_resources
    assert "has changed since it was stored" in str(results.reason)
    assert (await fill_one(url, changed, replace_changed=True)).state is STORED
    # The same bytes go in any case.
    assert (await fill_one(url, files.write("b", b"same", previous=md5_hex(b"same"), previous_size=4))).state is STORED


async def test_a_file_that_others_store_meanwhile_stays(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """It arrives between the listing and our request, and XNAT keeps it."""
    await add_file(xnat, session, "R", "a", b"theirs", catalogued=False)

    def appear() -> None:
        resource = session.own_resources["R"]
        resource.files["a"] = resource.uncatalogued.pop("a")

    xnat.faults.add(Fault("file", Tell(appear)))
    results = await fill_one(url, files.write("a", b"our own"))
    assert (results.state, results.sent) == (REFUSED, False)
    assert "another file of this name" in str(results.reason)
    assert await file_bytes(xnat, session, "R", "a") == b"theirs"
    assert xnat.count["file"] == 1


async def test_a_file_of_others_stays_after_a_broken_connection(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """XNAT's answer that it kept theirs is lost, and the file is still not overwritten."""
    await add_file(xnat, session, "R", "a", b"theirs", catalogued=False)

    def appear() -> None:
        resource = session.own_resources["R"]
        resource.files["a"] = resource.uncatalogued.pop("a")

    # The connection breaks, and the next that asks what is there finds theirs.
    xnat.faults.add(Fault("file", Reset()))
    xnat.faults.add(Fault("listing", Tell(appear), path="/files", nth=2))
    results = await fill_one(url, files.write("a", b"our own"))
    assert results.state is REFUSED
    assert await file_bytes(xnat, session, "R", "a") == b"theirs"
