"""Attachments that XNAT has lost, damaged or refused: reported, repaired, and not safe to delete until then."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import image, write
from conftest import Commands, Ended

from asyncimport.testserver import (
    PROFILES,
    ArchivedSession,
    Fault,
    Status,
    Tell,
    TestXnat,
    User,
    add_file,
    damage_file,
    file_bytes,
    lose_entry,
    lose_file,
)

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

REPORT = b"a report of a visit"
RULE = ("--attach", "*.pdf=REPORTS")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write a visit: an image and two reports."""
    place = tmp_path / "tree"
    ids: dict[str, Any] = {"StudyInstanceUID": "1.2.1", "PatientID": "S1", "SOPInstanceUID": "1.2.1.1"}
    write(place / "visit" / "1.dcm", image(1, **ids))
    write(place / "visit" / "a.pdf", REPORT)
    write(place / "visit" / "b.pdf", b"another one")
    return place


async def upload(commands: Commands, tree: Path, *options: str | os.PathLike[str]) -> Ended:
    """Run it for JSON."""
    return await commands("upload", tree, "-P", "demo", "-q", "-o", "json", *options)


async def uploaded(xnat: TestXnat, commands: Commands, tree: Path) -> ArchivedSession:
    """Upload all, and return the session."""
    ended = await upload(commands, tree, *RULE)
    assert (ended.code, ended.json["attachments"]["stored"]) == (0, 2), ended.out
    return xnat.archived[0]


async def verify(commands: Commands, tmp_path: Path, *options: str) -> tuple[int, list[str], list[str], set[str]]:
    """Verify. Return the exit code, missing and altered attachments, and the names of files safe to delete."""
    safe = tmp_path / "safe"
    ended = await commands("verify", "-P", "demo", "-o", "json", "--safe-to-delete", safe, *options)
    (found,) = ended.json["attachments"]
    assert (found["verified"], found["reason"] is None) == ((not found["missing"] and not found["altered"]),) * 2
    names = {Path(os.fsdecode(line)).name for line in safe.read_bytes().splitlines()}
    return ended.code, found["missing"], found["altered"], names - {"1.dcm"}


async def damaged(xnat: TestXnat, session: ArchivedSession, how: str) -> None:
    """Change the first report in XNAT."""
    match how:
        case "cut":
            await damage_file(xnat, session, "REPORTS", "a.pdf", REPORT[:7])
        case "gone from the disk":
            await lose_file(xnat, session, "REPORTS", "a.pdf")
        case "out of the catalog":
            lose_entry(session, "REPORTS", "a.pdf")
        case "deleted":
            del session.own_resources["REPORTS"].files["a.pdf"]
            await lose_entry_of_disk(xnat, session)
        case "other bytes":
            await damage_file(xnat, session, "REPORTS", "a.pdf", REPORT[::-1])


async def lose_entry_of_disk(xnat: TestXnat, session: ArchivedSession) -> None:
    """Also delete the first report from disk."""
    path = xnat.storage.path((*session.path, "RESOURCES", "REPORTS", "a.pdf"))
    assert path is not None
    path.unlink()


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize("version", ["1.7", "1.8"])
@pytest.mark.parametrize("how", ["cut", "gone from the disk", "out of the catalog", "deleted"])
async def test_it_is_told_and_mended(
    xnat: TestXnat, ready: Commands, tree: Path, tmp_path: Path, how: str, version: str, checksums: bool
) -> None:
    """A cut or lost attachment is not verified and not safe to delete. A repair restores it."""
    xnat.profile = PROFILES[version]
    xnat.storage.checksums = checksums
    session = await uploaded(xnat, ready, tree)
    await damaged(xnat, session, how)
    code, missing, altered, safe = await verify(ready, tmp_path)
    expected = ([], ["a.pdf"]) if how == "cut" else (["a.pdf"], [])
    assert (code, missing, altered, safe) == (9, *expected, {"b.pdf"})
    if how == "cut" and not checksums:
        # It is unknown whose bytes they are.
        assert (await verify(ready, tmp_path, "--repair"))[0] == 9
        return
    assert await verify(ready, tmp_path, "--repair") == (0, [], [], {"a.pdf", "b.pdf"})
    assert await file_bytes(xnat, session, "REPORTS", "a.pdf") == REPORT
    assert await verify(ready, tmp_path, "--attachments-bytes") == (0, [], [], {"a.pdf", "b.pdf"})


