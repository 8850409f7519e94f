"""`asyncimport status`: its output, and that it never disturbs a run."""

import csv
import ctypes
import io
import os
import shutil
import sqlite3
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import filelock
import pytest
from conftest import Commands, Ended
from journals import ROOT, Disk, archived, instance, meet, opened, scan, sealed_by, send, session, stored, whole_run
from patience import COMMAND, in_time

from asyncimport.cli.status import _about, _cell
from asyncimport.errors import JournalBusyError
from asyncimport.journal import Journal, JournalReader
from asyncimport.journal.database import is_locked, locked
from asyncimport.model.deliveries import Claim, Failed, Outcome, Refused
from asyncimport.model.files import File, Ignored
from asyncimport.model.states import FileKind, Refusal
from asyncimport.testserver import TestXnat
from asyncimport.testserver.samples import generated

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

E1, E2 = session("E1"), session("E2", subject="S2")


@pytest.fixture(autouse=True)
def blockbuster() -> None:
    """Allow tests to write journals between commands, which run in other processes."""


def failing(claim: Claim) -> Outcome:
    """Acknowledge, refuse and fail files, as their names say."""
    name = claim.instance.file.path
    if "refused" in name:
        return Refused(claim, "=cmd|' /C calc'!A0", attempts=2, kind=Refusal.DROPPED)
    return Failed(claim, "no answer", attempts=8) if "failed" in name else stored(claim)


def filled(path: Path) -> Disk:
    """Make a journal with files of every state."""
    disk = Disk()
    disk.put(
        instance("a-stored", E1),
        instance("b-refused", E1),
        instance("c-copy", E1, sop="1.2.E1.a-stored"),
        instance("d-failed", E2),
        Ignored(File(f"{ROOT}/e-bad", 7, 1_000), FileKind.UNREADABLE, "truncated", session=E1, sop_uid="1.2.lost"),
    )
    whole_run(path, disk, failing)
    return disk


