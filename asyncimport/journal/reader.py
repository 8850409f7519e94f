"""The reading side of the journal: sums, reports and what was stored. It never writes."""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from asyncimport.errors import UsageError
from asyncimport.journal.activity import read_activity
from asyncimport.journal.bound_rules import check_rules
from asyncimport.journal.connection import UNARCHIVED
from asyncimport.journal.database import (
    NOTHING_YET,
    connect_read_only,
    has_what_reports_need,
    is_locked,
    journal_errors,
    show_only_project,
)
from asyncimport.journal.journal import Journal
from asyncimport.journal.reports import (
    EXAMPLE_OF_STUDY,
    AttachmentRow,
    attachment_counts,
    attachment_problems,
    attachment_rows,
    count_files,
    demographics_seen,
    file_problems,
    remaining,
    settled_files,
    stored_batches,
    stored_rows,
    study_facts,
    subject_counts,
    subject_problems,
)
from asyncimport.journal.rows import (
    DeliveryRow,
    InstanceRow,
    Remaining,
    Run,
    SentFile,
    StoredInstance,
    StudyFacts,
    SubjectPatient,
    digest_of,
    digests_of,
    file_of,
)
from asyncimport.journal.session_reports import report_now, session_reports
from asyncimport.model.activity import RunActivity
from asyncimport.model.addresses import with_archived_subject
from asyncimport.model.attachments import AttachmentBatch
from asyncimport.model.files import Patient, Session
from asyncimport.model.summary import SessionReport, Summary
from asyncimport.routing.existing_sessions import RoutedLabels

_ALL = "file f"
_SCOPE = "scope JOIN file f ON f.key = scope.file"


