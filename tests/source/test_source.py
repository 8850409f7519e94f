"""The walk over real trees with anything in them, and the bytes of files that change meanwhile."""

import asyncio
import os
import shutil
import socket
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.to_thread
import psutil
import pytest
from builders import body_of, folder, image, open_files, sop, write
from patience import in_time

from asyncimport.dicom import Identity
from asyncimport.errors import SourceError, UsageError
from asyncimport.model.files import File, Ignored, StreamedBody
from asyncimport.model.states import FileKind
from asyncimport.source.bytes_on_disk import LARGE
from asyncimport.source.folder import FileSource
from asyncimport.source.headers import map_together

pytestmark = pytest.mark.anyio


async def walk(*roots: Path | str, follow_links: bool = False) -> list[File | Ignored]:
    """Return everything that a walk yields."""
    source = await anyio.to_thread.run_sync(partial(FileSource, roots, follow_links=follow_links))
    return [item async for batch in source.batches() for item in batch]


def name(item: File | Ignored) -> str:
    """Return the name of a result of the walk."""
    return Path(item.path if isinstance(item, File) else item.file.path).name


async def ignored(root: Path) -> Ignored:
    """Walk over a source that yields one ignored file, and return it."""
    (item,) = await walk(root)
    assert isinstance(item, Ignored)
    return item


@contextmanager
def as_nobody() -> Iterator[None]:
    """Drop root's right to read everything for a while."""
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(me)


async def test_the_walk_is_depth_first_and_sorted(tmp_path: Path) -> None:
    """Files of a directory come before those of its subdirectories, both in the order of their bytes."""
    for name in ("b/2", "b/10", "a/x/1", "a/z", "c", "B/1", "b/a/q"):
        write(tmp_path / name, b"x")
    found = [os.path.relpath(item.path, tmp_path) for item in await walk(tmp_path) if isinstance(item, File)]
    assert found == ["c", "B/1", "a/z", "a/x/1", "b/10", "b/2", "b/a/q"]


async def test_files_come_with_size_and_time(tmp_path: Path) -> None:
    """A file is described as the system does, to the nanosecond."""
    path = tmp_path / "one"
    path.write_bytes(b"12345")
    os.utime(path, ns=(1, 1_600_000_000_123_456_789))
    found = path.stat()
    assert await walk(tmp_path) == [
        File(str(path), 5, 1_600_000_000_123_456_789, found.st_ino, found.st_ctime_ns),
    ]


async def test_batches_begin_small_and_grow(tmp_path: Path) -> None:
    """The first batch has 32 files, so that sending begins at once; later ones have up to 512."""
    for number in range(600):
        write(tmp_path / f"{number:03}", b"")
    assert [len(batch) async for batch in (await folder(tmp_path)).batches()] == [32, 512, 56]


async def test_an_empty_directory_yields_nothing(tmp_path: Path) -> None:
    """There is no empty batch either."""
    assert [batch async for batch in (await folder(tmp_path)).batches()] == []


async def test_links_to_files_of_the_source_are_followed(tmp_path: Path) -> None:
    """With the link's own path, and size and mtime of its target."""
    target = write(tmp_path / "file", b"12345")
    (tmp_path / "link").symlink_to(target.path)
    assert await walk(tmp_path) == [target, replace(target, path=str(tmp_path / "link"))]


async def test_links_to_directories_of_the_source_are_not_followed(tmp_path: Path) -> None:
    """Their files are found in their own place; the links are reported, with or without `follow_links`."""
    write(tmp_path / "a" / "file", b"x")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    for follow in (False, True):
        found = await walk(tmp_path, follow_links=follow)
        assert [(name(item), item.kind, item.reason) for item in found if isinstance(item, Ignored)] == [
            ("up", FileKind.INNER_LINK, "a link to a directory of the source, whose files are found there")
        ]
        assert [name(item) for item in found if isinstance(item, File)] == ["file"]


