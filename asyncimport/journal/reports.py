"""Reports about the files, attachments and subjects of a journal."""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from asyncimport.journal.rows import Remaining, StudyFacts, file_of
from asyncimport.model.attachments import Attachment, AttachmentBatch, Resource, ResourceOwner
from asyncimport.model.files import File, Session
from asyncimport.model.record import record
from asyncimport.model.summary import AttachmentCounts, Files, Problem, SubjectCounts
from asyncimport.routing.patients import other_study_of

# The rate counts intervals of this length in which a file was stored, so it leaves out long outages. Below the minimum
# it is unknown.
_INTERVAL_SECONDS = 300
_MIN_SECONDS = 10.0
# Each takes a look at all sessions.
_MAX_EXAMPLES = 100
EXAMPLE_OF_STUDY = (
    "SELECT f.path FROM session s JOIN instance i ON i.session = s.key JOIN file f ON f.key = i.file "
    "WHERE s.study_uid = ? LIMIT 1"
)
# A session has an instance that was not sent before its file, which the run has met, was written over.
_OVERWRITTEN = (
    "AND EXISTS (SELECT 1 FROM instance i CROSS JOIN scope ON scope.file = i.file JOIN file f ON f.key = i.file "
    "WHERE i.session = s.key AND i.state <> 'STORED' AND f.kind = 'INSTANCE')"
)
_COUNTED_AS = {
    "pending": "left",
    "excluded": "skipped",
    **dict.fromkeys(("container", "link", "inner_link"), "not_dicom"),
}


@dataclass(slots=True)
class Sizes:
    """Bytes of the files found, of those stored, and sent for these; how many of these went as zips."""

    found: int = 0
    stored: int = 0
    sent: int = 0
    zips: int = 0


def count_files(
    database: sqlite3.Connection, files: str, run: int | None
) -> tuple[Files, Sizes, dict[int, tuple[int, int]]]:
    """Count `files` (a FROM clause), outcomes before `run` apart; add up bytes, and each session."""
    counts = dict.fromkeys(Files.__dataclass_fields__, 0)
    sizes = Sizes()
    sessions: dict[int, tuple[int, int]] = {}
    # A file that an earlier run sent and XNAT refused, but no rule of the site drops, does not count as "already". No
    # run of this journal sent an instance that was found in the archive.
    rows = database.execute(
        "SELECT f.kind, i.state, coalesce(i.run, 0) < ? AND (i.state = 'STORED' OR i.refusal IS 'DROPPED'), "  # noqa: S608 - fixed text
        "i.session, count(*), sum(f.size), sum(iif(i.run IS NULL, 0, coalesce(i.zip_size, f.size))), "
        f"count(i.zip_size), max(f.instance <> f.key) FROM {files} "
        "LEFT JOIN instance i ON i.key = f.instance AND f.kind IN ('INSTANCE', 'SKIPPED') GROUP BY 4, 1, 2, 3",
        (run,),
    )
    may_be_overwritten = False
    for kind, state, earlier, session, count, size, sent, zips, is_other in rows:
        if kind == "ATTACHMENT":
            continue
        if session is not None:
            number, total = sessions.get(session, (0, 0))
            sessions[session] = number + count, total + size
        # A new file and its instance have one key.
        may_be_overwritten |= bool(kind == "INSTANCE" and is_other)
        name = (state if kind == "INSTANCE" else kind).lower()
        name = _COUNTED_AS.get(name, name)
        if earlier and run is not None and name in {"stored", "refused"}:
            name = f"already_{name}"
        counts[name] += count
        if kind not in {"NOT_DICOM", "CONTAINER", "LINK", "INNER_LINK", "UNREADABLE"}:
            sizes.found += size
        if name == "stored":
            sizes.stored += size
            sizes.sent += sent
            sizes.zips += zips
    if run is None or may_be_overwritten:
        # XNAT has these sessions, or never got them, though their files hold something else by now.
        rows = database.execute(
            "SELECT s.key, (SELECT count(*) FROM instance WHERE session = s.key) AS files FROM session s "  # noqa: S608 - fixed text
            f"WHERE s.key NOT IN (SELECT value FROM json_each(?)) {'' if run is None else _OVERWRITTEN} AND files",
            (json.dumps([*sessions]),),
        )
        sessions |= {session: (count, 0) for session, count in rows}
    return Files(**counts), sizes, sessions