class TestWhatItTells:
    """The table for people, JSON for programs, CSV for spreadsheets."""

    async def test_csv_has_a_row_for_each_session(self, commands: Commands, path: Path) -> None:
        """A spreadsheet reads it, and runs no formula."""
        filled(path)
        ended = await commands("status", "--journal", path, "-o", "csv")
        assert ended.code == 0, ended.err
        rows = list(csv.DictReader(io.StringIO(ended.out)))
        assert rows == [
            {
                "project": "P", "subject": "S1", "session": "E1", "study_uid": "1.2.E1", "state": "held", "files": "2",
                "bytes": "20", "uri": "/prearchive/E1/1", "verified": "", "reason": "1 of its files cannot be read",
            },
            {
                "project": "P", "subject": "S2", "session": "E2", "study_uid": "1.2.E2", "state": "held", "files": "1",
                "bytes": "10", "uri": "", "verified": "", "reason": "1 of its files could not be sent",
            },
        ]  # fmt: skip

    async def test_a_session_has_its_files_and_deliveries(self, commands: Commands, path: Path) -> None:
        """Each file has state, attempts, time and reason, also files that are not sent or unreadable."""
        disk = filled(path)
        disk.remove("e-bad")
        whole_run(path, disk, failing)
        disk.put(Ignored(File(f"{ROOT}/e-bad", 7, 2_000), FileKind.UNREADABLE, "worse", session=E1, sop_uid="1.2.lost"))
        with opened(path) as journal:
            meet(journal, disk)
            journal.scan.finish([ROOT])
        found = (await commands("status", "e1", "--journal", path, "-o", "json")).json
        files = {Path(file["path"]).name: file for file in found["files"]}
        assert {name: (file["state"], file["attempts"], file["reason"]) for name, file in files.items()} == {
            "a-stored": ("stored", 1, None),
            "b-refused": ("refused", 2, "=cmd|' /C calc'!A0"),
            "c-copy": ("duplicate", None, "the same bytes"),
            "e-bad": ("unreadable", None, "worse"),
        }
        assert files["a-stored"]["time"].endswith("+00:00")
        assert files["e-bad"]["sop_uid"] == "1.2.lost"
        (delivery,) = found["deliveries"]
        assert delivery["prearchive_uri"] == "/data/prearchive/E1/1"
        assert (delivery["state"], delivery["uri"], delivery["verified"]) == ("archived", "/archive/E1", "uids")
        rows = list(csv.DictReader(io.StringIO((await commands("status", "E1", "--journal", path, "-o", "csv")).out)))
        assert {(row["state"], row["reason"]) for row in rows} == {
            ("stored", ""), ("refused", "'=cmd|' /C calc'!A0"), ("duplicate", "the same bytes"), ("unreadable", "worse")
        }  # fmt: skip
        table = (await commands("status", "E1", "--journal", path)).out
        assert "delivery 1: archived, 1 file, /data/prearchive/E1/1 -> /archive/E1, verified by uids" in table
        assert "=cmd" in table

    async def test_remaining_files_and_time(self, commands: Commands, path: Path) -> None:
        """The time follows from the rate of the last run that stored files; it is null if that is unknown."""
        disk = Disk()
        disk.put(*[instance(f"{number}", E1, size=100) for number in range(30)])
        now = [1_000_000.0]
        with Journal(path, destination="https://xnat.test", rules={"project": "P"}, clock=lambda: now[0]) as journal:
            scan(journal, disk)
            for _ in range(10):
                claims = journal.queue.claim(1, max_active=1)
                assert claims
                journal.queue.record_outcomes([stored(claim) for claim in claims])
                now[0] += 1
            with JournalReader.open(path) as reader:
                assert reader.remaining().seconds is None
            # A night in between does not count, but for the stretches that its ends are in.
            now[0] += 50_000
            for _ in range(10):
                claims = journal.queue.claim(1, max_active=1)
                assert claims
                journal.queue.record_outcomes([stored(claim) for claim in claims])
                now[0] += 1
            with JournalReader.open(path) as reader:
                left = reader.remaining()
            assert (left.files, left.size) == (10, 1_000)
            assert left.seconds == 300.0
            journal.end_run(130)
        ended = await commands("status", "--journal", path)
        assert "left to send: 10 files, 1.0 kB; about 5 min at the rate of the last run" in ended.out
        assert (await commands("status", "--journal", path, "-o", "json")).json["remaining"] == {
            "files": 10, "bytes": 1_000, "seconds": 300
        }  # fmt: skip

    def test_large_files_take_longer(self, path: Path) -> None:
        """The remaining files may be larger than those that were sent."""
        disk = Disk()
        disk.put(*[instance(f"{number:02}", E1, size=1_000 if number == 20 else 10) for number in range(21)])
        now = [0.0]
        with Journal(path, destination="https://xnat.test", rules={}, clock=lambda: now[0]) as journal:
            scan(journal, disk)
            while claims := journal.queue.claim(1, max_active=1):
                if claims[0].instance.file.size == 1_000:
                    break
                journal.queue.record_outcomes([stored(claims[0])])
                now[0] += 1
            with JournalReader.open(path) as reader:
                left = reader.remaining()
        assert (left.files, left.seconds) == (1, 19.0 * 1_000 / 200)

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0, "less than a minute"),
            (59, "less than a minute"),
            (60, "about 1 min"),
            (5_300, "about 88 min"),
            (7_000, "about 2 h"),
            (86_400, "about 24 h"),
            (150_000, "about 2 days"),
        ],
    )
    def test_an_estimate(self, seconds: float, text: str) -> None:
        """It is rounded."""
        assert _about(seconds) == text

    @pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\uff1d1", "-", "\uff20x"])
    def test_formulas_are_escaped(self, text: str) -> None:
        """An apostrophe keeps a spreadsheet from running them."""
        assert _cell(text) == f"'{text}"

    @pytest.mark.parametrize("value", ["1.2.840.113619.2.1", "E1", "", 12, None, "a=1"])
    def test_other_cells_stay(self, value: object) -> None:
        """Other values do not change."""
        assert _cell(value) == value

    def test_a_cell_cannot_write_to_a_terminal(self) -> None:
        """Nor start another line."""
        assert _cell("\t=1\x1b\n\udcff") == "\\t=1\\x1b\\n\\xff"


