"""What is on the page of a run. Texts are as they come: `render.py` makes them harmless."""

from collections.abc import Sequence

from asyncimport.model.activity import Activity, RunActivity, WorkerActivity
from asyncimport.model.record import record
from asyncimport.reporting.causes import Cause

GOOD, WARNING, BAD, BUSY = "good", "warning", "bad", "busy"
"""Tones: the colours of a state, beside its words."""
TONES = {"archived": GOOD, "prearchive": GOOD, "held": BAD, "open": WARNING, "sending": BUSY}
"""The tone of each state of a session."""


@record
class Fact:
    """A name and its values; `is_code`: as typed on a command line."""

    name: str
    values: tuple[str, ...]
    is_code: bool = False


@record
class Tile:
    """A number that a reader looks for first, what it counts, and a remark."""

    name: str
    value: str
    remark: str = ""
    tone: str = ""


@record
class SessionRow:
    """A row of the table of sessions. `uri` is its address in XNAT, if it has one, without the server."""

    project: str
    subject: str
    session: str
    study_uid: str
    date: str
    modalities: str
    scans: int | None
    files: int
    size: int
    state: str
    verified: str
    reason: str
    uri: str


@record
class RunLine:
    """A run of the journal, in words."""

    run: str
    started: str
    ended: str
    result: str


@record
class ChartRun:
    """What a run sent over time; `started` in seconds since 1970. `goes_on`: its last interval is not its end."""

    started: float
    activity: RunActivity
    goes_on: bool = False


@record
class Page:
    """The page. `host` is the server's address for links, "" for none; `made` says by what and when it was made.

    `workers` is what those of a cluster have done. `status` is the state of the run in words, of a `tone`. A page that
    `is_live` goes on changing; `changes` were there before. `done` is how much of the work is done, from 0 to 1.
    """

    title: str
    status: str
    tone: str
    facts: Sequence[Fact]
    tiles: Sequence[Tile]
    asked: Sequence[Fact]
    causes: Sequence[Cause]
    proof: Sequence[str]
    runs: Sequence[RunLine]
    settings: Sequence[Fact]
    sessions: Sequence[SessionRow]
    charts: Sequence[ChartRun]
    host: str
    made: str
    workers: Sequence[WorkerActivity] = ()
    is_live: bool = False
    changes: int = 0
    done: float | None = None
    is_anonymous: bool = False


def chart_columns(runs: Sequence[ChartRun]) -> dict[str, list[float | None]]:
    """Return the columns of the charts: `time` (seconds since 1970), and numbers or None for each time.

    `bytes` and `files` are a second, `mean` and `slowest` seconds a file. A gap without uploads is zero at its ends.
    """
    columns: dict[str, list[float | None]] = {
        name: [] for name in ("time", "bytes", "files", "in_flight", "allowed", "mean", "slowest")
    }

    def add(time: float, one: Activity | None, seconds: int) -> None:
        columns["time"].append(time)
        columns["bytes"].append(0 if one is None else round(one.size / seconds))
        columns["files"].append(0 if one is None else round(one.files / seconds, 3))
        columns["in_flight"].append(None if one is None else one.in_flight)
        columns["allowed"].append(None if one is None else one.allowed)
        columns["mean"].append(round(one.busy_seconds / one.files, 4) if one is not None and one.files else None)
        columns["slowest"].append(round(one.slowest_seconds, 4) if one is not None and one.files else None)

    for run in runs:
        seconds, before = run.activity.seconds, None
        for second, one in run.activity.intervals:
            if before is not None and second > before + seconds:
                add(run.started + before + seconds, None, seconds)
                if second > before + 2 * seconds:
                    add(run.started + second - seconds, None, seconds)
            add(run.started + second, one, seconds)
            before = second
        if before is not None and not run.goes_on:
            add(run.started + before + seconds, None, seconds)
    return columns
