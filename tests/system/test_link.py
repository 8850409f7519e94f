"""How long bytes have waited for the link: real sockets, and a system that does not tell."""

import socket
import struct
import sys
import threading
from time import monotonic

import pytest
from patience import MOMENT

from asyncimport.system.sockets import LinkMeter, LinkState, link_seconds, link_state

SIZE = 200_000


@pytest.mark.parametrize(
    ("after", "seconds"),
    [
        # 1 MB at 10 MB/s, under way for 100 ms and a round trip.
        (LinkState(1_000_000, 0.01, 10_000_000, 0.11), 0.1),
        # The last acknowledgement came with the answer, half a second later.
        (LinkState(1_000_000, 0.01, 10_000_000, 0.6), 0.1),
        # Less than a round trip: the link is no limit.
        (LinkState(1_000_000, 0.1, 10_000_000, 0.09), 0.0),
        # A slow peer, at the rate at which it took them.
        (LinkState(1_000_000, 0.0, 1_000_000, 1.0), 1.0),
        (LinkState(0, 0.0, 0, 0.0), 0.0),
    ],
)
def test_what_counts_as_waiting(after: LinkState, seconds: float) -> None:
    """Neither a round trip nor the time until the answer does."""
    before = LinkState(0, 0.0, 0, 0.0)
    assert link_seconds(before, after) == pytest.approx(seconds)
    later = LinkState(after.acknowledged + 5, after.round_trip, after.rate, after.busy_seconds + 7.0)
    assert link_seconds(before._replace(acknowledged=5, busy_seconds=7.0), later) == pytest.approx(seconds)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_a_connection_counts_what_was_acknowledged() -> None:
    """On this machine it takes next to no time, however long the answer takes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        answer = threading.Event()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                left = SIZE
                while left:
                    left -= len(connection.recv(left))
                answer.wait(MOMENT)
                connection.sendall(b"!")

        thread = threading.Thread(target=serve)
        thread.start()
        with socket.create_connection(server.getsockname()) as client:
            before = link_state(client)
            client.sendall(b"x" * SIZE)
            threading.Timer(0.2, answer.set).start()
            assert client.recv(1) == b"!"
            after = link_state(client)
        thread.join()
    assert before is not None
    assert after is not None
    assert after.acknowledged - before.acknowledged in {SIZE, SIZE + 1}  # the handshake counts as a byte
    assert link_seconds(before, after) < 0.1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_a_peer_that_does_not_read_is_not_the_link() -> None:
    """Its window is full for most of the time."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        reads = threading.Event()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                reads.wait(MOMENT)
                while connection.recv(1 << 20):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        with socket.create_connection(server.getsockname()) as client:
            before = link_state(client)
            began = monotonic()
            threading.Timer(0.5, reads.set).start()
            client.sendall(bytes(16 << 20))
            assert monotonic() - began > 0.4
            after = link_state(client)
        thread.join()
    assert before is not None
    assert after is not None
    assert after.busy_seconds - before.busy_seconds < 0.25


class Connection:
    """A connection that tells what it is told to, as Linux does, and counts how often it is asked."""

    def __init__(self) -> None:
        self.sent = self.asked = 0
        self.busy = 0.0

    def send(self, size: int, seconds: float) -> None:
        """Send bytes, which are under way for so long."""
        self.sent += size
        self.busy += seconds

    def getsockopt(self, *_: int) -> bytes:
        """Tell a round trip of 1 ms, and 10 MB/s."""
        self.asked += 1
        return struct.pack("=120xQ20xI8xQQQ", self.sent, 1_000, 10_000_000, round(self.busy * 1e6), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_quick_requests_ask_once_for_all() -> None:
    """After the first. What is told then is of all requests since: each has a round trip that is no wait."""
    now = 0.0
    connection = Connection()
    meter = LinkMeter(connection, clock=lambda: now)
    assert meter.round_trip == 0.001
    waited = []
    for _ in range(10):
        now += 0.006
        connection.send(40_000, 0.004)
        waited.append(meter.measure())
    assert [None if seconds is None else round(seconds, 6) for seconds in waited] == [
        *(0.003, None, None, None),
        *(0.012, None, None, None),
        *(0.012, None),
    ]
    assert connection.asked == 4


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_a_slow_request_asks_at_once() -> None:
    """Each, as there are few of them."""
    now = 0.0
    connection = Connection()
    meter = LinkMeter(connection, clock=lambda: now)
    for _ in range(3):
        now += 0.05
        connection.send(400_000, 0.04)
        assert meter.measure() == pytest.approx(0.039)
    assert connection.asked == 4


def test_a_meter_without_a_socket_measures_nothing() -> None:
    """As on systems that do not tell."""
    meter = LinkMeter(None)
    assert (meter.is_told, meter.measure(), meter.round_trip) == (False, None, 0.0)


def test_what_is_no_socket_tells_nothing() -> None:
    """Such as a transport that has none, or a socket of another kind."""
    assert link_state(None) is None
    with socket.socket(socket.AF_UNIX if hasattr(socket, "AF_UNIX") else socket.AF_INET, socket.SOCK_DGRAM) as other:
        assert link_state(other) is None
