"""Compare the archive with the journal, session by session, at any time after the upload."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import anyio
import anyio.to_thread

from asyncimport.demographics import Demographics
from asyncimport.errors import RefusedError, TransientError, UnavailableError, worst
from asyncimport.journal import Ledger
from asyncimport.model import Attachment, Enclosure, File, Session, SessionReport, Stray
from asyncimport.replies import ListedFile
from asyncimport.retry import RetryPolicy
from asyncimport.xnat import Client, Described, Resources, SiteRules, compare, describe, find_session, find_strays

__all__ = [
    "Beside",
    "Finding",
    "Source",
    "SubjectFinding",
    "attachments_to_repair",
    "look",
    "look_at_subjects",
    "look_beside",
    "sources_of",
    "strays_of",
    "verified_attachments",
    "verified_sources",
]

# Sessions that are looked at at a time; each is a handful of small requests.
_AT_A_TIME = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """What the archive holds of a session.

    `files` instances were stored of it. `verified` is "uids" or "count", or None where something is wrong: then
    `problem` says what. Of `missing` (SOPInstanceUIDs) nothing explains where they are, unless `expected` does.
    """

    session: Session
    files: int
    verified: str | None
    problem: str | None = None
    missing: frozenset[str] = frozenset()
    expected: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A file on disk and the instance in it; `is_copy` where another file was sent."""

    file: File
    sop_uid: str
    is_copy: bool


async def look(
    client: Client,
    ledger: Ledger,
    policy: RetryPolicy,
    *,
    only: Callable[[Session], bool] = lambda _: True,
    report: Callable[[Finding], None] = lambda _: None,
) -> list[Finding]:
    """Look at the sessions of a journal, in its order.

    Raises: UnavailableError when the server goes away meanwhile.
    """
    wanted = [(one, uids) for one, uids in await anyio.to_thread.run_sync(_acknowledged, ledger) if only(one.session)]
    found: dict[int, Finding] = {}
    rules = SiteRules(client, policy)
    limiter = anyio.CapacityLimiter(_AT_A_TIME)

    async def one(place: int, session: SessionReport, uids: frozenset[str]) -> None:
        async with limiter:
            found[place] = await _finding(client, session, uids, policy, rules)
            report(found[place])

    try:
        async with anyio.create_task_group() as tasks:
            for place, (session, uids) in enumerate(wanted):
                tasks.start_soon(one, place, session, uids)
    except BaseExceptionGroup as errors:
        raise worst(errors) from None
    return [found[place] for place in range(len(wanted))]


def _acknowledged(ledger: Ledger) -> list[tuple[SessionReport, frozenset[str]]]:
    return list(ledger.acknowledged())


async def _finding(
    client: Client, report: SessionReport, uids: frozenset[str], policy: RetryPolicy, rules: SiteRules
) -> Finding:
    session, files = report.session, len(uids)
    if report.state in {"open", "prearchive"}:
        return Finding(session, files, None, f"not archived yet ({report.state})")
    try:
        there = await find_session(client, session, policy, rules)
        if not there.experiments:
            if report.state == "held":
                return Finding(session, files, None, report.reason)
            gone = there.problem or "the archive has no session of this label and study"
            return Finding(session, files, None, gone, uids)
        found = await compare(client, session, there.experiments, uids, policy, rules)
        dropping = (await rules.of(session.project)).on_archive if found.missing else None
    except TransientError as error:
        raise UnavailableError(str(error), hint="run verify again when the server is back") from error
    except RefusedError as error:
        return Finding(session, files, None, str(error))
    if not found.missing:
        # A session can be held for files that never arrived, while all that arrived is there.
        problem = report.reason if report.state == "held" else None
        return Finding(session, files, found.verified if problem is None else None, problem)
    problem = f"{len(found.missing)} of {files} instances are missing"
    if dropping and report.verified is None:
        problem += f"; {dropping} rejects files, so that may be as it should be"
        return Finding(session, files, None, problem, found.missing, dropping)
    return Finding(session, files, None, problem, found.missing)


@dataclass(frozen=True, slots=True)
class Beside:
    """What the archive holds of the attachments that were stored in a resource: `problem` is None if all of them.

    `missing` are those that are not there any more, `altered` those under whose names something else is.
    """

    enclosure: Enclosure
    problem: str | None = None
    missing: tuple[Attachment, ...] = ()
    altered: tuple[Attachment, ...] = ()


async def look_beside(client: Client, ledger: Ledger, policy: RetryPolicy) -> list[Beside]:
    """Look at the resources that attachments were stored in, by name, size and MD5, where the site has those.

    Raises: UnavailableError when the server goes away meanwhile.
    """
    enclosures = await anyio.to_thread.run_sync(ledger.enclosures)
    found: dict[int, Beside] = {}
    limiter = anyio.CapacityLimiter(_AT_A_TIME)
    resources = Resources(client, policy=policy)

    async def one(place: int, enclosure: Enclosure) -> None:
        async with limiter:
            found[place] = await _beside(resources, enclosure)

    try:
        async with anyio.create_task_group() as tasks:
            for place, enclosure in enumerate(enclosures):
                tasks.start_soon(one, place, enclosure)
    except BaseExceptionGroup as errors:
        raise worst(errors) from None
    return [found[place] for place in range(len(enclosures))]


