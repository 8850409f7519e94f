"""SIGINT and SIGTERM end every command gracefully: exit code, logout, lock, and the results so far."""

import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from anyio.abc import Process
from conftest import Commands, Ended, output
from patience import COMMAND, in_time

from asyncimport.testserver import Fault, Stall, Tell, TestXnat, Timing, add_session
from asyncimport.testserver.samples import generated

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals for one process"),
]

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])


def sending(process: Process, number: signal.Signals) -> Tell:
    """Make a fault that sends a signal and does not change the request."""
    return Tell(lambda: process.send_signal(number))


@pytest.fixture
async def uploaded(url: str, commands: Commands, tmp_path: Path) -> Commands:
    """Upload a tree of five sessions."""
    await anyio.to_thread.run_sync(lambda: generated(tmp_path / "many", sessions=5, files=20, size=500, seed=3))
    commands.login(url)
    done = await commands("upload", tmp_path / "many", "-P", "demo", "-q")
    assert done.code == 0
    return commands


@BOTH
@pytest.mark.parametrize(("kind", "nth"), [("login", 1), ("listing", 1), ("listing", 6)])
async def test_verify(xnat: TestXnat, uploaded: Commands, number: signal.Signals, kind: str, nth: int) -> None:
    """During login and comparison: the results so far are reported, and the login is ended."""
    async with uploaded.start("verify", "-o", "json") as process:
        xnat.faults.add(Fault(kind, sending(process, number), nth=nth))
        done = await output(process)
    assert (done.code, done.json["exit_code"]) == (128 + number, 128 + number), done.err
    assert "stopped" in done.err
    assert xnat.live_logins("demo") == 0
    assert (await uploaded("verify")).code == 0


@BOTH
async def test_verify_that_repairs(xnat: TestXnat, uploaded: Commands, tmp_path: Path, number: signal.Signals) -> None:
    """Files in flight finish, the journal is unlocked, and the next upload sends the rest."""
    lost = 0
    for scan in xnat.archived[0].scans.values():
        for resource in scan.resources.values():
            lost += len(resource.files)
            resource.files.clear()
    before = xnat.count["import"]
    async with uploaded.start("verify", "--repair", "--safe-to-delete", tmp_path / "safe", "-o", "json") as process:
        xnat.faults.add(Fault("import", sending(process, number)))
        done = await output(process)
    assert done.code == 128 + number, done.err
    assert xnat.live_logins("demo") == 0
    assert not (tmp_path / "safe").exists()
    assert "`asyncimport upload` sends the rest" in done.err
    assert (await uploaded("upload", tmp_path / "many", "-P", "demo", "-q")).code == 0
    assert xnat.count["import"] - before == lost
    assert len(xnat.sop_uids()) == 20


@BOTH
async def test_doctor(xnat: TestXnat, url: str, commands: Commands, number: signal.Signals) -> None:
    """The findings so far are reported, and the login is ended."""
    commands.login(url)
    async with commands.start("doctor", "-P", "demo", "-o", "json") as process:
        xnat.faults.add(Fault("listing", sending(process, number), path="projects/demo"))
        done = await output(process)
    assert (done.code, done.json["exit_code"]) == (128 + number, 128 + number), done.err
    assert xnat.live_logins("demo") == 0


@BOTH
@pytest.mark.parametrize(("kind", "nth"), [("login", 1), ("file", 5)])
async def test_attach(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, number: signal.Signals, kind: str, nth: int
) -> None:
    """Files in flight finish; the rest is reported as left."""
    session = add_session(xnat, "S", "E", study_uid="1.2")
    xnat.timing = Timing(saving_seconds=0.02)
    for one in range(30):
        (tmp_path / f"{one}.txt").write_text(str(one))
    commands.login(url)
    table = tmp_path / "table.csv"
    table.write_text("path,session_label,resource\n" + "".join(f"{one}.txt,E,R{one}\n" for one in range(30)))
    async with commands.start("attach", "--table", table, "-P", "demo", "-o", "json") as process:
        xnat.faults.add(Fault(kind, sending(process, number), nth=nth))
        done = await output(process)
    assert (done.code, done.json["exit_code"]) == (128 + number, 128 + number), done.err
    there = sum(bool(resource.files) for resource in session.own_resources.values())
    assert done.json["attachments"]["left"] == 30 - there > 0
    assert xnat.live_logins("demo") == 0


