"""What proves that a file is the one that was sent: more than path, size and mtime, which often survive changes."""

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import xxhash
from builders import image, opens, sop, write
from conftest import Commands, Ended

from asyncimport.source.bytes_on_disk import LARGE
from asyncimport.testserver import Fault, Status, TestXnat

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]
WORDS = ("-P", "demo", "-o", "json")


@pytest.fixture
def visit(tmp_path: Path) -> Path:
    """Write a session of four instances."""
    place = tmp_path / "visit"
    for number in range(1, 5):
        write(place / str(number), image(number, pixels=50))
    return place


def rewrite(path: Path, content: bytes) -> None:
    """Write other bytes into a file, and restore its mtime."""
    before = path.stat()
    assert len(content) == before.st_size
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path, content: bytes) -> None:
    """Replace a file by another with its size and mtime, like a restored backup."""
    other = path.with_name(f"{path.name}.new")
    before = path.stat()
    other.write_bytes(content)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def migrate(place: Path) -> None:
    """Change every inode and every ctime, and nothing else, like a new file server."""
    inodes = {path: path.stat().st_ino for path in place.rglob("*")}
    old = place.rename(place.with_name("old"))
    shutil.copytree(old, place)
    assert all(path.stat().st_ino != inode for path, inode in inodes.items())
    shutil.rmtree(old)


def counts(ended: Ended) -> dict[str, int]:
    """Return the counts of files that are not zero."""
    return {name: count for name, count in ended.json["files"].items() if count and name != "found"}


async def safe_of(commands: Commands, target: Path) -> tuple[set[str], Ended]:
    """Return the names of the files that may be deleted."""
    told = await commands("verify", "--safe-to-delete", target, "-o", "json")
    return {Path(os.fsdecode(line)).name for line in target.read_bytes().splitlines()}, told


def journal_of(commands: Commands) -> Path:
    """Return the one journal."""
    (path,) = commands.home.rglob("*.journal")
    return path


def change(commands: Commands, statement: str) -> None:
    """Change something in the journal."""
    with closing(sqlite3.connect(journal_of(commands))) as connection, connection:
        connection.execute(statement)


FORGET_FACTS = "UPDATE file SET inode = NULL, ctime_ns = NULL"


@pytest.mark.parametrize("put", [rewrite, replace])
async def test_other_bytes_under_the_same_size_and_time(
    xnat: TestXnat, ready: Commands, visit: Path, tmp_path: Path, put: Callable[[Path, bytes], None]
) -> None:
    """They are reported, are not safe to delete, and are sent on request."""
    assert (await ready("upload", visit, *WORDS)).code == 0
    put(visit / "2", image(2, pixels=50, PixelData=b"x" * 50))
    safe, told = await safe_of(ready, tmp_path / "before")
    assert (safe, told.json["kept_back"]) == ({"1", "3", "4"}, 1)
    again = await ready("upload", visit, *WORDS)
    assert (again.code, counts(again)) == (8, {"already_stored": 3, "skipped": 1})
    assert [one["reason"] for one in again.json["problems"]] == [
        "changed on disk after XNAT stored it; the new bytes were not sent"
    ]
    assert (await safe_of(ready, tmp_path / "after"))[0] == {"1", "3", "4"}
    assert xnat.count["import"] == 4
    sent = await ready("upload", visit, *WORDS, "--resend-changed", "--overwrite", "append")
    assert (sent.code, counts(sent)) == (0, {"already_stored": 3, "stored": 1}), sent.out
    assert xnat.count["import"] == 5
    assert (await safe_of(ready, tmp_path / "sent"))[0] == {"1", "2", "3", "4"}


async def test_other_bytes_that_are_another_instance(ready: Commands, visit: Path, tmp_path: Path) -> None:
    """An unsent instance under the path of a sent one is sent."""
    assert (await ready("upload", visit, *WORDS)).code == 0
    replace(visit / "2", image(7, pixels=50))
    again = await ready("upload", visit, *WORDS)
    assert (again.code, counts(again)) == (0, {"already_stored": 3, "stored": 1})
    assert (await safe_of(ready, tmp_path / "safe"))[0] == {"1", "2", "3", "4"}


