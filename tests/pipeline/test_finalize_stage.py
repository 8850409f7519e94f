"""The finalize stage: sealed deliveries, verdicts, and outages meanwhile."""

import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from builders import (
    AT_ONCE,
    folder,
    image,
    logged_in,
    no_sleep,
    opened,
    router,
    upload,
    write,
)
from memory_pipeline import MemoryDestination, MemorySource, no_wait, run_pipeline, study_files
from patience import RUN, in_time

from asyncimport.errors import (
    TransientError,
    UnavailableError,
)
from asyncimport.model.choices import Retry
from asyncimport.model.deliveries import Claim, Held, SealedDelivery, Verdict
from asyncimport.model.events import Event, Settling
from asyncimport.model.options import Options
from asyncimport.pipeline.images import upload_images
from asyncimport.testserver import TestXnat, Timing, serve
from asyncimport.xnat.client import Client
from asyncimport.xnat.images import XnatDestination

pytestmark = pytest.mark.anyio


class Watching(XnatDestination):
    """An XNAT destination that reads the journal's file before it finalises a delivery."""

    def __init__(self, client: Client, journal_path: Path) -> None:
        super().__init__(client, policy=AT_ONCE, sleep=no_sleep)
        self.journal_path = journal_path
        self.seen: list[str] = []

    async def finalize(self, sealed: SealedDelivery) -> Verdict:
        """Read the state through a second connection, which sees committed data only."""

        def state() -> str:
            with closing(sqlite3.connect(self.journal_path)) as connection:
                row = connection.execute("SELECT state FROM delivery WHERE key = ?", (sealed.delivery.key,)).fetchone()
                return str(row[0])

        self.seen.append(await anyio.to_thread.run_sync(state))
        return await super().finalize(sealed)


async def test_the_seal_is_on_disk_before_xnat_is_called(xnat: TestXnat, url: str, tree: Path, tmp_path: Path) -> None:
    """The seal is committed before the first finalising call."""
    journal_path, rules = tmp_path / "book", router()
    source = await folder(tree)
    async with opened(journal_path, rules) as journal, logged_in(url) as client:
        watching = Watching(client, journal_path)
        await upload_images(source, watching, journal, rules, options=Options(workers=2), policy=AT_ONCE)
    assert watching.seen == ["SEALED", "SEALED"]
    assert len(xnat.archived) == 2


async def test_deliveries_of_a_subject_are_finalised_one_at_a_time(journal_path: Path) -> None:
    """XNAT's archive step sleeps ten seconds when two of them meet; other subjects do not wait."""
    destination = MemoryDestination()
    files = {path: key for number in range(1, 9) for path, key in study_files(f"{number}", 2).items()}
    patients = {f"{number}": "twice" for number in range(1, 5)}
    together = anyio.Event()

    async def finalize(_: SealedDelivery) -> None:
        if len(destination.finalizing_subjects) > 2:
            together.set()
        await together.wait()

    destination.on_finalize = finalize
    options = Options(workers=4, finalizers=4)
    await run_pipeline(MemorySource(files, patients=patients), destination, journal_path, options=options)
    assert sorted(destination.finalized) == [f"{number}" for number in range(1, 9)]
    assert together.is_set()


@pytest.mark.parametrize("options", [None, Options()], ids=["-w 4", "-w auto"])
async def test_no_session_of_a_subject_waits_for_its_lock(
    tmp_path: Path, journal_path: Path, options: Options | None
) -> None:
    """Of two that look for one subject at once, XNAT lets one sleep for 10 s: here for a day, so one would not end."""
    xnat = TestXnat(timing=Timing(subject_seconds=0.01, subject_lock_seconds=86_400.0))
    for number in range(40):
        uid = f"1.{number}"
        content = image(number, StudyInstanceUID=uid, SeriesInstanceUID=f"{uid}.1", StudyDate=f"{2000 + number}0101")
        write(tmp_path / "tree" / f"{number}.dcm", content)
    async with serve(xnat) as url:
        await upload(url, [tmp_path / "tree"], journal_path, options=options)
    assert len(xnat.archived) == 40
    assert len({session.subject.label for session in xnat.archived}) == 1


async def test_more_are_finalised_at_a_time_while_that_takes_no_longer(journal_path: Path) -> None:
    """Without a number, four begin; more follow where the server shows that it can."""
    destination = MemoryDestination()
    files = {path: key for number in range(400) for path, key in study_files(f"{number}", 1).items()}
    together = False

    async def finalize(_: SealedDelivery) -> None:
        nonlocal together
        together = together or len(destination.finalizing_subjects) > 4
        if not together:
            # What the server takes for each, however many there are.
            await anyio.sleep(0.02)

    destination.on_finalize = finalize
    await run_pipeline(MemorySource(files, batch=100), destination, journal_path, options=Options(workers=4))
    assert together


async def test_a_session_is_sealed_with_all_that_was_acknowledged(journal_path: Path) -> None:
    """Nothing is sent after the seal, and the seal lists every instance of the session."""
    destination = MemoryDestination()
    await run_pipeline(MemorySource(study_files("1", 30)), destination, journal_path)
    (sealed,) = destination.sealed
    assert sealed.sop_uids == set(destination.stored)
    assert len(sealed.sop_uids) == 30


