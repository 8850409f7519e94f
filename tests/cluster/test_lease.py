"""Leases: by two clocks that know nothing of each other, a worker never sends when others may have its files."""

import select
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncimport.cluster.lease import GrantedLease, Lease, LeaseOverError, lease_clock, with_margin
from asyncimport.cluster.sockets import LeasedSockets

SECONDS = 10.0


@dataclass
class Clock:
    """A clock that a test moves."""

    now: float = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_a_lease_lasts_until_its_end_by_the_workers_clock() -> None:
    """Before the first order there is none to end; after it, it ends unless it is renewed."""
    clock = Clock(100)
    lease = Lease(clock)
    assert not lease.is_over
    lease.renew(110)
    clock.now = 109.9
    assert not lease.is_over
    assert lease.seconds_left == pytest.approx(0.1)
    lease.renew(115)
    clock.now = 115
    assert lease.is_over
    assert lease.seconds_left == 0
    with pytest.raises(LeaseOverError):
        lease.check()


def test_a_late_renewal_does_not_bring_a_lease_back() -> None:
    """An order that was held up arrives after the end: others may have the files already."""
    clock = Clock()
    lease = Lease(clock)
    lease.renew(10)
    clock.now = 11
    assert lease.is_over
    lease.renew(30)
    assert lease.is_over


def test_a_late_renewal_does_not_bring_a_lease_back_that_nobody_has_looked_at() -> None:
    """The renewal itself looks: a process that was stopped gets it first."""
    clock = Clock()
    lease = Lease(clock)
    lease.renew(10)
    clock.now = 11
    lease.renew(30)
    assert lease.is_over


@given(
    offset=st.floats(-1e6, 1e6),
    drift=st.floats(0.999, 1.001),
    replies=st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9), st.floats(0, 9)), min_size=1, max_size=20),
)
def test_the_driver_never_thinks_that_a_lease_is_over_before_it_is(
    offset: float, drift: float, replies: list[tuple[float, float, float]]
) -> None:
    """Replies and orders take as long as they take; the worker's clock differs, and runs at another speed."""
    true, driver, worker = 0.0, Clock(), Clock(offset)
    lease, granted = Lease(worker), GrantedLease(SECONDS, driver)

    def pass_time(seconds: float) -> None:
        nonlocal true
        true += seconds
        driver.now, worker.now = true, offset + true * drift

    stamp = worker.now
    for reply_takes, thinks, order_takes in replies:
        pass_time(reply_takes)
        granted.note_reply(stamp)
        pass_time(thinks)
        until = granted.until
        pass_time(order_takes)
        lease.renew(until)
        if lease.is_over:
            break
        stamp = worker.now
    # No reply comes any more. As long as the worker may send, the driver waits.
    pass_time(granted.seconds_left)
    assert lease.seconds_left <= 1e-6


def test_an_order_lets_a_worker_send_for_one_lease_after_its_reply() -> None:
    """The driver, which heard of the reply later, waits for longer than that."""
    driver = Clock(50)
    granted = GrantedLease(SECONDS, driver)
    granted.note_reply(1_000)
    driver.now += 4
    assert granted.until == 1_000 + SECONDS
    assert SECONDS - 4 < granted.seconds_left < SECONDS


def test_the_margin_covers_clocks_that_differ() -> None:
    """A thousandth is more than clocks of computers differ by."""
    assert with_margin(SECONDS) >= SECONDS * 1.001 / 0.999


def test_the_clock_goes_on_while_the_machine_sleeps_and_is_never_set() -> None:
    """It moves forward only."""
    before = lease_clock()
    assert lease_clock() >= before


def test_a_socket_sends_nothing_without_a_lease() -> None:
    """Every way to send asks the lease at that very call."""
    clock = Clock()
    lease = Lease(clock)
    lease.renew(10)
    with socket.create_server(("127.0.0.1", 0)) as server:
        make = LeasedSockets(lease, SECONDS)
        with make((socket.AF_INET, socket.SOCK_STREAM, 0, "", ())) as sender:
            sender.connect(server.getsockname())
            receiver, _ = server.accept()
            with receiver:
                sender.send(b"a")
                sender.sendall(b"b")
                sender.sendmsg([b"c"])
                clock.now = 10
                for send in (sender.send, sender.sendall):
                    with pytest.raises(LeaseOverError):
                        send(b"d")
                with pytest.raises(LeaseOverError):
                    sender.sendmsg([b"d"])
                sender.shutdown(socket.SHUT_WR)
                received = b""
                while data := receiver.recv(10):
                    received += data
                assert received == b"abc"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what the kernel holds back")
def test_what_is_not_taken_within_a_lease_is_dropped() -> None:
    """A process that was stopped cannot drop it, and its server may begin to read when the delivery is sealed."""
    lease = Lease()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with LeasedSockets(lease, 0.2)((socket.AF_INET, socket.SOCK_STREAM, 0, "", ())) as sender:
            sender.connect(server.getsockname())
            receiver, _ = server.accept()
            sender.settimeout(0)
            with suppress(BlockingIOError):
                while sender.send(bytes(65536)):
                    pass
            with receiver:
                select.select([sender], [], [], 10)
                with pytest.raises(TimeoutError):
                    sender.send(b"more")


def test_a_closed_socket_drops_what_has_not_gone_out() -> None:
    """The kernel would go on sending it, after others have sent the same file."""
    lease = Lease()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made = LeasedSockets(lease, SECONDS)
        sender = made((socket.AF_INET, socket.SOCK_STREAM, 0, "", ()))
        sender.connect(server.getsockname())
        receiver, _ = server.accept()
        sender.settimeout(0)
        with suppress(BlockingIOError):
            while sender.send(bytes(65536)):
                pass
        made.reset()
        sender.close()
        with receiver, pytest.raises(ConnectionResetError):
            _read_all(receiver)


def _read_all(receiver: socket.socket) -> None:
    while receiver.recv(65536):
        pass
