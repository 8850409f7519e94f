"""Which instances of a session are queued, and whether it is blocked or ready to be finalised."""

from collections.abc import Sequence

from asyncimport.journal.connection import Connection, CurrentRun

# Failed files of the session, refused files that no rule of the site drops, and files without a sound copy that are
# unreadable or were not asked for.
_COUNT_MISSING = (
    "SELECT count(*) FILTER (WHERE state = 'FAILED'), "
    "count(*) FILTER (WHERE state = 'REFUSED' AND refusal IS NOT 'DROPPED'), (SELECT count(*) "
    "FROM file f WHERE f.missing_from = :session AND f.kind IN ('UNREADABLE', 'EXCLUDED') AND NOT EXISTS (SELECT 1 "
    "FROM instance i WHERE i.session = :session AND i.sop_uid = f.missing_uid)) FROM instance WHERE session = :session"
)
# Whether the study of a session has a file of another patient, or one that would go to another session. Then the run
# sends nothing more of it, and does not archive it.
DISPUTED = "EXISTS (SELECT 1 FROM file WHERE missing_from = {} AND kind = 'SKIPPED')"


def is_sent_again(state: str, refusal: str | None, *, retry_refused: bool) -> bool:
    """Whether a run sends an instance again that an earlier one did not get stored."""
    return state == "FAILED" or (state == "REFUSED" and (retry_refused or refusal == "SERVER"))


class SessionState:
    """The state of each session that scan, upload and finalising of one run share.

    This run sends and finalises nothing of `postponed` sessions, for a reason each, and asks for no `unasked` one.
    The scan has left the directories of `complete` sessions. `partial` finalises sessions that lack files. `undecided`
    sessions wait for labels by changed rules.
    """

    def __init__(self, connection: Connection, run: CurrentRun) -> None:
        self._connection = connection
        self._db = connection.db
        self.postponed: dict[int, str] = {}
        self.unasked: set[int] = set()
        self.complete: set[int] = set()
        self.undecided = set(run.relabeled)
        self.scan_finished = False
        self.partial = False

    def enqueue(self, instances: Sequence[tuple[int, int]]) -> None:
        """Queue instances to be sent, by the keys of their sessions and their own."""
        if self.postponed:
            instances = [one for one in instances if one[0] not in self.postponed]
        # A file that overlapping sources give twice may be in flight already.
        self._connection.execute_rows(
            "INSERT OR IGNORE INTO queued SELECT column1, column2 FROM {rows} WHERE NOT EXISTS "
            "(SELECT 1 FROM in_flight WHERE session = column1 AND instance = column2)",
            instances,
        )

    def enqueue_pending(self, session: int) -> None:
        """Queue every instance of a session that this run met and that has no outcome."""
        self.enqueue(
            self._db.execute(
                "SELECT i.session, i.key FROM instance i JOIN scope ON scope.file = i.file "
                "WHERE i.session = ? AND i.state = 'PENDING'",
                (session,),
            ).fetchall()
        )

    def is_blocked(self, session: int) -> bool:
        """Whether this run sends nothing more of a session, as XNAT would not take or archive it."""
        return self._connection.exists("SELECT 1 FROM blocked WHERE session = ?", (session,))

    def is_disputed(self, session: int) -> bool:
        """Whether a file gives the study of a session to another patient, or to another session."""
        return self._connection.one(f"SELECT {DISPUTED.format('?')}", (session,)) == (1,)

    def count_missing(self, session: int) -> tuple[int, int, int]:
        """Count the files of a session that failed, that were refused, and that are not sent and have no copy."""
        failed, refused, unsent = self._connection.one(_COUNT_MISSING, {"session": session})
        return failed, refused, unsent

    def mark_ready_if_complete(self, session: int, delivery_states: Sequence[str]) -> bool:
        """Make a session ready to be finalised if nothing of it is left to send; whether it is ready now."""
        row = self._db.execute(
            "SELECT key, state, uri FROM delivery WHERE session = ? ORDER BY number DESC LIMIT 1", (session,)
        ).fetchone()
        if row is None:
            # Nothing of it has been sent yet.
            return False
        if self.is_blocked(session) or session in self.postponed or session in self.undecided:
            return False
        key, state, uri = row
        disputed = self.is_disputed(session)
        if state == "HELD" and state in delivery_states and not disputed:
            if uri is not None:
                # Queued files go into the next delivery, after this one.
                self._db.execute("DELETE FROM queued WHERE session = ?", (session,))
                self._db.execute("INSERT OR IGNORE INTO ready VALUES (?)", (key,))
                return True
            # XNAT has nothing of it: it begins anew.
            self._db.execute("DELETE FROM delivery WHERE key = ?", (key,))
            self.enqueue_pending(session)
        busy = "SELECT 1 FROM queued WHERE session = ?1 UNION ALL SELECT 1 FROM in_flight WHERE session = ?1"
        if self._connection.exists(busy, (session,)):
            return False
        pending = self._connection.exists("SELECT 1 FROM instance WHERE session = ? AND state = 'PENDING'", (session,))
        is_incomplete = pending or disputed or (any(self.count_missing(session)) and not self.partial)
        if state in delivery_states and state != "HELD" and uri is not None and not is_incomplete:
            self._db.execute("UPDATE delivery SET reason = NULL WHERE key = ?", (key,))
            self._db.execute("INSERT OR IGNORE INTO ready VALUES (?)", (key,))
            return True
        # It stays open for the next run, and must not keep others from starting.
        self._db.execute("DELETE FROM active_session WHERE session = ?", (session,))
        return False
