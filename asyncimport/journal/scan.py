"""What the scan writes into the journal: what the files are, and which of them are queued to be sent."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import count
from types import MappingProxyType
from typing import Any

from asyncimport.journal.connection import Connection, CurrentRun
from asyncimport.journal.existing import ExistingInstances
from asyncimport.journal.files import FileRecords, SopUidConflict, below
from asyncimport.journal.rows import columns_of, is_same_file
from asyncimport.journal.session_state import DISPUTED, SessionState, is_sent_again
from asyncimport.journal.sessions import NoSession, Sessions
from asyncimport.model.files import File, Ignored, Instance
from asyncimport.model.record import record
from asyncimport.model.states import FileKind

# Files of these kinds are read again: the reason may be gone.
_READ_AGAIN = {"UNREADABLE", "CONTAINER", "EXCLUDED"}
_NO_LABELS = "the changed rules give it no labels, and it is not archived under its old ones"
_NOTHING: Mapping[str, bool] = MappingProxyType({})

# A key for the file, the file, and the key of its session or why it has none.
_RoutedFile = tuple[int, Instance | Ignored, int | NoSession | None]


@record
class Admission:
    """The result of a batch: files to read, conflicts to compare, and how much was queued to be sent."""

    unknown: list[File]
    conflicts: list[SopUidConflict]
    files: int
    size: int


@record
class VanishedFiles:
    """How many files of an earlier run are gone, and how many of these were never stored."""

    files: int
    unsent: int


class ScanWriter:
    """Records what the scan of one run finds."""

    def __init__(
        self,
        connection: Connection,
        run: CurrentRun,
        state: SessionState,
        sessions: Sessions,
        existing: ExistingInstances,
        files: FileRecords,
    ) -> None:
        self._connection = connection
        self._db = connection.db
        self._state = state
        self._sessions = sessions
        self._existing = existing
        self._files = files
        self._next_key = run.next_key

    def postpone(self, studies: Mapping[str, str], unasked: Collection[str] = ()) -> None:
        """Send and finalise nothing of `studies` in this run; each has a reason, such as still being written.

        Files of `unasked` studies do not count either. Sealed deliveries are finalised. Call it before the scan.
        """
        if studies or unasked:
            with self._connection.reading():
                sessions = self._db.execute("SELECT key, study_uid FROM session").fetchall()
            self._state.postponed = {session: studies[uid] for session, uid in sessions if uid in studies}
            self._state.unasked = {session for session, uid in sessions if uid in unasked}

    def skip_known(
        self,
        files: Sequence[File],
        *,
        retry_refused: bool = False,
        resend_changed: bool = False,
        is_filtered: bool = False,
    ) -> Admission:
        """Skip the files that are known, sound and unchanged, and queue those of them that are left to send.

        Files refused because of the server's state are queued again; with `retry_refused`, all refused files. The
        others are returned as `unknown`, to be read and admitted. In a run that `is_filtered`, so are those left to
        send, as the filter may exclude them.
        """
        unknown: list[File] = []
        skipped: dict[int, None] = {}
        proven: list[tuple[int, int | None, int | None]] = []
        retried: list[tuple[int]] = []
        queued: list[tuple[int, int]] = []
        size = 0
        postponed, undecided = self._state.postponed, self._state.undecided
        paths = [os.fsencode(file.path) for file in files]
        with self._connection.transaction():
            rows = self._read_known(paths)
            for path, file in zip(paths, files, strict=True):
                row = rows.get(path)
                if row is None or not is_same_file(row[:4], file, row[-1]):
                    unknown.append(file)
                    continue
                _, _, inode, _, key, kind, in_scope, instance, session, state, refusal, _ = row
                if kind in _READ_AGAIN or (kind == "SKIPPED" and (instance is None or resend_changed)):
                    unknown.append(file)
                    continue
                # Overlapping sources give a file twice.
                if in_scope or key in skipped or session in self._state.unasked:
                    continue
                if kind == "DUPLICATE" and is_filtered and state != "STORED":
                    # It may be sent in place of the file that it repeats.
                    unknown.append(file)
                    continue
                if inode is None and file.inode is not None:
                    proven.append((key, file.inode, file.ctime_ns))
                to_send = False
                if kind == "INSTANCE" and state != "STORED" and session not in postponed:
                    retry = is_sent_again(state, refusal, retry_refused=retry_refused)
                    to_send = retry or state == "PENDING"
                    if retry:
                        retried.append((instance,))
                    if to_send and is_filtered:
                        unknown.append(file)
                        continue
                skipped[key] = None
                if session in undecided and kind in {"INSTANCE", "DUPLICATE"}:
                    # Its header decides the labels of its session.
                    unknown.append(file)
                if to_send:
                    queued.append((session, instance))
                    size += file.size
            self._connection.execute_rows("INSERT OR IGNORE INTO scope SELECT column1 FROM {rows}", [*zip(skipped)])
            # A file that nobody has touched since it was stored is now known by inode and ctime.
            self._connection.execute_rows(
                "UPDATE file SET inode = column2, ctime_ns = column3 FROM {rows} WHERE key = column1", proven
            )
            self._db.executemany(
                "UPDATE instance SET state = 'PENDING', reason = NULL, refusal = NULL WHERE key = ?", retried
            )
            self._state.enqueue(queued)
            adopted = self._existing.adopt_queued({session for session, _ in queued})
        return Admission(unknown, [], len(queued) - adopted.files, size - adopted.size)

    def _read_known(self, paths: Sequence[bytes]) -> dict[bytes, list[Any]]:
        """Return the rows of those files that are known, by path, with their instances."""
        rows = self._db.execute(
            "SELECT f.path, f.size, f.mtime_ns, f.inode, f.ctime_ns, f.key, f.kind, "  # noqa: S608 - only marks
            "f.key IN (SELECT file FROM scope), i.key, i.session, i.state, i.refusal, "
            "iif(f.kind = 'INSTANCE' AND i.state = 'STORED', i.settled_at, NULL) FROM file f "
            f"LEFT JOIN instance i ON i.key = f.instance WHERE f.path IN ({', '.join('?' * len(paths))})",
            paths,
        )
        return {path: row for path, *row in rows}

    def admit(
        self,
        batch: Sequence[Instance | Ignored],
        *,
        resend_changed: bool = False,
        proofs: Mapping[str, bool] = _NOTHING,
    ) -> Admission:
        """Record what the files are, and queue new instances to be sent.

        A file whose study or label collides with an earlier one is recorded as SKIPPED with its reason. A file with a
        known SOPInstanceUID is returned as a conflict, as is the file of a stored instance that may have been rewritten
        or replaced since, until `proofs` (by path) say whether it holds the bytes that were sent. If it does not, it is
        SKIPPED too; with `resend_changed` it is queued for a new delivery.
        """
        conflicts: list[SopUidConflict] = []
        with self._connection.transaction():
            first = self._next_key
            self._next_key += len(batch)
            found = [*zip(count(first), batch, self._sessions.keys_of(batch))]
            entered = self._insert_new(found, first)
            queued, size = len(entered), sum(entered.values())
            for key, item, session in found:
                if key in entered:
                    continue
                if isinstance(item, Ignored):
                    disputed = self._session_disputed_by(item)
                    file = self._files.record(key, item.file, item.kind, item.reason, item.duplicate_of)
                    if disputed is not None:
                        self._db.execute("UPDATE file SET missing_from = ? WHERE key = ?", (disputed, file))
                    if item.session is not None or item.damaged:
                        # Its session may have no row yet.
                        of = (item.session.project, item.session.study_uid) if item.session else (None, None)
                        self._db.execute(
                            "INSERT OR REPLACE INTO missing_file VALUES (?, ?, ?, ?)", (file, *of, item.sop_uid)
                        )
                    continue
                if not isinstance(session, int):
                    assert session is not None  # noqa: S101 - an instance has one or the other
                    file = self._files.record(key, item.file, FileKind.SKIPPED, session.reason, None)
                    self._db.execute(
                        "UPDATE file SET missing_from = ?, missing_uid = ? WHERE key = ?",
                        (session.disputes, item.sop_uid, file),
                    )
                    continue
                proof = proofs.get(item.file.path)
                known = self._files.resolve(key, item, session, resend_changed=resend_changed, proof=proof)
                if isinstance(known, SopUidConflict):
                    conflicts.append(known)
                    continue
                instance, to_send = known
                if not to_send:
                    continue
                self._state.enqueue([(session, instance)])
                queued += 1
                size += item.file.size
            adopted = self._existing.adopt_queued({session for _, _, session in found if isinstance(session, int)})
        return Admission([], conflicts, queued - adopted.files, size - adopted.size)

    def _session_disputed_by(self, item: Ignored) -> int | None:
        """Return the session that a file disputed and still does, as no rule has decided where its study goes."""
        if item.kind != FileKind.SKIPPED or item.sop_uid is None:
            return None
        row = self._db.execute(
            "SELECT missing_from FROM file WHERE path = ? AND kind = 'SKIPPED' AND missing_uid = ?",
            (os.fsencode(item.file.path), item.sop_uid),
        ).fetchone()
        return None if row is None else row[0]

    def _insert_new(self, found: Sequence[_RoutedFile], first: int) -> dict[int, int]:
        """Insert and queue files with a new path and a new instance, with keys from `first`; return sizes by key."""
        seen: set[object] = set()
        files: list[tuple[int, bytes, int, str, int | None, int | None]] = []
        instances: list[tuple[int, int, str, str, str | None]] = []
        for key, item, session in found:
            file = item.file
            if isinstance(item, Instance) and isinstance(session, int):
                identity = session, item.sop_uid
                if file.path not in seen and identity not in seen:
                    files.append((key, os.fsencode(file.path), *columns_of(file)))
                    instances.append((key, *identity, item.series_uid, item.modality))
                seen.add(identity)
            seen.add(file.path)
        # A file and its instance have the same key, so each row can refer to the other.
        self._connection.execute_rows(
            "INSERT OR IGNORE INTO file (key, path, size, mtime_ns, inode, ctime_ns, kind, instance) "
            "SELECT column1, column2, column3, column4, column5, column6, 'INSTANCE', column1 FROM {rows}",
            files,
        )
        self._connection.execute_rows(
            "INSERT OR IGNORE INTO instance (key, session, sop_uid, series_uid, file, modality) "
            "SELECT column1, column2, column3, column4, column1, column5 FROM {rows} "
            "WHERE EXISTS (SELECT 1 FROM file WHERE key = column1)",
            instances,
        )
        # The path of these was new, but not the instance.
        self._db.execute("DELETE FROM file WHERE key >= ? AND key NOT IN (SELECT key FROM instance)", (first,))
        self._db.execute("INSERT INTO scope SELECT key FROM file WHERE key >= ?", (first,))
        self._db.execute("INSERT INTO queued SELECT session, key FROM instance WHERE key >= ?", (first,))
        sizes = {key: size for key, _, size, *_ in files}
        if self._connection.one("SELECT count(*) FROM file WHERE key >= ?", (first,)) != (len(sizes),):
            sizes = dict(self._db.execute("SELECT key, size FROM file WHERE key >= ?", (first,)).fetchall())
        return sizes

    def directory_done(self, directories: Sequence[str], *, partial: bool = False) -> int:
        """Note that the scan has left whole sessions' directories; return how many became ready to be finalised."""
        self._state.partial = partial
        with self._connection.transaction():
            self._files.assign_damaged()
            sessions = [
                session
                for directory in directories
                for (session,) in self._db.execute(
                    "SELECT DISTINCT i.session FROM file f JOIN instance i ON i.key = f.instance "
                    "WHERE f.path >= ? AND f.path < ? AND f.kind = 'INSTANCE'",
                    below(directory),
                ).fetchall()
            ]
            self._state.complete.update(sessions)
            return sum(self._state.mark_ready_if_complete(session, ["OPEN"]) for session in sessions)

    def finish(
        self,
        roots: Sequence[str],
        *,
        archive_built: bool = True,
        retry_held: bool = False,
        retry_refused: bool = False,
        partial: bool = False,
    ) -> VanishedFiles:
        """Note that the scan has ended: sessions with nothing left to send become ready to be finalised.

        Known files below the sources (`roots`) that were not met again are gone. `archive_built` continues sessions
        that an earlier run left in the prearchive, `retry_held` those that XNAT would not archive. `partial` also
        finalises, from now on, sessions that miss files that failed, were refused or are unreadable.
        """
        self._state.partial = partial
        gone = unsent = 0
        delivery_states = ["OPEN", *(["BUILT"] if archive_built else []), *(["HELD"] if retry_held else [])]
        with self._connection.transaction():
            for root in roots:
                counts = self._files.record_vanished(root)
                gone, unsent = gone + counts[0], unsent + counts[1]
            self._files.prefer_met_copies(retry_refused=retry_refused)
            self._files.use_copies()
            self._files.assign_damaged()
            self._state.scan_finished = True
            for (session,) in self._db.execute("SELECT session FROM awaiting_scan").fetchall():
                self._state.enqueue_pending(session)
            self._end_relabeling()
            self._db.execute(f"DELETE FROM queued WHERE {DISPUTED.format('queued.session')}")  # noqa: S608 - fixed text
            marks = ", ".join("?" * len(delivery_states))
            sessions = self._db.execute(
                f"SELECT DISTINCT d.session FROM delivery d WHERE d.state IN ({marks}) AND EXISTS "  # noqa: S608 - only marks
                "(SELECT 1 FROM instance i JOIN scope ON scope.file = i.file WHERE i.session = d.session)",
                delivery_states,
            ).fetchall()
            for (session,) in sessions:
                self._state.mark_ready_if_complete(session, delivery_states)
            if partial:
                self._accept_refusals()
            # Verify what was archived and could not be compared then; queued files bring a delivery of their own.
            self._db.execute(
                "INSERT OR IGNORE INTO ready SELECT d.key FROM delivery d WHERE d.state = 'ARCHIVED' "
                "AND d.verified IS NULL AND d.number = (SELECT max(number) FROM delivery WHERE session = d.session) "
                "AND NOT EXISTS (SELECT 1 FROM instance WHERE session = d.session AND state = 'PENDING') AND EXISTS "
                "(SELECT 1 FROM instance i JOIN scope ON scope.file = i.file WHERE i.session = d.session)"
            )
        return VanishedFiles(gone, unsent)

    def _accept_refusals(self) -> None:
        """Accept that archived sessions of this run miss refused files."""
        self._db.execute(
            "UPDATE delivery SET partial = 1 WHERE key IN (SELECT d.key FROM delivery d WHERE d.state = 'ARCHIVED' "
            "AND d.partial IS NOT 1 AND d.number = (SELECT max(number) FROM delivery WHERE session = d.session) "
            "AND EXISTS (SELECT 1 FROM instance WHERE session = d.session AND state = 'REFUSED' "
            "AND refusal IS NOT 'DROPPED') AND EXISTS (SELECT 1 FROM instance i JOIN scope ON scope.file = i.file "
            "WHERE i.session = d.session))"
        )

    def _end_relabeling(self) -> None:
        """Finalise sealed deliveries by their new labels, and block sessions of this run that have none."""
        for session in self._state.undecided:
            self._db.execute(
                "INSERT OR IGNORE INTO blocked (session, reason) SELECT ?1, ?2 WHERE EXISTS "
                "(SELECT 1 FROM instance i JOIN scope ON scope.file = i.file WHERE i.session = ?1)",
                (session, _NO_LABELS),
            )
        self._db.execute(
            "INSERT OR IGNORE INTO ready SELECT key FROM delivery WHERE state = 'SEALED' "
            "AND session NOT IN (SELECT session FROM blocked)"
        )

    def skip_reasons(self) -> list[tuple[str, int]]:
        """Return why files of this run's sources were skipped, each reason with the number of files."""
        with self._connection.reading():
            return self._db.execute(
                "SELECT f.reason, count(*) FROM scope JOIN file f ON f.key = scope.file "
                "WHERE f.kind = 'SKIPPED' GROUP BY f.reason ORDER BY f.reason"
            ).fetchall()

    def include_gone(self, roots: Sequence[str]) -> None:
        """Count files below the sources that this run has not met among its own, as a receipt outlives its file."""
        with self._connection.transaction():
            for root in roots:
                self._db.execute(
                    "INSERT OR IGNORE INTO scope SELECT key FROM file WHERE path >= ? AND path < ?", below(root)
                )

    def confirm_unchanged(self, files: Iterable[File]) -> None:
        """Note that files which were moved or touched hold the bytes that were sent."""
        with self._connection.transaction():
            self._connection.execute_rows(
                "UPDATE file SET size = column2, mtime_ns = column3, inode = column4, ctime_ns = column5 "
                "FROM {rows} WHERE path = column1",
                [(os.fsencode(file.path), *columns_of(file)) for file in files],
            )
