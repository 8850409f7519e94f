"""Runs archive jobs, which go on when nobody waits for them any more. No HTTP.

The locks are those of PrearcDatabase.LockAndSync and PrearcSessionArchiver.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

import anyio

from .anonymising import rewritten
from .archiving import plan_merge, target_names
from .call import Engine
from .conflicts import FileNames, Terms, validate_files
from .dicom import read_header
from .rules import Script
from .site import TestXnat
from .state import ArchivedSession, Document, PrearchiveRow, Project, Resource, RowStatus, StoredFile
from .tracking import ArchiveFailed, Tracked

__all__ = ["Job", "archive_all", "is_auto_archive", "overwrites_files", "run", "submit"]

_BOOLEANS = dict.fromkeys(("true", "yes", "on"), True) | dict.fromkeys(("false", "no", "off"), False)
_AUTO_ARCHIVE_CODE = 4
_OVERWRITE_CODE = 5


@dataclass(frozen=True, slots=True)
class Job:
    """One archiving."""

    row: PrearchiveRow
    params: Mapping[str, str]
    terms: Terms
    tracked: Tracked
    files: FileNames | None = None
    """What was on the disk when it began, if that was before now."""


def is_auto_archive(params: Mapping[str, str], row: PrearchiveRow | None, project: Project) -> bool:
    """Tell whether a session is archived by itself (PrearcSession.isAutoArchive).

    The row decides first, then any parameter whose name *contains* AA or auto-archive, then the project.
    """
    if row is not None and row.autoarchive in {"AutoArchive", "AutoArchiveOverwrite"}:
        return True
    for name, value in params.items():
        if ("AA" in name or "auto-archive" in name) and value.lower() in _BOOLEANS:
            return _BOOLEANS[value.lower()]
    return project.prearchive_code >= _AUTO_ARCHIVE_CODE


def overwrites_files(row: PrearchiveRow, project: Project) -> bool:
    """Tell whether files of the same name are replaced (PrearcSession.isOverwriteFiles)."""
    return row.autoarchive == "AutoArchiveOverwrite" or project.prearchive_code == _OVERWRITE_CODE


def submit(xnat: TestXnat, engine: Engine, job: Job) -> None:
    """Queue a job; until it begins, the row is not locked and may be submitted again."""
    job.row.status = RowStatus.ARCHIVING
    job.tracked.restart()
    engine.jobs.start_soon(run, xnat, engine, job)


async def archive_all(xnat: TestXnat, engine: Engine, jobs: Sequence[Job]) -> None:
    """Run jobs one after another."""
    for job in jobs:
        await run(xnat, engine, job)


async def run(xnat: TestXnat, engine: Engine, job: Job) -> None:
    """Run a job to its end, and tell those who wait."""
    await anyio.sleep(xnat.timing.queue_seconds)
    job.tracked.begin(f"archiving {job.row.folder}")
    try:
        outcome: ArchivedSession | ArchiveFailed = await _archive_locked(xnat, engine, job)
    except ArchiveFailed as failed:
        outcome = failed
    job.tracked.end(outcome)


async def _archive_locked(xnat: TestXnat, engine: Engine, job: Job) -> ArchivedSession:
    row = job.row
    if row.status.locked or row not in xnat:
        raise ArchiveFailed("Duplicate archive attempt. Prearchive session already archiving.")
    row.status = RowStatus.LOCKED_ARCHIVING
    label, subject = target_names(row, job.params)
    try:
        with _held(engine.targets, xnat.experiment_labelled(row.project, label)):
            async with _subject_lock(engine, subject):
                return await _merge(xnat, engine, job)
    except ArchiveFailed as failed:
        row.status = RowStatus.CONFLICT if failed.conflict else RowStatus.ERROR
        row.logs.append(failed.message)
        raise


@contextmanager
def _held(targets: set[ArchivedSession], target: ArchivedSession | None) -> Iterator[None]:
    """Mark an existing session as being merged into, or fail when another job has done so."""
    if target is None:
        yield
        return
    if target in targets:
        raise ArchiveFailed("Duplicate archive attempt.  Destination session in use.")
    targets.add(target)
    try:
        yield
    finally:
        targets.discard(target)


@asynccontextmanager
async def _subject_lock(engine: Engine, label: str) -> AsyncIterator[None]:
    """Hold the lock on a subject's label, of whatever project; whoever finds it taken looks again after a while."""
    step = engine.timing.subject_lock_seconds
    while True:
        lock = engine.subjects.setdefault(label, anyio.Lock())
        if step == 0:
            await lock.acquire()
            break
        try:
            lock.acquire_nowait()
            break
        except anyio.WouldBlock:
            await anyio.sleep(step)
    try:
        yield
    finally:
        lock.release()
        if not lock.locked():
            engine.subjects.pop(label, None)


