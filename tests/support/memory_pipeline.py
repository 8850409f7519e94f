"""A source and a destination in memory, and the image pipeline between them."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from builders import (
    AT_ONCE,
    opened,
    router,
    summary_of,
)

from asyncimport.dicom import STUDY_FIELDS, Identity
from asyncimport.errors import (
    SourceError,
)
from asyncimport.model import (
    Archived,
    ArchivedContent,
    ArchivedPatient,
    Body,
    Claim,
    Digest,
    Dropped,
    File,
    FileKind,
    Ignored,
    SealedDelivery,
    Session,
    Summary,
    Verdict,
)
from asyncimport.model.events import (
    Event,
)
from asyncimport.model.options import Options
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.pacing.shutdown import Stop
from asyncimport.pipeline.images import upload_images
from asyncimport.routing import PathPattern, Router

FEW = Options(workers=4, finalizers=2, settle_seconds=0)
ONE = Options(workers=1, finalizers=1, settle_seconds=0)


@dataclass
class MemorySource:
    """A source out of memory: `files` maps paths to (study, number); a path with "bad" in it cannot be read."""

    files: dict[str, tuple[str, int]]
    roots: Sequence[str] = ("/m",)
    before_last: Callable[[], Any] | None = None
    batch: int = 4
    patients: dict[str, str] = field(default_factory=dict)
    twins_equal: bool | None = True
    read_ahead: int = 1_000

    @property
    def places(self) -> Sequence[str]:
        """Walk what is to be covered."""
        return self.roots

    async def batches(self) -> AsyncIterator[list[File | Ignored]]:
        """Yield all files, a few at a time; and wait for something before the last batch, if wanted."""
        found: list[File | Ignored] = [File(path, 100, 1) for path in self.files]
        starts = range(0, len(found), self.batch)
        for start in starts:
            if start == starts[-1] and self.before_last is not None:
                await self.before_last()
            yield found[start : start + self.batch]

    async def identify_many(self, files: Sequence[File]) -> list[Identity | Ignored]:
        """Look them up."""
        return [self.identify(file) for file in files]

    def identify(self, file: File) -> Identity | Ignored:
        """Look one up."""
        study, number = self.files[file.path]
        if not number:
            return Ignored(file, FileKind.NOT_DICOM, "not DICOM")
        fields = {"PatientID": self.patients.get(study, study), "StudyDate": f"D{study}"}
        return Identity(f"{study}.{number}", study, f"{study}.0", fields)

    async def read(self, files: Sequence[File]) -> list[Body | SourceError]:
        """Make up the bytes."""
        return [SourceError("cannot be read") if "bad" in file.path else file.path.encode() for file in files]

    def relative(self, path: str) -> str:
        """Take away the root."""
        return path.removeprefix("/m/")

    async def same_bytes(self, one: str, other: str) -> bool | None:
        """Say what was said."""
        assert one != other
        return self.twins_equal

    async def have_digests(self, files: Sequence[tuple[File, Digest]]) -> list[bool | None]:
        """Hold what was sent, or not, as the twins are equal."""
        return [self.twins_equal for _ in files]


def study_files(name: str, count: int, first: int = 1) -> dict[str, tuple[str, int]]:
    """Name the files of a study."""
    return {f"/m/{name}/{number:03}": (name, number) for number in range(first, first + count)}


class MemoryDestination:
    """A destination out of memory, which acknowledges everything; tests say what is different."""

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.finalized: list[str] = []
        self.at_work: set[str] = set()
        self.on_store: Callable[[Claim], Any] = no_wait
        self.on_finalize: Callable[[SealedDelivery], Any] = no_wait
        self.sealed: list[SealedDelivery] = []
        self.there = False
        self.archive: dict[str, ArchivedContent] = {}
        self.before: dict[str, frozenset[str]] = {}

    async def store(self, claim: Claim, body: Body) -> str:
        """Acknowledge a file."""
        assert claim.instance.file.path.encode() == body
        await self.on_store(claim)
        self.stored.append(claim.instance.sop_uid)
        return f"/prearchive/{claim.instance.session.label}/{claim.delivery.number}"

    async def find_drop_rules(
        self, _session: Session, headers: Sequence[Mapping[str, str] | None], *, archived: bool
    ) -> list[Dropped | None]:
        """Know of no rules."""
        del archived
        return [None for _ in headers]

    async def ping(self) -> bool:
        """Be there or not, as told."""
        return self.there

    async def archived_patients(self, session: Session) -> Sequence[ArchivedPatient]:
        """Nobody is in the archive."""
        assert session.subject
        return ()

    async def find_existing(self, claim: Claim) -> ArchivedContent | None:
        """Find what is in the archive: nothing, unless a test puts it there."""
        return self.archive.get(claim.instance.session.label)

    async def archived_uids(self, session: Session) -> frozenset[str] | None:
        """Let UIDs tell, unless a test says otherwise."""
        return self.before.get(session.label)

    async def finalize(self, sealed: SealedDelivery) -> Verdict:
        """Archive a delivery."""
        subject = sealed.delivery.session.subject
        assert subject not in self.at_work, "two deliveries of a subject at a time"
        self.at_work.add(subject)
        try:
            verdict = await self.on_finalize(sealed)
        finally:
            self.at_work.remove(subject)
        self.finalized.append(sealed.delivery.session.study_uid)
        self.sealed.append(sealed)
        return verdict if verdict is not None else Archived(sealed.delivery, "/archive", "uids")


async def no_wait(_: object) -> None:
    """Let others run."""
    await anyio.lowlevel.checkpoint()


async def run_pipeline(
    source: MemorySource,
    destination: MemoryDestination,
    book: Path,
    *,
    options: Options = FEW,
    stop: Stop | None = None,
    report: Callable[[Event], None] = lambda _: None,
    policy: RetryPolicy = AT_ONCE,
) -> Summary:
    """Run the line between the two."""
    rules = router(session="{StudyDate}")
    with anyio.fail_after(20):
        async with opened(book, rules) as journal:
            await upload_images(
                source, destination, journal, rules, options=options, policy=policy, stop=stop, report=report
            )
            return await summary_of(journal)


async def run_by_directory(source: MemorySource, destination: MemoryDestination, book: Path, **options: Any) -> Summary:
    """Run the line with labels out of directories."""
    rules = Router("P", session="{session}", keywords=frozenset(STUDY_FIELDS), paths=PathPattern.parse("{session}/**"))
    assert rules.session_depth == 1
    with anyio.fail_after(20):
        async with opened(book, rules) as journal:
            await upload_images(source, destination, journal, rules, options=replace(FEW, **options), policy=AT_ONCE)
            return await summary_of(journal)
