"""What an upload would do: its plan, and what the server says about it. Nothing is sent or written.

The run is rehearsed: the same pipeline over a copy of the journal, with nothing that changes XNAT.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from asyncimport.errors import TransientError, UnavailableError, UsageError
from asyncimport.journal import HeaderCache, Journal, JournalReader, LockWait, copy_journal
from asyncimport.model.events import Event, Notice
from asyncimport.model.ports import Source
from asyncimport.model.summary import Summary, exit_code
from asyncimport.operations import upload_steps
from asyncimport.operations.cluster import open_any_source
from asyncimport.operations.coverage import check_coverage
from asyncimport.operations.decision import Decision, decide
from asyncimport.operations.dry_run_plan import apply_rehearsal
from asyncimport.operations.plan import Plan
from asyncimport.operations.planning import header_cache_path
from asyncimport.operations.rehearsed_source import RehearsedSource
from asyncimport.operations.result import Observer, Result, captured_in
from asyncimport.operations.upload_request import UploadRequest
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.pacing.shutdown import Stop, StoppedError
from asyncimport.pipeline.images import upload_images
from asyncimport.routing.drop_rules import filter_drops
from asyncimport.routing.filters import FilteredRoutes
from asyncimport.routing.plan_file import PlanRow
from asyncimport.routing.problems import PlanProblem, ProblemCode
from asyncimport.system.threads import opened_in_thread
from asyncimport.xnat.archive import KnownSite
from asyncimport.xnat.client import Client
from asyncimport.xnat.dry_run import DryRunDestination
from asyncimport.xnat.inspection import series_filters
from asyncimport.xnat.prearchive import PrearchiveRows
from asyncimport.xnat.replies.archive import Experiment
from asyncimport.xnat.replies.images import Row
from asyncimport.xnat.replies.site import SeriesFilter

if TYPE_CHECKING:
    from asyncimport.cluster.source import ClusterSource
    from asyncimport.source.folder import FileSource


@dataclass(slots=True, kw_only=True)
class DryRunResult(Result):
    """The plan of a run, compared with the server, and the exit code that the run will end with."""

    plan: Plan | None = None
    summary: Summary | None = None
    """What the run would find; what it would send is left."""
    expected_code: int = 0

    @property
    def findings_code(self) -> int:
        """Return the exit code that the run will end with."""
        return self.expected_code


async def dry_run(
    request: UploadRequest, *, report: Observer | None = None, stop: Stop | None = None, dask_client: Any = None
) -> DryRunResult:
    """Log in, decide as a run does, compare the plan with the server, and rehearse the run.

    With a client of Dask (asynchronous, of this loop), its workers scan.
    """
    stop, observer = stop or Stop(), report or Observer()
    result = DryRunResult()
    opened = open_any_source(
        request,
        request.source,
        observer.note,
        insecure=not request.server.verify_certificate,
        stop=stop,
        is_partial=not request.study_filter.is_everything,
        client=dask_client,
    )
    with captured_in(result, stop), suppress(StoppedError):
        async with opened as source:
            with stop.immediate_scope():
                async with request.server.connect(connections=4, timeouts=request.timeouts) as client:
                    site = KnownSite.of(client, RetryPolicy())
                    decision = await decide(request, source, client, observer, stop=stop, site=site, needs_plan=True)
                    if decision is not None and decision.plan is not None:
                        plan = await _compare_with_server(client, site, decision.plan)
                        found = await _rehearse(request, source, client, site, decision, plan, stop)
                        result.plan, result.summary, result.expected_code = found
    return result


async def _compare_with_server(client: Client, site: KnownSite, plan: Plan) -> Plan:
    """Add what the server has of each study, and the rules by which it drops files. Raises: UnavailableError."""
    problems: list[PlanProblem] = []
    try:
        for project in sorted({row.project_id for row in plan.rows if row.project_id}):
            sessions = {one.label: one for one in await site.archived.list_project(project) or ()}
            rules = await site.rules.get(project)
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
        raise UnavailableError(
            f"the plan could not be compared with the server: {error}",
            hint="try again later; `asyncimport doctor` checks the server",
        ) from error
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


async def _rehearse(
    request: UploadRequest,
    seen: "FileSource | ClusterSource",
    client: Client,
    site: KnownSite,
    decision: Decision,
    plan: Plan,
    stop: Stop,
) -> tuple[Plan, Summary, int]:
    """Return a plan with what the run makes of it, the summary before the run, and the run's exit code.

    `seen` is the source of the run, which a scan has just read. Raises: what a run raises.
    """
    cache_path = header_cache_path(seen, request.state_dir)
    async with (
        opened_in_thread(partial(HeaderCache, cache_path, reuse_scan=True)) as cache,
        opened_in_thread(partial(TemporaryDirectory, prefix="asyncimport-")) as directory,
    ):
        source = RehearsedSource(seen, cache)
        path = Path(directory) / "journal"
        await anyio.to_thread.run_sync(copy_journal, decision.journal, path)
        opened = partial(upload_steps.open_journal, request, decision, path, LockWait(), is_temporary=True)
        async with opened_in_thread(opened) as journal:
            await anyio.to_thread.run_sync(check_coverage, seen, journal)
            options = await anyio.to_thread.run_sync(upload_steps.prepare_options, request, decision, journal)
            destination = DryRunDestination(
                client,
                identify=source.identify,
                site=site,
                archive=options.archive,
                overwrite=request.overwrite,
                source=journal.source,
                adopt_rows=request.adopt_rows,
            )
            # Nothing takes time, and no earlier attempt is still under way. Collisions are counted afterwards.
            quick = replace(options, settle_seconds=0.0, outage_timeout=0.0, digests=False, check_first=False)
            routes = FilteredRoutes(decision.routes, decision.study_filter)
            notices: list[str] = []

            def note(event: Event) -> None:
                if isinstance(event, Notice):
                    notices.append(event.reason)

            await upload_images(source, destination, journal, routes, options=quick, report=note, stop=stop)
            is_refused = request.watch_seconds is None and decision.is_strict and bool(decision.faults)
            if options.check_first:
                is_refused |= bool(await anyio.to_thread.run_sync(journal.scan.skip_reasons))
            outcome = partial(_outcome, request, source, decision, plan, journal, notices, is_refused=is_refused)
            return await anyio.to_thread.run_sync(outcome)


def _outcome(
    request: UploadRequest,
    source: Source,
    decision: Decision,
    plan: Plan,
    journal: Journal,
    notices: Sequence[str],
    *,
    is_refused: bool,
) -> tuple[Plan, Summary, int]:
    if request.attach or journal.attachments.has_unstored():
        upload_steps.assign_attachments(request, source, journal)
    reader = JournalReader.of(journal)
    summary = reader.summary()
    error = upload_steps.nothing_to_send_error(request, summary, decision.plan)
    if error is not None and request.watch_seconds is None:
        raise error
    plan = apply_rehearsal(plan, summary, reader.disputed_studies(), notices, is_refused=is_refused)
    if is_refused:
        return plan, _unsent(summary), UsageError.exit_code
    if rows := upload_steps.unmatched_rows(request, journal, upload_steps.resolve_demographics(request, decision)):
        text, advice = upload_steps.unmatched_text(rows), "correct the table, or remove these rows"
        plan = plan.with_problems([PlanProblem(ProblemCode.SUBJECTS_UNMATCHED, text, advice)])
    issues = request.issues + len(rows)
    # Attachments that wait for their session are sent once that is archived.
    ended = replace(summary, attachments=replace(summary.attachments, left=0))
    return plan, _unsent(summary), exit_code(ended) or (8 if issues else 0)


def _unsent(summary: Summary) -> Summary:
    """Return the summary of a rehearsal, with all that it stored as left: nothing was sent."""
    files = summary.files
    return replace(
        summary,
        files=replace(files, stored=0, left=files.left + files.stored),
        bytes_stored=0,
        bytes_sent=0,
        zips=0,
        sessions=tuple(
            one
            if one.earlier or one.state not in {"archived", "prearchive"}
            else replace(one, state="open", uri=None, verified=None, as_of=None)
            for one in summary.sessions
        ),
    )
