"""Attachments: files that go into resources of the archive, and what became of them."""

from enum import StrEnum

from asyncimport.model.files import File
from asyncimport.model.record import record


class AttachmentState(StrEnum):
    """The state of an attachment between disk and XNAT."""

    PENDING = "PENDING"
    STORED = "STORED"
    REFUSED = "REFUSED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"  # its place is not clear


@record
class ResourceOwner:
    """The owner of a resource: a project or, in it, a subject, a session, or a scan of a session.

    A session is identified by its label, its StudyInstanceUID, or both.
    """

    project: str
    subject: str = ""
    session: str = ""
    study_uid: str = ""
    scan: str = ""


@record
class Resource:
    """A resource (XNAT's catalog of files) by its label; `tags` (comma-separated) are set when it is created."""

    owner: ResourceOwner
    label: str
    tags: str = ""


@record
class Attachment:
    """A file to put into a resource; `name` is its path there, with `/` and characters that XNAT keeps.

    `previous` is the MD5 (hexadecimal) of what an earlier state of the file stored under this name, `previous_size` its
    bytes; None if unknown. `is_started`: an earlier run may have sent a part.
    """

    key: int
    file: File
    name: str
    format: str = ""
    content: str = ""
    previous: str | None = None
    previous_size: int | None = None
    is_started: bool = False


@record
class AttachmentBatch:
    """Attachments for one resource. Each resource takes one writer at a time: XNAT would lose one of two files."""

    resource: Resource
    attachments: tuple[Attachment, ...]


@record
class AttachmentResult:
    """What became of an attachment; `md5` is that of the bytes in the resource, `sent` false if they were there.

    `blames_server`: refused because of what XNAT holds or allows, which may change, not because of the file.
    """

    attachment: Attachment
    state: AttachmentState
    reason: str | None = None
    md5: str | None = None
    sent: bool = False
    blames_server: bool = False
