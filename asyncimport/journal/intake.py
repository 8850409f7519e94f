"""The journal during the scan: what the files are, and which of them wait to be sent."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asyncimport.journal.database import translated
from asyncimport.journal.store import Store
from asyncimport.model import File, FileKind, Ignored, Instance, Session

__all__ = ["Admission", "Gone", "Intake", "Twin"]

# SQLite sorts the rows of an open session together; more sessions than this are looked up again.
_SESSIONS_REMEMBERED = 2_000

_CHANGED = "changed on disk after XNAT stored it; the new bytes were not sent"


@dataclass(frozen=True, slots=True)
class Twin:
    """A file that carries an instance the journal knows from another file; whether the bytes agree is not known yet."""

    instance: Instance
    key: int
    other: str


@dataclass(frozen=True, slots=True)
class Admission:
    """What came of a batch: files to look into, files that are twins, and how much waits to be sent now."""

    unknown: list[File]
    twins: list[Twin]
    files: int
    size: int
    sessions: int


@dataclass(frozen=True, slots=True)
class Gone:
    """Files that an earlier run found in the same place: in all, and those that had not been stored."""

    files: int
    unsent: int


class Intake(Store):
    """Files in."""

    def recall(self, files: Sequence[File], *, retry_refused: bool = False) -> Admission:
        """Pass the files that are known and unchanged; what is left to send of them waits again.

        The others are returned as `unknown`, to be looked into and admitted.
        """
        unknown: list[File] = []
        known: list[tuple[int]] = []
        reset: list[tuple[int]] = []
        waiting: list[tuple[int, int]] = []
        size = 0
        with self._transaction():
            for file in files:
                row = self._db.execute(
                    "SELECT f.key, f.size, f.mtime_ns, f.kind, i.key, i.session, i.state FROM file f "
                    "LEFT JOIN instance i ON i.key = f.instance WHERE f.path = ?",
                    (os.fsencode(file.path),),
                ).fetchone()
                if row is None or row[1] != file.size or row[2] != file.mtime_ns or row[3] == FileKind.UNREADABLE:
                    unknown.append(file)
                    continue
                key, _, _, kind, instance, session, state = row
                known.append((key,))
                if kind == FileKind.INSTANCE:
                    if state == "FAILED" or (state == "REFUSED" and retry_refused):
                        reset.append((instance,))
                        state = "PENDING"
                    if state == "PENDING":
                        waiting.append((session, instance))
                        size += file.size
            self._db.executemany("INSERT OR IGNORE INTO scope VALUES (?)", known)
            self._db.executemany("UPDATE instance SET state = 'PENDING', reason = NULL WHERE key = ?", reset)
            self._wait(waiting)
        return Admission(unknown, [], len(waiting), size, len({session for session, _ in waiting}))

    def admit(self, batch: Sequence[Instance | Ignored]) -> Admission:
        """Record what the files are, and let new instances wait to be sent.

        An instance whose study, label or identity collides with one met before is not admitted: a collision of
        labels is recorded as SKIPPED with its reason, the same SOPInstanceUID in another file is returned as a twin.
        """
        twins: list[Twin] = []
        waiting: list[tuple[int, int]] = []
        size = 0
        with self._transaction():
            for item in batch:
                if isinstance(item, Ignored):
                    self._record(item.file, item.kind, item.reason, item.duplicate_of)
                    continue
                session = self._session(item.session)
                if isinstance(session, str):
                    self._record(item.file, FileKind.SKIPPED, session, None)
                    continue
                row = self._db.execute(
                    "SELECT i.key, f.path FROM instance i JOIN file f ON f.key = i.file "
                    "WHERE i.session = ? AND i.sop_uid = ?",
                    (session, item.sop_uid),
                ).fetchone()
                if row is None:
                    instance = self._new(item, session)
                elif os.fsdecode(row[1]) == item.file.path:
                    instance = row[0]
                    if not self._refreshed(item.file, instance):
                        continue
                else:
                    twins.append(Twin(item, row[0], os.fsdecode(row[1])))
                    continue
                waiting.append((session, instance))
                size += item.file.size
            self._wait(waiting)
        return Admission([], twins, len(waiting), size, len({session for session, _ in waiting}))

    def finish_scan(self, roots: Iterable[str], *, archive_built: bool, retry_held: bool) -> Gone:
        """Note that the walk is at its end: sessions with nothing left to send become ready for finalising.

        `roots` are the sources; what was known below them and was not met again is gone. `archive_built` takes up
        the sessions that an earlier run left in the prearchive, `retry_held` those that XNAT would not archive.
        """
        gone = unsent = 0
        take_up = ["OPEN", *(["BUILT"] if archive_built else []), *(["HELD"] if retry_held else [])]
        with self._transaction():
            for root in roots:
                counts = self._vanished(root)
                gone, unsent = gone + counts[0], unsent + counts[1]
            self._scan_finished = True
            marks = ", ".join("?" * len(take_up))
            sessions = self._db.execute(
                f"SELECT DISTINCT d.session FROM delivery d WHERE d.state IN ({marks}) AND EXISTS "  # noqa: S608 - only marks
                "(SELECT 1 FROM instance i JOIN scope ON scope.file = i.file WHERE i.session = d.session)",
                take_up,
            ).fetchall()
            for (session,) in sessions:
                self._conclude(session, take_up)
        return Gone(gone, unsent)

    def collisions(self) -> list[tuple[str, int]]:
        """Return the reasons for which files of this run's sources were skipped, each with their number."""
        with translated(self.path):
            return self._db.execute(
                "SELECT f.reason, count(*) FROM scope JOIN file f ON f.key = scope.file "
                "WHERE f.kind = 'SKIPPED' GROUP BY f.reason ORDER BY f.reason"
            ).fetchall()

    def _wait(self, waiting: Iterable[tuple[int, int]]) -> None:
        # A file that is met twice in one run (overlapping sources) may be on its way already.
        self._db.executemany(
            "INSERT OR IGNORE INTO waiting SELECT ?1, ?2 WHERE NOT EXISTS "
            "(SELECT 1 FROM flying WHERE session = ?1 AND instance = ?2)",
            waiting,
        )

    def _session(self, session: Session) -> int | str:
        """Return the session's key, or the reason why this study cannot have its labels."""
        known = self._sessions.get((session.project, session.study_uid))
        key: int
        if known is None:
            row = self._db.execute(
                "SELECT key, subject, label FROM session WHERE project = ? AND study_uid = ?",
                (session.project, session.study_uid),
            ).fetchone()
            if row is None:
                owner = self._db.execute(
                    "SELECT study_uid FROM session WHERE project = ? AND label = ? COLLATE NOCASE",
                    (session.project, session.label),
                ).fetchone()
                if owner is not None:
                    return (
                        f"study {session.study_uid}: the session label {session.label} belongs to study "
                        f"{owner[0]} already"
                    )
                key = self._insert(
                    "INSERT INTO session (project, subject, label, study_uid) VALUES (?, ?, ?, ?)",
                    (session.project, session.subject, session.label, session.study_uid),
                )
                known = (key, session)
            else:
                known = (row[0], Session(session.project, row[1], row[2], session.study_uid))
            if len(self._sessions) >= _SESSIONS_REMEMBERED:
                self._sessions.clear()
            self._sessions[session.project, session.study_uid] = known
        key, first = known
        if first != session:
            return (
                f"study {session.study_uid} goes to subject {first.subject}, session {first.label}; by this file's "
                f"header it would go to subject {session.subject}, session {session.label}"
            )
        return key

    def _record(self, file: File, kind: FileKind, reason: str | None, instance: int | None) -> int:
        """Write the file's row and return its key; an instance that the path carried before is orphaned."""
        key: int
        path = os.fsencode(file.path)
        row = self._db.execute("SELECT key, instance, kind FROM file WHERE path = ?", (path,)).fetchone()
        if row is None:
            key = self._next_key
            self._next_key += 1
            self._db.execute(
                "INSERT INTO file VALUES (?, ?, ?, ?, ?, ?, ?)",
                (key, path, file.size, file.mtime_ns, kind, reason, instance),
            )
        else:
            key = row[0]
            self._db.execute(
                "UPDATE file SET size = ?, mtime_ns = ?, kind = ?, reason = ?, instance = ? WHERE key = ?",
                (file.size, file.mtime_ns, kind, reason, instance, key),
            )
            if row[2] == FileKind.INSTANCE and row[1] != instance:
                self._orphan(row[1])
        self._db.execute("INSERT OR IGNORE INTO scope VALUES (?)", (key,))
        return key

    def _new(self, item: Instance, session: int) -> int:
        # The instance takes the next free key of the files, so that each row can name the other from the start.
        instance: int = self._next_key
        (taken,) = self._one("SELECT EXISTS (SELECT 1 FROM file WHERE path = ?)", (os.fsencode(item.file.path),))
        if taken:
            self._next_key += 1
        key = self._record(item.file, FileKind.INSTANCE, None, instance)
        self._db.execute(
            "INSERT INTO instance (key, session, sop_uid, series_uid, file) VALUES (?, ?, ?, ?, ?)",
            (instance, session, item.sop_uid, item.series_uid, key),
        )
        return instance

    def _refreshed(self, file: File, instance: int) -> bool:
        """Note new size and time of a known instance's own file; whether the instance now waits to be sent."""
        (state,) = self._one("SELECT state FROM instance WHERE key = ?", (instance,))
        if state == "STORED":
            self._record(file, FileKind.SKIPPED, _CHANGED, instance)
            return False
        self._record(file, FileKind.INSTANCE, None, instance)
        self._db.execute("UPDATE instance SET state = 'PENDING', reason = NULL WHERE key = ?", (instance,))
        return True

    def _orphan(self, instance: int) -> None:
        """Look for another copy of an instance whose file now holds something else."""
        row = self._db.execute("SELECT session, state FROM instance WHERE key = ?", (instance,)).fetchone()
        if row is None or row[1] != "PENDING":
            return
        if not self._promote(instance):
            self._db.execute(
                "UPDATE instance SET state = 'FAILED', reason = 'its file now holds something else', run = ? "
                "WHERE key = ?",
                (self.run, instance),
            )
            self._db.execute("DELETE FROM waiting WHERE session = ? AND instance = ?", (row[0], instance))

    def _promote(self, instance: int) -> bool:
        """Let a duplicate stand in for the copy that cannot be read; whether there was one."""
        row = self._db.execute(
            "SELECT f.key FROM file f JOIN scope ON scope.file = f.key "
            "WHERE f.instance = ? AND f.kind = 'DUPLICATE' ORDER BY f.key LIMIT 1",
            (instance,),
        ).fetchone()
        if row is None:
            return False
        self._db.execute("UPDATE file SET kind = 'INSTANCE', reason = NULL WHERE key = ?", row)
        self._db.execute("UPDATE instance SET file = ? WHERE key = ?", (row[0], instance))
        return True

    def _vanished(self, root: str) -> tuple[int, int]:
        """Count the known files below `root` that this run did not meet; fail what of them was not sent."""
        # All paths below a directory sort between "dir/" and "dir0", the character after "/".
        low = os.fsencode(os.path.join(root, ""))  # noqa: PTH118 - pathlib cannot end a path in a separator
        high = low[:-1] + bytes([low[-1] + 1])
        below = "f.path >= ? AND f.path < ? AND f.kind = 'INSTANCE' AND f.key NOT IN (SELECT file FROM scope)"
        rows = self._db.execute(
            f"SELECT f.key, i.key, i.session, i.state FROM file f JOIN instance i ON i.key = f.instance WHERE {below}",  # noqa: S608 - fixed text
            (low, high),
        ).fetchall()
        unsent = 0
        for file, instance, session, state in rows:
            if state in {"PENDING", "FAILED"}:
                if self._promote(instance):
                    self._db.execute("UPDATE file SET kind = 'UNREADABLE', reason = 'gone' WHERE key = ?", (file,))
                    self._db.execute("UPDATE instance SET state = 'PENDING', reason = NULL WHERE key = ?", (instance,))
                    self._wait([(session, instance)])
                    continue
                unsent += 1
                self._db.execute(
                    "UPDATE instance SET state = 'FAILED', reason = 'the file is gone', run = ? WHERE key = ?",
                    (self.run, instance),
                )
                # It counts among this run's files: it was to be sent and is not there.
                self._db.execute("INSERT OR IGNORE INTO scope VALUES (?)", (file,))
        return len(rows), unsent

    def _conclude(self, session: int, take_up: Sequence[str]) -> bool:
        """Make the session ready for finalising if nothing of it is to be sent; whether it is ready now."""
        key, state, uri = self._one(
            "SELECT key, state, uri FROM delivery WHERE session = ? ORDER BY number DESC LIMIT 1", (session,)
        )
        if state == "HELD" and state in take_up and uri is not None:
            # What waits goes into the next delivery, once this one is through.
            self._db.execute("DELETE FROM waiting WHERE session = ?", (session,))
            self._db.execute("INSERT OR IGNORE INTO parked VALUES (?)", (session,))
            self._db.execute("INSERT OR IGNORE INTO ready VALUES (?)", (key,))
            return True
        (busy,) = self._one(
            "SELECT EXISTS (SELECT 1 FROM waiting WHERE session = ?1) "
            "OR EXISTS (SELECT 1 FROM flying WHERE session = ?1)",
            (session,),
        )
        if busy:
            return False
        (lacking,) = self._one(
            "SELECT EXISTS (SELECT 1 FROM instance WHERE session = ? AND state IN ('PENDING', 'FAILED'))",
            (session,),
        )
        if state in take_up and uri is not None and not lacking:
            self._db.execute("INSERT OR IGNORE INTO ready VALUES (?)", (key,))
            return True
        # It stays open for the next run, and must not keep others from beginning.
        self._db.execute("DELETE FROM begun WHERE session = ?", (session,))
        return False
