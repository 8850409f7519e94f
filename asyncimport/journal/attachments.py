"""The queue of attachments: which session each belongs to, what is queued for which resource, what became of it."""

import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence

from asyncimport.journal.connection import Connection
from asyncimport.journal.facts import FileColumns, columns_of, file_of, is_same_file
from asyncimport.journal.files import FileRecords, below
from asyncimport.journal.runs import CurrentRun
from asyncimport.model import (
    Attachment,
    AttachmentBatch,
    AttachmentResult,
    AttachmentState,
    File,
    Refusal,
    Resource,
    ResourceOwner,
)
from asyncimport.routing import name_in_resource, name_problem

# One claim has at most this many files, and bytes of them.
_MOST_FILES = 500
_MOST_BYTES = 256 << 20
_NOWHERE = "no DICOM file lies beside it, or in a directory below"
_EVERYWHERE = "files of several sessions lie beside it; `asyncimport attach` says which one it belongs to"
_UNWANTED = "the study beside it is not asked for"
_NOT_SENT = "the study beside it is not sent"
_PACKED = "an archive of DICOM files lies beside it, and nobody looks whose they are"
_UNKNOWN = "a file that cannot be read lies beside it, and nobody can tell whose that is"
_SAME_NAME = "another file of this session goes into the resource under the same name"


