"""The protocols of source, destination and routes."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from asyncimport.dicom import Identity
from asyncimport.errors import SourceError
from asyncimport.model.deliveries import ArchivedContent, Claim, Dropped, SealedDelivery, Verdict
from asyncimport.model.files import ArchivedPatient, Body, Digest, File, Ignored, Session, Zip


class Routes(Protocol):
    """Decides which session a file belongs to."""

    @property
    def rules(self) -> Mapping[str, str]:
        """Everything that decides, by name: a journal is bound to it."""
        ...

    @property
    def needs_path(self) -> bool:
        """Whether routing needs a file's path relative to the source."""
        ...

    @property
    def session_depth(self) -> int | None:
        """How many directories below a source decide the session, so that no other has it; None if others may."""
        ...

    def route(self, study_uid: str, fields: Mapping[str, str], path: str = "") -> Session:
        """Return the session of a file with these header fields.

        Raises: UnroutableError when it has no session, LeftOutError when it is not wanted.
        """
        ...


class Readable(Protocol):
    """Reads the bytes of known files."""

    async def read(self, files: Sequence[File]) -> list[Body | SourceError]:
        """Read bodies, each good for any number of attempts; an unreadable file gives its error."""
        ...


class AttachmentSource(Readable, Protocol):
    """Where attachments come from: it reads the bytes of files, and digests them."""

    async def md5(self, parts: Sequence[tuple[File, int]]) -> list[str | SourceError]:
        """Return the MD5 (hexadecimal) of the first bytes of each file, or its error."""
        ...


class FileReader(Readable, Protocol):
    """Reads the files that are sent."""

    @property
    def read_ahead(self) -> int:
        """AttachmentSource of bodies that are worth reading at once; 0 for one file at a time."""
        ...

    def identify(self, file: File) -> Identity | Ignored:
        """Identify one file, at any time. It blocks: call it in a worker thread."""
        ...


class Source(FileReader, Protocol):
    """Where instances come from."""

    @property
    def places(self) -> Sequence[str]:
        """Where the walk begins."""
        ...

    @property
    def roots(self) -> Sequence[str]:
        """The places that the walk covers wholly: a known file below them that it does not find is gone."""
        ...

    @property
    def ahead(self) -> int:
        """Batches that are worth identifying at once."""
        ...

    @property
    def is_in_order(self) -> bool:
        """Whether each directory is left for good when the next one is met."""
        ...

    def batches(self) -> AsyncIterator[list[File | Ignored]]:
        """Yield all files, in an order that keeps sessions together."""
        ...

    async def identify_many(self, files: Sequence[File]) -> list[Identity | Ignored]:
        """Identify files."""
        ...

    def relative(self, path: str) -> str:
        """Return a path relative to the place that it is below."""
        ...

    async def same_bytes(self, one: str, other: str) -> bool | None:
        """Compare two files; None if one cannot be read."""
        ...

    async def have_digests(self, files: Sequence[tuple[File, Digest]]) -> list[bool | None]:
        """Return for each file whether its bytes have this digest; None if unknown."""
        ...


class Destination(Protocol):
    """Where sessions go."""

    @property
    def blocked_seconds(self) -> float:
        """How long all bodies together have waited to be sent: for the link, or for a limit of the rate."""
        ...

    @property
    def link_seconds(self) -> float:
        """The same, as far as the system tells it; else calls are taken to wait for their answer only."""
        ...

    @property
    def round_trip(self) -> float:
        """The shortest round trip so far, in seconds; 0 if it is unknown."""
        ...

    async def make_zip(self, body: Body) -> Zip | None:
        """Return a file as a zip, to send in its place; None if that is not worth it.

        Raises: ZipRefusedError if the server takes none, TransientError, SourceError, FatalError.
        """
        ...

    async def store(self, claim: Claim, body: Body | Zip) -> str:
        """Send one file once, and return the address of its prearchive row.

        Raises: TransientError, NothingStoredError if `find_drop_rules` may explain it, RefusedError, SourceError,
        FatalError; ZipRefusedError or ZipFailedError if it is a zip, and says nothing about the file.
        """
        ...

    async def find_drop_rules(
        self, session: Session, headers: Sequence[Mapping[str, str] | None], /, *, archived: bool
    ) -> list[Dropped | None]:
        """Return the rule that drops each file when it arrives or (`archived`) when it is archived; None for none.

        `headers` are the files' header fields, None if unknown. Raises: TransientError, FatalError.
        """
        ...

    async def ping(self) -> bool:
        """Return whether the server answers a small request; if so, it rejects just this file.

        Raises: FatalError.
        """
        ...

    async def find_existing(self, claim: Claim) -> ArchivedContent | None:
        """Return what the archive already has of the session of a claim; None for nothing.

        Raises: SessionConflictError when it has something else in its place, TransientError, FatalError.
        """
        ...

    async def archived_patients(self, session: Session) -> Sequence[ArchivedPatient]:
        """Return the patients in the archived sessions of a session's subject, before its first file is sent.

        Raises: SessionConflictError when one of its labels means something else there, TransientError, FatalError.
        """
        ...

    async def archived_uids(self, session: Session) -> frozenset[str] | None:
        """Return the archived UIDs of a session if only numbers can show what arrives; None if UIDs can.

        Raises: TransientError, RefusedError, FatalError.
        """
        ...

    async def finalize(self, sealed: SealedDelivery) -> Verdict:
        """Bring a delivery to its end. It may be called again at any time, even after a kill.

        Raises: TransientError when the server is away, FatalError.
        """
        ...
