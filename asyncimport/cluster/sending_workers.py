"""What the driver knows of each worker, and who gets which files."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio

from asyncimport.cluster.lease import GrantedLease
from asyncimport.cluster.messages import Order, Reply, pack_claims
from asyncimport.cluster.ports import WorkerLink
from asyncimport.journal.demand import Demand
from asyncimport.journal.first_files import FirstFiles
from asyncimport.model.deliveries import Claim
from asyncimport.model.events import Notice, RetryScheduled, ServerUnavailable
from asyncimport.pacing.concurrency import Throttle
from asyncimport.pacing.load import Load
from asyncimport.pipeline.context import Context
from asyncimport.pipeline.feed import demand_of

# Files that a worker has ahead, so that it need not wait for the next order: what it sends in this time (seconds).
_AHEAD_SECONDS = 0.75
_AHEAD_PER_SLOT = 4
_MAX_AHEAD = 1024
# How much the last reply counts in the average of files a second.
_PACE_SHARE = 0.3
# How long workers have their turn, if fewer files may be in flight than there are workers.
_TURN_SECONDS = 2.0
# Consecutive files go to one worker, this many at a time.
_TOGETHER = 8


@dataclass(slots=True, eq=False)
class SendingWorker:
    """A worker that sends: the files that it was given and that have no outcome yet, and those that it gets next."""

    link: WorkerLink
    lease: GrantedLease
    given: dict[int, Claim] = field(default_factory=dict)
    waiting: list[Claim] = field(default_factory=list)
    has_work: anyio.Event = field(default_factory=anyio.Event)
    in_flight: int = 0
    reading: int = 0
    limited_by: str = ""
    wants_login: bool = False
    may_log_in: bool = False
    files_per_second: float = 0.0
    told_at: float = field(default_factory=anyio.current_time)
    """When the last reply with outcomes came in, or when it last had nothing to do."""
    limit: int = 1
    """Its share of what may be in flight."""
    allowed: int = 0
    """How many files its last order lets it have in flight."""
    most: int = 0
    """How many it may have in flight: when fewer are allowed, those that are in flight go on."""
    number: int = 0
    limit_version: int = 0
    """Of the limit that its last order had."""
    told_limit_version: int = -1
    """Of the limit that its last reply tells of."""

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to send."""
        return not self.given and not self.waiting

    @property
    def most_in_flight(self) -> int:
        """How many files it may have in flight now."""
        return min(self.most, len(self.given))

    @property
    def files(self) -> int:
        """How many files it has."""
        return len(self.given) + len(self.waiting)

    @property
    def ahead(self) -> int:
        """How many files it may have."""
        return min(_MAX_AHEAD, max(_AHEAD_PER_SLOT * max(1, self.limit), int(self.files_per_second * _AHEAD_SECONDS)))

    @property
    def room(self) -> int:
        """How many files more it may have."""
        return max(0, self.ahead - self.files)

    def note_reply(self, reply: Reply) -> None:
        """Note what its reply tells of it."""
        self.in_flight, self.reading, self.wants_login = reply.in_flight, reply.reading, reply.wants_login
        self.most = max(self.allowed, reply.in_flight)
        self.told_limit_version = self.limit_version
        if reply.outcomes:
            self._note_pace(len(reply.outcomes))

    def _note_pace(self, files: int) -> None:
        now = anyio.current_time()
        pace = files / max(now - self.told_at, 0.001)
        self.files_per_second += (pace - self.files_per_second) * (_PACE_SHARE if self.files_per_second else 1)
        self.told_at = now

    def add(self, claims: Sequence[Claim]) -> None:
        """Send these next."""
        if self.is_idle:
            self.told_at = anyio.current_time()
        self.waiting += claims
        self.has_work.set()

    def order(
        self,
        workers: "Sequence[SendingWorker]",
        *,
        limit: int,
        rate: float | None,
        may_log_in: bool,
        zips_ended: bool,
        pause: float,
        stop_seconds: float | None,
    ) -> Order:
        """Return the next order, with all that waits; before a stop nothing more is sent.

        `limit` and `rate` are for all `workers`. What is in flight elsewhere is left out of its share of the limit.
        Of all workers one at a time logs in again: if the password has changed, the first refusal ends the run. Many
        would lock the account.
        """
        others = any(one.wants_login and one.may_log_in for one in workers if one is not self)
        self.may_log_in = may_log_in and self.wants_login and not others
        claims: list[Claim] = []
        if stop_seconds is None:
            claims, self.waiting = self.waiting, []
        self.given.update((claim.key, claim) for claim in claims)
        self.has_work = anyio.Event()
        self.number += 1
        busy = [one for one in workers if one is self or not one.is_idle]
        share, extra = divmod(limit, len(busy))
        # If there is not one for each, they take turns.
        turn = 0 if share else int(anyio.current_time() / _TURN_SECONDS)
        self.limit = share + ((busy.index(self) + turn) % len(busy) < extra)
        elsewhere = sum(one.most_in_flight for one in busy if one is not self)
        self.allowed = max(0, min(self.limit, limit - elsewhere))
        self.most = max(self.most, self.allowed)
        files, deliveries = pack_claims(claims)
        return Order(
            number=self.number,
            lease_until=self.lease.until,
            limit=self.allowed,
            rate=None if rate is None else rate / max(1, min(len(busy), limit)),
            files=files,
            deliveries=deliveries,
            zips_ended=zips_ended,
            pause=pause,
            stop_seconds=stop_seconds,
            may_log_in=self.may_log_in,
        )


