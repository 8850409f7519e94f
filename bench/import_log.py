"""The imports that a server received, a line each, and figures from them. Pure."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_LAST_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Import:
    """An import as the server saw it: seconds since 1970, status, body bytes, session label."""

    begin: float
    end: float
    status: int
    size: int
    label: str


@dataclass(frozen=True, slots=True)
class Phase:
    """A time during which the server's capacity did not change."""

    name: str
    begin: float
    end: float


def read_log(path: Path) -> "Received":
    """Read a log with lines of: end, duration, status, bytes, label."""
    imports = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            end, took, status, size, label = line.rstrip("\n").split(" ", 4)
            imports.append(
                Import(float(end) - float(took), float(end), int(status), int(size) if size != "-" else 0, label)
            )
    return Received(imports)


class Received:
    """All imports of a run, by the time at which they ended."""

    def __init__(self, imports: Sequence[Import]) -> None:
        self.imports = sorted(imports, key=lambda one: one.end)
        self.kept = [one for one in self.imports if one.status == 200]
        self._ends = [one.end for one in self.kept]

    @property
    def files(self) -> int:
        """The number of imports with the answer 200."""
        return len(self.kept)

    @property
    def bytes(self) -> int:
        """The bytes of these."""
        return sum(one.size for one in self.kept)

    @property
    def first(self) -> float | None:
        """The arrival of the first byte of the first import."""
        return min((one.begin for one in self.imports), default=None)

    def of(self, label: str) -> "Received":
        """Return the imports of one session."""
        return Received([one for one in self.imports if one.label == label])

    def span(self) -> float:
        """Return the seconds from the start of the first import to the end of the last."""
        return self._ends[-1] - min(one.begin for one in self.kept) if self.kept else 0.0

    def tail(self) -> float:
        """Return the share of that time which the last twentieth of the files took."""
        if len(self.kept) < 2 or not self.span():
            return 0.0
        last = max(1, round(_LAST_SHARE * len(self.kept)))
        return (self._ends[-1] - self._ends[-1 - last]) / self.span()

    def most_in_flight(self) -> int:
        """Return the maximum number of concurrent imports."""
        # At the same moment an end counts before a start. If the clock of the log has steps of a millisecond,
        # like that of nginx, shorter imports cannot be seen.
        changes = sorted([(one.begin, 1) for one in self.imports] + [(one.end, -1) for one in self.imports])
        most = now = 0
        for _, change in changes:
            now += change
            most = max(most, now)
        return max(most, min(1, len(self.imports)))

    def rate(self, begin: float, end: float) -> float:
        """Return the rate in files a second between two moments."""
        if end <= begin:
            return 0.0
        return (bisect_left(self._ends, end) - bisect_left(self._ends, begin)) / (end - begin)

    def settled_rate(self, phase: Phase | None = None) -> float:
        """Return the rate in the second half of a phase, or of the run, when a client has settled."""
        if not self.kept:
            return 0.0
        begin = phase.begin if phase is not None else min(one.begin for one in self.kept)
        end = min(phase.end, self._ends[-1]) if phase is not None else self._ends[-1]
        return self.rate((begin + end) / 2, end)

    def most_in_flight_during(self, phase: Phase) -> int:
        """Return the maximum number of concurrent imports in the second half of a phase."""
        middle = (phase.begin + phase.end) / 2
        return Received([one for one in self.imports if one.end > middle and one.begin < phase.end]).most_in_flight()
