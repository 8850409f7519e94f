"""Follows the events of a run: what the live page shows. If events are lost, the summary at the end makes up for it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from asyncimport.model import deliveries, events
from asyncimport.model.activity import RunActivity, Series
from asyncimport.model.files import Instance, Session
from asyncimport.model.summary import Orphan
from asyncimport.model.texts import counted
from asyncimport.reporting.causes import Cause, cause_of, group_by_cause
from asyncimport.reporting.entries import Entry, EventsLost, RunEnded, RunStarted
from asyncimport.reporting.page import summary as parts
from asyncimport.reporting.page.content import (
    BAD,
    BUSY,
    GOOD,
    WARNING,
    ChartRun,
    Fact,
    Page,
    SessionRow,
    Tile,
)
from asyncimport.reporting.progress import Totals, human_bytes, human_seconds

# The rate is that of the last seconds, as in the line of progress.
_RATE_SECONDS = 15
_MAX_CAUSES = 50
# A watch has many runs.
_MAX_CHARTS = 20


@dataclass(slots=True)
class _LiveSession:
    """A session of the table; `change` is the number of the last change to it."""

    number: int
    session: Session
    change: int = 0
    files: int = 0
    size: int = 0
    state: str = "sending"
    uri: str = ""
    verified: str = ""
    reason: str = ""
    date: str = ""
    modalities: set[str] = field(default_factory=set)
    series: set[str] = field(default_factory=set)

    def row(self) -> SessionRow:
        """Return its row."""
        names = self.session
        return SessionRow(
            names.project,
            names.subject,
            names.label,
            names.study_uid,
            parts.date_text(self.date),
            ", ".join(sorted(self.modalities)),
            len(self.series) or None,
            self.files,
            self.size,
            self.state,
            self.verified,
            self.reason,
            self.uri,
        )


class LiveRun:
    """Takes note of the entries of one run after the other, and returns what the page shows of them.

    `changes` counts what has changed. `clock` returns seconds since 1970.
    """

    def __init__(self, host: str, project: str, *, clock: Callable[[], float] = time.time) -> None:
        self.changes = 0
        self._host, self._project, self._clock = host, project, clock
        # The one that changed last comes last.
        self._sessions: dict[tuple[str, str], _LiveSession] = {}
        self._finished: list[ChartRun] = []
        self._begin(None)

    def _begin(self, started: RunStarted | None) -> None:
        self._run = started
        self._started = self._clock()
        self._series = Series()
        self._totals = Totals(clock=self._clock)
        self._causes: dict[tuple[str, str], Cause] = {}
        self._ended: RunEnded | None = None
        self._ended_at = 0.0
        self._in_flight = self._allowed = 0

    def note(self, entry: Entry) -> None:
        """Take note of an entry."""
        self.changes += 1
        if not isinstance(entry, RunStarted | RunEnded | Orphan | EventsLost):
            self._totals.note(entry)
        match entry:
            case RunStarted():
                self._finished = [*self._finished, *self._charts()][-_MAX_CHARTS:]
                self._begin(entry)
            case RunEnded():
                self._end(entry)
            case events.RetryScheduled(reason=reason):
                self._add_cause("repeated", reason, "", "Nothing: it is tried again.")
            case events.Notice(reason=reason):
                self._add_cause("notice", reason, "", "Have a look; it keeps nothing from being sent.")
            case events.OutcomesRecorded(outcomes=outcomes, activity=activity):
                self._series.add(self._clock() - self._started, activity)
                self._in_flight, self._allowed = activity.in_flight, activity.allowed
                for outcome in outcomes:
                    self._count(outcome)
            case events.SessionFound(claim=claim, uri=uri, files=files, size=size):
                found = self._session(claim.instance.session, claim.instance)
                found.files, found.size, found.uri = found.files + files, found.size + size, uri
            case events.AttachmentsStored(results=results):
                for one in results:
                    if one.reason is not None:
                        self._add_cause(f"attachment {one.state.value.lower()}", one.reason, one.attachment.file.path)
            case _:
                self._judge(entry)

    def page(self) -> Page:
        """Return the page as it is now, without the rows of its table."""
        status, tone = self._status()
        ended, sent = self._ended, self._totals.stored_size
        run, summary = self._run, None if ended is None else ended.summary
        about = {} if run is None else {"version": run.version, "names": run.names, "settings": run.settings}
        causes = group_by_cause(self._causes.values())[:_MAX_CAUSES]
        return Page(
            title=f"Upload into {self._project}" if self._project else "Upload",
            status=status,
            tone=tone,
            facts=[] if run is None else [Fact("Server", (self._host,)), Fact("Run", (run.run,))],
            tiles=self._tiles() if summary is None else parts.tiles(summary, busy=self._elapsed(), sent=sent),
            asked=parts.asked(about),
            causes=causes if summary is None else parts.causes(summary),
            proof=(),
            runs=(),
            settings=parts.settings(about),
            sessions=(),
            charts=[*self._finished, *self._charts()][-_MAX_CHARTS:],
            host=self._host,
            workers=[*self._totals.workers.values()],
            made="This page follows the upload while it runs. Afterwards, asyncimport report makes one to keep.",
            is_live=True,
            done=self._done(),
        )

    def rows(self, since: int = 0) -> Sequence[tuple[int, SessionRow]]:
        """Return the rows that have changed since that number of changes, with their numbers."""
        found = []
        for one in reversed(self._sessions.values()):
            if one.change <= since:
                break
            found.append((one.number, one.row()))
        return found[::-1]

    def _charts(self) -> list[ChartRun]:
        seconds, goes_on = self._series.seconds, self._ended is None
        intervals = sorted(self._series.intervals.items())
        if goes_on and len(intervals) > 1 and intervals[-1][0] >= self._elapsed() // seconds:
            # Its rate is not known yet.
            del intervals[-1]
        activity = RunActivity(0, seconds, [(number * seconds, one) for number, one in intervals])
        return [ChartRun(self._started, activity, goes_on)] if intervals else []

    def _session(self, session: Session, instance: Instance | None = None) -> _LiveSession:
        """Return a session that changes now, with what an instance of it tells."""
        key = session.project, session.study_uid
        one = self._sessions.pop(key, None) or _LiveSession(len(self._sessions), session)
        self._sessions[key] = one
        one.session, one.change = session, self.changes
        if instance is not None:
            one.date = one.date or instance.study_date
            one.series.add(instance.series_uid)
            if instance.modality:
                one.modalities.add(instance.modality)
        return one

    def _count(self, outcome: deliveries.Outcome) -> None:
        instance = outcome.claim.instance
        one = self._session(instance.session, instance)
        path = instance.file.path
        match outcome:
            case deliveries.Stored():
                one.files, one.size, one.state = one.files + 1, one.size + instance.file.size, "sending"
            case deliveries.Refused(reason=reason):
                self._add_cause("refused", reason, path)
            case deliveries.Failed(reason=reason):
                self._add_cause("failed", reason, path)
            case deliveries.Withheld(reason=reason):
                one.state, one.reason = "held", reason
                self._add_cause("held", reason, instance.session.label, unit="session")

    def _judge(self, entry: Entry) -> None:
        match entry:
            case deliveries.Archived(delivery=delivery, uri=uri, verified=verified):
                one = self._session(delivery.session)
                one.state, one.uri, one.verified, one.reason = "archived", uri, verified or "", ""
            case deliveries.Built(delivery=delivery):
                one = self._session(delivery.session)
                one.state, one.reason = "prearchive", ""
            case deliveries.Held(delivery=delivery, reason=reason):
                one = self._session(delivery.session)
                one.state, one.reason = "held", reason
                self._add_cause("held", reason, delivery.session.label, unit="session")
            case deliveries.Postponed(delivery=delivery, reason=reason):
                one = self._session(delivery.session)
                one.state, one.reason = "open", reason
                self._add_cause("open", reason, delivery.session.label, unit="session")
            case deliveries.Deleted(delivery=delivery):
                one = self._session(delivery.session)
                one.state, one.files, one.size = "sending", 0, 0
            case deliveries.Incomplete(delivery=delivery):
                self._session(delivery.session).state = "sending"

    def _end(self, entry: RunEnded) -> None:
        self._ended, self._ended_at = entry, self._clock()
        for report in () if entry.summary is None else entry.summary.sessions:
            one = self._session(report.session)
            one.files, one.size, one.state = report.files, report.size, report.state
            one.uri, one.verified, one.reason = report.uri or "", report.verified or "", report.reason or ""

    def _add_cause(
        self, kind: str, reason: str, example: str, advice: str | None = None, *, unit: str = "file"
    ) -> None:
        before = self._causes.get((kind, reason))
        if before is None and len(self._causes) >= 20 * _MAX_CAUSES:
            return
        count = 1 if before is None else before.counts[0][0] + 1
        unit = {"repeated": "attempt", "notice": "time"}.get(kind, unit)
        self._causes[kind, reason] = cause_of(kind, reason, (count, unit), example, advice)

    def _status(self) -> tuple[str, str]:
        if self._ended is not None:
            return parts.status_of(self._ended.exit_code)
        if self._run is None:
            return "starting: logging in, looking at the journal", BUSY
        if self._totals.away is not None:
            return f"waiting for the server: {self._totals.away}", WARNING
        if self._is_settling():
            return "waiting, in case an interrupted upload still lands", BUSY
        return "running, and still scanning" if self._totals.scanning else "running", BUSY

    def _is_settling(self) -> bool:
        totals = self._totals
        return totals.settling_until > self._clock() and totals.settled >= totals.waiting

    def _done(self) -> float | None:
        """Return how much of what is queued is settled; None while it is unknown."""
        totals = self._totals
        if self._ended is not None or totals.scanning or not totals.waiting_size:
            return None
        return min(totals.settled_size / totals.waiting_size, 1.0)

    def _elapsed(self) -> float:
        return (self._clock() if self._ended is None else self._ended_at) - self._started

    def _rate(self) -> float:
        """Return the bytes a second of late."""
        now, length = self._elapsed(), self._series.seconds
        late = [one.size for number, one in self._series.intervals.items() if number * length > now - _RATE_SECONDS]
        return sum(late) / max(min(now, _RATE_SECONDS, len(self._series.intervals) * length), 1)

    def _time_left(self, rate: float) -> str:
        """Return the time that the known rest takes; nothing while nothing moves."""
        rest = self._totals.waiting_size - self._totals.settled_size
        if rest <= 0 or rate <= 0 or self._totals.away is not None:
            return ""
        return f"{'at least ' if self._totals.scanning else ''}{human_seconds(rest / rate)} left"

    def _tiles(self) -> list[Tile]:
        totals, rate = self._totals, self._rate()
        lacking, done = totals.refused + totals.failed, totals.archived + totals.built
        more = "so far" if totals.scanning else "to send"
        average = totals.stored_size / max(self._elapsed(), 1)
        found = [
            Tile("Files sent", f"{totals.stored:,}", f"of {totals.waiting:,} {more}"),
            Tile("Data", human_bytes(totals.stored_size), f"of {human_bytes(totals.waiting_size)} {more}"),
            Tile("Rate now", f"{human_bytes(rate)}/s", f"{human_bytes(average)}/s on average"),
            Tile("Running for", human_seconds(self._elapsed()), self._time_left(rate)),
            Tile("Sessions done", f"{done:,}", f"of {counted(len(self._sessions), 'session')} begun"),
            Tile("In flight", f"{self._in_flight:,}", f"of {self._allowed:,} at most"),
            Tile("Not sent", f"{lacking:,}", "files refused or failed", BAD if lacking else GOOD),
            Tile("Held", f"{totals.held:,}", "sessions", BAD if totals.held else GOOD),
        ]
        if totals.zips:
            sizes = f"{human_bytes(totals.sent_size)} sent for {human_bytes(totals.stored_size)}"
            found.append(Tile("Sent as zips", f"{totals.zips:,}", sizes))
        if totals.repeated:
            found.append(Tile("Tried again", f"{totals.repeated:,}", "uploads", WARNING))
        if totals.attachments:
            found.append(Tile("Attachments", f"{totals.attached:,}", f"of {totals.attachments:,}"))
        return found
