"""The journal's file as one run uses it: opened, locked and changed in transactions; the run's beginning and end."""

import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import cache
from itertools import chain
from math import inf
from pathlib import Path
from typing import Any

from asyncimport.journal.bound_rules import bind
from asyncimport.journal.database import LockWait, create_or_open, journal_errors, locked, transaction
from asyncimport.model.addresses import OUR_SOURCE
from asyncimport.model.record import record

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

    def execute_rows(self, sql: str, rows: Sequence[Sequence[object]], before: Sequence[object] = ()) -> None:
        """Run a statement over many rows: `{rows}` in it is a table with columns column1, column2 and so on.

        `before` are the values of ?1, ?2 and so on, which stand before it. `executemany` takes and releases Python's
        lock for each row, and the event loop waits as often; this does so once for many rows. It repeats the last row,
        to keep the number of prepared statements small: the statement must give the same result when a row comes twice.
        """
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[first : first + _ROWS_AT_ONCE]
            number = _rounded_up(len(some))
            values = [*before, *chain.from_iterable(some), *[*some[-1]] * (number - len(some))]
            self.db.execute(_with_rows(sql, number, len(some[0])), values)

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


UNARCHIVED = (
    "EXISTS (SELECT 1 FROM delivery WHERE session = s.key AND uri IS NOT NULL AND state <> 'DELETED') AND NOT EXISTS "
    "(SELECT 1 FROM delivery o WHERE o.session = s.key AND (o.state = 'ARCHIVED' OR o.archive_uri IS NOT NULL))"
)
"""Whether XNAT has a session `s` in the prearchive and not in the archive."""

NOTE_FORGOTTEN = (
    "INSERT OR REPLACE INTO metadata SELECT 'forgotten', strftime('%s', 'now') FROM delivery d WHERE d.state = 'OPEN' "
    "AND (d.interrupted_at IS NOT NULL OR EXISTS (SELECT 1 FROM metadata WHERE key = 'lease') "
    "OR (SELECT ended IS NULL FROM run ORDER BY key DESC LIMIT 1)) AND {} LIMIT 1"
)
"""Notes that a delivery `d` is forgotten whose last upload may still take effect, in the next row of its session."""


def _rounded_up(number: int) -> int:
    """Return the next power of two, or three quarters of it."""
    power: int = 1 << (number - 1).bit_length()
    return power * 3 // 4 if 4 * number <= 3 * power else power


@cache
def _with_rows(sql: str, number: int, columns: int) -> str:
    marks = f"({', '.join('?' * columns)})"
    return sql.format(rows=f"(VALUES {', '.join([marks] * number)})")


@record
class CurrentRun:
    """The run that holds the journal.

    `began_at` is in seconds since 1970. `next_key` is the first key that no file and no instance has. `relabeled`
    sessions wait for labels. Workers of an earlier run may send until `leased_until` (`ticks`). At `forgotten_since`
    (`ticks`) the last interrupted attempt was made into a delivery that was forgotten since.
    """

    key: int
    began_at: float
    source: str
    next_key: int
    relabeled: frozenset[int]
    leased_until: float = 0.0
    forgotten_since: float = -inf


