"""The queue of subjects to update, and the results."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import field

from asyncimport.demographics.fields import BIRTH
from asyncimport.journal.connection import Connection, CurrentRun
from asyncimport.journal.rows import file_of
from asyncimport.model.files import File, Session
from asyncimport.model.record import record
from asyncimport.model.summary import SubjectReport


@record
class DueSubject:
    """A subject with archived sessions; `stored_fields` are what an earlier run brought there, without `kept`."""

    project: str
    subject: str
    stored_fields: Mapping[str, str] | None = None
    kept: tuple[str, ...] = ()


@record
class SessionHeaders:
    """Values in the headers of a session's `files_read` files, stored up to `run`, and its other stored `files`.

    Each file has the SOPInstanceUID of its instance.
    """

    session: int
    values: Mapping[str, Sequence[str]] = field(repr=False)
    run: int
    files_read: int
    files: tuple[tuple[str, File], ...] = ()


class SubjectQueue:
    """Hands out subjects of archived sessions, and records what became of their demographics."""

    def __init__(self, connection: Connection, run: CurrentRun) -> None:
        self._connection = connection
        self._db = connection.db
        self._run = run.key

    def due_subjects(self) -> list[DueSubject]:
        """Return the subjects of this run's files whose sessions are archived, in the order they were found."""
        with self._connection.transaction():
            rows = self._db.execute(
                "SELECT s.project, s.subject, d.fields, d.kept FROM session s "
                "LEFT JOIN subject_demographics d "
                "ON d.project = s.project AND d.subject = s.subject AND d.state = 'STORED' "
                "WHERE EXISTS (SELECT 1 FROM delivery WHERE session = s.key AND state = 'ARCHIVED') AND EXISTS "
                "(SELECT 1 FROM instance i JOIN scope ON scope.file = i.file "
                "WHERE i.session = s.key AND i.state = 'STORED') ORDER BY s.key"
            ).fetchall()
        found: dict[tuple[str, str], DueSubject] = {}
        for project, subject, fields, kept in rows:
            values = json.loads(fields) if fields else None
            due = DueSubject(project, subject, values, tuple(json.loads(kept or "[]")))
            found.setdefault((project, subject.casefold()), due)
        return list(found.values())

    def reached_subjects(self) -> set[tuple[str, str]]:
        """Return project and casefolded label of the subjects of which this run met a file that is not refused."""
        with self._connection.reading():
            rows = self._db.execute(
                "SELECT project, subject FROM session WHERE key IN (SELECT i.session FROM scope "
                "JOIN file f ON f.key = scope.file JOIN instance i ON i.key = f.instance AND i.state <> 'REFUSED' "
                "UNION SELECT f.missing_from FROM scope JOIN file f ON f.key = scope.file)"
            ).fetchall()
        return {(project, subject.casefold()) for project, subject in rows}

    def stored_fields(self) -> dict[tuple[str, str], Mapping[str, str]]:
        """Return what runs have brought to subjects, by project and casefolded label."""
        with self._connection.reading():
            rows = self._db.execute(
                "SELECT project, subject, fields FROM subject_demographics WHERE state = 'STORED'"
            ).fetchall()
        return {(project, subject.casefold()): json.loads(fields) for project, subject, fields in rows}

    def headers_of(self, subject: DueSubject, fields: Collection[str]) -> list[SessionHeaders]:
        """Return the known header values of these fields, of each session of a subject that has stored files."""
        found = []
        with self._connection.transaction():
            for key, known in self._db.execute(
                "SELECT key, headers FROM session s WHERE project = ? AND subject = ? COLLATE NOCASE AND EXISTS "
                "(SELECT 1 FROM instance WHERE session = s.key AND state = 'STORED') ORDER BY key",
                (subject.project, subject.subject),
            ).fetchall():
                memory = json.loads(known or '{"values": {}}')
                (earlier,) = self._connection.one(
                    "SELECT count(*) FROM instance WHERE session = ? AND state = 'STORED' AND coalesce(run, 0) <= ?",
                    (key, memory.get("run", 0)),
                )
                # Instances that were found in the archive have no run.
                if not memory["values"].keys() >= set(fields) or earlier > memory["files"]:
                    memory = {"values": {name: [] for name in fields}, "run": -1, "files": 0}
                rows = self._db.execute(
                    "SELECT i.sop_uid, f.path, f.size, f.mtime_ns, f.inode, f.ctime_ns "
                    "FROM instance i JOIN file f ON f.key = i.file "
                    "WHERE i.session = ? AND i.state = 'STORED' AND coalesce(i.run, 0) > ? ORDER BY i.key",
                    (key, memory["run"]),
                )
                files = tuple((uid, file_of(path, columns)) for uid, path, *columns in rows)
                found.append(SessionHeaders(key, memory["values"], memory["run"], memory["files"], files))
        return found

    def sessions_of(self, subject: DueSubject) -> list[Session]:
        """Return the archived sessions of a subject."""
        with self._connection.reading():
            rows = self._db.execute(
                "SELECT project, subject, label, study_uid FROM session s WHERE project = ? AND subject = ? "
                "COLLATE NOCASE AND EXISTS (SELECT 1 FROM delivery WHERE session = s.key AND state = 'ARCHIVED') "
                "ORDER BY key",
                (subject.project, subject.subject),
            ).fetchall()
        return [Session(*row) for row in rows]

    def record_headers(self, read: Sequence[SessionHeaders]) -> None:
        """Record the header values of sessions."""
        rows = [
            (json.dumps({"values": one.values, "run": one.run, "files": one.files_read}), one.session) for one in read
        ]
        with self._connection.transaction():
            self._db.executemany("UPDATE session SET headers = ? WHERE key = ?", rows)

    def record(self, report: SubjectReport, fields: Mapping[str, str], seen: Mapping[str, str]) -> None:
        """Record what became of a subject, the values to be set, and those `seen` in the archive, which must stay."""
        with self._connection.transaction(durable=True):
            (known,) = self._connection.one(
                "SELECT coalesce((SELECT held FROM subject_demographics WHERE project = ? AND subject = ?), '{}')",
                (report.project, report.subject),
            )
            made_room = set(BIRTH) if seen.keys() & set(BIRTH) else set()
            held = {name: value for name, value in json.loads(known).items() if name not in made_room}
            self._db.execute(
                "INSERT OR REPLACE INTO subject_demographics "
                "(project, subject, state, fields, kept, taken, reason, run, held) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(report.project, report.subject, report.state.upper()),
                    *map(json.dumps, (fields, report.kept, report.taken)),
                    *(report.reason, self._run, json.dumps({**held, **seen})),
                ),
            )
