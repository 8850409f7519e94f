"""Files that workers do not see: which outcomes are kept, and how many."""

from functools import partial

import pytest
from builders import claim
from test_driver import Worker

from asyncimport.cluster.lease import GrantedLease
from asyncimport.cluster.sending_workers import SendingWorker, note_in_flight
from asyncimport.cluster.unseen import UnseenFiles
from asyncimport.model.deliveries import Failed
from asyncimport.model.files import File
from asyncimport.pacing.concurrency import Throttle
from asyncimport.pacing.load import Load

pytestmark = pytest.mark.anyio


async def test_outcomes_are_kept_until_there_are_many() -> None:
    """Then no more files are handed out, until a worker has joined that gets them all."""
    first, other = SendingWorker(Worker("a"), GrantedLease(1)), SendingWorker(Worker("b"), GrantedLease(1))
    workers = [first]
    unseen = UnseenFiles(workers)
    number = 0
    while not unseen.is_full:
        number += 1
        absent = Failed(claim(File(f"/{number}", 1, 2), number=number), "gone", unreadable=True, may_be_elsewhere=True)
        assert unseen.pass_on(absent, first, others_begin=True)
        assert number < 10_000
    workers.append(other)
    unseen.note_worker()
    assert not unseen.are_kept
    assert [one.key for one in other.waiting] == [*range(1, number + 1)]
    assert not first.waiting


async def test_an_order_to_stop_brings_no_files() -> None:
    """What waits for a worker is queued again, and nobody takes it for sent."""
    worker = SendingWorker(Worker("a"), GrantedLease(1))
    worker.add([claim(File("/1", 1, 2))])
    order = partial(worker.order, [worker], limit=1, rate=None, may_log_in=True, zips_ended=False, pause=0)
    assert not order(stop_seconds=1).files
    assert (len(worker.waiting), worker.given) == (1, {})
    assert len(order(stop_seconds=None).files) == 1


async def test_an_order_after_a_refused_login_lets_nobody_log_in() -> None:
    """A worker whose login has expired would try the same password."""
    worker = SendingWorker(Worker("a"), GrantedLease(1), wants_login=True)
    order = partial(worker.order, [worker], limit=1, rate=None, zips_ended=False, pause=0, stop_seconds=None)
    assert order(may_log_in=True).may_log_in
    assert not order(may_log_in=False).may_log_in


async def test_one_of_two_orders_lets_a_worker_log_in() -> None:
    """If the password has changed, many refusals would lock the account."""
    workers = [SendingWorker(Worker(name), GrantedLease(1), wants_login=True) for name in "ab"]

    def may_log_in(worker: SendingWorker) -> bool:
        order = worker.order(workers, limit=2, rate=None, may_log_in=True, zips_ended=False, pause=0, stop_seconds=None)
        return order.may_log_in

    assert [may_log_in(worker) for worker in workers] == [True, False]
    workers[0].wants_login = False
    assert [may_log_in(worker) for worker in workers] == [False, True]


async def test_the_run_is_limited_by_what_limits_most_uploads() -> None:
    """Each worker has its own line; the line of all says what those with most in flight say."""
    workers = [SendingWorker(Worker(name), GrantedLease(1)) for name in "abc"]
    throttle, load = Throttle(8), Load()
    for worker, in_flight, limit in zip(workers, (2, 2, 3), ("the disk", "the disk", "the network"), strict=True):
        worker.in_flight, worker.limited_by = in_flight, limit
    note_in_flight(workers, throttle, load)
    assert (throttle.in_flight, load.told) == (7, "the disk")
    workers[2].in_flight, workers[2].limited_by = 5, "the processor of this computer"
    note_in_flight(workers, throttle, load)
    assert load.told == "the processor of workers"
    note_in_flight([], throttle, load)
    assert (throttle.in_flight, load.told) == (0, "")