async def test_links_that_lead_out_are_followed_when_asked(tmp_path: Path) -> None:
    """To files and directories, in circles, to the source's parent, twice to one place: each file once."""
    out = tmp_path / "out"
    write(out / "a" / "1", b"x")
    write(out / "2", b"x")
    (out / "a" / "round").symlink_to(out)
    (out / "a" / "more").symlink_to(tmp_path / "more")
    write(tmp_path / "more" / "3", b"x")
    root = tmp_path / "root"
    write(root / "z" / "4", b"x")
    (root / "b").symlink_to(out / "a")
    (root / "c").symlink_to(out)
    (root / "d").symlink_to(tmp_path)
    (root / "inside").symlink_to(root / "z" / "4")
    write(tmp_path / "5", b"x")
    (root / "file").symlink_to(tmp_path / "5")
    told = await walk(root)
    assert [name(item) for item in told if isinstance(item, File)] == ["inside", "4"]
    reasons = {name(item): item.reason for item in told if isinstance(item, Ignored) and item.kind == FileKind.LINK}
    assert reasons == {
        **dict.fromkeys("bcd", "a link to a directory outside the source; --follow-links follows it"),
        "file": "a link to a file outside the source; --follow-links follows it",
    }
    source = await anyio.to_thread.run_sync(partial(FileSource, [root], follow_links=True))
    for _ in range(2):
        found = [item async for batch in source.batches() for item in batch]
        names = [os.path.relpath(item.path, root) for item in found if isinstance(item, File)]
        assert names == ["file", "inside", "b/1", "b/more/3", "b/round/2", "d/5", "z/4"]


