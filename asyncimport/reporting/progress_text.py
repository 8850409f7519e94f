"""Totals of a run in words: parts of a few lines for a terminal, or of one plain line."""

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum, auto

from asyncimport.model.activity import WorkerActivity
from asyncimport.model.record import record
from asyncimport.model.texts import counted, plain
from asyncimport.reporting.progress import Totals, human_bytes, human_rate, human_seconds

# Uploads of large files come to an end rarely. Before this time there is nothing to say about it.
_STILL_SECONDS = 15.0
# Fewer files a second are none for the eye.
_FEW_FILES = 0.1
# Lines of workers: a terminal has few.
_MAX_WORKERS = 8


class Tone(Enum):
    """How important a row is."""

    NORMAL = auto()
    WARNING = auto()
    ERROR = auto()


@record
class Row:
    """Parts that belong together; a narrow terminal has them in several lines."""

    parts: Sequence[str]
    tone: Tone = Tone.NORMAL


@record
class ProgressText:
    """What a run has done, in words. `done` is the share of it (0 to 1) if there is something to do."""

    done: float | None
    time_left: str
    rows: Sequence[Row]

    @property
    def percent(self) -> str:
        """The share that is done; 100 % only if nothing is left."""
        return "" if self.done is None else f"{int(100 * self.done)} %"

    def line(self, separator: str = " · ") -> str:
        """Return all of it in one line."""
        begin, *rest = [*self.rows]
        first = [self.percent, *begin.parts, self.time_left, *(part for row in rest for part in row.parts)]
        return separator.join(part for part in first if part)


def progress_text(totals: Totals) -> ProgressText:
    """Return what a run has done by now. Call it on the loop: it notes the time, for rates."""
    now = totals.clock()
    totals.load.sample()
    totals.done_size = max(totals.done_size, totals.settled_size + totals.load.unfinished_size)
    totals.speed.look(now, totals.settled, totals.done_size)
    rows = [
        Row([*_scan(totals), *_amounts(totals), *_rates(totals)]),
        Row([*_sessions(totals), *_in_flight(totals)]),
        Row([*_other(totals)]),
        *(Row([line]) for line in worker_lines(totals.workers.values())),
        Row([*_lost_workers(totals)], Tone.WARNING),
        Row([*_bad_ends(totals)], Tone.WARNING),
        Row([*_retries(totals)], Tone.WARNING),
        Row([*_waits(totals, now)], Tone.ERROR if totals.away is not None else Tone.WARNING),
    ]
    return ProgressText(_done(totals), _time_left(totals, now), [row for row in rows if row.parts])


def _done(totals: Totals) -> float | None:
    if totals.attachments:  # the images are done
        return (totals.attached + totals.unattached) / totals.attachments
    if not totals.waiting:
        return None
    if totals.settled >= totals.waiting:
        return 1.0
    share = totals.done_size / totals.waiting_size if totals.waiting_size else totals.settled / totals.waiting
    return min(share, 0.99)


def _time_left(totals: Totals, now: float) -> str:
    """Return the time that the known rest takes: none while nothing moves, in an outage, and in a settle time."""
    files = totals.waiting - totals.settled
    if files <= 0 or totals.away is not None or _is_settling(totals, now):
        return ""
    seconds = totals.speed.seconds_for(max(totals.waiting_size - totals.done_size, 0), files)
    if seconds is None:
        return ""
    return f"{'at least ' if totals.scanning else ''}{human_seconds(seconds)} left"


def _scan(totals: Totals) -> Iterator[str]:
    if totals.scanning:
        yield f"scanning: {counted(totals.scanned, 'file')}, {human_bytes(totals.scanned_size)} so far"


def _amounts(totals: Totals) -> Iterator[str]:
    if totals.waiting or not totals.scanning:
        yield f"{totals.stored:,} of {counted(totals.waiting, 'file')}"
        yield _of(totals.done_size, max(totals.waiting_size, totals.done_size))


def _of(done: float, total: float) -> str:
    """Return an amount of all: `1.2 of 3.4 GB`."""
    number, _, unit = human_bytes(done).partition(" ")
    whole = human_bytes(total)
    return f"{number} of {whole}" if whole.endswith(f" {unit}") else f"{number} {unit} of {whole}"


