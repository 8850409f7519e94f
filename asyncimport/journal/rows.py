"""Rows of a journal and of a header cache: what readers return, and the columns of files, digests and sessions."""

import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Any

from asyncimport.model.files import Algorithm, Digest, File, Patient, Session
from asyncimport.model.record import record
from asyncimport.model.states import FileKind


@record
class Run:
    """One run in the journal; times in UTC, ISO 8601. `about`: what it was asked to do, empty if unknown."""

    key: int
    started: str
    ended: str | None
    exit_code: int | None
    about: Mapping[str, Any] = field(default_factory=dict)


@record
class InstanceRow:
    """One file of a session; `sop_uid` is "" if unknown, `settled_at` in seconds since 1970."""

    file: File
    sop_uid: str
    state: str
    reason: str | None
    attempts: int | None
    settled_at: float | None


@record
class Remaining:
    """What is left to send, and the seconds it takes at the rate of the last run; None if unknown."""

    files: int
    size: int
    seconds: float | None


@record
class StoredInstance:
    """A file that XNAT acknowledged; `sha256` in hexadecimal, both digests of the file sent, `settled_at` in s.

    `zip_size` is the size of the zip that it was sent as; None: as it is.
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
    zip_size: int | None = None


@record
class SentFile:
    """A file that an instance was sent from, or a copy; it is `presumed` if nothing proves the archive's version.

    `delivery` is the number of the delivery that brought it.
    """

    file: File
    sop_uid: str
    is_copy: bool
    digest: Digest | None
    presumed: bool = False
    delivery: int = 0


@record
class SubjectPatient:
    """A patient of a subject, by digests (`digest_patient`), and one study there with that PatientID.

    `is_allowed`: despite other patients in the subject.
    """

    project: str
    subject: str
    patient: Patient
    is_allowed: bool = False
    study_uid: str = ""


@record
class DeliveryRow:
    """A delivery: its address, number of acknowledged files, the first run that sent into it, and its end."""

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


@record
class StudyFacts:
    """What a reader wants to know of a study: its date as in the header, its modalities, how many series it has."""

    date: str
    modalities: tuple[str, ...]
    series: int


@record
class Header:
    """The study fields, modality and path of a file; it stands for all files with the same header."""

    study_uid: str
    fields: Mapping[str, str]
    path: str


@record
class StudySummary:
    """How much there is of a study.

    `files` are instances: copies of one count once. `directory` holds all of them. `copies` are paths of files with the
    same SOPInstanceUID and size, `twins` of those with different sizes, the first one first. `position` sorts studies
    in the order of the scan.
    """

    study_uid: str
    modalities: tuple[str, ...]
    series: int
    files: int
    size: int
    directory: str
    example: str
    copies: tuple[tuple[str, ...], ...] = ()
    twins: tuple[tuple[str, ...], ...] = ()
    position: int = 0


@record
class NonInstance:
    """Files that are no instances to send: what they are, why, how many, and one of them."""

    kind: FileKind
    reason: str
    files: int
    example: str


@record
class RecentStudies:
    """Why each study waits that may still be written, and how many files have times in the future; by study UID."""

    waiting: Mapping[str, str] = field(default_factory=dict)
    dated_ahead: Mapping[str, int] = field(default_factory=dict)


# Size, mtime_ns, inode and ctime_ns, as in the tables.
FileColumns = tuple[int, str, int | None, int | None]


def columns_of(file: File) -> FileColumns:
    """Return the columns of a file, without its path."""
    return file.size, str(file.mtime_ns), file.inode, file.ctime_ns


def columns_without_inode(file: File) -> FileColumns:
    """Return the columns of a file that may not hold what was sent: without inode and ctime."""
    return file.size, str(file.mtime_ns), None, None


def file_of(path: bytes, columns: Sequence[object]) -> File:
    """Return a file from its path and its columns."""
    size, mtime_ns, inode, ctime_ns = columns
    return File(os.fsdecode(path), size, int(mtime_ns), inode, ctime_ns)  # type: ignore[arg-type, call-overload]


def is_same_file(known: Sequence[object], file: File, settled_at: float | None = None) -> bool:
    """Whether a file is the one with these columns.

    Columns without inode and ctime match a file that nobody has touched since it was stored, at `settled_at`. On a file
    system without inodes, size and mtime decide.
    """
    size, mtime_ns, inode, ctime_ns = known
    if size != file.size or mtime_ns != str(file.mtime_ns):
        return False
    if file.inode is None:
        return True
    if inode is None:
        return settled_at is not None and file.ctime_ns is not None and file.ctime_ns < settled_at * 1e9
    return (inode, ctime_ns) == (file.inode, file.ctime_ns)


def digest_of(sha256: bytes | None, xxh3: bytes | None) -> Digest | None:
    """Return the stronger digest of what was sent, if there is one."""
    if sha256 is not None:
        return Digest(Algorithm.SHA256, sha256)
    return None if xxh3 is None else Digest(Algorithm.XXH3, xxh3)


def digests_of(connection: sqlite3.Connection, session: int) -> dict[str, str]:
    """Return XNAT's digests of a session at its last verification, by SOPInstanceUID (see schema.sql)."""
    row = connection.execute(
        "SELECT digests FROM delivery WHERE session = ? AND digests IS NOT NULL ORDER BY number DESC LIMIT 1",
        (session,),
    ).fetchone()
    found: dict[str, str] = {} if row is None else json.loads(row[0])
    return {uid: digest for uid, digest in found.items() if digest}


def initial_labels(session: Session, subject: str | None, label: str | None) -> Session | None:
    """Return a session with the labels that its row began with; None if it still has them."""
    return None if subject is None or label is None else replace(session, subject=subject, label=label)
