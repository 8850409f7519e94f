"""Sessions are sent one after another: how many are open at a time, in a simulation of the slots with its own clock.

A session is open from the first of its files that is stored to the last.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from pathlib import Path

import pytest
from journals import RULES, Disk, archived, instance, scan, sealed_by, session, stored

from asyncimport.journal import Journal
from asyncimport.journal.first_files import FirstFiles
from asyncimport.model.deliveries import Claim
from asyncimport.pacing.concurrency import Throttle
from asyncimport.pipeline.feed import demand_of, most_waiting

FILE_SECONDS = 0.1


@dataclass
class Simulation:
    """Sends all files of a journal by a number of slots, as the feed and the workers do."""

    slots: int
    first_seconds: Callable[[str], float] = lambda _: 3 * FILE_SECONDS
    now: float = 0.0
    stored: Counter[str] = field(default_factory=Counter)
    most_open: int = 0
    ends: dict[str, float] = field(default_factory=dict)
    on_file: Callable[[Throttle], object] = lambda _: None

    def run(self, path: Path, sizes: dict[str, int]) -> None:
        """Send sessions of so many files, by label."""
        disk, throttle, order = Disk(), Throttle(self.slots), count()
        disk.put(
            *(instance(f"{label}-{n}", session(label, subject=label)) for label in sizes for n in range(sizes[label]))
        )
        running: list[tuple[float, int, Claim, float]] = []
        waiting: list[Claim] = []
        with Journal(path, destination="https://xnat.test", rules=RULES, ticks=lambda: self.now) as journal:
            scan(journal, disk)
            queue = journal.queue
            while True:
                while len(waiting) <= most_waiting(throttle) // 2:
                    claims = queue.claim(
                        most_waiting(throttle) - len(waiting),
                        max_active=200,
                        demand=demand_of(
                            throttle,
                            queue.first_files.usual_seconds,
                            under_way=len(running) + len(waiting),
                            ahead=min(throttle.limit, most_waiting(throttle) // 2),
                        ),
                    )
                    if claims is None:
                        return
                    if not claims:
                        break
                    waiting += sorted(claims, key=lambda claim: claim.delivery.uri is not None)
                while waiting and len(running) < throttle.limit:
                    claim = waiting.pop(0)
                    is_first = claim.delivery.uri is None
                    seconds = self.first_seconds(claim.delivery.session.label) if is_first else FILE_SECONDS
                    heappush(running, (self.now + seconds, next(order), claim, seconds))
                late = queue.seconds_to_late
                if late is not None and self.now + late < running[0][0] and len(running) < throttle.limit:
                    self.now += late
                    continue
                self.now, _, claim, seconds = heappop(running)
                throttle.record_success(seconds)
                queue.record_outcomes([stored(claim)])
                label = claim.delivery.session.label
                self.stored[label] += 1
                self.ends[label] = self.now
                open_sessions = sum(0 < self.stored[label] < sizes[label] for label in self.stored)
                self.most_open = max(self.most_open, open_sessions)
                self.on_file(throttle)
                while (sealed := sealed_by(journal)) is not None:
                    journal.deliveries.record_verdict(archived(sealed))

    def slowdown(self) -> float:
        """Return how long it took, beside slots that are always in use."""
        files = sum(self.stored.values())
        busy = FILE_SECONDS * (files - len(self.stored)) + sum(map(self.first_seconds, self.stored))
        return self.now / (busy / self.slots)


@pytest.mark.parametrize(
    ("sessions", "files", "slots", "most", "slowdown"),
    [
        (40, 40, 4, 3, 1.05),
        (40, 40, 16, 3, 1.05),
        (40, 40, 64, 8, 1.15),
        (10, 400, 16, 3, 1.05),
        (4, 2_000, 16, 3, 1.05),
        # Small ones: as many as fill the slots.
        (100, 4, 4, 6, 1.05),
        (100, 4, 16, 24, 1.05),
        (400, 4, 64, 96, 1.05),
        (400, 2, 16, 24, 1.05),
        (400, 1, 16, 0, 1.05),
    ],
)
def test_sessions_end_before_others_begin(
    tmp_path: Path, sessions: int, files: int, slots: int, most: int, slowdown: float
) -> None:
    """As many as hide the lone first files and fill the slots, and these stay in use."""
    simulation = Simulation(slots)
    simulation.run(tmp_path / "book", {f"E{number:03}": files for number in range(sessions)})
    assert simulation.stored.total() == sessions * files
    assert simulation.most_open <= most
    assert simulation.slowdown() <= slowdown


def test_more_sessions_are_open_where_first_files_take_long(tmp_path: Path) -> None:
    """How long they take is measured: a site that answers slowly keeps no slot idle for it."""
    simulation = Simulation(16, first_seconds=lambda _: 20 * FILE_SECONDS)
    simulation.run(tmp_path / "book", {f"E{number:03}": 40 for number in range(200)})
    assert simulation.slowdown() <= 1.15


def test_a_late_first_file_keeps_nothing_waiting(tmp_path: Path) -> None:
    """While the first files of some large sessions take minutes, small ones fill the slots."""
    slow = {"E000", "E001", "E002", "E003", "E004"}
    simulation = Simulation(32, first_seconds=lambda label: 600.0 if label in slow else 3 * FILE_SECONDS)
    simulation.run(tmp_path / "book", {f"E{number:03}": 400 if number < 5 else 4 for number in range(205)})
    assert max(at for label, at in simulation.ends.items() if label not in slow) < 10
    assert simulation.stored.total() == 2_800


def test_it_follows_a_limit_that_changes(tmp_path: Path) -> None:
    """With more in flight more sessions begin, with fewer none until those that are open end."""
    limits = iter([3] * 400 + [64] * 1_600 + [4] * 2_000)
    open_by_limit: dict[int, int] = {}
    simulation = Simulation(3)

    def change(throttle: Throttle) -> None:
        at_limit = throttle.limit
        open_now = sum(0 < files < 40 for files in simulation.stored.values())
        open_by_limit[at_limit] = open_now
        throttle.allow(next(limits))

    simulation.on_file = change
    simulation.run(tmp_path / "book", {f"E{number:03}": 40 for number in range(100)})
    assert simulation.stored.total() == 4_000
    assert simulation.most_open <= 12
    assert open_by_limit[4] <= 3


def test_the_usual_time_of_a_first_file() -> None:
    """It is an average; one that takes for ever is late, and hardly changes it."""
    now = 0.0
    first = FirstFiles(lambda: now)
    assert first.seconds_to_next_late() is None
    first.begin(1)
    now = 0.6
    first.begin(1)
    assert first.seconds_to_next_late() == pytest.approx(0.4)
    first.end(1)
    assert first.usual_seconds == pytest.approx(0.6)
    first.begin(2)
    first.begin(3)
    now += 1.1
    assert first.seconds_to_next_late() == pytest.approx(0.1)
    assert not first.is_late(2)
    now += 0.1
    assert first.is_late(2)
    assert first.seconds_to_next_late() is None
    now += 1_000
    first.end(3, is_stored=False)
    assert first.usual_seconds == pytest.approx(0.6)
    first.end(2)
    assert first.usual_seconds == pytest.approx(0.75)
    assert not first.is_late(2)