async def test_a_root_that_is_a_link_to_a_directory_is_walked(tmp_path: Path) -> None:
    """A link given as the source means its target."""
    file = write(tmp_path / "real" / "file", b"x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert await walk(tmp_path / "link") == [replace(file, path=str(tmp_path / "link" / "file"))]


async def test_a_broken_link_is_unreadable(tmp_path: Path) -> None:
    """It is reported with the system's words, without a path in them, and the walk continues."""
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    write(tmp_path / "sound", b"x")
    found = await walk(tmp_path)
    assert found[0] == Ignored(
        File(str(tmp_path / "broken"), 0, 0), FileKind.UNREADABLE, "no such file or directory", damaged=True
    )
    assert isinstance(found[1], File)


async def test_links_in_a_circle_are_unreadable(tmp_path: Path) -> None:
    """Two links to each other lead nowhere."""
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    assert [(item.kind, item.reason) for item in await walk(tmp_path) if isinstance(item, Ignored)] == [
        (FileKind.UNREADABLE, "too many levels of symbolic links")
    ] * 2


async def test_pipes_and_sockets_are_not_opened(tmp_path: Path) -> None:
    """Opening a FIFO would wait for ever; neither is DICOM."""
    os.mkfifo(tmp_path / "fifo")
    # A socket's path must be short.
    with TemporaryDirectory(dir="/tmp") as short, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{short}/socket")
        found = [*await walk(tmp_path), *await walk(short)]
    what = "a pipe, socket or device"
    assert found == [
        Ignored(File(path, 0, 0), FileKind.NOT_DICOM, what) for path in (f"{tmp_path}/fifo", f"{short}/socket")
    ]


async def test_an_unreadable_directory_is_passed() -> None:
    """It is reported once, and the walk continues."""
    with TemporaryDirectory(dir="/tmp") as root:
        Path(root).chmod(0o755)
        write(Path(root) / "a" / "hidden", b"x")
        write(Path(root) / "b" / "seen", b"x")
        (Path(root) / "a").chmod(0)
        with as_nobody():
            found = await walk(root)
    assert found[0] == Ignored(
        File(f"{root}/a", 0, 0), FileKind.UNREADABLE, "permission denied: check its permissions", damaged=True
    )
    assert [name(item) for item in found[1:]] == ["seen"]


async def test_a_directory_that_vanishes_is_passed(tmp_path: Path) -> None:
    """It is reported once, and the walk continues."""
    for number in range(40):
        write(tmp_path / "a" / f"{number}", b"x")
    write(tmp_path / "b" / "late", b"x")
    write(tmp_path / "c" / "there", b"x")
    batches = (await folder(tmp_path)).batches()
    first = await anext(batches)
    assert len(first) == 32
    (tmp_path / "b" / "late").unlink()
    (tmp_path / "b").rmdir()
    rest = await anext(batches)
    assert rest[8] == Ignored(
        File(str(tmp_path / "b"), 0, 0), FileKind.UNREADABLE, "no such file or directory", damaged=True
    )
    assert name(rest[9]) == "there"


async def test_names_need_not_be_text(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 pass through, are sorted as bytes, and open the file again."""
    given = (b"\xff\xfe.dcm", b"\xc3\xa4.dcm", b"z.dcm")
    for text in map(os.fsdecode, given):
        (tmp_path / text).write_bytes(image())
    found = [item for item in await walk(tmp_path) if isinstance(item, File)]
    assert [os.fsencode(name(item)) for item in found] == [b"z.dcm", b"\xc3\xa4.dcm", b"\xff\xfe.dcm"]
    source = await folder(tmp_path)
    assert await source.read(found) == [image()] * 3
    assert isinstance(await anyio.to_thread.run_sync(source.identify, found[-1]), Identity)


async def test_a_single_file_is_a_source(tmp_path: Path) -> None:
    """Roots may be files; several roots are walked in the order given."""
    one, two = write(tmp_path / "one", b"1"), write(tmp_path / "two", b"22")
    assert await walk(two.path, one.path) == [two, one]


async def test_a_root_that_is_a_broken_link_is_reported(tmp_path: Path) -> None:
    """The root exists, so it is no usage error."""
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    found = await ignored(tmp_path / "broken")
    assert (found.kind, found.reason) == (FileKind.UNREADABLE, "no such file or directory")


async def test_a_missing_root_is_a_usage_error(tmp_path: Path) -> None:
    """The message names the path, and the hint says what to do."""
    with pytest.raises(UsageError, match=r"no such file or directory: .*/missing$") as caught:
        await folder(tmp_path, tmp_path / "missing")
    assert caught.value.hint


async def test_roots_are_absolute_and_links_in_them_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative root is resolved in the working directory, without `..`; links stay as given."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    assert (await folder("link", Path("real/../link/"))).roots == [str(tmp_path / "link")] * 2


def test_identify_returns_what_a_file_is(tmp_path: Path) -> None:
    """By content, not name: an image, something else, an image without its study, a vanished file."""
    source = FileSource([tmp_path])
    found = source.identify(write(tmp_path / "image.txt", image(7)))
    assert isinstance(found, Identity)
    assert found.sop_uid == sop(7)
    other = source.identify(write(tmp_path / "text.dcm", b"text"))
    assert isinstance(other, Ignored)
    assert other.kind is FileKind.NOT_DICOM
    homeless = source.identify(write(tmp_path / "homeless", image(StudyInstanceUID=None)))
    assert isinstance(homeless, Ignored)
    assert homeless.kind is FileKind.UNREADABLE
    gone = source.identify(File(str(tmp_path / "gone"), 1, 1))
    assert isinstance(gone, Ignored)
    assert (gone.kind, gone.reason) == (FileKind.UNREADABLE, "vanished")


@pytest.mark.parametrize("size", [1, 1000, LARGE])
async def test_small_bodies_are_bytes(tmp_path: Path, size: int) -> None:
    """Up to 1 MiB, all of it is read at once."""
    content = os.urandom(size)
    assert await body_of(write(tmp_path / "file", content)) == content


async def test_large_bodies_can_be_streamed_repeatedly(tmp_path: Path) -> None:
    """More than 1 MiB comes in pieces, from the start each time, with the size known before."""
    content = os.urandom(LARGE + 1)
    body: StreamedBody = await body_of(write(tmp_path / "file", content))
    assert body.size == len(content)
    for _ in range(2):
        pieces = [piece async for piece in body]
        assert b"".join(pieces) == content
        assert max(map(len, pieces)) <= 256 << 10


@pytest.mark.parametrize("size", [100, LARGE + 1])
@pytest.mark.parametrize("change", ["grown", "shrunk", "touched", "replaced", "rewritten", "gone", "a pipe"])
async def test_a_file_changed_after_the_walk_is_not_read(tmp_path: Path, size: int, change: str) -> None:
    """With another size, mtime, inode or ctime, vanished or a pipe: an error in its place; the others are read."""
    file = write(tmp_path / "file", bytes(size))
    other = write(tmp_path / "other", b"other")
    path = Path(file.path)
    match change:
        case "grown":
            path.write_bytes(bytes(size + 1))
        case "shrunk":
            path.write_bytes(bytes(size - 1))
        case "touched":
            os.utime(path, ns=(1, 1))
        case "replaced":
            shutil.copy2(path, tmp_path / "new")
            (tmp_path / "new").replace(path)
        case "rewritten":
            path.write_bytes(b"x" * size)
            os.utime(path, ns=(1, file.mtime_ns))
        case _:
            path.unlink()
    if change == "a pipe":
        os.mkfifo(path)
    error, content = await (await folder(tmp_path)).read([file, other])
    assert isinstance(error, SourceError)
    assert str(error) == (
        "the file cannot be read: no such file or directory"
        if change == "gone"
        else "the file changed after it was scanned"
    )
    assert content == b"other"


async def consume(body: StreamedBody, then: object = None) -> int:
    """Take the first piece of a body, change the file, take the rest; return the number of bytes."""
    size = 0
    async for piece in body:
        if not size and callable(then):
            then()
        size += len(piece)
    return size


async def closed(path: Path) -> None:
    """Wait until no handle of a file is open: a thread may drop the last one a moment after its read."""
    with in_time():
        while open_files(path):
            await anyio.lowlevel.checkpoint()


SIZE = LARGE + 12345


@pytest.mark.parametrize(
    ("size", "message"),
    [
        pytest.param(LARGE, "the file shrank while it was sent", id="shrinks"),
        # The last piece is held back, so that the body is never whole at the old length.
        pytest.param(SIZE + 1, "the file changed after it was scanned", id="grows"),
    ],
)
async def test_a_file_that_changes_its_size_while_it_is_streamed(tmp_path: Path, size: int, message: str) -> None:
    """The body ends in an error."""
    path = tmp_path / "file"
    body = await body_of(write(path, bytes(SIZE)))
    with pytest.raises(SourceError, match=message):
        await consume(body, lambda: os.truncate(path, size))


@pytest.mark.parametrize("size", [100, LARGE + 1])
async def test_another_machine_may_have_the_file_that_was_scanned(tmp_path: Path, size: int) -> None:
    """Of workers with copies of their own, one has scanned it, and the other sees another inode."""
    scanned = write(tmp_path / "file", bytes(size))
    assert scanned.inode is not None
    (found,) = await (await folder(tmp_path)).read([replace(scanned, inode=scanned.inode + 1)])
    assert isinstance(found, SourceError)
    assert found.may_be_elsewhere


async def test_a_file_that_is_rewritten_while_it_is_streamed(tmp_path: Path) -> None:
    """The mtime reveals other bytes of the same length."""
    path = tmp_path / "file"
    body = await body_of(write(path, bytes(SIZE)))

    def rewrite() -> None:
        path.write_bytes(b"x" * SIZE)
        os.utime(path, ns=(1, 1))

    with pytest.raises(SourceError, match="the file changed after it was scanned"):
        await consume(body, rewrite)


async def test_a_file_that_is_removed_while_it_is_streamed_is_still_whole(tmp_path: Path) -> None:
    """An open file outlives its name; the next attempt finds it gone."""
    path = tmp_path / "file"
    body = await body_of(write(path, bytes(SIZE)))
    assert await consume(body, path.unlink) == SIZE
    with pytest.raises(SourceError, match="the file cannot be read: no such file or directory"):
        await consume(body)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
async def test_a_body_that_is_not_read_to_its_end_is_closed(tmp_path: Path) -> None:
    """The end of the iteration closes the file; so does a cancellation at any step."""
    path = tmp_path / "file"
    body = await body_of(write(path, bytes(SIZE)))
    pieces = aiter(body)
    await anext(pieces)
    assert open_files(path) == 1
    del pieces
    await closed(path)
    for steps in range(40):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume, body)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        await closed(path)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
async def test_a_task_that_asyncio_cancels_leaves_no_file_open(tmp_path: Path) -> None:
    """Aiohttp sends bodies in such tasks. A thread that still reads closes the file afterwards."""
    path = tmp_path / "file"
    source = await folder(tmp_path)
    (body,) = await source.read([write(path, bytes(SIZE))])
    assert not isinstance(body, bytes | SourceError)
    for steps in range(20):
        task = asyncio.create_task(consume(body))
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await closed(path)


async def test_same_bytes_compares_to_the_last_byte(tmp_path: Path) -> None:
    """Equal files, a difference in the last byte, a longer file, a vanished one, a pipe."""
    source = await folder(tmp_path)
    one = write(tmp_path / "one", bytes(600_000)).path
    assert await source.same_bytes(one, write(tmp_path / "copy", bytes(600_000)).path)
    assert await source.same_bytes(one, write(tmp_path / "last", bytes(599_999) + b"x").path) is False
    assert await source.same_bytes(one, write(tmp_path / "longer", bytes(600_001)).path) is False
    assert await source.same_bytes(one, str(tmp_path / "gone")) is None
    os.mkfifo(tmp_path / "fifo")
    assert not await source.same_bytes(one, str(tmp_path / "fifo"))


async def test_many_headers_are_read_in_a_worker(tmp_path: Path) -> None:
    """The worker gives the same results as this process, for any kind of file."""
    for number in range(1, 6):
        write(tmp_path / f"{number}.dcm", image(number, PatientName="Müller^Änne", SpecificCharacterSet="ISO_IR 100"))
    write(tmp_path / "cut.dcm", image(9)[:-3])
    write(tmp_path / "cut.header", image(9)[:150])
    write(tmp_path / "note.txt", b"no image")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("1.dcm", image(1))
    os.mkfifo(tmp_path / "pipe")
    source = await anyio.to_thread.run_sync(partial(FileSource, [tmp_path], files_before_worker=0))
    met = [item async for batch in source.batches() for item in batch if isinstance(item, File)]
    gone = File(str(tmp_path / "gone"), 1, 1)
    odd = write(Path(os.fsdecode(bytes(tmp_path) + b"/\xff")), image(7))
    files = [*met, gone, odd]
    results = await source.identify_many(files)
    assert results == [await anyio.to_thread.run_sync(source.identify, file) for file in files]
    assert {type(look) for look in results} == {Identity, Ignored}
    kinds = {look.kind for look in results if isinstance(look, Ignored)}
    assert kinds == {FileKind.NOT_DICOM, FileKind.UNREADABLE, FileKind.CONTAINER}
    assert children() == 1


async def test_a_dead_worker_is_restarted(tmp_path: Path) -> None:
    """After the system killed it for memory, no header is left out."""
    files = [write(tmp_path / f"{number}.dcm", image(number)) for number in range(1, 4)]
    source = await anyio.to_thread.run_sync(partial(FileSource, [tmp_path], files_before_worker=0))
    first = await source.identify_many(files)
    (process,) = readers()
    process.kill()
    assert await source.identify_many(files) == first
    assert await source.identify_many(files) == first
    assert children() == 1


async def test_a_file_that_kills_the_worker_twice_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other files are read, and later headers in another worker."""
    files = [write(tmp_path / "root" / f"{number}.dcm", image(number)) for number in range(1, 6)]
    for_children(tmp_path, monkeypatch, f"os._exit(1) if path == {files[2].path!r} else None")
    source = await anyio.to_thread.run_sync(partial(FileSource, [tmp_path / "root"], files_before_worker=0))
    expected: list[Identity | Ignored] = [await anyio.to_thread.run_sync(source.identify, file) for file in files]
    expected[2] = Ignored(
        files[2], FileKind.UNREADABLE, "reading its header kills the process that reads it", damaged=True
    )
    assert await source.identify_many(files) == expected
    assert await source.identify_many(files[:2]) == expected[:2]
    assert children() == 1


async def test_without_a_worker_headers_are_read_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a system that allows none."""
    files = [write(tmp_path / f"{number}.dcm", image(number)) for number in range(1, 4)]
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    before = readers()
    source = await anyio.to_thread.run_sync(partial(FileSource, [tmp_path], files_before_worker=0))
    results = await source.identify_many(files)
    assert {type(look) for look in results} == {Identity}
    assert set(readers()) <= set(before)


async def test_a_stop_ends_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hang at a dead disk; no other one starts in its place."""
    files = [write(tmp_path / "root" / f"{number}.dcm", image(number)) for number in range(1, 4)]
    hangs = tmp_path / "hangs"
    for_children(tmp_path, monkeypatch, f"(open({str(hangs)!r}, 'w'), time.sleep(600))")
    source = await anyio.to_thread.run_sync(partial(FileSource, [tmp_path / "root"], files_before_worker=0))
    before = threading.active_count()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(source.identify_many, files)
        while not hangs.exists():  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    with in_time():
        while children() or threading.active_count() > before + 1:  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.01)


async def test_the_worker_ends_with_the_walk(tmp_path: Path) -> None:
    """And when the source is no longer used."""
    files = [write(tmp_path / f"{number}.dcm", image(number)) for number in range(1, 4)]
    source = await anyio.to_thread.run_sync(partial(FileSource, [tmp_path], files_before_worker=0))
    async for _ in source.batches():
        await source.identify_many(files)
        assert children() == 1
    with in_time():
        while children():  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.01)
    await source.identify_many(files)
    assert children() == 1
    del source
    with in_time():
        while children():  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.01)