class AttachmentQueue:
    """Queues attachments, hands them out in batches of one resource, and records the results."""

    def __init__(self, connection: Connection, run: CurrentRun, files: FileRecords) -> None:
        self._connection = connection
        self._db = connection.db
        self._run = run.key
        self._files = files

    def assign(
        self,
        places: Sequence[str],
        resource_of: Callable[[str], str | None],
        *,
        roots: Sequence[str] = (),
        retry_refused: bool = False,
    ) -> int:
        """Decide which files that are not DICOM go beside images, and where; return how many are pending.

        It looks at files that this run met. `resource_of` returns the resource label of a path, or None. A file belongs
        to the session whose files lie in its directory, or else in the nearest directory above that has DICOM in or
        below it, up to the one of `places` that holds the file. Known files below `roots` that were not met again are
        gone, unless a file that was met has taken their place.
        """
        owners = _Owners(self._db, places)
        with self._connection.transaction():
            self._db.execute("DELETE FROM possible_move")
            rows = self._db.execute(
                "SELECT f.key, f.path, f.kind, a.key, a.resource, a.name, a.state, a.md5, a.settled_at, a.refusal, "
                "a.started, f.size, f.mtime_ns, f.inode, f.ctime_ns, a.size, a.mtime_ns, a.inode, a.ctime_ns "
                "FROM scope JOIN file f ON f.key = scope.file "
                "LEFT JOIN attachment a ON a.file = f.key WHERE f.kind IN ('NOT_DICOM', 'CONTAINER', 'ATTACHMENT') "
                "ORDER BY f.path"
            ).fetchall()
            for file, raw, kind, *_ in rows:
                # An archive file that the user asked for is an attachment.
                if kind == "CONTAINER" and resource_of(os.fsdecode(raw)) is not None:
                    self._becomes(file, "ATTACHMENT")
            for file, raw, kind, attachment, resource, name, state, md5, settled_at, refusal, started, *facts in rows:
                path = os.fsdecode(raw)
                current, known = (*facts[:4],), facts[4:]
                unchanged = is_same_file(known, file_of(raw, current), settled_at)
                # A refusal because of the server's state is tried again.
                is_final = state == "REFUSED" and refusal == Refusal.FILE and not retry_refused
                is_settled = unchanged and (state == "STORED" or is_final)
                if md5 is not None:
                    # XNAT has it, or had it, whatever the rules say now; a changed file is compared again.
                    self._becomes(file, "ATTACHMENT")
                    if not is_settled:
                        self._compare(attachment, file, current, name_problem(name, current[0]))
                    elif (*known,) != current:
                        self._db.execute(
                            "UPDATE attachment SET inode = ?, ctime_ns = ? WHERE key = ?", (*current[2:], attachment)
                        )
                    continue
                wanted = resource_of(path)
                if is_settled and wanted == resource:
                    continue
                self._db.execute("DELETE FROM attachment WHERE key = ?", (attachment,))
                is_started = started if wanted == resource else None
                if wanted is not None and self._place(owners.find(path), file, path, current, wanted, is_started):
                    self._becomes(file, "ATTACHMENT")
                elif kind != "NOT_DICOM":
                    self._becomes(file, "NOT_DICOM" if kind == "ATTACHMENT" else kind)
            for root in roots:
                self._fail_vanished(root)
            return self._count_pending()

    def _count_pending(self) -> int:
        query = "SELECT count(*) FROM attachment JOIN scope USING (file) WHERE state = 'PENDING'"
        return int(self._connection.one(query)[0])

    def has_unstored(self) -> bool:
        """Whether there are attachments that XNAT does not have."""
        return self._connection.exists("SELECT 1 FROM attachment WHERE state <> 'STORED'")

    def _becomes(self, file: int, kind: str) -> None:
        self._db.execute("UPDATE file SET kind = ?1 WHERE key = ?2 AND kind <> ?1", (kind, file))

    def _fail_vanished(self, root: str) -> None:
        """Fail pending attachments below `root` that were not met again."""
        gone = self._db.execute(
            "UPDATE attachment SET state = 'FAILED', reason = 'the file is gone', run = ? "
            "WHERE state IN ('PENDING', 'FAILED') AND file IN (SELECT key FROM file WHERE path >= ? AND path < ?) "
            "AND file NOT IN (SELECT file FROM scope) RETURNING file",
            (self._run, *below(root)),
        ).fetchall()
        for (file,) in gone:
            self._files.mark_met(file)

    def _place(
        self, where: tuple[int | str, str], file: int, path: str, facts: FileColumns, resource: str, started: int | None
    ) -> bool:
        """Record where a file goes, or why it goes nowhere; False if this run does not ask for its study."""
        found, directory = where
        if found == _UNWANTED:
            return False
        name = name_in_resource(os.path.relpath(path, directory).replace(os.sep, "/"))
        session, state, reason = (None, "SKIPPED", found) if isinstance(found, str) else (found, "PENDING", None)
        if session is not None and (reason := name_problem(name, facts[0])):
            state = "REFUSED"
        taken = self._db.execute(
            "SELECT key, file IN (SELECT file FROM scope), md5 FROM attachment "
            "WHERE session = ? AND resource = ? AND name = ?",
            (session, resource, name),
        ).fetchone()
        if taken is not None and not taken[1] and taken[2] is None:
            # The other file is not there, or not asked for, and XNAT has nothing of it: this one takes its place.
            self._compare(taken[0], file, facts, reason)
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
                *(file, *facts, session, resource, name, state, reason),
                *(None if state == "PENDING" else self._run, refusal, started),
            ),
        )
        return True

    def possible_moves(self) -> list[tuple[File, str]]:
        """Return files that may be stored ones under new paths, each with the MD5 of the stored one.

        `assign` has skipped them, as a file of the same name and size was stored.
        """
        rows = self._db.execute(
            "SELECT f.path, f.size, f.mtime_ns, f.inode, f.ctime_ns, a.md5 FROM possible_move m "
            "JOIN file f ON f.key = m.file JOIN attachment a ON a.key = m.attachment "
            "WHERE f.size IS coalesce(a.stored_size, f.size) ORDER BY f.path"
        ).fetchall()
        return [(file_of(path, facts), md5) for path, *facts, md5 in rows]

    def record_moves(self, files: Sequence[File]) -> int:
        """Queue files that are stored ones, moved, to be compared; return how many attachments are pending."""
        with self._connection.transaction():
            for file in files:
                key, attachment = self._connection.one(
                    "SELECT m.file, m.attachment FROM possible_move m JOIN file f ON f.key = m.file WHERE f.path = ?",
                    (os.fsencode(file.path),),
                )
                self._db.execute("DELETE FROM attachment WHERE file = ?", (key,))
                self._compare(attachment, key, columns_of(file), None)
            return self._count_pending()

    def _compare(self, attachment: int, file: int, facts: FileColumns, problem: str | None) -> None:
        """Queue a file to be compared with the attachment that has its name; refuse it for a `problem`."""
        state = "REFUSED" if problem else "PENDING"
        self._db.execute(
            "UPDATE attachment SET file = ?, size = ?, mtime_ns = ?, inode = ?, ctime_ns = ?, state = ?, reason = ?, "
            "refusal = ?, run = iif(?, ?, run) WHERE key = ?",
            (
                *(file, *facts, state, problem, Refusal.FILE if problem else None),
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
        """Hand out pending attachments for one resource of an archived session; None when there are none.

        No more of that resource is handed out before `record`.
        """
        with self._connection.transaction():
            row = self._db.execute(
                "SELECT s.key, s.project, s.subject, s.label, s.study_uid, a.resource FROM attachment a "
                "JOIN scope USING (file) JOIN file ON file.key = a.file AND file.kind = 'ATTACHMENT' "
                "JOIN session s ON s.key = a.session WHERE a.state = 'PENDING' "
                "AND EXISTS (SELECT 1 FROM delivery WHERE session = s.key AND state = 'ARCHIVED') "
                "AND NOT EXISTS (SELECT 1 FROM resource_in_use f WHERE f.session = s.key AND f.resource = a.resource) "
                "ORDER BY a.session, a.resource LIMIT 1"
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
                (session, resource, _MOST_FILES),
            ).fetchall()
        attachments: list[Attachment] = []
        room = _MOST_BYTES
        for key, name, md5, stored_size, started, path, *facts in rows:
            file = file_of(path, facts)
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
        """Record what became of attachments, and let others of their resource be handed out."""
        place = batch.resource.owner
        with self._connection.transaction(durable=True):
            for one in results:
                # An attachment that is still there belongs to the run that stored it.
                old = one.state is AttachmentState.STORED and not one.sent and one.attachment.previous is not None
                refusal = Refusal.SERVER if one.blames_server else Refusal.FILE
                self._db.execute(
                    "UPDATE attachment SET state = ?, reason = ?, refusal = ?, "
                    "stored_size = iif(?, ?, stored_size), md5 = coalesce(?, md5), started = iif(?, started, NULL), "
                    "run = iif(?, run, ?), settled_at = ? WHERE key = ?",
                    (
                        *(one.state, one.reason, refusal if one.state is AttachmentState.REFUSED else None),
                        *(one.md5 is not None, one.attachment.file.size, one.md5),
                        *(
                            one.state is AttachmentState.FAILED,
                            old,
                            self._run,
                            self._connection.clock(),
                            one.attachment.key,
                        ),
                    ),
                )
            self._db.execute(
                "DELETE FROM resource_in_use WHERE resource = ? AND session = "
                "(SELECT key FROM session WHERE project = ? AND study_uid = ?)",
                (batch.resource.label, place.project, place.study_uid),
            )


class _Owners:
    """Finds the session that a file lies beside, and the directory that holds it and the files of the session.

    The name of an attachment is its path from that directory, so two files of one name do not collide.
    """

    def __init__(self, database: sqlite3.Connection, places: Sequence[str]) -> None:
        self._db = database
        self._places = [os.path.join(place, "") for place in places]  # noqa: PTH118 - pathlib has no path that ends so
        self._beside: dict[str, frozenset[int | str]] = {}
        self._common: dict[tuple[str, int], str | None] = {}

    def find(self, path: str) -> tuple[int | str, str]:
        """Return the session and the directory, or why there is no session and the directory of the file."""
        own = os.path.dirname(path)  # noqa: PTH120 - the path need not be text
        top = next((place for place in self._places if path.startswith(place)), os.path.join(own, ""))  # noqa: PTH118
        directory = own
        while not (found := self._lies_beside(directory)) and os.path.join(directory, "") != top:  # noqa: PTH118
            directory = os.path.dirname(directory)  # noqa: PTH120
        if len(found) != 1:
            return (_EVERYWHERE if found else _NOWHERE), own
        (session,) = found
        if isinstance(session, str):
            return session, own
        common = self._common_directory(top, session)
        return session, own if common is None else os.path.commonpath([own, common])

    def _lies_beside(self, directory: str) -> frozenset[int | str]:
        """Return the sessions of the DICOM files in or below a directory, or why these have none.

        An unreadable file may be of any session, and counts as another one, even if the only session misses it.
        """
        if directory not in self._beside:
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
            self._beside[directory] = frozenset(whose for (whose,) in rows)
        return self._beside[directory]

    def _common_directory(self, top: str, session: int) -> str | None:
        """Return the deepest directory that holds all files below `top` that a session is sent from."""
        key = top, session
        if key not in self._common:
            bounds = self._db.execute(
                "SELECT min(f.path), max(f.path) FROM instance i JOIN file f ON f.key = i.file "
                "WHERE i.session = ? AND f.path >= ? AND f.path < ?",
                (session, *below(top)),
            ).fetchone()
            # What is common to the first and the last is common to all between them.
            paths = [os.path.dirname(os.fsdecode(path)) for path in bounds if path is not None]  # noqa: PTH120
            self._common[key] = os.path.commonpath(paths) if paths else None
        return self._common[key]
