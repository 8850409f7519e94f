"""Faults that a run of the image pipeline meets on a real server."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from builders import (
    AT_ONCE,
    image,
    sop,
    states_in,
    uids_below,
    upload,
    write,
)
from memory_pipeline import FEW, ONE
from yarl import URL

from asyncimport.errors import (
    LoginRefusedError,
    UnavailableError,
)
from asyncimport.model.choices import Retry
from asyncimport.model.events import (
    Event,
    ServerUnavailable,
)
from asyncimport.model.options import Options
from asyncimport.testserver import Fault, Reset, Status, Tell, TestXnat, serve
from asyncimport.testserver.samples import Written, generated

pytestmark = pytest.mark.anyio


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return the directory for the files of a test."""
    return tmp_path / "tree"


def sample(tree: Path, **options: Any) -> Written:
    """Write a small collection: 4 sessions of 60 files."""
    return generated(tree, **{"sessions": 4, "files": 60, "size": 3000, **options})


@pytest.mark.parametrize(
    "fault",
    [
        Fault("import", Status(503, "busy", {"Retry-After": "0"}), nth=3, times=2),
        Fault("import", Status(502), nth=1),
        Fault("import", Status(400, "unable to read DICOM object upload.dcm"), nth=5),
        Fault("import", Reset(effect=False), nth=4),
        Fault("import", Reset(effect=True), nth=4),
        Fault("import", Reset(after_bytes=1500), nth=4),
        Fault("import", Reset(effect=True), nth=1),
        Fault("login", Status(503)),
        Fault("build", Reset(effect=True)),
        Fault("build", Status(409, "session document locked")),
        Fault("archive", Reset(effect=True)),
        Fault("archive", Status(504)),
        Fault("listing", Status(502), nth=2),
    ],
    ids=lambda fault: f"{fault.kind} {fault.nth} {fault.action}",
)
async def test_a_temporary_fault_costs_nothing(
    xnat: TestXnat, url: str, tree: Path, journal_path: Path, fault: Fault
) -> None:
    """The call is repeated, and everything arrives."""
    sample(tree)
    # One parameter serves every run of the test.
    struck = xnat.faults.add(Fault(fault.kind, fault.action, fault.nth, fault.times))
    summary = await upload(url, [tree], journal_path)
    assert struck.hits == fault.times
    assert xnat.sop_uids() == await uids_below(tree)
    assert not xnat.partial_files()
    assert summary.files.stored == 60
    assert summary.count("archived") == 4


async def test_an_expired_login_costs_one_login(xnat: TestXnat, url: str, tree: Path, journal_path: Path) -> None:
    """All workers get a 401; one of them logs in again."""
    sample(tree)
    xnat.faults.add(Fault("import", Tell(xnat.expire_logins), nth=20))
    await upload(url, [tree], journal_path, options=Options(workers=16))
    assert xnat.count["login"] == 2
    assert xnat.sop_uids() == await uids_below(tree)


async def test_a_file_that_xnat_never_reads_is_refused_and_holds_its_session(
    xnat: TestXnat, url: str, tree: Path, journal_path: Path
) -> None:
    """400 "unable to read" may also mean a full disk, so it counts only after several attempts."""
    for number in range(1, 6):
        write(tree / f"{number}", image(number))
    answer = Status(400, "unable to read DICOM object upload.dcm")
    fault = xnat.faults.add(Fault("import", answer, nth=3, times=AT_ONCE.attempts))
    summary = await upload(url, [tree], journal_path, options=ONE)
    assert fault.hits == AT_ONCE.attempts
    assert not xnat.archived
    assert (summary.files.refused, summary.files.stored) == (1, 4)
    assert [(one.state, one.reason) for one in summary.sessions] == [("held", "1 of its files was refused")]
    (problem,) = summary.problems
    assert (problem.kind, Path(problem.example).name) == ("refused", "3")
    assert problem.reason == "XNAT could not read the file (400: unable to read DICOM object), 3 times"
    # The disk may have room by now: it is tried again, and joins the session.
    summary = await upload(url, [tree], journal_path, options=ONE)
    assert summary.count("archived") == 1
    assert xnat.sop_uids() == {sop(number) for number in range(1, 6)}
    assert summary.files.stored == 1


async def test_a_file_refused_after_an_interrupted_attempt_keeps_its_session_open(
    xnat: TestXnat, url: str, tree: Path, journal_path: Path
) -> None:
    """XNAT keeps the part that arrived, so the session is not archived until the file is whole."""
    for number in range(1, 6):
        write(tree / f"{number}", image(number))
    answer = Status(400, "unable to read DICOM object upload.dcm")
    cut = xnat.faults.add(Fault("import", Reset(after_bytes=(tree / "3").stat().st_size - 10), nth=3))
    # The connection may have been closed before: that has cost no attempt.
    xnat.faults.add(Fault("import", answer, nth=4, times=AT_ONCE.attempts))
    summary = await upload(url, [tree], journal_path, options=ONE)
    assert cut.hits == 1
    assert (summary.files.failed, summary.files.refused, summary.files.stored) == (1, 0, 4)
    assert "after an attempt that broke off" in summary.problems[0].reason
    assert not xnat.archived
    summary = await upload(url, [tree], journal_path, options=ONE)
    assert summary.count("archived") == 1
    assert xnat.sop_uids() == {sop(number) for number in range(1, 6)}
    assert not xnat.partial_files()