class TestAtWork:
    """Whether a run is at work."""

    async def test_a_running_run_is_not_called_killed(self, commands: Commands, path: Path) -> None:
        """Neither has an end, but only a running one holds the lock."""
        with opened(path):
            assert "is at work" in (await commands("status", "--journal", path)).out
            assert (await commands("status", "--journal", path, "-o", "json")).json["at_work"] is True
        assert "was killed" in (await commands("status", "--journal", path)).out
        with opened(path) as journal:
            journal.end_run(0)
            with JournalReader.open(path) as reader:
                assert reader.is_running(reader.runs()[-1]) is False
        assert (await commands("status", "--journal", path, "-o", "json")).json["at_work"] is False

    def test_a_run_that_ends_meanwhile_was_at_work(self, path: Path) -> None:
        """It may end after its row is read and before its lock is tried."""
        with opened(path) as journal, JournalReader.open(path) as reader:
            seen = reader.runs()[-1]
            journal.end_run(0)
            journal.close()
            assert reader.is_running(seen) is True

    def test_status_creates_no_file(self, path: Path) -> None:
        """It creates no lock file."""
        path.parent.mkdir()
        assert is_locked(path) is False
        assert list(path.parent.iterdir()) == []

    def test_status_does_not_block_a_run(self, path: Path) -> None:
        """`status` holds the lock for a moment; a run that starts then waits."""
        opened(path).close()
        held = filelock.FileLock(f"{path}.lock", thread_local=False)
        held.acquire()
        timer = threading.Timer(0.05, held.release)
        timer.start()
        try:
            locked(path).release()
        finally:
            timer.join()

    def test_status_does_not_wait_for_a_run(self, path: Path) -> None:
        """A run may hold the lock for hours."""
        with opened(path), pytest.raises(JournalBusyError):
            locked(path)


async def test_status_during_a_real_run(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path) -> None:
    """It always answers, its counts add up, and the run loses nothing."""
    tree = tmp_path / "tree"
    written = generated(tree, sessions=6, files=1_500, size=1_000, seed=5)
    commands.login(url)
    told: list[Ended] = []
    async with commands.start("upload", tree, "-P", "demo", "-w", "2", "-q") as process:
        with in_time(COMMAND):
            while process.returncode is None:
                ended = await commands("status", "-o", "json")
                # Before there is a journal, there is nothing to tell.
                if ended.code != 2:
                    told.append(ended)
    assert process.returncode == 0
    assert len(xnat.sop_uids()) == written.instances == 1_500
    at_work = 0
    for ended in told:
        assert ended.code == 0, ended.err
        files = ended.json["files"]
        assert files["found"] == sum(detail["files"] for detail in ended.json["details"])
        assert files["left"] == ended.json["remaining"]["files"] == files["found"] - files["stored"]
        at_work += ended.json["at_work"]
    assert at_work
    last = (await commands("status", "-o", "json")).json
    assert (last["files"]["stored"], last["at_work"]) == (1_500, False)


