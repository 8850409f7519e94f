"""The totals of a run, and the line that shows them."""

from collections.abc import Sequence

import pytest

from asyncimport.model.deliveries import (
    Archived,
    Built,
    Claim,
    Delivery,
    Failed,
    Held,
    Incomplete,
    Outcome,
    Refused,
    Stored,
)
from asyncimport.model.events import Admitted, Event, OutcomesRecorded, RetryScheduled, ScanFinished, Scanned, Settling
from asyncimport.model.files import File, Instance, Session
from asyncimport.reporting.progress import Totals, human_bytes, human_seconds

SESSION = Session("P", "S", "E", "1.2.3")
DELIVERY = Delivery(1, SESSION, 1, "/prearchive/projects/P/1/E")


def claim(size: int = 1000) -> Claim:
    """Return a claim for a file of this size."""
    return Claim(1, Instance(File("/a.dcm", size, 0), "1.2.3.4", "1.2.3.5", SESSION), DELIVERY)


def stored(number: int, size: int = 1000) -> OutcomesRecorded:
    """Return the event of stored files."""
    return OutcomesRecorded(tuple(Stored(claim(size), "/prearchive") for _ in range(number)))


class Watched:
    """Totals with a fake clock."""

    def __init__(self, *events: Event) -> None:
        self.now = 1000.0
        self.totals = Totals(clock=lambda: self.now)
        for event in events:
            self.totals.note(event)

    def line(self, after: float, *events: Event) -> list[str]:
        """Return the parts of the line after this time and these events."""
        self.now += after
        for event in events:
            self.totals.note(event)
        return self.totals.line().split(" · ")


OUTCOMES: tuple[Outcome, ...] = (
    Stored(claim(1000), "/prearchive"),
    Stored(claim(234), "/prearchive"),
    Refused(claim(), "no"),
    Failed(claim(), "time-out"),
    Failed(claim(), "gone", unreadable=True),
)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], {}),
        ([Scanned(5, 5000), Scanned(7, 1)], {"scanned": 12}),
        ([Admitted(3, 3000), Admitted(2, 500)], {"waiting": 5}),
        ([ScanFinished(4, 1)], {"scanning": False, "gone": 4, "gone_unsent": 1}),
        ([OutcomesRecorded(OUTCOMES)], {"stored": 2, "stored_size": 1234, "refused": 1, "failed": 2}),
        ([OutcomesRecorded(())], {}),
        ([RetryScheduled("busy"), RetryScheduled("away")], {"repeated": 2, "trouble": "away"}),
        ([Archived(DELIVERY, "/data/archive", "uids"), Archived(DELIVERY, "/data/archive", None)], {"archived": 2}),
        ([Built(DELIVERY, "/data/prearchive")], {"built": 1}),
        ([Held(DELIVERY, "conflict")], {"held": 1}),
    ],
)
def test_events_are_added_up(events: list[Event], expected: dict[str, object]) -> None:
    """Each event changes its own totals only."""
    totals = Totals(clock=lambda: 0.0)
    before = {name: getattr(totals, name) for name in Totals.__dataclass_fields__}
    for event in events:
        totals.note(event)
    assert {name: getattr(totals, name) for name in before} == {**before, **expected}


def test_line_while_scanning() -> None:
    """During the scan, the line shows its progress; the first line has no rate."""
    watched = Watched(Scanned(12_345, 1), Admitted(10_000, 1))
    assert watched.line(0.0) == [
        "scanning (12,345 files seen)",
        "0 of 10,000 files",
        "0 B",
        "0 sessions done",
    ]


def test_line_after_the_scan() -> None:
    """After the scan, the line shows stored files of all, and finished sessions, including built ones."""
    watched = Watched(
        Admitted(2000, 1),
        ScanFinished(0, 0),
        stored(1500),
        Archived(DELIVERY, "/data/archive", "uids"),
        Built(DELIVERY, "/data/prearchive"),
    )
    assert watched.line(0.0) == ["1,500 of 2,000 files", "1.5 MB", "2 sessions done"]


def test_line_shows_trouble() -> None:
    """The line shows refused, failed and held files, and repeated calls."""
    watched = Watched(ScanFinished(0, 0), Admitted(5, 1), OutcomesRecorded(OUTCOMES), Held(DELIVERY, "conflict"))
    assert watched.line(0.0)[3:] == ["1 refused, 2 failed, 1 held"]
    assert "1 calls repeated (last: the server is away)" in watched.line(0.0, RetryScheduled("the server is away"))


@pytest.mark.parametrize(
    "event", [OutcomesRecorded(OUTCOMES[2:3]), OutcomesRecorded(OUTCOMES[3:4]), Held(DELIVERY, "conflict")]
)
def test_line_shows_all_three_numbers(event: Event) -> None:
    """One of these three numbers shows all three."""
    assert any("refused" in part for part in Watched(event).line(0.0))


