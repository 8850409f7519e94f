"""Write entries in a separate thread, so that no disk delays the run."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Self

from asyncimport.model.events import AttachmentsStored, OutcomesRecorded
from asyncimport.reporting.entries import Entry, EventsLost, LineFormat
from asyncimport.system.output_files import open_output, output_errors

# Outcomes of files that may wait to be written: some ten megabytes, or seconds of the fastest run.
_MOST_WAITING = 20_000
_MOST_AT_A_TIME = 1_000


class Recorder:
    """Writes entries in a thread of its own. Use it as a context manager.

    `line_format` makes lines of entries, and `write`, which may raise OSError, writes them; `complain` gets the first
    problem. `clock` returns seconds since 1970. The exit waits `patience_seconds` at most.
    """

    def __init__(
        self,
        line_format: LineFormat,
        write: Callable[[str], None],
        complain: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.time,
        patience_seconds: float = 10.0,
    ) -> None:
        self._line_format = line_format
        self._patience_seconds = patience_seconds
        self._write = write
        self._complain = complain
        self._clock = clock
        self._queue: SimpleQueue[tuple[float, Entry] | None] = SimpleQueue()
        # One thread counts each, so the loop never waits for a lock.
        self._noted = self._written = 0
        self._lost = self._unwritten = 0
        self._has_complained = False
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._tell_lost()
        self._queue.put(None)
        self._thread.join(self._patience_seconds)
        if self._thread.is_alive():
            self._say("is too slow, and lacks the end")

    def note(self, entry: Entry) -> None:
        """Queue an entry, without waiting; if too many are queued, it is dropped. Call it from one thread at a time."""
        weight = _weight(entry)
        if self._noted - self._written + weight > _MOST_WAITING:
            self._lost += weight
            return
        self._tell_lost()
        self._noted += weight
        self._queue.put((self._clock(), entry))

    def _tell_lost(self) -> None:
        if self._lost:
            self._queue.put((self._clock(), EventsLost(self._lost)))
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
        if any(isinstance(entry, EventsLost) for _, entry in batch):
            self._say("is too slow, and lacks events")
        if self._unwritten:
            batch = [(batch[0][0], EventsLost(self._unwritten)), *batch]
        lines = "".join(line for now, entry in batch for line in self._line_format(now, entry))
        try:
            if lines:
                self._write(lines)
            self._unwritten = 0
        except OSError as error:
            self._unwritten = sum(
                entry.events if isinstance(entry, EventsLost) else _weight(entry) for _, entry in batch
            )
            self._say(f"cannot be written ({(error.strerror or str(error)).lower()})")

    def _say(self, why: str) -> None:
        if not self._has_complained:
            self._has_complained = True
            self._complain(why)


def _weight(entry: Entry) -> int:
    """Return the number of events of an entry; `EventsLost` counts as none."""
    if isinstance(entry, OutcomesRecorded):
        return len(entry.outcomes)
    if isinstance(entry, AttachmentsStored):
        return len(entry.results)
    return 0 if isinstance(entry, EventsLost) else 1


@contextmanager
def append_lines(path: Path, option: str) -> Iterator[Callable[[str], None]]:
    """Open a file, readable by its owner only, and yield a function that appends lines to it. Raises: UsageError."""
    with output_errors(option, path):
        file = open_output(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(text: str) -> None:
        rest = memoryview(text.encode())
        end = os.fstat(file).st_size
        try:
            while rest:
                rest = rest[os.write(file, rest) :]
        except OSError:
            # A partial line would spoil the next one. Only regular files can be truncated.
            with suppress(OSError):
                os.ftruncate(file, end)
            raise

    try:
        yield write
    finally:
        os.close(file)