def test_status_during_a_checkpoint(path: Path) -> None:
    """Each reader sees one moment, and no reader blocks the writer."""
    done = threading.Event()
    looks: list[int] = []
    blocked: list[int] = []

    def look() -> None:
        before = 0
        while not done.is_set():
            with JournalReader.open(path) as reader, reader.snapshot():
                summary, left = reader.summary(), reader.remaining()
            assert summary.files.found == sum(report.files for report in summary.sessions)
            assert left.files == summary.files.left == summary.files.found - summary.files.stored
            assert summary.files.found >= before
            before = summary.files.found
            looks.append(before)

    failures: list[BaseException] = []

    def escape_cell(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - a thread's failure is the test's
                failures.append(error)

        return run

    with opened(path) as journal, closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as other:
        threads = [threading.Thread(target=escape_cell(look)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for batch in range(30):
                of = session(f"E{batch}")
                journal.scan.admit([instance(f"{batch}-{number}", of) for number in range(50)])
                while claims := journal.queue.claim(64, max_active=1_000):
                    journal.queue.record_outcomes([stored(claim) for claim in claims])
                blocked += [row[0] for row in other.execute("PRAGMA wal_checkpoint(TRUNCATE)")]
            journal.scan.finish([ROOT])
            while sealed := sealed_by(journal):
                journal.deliveries.record_verdict(archived(sealed))
            send(journal)
        finally:
            done.set()
            for thread in threads:
                thread.join()
        journal.end_run(0)
    assert failures == []
    assert blocked == [0] * 30
    assert len(looks) > 10
    with JournalReader.open(path) as reader:
        assert reader.summary().files.stored == 1_500


# Without these rights of root (capabilities) the modes of files count, as they do for everybody else.
READ_AS_OTHERS_DO = """
import ctypes, os, sys
if os.getuid() == 0:
    for right in (1, 2, 3):
        assert ctypes.CDLL(None).prctl(24, right, 0, 0, 0) == 0
os.execv(sys.executable, [sys.executable, "-m", "asyncimport", *sys.argv[1:]])
"""


@contextmanager
def read_only(*places: Path) -> Iterator[None]:
    """Make files and directories read-only while the block runs."""
    before = {place: stat.S_IMODE(place.stat().st_mode) for place in places}
    try:
        for place in places:
            place.chmod(0o555 if place.is_dir() else 0o444)
        yield
    finally:
        for place, mode in before.items():
            place.chmod(mode)


async def as_others_do(commands: Commands, *words: str | os.PathLike[str]) -> Ended:
    """Run a command that respects the modes of files."""
    done = await anyio.run_process(
        [sys.executable, "-c", READ_AS_OTHERS_DO, *words],
        env=commands.env | {"PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.skipif(
    sys.platform == "win32" or (os.name == "posix" and os.getuid() == 0 and not hasattr(ctypes.CDLL(None), "prctl")),
    reason="Windows has no modes, and only Linux lets root give its rights away",
)
class TestReadOnly:
    """Reads without write permission."""

    @pytest.fixture
    def commands(self, commands: Commands) -> Commands:
        """Measure no coverage: its data could not be written either."""
        commands.env = {name: value for name, value in commands.env.items() if not name.startswith("COV")}
        return commands

    async def test_a_read_during_a_run(self, commands: Commands, path: Path) -> None:
        """The files and the directory of a run may be read-only; committed rows are seen."""
        with opened(path) as journal:
            journal.scan.admit([instance("a"), instance("b")])
            for places in ([*path.parent.iterdir()], [path.parent], [*path.parent.iterdir(), path.parent]):
                with read_only(*places):
                    ended = await as_others_do(commands, "status", "--journal", path, "-o", "json")
                assert ended.code == 0, ended.err
                assert ended.json["files"]["left"] == 2
                # A lock that cannot be tried tells nothing.
                assert ended.json["at_work"] is (True if places == [path.parent] else None)
            journal.scan.admit([instance("c")])
            assert names_left(journal) == 3

    async def test_a_read_after_a_run(self, commands: Commands, path: Path) -> None:
        """The logs no longer exist, and cannot be created."""
        filled(path)
        before = sorted(path.parent.iterdir())
        with read_only(*before, path.parent):
            ended = await as_others_do(commands, "status", "--journal", path, "-o", "json")
        assert ended.code == 0, ended.err
        assert ended.json["files"]["stored"] == 1
        assert sorted(path.parent.iterdir()) == before

    async def test_a_read_after_a_kill(self, commands: Commands, path: Path, tmp_path: Path) -> None:
        """Rows that are only in the log are read from it; without its index that is an error."""
        copy = tmp_path / "copy"
        with opened(path) as journal:
            journal.scan.admit([instance("a")])
            await anyio.to_thread.run_sync(shutil.copytree, path.parent, copy)
        with read_only(*copy.iterdir(), copy):
            ended = await as_others_do(commands, "status", "--journal", copy / path.name, "-o", "json")
        assert ended.code == 0, ended.err
        assert ended.json["files"]["left"] == 1
        (copy / f"{path.name}-shm").unlink()
        with read_only(*copy.iterdir(), copy):
            ended = await as_others_do(commands, "status", "--journal", copy / path.name)
        assert ended.code == 1
        assert "copy it with its -wal file" in ended.err


def names_left(journal: Journal) -> int:
    """Count what a run has to send."""
    return JournalReader.of(journal).remaining().files
