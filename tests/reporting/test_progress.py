"""The totals of a run, and the words that show them."""

from collections.abc import Sequence
from copy import copy

import pytest

from asyncimport.errors import TransientError
from asyncimport.model.activity import WorkerActivity
from asyncimport.model.attachments import Attachment, AttachmentResult, AttachmentState, Resource, ResourceOwner
from asyncimport.model.deliveries import (
    Archived,
    Built,
    Claim,
    Delivery,
    Failed,
    Held,
    Incomplete,
    Outcome,
    Postponed,
    Refused,
    Stored,
    Withheld,
)
from asyncimport.model.events import (
    Admitted,
    AttachmentsStarted,
    AttachmentsStored,
    Event,
    OutcomesRecorded,
    RetryScheduled,
    ScanFinished,
    Scanned,
    ServerUnavailable,
    SessionFound,
    Settling,
    WorkerJoined,
    WorkerLeft,
)
from asyncimport.model.files import File, Instance, Session
from asyncimport.model.summary import SubjectReport
from asyncimport.pacing.concurrency import Throttle
from asyncimport.pacing.load import Load
from asyncimport.pacing.monitor import OutageMonitor
from asyncimport.reporting.progress import Totals, human_bytes, human_seconds
from asyncimport.reporting.progress_text import ProgressText, Tone, progress_text

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
        load = Load(clock=lambda: self.now, processor=lambda: 0.0)
        self.totals = Totals(clock=lambda: self.now, load=load)
        for event in events:
            self.totals.note(event)

    def line(self, after: float, *events: Event) -> list[str]:
        """Return the parts of the line after this time and these events."""
        return self.text(after, *events).line().split(" · ")

    def text(self, after: float, *events: Event) -> ProgressText:
        """Return the text after this time and these events."""
        self.now += after
        for event in events:
            self.totals.note(event)
        return progress_text(self.totals)


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
        ([Scanned(5, 5000), Scanned(7, 1)], {"scanned": 12, "scanned_size": 5001}),
        ([Admitted(3, 3000), Admitted(2, 500)], {"waiting": 5, "waiting_size": 3500}),
        ([ScanFinished(4, 1)], {"scanning": False, "gone": 4, "gone_unsent": 1}),
        (
            [OutcomesRecorded(OUTCOMES)],
            {
                "stored": 2,
                "stored_size": 1234,
                "sent_size": 1234,
                "settled_size": 4234,
                "refused": 1,
                "failed": 2,
                "open": {1: 2},
            },
        ),
        ([OutcomesRecorded(())], {}),
        (
            [Admitted(3, 3000), OutcomesRecorded((Withheld(claim(), "no"),))],
            {"waiting": 2, "waiting_size": 2000, "withheld": 1, "held_deliveries": {1}},
        ),
        ([RetryScheduled("busy"), RetryScheduled("away")], {"repeated": 2, "trouble": "away"}),
        ([Archived(DELIVERY, "/data/archive", "uids"), Archived(DELIVERY, "/data/archive", None)], {"archived": 2}),
        (
            [stored(3), Built(DELIVERY, "/data/prearchive")],
            {"built": 1, "stored": 3, "stored_size": 3000, "sent_size": 3000, "settled_size": 3000},
        ),
        ([Held(DELIVERY, "conflict"), Held(DELIVERY, "conflict")], {"held_deliveries": {1}}),
        ([Postponed(DELIVERY, "busy")], {}),
        ([SessionFound(claim(), "/data/archive", 4, 4000)], {"waiting": -4, "waiting_size": -4000, "found": 4}),
        ([ServerUnavailable("away"), ServerUnavailable("still away")], {"away": "still away"}),
        ([SubjectReport("P", "S", "stored")], {"subjects_updated": 1}),
    ],
)
def test_events_are_added_up(events: list[Event], expected: dict[str, object]) -> None:
    """Each event changes its own totals only."""
    totals = Totals(clock=lambda: 0.0)
    counts = Totals.__dataclass_fields__.keys() - {"load", "speed"}
    before = {name: copy(getattr(totals, name)) for name in counts}
    for event in events:
        totals.note(event)
    assert {name: getattr(totals, name) for name in before} == {**before, **expected}


