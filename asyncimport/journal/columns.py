"""The columns of files, digests and sessions, and whether a file is the one that the journal knows."""

import json
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import replace

from asyncimport.model import Algorithm, Digest, File, Session

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
