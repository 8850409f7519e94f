"""The reading side of the journal: sums, reports and what was stored. It never writes."""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from asyncimport.errors import UsageError
from asyncimport.journal.database import NOTHING_YET, check_rules, connect_read_only, is_locked, translated
from asyncimport.journal.facts import digest_of, digests_of, file_of
from asyncimport.journal.filed import (
    AttachmentRow,
    attachment_counts,
    attachment_problems,
    attachment_rows,
    described_subjects,
    stored_enclosures,
    stored_rows,
    subject_counts,
    subject_problems,
)
from asyncimport.journal.part import restrict
from asyncimport.journal.queue import Journal
from asyncimport.journal.store import UNARCHIVED
from asyncimport.model import (
    NOTHING_KEPT,
    Digest,
    Enclosure,
    File,
    Files,
    Patient,
    Problem,
    Session,
    SessionReport,
    Summary,
)
from asyncimport.model.addresses import as_archived
from asyncimport.routing import Ruled

__all__ = ["Arrived", "DeliveryRow", "InstanceRow", "Ledger", "Left", "Resident", "Run", "SentFile"]

_ALL = "file f"
_SCOPE = "scope JOIN file f ON f.key = scope.file"
_COUNTED_AS = {
    "pending": "left",
    "excluded": "skipped",
    **dict.fromkeys(("container", "link", "inner_link"), "not_dicom"),
}
# A rate is that of the stretches of this many seconds in which a file was stored: a longer outage is no part of it.
# Over less time than the least nobody knows it.
_STRETCH_SECONDS = 300
_LEAST_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Run:
    """One run as the journal remembers it; times in UTC, ISO 8601."""

    key: int
    started: str
    ended: str | None
    exit_code: int | None


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """One file of a session; `sop_uid` is "" where it is not known, `settled_at` in seconds since 1970."""

    file: File
    sop_uid: str
    state: str
    reason: str | None
    attempts: int | None
    settled_at: float | None


@dataclass(frozen=True, slots=True)
class Left:
    """What waits to be sent, and for how many seconds at the rate of the last run; None where that is unknown."""

    files: int
    size: int
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Arrived:
    """A file that XNAT has acknowledged.

    `sha256` (in hexadecimal) and `xxh3` are of what was sent, `settled_at` in seconds since 1970.
    """

    session: Session
    series_uid: str
    sop_uid: str
    file: File
    sha256: str | None
    xxh3: bytes | None
    uri: str | None
    attempts: int | None
    settled_at: float | None
    run: int


@dataclass(frozen=True, slots=True)
class SentFile:
    """A file that an instance was sent from, or a copy of it, and the digest of what was sent, where one is kept.

    It is `presumed` where the archive had some version of the instance before, and nothing proves that it has this one.
    """

    file: File
    sop_uid: str
    is_copy: bool
    digest: Digest | None
    presumed: bool = False


@dataclass(frozen=True, slots=True)
class Resident:
    """Who is in a subject, by digests (`digested`); `is_let_in`: though somebody else was, as that was asked for."""

    project: str
    subject: str
    patient: Patient
    is_let_in: bool = False


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """A delivery: where it went, how many files XNAT acknowledged of it, the first run that sent into it, its end."""

    session: Session
    number: int
    state: str
    uri: str | None
    archive_uri: str | None
    merges: bool | None
    verified: str | None
    closed_at: float | None
    files: int
    run: int | None
    reason: str | None