class WorkerShares:
    """Divides what the journal hands out among workers, by their room and by what they see.

    The journal's thread calls it: it works on the room that there was when it was made. `first` are first files of
    deliveries, which belong to nobody yet. `has_unseen`: there are files that nobody sees. With `takes_unseen`,
    somebody gets them, and says so.
    """

    def __init__(self, workers: Sequence[SendingWorker], limit: int, *, takes_unseen: bool = False) -> None:
        self._rooms = {worker: worker.room for worker in workers}
        self._limit = limit
        self._busy = {worker for worker in workers if not worker.is_idle}
        self.files: dict[SendingWorker, list[Claim]] = {}
        self.first: list[Claim] = []
        self.has_unseen = False
        self._takes_unseen = takes_unseen

    @property
    def total(self) -> int:
        """How many files all workers together may get."""
        return sum(self._rooms.values())

    def room(self, path: str) -> int:
        """Return how many files more can be sent by those who see this path."""
        if self._rooms and not any(worker.link.sees(path) for worker in self._rooms):
            self.has_unseen = True
            return self.total if self._takes_unseen else 0
        return sum(room for worker, room in self._rooms.items() if room > 0 and self._may_send(worker, path))

    def take(self, claims: Sequence[Claim]) -> None:
        """Divide files that were handed out."""
        for start in range(0, len(claims), _TOGETHER):
            together = claims[start : start + _TOGETHER]
            worker = self._best(together[0].instance.file.path)
            for claim in together:
                if claim.check_archive or claim.delivery.uri is None:
                    self.first.append(claim)
                    self._rooms[worker] -= 1
                    continue
                path = claim.instance.file.path
                seer = worker if worker.link.sees(path) else self._best(path)
                self.files.setdefault(seer, []).append(claim)
                self._rooms[seer] -= 1

    def _may_send(self, worker: SendingWorker, path: str) -> bool:
        # Each worker that has files sends at least one at a time: no more of them have some than may be in flight.
        return worker.link.sees(path) and (worker in self._busy or len(self._busy) < self._limit)

    def _best(self, path: str) -> SendingWorker:
        """Return who sees a path and has least to do; if nobody sees it, somebody says so."""
        # By what is left of its share: else all would go to the fastest, and a slow one would never show what it can.
        best = max(self._rooms, key=lambda worker: (self._may_send(worker, path), self._rooms[worker] / worker.ahead))
        self._busy.add(best)
        return best


def pass_on(reply: Reply, worker: SendingWorker, context: Context) -> None:
    """Pass on what has happened to a worker, as if it had happened in this process."""
    for retry_after in reply.overloads:
        context.slow_down(retry_after)
    for reason, key, attempt in reply.retries:
        context.report(RetryScheduled(reason, None if key is None else worker.given.get(key), attempt))
        context.meter.record_retry()
    for text in reply.notices:
        context.report(Notice(text))
    for outage in reply.outages:
        context.report(ServerUnavailable(outage))
    if reply.zips_ended:
        # The other workers hear of it with their next orders, and so does this one if it begins anew.
        context.compression.end()


def note_in_flight(workers: Sequence[SendingWorker], throttle: Throttle, load: Load) -> None:
    """Note what all workers have in flight, and what limits those that have most of it."""
    throttle.note_in_flight(sum(worker.in_flight for worker in workers))
    load.reading = sum(worker.reading for worker in workers)
    told: Counter[str] = Counter()
    for worker in workers:
        told[worker.limited_by] += worker.in_flight
    load.told = max(told, key=told.__getitem__, default="").replace("this computer", "workers")


def demand_of_workers(workers: Sequence[SendingWorker], throttle: Throttle, first_files: FirstFiles) -> Demand:
    """Return what keeps all workers at work, beside the files that they have."""
    return demand_of(
        throttle,
        first_files.usual_seconds,
        under_way=sum(worker.files for worker in workers),
        ahead=sum(worker.ahead for worker in workers) // 2,
    )
