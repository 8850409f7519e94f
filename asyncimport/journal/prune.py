"""Takes sessions and files out of a journal, so that the next scan meets them as new, or not at all.

It finds and shows them first, then removes them in one transaction. It only deletes rows and never changes a state. No
remaining row refers to a deleted one.
"""

import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Self

from asyncimport.errors import UsageError
from asyncimport.journal.connection import NOTE_FORGOTTEN, tree_key
from asyncimport.journal.database import (
    NOTHING_YET,
    LockWait,
    create_or_open,
    journal_errors,
    locked,
    show_all_projects,
    show_only_project,
)
from asyncimport.journal.reader import JournalReader
from asyncimport.model.files import Session
from asyncimport.model.record import record
from asyncimport.model.states import FileKind
from asyncimport.model.summary import SessionReport
from asyncimport.model.texts import did_you_mean
from asyncimport.system.mounts import tree_identity

_UNFINISHED = "XNAT holds an unfinished delivery of it"
_UNMOUNTED = "its directory is empty or gone, as if a disk were not mounted"
_ELSEWHERE = "a run with --dask saw it on another machine"
_PRUNED = """
CREATE TEMP TABLE pruned_session (key INTEGER PRIMARY KEY);
CREATE TEMP TABLE pruned_instance (key INTEGER PRIMARY KEY);
CREATE TEMP TABLE pruned_file (key INTEGER PRIMARY KEY);
"""
_IS_PRUNED = (
    "(d.session IN (SELECT key FROM pruned_session) OR d.session IN (SELECT session FROM instance WHERE key IN "
    "(SELECT key FROM pruned_instance)))"
)
_PRUNE = f"""
BEGIN IMMEDIATE;
{NOTE_FORGOTTEN.format(_IS_PRUNED)};
INSERT OR IGNORE INTO pruned_instance SELECT key FROM instance WHERE session IN (SELECT key FROM pruned_session);
-- Copies too: the next scan reads them again, and one of them is sent.
INSERT OR IGNORE INTO pruned_file SELECT key FROM file WHERE instance IN (SELECT key FROM pruned_instance)
    OR missing_from IN (SELECT key FROM pruned_session)
    OR key IN (SELECT file FROM attachment WHERE session IN (SELECT key FROM pruned_session));
DELETE FROM attachment WHERE file IN (SELECT key FROM pruned_file);
-- The archive keeps these sessions, so their patients stay in the subjects.
UPDATE patient SET archived = 1 WHERE EXISTS (SELECT 1 FROM session s JOIN delivery d ON d.session = s.key
    WHERE s.key IN (SELECT key FROM pruned_session) AND s.project = patient.project
    AND s.subject = patient.subject COLLATE NOCASE AND d.archive_uri IS NOT NULL);
DELETE FROM instance WHERE key IN (SELECT key FROM pruned_instance);
DELETE FROM delivery WHERE session IN (SELECT key FROM pruned_session);
DELETE FROM file WHERE key IN (SELECT key FROM pruned_file) AND key NOT IN (SELECT file FROM instance);
-- An instance that stays was sent from such a file, before the file held one that is taken out.
UPDATE file SET kind = 'UNREADABLE', reason = 'not looked into yet', instance = NULL
    WHERE instance IN (SELECT key FROM pruned_instance);
-- A session that XNAT has nothing of, and that has no files left here, begins anew if it comes back.
DELETE FROM delivery WHERE uri IS NULL AND session NOT IN (SELECT session FROM instance);
DELETE FROM session WHERE key NOT IN (SELECT session FROM instance) AND key NOT IN (SELECT session FROM delivery);
UPDATE file SET missing_from = NULL WHERE missing_from NOT IN (SELECT key FROM session);
DELETE FROM attachment WHERE session NOT IN (SELECT key FROM session);
DELETE FROM patient WHERE archived IS NULL AND NOT EXISTS (SELECT 1 FROM session s
    WHERE s.project = patient.project AND s.subject = patient.subject COLLATE NOCASE);
DELETE FROM subject_demographics WHERE NOT EXISTS (SELECT 1 FROM session s
    WHERE s.project = subject_demographics.project AND s.subject = subject_demographics.subject);
COMMIT;
"""  # noqa: S608 - fixed text


@record
class PruneItem:
    """A whole session in a state, or files of one or of none, and one of their paths; `keep_reason`: why it stays."""

    session: Session | None
    state: str
    files: int
    size: int
    example: str
    uri: str | None = None
    keep_reason: str | None = None
    is_whole: bool = False


