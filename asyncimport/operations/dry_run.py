"""What an upload would do: its plan, and what the server says about it. Nothing is sent or written."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import anyio
import anyio.to_thread

from asyncimport.errors import TransientError, UnavailableError
from asyncimport.operations.decision import decide
from asyncimport.operations.observer import Observer
from asyncimport.operations.plan import Plan
from asyncimport.operations.rehearsal import rehearse
from asyncimport.operations.result import Result, ended_in
from asyncimport.operations.upload_request import UploadRequest
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.pacing.shutdown import Stop
from asyncimport.routing.drop_rules import filter_drops
from asyncimport.routing.plan_file import PlanRow
from asyncimport.routing.problems import PlanProblem, ProblemCode
from asyncimport.source.folder import FileSource
from asyncimport.xnat.archive import ArchivedSessions
from asyncimport.xnat.client import Client
from asyncimport.xnat.inspection import series_filters
from asyncimport.xnat.prearchive import PrearchiveRows
from asyncimport.xnat.replies.archive import Experiment
from asyncimport.xnat.replies.images import Row
from asyncimport.xnat.replies.site import SeriesFilter
from asyncimport.xnat.site import SiteRules


@dataclass(slots=True, kw_only=True)
class DryRunResult(Result):
    """The plan of a run, compared with the server, and the exit code that the run will end with."""

    plan: Plan | None = None
    expected_code: int = 0

    @property
    def findings_code(self) -> int:
        """Return the exit code that the run will end with."""
        return self.expected_code


async def dry_run(request: UploadRequest, *, report: Observer | None = None, stop: Stop | None = None) -> DryRunResult:
    """Log in, decide as a run does, compare the plan with the server, and rehearse the run."""
    stop, observer = stop or Stop(), report or Observer()
    result = DryRunResult()
    with ended_in(result, stop):
        source = await anyio.to_thread.run_sync(request.source)
        with stop.immediate_scope():
            await _plan(request, source, observer, stop, result)
    return result


async def _plan(
    request: UploadRequest, source: FileSource, observer: Observer, stop: Stop, result: DryRunResult
) -> None:
    async with request.server.connect(connections=4, timeouts=request.timeouts) as client:
        archived, site = ArchivedSessions(client, RetryPolicy()), SiteRules(client, RetryPolicy())
        decision = await decide(
            request, source, client, observer, stop=stop, archived=archived, site=site, needs_plan=True
        )
        if decision is not None and decision.plan is not None:
            plan = await _compare_with_server(client, archived, site, decision.plan)
            result.plan, result.expected_code = await rehearse(request, client, archived, site, decision, plan, stop)


async def _compare_with_server(client: Client, archived: ArchivedSessions, site: SiteRules, plan: Plan) -> Plan:
    """Add what the server has of each study, and the rules by which it drops files. Raises: UnavailableError."""
    problems: list[PlanProblem] = []
    try:
        for project in sorted({row.project_id for row in plan.rows if row.project_id}):
            sessions = {one.label: one for one in await archived.list_project(project) or ()}
            rules = await site.get(project)
            for name in (rules.on_import, rules.on_archive):
                if name and "script" in name:
                    text = f"project {project}: {name} may reject files"
                    advice = "read the script: files that it rejects are reported as refused"
                    problems.append(PlanProblem(ProblemCode.MAY_BE_REJECTED, text, advice))
            filters = await series_filters(client, project)
            prearchive = await PrearchiveRows(client).list_project(project)
            for row in plan.rows:
                if row.project_id == project and not row.skip:
                    problems += _compare_row(row, sessions, prearchive)
                    problems += _dropped_series(row, plan.series.get(row.study_uid, ()), filters)
    except TransientError as error:
        raise UnavailableError(f"the plan could not be compared with the server: {error}") from error
    return plan.with_problems(problems)


def _compare_row(
    row: PlanRow, sessions: Mapping[str, Experiment], prearchive: Mapping[tuple[str, str], Sequence[Row]]
) -> Iterator[PlanProblem]:
    """Report a session that XNAT has already. What cannot be merged, the rehearsal finds out."""
    about = row.study_uid, row.files or 0, row.source
    there = sessions.get(row.session_label)
    if (
        there is not None
        and there.study_uid in {"", row.study_uid}
        and there.subject.lower() in {"", row.subject_label.lower()}
    ):
        text, advice = "its session is already in the archive", "nothing to do: only new files are merged into it"
        yield PlanProblem(ProblemCode.ARCHIVED_ALREADY, text, advice, *about)
    if prearchive.get((row.study_uid, row.session_label)):
        text = "the prearchive already has files of it"
        advice = "check that all of them were sent from here: otherwise the session is held"
        yield PlanProblem(ProblemCode.PREARCHIVE_BEGUN, text, advice, *about)


def _dropped_series(
    row: PlanRow, series: Sequence[tuple[str, int]], filters: Sequence[tuple[str, SeriesFilter]]
) -> Iterator[PlanProblem]:
    """Report the series that a filter of the site will drop; `series` has descriptions and numbers of files."""
    for name, one in filters:
        dropped = [
            files
            for description, files in series
            if filter_drops(one.mode, one.patterns, {"SeriesDescription": description})
        ]
        if dropped:
            text = f"{name} will drop {len(dropped)} of its series"
            advice = "have the filter switched off, or expect these files to be refused"
            code = ProblemCode.SERIES_DROPPED
            yield PlanProblem(code, text, advice, row.study_uid, sum(dropped), row.source)