async def test_few_headers_are_read_in_this_process(tmp_path: Path) -> None:
    """A worker takes longer to start than they take to read."""
    files = [write(tmp_path / f"{number}.dcm", image(number)) for number in range(1, 4)]
    source = await folder(tmp_path)
    assert len(await source.identify_many(files)) == 3
    assert children() == 0


class Slow:
    """Delays each open of a file below `root` until it is `over`, and counts how many wait together at most."""

    def __init__(self, root: Path, seconds: float = 0.005) -> None:
        self.below = f"{root}{os.sep}"
        self.seconds = seconds
        self.most = 0
        self.opens = 0
        self._now = 0
        self._lock = threading.Lock()
        sys.addaudithook(self._open_without_waiting)

    def _open_without_waiting(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and self.seconds and str(arguments[0]).startswith(self.below):
            self.wait()

    def wait(self) -> None:
        """Wait, as one of several threads."""
        with self._lock:
            self._now += 1
            self.opens += 1
            self.most = max(self.most, self._now)
        time.sleep(self.seconds)
        with self._lock:
            self._now -= 1


async def test_on_a_slow_disk_many_files_are_opened_at_once(tmp_path: Path) -> None:
    """One at a time at first, then as many as the waiting is worth; results keep their order."""
    files = [write(tmp_path / f"{number:03}.dcm", image(number)) for number in range(1, 129)]
    expected = await (await folder(tmp_path)).identify_many(files)
    source = await folder(tmp_path)
    slow = Slow(tmp_path)
    assert await source.identify_many(files[:8]) == expected[:8]
    assert slow.most == 1
    assert await source.identify_many([*files, File(str(tmp_path / "gone"), 1, 1)]) == [
        *expected,
        Ignored(File(str(tmp_path / "gone"), 1, 1), FileKind.UNREADABLE, "vanished", damaged=True),
    ]
    assert 16 <= slow.most <= 32
    assert slow.opens == 8 + 129
    assert await source.identify_many([]) == []
    assert await source.identify_many(files[:2]) == expected[:2]
    slow.seconds = 0


@pytest.mark.parametrize("together", [1, 8])
def test_on_a_fast_disk_no_threads_are_used(together: int) -> None:
    """They would only cost. By this clock nothing waits; on a busy machine threads wait for a processor, too."""
    threads: list[int] = []

    def read(number: int) -> int:
        threads.append(threading.get_ident())
        return number

    results, together = map_together(read, range(128), together, clock=lambda: 0.0)
    assert (results, together) == ([*range(128)], 1)
    threads.clear()
    map_together(read, range(128), together)
    assert set(threads) == {threading.get_ident()}


async def test_a_stop_abandons_slow_reads(tmp_path: Path) -> None:
    """It does not wait for them, and the threads end by themselves."""
    files = [write(tmp_path / f"{number:03}.dcm", image(number)) for number in range(1, 65)]
    source = await folder(tmp_path)
    slow = Slow(tmp_path, 0.05)
    await source.identify_many(files[:4])
    before = threading.active_count()
    # There is much left to do, however late the stop comes.
    slow.seconds = 0.2
    with anyio.move_on_after(0.02) as scope:
        await source.identify_many(files)
    assert scope.cancelled_caught
    assert slow.opens < 4 + 64
    with in_time():
        while slow.opens < 4 + 64 or threading.active_count() > before + 1:  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.01)
    slow.seconds = 0


