"""Scan a source, and say which session each study would become, with every problem. Nothing is sent."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import anyio.to_thread

from asyncimport.errors import UsageError
from asyncimport.model.options import PlanOptions, ReadOptions, ScanOptions, StateOptions
from asyncimport.operations.observer import Observer
from asyncimport.operations.plan import Plan
from asyncimport.operations.plan_draft import PlanRules
from asyncimport.operations.result import Result, ended_in
from asyncimport.operations.scan import scan_and_plan
from asyncimport.pacing.shutdown import Stop
from asyncimport.routing.filters import EVERYTHING, StudyFilter
from asyncimport.routing.plan_file import PlanRow, split, write_plan
from asyncimport.routing.problems import PlanProblem, ProblemCode, exit_code_of
from asyncimport.routing.router import Router
from asyncimport.source.folder import FileSource
from asyncimport.system.output_files import check_output, output_errors, replacing

_LABELS_BY_SOURCE = PlanProblem(
    ProblemCode.LABELS_BY_SOURCE,
    "labels depend on other studies, and only those of this source are known: journal and archive were not asked",
    "run `upload --dry-run`, which asks them; so does an upload by this plan",
)


@dataclass(frozen=True, kw_only=True)
class PlanRequest(PlanOptions, ScanOptions, ReadOptions, StateOptions):
    """What to scan, the rules by which studies become sessions, and where to write the plan.

    `carried` are the filters by which parts of studies are chosen, as the rows of the plan carry them.
    `is_project_open`: the upload will name the project.
    """

    sources: Sequence[Path]
    routes: Router
    study_filter: StudyFilter = EVERYTHING
    carried: str = ""
    is_project_open: bool = False


@dataclass(slots=True, kw_only=True)
class PlanResult(Result):
    """The plan, None if it was stopped, and the files that it was written to."""

    plan: Plan | None = None
    written: Sequence[Path] = ()

    @property
    def findings_code(self) -> int:
        """Return 2 with errors, 8 for files that are not sent."""
        if self.plan is None:
            return 0
        return exit_code_of(self.plan.problems, is_whole=True, checks_first=False, archives_parts=True)


async def plan(request: PlanRequest, *, report: Observer | None = None, stop: Stop | None = None) -> PlanResult:
    """Scan, route whole studies, compare them with each other, and write the plan."""
    stop = stop or Stop()
    result = PlanResult()
    with ended_in(result, stop):
        if request.parts > 1 and request.out_file is None:
            raise UsageError("--split needs a file to write to", hint="name it with --out")
        targets = _targets(request.out_file, request.parts) if request.out_file else []
        await anyio.to_thread.run_sync(_check_targets, targets)
        source = await anyio.to_thread.run_sync(_source, request)
        rules = PlanRules(
            routes=request.routes,
            study_filter=request.study_filter,
            suffix=request.suffix,
            limit=request.max_sessions,
            allow_mixed_patients=request.allow_mixed_patients,
            send_truncated=request.send_truncated,
        )
        found = await scan_and_plan(source, rules, request.state_dir, report or Observer(), stop=stop)
        if found is not None:
            found = _completed(request, found)
            rows = [replace(row, project_id="") if request.is_project_open else row for row in found.rows]
            parts = split(rows, request.parts) if request.parts > 1 else [rows] if targets else []
            await anyio.to_thread.run_sync(lambda: _write(targets, parts, force=request.force))
            result.plan, result.written = found, targets
    return result


def _source(request: PlanRequest) -> FileSource:
    return FileSource(
        request.sources,
        ignore_archives=request.ignore_archives,
        follow_links=request.follow_links,
        exclude=request.exclude,
    )


def _completed(request: PlanRequest, found: Plan) -> Plan:
    """Add what concerns the whole plan. Raises: UsageError if there is no DICOM."""
    if not found.rows and not any(problem.code is ProblemCode.UNREADABLE for problem in found.problems):
        raise UsageError(f"no DICOM found in {', '.join(map(str, request.sources))}", hint="check the path")
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


def _check_targets(targets: Sequence[Path]) -> None:
    """Check, before the scan, that plans can be written there. Raises: UsageError."""
    for target in targets:
        with output_errors("--out", target):
            check_output(target)


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
