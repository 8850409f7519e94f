"""The driver, with workers in this process: who gets which files, and when."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf, nan
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from builders import AT_ONCE, DEMO, QUICK, opened, router, summary_of
from memory_pipeline import MemoryDestination, MemorySource, study_files
from patience import MOMENT, in_time

from asyncimport.cluster.messages import Order, Packed, Reply, Setup, pack_outcome, unpack_claims
from asyncimport.cluster.ports import WorkerLostError
from asyncimport.cluster.sending import send_by_workers
from asyncimport.errors import LoginRefusedError, UnavailableError
from asyncimport.model.deliveries import Claim, Failed, Incomplete, Outcome, SealedDelivery, Stored
from asyncimport.model.events import Event, Notice, OutcomesRecorded, ServerUnavailable
from asyncimport.model.options import Options
from asyncimport.model.summary import Summary
from asyncimport.pacing.shutdown import Stop
from asyncimport.pipeline.images import upload_images
from asyncimport.source.folder import FileSource

pytestmark = pytest.mark.anyio

LEASE_SECONDS = 0.4


@dataclass(eq=False)
class Worker:
    """A worker that acknowledges all files at once, unless a test says otherwise."""

    name: str
    seen: Callable[[str], bool] = lambda _: True
    outcome: Callable[[Claim], Outcome] = lambda claim: Stored(claim, f"/row/{claim.delivery.key}")
    before_reply: Callable[[Order], Any] = lambda _: None
    got: list[tuple[float, str]] = field(default_factory=list)
    """When each file came, and its path."""
    limits: list[int] = field(default_factory=list)
    zips: list[bool] = field(default_factory=list)
    """Whether it might make zips, by each order."""
    zips_ended: bool = False
    starts: int = 0
    start_error: Exception | None = None

    def sees(self, path: str) -> bool:
        """Return whether it sees a path."""
        return self.seen(path)

    async def reach(self) -> None:
        """Be ready."""

    async def start(self, _: Setup) -> float:
        """Start."""
        self.starts += 1
        if self.start_error is not None:
            raise self.start_error
        return 0.0

    async def exchange(self, order: Order) -> Reply:
        """Acknowledge."""
        now = anyio.current_time()
        claims = unpack_claims(order.files, order.deliveries)
        self.got += [(now, claim.instance.file.path) for claim in claims]
        self.limits.append(order.limit)
        self.zips.append(not order.zips_ended)
        await anyio.lowlevel.checkpoint()
        self.before_reply(order)
        outcomes = [pack_outcome(self.outcome(claim)) for claim in claims]
        return self.reply(order, outcomes)

    def reply(self, order: Order, outcomes: Sequence[Packed]) -> Reply:
        """Make a reply."""
        ends = order.stop_seconds is not None
        return Reply(number=order.number, clock=now(), outcomes=outcomes, has_ended=ends, zips_ended=self.zips_ended)

    async def end(self) -> None:
        """End."""

    @property
    def paths(self) -> list[str]:
        """Return the files that came."""
        return [path for _, path in self.got]


async def some_steps() -> None:
    """Let others go on meanwhile."""
    for _ in range(10):
        await anyio.lowlevel.checkpoint()


def now() -> float:
    """Return the clock of all workers here."""
    return anyio.current_time()


@dataclass
class Workers:
    """These workers."""

    links: Sequence[Worker]
    lease_seconds: float = LEASE_SECONDS
    open_files: Callable[[], FileSource] = field(default=lambda: FileSource([]))

    async def joined(self) -> AsyncIterator[Worker]:
        """Yield each."""
        for link in self.links:
            yield link
        await anyio.sleep_forever()


async def run(
    source: MemorySource,
    workers: Sequence[Worker] | Workers,
    journal_path: Path,
    *,
    destination: MemoryDestination | None = None,
    report: Callable[[Event], None] = lambda _: None,
    options: Options | None = None,
    stop: Stop | None = None,
    lease_seconds: float = LEASE_SECONDS,
) -> Summary:
    """Run the pipeline by these workers."""
    options = options or Options(workers=4, finalizers=2, settle_seconds=0, outage_timeout=1)
    setup = Setup(
        host="https://xnat",
        credentials=DEMO,
        authorities="",
        verify=True,
        timeouts=QUICK,
        options=options,
        file_policy=AT_ONCE,
        call_policy=AT_ONCE,
        source="uploader-1",
        adopt_rows=False,
        lease_seconds=lease_seconds,
        open_files=partial(FileSource, []),
    )
    rules = router(session="{StudyDate}")
    links = workers if isinstance(workers, Workers) else Workers(workers)
    send = partial(send_by_workers, links, setup)
    target = destination or MemoryDestination()
    with in_time():
        async with opened(journal_path, rules) as journal:
            await upload_images(source, target, journal, rules, options=options, report=report, stop=stop, send=send)
            # Else the next run would take it for killed.
            await anyio.to_thread.run_sync(journal.end_run, 0)
            return await summary_of(journal)


# On a busy machine each worker may be late, and would be lost.
run_without_losses = partial(run, lease_seconds=600)


async def test_files_are_spread_over_workers(journal_path: Path) -> None:
    """All of them send, and each file goes to one."""
    workers = [Worker("a"), Worker("b")]
    source = MemorySource({**study_files("1", 200), **study_files("2", 200)}, batch=400)
    summary = await run_without_losses(source, workers, journal_path)
    assert summary.files.stored == 400
    assert sorted(workers[0].paths + workers[1].paths) == sorted(source.files)
    assert workers[0].paths
    assert workers[1].paths


@dataclass(eq=False)
class _Slow(Worker):
    """A worker that takes a while for its files, and tells some of them at a time."""

    left: list[Claim] = field(default_factory=list)
    files_at_a_time: Callable[[Order], int] = lambda order: order.limit

    async def exchange(self, order: Order) -> Reply:
        """Acknowledge some."""
        self.limits.append(order.limit)
        self.left += unpack_claims(order.files, order.deliveries)
        await anyio.sleep(0.02)
        told, self.left = self.left[: self.files_at_a_time(order)], self.left[self.files_at_a_time(order) :]
        outcomes = [pack_outcome(Stored(claim, f"/row/{claim.delivery.key}", seconds=0.05)) for claim in told]
        return replace(self.reply(order, outcomes), in_flight=min(order.limit, len(told)))


async def test_the_limit_grows_though_another_worker_has_not_told_what_it_sends(journal_path: Path) -> None:
    """Whoever had more files than slots shows that its share was used."""
    busy = _Slow("busy")

    def files_at_a_time(_: Order) -> int:
        firsts = sum(claim.delivery.uri is None for claim in other.left)
        return 100 if busy.limits[-1:] > [3] or len(busy.limits) > 100 else firsts

    other = _Slow("other", files_at_a_time=files_at_a_time)
    source = MemorySource({**study_files("1", 200), **study_files("2", 200)}, batch=400)
    summary = await run_without_losses(
        source, [busy, other], journal_path, options=Options(finalizers=2, settle_seconds=0)
    )
    assert summary.files.stored == 400
    assert max(busy.limits[:100]) > 3


async def test_zips_that_end_for_one_worker_end_for_all(journal_path: Path) -> None:
    """With the next order of each: a proxy before XNAT refuses them, say."""
    first, other = Worker("a"), Worker("b")

    def end_zips(order: Order) -> None:
        first.zips_ended = order.number > 1

    first.before_reply = end_zips
    source = MemorySource({**study_files("1", 200), **study_files("2", 200)}, batch=400)
    await run_without_losses(source, [first, other], journal_path)
    assert first.zips[0]
    for worker in (first, other):
        assert worker.zips == sorted(worker.zips, reverse=True)
        assert not worker.zips[-1]


async def test_zips_of_workers_that_end_are_told(journal_path: Path) -> None:
    """The archive lacks a file that went as a zip. Only workers make them, so the driver has expected none itself."""
    worker = Worker("a", outcome=lambda claim: Stored(claim, f"/row/{claim.delivery.key}", zip_size=3))
    destination, events = MemoryDestination(), list[Event]()
    source = MemorySource(study_files("1", 20))

    async def lose(sealed: SealedDelivery) -> Incomplete | None:
        is_first = sealed.delivery.number == 1
        return Incomplete(sealed.delivery, "/archive", frozenset(["1.7"])) if is_first else None

    destination.on_finalize = lose
    await run_without_losses(source, [worker], journal_path, destination=destination, report=events.append)
    told = [event.reason for event in events if isinstance(event, Notice)]
    assert "images are sent as they are from now on: the archive lacks files that XNAT acknowledged" in told


async def test_one_worker_at_a_time_logs_in_again(journal_path: Path) -> None:
    """All logins have expired, and the password may have changed. A worker sends nothing before it has logged in."""
    workers = [Worker("a"), Worker("b"), Worker("c")]
    turns = dict.fromkeys(workers, 3)
    kept: dict[Worker, list[Packed]] = {worker: [] for worker in workers}
    at_once: list[set[Worker]] = []
    logging_in: set[Worker] = set()

    def answer(worker: Worker, make: Callable[[Order, Sequence[Packed]], Reply], order: Order, new: Any) -> Reply:
        kept[worker] += new
        if order.may_log_in and turns[worker]:
            logging_in.add(worker)
            at_once.append({*logging_in})
            turns[worker] -= 1
        if turns[worker]:
            return replace(make(order, []), wants_login=True)
        logging_in.discard(worker)
        told, kept[worker] = kept[worker], []
        return make(order, told)

    for worker in workers:
        worker.reply = partial(answer, worker, worker.reply)  # type: ignore[method-assign]
    source = MemorySource({**study_files("1", 200), **study_files("2", 200)}, batch=400)
    summary = await run_without_losses(source, workers, journal_path)
    assert summary.files.stored == 400
    assert max(map(len, at_once)) == 1


async def test_after_a_refused_login_no_other_worker_tries(journal_path: Path) -> None:
    """The run is ending, and what the refused worker had goes back into the journal meanwhile."""
    workers = [Worker("a"), Worker("b"), Worker("c")]
    tried: list[Worker] = []
    have_files: set[Worker] = set()

    def answer(worker: Worker, make: Callable[[Order, Sequence[Packed]], Reply], order: Order, new: Any) -> Reply:
        if new:
            have_files.add(worker)
        # Until its first file is stored, a delivery has no files for others.
        if any(claim.delivery.uri is None for claim in unpack_claims(order.files, order.deliveries)):
            return make(order, new)
        if order.may_log_in and len(have_files) == len(workers):
            tried.append(worker)
            return replace(make(order, []), wants_login=True, has_ended=True, error=LoginRefusedError("no"))
        return replace(make(order, []), wants_login=True)

    for worker in workers:
        worker.reply = partial(answer, worker, worker.reply)  # type: ignore[method-assign]
    source = MemorySource({**study_files("1", 200), **study_files("2", 200)}, batch=400)
    with pytest.raises(LoginRefusedError):
        await run_without_losses(source, workers, journal_path)
    assert len(tried) == 1


@pytest.mark.parametrize("is_refused", [False, True])
async def test_the_first_of_workers_that_begin_anew_logs_in_alone(journal_path: Path, is_refused: bool) -> None:
    """All have lost their leases, and the password may have changed: the first refusal ends the run."""
    workers = [Worker("a"), Worker("b"), Worker("c")]
    working, cut = set[Worker](), anyio.Event()
    are_in: list[bool] = []
    anew: set[Worker] = set()
    others_begin = anyio.Event()

    def lose(worker: Worker, order: Order) -> None:
        if order.files:
            working.add(worker)
        if len(working) == len(workers):
            cut.set()
        if cut.is_set() and worker.starts == 1:
            raise WorkerLostError("cut", is_final=True)

    async def begin(worker: Worker, _: Setup) -> float:
        worker.starts += 1
        if worker.starts > 1:
            place = len(are_in)
            are_in.append(False)
            anew.add(worker)
            if place:
                others_begin.set()
            else:
                with anyio.move_on_after(2 * LEASE_SECONDS):
                    await others_begin.wait()
            assert place == 0 or are_in[0]
            if is_refused:
                raise LoginRefusedError("no")
            are_in[place] = True
        return 0.0

    for worker in workers:
        worker.before_reply = partial(lose, worker)
        worker.start = partial(begin, worker)  # type: ignore[method-assign]
    source = MemorySource({**study_files("1", 200), **study_files("2", 200)}, batch=400)
    if is_refused:
        with pytest.raises(LoginRefusedError):
            await run(source, workers, journal_path)
        assert len(are_in) == 1
    else:
        assert (await run(source, workers, journal_path)).files.stored == 400
        # On a busy machine one of them may be lost once more.
        assert anew == {*workers}


@pytest.mark.parametrize("limit", [1, 4])
async def test_no_more_is_in_flight_than_the_run_allows(journal_path: Path, limit: int) -> None:
    """Whatever workers had been allowed before, and whoever got first files."""
    workers = [Worker(name) for name in "abc"]
    allowed = dict.fromkeys(workers, 0)
    most = 0

    async def exchange(worker: Worker, order: Order) -> Reply:
        nonlocal most
        claims = unpack_claims(order.files, order.deliveries)
        worker.got += [(now(), claim.instance.file.path) for claim in claims]
        kept[worker] += claims
        # It sends as many as it may, and what was begun before goes on.
        allowed[worker] = max(allowed[worker], min(order.limit, len(kept[worker])))
        most = max(most, sum(allowed.values()))
        await some_steps()
        done, kept[worker] = kept[worker][: order.limit], kept[worker][order.limit :]
        allowed[worker] = min(order.limit, len(kept[worker]))
        return worker.reply(order, [pack_outcome(worker.outcome(claim)) for claim in done])

    kept: dict[Worker, list[Claim]] = {worker: [] for worker in workers}
    for worker in workers:
        worker.exchange = partial(exchange, worker)  # type: ignore[method-assign]
    files: dict[str, tuple[str, int]] = {}
    for study in range(20):
        files |= study_files(str(study), 6)
    source = MemorySource(files, batch=len(files))
    options = Options(workers=limit, finalizers=2, settle_seconds=0, outage_timeout=1)
    # What a lost worker has in flight may come on top.
    summary = await run_without_losses(source, workers, journal_path, options=options)
    assert summary.files.stored == len(source.files)
    assert most <= limit


async def test_files_go_to_workers_that_see_them(journal_path: Path) -> None:
    """Files lie on two file servers, in one study even."""
    workers = [Worker("a", lambda path: "/1/" in path), Worker("b", lambda path: "/2/" in path)]
    source = MemorySource({**study_files("1", 60), **study_files("2", 60)})
    summary = await run_without_losses(source, workers, journal_path)
    assert summary.files.stored == 120
    assert all("/1/" in path for path in workers[0].paths)
    assert all("/2/" in path for path in workers[1].paths)


async def test_one_file_at_a_time_reaches_all_file_servers(journal_path: Path) -> None:
    """With --workers 1, the worker that sees the last files gets its turn."""
    workers = [Worker("a", lambda path: "/1/" in path), Worker("b", lambda path: "/2/" in path)]
    source = MemorySource({**study_files("1", 10), **study_files("2", 10)})
    options = Options(workers=1, finalizers=1, settle_seconds=0)
    summary = await run_without_losses(source, workers, journal_path, options=options)
    assert summary.files.stored == 20
    assert {*workers[0].limits, *workers[1].limits} <= {1}


async def test_a_file_that_a_worker_does_not_see_goes_to_another(journal_path: Path) -> None:
    """Nobody knew that before; if none sees it, it is unreadable."""

    def absent(claim: Claim) -> Outcome:
        return Failed(claim, "the file cannot be read", unreadable=True, may_be_elsewhere=True)

    workers = [Worker("a", outcome=absent), Worker("b")]
    summary = await run_without_losses(MemorySource(study_files("1", 50)), workers, journal_path)
    assert summary.files.stored == 50
    both = [Worker("a", outcome=absent), Worker("b", outcome=absent)]
    summary = await run_without_losses(MemorySource(study_files("2", 1), roots=("/m/2",)), both, journal_path)
    assert summary.files.failed == 1
    assert both[0].paths == both[1].paths


@pytest.mark.parametrize("sees", [True, False])
async def test_a_file_that_a_worker_does_not_see_waits_for_those_that_begin(journal_path: Path, sees: bool) -> None:
    """One is still logging in when the other says so. If it does not see the file either, that is unreadable."""
    tried = anyio.Event()

    def absent(claim: Claim) -> Outcome:
        tried.set()
        return Failed(claim, "the file cannot be read", unreadable=True, may_be_elsewhere=True)

    late = Worker("b") if sees else Worker("b", outcome=absent)

    async def begin(_: Setup) -> float:
        await tried.wait()
        return 0.0

    late.start = begin  # type: ignore[method-assign]
    summary = await run_without_losses(
        MemorySource(study_files("1", 1)), [Worker("a", outcome=absent), late], journal_path
    )
    assert (summary.files.stored, summary.files.failed) == ((1, 0) if sees else (0, 1))
    assert late.paths


@pytest.mark.parametrize("ends", [True, False])
async def test_a_file_does_not_wait_for_ever_for_a_worker_that_begins(journal_path: Path, ends: bool) -> None:
    """It cannot log in, or hangs meanwhile: the file is unreadable."""
    tried = anyio.Event()

    def absent(claim: Claim) -> Outcome:
        tried.set()
        return Failed(claim, "the file cannot be read", unreadable=True, may_be_elsewhere=True)

    async def begin(_: Setup) -> float:
        await tried.wait()
        if ends:
            raise UnavailableError("no way")
        await anyio.sleep_forever()
        raise AssertionError

    late = Worker("b")
    late.start = begin  # type: ignore[method-assign]
    notices: list[Event] = []
    workers = [Worker("a", outcome=absent), late]
    # The hour of the other case would be too long for this test.
    options = Options(workers=4, finalizers=2, settle_seconds=0, outage_timeout=3600 if ends else 0.2)
    source = MemorySource(study_files("1", 1))
    summary = await run_without_losses(source, workers, journal_path, options=options, report=notices.append)
    assert summary.files.failed == 1
    assert any(isinstance(event, Notice) and "waiting for one" in event.reason for event in notices) or ends


@pytest.mark.parametrize("is_final", [False, True])
async def test_files_are_given_back_when_the_lease_is_over_and_not_before(journal_path: Path, is_final: bool) -> None:
    """Whatever the cluster knows of a lost worker: its network may be cut, and it still sends."""
    leases: list[float] = []
    is_lost = False

    def lose(order: Order) -> None:
        nonlocal is_lost
        leases.append(order.lease_until)
        is_lost = is_lost or bool(order.files and order.number > 1)
        if is_lost:
            raise WorkerLostError("no reply", is_final=is_final)

    first, other = Worker("a", before_reply=lose), Worker("b")
    notices: list[Event] = []
    source = MemorySource({**study_files("1", 300), **study_files("2", 300)})
    summary = await run(source, [first, other], journal_path, report=notices.append)
    assert summary.files.stored == 600
    lost = set(first.paths) & set(other.paths)
    assert lost
    assert min(at for at, path in other.got if path in lost) >= max(leases)
    assert any(isinstance(event, Notice) and "sent again by others" in event.reason for event in notices)


async def test_files_that_are_claimed_when_the_only_worker_is_lost_are_sent_later(journal_path: Path) -> None:
    """The journal has handed them out, and nobody is there to take them."""
    main = threading.current_thread()
    recorded, claiming, gone = threading.Event(), threading.Event(), threading.Event()

    def see(_: str) -> bool:
        if recorded.is_set() and threading.current_thread() is not main and not gone.is_set():
            claiming.set()
            assert gone.wait(MOMENT)
        return True

    def lose(_: Order) -> None:
        if claiming.is_set() and not gone.is_set():
            raise WorkerLostError("no reply", is_final=True)

    def note(event: Event) -> None:
        if isinstance(event, OutcomesRecorded):
            # From now on more than the first file of the study can be claimed.
            recorded.set()
        elif isinstance(event, Notice) and "does not answer" in event.reason:
            gone.set()

    worker = Worker("a", see, before_reply=lose)
    summary = await run(MemorySource(study_files("1", 60)), [worker], journal_path, report=note)
    assert gone.is_set()
    assert summary.files.stored == 60


async def test_a_first_file_that_its_last_worker_does_not_see_has_an_outcome(journal_path: Path) -> None:
    """The worker that would see it is lost with it. The archive is not asked again and again."""
    lost = asyncio.Event()

    def absent(claim: Claim) -> Outcome:
        return Failed(claim, "the file cannot be read", unreadable=True, may_be_elsewhere=True)

    def lose(order: Order) -> None:
        if order.files:
            lost.set()
            other.start_error = WorkerLostError("gone", is_final=True)
        if lost.is_set():
            raise WorkerLostError("gone", is_final=True)

    # The first of two equal ones gets it first.
    other = Worker("b", before_reply=lose)
    summary = await run(MemorySource(study_files("1", 1)), [Worker("a", outcome=absent), other], journal_path)
    assert lost.is_set()
    assert summary.files.failed == 1


async def test_files_that_nobody_sees_any_more_fail_after_a_while(journal_path: Path) -> None:
    """Their only worker is lost for good: the run does not wait for ever, and sends what others see."""

    def lose(order: Order) -> None:
        if order.files:
            gone.start_error = WorkerLostError("gone", is_final=True)
        if gone.start_error is not None:
            raise WorkerLostError("gone", is_final=True)

    gone = Worker("a", lambda path: "/1/" in path, before_reply=lose)
    other = Worker(
        "b",
        lambda path: "/2/" in path,
        lambda claim: (
            Stored(claim, "/row/2")
            if "/2/" in claim.instance.file.path
            else Failed(claim, "the file cannot be read", unreadable=True, may_be_elsewhere=True)
        ),
    )
    notices: list[Event] = []
    source = MemorySource({**study_files("1", 60), **study_files("2", 60)})
    summary = await run(source, [gone, other], journal_path, report=notices.append)
    assert (summary.files.stored, summary.files.failed) == (60, 60)
    assert any(isinstance(event, Notice) and "waiting for one" in event.reason for event in notices)


async def test_a_stop_while_leases_of_an_earlier_run_last_keeps_them(journal_path: Path) -> None:
    """The workers of that run may still be sending when the run after the next one begins."""
    rules, stop, worker = router(session="{StudyDate}"), Stop(), Worker("a")
    async with opened(journal_path, rules) as journal:
        await anyio.to_thread.run_sync(journal.queue.note_leases, 60.0)

    def report(event: Event) -> None:
        if isinstance(event, Notice) and "earlier run" in event.reason:
            stop.request()

    await run(MemorySource(study_files("1", 1)), [worker], journal_path, report=report, stop=stop)
    assert not worker.got
    async with opened(journal_path, rules) as journal:
        assert journal.leased_seconds > 0


async def test_a_stop_leaves_no_file_in_flight_that_nobody_has_sent(journal_path: Path) -> None:
    """Its worker does not see it, and another one still begins: the next run archives its session at once."""
    stop, late = Stop(), Worker("b")

    def absent(claim: Claim) -> Outcome:
        return Failed(claim, "the file cannot be read", unreadable=True, may_be_elsewhere=True)

    async def begin(_: Setup) -> float:
        await anyio.sleep_forever()
        raise AssertionError

    def report(event: Event) -> None:
        if isinstance(event, Notice) and "waiting for one" in event.reason:
            stop.request()

    late.start = begin  # type: ignore[method-assign]
    source = MemorySource(study_files("1", 1))
    options = Options(workers=4, finalizers=2, settle_seconds=3600, outage_timeout=3600)
    summary = await run_without_losses(
        source, [Worker("a", outcome=absent), late], journal_path, options=options, report=report, stop=stop
    )
    assert (summary.files.stored, summary.files.failed) == (0, 0)
    summary = await run_without_losses(source, [Worker("c")], journal_path, options=options)
    assert [one.state for one in summary.sessions] == ["archived"]


async def test_a_stop_leaves_no_file_in_flight_that_waits_for_its_worker(journal_path: Path) -> None:
    """A worker sends nothing that comes with the order to stop."""
    stop = Stop()

    def note(order: Order) -> None:
        assert not (order.files and order.stop_seconds is not None)
        if order.number == 3:
            stop.request()

    options = Options(workers=4, finalizers=2, settle_seconds=3600)
    source = MemorySource({**study_files("1", 300), **study_files("2", 300)}, batch=600)
    summary = await run_without_losses(
        source, [Worker("a", before_reply=note)], journal_path, options=options, stop=stop
    )
    assert 0 < summary.files.stored < 600
    summary = await run_without_losses(source, [Worker("b")], journal_path, options=options)
    assert {one.state for one in summary.sessions} == {"archived"}


@pytest.mark.parametrize("confirms", [False, True])
async def test_a_worker_that_has_not_confirmed_its_end_is_waited_for_by_the_next_run(
    journal_path: Path, confirms: bool
) -> None:
    """The run ended by an error. Its worker may go on sending until its lease is over."""
    is_busy = anyio.Event()

    async def refuse(_: Setup) -> float:
        await is_busy.wait()
        raise LoginRefusedError("no")

    async def stay() -> None:
        raise WorkerLostError("no reply")

    first, other = Worker("a", before_reply=lambda order: is_busy.set() if order.files else None), Worker("b")
    other.start = refuse  # type: ignore[method-assign]
    if not confirms:
        first.end = stay  # type: ignore[method-assign]
    source = MemorySource(study_files("1", 300))
    with pytest.raises(LoginRefusedError):
        await run(source, [first, other], journal_path)
    began, next_one, notices = now(), Worker("c"), list[Event]()
    summary = await run(source, [next_one], journal_path, report=notices.append)
    assert summary.files.stored + summary.files.already_stored == 300
    waits = [event for event in notices if isinstance(event, Notice) and "earlier run" in event.reason]
    assert bool(waits) is not confirms
    if not confirms:
        assert next_one.got[0][0] >= began + LEASE_SECONDS


async def test_the_same_reply_twice_counts_once(journal_path: Path) -> None:
    """The last reply of a worker is told again, and one may come when the lease is over."""
    worker = Worker("a")
    seen: list[Packed] = []

    def reply(order: Order, outcomes: Sequence[Packed]) -> Reply:
        seen.extend(outcomes)
        return Reply(
            number=order.number, clock=now(), outcomes=[*seen, *outcomes], has_ended=order.stop_seconds is not None
        )

    worker.reply = reply  # type: ignore[method-assign]
    summary = await run_without_losses(MemorySource(study_files("1", 40)), [worker], journal_path)
    assert summary.files.stored == 40


async def test_a_refused_login_ends_the_run(journal_path: Path) -> None:
    """It is the same everywhere."""
    with pytest.raises(LoginRefusedError):
        await run(MemorySource(study_files("1", 1)), [Worker("a", start_error=LoginRefusedError("no"))], journal_path)


async def test_a_worker_that_does_not_reach_the_server_is_left_out(journal_path: Path) -> None:
    """The others do the work; if none reaches it, the run ends."""
    away = Worker("a", start_error=UnavailableError("no way"))
    assert (await run(MemorySource(study_files("1", 20)), [away, Worker("b")], journal_path)).files.stored == 20
    with pytest.raises(UnavailableError, match="no way"):
        await run(MemorySource(study_files("2", 20)), [away], journal_path)


async def test_a_run_without_workers_ends_when_none_joins(journal_path: Path) -> None:
    """The only one is gone for good, and nobody comes in its place."""
    gone = Worker("a", start_error=WorkerLostError("gone", is_final=True))
    with pytest.raises(UnavailableError, match="no worker is left: gone"):
        await run(MemorySource(study_files("1", 1)), [gone], journal_path)


class _Waits(Stop):
    """A stop whose waits end when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[anyio.Event] = []
        self.begun = anyio.Semaphore(0)

    async def sleep(self, seconds: float) -> None:
        """Sleep."""
        del seconds
        self.waits.append(anyio.Event())
        self.begun.release()
        await self.waits[-1].wait()


