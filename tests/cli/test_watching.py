"""Drop directories: studies that arrive during a watch, and studies that are still being written."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import anyio
import filelock
import pytest
from builders import image, sop, write
from conftest import Commands, output
from patience import RUN, in_time
from process_lines import Lines

from asyncimport.testserver import Fault, Status, Tell, TestXnat, User, serve

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]


def drop(place: Path, study: int, count: int, *, age: float = 3600) -> None:
    """Write a study whose files are this many seconds old. A watch sees all of it at once, or nothing."""
    aside = place.parent.parent / f"aside {study}"
    for number in range(10 * study, 10 * study + count):
        file = write(aside / f"{number}", image(number, StudyInstanceUID=f"1.2.{study}", PatientID=f"P{study}"))
        when = time.time() - age
        os.utime(file.path, (when, when))
    place.parent.mkdir(exist_ok=True)
    aside.rename(place)


def run_over(xnat: TestXnat, kind: str, *, nth: int = 1) -> anyio.Event:
    """Return an event that is set by the nth request of a kind, which looks for orphans at the end of a run."""
    event = anyio.Event()

    def ends() -> None:
        xnat.faults.add(Fault("listing", Tell(event.set), path="prearchive/projects/demo?"))

    xnat.faults.add(Fault(kind, Tell(ends), nth=nth))
    return event


async def test_a_watch_uploads_new_studies_until_it_is_stopped(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """It starts without files, survives an overloaded server, and logs out at its end."""
    place = tmp_path / "drop"
    place.mkdir()
    commands.login(url)
    words = ("upload", place, "-P", "demo", "-q", "--watch", "0.1s", "--min-age", "0s")
    first, second = run_over(xnat, "archive"), run_over(xnat, "archive", nth=2)
    with in_time(RUN):
        async with commands.start(*words) as process:
            await after(xnat, 2)
            drop(place / "a", 1, 2)
            xnat.faults.add(Fault("listing", Status(503), path="permissions=edit", times=4))
            await first.wait()
            drop(place / "b", 2, 2)
            await second.wait()
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
    assert xnat.sop_uids() == {sop(number) for number in (10, 11, 20, 21)}
    assert xnat.count["import"] == 4
    assert xnat.count["login"] == 1
    assert xnat.live_logins("demo") == 0


async def after(xnat: TestXnat, runs: int) -> None:
    """Wait for this many more runs of a watch."""
    event = anyio.Event()
    xnat.faults.add(Fault("listing", Tell(event.set), path="permissions=edit", nth=runs))
    with in_time(RUN):
        await event.wait()


QUICK = ("--watch", "0.05s", "--min-age", "0s")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_watch_logs_in_once_and_writes_one_object(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, number: signal.Signals
) -> None:
    """The object sums up its runs, with files that are no longer in the directory; the watch is stopped in a pause."""
    place = tmp_path / "drop"
    drop(place / "old", 7, 2)
    commands.login(url)
    assert (await commands("upload", place, "-P", "demo", "-q")).code == 0
    logins = xnat.count["login"]
    async with commands.start("upload", place, "-P", "demo", "-o", "json", *QUICK) as process:
        for study in (1, 2, 3):
            archived = run_over(xnat, "archive")
            drop(place / f"{study}", study, 2)
            with in_time(RUN):
                await archived.wait()
            await after(xnat, 2)
            if study == 2:
                shutil.rmtree(place / "1")
                await after(xnat, 2)
        xnat.expire_logins()
        await after(xnat, 3)
        process.send_signal(number)
        ended = await output(process)
    assert ended.code == 128 + number
    summary = ended.json
    assert summary["exit_code"] == 128 + number
    files = summary["files"]
    assert (files["stored"], files["already_stored"], files["found"]) == (6, 2, 8)
    assert summary["sessions"]["archived"] == 4
    assert summary["bytes"]["stored"] < summary["bytes"]["found"]
    assert xnat.count["login"] - logins == 2, "the second one, as the first had expired"
    assert xnat.live_logins("demo") == 0
    assert not [path for path in commands.home.rglob("*.lock") if locked(path)]


async def test_receipts_of_a_watch_outlive_the_files(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """They have what each look has brought, and are not written again where nothing has arrived."""
    receipts = tmp_path / "receipts.jsonl"
    drop(tmp_path / "drop" / "a", 1, 2)
    commands.login(url)
    async with commands.start("upload", tmp_path / "drop", "-P", "demo", *QUICK, "--receipts", receipts) as process:
        await after(xnat, 2)
        shutil.rmtree(tmp_path / "drop" / "a")
        await after(xnat, 2)
        first = receipts.stat()
        archived = run_over(xnat, "archive")
        drop(tmp_path / "drop" / "b", 2, 2)
        with in_time(RUN):
            await archived.wait()
        await after(xnat, 2)
        second = receipts.stat()
        await after(xnat, 2)
        assert receipts.stat() == second != first
        process.send_signal(signal.SIGTERM)
        await process.wait()
    assert {line["sop_uid"] for line in map(json.loads, receipts.read_text().splitlines()) if "sop_uid" in line} == {
        sop(number) for number in (10, 11, 20, 21)
    }


def locked(path: Path) -> bool:
    """Return whether a lock is held."""
    try:
        with filelock.FileLock(path, blocking=False):
            return False
    except filelock.Timeout:
        return True


async def test_idle_runs_write_nothing(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path) -> None:
    """A summary is written when a study arrives, and an unreadable file is reported once."""
    place = tmp_path / "drop"
    drop(place / "a", 1, 2)
    write(place / "a" / "broken", image(19)[:300])
    commands.login(url)
    async with commands.start("upload", place, "-P", "demo", "--partial", "archive", *QUICK) as process:
        await after(xnat, 6)
        process.send_signal(signal.SIGTERM)
        ended = await output(process)
    assert ended.code == 143
    assert ended.out.count("3 DICOM files") + ended.out.count("2 DICOM files") == 1, ended.out
    assert ended.err.splitlines() == [
        "looking for new studies every 0.05 s; Ctrl-C stops",
        "stopping: what is in flight may finish (30 s at most); once more to stop at once",
        "stopped; the same command goes on from here",
    ]


async def test_a_study_without_a_label_does_not_block_others(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """Outside of a watch, nothing would be sent under labels that whole studies decide. The study is reported once."""
    place = tmp_path / "drop"
    write(place / "x" / "1", image(1, StudyInstanceUID="1.2.1", PatientID=None))
    drop(place / "a", 2, 2)
    commands.login(url)
    words = ("upload", place, "-P", "demo", "--on-collision", "suffix", *QUICK)
    async with commands.start(*words) as process:
        await after(xnat, 4)
        archived = run_over(xnat, "archive")
        drop(place / "b", 3, 2)
        with in_time(RUN):
            await archived.wait()
        await after(xnat, 3)
        process.send_signal(signal.SIGTERM)
        ended = await output(process)
    assert ended.code == 143
    assert {one.label for one in xnat.archived} == {"P2_20200102", "P3_20200102"}
    assert ended.out.count("error skipped, 1 file: study 1.2.1") == 2, "with each summary of what was new"
    assert "error" not in ended.err


async def test_a_missing_directory_is_waited_for(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path) -> None:
    """It is reported once, at the start and later, and the watch continues when it is back."""
    place = tmp_path / "drop"
    commands.login(url)
    async with commands.start("upload", place, "-P", "demo", *QUICK) as process:
        assert process.stderr is not None
        err = Lines(process.stderr)
        await err.until("is away: no such file or directory")
        drop(place / "a", 1, 2)
        await err.until("going on")
        await after(xnat, 3)
        place.rename(tmp_path / "unmounted")
        await err.until("is away: no such file or directory")
        (tmp_path / "unmounted").rename(place)
        await err.until("going on")
        archived = run_over(xnat, "archive")
        drop(place / "b", 2, 2)
        with in_time(RUN):
            await archived.wait()
        process.send_signal(signal.SIGTERM)
        await process.wait()
        assert process.returncode == 143
    assert len(xnat.archived) == 2
    assert sum("is away" in line for line in err.lines) == 2


async def test_a_server_that_is_away(xnat: TestXnat, commands: Commands, tmp_path: Path, unused_port: int) -> None:
    """It is reported once, before the first login and later; the watch waits, and continues with a new login."""
    place = tmp_path / "drop"
    drop(place / "a", 1, 2)
    commands.login(f"http://127.0.0.1:{unused_port}")
    async with commands.start("upload", place, "-P", "demo", "--outage-timeout", "4s", *QUICK) as process:
        assert process.stderr is not None
        err = Lines(process.stderr)
        await err.until("error:")
        async with serve(xnat, port=unused_port):
            await err.until("going on")
            await after(xnat, 2)
        await err.until("error:")
        drop(place / "b", 2, 2)
        async with serve(xnat, port=unused_port):
            await err.until("going on")
            await after(xnat, 2)
            process.send_signal(signal.SIGTERM)
            await process.wait()
        assert process.returncode == 143
    assert len(xnat.archived) == 2
    assert sum("error:" in line for line in err.lines) == 2


async def test_max_duration_is_for_the_whole_watch(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """It ends a pause as well as a run."""
    place = tmp_path / "drop"
    drop(place / "a", 1, 2)
    commands.login(url)
    words = ("upload", place, "-P", "demo", "-o", "json", "--watch", "10m", "--min-age", "0s")
    # A run takes little longer, on this machine.
    began = time.monotonic()
    assert (await commands("upload", place, "-P", "demo", "-q", "--dry-run")).code == 0
    longest = ("--max-duration", f"{2 + 5 * (time.monotonic() - began):.0f}s")
    with in_time(RUN):
        ended = await commands(*words, *longest)
    assert (ended.code, ended.json["files"]["stored"]) == (130, 2)
    ended = await commands("upload", place, "-P", "demo", "-o", "json", *QUICK, *longest)
    assert (ended.code, ended.json["files"]["already_stored"]) == (130, 2)
    assert xnat.live_logins("demo") == 0


async def test_a_refused_login_ends_a_watch(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path) -> None:
    """More attempts would lock the account."""
    place = tmp_path / "drop"
    drop(place / "a", 1, 2)
    commands.login(url)
    async with commands.start("upload", place, "-P", "demo", "-o", "json", *QUICK) as process:
        await after(xnat, 3)
        xnat.add_user(User("demo", "another"))
        xnat.expire_logins()
        ended = await output(process)
    assert (ended.code, ended.json["exit_code"], ended.json["files"]["stored"]) == (3, 3, 2)
    assert "refused" in ended.json["error"]["message"]
    tried = xnat.count["login"]
    assert (await commands("upload", place, "-P", "demo", "-o", "json", *QUICK)).code == 3
    assert xnat.count["login"] == tried + 1


@pytest.mark.parametrize("pause", ["0", "0s", "0.0m"])
async def test_a_watch_without_a_pause_is_refused(url: str, commands: Commands, tmp_path: Path, pause: str) -> None:
    """It would be a busy loop."""
    commands.login(url)
    ended = await commands("upload", tmp_path, "-P", "demo", "--watch", pause)
    assert ended.code == 2
    assert "hint: " in ended.err
