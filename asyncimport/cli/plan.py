"""`asyncimport plan`: show what would go where, and every problem, before anything is sent."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.text import Text

from asyncimport.cli.conclusion import conclude, outcome_json
from asyncimport.cli.options import Filters, ProgressScreen, Routing, Sources
from asyncimport.cli.parameters import command
from asyncimport.cli.rows import show_rows
from asyncimport.cli.running import run_operation
from asyncimport.cli.uploading import Display
from asyncimport.model.options import PlanOptions, ReadOptions, ScanOptions, StateOptions
from asyncimport.model.texts import plain
from asyncimport.operations.plan import Plan
from asyncimport.operations.result import Result
from asyncimport.operations.rules import choice_text, rules_from, study_filter_from
from asyncimport.reporting.progress import human_bytes
from asyncimport.routing.problems import PlanProblem, Severity

if TYPE_CHECKING:
    from asyncimport.operations.dry_run import DryRunResult
    from asyncimport.operations.planning import PlanResult

_SHOWN = 20
# The project of a plan whose upload will name the project.
_NO_PROJECT = "PROJECT"


@command()
def plan(
    sources: Sources,
    *,
    routing: Routing,
    options: PlanOptions,
    scan: ScanOptions,
    read: ReadOptions,
    filters: Filters,
    state: StateOptions,
    screen: ProgressScreen,
) -> None:
    """Scan, and say which session each study would become, with every problem. Nothing is sent."""
    from asyncimport.operations.planning import PlanRequest, PlanResult
    from asyncimport.operations.planning import plan as carry_out

    routes = rules_from(
        routing.project,
        routing.subject,
        routing.session,
        routing.path_pattern,
        routing.label_map,
        no_project=_NO_PROJECT,
        encoding=routing.encoding,
    )
    chosen = (filters.modality, filters.study_since, filters.include)
    request = PlanRequest(
        sources=sources,
        routes=routes,
        study_filter=study_filter_from(*chosen, parts=filters.partial_studies),
        carried=choice_text(*chosen) if filters.partial_studies else "",
        is_project_open=not routing.project and routes.project == _NO_PROJECT,
        **vars(options),
        **vars(scan),
        **vars(read),
        **vars(state),
    )
    report = Display(screen, lambda _: None)
    result = run_operation(partial(carry_out, request, report=report), empty=PlanResult())
    conclude_plan(screen, result, as_json=partial(_json, result))


def _json(result: "PlanResult", _: Result) -> dict[str, object]:
    head = outcome_json("plan", result, None)
    return head if result.plan is None else {**head, **plan_json(result.plan, result.written)}


def conclude_plan(
    screen: ProgressScreen,
    result: "PlanResult | DryRunResult",
    *,
    as_json: Callable[[Result], Mapping[str, object]],
) -> NoReturn:
    """Write a plan, and the files that it was written to, and exit."""
    written: Sequence[Path] = getattr(result, "written", ())

    def show(out: Console, _: Result) -> None:
        if result.plan is not None:
            show_plan(out, result.plan)
        for path in written:
            out.print(Text(f"written: {plain(str(path))}"))

    conclude(screen, result, as_json=as_json, show=show, if_stopped="")


def show_plan(out: Console, found: Plan) -> None:
    """Write the totals of a plan, and every problem with its code."""
    sent = [row for row in found.rows if not row.skip]
    size = sum(row.bytes or 0 for row in sent)
    files = sum(row.files or 0 for row in sent)
    subjects = {(row.project_id, row.subject_label.lower()) for row in sent}
    scans = sum(row.series or 0 for row in sent)
    title = f"{len(subjects):,} subjects, {len(sent):,} sessions, {scans:,} scans, {files:,} files, {human_bytes(size)}"
    out.print(Text(title, style="bold"))
    modalities = Counter(one for row in sent for one in row.modalities.split())
    if modalities:
        out.print(Text("modalities: " + ", ".join(f"{name} {count:,}" for name, count in modalities.most_common())))
    dates = sorted(row.study_date for row in sent if row.study_date)
    if dates:
        out.print(Text(f"study dates: {dates[0]} to {dates[-1]}"))
    out.print(Text(f"the server needs about {human_bytes(2 * size)}: prearchive and archive, while sessions move"))
    if found.not_dicom:
        kinds = ", ".join(f"{plain(suffix) or 'no suffix'} {count:,}" for suffix, count in found.not_dicom[:8])
        out.print(Text(f"not DICOM: {sum(count for _, count in found.not_dicom):,} files ({kinds})"))
    if found.attachments:
        counts = ", ".join(f"{count:,} into {label}" for label, count in found.attachments)
        out.print(Text(f"attachments: {counts}"))
    skipped = [row for row in found.rows if row.skip]
    if skipped:
        out.print(Text(f"{len(skipped):,} studies would not be sent", style="bold"))
    _show_problems(out, found.problems)


def _show_problems(out: Console, problems: Sequence[PlanProblem]) -> None:
    order = list(Severity)
    shown = sorted(problems, key=lambda one: order.index(one.severity))[:_SHOWN]
    rows = [
        (
            problem.severity,
            problem.code,
            f"{_where(problem)}{plain(problem.text)}{_files_of(problem)}; {problem.advice}",
        )
        for problem in shown
    ]
    show_rows(out, rows, styles=[{"error": "red", "warning": "yellow"}.get(one.severity, "") for one in shown])
    if len(problems) > _SHOWN:
        out.print(Text(f"and {len(problems) - _SHOWN:,} more: see -o json"))


def _where(problem: PlanProblem) -> str:
    return f"study {problem.study_uid}: " if problem.study_uid else ""


def _files_of(problem: PlanProblem) -> str:
    return f" ({problem.files:,} files, such as {plain(problem.example)})" if problem.example else ""


def plan_json(found: Plan, written: Sequence[Path]) -> dict[str, object]:
    """Return a plan as JSON, with the files it was written to."""
    sent = [row for row in found.rows if not row.skip]
    return {
        "sessions": len(sent),
        "subjects": len({(row.project_id, row.subject_label.lower()) for row in sent}),
        "files": sum(row.files or 0 for row in sent),
        "bytes": sum(row.bytes or 0 for row in sent),
        "written": [os.fspath(path) for path in written],
        "not_dicom": dict(found.not_dicom),
        "attachments": dict(found.attachments),
        "problems": [problem_json(one) for one in found.problems],
        "rows": [
            {
                "study_uid": row.study_uid,
                "project": row.project_id or None,
                "subject": row.subject_label or None,
                "session": row.session_label or None,
                "study_date": row.study_date,
                "modalities": row.modalities.split(),
                "series": row.series,
                "files": row.files,
                "bytes": row.bytes,
                "source": plain(row.source),
                "skip": row.skip,
                "problems": row.problems.split(),
            }
            for row in found.rows
        ],
    }


def problem_json(one: PlanProblem) -> dict[str, object]:
    """Return a problem of a plan as JSON."""
    return {
        **{name: getattr(one, name) for name in ("code", "severity", "text", "advice")},
        "study_uid": one.study_uid or None,
        "files": one.files,
        "example": plain(one.example),
    }
