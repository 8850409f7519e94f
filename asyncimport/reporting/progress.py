"""Totals of the events of a run, and one line of text that shows them.

They are for display only. The journal has what decides.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from asyncimport.model import attachments, deliveries, events

# The rate is that of the last 15 s, or since the last line if that is longer ago: it follows the server smoothly.
_WINDOW_SECONDS = 15.0


@dataclass(slots=True)
class Totals:
    """The state of a run by its events. `clock` returns seconds."""

    clock: Callable[[], float] = monotonic
    scanned: int = 0
    scanning: bool = True
    waiting: int = 0
    stored: int = 0
    stored_size: int = 0
    refused: int = 0
    failed: int = 0
    archived: int = 0
    built: int = 0
    held: int = 0
    found: int = 0
    repeated: int = 0
    trouble: str = ""
    repaired: int = 0
    away: str | None = None
    quiet_until: float = float("-inf")
    attachments: int = 0
    attached: int = 0
    unattached: int = 0
    gone: int = 0
    gone_unsent: int = 0
    notices: list[str] = field(default_factory=list)
    _samples: deque[tuple[float, int, int]] = field(default_factory=deque)

    def note(self, event: events.Event) -> None:
        """Count an event."""
        match event:
            case events.Scanned(files=files):
                self.scanned += files
            case events.Admitted(files=files):
                self.waiting += files
            case events.ScanFinished(gone=gone, unsent=unsent):
                self.scanning = False
                self.gone, self.gone_unsent = gone, unsent
            case events.OutcomesRecorded(outcomes=outcomes):
                for outcome in outcomes:
                    match outcome:
                        case deliveries.Stored(claim=claim):
                            self.stored += 1
                            self.stored_size += claim.instance.file.size
                        case deliveries.Refused():
                            self.refused += 1
                        case deliveries.Failed():
                            self.failed += 1
                        case deliveries.Withheld():
                            self.held += 1
            case events.SessionFound(files=files):
                self.waiting -= files
                self.found += files
            case events.Notice(reason=reason):
                self.notices.append(reason)
            case events.ServerUnavailable(reason=reason):
                self.away = reason
            case events.RetryScheduled(reason=reason):
                self.repeated += 1
                self.trouble = reason
            case deliveries.Archived():
                self.archived += 1
            case deliveries.Built():
                self.built += 1
            case deliveries.Held():
                self.held += 1
            case deliveries.Deleted(files=files):
                self.repaired += files
                self.waiting += files
            case deliveries.Incomplete(lost=lost):
                self.repaired += len(lost)
                self.waiting += len(lost)
            case events.AttachmentsStarted(files=files):
                self.attachments = files
            case events.AttachmentsStored(results=results):
                attached = sum(one.state is attachments.AttachmentState.STORED for one in results)
                self.attached += attached
                self.unattached += len(results) - attached
            case events.Settling(seconds=seconds):
                self.quiet_until = self.clock() + seconds

    def line(self) -> str:
        """Return a line with files, bytes, sessions, rate and time left."""
        now = self.clock()
        settled = self.stored + self.refused + self.failed
        self._samples.append((now, settled, self.stored_size))
        while len(self._samples) > 1 and now - self._samples[1][0] >= _WINDOW_SECONDS:
            self._samples.popleft()
        then, files_then, size_then = self._samples[0]
        elapsed = max(now - then, 1e-9)
        rate = (settled - files_then) / elapsed
        parts = [
            f"{self.stored:,} of {self.waiting:,} files",
            human_bytes(self.stored_size),
            f"{self.archived + self.built:,} sessions done",
        ]
        if self.found:
            parts.append(f"{self.found:,} files found in the archive")
        if self.attachments:
            parts.append(f"{self.attached:,} of {self.attachments:,} attachments")
        if self.unattached:
            parts.append(f"{self.unattached:,} attachments refused or failed")
        if self.scanning:
            parts.insert(0, f"scanning ({self.scanned:,} files seen)")
        if self.away is not None:
            parts.insert(0, f"waiting for the server: {self.away}")
        if self.refused or self.failed or self.held:
            parts.append(f"{self.refused:,} refused, {self.failed:,} failed, {self.held:,} held")
        if self.repaired:
            parts.append(f"{self.repaired:,} missing from XNAT and sent again")
        if now < self.quiet_until and settled >= self.waiting:
            wait = human_seconds(self.quiet_until - now)
            parts.append(f"waiting {wait}, in case an interrupted upload still lands")
        if self.repeated:
            parts.append(f"{self.repeated:,} calls repeated (last: {self.trouble})")
        if rate > 0:
            parts.append(f"{rate:,.0f} files/s, {human_bytes((self.stored_size - size_then) / elapsed)}/s")
            # A resumed run sends files of the journal before the scan finds them again.
            left = max(self.waiting - settled, 0) / rate
            parts.append(f"{'at least ' if self.scanning else ''}{human_seconds(left)} left")
        return " · ".join(parts)


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


def human_seconds(seconds: float) -> str:
    """Return a duration for people: 0:05, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
