"""The journal's file in the hands of one run: opened, locked, and changed in transactions."""

import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from filelock import FileLock

from asyncimport.journal.database import Waiting, bind, create_or_open, locked, translated
from asyncimport.model.addresses import OUR_SOURCE

__all__ = ["UNARCHIVED", "Store"]

# SQLite binds at least 32,766 values.
_ROWS_AT_ONCE = 512

UNARCHIVED = (
    "EXISTS (SELECT 1 FROM delivery WHERE session = s.key AND uri IS NOT NULL AND state <> 'DELETED') "
    "AND NOT EXISTS (SELECT 1 FROM delivery o WHERE o.session = s.key "
    "AND (o.state = 'ARCHIVED' OR o.archive_uri IS NOT NULL))"
)
"""Whether XNAT has a session `s` in the prearchive and not in the archive."""


class Store:
    """One journal, locked for one run. Use it as a context manager, or call `close_file()`.

    `clock` tells the time in seconds since 1970, `ticks` seconds that nobody can set; `waiting` is how other programs'
    locks are waited for. Raises from every method: JournalError.
    """

    # A power failure makes the journal forget the acknowledgements of this many seconds at most.
    SYNC_SECONDS = 0.25

    def __init__(
        self,
        path: Path,
        *,
        destination: str,
        rules: Mapping[str, str],
        reroute: bool = False,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        waiting: Waiting | None = None,
    ) -> None:
        self.path = path
        self.source: str
        """What prearchive rows that this journal begins, and no others, name as their source."""
        self._waiting = waiting or Waiting()
        self._clock = clock
        self._ticks = ticks
        self.began_at = self._synced_at = clock()
        """When this run began, in seconds since 1970."""
        self._syncs = True
        self._lock: FileLock = locked(path)
        try:
            self._db = create_or_open(path, self._waiting)
        except BaseException:
            self._lock.release()
            raise
        try:
            with self._transaction(durable=True):
                if reroute:
                    self._forget_unsent()
                bind(self._db, path, destination, rules)
                self._db.execute("INSERT OR IGNORE INTO about VALUES ('source', ?)", (_new_source(),))
                (self.source,) = self._one("SELECT value FROM about WHERE key = 'source'")
                if self._was_killed():
                    # Nobody knows what was in flight then, nor whether XNAT is still at work on it.
                    self._db.execute("UPDATE delivery SET unsure_at = ? WHERE state = 'OPEN'", (clock(),))
                # From here on the time of day decides nothing: it may be corrected, or have been wrong before.
                self._db.execute(
                    "INSERT INTO unsure SELECT key, ? - max(0, ? - unsure_at) FROM delivery "
                    "WHERE state = 'OPEN' AND unsure_at IS NOT NULL",
                    (ticks(), clock()),
                )
                self.run = self._insert("INSERT INTO run (started) VALUES (?)", (self._now(),))
                (self._next_key,) = self._one(
                    "SELECT 1 + max((SELECT coalesce(max(key), 0) FROM file), "
                    "(SELECT coalesce(max(key), 0) FROM instance))"
                )
                if reroute:
                    self._db.execute(f"INSERT INTO rerouted SELECT key FROM session s WHERE {UNARCHIVED}")  # noqa: S608 - fixed text
                    # What the new rules call what is archived the first of its files tells.
                    self._db.execute("UPDATE session SET ruled_subject = NULL, ruled_label = NULL")
                self._db.execute(
                    "INSERT INTO ready SELECT key FROM delivery WHERE state = 'SEALED' "
                    "AND session NOT IN (SELECT session FROM rerouted)"
                )
                self._undecided = {key for (key,) in self._db.execute("SELECT session FROM rerouted")}
        except BaseException:
            self.close_file()
            raise
        self._scan_finished = False
        # Sessions that nothing more will come of, though the scan goes on.
        self._complete: set[int] = set()
        self._partial = False
        self.waits: dict[int, str] = {}
        """Sessions of which nothing is sent or finalised in this run, and why."""
        self._unasked: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_file()

    def close_file(self) -> None:
        """Close the file and give the lock back."""
        self._db.close()
        self._lock.release()

    @property
    def connection(self) -> sqlite3.Connection:
        """For the `Ledger`, which counts within this run's scope."""
        return self._db

    def end_run(self, exit_code: int) -> None:
        """Note how the run ended. What it had handed out and not settled may yet take effect."""
        with self._transaction(durable=True):
            self._db.execute(
                "UPDATE delivery SET unsure_at = ? WHERE state = 'OPEN' AND session IN (SELECT session FROM flying)",
                (self._clock(),),
            )
            self._db.execute(
                "UPDATE run SET ended = ?, exit_code = ? WHERE key = ?", (self._now(), exit_code, self.run)
            )

    def note_alias(self, name: str) -> None:
        """Note another name of the project of this journal, by which it can be found."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO about VALUES (?, '')", (f"alias {name}",))

    def _was_killed(self) -> bool:
        """Whether the run before this one has no end."""
        last = self._db.execute("SELECT ended FROM run ORDER BY key DESC LIMIT 1").fetchone()
        return last is not None and last[0] is None

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds")

    @contextmanager
    def _transaction(self, *, durable: bool = False) -> Iterator[None]:
        """Commit what the block does, or nothing of it; `durable`: with all that was committed before, for good.

        What is not outlives the process, however it dies, but perhaps not a power failure. The log is written in
        order, so what that takes away are always the last transactions.
        """
        with translated(self.path):
            if durable is not self._syncs:
                self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._syncs = durable
            self._waiting.until_free(self.path, self._lock_rows)
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # After an error of the disk SQLite may have rolled back already; asking again would hide that error.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _lock_rows(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def _sync(self) -> None:
        """Keep all that was committed for good."""
        with self._transaction(durable=True):
            # A transaction that writes nothing syncs nothing.
            self._db.execute("UPDATE run SET started = started WHERE key = ?", (self.run,))

    def _over(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """Run a statement with `{rows}` in it, a table whose columns are column1, column2 and so on, over many rows.

        `executemany` takes Python's lock and gives it back with each row, and the loop waits as often; this does so
        once for many. The last row is repeated up to a power of two, so that few statements have to be kept prepared:
        it must not matter that a row comes twice.
        """
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[first : first + _ROWS_AT_ONCE]
            number = 1 << (len(some) - 1).bit_length()
            marks = f"({', '.join('?' * len(some[0]))})"
            values = [value for row in some for value in row] + [*some[-1]] * (number - len(some))
            self._db.execute(sql.format(rows=f"(VALUES {', '.join([marks] * number)})"), values)

    def _all_of(self, sql: str, values: Sequence[object]) -> list[Any]:
        """Return what a query for one column of JSON finds, in order: in one step of SQLite, as `_over`."""
        (found,) = self._one(f"WITH found (of) AS ({sql}) SELECT group_concat(of, ',') FROM found", values)  # noqa: S608 - fixed text
        return list(json.loads(f"[{found or ''}]"))

    # Rows are as untyped as SQLite itself: the schema, not Python, says what is in them.
    def _one(self, sql: str, values: Sequence[object] | Mapping[str, object] = ()) -> tuple:  # type: ignore[type-arg]
        row: tuple | None = self._db.execute(sql, values).fetchone()  # type: ignore[type-arg]
        assert row is not None  # noqa: S101 - only for queries that always have a row
        return row

    def _insert(self, sql: str, values: Sequence[object]) -> int:
        key = self._db.execute(sql, values).lastrowid
        assert key is not None  # noqa: S101 - an INSERT has one
        return key

    def _forget_unsent(self) -> None:
        """Let the next scan decide anew about everything that XNAT holds nothing of."""
        self._db.execute("DELETE FROM about WHERE key LIKE 'rule %'")
        self._db.execute("DELETE FROM attachment WHERE md5 IS NULL")
        self._db.execute("DELETE FROM delivery WHERE uri IS NULL AND state <> 'ARCHIVED'")
        self._db.execute(
            "DELETE FROM instance WHERE session NOT IN (SELECT session FROM delivery) AND state <> 'STORED'"
        )
        self._db.execute("DELETE FROM session WHERE key NOT IN (SELECT session FROM instance)")
        self._db.execute("UPDATE file SET lacked_by = NULL")
        self._db.execute(
            "DELETE FROM patient WHERE archived IS NULL AND NOT EXISTS (SELECT 1 FROM session s "
            "WHERE s.project = patient.project AND s.subject = patient.subject COLLATE NOCASE)"
        )
        # What XNAT holds keeps its file, whatever that holds by now.
        undecided = (
            "kind IN ('INSTANCE', 'DUPLICATE', 'SKIPPED', 'EXCLUDED') "
            "AND (instance IS NULL OR instance NOT IN (SELECT key FROM instance))"
        )
        self._db.execute(f"DELETE FROM file WHERE {undecided} AND key NOT IN (SELECT file FROM instance)")  # noqa: S608 - fixed text
        self._db.execute(
            f"UPDATE file SET kind = 'UNREADABLE', reason = 'not looked into yet', instance = NULL WHERE {undecided}"  # noqa: S608 - fixed text
        )


def _new_source() -> str:
    return f"{OUR_SOURCE}-{secrets.token_hex(8)}"
