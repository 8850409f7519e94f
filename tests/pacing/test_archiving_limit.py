"""How many sessions are archived at a time, on simulated servers: all times are those of a clock of its own."""

from collections.abc import Callable, Iterator
from itertools import repeat

import pytest

from asyncimport.pacing.archiving import ArchivingLimit
from asyncimport.pacing.concurrency import Throttle

Slowdown = Callable[[int], float]
"""How many times as long a session takes while so many are archived."""


def workers(number: int) -> Slowdown:
    """Return a server with so many archive workers, which do not disturb each other."""
    return lambda at_work: max(1.0, at_work / number)


def disk(thrashing: float = 0.0) -> Slowdown:
    """Return a disk that all sessions share; each further one makes it slower by this share, as heads move."""
    return lambda at_work: at_work * (1 + thrashing * (at_work - 1))


class Archiving:
    """Archives sessions of so many files, one after another or as many as the limit allows."""

    def __init__(self, slowdown: Slowdown, throttle: Throttle) -> None:
        self.slowdown = slowdown
        self.throttle = throttle
        self.now = 0.0
        self.limits: list[int] = []
        self.upload_slots_lost = 0.0
        """How much uploads were slowed, if each session that is archived takes as much of the disk as one of them."""

    def run(self, sessions: int, files: Iterator[int] | None = None) -> float:
        """Archive them, each of 2 s if alone; return how long it took."""
        sizes, began = files or repeat(50), self.now
        left: list[list[float]] = []
        for _ in range(sessions):
            while not self.throttle.try_acquire():
                self._end_one(left)
            left.append([2.0, self.now, next(sizes)])
        while left:
            self._end_one(left)
        return self.now - began

    def _end_one(self, left: list[list[float]]) -> None:
        first = min(left)
        pace = 1 / self.slowdown(len(left))
        seconds = first[0] / pace
        self.now += seconds
        self.upload_slots_lost += len(left) * seconds
        for session in left:
            session[0] -= seconds * pace
        left.remove(first)
        self.throttle.record_success(self.now - first[1], int(first[2]))
        self.throttle.release()
        self.limits.append(self.throttle.limit)


def found(slowdown: Slowdown, sessions: int = 400) -> Archiving:
    """Archive with the number that is found."""
    archiving = Archiving(slowdown, Throttle(ArchivingLimit(10)))
    archiving.run(sessions)
    return archiving


def fixed(slowdown: Slowdown, limit: int, sessions: int = 400) -> Archiving:
    """Archive with a fixed number."""
    archiving = Archiving(slowdown, Throttle(limit))
    archiving.run(sessions)
    return archiving


@pytest.mark.parametrize(
    ("slowdown", "least", "most"),
    [
        (workers(40), 10, 10),
        (workers(10), 10, 10),
        (workers(4), 4, 4),
        (disk(), 2, 2),
        (disk(0.05), 2, 2),
        (disk(0.5), 2, 2),
    ],
    ids=["40 workers", "10 workers", "4 workers", "a disk", "a disk with heads", "a slow disk"],
)
def test_as_many_as_make_it_faster(slowdown: Slowdown, least: int, most: int) -> None:
    """Ten where the server has workers for them, two where a disk is the limit; and the whole takes as long or less."""
    archiving = found(slowdown)
    assert archiving.limits[0] == 4
    settled = archiving.limits[200:]
    assert least <= sorted(settled)[len(settled) // 2] <= most
    assert archiving.now <= 1.04 * fixed(slowdown, 4).now
    assert archiving.now <= 1.08 * fixed(slowdown, 10).now


def test_fewer_leave_more_of_a_disk_to_uploads() -> None:
    """Where more at a time archive no faster, uploads beside them get less: so there are fewer."""
    slow = disk(0.05)
    assert found(slow).upload_slots_lost < 0.75 * fixed(slow, 4).upload_slots_lost
    assert found(slow).upload_slots_lost < 0.25 * fixed(slow, 10).upload_slots_lost


def test_it_follows_a_server_that_changes() -> None:
    """A disk that is busy for a while is left to others meanwhile, and used again afterwards."""
    archiving = found(workers(40), 200)
    assert archiving.throttle.limit == 10
    archiving.slowdown = disk()
    archiving.run(1_500)
    assert archiving.throttle.limit <= 3
    archiving.slowdown = workers(40)
    archiving.run(2_500)
    assert archiving.throttle.limit >= 9


def test_sizes_of_sessions_do_not_matter() -> None:
    """Large sessions take longer, whatever else is archived: they are compared with others of their size."""
    finder = ArchivingLimit(10)
    for number in range(600):
        size = (3, 1_000)[number // 40 % 2]
        finder.record_success(size * 0.01, size)
    assert finder.limit == 10


def test_it_learns_nothing_while_few_are_ready() -> None:
    """While not all places are taken, nothing shows what another number would do."""
    finder = ArchivingLimit(10)
    for _ in range(500):
        finder.record_success(1.0, 10, is_full=False)
    assert finder.limit == 4


def test_a_server_in_trouble_ends_a_trial() -> None:
    """The number is that before the trial."""
    finder = ArchivingLimit(10)
    while finder.limit == 4:
        finder.record_success(1.0, 10)
    finder.restart()
    assert finder.limit == 4
    finder.measure_again()
    assert finder.limit == 4


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_low_ceiling(most: int) -> None:
    """It is never exceeded."""
    finder = ArchivingLimit(most)
    for _ in range(500):
        finder.record_success(1.0, 10)
        assert 1 <= finder.limit <= most
