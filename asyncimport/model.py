"""The nouns of the line, and every legal change of their states.

A `File` is found on disk. If it is DICOM it holds an `Instance` of a `Session`; otherwise it is `Ignored` with its
reason. An instance that is handed out to be sent is a `Claim`, which ends in an `Outcome`. A session reaches XNAT in
one or more deliveries (one prearchive row each); a `Sealed` delivery ends in a `Verdict`.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

__all__ = [
    "DELIVERY_TRANSITIONS",
    "INSTANCE_TRANSITIONS",
    "NOTHING_KEPT",
    "Archived",
    "Body",
    "Built",
    "Claim",
    "Delivery",
    "DeliveryState",
    "Failed",
    "File",
    "FileKind",
    "Files",
    "Held",
    "Ignored",
    "Incomplete",
    "Instance",
    "InstanceState",
    "Outcome",
    "Patient",
    "Problem",
    "Refused",
    "Sealed",
    "Session",
    "SessionReport",
    "Stored",
    "Stray",
    "Streamed",
    "Summary",
    "Verdict",
]


class FileKind(StrEnum):
    """What a file on disk turned out to be."""

    INSTANCE = "INSTANCE"  # the copy of an instance that is sent
    DUPLICATE = "DUPLICATE"  # the same instance again, byte for byte; stands in if the first copy cannot be read
    SKIPPED = "SKIPPED"  # an instance that we chose not to send, with the reason
    EXCLUDED = "EXCLUDED"  # an instance that nobody asked for: it is not in the plan, say
    NOT_DICOM = "NOT_DICOM"
    UNREADABLE = "UNREADABLE"  # DICOM, but truncated or without the identifiers, or a file that cannot be opened
    CONTAINER = "CONTAINER"  # a zip, tar or the like that holds DICOM, which is passed over


class InstanceState(StrEnum):
    """Where an instance stands between disk and XNAT."""

    PENDING = "PENDING"
    STORED = "STORED"
    REFUSED = "REFUSED"
    FAILED = "FAILED"


class DeliveryState(StrEnum):
    """Where a delivery stands between its first file and the archive."""

    OPEN = "OPEN"
    SEALED = "SEALED"
    BUILT = "BUILT"
    ARCHIVED = "ARCHIVED"
    HELD = "HELD"


# The database enforces both tables with triggers. What XNAT has acknowledged is sent again only when the archive turned
# out to lack it, and is refused when a script of the site may have dropped it there. ARCHIVED is final: what comes
# later for an archived session is another delivery. A seal is never broken: HELD goes back to SEALED, not to OPEN.
INSTANCE_TRANSITIONS = frozenset(
    {
        (InstanceState.PENDING, InstanceState.STORED),
        (InstanceState.PENDING, InstanceState.REFUSED),
        (InstanceState.PENDING, InstanceState.FAILED),
        (InstanceState.FAILED, InstanceState.PENDING),
        (InstanceState.REFUSED, InstanceState.PENDING),
        (InstanceState.STORED, InstanceState.PENDING),
        (InstanceState.STORED, InstanceState.REFUSED),
    }
)
DELIVERY_TRANSITIONS = frozenset(
    {
        (DeliveryState.OPEN, DeliveryState.SEALED),
        (DeliveryState.OPEN, DeliveryState.HELD),
        (DeliveryState.SEALED, DeliveryState.BUILT),
        (DeliveryState.SEALED, DeliveryState.ARCHIVED),
        (DeliveryState.SEALED, DeliveryState.HELD),
        (DeliveryState.BUILT, DeliveryState.SEALED),
        (DeliveryState.HELD, DeliveryState.SEALED),
    }
)


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


@dataclass(frozen=True, slots=True)
class Delivery:
    """One prearchive row of a session; `uri` is None until the first file has been acknowledged."""

    key: int
    session: Session
    number: int
    uri: str | None


@dataclass(frozen=True, slots=True)
class Claim:
    """An instance handed out to be sent, and where it goes; `key` is the journal's."""

    key: int
    instance: Instance
    delivery: Delivery


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


