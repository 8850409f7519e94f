"""What happens in a run, written down while it happens: as JSON for programs, and as lines of a log for people.

A thread of its own writes, so that no disk ever holds up the run: what it cannot take in time is left out, and that is
said once. The names of events and of their fields are a contract.
"""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from asyncimport.errors import AsyncimportError, UsageError
from asyncimport.events import Admitted, Away, Event, Quiet, Repeated, ScanFinished, Scanned, Settled
from asyncimport.model import (
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
    Stray,
    Summary,
)

__all__ = ["Began", "Ended", "Entry", "Form", "Lost", "Recorder", "appending", "as_json", "log_lines"]

# Files whose outcome may wait to be written: some ten megabytes, and seconds of the fastest run.
_MOST_WAITING = 20_000
_MOST_AT_A_TIME = 1_000
# What stands in brackets are XNAT's own words, which may name anybody; all but the status.
_QUOTED = re.compile(r"\((\d{3})?.*\)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Began:
    """A run has begun. `settings` may be told to everybody; `names` (sources, templates) may name patients."""

    run: str
    version: str
    host: str
    project: str
    settings: Mapping[str, object]
    names: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Ended:
    """A run has ended; without a run it did not come to begin."""

    run: str | None
    exit_code: int
    error: AsyncimportError | None
    summary: Summary | None


@dataclass(frozen=True, slots=True)
class Lost:
    """So many events could not be written, or not in time."""

    events: int


Entry = Event | Began | Ended | Stray | Lost
Form = Callable[[float, Entry], Iterator[str]]


class Recorder:
    """Writes entries to one place, in a thread of its own. Use it as a context manager.

    `form` makes lines of entries, `write` takes them and raises OSError, `complain` is told once what is wrong. `clock`
    tells the time in seconds since 1970. The end is waited for `patience` seconds.
    """

    def __init__(
        self,
        form: Form,
        write: Callable[[str], None],
        complain: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.time,
        patience: float = 10.0,
    ) -> None:
        self._form = form
        self._patience = patience
        self._write = write
        self._complain = complain
        self._clock = clock
        self._queue: SimpleQueue[tuple[float, Entry] | None] = SimpleQueue()
        # Each is counted by one thread only, so that no lock could ever make the loop wait.
        self._noted = self._written = 0
        self._lost = self._unwritten = 0
        self._has_complained = False
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._tell_lost()
        self._queue.put(None)
        self._thread.join(self._patience)
        if self._thread.is_alive():
            self._say("is too slow, and lacks the end")

    def note(self, entry: Entry) -> None:
        """Let an entry be written. It never waits: while too many do already, this one is lost.

        Call it from one thread at a time.
        """
        weight = _weight(entry)
        if self._noted - self._written + weight > _MOST_WAITING:
            self._lost += weight
            return
        self._tell_lost()
        self._noted += weight
        self._queue.put((self._clock(), entry))

    def _tell_lost(self) -> None:
        if self._lost:
            self._queue.put((self._clock(), Lost(self._lost)))
            self._lost = 0

    def _work(self) -> None:
        goes_on = True
        while goes_on:
            batch: list[tuple[float, Entry]] = []
            with suppress(Empty):
                item = self._queue.get()
                while item is not None and len(batch) < _MOST_AT_A_TIME:
                    batch.append(item)
                    item = self._queue.get_nowait()
                goes_on = item is not None
            if batch:
                self._take(batch)
                self._written += sum(_weight(entry) for _, entry in batch)

    def _take(self, batch: list[tuple[float, Entry]]) -> None:
        """Write a batch, or count it as lost."""
        if any(isinstance(entry, Lost) for _, entry in batch):
            self._say("is too slow, and lacks events")
        if self._unwritten:
            batch = [(batch[0][0], Lost(self._unwritten)), *batch]
        lines = "".join(line for now, entry in batch for line in self._form(now, entry))
        try:
            if lines:
                self._write(lines)
            self._unwritten = 0
        except OSError as error:
            self._unwritten = sum(entry.events if isinstance(entry, Lost) else _weight(entry) for _, entry in batch)
            self._say(f"cannot be written ({(error.strerror or str(error)).lower()})")

    def _say(self, why: str) -> None:
        if not self._has_complained:
            self._has_complained = True
            self._complain(why)


def _weight(entry: Entry) -> int:
    """Return how many events an entry stands for; a note of lost ones is none itself."""
    if isinstance(entry, Settled):
        return len(entry.outcomes)
    return 0 if isinstance(entry, Lost) else 1


@contextmanager
def appending(path: Path, option: str) -> Iterator[Callable[[str], None]]:
    """Open a file for appending, for its owner only if it is new, and yield what writes whole lines into it.

    Raises: UsageError.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError as error:
        raise UsageError(
            f"{option} {path} cannot be written: {error.strerror}",
            hint="give a file in a directory that you may write to",
        ) from error

    def write(text: str) -> None:
        rest = memoryview(text.encode())
        end = os.fstat(file).st_size
        try:
            while rest:
                rest = rest[os.write(file, rest) :]
        except OSError:
            # A torn line would spoil the next one. What is no regular file cannot be cut.
            with suppress(OSError):
                os.ftruncate(file, end)
            raise

    try:
        yield write
    finally:
        os.close(file)


def as_json(now: float, entry: Entry) -> Iterator[str]:
    """Write entries as JSON, one event a line."""
    time_of = {"ts": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")}
    for event in _events(entry):
        yield json.dumps(time_of | event) + "\n"


def _events(entry: Entry) -> Iterator[dict[str, object]]:
    match entry:
        case Began():
            yield {
                "event": "run_began",
                "run": entry.run,
                "version": entry.version,
                "host": entry.host,
                "project": entry.project,
                "options": {**entry.settings, **entry.names},
            }
        case Scanned(files=files, size=size):
            yield {"event": "scanned", "files": files, "bytes": size}
        case Admitted(files=files, size=size):
            yield {"event": "admitted", "files": files, "bytes": size}
        case ScanFinished(gone=gone, unsent=unsent):
            yield {"event": "scan_finished", "gone": gone, "gone_unsent": unsent}
        case Settled(outcomes=outcomes):
            yield from map(_outcome, outcomes)
        case Repeated(reason=reason, claim=claim, attempt=attempt):
            file = {} if claim is None else _file(claim)
            yield {"event": "call_repeated", **file, "attempt": attempt, "reason": reason}
        case Away(reason=None):
            yield {"event": "server_back"}
        case Away(reason=reason):
            yield {"event": "server_away", "reason": reason}
        case Quiet(seconds=seconds):
            yield {"event": "session_waits", "seconds": round(seconds, 3)}
        case Archived(delivery=delivery, uri=uri, verified=verified):
            yield {"event": "session_archived", **_names(delivery), "uri": uri, "verified": verified}
        case Built(delivery=delivery, uri=uri):
            yield {"event": "session_built", **_names(delivery), "uri": uri}
        case Held(delivery=delivery, reason=reason):
            yield {"event": "session_held", **_names(delivery), "reason": reason}
        case Incomplete(delivery=delivery, uri=uri, missing=missing):
            yield {"event": "session_incomplete", **_names(delivery), "uri": uri, "missing": sorted(missing)}
        case Stray(session=session, uri=uri, status=status):
            names = {"project": session.project, "subject": session.subject, "session": session.label}
            yield {"event": "stray_found", **names, "study_uid": session.study_uid, "uri": uri, "status": status}
        case Lost(events=count):
            yield {"event": "events_lost", "count": count}
        case Ended(run=run, exit_code=code, error=error, summary=summary):
            counts = {} if summary is None else _counts(summary)
            reason = None if error is None else str(error)
            yield {"event": "run_ended", "run": run, "exit_code": code, "reason": reason, **counts}


def _outcome(outcome: Outcome) -> dict[str, object]:
    event = {"event": "file_stored", **_file(outcome.claim), "attempts": outcome.attempts}
    match outcome:
        case Stored(uri=uri):
            return event | {"uri": f"/data{uri}"}
        case Refused(reason=reason):
            return event | {"event": "file_refused", "reason": reason}
        case Failed(reason=reason):
            return event | {"event": "file_failed", "reason": reason}


def _file(claim: Claim) -> dict[str, object]:
    file = claim.instance.file
    return {
        **_names(claim.delivery),
        "path": _text(file.path),
        "sop_uid": claim.instance.sop_uid,
        "bytes": file.size,
    }


def _names(delivery: Delivery) -> dict[str, object]:
    session = delivery.session
    return {
        "project": session.project,
        "subject": session.subject,
        "session": session.label,
        "study_uid": session.study_uid,
        "delivery": delivery.number,
    }


def _counts(summary: Summary) -> dict[str, object]:
    files = summary.files
    sessions = {state: summary.count(state) for state in ("archived", "prearchive", "held", "open")}
    return {
        "files": {name: getattr(files, name) for name in ("found", *files.__dataclass_fields__)},
        "sessions": {"total": len(summary.sessions), **sessions},
    }


def log_lines(*, names: bool) -> Form:
    """Return the form of a log. Without `names` it has UIDs where labels and paths would name patients."""

    def lines(now: float, entry: Entry) -> Iterator[str]:
        stamp = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
        for level, text in _told(entry, names=names):
            yield f"{stamp} {level:7} {_one_line(text)}\n"

    return lines


def _told(entry: Entry, *, names: bool) -> Iterator[tuple[str, str]]:
    def why(reason: str) -> str:
        return reason if names else _without_quotes(reason)

    def who(delivery: Delivery) -> str:
        session = delivery.session
        label = f" ({session.project} / {session.subject} / {session.label})" if names else ""
        return f"study {session.study_uid}{label}"

    match entry:
        case Began():
            settings = {**entry.settings, **(entry.names if names else {})}
            words = " ".join(f"{name}={value}" for name, value in settings.items())
            where = f"{entry.host}, project {entry.project}"
            yield "INFO", f"run {entry.run} began: asyncimport {entry.version}, {where}; {words}"
        case ScanFinished(gone=gone, unsent=unsent):
            lost = f"; {gone} files of an earlier run are gone, {unsent} of them were not sent" if gone else ""
            yield "INFO", f"the scan is finished{lost}"
        case Settled(outcomes=outcomes):
            for outcome in outcomes:
                if not isinstance(outcome, Stored):
                    instance = outcome.claim.instance
                    path = f" ({_text(instance.file.path)})" if names else ""
                    what = "refused" if isinstance(outcome, Refused) else "failed"
                    which = f"instance {instance.sop_uid}{path} of {who(outcome.claim.delivery)}"
                    yield "WARNING", f"{what}: {which}: {why(outcome.reason)}"
        case Repeated(reason=reason) if names:
            yield "INFO", f"repeated: {reason}"
        case Away(reason=None):
            yield "INFO", "the server is back"
        case Away(reason=reason):
            yield "WARNING", f"waiting for the server: {why(reason or '')}"
        case Archived(delivery=delivery, verified=verified):
            proof = f"verified by {verified}" if verified else "not verified"
            yield ("INFO" if verified else "WARNING"), f"archived, {proof}: {who(delivery)}"
        case Built(delivery=delivery):
            yield "INFO", f"built, and left in the prearchive: {who(delivery)}"
        case Held(delivery=delivery, reason=reason):
            yield "WARNING", f"held: {who(delivery)}: {why(reason)}"
        case Incomplete(delivery=delivery, missing=missing):
            yield "WARNING", f"the archive lacks {len(missing)} instances, which are sent again: {who(delivery)}"
        case Stray(session=session, uri=uri):
            place = f" ({session.project} / {session.subject} / {session.label}: {uri})" if names else ""
            yield "WARNING", f"a stray session is in the prearchive: study {session.study_uid}{place}"
        case Lost(events=count):
            yield "WARNING", f"{count} events are missing here"
        case Ended():
            yield _end(entry, names=names)


def _without_quotes(reason: str) -> str:
    return _QUOTED.sub(lambda match: f"({match[1] or '…'})", reason)


def _end(ended: Ended, *, names: bool) -> tuple[str, str]:
    level = {0: "INFO", 8: "WARNING", 9: "WARNING", 130: "WARNING", 143: "WARNING"}.get(ended.exit_code, "ERROR")
    text = f"run {ended.run} ended" if ended.run else "the run did not begin"
    text += f" with exit code {ended.exit_code}"
    if ended.summary is not None:
        files = ended.summary.files
        counts = {name: getattr(files, name) for name in files.__dataclass_fields__}
        counts |= {state: ended.summary.count(state) for state in ("archived", "prearchive", "held", "open")}
        text += f": {', '.join(f'{count} {name}' for name, count in counts.items() if count) or 'nothing was found'}"
    if ended.error is not None and (names or not isinstance(ended.error, UsageError)):
        text += f"; {ended.error if names else _without_quotes(str(ended.error))}"
    elif ended.error is not None:
        # It speaks of what was given: paths, and labels that collide.
        text += "; standard error says why"
    return level, text


def _text(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _one_line(text: str) -> str:
    """Spell out what would begin another line, or tell a terminal what to do."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