def test_text_while_scanning() -> None:
    """During the scan, there are totals so far, and no share of nothing."""
    watched = Watched(Scanned(12_345, 7_000_000))
    assert watched.line(0.0) == ["scanning: 12,345 files, 7.0 MB so far"]
    assert watched.text(1.0).done is None
    assert watched.line(1.0, Admitted(10_000, 5_000_000), stored(1000)) == [
        "20 %",
        "scanning: 12,345 files, 7.0 MB so far",
        "1,000 of 10,000 files",
        "1.0 of 5.0 MB",
        "1.0 MB/s (1,000 files/s), average 1.0 MB/s",
        "0 sessions done, 1 open",
    ]


def test_text_after_the_scan() -> None:
    """After the scan, there are stored files of all, and finished sessions, including built ones."""
    watched = Watched(
        Admitted(2000, 2_000_000),
        ScanFinished(0, 0),
        Archived(DELIVERY, "/data/archive", "uids"),
        Built(DELIVERY, "/data/prearchive"),
        stored(1500),
    )
    assert watched.line(0.0) == ["75 %", "1,500 of 2,000 files", "1.5 of 2.0 MB", "2 sessions done, 1 open"]
    last = watched.text(1.0, stored(500))
    assert last.percent == "100 %"
    assert "2 sessions done, 1 to be archived" in last.line()


def test_text_shows_trouble() -> None:
    """There are refused, failed and withheld files, held sessions, and repeated calls with the last cause."""
    outcomes = (*OUTCOMES, Withheld(claim(), "no"))
    watched = Watched(ScanFinished(0, 0), Admitted(6, 6), OutcomesRecorded(outcomes), Held(DELIVERY, "conflict"))
    assert watched.line(0.0)[3:] == ["0 sessions done, 1 held", "files: 1 refused, 2 failed, 1 withheld"]
    assert "1 retry, last: the server is away" in watched.line(0.0, RetryScheduled("the server is away"))
    again = watched.text(0.0, RetryScheduled("\x1b[31mred"))
    assert r"2 retries, last: \x1b[31mred" in again.line()
    assert {row.tone for row in again.rows} == {Tone.NORMAL, Tone.WARNING}


def test_text_of_an_outage() -> None:
    """It says why, since when, and how much longer the run waits; there is no rate and no time left."""
    watched = Watched(ScanFinished(0, 0), Admitted(1000, 1_000_000))
    monitor = OutageMonitor(600.0, clock=lambda: watched.now)
    watched.totals.load.monitor = monitor
    watched.line(0.0)
    assert "left" in watched.text(10.0, stored(100)).line()
    watched.totals.note(ServerUnavailable("XNAT has no room (507)"))
    assert "no answer for 0:05: XNAT has no room (507)" in watched.line(5.0)  # the monitor knows of no outage
    monitor.call_started()
    monitor.call_failed(TransientError("no connection"))
    monitor.call_started()
    monitor.call_failed(TransientError("no connection"))
    text = watched.text(45.0, ServerUnavailable("no connection"))
    assert text.line().split(" · ")[-2:] == ["no answer for 0:45: no connection", "gives up in 9:15"]
    assert text.rows[-1].tone is Tone.ERROR
    assert (text.time_left, "/s" in text.line()) == ("", False)
    monitor.call_started()
    monitor.call_answered()
    assert "no answer" not in watched.text(1.0, ServerUnavailable(None)).line()


