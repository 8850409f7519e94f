"""Metrics of an upload in Prometheus' text form, for the textfile collector of node_exporter.

The form is https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format. Labels and values name no
subject, session or path: other users may read the file.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from asyncimport import __version__
from asyncimport.errors import UnavailableError
from asyncimport.model import deliveries, events
from asyncimport.model.summary import Orphan, SubjectReport
from asyncimport.reporting.entries import Entry, RunEnded, RunStarted
from asyncimport.system.output_files import check_option, replacing

_PREFIX = "asyncimport_"
# node_exporter is asked every 15 s to 60 s.
_PAUSE_SECONDS = 10.0
_MAX_BYTES = 1 << 20
_LAST_SUCCESS = re.compile(
    rb"^asyncimport_last_success_timestamp_seconds\{.*\} (\d{1,15}(?:\.\d{1,9})?)$", re.MULTILINE
)
_OUTCOMES: Mapping[type, str] = {
    deliveries.Stored: "stored",
    deliveries.Refused: "refused",
    deliveries.Failed: "failed",
    deliveries.Withheld: "withheld",
    deliveries.Archived: "archived",
    deliveries.Built: "built",
    deliveries.Held: "held",
    deliveries.Deleted: "deleted",
    deliveries.Postponed: "postponed",
    deliveries.Incomplete: "incomplete",
}
METRICS: Mapping[str, tuple[str, str]] = {
    "info": ("gauge", "The version of asyncimport; always 1."),
    "running": ("gauge", "Whether a run is at work."),
    "updated_timestamp_seconds": ("gauge", "When this file was written."),
    "start_timestamp_seconds": ("gauge", "When the last run started."),
    "end_timestamp_seconds": ("gauge", "When the last run ended; absent while it is at work."),
    "last_success_timestamp_seconds": ("gauge", "When a run last ended with exit code 0."),
    "exit_code": ("gauge", "The exit code of the last run; absent while it is at work."),
    "server_available": ("gauge", "Whether calls to XNAT get through."),
    "outages_total": ("counter", "How often nothing got through to XNAT."),
    "retries_total": ("counter", "Attempts to send a file that failed."),
    "scanned_files_total": ("counter", "Files that the scan has passed."),
    "scanned_bytes_total": ("counter", "Their bytes."),
    "admitted_files_total": ("counter", "Files that were queued to be sent."),
    "files_total": ("counter", "Files by what became of them; found: the archive had them."),
    "stored_bytes_total": ("counter", "Bytes of the files that XNAT stored."),
    "sent_bytes_total": ("counter", "Bytes that were sent for them: fewer where files go as zips."),
    "zipped_files_total": ("counter", "Files that XNAT stored and that went as zips."),
    "sessions_total": ("counter", "Deliveries of sessions by what became of them."),
    "attachments_total": ("counter", "Attachments by what became of them."),
    "subjects_total": ("counter", "Subjects by what became of their demographics."),
    "notices_total": ("counter", "Things to look at that keep nothing from being sent."),
    "orphans": ("gauge", "Sessions that interrupted uploads left in the prearchive."),
    "summary_files": ("gauge", "The files of the summary, when the run has ended."),
    "summary_bytes": ("gauge", "The bytes of the summary, when the run has ended."),
    "summary_sessions": ("gauge", "The sessions of the summary, when the run has ended."),
}
"""The type and the help of each metric, by its name without `asyncimport_`."""
_OF_AN_END = frozenset(
    {"end_timestamp_seconds", "exit_code", "orphans", "summary_files", "summary_bytes", "summary_sessions"}
)
# The values of `outcome`; a series that begins at 0 shows its first increase.
_COUNTERS: Mapping[str, Sequence[str]] = {
    "outages_total": ("",),
    "retries_total": ("",),
    "scanned_files_total": ("",),
    "scanned_bytes_total": ("",),
    "admitted_files_total": ("",),
    "files_total": ("stored", "refused", "failed", "withheld", "found"),
    "stored_bytes_total": ("",),
    "sent_bytes_total": ("",),
    "zipped_files_total": ("",),
    "sessions_total": ("archived", "built", "held", "deleted", "postponed", "incomplete"),
    "attachments_total": ("stored", "refused", "failed"),
    "subjects_total": ("stored", "refused", "failed"),
    "notices_total": ("",),
}


class Metrics:
    """Counts the entries of the runs of one process, and writes a file of metrics when there is news.

    Make it before the first entry: it checks that the file can be written, and keeps the time of the last success that
    is in it. Raises: UsageError.
    """

    def __init__(self, path: Path, *, host: str, project: str, clock: Callable[[], float] = time.time) -> None:
        check_option("--metrics", path, is_public=True)
        self._path = path
        self._clock = clock
        self._labels = {"name": path.stem, "host": host, "project": project}
        self._counts: Counter[tuple[str, str, str]] = Counter(
            {_key(name, outcome): 0 for name, outcomes in _COUNTERS.items() for outcome in outcomes}
        )
        self._gauges: dict[tuple[str, str, str], float] = {
            ("info", "version", __version__): 1,
            ("running", "", ""): 0,
            ("server_available", "", ""): 1,
        }
        self._written_at = float("-inf")
        if (success := _last_success(path)) is not None:
            self._set("last_success_timestamp_seconds", success)

    def note(self, now: float, entry: Entry) -> Iterator[str]:
        """Count an entry. Yield a line when the file is to be written: at once for what changes its state."""
        self._count(now, entry)
        is_urgent = isinstance(entry, RunStarted | RunEnded | events.ServerUnavailable)
        if is_urgent or now - self._written_at >= _PAUSE_SECONDS:
            self._written_at = now
            yield "\n"

    def write(self, _: str) -> None:
        """Write the file with the present values, for everybody to read. Raises: OSError."""
        with replacing(self._path, is_public=True) as file:
            file.write(self.text().encode())

    def text(self) -> str:
        """Return the metrics in Prometheus' text form."""
        self._set("updated_timestamp_seconds", self._clock())
        samples: dict[str, list[str]] = {name: [] for name in METRICS}
        for (name, label, value), number in [*self._gauges.items(), *self._counts.items()]:
            labels = self._labels | ({label: value} if label else {})
            inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
            samples[name].append(f"{_PREFIX}{name}{{{inside}}} {_number(number)}\n")
        return "".join(
            f"# HELP {_PREFIX}{name} {help_text}\n# TYPE {_PREFIX}{name} {kind}\n{''.join(samples[name])}"
            for name, (kind, help_text) in METRICS.items()
            if samples[name]
        )

    def _count(self, now: float, entry: Entry) -> None:
        match entry:
            case RunStarted():
                self._set("running", 1)
                self._set("server_available", 1)
                self._set("start_timestamp_seconds", now)
                self._gauges = {key: number for key, number in self._gauges.items() if key[0] not in _OF_AN_END}
            case RunEnded():
                self._end(now, entry)
            case events.Scanned(files=files, size=size):
                self._add("scanned_files_total", files)
                self._add("scanned_bytes_total", size)
            case events.Admitted(files=files):
                self._add("admitted_files_total", files)
            case events.OutcomesRecorded(outcomes=outcomes):
                for outcome in outcomes:
                    self._add("files_total", 1, _OUTCOMES[type(outcome)])
                    if isinstance(outcome, deliveries.Stored):
                        self._add("stored_bytes_total", outcome.claim.instance.file.size)
                        self._add("sent_bytes_total", outcome.sent_size)
                        self._add("zipped_files_total", outcome.zip_size is not None)
            case events.SessionFound(files=files):
                self._add("files_total", files, "found")
            case events.RetryScheduled():
                self._add("retries_total", 1)
            case events.ServerUnavailable(reason=reason):
                self._set("server_available", reason is None)
                self._add("outages_total", reason is not None)
            case events.Notice():
                self._add("notices_total", 1)
            case events.AttachmentsStored(results=results):
                for one in results:
                    self._add("attachments_total", 1, one.state.value.lower())
            case SubjectReport(state=state):
                self._add("subjects_total", 1, state)
            case Orphan():
                self._set("orphans", self._gauges.get(("orphans", "", ""), 0) + 1)
            case _ if type(entry) in _OUTCOMES:
                self._add("sessions_total", 1, _OUTCOMES[type(entry)])

    def _end(self, now: float, ended: RunEnded) -> None:
        self._set("running", 0)
        self._set("end_timestamp_seconds", now)
        self._set("exit_code", ended.exit_code)
        if ended.exit_code == UnavailableError.exit_code:
            self._set("server_available", 0)
        if ended.exit_code == 0:
            self._set("last_success_timestamp_seconds", now)
        if (summary := ended.summary) is None:
            return
        files = summary.files
        for name in ("found", *files.__dataclass_fields__):
            self._set("summary_files", getattr(files, name), "state", name)
        self._set("summary_bytes", summary.bytes_found, "state", "found")
        self._set("summary_bytes", summary.bytes_stored, "state", "stored")
        self._set("summary_bytes", summary.bytes_sent, "state", "sent")
        for name in ("archived", "prearchive", "held", "open"):
            self._set("summary_sessions", summary.count(name), "state", name)

    def _set(self, name: str, number: float, label: str = "", value: str = "") -> None:
        self._gauges[name, label, value] = number

    def _add(self, name: str, number: int, outcome: str = "") -> None:
        self._counts[_key(name, outcome)] += number


def _key(name: str, outcome: str) -> tuple[str, str, str]:
    return name, "outcome" if outcome else "", outcome


def _last_success(path: Path) -> float | None:
    """Return when a run last succeeded by an earlier file; None if there is none."""
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                found = _LAST_SUCCESS.search(file.read(_MAX_BYTES))
            return None if found is None else float(found[1])
    return None


def _escape(text: str) -> str:
    """Return the value of a label, escaped as the form wants."""
    clean = text.encode("utf-8", "replace").decode()
    return clean.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(number: float) -> str:
    return str(int(number)) if number == int(number) else f"{number:.3f}"
