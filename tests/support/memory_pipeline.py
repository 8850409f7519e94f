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
from patience import in_time

from asyncimport.dicom import STUDY_FIELDS, Identity
from asyncimport.errors import (
    SourceError,
)
from asyncimport.model.deliveries import Archived, ArchivedContent, Claim, Dropped, SealedDelivery, Verdict
from asyncimport.model.events import (
    Event,
)
from asyncimport.model.files import ArchivedPatient, Body, Digest, File, Ignored, Session, Zip
from asyncimport.model.options import Options
from asyncimport.model.states import FileKind
from asyncimport.model.summary import Summary
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.pacing.shutdown import Stop
from asyncimport.pipeline.images import upload_images
from asyncimport.routing.paths import PathPattern
from asyncimport.routing.router import Router

FEW = Options(workers=4, finalizers=2, settle_seconds=0)
ONE = Options(workers=1, finalizers=1, settle_seconds=0)


@dataclass
class MemorySource:
    """A source in memory: `files` maps paths to (study, number); a path that contains "bad" cannot be read."""

    files: dict[str, tuple[str, int]]
    roots: Sequence[str] = ("/m",)
    before_last: Callable[[], Any] | None = None
    batch: int = 4
    patients: dict[str, str] = field(default_factory=dict)
    copies_equal: bool | None = True
    read_ahead: int = 1_000
    ahead: int = 1

    @property
    def places(self) -> Sequence[str]:
        """Return the roots."""
        return self.roots

    @property
    def is_in_order(self) -> bool:
        """Return whether there is one root."""
        return len(self.roots) == 1

    async def batches(self) -> AsyncIterator[list[File | Ignored]]:
        """Yield all files in batches, and call `before_last` before the last one."""
        found: list[File | Ignored] = [File(path, 100, 1) for path in self.files]
        starts = range(0, len(found), self.batch)
        for start in starts:
            if start == starts[-1] and self.before_last is not None:
                await self.before_last()
            yield found[start : start + self.batch]

    async def identify_many(self, files: Sequence[File]) -> list[Identity | Ignored]:
        """Identify files."""
        return [self.identify(file) for file in files]

    def identify(self, file: File) -> Identity | Ignored:
        """Identify a file."""
        study, number = self.files[file.path]
        if not number:
            return Ignored(file, FileKind.NOT_DICOM, "not DICOM")
        fields = {"PatientID": self.patients.get(study, study), "StudyDate": f"D{study}"}
        return Identity(f"{study}.{number}", study, f"{study}.0", fields)

    async def read(self, files: Sequence[File]) -> list[Body | SourceError]:
        """Return each path as the content of its file."""
        return [SourceError("cannot be read") if "bad" in file.path else file.path.encode() for file in files]

    def relative(self, path: str) -> str:
        """Return a path relative to the root."""
        return path.removeprefix("/m/")

    async def same_bytes(self, one: str, other: str) -> bool | None:
        """Return whether all copies are equal."""
        assert one != other
        return self.copies_equal

    async def have_digests(self, files: Sequence[tuple[File, Digest]]) -> list[bool | None]:
        """Return whether all copies are equal."""
        return [self.copies_equal for _ in files]


def study_files(name: str, count: int, first: int = 1) -> dict[str, tuple[str, int]]:
    """Return the files of a study."""
    return {f"/m/{name}/{number:03}": (name, number) for number in range(first, first + count)}


class MemoryDestination:
    """A destination in memory that acknowledges everything, unless a test sets a hook."""

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.finalized: list[str] = []
        self.finalizing_subjects: set[str] = set()
        self.on_store: Callable[[Claim], Any] = no_wait
        self.on_finalize: Callable[[SealedDelivery], Any] = no_wait
        self.sealed: list[SealedDelivery] = []
        self.is_up = False
        self.archive: dict[str, ArchivedContent] = {}
        self.uids_before: dict[str, frozenset[str]] = {}
        self.blocked_seconds = self.link_seconds = self.round_trip = 0.0

    async def make_zip(self, _: Body) -> Zip | None:
        """Make none: nothing here is worth it."""
        return None

    async def store(self, claim: Claim, body: Body | Zip) -> str:
        """Acknowledge a file."""
        assert claim.instance.file.path.encode() == body
        await self.on_store(claim)
        self.stored.append(claim.instance.sop_uid)
        return f"/prearchive/{claim.instance.session.label}/{claim.delivery.number}"

    async def find_drop_rules(
        self, _session: Session, headers: Sequence[Mapping[str, str] | None], *, archived: bool
    ) -> list[Dropped | None]:
        """Return that no rule drops a file."""
        del archived
        return [None for _ in headers]

    async def ping(self) -> bool:
        """Return `is_up`."""
        return self.is_up

    async def archived_patients(self, session: Session) -> Sequence[ArchivedPatient]:
        """Return nobody."""
        assert session.subject
        return ()

    async def find_existing(self, claim: Claim) -> ArchivedContent | None:
        """Return what a test has put into the archive."""
        return self.archive.get(claim.instance.session.label)

    async def archived_uids(self, session: Session) -> frozenset[str] | None:
        """Return what a test has put into `uids_before`."""
        return self.uids_before.get(session.label)

    async def finalize(self, sealed: SealedDelivery) -> Verdict:
        """Archive a delivery."""
        subject = sealed.delivery.session.subject
        assert subject not in self.finalizing_subjects, "two deliveries of a subject at a time"
        self.finalizing_subjects.add(subject)
        try:
            verdict = await self.on_finalize(sealed)
        finally:
            self.finalizing_subjects.remove(subject)
        self.finalized.append(sealed.delivery.session.study_uid)
        self.sealed.append(sealed)
        return verdict if verdict is not None else Archived(sealed.delivery, "/archive", "uids")


async def no_wait(_: object) -> None:
    """Let other tasks run."""
    await anyio.lowlevel.checkpoint()


async def run_pipeline(
    source: MemorySource,
    destination: MemoryDestination,
    journal_path: Path,
    *,
    options: Options = FEW,
    stop: Stop | None = None,
    report: Callable[[Event], None] = lambda _: None,
    policy: RetryPolicy = AT_ONCE,
) -> Summary:
    """Run the pipeline from source to destination."""
    rules = router(session="{StudyDate}")
    with in_time():
        async with opened(journal_path, rules) as journal:
            await upload_images(
                source, destination, journal, rules, options=options, policy=policy, stop=stop, report=report
            )
            return await summary_of(journal)


async def run_by_directory(
    source: MemorySource,
    destination: MemoryDestination,
    journal_path: Path,
    *,
    report: Callable[[Event], None] = lambda _: None,
    **options: Any,
) -> Summary:
    """Run the pipeline with labels from directories."""
    rules = Router("P", session="{session}", keywords=frozenset(STUDY_FIELDS), paths=PathPattern.parse("{session}/**"))
    assert rules.session_depth == 1
    with in_time():
        async with opened(journal_path, rules) as journal:
            few = replace(FEW, **options)
            await upload_images(source, destination, journal, rules, options=few, policy=AT_ONCE, report=report)
            return await summary_of(journal)