async def test_a_file_that_a_proxy_rejects_is_refused_after_an_interrupted_attempt_too(
    xnat: TestXnat, url: str, tree: Path, journal_path: Path
) -> None:
    """Nothing of a file that a proxy rejects reaches XNAT."""
    for number in range(1, 6):
        write(tree / f"{number}", image(number))
    xnat.faults.add(Fault("import", Reset(effect=False), nth=3))
    xnat.faults.add(Fault("import", Status(413), nth=4))
    summary = await upload(url, [tree], journal_path, options=ONE)
    assert (summary.files.failed, summary.files.refused, summary.files.stored) == (0, 1, 4)
    assert "(413)" in summary.problems[0].reason
    assert summary.count("held") == 1
    # It would be turned away again, unless somebody asks for it.
    summary = await upload(url, [tree], journal_path, options=ONE)
    assert (summary.count("held"), summary.files.refused, xnat.count["import"]) == (1, 1, 6)
    summary = await upload(url, [tree], journal_path, options=replace(ONE, retry=frozenset({Retry.REFUSED})))
    assert (summary.count("archived"), summary.files.refused) == (1, 0)
    assert xnat.sop_uids() == {sop(number) for number in range(1, 6)}


async def test_an_overload_that_outlasts_all_attempts_is_waited_for(
    xnat: TestXnat, url: str, tree: Path, journal_path: Path
) -> None:
    """While nothing gets through, no file is to blame: the run waits, reports it, and goes on."""
    for number in range(1, 6):
        write(tree / f"{number}", image(number))
    events: list[Event] = []
    fault = xnat.faults.add(Fault("import", Status(503), nth=3, times=AT_ONCE.attempts + 4))
    summary = await upload(url, [tree], journal_path, options=ONE, report=events.append)
    assert fault.hits == AT_ONCE.attempts + 4
    assert (summary.files.failed, summary.files.stored) == (0, 5)
    assert summary.count("archived") == 1
    assert [event for event in events if isinstance(event, ServerUnavailable)] == [
        ServerUnavailable("the server is overloaded or away (503)"),
        ServerUnavailable(None),
    ]


async def test_a_server_that_goes_away_ends_the_run_and_the_next_one_goes_on(
    xnat: TestXnat, tree: Path, journal_path: Path
) -> None:
    """Acknowledged files are recorded; the next run sends the rest."""
    sample(tree)
    away = anyio.Event()
    xnat.faults.add(Fault("import", Tell(away.set), nth=25))
    errors: list[UnavailableError] = []

    async def first_run(url: str) -> None:
        # Which of the two was seen last is chance: the server closes its connections one by one.
        last = r"for too long: (no connection to the server|the connection broke)"
        with pytest.raises(UnavailableError, match=last) as caught:
            await upload(url, [tree], journal_path, options=replace(FEW, outage_timeout=0))
        errors.append(caught.value)

    async with anyio.create_task_group() as tasks, serve(xnat) as url:
        tasks.start_soon(first_run, url)
        await away.wait()
    (error,) = errors
    assert "run the same command again" in error.hint
    stored = {uid for uid, state in (await states_in(journal_path)).items() if state == "STORED"}
    received = {record.sop_uid for record in xnat.imports}
    assert stored <= received
    assert len(stored) >= 25 - FEW.max_workers
    xnat.imports.clear()
    async with serve(xnat, port=URL(url).port or 0):
        await upload(url, [tree], journal_path)
    assert {record.sop_uid for record in xnat.imports} == await uids_below(tree) - stored
    assert xnat.sop_uids() == await uids_below(tree)


async def test_a_login_that_is_refused_during_a_run_is_the_only_error(
    xnat: TestXnat, url: str, tree: Path, journal_path: Path
) -> None:
    """Every worker gets it; the run ends with one error, and acknowledged files are recorded."""
    sample(tree)

    def lock_out() -> None:
        xnat.users.clear()
        xnat.expire_logins()

    xnat.faults.add(Fault("import", Tell(lock_out), nth=30))
    with pytest.raises(LoginRefusedError, match="refused the user name or password"):
        await upload(url, [tree], journal_path)
    assert xnat.count["login"] == 2
    stored = {uid for uid, state in (await states_in(journal_path)).items() if state == "STORED"}
    received = {record.sop_uid for record in xnat.imports}
    assert stored <= received
    # An answer may have been on its way when the run ended.
    assert len(received - stored) < FEW.max_workers


async def test_a_cancelled_run_is_resumed(xnat: TestXnat, url: str, tree: Path, journal_path: Path) -> None:
    """Only files in flight are sent again."""
    sample(tree)
    with anyio.CancelScope() as scope:
        xnat.faults.add(Fault("import", Tell(scope.cancel), nth=30))
        await upload(url, [tree], journal_path)
    assert scope.cancelled_caught
    assert xnat.live_logins("demo") == 0
    await upload(url, [tree], journal_path)
    assert xnat.sop_uids() == await uids_below(tree)
    assert len(xnat.imports) <= 60 + FEW.max_workers


async def test_a_run_cancelled_while_archiving_is_resumed(
    xnat: TestXnat, url: str, tree: Path, journal_path: Path
) -> None:
    """Nothing is sent after the seal; the next run checks how far XNAT has come."""
    for number in range(1, 6):
        write(tree / f"{number}", image(number))
    with anyio.CancelScope() as scope:
        xnat.faults.add(Fault("archive", Tell(scope.cancel)))
        await upload(url, [tree], journal_path)
    assert scope.cancelled_caught
    xnat.count.clear()
    summary = await upload(url, [tree], journal_path)
    assert xnat.count["import"] == 0
    assert summary.count("archived") == 1
    assert xnat.sop_uids() == {sop(number) for number in range(1, 6)}