@pytest.mark.parametrize(
    ("events", "seconds", "event", "told"),
    [
        pytest.param(
            [ScanFinished(0, 0), Admitted(1000, 50_000_000)],
            10.0,
            stored(100, size=50_000),
            ["1:30 left", "500.0 kB/s (10 files/s), average 500.0 kB/s"],
            id="from the second look on",
        ),
        pytest.param(
            [Admitted(1000, 1_000_000)],
            10.0,
            stored(100),
            ["at least 1:30 left", "10.0 kB/s (10 files/s), average 10.0 kB/s"],
            id="a lower bound while the scan goes on",
        ),
        pytest.param(
            [ScanFinished(0, 0), Admitted(10, 10_000)],
            10.0,
            OutcomesRecorded(OUTCOMES),
            ["0:14 left", "423 B/s (0.5 files/s), average 423 B/s"],
            id="refused and failed files are done too",
        ),
        pytest.param(
            [ScanFinished(0, 0), Admitted(110, 1_090_000)],
            10.0,
            stored(10, size=9000),
            ["1:51 left", "9.0 kB/s (1.0 files/s), average 9.0 kB/s"],
            id="bytes decide, not files",
        ),
        # A resumed run may send more than the scan has found.
        pytest.param(
            [Admitted(10, 10_000)],
            1.0,
            stored(100),
            ["", "100.0 kB/s (100 files/s), average 100.0 kB/s"],
            id="none left where more is stored than found",
        ),
        pytest.param(
            [ScanFinished(0, 0), Admitted(1000, 1_000_000)],
            3.0,
            stored(100),
            ["", "33.3 kB/s (33 files/s), average 33.3 kB/s"],
            id="nobody knows after three seconds",
        ),
    ],
)
def test_rate_and_time_left(events: Sequence[Event], seconds: float, event: Event, told: list[str]) -> None:
    """There are bytes and files a second, lately and on average, and the time left by bytes."""
    watched = Watched(*events)
    watched.line(0.0)
    text = watched.text(seconds, event)
    assert [text.time_left, next(part for part in text.rows[0].parts if "/s" in part)] == told


def rate(text: ProgressText) -> str | None:
    """Return the rate of now."""
    return next((part.partition(",")[0] for part in text.rows[0].parts if "/s" in part), None)


def test_rate_is_that_of_the_last_quarter_of_a_minute() -> None:
    """The rate follows the server: an earlier rate does not count, but on average."""
    watched = Watched(ScanFinished(0, 0), Admitted(100_000, 1))
    watched.line(0.0)
    assert {rate(watched.text(1.0, stored(100))) for _ in range(20)} == {"100.0 kB/s (100 files/s)"}
    slow = [watched.text(1.0, stored(10)) for _ in range(15)]
    assert rate(slow[0]) == "94.0 kB/s (94 files/s)"
    assert rate(slow[-1]) == "10.0 kB/s (10 files/s)"
    assert "average 61.4 kB/s" in slow[-1].line()


def test_nothing_moves() -> None:
    """Then there is no rate and no time left, but how long nothing has moved."""
    watched = Watched(ScanFinished(0, 0), Admitted(1000, 1_000_000), stored(10))
    watched.line(0.0)
    assert "no progress" not in watched.text(14.0).line()
    text = watched.text(6.0)
    assert (text.time_left, rate(text)) == ("", None)
    assert "no progress for 0:20" in text.line()


def test_what_is_sent_of_a_large_file_counts() -> None:
    """It moves before the file has arrived, and a repetition does not take it back."""
    watched = Watched(ScanFinished(0, 0), Admitted(1, 100_000_000))
    watched.line(0.0)
    watched.totals.load.unfinished_size = 50_000_000
    text = watched.text(10.0)
    assert (text.percent, text.time_left, rate(text)) == ("50 %", "0:10 left", "5.0 MB/s")
    watched.totals.load.unfinished_size = 0
    assert watched.text(1.0).percent == "50 %"
    assert watched.text(1.0, stored(1, size=100_000_000)).percent == "100 %"


def test_all_is_done_only_at_the_end() -> None:
    """The share is 99 % at most while a file is left, even an empty one."""
    assert Watched(ScanFinished(0, 0), Admitted(101, 100_000), stored(100)).text(1.0).percent == "99 %"


