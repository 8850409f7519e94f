"""The journal during the scan: what the files are, and which of them wait to be sent."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from asyncimport.journal.database import translated
from asyncimport.journal.facts import Facts, digest_of, facts_of, is_same, unproven
from asyncimport.journal.holdings import Holdings
from asyncimport.journal.registry import NoPlace
from asyncimport.model import Digest, File, FileKind, Ignored, Instance

__all__ = ["DISPUTED", "Admission", "Gone", "Intake", "Twin", "below"]

# What stood in the way of these may be gone by now.
_LOOKED_INTO_AGAIN = {"UNREADABLE", "CONTAINER", "EXCLUDED"}
_CHANGED = "changed on disk after XNAT stored it; the new bytes were not sent"
# Of the session: failed files, files that were refused and that no rule of the site drops, and those that are
# unreadable or were not asked for, and of which no sound copy was met.
_LACKING = (
    "SELECT count(*) FILTER (WHERE state = 'FAILED'), "
    "count(*) FILTER (WHERE state = 'REFUSED' AND refusal IS NOT 'DROPPED'), "
    "(SELECT count(*) FROM file f WHERE f.lacked_by = :session AND f.kind IN ('UNREADABLE', 'EXCLUDED') AND NOT EXISTS "
    "(SELECT 1 FROM instance i WHERE i.session = :session AND i.sop_uid = f.lacked_uid)) "
    "FROM instance WHERE session = :session"
)
# Whether the study of a session has a file of another patient, or one that would go to another session. Nothing more of
# it is sent, and it is not archived.
DISPUTED = "EXISTS (SELECT 1 FROM file WHERE lacked_by = {} AND kind = 'SKIPPED')"
_ELSEWHERE = "XNAT holds this instance already, sent from a file that cannot be compared any more"
_OTHER_BYTES = "XNAT holds this instance ({}) already, sent from a file with other bytes"
_SAME_BYTES = "the same bytes as another file"
_COPY_OF_CHANGED = "it was the copy of a file that has changed since; the next run compares them anew"

_NO_LABELS = "by the changed rules it has no labels, and it is not archived under its old ones"

_NOTHING: Mapping[str, bool] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Twin:
    """A file that carries an instance the journal knows already; whether the bytes agree is not known yet.

    They are to be compared with what was `sent`, if that is kept, and else with the file `other`.
    """

    instance: Instance
    key: int
    other: str
    sent: Digest | None = None


@dataclass(frozen=True, slots=True)
class Admission:
    """What came of a batch: files to look into, files that are twins, and how much waits to be sent now."""

    unknown: list[File]
    twins: list[Twin]
    files: int
    size: int


@dataclass(frozen=True, slots=True)
class Gone:
    """Files that an earlier run found in the same place: in all, and those that had not been stored."""

    files: int
    unsent: int


# A key for it, the file, and the key of its session or why it goes into none.
_Found = tuple[int, Instance | Ignored, int | NoPlace | None]


class Intake(Holdings):
    """Files in."""

    def let_wait(self, studies: Mapping[str, str], unasked: Collection[str] = ()) -> None:
        """Send and finalise nothing more of studies in this run, for a reason each: they may still be being written.

        What nobody asked for does not count among this run's files either. Call it before the scan. What is sealed is
        finalised.
        """
        if studies or unasked:
            with translated(self.path):
                sessions = self._db.execute("SELECT key, study_uid FROM session").fetchall()
            self.waits = {session: studies[study_uid] for session, study_uid in sessions if study_uid in studies}
            self._unasked = {session for session, study_uid in sessions if study_uid in unasked}

    def recall(
        self,
        files: Sequence[File],
        *,
        retry_refused: bool = False,
        resend_changed: bool = False,
        chooses: bool = False,
    ) -> Admission:
        """Pass the files that are known, sound and unchanged; what is left to send of them waits again.

        So does what was refused because of the server's state, and with `retry_refused` all that was refused.
        The others are returned as `unknown`, to be looked into and admitted; so is, where a run `chooses`, what is left
        to send, as it need not be asked for.
        """
        unknown: list[File] = []
        passed: dict[int, None] = {}
        proven: list[tuple[int, int | None, int | None]] = []
        reset: list[tuple[int]] = []
        waiting: list[tuple[int, int]] = []
        size = 0
        paths = [os.fsencode(file.path) for file in files]
        with self._transaction():
            rows = {
                path: row
                for path, *row in self._db.execute(
                    "SELECT f.path, f.size, f.mtime_ns, f.inode, f.ctime_ns, f.key, f.kind, "  # noqa: S608 - only marks
                    "f.key IN (SELECT file FROM scope), i.key, i.session, i.state, i.refusal, "
                    "iif(f.kind = 'INSTANCE' AND i.state = 'STORED', i.settled_at, NULL) "
                    "FROM file f LEFT JOIN instance i ON i.key = f.instance "
                    f"WHERE f.path IN ({', '.join('?' * len(paths))})",
                    paths,
                )
            }
            for path, file in zip(paths, files, strict=True):
                row = rows.get(path)
                if row is None or not is_same(row[:4], file, row[-1]):
                    unknown.append(file)
                    continue
                _, _, inode, _, key, kind, met, instance, session, state, refusal, _ = row
                if kind in _LOOKED_INTO_AGAIN or (kind == "SKIPPED" and (instance is None or resend_changed)):
                    unknown.append(file)
                    continue
                # Met a second time in this run, through overlapping sources, it has been passed already.
                if met or key in passed or session in self._unasked:
                    continue
                if inode is None and file.inode is not None:
                    proven.append((key, file.inode, file.ctime_ns))
                waits = False
                if kind == "INSTANCE" and session not in self.waits:
                    again = state == "FAILED" or (state == "REFUSED" and (retry_refused or refusal == "SERVER"))
                    waits = again or state == "PENDING"
                    if again:
                        reset.append((instance,))
                    if waits and chooses:
                        unknown.append(file)
                        continue
                passed[key] = None
                if session in self._undecided and kind == "INSTANCE":
                    # Its header decides what its session is called by now.
                    unknown.append(file)
                if waits:
                    waiting.append((session, instance))
                    size += file.size
            self._over("INSERT OR IGNORE INTO scope SELECT column1 FROM {rows}", [*zip(passed)])
            self._over(
                "UPDATE file SET inode = column2, ctime_ns = column3 FROM {rows} WHERE key = column1",
                proven,
            )
            self._db.executemany(
                "UPDATE instance SET state = 'PENDING', reason = NULL, refusal = NULL WHERE key = ?", reset
            )
            self._wait(waiting)
            there = self._adopt_waiting({session for session, _ in waiting})
        return Admission(unknown, [], len(waiting) - there.files, size - there.size)

    def admit(
        self,
        batch: Sequence[Instance | Ignored],
        *,
        resend_changed: bool = False,
        proofs: Mapping[str, bool] = _NOTHING,
    ) -> Admission:
        """Record what the files are, and let new instances wait to be sent.

        An instance whose study, label or identity collides with one met before is not admitted: a collision of
        labels is recorded as SKIPPED with its reason, the same SOPInstanceUID in another file is returned as a twin,
        and so is a file of what XNAT has stored that may have been rewritten or replaced since, until `proofs` tell (by
        path) whether it holds the bytes that were sent. One that does not is SKIPPED too, unless `resend_changed`: then
        it waits to be sent in a new delivery.
        """
        twins: list[Twin] = []
        with self._transaction():
            first = self._next_key
            self._next_key += len(batch)
            found = [
                (key, item, self._session(item) if isinstance(item, Instance) else None)
                for key, item in enumerate(batch, first)
            ]
            entered = self._enter(found, first)
            waiting, size = len(entered), sum(entered.values())
            for key, item, session in found:
                if key in entered:
                    continue
                if isinstance(item, Ignored):
                    file = self._record(key, item.file, item.kind, item.reason, item.duplicate_of)
                    if item.session is not None or item.damaged:
                        # Its session need not have a row yet.
                        of = (item.session.project, item.session.study_uid) if item.session else (None, None)
                        self._db.execute("INSERT OR REPLACE INTO lacked VALUES (?, ?, ?, ?)", (file, *of, item.sop_uid))
                    continue
                if not isinstance(session, int):
                    assert session is not None  # noqa: S101 - of an instance it is one or the other
                    file = self._record(key, item.file, FileKind.SKIPPED, session.reason, None)
                    self._db.execute("UPDATE file SET lacked_by = ? WHERE key = ?", (session.disputes, file))
                    continue
                proof = proofs.get(item.file.path)
                known = self._known(key, item, session, resend_changed=resend_changed, proof=proof)
                if isinstance(known, Twin):
                    twins.append(known)
                    continue
                instance, waits = known
                if not waits:
                    continue
                self._wait([(session, instance)])
                waiting += 1
                size += item.file.size
            there = self._adopt_waiting({session for _, _, session in found if isinstance(session, int)})
        return Admission([], twins, waiting - there.files, size - there.size)

    def _enter(self, found: Sequence[_Found], first: int) -> dict[int, int]:
        """Write down, all at once, what is new in every way and waits; return the keys, from `first` on, and the sizes.

        What a batch holds twice is left to the careful way, but for the first of it, so that the order decides.
        """
        met: set[object] = set()
        rows = []
        for key, item, session in found:
            file = item.file
            if isinstance(item, Instance) and isinstance(session, int):
                identity = session, item.sop_uid
                if file.path not in met and identity not in met:
                    path = os.fsencode(file.path)
                    rows.append((key, path, *facts_of(file), *identity, item.series_uid, item.modality))
                met.add(identity)
            met.add(file.path)
        # One key serves for both, so that each row can name the other from the start.
        self._over(
            "INSERT OR IGNORE INTO file (key, path, size, mtime_ns, inode, ctime_ns, kind, instance) "
            "SELECT column1, column2, column3, column4, column5, column6, 'INSTANCE', column1 FROM {rows}",
            [row[:6] for row in rows],
        )
        self._over(
            "INSERT OR IGNORE INTO instance (key, session, sop_uid, series_uid, file, modality) "
            "SELECT column1, column7, column8, column9, column1, column10 FROM {rows} "
            "WHERE EXISTS (SELECT 1 FROM file WHERE key = column1)",
            rows,
        )
        # Not new after all: the path was, but not the instance.
        self._db.execute("DELETE FROM file WHERE key >= ? AND key NOT IN (SELECT key FROM instance)", (first,))
        self._db.execute("INSERT INTO scope SELECT key FROM file WHERE key >= ?", (first,))
        self._db.execute("INSERT INTO waiting SELECT session, key FROM instance WHERE key >= ?", (first,))
        sizes = {row[0]: row[2] for row in rows}
        if self._one("SELECT count(*) FROM file WHERE key >= ?", (first,)) != (len(sizes),):
            sizes = dict(self._db.execute("SELECT key, size FROM file WHERE key >= ?", (first,)).fetchall())
        return sizes

    def leave(self, directories: Sequence[str], *, partial: bool = False) -> int:
        """Note that the walk has left directories that hold whole sessions, each all of its own.

        What of them has nothing left to send becomes ready for finalising; returns how many sessions do. `partial` as
        in `finish_scan`.
        """
        self._partial = partial
        with self._transaction():
            self._assign_damaged()
            sessions = [
                session
                for directory in directories
                for (session,) in self._db.execute(
                    "SELECT DISTINCT i.session FROM file f JOIN instance i ON i.key = f.instance "
                    "WHERE f.path >= ? AND f.path < ? AND f.kind = 'INSTANCE'",
                    below(directory),
                ).fetchall()
            ]
            self._complete.update(sessions)
            return sum(self._conclude(session, ["OPEN"]) for session in sessions)

    def finish_scan(
        self, roots: Sequence[str], *, archive_built: bool = True, retry_held: bool = False, partial: bool = False
    ) -> Gone:
        """Note that the walk is at its end: sessions with nothing left to send become ready for finalising.

        `roots` are the sources; what was known below them and was not met again is gone. `archive_built` takes up
        the sessions that an earlier run left in the prearchive, `retry_held` those that XNAT would not archive.
        `partial` finalises, from now on, also what lacks files that failed, were refused or cannot be read.
        """
        self._partial = partial
        gone = unsent = 0
        take_up = ["OPEN", *(["BUILT"] if archive_built else []), *(["HELD"] if retry_held else [])]
        with self._transaction():
            for root in roots:
                counts = self._vanished(root)
                gone, unsent = gone + counts[0], unsent + counts[1]
            self._stand_in()
            self._assign_damaged()
            self._scan_finished = True
            for (session,) in self._db.execute("SELECT session FROM awaited").fetchall():
                self._wait_again(session)
            self._end_rerouting()
            self._db.execute(f"DELETE FROM waiting WHERE {DISPUTED.format('waiting.session')}")  # noqa: S608 - fixed text
            marks = ", ".join("?" * len(take_up))
            sessions = self._db.execute(
                f"SELECT DISTINCT d.session FROM delivery d WHERE d.state IN ({marks}) AND EXISTS "  # noqa: S608 - only marks
                "(SELECT 1 FROM instance i JOIN scope ON scope.file = i.file WHERE i.session = d.session)",
                take_up,
            ).fetchall()
            for (session,) in sessions:
                self._conclude(session, take_up)
            if partial:
                self._accept()
            # What was archived, and could not be looked into then; what waits brings a delivery with its own verdict.
            self._db.execute(
                "INSERT OR IGNORE INTO ready SELECT d.key FROM delivery d WHERE d.state = 'ARCHIVED' "
                "AND d.verified IS NULL AND d.number = (SELECT max(number) FROM delivery WHERE session = d.session) "
                "AND NOT EXISTS (SELECT 1 FROM instance WHERE session = d.session AND state = 'PENDING') AND EXISTS "
                "(SELECT 1 FROM instance i JOIN scope ON scope.file = i.file WHERE i.session = d.session)"
            )
        return Gone(gone, unsent)

    def _accept(self) -> None:
        """Take archived sessions as they are that this run met, and that lack refused files."""
        self._db.execute(
            "UPDATE delivery SET partial = 1 WHERE key IN (SELECT d.key FROM delivery d WHERE d.state = 'ARCHIVED' "
            "AND d.partial IS NOT 1 AND d.number = (SELECT max(number) FROM delivery WHERE session = d.session) "
            "AND EXISTS (SELECT 1 FROM instance WHERE session = d.session AND state = 'REFUSED' "
            "AND refusal IS NOT 'DROPPED') AND EXISTS (SELECT 1 FROM instance i JOIN scope ON scope.file = i.file "
            "WHERE i.session = d.session))"
        )

    def _end_rerouting(self) -> None:
        """Let what was sealed be finalised by its new labels; what was met and has none is left as it is, and told."""
        for session in self._undecided:
            self._db.execute(
                "INSERT OR IGNORE INTO barred (session, reason) SELECT ?1, ?2 WHERE EXISTS "
                "(SELECT 1 FROM instance i JOIN scope ON scope.file = i.file WHERE i.session = ?1)",
                (session, _NO_LABELS),
            )
        self._db.execute(
            "INSERT OR IGNORE INTO ready SELECT key FROM delivery WHERE state = 'SEALED' "
            "AND session NOT IN (SELECT session FROM barred)"
        )

    def collisions(self) -> list[tuple[str, int]]:
        """Return the reasons for which files of this run's sources were skipped, each with their number."""
        with translated(self.path):
            return self._db.execute(
                "SELECT f.reason, count(*) FROM scope JOIN file f ON f.key = scope.file "
                "WHERE f.kind = 'SKIPPED' GROUP BY f.reason ORDER BY f.reason"
            ).fetchall()

    def _wait(self, waiting: Sequence[tuple[int, int]]) -> None:
        if self.waits:
            waiting = [one for one in waiting if one[0] not in self.waits]
        # A file that is met twice in one run (overlapping sources) may be on its way already.
        self._over(
            "INSERT OR IGNORE INTO waiting SELECT column1, column2 FROM {rows} WHERE NOT EXISTS "
            "(SELECT 1 FROM flying WHERE session = column1 AND instance = column2)",
            waiting,
        )

    def _wait_again(self, session: int) -> None:
        """Let everything of this session that this run met and that is not settled wait."""
        self._wait(
            self._db.execute(
                "SELECT i.session, i.key FROM instance i JOIN scope ON scope.file = i.file "
                "WHERE i.session = ? AND i.state = 'PENDING'",
                (session,),
            ).fetchall()
        )

    def _is_barred(self, session: int) -> bool:
        return self._one("SELECT EXISTS (SELECT 1 FROM barred WHERE session = ?)", (session,)) == (1,)

    def _record(
        self,
        key: int,
        file: File,
        kind: FileKind,
        reason: str | None,
        instance: int | None,
        facts: Facts | None = None,
    ) -> int:
        """Write the file's row and return its key, which is `key` if it is new; the `facts` are its own unless given.

        An instance that the path carried before is orphaned. A file that cannot be read may be the one it was when it
        can be again: what is known of it is kept.
        """
        path = os.fsencode(file.path)
        facts = facts or facts_of(file)
        row = self._db.execute("SELECT key, instance, kind FROM file WHERE path = ?", (path,)).fetchone()
        if row is None:
            self._db.execute(
                "INSERT INTO file (key, path, size, mtime_ns, inode, ctime_ns, kind, reason, instance) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (key, path, *facts, kind, reason, instance),
            )
        elif kind in {FileKind.EXCLUDED, FileKind.LINK} and row[2] == FileKind.INSTANCE:
            # Today nobody asks for it; what became of it before stands.
            key = row[0]
        else:
            key = row[0]
            if kind == FileKind.UNREADABLE and row[1] is not None and row[2] in {FileKind.INSTANCE, kind}:
                self._db.execute("UPDATE file SET kind = ?, reason = ? WHERE key = ?", (kind, reason, key))
            else:
                self._db.execute(
                    "UPDATE file SET size = ?1, mtime_ns = ?2, inode = ?3, ctime_ns = ?4, kind = ?5, reason = ?6, "
                    # What it carried when it could be read is still known.
                    "instance = ?7, lacked_by = iif(?5 = 'UNREADABLE' AND lacked_uid IS NOT NULL, lacked_by, NULL) "
                    "WHERE key = ?8",
                    (*facts, kind, reason, instance, key),
                )
            if row[2] == FileKind.INSTANCE and row[1] != instance:
                self._orphan(row[1], reason if kind == FileKind.UNREADABLE else None)
        self._passes(key)
        return key

    def _passes(self, file: int) -> bool:
        """Count the file among those of this run; whether it is met for the first time."""
        return self._db.execute("INSERT OR IGNORE INTO scope VALUES (?)", (file,)).rowcount == 1

    def _known(
        self, key: int, item: Instance, session: int, *, resend_changed: bool, proof: bool | None
    ) -> Twin | tuple[int, bool]:
        """Return the instance's key and whether it waits to be sent from this file, or the twin if that is open.

        `proof` tells whether the file holds the bytes that were sent, where that has been looked at.
        """
        file = item.file
        row = self._db.execute(
            "SELECT i.key, i.state, i.reason, f.key, f.path, f.kind, f.instance = i.key, "
            "f.key IN (SELECT file FROM scope), i.key IN (SELECT instance FROM unread), i.sha256, i.xxh3, "
            "i.settled_at, i.presumed, f.size, f.mtime_ns, f.inode, f.ctime_ns "
            "FROM instance i LEFT JOIN file f ON f.key = i.file WHERE i.session = ? AND i.sop_uid = ?",
            (session, item.sop_uid),
        ).fetchone()
        if row is None:
            carrier = self._record(key, file, FileKind.INSTANCE, None, key)
            self._db.execute(
                "INSERT INTO instance (key, session, sop_uid, series_uid, file, modality) VALUES (?, ?, ?, ?, ?, ?)",
                (key, session, item.sop_uid, item.series_uid, carrier, item.modality),
            )
            return key, True
        (
            instance,
            state,
            trouble,
            other,
            path,
            kind,
            carries,
            met,
            unread,
            sha256,
            xxh3,
            settled_at,
            presumed,
            *facts,
        ) = row
        own = path == os.fsencode(file.path)
        sound = carries and kind in {FileKind.INSTANCE, FileKind.UNREADABLE}
        stored = state == "STORED"
        unsent = state in {"PENDING", "FAILED"}
        proven = sound and is_same(facts, file, settled_at if stored else None)
        if own and proven and met and kind == FileKind.INSTANCE:
            return instance, False
        sent = digest_of(sha256, xxh3)
        if stored and not proven and sent is not None:
            if proof is None:
                return Twin(item, instance, os.fsdecode(path), sent)
            if not proof and not own:
                self._record(key, file, FileKind.SKIPPED, _OTHER_BYTES.format(item.sop_uid), None)
                return instance, False
            proven = proof
        # Without a digest size and time, and the SOPInstanceUID, have to do for what was moved or restored. It is not
        # sent again, and not known to be what was sent.
        same = proven or (
            sound and proof is None and (stored or not own) and (*facts[:2],) == (file.size, str(file.mtime_ns))
        )
        if stored and presumed and sent is None and not own and not met:
            # Of what was found in the archive by its UID nothing was ever compared: one copy is as good as another.
            same = True
        if not own and sound and kind == FileKind.INSTANCE and not unread and (met or not (unsent or same)):
            if proof:
                self._record(key, file, FileKind.DUPLICATE, _SAME_BYTES, instance)
                return instance, False
            return Twin(item, instance, os.fsdecode(path))
        if not own and sound:
            # The other copy cannot be read, or this run has not met it: should it be there, it is looked into again.
            self._db.execute("DELETE FROM unread WHERE instance = ?", (instance,))
            if met:
                self._db.execute(
                    "UPDATE file SET kind = 'UNREADABLE', reason = coalesce(reason, ?), instance = NULL, "
                    "lacked_by = ?, lacked_uid = ? WHERE key = ?",
                    (trouble, session, item.sop_uid, other),
                )
            else:
                self._db.execute("DELETE FROM file WHERE key = ?", (other,))
        again = resend_changed and own and carries and stored and not same and self._is_at_its_end(session)
        if stored and not same and not again:
            key = self._record(key, file, FileKind.SKIPPED, _CHANGED if own and carries else _ELSEWHERE, instance)
        else:
            known = unproven(file) if stored and same and not proven else facts_of(file)
            key = self._record(key, file, FileKind.INSTANCE, None, instance, known)
        self._db.execute("UPDATE instance SET file = ? WHERE key = ?", (key, instance))
        waits = unsent or again or (state == "REFUSED" and not same)
        if waits:
            self._db.execute(
                "UPDATE instance SET state = 'PENDING', reason = NULL, refusal = NULL, "
                # Its UID in the archive will prove nothing of the new version.
                "presumed = iif(?, 1, presumed), modality = coalesce(?, modality) WHERE key = ?",
                (again, item.modality, instance),
            )
            if own and carries and not same:
                self._look_at_copies_again(instance)
        return instance, waits

    def _look_at_copies_again(self, instance: int) -> None:
        """Let copies of a file that has changed be compared with what it holds now, in this run or in the next."""
        self._db.execute(
            "DELETE FROM file WHERE instance = ? AND kind = 'DUPLICATE' AND key NOT IN (SELECT file FROM scope)",
            (instance,),
        )
        self._db.execute(
            "UPDATE file SET kind = 'UNREADABLE', reason = ?, instance = NULL "
            "WHERE instance = ? AND kind = 'DUPLICATE'",
            (_COPY_OF_CHANGED, instance),
        )

    def _is_at_its_end(self, session: int) -> bool:
        """Whether all deliveries of a session have come to their end, so that a new one may follow."""
        return not self._db.execute(
            "SELECT 1 FROM delivery WHERE session = ? AND state NOT IN ('ARCHIVED', 'BUILT', 'DELETED')", (session,)
        ).fetchone()

    def _orphan(self, instance: int, trouble: str | None) -> None:
        """Look for another copy of an instance whose file cannot be read any more, or now holds something else."""
        session, state, flies = self._one(
            "SELECT session, state, EXISTS (SELECT 1 FROM flying WHERE session = i.session AND instance = i.key) "
            "FROM instance i WHERE key = ?",
            (instance,),
        )
        # What is on its way is settled when its outcome comes in.
        if state not in {"PENDING", "FAILED"} or flies:
            return
        why = trouble or "its file now holds something else"
        if not self._promote(instance, session, why):
            self._fail(instance, why)
            self._db.execute("DELETE FROM waiting WHERE session = ? AND instance = ?", (session, instance))

    def _fail(self, instance: int, reason: str) -> None:
        self._db.execute(
            "UPDATE instance SET state = 'FAILED', reason = ?, run = ? WHERE key = ?", (reason, self.run, instance)
        )

    def _promote(self, instance: int, session: int, why: str) -> bool:
        """Let a duplicate stand in for the copy that cannot be read, and wait to be sent; whether there was one."""
        row = self._db.execute(
            "SELECT f.key FROM file f JOIN scope ON scope.file = f.key "
            "WHERE f.instance = ? AND f.kind = 'DUPLICATE' ORDER BY f.key LIMIT 1",
            (instance,),
        ).fetchone()
        if row is None:
            return False
        self._db.execute(
            "UPDATE file SET kind = 'UNREADABLE', reason = ?1, instance = NULL, lacked_by = ?3, "
            "lacked_uid = (SELECT sop_uid FROM instance WHERE key = ?2) "
            "WHERE key = (SELECT file FROM instance WHERE key = ?2) AND instance = ?2",
            (why, instance, session),
        )
        self._db.execute("UPDATE file SET kind = 'INSTANCE', reason = NULL WHERE key = ?", row)
        self._db.execute(
            "UPDATE instance SET file = ?, state = 'PENDING', reason = NULL WHERE key = ?", (row[0], instance)
        )
        self._db.execute("DELETE FROM unread WHERE instance = ?", (instance,))
        self._wait([(session, instance)])
        return True

    def _stand_in(self) -> None:
        """Send from duplicates what lost its file before the scan had met them, in this run or in an earlier one."""
        for instance, session, reason in self._db.execute(
            "SELECT DISTINCT i.key, i.session, i.reason FROM file d JOIN scope ON scope.file = d.key "
            "JOIN instance i ON i.key = d.instance WHERE d.kind = 'DUPLICATE' AND i.state = 'FAILED' AND "
            "(i.key IN (SELECT instance FROM unread) OR NOT EXISTS "
            "(SELECT 1 FROM file f WHERE f.key = i.file AND f.instance = i.key AND f.kind = 'INSTANCE'))"
        ).fetchall():
            self._promote(instance, session, reason)

    def _assign_damaged(self) -> None:
        """Note which session lacks a damaged file: the one its header names, else the only one in its directory."""
        self._db.execute(
            "UPDATE file SET (lacked_by, lacked_uid) = (SELECT s.key, l.sop_uid FROM lacked l JOIN session s "
            "ON s.project = l.project AND s.study_uid = l.study_uid WHERE l.file = file.key) "
            "WHERE kind IN ('UNREADABLE', 'EXCLUDED') AND key IN (SELECT file FROM lacked WHERE project IS NOT NULL)"
        )
        owners: dict[str, int | None] = {}
        for file, raw in self._db.execute(
            "SELECT f.key, f.path FROM lacked l JOIN file f ON f.key = l.file "
            "WHERE l.project IS NULL AND f.kind = 'UNREADABLE' AND f.instance IS NULL AND f.lacked_by IS NULL"
        ).fetchall():
            directory = os.path.dirname(os.fsdecode(raw))  # noqa: PTH120 - the path need not be text
            if directory not in owners:
                owners[directory] = self._only_session_below(directory)
            self._db.execute("UPDATE file SET lacked_by = ? WHERE key = ?", (owners[directory], file))

    def _only_session_below(self, directory: str) -> int | None:
        found = self._db.execute(
            "SELECT DISTINCT i.session FROM file f JOIN instance i ON i.key = f.instance "
            "WHERE f.path >= ? AND f.path < ? AND f.kind = 'INSTANCE' LIMIT 2",
            below(directory),
        ).fetchall()
        return found[0][0] if len(found) == 1 else None

    def _is_disputed(self, session: int) -> bool:
        """Whether a file was met that gives the study of a session to another patient, or to another session."""
        return self._one(f"SELECT {DISPUTED.format('?')}", (session,)) == (1,)

    def _lacking(self, session: int) -> tuple[int, int, int]:
        """Return how many files of the session have failed, were refused, and are not sent and stand nowhere else."""
        failed, refused, unsent = self._one(_LACKING, {"session": session})
        return failed, refused, unsent

    def _vanished(self, root: str) -> tuple[int, int]:
        """Count the known files below `root` that this run did not meet; fail what of them was not sent."""
        bounds = below(root)
        # What could not be read and is there no more is lacked by nobody.
        self._db.execute(
            # +: from the few that are lacked, not from all files there ever were.
            "UPDATE file SET lacked_by = NULL WHERE +path >= ? AND +path < ? AND lacked_by IS NOT NULL "
            "AND key NOT IN (SELECT file FROM scope)",
            bounds,
        )
        rows = self._db.execute(
            "SELECT f.key, i.key, i.session, i.state, f.path FROM file f JOIN instance i ON i.key = f.instance "
            "WHERE f.path >= ? AND f.path < ? AND f.kind IN ('INSTANCE', 'UNREADABLE') "
            "AND f.key NOT IN (SELECT file FROM scope)",
            bounds,
        ).fetchall()
        if rows:
            # What lies beyond a link that is not followed today is there all the same.
            links = tuple(
                link + os.fsencode(os.sep)
                for (link,) in self._db.execute(
                    "SELECT f.path FROM scope JOIN file f ON f.key = scope.file WHERE f.kind = 'LINK'"
                )
            )
            rows = [row[:4] for row in rows if not row[4].startswith(links)]
        unsent = 0
        for file, instance, session, state in rows:
            if state in {"PENDING", "FAILED"}:
                if self._promote(instance, session, "gone"):
                    continue
                unsent += 1
                self._fail(instance, "the file is gone")
                # It counts among this run's files: it was to be sent and is not there.
                self._db.execute("UPDATE file SET kind = 'INSTANCE', reason = NULL WHERE key = ?", (file,))
                self._passes(file)
        return len(rows), unsent

    def _conclude(self, session: int, take_up: Sequence[str]) -> bool:
        """Make the session ready for finalising if nothing of it is to be sent; whether it is ready now."""
        row = self._db.execute(
            "SELECT key, state, uri FROM delivery WHERE session = ? ORDER BY number DESC LIMIT 1", (session,)
        ).fetchone()
        if row is None:
            # Nothing of it has been sent yet.
            return False
        if self._is_barred(session) or session in self.waits or session in self._undecided:
            return False
        key, state, uri = row
        disputed = self._is_disputed(session)
        if state == "HELD" and state in take_up and not disputed:
            if uri is not None:
                # What waits goes into the next delivery, once this one is through.
                self._db.execute("DELETE FROM waiting WHERE session = ?", (session,))
                self._db.execute("INSERT OR IGNORE INTO ready VALUES (?)", (key,))
                return True
            # XNAT has nothing of it: it begins anew.
            self._db.execute("DELETE FROM delivery WHERE key = ?", (key,))
            self._wait_again(session)
        (busy,) = self._one(
            "SELECT EXISTS (SELECT 1 FROM waiting WHERE session = ?1) "
            "OR EXISTS (SELECT 1 FROM flying WHERE session = ?1)",
            (session,),
        )
        if busy:
            return False
        (pending,) = self._one(
            "SELECT EXISTS (SELECT 1 FROM instance WHERE session = ? AND state = 'PENDING')", (session,)
        )
        lacking = pending or disputed or (any(self._lacking(session)) and not self._partial)
        if state in take_up and state != "HELD" and uri is not None and not lacking:
            self._db.execute("UPDATE delivery SET reason = NULL WHERE key = ?", (key,))
            self._db.execute("INSERT OR IGNORE INTO ready VALUES (?)", (key,))
            return True
        # It stays open for the next run, and must not keep others from beginning.
        self._db.execute("DELETE FROM begun WHERE session = ?", (session,))
        return False


def below(directory: str) -> tuple[bytes, bytes]:
    """Return the bounds of all paths below a directory: they sort between "dir/" and "dir0", the character after."""
    low = os.fsencode(os.path.join(directory, ""))  # noqa: PTH118 - pathlib cannot end a path in a separator
    return low, low[:-1] + bytes([low[-1] + 1])
