"""The queue of attachments: the session of each, what is queued for which resource, and the results."""

import os
import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from asyncimport.journal.connection import Connection, CurrentRun
from asyncimport.journal.files import FileRecords, below
from asyncimport.journal.rows import FileColumns, columns_of, file_of, is_same_file
from asyncimport.journal.session_state import SessionState
from asyncimport.model.attachments import (
    Attachment,
    AttachmentBatch,
    AttachmentResult,
    AttachmentState,
    Resource,
    ResourceOwner,
)
from asyncimport.model.files import File
from asyncimport.model.states import Refusal
from asyncimport.routing.attachments import name_in_resource, name_problem

# Limits of one claim.
_MAX_FILES = 500
_MAX_BYTES = 256 << 20
_NOWHERE = "no DICOM file is in its directory, or in one above or below"
_EVERYWHERE = "its directory has files of several sessions; `asyncimport attach` can name one"
_GONE = "the images of its directory are gone; `asyncimport attach` can name their session"
_UNWANTED = "the study in its directory is not asked for"
_NOT_SENT = "the study in its directory is not sent"
_PACKED = "an archive file in its directory holds DICOM of unknown sessions"
_UNKNOWN = "an unreadable file in its directory may be of another session"
_SAME_NAME = "another file of this session goes into the resource under the same name"
_OTHERS = "it has changed since it was stored, and may be of another session; `asyncimport attach` can name one"


