"""The journal as a queue: claims out, outcomes in; sealed deliveries out, verdicts in."""

import os
from collections.abc import Sequence

from asyncimport.journal.intake import Intake
from asyncimport.model import (
    Archived,
    Built,
    Claim,
    Delivery,
    Failed,
    File,
    Held,
    Instance,
    Outcome,
    Refused,
    Sealed,
    Session,
    Stored,
    Verdict,
)

__all__ = ["Journal"]


class Journal(Intake):
    """The durable queue of one run. What its methods return has reached the disk.

    Call it from one thread at a time. Raises from every method: JournalError.
    """

    def claim(self, limit: int, *, most_begun: int, most_new: int = 1_000) -> list[Claim] | None:
        """Hand out at most `limit` instances, session by session; None when nothing will ever come again.

        Of a delivery without a URI one instance goes alone: its answer shows where the rest would go. A new delivery
        begins only while fewer than `most_begun` sessions occupy the server's prearchive, and at most `most_new` do
        at a time, so that sessions end before others begin. An empty list means: ask again after the next change.
        """
        claims: list[Claim] = []
        with self._transaction():
            for (session,) in self._db.execute(
                "SELECT session FROM begun b WHERE EXISTS (SELECT 1 FROM waiting w WHERE w.session = b.session) "
                "AND NOT EXISTS (SELECT 1 FROM barred WHERE barred.session = b.session) ORDER BY session"
            ).fetchall():
                if len(claims) < limit:
                    self._hand_out(session, limit - len(claims), claims)
            (begun,) = self._one("SELECT count(*) FROM begun")
            most_begun = min(most_begun, begun + most_new)
            session = -1
            while len(claims) < limit and begun < most_begun:
                (session,) = self._one("SELECT min(session) FROM waiting WHERE session > ?", (session,))
                if session is None:
                    break
                if not self._one("SELECT count(*) FROM begun WHERE session = ?", (session,))[0]:
                    begun += self._begin(session)
                    self._hand_out(session, limit - len(claims), claims)
            if claims or not self._scan_finished:
                return claims
            (left,) = self._one(
                "SELECT EXISTS (SELECT 1 FROM waiting) OR EXISTS (SELECT 1 FROM flying) "
                "OR EXISTS (SELECT 1 FROM parked)"
            )
        return [] if left else None

    def settle(self, outcomes: Sequence[Outcome]) -> int:
        """Record outcomes; how many sessions have become ready for finalising."""
        with self._transaction():
            touched: set[int] = set()
            for outcome in outcomes:
                claim = outcome.claim
                (session,) = self._one("SELECT session FROM instance WHERE key = ?", (claim.key,))
                touched.add(session)
                self._db.execute("DELETE FROM flying WHERE session = ? AND instance = ?", (session, claim.key))
                match outcome:
                    case Stored(uri=uri):
                        if claim.delivery.uri is None:
                            self._db.execute("UPDATE delivery SET uri = ? WHERE key = ?", (uri, claim.delivery.key))
                        self._settled(claim, "STORED", None, claim.delivery.key)
                    case Refused(reason=reason, whole_session=whole):
                        self._settled(claim, "REFUSED", reason, None)
                        if whole:
                            self._db.execute("INSERT OR IGNORE INTO barred VALUES (?, ?)", (session, reason))
                    case Failed(reason=reason, unreadable=unreadable):
                        self._settled(claim, "FAILED", reason, None)
                        if unreadable:
                            self._fall_back(claim, session, reason)
            for session in touched:
                self._hold_barred(session)
            ready = 0
            if self._scan_finished:
                ready = sum(self._conclude(session, ["OPEN"]) for session in touched)
        return ready

    def claim_session(self) -> Sealed | None:
        """Seal a delivery, on disk, before anyone calls XNAT about it; None when none is ready now.

        Deliveries of one subject go one at a time: XNAT's archive step locks on the subject's label, and one that
        waits for the lock sleeps ten seconds (PrearcSessionArchiver).
        """
        with self._transaction():
            row = self._db.execute(
                "SELECT d.key, d.number, d.uri, s.key, s.project, s.subject, s.label, s.study_uid "
                # CROSS: from the few that are ready, not from all deliveries there ever were.
                "FROM ready CROSS JOIN delivery d ON d.key = ready.delivery JOIN session s ON s.key = d.session "
                "WHERE NOT EXISTS (SELECT 1 FROM busy WHERE busy.subject = s.subject) "
                "ORDER BY ready.delivery LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            key, number, uri, session, project, subject, label, study_uid = row
            self._db.execute("DELETE FROM ready WHERE delivery = ?", (key,))
            self._db.execute("INSERT INTO busy VALUES (?)", (subject,))
            self._db.execute("UPDATE delivery SET state = 'SEALED' WHERE key = ?", (key,))
            stored = self._db.execute("SELECT sop_uid FROM instance WHERE session = ? AND state = 'STORED'", (session,))
            uids = frozenset(uid for (uid,) in stored)
        delivery = Delivery(key, Session(project, subject, label, study_uid), number, uri)
        return Sealed(delivery, uids)

    def close(self, verdict: Verdict) -> None:
        """Record how a delivery ended, and free its subject and its place among the begun sessions.

        What waited for the end of this delivery goes into the next one, unless this one is held.
        """
        with self._transaction():
            delivery = verdict.delivery
            self._db.execute(
                "UPDATE delivery SET state = ?, archive_uri = ?, verified = ?, reason = ? WHERE key = ?",
                (
                    {Archived: "ARCHIVED", Built: "BUILT", Held: "HELD"}[type(verdict)],
                    verdict.uri if isinstance(verdict, Archived) else None,
                    verdict.verified if isinstance(verdict, Archived) else None,
                    verdict.reason if isinstance(verdict, Held) else None,
                    delivery.key,
                ),
            )
            self._db.execute("DELETE FROM busy WHERE subject = ?", (delivery.session.subject,))
            (session,) = self._one("SELECT session FROM delivery WHERE key = ?", (delivery.key,))
            self._db.execute("DELETE FROM begun WHERE session = ?", (session,))
            self._db.execute("DELETE FROM parked WHERE session = ?", (session,))
            if isinstance(verdict, Held):
                self._db.execute("INSERT OR IGNORE INTO barred VALUES (?, ?)", (session, verdict.reason))
            else:
                self._wait_again(session)

    def _hold_barred(self, session: int) -> None:
        """Hold the delivery of a barred session, and free its place, once the last of its instances has landed.

        Not before: XNAT may yet acknowledge what is on its way, and that is to be recorded.
        """
        row = self._db.execute("SELECT reason FROM barred WHERE session = ?", (session,)).fetchone()
        if row is None:
            return
        self._db.execute("DELETE FROM waiting WHERE session = ?", (session,))
        if not self._one("SELECT EXISTS (SELECT 1 FROM flying WHERE session = ?)", (session,))[0]:
            self._db.execute(
                "UPDATE delivery SET state = 'HELD', reason = ? WHERE session = ? AND state = 'OPEN'",
                (*row, session),
            )
            self._db.execute("DELETE FROM begun WHERE session = ?", (session,))

    def _fall_back(self, claim: Claim, session: int, reason: str) -> None:
        if not self._promote(claim.key, session, reason):
            self._db.execute("INSERT OR IGNORE INTO unread VALUES (?)", (claim.key,))

    def _begin(self, session: int) -> bool:
        """Give the session an open delivery if it may have one now; whether it occupies the prearchive from now on."""
        row = self._db.execute(
            "SELECT number, state FROM delivery WHERE session = ? ORDER BY number DESC LIMIT 1", (session,)
        ).fetchone()
        if row is not None and row[1] in {"SEALED", "HELD"}:
            self._db.execute("DELETE FROM waiting WHERE session = ?", (session,))
            if row[1] == "SEALED":
                self._db.execute("INSERT OR IGNORE INTO parked VALUES (?)", (session,))
            return False
        if row is None or row[1] != "OPEN":
            number = 1 if row is None else row[0] + 1
            self._db.execute("INSERT INTO delivery (session, number) VALUES (?, ?)", (session, number))
        self._db.execute("INSERT INTO begun VALUES (?)", (session,))
        return True

    def _hand_out(self, session: int, room: int, claims: list[Claim]) -> None:
        row = self._db.execute(
            "SELECT d.key, d.number, d.uri, s.project, s.subject, s.label, s.study_uid "
            "FROM delivery d JOIN session s ON s.key = d.session WHERE d.session = ? AND d.state = 'OPEN'",
            (session,),
        ).fetchone()
        if row is None:
            return
        key, number, uri, project, subject, label, study_uid = row
        if uri is None:
            (flying,) = self._one("SELECT EXISTS (SELECT 1 FROM flying WHERE session = ?)", (session,))
            room = 0 if flying else 1
        where = Session(project, subject, label, study_uid)
        delivery = Delivery(key, where, number, uri)
        rows = self._db.execute(
            "SELECT i.key, i.sop_uid, i.series_uid, f.path, f.size, f.mtime_ns FROM waiting w "
            "JOIN instance i ON i.key = w.instance JOIN file f ON f.key = i.file "
            "WHERE w.session = ? ORDER BY w.instance LIMIT ?",
            (session, room),
        ).fetchall()
        for instance, sop_uid, series_uid, path, size, mtime_ns in rows:
            file = File(os.fsdecode(path), size, int(mtime_ns))
            claims.append(Claim(instance, Instance(file, sop_uid, series_uid, where), delivery))
        pairs = [(session, row[0]) for row in rows]
        self._db.executemany("DELETE FROM waiting WHERE session = ? AND instance = ?", pairs)
        self._db.executemany("INSERT INTO flying VALUES (?, ?)", pairs)

    def _settled(self, claim: Claim, state: str, reason: str | None, delivery: int | None) -> None:
        self._db.execute(
            "UPDATE instance SET state = ?, reason = ?, delivery = ?, run = ? WHERE key = ?",
            (state, reason, delivery, self.run, claim.key),
        )