@pytest.mark.parametrize("checksums", [True, False])
async def test_other_bytes_of_the_same_size(
    xnat: TestXnat, ready: Commands, tree: Path, tmp_path: Path, checksums: bool
) -> None:
    """If the site keeps no MD5, or with `--attachments-bytes`, the bytes are read. They are not repaired."""
    xnat.storage.checksums = checksums
    session = await uploaded(xnat, ready, tree)
    await damaged(xnat, session, "other bytes")
    options = ("--attachments-bytes",) if checksums else ()
    assert await verify(ready, tmp_path, *options) == (9, [], ["a.pdf"], {"b.pdf"})
    assert (await verify(ready, tmp_path, *options, "--repair"))[0] == 9
    assert await file_bytes(xnat, session, "REPORTS", "a.pdf") == REPORT[::-1]


async def test_a_repair_that_would_send_other_bytes(
    xnat: TestXnat, ready: Commands, tree: Path, tmp_path: Path
) -> None:
    """The file changes during the repair: it no longer has the bytes that were stored."""
    session = await uploaded(xnat, ready, tree)
    await damaged(xnat, session, "deleted")
    report = tree / "visit" / "a.pdf"

    def change() -> None:
        os.truncate(report, 8)

    # After the second check, and before it is sent.
    xnat.faults.add(Fault("resource", Tell(change)))
    assert await verify(ready, tmp_path, "--repair") == (9, ["a.pdf"], [], {"b.pdf"})
    assert "a.pdf" not in session.own_resources["REPORTS"].files
    # An upload does not send it either, without an option.
    ended = await upload(ready, tree, *RULE)
    assert (ended.code, ended.json["attachments"]["refused"]) == (8, 1)
    assert await verify(ready, tmp_path) == (9, ["a.pdf"], [], {"b.pdf"})
    ended = await upload(ready, tree, *RULE, "--resend-changed", "--overwrite", "append")
    assert (ended.code, ended.json["attachments"]["stored"]) == (0, 1)
    assert await verify(ready, tmp_path) == (0, [], [], {"a.pdf", "b.pdf"})


FAILURES = ["a user who may only read", "403", "400", "404", "a kill"]


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_repair_that_failed_is_not_forgotten(
    xnat: TestXnat, ready: Commands, tree: Path, tmp_path: Path, failure: str
) -> None:
    """After any failed repair, each later check reports what XNAT lacks, and a later repair restores it."""
    session = await uploaded(xnat, ready, tree)
    await damaged(xnat, session, "deleted")
    demo = xnat.project("demo")
    editors = demo.editors
    match failure:
        case "a user who may only read":
            xnat.add_user(User("other", "other"))
            demo.editors, demo.readers = ["other"], ["demo"]
        case "403":
            xnat.faults.add(Fault("resource", Status(403, "<h3>no</h3>"), share=1))
        case "400":
            xnat.faults.add(Fault("file", Status(400, "<h3>no</h3>"), share=1))
        case "404":
            xnat.faults.add(Fault("resource", Status(404, "<h3>no</h3>"), share=1))
    if failure == "a kill":
        if sys.platform == "win32":
            pytest.skip("a kill tells no exit code there")
        async with ready.start("verify", "-P", "demo", "--repair") as process:
            xnat.faults.add(Fault("resource", Tell(process.kill)))
            assert await process.wait() == -signal.SIGKILL
    else:
        for _ in range(2):
            assert (await ready("verify", "-P", "demo", "--repair", "-o", "json")).code == 9
    xnat.faults.clear()
    demo.editors = editors
    assert await verify(ready, tmp_path) == (9, ["a.pdf"], [], {"b.pdf"})
    assert await verify(ready, tmp_path, "--repair") == (0, [], [], {"a.pdf", "b.pdf"})
    assert await file_bytes(xnat, session, "REPORTS", "a.pdf") == REPORT


@pytest.mark.parametrize("failure", ["403", "a session that is gone"])
async def test_what_the_server_refused_is_sent_by_the_next_run(
    xnat: TestXnat, ready: Commands, tree: Path, failure: str
) -> None:
    """The server's state was the reason: the next run retries it, and the exit code is 8 until it arrives."""
    assert (await upload(ready, tree)).code == 0
    session = xnat.archived[0]
    if failure == "403":
        xnat.faults.add(Fault("resource", Status(403, "<h3>no</h3>"), share=1))
    else:
        xnat.remove_experiment(session)
    for _ in range(2):
        ended = await upload(ready, tree, *RULE)
        assert (ended.code, ended.json["attachments"]["refused"]) == (8, 2)
    xnat.faults.clear()
    if failure != "403":
        xnat.add_experiment(session)
    ended = await upload(ready, tree, *RULE)
    assert (ended.code, ended.json["attachments"]["stored"]) == (0, 2)