async def test_the_worker_opens_many_files_at_once_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is as slow for the worker."""
    told = tmp_path / "told"
    root = tmp_path / "root"
    for_children(tmp_path, monkeypatch, f"count(path, {str(told)!r}) if path.startswith({str(root)!r}) else None")
    files = [write(root / f"{number:03}.dcm", image(number)) for number in range(1, 129)]
    here = await (await folder(root)).identify_many(files)
    source = await anyio.to_thread.run_sync(partial(FileSource, [root], files_before_worker=0))
    assert await source.identify_many(files[:8]) == here[:8]
    assert told.read_text() == "1"
    assert await source.identify_many(files) == here
    assert int(told.read_text()) >= 16


async def test_on_a_slow_disk_the_walk_stats_many_files_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its results and their order stay the same."""
    for number in range(300):
        write(tmp_path / f"{number:03}", b"x")
    write(tmp_path / "100d" / "deep", b"x")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    expected = await walk(tmp_path)
    slow = Slow(tmp_path)
    scandir = os.scandir

    class Entry:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self.name, self.path, self.entry = entry.name, entry.path, entry
            self.is_dir, self.is_symlink = entry.is_dir, entry.is_symlink

        def stat(self) -> os.stat_result:
            slow.wait()
            return self.entry.stat()

    @contextmanager
    def scanned(path: str) -> Iterator[Iterator[Entry]]:
        with scandir(path) as entries:
            yield map(Entry, entries)

    monkeypatch.setattr("asyncimport.source.walk.os.scandir", scanned)
    assert await walk(tmp_path) == expected
    assert 16 <= slow.most <= 32
    slow.seconds = 0