@dataclass
class _Replaced(Workers):
    """Each worker joins when the one before is lost; the first wait is over in that for the third."""

    stop: _Waits = field(default_factory=_Waits)

    async def joined(self) -> AsyncIterator[Worker]:
        """Yield each."""
        first, second, third = self.links
        yield first
        await self.stop.begun.acquire()
        yield second
        await self.stop.begun.acquire()
        self.stop.waits[0].set()
        await some_steps()
        yield third
        await anyio.sleep_forever()


async def test_the_wait_for_workers_begins_anew_when_one_has_joined(journal_path: Path) -> None:
    """It is lost long after the first: the next one may come as late as after the first."""
    gone = WorkerLostError("gone", is_final=True)
    workers = _Replaced([Worker("a", start_error=gone), Worker("b", start_error=gone), Worker("c")])
    summary = await run(MemorySource(study_files("1", 5)), workers, journal_path, stop=workers.stop)
    assert summary.files.stored == 5


async def test_a_run_whose_workers_are_not_reached_any_more_ends(journal_path: Path) -> None:
    """Their machines are gone, and so is the scheduler that would say so."""
    away = [Worker(name, start_error=WorkerLostError("no connection")) for name in ("a", "b")]
    with pytest.raises(UnavailableError, match="no worker is left: no connection"):
        await run(MemorySource(study_files("1", 1)), away, journal_path)


