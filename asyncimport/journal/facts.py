"""What the journal writes down of a file, and when it takes a file for the one that it knows."""

import json
import os
import sqlite3
from collections.abc import Sequence

from asyncimport.model import Algorithm, Digest, File

__all__ = ["Facts", "digest_of", "digests_of", "facts_of", "file_of", "is_same", "unproven"]

# Size, mtime_ns, inode and ctime_ns, as they stand in columns.
Facts = tuple[int, str, int | None, int | None]


def facts_of(file: File) -> Facts:
    """Return what is written down of a file beside its path."""
    return file.size, str(file.mtime_ns), file.inode, file.ctime_ns


def unproven(file: File) -> Facts:
    """Return the same of a file of which nobody knows whether it holds what was sent."""
    return file.size, str(file.mtime_ns), None, None


def file_of(path: bytes, facts: Sequence[object]) -> File:
    """Return a file by its path and its facts."""
    size, mtime_ns, inode, ctime_ns = facts
    return File(os.fsdecode(path), size, int(mtime_ns), inode, ctime_ns)  # type: ignore[arg-type, call-overload]


def is_same(known: Sequence[object], file: File, settled_at: float | None = None) -> bool:
    """Whether a file is the one of which these facts were written down.

    Where inode and ctime were not, as by older versions, it is if nobody has touched it since it was stored, at
    `settled_at`. Where the file system does not keep them, size and time have to do.
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
    """Return the stronger of the digests that are kept of what was sent, if there is one."""
    if sha256 is not None:
        return Digest(Algorithm.SHA256, sha256)
    return None if xxh3 is None else Digest(Algorithm.XXH3, xxh3)


def digests_of(connection: sqlite3.Connection, session: int) -> dict[str, str]:
    """Return what XNAT told of the files of a session when it was verified last, by SOPInstanceUID (see schema.sql)."""
    row = connection.execute(
        "SELECT digests FROM delivery WHERE session = ? AND digests IS NOT NULL ORDER BY number DESC LIMIT 1",
        (session,),
    ).fetchone()
    found: dict[str, str] = {} if row is None else json.loads(row[0])
    return {uid: digest for uid, digest in found.items() if digest}