async def test_new_files_of_a_sealed_delivery_wait_for_its_end(journal_path: Path) -> None:
    """They go into the next delivery, because nothing is sent after a seal."""
    destination = MemoryDestination()

    async def never(_: SealedDelivery) -> None:
        raise UnavailableError("gone")

    destination.on_finalize = never
    with pytest.raises(UnavailableError):
        await run_pipeline(MemorySource(study_files("1", 3)), destination, journal_path)
    order: list[str] = []

    async def store(claim: Claim) -> None:
        order.append(f"store {claim.delivery.number}")

    async def finalize(sealed: SealedDelivery) -> None:
        await anyio.wait_all_tasks_blocked()
        order.append(f"finalize {sealed.delivery.number}")

    destination.on_store, destination.on_finalize = store, finalize
    summary = await run_pipeline(MemorySource(study_files("1", 5)), destination, journal_path)
    assert order == ["finalize 1", "store 2", "store 2", "finalize 2"]
    assert summary.count("archived") == 1
    assert len(destination.sealed[-1].sop_uids) == 5


async def test_a_held_delivery_is_finalised_on_request(journal_path: Path) -> None:
    """A held session waits for `--retry held`."""
    destination = MemoryDestination()

    async def hold(sealed: SealedDelivery) -> Held:
        return Held(sealed.delivery, "a conflict")

    destination.on_finalize = hold
    summary = await run_pipeline(MemorySource(study_files("1", 3)), destination, journal_path)
    assert [(report.state, report.reason) for report in summary.sessions] == [("held", "a conflict")]
    destination.on_finalize = no_wait
    await run_pipeline(MemorySource(study_files("1", 3)), destination, journal_path)
    assert len(destination.finalized) == 1
    summary = await run_pipeline(
        MemorySource(study_files("1", 3)),
        destination,
        journal_path,
        options=Options(workers=1, retry=frozenset({Retry.HELD})),
    )
    assert len(destination.finalized) == 2
    assert summary.count("archived") == 1
    assert len(destination.stored) == 3


async def test_an_outage_while_finalising_is_waited_for(journal_path: Path) -> None:
    """The delivery stays sealed and is finalised when the server is back; it is not held."""
    destination = MemoryDestination()
    trouble = 5

    async def finalize(_: SealedDelivery) -> None:
        nonlocal trouble
        if trouble:
            trouble -= 1
            raise TransientError("no connection", unreachable=True)

    destination.on_finalize = finalize
    summary = await run_pipeline(MemorySource(study_files("1", 3)), destination, journal_path)
    assert trouble == 0
    assert summary.count("archived") == 1


async def test_a_session_that_times_out_at_a_gateway_stays_open(journal_path: Path) -> None:
    """Others get through meanwhile, so this is neither an outage nor a verdict; the next run goes on."""
    destination = MemoryDestination()

    async def finalize(sealed: SealedDelivery) -> None:
        if sealed.delivery.session.study_uid == "1":
            before = len(destination.finalized)
            while len(destination.finalized) < min(before + 1, 2):
                await anyio.lowlevel.checkpoint()
            raise TransientError("the server is overloaded or away (504)", overload=True)

    destination.on_finalize = finalize
    studies = {**study_files("1", 2), **study_files("2", 2), **study_files("3", 2)}
    summary = await run_pipeline(
        MemorySource(studies, batch=100), destination, journal_path, options=Options(workers=2, finalizers=2)
    )
    assert [report.state for report in summary.sessions] == ["open", "archived", "archived"]
    assert summary.sessions[0].reason == "the server is overloaded or away (504)"
    destination.on_finalize = no_wait
    summary = await run_pipeline(
        MemorySource(studies, batch=100), destination, journal_path, options=Options(workers=2, finalizers=2)
    )
    assert [report.state for report in summary.sessions] == ["archived"] * 3


async def test_sessions_that_xnat_never_archives_keep_no_others_waiting(journal_path: Path) -> None:
    """They take all places, and an answer may take ten minutes: then others get theirs."""
    destination, others_done, hanging = MemoryDestination(), anyio.Event(), set[str]()

    async def finalize(sealed: SealedDelivery) -> None:
        label = sealed.delivery.session.label
        if label in hanging or (destination.finalized and len(hanging) < 4):
            hanging.add(label)
            await others_done.wait()
        elif len(destination.finalized) == 29 - len(hanging):
            others_done.set()

    destination.on_finalize = finalize
    files = {path: key for number in range(30) for path, key in study_files(f"{number}", 1).items()}
    with in_time(RUN):
        await run_pipeline(MemorySource(files, batch=30), destination, journal_path, options=Options())
    assert (len(hanging), len(destination.finalized)) == (4, 30)


async def test_a_wait_for_the_settle_time_is_told_once(journal_path: Path) -> None:
    """Not by each of ten finalizers, whenever one of them looks for work."""
    destination, events = MemoryDestination(), list[Event]()

    async def store(claim: Claim) -> None:
        if claim.instance.sop_uid == "1.2" and "1.2" not in broken:
            broken.append("1.2")
            raise TransientError("cut", may_have_taken_effect=True)

    broken: list[str] = []
    destination.on_store = store
    files = {path: key for number in range(1, 30) for path, key in study_files(f"{number}", 2).items()}
    options = Options(settle_seconds=0.5)
    await run_pipeline(MemorySource(files, batch=60), destination, journal_path, options=options, report=events.append)
    assert len(destination.finalized) == 29
    assert len([event for event in events if isinstance(event, Settling)]) == 1
