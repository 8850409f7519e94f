"""What a resource has of a file: by the size and MD5 that XNAT lists, and by the bytes where these do not agree.

An interrupted transfer leaves the beginning of a file, listed with the digest of what it was to replace. Sites may also
list no MD5 (FileList, CatalogUtils).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from asyncimport.errors import RefusedError
from asyncimport.model.attachments import Attachment, AttachmentResult, AttachmentState
from asyncimport.model.ports import AttachmentSource
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.xnat.client import Client
from asyncimport.xnat.replies.resources import ListedFile, parse_file_size

_OTHER_FILE = "the resource holds another file of this name; `asyncimport attach --replace` replaces it"
_CHANGED = "it has changed since it was stored, and XNAT has lost it; `--resend-changed` sends what it is now"


class Depth(StrEnum):
    """How far files are checked: by the listing, by the number of bytes that XNAT would send, or by the bytes."""

    LISTING = "listing"
    SIZE = "size"
    BYTES = "bytes"


class FileState(StrEnum):
    """What XNAT has of a file that was stored."""

    SAME = "same"
    MISSING = "missing"  # it is not listed, or listed but not on the disk
    DAMAGED = "damaged"  # it is listed with its digest, but has other bytes
    OTHER = "other"
    UNREADABLE = "unreadable"


@dataclass(slots=True)
class Upload:
    """An attachment to send, the MD5 of its bytes, and what is known of it after the last attempt."""

    attachment: Attachment
    md5: str
    overwrites: bool = False
    kept_other: bool = False  # XNAT said that it kept a file of this name
    is_accepted: bool = False  # XNAT said that it stored the file, and had none of this name
    is_listed: bool = False  # XNAT lists the MD5 of these bytes
    is_hidden: bool = False  # XNAT has a file of this name that its catalog did not list
    was_tried: bool = False
    may_be_sent: bool = False  # what XNAT has of it may be from here
    error: str = ""


def refuse(attachment: Attachment, reason: str, *, blames_server: bool = True) -> AttachmentResult:
    """Return the result of an attachment that XNAT refuses, or that must not overwrite what it has."""
    return AttachmentResult(attachment, AttachmentState.REFUSED, reason, blames_server=blames_server)


@dataclass(slots=True)
class FileChecker:
    """Compares files with a resource; `replace` and `replace_changed` are as of Resources. Raises: TransientError.

    `interrupted` has the attachments, by key, of which an interrupted transfer of ours may have left the beginning:
    True if XNAT listed the MD5 of all bytes before, which then proves nothing.
    """

    client: Client
    policy: RetryPolicy
    depth: Depth
    interrupted: dict[int, bool]
    replace: bool
    replace_changed: bool

    async def state(self, attachment: Attachment, listed: ListedFile | None) -> FileState:
        """Return what XNAT has of an attachment that was stored. Raises: TransientError."""
        if listed is None:
            return FileState.MISSING
        try:
            found = await self._measure(listed, {attachment.previous: attachment.previous_size})
        except RefusedError:
            return FileState.UNREADABLE
        if found is None:
            return FileState.MISSING
        if found[1] == attachment.previous:
            return FileState.SAME
        return FileState.DAMAGED if listed.md5 == attachment.previous else FileState.OTHER

    async def judge(
        self, upload: Upload, listed: ListedFile | None, source: AttachmentSource
    ) -> AttachmentResult | None:
        """Compare an upload with what the resource lists under its name; None if it is to be sent.

        Only our own is overwritten: an earlier state of the file, if asked, or the beginning of this one.
        """
        attachment, size = upload.attachment, upload.attachment.file.size
        is_changed = attachment.previous not in {None, upload.md5}
        stored = AttachmentResult(attachment, AttachmentState.STORED, md5=upload.md5, sent=upload.may_be_sent)
        interrupted = self.interrupted.get(attachment.key)
        may_be_partial = attachment.is_started or interrupted is not None
        upload.overwrites = self.replace and (listed is not None or upload.was_tried)
        upload.is_listed = listed is not None and listed.md5 == upload.md5
        if listed is None:
            upload.is_hidden = upload.kept_other
            # A file that XNAT has but does not list is ours if we may have left it.
            upload.overwrites |= upload.kept_other and may_be_partial
            if is_changed and not (self.replace or self.replace_changed):
                return refuse(attachment, _CHANGED)
            return None
        if upload.is_accepted and not listed.md5 and listed.size == size:
            return stored
        # A listing of just these bytes is right, unless they were listed before as well.
        matches = (listed.size, listed.md5) == (size, upload.md5)
        is_doubtful = may_be_partial and (not matches or bool(interrupted) or attachment.previous == upload.md5)
        known = {attachment.previous: attachment.previous_size, upload.md5: size}
        try:
            found = await self._measure(listed, known, is_doubtful=is_doubtful)
        except RefusedError as error:
            return None if self.replace else refuse(attachment, str(error))
        if found == (size, upload.md5):
            if listed.md5 in {"", upload.md5}:
                return stored
            # The catalog was not written, and has the digest of the file that these bytes replaced.
            upload.overwrites = True
            return None
        if self.replace:
            return None
        if found is None:
            # It is listed, but XNAT has no bytes that could be overwritten.
            ours = {upload.md5, attachment.previous} if self.replace_changed or not is_changed else {upload.md5}
            if listed.md5 in ours or attachment.previous == upload.md5:
                return None
        elif self.replace_changed and attachment.previous == found[1]:
            upload.overwrites = True
            return None
        elif found[0] < size and (may_be_partial or upload.is_listed or upload.is_hidden):
            # An interrupted transfer leaves the beginning of this very file: one of ours, one that was to replace what
            # the listed MD5 is of, or one that was in no catalog.
            (beginning,) = await source.md5([(attachment.file, found[0])])
            if found[1] == beginning:
                upload.overwrites = True
                # A refreshed catalog no longer shows that it is ours.
                self.interrupted[attachment.key] = interrupted or upload.is_listed
                return None
        return refuse(attachment, _OTHER_FILE)

    async def _measure(
        self, listed: ListedFile, known: Mapping[str | None, int | None], *, is_doubtful: bool = False
    ) -> tuple[int, str] | None:
        """Return size and MD5 of what XNAT has; None if it has nothing, though it lists it."""
        # The listing is believed unless it is doubtful, has no MD5, or the MD5 of a `known` file with another size.
        agrees = listed.size is not None and known.get(listed.md5, listed.size) == listed.size
        if listed.md5 and agrees and not is_doubtful:
            if self.depth is Depth.LISTING and listed.size is not None:
                return listed.size, listed.md5
            if self.depth is Depth.SIZE:
                # Cheap for a right file; of any other the bytes tell what it is.
                size = await self.client.request("HEAD", listed.uri, parse_file_size, self.policy)
                if size is not None and size == listed.size:
                    return size, listed.md5
        return await self.client.download_digest(listed.uri, self.policy)