@BOTH
@pytest.mark.parametrize("words", [("plan",), ("upload", "-P", "demo"), ("upload", "-P", "demo", "--watch", "1s")])
async def test_before_anything_begins(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, tree: Path, number: signal.Signals, words: list[str]
) -> None:
    """The command waits for a table of labels from a pipe."""
    commands.login(url)
    pipe = tmp_path / "pipe"
    await anyio.to_thread.run_sync(os.mkfifo, pipe)
    async with commands.start(words[0], tree, *words[1:], "--label-map", pipe, "-o", "json") as process:
        # To open it waits for a reader. A signal that comes right before Python reads is noticed when that ends.
        with await anyio.to_thread.run_sync(lambda: pipe.open("wb")):
            process.send_signal(number)
        done = await output(process)
    assert done.code == 128 + number, done.err
    assert "Traceback" not in done.err
    assert xnat.count["login"] == 0


@BOTH
async def test_a_server_that_does_not_answer(
    xnat: TestXnat, uploaded: Commands, tmp_path: Path, number: signal.Signals
) -> None:
    """The command ends at once."""
    for words in (("verify",), ("doctor",), ("upload", tmp_path / "many", "-P", "demo", "--dry-run")):
        xnat.faults.clear()
        async with uploaded.start(*words, "-o", "json") as process:

            def hang(process: Process = process) -> None:
                xnat.faults.add(Fault("any", Stall(), times=99))
                process.send_signal(number)

            xnat.faults.add(Fault("login", Tell(hang)))
            with in_time():
                assert (await output(process)).code == 128 + number


@contextmanager
def lock_of(path: Path) -> Iterator[sqlite3.Connection]:
    """Hold the lock that a backup program may have on a journal."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other


async def stopped_while_it_waits(process: Process, number: signal.Signals, times: int = 1) -> Ended:
    """Send a signal when the command reports that it waits for a lock, and wait for its end."""
    assert process.stderr is not None
    said = b""
    with in_time(COMMAND):
        # A second signal is one only when the first has been heard.
        for sign in (b"waiting for it", b"stopping")[:times]:
            while sign not in said:
                said += await process.stderr.receive()
            process.send_signal(number)
    with in_time():
        return await output(process)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGINT, ("upload",)),
        (signal.SIGTERM, ("upload", "--max-sessions", "1")),
        (signal.SIGINT, ("upload", "--watch", "1s")),
        (signal.SIGTERM, ("verify", "--repair")),
        (signal.SIGINT, ("plan",)),
    ],
    ids=["upload", "pilot", "watch", "repair", "plan"],
)
async def test_another_programs_lock_before_anything_begins(
    xnat: TestXnat, uploaded: Commands, tmp_path: Path, number: signal.Signals, words: tuple[str, ...]
) -> None:
    """The command does not wait any longer for a locked journal or header cache."""
    plans = words == ("plan",) or "--max-sessions" in words
    assert (await uploaded("plan", tmp_path / "many", "-P", "demo", "-o", "json")).code == 0
    if "--repair" in words:
        for scan in xnat.archived[0].scans.values():
            for resource in scan.resources.values():
                resource.files.clear()
    (path,) = uploaded.home.rglob("*.survey" if plans else "*.journal")
    source = () if words[0] == "verify" else (tmp_path / "many",)
    with lock_of(path):
        async with uploaded.start(words[0], *source, *words[1:], "-P", "demo", "-o", "json") as process:
            done = await stopped_while_it_waits(process, number)
    assert (done.code, done.json["exit_code"]) == (128 + number, 128 + number), done.err
    assert "stopped" in done.err
    assert xnat.live_logins("demo") == 0


@pytest.mark.parametrize(("number", "times"), [(signal.SIGTERM, 1), (signal.SIGINT, 2)], ids=["TERM", "INT twice"])
async def test_another_programs_lock_during_a_run(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, number: signal.Signals, times: int
) -> None:
    """Recorded outcomes are reported; the next run sends the others again, and nothing is lost."""
    await anyio.to_thread.run_sync(lambda: generated(tmp_path / "many", sessions=3, files=300, size=500, seed=3))
    commands.login(url)
    with ExitStack() as stack:

        def lock() -> None:
            (path,) = commands.home.rglob("*.journal")
            stack.enter_context(lock_of(path))

        # In a thread, as the test XNAT and the loop are one.
        xnat.faults.add(Fault("import", Tell(threading.Thread(target=lock).start), nth=20))
        async with commands.start("upload", tmp_path / "many", "-P", "demo", "-w", "2", "-o", "json") as process:
            done = await stopped_while_it_waits(process, number, times)
    assert (done.code, done.json["exit_code"]) == (128 + number, 128 + number), done.err
    assert done.json["files"]["stored"] + done.json["files"]["left"] > 0
    assert xnat.live_logins("demo") == 0
    again = await commands("upload", tmp_path / "many", "-P", "demo", "-o", "json")
    assert (again.code, again.json["sessions"]["archived"]) == (0, 3), again.err
    assert len(xnat.sop_uids()) == 300
