"""The journal of what goes beside the images: whose each file is, what waits for which resource, what became of it."""

import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence

from asyncimport.journal.facts import Facts, facts_of, file_of, is_same
from asyncimport.journal.intake import Intake, below
from asyncimport.model import (
    Attachment,
    AttachmentState,
    Enclosure,
    File,
    Filed,
    Place,
    Refusal,
    Resource,
)
from asyncimport.routing import name_in_resource, unfit

__all__ = ["Attachments"]

# As many files, and bytes of them, as are handed out at a time.
_MOST_FILES = 500
_MOST_BYTES = 256 << 20
_NOWHERE = "no DICOM file lies beside it, or in a directory below"
_EVERYWHERE = "files of several sessions lie beside it; `asyncimport attach` says which one it belongs to"
_UNWANTED = "the study beside it is not asked for"
_NOT_SENT = "the study beside it is not sent"
_PACKED = "an archive of DICOM files lies beside it, and nobody looks whose they are"
_UNKNOWN = "a file that cannot be read lies beside it, and nobody can tell whose that is"
_SAME_NAME = "another file of this session goes into the resource under the same name"


class Attachments(Intake):
    """Attachments in, enclosures out, what was filed in again."""

    def enclose(
        self,
        places: Sequence[str],
        resource_of: Callable[[str], str | None],
        *,
        roots: Sequence[str] = (),
        retry_refused: bool = False,
    ) -> int:
        """Decide which of the files that this run met and that are not DICOM go beside images, and where.

        `resource_of` tells the label of a path's resource, or None. A file belongs to the session whose files lie in
        its directory, or else in the nearest one above, within its one of `places`, that has DICOM in or below it.
        What was known below `roots` and was not met again is gone, unless a file that was met has taken its place.
        Returns how many wait for their session's end.
        """
        whose = _Whose(self._db, places)
        with self._transaction():
            self._db.execute("DELETE FROM moved")
            rows = self._db.execute(
                "SELECT f.key, f.path, f.kind, a.key, a.resource, a.name, a.state, a.md5, a.settled_at, a.refusal, "
                "a.begun, f.size, f.mtime_ns, f.inode, f.ctime_ns, a.size, a.mtime_ns, a.inode, a.ctime_ns "
                "FROM scope JOIN file f ON f.key = scope.file "
                "LEFT JOIN attachment a ON a.file = f.key WHERE f.kind IN ('NOT_DICOM', 'CONTAINER', 'ATTACHMENT') "
                "ORDER BY f.path"
            ).fetchall()
            for file, raw, kind, *_ in rows:
                # An archive that is asked for is no session beside others.
                if kind == "CONTAINER" and resource_of(os.fsdecode(raw)) is not None:
                    self._becomes(file, "ATTACHMENT")
            for file, raw, kind, attachment, resource, name, state, md5, settled_at, refusal, begun, *facts in rows:
                path = os.fsdecode(raw)
                looks, known = (*facts[:4],), facts[4:]
                unchanged = is_same(known, file_of(raw, looks), settled_at)
                # What the server's state was the reason for is tried again.
                is_final = state == "REFUSED" and refusal == Refusal.FILE and not retry_refused
                is_settled = unchanged and (state == "STORED" or is_final)
                if md5 is not None:
                    # XNAT has it, or had it, whatever the rules say today; changed, it is compared again.
                    self._becomes(file, "ATTACHMENT")
                    if not is_settled:
                        self._compare(attachment, file, looks, unfit(name, looks[0]))
                    elif (*known,) != looks:
                        self._db.execute(
                            "UPDATE attachment SET inode = ?, ctime_ns = ? WHERE key = ?", (*looks[2:], attachment)
                        )
                    continue
                wanted = resource_of(path)
                if is_settled and wanted == resource:
                    continue
                self._db.execute("DELETE FROM attachment WHERE key = ?", (attachment,))
                is_begun = begun if wanted == resource else None
                if wanted is not None and self._place(whose.find(path), file, path, looks, wanted, is_begun):
                    self._becomes(file, "ATTACHMENT")
                elif kind != "NOT_DICOM":
                    self._becomes(file, "NOT_DICOM" if kind == "ATTACHMENT" else kind)
            for root in roots:
                self._miss(root)
            return self._count_waiting()

    def _count_waiting(self) -> int:
        (waiting,) = self._one("SELECT count(*) FROM attachment JOIN scope USING (file) WHERE state = 'PENDING'")
        return int(waiting)

    def has_unattached(self) -> bool:
        """Tell whether there are attachments that XNAT does not have."""
        return self._one("SELECT EXISTS (SELECT 1 FROM attachment WHERE state <> 'STORED')") == (1,)

    def _becomes(self, file: int, kind: str) -> None:
        self._db.execute("UPDATE file SET kind = ?1 WHERE key = ?2 AND kind <> ?1", (kind, file))

    def _miss(self, root: str) -> None:
        """Fail what waits and was not met again below `root`."""
        gone = self._db.execute(
            "UPDATE attachment SET state = 'FAILED', reason = 'the file is gone', run = ? "
            "WHERE state IN ('PENDING', 'FAILED') AND file IN (SELECT key FROM file WHERE path >= ? AND path < ?) "
            "AND file NOT IN (SELECT file FROM scope) RETURNING file",
            (self.run, *below(root)),
        ).fetchall()
        for (file,) in gone:
            self._passes(file)

    def _place(
        self, where: tuple[int | str, str], file: int, path: str, looks: Facts, resource: str, begun: int | None
    ) -> bool:
        """Note where a file goes, or why it goes nowhere; False when it is none of this run's business."""
        found, directory = where
        if found == _UNWANTED:
            return False
        name = name_in_resource(os.path.relpath(path, directory).replace(os.sep, "/"))
        session, state, reason = (None, "SKIPPED", found) if isinstance(found, str) else (found, "PENDING", None)
        if session is not None and (reason := unfit(name, looks[0])):
            state = "REFUSED"
        taken = self._db.execute(
            "SELECT key, file IN (SELECT file FROM scope), md5 FROM attachment "
            "WHERE session = ? AND resource = ? AND name = ?",
            (session, resource, name),
        ).fetchone()
        if taken is not None and not taken[1] and taken[2] is None:
            # That file is not there, or not asked for, and XNAT has nothing of it: this one takes its place.
            self._compare(taken[0], file, looks, reason)
            return True
        if taken is not None:
            if not taken[1]:
                # It is the same one, which was moved, only if its bytes are those that were stored.
                self._db.execute("INSERT OR REPLACE INTO moved VALUES (?, ?)", (file, taken[0]))
            session, state, reason = None, "SKIPPED", _SAME_NAME
        refusal = Refusal.FILE if state == "REFUSED" else None
        self._db.execute(
            "INSERT INTO attachment (file, size, mtime_ns, inode, ctime_ns, session, resource, name, state, reason, "
            "run, refusal, begun) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(file, *looks, session, resource, name, state, reason),
                *(None if state == "PENDING" else self.run, refusal, begun),
            ),
        )
        return True

    def perhaps_moved(self) -> list[tuple[File, str]]:
        """Return files that `enclose` has skipped, as others of their names were stored, with the MD5 of those.

        Those who have not as many bytes are none of them.
        """
        rows = self._db.execute(
            "SELECT f.path, f.size, f.mtime_ns, f.inode, f.ctime_ns, a.md5 FROM moved m JOIN file f ON f.key = m.file "
            "JOIN attachment a ON a.key = m.attachment WHERE f.size IS coalesce(a.stored_size, f.size) ORDER BY f.path"
        ).fetchall()
        return [(file_of(path, facts), md5) for path, *facts, md5 in rows]

    def were_moved(self, files: Sequence[File]) -> int:
        """Let files that are such others, moved, wait to be compared; return how many wait for their session's end."""
        with self._transaction():
            for file in files:
                key, attachment = self._one(
                    "SELECT m.file, m.attachment FROM moved m JOIN file f ON f.key = m.file WHERE f.path = ?",
                    (os.fsencode(file.path),),
                )
                self._db.execute("DELETE FROM attachment WHERE file = ?", (key,))
                self._compare(attachment, key, facts_of(file), None)
            return self._count_waiting()

    def _compare(self, attachment: int, file: int, looks: Facts, unfit_for: str | None) -> None:
        """Let what is known under a name wait to be compared with a file, unless XNAT cannot store that."""
        state = "REFUSED" if unfit_for else "PENDING"
        self._db.execute(
            "UPDATE attachment SET file = ?, size = ?, mtime_ns = ?, inode = ?, ctime_ns = ?, state = ?, reason = ?, "
            "refusal = ?, run = iif(?, ?, run) WHERE key = ?",
            (
                *(file, *looks, state, unfit_for, Refusal.FILE if unfit_for else None),
                *(unfit_for is not None, self.run, attachment),
            ),
        )

    def put_back(self, keys: Iterable[int]) -> None:
        """Let attachments that were stored wait again, as the archive was seen to lack them."""
        with self._transaction(durable=True):
            for key in keys:
                self._db.execute("UPDATE attachment SET state = 'PENDING' WHERE key = ? AND md5 IS NOT NULL", (key,))
                self._db.execute(
                    "INSERT OR IGNORE INTO scope SELECT file FROM attachment WHERE key = ? AND state = 'PENDING'",
                    (key,),
                )

    def claim_enclosure(self) -> Enclosure | None:
        """Hand out what waits for one resource of an archived session; None when there is nothing more to hand out.

        Nothing else of that resource is handed out before `file_away` has settled it.
        """
        with self._transaction():
            row = self._db.execute(
                "SELECT s.key, s.project, s.subject, s.label, s.study_uid, a.resource FROM attachment a "
                "JOIN scope USING (file) JOIN file ON file.key = a.file AND file.kind = 'ATTACHMENT' "
                "JOIN session s ON s.key = a.session WHERE a.state = 'PENDING' "
                "AND EXISTS (SELECT 1 FROM delivery WHERE session = s.key AND state = 'ARCHIVED') "
                "AND NOT EXISTS (SELECT 1 FROM filling f WHERE f.session = s.key AND f.resource = a.resource) "
                "ORDER BY a.session, a.resource LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            session, project, subject, label, study_uid, resource = row
            self._db.execute("INSERT INTO filling VALUES (?, ?)", (session, resource))
            rows = self._db.execute(
                "SELECT a.key, a.name, a.md5, a.stored_size, a.begun, f.path, f.size, f.mtime_ns, f.inode, f.ctime_ns "
                "FROM attachment a "
                "JOIN scope USING (file) JOIN file f ON f.key = a.file AND f.kind = 'ATTACHMENT' "
                "WHERE a.session = ? AND a.resource = ? AND a.state = 'PENDING' "
                "ORDER BY a.key LIMIT ?",
                (session, resource, _MOST_FILES),
            ).fetchall()
        attachments: list[Attachment] = []
        room = _MOST_BYTES
        for key, name, md5, stored_size, begun, path, *facts in rows:
            file = file_of(path, facts)
            if attachments and file.size > room:
                break
            room -= file.size
            attachments.append(
                Attachment(key, file, name, previous=md5, previous_size=stored_size, is_begun=bool(begun))
            )
        place = Place(project, subject, label, study_uid)
        return Enclosure(Resource(place, resource), tuple(attachments))

    def begin(self, attachments: Sequence[Attachment]) -> None:
        """Note that attachments are about to be sent: a kill may leave a part of them."""
        with self._transaction():
            self._db.executemany("UPDATE attachment SET begun = 1 WHERE key = ?", [(one.key,) for one in attachments])

    def file_away(self, enclosure: Enclosure, filed: Sequence[Filed]) -> None:
        """Record what became of an enclosure's attachments, and let others of its resource be handed out."""
        place = enclosure.resource.place
        with self._transaction(durable=True):
            for one in filed:
                # What an earlier run had stored, and is still there, is not of this run.
                old = one.state is AttachmentState.STORED and not one.sent and one.attachment.previous is not None
                refusal = Refusal.SERVER if one.by_state else Refusal.FILE
                self._db.execute(
                    "UPDATE attachment SET state = ?, reason = ?, refusal = ?, "
                    "stored_size = iif(?, ?, stored_size), md5 = coalesce(?, md5), begun = iif(?, begun, NULL), "
                    "run = iif(?, run, ?), settled_at = ? WHERE key = ?",
                    (
                        *(one.state, one.reason, refusal if one.state is AttachmentState.REFUSED else None),
                        *(one.md5 is not None, one.attachment.file.size, one.md5),
                        *(one.state is AttachmentState.FAILED, old, self.run, self._clock(), one.attachment.key),
                    ),
                )
            self._db.execute(
                "DELETE FROM filling WHERE resource = ? AND session = "
                "(SELECT key FROM session WHERE project = ? AND study_uid = ?)",
                (enclosure.resource.label, place.project, place.study_uid),
            )


class _Whose:
    """Finds the session that a file lies beside, and the directory that holds it and the session's files.

    What lies in several directories of a session is named by them, and two of one name do not meet.
    """

    def __init__(self, database: sqlite3.Connection, places: Sequence[str]) -> None:
        self._db = database
        self._places = [os.path.join(place, "") for place in places]  # noqa: PTH118 - pathlib has no path that ends so
        self._beside: dict[str, frozenset[int | str]] = {}
        self._common: dict[tuple[str, int], str | None] = {}

    def find(self, path: str) -> tuple[int | str, str]:
        """Return the session and the directory, or what else lies there and the file's own directory."""
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
        """Return whose the DICOM files in or below a directory are: sessions, or why they are of none.

        What may be of any session counts as one of its own, though it is counted as lacking in the only one around.
        """
        if directory not in self._beside:
            rows = self._db.execute(
                "SELECT DISTINCT CASE WHEN f.kind = 'EXCLUDED' THEN ? WHEN f.kind = 'SKIPPED' AND i.session IS NULL "
                "THEN ? WHEN f.kind = 'CONTAINER' AND f.key IN (SELECT file FROM scope) THEN ? "
                "WHEN f.kind = 'UNREADABLE' AND f.instance IS NULL AND f.key IN (SELECT file FROM scope) AND "
                "f.lacked_uid IS NULL AND (f.lacked_by IS NULL OR f.key IN "
                "(SELECT file FROM lacked WHERE project IS NULL)) THEN ? "
                "WHEN f.lacked_by NOT NULL THEN f.lacked_by ELSE i.session END AS whose FROM file f "
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
