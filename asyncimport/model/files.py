"""Files on disk and their bytes, and the sessions, instances and patients they belong to."""

import os
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Protocol, Self

from asyncimport.model.record import record
from asyncimport.model.states import FileKind

# SQLite's integers are signed and have 64 bits; inode numbers have no sign.
_SIGN = 1 << 63


@record
class File:
    """A regular file as the walk found it; `path` in Python's file system encoding (surrogates for odd bytes).

    `inode` (signed) and `ctime_ns` (last change of content, name or rights) reveal a file that was replaced or
    rewritten with the same size and mtime. They are None if the file system does not keep them.
    """

    path: str
    size: int
    mtime_ns: int
    inode: int | None = None
    ctime_ns: int | None = None

    @classmethod
    def of(cls, path: str, found: os.stat_result, *, has_stable_inodes: bool) -> Self:
        """Make a file from its stat result; `has_stable_inodes` says whether its file system keeps inode numbers."""
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
        """Whether this is still the file, by all that is known of it."""
        if now.st_mtime_ns != self.mtime_ns or now.st_size != self.size:
            return False
        inode, ctime_ns = self.inode, self.ctime_ns
        return (inode is None or inode == now.st_ino or inode == now.st_ino - 2 * _SIGN) and (
            ctime_ns is None or ctime_ns == now.st_ctime_ns
        )

    def looks_unchanged(self, now: os.stat_result) -> bool:
        """Whether size and mtime are the same, even if it was renamed, linked or removed since."""
        return (now.st_size, now.st_mtime_ns) == (self.size, self.mtime_ns)


class Algorithm(StrEnum):
    """A digest algorithm, by its name in `hashlib` or `xxhash`."""

    XXH3 = "xxh3_128"  # of every file sent: it costs nothing, and detects accidents
    SHA256 = "sha256"  # for receipts
    MD5 = "md5"  # XNAT's digest of a file in a resource


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

    `duplicate_of` is the journal's key of the instance that it repeats. An unreadable file with a readable header names
    the session that lacks it, and the instance (`sop_uid`). A `damaged` file may be missing from the session around it.
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
    """The patient of a header, in a form that can be compared; "" is unknown, and agrees with everything.

    `=` separates the groups of a name (alphabetic, ideographic, phonetic). The issuer is that of the PatientID.

    The class only compares: its repr shows nothing.
    """

    id: str = ""
    name: str = ""
    birth_date: str = ""
    issuer: str = ""


@record
class ArchivedPatient:
    """The patient that an archived session names: only values that no current script writes.

    `is_reliable`: its PatientID is what was sent, as far as current scripts show.
    """

    session: Session
    patient: Patient
    is_reliable: bool


@record
class Instance:
    """A DICOM instance and its session; its identity is (session, sop_uid), not its path.

    `modality` is "" if its header has none, and None if unknown; `study_date` is as in the header, for reports.
    """

    file: File
    sop_uid: str
    series_uid: str
    session: Session
    patient: Patient = Patient()
    modality: str | None = None
    study_date: str = ""


class StreamedBody(Protocol):
    """The bytes of a large file in pieces; iterating raises SourceError if the file is not as scanned."""

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
        """SHA-256 of the bytes, likewise; None unless asked for."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Start at the first byte."""
        ...


Body = bytes | StreamedBody


@record
class Zip:
    """A zip of one file, to send in its place."""

    body: Body

    @property
    def size(self) -> int:
        """Length in bytes: what the wire carries."""
        return len(self.body) if isinstance(self.body, bytes) else self.body.size