class Ledger:
    """Read a journal. `Ledger.of(journal)` counts the files of that run; `Ledger.read(path)` all there are."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        *,
        run: int | None,
        began_at: float | None = None,
        waits: Mapping[int, str] | None = None,
    ) -> None:
        self._db = connection
        self._path = path
        self._run = run
        self._began_at = began_at
        self._waits = waits or {}
        self._files = _ALL if run is None else _SCOPE

    @classmethod
    def of(cls, journal: Journal, *, since: int | None = None) -> "Ledger":
        """Look at the journal of a run, within the scope of that run's sources.

        What runs from `since` on have settled (this one only unless given) is new; before, it was so already.
        """
        return cls(
            journal.connection,
            journal.path,
            run=journal.run if since is None else since,
            began_at=journal.began_at,
            waits=journal.waits,
        )

    @classmethod
    @contextmanager
    def read(cls, path: Path, *, part: str | None = None) -> Iterator["Ledger"]:
        """Look at a journal on disk, beside any run, or at the `part` of it that is of one project.

        Raises: UsageError when there is none, JournalError when it is not ours.
        """
        connection = connect_read_only(path)
        try:
            if part is not None:
                with translated(path):
                    restrict(connection, part)
            yield cls(connection, path, run=None)
        finally:
            connection.close()

    @contextmanager
    def moment(self) -> Iterator[None]:
        """See the journal as it is now, whatever a run makes of it while the block lasts, which should not be long."""
        with translated(self._path):
            self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    def is_at_work(self, run: Run) -> bool | None:
        """Tell whether a run that was seen without an end is at work, or was killed; None where nobody can tell."""
        if run.ended is not None:
            return False
        held = is_locked(self._path)
        if held is False and any(one.ended for one in self.runs() if one.key == run.key):
            # It has ended since it was seen.
            return True
        return held

    def about(self) -> dict[str, str]:
        """Return the journal's destination and rules.

        Raises: UsageError when it has none yet: it was killed in the making.
        """
        with translated(self._path):
            about = dict(self._db.execute("SELECT key, value FROM about"))
        if "destination" not in about:
            raise UsageError(f"there is nothing in the journal {self._path} yet", hint=NOTHING_YET)
        return about

    def check(self, destination: str, rules: Mapping[str, str]) -> None:
        """Compare destination and rules with those of the journal, as a run would.

        Raises: JournalError for another destination, UsageError for other rules.
        """
        check_rules(self.about(), self._path, destination, rules)

    def targets(self) -> list[Session]:
        """Return the sessions that studies have got, in the order in which they did."""
        with translated(self._path):
            rows = self._db.execute("SELECT project, subject, label, study_uid FROM session ORDER BY key")
            return [Session(*row) for row in rows]

    def has_project(self, project: str) -> bool:
        """Whether a study has got a session in this project."""
        with translated(self._path):
            query = "SELECT EXISTS (SELECT 1 FROM session WHERE project = ?)"
            return bool(self._db.execute(query, (project,)).fetchone()[0])

    def runs(self) -> list[Run]:
        """Return all runs, the first one first."""
        with translated(self._path):
            return [
                Run(*row) for row in self._db.execute("SELECT key, started, ended, exit_code FROM run ORDER BY key")
            ]

    def summary(self) -> Summary:
        """Add up files, bytes, sessions and problems."""
        with translated(self._path):
            files, found, stored, parts = self._sums()
            attachments = attachment_counts(self._db, self._files, self._run)
            subjects = subject_counts(self._db, self._files, self._run)
            sound = files.stored + files.already_stored + files.duplicate + files.left
            # Each of these looks at every file there is.
            problems = [
                *(self._problems() if files.found + files.not_dicom + files.unreadable > sound else ()),
                *(attachment_problems(self._db, self._files) if attachments.found else ()),
                *subject_problems(self._db, self._files),
            ]
            return Summary(files, found, stored, self._sessions(parts), tuple(problems), attachments, subjects)

    def instances(self, label: str) -> list[InstanceRow]:
        """Return the instances of the sessions with this label, in the order they were found."""
        return self._rows(
            "SELECT f.path, f.size, f.mtime_ns, f.inode, f.ctime_ns, i.sop_uid, i.state, "
            # What the file is by now, where it is not what was sent.
            "coalesce(i.reason, iif(f.instance = i.key, f.reason, NULL)), i.attempts, i.settled_at FROM session s "
            "CROSS JOIN instance i ON i.session = s.key JOIN file f ON f.key = i.file "
            "WHERE s.label = ? COLLATE NOCASE ORDER BY i.key",
            label,
        )

    def companions(self, label: str) -> list[InstanceRow]:
        """Return the files of the sessions with this label that are not sent: copies, and what cannot be read."""
        return self._rows(
            "WITH t AS (SELECT key FROM session WHERE label = ? COLLATE NOCASE), "
            "u AS (SELECT i.key, i.sop_uid, i.file FROM t CROSS JOIN instance i ON i.session = t.key) "
            "SELECT f.path, f.size, f.mtime_ns, f.inode, f.ctime_ns, coalesce(u.sop_uid, f.lacked_uid, ''), f.kind, "
            "f.reason, NULL, NULL FROM file f LEFT JOIN u ON u.key = f.instance WHERE f.kind <> 'INSTANCE' "
            "AND (u.key IS NOT NULL OR f.lacked_by IN (SELECT key FROM t)) AND f.key NOT IN (SELECT file FROM u) "
            "ORDER BY f.key",
            label,
        )

    def attachments(self, label: str) -> list[AttachmentRow]:
        """Return what goes beside the images of the sessions with this label."""
        with translated(self._path):
            return attachment_rows(self._db, label)

    def enclosures(self) -> list[Enclosure]:
        """Return the attachments that XNAT has ever stored, by resource; `previous` is the MD5 of what it stored."""
        with translated(self._path):
            return stored_enclosures(self._db)

    def described(self) -> list[tuple[str, str, dict[str, str]]]:
        """Return project, subject and the values that XNAT was seen to have of each subject that was described."""
        with translated(self._path):
            return described_subjects(self._db)

    def left(self) -> Left:
        """Return what waits to be sent, and how long that will take by files or by bytes, whichever takes longer."""
        with translated(self._path):
            ((files, size),) = self._db.execute(
                f"SELECT count(*), coalesce(sum(f.size), 0) FROM {self._files} "  # noqa: S608 - fixed text
                "JOIN instance i ON i.key = f.instance AND f.kind = 'INSTANCE' WHERE i.state = 'PENDING'"
            )
            ((sent, sent_size, span, stretches),) = self._db.execute(
                "SELECT count(*), sum(f.size), max(i.settled_at) - min(i.settled_at), "
                "count(DISTINCT CAST(i.settled_at / ? AS INTEGER)) FROM instance i JOIN file f ON f.key = i.file "
                "WHERE i.state = 'STORED' AND i.run = (SELECT max(run) FROM instance WHERE state = 'STORED')",
                (_STRETCH_SECONDS,),
            )
        took = min(span or 0.0, float(stretches * _STRETCH_SECONDS))
        if took < _LEAST_SECONDS:
            return Left(files, size, None)
        return Left(files, size, took * max(files / sent, size / max(sent_size, 1)))

    def sessions(self) -> tuple[SessionReport, ...]:
        """Return what became of each session, in the order they were found."""
        with translated(self._path):
            return self._sessions(self._sums()[-1])

    def placed(self, *, after_reroute: bool = False) -> list[tuple[Session, Ruled | None]]:
        """Return the sessions that studies have, each with what the rules call it.

        With `after_reroute` those of which XNAT has something: what is archived stays, whatever the new rules call it,
        and the others (None) get new labels.
        """
        ruled = "1, ruled_subject, ruled_label"
        if after_reroute:
            ruled = f"NOT ({UNARCHIVED}), NULL, NULL"
        kept = (
            "WHERE EXISTS (SELECT 1 FROM instance WHERE session = s.key AND state = 'STORED') OR EXISTS "
            "(SELECT 1 FROM delivery WHERE session = s.key AND (uri IS NOT NULL OR state = 'ARCHIVED'))"
        )
        with translated(self._path):
            rows = self._db.execute(
                f"SELECT project, subject, label, study_uid, {ruled} FROM session s {kept if after_reroute else ''} "  # noqa: S608 - fixed text
                "ORDER BY key"
            ).fetchall()
        return [(Session(*row[:4]), (row[5], row[6]) if row[4] else None) for row in rows]

    def residents(self, *, after_reroute: bool = False) -> list[Resident]:
        """Return who is in each subject; with `after_reroute` of subjects of which something is archived."""
        kept = (
            "WHERE archived IS NOT NULL OR EXISTS (SELECT 1 FROM session s JOIN delivery d ON d.session = s.key "
            "WHERE s.project = p.project AND s.subject = p.subject COLLATE NOCASE AND d.state = 'ARCHIVED')"
        )
        with translated(self._path):
            rows = self._db.execute(
                "SELECT project, subject, merged IS NOT NULL, id, name, birth_date, issuer FROM patient p "  # noqa: S608 - fixed text
                f"{kept if after_reroute else ''} ORDER BY key"
            ).fetchall()
        return [Resident(project, subject, Patient(*who), bool(merged)) for project, subject, merged, *who in rows]

    def row_sessions(self) -> dict[str, Session]:
        """Return the sessions of prearchive rows by their addresses, by the labels that the rows were begun with."""
        with translated(self._path):
            rows = self._db.execute(
                "SELECT d.uri, s.project, coalesce(s.begun_subject, s.subject), coalesce(s.begun_label, s.label), "
                "s.study_uid FROM delivery d JOIN session s ON s.key = d.session WHERE d.uri IS NOT NULL"
            ).fetchall()
        return {uri: Session(*names) for uri, *names in rows}

    def brought(self) -> frozenset[tuple[str, str, str]]:
        """Return project, subject and label, in lower case, of the sessions that this journal has brought there."""
        with translated(self._path):
            rows = self._db.execute(
                "SELECT project, subject, label FROM session s WHERE EXISTS "
                "(SELECT 1 FROM delivery d WHERE d.session = s.key AND d.uri IS NOT NULL AND d.state = 'ARCHIVED')"
            ).fetchall()
        return frozenset((project, subject.lower(), label.lower()) for project, subject, label in rows)

    def done(self, session: Session) -> frozenset[str]:
        """Return the SOPInstanceUIDs of a session that no run sends again: archived, or refused for what they are."""
        with translated(self._path):
            rows = self._db.execute(
                "SELECT i.sop_uid FROM session s CROSS JOIN instance i ON i.session = s.key "
                "LEFT JOIN delivery d ON d.key = i.delivery WHERE s.project = ? AND s.study_uid = ? "
                "AND ((i.state = 'STORED' AND d.state = 'ARCHIVED') "
                "OR (i.state = 'REFUSED' AND i.refusal IS NOT 'SERVER'))",
                (session.project, session.study_uid),
            ).fetchall()
        return frozenset(uid for (uid,) in rows)

    def acknowledged(self, session: Session) -> tuple[frozenset[str], frozenset[str]]:
        """Return the SOPInstanceUIDs that XNAT acknowledged of a session: those that were stored, and doubtful ones.

        These it had lost when it archived, perhaps as a script wants it.
        """
        uids: tuple[list[str], list[str]] = [], []
        with translated(self._path):
            rows = self._db.execute(
                "SELECT i.sop_uid, i.state <> 'STORED' FROM instance i JOIN session s ON s.key = i.session "
                # Of what it refused at once no digest is kept.
                "WHERE s.project = ? AND s.study_uid = ? AND (i.state = 'STORED' "
                "OR (i.state = 'REFUSED' AND i.refusal = 'FILE' AND i.xxh3 IS NOT NULL))",
                (session.project, session.study_uid),
            )
            for uid, is_doubtful in rows:
                uids[is_doubtful].append(uid)
        return frozenset(uids[0]), frozenset(uids[1])

    def archived_digests(self, session: Session) -> dict[str, str]:
        """Return what XNAT told of the files of a session when it was verified last, by SOPInstanceUID.

        Only of instances that are thought to be what was sent, and where the site keeps digests (MD5, hexadecimal).
        """
        with translated(self._path):
            row = self._db.execute(
                "SELECT key FROM session WHERE project = ? AND study_uid = ?", (session.project, session.study_uid)
            ).fetchone()
            digests = {} if row is None else digests_of(self._db, row[0])
            if digests:
                query = "SELECT sop_uid FROM instance WHERE session = ? AND (state <> 'STORED' OR presumed IS NOT NULL)"
                for (uid,) in self._db.execute(query, row):
                    digests.pop(uid, None)
        return digests

    def arrived(self) -> Iterator[Arrived]:
        """Yield all files that XNAT has acknowledged, in the order they were found."""
        with translated(self._path):
            rows = self._db.execute(
                "SELECT s.project, s.subject, s.label, s.study_uid, i.series_uid, i.sop_uid, i.sha256, i.xxh3, d.uri, "  # noqa: S608 - fixed text
                "i.attempts, i.settled_at, i.run, d.archive_uri, f.path, f.size, f.mtime_ns, f.inode, f.ctime_ns "
                f"FROM {self._files} "
                "JOIN instance i ON i.key = f.instance AND f.kind = 'INSTANCE' JOIN session s ON s.key = i.session "
                "LEFT JOIN delivery d ON d.key = i.delivery WHERE i.state = 'STORED' "
                # What was found in the archive was sent by no run that this journal knows.
                "AND i.run IS NOT NULL ORDER BY i.key"
            )
            last = where = None
            for row in rows:
                series_uid, sop_uid, sha256, xxh3, uri, attempts, settled_at, run, there, path, *facts = row[4:]
                digests = sha256 and sha256.hex(), xxh3
                file = file_of(path, facts)
                if where is None or last != (row[:4], there):
                    last, where = (row[:4], there), as_archived(Session(*row[:4]), there)
                yield Arrived(where, series_uid, sop_uid, file, *digests, uri, attempts, settled_at, run)

    def attached(self) -> Iterator[AttachmentRow]:
        """Yield all attachments that XNAT has stored."""
        with translated(self._path):
            yield from stored_rows(self._db, self._files)

    def sources(self, session: Session) -> list[SentFile]:
        """Return the files that stored instances of a session were sent from, and copies of them."""
        with translated(self._path):
            rows = self._db.execute(
                "WITH t AS (SELECT i.key, i.sop_uid, i.file, i.sha256, i.xxh3, i.presumed FROM session s "
                "CROSS JOIN instance i ON i.session = s.key "
                "WHERE s.project = ? AND s.study_uid = ? AND i.state = 'STORED') "
                "SELECT t.sop_uid, 0, t.presumed, t.sha256, t.xxh3, f.path, f.size, f.mtime_ns, f.inode, f.ctime_ns "
                "FROM t JOIN file f ON f.key = t.file WHERE f.kind = 'INSTANCE' AND f.instance = t.key UNION ALL "
                "SELECT t.sop_uid, 1, t.presumed, t.sha256, t.xxh3, f.path, f.size, f.mtime_ns, "
                # A copy of what is not known to be what was sent is not either.
                "iif(o.inode IS NULL, NULL, f.inode), f.ctime_ns "
                "FROM t JOIN file o ON o.key = t.file JOIN file f ON f.instance = t.key WHERE f.kind = 'DUPLICATE'",
                (session.project, session.study_uid),
            ).fetchall()
        return [
            SentFile(file_of(path, facts), sop_uid, bool(is_copy), digest_of(sha256, xxh3), bool(presumed))
            for sop_uid, is_copy, presumed, sha256, xxh3, path, *facts in rows
        ]

    def deliveries(self, label: str | None = None) -> list[DeliveryRow]:
        """Return the deliveries of all sessions that the ledger counts, or of those with this label."""
        if label is None:
            which = f"DISTINCT i.session FROM {self._files} JOIN instance i ON i.key = f.instance AND f.kind IN "
            which += "('INSTANCE', 'SKIPPED')"
        else:
            which = "key AS session FROM session WHERE label = ? COLLATE NOCASE"
        with translated(self._path):
            rows = self._db.execute(
                f"WITH t AS (SELECT {which}) "  # noqa: S608 - fixed text
                "SELECT s.project, s.subject, s.label, s.study_uid, d.number, d.state, d.uri, d.archive_uri, "
                "d.merges, d.verified, d.closed_at, count(i.key), min(i.run), d.reason "
                "FROM t CROSS JOIN session s ON s.key = t.session JOIN delivery d ON d.session = s.key "
                "LEFT JOIN instance i ON i.session = s.key AND i.delivery = d.key GROUP BY d.key ORDER BY d.key",
                () if label is None else (label,),
            ).fetchall()
        found = []
        for *names, number, state, uri, archive_uri, merges, verified, closed_at, files, run, reason in rows:
            before = None if merges is None else bool(merges)
            where = as_archived(Session(*names), archive_uri)
            found.append(
                DeliveryRow(where, number, state, uri, archive_uri, before, verified, closed_at, files, run, reason)
            )
        return found

    def _rows(self, query: str, label: str) -> list[InstanceRow]:
        with translated(self._path):
            rows = self._db.execute(query, (label,)).fetchall()
        return [InstanceRow(file_of(row[0], row[1:5]), *row[5:]) for row in rows]

    def _sums(self) -> tuple[Files, int, int, dict[int, tuple[int, int]]]:
        """Count files by what became of them, the bytes found and stored, and files and bytes of each session."""
        counts = dict.fromkeys(Files.__dataclass_fields__, 0)
        found = stored = 0
        sessions: dict[int, tuple[int, int]] = {}
        # In the scope of a run, "already" means: settled by an earlier run. What is refused, but not dropped, is not.
        rows = self._db.execute(
            "SELECT f.kind, i.state, coalesce(i.run, 0) < ? AND (i.state = 'STORED' OR i.refusal IS 'DROPPED'), "  # noqa: S608 - fixed text
            f"i.session, count(*), sum(f.size) FROM {self._files} "
            "LEFT JOIN instance i ON i.key = f.instance AND f.kind IN ('INSTANCE', 'SKIPPED') GROUP BY 4, 1, 2, 3",
            (self._run,),
        )
        for kind, state, earlier, session, count, size in rows:
            if kind == "ATTACHMENT":
                continue
            if session is not None:
                files, total = sessions.get(session, (0, 0))
                sessions[session] = files + count, total + size
            name = (state if kind == "INSTANCE" else kind).lower()
            name = _COUNTED_AS.get(name, name)
            if earlier and self._run is not None and name in {"stored", "refused"}:
                name = f"already_{name}"
            counts[name] += count
            if kind not in {"NOT_DICOM", "CONTAINER", "LINK", "INNER_LINK", "UNREADABLE"}:
                found += size
            if name == "stored":
                stored += size
        return Files(**counts), found, stored, sessions

    def _sessions(self, counted: Mapping[int, tuple[int, int]]) -> tuple[SessionReport, ...]:
        # Files and bytes are those in scope. The state is the session's own: what other sources lack, it lacks. A
        # delivery into which nothing has come yet says nothing about it.
        rows = self._db.execute(
            "WITH u AS (SELECT i.session, sum(i.state = 'FAILED') AS failed, "
            "sum(i.state = 'REFUSED' AND i.refusal IS NOT 'DROPPED') AS refused, "
            "sum(i.state = 'PENDING') AS pending, sum(i.state = 'STORED') AS stored, "
            "sum(i.state = 'STORED' AND i.presumed IS NOT NULL) AS presumed FROM instance i "
            "WHERE i.session IN (SELECT value FROM json_each(?)) GROUP BY i.session) "
            "SELECT s.key, s.project, s.subject, s.label, s.study_uid, u.failed, u.refused, (SELECT count(*) "
            "FROM file l WHERE l.lacked_by = s.key AND l.kind = 'UNREADABLE' AND NOT EXISTS (SELECT 1 FROM instance i "
            "WHERE i.session = s.key AND i.sop_uid = l.lacked_uid)), (SELECT count(*) FROM file l "
            "WHERE l.lacked_by = s.key AND l.kind = 'EXCLUDED' AND NOT EXISTS (SELECT 1 FROM instance i "
            "WHERE i.session = s.key AND i.sop_uid = l.lacked_uid)), u.pending, u.stored, "
            "(SELECT min(l.reason) FROM file l WHERE l.lacked_by = s.key AND l.kind = 'SKIPPED'), "
            "d.state, d.partial, coalesce(d.archive_uri, d.uri), d.verified, d.reason, "
            "u.presumed, d.expected, d.closed_at "
            "FROM u CROSS JOIN session s ON s.key = u.session "
            "LEFT JOIN delivery d ON d.session = s.key AND d.number = (SELECT max(number) FROM delivery "
            "WHERE session = s.key AND (state <> 'OPEN' OR uri IS NOT NULL OR reason IS NOT NULL)) ORDER BY s.key",
            (json.dumps(list(counted)),),
        )
        reports = []
        for key, *names, presumed, expected, as_of in rows:
            report = self._waiting(key, _report(Session(*names[:4]), *counted[key], *names[4:]))
            report = replace(report, presumed=presumed, expected=expected)
            if as_of is not None and report.state in {"archived", "prearchive"}:
                earlier = self._began_at is not None and as_of < self._began_at
                report = replace(report, as_of=as_of, earlier=earlier)
            reports.append(report)
        return tuple(reports)

    def _waiting(self, session: int, report: SessionReport) -> SessionReport:
        """Say of a session that is left alone in this run why it is not archived."""
        reason = self._waits.get(session)
        return report if reason is None or report.state != "open" else replace(report, reason=reason)

    def _problems(self) -> tuple[Problem, ...]:
        rows = self._db.execute(
            f"SELECT f.kind, f.reason, count(*), min(f.path) FROM {self._files} "  # noqa: S608 - fixed text
            "WHERE f.kind IN ('SKIPPED', 'EXCLUDED', 'UNREADABLE', 'CONTAINER', 'LINK', 'INNER_LINK') GROUP BY 1, 2 "
            "UNION ALL "
            f"SELECT i.state, i.reason, count(*), min(f.path) FROM {self._files} "
            "JOIN instance i ON i.key = f.instance AND f.kind = 'INSTANCE' "
            "WHERE i.state IN ('REFUSED', 'FAILED') GROUP BY 1, 2 ORDER BY 1, 2"
        )
        return tuple(
            Problem(kind.lower(), reason or "", count, os.fsdecode(path)) for kind, reason, count, path in rows
        )


def _report(
    session: Session,
    files: int,
    size: int,
    failed: int,
    refused: int,
    unreadable: int,
    unasked: int,
    pending: int,
    stored: int,
    disputed: str | None,
    state: str | None,
    partial: int | None,
    uri: str | None,
    verified: str | None,
    reason: str | None,
) -> SessionReport:
    session = as_archived(session, uri)
    lacks = _lacks(failed, refused, unreadable)
    disputes = disputed is not None and state not in {"ARCHIVED", "SEALED"}
    if state in {"ARCHIVED", "BUILT"} and not pending and not disputes and (not lacks or partial):
        found = "archived" if state == "ARCHIVED" else "prearchive"
        unasked_for = _unasked(unasked) if unasked else None
        return SessionReport(session, files, size, found, uri, verified, lacks or unasked_for or reason)
    # Of an open one it says why the last run did not go on with it.
    if state == "HELD" or (state == "OPEN" and reason):
        return SessionReport(session, files, size, "held", uri, None, reason)
    if disputes:
        return SessionReport(session, files, size, "held", uri, None, f"it is not sent in part: {disputed}")
    if failed or (lacks and not pending and state != "SEALED"):
        return SessionReport(session, files, size, "held", uri, None, lacks)
    if unasked and not pending and state != "SEALED":
        reason = f"{_unasked(unasked)}: it is archived when all is in, or with --partial archive"
        return SessionReport(session, files, size, "open", uri, None, reason)
    if not pending and not stored:
        return SessionReport(session, files, size, "held", uri, None, NOTHING_KEPT)
    return SessionReport(session, files, size, "open", uri, None, reason if pending or state == "SEALED" else None)


def _unasked(files: int) -> str:
    return "1 file of it was not asked for" if files == 1 else f"{files:,} files of it were not asked for"


def _lacks(failed: int, refused: int, unreadable: int) -> str | None:
    """Say what a session lacks."""
    counts = {
        "could not be sent": failed,
        "was refused" if refused == 1 else "were refused": refused,
        "cannot be read": unreadable,
    }
    said = [f"{count} {what}" for what, count in counts.items() if count]
    return ", ".join(said).replace(" ", " of its files ", 1) if said else None
