"""Builders for tests of resources: attachments on disk, an archived session, and calls that fill its resources."""

import hashlib
from pathlib import Path
from typing import Any

from builders import AT_ONCE, folder, logged_in, no_sleep, write

from asyncimport.model.attachments import (
    Attachment,
    AttachmentBatch,
    AttachmentResult,
    AttachmentState,
    Resource,
    ResourceOwner,
)
from asyncimport.testserver import (
    ArchivedSession,
    TestXnat,
    add_session,
)
from asyncimport.xnat.client import Client
from asyncimport.xnat.resources import Resources

STUDY = "1.2.840.1"
SESSION = ResourceOwner("demo", "S", "E", STUDY)
STORED, REFUSED, FAILED = AttachmentState.STORED, AttachmentState.REFUSED, AttachmentState.FAILED
WRITES = ("file", "resource", "subject", "refresh", "other")


def md5_hex(data: bytes) -> str:
    """Return the digest as XNAT lists it."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def make_session(xnat: TestXnat) -> ArchivedSession:
    """Archive a session E of the subject S, with a scan 1."""
    return add_session(xnat, "S", "E", study_uid=STUDY)


def make_files(tmp_path: Path) -> "Files":
    """Give a directory to write into."""
    return Files(tmp_path / "files")


class Files:
    """Attachments on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._keys = 0

    def write(self, name: str, data: bytes, **said: Any) -> Attachment:
        """Write a file in a place of its own, and describe it."""
        self._keys += 1
        return Attachment(self._keys, write(self.root / str(self._keys) / name, data), name, **said)

    def small(self, number: int, *, size: int = 50) -> list[Attachment]:
        """Write many files that differ."""
        return [self.write(f"{one:04}.csv", f"{one:0{size}}".encode()) for one in range(number)]


def batch_of(
    *attachments: Attachment, label: str = "R", owner: ResourceOwner = SESSION, tags: str = ""
) -> AttachmentBatch:
    """Make the batch of attachments."""
    return AttachmentBatch(Resource(owner, label, tags), attachments)


def make_resources(client: Client, **options: Any) -> Resources:
    """Make the destination, with retries and pauses that take no time."""
    return Resources(client, **{"policy": AT_ONCE, "sleep": no_sleep, **options})


async def fill(url: str, batch: AttachmentBatch, **options: Any) -> dict[str, AttachmentResult]:
    """Log in and fill a resource; return what became of each file, by its name."""
    async with logged_in(url) as client:
        filed = await make_resources(client, **options).fill(batch, await folder())
    assert len(filed) == len(batch.attachments)
    return {one.attachment.name: one for one in filed}


async def fill_one(url: str, attachment: Attachment, **options: Any) -> AttachmentResult:
    """Fill a resource with one file."""
    return (await fill(url, batch_of(attachment), **options))[attachment.name]


def listed_digests(session: ArchivedSession, label: str = "R") -> dict[str, bytes | None]:
    """Return the digests in the catalog of one of the session's resources."""
    return {name: file.digest for name, file in session.own_resources[label].files.items()}


def md5_bytes(data: bytes) -> bytes:
    """Return the digest as the test XNAT keeps it."""
    return hashlib.md5(data, usedforsecurity=False).digest()
