"""Drop directories: studies that come while a run watches, and those that are still being written."""

import os
import signal
import time
from pathlib import Path

import anyio
import pytest
from conftest import Commands
from scenery import image, sop, write

from asyncimport.testserver import Fault, Status, Tell, TestXnat

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]


def drop(place: Path, study: int, count: int, *, age: float = 3600) -> None:
    """Write a study whose files changed so many seconds ago."""
    for number in range(10 * study, 10 * study + count):
        file = write(place / f"{number}", image(number, StudyInstanceUID=f"1.2.{study}", PatientID=f"P{study}"))
        when = time.time() - age
        os.utime(file.path, (when, when))


def run_over(xnat: TestXnat, kind: str, *, nth: int = 1) -> anyio.Event:
    """Give an event that is set at the end of the run with the nth request of a kind."""
    event = anyio.Event()

    def ends() -> None:
        xnat.faults.add(Fault("logout", Tell(event.set)))

    xnat.faults.add(Fault(kind, Tell(ends), nth=nth))
    return event


async def test_a_study_that_is_being_written_waits(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """One of its files has just changed: none of it is sent; a later run, as cron makes it, takes it."""
    place = tmp_path / "drop"
    drop(place / "a", 1, 3)
    drop(place / "b", 2, 2)
    drop(place / "b", 3, 1)
    os.utime(place / "b" / "20")
    commands.login(url)
    words = ("upload", place, "-P", "demo", "-o", "json", "--quiet-time", "5m")
    first = await commands(*words)
    assert (first.code, first.json["files"]["stored"], first.json["files"]["skipped"]) == (0, 4, 2)
    assert {one.label for one in xnat.archived} == {"P1_20200102", "P3_20200102"}
    drop(place / "b", 2, 2)
    second = await commands(*words)
    assert (second.code, second.json["files"]["stored"], second.json["files"]["already_stored"]) == (0, 2, 4)
    assert len(xnat.archived) == 3


async def test_a_watch_takes_what_comes_until_it_is_stopped(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """It begins with nothing, outlives a server that refuses the login check for a while, and logs out in the end."""
    place = tmp_path / "drop"
    place.mkdir()
    commands.login(url)
    words = ("upload", place, "-P", "demo", "-q", "--watch", "0.1s", "--quiet-time", "1m")
    idle, first, second = run_over(xnat, "login"), run_over(xnat, "archive"), run_over(xnat, "archive", nth=2)
    with anyio.fail_after(40):
        async with commands.start(*words) as process:
            await idle.wait()
            drop(place / "a", 1, 2)
            xnat.faults.add(Fault("login", Status(503), times=4))
            await first.wait()
            drop(place / "b", 2, 2)
            await second.wait()
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
    assert xnat.sop_uids() == {sop(number) for number in (10, 11, 20, 21)}
    assert xnat.count["import"] == 4
    assert xnat.live_logins("demo") == 0
