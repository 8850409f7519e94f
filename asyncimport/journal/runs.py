"""The begin and the end of a run in the journal."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from asyncimport.journal.connection import Connection
from asyncimport.journal.database import bind
from asyncimport.model.addresses import OUR_SOURCE

UNARCHIVED = (
    "EXISTS (SELECT 1 FROM delivery WHERE session = s.key AND uri IS NOT NULL AND state <> 'DELETED') AND NOT EXISTS "
    "(SELECT 1 FROM delivery o WHERE o.session = s.key AND (o.state = 'ARCHIVED' OR o.archive_uri IS NOT NULL))"
)
"""Whether XNAT has a session `s` in the prearchive and not in the archive."""


@dataclass(frozen=True, slots=True)
class CurrentRun:
    """The run that holds the journal.

    `began_at` is in seconds since 1970. `source` is the source of prearchive rows of this journal, and no others.
    `next_key` is the first key that no file and no instance has. `relabeled` are sessions in the prearchive that wait
    for labels by changed rules.
    """

    key: int
    began_at: float
    source: str
    next_key: int
    relabeled: frozenset[int]


def begin_run(connection: Connection, *, destination: str, rules: Mapping[str, str], relabel: bool) -> CurrentRun:
    """Compare destination and rules with the journal's, and note that a run begins.

    `relabel` applies other rules to what is not archived. Raises: JournalError, UsageError for other rules.
    """
    db, now = connection.db, connection.clock()
    with connection.transaction(durable=True):
        if relabel:
            _forget_unsent(connection)
        bind(db, connection.path, destination, rules)
        db.execute("INSERT OR IGNORE INTO metadata VALUES ('source', ?)", (f"{OUR_SOURCE}-{secrets.token_hex(8)}",))
        (source,) = connection.one("SELECT value FROM metadata WHERE key = 'source'")
        if _was_killed(connection):
            # What was in flight then is unknown, and XNAT may still be at work on it.
            db.execute("UPDATE delivery SET interrupted_at = ? WHERE state = 'OPEN'", (now,))
        # From here on the time of day decides nothing: it may be corrected, or have been wrong before.
        db.execute(
            "INSERT INTO interrupted SELECT key, ? - max(0, ? - interrupted_at) FROM delivery "
            "WHERE state = 'OPEN' AND interrupted_at IS NOT NULL",
            (connection.ticks(), now),
        )
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
    return CurrentRun(key, now, source, next_key, relabeled)


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


def _was_killed(connection: Connection) -> bool:
    """Whether the run before this one has no end."""
    last = connection.db.execute("SELECT ended FROM run ORDER BY key DESC LIMIT 1").fetchone()
    return last is not None and last[0] is None


def _forget_unsent(connection: Connection) -> None:
    """Let the next scan decide anew about everything that XNAT holds nothing of."""
    db = connection.db
    db.execute("DELETE FROM metadata WHERE key LIKE 'rule %'")
    db.execute("DELETE FROM attachment WHERE md5 IS NULL")
    db.execute("DELETE FROM delivery WHERE uri IS NULL AND state <> 'ARCHIVED'")
    db.execute("DELETE FROM instance WHERE session NOT IN (SELECT session FROM delivery) AND state <> 'STORED'")
    db.execute("DELETE FROM session WHERE key NOT IN (SELECT session FROM instance)")
    db.execute("UPDATE file SET missing_from = NULL")
    db.execute(
        "DELETE FROM patient WHERE archived IS NULL AND NOT EXISTS (SELECT 1 FROM session s "
        "WHERE s.project = patient.project AND s.subject = patient.subject COLLATE NOCASE)"
    )
    # What XNAT holds keeps its file, whatever that holds now.
    undecided = (
        "kind IN ('INSTANCE', 'DUPLICATE', 'SKIPPED', 'EXCLUDED') "
        "AND (instance IS NULL OR instance NOT IN (SELECT key FROM instance))"
    )
    db.execute(f"DELETE FROM file WHERE {undecided} AND key NOT IN (SELECT file FROM instance)")  # noqa: S608 - fixed text
    db.execute(
        f"UPDATE file SET kind = 'UNREADABLE', reason = 'not looked into yet', instance = NULL WHERE {undecided}"  # noqa: S608 - fixed text
    )
