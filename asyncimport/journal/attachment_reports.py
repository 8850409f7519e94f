"""Reports about the attachments and subjects of a journal."""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from asyncimport.journal.columns import file_of
from asyncimport.model import (
    Attachment,
    AttachmentBatch,
    AttachmentCounts,
    File,
    Problem,
    Resource,
    ResourceOwner,
    Session,
    SubjectCounts,
)

# Whether a subject has files in scope.
_IN_SCOPE = (
    "EXISTS (SELECT 1 FROM {} JOIN instance i ON i.key = f.instance JOIN session s ON s.key = i.session "
    "WHERE s.project = d.project AND s.subject = d.subject)"
)


@dataclass(frozen=True, slots=True)
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