def settled_files(database: sqlite3.Connection, run: int) -> None:
    """Put into `scope` the files that a run settled, and those of the sessions that were closed while it ran.

    Files that are no instances belong to the last run: nothing says which runs have met them.
    """
    database.execute(
        "WITH r AS (SELECT CAST(strftime('%s', started) AS INTEGER) AS since, coalesce("
        "CAST(strftime('%s', ended) AS INTEGER) + 1, (SELECT CAST(strftime('%s', n.started) AS INTEGER) FROM run n "
        "WHERE n.key > run.key ORDER BY n.key LIMIT 1), 1e18) AS until FROM run WHERE key = ?1) "
        "INSERT OR IGNORE INTO scope SELECT i.file FROM instance i WHERE i.run = ?1 "
        "UNION SELECT a.file FROM attachment a WHERE a.run = ?1 "
        "UNION SELECT i.file FROM r JOIN delivery d ON d.closed_at >= r.since AND d.closed_at < r.until "
        "JOIN instance i ON i.session = d.session "
        "UNION SELECT key FROM file WHERE kind <> 'INSTANCE' AND ?1 = (SELECT max(key) FROM run)",
        (run,),
    )


def study_facts(database: sqlite3.Connection, *, has_dates: bool) -> dict[tuple[str, str], StudyFacts]:
    """Return what is known of each study, by project and UID; journals of earlier versions have no dates."""
    date = "s.study_date" if has_dates else "NULL"
    rows = database.execute(
        f"SELECT s.project, s.study_uid, {date}, json_group_array(DISTINCT i.modality), count(DISTINCT i.series_uid) "  # noqa: S608 - fixed text
        "FROM session s JOIN instance i ON i.session = s.key GROUP BY s.key"
    )
    return {
        (project, uid): StudyFacts(date or "", tuple(sorted(filter(None, json.loads(modalities)))), series)
        for project, uid, date, modalities, series in rows
    }


def file_problems(database: sqlite3.Connection, files: str) -> list[Problem]:
    """Return why `files` (a FROM clause) were not sent or not stored."""
    rows = database.execute(
        f"SELECT f.kind, f.reason, count(*), min(f.path) FROM {files} "  # noqa: S608 - fixed text
        "WHERE f.kind IN ('SKIPPED', 'EXCLUDED', 'UNREADABLE', 'CONTAINER', 'LINK', 'INNER_LINK') GROUP BY 1, 2 "
        f"UNION ALL SELECT i.state, i.reason, count(*), min(f.path) FROM {files} JOIN instance i ON i.key = f.instance "
        "AND f.kind = 'INSTANCE' WHERE i.state IN ('REFUSED', 'FAILED') GROUP BY 1, 2 ORDER BY 1, 2"
    )
    problems = [Problem(kind.lower(), reason or "", count, os.fsdecode(path)) for kind, reason, count, path in rows]
    two_people = [one for one in problems if other_study_of(one.reason)]
    examples = {one: _with_other_example(database, one) for one in two_people[:_MAX_EXAMPLES]}
    return [examples.get(one, one) for one in problems]


def _with_other_example(database: sqlite3.Connection, problem: Problem) -> Problem:
    """Add a file of the study that has another person with the same PatientID."""
    found = database.execute(EXAMPLE_OF_STUDY, (other_study_of(problem.reason),)).fetchone()
    return problem if found is None else replace(problem, other_example=os.fsdecode(found[0]))


def remaining(database: sqlite3.Connection, scope: str) -> Remaining:
    """Return what is left to send of `scope` (a FROM clause), and how long that takes by files or by bytes."""
    ((files, size),) = database.execute(
        f"SELECT count(*), coalesce(sum(f.size), 0) FROM {scope} "  # noqa: S608 - fixed text
        "JOIN instance i ON i.key = f.instance AND f.kind = 'INSTANCE' WHERE i.state = 'PENDING'"
    )
    ((sent, sent_size, span, intervals),) = database.execute(
        "SELECT count(*), sum(f.size), max(i.settled_at) - min(i.settled_at), "
        "count(DISTINCT CAST(i.settled_at / ? AS INTEGER)) FROM instance i JOIN file f ON f.key = i.file "
        "WHERE i.state = 'STORED' AND i.run = (SELECT max(run) FROM instance WHERE state = 'STORED')",
        (_INTERVAL_SECONDS,),
    )
    took = min(span or 0.0, float(intervals * _INTERVAL_SECONDS))
    if took < _MIN_SECONDS:
        return Remaining(files, size, None)
    return Remaining(files, size, took * max(files / sent, size / max(sent_size, 1)))