@pytest.mark.parametrize("is_back", [True, False])
@pytest.mark.parametrize("is_another", [True, False])
async def test_a_worker_that_begins_again_waits_for_the_server(
    journal_path: Path, is_back: bool, is_another: bool
) -> None:
    """It is away when the only worker has lost its lease and logs in again, or one that comes in its place."""
    lost, gone = anyio.Event(), anyio.Event()
    failures = 0

    def lose(order: Order) -> None:
        if order.files and not lost.is_set():
            lost.set()
            if is_another:
                first.start_error = WorkerLostError("gone", is_final=True)
            raise WorkerLostError("cut", is_final=True)

    async def begin(_: Setup) -> float:
        nonlocal failures
        if is_another:
            await gone.wait()
        if lost.is_set() and (failures < 3 or not is_back):
            failures += 1
            raise UnavailableError("XNAT is starting")
        return 0.0

    away: list[str | None] = []

    def note(event: Event) -> None:
        if isinstance(event, ServerUnavailable):
            away.append(event.reason)
        elif isinstance(event, Notice) and "is lost: gone" in event.reason:
            gone.set()

    first = Worker("a", before_reply=lose)
    last = Worker("b") if is_another else first
    last.start = begin  # type: ignore[method-assign]
    workers = [first, last] if is_another else [first]
    made = run(MemorySource(study_files("1", 5)), workers, journal_path, report=note)
    if is_back:
        assert (await made).files.stored == 5
        assert away.count("XNAT is starting") == 1
        assert away[-1] is None
    else:
        with pytest.raises(UnavailableError, match="away for too long: XNAT is starting"):
            await made