def _rates(totals: Totals) -> Iterator[str]:
    files, size = totals.speed.now()
    if (files or size) and totals.away is None:
        files_rate = f" ({human_rate(files)})" if files >= _FEW_FILES else ""
        yield f"{human_bytes(size)}/s{files_rate}, average {human_bytes(totals.speed.average())}/s"


def _sessions(totals: Totals) -> Iterator[str]:
    done, is_sent = totals.archived + totals.built, not totals.scanning and totals.settled >= totals.waiting
    counts = [f"{counted(done, 'session')} done"]
    if totals.open:
        counts.append(f"{len(totals.open):,} {'to be archived' if is_sent else 'open'}")
    if totals.held:
        counts.append(f"{totals.held:,} held")
    if done or len(counts) > 1 or totals.waiting or not totals.scanning:
        yield ", ".join(counts)


def _in_flight(totals: Totals) -> Iterator[str]:
    if (in_flight := totals.load.in_flight) and totals.away is None:
        # A worker may have told it.
        limit = plain(totals.load.limit(is_scanning=totals.scanning))
        yield f"{counted(in_flight, 'upload')} in flight{f', limited by {limit}' if limit else ''}"


def worker_lines(workers: Iterable[WorkerActivity]) -> Iterator[str]:
    """Yield a line for each worker of a cluster; of many only for the busiest."""
    busiest = sorted(workers, key=lambda one: (-one.in_flight, -one.files))
    for one in busiest[:_MAX_WORKERS]:
        parts = [f"worker {plain(one.worker)}: {counted(one.files, 'file')}", human_bytes(one.size)]
        if one.files_per_second >= _FEW_FILES:
            parts.append(human_rate(one.files_per_second))
        if one.in_flight:
            parts.append(f"{one.in_flight:,} in flight")
        if one.limited_by:
            parts.append(f"limited by {plain(one.limited_by)}")
        yield ", ".join(parts)
    if len(busiest) > _MAX_WORKERS:
        yield f"and {counted(len(busiest) - _MAX_WORKERS, 'more worker')}"


def _lost_workers(totals: Totals) -> Iterator[str]:
    if totals.lost:
        names = ", ".join([*totals.lost][:_MAX_WORKERS])
        yield f"{counted(len(totals.lost), 'worker')} lost: {names}"


def _other(totals: Totals) -> Iterator[str]:
    if totals.zips:
        sizes = f"{human_bytes(totals.sent_size)} sent for {human_bytes(totals.stored_size)}"
        yield f"{counted(totals.zips, 'file')} as zips: {sizes}"
    if totals.found:
        yield f"{counted(totals.found, 'file')} found in the archive"
    if totals.repaired:
        yield f"{totals.repaired:,} missing from XNAT and sent again"
    if totals.attachments:
        yield f"{totals.attached:,} of {counted(totals.attachments, 'attachment')}"
    if totals.subjects_updated:
        yield f"demographics of {counted(totals.subjects_updated, 'subject')}"


def _bad_ends(totals: Totals) -> Iterator[str]:
    counts = {"refused": totals.refused, "failed": totals.failed, "withheld": totals.withheld}
    if any(counts.values()):
        yield f"files: {', '.join(f'{count:,} {word}' for word, count in counts.items() if count)}"
    if totals.unattached:
        yield f"{counted(totals.unattached, 'attachment')} refused or failed"


def _retries(totals: Totals) -> Iterator[str]:
    if totals.repeated:
        yield f"{counted(totals.repeated, 'retry')}, last: {plain(totals.trouble)}"


def _waits(totals: Totals, now: float) -> Iterator[str]:
    if totals.away is not None:
        lasted, left = totals.load.outage_seconds() or (now - totals.away_since, None)
        yield f"no answer for {human_seconds(lasted)}: {plain(totals.away)}"
        if left is not None:
            yield f"gives up in {human_seconds(left)}"
    elif _is_settling(totals, now):
        yield f"waiting {human_seconds(totals.settling_until - now)}, in case an interrupted upload still lands"
    elif (still := totals.speed.seconds_still()) >= _STILL_SECONDS and totals.settled < totals.waiting:
        yield f"no progress for {human_seconds(still)}"


def _is_settling(totals: Totals, now: float) -> bool:
    return now < totals.settling_until and totals.settled >= totals.waiting