def begin_run(connection: Connection, *, destination: str, rules: Mapping[str, str], relabel: bool) -> CurrentRun:
    """Note that a run begins. Raises: JournalError for another destination, UsageError for other rules."""
    db, now = connection.db, connection.clock()
    with connection.transaction(durable=True):
        if relabel:
            _forget_unsent(connection)
        bind(db, connection.path, destination, rules)
        db.execute("INSERT OR IGNORE INTO metadata VALUES ('source', ?)", (f"{OUR_SOURCE}-{secrets.token_hex(8)}",))
        (source,) = connection.one("SELECT value FROM metadata WHERE key = 'source'")
        lease = db.execute("SELECT value FROM metadata WHERE key = 'lease'").fetchone()
        lease_seconds = 0.0 if lease is None else float(lease[0])
        # Workers of that run may go on sending for as long as their leases last.
        leased_until = connection.ticks() + lease_seconds
        if lease is not None or _was_killed(connection):
            # What was in flight then is unknown, and XNAT may still be at work on it.
            db.execute("UPDATE delivery SET interrupted_at = ? WHERE state = 'OPEN'", (now + lease_seconds,))
            db.execute("UPDATE metadata SET value = ? WHERE key = 'forgotten'", (str(now + lease_seconds),))
        # From here on the time of day decides nothing: it may be corrected, or have been wrong before.
        db.execute(
            "INSERT INTO interrupted SELECT key, ? - max(0, ? - interrupted_at) FROM delivery "
            "WHERE state = 'OPEN' AND interrupted_at IS NOT NULL",
            (leased_until, now),
        )
        forgotten = db.execute("SELECT value FROM metadata WHERE key = 'forgotten'").fetchone()
        forgotten_since = -inf if forgotten is None else leased_until - max(0.0, now - float(forgotten[0]))
        key = connection.insert("INSERT INTO run (started) VALUES (?)", (connection.now(),))
        (next_key,) = connection.one(
            "SELECT 1 + max((SELECT coalesce(max(key), 0) FROM file), (SELECT coalesce(max(key), 0) FROM instance))"
        )
        if relabel:
            db.execute(f"INSERT INTO relabeled_session SELECT key FROM session s WHERE {UNARCHIVED}")  # noqa: S608 - fixed text
            # The first file of an archived session shows its labels by the new rules.
            db.execute("UPDATE session SET routed_subject = NULL, routed_label = NULL")
        db.execute(
            "INSERT INTO ready SELECT key FROM delivery WHERE state = 'SEALED' "
            "AND session NOT IN (SELECT session FROM relabeled_session)"
        )
        relabeled = frozenset(session for (session,) in db.execute("SELECT session FROM relabeled_session"))
    return CurrentRun(key, now, source, next_key, relabeled, leased_until if lease_seconds else 0.0, forgotten_since)


def end_run(connection: Connection, run: int, exit_code: int) -> None:
    """Note how the run ended. Files that it handed out without an outcome may still take effect."""
    with connection.transaction(durable=True):
        connection.db.execute(
            "UPDATE delivery SET interrupted_at = ? WHERE state = 'OPEN' "
            "AND session IN (SELECT session FROM in_flight)",
            (connection.clock(),),
        )
        connection.db.execute(
            "UPDATE run SET ended = ?, exit_code = ? WHERE key = ?", (connection.now(), exit_code, run)
        )


def tree_key(place: bytes) -> str:
    """Return how the keys of `metadata` begin that name the trees of files which machines see at a place."""
    return f"tree {hashlib.sha256(place).hexdigest()[:32]} "


def _was_killed(connection: Connection) -> bool:
    last = connection.db.execute("SELECT ended FROM run ORDER BY key DESC LIMIT 1").fetchone()
    return last is not None and last[0] is None


def _forget_unsent(connection: Connection) -> None:
    """Let the next scan decide anew about everything that XNAT holds nothing of."""
    db = connection.db
    db.execute("DELETE FROM metadata WHERE key LIKE 'rule %'")
    db.execute("DELETE FROM attachment WHERE md5 IS NULL")
    db.execute(NOTE_FORGOTTEN.format("d.uri IS NULL"))
    db.execute("DELETE FROM delivery WHERE uri IS NULL AND state <> 'ARCHIVED'")
    db.execute("DELETE FROM instance WHERE session NOT IN (SELECT session FROM delivery) AND state <> 'STORED'")
    db.execute("DELETE FROM session WHERE key NOT IN (SELECT session FROM instance)")
    # What a session in the prearchive misses may lie where this run does not look; what it meets is decided anew.
    db.execute("UPDATE file SET missing_from = NULL WHERE missing_from NOT IN (SELECT key FROM session)")
    db.execute(
        "DELETE FROM patient WHERE archived IS NULL AND NOT EXISTS (SELECT 1 FROM session s "
        "WHERE s.project = patient.project AND s.subject = patient.subject COLLATE NOCASE)"
    )
    # What XNAT holds keeps its file, whatever that holds now.
    undecided = (
        "kind IN ('INSTANCE', 'DUPLICATE', 'SKIPPED', 'EXCLUDED') AND missing_from IS NULL "
        "AND (instance IS NULL OR instance NOT IN (SELECT key FROM instance))"
    )
    db.execute(f"DELETE FROM file WHERE {undecided} AND key NOT IN (SELECT file FROM instance)")  # noqa: S608 - fixed text
    db.execute(
        f"UPDATE file SET kind = 'UNREADABLE', reason = 'not looked into yet', instance = NULL WHERE {undecided}"  # noqa: S608 - fixed text
    )
