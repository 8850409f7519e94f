"""The journal as a queue: claims out, outcomes in; sealed deliveries out, verdicts in."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

from asyncimport.journal.facts import digests_of, facts_of, file_of
from asyncimport.journal.intake import DISPUTED
from asyncimport.journal.subjects import Subjects
from asyncimport.model import (
    MAY_HAVE_REJECTED,
    Archived,
    Built,
    Claim,
    Deleted,
    Delivery,
    Failed,
    File,
    Held,
    Incomplete,
    Instance,
    Outcome,
    Postponed,
    Refusal,
    Refused,
    Sealed,
    Session,
    Stored,
    Verdict,
    Withheld,
)

__all__ = ["Journal", "replaced_since"]

_SETTLE = "UPDATE instance SET run = column2, attempts = column3, settled_at = column4,"


_SEND_AGAIN = "`asyncimport verify --repair` sends them again"
_TOUCH = "touch the files that were rewritten, and send them with `--resend-changed --retry held`"


def replaced_since(files: int) -> str:
    """Say that instances of the archive are not what they were when they were verified."""
    what = "1 instance was" if files == 1 else f"{files} instances were"
    return f"{what} replaced in the archive since the session was verified"


def _lost(verdict: Incomplete, *, lacks: str = "lacks") -> str:
    if not verdict.lost:
        return f"XNAT has lost some of {len(verdict.resent)} files that were sent in place of earlier ones"
    return f"the archive {lacks} {len(verdict.lost)} of its instances"


class Journal(Subjects):
    """The durable queue of one run. What its methods return is committed.

    Call it from one thread at a time. Raises from every method: JournalError.
    """

    def claim(self, limit: int, *, most_begun: int, most_new: int = 1_000) -> list[Claim] | None:
        """Hand out at most `limit` instances, session by session; None when nothing will ever come again.

        Of a delivery without a URI one instance goes alone: its answer shows where the rest would go. So does one
        before which the archive is to be asked (`Claim.look`; what it says goes to `adopt`). A new delivery begins
        only while fewer than `most_begun` sessions occupy the server's prearchive, and at most `most_new` do at a time,
        so that sessions end before others begin. An empty list means: ask again after the next change.
        """
        claims: list[Claim] = []
        with self._transaction():
            for (session,) in self._db.execute(
                "SELECT session FROM begun b WHERE EXISTS (SELECT 1 FROM waiting w WHERE w.session = b.session) "  # noqa: S608 - fixed text
                "AND NOT EXISTS (SELECT 1 FROM barred WHERE barred.session = b.session) "
                f"AND NOT {DISPUTED.format('b.session')} ORDER BY session"
            ).fetchall():
                if len(claims) < limit:
                    self._hand_out(session, limit - len(claims), claims)
            (before,) = self._one("SELECT count(*) FROM begun")
            begun, most_begun = before, min(most_begun, before + most_new)
            session = -1
            while len(claims) < limit and begun < most_begun:
                (session,) = self._one("SELECT min(session) FROM waiting WHERE session > ?", (session,))
                if session is None:
                    break
                is_new = not self._one("SELECT count(*) FROM begun WHERE session = ?", (session,))[0]
                if is_new and self._begin(session):
                    begun += 1
                    self._hand_out(session, limit - len(claims), claims)
            (left,) = self._one(
                "SELECT EXISTS (SELECT 1 FROM waiting) OR EXISTS (SELECT 1 FROM flying) "
                # What is being finalised may have to be sent again in part.
                "OR EXISTS (SELECT 1 FROM ready) OR EXISTS (SELECT 1 FROM busy)"
            )
        if begun > before:
            # Were it forgotten that something may be on its way into it, the next run would not leave it alone.
            self._sync()
        return claims if claims or left or not self._scan_finished else None

    def settle(self, outcomes: Sequence[Outcome]) -> int:
        """Record outcomes, for good every `SYNC_SECONDS`; how many sessions have become ready for finalising."""
        now = self._clock()
        # A clock that was set back says nothing of how long ago it was.
        due = not 0 <= now - self._synced_at < self.SYNC_SECONDS
        with self._transaction(durable=due):
            stored, others = [], []
            for outcome in outcomes:
                claim, delivery = outcome.claim, outcome.claim.delivery
                how = claim.key, self.run, outcome.attempts, now
                if outcome.unsure:
                    self._db.execute("UPDATE delivery SET unsure_at = ? WHERE key = ?", (now, delivery.key))
                    self._db.execute("INSERT OR REPLACE INTO unsure VALUES (?, ?)", (delivery.key, self._ticks()))
                if isinstance(outcome, Stored):
                    stored.append((*how, delivery.key, outcome.sha256, outcome.xxh3))
                    if delivery.uri is None:
                        self._db.execute(
                            "UPDATE delivery SET uri = ?, merges = ? WHERE key = ?",
                            (outcome.uri, outcome.merges, delivery.key),
                        )
                elif isinstance(outcome, Withheld):
                    self._withhold(outcome)
                else:
                    refused = isinstance(outcome, Refused)
                    kind = outcome.kind if isinstance(outcome, Refused) else None
                    others.append((*how, "REFUSED" if refused else "FAILED", outcome.reason, kind))
            self._over(
                f"{_SETTLE} state = 'STORED', reason = NULL, delivery = column5, sha256 = column6, xxh3 = column7 "
                "FROM {rows} WHERE key = column1",
                stored,
            )
            self._over(
                f"{_SETTLE} state = column5, reason = column6, refusal = column7, "
                "delivery = NULL, sha256 = NULL, xxh3 = NULL FROM {rows} WHERE key = column1",
                others,
            )
            for outcome in outcomes if others else ():
                if isinstance(outcome, Refused) and outcome.whole_session:
                    self._db.execute(
                        "INSERT OR IGNORE INTO barred SELECT session, ?, ? FROM delivery WHERE key = ?",
                        (outcome.reason, outcome.second_row, outcome.claim.delivery.key),
                    )
                if isinstance(outcome, Failed) and outcome.unreadable:
                    self._fall_back(outcome.claim.key, outcome.reason)
            ready = 0
            for session, barred in self._at_a_turn({outcome.claim.delivery.key for outcome in outcomes}):
                if barred is not None:
                    ready += self._hold_barred(session, barred)
                if self._scan_finished or session in self._complete:
                    ready += self._conclude(session, ["OPEN"])
        if due:
            self._synced_at = now
        return ready

    def _withhold(self, outcome: Withheld) -> None:
        """Let an instance wait as before, and nothing of its session be sent any more in this run."""
        self._db.execute("DELETE FROM flying WHERE instance = ?", (outcome.claim.key,))
        self._db.execute(
            "INSERT OR IGNORE INTO barred (session, reason) SELECT session, ? FROM delivery WHERE key = ?",
            (outcome.reason, outcome.claim.delivery.key),
        )

    def claim_session(self, *, quiet_period: float = 0.0) -> Sealed | float | None:
        """Seal a delivery, on disk, before anyone calls XNAT about it.

        None when none is ready now, or the seconds until one is: a delivery that an attempt to send broke off into is
        not sealed before `quiet_period` seconds have passed, because the attempt may yet take effect. One whose row may
        be gone, as XNAT has made a second one, is not sealed at all.

        Deliveries of one subject go one at a time: XNAT's archive step locks on the subject's label, and one that
        waits for the lock sleeps ten seconds (PrearcSessionArchiver).
        """
        with self._transaction(durable=True):
            row = self._db.execute(
                "SELECT d.key, d.number, d.uri, d.state, s.key, s.project, s.subject, s.label, s.study_uid, "
                "s.begun_subject, s.begun_label, "
                "EXISTS (SELECT 1 FROM barred WHERE barred.session = s.key AND barred.second_row), "
                "iif(d.state = 'OPEN', max(0, coalesce(u.since + ? - ?, 0)), 0) AS wait "
                # CROSS: from the few that are ready, not from all deliveries there ever were.
                "FROM ready CROSS JOIN delivery d ON d.key = ready.delivery JOIN session s ON s.key = d.session "
                "LEFT JOIN unsure u ON u.delivery = d.key "
                "WHERE NOT EXISTS (SELECT 1 FROM busy WHERE busy.subject = s.subject) "
                "ORDER BY wait, ready.delivery LIMIT 1",
                (quiet_period, self._ticks()),
            ).fetchone()
            if row is None:
                return None
            key, number, uri, state, session, project, subject, label, study_uid, *begun, second_row, wait = row
            is_open = bool(second_row) and state == "OPEN"
            if wait:
                return float(wait)
            self._db.execute("DELETE FROM ready WHERE delivery = ?", (key,))
            self._db.execute("INSERT INTO busy VALUES (?)", (subject,))
            if state != "ARCHIVED" and not is_open:
                self._db.execute(
                    "UPDATE delivery SET state = 'SEALED', partial = ? WHERE key = ?",
                    (any(self._lacking(session)), key),
                )
            uids = self._uids(session, "STORED")
            # What went into the second row need not be refused for good.
            refused = frozenset() if is_open else self._uids(session, "REFUSED")
            (most_files,) = self._one(
                "SELECT count(*) FROM instance i LEFT JOIN delivery d ON d.key = i.delivery WHERE i.session = ? "
                # A row that was built and left takes in what comes later. What failed may be there in part.
                "AND (d.uri = ? OR i.state = 'FAILED' OR (i.state = 'REFUSED' AND i.refusal IS NOT 'DROPPED'))",
                (session, uri),
            )
            presumed, resent = self._presumed(session, key)
            files, expected, held_before = self._one(
                "SELECT (SELECT count(*) FROM instance i JOIN delivery d ON d.key = i.delivery "
                "WHERE i.session = ?1 AND d.uri = ?2), expected, held_before FROM delivery WHERE key = ?3",
                (session, uri, key),
            )
        where = Session(project, subject, label, study_uid)
        delivery = Delivery(key, where, number, uri, _begun_as(where, *begun))
        counted = {"most_files": most_files, "files": files, "expected": expected}
        before = None if held_before is None else frozenset[str](json.loads(held_before))
        archived = state == "ARCHIVED"
        return Sealed(
            delivery, uids, refused, archived, is_open, presumed=presumed, resent=resent, before=before, **counted
        )

    def _uids(self, session: int, state: str, which: str = "TRUE") -> frozenset[str]:
        query = f"SELECT json_quote(sop_uid) FROM instance WHERE session = ? AND state = ? AND {which}"  # noqa: S608 - fixed text
        return frozenset(self._all_of(query, (session, state)))

    def expect(self, sealed: Sealed, before: frozenset[str]) -> Sealed:
        """Note what the archive held before a sealed delivery, and how many instances it must hold after it.

        It is kept before anyone calls XNAT about the delivery: later nobody could tell.
        """
        delivery = sealed.delivery.key
        with self._transaction(durable=True):
            self._db.execute(
                "UPDATE delivery SET held_before = ?3, expected = ?1 + (SELECT count(*) FROM instance "
                # What is sent again takes the place of what is there.
                "WHERE delivery = ?2 AND state = 'STORED' AND presumed IS NULL) WHERE key = ?2",
                (len(before), delivery, json.dumps(sorted(before))),
            )
            (expected,) = self._one("SELECT expected FROM delivery WHERE key = ?", (delivery,))
        return replace(sealed, expected=expected, before=before)

    def _presumed(self, session: int, delivery: int) -> tuple[frozenset[str], frozenset[str]]:
        """Return what is presumed of a session, and what of that a delivery has brought."""
        presumed = self._uids(session, "STORED", "presumed")
        return presumed, self._uids(
            session, "STORED", f"presumed AND delivery = {delivery:d}"
        ) if presumed else presumed

    def close(self, verdict: Verdict) -> Verdict:
        """Record how a delivery ended, and free its subject and its place among the begun sessions.

        What waited for the end of this delivery goes into the next one, unless this one is held. What the archive
        lacks of an incomplete one is sent again in the next one, once in a run; then it is held. What a script has
        dropped there, or may have dropped, is refused. All that was stored of a deleted one is sent again too. An open
        one comes to its end if somebody else has archived or deleted it, and stays open otherwise. One that was
        archived before, and looked at again, stays so whatever is found, and if another has begun meanwhile, that
        one's verdict counts.
        Returns the verdict that was recorded.
        """
        with self._transaction(durable=True):
            delivery = verdict.delivery
            session, was, is_last = self._one(
                "SELECT session, state, number = (SELECT max(number) FROM delivery o WHERE o.session = d.session) "
                "FROM delivery d WHERE key = ?",
                (delivery.key,),
            )
            self._db.execute("DELETE FROM busy WHERE subject = ?", (delivery.session.subject,))
            if not is_last:
                return verdict
            self._db.execute("DELETE FROM begun WHERE session = ?", (session,))
            if isinstance(verdict, Postponed):
                # It stays as it is, and is finalised by the next run.
                if was == "SEALED":
                    self._db.execute("UPDATE delivery SET reason = ? WHERE key = ?", (verdict.reason, delivery.key))
                return verdict
            if isinstance(verdict, Archived | Incomplete) and verdict.unproven:
                self._db.execute(
                    "UPDATE instance SET presumed = 1 WHERE delivery = ? AND state = 'STORED'", (delivery.key,)
                )
            if isinstance(verdict, Deleted) and not self._is_first_repair(session):
                verdict = Held(delivery, "somebody has deleted it from the prearchive, and once more in the same run")
            if isinstance(verdict, Deleted):
                self._end(delivery, "DELETED", reason="somebody has deleted it from the prearchive")
                stored = self._uids_of(delivery)
                self._take_back(session, stored, "PENDING", None, is_lacking=False)
                verdict = Deleted(delivery, len(stored))
            elif isinstance(verdict, Incomplete) and not (verdict.lost or verdict.resent):
                verified = "present" if verdict.unproven else "uids"
                self._end(delivery, "ARCHIVED", uri=verdict.uri, verified=verified)
                self._leave_out(session, verdict)
                verdict = Archived(delivery, verdict.uri, verified)
            elif isinstance(verdict, Incomplete) and self._may_repair(session, verdict.lost):
                lost = f"{_lost(verdict, lacks='lacked')}, which are to be sent again"
                self._end(delivery, "ARCHIVED", uri=verdict.uri, reason=lost)
                self._leave_out(session, verdict)
                self._take_back(session, verdict.lost, "PENDING", None)
                self._take_back(session, verdict.resent, "PENDING", None, is_lacking=False)
            elif isinstance(verdict, Archived):
                if verdict.holds is not None:
                    self._db.execute(
                        "UPDATE delivery SET expected = ?, held_before = NULL WHERE key = ?",
                        (verdict.holds, delivery.key),
                    )
                if verdict.proven:
                    self._db.execute("UPDATE instance SET presumed = NULL WHERE delivery = ?", (delivery.key,))
                self._db.executemany(
                    "UPDATE instance SET presumed = 1 WHERE session = ? AND sop_uid = ? AND state <> 'STORED'",
                    [(session, uid) for uid in verdict.unacknowledged],
                )
                replaced = self._note_digests(session, verdict)
                if replaced and verdict.verified == "uids":
                    verdict = replace(verdict, verified="present")
                reason = replaced_since(replaced) if replaced else ""
                self._end(delivery, "ARCHIVED", uri=verdict.uri, verified=verdict.verified, reason=reason)
            elif isinstance(verdict, Built):
                self._end(delivery, "BUILT")
            elif isinstance(verdict, Held) and was == "OPEN":
                self._db.execute("UPDATE delivery SET reason = ? WHERE key = ?", (verdict.reason, delivery.key))
                self._db.execute("UPDATE barred SET second_row = 0 WHERE session = ?", (session,))
                return verdict
            else:
                if isinstance(verdict, Incomplete):
                    verdict = Held(
                        delivery,
                        f"{_lost(verdict)}; {_SEND_AGAIN if verdict.lost else _TOUCH}",
                        verdict.uri,
                    )
                if was == "ARCHIVED" and verdict.uri is None:
                    (uri,) = self._one("SELECT archive_uri FROM delivery WHERE key = ?", (delivery.key,))
                    verdict = replace(verdict, uri=uri)
                self._end(delivery, "ARCHIVED" if was == "ARCHIVED" else "HELD", uri=verdict.uri, reason=verdict.reason)
                self._db.execute(
                    "INSERT OR IGNORE INTO barred (session, reason) VALUES (?, ?)", (session, verdict.reason)
                )
                return verdict
            if was == "OPEN":
                self._go_on(session)
            self._wait_again(session)
        return verdict

    def _note_digests(self, session: int, verdict: Archived) -> int:
        """Keep what XNAT tells of the files of instances; how many of earlier deliveries are not what they were.

        These have been replaced, and are presumed from now on.
        """
        if not verdict.digests:
            return 0
        delivery, told = verdict.delivery.key, verdict.digests
        before = digests_of(self._db, session)
        other = [uid for uid, digest in before.items() if told.get(uid, digest) != digest]
        replaced = self._db.executemany(
            "UPDATE instance SET presumed = 1 WHERE session = ? AND sop_uid = ? AND state = 'STORED' AND delivery <> ?",
            [(session, uid, delivery) for uid in other],
        ).rowcount
        # As one text: a row for each instance would cost a hundredth of its upload.
        self._db.execute("UPDATE delivery SET digests = NULL WHERE session = ?", (session,))
        self._db.execute("UPDATE delivery SET digests = ? WHERE key = ?", (json.dumps(dict(told)), delivery))
        return max(replaced, 0)

    def repair(self, session: Session, missing: Iterable[str]) -> int:
        """Let instances that the archive was seen to lack wait to be sent again; how many of them do.

        They wait for the scan to meet their files. None do while a delivery of the session is not at its end.
        """
        with self._transaction(durable=True):
            row = self._db.execute(
                "SELECT d.key, d.session, d.state FROM session s JOIN delivery d ON d.session = s.key "
                "WHERE s.project = ? AND s.study_uid = ? ORDER BY d.number DESC LIMIT 1",
                (session.project, session.study_uid),
            ).fetchone()
            if row is None or row[2] not in {"ARCHIVED", "HELD"}:
                return 0
            delivery, key, state = row
            if state == "HELD":
                # It is in the archive, whatever was found wrong with it there.
                for state in ("SEALED", "ARCHIVED"):
                    self._db.execute("UPDATE delivery SET state = ? WHERE key = ?", (state, delivery))
            self._take_back(key, missing, "PENDING", None)
            (waiting,) = self._one("SELECT count(*) FROM instance WHERE session = ? AND state = 'PENDING'", (key,))
        return int(waiting)

    def confirm(self, files: Iterable[File]) -> None:
        """Note of files that were moved or touched that they hold what was sent of them: it is sent as they are now."""
        with self._transaction():
            self._over(
                "UPDATE file SET size = column2, mtime_ns = column3, inode = column4, ctime_ns = column5 "
                "FROM {rows} WHERE path = column1",
                [(os.fsencode(file.path), *facts_of(file)) for file in files],
            )

    def _end(
        self, delivery: Delivery, state: str, *, uri: str | None = None, verified: str | None = None, reason: str = ""
    ) -> None:
        self._db.execute(
            "UPDATE delivery SET state = ?, archive_uri = ?, verified = ?, reason = ?, closed_at = ? WHERE key = ?",
            (state, uri, verified, reason or None, self._clock(), delivery.key),
        )
        if state in {"ARCHIVED", "DELETED"}:
            # Its row is gone, and the next one is begun with the labels that the session has.
            self._db.execute(
                "UPDATE session SET begun_subject = NULL, begun_label = NULL WHERE begun_label IS NOT NULL "
                "AND key = (SELECT session FROM delivery WHERE key = ?)",
                (delivery.key,),
            )

    def _may_repair(self, session: int, missing: Iterable[str]) -> bool:
        """Whether what the archive lacks may be sent again: once in a run, and not if somebody has taken it out.

        What was seen in the archive when an earlier delivery was verified has been there.
        """
        query = (
            "SELECT 1 FROM instance i JOIN delivery d ON d.key = i.delivery "
            "WHERE i.session = ? AND i.sop_uid = ? AND d.verified IN ('uids', 'present')"
        )
        if any(self._db.execute(query, (session, uid)).fetchone() for uid in missing):
            return False
        return self._is_first_repair(session)

    def _is_first_repair(self, session: int) -> bool:
        """Note that what was stored of a session is sent again; whether that is for the first time in this run."""
        return self._db.execute("INSERT OR IGNORE INTO repaired VALUES (?)", (session,)).rowcount == 1

    def _go_on(self, session: int) -> None:
        """Let a session begin another delivery, with what went into its row too soon: it may do so now."""
        self._db.execute("DELETE FROM barred WHERE session = ?", (session,))
        self._db.execute(
            "UPDATE instance SET state = 'PENDING', reason = NULL, refusal = NULL "
            "WHERE session = ? AND state = 'REFUSED' AND refusal = 'SERVER'",
            (session,),
        )

    def _uids_of(self, delivery: Delivery) -> list[str]:
        """Return the SOPInstanceUIDs that were stored in a delivery."""
        return list(self._all_of("SELECT json_quote(sop_uid) FROM instance WHERE delivery = ?", (delivery.key,)))

    def _leave_out(self, session: int, verdict: Incomplete) -> None:
        """Let instances be refused that a script has dropped in the archive, or may have dropped: these are lacking."""
        rejected = f"{verdict.script} rejects it, and the archive does not hold it"
        self._take_back(session, verdict.rejects, "REFUSED", rejected, Refusal.DROPPED)
        doubtful = f"the archive does not hold it: {verdict.script} {MAY_HAVE_REJECTED}"
        self._take_back(session, verdict.doubtful, "REFUSED", doubtful, Refusal.FILE)
        if verdict.doubtful and self._partial:
            self._db.execute("UPDATE delivery SET partial = 1 WHERE key = ?", (verdict.delivery.key,))

    def files_of(self, delivery: Delivery, uids: Iterable[str]) -> list[tuple[str, File]]:
        """Return the files that instances (SOPInstanceUIDs) of the session of a delivery were sent from, with these."""
        rows = self._all_of(
            "SELECT json_array(i.sop_uid, hex(f.path), f.size, f.mtime_ns, f.inode, f.ctime_ns) FROM delivery d "
            "JOIN instance i ON i.session = d.session JOIN file f ON f.key = i.file "
            "WHERE d.key = ? AND i.sop_uid IN (SELECT value FROM json_each(?)) AND i.state = 'STORED'",
            (delivery.key, json.dumps([*uids])),
        )
        return [(uid, file_of(bytes.fromhex(path), facts)) for uid, path, *facts in rows]

    def _take_back(
        self,
        session: int,
        uids: Iterable[str],
        state: str,
        reason: str | None,
        refusal: Refusal | None = None,
        *,
        is_lacking: bool = True,
    ) -> None:
        """Let instances that were stored wait again, or be refused after all.

        Unless the archive `is_lacking` them, what was presumed of them before still is.
        """
        self._db.executemany(
            "UPDATE instance SET state = ?, reason = ?, refusal = ?, delivery = NULL, run = ?, "
            "presumed = iif(?, NULL, presumed) WHERE session = ? AND sop_uid = ? AND state = 'STORED'",
            [(state, reason, refusal, self.run, is_lacking, session, uid) for uid in uids],
        )

    def _hold_barred(self, session: int, reason: str) -> bool:
        """Note why nothing more of a barred session is sent, and free its place, once the last of it has landed.

        Not before: XNAT may yet acknowledge what is on its way, and that is to be recorded. Its delivery stays open:
        nothing has been sealed, and the next run goes on with it. Returns whether it is to be found out now what has
        become of its row.
        """
        self._db.execute("DELETE FROM waiting WHERE session = ?", (session,))
        if self._one("SELECT EXISTS (SELECT 1 FROM flying WHERE session = ?)", (session,))[0]:
            return False
        self._db.execute("UPDATE delivery SET reason = ? WHERE session = ? AND state = 'OPEN'", (reason, session))
        asked = self._db.execute(
            "INSERT OR IGNORE INTO ready SELECT d.key FROM delivery d JOIN barred b ON b.session = d.session "
            "WHERE d.session = ? AND d.state = 'OPEN' AND d.uri IS NOT NULL AND b.second_row",
            (session,),
        ).rowcount
        if not asked:
            self._db.execute("DELETE FROM begun WHERE session = ?", (session,))
        return bool(asked)

    def _at_a_turn(self, deliveries: Iterable[int]) -> list[tuple[int, str | None]]:
        """Return the sessions of these deliveries that are barred, with the reason, or have nothing left to send."""
        return self._db.execute(
            "SELECT d.session, b.reason FROM delivery d LEFT JOIN barred b ON b.session = d.session "
            "WHERE d.key IN (SELECT value FROM json_each(?)) AND (b.session IS NOT NULL OR "
            "NOT EXISTS (SELECT 1 FROM waiting w WHERE w.session = d.session) AND "
            "NOT EXISTS (SELECT 1 FROM flying f WHERE f.session = d.session))",
            (json.dumps([*deliveries]),),
        ).fetchall()

    def _fall_back(self, instance: int, reason: str) -> None:
        (session,) = self._one("SELECT session FROM instance WHERE key = ?", (instance,))
        if not self._promote(instance, session, reason):
            self._db.execute("INSERT OR IGNORE INTO unread VALUES (?)", (instance,))

    def _begin(self, session: int) -> bool:
        """Give the session an open delivery if it may have one now; whether it occupies the prearchive from now on."""
        row = self._db.execute(
            "SELECT number, state FROM delivery WHERE session = ? ORDER BY number DESC LIMIT 1", (session,)
        ).fetchone()
        disputed = self._is_disputed(session)
        if disputed and not self._scan_finished:
            # The file of another patient may be gone: then the scan does not meet it.
            return False
        if disputed or (row is not None and row[1] in {"SEALED", "HELD"}) or self._is_barred(session):
            self._db.execute("DELETE FROM waiting WHERE session = ?", (session,))
            return False
        if self._db.execute("DELETE FROM awaited WHERE session = ?", (session,)).rowcount:
            self._wait_again(session)
        misfit = self._misfit(session)
        if misfit and not self._scan_finished:
            # With more of it that the scan may yet meet it may be of the right type.
            self._db.execute("INSERT INTO awaited VALUES (?)", (session,))
            self._db.execute("DELETE FROM waiting WHERE session = ?", (session,))
            return False
        if row is None or row[1] != "OPEN":
            number = 1 if row is None else row[0] + 1
            key = self._insert("INSERT INTO delivery (session, number) VALUES (?, ?)", (session, number))
            if number > 1:
                self._inherit_unsure(session, number, key)
        else:
            self._db.execute("UPDATE delivery SET reason = NULL WHERE session = ? AND state = 'OPEN'", (session,))
        if misfit:
            self._db.execute("INSERT INTO barred (session, reason) VALUES (?, ?)", (session, misfit))
            self._hold_barred(session, misfit)
            return False
        self._db.execute("INSERT INTO begun VALUES (?)", (session,))
        return True

    def _inherit_unsure(self, session: int, number: int, key: int) -> None:
        """Note that what broke off on its way into the last row makes or finds this one, if that is gone."""
        self._db.execute(
            "UPDATE delivery SET unsure_at = (SELECT unsure_at FROM delivery WHERE session = ? AND number = ?) "
            "WHERE key = ?",
            (session, number - 1, key),
        )
        self._db.execute(
            "INSERT INTO unsure SELECT ?, u.since FROM unsure u JOIN delivery d ON d.key = u.delivery "
            "WHERE d.session = ? AND d.number = ?",
            (key, session, number - 1),
        )

    def _hand_out(self, session: int, room: int, claims: list[Claim]) -> None:
        row = self._db.execute(
            "SELECT d.key, d.number, d.uri, s.project, s.subject, s.label, s.study_uid, s.begun_subject, s.begun_label "
            "FROM delivery d JOIN session s ON s.key = d.session WHERE d.session = ? AND d.state = 'OPEN'",
            (session,),
        ).fetchone()
        if row is None:
            return
        key, number, uri, project, subject, label, study_uid, *begun = row
        look = self._must_look(session, uri)
        if uri is None or look:
            (flying,) = self._one("SELECT EXISTS (SELECT 1 FROM flying WHERE session = ?)", (session,))
            room = 0 if flying else 1
        where = Session(project, subject, label, study_uid)
        delivery = Delivery(key, where, number, uri, _begun_as(where, *begun))
        rows = self._all_of(
            "SELECT json_array(i.key, i.sop_uid, i.series_uid, hex(f.path), f.size, f.mtime_ns, f.inode, f.ctime_ns) "
            "FROM waiting w JOIN instance i ON i.key = w.instance JOIN file f ON f.key = i.file "
            "WHERE w.session = ? ORDER BY w.instance LIMIT ?",
            (session, room),
        )
        for instance, sop_uid, series_uid, path, *facts in rows:
            file = file_of(bytes.fromhex(path), facts)
            claims.append(Claim(instance, Instance(file, sop_uid, series_uid, where), delivery, look))
        handed_out = session, rows[-1][0] if rows else -1
        self._db.execute(
            "INSERT INTO flying SELECT session, instance FROM waiting WHERE session = ? AND instance <= ?", handed_out
        )
        self._db.execute("DELETE FROM waiting WHERE session = ? AND instance <= ?", handed_out)


def _begun_as(session: Session, subject: str | None, label: str | None) -> Session | None:
    """Return a session by the labels that its row was begun with; None where it has them still."""
    return None if subject is None or label is None else replace(session, subject=subject, label=label)
