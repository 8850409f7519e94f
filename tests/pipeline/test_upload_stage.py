"""The upload stage: attempts, outages, and what becomes of a file that is not stored."""

from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from builders import (
    AT_ONCE,
    states_in,
)
from memory_pipeline import FEW, ONE, MemoryDestination, MemorySource, no_wait, run_pipeline, study_files

from asyncimport.errors import (
    LoginRefusedError,
    RefusedError,
    SourceError,
    TransientError,
    UnavailableError,
    UsageError,
)
from asyncimport.model.deliveries import Claim, Failed, Outcome
from asyncimport.model.events import (
    Event,
    OutcomesRecorded,
    RetryScheduled,
    ServerUnavailable,
)
from asyncimport.model.options import Options

pytestmark = pytest.mark.anyio


async def test_a_file_that_cannot_be_read_fails(journal_path: Path) -> None:
    """The file fails, and its session stays open."""
    destination = MemoryDestination()
    summary = await run_pipeline(MemorySource({"/m/1": ("1", 1), "/m/bad": ("1", 2)}), destination, journal_path)
    assert (summary.files.failed, summary.files.stored) == (1, 1)
    assert destination.finalized == []
    (problem,) = summary.problems
    assert (problem.kind, problem.reason) == ("failed", "cannot be read")


async def test_a_file_that_changes_while_it_is_sent_fails_at_once(journal_path: Path) -> None:
    """The destination notices while it sends; trying again would not help. It may have a part of the file."""
    destination = MemoryDestination()
    tried = 0
    failed: list[Outcome] = []

    async def store(claim: Claim) -> None:
        nonlocal tried
        if claim.instance.sop_uid == "1.3":
            tried += 1
            error = SourceError("the file shrank while it was sent")
            error.may_have_taken_effect = True
            raise error

    def report(event: Event) -> None:
        if isinstance(event, OutcomesRecorded):
            failed.extend(one for one in event.outcomes if isinstance(one, Failed))

    destination.on_store = store
    summary = await run_pipeline(MemorySource(study_files("1", 5)), destination, journal_path, report=report)
    assert tried == 1
    assert [one.may_have_taken_effect for one in failed] == [True]
    assert (summary.files.failed, summary.files.stored) == (1, 4)
    assert summary.problems[0].reason == "the file shrank while it was sent"


@pytest.mark.parametrize("whole", [False, True])
async def test_a_refusal_is_not_repeated(journal_path: Path, whole: bool) -> None:
    """Other files of the session go on unless the whole session is refused; neither session is archived."""
    destination = MemoryDestination()
    tried = 0

    async def store(claim: Claim) -> None:
        nonlocal tried
        if claim.instance.sop_uid == "1.1":
            tried += 1
            raise RefusedError("no", whole_session=whole)

    destination.on_store = store
    summary = await run_pipeline(
        MemorySource({**study_files("1", 5), **study_files("2", 5)}), destination, journal_path
    )
    assert tried == 1
    assert summary.files.refused == 1
    assert len(destination.stored) == (5 if whole else 9)
    assert destination.finalized == ["2"]


async def test_retries_are_reported_and_slow_all_workers_down(journal_path: Path) -> None:
    """Each transient failure is reported; an overload halves the calls in flight."""
    destination = MemoryDestination()
    events: list[Event] = []
    flying = most = 0

    async def store(claim: Claim) -> None:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await no_wait(claim)
        flying -= 1
        if claim.instance.sop_uid == "1.1" and not any(isinstance(event, RetryScheduled) for event in events):
            raise TransientError("busy", overload=True, retry_after=0)

    destination.on_store = store
    await run_pipeline(
        MemorySource(study_files("1", 40)), destination, journal_path, report=events.append, options=Options(workers=2)
    )
    (repeated,) = (event for event in events if isinstance(event, RetryScheduled))
    assert (repeated.reason, repeated.attempt) == ("busy", 1)
    assert repeated.claim is not None
    assert len(destination.stored) == 40
    assert most <= 2


async def test_one_retry_after_holds_all_workers_back(tmp_path: Path) -> None:
    """The server asks for time in one answer; no call begins before it is over."""
    destination = MemoryDestination()
    later: list[float] = []
    failed_at: list[float] = []

    async def store(claim: Claim) -> None:
        now = anyio.current_time()
        if failed_at:
            later.append(now - failed_at[0])
        elif claim.instance.sop_uid == "1.5":
            failed_at.append(now)
            raise TransientError("busy", overload=True, retry_after=0.2)
        await anyio.lowlevel.checkpoint()

    destination.on_store = store
    await run_pipeline(
        MemorySource(study_files("1", 40), batch=40),
        destination,
        tmp_path / "book",
        options=Options(workers=4, finalizers=1),
    )
    assert len(destination.stored) == 40
    assert min(later) >= 0.2


@pytest.mark.parametrize("there", [True, False])
async def test_the_last_file_is_given_up_if_the_server_answers_a_ping(journal_path: Path, there: bool) -> None:
    """No other file could get through, so the server is pinged."""
    destination = MemoryDestination()
    destination.is_up = there

    async def store(claim: Claim) -> None:
        if claim.instance.sop_uid == "1.5":
            raise TransientError("the connection broke", may_have_taken_effect=True)

    destination.on_store = store
    options = replace(ONE, outage_timeout=0.05)
    if there:
        summary = await run_pipeline(MemorySource(study_files("1", 5)), destination, journal_path, options=options)
        assert (summary.files.failed, summary.files.stored) == (1, 4)
        assert summary.count("held") == 1
    else:
        with pytest.raises(UnavailableError):
            await run_pipeline(MemorySource(study_files("1", 5)), destination, journal_path, options=options)


