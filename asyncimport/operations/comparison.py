"""Compare the archive with the journal, session by session, at any time after the upload."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field, replace
from functools import partial

import anyio
import anyio.to_thread

from asyncimport.demographics.table import Demographics
from asyncimport.errors import RefusedError, SessionChangedError, TransientError, UnavailableError
from asyncimport.journal import JournalReader, SentFile, replaced_since
from asyncimport.model.attachments import Attachment, AttachmentBatch
from asyncimport.model.files import Algorithm, Digest, File, Session
from asyncimport.model.record import record
from asyncimport.model.summary import SessionReport
from asyncimport.model.texts import are, counted
from asyncimport.pacing.concurrency import map_concurrently
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.source.bytes_on_disk import has_digest
from asyncimport.system.mounts import DeviceCache
from asyncimport.xnat.archive import UNKNOWN_WHICH, Archive, Comparison
from asyncimport.xnat.client import Client
from asyncimport.xnat.resource_check import Depth, FileState
from asyncimport.xnat.resources import Resources
from asyncimport.xnat.site import SiteRules
from asyncimport.xnat.subjects import SubjectError, SubjectResult, Subjects, update_all

# Sessions that are compared at a time; each takes a few small requests.
_AT_A_TIME = 8
# The reason for a repair, for sites with an audit trail.
_REPAIR = "repair"


def _missing(number: int) -> str:
    return f"{counted(number, 'instance')} {are(number)} missing, {UNKNOWN_WHICH}"


@record
class SessionFinding:
    """What the archive has of a session, of which `files` instances were stored.

    `verified` is "uids", "present" or "count" (see `Archived`), or None with a `problem`. `missing` are
    SOPInstanceUIDs; `expected` explains why they are missing, if anything does. Those `replaced` have changed since
    their verification. Deliveries after the number `delivery` were not archived when it was compared.
    """

    session: Session
    files: int
    verified: str | None
    problem: str | None = None
    missing: frozenset[str] = frozenset()
    expected: str | None = None
    replaced: frozenset[str] = frozenset()
    delivery: int = 0

    @property
    def reason(self) -> str | None:
        """What is wrong, or why the session is not verified by "uids"."""
        return self.problem or (replaced_since(len(self.replaced)) if self.replaced else None)

    def covers(self, sent: SentFile) -> bool:
        """Whether the delivery that brought a file was in the archive when that was compared."""
        return sent.delivery <= self.delivery


async def compare_sessions(
    client: Client,
    reader: JournalReader,
    policy: RetryPolicy,
    *,
    report: Callable[[SessionFinding], None] = lambda _: None,
) -> list[SessionFinding]:
    """Compare the sessions of a journal, in its order, with the archive. Raises: UnavailableError."""
    reports = await anyio.to_thread.run_sync(reader.session_reports)
    rules = SiteRules(client, policy)
    archive = Archive(client, policy, rules)
    # Only the UIDs of sessions that are being compared are in memory.
    reading = anyio.Lock()

    def read(listed: SessionReport) -> tuple[SessionReport, int, frozenset[str], frozenset[str], Mapping[str, str]]:
        # An upload may have begun another delivery since the sessions were listed.
        with reader.snapshot():
            now, delivery = reader.report_now(listed)
            return now, delivery, *reader.acknowledged(now.session), reader.archived_digests(now.session)

    async def compare(listed: SessionReport) -> SessionFinding:
        async with reading:
            now, delivery, uids, doubtful, digests = await anyio.to_thread.run_sync(read, listed)
        finding = replace(await _finding(now, uids, doubtful, digests, archive, rules), delivery=delivery)
        report(finding)
        return finding

    return await map_concurrently(compare, reports, _AT_A_TIME)


async def _finding(
    report: SessionReport,
    uids: frozenset[str],
    doubtful: frozenset[str],
    digests: Mapping[str, str],
    archive: Archive,
    rules: SiteRules,
) -> SessionFinding:
    session, uids = report.session, uids | doubtful
    not_verified = partial(SessionFinding, session, len(uids), None)
    if report.state in {"open", "prearchive"}:
        return not_verified(f"not archived yet ({report.state})")
    try:
        there = await archive.find_session(session)
        if there.problem is not None:
            # No instance counts as missing, because none could be sent there again.
            return not_verified(there.problem)
        if not there.experiments:
            if report.state == "held":
                return not_verified(report.reason)
            return not_verified("the archive has no session of this label and study", uids)
        there, found = await archive.compare(session, there, uids, report.expected)
        if found is None:
            gone = "the session was removed from the archive during the comparison"
            return not_verified(there.problem or gone)
        dropping = (await rules.get(session.project)).on_archive if found.missing else None
    except (SessionChangedError, RefusedError) as error:
        return not_verified(str(error))
    except TransientError as error:
        raise UnavailableError(str(error), hint="run verify again when the server is back") from error
    return _judge(report, uids, doubtful, digests, found, dropping)


def _judge(
    report: SessionReport,
    uids: frozenset[str],
    doubtful: frozenset[str],
    digests: Mapping[str, str],
    found: Comparison,
    dropping: str | None,
) -> SessionFinding:
    """Say what a comparison of `uids` means; `digests` are those of the last verification.

    Archiving may have lost the `doubtful` ones of them; `dropping` names what may reject files then.
    """
    finding = partial(SessionFinding, report.session, len(uids))
    replaced = uids & {uid for uid, digest in digests.items() if found.digests.get(uid, digest) != digest}
    if found.verified == "count" and (lost := digests.keys() - found.digests.keys()):
        # Compare with what the archive held when it was verified, whatever was added since.
        return finding(None, _missing(len(lost)))
    if found.missing_count and not found.missing:
        return finding(None, _missing(found.missing_count))
    if not found.missing:
        # A session may be held for files that never arrived, although all files that arrived are there.
        problem = report.reason if report.state == "held" else None
        verified = "present" if (report.presumed or replaced) and found.verified == "uids" else found.verified
        return finding(verified if problem is None else None, problem, replaced=replaced)
    problem = f"{len(found.missing):,} of {counted(len(uids), 'instance')} {are(len(found.missing))} missing"
    if dropping and (report.verified is None or found.missing <= doubtful):
        problem += f"; {dropping} rejects files, so this may be correct"
        return finding(None, problem, found.missing, dropping, replaced)
    return finding(None, problem, found.missing, replaced=replaced)


@record
class ResourceFinding:
    """What a resource has of the attachments that were stored in it; `problem` is None if it has all of them.

    `altered` have other bytes, or cannot be read; `damaged` are those of them that XNAT still lists as they were
    stored.
    """

    batch: AttachmentBatch
    problem: str | None = None
    missing: tuple[Attachment, ...] = ()
    altered: tuple[Attachment, ...] = ()
    damaged: tuple[Attachment, ...] = ()


async def compare_resources(
    client: Client, reader: JournalReader, policy: RetryPolicy, *, reads_bytes: bool = False
) -> list[ResourceFinding]:
    """Compare resources by name, size and MD5, or by their bytes where XNAT has no MD5. Raises: UnavailableError."""
    batches = await anyio.to_thread.run_sync(reader.stored_attachment_batches)
    resources = Resources(client, policy=policy, depth=Depth.BYTES if reads_bytes else Depth.SIZE)
    return await map_concurrently(partial(_compare_resource, resources), batches, _AT_A_TIME)


async def _compare_resource(resources: Resources, batch: AttachmentBatch) -> ResourceFinding:
    try:
        held = await resources.check_files(batch)
    except TransientError as error:
        raise UnavailableError(str(error), hint="run verify again when the server is back") from error
    except RefusedError as error:
        return ResourceFinding(batch, str(error), batch.attachments)

    def select(*which: FileState) -> tuple[Attachment, ...]:
        return tuple(one for one in batch.attachments if held[one.key] in which)

    missing, unreadable = select(FileState.MISSING), select(FileState.UNREADABLE)
    altered, damaged = select(FileState.OTHER, FileState.DAMAGED), select(FileState.DAMAGED)
    number = len(missing)
    problems = [f"{number:,} of {counted(len(batch.attachments), 'file')} {are(number)} missing"] if missing else []
    problems += [f"{len(altered):,} {'has' if len(altered) == 1 else 'have'} changed"] if altered else []
    problems += [f"{len(unreadable)} cannot be read"] if unreadable else []
    return ResourceFinding(batch, "; ".join(problems) or None, missing, altered + unreadable, damaged)


@record
class SubjectFinding:
    """A subject of which `fields` were stored: those `differing` in the archive, and the values that it has lost."""

    project: str
    subject: str
    fields: tuple[str, ...]
    differing: tuple[str, ...] = ()
    problem: str | None = None
    missing: Mapping[str, str] = field(default_factory=dict, repr=False)


async def compare_subjects(client: Client, reader: JournalReader, policy: RetryPolicy) -> list[SubjectFinding]:
    """Compare what was said of subjects with what the archive has. Raises: UnavailableError."""
    restored = await anyio.to_thread.run_sync(reader.subject_demographics)
    demographics = [Demographics(subject, values, project) for project, subject, values in restored if values]
    findings = []
    for stored, found in zip(
        demographics,
        await update_all(Subjects(client, policy, dry_run=True, only_existing=True), demographics),
        strict=True,
    ):
        finding = SubjectFinding(stored.project, stored.subject, tuple(stored.values))
        if isinstance(found, SubjectError):
            findings.append(replace(finding, problem=found.reason))
            continue
        other = tuple(dict.fromkeys(one.name for one in found.kept))
        wrong = {"another": other, "no": found.written}
        problem = "; ".join(f"XNAT has {word} {', '.join(names)}" for word, names in wrong.items() if names)
        missing = {name: stored.values[name] for name in found.written}
        findings.append(replace(finding, differing=(*found.written, *other), problem=problem or None, missing=missing))
    return findings


async def restore_subjects(
    client: Client, findings: Sequence[SubjectFinding], policy: RetryPolicy
) -> list[SubjectResult]:
    """Store the demographics again that XNAT has lost. Other values in XNAT are kept. Raises: UnavailableError."""
    demographics = [Demographics(one.subject, one.missing, one.project) for one in findings if one.missing]
    return await update_all(Subjects(client, policy, event_reason=_REPAIR, only_existing=True), demographics)


def files_to_resend(reader: JournalReader, finding: SessionFinding) -> tuple[list[SentFile], int]:
    """Return the unchanged files of missing instances, and the number of instances whose files are gone or changed.

    Without a digest, size and time must be the same: XNAT lacks the instance in any case.
    """
    sent = filter(finding.covers, reader.sent_files(finding.session))
    wanted = [one for one in sent if one.sop_uid in finding.missing and not one.is_copy]
    devices = DeviceCache()
    there = []
    for source in wanted:
        now = _current_file(source.file.path, devices)
        if now is not None and _is_unchanged(now, source.file, source.digest, allow_same_time=True):
            there.append(replace(source, file=now))
    return there, len(finding.missing) - len(there)


def attachments_to_repair(resources: Iterable[ResourceFinding]) -> tuple[list[Attachment], int]:
    """Return the missing and damaged attachments whose files are unchanged, and the number of the others."""
    missing = [one for resource in resources for one in (*resource.missing, *resource.damaged)]
    devices = DeviceCache()
    there = []
    for one in missing:
        now = _current_file(one.file.path, devices)
        if now is not None and _is_unchanged(now, one.file, _md5_of(one)):
            there.append(replace(one, file=now))
    return there, len(missing) - len(there)


def verified_attachments(resources: Iterable[ResourceFinding]) -> Iterator[tuple[File, bool]]:
    """Yield the files whose attachments were just found in the archive, each with whether it is unchanged."""
    yield from _check_files(
        (one.file, _md5_of(one))
        for resource in resources
        for wrong in [{one.key for one in (*resource.missing, *resource.altered)}]
        for one in resource.batch.attachments
        if one.key not in wrong
    )


def verified_sources(reader: JournalReader, findings: Iterable[SessionFinding]) -> Iterator[tuple[File, bool]]:
    """Yield the files that were sent, copies too, each with whether the archive was just seen to have what it holds.

    A file is read where its digest is known. An instance that the archive had before proves nothing about its file,
    nor does one that was only counted.
    """
    for finding in findings:
        proven: list[SentFile] = []
        others: list[SentFile] = []
        names_instances = finding.verified in {"uids", "present"} or bool(finding.missing)
        doubtful = finding.missing | finding.replaced
        for one in reader.sent_files(finding.session):
            is_proven = names_instances and not one.presumed and one.sop_uid not in doubtful
            (proven if is_proven and finding.covers(one) else others).append(one)
        yield from _check_files((one.file, one.digest) for one in proven)
        yield from ((one.file, False) for one in others)


def _check_files(files: Iterable[tuple[File, Digest | None]]) -> Iterator[tuple[File, bool]]:
    """Yield each file that still exists, with whether it is unchanged. Several are read at a time."""
    devices = DeviceCache()

    def judge(one: tuple[File, Digest | None]) -> tuple[File, bool] | None:
        file, digest = one
        now = _current_file(file.path, devices)
        return None if now is None else (file, _is_unchanged(now, file, digest))

    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        yield from filter(None, threads.map(judge, files))


def _current_file(path: str, devices: DeviceCache) -> File | None:
    """Return a file as it is now; None if it is gone."""
    try:
        found = os.stat(path)  # noqa: PTH116 - the path need not be text
    except OSError:
        return None
    return File.of(path, found, has_stable_inodes=devices.keeps_inodes(path, found))


def _is_unchanged(now: File, sent: File, digest: Digest | None, *, allow_same_time: bool = False) -> bool:
    """Whether a file holds what was sent: by its digest, or else if it does not differ in anything."""
    if digest is not None:
        return now.size == sent.size and has_digest(now, digest) is True
    return now == sent or (allow_same_time and (now.size, now.mtime_ns) == (sent.size, sent.mtime_ns))


def _md5_of(attachment: Attachment) -> Digest | None:
    return None if attachment.previous is None else Digest(Algorithm.MD5, bytes.fromhex(attachment.previous))
