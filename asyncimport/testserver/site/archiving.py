"""Runs archive jobs, which continue when nobody waits for them any more.

The locks are those of PrearcDatabase.LockAndSync and PrearcSessionArchiver.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace

import anyio

from .anonymisation import Script
from .archive import ArchivedSession
from .archive_jobs import ArchiveError, JobStatus
from .conflicts import FileNames, MergeOptions, validate_files
from .dicom_header import read_header
from .merging import plan_merge, target_names
from .prearchive import Document, PrearchiveRow, RowStatus
from .projects import Project
from .resources import Resource, StoredFile
from .runtime import Runtime
from .site import Site

_BOOLEANS = dict.fromkeys(("true", "yes", "on"), True) | dict.fromkeys(("false", "no", "off"), False)
_AUTO_ARCHIVE_CODE = 4
_OVERWRITE_CODE = 5
# A copy looks so many times how many others go on.
_COPY_STEPS = 10


@dataclass(frozen=True, slots=True)
class Job:
    """The archiving of one prearchive row."""

    row: PrearchiveRow
    params: Mapping[str, str] = field(default_factory=dict)
    options: MergeOptions = field(default_factory=MergeOptions)
    status: JobStatus = field(default_factory=lambda: JobStatus(""))
    files: FileNames | None = None
    """What was on the disk when it began, if it has begun already."""


def is_auto_archive(params: Mapping[str, str], row: PrearchiveRow | None, project: Project) -> bool:
    """Return whether XNAT archives a session by itself (PrearcSession.isAutoArchive).

    The row decides first, then any parameter whose name *contains* AA or auto-archive, then the project.
    """
    if row is not None and row.autoarchive in {"AutoArchive", "AutoArchiveOverwrite"}:
        return True
    for name, value in params.items():
        if ("AA" in name or "auto-archive" in name) and value.lower() in _BOOLEANS:
            return _BOOLEANS[value.lower()]
    return project.prearchive_code >= _AUTO_ARCHIVE_CODE


def overwrites_files(row: PrearchiveRow, project: Project) -> bool:
    """Return whether files of the same name are replaced (PrearcSession.isOverwriteFiles)."""
    return row.autoarchive == "AutoArchiveOverwrite" or project.prearchive_code == _OVERWRITE_CODE


def submit(site: Site, runtime: Runtime, job: Job) -> None:
    """Queue a job; until it begins, the row is not locked and may be submitted again."""
    job.row.status = RowStatus.ARCHIVING
    job.status.restart()
    runtime.jobs.start_soon(run, site, runtime, job)


async def archive_all(site: Site, runtime: Runtime, jobs: Sequence[Job]) -> None:
    """Run jobs one after another."""
    for job in jobs:
        await run(site, runtime, job)


async def run(site: Site, runtime: Runtime, job: Job) -> None:
    """Run a job to its end and report its outcome to its waiters."""
    await anyio.sleep(site.timing.queue_seconds)
    async with runtime.archive_workers:
        job.status.begin(f"archiving {job.row.folder}")
        try:
            outcome: ArchivedSession | ArchiveError = await _archive_locked(site, runtime, job)
        except ArchiveError as failed:
            outcome = failed
    job.status.end(outcome)


async def _archive_locked(site: Site, runtime: Runtime, job: Job) -> ArchivedSession:
    row = job.row
    if row.status.is_locked or row not in site:
        raise ArchiveError("Duplicate archive attempt. Prearchive session already archiving.")
    row.status = RowStatus.LOCKED_ARCHIVING
    label, subject = target_names(row, job.params)
    try:
        with _lock_target(runtime.merge_targets, site.experiment_labelled(row.project, label)):
            async with _subject_lock(runtime, subject):
                await anyio.sleep(site.timing.subject_seconds)
            return await _merge(site, runtime, job)
    except ArchiveError as failed:
        if row.is_direct:
            await _move_to_prearchive(site, row)
        row.status = RowStatus.CONFLICT if failed.conflict else RowStatus.ERROR
        row.logs.append(failed.message)
        raise


async def _move_to_prearchive(site: Site, row: PrearchiveRow) -> None:
    """Move a session that was on its way straight into the archive to where it can be looked at."""
    target = replace(row, is_direct=False, timestamp=site.free_timestamp(row.project, row.folder))
    await site.storage.move(
        (row.file_path(folder, name), target.file_path(folder, name))
        for folder, files in row.scans.items()
        for name in files
    )
    await site.storage.remove(row.path)
    site.remove_row(row)
    row.is_direct, row.timestamp = False, target.timestamp
    site.add_row(row)


@contextmanager
def _lock_target(targets: set[ArchivedSession], target: ArchivedSession | None) -> Iterator[None]:
    """Mark an existing session as being merged into; fail if another job has done so."""
    if target is None:
        yield
        return
    if target in targets:
        raise ArchiveError("Duplicate archive attempt.  Destination session in use.")
    targets.add(target)
    try:
        yield
    finally:
        targets.discard(target)


@asynccontextmanager
async def _subject_lock(runtime: Runtime, label: str) -> AsyncIterator[None]:
    """Hold the lock on a subject's label, in whatever project; if it is taken, sleep and try again.

    XNAT holds it only while the subject is found or made, but wakes nobody who waits for it.
    """
    step = runtime.timing.subject_lock_seconds
    while True:
        lock = runtime.subject_locks.setdefault(label, anyio.Lock())
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
            runtime.subject_locks.pop(label, None)


async def _copy(seconds: float, runtime: Runtime) -> None:
    """Take the time of copying a session's files, which others that are copied make longer."""
    steps = _COPY_STEPS if runtime.timing.archive_slowdown else 1
    for _ in range(steps):
        step = seconds / steps * runtime.disk_slowdown
        runtime.copying += 1
        try:
            await anyio.sleep(step)
        finally:
            runtime.copying -= 1


