"""What limits uploads, by what they wait for."""

import pytest

from asyncimport.pacing.adaptive import AdaptiveLimit
from asyncimport.pacing.concurrency import Throttle
from asyncimport.pacing.load import Load
from asyncimport.pacing.rate_limit import RateLimit


class Watched:
    """A load with a fake clock, and a processor that is in use for a share of the time."""

    def __init__(self, slots: int, in_flight: int, *, adaptive: bool = True, processor: float = 0.0) -> None:
        self.now = 1000.0
        self.load = Load(clock=lambda: self.now, processor=lambda: processor * self.now)
        limit = AdaptiveLimit(slots, clock=lambda: self.now) if adaptive else slots
        self.throttle = Throttle(limit, clock=lambda: self.now)
        self.load.throttle = self.throttle
        for _ in range(in_flight):
            assert self.throttle.try_acquire()
        self.rate = self.load.rate = RateLimit(1.0)

    def limit(self, *, is_scanning: bool = False) -> str:
        """Return what has limited uploads after two looks."""
        self.load.sample()
        self.now += 1
        self.load.sample()
        return self.load.limit(is_scanning=is_scanning)


@pytest.mark.parametrize(
    ("reading", "limited", "sending", "expected"),
    [
        (0, 0, 0, "the server"),
        (1, 0, 0, "the server"),
        (2, 0, 1, "the disk"),
        (0, 3, 0, "--max-rate"),
        (0, 1, 0, "--max-rate"),
        (1, 0, 2, "the network"),
    ],
)
def test_what_most_uploads_wait_for(reading: int, limited: int, sending: int, expected: str) -> None:
    """Those that wait for nothing else wait for the server."""
    watched = Watched(3, 3)
    watched.load.reading, watched.rate.waiting, watched.load.count_sending = reading, limited, lambda: sending
    assert watched.limit() == expected


def test_nothing_in_flight_is_limited_by_nothing() -> None:
    """Nor is a load before the first upload."""
    assert Watched(3, 0).limit() == ""
    assert Load().limit(is_scanning=True) == ""


def test_too_few_files_are_found() -> None:
    """Most slots are idle while the scan goes on."""
    assert Watched(3, 1).limit(is_scanning=True) == "the scan"
    assert Watched(3, 1).limit() == "the server"
    assert Watched(3, 2).limit(is_scanning=True) == "the server"


def test_a_busy_processor() -> None:
    """This computer can do no more."""
    assert Watched(3, 3, processor=0.95).limit() == "the processor of this computer"
    assert Watched(3, 3, processor=0.8).limit() == "the server"


def test_a_fixed_number_of_workers() -> None:
    """It is the limit while all are in use, unless --max-rate is."""
    assert Watched(4, 4, adaptive=False).limit() == "--workers and the server"
    assert Watched(4, 3, adaptive=False).limit() == "the server"
    watched = Watched(4, 4, adaptive=False)
    watched.rate.waiting = 4
    assert watched.limit() == "--max-rate"


def test_all_that_may_be_sent_is_sent() -> None:
    """Then --max-rate is the limit, also if nobody waits for it at the times of the looks."""
    for share, expected in [(0.9, "--max-rate"), (0.5, "the server")]:
        watched = Watched(3, 3)
        watched.load.sample()
        watched.rate.used_seconds += share
        assert watched.limit() == expected


def test_others_send() -> None:
    """They say what limits them. One of them says nothing of --workers, as it has a part of these only."""
    watched = Watched(4, 4, adaptive=False)
    watched.load.told = "the disk"
    assert watched.limit() == "--workers and the disk"
    watched.load.told = "--max-rate"
    assert watched.limit() == "--max-rate"
    part = Watched(4, 4, adaptive=False)
    part.load.is_part = True
    assert part.limit() == "the server"


def test_an_overloaded_server() -> None:
    """It has had fewer uploads since then."""
    watched = Watched(8, 2, adaptive=False)
    watched.throttle.slow_down()
    assert watched.limit() == "the server, which was overloaded"


def test_only_the_last_seconds_count() -> None:
    """What limited uploads earlier is forgotten."""
    watched = Watched(3, 3)
    watched.load.reading = 3
    assert watched.limit() == "the disk"
    watched.load.reading = 0
    watched.now += 15
    assert watched.limit() == "the server"
