"""One entry of each kind that a run can report, by the name of its event. LABEL1 stands for what names a patient."""

from builders import claim

from asyncimport.model.activity import WorkerActivity
from asyncimport.model.attachments import Attachment, AttachmentResult, AttachmentState, Resource, ResourceOwner
from asyncimport.model.deliveries import (
    Archived,
    Built,
    Deleted,
    Failed,
    Held,
    Incomplete,
    Postponed,
    Refused,
    Stored,
    Withheld,
)
from asyncimport.model.events import (
    Admitted,
    AttachmentsStarted,
    AttachmentsStored,
    Notice,
    OutcomesRecorded,
    RetryScheduled,
    ScanFinished,
    Scanned,
    ServerUnavailable,
    SessionFound,
    Settling,
    WorkerJoined,
    WorkerLeft,
)
from asyncimport.model.files import File, Session
from asyncimport.model.summary import Files, Orphan, SubjectReport, Summary
from asyncimport.reporting.entries import Entry, EventsLost, RunEnded, RunStarted

SESSION = Session("P", "LABEL1", "LABEL1_20200101", "1.2.3")
CLAIM = claim(File("/data/LABEL1/\udcff.dcm", 1_000, 1), session=SESSION)
QUOTING = "XNAT did not archive the session (500: FAILED (1): LABEL1_2020); `--overwrite append` helps"
STRAY = Orphan(SESSION, "/data/prearchive/projects/P/1/LABEL1_20200101", "RECEIVING", "2026-01-31 12:00:00", "x")
SUMMARY = Summary(Files(stored=2, refused=1), 3_000, 2_000, (), ())

ATTACHMENT = Attachment(1, File("/data/LABEL1/\udcff.pdf", 1_000, 1), "_.pdf")


def assign_attachments(state: AttachmentState, reason: str | None = None, md5: str | None = None) -> AttachmentsStored:
    """Return the result of one attachment."""
    resource = Resource(ResourceOwner("P", "LABEL1", "LABEL1_20200101", "1.2.3"), "REPORTS")
    return AttachmentsStored(resource, (AttachmentResult(ATTACHMENT, state, reason, md5, sent=md5 is not None),))


EVERYTHING: dict[str, Entry] = {
    "run_began": RunStarted("1", "0.1", "https://xnat.test", "P", {"workers": 4}, {"sources": ["/data/LABEL1"]}),
    "scanned": Scanned(3, 3_000),
    "admitted": Admitted(3, 3_000),
    "scan_finished": ScanFinished(2, 1),
    "file_stored": OutcomesRecorded((Stored(CLAIM, "/prearchive/projects/P/1/LABEL1_20200101", 2),)),
    "file_refused": OutcomesRecorded((Refused(CLAIM, "XNAT refused the file (400: of LABEL1)", attempts=3),)),
    "file_failed": OutcomesRecorded((Failed(CLAIM, "no answer", unreadable=True),)),
    "file_withheld": OutcomesRecorded((Withheld(CLAIM, "begun by somebody else (its subject is LABEL1); archive it"),)),
    "call_repeated": RetryScheduled("the server failed (500: LABEL1)"),
    "server_away": ServerUnavailable("the server is overloaded or away (503)"),
    "server_back": ServerUnavailable(None),
    "worker_joined": WorkerJoined("node1:40321"),
    "worker_left": WorkerLeft("node1:40321", "it died, or the network did"),
    "worker_progress": WorkerActivity("node1:40321", 1_200, 5_000_000, 12.5, 3, "the disk"),
    "session_found": SessionFound(CLAIM, "/data/archive/projects/P", 3, 3_000),
    "noticed": Notice("study 1.2: one PatientID under two subjects (LABEL1, LABEL2)"),
    "session_waits": Settling(29.9996),
    "session_archived": Archived(CLAIM.delivery, "/data/archive/projects/P", "uids"),
    "session_built": Built(CLAIM.delivery, "/data/prearchive/projects/P/1/LABEL1_20200101"),
    "session_held": Held(CLAIM.delivery, QUOTING),
    "session_deleted": Deleted(CLAIM.delivery, 3),
    "session_postponed": Postponed(CLAIM.delivery, "the server failed (500: LABEL1)"),
    "session_incomplete": Incomplete(CLAIM.delivery, "/data/archive/projects/P", frozenset(["1.2.9", "1.2.8"])),
    "enclosing": AttachmentsStarted(3),
    "attachment_stored": assign_attachments(AttachmentState.STORED, md5="ab"),
    "attachment_refused": assign_attachments(AttachmentState.REFUSED, "the archive has no such session (LABEL1)"),
    "attachment_failed": assign_attachments(AttachmentState.FAILED, "the connection broke"),
    "subject_stored": SubjectReport("P", "LABEL1", "stored", ("gender",), ("yob",), ("gender",)),
    "subject_refused": SubjectReport("P", "LABEL1", "refused", reason="XNAT has no such subject (LABEL1)"),
    "subject_failed": SubjectReport("P", "LABEL1", "failed", reason="the connection broke"),
    "stray_found": STRAY,
    "events_lost": EventsLost(7),
    "run_ended": RunEnded("1", 8, None, SUMMARY),
}
