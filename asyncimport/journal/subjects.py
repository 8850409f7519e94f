"""The journal of what is said of subjects."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from asyncimport.demographics import BIRTH
from asyncimport.journal.attachments import Attachments
from asyncimport.journal.database import translated
from asyncimport.journal.facts import file_of
from asyncimport.model import File, SubjectReport

__all__ = ["DueSubject", "SessionHeaders", "Subjects"]


@dataclass(frozen=True, slots=True)
class DueSubject:
    """A subject with archived sessions.

    `said` are the values that an earlier run has brought to the archive, without those that it has `kept`.
    """

    project: str
    subject: str
    said: Mapping[str, str] | None = None
    kept: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionHeaders:
    """What the headers of a session were seen to say, all values by field, and the stored files not read so far.

    Those that were stored up to `run` were read, which were `read` then. Its repr shows no value.
    """

    session: int
    said: Mapping[str, Sequence[str]] = field(repr=False)
    run: int
    read: int
    files: tuple[File, ...] = ()


class Subjects(Attachments):
    """Subjects out, and what was said of them in."""

    def due_subjects(self) -> list[DueSubject]:
        """Return the subjects of this run's files whose sessions are archived, in the order they were found."""
        with self._transaction():
            rows = self._db.execute(
                "SELECT s.project, s.subject, d.fields, d.kept FROM session s "
                "LEFT JOIN described d ON d.project = s.project AND d.subject = s.subject AND d.state = 'STORED' "
                "WHERE EXISTS (SELECT 1 FROM delivery WHERE session = s.key AND state = 'ARCHIVED') AND EXISTS "
                "(SELECT 1 FROM instance i JOIN scope ON scope.file = i.file "
                "WHERE i.session = s.key AND i.state = 'STORED') "
                "ORDER BY s.key"
            ).fetchall()
        found: dict[tuple[str, str], DueSubject] = {}
        for project, subject, fields, kept in rows:
            said = json.loads(fields) if fields else None
            due = DueSubject(project, subject, said, tuple(json.loads(kept or "[]")))
            found.setdefault((project, subject.casefold()), due)
        return list(found.values())

    def subjects_met(self) -> set[tuple[str, str]]:
        """Return project and label, with its case folded, of all subjects that have a session here."""
        with translated(self.path):
            rows = self._db.execute("SELECT DISTINCT project, subject FROM session").fetchall()
        return {(project, subject.casefold()) for project, subject in rows}

    def headers_of(self, subject: DueSubject, fields: Collection[str]) -> list[SessionHeaders]:
        """Return what is known of these fields by the headers of all sessions of a subject that have stored files.

        What was read before another field was asked for is to be read again.
        """
        found = []
        with self._transaction():
            for key, known in self._db.execute(
                "SELECT key, headers FROM session s WHERE project = ? AND subject = ? COLLATE NOCASE AND EXISTS "
                "(SELECT 1 FROM instance WHERE session = s.key AND state = 'STORED') ORDER BY key",
                (subject.project, subject.subject),
            ).fetchall():
                memory = json.loads(known or '{"said": {}}')
                (earlier,) = self._one(
                    "SELECT count(*) FROM instance WHERE session = ? AND state = 'STORED' AND coalesce(run, 0) <= ?",
                    (key, memory.get("run", 0)),
                )
                # What was found in the archive is no run's.
                if not memory["said"].keys() >= set(fields) or earlier > memory["files"]:
                    memory = {"said": {name: [] for name in fields}, "run": -1, "files": 0}
                rows = self._db.execute(
                    "SELECT f.path, f.size, f.mtime_ns, f.inode, f.ctime_ns "
                    "FROM instance i JOIN file f ON f.key = i.file "
                    "WHERE i.session = ? AND i.state = 'STORED' AND coalesce(i.run, 0) > ? ORDER BY i.key",
                    (key, memory["run"]),
                )
                files = tuple(file_of(path, facts) for path, *facts in rows)
                found.append(SessionHeaders(key, memory["said"], memory["run"], memory["files"], files))
        return found

    def hear(self, read: Sequence[SessionHeaders]) -> None:
        """Record what the headers of sessions say."""
        rows = [(json.dumps({"said": one.said, "run": one.run, "files": one.read}), one.session) for one in read]
        with self._transaction():
            self._db.executemany("UPDATE session SET headers = ? WHERE key = ?", rows)

    def describe(self, report: SubjectReport, fields: Mapping[str, str], seen: Mapping[str, str]) -> None:
        """Record what became of a subject of which these values were to be said, and which were `seen` in the archive.

        What was seen there once stays on the list of what must be there, until another value takes its place.
        """
        with self._transaction(durable=True):
            (known,) = self._one(
                "SELECT coalesce((SELECT held FROM described WHERE project = ? AND subject = ?), '{}')",
                (report.project, report.subject),
            )
            made_room = set(BIRTH) if seen.keys() & set(BIRTH) else set()
            held = {name: value for name, value in json.loads(known).items() if name not in made_room}
            self._db.execute(
                "INSERT OR REPLACE INTO described (project, subject, state, fields, kept, taken, reason, run, held) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    report.project,
                    report.subject,
                    report.state.upper(),
                    json.dumps(fields),
                    json.dumps(report.kept),
                    json.dumps(report.taken),
                    report.reason,
                    self.run,
                    json.dumps({**held, **seen}),
                ),
            )
