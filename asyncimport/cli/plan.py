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
from asyncimport.cli.options import Filters, ProgressScreen, Routing, Sources, Trust
from asyncimport.cli.output import show_causes
from asyncimport.cli.parameters import command
from asyncimport.cli.running import run_operation
from asyncimport.cli.uploading import Display
from asyncimport.model.options import ClusterOptions, PlanOptions, ReadOptions, ScanOptions, StateOptions
from asyncimport.model.texts import counted, plain
from asyncimport.operations.plan import Plan
from asyncimport.operations.result import Result
from asyncimport.operations.rules import accepted_from, choice_text, rules_from, study_filter_from
from asyncimport.reporting.causes import plan_causes
from asyncimport.reporting.progress import human_bytes
from asyncimport.routing.problems import PlanProblem

if TYPE_CHECKING:
    from asyncimport.operations.dry_run import DryRunResult
    from asyncimport.operations.planning import PlanResult

# Kinds of files that are not DICOM.
_KINDS = 8
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
    cluster: ClusterOptions,
    trust: Trust,
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
        accepted=accepted_from(routing.accept_patients, routing.encoding),
        is_project_open=not routing.project and routes.project == _NO_PROJECT,
        **vars(options),
        **vars(scan),
        **vars(read),
        allow_plain_tcp=trust.insecure,
        **vars(state),
        **vars(cluster),
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
    numbers = {"subject": len(subjects), "session": len(sent), "scan": scans, "file": files}
    title = ", ".join([*(counted(number, noun) for noun, number in numbers.items()), human_bytes(size)])
    out.print(Text(title, style="bold"))
    if skipped := sum(row.skip for row in found.rows):
        out.print(Text(f"{counted(skipped, 'study')} would not be sent", style="bold"))
    if found.unsent:
        total = counted(sum(found.unsent.values()), "file")
        kinds = ", ".join(f"{number:,} {why}" for why, number in found.unsent.items())
        out.print(Text(f"{total} will not go: {kinds}", style="bold"))
    modalities = Counter(one for row in sent for one in row.modalities.split())
    if modalities:
        out.print(Text("modalities: " + ", ".join(f"{name} {count:,}" for name, count in modalities.most_common())))
    dates = sorted(row.study_date for row in sent if row.study_date)
    if dates:
        out.print(Text(f"study dates: {dates[0]} to {dates[-1]}"))
    out.print(Text(f"the server needs about {human_bytes(2 * size)}: prearchive and archive, while sessions move"))
    if found.not_dicom:
        first, more = found.not_dicom[:_KINDS], sum(count for _, count in found.not_dicom[_KINDS:])
        kinds = ", ".join(f"{plain(suffix) or 'no suffix'} {count:,}" for suffix, count in first)
        kinds += f", others {more:,}" if more else ""
        out.print(Text(f"not DICOM: {counted(sum(count for _, count in found.not_dicom), 'file')} ({kinds})"))
    if found.attachments:
        counts = ", ".join(f"{count:,} into {label}" for label, count in found.attachments)
        out.print(Text(f"attachments: {counts}"))
    show_causes(out, plan_causes(found.problems))


def plan_json(found: Plan, written: Sequence[Path]) -> dict[str, object]:
    """Return a plan as JSON, with the files it was written to."""
    sent = [row for row in found.rows if not row.skip]
    return {
        "sessions": len(sent),
        "subjects": len({(row.project_id, row.subject_label.lower()) for row in sent}),
        "files": sum(row.files or 0 for row in sent),
        "bytes": sum(row.bytes or 0 for row in sent),
        "written": [os.fspath(path) for path in written],
        "unsent": dict(found.unsent),
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
        "other_study": one.other_study or None,
    }