def moved(place: Path) -> None:
    """Move a tree to another disk."""
    migrate(place)
    place.rename(place.with_name("moved"))


def linked(place: Path) -> None:
    """Give a file a second name elsewhere, as some backups do."""
    os.link(place / "2", place.with_name("link"))


def allowed(place: Path) -> None:
    """Change rights."""
    (place / "1").chmod(0o640)


def touched(place: Path) -> None:
    """Give all files another time."""
    for path in place.iterdir():
        os.utime(path, (1, 1))


@pytest.mark.parametrize("receipts", [False, True])
@pytest.mark.parametrize("what", [migrate, moved, linked, allowed, touched])
async def test_the_same_bytes_are_known_again(
    xnat: TestXnat, ready: Commands, visit: Path, tmp_path: Path, what: Callable[[Path], None], receipts: bool
) -> None:
    """Whatever happened to inodes, times and paths: the digest matches, so nothing is sent or reported."""
    extra: tuple[Any, ...] = ("--receipts", tmp_path / "receipts") if receipts else ()
    assert (await ready("upload", visit, *WORDS, *extra)).code == 0
    what(visit)
    place = visit if visit.exists() else visit.with_name("moved")
    if place == visit:
        assert (await safe_of(ready, tmp_path / "before"))[0] == {"1", "2", "3", "4"}
    for _ in range(2):
        again = await ready("upload", place, *WORDS)
        assert (again.code, counts(again), again.json["problems"]) == (0, {"already_stored": 4}, [])
    safe, told = await safe_of(ready, tmp_path / "safe")
    assert (safe, told.json["kept_back"]) == ({"1", "2", "3", "4"}, 0)
    assert xnat.count["import"] == 4


async def test_recognised_files_are_not_read_again(ready: Commands, visit: Path, tmp_path: Path) -> None:
    """Once proven, inode and mtime decide."""
    assert (await ready("upload", visit, *WORDS)).code == 0
    migrate(visit)
    opened = opens(ready.env, tmp_path, visit)
    assert counts(await ready("upload", visit, *WORDS)) == {"already_stored": 4}
    assert {Path(path).parent for path in opened()} == {visit}
    assert counts(await ready("upload", visit, *WORDS)) == {"already_stored": 4}
    assert opened() == []


async def test_a_copy_of_a_changed_file_is_no_copy_of_what_was_sent(
    ready: Commands, visit: Path, tmp_path: Path
) -> None:
    """It has the file's new bytes, not those that were sent."""
    assert (await ready("upload", visit, *WORDS)).code == 0
    rewrite(visit / "2", image(2, pixels=50, PixelData=b"x" * 50))
    shutil.copy2(visit / "2", visit / "copy")
    shutil.copy2(visit / "1", visit / "sound copy")
    again = await ready("upload", visit, *WORDS)
    assert (again.code, counts(again)) == (8, {"already_stored": 3, "skipped": 2, "duplicate": 1})
    assert (await safe_of(ready, tmp_path / "safe"))[0] == {"1", "sound copy", "3", "4"}


async def test_a_restored_file_is_recognised_by_its_digest(ready: Commands, visit: Path, tmp_path: Path) -> None:
    """A file that was changed and then restored is the one that was sent."""
    assert (await ready("upload", visit, *WORDS)).code == 0
    write(visit / "2", image(2, pixels=60))
    assert (await ready("upload", visit, *WORDS)).code == 8
    write(visit / "2", image(2, pixels=50))
    again = await ready("upload", visit, *WORDS)
    assert (again.code, counts(again)) == (0, {"already_stored": 4})
    assert (await safe_of(ready, tmp_path / "safe"))[0] == {"1", "2", "3", "4"}


