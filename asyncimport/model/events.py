"""What the line tells of itself while it runs: for the eye only, as the journal is what decides."""

from asyncimport.model import AttachmentResult, Claim, Outcome, Resource, SubjectReport, Verdict
from asyncimport.model.record import record


@record
class Scanned:
    """The walk has passed `files` more files of `size` bytes."""

    files: int
    size: int


@record
class Admitted:
    """Of the files passed, this many wait to be sent."""

    files: int
    size: int


@record
class ScanFinished:
    """The walk is at its end: the totals no longer grow.

    Of the files that an earlier run knew in these sources, `gone` are there no more, and `unsent` of them had not
    been stored.
    """

    gone: int
    unsent: int


@record
class RetryScheduled:
    """An attempt to send a file (the nth) failed for a time, and is made again, unless it was the last."""

    reason: str
    claim: Claim | None = None
    attempt: int = 0


@record
class OutcomesRecorded:
    """These outcomes are in the journal."""

    outcomes: tuple[Outcome, ...]


@record
class SessionFound:
    """The archive has the session of a claim already, and so many instances of it that waited need not be sent."""

    claim: Claim
    uri: str
    files: int
    size: int


@record
class Notice:
    """There is something to look at that keeps nothing from being sent; labels in it stand in brackets."""

    reason: str


@record
class ServerUnavailable:
    """Nothing gets through to the server, for this reason; the run waits for it. Without a reason: it is back."""

    reason: str | None


@record
class Settling:
    """A session is complete, and left alone for so many seconds: an upload into it broke off, and may yet arrive."""

    seconds: float


@record
class AttachmentsStarted:
    """The images are through, and so many attachments wait to go beside them."""

    files: int


@record
class AttachmentsStored:
    """This became of attachments of one resource, and is on disk."""

    resource: Resource
    results: tuple[AttachmentResult, ...]


Event = (
    Scanned
    | Admitted
    | ScanFinished
    | RetryScheduled
    | ServerUnavailable
    | Settling
    | SessionFound
    | Notice
    | OutcomesRecorded
    | Verdict
    | AttachmentsStarted
    | AttachmentsStored
    | SubjectReport
)