def test_rate_of_lines_that_come_rarely() -> None:
    """Lines that are half a minute apart show the rate since the last one."""
    watched = Watched(ScanFinished(0, 0), Admitted(10_000, 10_000_000))
    watched.line(0.0)
    assert rate(watched.text(30.0, stored(300))) == "10.0 kB/s (10 files/s)"
    assert rate(watched.text(30.0, stored(600))) == "20.0 kB/s (20 files/s)"


def test_two_lines_at_the_same_time() -> None:
    """Two lines at the same time do not divide by zero."""
    watched = Watched(ScanFinished(0, 0), Admitted(100, 1))
    assert watched.line(0.0) == watched.line(0.0)


def test_default_clock() -> None:
    """The default clock works."""
    assert progress_text(Totals()).line() == "scanning: 0 files, 0 B so far"


def test_attachments_follow_the_images() -> None:
    """Then the share is theirs."""
    watched = Watched(ScanFinished(0, 0), Admitted(1, 1000), stored(1), AttachmentsStarted(4))
    resource = Resource(ResourceOwner("P"), "R")
    states = (AttachmentState.STORED, AttachmentState.REFUSED)
    done = [AttachmentResult(Attachment(1, File("/a.pdf", 1, 0), "a.pdf"), state) for state in states]
    text = watched.text(1.0, AttachmentsStored(resource, tuple(done)))
    assert text.percent == "50 %"
    assert "1 of 4 attachments" in text.line()


def test_what_limits_uploads() -> None:
    """There are the uploads in flight, and what limits them."""
    watched = Watched(ScanFinished(0, 0), Admitted(100, 1))
    load = watched.totals.load
    load.throttle = throttle = Throttle(4)
    assert all(throttle.try_acquire() for _ in range(4))
    assert "4 uploads in flight, limited by --workers and the server" in watched.line(0.0)
    load.reading = 3
    assert "--workers and the server" in watched.text(1.0).line()
    assert "4 uploads in flight, limited by --workers and the disk" in watched.line(15.0)
    load.told = "\x1b[31mred"
    assert r"4 uploads in flight, limited by --workers and \x1b[31mred" in watched.line(15.0)


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
    assert "interrupted" not in watched.text(1).line()
    watched.totals.note(stored(1))
    text = watched.text(5)
    assert "waiting 0:24, in case an interrupted upload still lands" in text.line()
    assert (text.percent, text.time_left) == ("100 %", "")
    assert "interrupted" not in watched.text(25).line()


def test_the_line_shows_files_sent_again() -> None:
    """The line shows files that are sent again."""
    watched = Watched(Admitted(5, 5000), stored(5), Incomplete(DELIVERY, "/archive", frozenset({"1", "2"})))
    parts = watched.line(1)
    assert "5 of 7 files" in parts
    assert "5.0 of 7.0 kB" in parts
    assert "2 missing from XNAT and sent again" in parts


def test_each_worker_of_a_cluster_has_a_line() -> None:
    """What it has sent, and what limits it; one that is lost is named until it is back."""
    totals = Totals(clock=lambda: 10.0)
    totals.note(WorkerActivity("node1", 1_200, 5_000_000, 12.4, 3, "the disk"))
    totals.note(WorkerActivity("node2", files=1, size=500))
    rows = [part for row in progress_text(totals).rows for part in row.parts]
    assert "worker node1: 1,200 files, 5.0 MB, 12 files/s, 3 in flight, limited by the disk" in rows
    assert "worker node2: 1 file, 500 B" in rows
    totals.note(WorkerLeft("node2"))
    assert "lost" not in progress_text(totals).line()
    totals.note(WorkerLeft("node2", "it died"))
    assert "1 worker lost: node2" in progress_text(totals).line()
    totals.note(WorkerJoined("node2"))
    assert "lost" not in progress_text(totals).line()
    for number in range(3, 21):
        totals.note(WorkerActivity(f"node{number}"))
    assert "and 12 more workers" in progress_text(totals).line()
