"""What an upload would do: its plan, and what the server says of that; nothing is sent or written down."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from asyncimport.errors import JournalError, TransientError, UnavailableError, UsageError
from asyncimport.journal import HeaderCache, JournalReader, SubjectPatient
from asyncimport.model import Session
from asyncimport.operations.decision import decide
from asyncimport.operations.observer import Observer
from asyncimport.operations.plan import Plan
from asyncimport.operations.plan_archive import Known, with_archive
from asyncimport.operations.rehearsal import rehearse
from asyncimport.operations.result import Result, ended_in
from asyncimport.operations.scan import survey_path
from asyncimport.operations.upload_request import UploadRequest
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.pacing.shutdown import Stop
from asyncimport.routing import ProblemCode, StudyFilter, type_conflict
from asyncimport.source.folder import FileSource
from asyncimport.xnat.archive import ArchivedSessions, held_of_session
from asyncimport.xnat.client import Client
from asyncimport.xnat.inspection import series_filters
from asyncimport.xnat.occupants import Occupants
from asyncimport.xnat.prearchive import PrearchiveRows
from asyncimport.xnat.replies.archive import Experiment
from asyncimport.xnat.site import SiteRules


@dataclass(slots=True, kw_only=True)
class DryRunResult(Result):
    """The plan of a run, compared with the archive, and the exit code that the run will end with."""

    plan: Plan | None = None
    foretold: int = 0

    @property
    def findings_code(self) -> int:
        """Return what the run will end with."""
        return self.foretold


async def dry_run(request: UploadRequest, *, report: Observer | None = None, stop: Stop | None = None) -> DryRunResult:
    """Log in, decide as a run does, and compare what would be sent with the archive. Nothing is sent or written."""
    stop, observer = stop or Stop(), report or Observer()
    result = DryRunResult()
    with ended_in(result, stop):
        source = await anyio.to_thread.run_sync(request.source)
        with stop.at_once():
            await _plan(request, source, observer, stop, result)
    return result


async def _plan(task: UploadRequest, source: FileSource, observer: Observer, stop: Stop, result: DryRunResult) -> None:
    """Decide, compare the plan with the archive, and foretell the exit code."""
    async with task.server.connect(connections=4, timeouts=task.timeouts) as client:
        archived, site = ArchivedSessions(client, RetryPolicy()), SiteRules(client, RetryPolicy())
        decision = await decide(
            task.wanted(),
            source,
            client,
            observer,
            stop=stop,
            archived=archived,
            site=site,
            is_plan_shown=True,
        )
        if decision is not None and decision.plan is not None:
            found = await _compared(task, source, client, archived, site, decision.journal, decision.plan)
            result.plan, result.foretold = await rehearse(task, client, archived, site, decision, found, stop)


@dataclass(frozen=True, slots=True)
class _Journalled:
    """What a journal knows that decides how the archive is to be read: see `Known` and `JournalReader`."""

    source: str | None = ""
    own: Mapping[str, Session] = field(default_factory=dict)
    brought: frozenset[tuple[str, str, str]] = frozenset()
    residents: Sequence[SubjectPatient] = ()

    @classmethod
    def read(cls, journal: Path, *, after_reroute: bool) -> "_Journalled":
        """Read it; nobody asks what it has begun where it cannot be read."""
        if not journal.exists():
            return cls()
        try:
            with JournalReader.open(journal) as reader:
                return cls(
                    reader.metadata().get("source", ""),
                    reader.prearchive_sessions(),
                    reader.archived_labels(),
                    reader.subject_patients(after_reroute=after_reroute),
                )
        except (JournalError, UsageError):
            # The run itself reports what is wrong with it.
            return cls(None)


async def _compared(
    task: UploadRequest,
    source: FileSource,
    client: Client,
    archived: ArchivedSessions,
    rules: SiteRules,
    journal: Path,
    found: Plan,
) -> Plan:
    read = partial(_Journalled.read, journal, after_reroute=task.relabel)
    ours = await anyio.to_thread.run_sync(read)
    known: dict[str, Known] = {}
    occupants = Occupants(client, archived, rules, RetryPolicy())
    try:
        for project in sorted({row.project_id for row in found.rows if row.project_id}):
            sessions = {one.label: one for one in await archived.in_project(project) or ()}
            what = await rules.get(project)
            scripts = [name for name in (what.on_import, what.on_archive) if name and "script" in name]
            filters = await series_filters(client, project)
            rows = await PrearchiveRows(client).in_project(project)
            there = {} if task.allow_mixed_patients else await occupants.in_project(project)
            misfits = await _misfits(task, source, client, rules, journal, found, sessions)
            known[project] = Known(
                sessions,
                filters,
                scripts,
                rows,
                None if task.adopt_rows else ours.source,
                ours.own,
                {
                    subject: [one for one in who if (project, subject, one.session.label.lower()) not in ours.brought]
                    for subject, who in there.items()
                },
                [one for one in ours.residents if one.project == project],
                {**misfits, **await _in_the_way(occupants, found, project)},
            )
    except TransientError as error:
        raise UnavailableError(f"the archive could not be compared with the plan: {error}") from error
    return with_archive(found, known)


async def _misfits(
    task: UploadRequest,
    source: FileSource,
    client: Client,
    rules: SiteRules,
    journal: Path,
    found: Plan,
    sessions: Mapping[str, Experiment],
) -> dict[str, tuple[ProblemCode, str]]:
    """Say of each study of a plan why XNAT would not merge what is new of it into its session.

    Which instances are new is asked only where it matters: where not each of their modalities fits.
    """
    doubtful = [
        (row, there)
        for row in found.rows
        if not row.skip
        and (there := sessions.get(row.session_label)) is not None
        and there.project == row.project_id
        and there.study_uid in {"", row.study_uid}
        and any(type_conflict(there.type, [modality]) for modality in row.modalities.split())
    ]
    if not doubtful or await rules.merges_modalities():
        return {}
    look = partial(
        _modalities, source, task.state_dir, journal, task.study_filter, truncated=task.options.send_truncated
    )
    reasons: dict[str, tuple[ProblemCode, str]] = {}
    for row, there in doubtful:
        session = Session(row.project_id, row.subject_label, row.session_label, row.study_uid)
        new = await anyio.to_thread.run_sync(look, session)
        if new:
            held = await held_of_session(client, session, [there], frozenset(), RetryPolicy())
            new = {uid: modality for uid, modality in new.items() if uid not in held}
        if why := type_conflict(there.type, new.values()):
            reasons[row.study_uid] = ProblemCode.MODALITY_ON_SERVER, why
    return reasons


def _modalities(
    source: FileSource,
    state_dir: Path | None,
    journal: Path,
    study_filter: StudyFilter,
    session: Session,
    *,
    truncated: bool,
) -> dict[str, str]:
    """Return the modalities of the instances of a study, by SOPInstanceUID, that the journal does not know as done."""

    def is_asked(fields: Mapping[str, str], path: str) -> bool:
        return not study_filter.rejection_reason(fields, source.relative(path))

    with HeaderCache(survey_path(source, state_dir), reuse_scan=True) as last:
        asked = is_asked if study_filter.is_of_parts else None
        found = last.modalities(session.study_uid, truncated=truncated, is_asked=asked)
    if journal.exists():
        with suppress(JournalError, UsageError), JournalReader.open(journal) as reader:
            done = reader.settled_uids(session)
            return {uid: modality for uid, modality in found.items() if uid not in done}
    return found


async def _in_the_way(occupants: Occupants, found: Plan, project: str) -> dict[str, tuple[ProblemCode, str]]:
    """Say of each study of a plan that cannot go under its labels why: the code of the problem, and the reason."""
    sessions = [
        Session(project, row.subject_label, row.session_label, row.study_uid)
        for row in found.rows
        if row.project_id == project and not row.skip
    ]
    await occupants.expect(sessions)
    reasons: dict[str, tuple[ProblemCode, str]] = {}
    for session in sessions:
        if reason := await occupants.id_in_the_way(session):
            reasons[session.study_uid] = ProblemCode.LABEL_IS_ID, reason
        elif reason := await occupants.study_elsewhere(session):
            reasons[session.study_uid] = ProblemCode.STUDY_ON_SERVER, reason
    return reasons
