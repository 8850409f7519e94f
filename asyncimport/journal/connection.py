"""The journal's file as one run uses it: opened, locked, and changed in transactions."""

import json
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from asyncimport.journal.database import LockWait, create_or_open, journal_errors, locked, transaction

# SQLite binds at least 32,766 values.
_ROWS_AT_ONCE = 512


class Connection:
    """The connection that all parts of a journal share. Call it from one thread at a time.

    It holds the journal's lock until `close`. `db` runs single statements. `clock` returns seconds since 1970, `ticks`
    seconds of a clock that nobody can set. A journal that `is_temporary` is never synced. Raises from every method:
    JournalError.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        lock_wait: LockWait | None = None,
        is_temporary: bool = False,
    ) -> None:
        self.path = path
        self._is_temporary = is_temporary
        self.clock = clock
        self.ticks = ticks
        self._lock_wait = lock_wait or LockWait()
        self._syncs = True
        self._lock = locked(path)
        try:
            self.db: sqlite3.Connection = create_or_open(path, self._lock_wait)
        except BaseException:
            self._lock.release()
            raise

    def close(self) -> None:
        """Close the file and release the lock."""
        self.db.close()
        self._lock.release()

    def now(self) -> str:
        """Return the time in UTC, ISO 8601, to the second."""
        return datetime.fromtimestamp(self.clock(), UTC).isoformat(timespec="seconds")

    def reading(self) -> AbstractContextManager[None]:
        """Turn SQLite's errors in the block into JournalError."""
        return journal_errors(self.path)

    def transaction(self, *, durable: bool = False) -> AbstractContextManager[None]:
        """Commit all that the block does, or nothing. `durable` syncs it, and everything committed before.

        A commit without a sync survives the end of the process, but perhaps not a power failure. SQLite writes its log
        in order, so a power failure takes the last transactions only.
        """
        durable = durable and not self._is_temporary
        if durable is not self._syncs:
            with journal_errors(self.path):
                self.db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._syncs = durable
        return transaction(self.db, self.path, self._lock_wait)

    def sync(self) -> None:
        """Sync everything committed so far."""
        with self.transaction(durable=True):
            # A transaction that writes nothing syncs nothing.
            self.db.execute("UPDATE metadata SET value = value WHERE key = 'source'")

    def execute_rows(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """Run a statement over many rows: `{rows}` in it is a table with columns column1, column2 and so on.

        `executemany` takes and releases Python's lock for each row, and the event loop waits as often; this does so
        once for many rows. It repeats the last row up to a power of two, to keep the number of prepared statements
        small: the statement must give the same result when a row comes twice.
        """
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[first : first + _ROWS_AT_ONCE]
            number = 1 << (len(some) - 1).bit_length()
            marks = f"({', '.join('?' * len(some[0]))})"
            values = [value for row in some for value in row] + [*some[-1]] * (number - len(some))
            self.db.execute(sql.format(rows=f"(VALUES {', '.join([marks] * number)})"), values)

    def json_rows(self, sql: str, values: Sequence[object]) -> list[Any]:
        """Return the rows of a query for one column of JSON, in order, in one step of SQLite (see `execute_rows`)."""
        (found,) = self.one(f"WITH found (of) AS ({sql}) SELECT group_concat(of, ',') FROM found", values)  # noqa: S608 - fixed text
        return list(json.loads(f"[{found or ''}]"))

    # SQLite does not type rows; the schema does.
    def one(self, sql: str, values: Sequence[object] | Mapping[str, object] = ()) -> tuple:  # type: ignore[type-arg]
        """Return the row of a query that always has one."""
        row: tuple | None = self.db.execute(sql, values).fetchone()  # type: ignore[type-arg]
        assert row is not None  # noqa: S101 - only for queries that always have a row
        return row

    def exists(self, sql: str, values: Sequence[object] = ()) -> bool:
        """Whether a query has a row."""
        return self.db.execute(sql, values).fetchone() is not None

    def insert(self, sql: str, values: Sequence[object]) -> int:
        """Insert one row and return its key."""
        key = self.db.execute(sql, values).lastrowid
        assert key is not None  # noqa: S101 - an INSERT has one
        return key