class Pruner:
    """Finds what to remove from a locked journal (`found`), and removes it when `prune()` is called."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db = connection
        self._path = path
        self._empty: dict[str, bool] = {}
        self._elsewhere: dict[bytes, bool] = {}
        self.found: list[PruneItem] = []
        with journal_errors(path):
            self._db.executescript(_PRUNED)
            self._trees = [key for (key,) in self._db.execute("SELECT key FROM metadata WHERE key LIKE 'tree %'")]

    @classmethod
    @contextmanager
    def of(cls, path: Path, *, project: str | None = None) -> Iterator[Self]:
        """Lock a journal (or a project of it). Raises: UsageError if there is none, JournalBusyError, JournalError."""
        if not path.is_file() or not path.stat().st_size:
            raise UsageError(f"there is no journal {path}", hint=NOTHING_YET)
        with locked(path):
            connection = create_or_open(path)
            try:
                if project is not None:
                    show_only_project(connection, project)
                yield cls(connection, path)
            finally:
                connection.close()

    def find_sessions(self, label: str, *, force: bool = False) -> None:
        """Find the sessions of a label. Raises: UsageError if there is none, or one is unfinished without `force`."""
        items = self._whole_sessions(label, force=force)
        if not items:
            labels = [label for (label,) in self._db.execute("SELECT DISTINCT label FROM session")]
            hint = f"{did_you_mean(label, labels)}`asyncimport status -o json` lists them all"
            raise UsageError(f"the journal knows no session {label}", hint=hint)
        for item in items:
            if item.keep_reason:
                raise UsageError(
                    f"{item.keep_reason}: {label} in {item.uri or 'its prearchive'}",
                    hint="let `asyncimport upload` finish it, or delete it in XNAT and give --force",
                )
        self.found += items

    def find_held(self, *, force: bool = False) -> None:
        """Find the sessions that are held, with all their files."""
        self.found += self._whole_sessions(None, force=force, only="held")

    def find_gone(self, *, force: bool = False) -> None:
        """Find files that are gone from disk and that XNAT does not have: their sessions no longer miss them."""
        counts = _Counts()
        with journal_errors(self._path):
            # The instance of a file that now holds something else is gone too.
            rows = self._db.execute(
                "SELECT i.key, f.key, f.path, f.size, f.instance IS i.key, i.state, s.project, s.subject, s.label, "
                "s.study_uid, i.state = 'REFUSED' AND EXISTS (SELECT 1 FROM delivery d WHERE d.session = s.key "
                "AND d.uri IS NOT NULL AND d.state NOT IN ('ARCHIVED', 'DELETED')) "
                "FROM instance i JOIN file f ON f.key = i.file JOIN session s ON s.key = i.session "
                "WHERE i.state <> 'STORED' ORDER BY i.key"
            ).fetchall()
            for instance, file, path, size, carries, state, *names, unfinished in rows:
                if carries and not _is_gone(path):
                    continue
                # Archiving compares what XNAT holds with what it refused.
                keep_reason = _UNFINISHED if unfinished and not force else None
                if carries:
                    keep_reason = keep_reason or self._unmounted(path, force=force)
                counts.add(Session(*names), state, size, path, keep_reason)
                if keep_reason is None:
                    self._mark("instance", [instance])
                    self._mark("file", [file] if carries else [])
            rows = self._db.execute(
                "SELECT key, path, size, kind FROM file WHERE kind NOT IN (?, 'LINK', 'INNER_LINK') AND key NOT IN "
                "(SELECT file FROM instance) AND key NOT IN (SELECT file FROM attachment WHERE md5 IS NOT NULL)",
                (FileKind.INSTANCE,),
            ).fetchall()
            for file, path, size, kind in rows:
                if _is_gone(path):
                    keep_reason = self._unmounted(path, force=force)
                    counts.add(None, kind, size, path, keep_reason)
                    self._mark("file", [file] if keep_reason is None else [])
        self.found += counts.items()

    def find_archived(self, before: float, *, force: bool = False) -> None:
        """Find the files of sessions archived and verified before a time, if all are gone; sessions stay known."""
        with journal_errors(self._path):
            sessions = self._db.execute(
                # Each delivery is verified with all files stored until then, so the last one counts.
                "SELECT s.key, s.project, s.subject, s.label, s.study_uid, d.archive_uri FROM session s "
                "JOIN delivery d ON d.session = s.key AND d.number = "
                "(SELECT max(number) FROM delivery WHERE session = s.key AND uri IS NOT NULL) "
                "WHERE d.state = 'ARCHIVED' AND d.verified IS NOT NULL AND d.closed_at < ? "
                "AND NOT EXISTS (SELECT 1 FROM instance WHERE session = s.key AND state IN ('PENDING', 'FAILED')) "
                "AND EXISTS (SELECT 1 FROM instance WHERE session = s.key) ORDER BY s.key",
                (before,),
            ).fetchall()
            for session, *names, uri in sessions:
                rows = self._db.execute(
                    "SELECT f.key, f.path, f.size FROM instance i JOIN file f ON f.key = i.file AND f.instance = i.key "
                    "WHERE i.session = ?1 UNION SELECT f.key, f.path, f.size FROM instance i "
                    "JOIN file f ON f.instance = i.key AND f.kind = 'DUPLICATE' WHERE i.session = ?1 ORDER BY 1",
                    (session,),
                ).fetchall()
                there = sum(not _is_gone(path) for _, path, _ in rows)
                keep_reason = f"{there:,} of its files are still on disk, and would be sent again" if there else None
                for _, path, _ in rows if keep_reason is None else ():
                    keep_reason = keep_reason or self._unmounted(path, force=force)
                if keep_reason is None:
                    self._db.execute(
                        "INSERT OR IGNORE INTO pruned_instance SELECT key FROM instance WHERE session = ?", (session,)
                    )
                    self._mark("file", [key for key, _, _ in rows])
                size = sum(size for _, _, size in rows)
                example = os.fsdecode(rows[0][1]) if rows else ""
                self.found.append(PruneItem(Session(*names), "archived", len(rows), size, example, uri, keep_reason))

    def prune(self) -> None:
        """Remove what was found: all of it or, after a kill or an error, nothing."""
        with journal_errors(self._path):
            try:
                show_all_projects(self._db)
                LockWait().until_free(self._path, partial(self._db.executescript, _PRUNE))
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _whole_sessions(self, label: str | None, *, force: bool, only: str | None = None) -> list[PruneItem]:
        """Find sessions and their reports; a session whose files were pruned before has none."""
        reports = {
            report.session: report for report in JournalReader(self._db, self._path, run=None).summary().sessions
        }
        items = []
        with journal_errors(self._path):
            rows = self._db.execute(
                "SELECT s.key, s.project, s.subject, s.label, s.study_uid, (SELECT f.path FROM instance i "
                "JOIN file f ON f.key = i.file WHERE i.session = s.key ORDER BY i.key LIMIT 1), EXISTS (SELECT 1 "
                "FROM delivery d WHERE d.session = s.key AND d.uri IS NOT NULL AND d.state NOT IN ('ARCHIVED', "
                "'DELETED')) FROM session s WHERE ?1 IS NULL OR s.label = ?1 COLLATE NOCASE ORDER BY s.key",
                (label,),
            ).fetchall()
            for key, *names, example, unfinished in rows:
                session, path = Session(*names), os.fsdecode(example or b"")
                report = reports.get(session) or SessionReport(session, 0, 0, "archived", None, None, None)
                if only is not None and report.state != only:
                    continue
                keep_reason = _UNFINISHED if unfinished and not force else None
                if keep_reason is None:
                    self._mark("session", [key])
                items.append(
                    PruneItem(
                        session, report.state, report.files, report.size, path, report.uri, keep_reason, is_whole=True
                    )
                )
        return items

    def _mark(self, what: str, keys: Iterable[int]) -> None:
        self._db.executemany(
            f"INSERT OR IGNORE INTO pruned_{what} VALUES (?)",  # noqa: S608 - fixed text
            [(key,) for key in keys],
        )

    def _unmounted(self, path: bytes, *, force: bool) -> str | None:
        """Return why a vanished file may come back: only others see it, or the nearest existing directory is empty."""
        directory = os.path.dirname(path)  # noqa: PTH120 - the path need not be text
        if force:
            return None
        if self._trees and self._is_elsewhere(directory):
            return _ELSEWHERE
        return _UNMOUNTED if self._is_empty(directory) else None

    def _is_elsewhere(self, directory: bytes) -> bool:
        """Whether a directory is below a place at which other machines see other files than this one."""
        if directory not in self._elsewhere:
            key, above = tree_key(directory), os.path.dirname(directory)  # noqa: PTH120 - as above
            seen = {one.removeprefix(key) for one in self._trees if one.startswith(key)}
            here = tree_identity(os.fsdecode(directory)) if seen else None
            others = seen - ({here.lasting} if here is not None else set())
            self._elsewhere[directory] = bool(others) or (above != directory and self._is_elsewhere(above))
        return self._elsewhere[directory]

    def _is_empty(self, directory: bytes) -> bool:
        key = os.fsdecode(directory)
        if key not in self._empty:
            try:
                with os.scandir(directory) as entries:
                    self._empty[key] = next(entries, None) is None
            except (FileNotFoundError, NotADirectoryError):
                above = os.path.dirname(directory)  # noqa: PTH120 - as above
                # A missing Windows drive has no parent.
                self._empty[key] = above == directory or self._is_empty(above)
            except OSError:
                self._empty[key] = True
        return self._empty[key]


def _is_gone(path: bytes) -> bool:
    """Whether there is no regular file; False if the disk does not answer."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116 - the path need not be text
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False


class _Counts:
    def __init__(self) -> None:
        self._counts: dict[tuple[Session | None, str, str | None], tuple[int, int, bytes]] = {}

    def add(self, session: Session | None, state: str, size: int, path: bytes, keep_reason: str | None) -> None:
        files, total, example = self._counts.get((session, state, keep_reason), (0, 0, path))
        self._counts[session, state, keep_reason] = (files + 1, total + size, example)

    def items(self) -> list[PruneItem]:
        return [
            PruneItem(session, state.lower(), files, size, os.fsdecode(example), keep_reason=keep_reason)
            for (session, state, keep_reason), (files, size, example) in self._counts.items()
        ]