async def test_a_worker_whose_reply_is_malformed_is_lost(journal_path: Path) -> None:
    """Nothing of the reply counts, and others send the files when its lease is over."""
    bad, good = Worker("a"), Worker("b")
    make = bad.reply

    def reply(order: Order, outcomes: Sequence[Packed]) -> Reply:
        return make(order, [*outcomes, ("S", order.files[0][0])] if order.files else outcomes)

    bad.reply = reply  # type: ignore[method-assign]
    await run_with_a_lost_one(journal_path, bad, good)


@pytest.mark.parametrize(
    "wrong",
    [
        {"clock": nan},
        {"clock": inf},
        {"clock": "soon"},
        {"clock": None},
        {"number": 0},
        {"in_flight": -1},
        {"in_flight": 10**30},
        {"reading": None},
        {"limited_by": 7},
        {"limited_by": "x" * 1_000_000},
        {"outcomes": 7},
        {"outcomes": [("F", 1, 10**30, False, "no", False, False)]},
        {"outcomes": [("S", 1, 1, False, "/row", None, None, None, nan)]},
        {"outcomes": [("S", 1, 1, False, "/row", None, None, None, -1.0)]},
        {"outcomes": [("S", 1, 1, False, "/row", None, None, -5, 0.5)]},
        {"outcomes": [("S", 1, 1, False, "/row", b"x" * 1000, None, None, 0.5)]},
        {"overloads": [nan]},
        {"overloads": ["soon"]},
        {"overloads": [-1.0]},
        {"retries": [("no", [], 1)]},
        {"retries": [("no", None)]},
        {"retries": ["no"]},
        {"notices": [None]},
        {"outages": [5]},
        {"zips_ended": "yes"},
        {"has_ended": 1},
        {"error": ValueError("no")},
    ],
    ids=lambda wrong: f"{wrong!r:.50}",
)
async def test_a_worker_whose_reply_cannot_be_is_lost(journal_path: Path, wrong: dict[str, Any]) -> None:
    """Whatever is wrong in it: others send its files, and one line says why."""
    bad, good = Worker("a"), Worker("b")
    make = bad.reply

    def reply(order: Order, outcomes: Sequence[Packed]) -> Reply:
        # Outcomes are of files that it has.
        changed: dict[str, Any] = {
            name: [(one[0], key, *one[2:]) for one in value for key, *_ in order.files]
            if name == "outcomes" and value != 7
            else value
            for name, value in wrong.items()
        }
        # It is lost for sure before the end if it has files.
        return replace(make(order, outcomes), **(changed if order.files else {}))

    bad.reply = reply  # type: ignore[method-assign]
    await run_with_a_lost_one(journal_path, bad, good)


