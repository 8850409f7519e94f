"""The journal's record of each file: what it is, which instance it carries, and its copies."""

import os
from collections.abc import Collection

from asyncimport.journal.connection import Connection, CurrentRun
from asyncimport.journal.rows import FileColumns, columns_of, columns_without_inode, digest_of, is_same_file
from asyncimport.journal.session_state import SessionState, is_sent_again
from asyncimport.model.files import Digest, File, Instance
from asyncimport.model.record import record
from asyncimport.model.states import FileKind

_CHANGED = "changed on disk after XNAT stored it; the new bytes were not sent"
_ELSEWHERE = "XNAT holds this instance already, sent from a file that cannot be compared any more"
_OTHER_BYTES = "XNAT holds this instance ({}) already, sent from a file with other bytes"
_SAME_BYTES = "the same bytes as another file"
_COPY_OF_CHANGED = "it was the copy of a file that has changed since; the next run compares them anew"


@record
class SopUidConflict:
    """A file with the UID of a known instance (`key`): compare it with the digest `sent`, or else the file `other`."""

    instance: Instance
    key: int
    other: str
    sent: Digest | None = None


@record
class _KnownInstance:
    """An instance that the journal knows, and the file on record for it: the one that was sent, or is to be sent.

    `sent` is the digest of what XNAT acknowledged, if there is one, and `stored_at` when that was. `is_presumed`: the
    archive has its UID, but nothing proves which bytes. `is_unreadable`: this run could not read the file to send it.
    `has_uid`: the file had the UID of the instance when it was last met. `in_scope`: this run has met the file.
    """

    sent: Digest | None
    columns: FileColumns
    key: int
    state: str
    reason: str | None
    stored_at: float | None
    is_presumed: bool
    is_unreadable: bool
    file: int
    path: bytes
    kind: str
    has_uid: bool
    in_scope: bool

    @property
    def is_stored(self) -> bool:
        """Whether XNAT has it."""
        return self.state == "STORED"

    @property
    def is_unsent(self) -> bool:
        """Whether it is to be sent."""
        return self.state in {"PENDING", "FAILED"}

    @property
    def has_source(self) -> bool:
        """Whether the file held what was sent, or is to be sent, when it was last met."""
        return self.has_uid and self.kind in {FileKind.INSTANCE, FileKind.UNREADABLE}

    def resembles(self, file: File, *, is_own: bool, is_compared: bool) -> bool:
        """Whether to take a file with its UID for the file on record, without proof; `is_own`: it has the same path."""
        if self.is_stored and self.is_presumed and self.sent is None and not is_own and not self.in_scope:
            # Its bytes were never compared, and there is nothing to compare with: any copy will do.
            return True
        if is_compared or not self.has_source or (is_own and not self.is_stored):
            return False
        # A file that was moved or restored has the same size and mtime.
        return self.columns[:2] == (file.size, str(file.mtime_ns))


