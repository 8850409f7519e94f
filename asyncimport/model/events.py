"""What a run reports while it works. Events are for display only: the journal decides."""

from asyncimport.model.activity import Activity, WorkerActivity
from asyncimport.model.attachments import AttachmentResult, Resource
from asyncimport.model.deliveries import Claim, Outcome, Verdict
from asyncimport.model.record import record
from asyncimport.model.summary import SubjectReport


@record
class Scanned:
    """The walk has passed `files` more files of `size` bytes."""

    files: int
    size: int


@record
class Admitted:
    """This many of the files passed are queued to be sent."""

    files: int
    size: int


@record
class ScanFinished:
    """The walk has ended: the totals no longer grow.

    Of the files that an earlier run found in these sources, `gone` no longer exist; `unsent` of them were never stored.
    """

    gone: int
    unsent: int


@record
class RetryScheduled:
    """An attempt (the nth) to send a file failed, and is repeated unless it was the last one."""

    reason: str
    claim: Claim | None = None
    attempt: int = 0


@record
class OutcomesRecorded:
    """These outcomes are in the journal, and this is what was done since the last ones."""

    outcomes: tuple[Outcome, ...]
    activity: Activity = Activity()


@record
class SessionFound:
    """The archive has the session of a claim already: this many queued instances need not be sent."""

    claim: Claim
    uri: str
    files: int
    size: int


@record
class Notice:
    """Something to check that keeps nothing from being sent; labels in it are in brackets."""

    reason: str


@record
class WorkerJoined:
    """A worker of the cluster, by its name for people, can be used from now on."""

    worker: str


@record
class WorkerLeft:
    """A worker of the cluster is gone. Without a reason: it was told to end."""

    worker: str
    reason: str = ""


@record
class ServerUnavailable:
    """Nothing gets through to the server, for this reason, and the run waits. Without a reason: it is back."""

    reason: str | None


@record
class Settling:
    """The run waits this many seconds to seal a session: an interrupted upload into it may still arrive."""

    seconds: float


@record
class AttachmentsStarted:
    """The images are done, and this many attachments are queued."""

    files: int


@record
class AttachmentsStored:
    """These attachments of one resource have an outcome, which is on disk."""

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
    | WorkerJoined
    | WorkerLeft
    | WorkerActivity
    | OutcomesRecorded
    | Verdict
    | AttachmentsStarted
    | AttachmentsStored
    | SubjectReport
)