# Whether a subject has files in scope.
_IN_SCOPE = (
    "EXISTS (SELECT 1 FROM {} JOIN instance i ON i.key = f.instance JOIN session s ON s.key = i.session "
    "WHERE s.project = d.project AND s.subject = d.subject)"
)


@record
class AttachmentRow:
    """An attachment of a session; `settled_at` in seconds since 1970, `md5` in hexadecimal, `run` of its outcome."""

    session: Session
    file: File
    resource: str
    name: str
    state: str
    reason: str | None
    settled_at: float | None
    md5: str | None
    run: int | None


_ROW = (
    "SELECT s.project, s.subject, s.label, s.study_uid, f.path, a.size, a.mtime_ns, a.inode, a.ctime_ns, a.resource, "
    "a.name, a.state, a.reason, a.settled_at, a.md5, a.run FROM "
)


def _rows(rows: Iterable[Sequence[Any]]) -> Iterator[AttachmentRow]:
    for *names, path, size, mtime_ns, inode, ctime_ns, resource, name, state, reason, settled_at, md5, run in rows:
        file = file_of(path, (size, mtime_ns, inode, ctime_ns))
        yield AttachmentRow(Session(*names), file, resource, name, state, reason, settled_at, md5, run)


def attachment_counts(database: sqlite3.Connection, files: str, run: int | None) -> AttachmentCounts:
    """Count attachments among `files` (a FROM clause); with a `run`, count outcomes of earlier runs apart."""
    counts = dict.fromkeys(AttachmentCounts.__dataclass_fields__, 0)
    rows = database.execute(
        f"SELECT a.state, coalesce(a.run, 0) < ?, count(*) FROM {files} "  # noqa: S608 - fixed text
        "JOIN attachment a ON a.file = f.key AND f.kind = 'ATTACHMENT' GROUP BY 1, 2",
        (run,),
    )
    for state, earlier, count in rows:
        name = "left" if state == "PENDING" else state.lower()
        if earlier and run is not None and name in {"stored", "refused"}:
            name = f"already_{name}"
        counts[name] += count
    return AttachmentCounts(**counts)


def attachment_problems(database: sqlite3.Connection, files: str) -> list[Problem]:
    """Return why attachments among `files` were not stored, and which were stored under other names."""
    rows = database.execute(
        f"SELECT a.state, a.reason, count(*), min(f.path) FROM {files} JOIN attachment a ON a.file = f.key "  # noqa: S608 - fixed text
        "AND f.kind = 'ATTACHMENT' WHERE a.state IN ('SKIPPED', 'REFUSED', 'FAILED') GROUP BY 1, 2 ORDER BY 1, 2"
    )
    problems = [
        Problem(f"attachment {state.lower()}", reason or "", count, os.fsdecode(path))
        for state, reason, count, path in rows
    ]
    renamed: list[tuple[str, str]] = []
    for raw, name in database.execute(
        f"SELECT f.path, a.name FROM {files} JOIN attachment a ON a.file = f.key "  # noqa: S608 - fixed text
        "WHERE f.kind = 'ATTACHMENT' AND a.state = 'STORED' ORDER BY f.path"
    ):
        path = os.fsdecode(raw)
        if os.path.basename(path) != name.rpartition("/")[2]:  # noqa: PTH119 - the path need not be text
            renamed.append((path, name))
    if renamed:
        path, name = renamed[0]
        text = f"XNAT changes some characters of names; this one is {name} there"
        problems.append(Problem("attachment renamed", text, len(renamed), path))
    return problems


