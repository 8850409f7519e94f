"""Files that go beside images into resources of the archive: where to, and what became of them."""

from enum import StrEnum

from asyncimport.model.files import File
from asyncimport.model.record import record


class AttachmentState(StrEnum):
    """Where an attachment stands between disk and XNAT."""

    PENDING = "PENDING"
    STORED = "STORED"
    REFUSED = "REFUSED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"  # it is not clear where it belongs


@record
class ResourceOwner:
    """What a resource belongs to: a project, or in it a subject, a session, or a scan of a session.

    A session is known by its label, its StudyInstanceUID, or both.
    """

    project: str
    subject: str = ""
    session: str = ""
    study_uid: str = ""
    scan: str = ""


@record
class Resource:
    """A resource (XNAT's catalog of files) by its label; `tags` (comma-separated) are given to it when it is made."""

    owner: ResourceOwner
    label: str
    tags: str = ""


@record
class Attachment:
    """A file on its way into a resource; `name` is its path there, with `/` and of characters that XNAT leaves alone.

    `previous` is the MD5 (hexadecimal) of what was stored under this name from an earlier state of the file, and
    `previous_size` how many bytes that had, None where nobody knows. `is_started`: an earlier run may have sent a part.
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
    """All that waits for one resource: nobody else writes into it meanwhile, as XNAT would lose one of the two."""

    resource: Resource
    attachments: tuple[Attachment, ...]


@record
class AttachmentResult:
    """What became of an attachment; `md5` is that of the bytes in the resource, `sent` false if they were there.

    `blames_server`: it is refused because of what XNAT holds, or lets this user do, which may change, and not for
    itself.
    """

    attachment: Attachment
    state: AttachmentState
    reason: str | None = None
    md5: str | None = None
    sent: bool = False
    blames_server: bool = False