class JournalReader:
    """Reads a journal: `JournalReader.of(journal)` the files of that run, `JournalReader.open(path)` all files."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        *,
        run: int | None,
        began_at: float | None = None,
        postponed: Mapping[int, str] | None = None,
    ) -> None:
        self._db = connection
        self._path = path
        self._run = run
        self._began_at = began_at
        self._postponed = postponed or {}
        self._files = _ALL if run is None else _SCOPE

    @classmethod
    def of(cls, journal: Journal, *, since: int | None = None) -> Self:
        """Read the files of a run's sources; outcomes before the run `since` (else this one) count as "already"."""
        db, run, postponed = journal.connection.db, journal.run if since is None else since, journal.state.postponed
        return cls(db, journal.path, run=run, began_at=journal.began_at, postponed=postponed)

    @classmethod
    @contextmanager
    def open(cls, path: Path, *, project: str | None = None, run: int | None = None) -> Iterator[Self]:
        """Read a journal, even while a run writes it; or one project of it; or what one run settled.

        Raises: UsageError, JournalError.
        """
        connection = connect_read_only(path)
        try:
            with journal_errors(path):
                if project is not None:
                    show_only_project(connection, project)
                if run is not None:
                    connection.execute("CREATE TEMP TABLE scope (file INTEGER PRIMARY KEY)")
                    settled_files(connection, run)
            yield cls(connection, path, run=run)
        finally:
            connection.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read the journal as it is now, whatever a run changes during the block, which should be short."""
        with journal_errors(self._path):
            self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    def is_running(self, run: Run) -> bool | None:
        """Whether a run without an end is running, or was killed; None if unknown."""
        if run.ended is not None:
            return False
        is_held = is_locked(self._path)
        if is_held is False and any(one.ended for one in self.runs() if one.key == run.key):
            # It has ended since.
            return True
        return is_held

    def metadata(self) -> dict[str, str]:
        """Return destination and rules. Raises: UsageError if there are none yet, as a kill leaves it."""
        with journal_errors(self._path):
            metadata = dict(self._db.execute("SELECT key, value FROM metadata"))
        if "destination" not in metadata:
            raise UsageError(f"there is nothing in the journal {self._path} yet", hint=NOTHING_YET)
        return metadata

    def check_rules(self, destination: str, rules: Mapping[str, str]) -> None:
        """Compare destination and rules as a run would. Raises: JournalError (destination), UsageError (rules)."""
        check_rules(self.metadata(), self._path, destination, rules)

    def has_project(self, project: str) -> bool:
        """Whether a study has a session in this project."""
        return bool(self._fetch("SELECT 1 FROM session WHERE project = ? LIMIT 1", (project,)))

    def runs(self) -> list[Run]:
        """Return all runs, the first one first."""
        with journal_errors(self._path):
            about = "about" if has_what_reports_need(self._db) else "NULL"
        rows = self._fetch(f"SELECT key, started, ended, exit_code, {about} FROM run ORDER BY key")  # noqa: S608 - fixed text
        return [Run(key, started, ended, code, json.loads(about or "{}")) for key, started, ended, code, about in rows]

    def activity(self, run: int) -> RunActivity:
        """Return what a run sent over time."""
        with journal_errors(self._path):
            return read_activity(self._db, run) if has_what_reports_need(self._db) else RunActivity(run, 1, [])

    def study_facts(self) -> dict[tuple[str, str], StudyFacts]:
        """Return what is known of each study, by project and UID."""
        with journal_errors(self._path):
            return study_facts(self._db, has_dates=has_what_reports_need(self._db))

    def summary(self) -> Summary:
        """Add up files, bytes, sessions and problems."""
        with journal_errors(self._path):
            files, sizes, counted = count_files(self._db, self._files, self._run)
            attachments = attachment_counts(self._db, self._files, self._run)
            subjects = subject_counts(self._db, self._files, self._run)
            sound = files.stored + files.already_stored + files.duplicate + files.left
            has_problems = files.found + files.not_dicom + files.unreadable > sound
            # Each of these reads every file in scope.
            problems = [
                *(file_problems(self._db, self._files) if has_problems else ()),
                *(attachment_problems(self._db, self._files) if attachments.found else ()),
                *subject_problems(self._db, self._files),
            ]
            return Summary(
                files,
                sizes.found,
                sizes.stored,
                self._reports(counted),
                tuple(problems),
                attachments,
                subjects,
                sizes.sent,
                sizes.zips,
            )

    def instances(self, label: str) -> list[InstanceRow]:
        """Return the instances of the sessions with this label, in the order they were found."""
        return self._rows(
            "SELECT f.path, f.size, f.mtime_ns, f.inode, f.ctime_ns, i.sop_uid, i.state, "
            # What the file is now, if it is not what was sent.
            "coalesce(i.reason, iif(f.instance = i.key, f.reason, NULL)), i.attempts, i.settled_at FROM session s "
            "CROSS JOIN instance i ON i.session = s.key JOIN file f ON f.key = i.file "
            "WHERE s.label = ? COLLATE NOCASE ORDER BY i.key",
            label,
        )

    def unsent_files(self, label: str) -> list[InstanceRow]:
        """Return the files of the sessions with this label that are not sent: copies and unreadable ones."""
        return self._rows(
            "WITH t AS (SELECT key FROM session WHERE label = ? COLLATE NOCASE), u AS (SELECT i.key, i.sop_uid, i.file "
            "FROM t CROSS JOIN instance i ON i.session = t.key) SELECT f.path, f.size, "
            "f.mtime_ns, f.inode, f.ctime_ns, coalesce(u.sop_uid, f.missing_uid, ''), f.kind, f.reason, NULL, NULL "
            "FROM file f LEFT JOIN u ON u.key = f.instance WHERE f.kind <> 'INSTANCE' AND (u.key IS NOT NULL "
            "OR f.missing_from IN (SELECT key FROM t)) AND f.key NOT IN (SELECT file FROM u) ORDER BY f.key",
            label,
        )

    def attachments(self, label: str) -> list[AttachmentRow]:
        """Return the attachments of the sessions with this label."""
        with journal_errors(self._path):
            return attachment_rows(self._db, label)

    def stored_attachment_batches(self) -> list[AttachmentBatch]:
        """Return the attachments that XNAT has ever stored, by resource; `previous` is the MD5 of what it stored."""
        with journal_errors(self._path):
            return stored_batches(self._db)

    def subject_demographics(self) -> list[tuple[str, str, dict[str, str]]]:
        """Return project, label and the values that XNAT was seen to have of each updated subject."""
        with journal_errors(self._path):
            return demographics_seen(self._db)

    def remaining(self) -> Remaining:
        """Return what is left to send, and how long that takes by files or by bytes, whichever is longer."""
        with journal_errors(self._path):
            return remaining(self._db, self._files)

    def session_reports(self) -> tuple[SessionReport, ...]:
        """Return what became of each session, in the order they were found."""
        with journal_errors(self._path):
            return self._reports(count_files(self._db, self._files, self._run)[-1])

    def _reports(self, counted: Mapping[int, tuple[int, int]]) -> tuple[SessionReport, ...]:
        return session_reports(self._db, counted, began_at=self._began_at, postponed=self._postponed)

    def report_now(self, report: SessionReport) -> tuple[SessionReport, int]:
        """Return a report as it is now, and the number of the last delivery of its session that was archived."""
        with journal_errors(self._path):
            return report_now(self._db, report)

    def session_labels(self, *, after_relabel: bool = False) -> list[tuple[Session, RoutedLabels | None]]:
        """Return the sessions with their labels by the rules; `after_relabel` only those that XNAT has, or None."""
        labels, where = "1, routed_subject, routed_label", ""
        if after_relabel:
            labels = f"NOT ({UNARCHIVED}), NULL, NULL"
            where = (
                "WHERE EXISTS (SELECT 1 FROM instance WHERE session = s.key AND state = 'STORED') OR EXISTS "
                "(SELECT 1 FROM delivery WHERE session = s.key AND (uri IS NOT NULL OR state = 'ARCHIVED'))"
            )
        rows = self._fetch(
            f"SELECT project, subject, label, study_uid, {labels} FROM session s {where} ORDER BY key"  # noqa: S608 - fixed text
        )
        return [(Session(*row[:4]), (row[5], row[6]) if row[4] else None) for row in rows]

    def subject_patients(self, *, after_relabel: bool = False) -> list[SubjectPatient]:
        """Return the patients of each subject; with `after_relabel` only of subjects with an archived session."""
        condition = (
            "WHERE archived IS NOT NULL OR EXISTS (SELECT 1 FROM session s JOIN delivery d ON d.session = s.key "
            "WHERE s.project = p.project AND s.subject = p.subject COLLATE NOCASE AND d.state = 'ARCHIVED')"
        )
        rows = self._fetch(
            "SELECT project, subject, allowed IS NOT NULL, id, name, birth_date, issuer FROM patient p "  # noqa: S608 - fixed text
            f"{condition if after_relabel else ''} ORDER BY key"
        )
        studies: dict[tuple[str, str, str], str] = {}
        for project, subject, who, study in self._fetch(
            "SELECT project, subject, patient, study_uid FROM session ORDER BY key"
        ):
            studies.setdefault((project, subject.lower(), who), study)
        return [
            SubjectPatient(
                project, subject, Patient(*who), bool(allowed), studies.get((project, subject.lower(), who[0]), "")
            )
            for project, subject, allowed, *who in rows
        ]

    def example_of(self, study_uid: str) -> str:
        """Return the path of a file of a study, or ""."""
        rows = self._fetch(EXAMPLE_OF_STUDY, (study_uid,))
        return os.fsdecode(rows[0][0]) if rows else ""

    def disputed_studies(self) -> frozenset[str]:
        """Return the studies (UIDs) with skipped files: by the rules of another session, or of another patient."""
        rows = self._fetch(
            f"SELECT DISTINCT s.study_uid FROM {self._files} JOIN session s ON s.key = f.missing_from "  # noqa: S608 - fixed text
            "WHERE f.kind = 'SKIPPED'"
        )
        return frozenset(uid for (uid,) in rows)

    def acknowledged(self, session: Session) -> tuple[frozenset[str], frozenset[str]]:
        """Return the UIDs that XNAT acknowledged of a session: stored ones, and doubtful ones, lost while archiving."""
        uids: tuple[list[str], list[str]] = [], []
        with journal_errors(self._path):
            rows = self._db.execute(
                "SELECT i.sop_uid, i.state <> 'STORED' AND i.presumed IS NULL FROM instance i "
                # A presumed one has an earlier version there. One that XNAT refused at once has no digest.
                "JOIN session s ON s.key = i.session WHERE s.project = ? AND s.study_uid = ? AND (i.state = 'STORED' "
                "OR i.presumed IS NOT NULL OR (i.state = 'REFUSED' AND i.refusal = 'FILE' AND i.xxh3 IS NOT NULL))",
                (session.project, session.study_uid),
            )
            for uid, is_doubtful in rows:
                uids[is_doubtful].append(uid)
        return frozenset(uids[0]), frozenset(uids[1])

    def archived_digests(self, session: Session) -> dict[str, str]:
        """Return XNAT's MD5 (hexadecimal) at the last verification, by SOPInstanceUID, without presumed instances."""
        with journal_errors(self._path):
            row = self._db.execute(
                "SELECT key FROM session WHERE project = ? AND study_uid = ?", (session.project, session.study_uid)
            ).fetchone()
            digests = {} if row is None else digests_of(self._db, row[0])
            if digests:
                query = "SELECT sop_uid FROM instance WHERE session = ? AND (state <> 'STORED' OR presumed IS NOT NULL)"
                for (uid,) in self._db.execute(query, row):
                    digests.pop(uid, None)
        return digests

    def stored_instances(self) -> Iterator[StoredInstance]:
        """Yield all files that XNAT has acknowledged, in the order they were found."""
        with journal_errors(self._path):
            rows = self._db.execute(
                "SELECT s.project, s.subject, s.label, s.study_uid, i.series_uid, i.sop_uid, i.sha256, i.xxh3, d.uri, "  # noqa: S608 - fixed text
                "i.attempts, i.settled_at, i.run, i.zip_size, d.archive_uri, f.path, "
                "f.size, f.mtime_ns, f.inode, f.ctime_ns "
                f"FROM {self._files} "
                "JOIN instance i ON i.key = f.instance AND i.file = f.key AND f.kind <> 'SKIPPED' "
                "JOIN session s ON s.key = i.session LEFT JOIN delivery d ON d.key = i.delivery "
                # No run of this journal sent an instance that was found in the archive.
                "WHERE i.state = 'STORED' AND i.run IS NOT NULL ORDER BY i.key"
            )
            last = where = None
            for row in rows:
                series_uid, sop_uid, sha256, xxh3, uri, attempts, settled_at, run, zip_size, there, path, *columns = (
                    row[4:]
                )
                digests = sha256 and sha256.hex(), xxh3
                file = file_of(path, columns)
                if where is None or last != (row[:4], there):
                    last, where = (row[:4], there), with_archived_subject(Session(*row[:4]), there)
                yield StoredInstance(
                    where, series_uid, sop_uid, file, *digests, uri, attempts, settled_at, run, zip_size
                )

    def stored_attachments(self) -> Iterator[AttachmentRow]:
        """Yield all attachments that XNAT has stored."""
        with journal_errors(self._path):
            yield from stored_rows(self._db, self._files)

    def sent_files(self, session: Session) -> list[SentFile]:
        """Return the files that stored instances of a session were sent from, and their copies."""
        rows = self._fetch(
            "WITH t AS (SELECT i.key, i.sop_uid, i.file, i.sha256, i.xxh3, i.presumed, d.number "
            "FROM session s CROSS JOIN instance i ON i.session = s.key JOIN delivery d ON d.key = i.delivery "
            "WHERE s.project = ? AND s.study_uid = ? AND i.state = 'STORED') "
            "SELECT t.sop_uid, 0, t.presumed, t.number, t.sha256, t.xxh3, f.path, f.size, f.mtime_ns, "
            "f.inode, f.ctime_ns FROM t JOIN file f ON f.key = t.file WHERE f.kind = 'INSTANCE' AND f.instance = t.key "
            "UNION ALL SELECT t.sop_uid, 1, t.presumed, t.number, t.sha256, t.xxh3, f.path, f.size, f.mtime_ns, "
            # If nothing proves that a file is what was sent, nothing proves it for its copies.
            "iif(o.inode IS NULL, NULL, f.inode), f.ctime_ns "
            "FROM t JOIN file o ON o.key = t.file JOIN file f ON f.instance = t.key WHERE f.kind = 'DUPLICATE'",
            (session.project, session.study_uid),
        )
        return [
            SentFile(file_of(path, columns), sop_uid, bool(is_copy), digest_of(sha256, xxh3), bool(presumed), number)
            for sop_uid, is_copy, presumed, number, sha256, xxh3, path, *columns in rows
        ]

    def deliveries(self, label: str | None = None, *, counts: bool = True) -> list[DeliveryRow]:
        """Return the deliveries of all sessions in scope, or of this label; `files` and `run` only with `counts`."""
        if label is None:
            which = f"DISTINCT i.session FROM {self._files} JOIN instance i ON i.key = f.instance AND f.kind IN "
            which += "('INSTANCE', 'SKIPPED')"
        else:
            which = "key AS session FROM session WHERE label = ? COLLATE NOCASE"
        rows = self._fetch(
            f"WITH t AS (SELECT {which}) SELECT s.project, s.subject, s.label, s.study_uid, d.number, "  # noqa: S608 - fixed text
            "d.state, d.uri, d.archive_uri, d.merges, d.verified, d.closed_at, count(i.key), min(i.run), d.reason "
            "FROM t CROSS JOIN session s ON s.key = t.session JOIN delivery d ON d.session = s.key "
            "LEFT JOIN instance i ON ? AND i.session = s.key AND i.delivery = d.key GROUP BY d.key ORDER BY d.key",
            (counts,) if label is None else (label, counts),
        )
        found = []
        for *names, number, state, uri, archive_uri, merges, verified, closed_at, files, run, reason in rows:
            before = None if merges is None else bool(merges)
            where = with_archived_subject(Session(*names), archive_uri)
            found.append(
                DeliveryRow(where, number, state, uri, archive_uri, before, verified, closed_at, files, run, reason)
            )
        return found

    def _fetch(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        with journal_errors(self._path):
            return self._db.execute(query, values).fetchall()

    def _rows(self, query: str, label: str) -> list[InstanceRow]:
        rows = self._fetch(query, (label,))
        return [InstanceRow(file_of(row[0], row[1:5]), *row[5:]) for row in rows]