async def test_a_row_without_inode_matches_an_untouched_file(ready: Commands, visit: Path, tmp_path: Path) -> None:
    """Without inode and digest, a file unchanged since it was stored is the one that was sent."""
    assert (await ready("upload", visit, *WORDS)).code == 0
    change(ready, FORGET_FACTS)
    change(ready, "UPDATE instance SET xxh3 = NULL, settled_at = settled_at + 60")
    opened = opens(ready.env, tmp_path, visit)
    assert counts(await ready("upload", visit, *WORDS)) == {"already_stored": 4}
    assert opened() == []
    assert (await safe_of(ready, tmp_path / "safe"))[0] == {"1", "2", "3", "4"}
    rewrite(visit / "2", image(7, pixels=50))
    again = await ready("upload", visit, *WORDS)
    assert (again.code, counts(again)) == (0, {"already_stored": 3, "stored": 1})


async def test_a_row_without_inode_does_not_match_a_touched_file(
    xnat: TestXnat, ready: Commands, visit: Path, tmp_path: Path
) -> None:
    """On a new server a million files are neither sent again nor reported; but they are not safe to delete."""
    assert (await ready("upload", visit, *WORDS)).code == 0
    change(ready, FORGET_FACTS)
    change(ready, "UPDATE instance SET xxh3 = NULL")
    migrate(visit)
    for _ in range(2):
        again = await ready("upload", visit, *WORDS)
        assert (again.code, counts(again), again.json["problems"]) == (0, {"already_stored": 4}, [])
    assert xnat.count["import"] == 4
    safe, told = await safe_of(ready, tmp_path / "safe")
    assert (safe, told.json["safe_to_delete"], told.json["kept_back"]) == (set(), 0, 4)
    shown = await ready("verify", "--safe-to-delete", tmp_path / "safe")
    assert "4 files are kept back: nothing proves that the archive has the same content" in shown.out


async def test_moved_without_a_digest(xnat: TestXnat, ready: Commands, visit: Path, tmp_path: Path) -> None:
    """Nothing is sent again, and no copied file is safe to delete."""
    assert (await ready("upload", visit, *WORDS)).code == 0
    change(ready, "UPDATE instance SET xxh3 = NULL")
    renamed = visit.rename(tmp_path / "renamed")
    assert counts(await ready("upload", renamed, *WORDS)) == {"already_stored": 4}
    assert (await safe_of(ready, tmp_path / "safe"))[0] == {"1", "2", "3", "4"}
    migrate(renamed)
    copied = renamed.rename(tmp_path / "copied")
    shutil.copy2(copied / "1", copied / "copy")
    assert counts(await ready("upload", copied, *WORDS)) == {"already_stored": 4, "duplicate": 1}
    assert (await safe_of(ready, tmp_path / "safe"))[0] == set()
    assert xnat.count["import"] == 4


async def test_a_repair_from_a_new_file_server(xnat: TestXnat, ready: Commands, visit: Path) -> None:
    """Missing instances are sent again from files that hold them, and from no others."""
    assert (await ready("upload", visit, *WORDS)).code == 0
    migrate(visit)
    rewrite(visit / "3", image(3, pixels=50, PixelData=b"x" * 50))
    for session in xnat.archived:
        for _, resource in session.resources:
            for name in [name for name, file in resource.files.items() if file.sop_uid in {sop(2), sop(3)}]:
                del resource.files[name]
    told = await ready("verify", "--repair", "-o", "json")
    assert (told.code, told.json["repaired"], told.json["unrepaired"]) == (9, 1, 1)
    assert xnat.sop_uids() == {sop(1), sop(2), sop(4)}


async def test_attachments_are_put_back_from_a_new_file_server(xnat: TestXnat, ready: Commands, visit: Path) -> None:
    """From the file that holds what was stored, and from no other."""
    write(visit / "a.csv", b"a,b\n1,2\n")
    write(visit / "b.csv", b"a,b\n3,4\n")
    assert (await ready("upload", visit, *WORDS, "--attach", "*.csv=DATA")).code == 0
    migrate(visit)
    rewrite(visit / "b.csv", b"a,b\n5,6\n")
    (session,) = xnat.archived
    session.own_resources["DATA"].files.clear()
    told = await ready("verify", "--repair", "-o", "json")
    assert (told.code, told.json["repaired"], told.json["unrepaired"]) == (9, 1, 1)
    assert list(session.own_resources["DATA"].files) == ["a.csv"]


