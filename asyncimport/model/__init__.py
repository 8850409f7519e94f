"""The nouns of the line, and every legal change of their states.

A `File` is found on disk. If it is DICOM it holds an `Instance` of a `Session`; otherwise it is `Ignored` with its
reason. An instance that is handed out to be sent is a `Claim`, which ends in an `Outcome`. A session reaches XNAT in
one or more deliveries (one prearchive row each); a `Sealed` delivery ends in a `Verdict`. Other files are
`Attachment`s, which go into a `Resource` beside the images, and end as `Filed`.
"""

from asyncimport.model.attachments import Attachment, AttachmentState, Enclosure, Filed, Place, Resource
from asyncimport.model.deliveries import (
    MAY_HAVE_REJECTED,
    Archived,
    Built,
    Claim,
    Deleted,
    Delivery,
    Dropped,
    Existing,
    Failed,
    Held,
    Incomplete,
    Outcome,
    Postponed,
    Refused,
    Sealed,
    Stored,
    Verdict,
    Withheld,
)
from asyncimport.model.files import Algorithm, Body, Digest, File, Ignored, Instance, Patient, Session, Streamed
from asyncimport.model.states import (
    DELIVERY_TRANSITIONS,
    INSTANCE_TRANSITIONS,
    DeliveryState,
    FileKind,
    InstanceState,
    Refusal,
)
from asyncimport.model.subjects import SubjectReport
from asyncimport.model.summary import (
    NOTHING_KEPT,
    AttachmentCounts,
    Files,
    Problem,
    SessionReport,
    Stray,
    SubjectCounts,
    Summary,
)

__all__ = [
    "DELIVERY_TRANSITIONS",
    "INSTANCE_TRANSITIONS",
    "MAY_HAVE_REJECTED",
    "NOTHING_KEPT",
    "Algorithm",
    "Archived",
    "Attachment",
    "AttachmentCounts",
    "AttachmentState",
    "Body",
    "Built",
    "Claim",
    "Deleted",
    "Delivery",
    "DeliveryState",
    "Digest",
    "Dropped",
    "Enclosure",
    "Existing",
    "Failed",
    "File",
    "FileKind",
    "Filed",
    "Files",
    "Held",
    "Ignored",
    "Incomplete",
    "Instance",
    "InstanceState",
    "Outcome",
    "Patient",
    "Place",
    "Postponed",
    "Problem",
    "Refusal",
    "Refused",
    "Resource",
    "Sealed",
    "Session",
    "SessionReport",
    "Stored",
    "Stray",
    "Streamed",
    "SubjectCounts",
    "SubjectReport",
    "Summary",
    "Verdict",
    "Withheld",
]
