"""The feed stage: which files are handed out, in which batches."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from memory_pipeline import FEW, ONE, MemoryDestination, MemorySource, no_wait, run_pipeline, study_files
from patience import COMMAND, in_time

from asyncimport.errors import (
    RefusedError,
    SourceError,
    TransientError,
)
from asyncimport.model.deliveries import Claim, Delivery, SealedDelivery
from asyncimport.model.events import (
    Admitted,
    Event,
)
from asyncimport.model.files import Body, File, Instance, Session
from asyncimport.model.options import Options
from asyncimport.pacing.concurrency import Throttle
from asyncimport.pacing.shutdown import Stop
from asyncimport.pipeline import context
from asyncimport.pipeline.feed import files_per_batch, split_batches

pytestmark = pytest.mark.anyio


async def test_the_first_file_of_a_delivery_is_sent_by_itself(journal_path: Path) -> None:
    """Its answer names the prearchive row for the rest; other sessions do not wait for it."""
    destination = MemoryDestination()
    flying: dict[str, set[str | None]] = {"1": set(), "2": set(), "3": set()}
    alone = True

    async def store(claim: Claim) -> None:
        nonlocal alone
        name = claim.instance.session.study_uid
        alone = alone and not (flying[name] and None in {claim.delivery.uri, *flying[name]})
        flying[name].add(claim.delivery.uri)
        await no_wait(claim)
        flying[name].clear()

    destination.on_store = store
    await run_pipeline(
        MemorySource({**study_files("1", 20), **study_files("2", 20), **study_files("3", 20)}),
        destination,
        journal_path,
    )
    assert alone
    assert len(destination.stored) == 60


async def test_only_the_first_file_of_a_session_goes_without_an_address(tmp_path: Path) -> None:
    """The answer to the first file gives the prearchive row for all others."""
    destination = MemoryDestination()
    sent: list[tuple[str, bool]] = []

    async def store(claim: Claim) -> None:
        sent.append((claim.instance.sop_uid, claim.delivery.uri is None))
        await anyio.lowlevel.checkpoint()

    destination.on_store = store
    source = MemorySource({**study_files("1", 20), **study_files("2", 20)}, batch=40)
    await run_pipeline(source, destination, tmp_path / "book", options=Options(workers=4, finalizers=1))
    assert len(sent) == 40
    assert sorted(uid for uid, alone in sent if alone) == ["1.1", "2.1"]


async def test_the_next_session_begins_while_the_one_before_is_sent(journal_path: Path) -> None:
    """Its first file waits for several answers, so it is sent early."""
    destination = MemoryDestination()
    under_way, both_known = anyio.Event(), anyio.Event()
    known: list[Admitted] = []

    def report(event: Event) -> None:
        if isinstance(event, Admitted):
            known.append(event)
        if len(known) == 2:
            both_known.set()

    async def store(claim: Claim) -> None:
        if claim.delivery.uri is not None:
            # Of the first session some files are claimed by now, and not all.
            under_way.set()
            await both_known.wait()

    destination.on_store = store
    source = MemorySource({**study_files("1", 1_000), **study_files("2", 20)}, batch=1_000, before_last=under_way.wait)
    await run_pipeline(source, destination, journal_path, options=replace(FEW, workers=1), report=report)
    assert destination.stored.index("2.1") < destination.stored.index("1.1000")
    assert len(destination.stored) == 1_020


async def test_first_files_that_get_no_answer_keep_no_slot_idle(journal_path: Path) -> None:
    """When they are late, other sessions begin, though nothing else happens that could wake the feed."""
    destination = MemoryDestination()
    others_stored = anyio.Event()

    async def store(claim: Claim) -> None:
        if claim.instance.session.study_uid in {"1", "2", "3"}:
            await others_stored.wait()
        elif len(destination.stored) == 59:
            others_stored.set()

    destination.on_store = store
    files = {path: key for number in range(1, 7) for path, key in study_files(f"{number}", 20).items()}
    await run_pipeline(MemorySource(files, batch=120), destination, journal_path, options=replace(FEW, workers=5))
    assert len(destination.stored) == 120


async def test_files_that_are_tried_again_later_keep_no_others_waiting(
    journal_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold no slot meanwhile: others are handed out, though no outcome comes in that could wake the feed."""
    # A second passes from one look at the clock to the next: files are slow, so each is a batch, and few wait.
    monkeypatch.setattr(context, "Throttle", partial(Throttle, clock=count(0.0, 1.0).__next__))
    destination, stop = MemoryDestination(), Stop()
    later = {f"1.{number}" for number in range(2, 18)}

    async def store(claim: Claim) -> None:
        if claim.instance.sop_uid in later:
            # The feed has nothing to do meanwhile.
            await anyio.sleep(0.05)
            raise TransientError("later", retry_after=250)
        if len(destination.stored) == 40 - len(later) - 1:
            stop.request(grace=0)

    destination.on_store = store
    with in_time():
        await run_pipeline(
            MemorySource(study_files("1", 40), batch=40), destination, journal_path, options=Options(), stop=stop
        )
    assert len(destination.stored) == 24