@pytest.mark.parametrize("same", [True, False])
async def test_another_tree(xnat: TestXnat, ready: Commands, tree: Path, tmp_path: Path, same: bool) -> None:
    """A file with the same cleaned name from another tree replaces nothing. The same bytes count as the same file."""
    session = await uploaded(xnat, ready, tree)
    second = tmp_path / "second" / "visit"
    write(second / "1.dcm", (tree / "visit" / "1.dcm").read_bytes())
    write(second / "ä.pdf", REPORT if same else b"a report of another")
    ended = await upload(ready, tmp_path / "second", *RULE, "--resend-changed", "--overwrite", "append")
    counts = {name: count for name, count in ended.json["attachments"].items() if count and name != "found"}
    assert (ended.code, counts) == ((0, {"already_stored": 1}) if same else (8, {"skipped": 1}))
    assert await file_bytes(xnat, session, "REPORTS", "a.pdf") == REPORT
    # The files of the first tree are still known.
    code, missing, altered, safe = await verify(ready, tmp_path)
    assert (code, missing, altered) == (0, [], [])
    assert safe == {"ä.pdf" if same else "a.pdf", "b.pdf"}
    await damaged(xnat, session, "deleted")
    assert (await verify(ready, tmp_path))[:2] == (9, ["a.pdf"])
    assert (await verify(ready, tmp_path, "--repair"))[0] == 0
    assert await file_bytes(xnat, session, "REPORTS", "a.pdf") == REPORT


@pytest.mark.skipif(sys.platform == "win32", reason="a kill tells no exit code there")
@pytest.mark.parametrize(("kind", "nth", "served"), [("file", 1, True), ("file", 1, False), ("logout", 1, True)])
async def test_receipts_and_events_after_a_kill(
    xnat: TestXnat, ready: Commands, tree: Path, tmp_path: Path, kind: str, nth: int, served: bool
) -> None:
    """The next run writes one receipt for each attachment, whichever run sent it, and an event for each it settles."""
    words = ("upload", tree, "-P", "demo", "-q", "-o", "json", *RULE)
    async with ready.start(*words, "--receipts", tmp_path / "first", "--events", tmp_path / "events1") as process:

        def kill() -> None:
            process.kill()
            if not served:
                xnat.expire_logins()

        xnat.faults.add(Fault(kind, Tell(kill), nth=nth))
        assert await process.wait() == -signal.SIGKILL
    ended = await ready(*words, "--receipts", tmp_path / "receipts", "--events", tmp_path / "events2")
    assert ended.code == 0, ended.out
    rows = [json.loads(line) for line in (tmp_path / "receipts").read_text("utf-8").splitlines()]
    assert sorted(row["name"] for row in rows if row["kind"] == "attachment") == ["a.pdf", "b.pdf"]
    events = [
        json.loads(line)
        for name in ("events1", "events2")
        for line in (tmp_path / name).read_text("utf-8").splitlines()
        if "attachment_stored" in line
    ]
    assert sorted(one["name"] for one in events) == ["a.pdf", "b.pdf"]
    assert await file_bytes(xnat, xnat.archived[0], "REPORTS", "a.pdf") == REPORT


async def test_an_entry_that_the_catalog_lost(xnat: TestXnat, ready: Commands, tree: Path, tmp_path: Path) -> None:
    """The file is on XNAT's disk: a repair finds it by a refresh, and overwrites no other file."""
    session = await uploaded(xnat, ready, tree)
    await add_file(xnat, session, "REPORTS", "theirs.pdf", b"theirs")
    for name in ("a.pdf", "theirs.pdf"):
        lose_entry(session, "REPORTS", name)
    assert (await verify(ready, tmp_path))[:2] == (9, ["a.pdf"])
    assert await verify(ready, tmp_path, "--repair") == (0, [], [], {"a.pdf", "b.pdf"})
    assert await file_bytes(xnat, session, "REPORTS", "theirs.pdf") == b"theirs"
    assert not session.own_resources["REPORTS"].uncatalogued