@dataclass(frozen=True, slots=True)
class Sealed:
    """A delivery that nothing is sent into any more, and the SOPInstanceUIDs that XNAT acknowledged of its session.

    Of those that it `refused` nothing should be in the archive.
    """

    delivery: Delivery
    sop_uids: frozenset[str]
    refused: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Stored:
    """XNAT acknowledged the file and put it where it belongs, at the last of so many `attempts`.

    `unsure`: an earlier attempt broke off, and may yet take effect. `sha256` is the digest of what was sent; `merges`
    whether the archive held the session before anything of this delivery was sent. Both only where they were asked for.
    """

    claim: Claim
    uri: str
    attempts: int = 1
    unsure: bool = False
    sha256: bytes | None = None
    merges: bool | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """XNAT answered, but did not keep the file; with `whole_session` nothing more of the session is sent."""

    claim: Claim
    reason: str
    whole_session: bool = False
    attempts: int = 1
    unsure: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """No verdict after all retries, or (`unreadable`) the file could not be read."""

    claim: Claim
    reason: str
    unreadable: bool = False
    attempts: int = 1
    unsure: bool = False


Outcome = Stored | Refused | Failed


@dataclass(frozen=True, slots=True)
class Archived:
    """The session is in the archive; `verified` is "uids" when the set of SOPInstanceUIDs was compared."""

    delivery: Delivery
    uri: str
    verified: str | None


@dataclass(frozen=True, slots=True)
class Built:
    """The session is built and stays in the prearchive, as asked."""

    delivery: Delivery
    uri: str


@dataclass(frozen=True, slots=True)
class Held:
    """XNAT would not commit or archive the session, or the archive lacks instances of it."""

    delivery: Delivery
    reason: str


@dataclass(frozen=True, slots=True)
class Incomplete:
    """The session is in the archive, which lacks instances that XNAT had acknowledged, by SOPInstanceUID.

    `expected` names what of the site may have dropped them there; without it they are lost.
    """

    delivery: Delivery
    uri: str
    missing: frozenset[str]
    expected: str | None = None


Verdict = Archived | Built | Held | Incomplete


@dataclass(frozen=True, slots=True)
class Files:
    """How many files ended in which way; `found` is the sum of the DICOM instances that can be sent."""

    not_dicom: int = 0
    unreadable: int = 0
    duplicate: int = 0
    skipped: int = 0
    already_stored: int = 0
    already_refused: int = 0
    stored: int = 0
    refused: int = 0
    failed: int = 0
    left: int = 0

    @property
    def found(self) -> int:
        """DICOM instances that can be sent, whatever became of them."""
        return (
            self.duplicate
            + self.skipped
            + self.already_stored
            + self.already_refused
            + self.stored
            + self.refused
            + self.failed
            + self.left
        )


NOTHING_KEPT = "XNAT kept none of its files"


@dataclass(frozen=True, slots=True)
class SessionReport:
    """What became of one session: `state` is archived, prearchive, held or open; `files` are its instances."""

    session: Session
    files: int
    size: int
    state: str
    uri: str | None
    verified: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Stray:
    """A row of XNAT's prearchive that bears the names of one of our sessions and is no delivery that we know of.

    A request that broke off and took effect late may have made it. `created` is in the server's local time, `source`
    what its maker called itself.
    """

    session: Session
    uri: str
    status: str
    created: str
    source: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A reason for which files did not arrive, how many, and the path of one of them."""

    kind: str
    reason: str
    files: int
    example: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The end of a run, or what a journal holds: files, bytes, sessions, and every reason."""

    files: Files
    bytes_found: int
    bytes_stored: int
    sessions: tuple[SessionReport, ...]
    problems: tuple[Problem, ...]

    @property
    def containers(self) -> int:
        """Archives that hold DICOM and were passed over; they count among what is not DICOM."""
        return sum(problem.files for problem in self.problems if problem.kind == "container")

    def count(self, state: str) -> int:
        """Return the number of sessions in this state."""
        return sum(report.state == state for report in self.sessions)