@pytest.mark.parametrize(
    ("events", "seconds", "event", "told"),
    [
        pytest.param(
            [ScanFinished(0, 0), Admitted(1000, 1)],
            10.0,
            stored(100, size=50_000),
            ["10 files/s, 500.0 kB/s", "1:30 left"],
            id="from the second line on",
        ),
        pytest.param(
            [Admitted(1000, 1)],
            10.0,
            stored(100),
            ["10 files/s, 10.0 kB/s", "at least 1:30 left"],
            id="a lower bound while the scan goes on",
        ),
        pytest.param(
            [ScanFinished(0, 0), Admitted(10, 1)],
            1.0,
            OutcomesRecorded(OUTCOMES),
            ["5 files/s, 1.2 kB/s", "0:01 left"],
            id="refused and failed files are done too",
        ),
        # A resumed run may send more than the scan has found.
        pytest.param(
            [Admitted(10, 1)],
            1.0,
            stored(100),
            ["100 files/s, 100.0 kB/s", "at least 0:00 left"],
            id="none left where more is stored than found",
        ),
    ],
)
def test_rate_and_time_left(events: Sequence[Event], seconds: float, event: Event, told: list[str]) -> None:
    """The line shows files and bytes a second, and the time left."""
    watched = Watched(*events)
    watched.line(0.0)
    assert watched.line(seconds, event)[-2:] == told


def test_rate_is_that_of_the_last_quarter_of_a_minute() -> None:
    """The rate follows the server: an earlier rate does not count."""
    watched = Watched(ScanFinished(0, 0), Admitted(100_000, 1))
    watched.line(0.0)
    rates = [watched.line(1.0, stored(100))[-2] for _ in range(20)]
    assert set(rates) == {"100 files/s, 100.0 kB/s"}
    slow = [watched.line(1.0, stored(10))[-2] for _ in range(15)]
    assert slow[0] == "94 files/s, 94.0 kB/s"
    assert slow[-1] == "10 files/s, 10.0 kB/s"


def test_nothing_settled_lately_means_no_rate() -> None:
    """Without progress, the line shows no rate."""
    watched = Watched(ScanFinished(0, 0), Admitted(1000, 1), stored(10))
    watched.line(0.0)
    assert all("left" not in part for part in watched.line(20.0))


def test_rate_of_lines_that_come_rarely() -> None:
    """Lines that are half a minute apart show the rate since the last one."""
    watched = Watched(ScanFinished(0, 0), Admitted(10_000, 1))
    watched.line(0.0)
    assert watched.line(30.0, stored(300))[-2] == "10 files/s, 10.0 kB/s"
    assert watched.line(30.0, stored(600))[-2] == "20 files/s, 20.0 kB/s"


def test_two_lines_at_the_same_time() -> None:
    """Two lines at the same time do not divide by zero."""
    watched = Watched(ScanFinished(0, 0), Admitted(100, 1))
    assert watched.line(0.0) == watched.line(0.0)


def test_default_clock() -> None:
    """The default clock works."""
    assert Totals().line() == "scanning (0 files seen) · 0 of 0 files · 0 B · 0 sessions done"


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.4, "999 B"),
        (999.6, "1.0 kB"),
        (1000, "1.0 kB"),
        (1549, "1.5 kB"),
        (999_949, "999.9 kB"),
        (999_999, "1.0 MB"),
        (1_500_000, "1.5 MB"),
        (999_999_999, "1.0 GB"),
        (2_000_000_000, "2.0 GB"),
        (999_999_999_999, "1.0 TB"),
        (12_345_000_000_000_000, "12345.0 TB"),
    ],
)
def test_human_bytes(size: float, expected: str) -> None:
    """Bytes are in the unit that gives a number from 1 to 999, if possible."""
    assert human_bytes(size) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0:00"),
        (0.4, "0:00"),
        (5, "0:05"),
        (59.6, "1:00"),
        (61, "1:01"),
        (3599.4, "59:59"),
        (3599.6, "1:00:00"),
        (3723, "1:02:03"),
        (360_000, "100:00:00"),
    ],
)
def test_human_seconds(seconds: float, expected: str) -> None:
    """A duration has minutes and seconds, and hours if needed."""
    assert human_seconds(seconds) == expected


def test_the_line_shows_the_settle_time() -> None:
    """A waiting run says why, and how long."""
    watched = Watched(Admitted(2, 2000), ScanFinished(0, 0), stored(1), Settling(30.0))
    assert not any("broke off" in part for part in watched.line(1))
    watched.totals.note(stored(1))
    assert "waiting 0:24, in case an interrupted upload still lands" in watched.line(5)
    assert not any("broke off" in part for part in watched.line(25))


def test_the_line_shows_files_sent_again() -> None:
    """The line shows files that are sent again."""
    watched = Watched(Admitted(5, 5000), stored(5), Incomplete(DELIVERY, "/archive", frozenset({"1", "2"})))
    parts = watched.line(1)
    assert "5 of 7 files" in parts[1]
    assert "2 missing from XNAT and sent again" in parts