def attachment_rows(database: sqlite3.Connection, label: str) -> list[AttachmentRow]:
    """Return the attachments of the sessions with this label."""
    rows = database.execute(
        f"{_ROW} session s JOIN attachment a ON a.session = s.key JOIN file f ON f.key = a.file "
        "WHERE s.label = ? COLLATE NOCASE ORDER BY a.resource, a.name",
        (label,),
    )
    return list(_rows(rows))


def stored_rows(database: sqlite3.Connection, files: str) -> Iterator[AttachmentRow]:
    """Yield the attachments among `files` (a FROM clause) that XNAT has stored, session by session."""
    return _rows(
        database.execute(
            f"{_ROW} {files} JOIN attachment a ON a.file = f.key JOIN session s ON s.key = a.session "
            "WHERE f.kind = 'ATTACHMENT' AND a.state = 'STORED' ORDER BY a.session, a.resource, a.name"
        )
    )


def stored_batches(database: sqlite3.Connection) -> list[AttachmentBatch]:
    """Return all attachments ever stored, by resource; `previous` is their MD5, whatever later attempts did."""
    found: dict[Resource, list[Attachment]] = {}
    for project, subject, label, uid, resource, key, name, md5, stored_size, path, *columns in database.execute(
        "SELECT s.project, s.subject, s.label, s.study_uid, a.resource, a.key, a.name, a.md5, a.stored_size, "
        "f.path, coalesce(a.stored_size, a.size), a.mtime_ns, a.inode, a.ctime_ns "
        "FROM attachment a JOIN session s ON s.key = a.session JOIN file f ON f.key = a.file "
        "WHERE a.md5 IS NOT NULL ORDER BY a.session, a.resource, a.name"
    ):
        place = ResourceOwner(project, subject, label, uid)
        attachment = Attachment(key, file_of(path, columns), name, previous=md5, previous_size=stored_size)
        found.setdefault(Resource(place, resource), []).append(attachment)
    return [AttachmentBatch(resource, tuple(attachments)) for resource, attachments in found.items()]


def subject_counts(database: sqlite3.Connection, files: str, run: int | None) -> SubjectCounts:
    """Count the subjects of `files` (a FROM clause) that were to be updated."""
    counts = dict.fromkeys(SubjectCounts.__dataclass_fields__, 0)
    rows = database.execute(
        "SELECT d.state, coalesce(d.run, 0) < ?, count(*) FROM subject_demographics d "  # noqa: S608 - fixed text
        f"WHERE {_IN_SCOPE.format(files)} GROUP BY 1, 2",
        (run,),
    )
    for state, earlier, count in rows:
        name = state.lower()
        counts["already_stored" if name == "stored" and earlier and run is not None else name] += count
    return SubjectCounts(**counts)


def subject_problems(database: sqlite3.Connection, files: str) -> list[Problem]:
    """Return what was taken from headers, what XNAT keeps instead, and why subjects were not updated."""
    problems = [
        Problem("subject from headers", f"{', '.join(json.loads(taken))} were taken from headers", count, example)
        for taken, count, example in database.execute(
            "SELECT d.taken, count(*), min(d.project || ' / ' || d.subject) FROM subject_demographics d "  # noqa: S608 - fixed text
            f"WHERE {_IN_SCOPE.format(files)} AND d.taken <> '[]' GROUP BY 1 ORDER BY 1"
        )
    ]
    for state, kept, reason, count, example in database.execute(
        "SELECT d.state, d.kept, d.reason, count(*), min(d.project || ' / ' || d.subject) FROM subject_demographics d "  # noqa: S608 - fixed text
        f"WHERE {_IN_SCOPE.format(files)} AND (d.state <> 'STORED' OR d.kept <> '[]') GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
    ):
        if state == "STORED":
            names = ", ".join(json.loads(kept))
            text = f"XNAT has another {names}, which is kept; --overwrite-demographics replaces it"
            problems.append(Problem("subject differs", text, count, example))
        else:
            problems.append(Problem(f"subject {state.lower()}", reason or "", count, example))
    return problems


def demographics_seen(database: sqlite3.Connection) -> list[tuple[str, str, dict[str, str]]]:
    """Return project, subject and the values that XNAT was once seen to have."""
    return [
        (project, subject, json.loads(held))
        for project, subject, held in database.execute(
            "SELECT project, subject, held FROM subject_demographics ORDER BY project, subject"
        )
    ]
