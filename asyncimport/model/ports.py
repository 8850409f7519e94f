"""The two ends of the line, and the rules between them: what each of them must do."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from asyncimport.dicom import Identity
from asyncimport.errors import SourceError
from asyncimport.model import (
    ArchivedContent,
    ArchivedPatient,
    Body,
    Claim,
    Digest,
    Dropped,
    File,
    Ignored,
    SealedDelivery,
    Session,
    Verdict,
)


class Routes(Protocol):
    """Which session a file belongs to."""

    @property
    def rules(self) -> Mapping[str, str]:
        """Everything that decides, by name: a journal is bound to it."""
        ...

    @property
    def needs_path(self) -> bool:
        """Whether a file cannot be routed without its path relative to the source."""
        ...

    @property
    def session_depth(self) -> int | None:
        """How many directories below a source decide the session, so that none other has the same; None: others do."""
        ...

    def route(self, study_uid: str, fields: Mapping[str, str], path: str = "") -> Session:
        """Return the session of a file with these header fields.

        Raises: UnroutableError when it has no place to go, LeftOutError when it is not meant to go anywhere.
        """
        ...


class Readable(Protocol):
    """The bytes of files that are known."""

    async def read(self, files: Sequence[File]) -> list[Body | SourceError]:
        """Read bodies, each good for any number of attempts; what cannot be read gives its error in its place."""
        ...


class Bytes(Readable, Protocol):
    """The bytes of files, and their digests."""

    async def md5(self, parts: Sequence[tuple[File, int]]) -> list[str | SourceError]:
        """Return the MD5 (hexadecimal) of the first so many bytes of each file, or the error in its place."""
        ...


class Source(Readable, Protocol):
    """Where instances come from."""

    @property
    def places(self) -> Sequence[str]:
        """Where the walk begins."""
        ...

    @property
    def roots(self) -> Sequence[str]:
        """The places that the walk covers wholly: what is known below them and not met again is gone."""
        ...

    @property
    def read_ahead(self) -> int:
        """Bytes of bodies that are worth reading at a time; 0 for one file at a time."""
        ...

    def batches(self) -> AsyncIterator[list[File | Ignored]]:
        """Yield all files there are, in an order that keeps sessions together."""
        ...

    def identify(self, file: File) -> Identity | Ignored:
        """Look into one file, at any time. It blocks: call it in a worker thread."""
        ...

    async def identify_many(self, files: Sequence[File]) -> list[Identity | Ignored]:
        """Look into files, and return what each of them is."""
        ...

    def relative(self, path: str) -> str:
        """Return a path relative to the place that it was found below."""
        ...

    async def same_bytes(self, one: str, other: str) -> bool | None:
        """Compare two files; None when one of them cannot be read."""
        ...

    async def have_digests(self, files: Sequence[tuple[File, Digest]]) -> list[bool | None]:
        """Tell of each file whether its bytes have this digest; None when that cannot be told."""
        ...


class Destination(Protocol):
    """Where sessions go."""

    async def store(self, claim: Claim, body: Body) -> str:
        """Send one file once, and return the address of the prearchive row it went to.

        Raises: TransientError, NothingStoredError where `find_drop_rules` may tell why, RefusedError, SourceError,
        FatalError.
        """
        ...

    async def find_drop_rules(
        self, session: Session, headers: Sequence[Mapping[str, str] | None], /, *, archived: bool
    ) -> list[Dropped | None]:
        """Tell of files by their header fields which rule drops each as it comes in, or as it is archived; None: none.

        Fields that are None are not known. Raises: TransientError, FatalError.
        """
        ...

    async def ping(self) -> bool:
        """Ask something small, to tell whether the server is away or rejects just this file.

        Raises: FatalError.
        """
        ...

    async def find_existing(self, claim: Claim) -> ArchivedContent | None:
        """Tell what the archive has of the session of a claim already; None: nothing.

        Raises: SessionConflictError when it has something else in its place, TransientError, FatalError.
        """
        ...

    async def archived_patients(self, session: Session) -> Sequence[ArchivedPatient]:
        """Tell whom the archived sessions of the subject of a session name, before its first file is sent.

        Raises: SessionConflictError when a label of it means something else there, TransientError, FatalError.
        """
        ...

    async def archived_uids(self, session: Session) -> frozenset[str] | None:
        """Tell what the archive holds of a session, by UID, where only numbers tell what arrives; None: UIDs will.

        Raises: TransientError, RefusedError, FatalError.
        """
        ...

    async def finalize(self, sealed: SealedDelivery) -> Verdict:
        """Bring a delivery to its end. It may be called again at any time, also after a kill.

        Raises: TransientError when the server is away, FatalError.
        """
        ...
