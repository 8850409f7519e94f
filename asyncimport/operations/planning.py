"""Scan a source, and say which session each study would become, with every problem. Nothing is sent.

An upload makes its plan here too, before anything is sent.
"""

import hashlib
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from asyncimport.errors import UsageError
from asyncimport.journal import HeaderCache, LockWait, SubjectPatient
from asyncimport.model.options import ClusterOptions, PlanOptions, ReadOptions, ScanOptions, StateOptions
from asyncimport.model.ports import Source
from asyncimport.operations.cluster import check_cluster, open_any_source
from asyncimport.operations.journals import state_directory
from asyncimport.operations.plan import Plan, make_plan, unmatched_filter
from asyncimport.operations.plan_draft import PlanRules, draft_plan, scan_headers
from asyncimport.operations.result import Observer, Result, captured_in
from asyncimport.operations.server import ProjectIds
from asyncimport.pacing.shutdown import LOCK_SECONDS, Stop, StoppedError
from asyncimport.reporting.progress import Totals
from asyncimport.routing.accepted_patients import NOBODY, AcceptedPatients
from asyncimport.routing.attachments import AttachRule, resource_of
from asyncimport.routing.existing_sessions import NO_SESSIONS, ExistingSessions
from asyncimport.routing.filters import EVERYTHING, StudyFilter
from asyncimport.routing.plan_file import PlanRow, split, write_plan
from asyncimport.routing.problems import PlanProblem, ProblemCode, plan_exit_code
from asyncimport.routing.router import Router
from asyncimport.source.folder import FileSource
from asyncimport.system.output_files import check_option, output_errors, replacing
from asyncimport.system.threads import opened_in_thread

_LABELS_BY_SOURCE = PlanProblem(
    ProblemCode.LABELS_BY_SOURCE,
    "labels depend on other studies, and only those of this source are known: journal and archive were not asked",
    "run `upload --dry-run`, which asks them; so does an upload by this plan",
)