class AttachmentQueue:
    """Queues attachments, hands them out in batches of one resource, and records the results."""

    def __init__(self, connection: Connection, run: CurrentRun, files: FileRecords, state: SessionState) -> None:
        self._connection = connection
        self._db = connection.db
        self._run = run.key
        self._files = files
        self._state = state

    def assign(
        self,
        places: Sequence[str],
        resource_of: Callable[[str], str | None],
        *,
        roots: Sequence[str] = (),
        retry_refused: bool = False,
    ) -> int:
        """Decide which files that are not DICOM are attachments, and of which session; return how many are pending.

        It covers the files that this run met. `resource_of` returns the resource label of a path, or None. A file
        belongs to the session whose files are in its directory, or else in the nearest directory above that has DICOM
        in or below it, up to the one of `places` that holds the file. Known files below `roots` that were not met again
        are gone, unless a file that was met has taken their place.
        """
        owners = _SessionFinder(self._db, places, self._state.unasked)
        with self._connection.transaction():
            self._db.execute("DELETE FROM possible_move")
            rows = self._db.execute(
                "SELECT f.key, f.path, f.kind, a.key, a.resource, a.name, a.state, a.md5, a.settled_at, a.refusal, "
                "a.started, a.session, f.size, f.mtime_ns, f.inode, f.ctime_ns, "
                "a.size, a.mtime_ns, a.inode, a.ctime_ns "
                "FROM scope JOIN file f ON f.key = scope.file LEFT JOIN attachment a ON a.file = f.key "
                "WHERE f.kind IN ('NOT_DICOM', 'CONTAINER', 'ATTACHMENT') ORDER BY f.path"
            ).fetchall()
            for file, raw, kind, *_ in rows:
                # An archive file that the user asked for is an attachment.
                if kind == "CONTAINER" and resource_of(os.fsdecode(raw)) is not None:
                    self._set_kind(file, "ATTACHMENT")
            for row in rows:
                self._assign_file(row, owners, resource_of, retry_refused=retry_refused)
            for root in roots:
                self._fail_vanished(root)
            return self._count_pending()

    def _assign_file(
        self,
        row: tuple[Any, ...],
        owners: "_SessionFinder",
        resource_of: Callable[[str], str | None],
        *,
        retry_refused: bool,
    ) -> None:
        """Make a file an attachment or none, as `assign` says; its row has the file, and its attachment so far."""
        file, raw, kind, attachment, resource, name, state, md5, settled_at, refusal, started, session, *columns = row
        path = os.fsdecode(raw)
        current, known = (*columns[:4],), columns[4:]
        unchanged = is_same_file(known, file_of(raw, current), settled_at)
        # A refusal because of the server's state is tried again.
        is_final = state == "REFUSED" and refusal == Refusal.FILE and not retry_refused
        is_settled = unchanged and (state == "STORED" or is_final)
        if md5 is not None:
            # XNAT has it, or had it, whatever the rules say now; a changed file is compared again.
            self._set_kind(file, "ATTACHMENT")
            if not is_settled and owners.find(path)[0] != session:
                # Unless it has the bytes that were stored, it may be another patient's in place of the stored one.
                self._queue_comparison(attachment, file, current, _OTHERS)
                self._db.execute("INSERT OR REPLACE INTO possible_move VALUES (?, ?)", (file, attachment))
            elif not is_settled:
                self._queue_comparison(attachment, file, current, name_problem(name, current[0]))
            elif (*known,) != current:
                self._db.execute(
                    "UPDATE attachment SET inode = ?, ctime_ns = ? WHERE key = ?", (*current[2:], attachment)
                )
            return
        wanted = resource_of(path)
        if is_settled and wanted == resource:
            return
        self._db.execute("DELETE FROM attachment WHERE key = ?", (attachment,))
        is_started = started if wanted == resource else None
        if wanted is not None and self._add(owners.find(path), file, path, current, wanted, is_started):
            self._set_kind(file, "ATTACHMENT")
        elif kind != "NOT_DICOM":
            self._set_kind(file, "NOT_DICOM" if kind == "ATTACHMENT" else kind)

    def _count_pending(self) -> int:
        query = "SELECT count(*) FROM attachment JOIN scope USING (file) WHERE state = 'PENDING'"
        return int(self._connection.one(query)[0])

    def has_unstored(self) -> bool:
        """Whether XNAT lacks attachments."""
        return self._connection.exists("SELECT 1 FROM attachment WHERE state <> 'STORED'")

    def _set_kind(self, file: int, kind: str) -> None:
        self._db.execute("UPDATE file SET kind = ?1 WHERE key = ?2 AND kind <> ?1", (kind, file))

    def _fail_vanished(self, root: str) -> None:
        gone = self._db.execute(
            "UPDATE attachment SET state = 'FAILED', reason = 'the file is gone', run = ? "
            "WHERE state IN ('PENDING', 'FAILED') AND file IN (SELECT key FROM file WHERE path >= ? AND path < ?) "
            "AND file NOT IN (SELECT file FROM scope) RETURNING file",
            (self._run, *below(root)),
        ).fetchall()
        for (file,) in gone:
            self._files.add_to_scope(file)

    def _add(
        self,
        where: tuple[int | str, str],
        file: int,
        path: str,
        columns: FileColumns,
        resource: str,
        started: int | None,
    ) -> bool:
        """Record where a file goes, or why it goes nowhere; False if this run does not ask for its study."""
        found, directory = where
        if found == _UNWANTED:
            return False
        name = name_in_resource(os.path.relpath(path, directory).replace(os.sep, "/"))
        session, state, reason = (None, "SKIPPED", found) if isinstance(found, str) else (found, "PENDING", None)
        if session is not None and (reason := name_problem(name, columns[0])):
            state = "REFUSED"
        taken = self._db.execute(
            "SELECT key, file IN (SELECT file FROM scope), md5 FROM attachment "
            "WHERE session = ? AND resource = ? AND name = ?",
            (session, resource, name),
        ).fetchone()
        if taken is not None and not taken[1] and taken[2] is None:
            # The other file is gone, or not asked for, and XNAT has nothing of it: this one replaces it.
            self._queue_comparison(taken[0], file, columns, reason)
            return True
        if taken is not None:
            if not taken[1]:
                # It is the same file, moved, only if it has the bytes that were stored.
                self._db.execute("INSERT OR REPLACE INTO possible_move VALUES (?, ?)", (file, taken[0]))
            session, state, reason = None, "SKIPPED", _SAME_NAME
        refusal = Refusal.FILE if state == "REFUSED" else None
        self._db.execute(
            "INSERT INTO attachment (file, size, mtime_ns, inode, ctime_ns, session, resource, name, state, reason, "
            "run, refusal, started) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(file, *columns, session, resource, name, state, reason),
                *(None if state == "PENDING" else self._run, refusal, started),
            ),
        )
        return True

    def possible_moves(self) -> list[tuple[File, str]]:
        """Return files that are stored ones only if they have their bytes, each with the MD5 of the stored one."""
        rows = self._db.execute(
            "SELECT f.path, f.size, f.mtime_ns, f.inode, f.ctime_ns, a.md5 FROM possible_move m "
            "JOIN file f ON f.key = m.file JOIN attachment a ON a.key = m.attachment "
            "WHERE f.size IS coalesce(a.stored_size, f.size) ORDER BY f.path"
        ).fetchall()
        return [(file_of(path, columns), md5) for path, *columns, md5 in rows]

    def record_moves(self, files: Sequence[File]) -> int:
        """Queue moved files for comparison with the stored ones; return how many attachments are pending."""
        with self._connection.transaction():
            for file in files:
                key, attachment = self._connection.one(
                    "SELECT m.file, m.attachment FROM possible_move m JOIN file f ON f.key = m.file WHERE f.path = ?",
                    (os.fsencode(file.path),),
                )
                self._db.execute("DELETE FROM attachment WHERE file = ? AND key <> ?", (key, attachment))
                self._queue_comparison(attachment, key, columns_of(file), None)
            return self._count_pending()

    def _queue_comparison(self, attachment: int, file: int, columns: FileColumns, problem: str | None) -> None:
        state = "REFUSED" if problem else "PENDING"
        self._db.execute(
            "UPDATE attachment SET file = ?, size = ?, mtime_ns = ?, inode = ?, ctime_ns = ?, state = ?, reason = ?, "
            "refusal = ?, run = iif(?, ?, run) WHERE key = ?",
            (
                *(file, *columns, state, problem, Refusal.FILE if problem else None),
                *(problem is not None, self._run, attachment),
            ),
        )

    def requeue(self, keys: Iterable[int]) -> None:
        """Queue stored attachments that the archive lacks."""
        with self._connection.transaction(durable=True):
            for key in keys:
                self._db.execute("UPDATE attachment SET state = 'PENDING' WHERE key = ? AND md5 IS NOT NULL", (key,))
                self._db.execute(
                    "INSERT OR IGNORE INTO scope SELECT file FROM attachment WHERE key = ? AND state = 'PENDING'",
                    (key,),
                )

    def claim(self) -> AttachmentBatch | None:
        """Hand out pending attachments of one resource of an archived session, once until `record`; None if none."""
        with self._connection.transaction():
            row = self._db.execute(
                "SELECT s.key, s.project, s.subject, s.label, s.study_uid, a.resource "
                "FROM attachment a JOIN scope USING (file) JOIN file ON file.key = a.file AND file.kind = 'ATTACHMENT' "
                "JOIN session s ON s.key = a.session WHERE a.state = 'PENDING' AND EXISTS (SELECT 1 FROM delivery "
                "WHERE session = s.key AND state = 'ARCHIVED') AND NOT EXISTS (SELECT 1 FROM resource_in_use f "
                "WHERE f.session = s.key AND f.resource = a.resource) ORDER BY a.session, a.resource LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            session, project, subject, label, study_uid, resource = row
            self._db.execute("INSERT INTO resource_in_use VALUES (?, ?)", (session, resource))
            rows = self._db.execute(
                "SELECT a.key, a.name, a.md5, a.stored_size, a.started, "
                "f.path, f.size, f.mtime_ns, f.inode, f.ctime_ns FROM attachment a "
                "JOIN scope USING (file) JOIN file f ON f.key = a.file AND f.kind = 'ATTACHMENT' "
                "WHERE a.session = ? AND a.resource = ? AND a.state = 'PENDING' "
                "ORDER BY a.key LIMIT ?",
                (session, resource, _MAX_FILES),
            ).fetchall()
        attachments: list[Attachment] = []
        room = _MAX_BYTES
        for key, name, md5, stored_size, started, path, *columns in rows:
            file = file_of(path, columns)
            if attachments and file.size > room:
                break
            room -= file.size
            attachments.append(
                Attachment(key, file, name, previous=md5, previous_size=stored_size, is_started=bool(started))
            )
        place = ResourceOwner(project, subject, label, study_uid)
        return AttachmentBatch(Resource(place, resource), tuple(attachments))

    def start(self, attachments: Sequence[Attachment]) -> None:
        """Note that attachments are about to be sent: a kill may leave parts of them."""
        with self._connection.transaction():
            self._db.executemany("UPDATE attachment SET started = 1 WHERE key = ?", [(one.key,) for one in attachments])

    def record(self, batch: AttachmentBatch, results: Sequence[AttachmentResult]) -> None:
        """Record the results of attachments, and release their resource."""
        place = batch.resource.owner
        with self._connection.transaction(durable=True):
            for one in results:
                # An attachment that was still there belongs to the run that stored it.
                old = one.state is AttachmentState.STORED and not one.sent and one.attachment.previous is not None
                refusal = Refusal.SERVER if one.blames_server else Refusal.FILE
                self._db.execute(
                    "UPDATE attachment SET state = ?, reason = ?, refusal = ?, "
                    "stored_size = iif(?, ?, stored_size), md5 = coalesce(?, md5), started = iif(?, started, NULL), "
                    "run = iif(?, run, ?), settled_at = ? WHERE key = ?",
                    (
                        *(one.state, one.reason, refusal if one.state is AttachmentState.REFUSED else None),
                        *(one.md5 is not None, one.attachment.file.size, one.md5),
                        *(one.state is AttachmentState.FAILED, old, self._run),
                        *(self._connection.clock(), one.attachment.key),
                    ),
                )
            self._db.execute(
                "DELETE FROM resource_in_use WHERE resource = ? AND session = "
                "(SELECT key FROM session WHERE project = ? AND study_uid = ?)",
                (batch.resource.label, place.project, place.study_uid),
            )


class _SessionFinder:
    """Finds the session of a file, and the directory above both: the path from there names the attachment."""

    def __init__(self, database: sqlite3.Connection, places: Sequence[str], unasked: Collection[int]) -> None:
        self._db = database
        self._unasked = unasked
        self._places = [os.path.join(place, "") for place in places]  # noqa: PTH118 - pathlib has no path that ends so
        self._sessions_by_directory: dict[str, frozenset[int | str]] = {}
        self._met: dict[tuple[str, int], bool] = {}
        self._common_directories: dict[tuple[str, int], str | None] = {}

    def find(self, path: str) -> tuple[int | str, str]:
        """Return the session and the directory, or why there is no session and the directory of the file."""
        own = os.path.dirname(path)  # noqa: PTH120 - the path need not be text
        top = next((place for place in self._places if path.startswith(place)), os.path.join(own, ""))  # noqa: PTH118
        directory = own
        while not (found := self._sessions_below(directory)) and os.path.join(directory, "") != top:  # noqa: PTH118
            directory = os.path.dirname(directory)  # noqa: PTH120
        if len(found) != 1:
            return (_EVERYWHERE if found else _NOWHERE), own
        (session,) = found
        if isinstance(session, str):
            return session, own
        if not self._is_met(directory, session):
            return (_UNWANTED if session in self._unasked else _GONE), own
        common = self._common_directory(top, session)
        return session, own if common is None else os.path.commonpath([own, common])

    def _sessions_below(self, directory: str) -> frozenset[int | str]:
        """Return the sessions in or below a directory, or why none; an unreadable file counts as another one."""
        if directory not in self._sessions_by_directory:
            rows = self._db.execute(
                "SELECT DISTINCT CASE WHEN f.kind = 'EXCLUDED' THEN ? WHEN f.kind = 'SKIPPED' AND i.session IS NULL "
                "THEN ? WHEN f.kind = 'CONTAINER' AND f.key IN (SELECT file FROM scope) THEN ? "
                "WHEN f.kind = 'UNREADABLE' AND f.instance IS NULL AND f.key IN (SELECT file FROM scope) AND "
                "f.missing_uid IS NULL AND (f.missing_from IS NULL OR f.key IN "
                "(SELECT file FROM missing_file WHERE project IS NULL)) THEN ? "
                "WHEN f.missing_from NOT NULL THEN f.missing_from ELSE i.session END AS whose FROM file f "
                "LEFT JOIN instance i ON i.key = f.instance WHERE f.path >= ? AND f.path < ? AND whose NOT NULL "
                "LIMIT 2",
                (_UNWANTED, _NOT_SENT, _PACKED, _UNKNOWN, *below(directory)),
            )
            self._sessions_by_directory[directory] = frozenset(whose for (whose,) in rows)
        return self._sessions_by_directory[directory]

    def _is_met(self, directory: str, session: int) -> bool:
        """Whether this run met a file of a session there: the place may be used for the next patient by now."""
        key = directory, session
        if key not in self._met:
            found = self._db.execute(
                "SELECT 1 FROM file f JOIN scope ON scope.file = f.key LEFT JOIN instance i ON i.key = f.instance "
                "WHERE f.path >= ? AND f.path < ? AND ? IN (i.session, f.missing_from) LIMIT 1",
                (*below(directory), session),
            ).fetchone()
            self._met[key] = found is not None
        return self._met[key]

    def _common_directory(self, top: str, session: int) -> str | None:
        """Return the deepest directory that holds all files below `top` that a session is sent from."""
        key = top, session
        if key not in self._common_directories:
            bounds = self._db.execute(
                "SELECT min(f.path), max(f.path) FROM instance i JOIN file f ON f.key = i.file "
                "WHERE i.session = ? AND f.path >= ? AND f.path < ?",
                (session, *below(top)),
            ).fetchone()
            # What the first and the last path share, all between them share.
            paths = [os.path.dirname(os.fsdecode(path)) for path in bounds if path is not None]  # noqa: PTH120
            self._common_directories[key] = os.path.commonpath(paths) if paths else None
        return self._common_directories[key]
