"""What is found on disk, and the bytes of it."""

import os
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Protocol, Self

from asyncimport.model.record import record
from asyncimport.model.states import FileKind

# SQLite's numbers are signed and have 64 bits; those of inodes have no sign.
_SIGN = 1 << 63


@record
class File:
    """A regular file as the walk met it; `path` in Python's file system encoding (surrogates for odd bytes).

    `inode` and `ctime_ns` (when content, name or rights changed last) tell a file that was replaced or rewritten and
    has the size and the time of before. They are None where the file system does not keep them. The number of the
    inode is signed.
    """

    path: str
    size: int
    mtime_ns: int
    inode: int | None = None
    ctime_ns: int | None = None

    @classmethod
    def of(cls, path: str, found: os.stat_result, *, has_stable_inodes: bool) -> Self:
        """Describe a file; `has_stable_inodes` tells whether its file system keeps the numbers of its inodes."""
        inode, ctime = found.st_ino, found.st_ctime_ns
        if not has_stable_inodes or not inode:
            return cls(path, found.st_size, found.st_mtime_ns)
        return cls(
            path,
            found.st_size,
            found.st_mtime_ns,
            inode if inode < _SIGN else inode - 2 * _SIGN,
            ctime if -_SIGN <= ctime < _SIGN else None,
        )

    def is_unchanged(self, now: os.stat_result) -> bool:
        """Whether this is the file still, by all that is known of it."""
        if now.st_mtime_ns != self.mtime_ns or now.st_size != self.size:
            return False
        inode, ctime_ns = self.inode, self.ctime_ns
        return (inode is None or inode == now.st_ino or inode == now.st_ino - 2 * _SIGN) and (
            ctime_ns is None or ctime_ns == now.st_ctime_ns
        )

    def looks_unchanged(self, now: os.stat_result) -> bool:
        """Whether it has the size and the time of before, also if it was renamed, linked or removed since."""
        return (now.st_size, now.st_mtime_ns) == (self.size, self.mtime_ns)


class Algorithm(StrEnum):
    """How a digest is made, by the name that `hashlib` or `xxhash` has for it."""

    XXH3 = "xxh3_128"  # of every file that is sent: it costs nothing, and stands against chance
    SHA256 = "sha256"  # where receipts are written
    MD5 = "md5"  # what XNAT says of a file in a resource


@record
class Digest:
    """A digest of the bytes of a file."""

    algorithm: Algorithm
    value: bytes


@record
class Session:
    """An XNAT imaging session: one study under its labels."""

    project: str
    subject: str
    label: str
    study_uid: str


@record
class Ignored:
    """A file that is not sent, and why.

    `duplicate_of` is the journal's key of the instance that it repeats. An unreadable file whose header could be read
    names the session that lacks it, and the instance (`sop_uid`); the session around a `damaged` one may lack it.
    """

    file: File
    kind: FileKind
    reason: str
    duplicate_of: int | None = None
    session: Session | None = None
    sop_uid: str | None = None
    damaged: bool = False


@record(repr=False)
class Patient:
    """Who a header speaks of, in a form that can be compared; "" is unknown, and agrees with everything.

    The groups of a name (alphabetic, ideographic, phonetic) are parted by `=`. The issuer is that of the PatientID.

    Only comparisons leave this class: its repr shows nothing.
    """

    id: str = ""
    name: str = ""
    birth_date: str = ""
    issuer: str = ""


@record
class ArchivedPatient:
    """Whom a session of the archive names, by its labels as XNAT has them: only what no script in force writes there.

    `is_reliable` tells whether its PatientID is known to be what was sent, as far as scripts are in force today.
    """

    session: Session
    patient: Patient
    is_reliable: bool


@record
class Instance:
    """A DICOM instance and the session it belongs to; its identity is (session, sop_uid), not its path.

    `modality` is "" where its header has none, and None where nobody has looked.
    """

    file: File
    sop_uid: str
    series_uid: str
    session: Session
    patient: Patient = Patient()
    modality: str | None = None


class StreamedBody(Protocol):
    """The bytes of a large file, read piece by piece; iterating raises SourceError if the file is not as scanned."""

    @property
    def size(self) -> int:
        """Length in bytes, sent as Content-Length: XNAT refuses chunked bodies."""
        ...

    @property
    def xxh3(self) -> bytes | None:
        """XXH3-128 of the bytes, once they have been read to the end; None before that."""
        ...

    @property
    def sha256(self) -> bytes | None:
        """SHA-256 of the bytes, likewise; None also where nobody asked for it."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Start at the first byte."""
        ...


Body = bytes | StreamedBody