async def _merge(xnat: TestXnat, engine: Engine, job: Job) -> ArchivedSession:
    """Move a session's files and state into the archive (PrearcSessionArchiver.call)."""
    row = job.row
    on_disk = job.files or {folder: set(files) for folder, files in row.scans.items()}  # what comes later is lost
    if xnat.archive_seconds:
        await anyio.sleep(xnat.archive_seconds)
    if row.document is None:
        raise ArchiveFailed("Unable to read the session document: it has not been built.")
    if not job.terms.override:
        validate_files(xnat, on_disk, row.document)
    script = xnat.project(row.project).script if row.project is not None else None
    document = row.document if script is None else await _anonymised(xnat, row, row.document, script)
    label, subject = target_names(row, job.params)
    # XNAT locks a session that exists, so that two new ones of one label may collide; here they are merged
    # one after the other.
    async with engine.archive_lock:
        merge = plan_merge(xnat, row, document, (label, subject), job.terms)
        await xnat.storage.move(merge.moves())
        merge.apply(xnat)
    xnat.remove_row(row)
    await xnat.storage.remove(row.path)
    return merge.session


async def _anonymised(xnat: TestXnat, row: PrearchiveRow, document: Document, script: Script) -> Document:
    """Return the document of what a project's script leaves; it needs the bytes, and rewrites them."""
    scans = []
    for scan in document.scans:
        resources = {}
        for label, resource in scan.resources.items():
            files: dict[str, StoredFile] = {}
            for file in resource.files.values():
                parts = (*row.path, "SCANS", scan.folder, "DICOM", file.name)
                if (changed := await _rewritten(xnat, row, file, parts, script)) is not None:
                    files[file.name] = changed
            if files:
                resources[label] = Resource(resource.number, label, files)
        if resources:
            series = next(file.series for resource in resources.values() for file in resource.files.values())
            scans.append(replace(scan, series=series, resources=resources))
    if not scans:
        raise ArchiveFailed("All files were rejected by the project's anonymization script.")
    study = document.study_uid if script.map_study is None else script.map_study(document.study_uid)
    patient = document.patient
    if script.rewrite:
        patient = row.name, row.subject, patient[2]
    return replace(document, scans=tuple(scans), study_uid=study, patient=patient)


async def _rewritten(
    xnat: TestXnat, row: PrearchiveRow, file: StoredFile, parts: tuple[str, ...], script: Script
) -> StoredFile | None:
    uid = script.map_uid(file.sop_uid) if script.map_uid is not None else file.sop_uid
    series = file.series
    if script.map_series is not None:
        series = replace(series, uid=script.map_series(series.uid))
    rejected = False

    def edit(data: bytes) -> bytes:
        nonlocal rejected
        header = read_header(data)
        rejected = script.reject is not None and script.reject(header)
        return rewritten(data, header, script.values(header, (row.project or "", row.subject, row.name)))

    written = await xnat.storage.change(parts, edit)
    if rejected:
        return None
    size, digest = written or (file.size, file.digest)
    return replace(file, size=size, digest=digest, sop_uid=uid, series=series)
