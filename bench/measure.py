"""One measured run: the processes of a client, their time and memory, and whether all files arrived."""

import heapq
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import spawn
from bench.import_log import Received
from bench.servers import Tally

_FINALIZERS = 4  # as many sessions as the tool archives at a time


@dataclass(frozen=True, slots=True)
class Claim:
    """The claim of a client: files that the server acknowledged (None: it does not say), or its error."""

    files: int | None = None
    problem: str = ""
    not_counted: float = 0.0
    """Seconds that do not count."""
    bytes: int | None = None
    """Bytes sent, if they are others than those of the files."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The processes of a client after their end: exit code, output, seconds, CPU seconds, peak bytes."""

    code: int
    out: str
    err: str
    began: float
    seconds: float
    cpu: float
    rss: int
    gave_up: bool


@dataclass(frozen=True, slots=True)
class Command:
    """The command of a contender, the files and bytes that should arrive, and the reader of its output."""

    words: Sequence[str | os.PathLike[str]]
    env: Mapping[str, str]
    files: int
    bytes: int
    read: Callable[[Ended], Claim]
    stdin: str = ""


@dataclass(slots=True)
class Measured:
    """The figures of one run. `rate` is files a second of the whole run; None if it failed."""

    contender: str
    round: int
    seconds: float
    files: int
    cpu: float
    rss: int
    server_cpu: float = 0.0
    problem: str = ""
    first_byte: float | None = None
    tail: float | None = None
    finishing: float | None = None
    sending: float | None = None
    first_archived: float | None = None
    in_flight: float | None = None
    archiving: float | None = None
    phases: dict[str, dict[str, float]] = field(default_factory=dict)
    more: dict[str, float] = field(default_factory=dict)

    @property
    def values(self) -> Mapping[str, float | None]:
        """The figures by name; empty for a failed run."""
        if self.problem:
            return {}
        return {
            "rate": self.files / self.seconds if self.seconds else None,
            "cpu_ms": 1000 * self.cpu / self.files if self.files else None,
            "cpu_s": self.cpu,
            "rss_mb": self.rss / 1e6,
            "sending": self.sending,
            "server_cpu_ms": 1000 * self.server_cpu / self.files if self.files else None,
            "first_byte": self.first_byte,
            "tail": self.tail,
            "finishing": self.finishing,
            "first_archived": self.first_archived,
            "in_flight": self.in_flight,
            "archiving": self.archiving,
            "seconds": self.seconds,
            **self.more,
        }

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        names = ("contender", "round", "seconds", "files", "cpu", "rss", "server_cpu", "problem", "phases")
        return {**{name: getattr(self, name) for name in names}, "values": dict(self.values)}


def run(command: Command, place: Path, *, longest: float, within: Sequence[str] = ()) -> Ended:
    """Run a client to its end, or for `longest` seconds, and count what it and its children took.

    Raises: OSError when it cannot be started.
    """
    place.mkdir(parents=True, exist_ok=True)
    (place / "in").write_text(command.stdin)
    words = [os.fspath(word) for word in (*within, *command.words)]
    task = {
        "words": words,
        "env": {**command.env, "HOME": str(place)},
        "place": str(place),
        "longest": longest,
    }
    spawner = [sys.executable, "-I", "-S", str(Path(spawn.__file__))]
    with subprocess.Popen(spawner, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            told, _ = process.communicate(json.dumps(task))
        except BaseException:
            process.terminate()  # it kills and reports the client
            process.wait()
            raise
    if process.returncode:
        raise OSError(f"{words[0]} cannot be started")
    said, complained = ((place / name).read_text(errors="replace") for name in ("out", "err"))
    return Ended(out=said, err=complained, **json.loads(told))


def judged(
    name: str, number: int, command: Command, ended: Ended, tally: Tally | None, *, boxed: float | None = None
) -> Measured:
    """Compare a client with the count of the server. A run that did not deliver everything has failed.

    A run of a fixed time (`boxed`) need not come to its end; there, nothing may be claimed that the server has not.
    """
    claim = command.read(ended) if not ended.gave_up else Claim(problem="it was given up: it took too long")
    measured = Measured(name, number, ended.seconds - claim.not_counted, command.files, ended.cpu, ended.rss)
    measured.problem = claim.problem
    if tally is None:
        if not measured.problem and claim.files is not None and claim.files != command.files:
            measured.problem = f"{claim.files} of {command.files} files arrived"
        return measured
    received = tally.received
    measured.server_cpu = tally.cpu
    arrived = received.files if tally.held is None else tally.held
    if boxed is not None:
        measured.files = arrived
        if not measured.problem and (claim.files or 0) > arrived:
            measured.problem = f"it claims {claim.files} files, and the server has {arrived}"
    elif not measured.problem:
        measured.problem = _lack(command, claim, received, arrived, counts_bytes=tally.held is None)
    if claim.bytes not in {None, 0, command.bytes} and not measured.problem:
        measured.more["ratio"] = command.bytes / claim.bytes
    _look(measured, ended, tally)
    return measured


def _lack(command: Command, claim: Claim, received: Received, arrived: int, *, counts_bytes: bool) -> str:
    if arrived != command.files:
        return f"{arrived} of {command.files} files arrived"
    expected = command.bytes if claim.bytes is None else claim.bytes
    if counts_bytes and received.bytes != expected:
        return f"{received.bytes} of {expected} bytes arrived"
    if claim.files is not None and claim.files != arrived:
        return f"it claims {claim.files} files, and the server has {arrived}"
    return ""


def _look(measured: Measured, ended: Ended, tally: Tally) -> None:
    """Add the figures of the log of the server."""
    received = tally.received
    if received.first is None:
        return
    # nginx's log has steps of a millisecond, in which it is done with several.
    measured.in_flight = float(received.most_in_flight()) if tally.held is not None else None
    measured.first_byte = received.first - ended.began
    measured.tail = received.tail()
    measured.sending = received.files / span if (span := received.span()) else None
    last = received.imports[-1].end
    measured.finishing = ended.began + ended.seconds - last
    if tally.archived_at:
        label, moment = min(tally.archived_at.items(), key=lambda item: item[1])
        own = received.of(label)
        # Without its own upload, because a large session takes long.
        measured.first_archived = moment - ended.began - own.span()
        measured.archiving = _archiving(received, tally.archived_at)
    if not any(phase.name for phase in tally.phases):
        flight = {} if measured.in_flight is None else {"in_flight": measured.in_flight}
        measured.phases["all"] = {"settled": received.settled_rate(), **flight}
    for phase in tally.phases:
        if phase.name and (phase.begin + phase.end) / 2 < last:
            most = received.most_in_flight_during(phase)
            measured.phases[phase.name] = {"settled": received.settled_rate(phase), "in_flight": float(most)}


def _archiving(received: Received, archived_at: Mapping[str, float]) -> float | None:
    """Return how long archiving took, over how long it takes when no finalizer waits while a session is ready.

    A session is ready when its last file has arrived; each takes as long as the quickest.
    """
    ready = {one.label: one.end for one in received.kept}
    jobs = sorted((ready[label], moment) for label, moment in archived_at.items() if label in ready)
    if len(jobs) <= _FINALIZERS:
        return None
    quickest = min(moment - begin for begin, moment in jobs)
    free = [jobs[0][0]] * _FINALIZERS
    for begin, _ in jobs:
        heapq.heapreplace(free, max(begin, free[0]) + quickest)
    return (max(moment for _, moment in jobs) - jobs[0][0]) / (max(free) - jobs[0][0])