def for_children(place: Path, monkeypatch: pytest.MonkeyPatch, do: str) -> None:
    """Let processes that are begun from now on do something whenever they open a file that ends in .dcm.

    They import from the path of this process, and find there a module in place of one of Python's.
    """
    script = f"""
import os, sys, time
del sys.modules["fnmatch"]
sys.path.remove({str(place / "modules")!r})
from fnmatch import *
now = most = 0
def count(path, told):
    global now, most
    now += 1
    time.sleep(0.005)
    most = max(most, now)
    now -= 1
    with open(told, "w") as file:
        file.write(str(most))
def opened(event, arguments):
    path = str(arguments[0]) if event == "open" else ""
    if path.endswith(".dcm"):
        {do}
sys.addaudithook(opened)
"""
    (place / "modules").mkdir()
    (place / "modules" / "fnmatch.py").write_text(script)
    monkeypatch.syspath_prepend(place / "modules")


def children() -> int:
    """Return how many processes that read headers we have begun."""
    return len(readers())


def readers() -> list[psutil.Process]:
    """Return the processes that read headers: the tests have begun others too."""
    found = []
    for process in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            found += [process] if any("import serve" in word for word in process.cmdline()) else []
    return found


async def test_small_bodies_are_read_ahead_where_threads_read(tmp_path: Path) -> None:
    """Nobody knows a disk at first; bodies to digest are always read in threads."""
    file = write(tmp_path / "1.dcm", image(1))
    assert (await folder(tmp_path)).read_ahead == LARGE
    digesting = await anyio.to_thread.run_sync(partial(FileSource, [tmp_path], digests=True))
    for _ in range(20):
        await digesting.read([file])
    assert digesting.read_ahead == LARGE


@pytest.mark.parametrize(
    ("content", "truncated"),
    [
        (image(1, pixels=100), False),
        (image(1, pixels=100)[:-1], True),
        (image(1, PixelData=None), True),
    ],
    ids=["whole", "the last byte", "no pixels"],
)
async def test_a_truncated_file_is_told_from_a_whole_one(tmp_path: Path, content: bytes, truncated: bool) -> None:
    """Pydicom calls all of them fine, and XNAT takes them."""
    file = write(tmp_path / "file", content)
    found = (await folder(tmp_path)).identify(file)
    assert not isinstance(found, Ignored)
    assert bool(found.truncated) is truncated
