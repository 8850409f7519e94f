"""What is found on disk, and the bytes of it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from asyncimport.model.states import FileKind

__all__ = ["Body", "File", "Ignored", "Instance", "Patient", "Session", "Streamed"]


@dataclass(frozen=True, slots=True)
class File:
    """A regular file as the walk met it; `path` in Python's file system encoding (surrogates for odd bytes)."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Session:
    """An XNAT imaging session: one study under its labels."""

    project: str
    subject: str
    label: str
    study_uid: str


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True, repr=False)
class Patient:
    """Who a header speaks of, in a form that can be compared; "" is unknown, and agrees with everything.

    Only comparisons leave this class: its repr shows nothing.
    """

    id: str = ""
    name: str = ""
    birth_date: str = ""


@dataclass(frozen=True, slots=True)
class Instance:
    """A DICOM instance and the session it belongs to; its identity is (session, sop_uid), not its path."""

    file: File
    sop_uid: str
    series_uid: str
    session: Session
    patient: Patient = Patient()


class Streamed(Protocol):
    """The bytes of a large file, read piece by piece; iterating raises SourceError if the file is not as scanned."""

    @property
    def size(self) -> int:
        """Length in bytes, sent as Content-Length: XNAT refuses chunked bodies."""
        ...

    @property
    def sha256(self) -> bytes | None:
        """Digest of the bytes, once they have been read to the end; None before that, or where nobody asked for it."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Start at the first byte."""
        ...


Body = bytes | Streamed