class FileRecords:
    """Writes the rows of files, and decides which copy of an instance is sent."""

    def __init__(self, connection: Connection, run: CurrentRun, state: SessionState) -> None:
        self._connection = connection
        self._db = connection.db
        self._run = run.key
        self._state = state

    def record(
        self,
        key: int,
        file: File,
        kind: FileKind,
        reason: str | None,
        instance: int | None,
        columns: FileColumns | None = None,
    ) -> int:
        """Write the row of a file and return its key (`key` if new), keeping what is known of an unreadable file."""
        path = os.fsencode(file.path)
        columns = columns or columns_of(file)
        row = self._db.execute("SELECT key, instance, kind, missing_from FROM file WHERE path = ?", (path,)).fetchone()
        if row is None:
            self._db.execute(
                "INSERT INTO file (key, path, size, mtime_ns, inode, ctime_ns, kind, reason, instance) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (key, path, *columns, kind, reason, instance),
            )
        elif (row[2] == FileKind.INSTANCE and kind in {FileKind.EXCLUDED, FileKind.LINK}) or (
            row[3] is not None and kind == FileKind.LINK
        ):
            # This run does not ask for it; what an earlier run made of it stands.
            key = row[0]
        else:
            key = row[0]
            if kind == FileKind.UNREADABLE and row[1] is not None and row[2] in {FileKind.INSTANCE, kind}:
                self._db.execute("UPDATE file SET kind = ?, reason = ? WHERE key = ?", (kind, reason, key))
            else:
                self._db.execute(
                    "UPDATE file SET size = ?1, mtime_ns = ?2, inode = ?3, ctime_ns = ?4, kind = ?5, reason = ?6, "
                    # Keep what it carried when it could be read.
                    "missing_from = iif(?5 = 'UNREADABLE' AND missing_uid IS NOT NULL, missing_from, NULL), "
                    "instance = ?7 WHERE key = ?8",
                    (*columns, kind, reason, instance, key),
                )
            if row[2] == FileKind.INSTANCE and row[1] != instance:
                self._replace_source(row[1], reason if kind == FileKind.UNREADABLE else None)
        self.add_to_scope(key)
        return key

    def add_to_scope(self, file: int) -> None:
        """Count a file among those of this run."""
        self._db.execute("INSERT OR IGNORE INTO scope VALUES (?)", (file,))

    def resolve(
        self, key: int, item: Instance, session: int, *, resend_changed: bool, proof: bool | None
    ) -> SopUidConflict | tuple[int, bool]:
        """Record a file that may carry a known instance; return the instance's key and whether to send this file.

        Return the conflict, and record nothing, if bytes are to be compared; `proof` says whether it has those sent.
        """
        file, known = item.file, self._find_instance(session, item.sop_uid)
        if known is None:
            self._add_instance(key, item, session)
            return key, True
        is_own = known.path == os.fsencode(file.path)
        is_proven = known.has_source and is_same_file(known.columns, file, known.stored_at)
        if is_own and is_proven and known.in_scope and known.kind == FileKind.INSTANCE:
            return known.key, False
        if known.is_stored and not is_proven and known.sent is not None:
            if proof is None:
                return SopUidConflict(item, known.key, os.fsdecode(known.path), known.sent)
            if not proof and not is_own:
                self.record(key, file, FileKind.SKIPPED, _OTHER_BYTES.format(item.sop_uid), None)
                return known.key, False
            is_proven = proof
        is_same = is_proven or known.resembles(file, is_own=is_own, is_compared=proof is not None)
        if not is_own and known.has_source:
            is_readable = known.kind == FileKind.INSTANCE and not known.is_unreadable
            if is_readable and (known.in_scope or not (known.is_unsent or is_same)):
                if not proof:
                    return SopUidConflict(item, known.key, os.fsdecode(known.path))
                self.record(key, file, FileKind.DUPLICATE, _SAME_BYTES, known.key)
                return known.key, False
            self._drop_source(known, session, item.sop_uid)
        has_changed = is_own and known.has_uid and not is_same
        resend = resend_changed and has_changed and known.is_stored and self._has_ended(session)
        if known.is_stored and not is_same and not resend:
            key = self.record(key, file, FileKind.SKIPPED, _CHANGED if has_changed else _ELSEWHERE, known.key)
        else:
            is_unproven = known.is_stored and is_same and not is_proven
            columns = columns_without_inode(file) if is_unproven else columns_of(file)
            key = self.record(key, file, FileKind.INSTANCE, None, known.key, columns)
        self._db.execute("UPDATE instance SET file = ? WHERE key = ?", (key, known.key))
        to_send = known.is_unsent or resend or (known.state == "REFUSED" and not is_same)
        if to_send:
            self._db.execute(
                "UPDATE instance SET state = 'PENDING', reason = NULL, refusal = NULL, "
                # Its UID in the archive proves nothing about the new version.
                "presumed = iif(?, 1, presumed), modality = coalesce(?, modality) WHERE key = ?",
                (resend, item.modality, known.key),
            )
            if has_changed:
                self._recheck_copies(known.key)
        return known.key, to_send

    def _find_instance(self, session: int, sop_uid: str) -> _KnownInstance | None:
        row = self._db.execute(
            "SELECT i.sha256, i.xxh3, f.size, f.mtime_ns, f.inode, f.ctime_ns, i.key, i.state, i.reason, "
            "iif(i.state = 'STORED', i.settled_at, NULL), i.presumed, i.key IN (SELECT instance FROM unreadable), "
            "f.key, f.path, f.kind, f.instance = i.key, f.key IN (SELECT file FROM scope) "
            "FROM instance i LEFT JOIN file f ON f.key = i.file WHERE i.session = ? AND i.sop_uid = ?",
            (session, sop_uid),
        ).fetchone()
        if row is None:
            return None
        sha256, xxh3, size, mtime_ns, inode, ctime_ns, *others = row
        return _KnownInstance(digest_of(sha256, xxh3), (size, mtime_ns, inode, ctime_ns), *others)

    def _add_instance(self, key: int, item: Instance, session: int) -> None:
        file = self.record(key, item.file, FileKind.INSTANCE, None, key)
        self._db.execute(
            "INSERT INTO instance (key, session, sop_uid, series_uid, file, modality) VALUES (?, ?, ?, ?, ?, ?)",
            (key, session, item.sop_uid, item.series_uid, file, item.modality),
        )

    def _drop_source(self, known: _KnownInstance, session: int, sop_uid: str) -> None:
        """Take an instance from its file, which cannot be read, or which this run has not met."""
        self._db.execute("DELETE FROM unreadable WHERE instance = ?", (known.key,))
        if known.in_scope:
            # It carries nothing that can be read, and its session misses that.
            self._db.execute(
                "UPDATE file SET kind = 'UNREADABLE', reason = coalesce(reason, ?), instance = NULL, "
                "missing_from = ?, missing_uid = ? WHERE key = ?",
                (known.reason, session, sop_uid, known.file),
            )
        else:
            # If it exists, the scan reads it again.
            self._db.execute("DELETE FROM file WHERE key = ?", (known.file,))

    def _recheck_copies(self, instance: int) -> None:
        """Forget the copies of an instance whose file has changed: they are compared anew."""
        self._db.execute(
            "DELETE FROM file WHERE instance = ? AND kind = 'DUPLICATE' AND key NOT IN (SELECT file FROM scope)",
            (instance,),
        )
        self._db.execute(
            "UPDATE file SET kind = 'UNREADABLE', reason = ?, instance = NULL "
            "WHERE instance = ? AND kind = 'DUPLICATE'",
            (_COPY_OF_CHANGED, instance),
        )

    def _has_ended(self, session: int) -> bool:
        """Whether all deliveries of a session have ended, so that a new one may follow."""
        query = "SELECT 1 FROM delivery WHERE session = ? AND state NOT IN ('ARCHIVED', 'BUILT', 'DELETED')"
        return not self._connection.exists(query, (session,))

    def _replace_source(self, instance: int, reason: str | None) -> None:
        """Find another copy of an instance whose file is unreadable now, or holds something else."""
        session, state, in_flight = self._connection.one(
            "SELECT session, state, EXISTS (SELECT 1 FROM in_flight WHERE session = i.session AND instance = i.key) "
            "FROM instance i WHERE key = ?",
            (instance,),
        )
        # Its outcome decides about an instance in flight.
        if state not in {"PENDING", "FAILED"} or in_flight:
            return
        why = reason or "its file now holds something else"
        if not self.use_duplicate(instance, session, why):
            self.fail(instance, why)
            self._db.execute("DELETE FROM queued WHERE session = ? AND instance = ?", (session, instance))

    def fail(self, instance: int, reason: str) -> None:
        """Record that an instance cannot be sent."""
        self._db.execute(
            "UPDATE instance SET state = 'FAILED', reason = ?, run = ? WHERE key = ?", (reason, self._run, instance)
        )

    def use_duplicate(self, instance: int, session: int, why: str) -> bool:
        """Queue a duplicate in place of an unreadable copy, for the reason `why`; whether there is one."""
        row = self._db.execute(
            "SELECT f.key FROM file f JOIN scope ON scope.file = f.key "
            "WHERE f.instance = ? AND f.kind = 'DUPLICATE' ORDER BY f.key LIMIT 1",
            (instance,),
        ).fetchone()
        if row is None:
            return False
        self._db.execute(
            "UPDATE file SET kind = 'UNREADABLE', reason = ?1, instance = NULL, missing_from = ?3, "
            "missing_uid = (SELECT sop_uid FROM instance WHERE key = ?2) "
            "WHERE key = (SELECT file FROM instance WHERE key = ?2) AND instance = ?2",
            (why, instance, session),
        )
        self._db.execute("UPDATE file SET kind = 'INSTANCE', reason = NULL WHERE key = ?", row)
        self._db.execute(
            "UPDATE instance SET file = ?, state = 'PENDING', reason = NULL WHERE key = ?", (row[0], instance)
        )
        self._db.execute("DELETE FROM unreadable WHERE instance = ?", (instance,))
        self._state.enqueue([(session, instance)])
        return True

    def prefer_met_copies(self, *, retry_refused: bool) -> None:
        """Take copies that this run has met for the files of instances that it has not met: these may be gone.

        What became of the instance is what became of the copy, and is left to do for it.
        """
        for copy, other, instance, session, state, refusal in self._db.execute(
            "SELECT min(d.key), i.file, i.key, i.session, i.state, i.refusal FROM file d "
            "JOIN scope ON scope.file = d.key JOIN instance i ON i.key = d.instance "
            "WHERE d.kind = 'DUPLICATE' AND i.file NOT IN (SELECT file FROM scope) GROUP BY i.key"
        ).fetchall():
            carrier = other, instance
            self._db.execute(
                "UPDATE file SET kind = 'DUPLICATE' WHERE key = ? AND instance = ? AND kind = 'INSTANCE'", carrier
            )
            # If it exists, the next scan reads it again.
            self._db.execute("DELETE FROM file WHERE key = ? AND instance = ? AND kind = 'UNREADABLE'", carrier)
            self._db.execute("UPDATE file SET kind = 'INSTANCE', reason = NULL WHERE key = ?", (copy,))
            self._db.execute("UPDATE instance SET file = ? WHERE key = ?", (copy, instance))
            if session in self._state.postponed:
                continue
            if is_sent_again(state, refusal, retry_refused=retry_refused):
                state = "PENDING"
                self._db.execute(
                    "UPDATE instance SET state = 'PENDING', reason = NULL, refusal = NULL WHERE key = ?", (instance,)
                )
            if state == "PENDING":
                self._state.enqueue([(session, instance)])

    def use_copies(self) -> None:
        """Queue duplicates of instances that lost their file before the scan met these duplicates."""
        for instance, session, reason in self._db.execute(
            "SELECT DISTINCT i.key, i.session, i.reason FROM file d JOIN scope ON scope.file = d.key "
            "JOIN instance i ON i.key = d.instance WHERE d.kind = 'DUPLICATE' AND i.state = 'FAILED' AND "
            "(i.key IN (SELECT instance FROM unreadable) OR NOT EXISTS "
            "(SELECT 1 FROM file f WHERE f.key = i.file AND f.instance = i.key AND f.kind = 'INSTANCE'))"
        ).fetchall():
            self.use_duplicate(instance, session, reason)

    def assign_damaged(self) -> None:
        """Record which session misses a damaged file: the one in its header, or the only one in its directory."""
        self._db.execute(
            "UPDATE file SET (missing_from, missing_uid) = (SELECT s.key, l.sop_uid FROM missing_file l JOIN session s "
            "ON s.project = l.project AND s.study_uid = l.study_uid WHERE l.file = file.key) "
            "WHERE kind IN ('UNREADABLE', 'EXCLUDED') "
            "AND key IN (SELECT file FROM missing_file WHERE project IS NOT NULL)"
        )
        owners: dict[str, int | None] = {}
        for file, raw in self._db.execute(
            "SELECT f.key, f.path FROM missing_file l JOIN file f ON f.key = l.file "
            "WHERE l.project IS NULL AND f.kind = 'UNREADABLE' AND f.instance IS NULL AND f.missing_from IS NULL"
        ).fetchall():
            directory = os.path.dirname(os.fsdecode(raw))  # noqa: PTH120 - the path need not be text
            if directory not in owners:
                owners[directory] = self._only_session_below(directory)
            self._db.execute("UPDATE file SET missing_from = ? WHERE key = ?", (owners[directory], file))

    def _only_session_below(self, directory: str) -> int | None:
        found = self._db.execute(
            "SELECT DISTINCT i.session FROM file f JOIN instance i ON i.key = f.instance "
            "WHERE f.path >= ? AND f.path < ? AND f.kind = 'INSTANCE' LIMIT 2",
            below(directory),
        ).fetchall()
        return found[0][0] if len(found) == 1 else None

    def record_vanished(self, root: str) -> tuple[int, int]:
        """Count known files below `root` that this run did not meet, and fail those never sent."""
        bounds = below(root)
        # The + keeps SQLite from searching by path: few files are missing, many are known.
        missed = self._db.execute(
            "SELECT key, path FROM file WHERE +path >= ? AND +path < ? AND missing_from IS NOT NULL "
            "AND key NOT IN (SELECT file FROM scope)",
            bounds,
        ).fetchall()
        rows = self._db.execute(
            "SELECT f.key, i.key, i.session, i.state, f.path FROM file f JOIN instance i ON i.key = f.instance "
            "WHERE f.path >= ? AND f.path < ? AND f.kind IN ('INSTANCE', 'UNREADABLE') "
            "AND f.key NOT IN (SELECT file FROM scope)",
            bounds,
        ).fetchall()
        if missed or rows:
            hidden = self._hidden_places()
            missed = [row for row in missed if not _is_below(row[-1], hidden)]
            rows = [row[:4] for row in rows if not _is_below(row[-1], hidden)]
        # No session misses an unreadable file that is gone.
        self._db.executemany("UPDATE file SET missing_from = NULL WHERE key = ?", [row[:1] for row in missed])
        unsent = 0
        for file, instance, session, state in rows:
            if state in {"PENDING", "FAILED"}:
                if self.use_duplicate(instance, session, "gone"):
                    continue
                unsent += 1
                self.fail(instance, "the file is gone")
                # It counts among this run's files, as it was to be sent.
                self._db.execute("UPDATE file SET kind = 'INSTANCE', reason = NULL WHERE key = ?", (file,))
                self.add_to_scope(file)
        return len(rows), unsent

    def _hidden_places(self) -> set[bytes]:
        """Return links that this run does not follow and what it cannot read: files below these may still exist."""
        places = self._db.execute(
            "SELECT f.path FROM scope JOIN file f ON f.key = scope.file WHERE f.kind IN ('LINK', 'UNREADABLE')"
        )
        return {path for (path,) in places}


def _is_below(path: bytes, places: Collection[bytes]) -> bool:
    separator = os.fsencode(os.sep)
    while (end := path.rfind(separator)) > 0:
        path = path[:end]
        if path in places:
            return True
    return False


def below(directory: str) -> tuple[bytes, bytes]:
    """Return the bounds of all paths below a directory: they sort between "dir/" and "dir0", the next character."""
    low = os.fsencode(os.path.join(directory, ""))  # noqa: PTH118 - pathlib cannot end a path in a separator
    return low, low[:-1] + bytes([low[-1] + 1])
