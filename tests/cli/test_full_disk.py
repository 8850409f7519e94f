"""The disk of the journal is full, at any moment of a real run: it ends with one line, and nothing is lost."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
from builders import uids_below
from conftest import Commands, Ended
from patience import COMMAND, in_time

from asyncimport.journal.database import create_or_open
from asyncimport.testserver import Fault, Tell, TestXnat
from asyncimport.testserver.samples import generated

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")]

FILES, SESSIONS = 300, 5
# Acknowledged, and not in the journal when it fails: a batch that fails, another that comes in meanwhile and fails too,
# and what is in flight or in hand by then; a batch is what 16 workers hold, and as many between them and the recorder.
MOST_AGAIN = 1 + 3 * (16 + 16)
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
os.execv(sys.executable, [sys.executable, "-m", "asyncimport", *sys.argv[2:]])
"""


@pytest.fixture(autouse=True)
def blockbuster() -> None:
    """Allow tests to read the disk during a request; the commands run in other processes."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write five sessions, whose journal takes several hundred kilobytes."""
    target = tmp_path / "tree"
    generated(target, sessions=SESSIONS, files=FILES, size=1_000, seed=11)
    return target


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Make the directory of the journal."""
    target = tmp_path / "state"
    target.mkdir()
    return target


@pytest.fixture
def commands(commands: Commands, url: str) -> Commands:
    """Let the commands write no file but the journal, whose disk is full."""
    commands.login(url)
    commands.env = {name: value for name, value in commands.env.items() if not name.startswith("COV")}
    commands.env["PYTHONDONTWRITEBYTECODE"] = "1"
    return commands


def upload(tree: Path, state: Path, *more: str) -> list[str]:
    """Return the words of the command."""
    return ["upload", str(tree), "-P", "demo", "-o", "json", "--state-dir", str(state), *more]


def empty_journal(tmp_path: Path) -> int:
    """Return the size of an empty journal."""
    path = tmp_path / "empty.journal"
    create_or_open(path).close()
    return path.stat().st_size


async def limited(commands: Commands, size: int, words: Sequence[str]) -> Ended:
    """Run a command that can write no file beyond a size."""
    command = [sys.executable, "-c", LIMITED, str(size), *words]
    with in_time(COMMAND):
        done = await anyio.run_process(command, env=commands.env, check=False)
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def check_failure(ended: Ended, state: Path) -> None:
    """Check that the run reports its journal in one line, a hint and its JSON."""
    (journal,) = state.glob("*.journal")
    assert ended.code == 1, ended.err
    error, hint = ended.err.splitlines()
    assert error.startswith(f"error: the journal {journal} cannot be written: ")
    assert "disk" in error
    assert hint.startswith("hint: make room on its disk")
    summary = ended.json
    assert summary["exit_code"] == 1
    assert f"error: {summary['error']['message']}" == error
    assert f"hint: {summary['error']['hint']}" == hint


async def check_rest(commands: Commands, xnat: TestXnat, tree: Path, state: Path, failed: Ended) -> None:
    """Check that the result claims nothing that XNAT lacks, and that the same command finishes later."""
    assert xnat.live_logins("demo") == 0
    files = failed.json["files"]
    assert files["stored"] <= len({record.sop_uid for record in xnat.imports if record.status == 200})
    assert files["failed"] == files["refused"] == files["unreadable"] == 0

    ended = await commands(*upload(tree, state))
    assert ended.code == 0, ended.err
    after = ended.json
    assert after["error"] is None
    assert after["files"]["already_stored"] == files["stored"]
    assert after["files"]["stored"] == FILES - files["stored"]
    assert after["sessions"]["archived"] == SESSIONS
    assert {detail["verified"] for detail in after["details"]} == {"uids"}
    assert xnat.sop_uids() == await uids_below(tree)
    assert len(xnat.archived) == SESSIONS
    assert not xnat.partial_files()
    assert not xnat.prearchive
    assert xnat.count["import"] <= FILES + MOST_AGAIN
    assert xnat.live_logins("demo") == 0


@pytest.mark.parametrize("share", [0, 0.1, 0.6, 0.9])
async def test_a_journal_that_cannot_be_created(
    xnat: TestXnat, commands: Commands, tree: Path, state: Path, tmp_path: Path, share: float
) -> None:
    """Nothing is sent, and an incomplete journal does not block the next run."""
    ended = await limited(commands, int(share * empty_journal(tmp_path)), upload(tree, state))
    check_failure(ended, state)
    assert ended.json["run"] is None
    assert ended.json["files"]["found"] == 0
    assert not xnat.count["import"]
    await check_rest(commands, xnat, tree, state, ended)


@pytest.mark.parametrize("room", [0, 50_000, 100_000])
async def test_a_disk_that_fills_during_the_scan(
    xnat: TestXnat, commands: Commands, tree: Path, state: Path, tmp_path: Path, room: int
) -> None:
    """The summary has what the journal has; with --check-first, nothing was sent."""
    ended = await limited(commands, empty_journal(tmp_path) + room, upload(tree, state, "--check-first"))
    check_failure(ended, state)
    assert ended.json["run"] == "1"
    assert ended.json["files"]["found"] < FILES
    assert ended.json["files"]["left"] == ended.json["files"]["found"]
    assert xnat.count["import"] == 0
    await check_rest(commands, xnat, tree, state, ended)


def fill(process: int, state: Path, room: int) -> None:
    """Limit the size of the journal of a process from now on."""
    (log,) = state.glob("*.journal-wal")
    if sys.platform == "linux":
        import resource

        limit = (log.stat().st_size + room, resource.RLIM_INFINITY)
        resource.prlimit(process, resource.RLIMIT_FSIZE, limit)


MOMENTS = [
    # The fourth is the first after the journal was opened.
    ("listing", 4, 0),
    ("listing", 4, 50_000),
    ("import", 1, 0),
    ("import", 100, 0),
    ("import", 200, 3_000),
    ("build", 1, 0),
    ("build", 5, 6_000),
    ("archive", 2, 0),
]


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process that is running")
@pytest.mark.parametrize(("kind", "nth", "room"), MOMENTS, ids=[f"{kind}-{nth}-{room}" for kind, nth, room in MOMENTS])
async def test_a_disk_that_fills_at_any_moment(
    xnat: TestXnat, commands: Commands, tree: Path, state: Path, kind: str, nth: int, room: int
) -> None:
    """While XNAT is at work on a request, whatever it is, and with a little room left that the journal may still use.

    What stands in the journal by then is kept and told, here and by `status`.
    """
    async with commands.start(*upload(tree, state)) as process:
        fault = xnat.faults.add(Fault(kind, Tell(partial(fill, process.pid, state, room)), nth=nth))
        assert process.stdout is not None
        assert process.stderr is not None
        with in_time(COMMAND):
            out = b"".join([piece async for piece in process.stdout])
            err = b"".join([piece async for piece in process.stderr])
            ended = Ended(await process.wait(), out.decode(), err.decode())
    assert fault.hits == 1
    check_failure(ended, state)
    assert ended.json["run"] == "1"
    if kind == "import" and nth > MOST_AGAIN:
        assert 0 < ended.json["files"]["stored"] < FILES
    told = json.loads((await commands("status", "--state-dir", state, "-o", "json")).out)
    assert told["files"] == ended.json["files"]
    await check_rest(commands, xnat, tree, state, ended)


@contextmanager
def small_disk(point: Path, kilobytes: int) -> Iterator[bool]:
    """Mount a small disk, and yield whether that was allowed."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k,mode=0700", "none", str(point)]
    if sys.platform != "linux" or os.getuid() != 0 or subprocess.run(command, check=False).returncode != 0:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


def enlarge(point: Path) -> None:
    """Make room on a small disk."""
    subprocess.run(["mount", "-o", "remount,size=50m", str(point)], check=True)


@pytest.mark.thorough
@pytest.mark.parametrize("kilobytes", [4, 80, 100, 160, 300, 520])
async def test_a_small_disk(xnat: TestXnat, commands: Commands, tree: Path, state: Path, kilobytes: int) -> None:
    """A real one, on which all files of the journal share the room; its errors are others than those of a limit.

    Where nothing may be mounted, a limit has to do.
    """
    with small_disk(state, kilobytes) as mounted:
        if mounted:
            with in_time(COMMAND):
                ended = await commands(*upload(tree, state))
            check_failure(ended, state)
            assert "disk is full" in ended.err or "disk I/O error" in ended.err
            enlarge(state)
        else:
            ended = await limited(commands, kilobytes * 500, upload(tree, state))
            check_failure(ended, state)
        await check_rest(commands, xnat, tree, state, ended)
