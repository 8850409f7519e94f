"""Compare the archive with the journal, session by session, at any time after the upload."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import anyio
import anyio.to_thread

from asyncimport.errors import RefusedError, TransientError, UnavailableError, worst
from asyncimport.journal import Ledger
from asyncimport.model import File, Session, SessionReport, Stray
from asyncimport.retry import RetryPolicy
from asyncimport.xnat import Client, compare, droppers, find_experiment, find_strays

__all__ = ["Finding", "Source", "look", "sources_of", "strays_of", "verified_sources"]

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
    limiter = anyio.CapacityLimiter(_AT_A_TIME)

    async def one(place: int, session: SessionReport, uids: frozenset[str]) -> None:
        async with limiter:
            found[place] = await _finding(client, session, uids, policy)
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


async def _finding(client: Client, report: SessionReport, uids: frozenset[str], policy: RetryPolicy) -> Finding:
    session, files = report.session, len(uids)
    if report.state in {"open", "prearchive"}:
        return Finding(session, files, None, f"not archived yet ({report.state})")
    try:
        experiment = await find_experiment(client, session, policy)
        if experiment is None:
            if report.state == "held":
                return Finding(session, files, None, report.reason)
            return Finding(session, files, None, "the archive has no session of this label and study", uids)
        found = await compare(client, experiment, session, uids, policy)
        dropping = (await droppers(client, session.project, policy)).on_archive if found.missing else None
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