@dataclass(frozen=True, kw_only=True)
class PlanRequest(PlanOptions, ScanOptions, ReadOptions, StateOptions, ClusterOptions):
    """What to scan, the rules by which studies become sessions, and where to write the plan.

    `carried` are the filters by which parts of studies are chosen, as the rows of the plan carry them.
    `accepted` are pairs of people that are one. `is_project_open`: the upload will name the project.
    `allow_plain_tcp`: connections of Dask to other machines need not be encrypted.
    """

    sources: Sequence[Path]
    routes: Router
    study_filter: StudyFilter = EVERYTHING
    carried: str = ""
    accepted: AcceptedPatients = NOBODY
    is_project_open: bool = False
    allow_plain_tcp: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that cannot work. Raises: UsageError."""
        PlanOptions.__post_init__(self)
        ScanOptions.__post_init__(self)
        check_cluster(self)


@dataclass(slots=True, kw_only=True)
class PlanResult(Result):
    """The plan, None if it was stopped, and the files that it was written to."""

    plan: Plan | None = None
    written: Sequence[Path] = ()

    @property
    def findings_code(self) -> int:
        """Return 2 with errors, 8 for files that are not sent."""
        return 0 if self.plan is None else plan_exit_code(self.plan.problems)


async def plan(request: PlanRequest, *, report: Observer | None = None, stop: Stop | None = None) -> PlanResult:
    """Scan, route whole studies, compare them with each other, and write the plan."""
    stop = stop or Stop()
    result = PlanResult()
    with captured_in(result, stop):
        if request.parts > 1 and request.out_file is None:
            raise UsageError("--split needs a file to write to", hint="name it with --out")
        targets = _targets(request.out_file, request.parts) if request.out_file else []
        for target in targets:
            await anyio.to_thread.run_sync(check_option, "--out", target)
        rules = PlanRules(
            routes=request.routes,
            study_filter=request.study_filter,
            suffix=request.suffix,
            limit=request.max_sessions,
            allow_mixed_patients=request.allow_mixed_patients,
            accepted=request.accepted,
            send_truncated=request.send_truncated,
        )
        observer, found = report or Observer(), None
        with suppress(StoppedError):
            here = partial(
                FileSource,
                request.sources,
                ignore_archives=request.ignore_archives,
                follow_links=request.follow_links,
                exclude=request.exclude,
            )
            opened = open_any_source(request, here, observer.note, insecure=request.allow_plain_tcp, stop=stop)
            async with opened as source:
                found = await scan_and_plan(source, rules, request.state_dir, observer, stop=stop)
        if found is not None:
            found = _completed(request, found)
            rows = [replace(row, project_id="") if request.is_project_open else row for row in found.rows]
            parts = split(rows, request.parts) if request.parts > 1 else [rows] if targets else []
            await anyio.to_thread.run_sync(lambda: _write(targets, parts, force=request.force))
            result.plan, result.written = found, targets
    return result


def _completed(request: PlanRequest, found: Plan) -> Plan:
    """Add what concerns the whole plan. Raises: UsageError if there is no DICOM, or a filter selects none."""
    if not found.rows and not any(problem.code is ProblemCode.UNREADABLE for problem in found.problems):
        hint = "check the path, and --exclude" if request.exclude else "check the path"
        raise UsageError(f"no DICOM found in {', '.join(map(str, request.sources))}", hint=hint)
    if not request.study_filter.is_everything and found.selects_nothing:
        raise unmatched_filter(request.study_filter, found.rows)
    if request.routes.counts_studies or request.suffix:
        found = found.with_problems([_LABELS_BY_SOURCE])
    if request.carried:
        found = replace(found, rows=tuple(replace(row, choice=request.carried) for row in found.rows))
    return found


def _targets(path: Path, parts: int) -> list[Path]:
    """Return the files that a plan, or its parts, are written to."""
    if parts == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, parts + 1)]


def _write(targets: Sequence[Path], parts: Sequence[Sequence[PlanRow]], *, force: bool) -> None:
    """Write a plan or its parts: all of them, or none if one would replace another plan. Raises: UsageError."""
    contents = [(target, write_plan(rows).encode("utf-8-sig")) for target, rows in zip(targets, parts, strict=True)]
    for target, content in contents:
        with output_errors("--out", target):
            old = target.read_bytes() if target.is_file() and not force else content
        if old.strip() and old != content:
            lost = len(set(old.splitlines()) - set(content.splitlines()))
            raise UsageError(
                f"--out {target} exists, and {lost:,} of its lines are not in this plan",
                hint="name another file, or --force to replace it with whatever was edited in it",
            )
    for target, content in contents:
        with output_errors("--out", target), replacing(target) as file:
            file.write(content)


async def _no_ids(_: Sequence[str]) -> ProjectIds:
    return {}


async def _no_sessions(_: Mapping[str, str]) -> ExistingSessions:
    return NO_SESSIONS


async def scan_and_plan(
    source: Source,
    rules: PlanRules,
    state_dir: Path | None,
    observer: Observer,
    *,
    stop: Stop,
    attach: Sequence[AttachRule] = (),
    known_patients: Iterable[SubjectPatient] = (),
    find_projects: Callable[[Sequence[str]], Awaitable[ProjectIds]] = _no_ids,
    find_sessions: Callable[[Mapping[str, str]], Awaitable[ExistingSessions]] = _no_sessions,
) -> Plan | None:
    """Scan a source into the header cache and make a plan; None if it was stopped.

    `find_sessions` gets the IDs of the open projects by name. `known_patients` are those that the journal has.
    """
    lock_wait = LockWait(report=observer.tell, deadline=partial(stop.wait_deadline, LOCK_SECONDS))
    # While another program has locked the cache, a stop ends the wait.
    with suppress(StoppedError):
        async with opened_in_thread(partial(HeaderCache, header_cache_path(source, state_dir), lock_wait)) as cache:
            totals = Totals()
            with stop.immediate_scope():
                async with observer.progress(totals):
                    await scan_headers(source, cache, totals.note)
            if stop.requested:
                return None
            min_age = rules.min_age
            recent = await anyio.to_thread.run_sync(cache.recent_studies, time.time(), min_age) if min_age else None
            draft_by = partial(draft_plan, cache, rules, relative=source.relative)
            draft = await anyio.to_thread.run_sync(draft_by)
            ids = await find_projects(draft.projects)
            named = {name: ids.get(name, name) for name in draft.projects}
            sessions = await find_sessions({name: one for name, one in named.items() if isinstance(one, str)})
            if rules.routes.needs_whole_study and sessions != NO_SESSIONS:
                draft = await anyio.to_thread.run_sync(partial(draft_by, sessions=sessions))
            make = partial(
                make_plan,
                cache,
                draft,
                rules,
                project_ids=ids,
                sessions=sessions,
                known_patients=known_patients,
                recent=recent,
                resource_of=lambda path: resource_of(attach, source.relative(path).replace(os.sep, "/")),
            )
            return await anyio.to_thread.run_sync(make)
    return None


def header_cache_path(source: Source, state_dir: Path | None) -> Path:
    """Return the header cache of a source."""
    digest = hashlib.sha256("\n".join(source.places).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    # The former name of a header cache: another one would leave the files of earlier versions behind.
    return state_directory(state_dir) / f"scan-{digest}.survey"