@pytest.mark.parametrize("receipts", [False, True])
async def test_every_file_has_a_digest(ready: Commands, visit: Path, tmp_path: Path, receipts: bool) -> None:
    """Small files, and large ones that are streamed; a stronger one for receipts."""
    write(visit / "large", image(9, pixels=2 * LARGE))
    extra: tuple[Any, ...] = ("--receipts", tmp_path / "receipts") if receipts else ()
    assert (await ready("upload", visit, *WORDS, *extra)).code == 0
    with closing(sqlite3.connect(journal_of(ready))) as connection:
        kept = connection.execute("SELECT f.path, i.xxh3, i.sha256 FROM instance i JOIN file f ON f.key = i.file")
        assert {Path(os.fsdecode(path)): digests for path, *digests in kept} == {
            path: [
                xxhash.xxh3_128_digest(path.read_bytes()),
                hashlib.sha256(path.read_bytes()).digest() if receipts else None,
            ]
            for path in visit.iterdir()
        }


async def test_pending_files_without_proof_are_read_again(xnat: TestXnat, ready: Commands, visit: Path) -> None:
    """An unsent file that was replaced is sent with its new content."""
    assert (await ready("upload", visit, *WORDS, "--modality", "CT")).json["files"]["skipped"] == 4
    replace(visit / "2", image(8, pixels=50))
    assert (await ready("upload", visit, *WORDS)).code == 0
    assert xnat.sop_uids() == {sop(1), sop(8), sop(3), sop(4)}


async def test_a_plan_reads_replaced_files(ready: Commands, visit: Path) -> None:
    """The next plan opens it again."""
    first = await ready("plan", visit, *WORDS)
    replace(visit / "2", image(8, pixels=50, StudyInstanceUID="1.2.9"))
    second = await ready("plan", visit, *WORDS)
    assert {row["study_uid"]: row["files"] for row in first.json["rows"]} == {"1.2.3": 4}
    assert {row["study_uid"] for row in second.json["rows"]} == {"1.2.3", "1.2.9"}


@pytest.mark.parametrize("content", [b"a,c\n1,2\n", b"a,b\n1,2\n"])
async def test_attachments_are_compared_by_content(
    ready: Commands, visit: Path, tmp_path: Path, content: bytes
) -> None:
    """Other bytes under the same size and mtime are reported; the same bytes in another file are not, and are safe."""
    write(visit / "a.csv", b"a,b\n1,2\n")
    words = (*WORDS, "--attach", "*.csv=DATA")
    assert (await ready("upload", visit, *words)).code == 0
    replace(visit / "a.csv", content)
    same = content == b"a,b\n1,2\n"
    assert ("a.csv" in (await safe_of(ready, tmp_path / "safe"))[0]) is same
    again = await ready("upload", visit, *words)
    assert again.code == (0 if same else 8)
    assert again.json["attachments"]["already_stored" if same else "refused"] == 1
    assert ("a.csv" in (await safe_of(ready, tmp_path / "safe"))[0]) is same


@pytest.mark.parametrize("first", ["a", "b"])
async def test_a_copy_of_a_file_that_has_changed_before_it_was_sent_is_no_copy(
    ready: Commands, xnat: TestXnat, tmp_path: Path, first: str
) -> None:
    """It is compared again, whichever of the two is found first."""
    for place in "ab":
        write(tmp_path / place / "1", image(1, pixels=50))
    sources = tmp_path / "a", tmp_path / "b"
    xnat.faults.add(Fault("import", Status(403)))
    assert counts(await ready("upload", *sources, *WORDS)) == {"duplicate": 1, "refused": 1}
    rewrite(tmp_path / "a" / "1", image(1, pixels=50)[:-1] + b"\x07")
    order = sources if first == "a" else sources[::-1]
    ended = await ready("upload", *order, *WORDS)
    assert (ended.code, "duplicate" in counts(ended)) == (8, False), ended.out
    again = await ready("upload", *order, *WORDS)
    assert (again.code, counts(again)) == (8, {"already_stored": 1, "skipped": 1}), again.out