async def _beside(resources: Resources, enclosure: Enclosure) -> Beside:
    try:
        there = await resources.files(enclosure.resource.place, enclosure.resource.label)
    except TransientError as error:
        raise UnavailableError(str(error), hint="run verify again when the server is back") from error
    except RefusedError as error:
        return Beside(enclosure, str(error), enclosure.attachments)
    missing = tuple(one for one in enclosure.attachments if one.name not in there)
    altered = tuple(one for one in enclosure.attachments if one.name in there and not _is_same(one, there[one.name]))
    problems = [f"{len(missing)} of {len(enclosure.attachments)} files are missing"] if missing else []
    problems += [f"{len(altered)} are not what was stored"] if altered else []
    return Beside(enclosure, "; ".join(problems) or None, missing, altered)


def _is_same(attachment: Attachment, there: ListedFile) -> bool:
    return there.md5 == attachment.previous if there.md5 else there.size == attachment.file.size


@dataclass(frozen=True, slots=True)
class SubjectFinding:
    """A subject that was described: its `fields`, those of them that the archive has other values of, or a problem."""

    project: str
    subject: str
    fields: tuple[str, ...]
    differing: tuple[str, ...] = ()
    problem: str | None = None


async def look_at_subjects(client: Client, ledger: Ledger, policy: RetryPolicy) -> list[SubjectFinding]:
    """Compare what was said of subjects with what the archive has.

    Raises: UnavailableError when the server goes away meanwhile.
    """
    described = await anyio.to_thread.run_sync(ledger.described)
    wishes = [Demographics(subject, values, project) for project, subject, values in described if values]
    findings = []
    for wish, found in zip(
        wishes, await describe(client, wishes, policy, dry_run=True, only_existing=True), strict=True
    ):
        differing: tuple[str, ...] = ()
        problem = None
        if isinstance(found, Described):
            differing = tuple(dict.fromkeys((*found.written, *(one.name for one in found.kept))))
            problem = f"XNAT has another {', '.join(differing)}" if differing else None
        else:
            problem = found.reason
        findings.append(SubjectFinding(wish.project, wish.subject, tuple(wish.values), differing, problem))
    return findings


async def strays_of(client: Client, ledger: Ledger) -> list[Stray]:
    """Look through the prearchive for rows of the ledger's sessions that are no deliveries the journal knows of.

    Raises: TransientError, RefusedError when this user may not look.
    """
    deliveries = await anyio.to_thread.run_sync(ledger.deliveries)
    # Where an archived session was, there is nothing any more, or something that came later.
    live = {one.uri for one in deliveries if one.uri and one.state != "ARCHIVED"}
    found: list[Stray] = []
    for project in sorted({one.session.project for one in deliveries}):
        sessions = {one.session for one in deliveries if one.session.project == project}
        found += await find_strays(client, project, sessions, live, RetryPolicy())
    return found


def sources_of(ledger: Ledger, finding: Finding) -> tuple[list[Source], int]:
    """Return the files that missing instances were sent from, as far as they are still there and unchanged.

    The second value is the number of those that are not.
    """
    wanted = [one for one in _sources(ledger, finding.session) if one.sop_uid in finding.missing and not one.is_copy]
    there = [source for source in wanted if _is_unchanged(source.file)]
    return there, len(finding.missing) - len(there)


def attachments_to_repair(besides: Iterable[Beside]) -> tuple[list[Attachment], int]:
    """Return the missing attachments whose files are still there and unchanged, and the number of the others."""
    missing = [one for beside in besides for one in beside.missing]
    there = [one for one in missing if _is_unchanged(one.file)]
    return there, len(missing) - len(there)


def verified_attachments(besides: Iterable[Beside]) -> Iterator[File]:
    """Yield the files that were just seen in resources of the archive, as far as they have not changed since."""
    for beside in besides:
        for one in beside.enclosure.attachments:
            if one not in beside.missing and one not in beside.altered and _is_unchanged(one.file):
                yield one.file


def verified_sources(ledger: Ledger, findings: Iterable[Finding]) -> Iterator[File]:
    """Yield the files whose instances were just seen in the archive by their UIDs, copies of them too.

    A file that has changed since is not among them: nobody has sent what is in it now.
    """
    for finding in findings:
        if finding.verified == "uids" or finding.missing:
            for source in _sources(ledger, finding.session):
                if source.sop_uid not in finding.missing and _is_unchanged(source.file):
                    yield source.file


def _sources(ledger: Ledger, session: Session) -> Iterator[Source]:
    for file, sop_uid, is_copy in ledger.sources(session):
        yield Source(file, sop_uid, is_copy)


def _is_unchanged(file: File) -> bool:
    try:
        now = os.stat(file.path)  # noqa: PTH116 - the path need not be text
    except OSError:
        return False
    return (now.st_size, now.st_mtime_ns) == (file.size, file.mtime_ns)
