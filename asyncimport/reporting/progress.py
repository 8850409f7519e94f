"""Totals of the events of a run, and quantities for people.

They are for display only. The journal has what decides.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from asyncimport.model import attachments, deliveries, events
from asyncimport.model.activity import WorkerActivity
from asyncimport.model.summary import SubjectReport
from asyncimport.pacing.load import Load
from asyncimport.reporting.speed import Speed


@dataclass(slots=True)
class Totals:
    """The state of a run by its events. `clock` returns seconds; sizes are bytes."""

    clock: Callable[[], float] = monotonic
    load: Load = field(default_factory=Load)
    speed: Speed = field(default_factory=Speed)
    scanned: int = 0
    scanned_size: int = 0
    scanning: bool = True
    waiting: int = 0
    waiting_size: int = 0
    stored: int = 0
    stored_size: int = 0
    sent_size: int = 0
    zips: int = 0
    settled_size: int = 0
    refused: int = 0
    failed: int = 0
    withheld: int = 0
    archived: int = 0
    built: int = 0
    open: dict[int, int] = field(default_factory=dict)
    """How many files of each open delivery this run has stored, by its key."""
    held_deliveries: set[int] = field(default_factory=set)
    found: int = 0
    repeated: int = 0
    trouble: str = ""
    repaired: int = 0
    away: str | None = None
    away_since: float = 0.0
    settling_until: float = float("-inf")
    attachments: int = 0
    attached: int = 0
    unattached: int = 0
    subjects_updated: int = 0
    gone: int = 0
    gone_unsent: int = 0
    notices: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    """Workers that are gone, by name, and why."""
    workers: dict[str, WorkerActivity] = field(default_factory=dict)
    """What the workers of a cluster do, by name."""
    done_size: int = 0
    """Bytes settled and sent, as they were shown last: a repetition does not take them back."""

    @property
    def settled(self) -> int:
        """Files that have an outcome of this run."""
        return self.stored + self.refused + self.failed

    @property
    def has_arrivals(self) -> bool:
        """Whether this run has brought anything into XNAT."""
        return bool(self.stored or self.archived or self.built or self.attached)

    @property
    def held(self) -> int:
        """Sessions that are held."""
        return len(self.held_deliveries)

    def note(self, event: events.Event) -> None:
        """Count an event."""
        match event:
            case events.Scanned(files=files, size=size):
                self.scanned += files
                self.scanned_size += size
            case events.Admitted(files=files, size=size):
                self.waiting += files
                self.waiting_size += size
            case events.ScanFinished(gone=gone, unsent=unsent):
                self.scanning = False
                self.gone, self.gone_unsent = gone, unsent
            case events.OutcomesRecorded(outcomes=outcomes):
                for outcome in outcomes:
                    self._note_outcome(outcome)
            case events.SessionFound(files=files, size=size):
                self.waiting -= files
                self.waiting_size -= size
                self.found += files
            case events.Notice(reason=reason):
                self.notices.append(reason)
            case events.WorkerJoined(worker=worker):
                self.lost.pop(worker, None)
            case events.WorkerLeft(worker=worker, reason=reason):
                if reason:
                    self.lost[worker] = reason
            case WorkerActivity(worker=worker):
                self.workers[worker] = event
            case events.ServerUnavailable(reason=reason):
                if self.away is None:
                    self.away_since = self.clock()
                self.away = reason
            case events.RetryScheduled(reason=reason):
                self.repeated += 1
                self.trouble = reason
            case events.AttachmentsStarted(files=files):
                self.attachments = files
            case events.AttachmentsStored(results=results):
                attached = sum(one.state is attachments.AttachmentState.STORED for one in results)
                self.attached += attached
                self.unattached += len(results) - attached
            case events.Settling(seconds=seconds):
                self.settling_until = self.clock() + seconds
            case SubjectReport():
                self.subjects_updated += 1
            case _:
                self._note_verdict(event)

    def _note_outcome(self, outcome: deliveries.Outcome) -> None:
        key, size = outcome.claim.delivery.key, outcome.claim.instance.file.size
        match outcome:
            case deliveries.Stored(zip_size=zip_size, sent_size=sent_size):
                self.stored += 1
                self.stored_size += size
                self.sent_size += sent_size
                self.zips += zip_size is not None
                self.open[key] = self.open.get(key, 0) + 1
            case deliveries.Refused():
                self.refused += 1
            case deliveries.Failed():
                self.failed += 1
            case deliveries.Withheld():
                # It stays queued for another run.
                self.withheld += 1
                self.waiting -= 1
                self.waiting_size -= size
                self.held_deliveries.add(key)
                return
        self.settled_size += size

    def _note_verdict(self, verdict: deliveries.Verdict) -> None:
        again = 0
        match verdict:
            case deliveries.Archived():
                self.archived += 1
            case deliveries.Built():
                self.built += 1
            case deliveries.Held():
                self.held_deliveries.add(verdict.delivery.key)
            case deliveries.Deleted(files=files):
                again = files
            case deliveries.Incomplete(lost=lost):
                again = len(lost)
            case deliveries.Postponed():
                return
        self.open.pop(verdict.delivery.key, None)
        self.repaired += again
        self.waiting += again
        # Which files these are is not told: they are as large as the others on average.
        self.waiting_size += round(again * self.stored_size / max(1, self.stored))


def human_bytes(size: float) -> str:
    """Return a number of bytes for people: 1.5 MB."""
    if round(size) < 1000:
        return f"{size:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if round(size, 1) < 1000:
            return f"{size:.1f} {unit}"
    size /= 1000
    return f"{size:.1f} TB"


def human_rate(files: float) -> str:
    """Return files a second for people: 12 files/s."""
    return f"{files:,.{0 if round(files, 1) >= 10 else 1}f} files/s"


def human_seconds(seconds: float) -> str:
    """Return a duration for people: 0:05, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
