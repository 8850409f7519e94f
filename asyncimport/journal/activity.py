"""What a run and its workers send over time: written with its outcomes, read for reports."""

import sqlite3
from collections.abc import Sequence
from dataclasses import astuple

from asyncimport.journal.connection import Connection, CurrentRun
from asyncimport.journal.database import has_table
from asyncimport.model.activity import Activity, RunActivity, Series, WorkerActivity

_INSERT = "INSERT OR REPLACE INTO activity VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class ActivityWriter:
    """Writes the intervals of a run."""

    def __init__(self, connection: Connection, run: CurrentRun) -> None:
        self._connection = connection
        self._run = run.key
        self._series = Series()
        self._started = connection.ticks()

    def add(self, activity: Activity) -> None:
        """Add what was done until now, in the transaction that is open."""
        db, series = self._connection.db, self._series
        number = series.add(self._connection.ticks() - self._started, activity)
        if number is None:
            db.execute("DELETE FROM activity WHERE run = ?", (self._run,))
            db.executemany(_INSERT, [self._row(number) for number in series.intervals])
        else:
            db.execute(_INSERT, self._row(number))

    def note_worker(self, worker: WorkerActivity) -> None:
        """Note what a worker has done by now."""
        with self._connection.transaction():
            row = self._run, *astuple(worker)
            self._connection.db.execute("INSERT OR REPLACE INTO worker VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def _row(self, number: int) -> Sequence[object]:
        series = self._series
        return self._run, number * series.seconds, series.seconds, *astuple(series.intervals[number])


def read_activity(database: sqlite3.Connection, run: int) -> RunActivity:
    """Return what a run and its workers sent over time."""
    rows = database.execute("SELECT * FROM activity WHERE run = ? ORDER BY second", (run,)).fetchall()
    seconds = rows[0][2] if rows else 1
    # A journal of an earlier version has none.
    has_workers = has_table(database, "worker")
    found = database.execute("SELECT * FROM worker WHERE run = ?", (run,)).fetchall() if has_workers else []
    workers = [WorkerActivity(*row[1:]) for row in found]
    return RunActivity(run, seconds, [(row[1], Activity(*row[3:])) for row in rows], workers)