async def test_many_files_that_fail_are_an_outage(journal_path: Path) -> None:
    """XNAT answers pings but accepts no file: one file fails at most, then the run waits."""
    destination = MemoryDestination()
    destination.is_up = True

    async def store(_: Claim) -> None:
        if len(destination.stored) >= 2:
            raise TransientError("the connection broke", may_have_taken_effect=True)

    destination.on_store = store
    with pytest.raises(UnavailableError):
        await run_pipeline(
            MemorySource(study_files("1", 20)), destination, journal_path, options=replace(ONE, outage_timeout=0.05)
        )
    states = [str(state) for state in (await states_in(journal_path)).values()]
    assert (states.count("STORED"), states.count("FAILED")) == (2, 1)


async def test_a_server_that_stays_away_ends_the_run(journal_path: Path) -> None:
    """The run ends after the outage timeout, or each of a million files would fail alone."""
    destination = MemoryDestination()
    tried = 0

    async def store(_: Claim) -> None:
        nonlocal tried
        tried += 1
        raise TransientError("no connection", unreachable=True)

    destination.on_store = store
    with pytest.raises(UnavailableError, match="no connection") as caught:
        await run_pipeline(
            MemorySource(study_files("1", 8)), destination, journal_path, options=replace(FEW, outage_timeout=0)
        )
    assert tried == AT_ONCE.attempts
    assert caught.value.hint
    assert set((await states_in(journal_path)).values()) == {"PENDING"}


@pytest.mark.parametrize(
    "error",
    [
        TransientError("no connection", unreachable=True),
        TransientError("the server is overloaded or away (502)", overload=True),
        TransientError("the connection broke", may_have_taken_effect=True),
        TransientError("XNAT could not read the file (400: unable to read DICOM object)", blames_file=True),
    ],
    ids=["unreachable", "overloaded", "broken", "disk full"],
)
async def test_no_file_is_to_blame_for_an_outage(journal_path: Path, error: TransientError) -> None:
    """All files in flight fail, far more often than a file may; each of them arrives in the end."""
    destination = MemoryDestination()
    events: list[Event] = []
    trouble = 30 * AT_ONCE.attempts

    async def store(_: Claim) -> None:
        nonlocal trouble
        if len(destination.stored) >= 8 and trouble:
            trouble -= 1
            raise error

    destination.on_store = store
    summary = await run_pipeline(
        MemorySource({**study_files("1", 20), **study_files("2", 20), **study_files("3", 20)}, batch=100),
        destination,
        journal_path,
        options=Options(workers=6, finalizers=2, settle_seconds=0),
        report=events.append,
    )
    assert trouble == 0
    # The first two that XNAT calls broken are believed to be: there is nothing yet to tell them from broken files.
    assert summary.files.failed == 0
    assert summary.files.refused <= (2 if error.blames_file else 0)
    assert summary.files.stored == 60 - summary.files.refused
    assert summary.count("archived") == 3
    reasons = [event.reason for event in events if isinstance(event, ServerUnavailable)]
    assert reasons[:1] == [str(error)]
    assert reasons[-1:] == [None]


async def test_a_file_that_fails_while_others_get_through_fails_alone(journal_path: Path) -> None:
    """The run does not wait for it; its session stays open, and the next run sends it."""
    destination = MemoryDestination()

    async def store(claim: Claim) -> None:
        if claim.instance.sop_uid == "1.3":
            # Each attempt fails after another file has got through.
            before = len(destination.stored)
            while len(destination.stored) < before + 2:
                await anyio.lowlevel.checkpoint()
            raise TransientError("the connection broke", may_have_taken_effect=True)

    destination.on_store = store
    source = MemorySource({**study_files("1", 10), **study_files("2", 10)}, batch=100)
    summary = await run_pipeline(source, destination, journal_path, options=Options(workers=4, finalizers=1))
    assert (summary.files.failed, summary.files.stored) == (1, 19)
    assert summary.problems[0].reason == "the connection broke, 3 times"
    assert [report.state for report in summary.sessions] == ["held", "archived"]
    destination.on_store = no_wait
    summary = await run_pipeline(source, destination, journal_path)
    assert (summary.files.stored, summary.files.already_stored) == (1, 19)
    assert summary.count("archived") == 2


async def test_a_fatal_error_ends_the_run_and_acknowledged_files_are_recorded(journal_path: Path) -> None:
    """All stages end with it; every acknowledged file is in the journal."""
    destination = MemoryDestination()

    async def store(claim: Claim) -> None:
        await no_wait(claim)
        if len(destination.stored) >= 40:
            raise LoginRefusedError("no longer")

    destination.on_store = store
    files = {path: key for number in range(1, 5) for path, key in study_files(f"{number}", 30).items()}
    with pytest.raises(LoginRefusedError, match="no longer"):
        await run_pipeline(MemorySource(files, batch=50), destination, journal_path, options=Options(workers=16))
    states = await states_in(journal_path)
    assert {uid for uid, state in states.items() if state == "STORED"} == set(destination.stored)
    assert set(states.values()) == {"STORED", "PENDING"}


async def test_the_most_serious_error_is_raised(journal_path: Path) -> None:
    """A lost server is more serious than a usage error."""
    destination = MemoryDestination()
    both = anyio.Event()

    async def store(_: Claim) -> None:
        both.set()
        raise UnavailableError("gone")

    async def fail() -> None:
        await both.wait()
        raise UsageError("what a source")

    destination.on_store = store
    with pytest.raises(UnavailableError, match="gone"):
        await run_pipeline(MemorySource(study_files("1", 8), before_last=fail), destination, journal_path)