async def _merge(site: Site, runtime: Runtime, job: Job) -> ArchivedSession:
    """Move a session's files and state into the archive (PrearcSessionArchiver.call)."""
    row = job.row
    on_disk = job.files or row.names_on_disk()  # a file that comes later is lost
    if site.archive_seconds:
        await _copy(site.archive_seconds, runtime)
    if row.document is None:
        raise ArchiveError("Unable to read the session document: it has not been built.")
    if not job.options.override:
        validate_files(site, on_disk, row.document)
    script = site.project(row.project).script if row.project is not None else None
    document = row.document if script is None else await _anonymise(site, row, row.document, script)
    # XNAT locks only a session that exists, so two new ones with one label may collide there; here they are merged
    # one after the other.
    async with runtime.archive_lock:
        merge = plan_merge(site, row, document, target_names(row, job.params), job.options)
        await site.storage.move(merge.moves())
        merge.apply(site)
    site.remove_row(row)
    await site.storage.remove(row.path)
    return merge.session


async def _anonymise(site: Site, row: PrearchiveRow, document: Document, script: Script) -> Document:
    """Run a project's script on all files and return the new document; the site must keep bytes."""
    scans = []
    for scan in document.scans:
        resources = {}
        for label, resource in scan.resources.items():
            files: dict[str, StoredFile] = {}
            for file in resource.files.values():
                if (changed := await _anonymise_file(site, row, scan.folder, file, script)) is not None:
                    files[file.name] = changed
            if files:
                resources[label] = Resource(resource.number, label, files)
        if resources:
            series = next(file.series for resource in resources.values() for file in resource.files.values())
            scans.append(replace(scan, series=series, resources=resources))
    if not scans:
        raise ArchiveError("All files were rejected by the project's anonymization script.")
    study = document.study_uid if script.map_study is None else script.map_study(document.study_uid)
    patient = document.patient
    if script.rewrite:
        patient = patient._replace(id=row.name, name=row.subject)
    return replace(document, scans=tuple(scans), study_uid=study, patient=patient)


async def _anonymise_file(
    site: Site, row: PrearchiveRow, folder: str, file: StoredFile, script: Script
) -> StoredFile | None:
    """Rewrite a file; None if the script rejects it."""
    uid = script.map_uid(file.sop_uid) if script.map_uid is not None else file.sop_uid
    series = file.series
    if script.map_series is not None:
        series = replace(series, uid=script.map_series(series.uid))
    rejected = False

    def edit(data: bytes) -> bytes:
        nonlocal rejected
        header = read_header(data)
        rejected = script.reject is not None and script.reject(header)
        return script.apply(data, header, row.labels)

    written = await site.storage.change(row.file_path(folder, file.name), edit)
    if rejected:
        return None
    size, digest = written or (file.size, file.digest)
    return replace(file, size=size, digest=digest, sop_uid=uid, series=series)
