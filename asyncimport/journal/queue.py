"""The queue of files to send: claims out, outcomes in."""

import json
import os
from collections.abc import Iterable, Sequence

from asyncimport.journal.activity import ActivityWriter
from asyncimport.journal.connection import Connection, CurrentRun
from asyncimport.journal.demand import ANY, Demand, OpenSessions, Shares
from asyncimport.journal.existing import ExistingInstances
from asyncimport.journal.files import FileRecords
from asyncimport.journal.first_files import FirstFiles
from asyncimport.journal.rows import file_of, initial_labels
from asyncimport.journal.session_state import DISPUTED, SessionState
from asyncimport.model.activity import Activity, WorkerActivity
from asyncimport.model.deliveries import Claim, Delivery, Failed, Outcome, Refused, Stored, Withheld
from asyncimport.model.files import Instance, Session

# Deliveries of one subject are archived one by one. While this many wait for their turn, sessions of others begin; at
# most the other number are looked at for one that may (7 ms).
_MAX_WAITING, _MAX_LOOK_AHEAD = 2, 10_000
_RECORD = "UPDATE instance SET run = ?1, settled_at = ?2, attempts = column2,"


class UploadQueue:
    """Hands out instances to send, and records their outcomes."""

    # A power failure loses acknowledgements of this many seconds at most.
    SYNC_SECONDS = 0.25

    def __init__(
        self,
        connection: Connection,
        run: CurrentRun,
        state: SessionState,
        existing: ExistingInstances,
        files: FileRecords,
        first_files: FirstFiles,
    ) -> None:
        self._connection = connection
        self._db = connection.db
        self._run = run.key
        self._state = state
        self._existing = existing
        self._files = files
        self._activity = ActivityWriter(connection, run)
        self._synced_at = run.began_at
        self.first_files = first_files
        self.seconds_to_late: float | None = None
        """How long after the last claim another first file is late; None if none can be."""

    def claim(
        self,
        limit: int,
        *,
        max_active: int,
        demand: Demand = ANY,
        max_backlog: int = 1_000,
        shares: Shares | None = None,
    ) -> list[Claim] | None:
        """Hand out at most `limit` instances, session by session; None when no more will ever come.

        The first instance of a delivery without a URI goes alone: its answer shows where the others go. So does one
        with `Claim.check_archive` (the answer goes to `ExistingInstances.adopt`). A new delivery begins only while
        fewer than `max_active` sessions occupy the server's prearchive, those of fewer than `max_backlog` subjects
        wait to be archived, and open ones do not meet the `demand`: they end before others begin. Files that wait for a
        late first file do not count. Subjects take turns: no session begins of one that has enough to be archived.
        `shares` says which files can be sent now. An empty list means: ask again after the next change, or after
        `seconds_to_late`.
        """
        claims: list[Claim] = []
        with self._connection.transaction():
            active = self._db.execute(
                "SELECT session FROM active_session b WHERE EXISTS (SELECT 1 FROM queued w "  # noqa: S608 - fixed text
                "WHERE w.session = b.session) AND NOT EXISTS (SELECT 1 FROM blocked WHERE blocked.session = b.session) "
                # Files that came after the seal wait for the verdict.
                "AND EXISTS (SELECT 1 FROM delivery d WHERE d.session = b.session AND d.state = 'OPEN') "
                f"AND NOT {DISPUTED.format('b.session')} ORDER BY session"
            ).fetchall()
            open_sessions = OpenSessions()
            for (session,) in active:
                left = self._count_queued(session, demand.files, shares)
                open_sessions.add(left, waits=self.first_files.is_under_way(session))
            (before,) = self._connection.one("SELECT count(*) FROM active_session")
            waiting = self._count_waiting()
            begun, max_active = before, max_active if len(waiting) < max_backlog else 0
            full = [subject for subject, deliveries in waiting.items() if deliveries >= _MAX_WAITING]
            session = -1
            while len(claims) < limit and begun < max_active:
                if open_sessions.meet(demand, self.first_files.count_in_time(), len(claims)):
                    break
                session = self._next_session(session, full)
                if session is None:
                    break
                is_new = not self._connection.exists("SELECT 1 FROM active_session WHERE session = ?", (session,))
                if is_new and self._room(session, limit, shares) and self._begin_delivery(session):
                    begun += 1
                    open_sessions.add(self._count_queued(session, demand.files, shares), waits=True)
                    self._hand_out_shares(session, limit - len(claims), claims, shares)
            for (session,) in active:
                if len(claims) < limit:
                    self._hand_out_shares(session, limit - len(claims), claims, shares)
            (left,) = self._connection.one(
                "SELECT EXISTS (SELECT 1 FROM queued) OR EXISTS (SELECT 1 FROM in_flight) "
                # Finalising may show that files have to be sent again.
                "OR EXISTS (SELECT 1 FROM ready) OR EXISTS (SELECT 1 FROM busy_subject)"
            )
            self.seconds_to_late = self.first_files.seconds_to_next_late()
        if begun > before:
            # The next run must know that something may be in flight into the new delivery.
            self._connection.sync()
        return claims if claims or left or not self._state.scan_finished else None

    def record_outcomes(self, outcomes: Sequence[Outcome], activity: Activity | None = None) -> int:
        """Record outcomes, synced every `SYNC_SECONDS`; return how many sessions became ready to be finalised.

        `activity` is what was done since the last call.
        """
        now = self._connection.clock()
        # If the clock was set back, the time of the last sync is unknown.
        due = not 0 <= now - self._synced_at < self.SYNC_SECONDS
        with self._connection.transaction(durable=due):
            stored, others = [], []
            for outcome in outcomes:
                claim, delivery = outcome.claim, outcome.claim.delivery
                if outcome.may_have_taken_effect:
                    self._note_interruption([delivery.key])
                if claim.check_archive or delivery.uri is None:
                    self._end_first_file(outcome)
                if isinstance(outcome, Stored):
                    digests = outcome.sha256, outcome.xxh3
                    stored.append((claim.key, outcome.attempts, delivery.key, *digests, outcome.zip_size))
                elif isinstance(outcome, Withheld):
                    self._withhold(outcome)
                else:
                    state, kind = ("REFUSED", outcome.kind) if isinstance(outcome, Refused) else ("FAILED", None)
                    others.append((claim.key, outcome.attempts, state, outcome.reason, kind))
            self._connection.execute_rows(
                f"{_RECORD} state = 'STORED', reason = NULL, delivery = column3, sha256 = column4, xxh3 = column5, "
                "zip_size = column6 FROM {rows} WHERE key = column1",
                stored,
                (self._run, now),
            )
            self._connection.execute_rows(
                f"{_RECORD} state = column3, reason = column4, refusal = column5, "
                "delivery = NULL, sha256 = NULL, xxh3 = NULL, zip_size = NULL FROM {rows} WHERE key = column1",
                others,
                (self._run, now),
            )
            for outcome in outcomes if others else ():
                if isinstance(outcome, Refused) and outcome.whole_session:
                    self._db.execute(
                        "INSERT OR IGNORE INTO blocked SELECT session, ?, ? FROM delivery WHERE key = ?",
                        (outcome.reason, outcome.second_row, outcome.claim.delivery.key),
                    )
                if isinstance(outcome, Failed) and outcome.unreadable:
                    self._use_copy(outcome.claim.key, outcome.reason)
            ready = self._end_sessions({outcome.claim.delivery.key for outcome in outcomes})
            if activity is not None:
                self._activity.add(activity)
        if due:
            self._synced_at = now
        return ready

    def _end_first_file(self, outcome: Outcome) -> None:
        """Note that the first file of a delivery has ended, and the row that it names."""
        delivery = outcome.claim.delivery
        (session,) = self._connection.one("SELECT session FROM delivery WHERE key = ?", (delivery.key,))
        self.first_files.end(session, is_stored=isinstance(outcome, Stored))
        if isinstance(outcome, Stored) and delivery.uri is None:
            self._db.execute(
                "UPDATE delivery SET uri = ?, merges = ? WHERE key = ?", (outcome.uri, outcome.merges, delivery.key)
            )

    def give_back(self, claims: Sequence[Claim], *, were_sent: bool) -> int:
        """Queue files again that were handed out; return how many sessions became ready to be finalised.

        If they `were_sent`, nobody knows whether they arrived or still will: their deliveries wait for the settle time.
        """
        keys, deliveries = [claim.key for claim in claims], {claim.delivery.key for claim in claims}
        with self._connection.transaction(durable=were_sent):
            lent = "FROM in_flight WHERE instance IN (SELECT value FROM json_each(?))"
            left = (json.dumps(keys),)
            if were_sent:
                self._note_interruption(deliveries)
            self._db.execute(f"INSERT OR IGNORE INTO queued SELECT session, instance {lent}", left)
            self._db.execute(f"DELETE {lent}", left)
            return self._end_sessions(deliveries)

    def note_worker(self, worker: WorkerActivity) -> None:
        """Note what a worker of this run has done by now, for `status` and reports."""
        self._activity.note_worker(worker)

    def note_leases(self, seconds: float) -> None:
        """Note, on disk, that others may send for this long after they last heard of this run."""
        with self._connection.transaction(durable=True):
            self._db.execute("INSERT OR REPLACE INTO metadata VALUES ('lease', ?)", (str(seconds),))

    def forget_leases(self) -> None:
        """Note that nobody else can send any more."""
        with self._connection.transaction():
            self._db.execute("DELETE FROM metadata WHERE key = 'lease'")

    def _note_interruption(self, deliveries: Iterable[int]) -> None:
        now, ticks = self._connection.clock(), self._connection.ticks()
        for delivery in deliveries:
            self._db.execute("UPDATE delivery SET interrupted_at = ? WHERE key = ?", (now, delivery))
            self._db.execute("INSERT OR REPLACE INTO interrupted VALUES (?, ?)", (delivery, ticks))

    def _count_waiting(self) -> dict[str, int]:
        """Return the subjects whose sessions are being archived or could be now, and how many deliveries wait."""
        return dict(
            self._db.execute(
                "SELECT subject, sum(waits) FROM (SELECT subject, 0 AS waits FROM busy_subject UNION ALL "
                "SELECT s.subject, 1 FROM ready CROSS JOIN delivery d ON d.key = ready.delivery "
                "JOIN session s ON s.key = d.session "
                "WHERE NOT EXISTS (SELECT 1 FROM interrupted u WHERE u.delivery = d.key)) "
                "GROUP BY subject COLLATE NOCASE"
            )
        )

    def _next_session(self, after: int | None, full: list[str]) -> int | None:
        """Return the next session with queued files whose subject is not one of these; None if none is near."""
        if not full:
            (session,) = self._connection.one("SELECT min(session) FROM queued WHERE session > ?", (after,))
            return None if session is None else int(session)
        row = self._db.execute(
            "WITH RECURSIVE next (session) AS (SELECT (SELECT min(session) FROM queued WHERE session > ?) "
            "UNION ALL SELECT (SELECT min(session) FROM queued WHERE session > next.session) FROM next "
            "WHERE session IS NOT NULL LIMIT ?) SELECT session FROM next CROSS JOIN session s ON s.key = next.session "
            "WHERE s.subject COLLATE NOCASE NOT IN (SELECT value FROM json_each(?)) LIMIT 1",
            (after, _MAX_LOOK_AHEAD, json.dumps(full)),
        ).fetchone()
        return None if row is None else int(row[0])

    def _end_sessions(self, deliveries: Iterable[int]) -> int:
        """Mark sessions as ready that have nothing left to send; return how many."""
        ready = 0
        for session, blocked in self._blocked_or_finished(deliveries):
            if blocked is not None:
                ready += self._end_blocked(session, blocked)
            if self._state.scan_finished or session in self._state.complete:
                ready += self._state.mark_ready_if_complete(session, ["OPEN"])
        return ready

    def _withhold(self, outcome: Withheld) -> None:
        self._db.execute("DELETE FROM in_flight WHERE instance = ?", (outcome.claim.key,))
        self._db.execute(
            "INSERT OR IGNORE INTO blocked (session, reason) SELECT session, ? FROM delivery WHERE key = ?",
            (outcome.reason, outcome.claim.delivery.key),
        )

    def _end_blocked(self, session: int, reason: str) -> bool:
        """Empty the queue of a blocked session; with nothing in flight, free its place or (True) look up its row."""
        self._db.execute("DELETE FROM queued WHERE session = ?", (session,))
        if self._connection.exists("SELECT 1 FROM in_flight WHERE session = ?", (session,)):
            return False
        self._db.execute("UPDATE delivery SET reason = ? WHERE session = ? AND state = 'OPEN'", (reason, session))
        is_ready = self._db.execute(
            "INSERT OR IGNORE INTO ready SELECT d.key FROM delivery d JOIN blocked b ON b.session = d.session "
            "WHERE d.session = ? AND d.state = 'OPEN' AND d.uri IS NOT NULL AND b.second_row",
            (session,),
        ).rowcount
        if not is_ready:
            self._db.execute("DELETE FROM active_session WHERE session = ?", (session,))
        return bool(is_ready)

    def _blocked_or_finished(self, deliveries: Iterable[int]) -> list[tuple[int, str | None]]:
        """Return the sessions of deliveries that are blocked, with the reason, or have nothing left to send."""
        return self._db.execute(
            "SELECT d.session, b.reason FROM delivery d LEFT JOIN blocked b ON b.session = d.session WHERE d.key IN "
            "(SELECT value FROM json_each(?)) AND (b.session IS NOT NULL OR NOT EXISTS (SELECT 1 FROM queued w "
            "WHERE w.session = d.session) AND NOT EXISTS (SELECT 1 FROM in_flight f WHERE f.session = d.session))",
            (json.dumps([*deliveries]),),
        ).fetchall()

    def _use_copy(self, instance: int, reason: str) -> None:
        """Send another copy of an instance whose file is unreadable, now or when the scan meets one."""
        (session,) = self._connection.one("SELECT session FROM instance WHERE key = ?", (instance,))
        if not self._files.use_duplicate(instance, session, reason):
            self._db.execute("INSERT OR IGNORE INTO unreadable VALUES (?)", (instance,))

    def _begin_delivery(self, session: int) -> bool:
        """Give a session an open delivery if it may have one now; whether it occupies the prearchive from now on."""
        row = self._db.execute(
            "SELECT number, state FROM delivery WHERE session = ? ORDER BY number DESC LIMIT 1", (session,)
        ).fetchone()
        disputed = self._state.is_disputed(session)
        if disputed and not self._state.scan_finished:
            # The other patient's file may be gone: the scan has yet to show that.
            return False
        if disputed or (row is not None and row[1] in {"SEALED", "HELD"}) or self._state.is_blocked(session):
            self._db.execute("DELETE FROM queued WHERE session = ?", (session,))
            return False
        if self._db.execute("DELETE FROM awaiting_scan WHERE session = ?", (session,)).rowcount:
            self._state.enqueue_pending(session)
        problem = self._existing.merge_problem(session)
        if problem and not self._state.scan_finished:
            # Files that the scan has yet to meet may give the session the right type.
            self._db.execute("INSERT INTO awaiting_scan VALUES (?)", (session,))
            self._db.execute("DELETE FROM queued WHERE session = ?", (session,))
            return False
        if row is None or row[1] != "OPEN":
            number = 1 if row is None else row[0] + 1
            key = self._connection.insert("INSERT INTO delivery (session, number) VALUES (?, ?)", (session, number))
            if number > 1:
                self._inherit_interruption(session, number, key)
        else:
            self._db.execute("UPDATE delivery SET reason = NULL WHERE session = ? AND state = 'OPEN'", (session,))
        if problem:
            self._db.execute("INSERT INTO blocked (session, reason) VALUES (?, ?)", (session, problem))
            self._end_blocked(session, problem)
            return False
        self._db.execute("INSERT INTO active_session VALUES (?)", (session,))
        self.first_files.end(session, is_stored=False)
        return True

    def _inherit_interruption(self, session: int, number: int, key: int) -> None:
        """Note that an interrupted attempt into the previous row may take effect in this one."""
        self._db.execute(
            "UPDATE delivery SET interrupted_at = "
            "(SELECT interrupted_at FROM delivery WHERE session = ? AND number = ?) WHERE key = ?",
            (session, number - 1, key),
        )
        self._db.execute(
            "INSERT INTO interrupted SELECT ?, u.since FROM interrupted u JOIN delivery d ON d.key = u.delivery "
            "WHERE d.session = ? AND d.number = ?",
            (key, session, number - 1),
        )

    def _room(self, session: int, limit: int, shares: Shares | None) -> int:
        """Return how many files of a session can be sent now, `limit` at most."""
        if shares is None:
            return limit
        (path,) = self._connection.one(
            "SELECT f.path FROM queued w JOIN instance i ON i.key = w.instance JOIN file f ON f.key = i.file "
            "WHERE w.session = ? ORDER BY w.instance LIMIT 1",
            (session,),
        )
        return min(limit, shares.room(os.fsdecode(path)))

    def _count_queued(self, session: int, limit: int, shares: Shares | None) -> int:
        """Return how many queued files of a session can be sent now or after its first one, `limit` at most.

        None can while its first file is late.
        """
        room = 0 if self.first_files.is_late(session) else self._room(session, max(1, limit), shares)
        if not room:
            return 0
        query = "SELECT count(*) FROM (SELECT 1 FROM queued WHERE session = ? LIMIT ?)"
        return int(self._connection.one(query, (session, room))[0])

    def _hand_out_shares(self, session: int, limit: int, claims: list[Claim], shares: Shares | None) -> None:
        before = len(claims)
        if room := self._room(session, limit, shares):
            self._hand_out(session, room, claims)
        if shares is not None:
            shares.take(claims[before:])

    def _hand_out(self, session: int, room: int, claims: list[Claim]) -> None:
        row = self._db.execute(
            "SELECT d.key, d.number, d.uri, s.project, s.subject, s.label, s.study_uid, "
            "s.study_date, s.initial_subject, s.initial_label "
            "FROM delivery d JOIN session s ON s.key = d.session WHERE d.session = ? AND d.state = 'OPEN'",
            (session,),
        ).fetchone()
        if row is None:
            return
        key, number, uri, project, subject, label, study_uid, study_date, *initial = row
        look = self._existing.needs_archive_check(session, uri)
        if uri is None or look:
            if self._connection.exists("SELECT 1 FROM in_flight WHERE session = ?", (session,)):
                return
            room = 1
            self.first_files.begin(session)
        else:
            self.first_files.end(session, is_stored=False)
        where = Session(project, subject, label, study_uid)
        delivery = Delivery(key, where, number, uri, initial_labels(where, *initial))
        rows = self._connection.json_rows(
            "SELECT json_array(i.key, i.sop_uid, i.series_uid, i.modality, hex(f.path), f.size, f.mtime_ns, f.inode, "
            "f.ctime_ns) FROM queued w JOIN instance i ON i.key = w.instance JOIN file f ON f.key = i.file "
            "WHERE w.session = ? ORDER BY w.instance LIMIT ?",
            (session, room),
        )
        for instance_key, sop_uid, series_uid, modality, path, *columns in rows:
            file = file_of(bytes.fromhex(path), columns)
            instance = Instance(file, sop_uid, series_uid, where, modality=modality, study_date=study_date or "")
            claims.append(Claim(instance_key, instance, delivery, look))
        handed_out = session, rows[-1][0] if rows else -1
        self._db.execute(
            "INSERT INTO in_flight SELECT session, instance FROM queued WHERE session = ? AND instance <= ?", handed_out
        )
        self._db.execute("DELETE FROM queued WHERE session = ? AND instance <= ?", handed_out)
