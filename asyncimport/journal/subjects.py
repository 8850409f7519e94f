"""The journal of what is said of subjects."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from asyncimport.journal.attachments import Attachments
from asyncimport.journal.facts import file_of
from asyncimport.model import File, SubjectReport

__all__ = ["DueSubject", "Subjects"]


@dataclass(frozen=True, slots=True)
class DueSubject:
    """A subject with archived sessions, and one file of each.

    `said` are the values that an earlier run has brought to the archive, without those that it has `kept`.
    """

    project: str
    subject: str
    files: tuple[File, ...]
    said: Mapping[str, str] | None = None
    kept: tuple[str, ...] = ()


class Subjects(Attachments):
    """Subjects out, and what was said of them in."""

    def due_subjects(self) -> list[DueSubject]:
        """Return the subjects of this run's files whose sessions are archived, in the order they were found."""
        with self._transaction():
            rows = self._db.execute(
                "SELECT s.project, s.subject, d.fields, d.kept, f.path, f.size, f.mtime_ns, f.inode, f.ctime_ns "
                "FROM session s JOIN file f "
                "ON f.key = (SELECT i.file FROM instance i JOIN scope ON scope.file = i.file WHERE i.session = s.key "
                "AND i.state = 'STORED' ORDER BY i.key LIMIT 1) "
                "LEFT JOIN described d ON d.project = s.project AND d.subject = s.subject AND d.state = 'STORED' "
                "WHERE EXISTS (SELECT 1 FROM delivery WHERE session = s.key AND state = 'ARCHIVED') ORDER BY s.key"
            ).fetchall()
        found: dict[tuple[str, str], DueSubject] = {}
        for project, subject, fields, kept, path, *facts in rows:
            key = project, subject.casefold()
            file = file_of(path, facts)
            known = found.get(key)
            said = json.loads(fields) if fields else None
            files = (*known.files, file) if known else (file,)
            found[key] = DueSubject(project, subject, files, said, tuple(json.loads(kept or "[]")))
        return list(found.values())

    def describe(self, report: SubjectReport, fields: Mapping[str, str]) -> None:
        """Record what became of a subject of which these values were to be said."""
        with self._transaction(durable=True):
            self._db.execute(
                "INSERT OR REPLACE INTO described VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    report.project,
                    report.subject,
                    report.state.upper(),
                    json.dumps(fields),
                    json.dumps(report.kept),
                    json.dumps(report.taken),
                    report.reason,
                    self.run,
                ),
            )
