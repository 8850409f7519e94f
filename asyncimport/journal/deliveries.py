"""The queue of sessions to finalise: sealed deliveries out, verdicts in."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from asyncimport.journal.connection import Connection, CurrentRun
from asyncimport.journal.rows import digests_of, file_of, initial_labels
from asyncimport.journal.session_state import SessionState
from asyncimport.model.deliveries import (
    MAY_HAVE_REJECTED,
    Archived,
    Built,
    Deleted,
    Delivery,
    Held,
    Incomplete,
    Postponed,
    SealedDelivery,
    Verdict,
)
from asyncimport.model.files import File, Session
from asyncimport.model.states import Refusal

_SEND_AGAIN = "`asyncimport verify --repair` sends them again"
_TOUCH = "touch the files that were rewritten, and send them with `--resend-changed --retry held`"


class DeliveryQueue:
    """Seals deliveries for finalising, and records their verdicts."""

    def __init__(self, connection: Connection, run: CurrentRun, state: SessionState) -> None:
        self._connection = connection
        self._db = connection.db
        self._run = run.key
        self._forgotten_since = run.forgotten_since
        self._state = state

    def claim(self, *, settle_seconds: float = 0.0) -> SealedDelivery | float | None:
        """Seal a delivery, on disk, before anyone calls XNAT about it.

        Return None if none is ready, or the seconds until one is: after an interrupted upload a delivery is not sealed
        for `settle_seconds`, as that may still take effect; where an interrupted one was forgotten, none is. A delivery
        of which XNAT has made a second row is returned without a seal.

        Deliveries of one subject go one at a time: XNAT's archive step locks the subject's label, and a second one
        sleeps ten seconds before it tries again (PrearcSessionArchiver).
        """
        with self._connection.transaction(durable=True):
            row = self._next_ready(settle_seconds)
            if row is None or isinstance(row, float):
                return row
            key, number, uri, state, session, project, subject, label, study_uid, *rest = row
            expected, archived_before, *initial, is_open = rest
            self._db.execute("INSERT INTO busy_subject VALUES (?)", (subject,))
            if state != "ARCHIVED" and not is_open:
                self._db.execute(
                    "UPDATE delivery SET state = 'SEALED', partial = ? WHERE key = ?",
                    (any(self._state.count_missing(session)), key),
                )
            where = Session(project, subject, label, study_uid)
            delivery = Delivery(key, where, number, uri, initial_labels(where, *initial))
            sealed = self._describe(delivery, session, is_archived=state == "ARCHIVED", is_open=is_open)
        before = None if archived_before is None else _uids(archived_before)
        return replace(sealed, expected_count=expected, archived_before=before)

    def _next_ready(self, settle_seconds: float) -> tuple[Any, ...] | float | None:
        """Take the next ready delivery; return its row, or as `claim` does if there is none."""
        while True:
            row = self._db.execute(
                "SELECT d.key, d.number, d.uri, d.state, s.key, s.project, s.subject, s.label, s.study_uid, "
                "d.expected, d.archived_before, s.initial_subject, s.initial_label, d.state = 'OPEN' AND "
                "EXISTS (SELECT 1 FROM blocked WHERE blocked.session = s.key AND blocked.second_row), "
                "iif(d.state = 'OPEN', max(0, max(coalesce(u.since, ?1), ?1) + ?2), 0) AS wait "
                # CROSS makes SQLite start from the few ready deliveries.
                "FROM ready CROSS JOIN delivery d ON d.key = ready.delivery JOIN session s ON s.key = d.session "
                "LEFT JOIN interrupted u ON u.delivery = d.key WHERE NOT EXISTS (SELECT 1 "
                "FROM busy_subject WHERE busy_subject.subject = s.subject) ORDER BY wait, ready.delivery LIMIT 1",
                (self._forgotten_since, settle_seconds - self._connection.ticks()),
            ).fetchone()
            if row is None:
                return None
            *found, wait = row
            key, _, _, state, session, *_, is_open = found
            if wait:
                return float(wait)
            # The scan may have met more of it since it was ready: two directories can have one label.
            is_ready = state != "OPEN" or is_open or self._state.mark_ready_if_complete(session, ["OPEN"])
            self._db.execute("DELETE FROM ready WHERE delivery = ?", (key,))
            if is_ready:
                return tuple(found)

    def _describe(self, delivery: Delivery, session: int, *, is_archived: bool, is_open: bool) -> SealedDelivery:
        """Return what is known of the instances of a delivery and of its session."""
        # One look at all instances: of a large session each takes milliseconds.
        acknowledged, max_row_files, stored, refused, presumed, resent = self._connection.one(
            "SELECT count(*) FILTER (WHERE d.uri = ?2), count(*) FILTER (WHERE d.uri = ?2 "
            # A row that was built and left takes later files. It may have a part of a failed instance.
            "OR i.state = 'FAILED' OR (i.state = 'REFUSED' AND i.refusal IS NOT 'DROPPED')), "
            "json_group_array(i.sop_uid) FILTER (WHERE i.state = 'STORED'), "
            # Instances refused because of the second row may be accepted later.
            "json_group_array(i.sop_uid) FILTER (WHERE i.state = 'REFUSED' AND NOT ?4), "
            "json_group_array(i.sop_uid) FILTER (WHERE i.state = 'STORED' AND i.presumed), "
            "json_group_array(i.sop_uid) FILTER (WHERE i.state = 'STORED' AND i.presumed AND i.delivery = ?3) "
            "FROM instance i LEFT JOIN delivery d ON d.key = i.delivery WHERE i.session = ?1",
            (session, delivery.uri, delivery.key, is_open),
        )
        return SealedDelivery(
            delivery,
            _uids(stored),
            is_archived=is_archived,
            is_open=is_open,
            presumed=_uids(presumed),
            resent=_uids(resent),
            refused=_uids(refused),
            acknowledged=acknowledged,
            max_row_files=max_row_files,
        )

    def record_archived_before(self, sealed: SealedDelivery, before: frozenset[str]) -> SealedDelivery:
        """Record the UIDs archived before a sealed delivery. Call it before XNAT is called: later nobody can know."""
        delivery = sealed.delivery.key
        with self._connection.transaction(durable=True):
            self._db.execute(
                "UPDATE delivery SET archived_before = ?3, expected = ?1 + (SELECT count(*) FROM instance "
                # An instance that is sent again replaces the one that is there.
                "WHERE delivery = ?2 AND state = 'STORED' AND presumed IS NULL) WHERE key = ?2",
                (len(before), delivery, json.dumps(sorted(before))),
            )
            (expected,) = self._connection.one("SELECT expected FROM delivery WHERE key = ?", (delivery,))
        return replace(sealed, expected_count=expected, archived_before=before)

    def record_verdict(self, verdict: Verdict) -> Verdict:
        """Record how a delivery ended, and release its subject and its place among the active sessions.

        Later files go into the next delivery, unless this one is held. Instances that the archive lacks are sent again
        in the next delivery, once in a run; then the delivery is held. Instances that a script dropped there, or may
        have dropped, become refused. All instances of a deleted delivery are sent again. An open delivery ends if
        somebody else has archived or deleted it, and stays open otherwise. A delivery that was archived before stays
        so, whatever is found; if another has begun since, only that one's verdict counts. Return the verdict that was
        recorded.
        """
        with self._connection.transaction(durable=True):
            delivery = verdict.delivery
            session, was, is_last = self._connection.one(
                "SELECT session, state, number = (SELECT max(number) FROM delivery o WHERE o.session = d.session) "
                "FROM delivery d WHERE key = ?",
                (delivery.key,),
            )
            self._db.execute("DELETE FROM busy_subject WHERE subject = ?", (delivery.session.subject,))
            # The scan may have ended meanwhile, and made all that is sealed ready.
            self._db.execute("DELETE FROM ready WHERE delivery = ?", (delivery.key,))
            if not is_last:
                return verdict
            self._db.execute("DELETE FROM active_session WHERE session = ?", (session,))
            if isinstance(verdict, Postponed):
                # The next run finalises it.
                if was == "SEALED":
                    self._db.execute("UPDATE delivery SET reason = ? WHERE key = ?", (verdict.reason, delivery.key))
                return verdict
            if isinstance(verdict, Archived | Incomplete) and verdict.origin_unknown:
                self._db.execute(
                    "UPDATE instance SET presumed = 1 WHERE delivery = ? AND state = 'STORED'", (delivery.key,)
                )
            recorded = self._end(session, was, verdict)
            if not isinstance(recorded, Held):
                if was == "OPEN":
                    self._reopen(session)
                self._state.enqueue_pending(session)
        return recorded

    def _end(self, session: int, was: str, verdict: Verdict) -> Verdict:
        """End a delivery that `was` in a state, by its verdict; return what is recorded in place of that."""
        delivery = verdict.delivery
        if isinstance(verdict, Deleted) and not self._is_first_repair(session):
            verdict = Held(delivery, "somebody has deleted it from the prearchive, and once more in the same run")
        match verdict:
            case Deleted():
                self._close(delivery, "DELETED", reason="somebody has deleted it from the prearchive")
                stored = self._uids_of(delivery)
                self._reset_stored(session, stored, "PENDING", None, is_missing=False)
                return Deleted(delivery, len(stored))
            case Incomplete():
                return self._end_incomplete(session, was, verdict)
            case Archived():
                return self._end_archived(session, verdict)
            case Held() if was == "OPEN":
                self._db.execute("UPDATE delivery SET reason = ? WHERE key = ?", (verdict.reason, delivery.key))
                self._db.execute("UPDATE blocked SET second_row = 0 WHERE session = ?", (session,))
            case Held():
                return self._hold(session, was, verdict)
            case Built():
                self._close(delivery, "BUILT")
        return verdict

    def _end_incomplete(self, session: int, was: str, verdict: Incomplete) -> Verdict:
        """Refuse what a script dropped, and queue what is lost; hold the session if that must not be sent again."""
        delivery = verdict.delivery
        if not (verdict.lost or verdict.resent):
            verified = "present" if verdict.origin_unknown else "uids"
            self._close(delivery, "ARCHIVED", uri=verdict.uri, verified=verified)
            self._refuse_dropped(session, verdict)
            return Archived(delivery, verdict.uri, verified)
        if not self._may_repair(session, verdict.lost):
            reason = f"{_lost_text(verdict)}; {_SEND_AGAIN if verdict.lost else _TOUCH}"
            return self._hold(session, was, Held(delivery, reason, verdict.uri))
        lost = f"{_lost_text(verdict, lacks='lacked')}, which are to be sent again"
        self._close(delivery, "ARCHIVED", uri=verdict.uri, reason=lost)
        self._refuse_dropped(session, verdict)
        self._reset_stored(session, verdict.lost, "PENDING", None)
        self._reset_stored(session, verdict.resent, "PENDING", None, is_missing=False)
        return verdict

    def _end_archived(self, session: int, verdict: Archived) -> Archived:
        """Note what the archive has; "uids" becomes "present" if instances of earlier deliveries were replaced."""
        delivery = verdict.delivery
        if verdict.holds is not None:
            self._db.execute(
                "UPDATE delivery SET expected = ?, archived_before = NULL WHERE key = ?", (verdict.holds, delivery.key)
            )
        if verdict.has_replaced:
            self._db.execute("UPDATE instance SET presumed = NULL WHERE delivery = ?", (delivery.key,))
        self._db.executemany(
            "UPDATE instance SET presumed = 1 WHERE session = ? AND sop_uid = ? AND state <> 'STORED'",
            [(session, uid) for uid in verdict.unacknowledged],
        )
        replaced = self._record_digests(session, verdict)
        if replaced and verdict.verified == "uids":
            verdict = replace(verdict, verified="present")
        reason = replaced_since(replaced) if replaced else ""
        self._close(delivery, "ARCHIVED", uri=verdict.uri, verified=verdict.verified, reason=reason)
        return verdict

    def _hold(self, session: int, was: str, verdict: Held) -> Held:
        """Hold a session. One that was archived before stays so, at its address."""
        delivery = verdict.delivery
        if was == "ARCHIVED" and verdict.uri is None:
            (uri,) = self._connection.one("SELECT archive_uri FROM delivery WHERE key = ?", (delivery.key,))
            verdict = replace(verdict, uri=uri)
        state = "ARCHIVED" if was == "ARCHIVED" else "HELD"
        self._close(delivery, state, uri=verdict.uri, reason=verdict.reason)
        self._db.execute("INSERT OR IGNORE INTO blocked (session, reason) VALUES (?, ?)", (session, verdict.reason))
        return verdict

    def _record_digests(self, session: int, verdict: Archived) -> int:
        """Record XNAT's digests; return how many instances of earlier deliveries they show to be replaced."""
        if not verdict.digests:
            return 0
        delivery, digests = verdict.delivery.key, verdict.digests
        before = digests_of(self._db, session)
        other = [uid for uid, digest in before.items() if digests.get(uid, digest) != digest]
        replaced = self._db.executemany(
            "UPDATE instance SET presumed = 1 WHERE session = ? AND sop_uid = ? AND state = 'STORED' AND delivery <> ?",
            [(session, uid, delivery) for uid in other],
        ).rowcount
        # One text: a row for each instance would add a hundredth to the time of its upload.
        self._db.execute("UPDATE delivery SET digests = NULL WHERE session = ?", (session,))
        self._db.execute("UPDATE delivery SET digests = ? WHERE key = ?", (json.dumps(dict(digests)), delivery))
        return max(replaced, 0)

    def repair(self, session: Session, missing: Iterable[str]) -> int:
        """Mark instances that the archive lacks, for a scan to queue; return how many of the session are to be sent."""
        with self._connection.transaction(durable=True):
            row = self._db.execute(
                "SELECT d.key, d.session, d.state, d.archive_uri FROM session s JOIN delivery d ON d.session = s.key "
                "WHERE s.project = ? AND s.study_uid = ? ORDER BY d.number DESC LIMIT 1",
                (session.project, session.study_uid),
            ).fetchone()
            # What is held in the prearchive may still be archived.
            if row is None or row[2] not in {"ARCHIVED", "HELD"} or row[3] is None:
                return 0
            delivery, key, was, _ = row
            if was == "HELD":
                # It is in the archive, whatever is wrong with it there.
                for state in ("SEALED", "ARCHIVED"):
                    self._db.execute("UPDATE delivery SET state = ? WHERE key = ?", (state, delivery))
            self._reset_stored(key, missing, "PENDING", None)
            query = "SELECT count(*) FROM instance WHERE session = ? AND state = 'PENDING'"
            (pending,) = self._connection.one(query, (key,))
        return int(pending)

    def files_of(self, delivery: Delivery, uids: Iterable[str]) -> list[tuple[str, File]]:
        """Return SOPInstanceUID and file of these stored instances of a delivery's session."""
        rows = self._connection.json_rows(
            "SELECT json_array(i.sop_uid, hex(f.path), f.size, f.mtime_ns, f.inode, f.ctime_ns) FROM delivery d "
            "JOIN instance i ON i.session = d.session JOIN file f ON f.key = i.file "
            "WHERE d.key = ? AND i.sop_uid IN (SELECT value FROM json_each(?)) AND i.state = 'STORED'",
            (delivery.key, json.dumps([*uids])),
        )
        return [(uid, file_of(bytes.fromhex(path), columns)) for uid, path, *columns in rows]

    def _close(
        self, delivery: Delivery, state: str, *, uri: str | None = None, verified: str | None = None, reason: str = ""
    ) -> None:
        self._db.execute(
            "UPDATE delivery SET state = ?, archive_uri = ?, verified = ?, reason = ?, closed_at = ? WHERE key = ?",
            (state, uri, verified, reason or None, self._connection.clock(), delivery.key),
        )
        if state in {"ARCHIVED", "DELETED"}:
            # Its row is gone; the next one begins with the labels that the session has now.
            self._db.execute(
                "UPDATE session SET initial_subject = NULL, initial_label = NULL WHERE initial_label IS NOT NULL "
                "AND key = (SELECT session FROM delivery WHERE key = ?)",
                (delivery.key,),
            )

    def _may_repair(self, session: int, missing: Iterable[str]) -> bool:
        """Whether to send instances again: once in a run, and not if somebody has removed verified ones."""
        query = (
            "SELECT 1 FROM instance i JOIN delivery d ON d.key = i.delivery "
            "WHERE i.session = ? AND i.sop_uid = ? AND d.verified IN ('uids', 'present')"
        )
        if any(self._connection.exists(query, (session, uid)) for uid in missing):
            return False
        return self._is_first_repair(session)

    def _is_first_repair(self, session: int) -> bool:
        """Note that instances of a session are sent again; whether that is for the first time in this run."""
        return self._db.execute("INSERT OR IGNORE INTO repaired VALUES (?)", (session,)).rowcount == 1

    def _reopen(self, session: int) -> None:
        """Let a session begin another delivery, and queue what was refused because of the state of its row."""
        self._db.execute("DELETE FROM blocked WHERE session = ?", (session,))
        self._db.execute(
            "UPDATE instance SET state = 'PENDING', reason = NULL, refusal = NULL "
            "WHERE session = ? AND state = 'REFUSED' AND refusal = 'SERVER'",
            (session,),
        )

    def _uids_of(self, delivery: Delivery) -> list[str]:
        query = "SELECT json_quote(sop_uid) FROM instance WHERE delivery = ?"
        return self._connection.json_rows(query, (delivery.key,))

    def _refuse_dropped(self, session: int, verdict: Incomplete) -> None:
        """Refuse instances that a script has dropped while archiving, or may have dropped."""
        rejected = f"{verdict.script} rejects it, and the archive does not hold it"
        self._reset_stored(session, verdict.rejects, "REFUSED", rejected, Refusal.DROPPED)
        doubtful = f"the archive does not hold it: {verdict.script} {MAY_HAVE_REJECTED}"
        self._reset_stored(session, verdict.doubtful, "REFUSED", doubtful, Refusal.FILE)
        if verdict.doubtful and self._state.partial:
            self._db.execute("UPDATE delivery SET partial = 1 WHERE key = ?", (verdict.delivery.key,))

    def _reset_stored(
        self,
        session: int,
        uids: Iterable[str],
        state: str,
        reason: str | None,
        refusal: Refusal | None = None,
        *,
        is_missing: bool = True,
    ) -> None:
        """Mark stored instances to be sent again, or as refused; only those that the archive lacks lose `presumed`."""
        self._db.executemany(
            "UPDATE instance SET state = ?, reason = ?, refusal = ?, delivery = NULL, run = ?, "
            "presumed = iif(?, NULL, presumed) WHERE session = ? AND sop_uid = ? AND state = 'STORED'",
            [(state, reason, refusal, self._run, is_missing, session, uid) for uid in uids],
        )


def _uids(array: str) -> frozenset[str]:
    return frozenset(json.loads(array))


def replaced_since(files: int) -> str:
    """Return the reason for instances that were replaced in the archive since they were verified."""
    what = "1 instance was" if files == 1 else f"{files} instances were"
    return f"{what} replaced in the archive since the session was verified"


def _lost_text(verdict: Incomplete, *, lacks: str = "lacks") -> str:
    if not verdict.lost:
        return f"XNAT has lost some of {len(verdict.resent)} files that were sent in place of earlier ones"
    return f"the archive {lacks} {len(verdict.lost)} of its instances"