@pytest.mark.parametrize("reply", [5, (), {"clock": 1.0}], ids=repr)
async def test_a_worker_that_replies_something_else_is_lost(journal_path: Path, reply: Any) -> None:
    """It has another version, say, though it said that it has not."""
    bad = Worker("a")
    make = bad.reply
    bad.reply = lambda order, outcomes: reply if order.files else make(order, outcomes)  # type: ignore[method-assign]
    await run_with_a_lost_one(journal_path, bad, Worker("b"))


@pytest.mark.parametrize("clock", [nan, inf, "soon", None], ids=repr)
async def test_a_worker_that_begins_without_a_clock_is_lost(journal_path: Path, clock: Any) -> None:
    """No lease can be given to it."""
    bad = Worker("a")

    async def begin(_: Setup) -> Any:
        return clock

    bad.start = begin  # type: ignore[method-assign]
    await run_with_a_lost_one(journal_path, bad, Worker("b"))


async def run_with_a_lost_one(journal_path: Path, bad: Worker, good: Worker) -> None:
    """Run, and check that the bad worker was lost with its reason, and all files were sent."""
    notices: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, Notice):
            notices.append(event.reason)

    summary = await run(MemorySource(study_files("1", 40)), [bad, good], journal_path, report=note)
    assert summary.files.stored == 40
    assert {path for _, path in bad.got} <= {*good.paths}
    assert "the worker a is lost: its reply is malformed" in notices