async def test_files_that_get_no_answer_keep_no_others_waiting_for_a_slot(journal_path: Path) -> None:
    """With `-w auto` there are three slots at first, or one while it measures, and an answer may take ten minutes."""
    destination, others_stored = MemoryDestination(), anyio.Event()

    async def store(claim: Claim) -> None:
        if claim.instance.sop_uid in {"1.2", "2.2", "3.2"}:
            await others_stored.wait()
        elif len(destination.stored) == 116:
            others_stored.set()

    destination.on_store = store
    files = {path: key for number in range(1, 7) for path, key in study_files(f"{number}", 20).items()}
    with in_time(COMMAND):
        summary = await run_pipeline(MemorySource(files, batch=120), destination, journal_path, options=Options())
    assert len(destination.stored) == len(set(destination.stored)) == summary.files.stored == 120


@pytest.mark.parametrize("ahead", [0, 1_000])
async def test_a_file_that_gets_no_answer_keeps_no_others_of_its_batch_waiting(
    journal_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    """Those behind it go by another worker, once, whether they have been read already or not."""
    # A millisecond passes from one look at the clock to the next: files are fast, so several are a batch.
    monkeypatch.setattr(context, "Throttle", partial(Throttle, clock=count(0.0, 0.001).__next__))
    destination, others_stored = MemoryDestination(), anyio.Event()

    async def store(claim: Claim) -> None:
        if claim.instance.sop_uid in {"1.10", "1.21"}:
            await others_stored.wait()
        elif len(destination.stored) == 37:
            others_stored.set()

    destination.on_store = store
    source = MemorySource(study_files("1", 40), batch=40, read_ahead=ahead)
    with in_time(COMMAND):
        summary = await run_pipeline(source, destination, journal_path, options=replace(FEW, workers=3))
    assert len(destination.stored) == len(set(destination.stored)) == summary.files.stored == 40


async def test_no_session_begins_while_enough_wait_to_be_archived(journal_path: Path) -> None:
    """XNAT reads all rows of its prearchive for each file, so sessions do not run ahead of the finalizers."""
    destination = MemoryDestination()
    files = {path: key for number in range(30) for path, key in study_files(f"{number}", 1).items()}
    most = 0

    async def finalize(_: SealedDelivery) -> None:
        nonlocal most
        # All that may be sent meanwhile is sent.
        for _turn in range(1_000):
            await anyio.lowlevel.checkpoint()
        most = max(most, len(destination.stored) - len(destination.finalized))

    destination.on_finalize = finalize
    options = Options(workers=2, finalizers=2)
    await run_pipeline(MemorySource(files, batch=30), destination, journal_path, options=options)
    assert len(destination.finalized) == 30
    # Two for each finalizer, and what was on its way already: with the workers, in the stream, and in a claim.
    assert 2 < most <= 2 * 2 + 4 * 2


async def test_a_session_held_during_the_scan_makes_room_for_others(journal_path: Path) -> None:
    """With one open session allowed, the next begins when the first is refused as a whole."""
    destination = MemoryDestination()
    refused = anyio.Event()

    async def store(claim: Claim) -> None:
        if claim.instance.session.study_uid == "1":
            refused.set()
            raise RefusedError("no", whole_session=True)

    destination.on_store = store
    source = MemorySource({**study_files("1", 8), **study_files("2", 4)}, before_last=refused.wait)
    summary = await run_pipeline(source, destination, journal_path, options=Options(workers=2, max_open_sessions=1))
    assert sorted(destination.stored) == [f"2.{number}" for number in range(1, 5)]
    assert [report.state for report in summary.sessions] == ["held", "archived"]


@pytest.mark.parametrize(
    ("claims", "slots", "pace", "expected"),
    [
        (128, 3, None, 1),
        (128, 16, 0.005, 8),
        (128, 16, 0.010, 5),
        (128, 16, 0.040, 1),
        (128, 16, 30.0, 1),
        (20, 16, 0.005, 2),
        (2, 16, 0.005, 1),
    ],
)
def test_slow_files_go_in_small_batches(claims: int, slots: int, pace: float | None, expected: int) -> None:
    """If a file takes long, batches hold one file, so that no worker is idle at the end."""
    assert files_per_batch(claims, slots, pace) == expected


def claims(*sizes: int) -> list[Claim]:
    """Make claims of files of these sizes."""
    session = Session("demo", "S", "E", "1")
    return [
        Claim(key, Instance(File(f"{key}", size, 1), f"{key}", "s", session), Delivery(1, session, 1, None))
        for key, size in enumerate(sizes)
    ]


@pytest.mark.parametrize(
    ("sizes", "most", "expected"),
    [
        ([], 8, []),
        ([1], 8, [1]),
        ([1] * 4, 1, [1, 1, 1, 1]),
        ([1] * 10, 3, [3, 3, 3, 1]),
        ([1] * 100, 8, [8] * 12 + [4]),
        ([1000] * 3, 8, [1, 1, 1]),
        ([500] * 5, 8, [2, 2, 1]),
        ([5000, 1, 1], 8, [1, 2]),
        ([1, 5000, 1], 8, [1, 1, 1]),
        ([0] * 9, 8, [8, 1]),
    ],
)
def test_batches_are_bounded_and_in_order(sizes: list[int], most: int, expected: list[int]) -> None:
    """Batches keep to both limits; a larger file has a batch of its own."""
    waiting = claims(*sizes)
    parcels = split_batches(waiting, most, 1000)
    assert [len(parcel) for parcel in parcels] == expected
    assert [claim for parcel in parcels for claim in parcel] == waiting


@pytest.mark.parametrize(("ahead", "expected"), [(0, 1), (250, 2), (1_000, 8)])
async def test_a_batch_is_read_as_far_ahead_as_the_source_asks(
    journal_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int, expected: int
) -> None:
    """A fast source is read file by file; others are read several files at a time."""
    # A millisecond passes from one look at the clock to the next, however busy the machine is: files are fast.
    monkeypatch.setattr(context, "Throttle", partial(Throttle, clock=count(0.0, 0.001).__next__))
    asked: list[int] = []

    class Watched(MemorySource):
        async def read(self, files: Sequence[File]) -> list[Body | SourceError]:
            asked.append(len(files))
            return await super().read(files)

    summary = await run_pipeline(
        Watched(study_files("a", 40), read_ahead=ahead, batch=40), MemoryDestination(), journal_path, options=ONE
    )
    assert summary.files.stored == sum(asked) == 40
    assert max(asked) == expected
