"""`asyncimport plan`: what would go where, and every problem, before a byte is sent."""

import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from asyncimport.cli.options import (
    Encoding,
    Exclude,
    Experiment,
    FollowLinks,
    HelpAll,
    IgnoreArchives,
    Include,
    Limit,
    Map,
    MergePatients,
    Modality,
    NoColor,
    OnCollision,
    Output,
    OutputOption,
    PartialStudies,
    PathPatternOption,
    Project,
    Quiet,
    Since,
    Sources,
    StateDir,
    Subject,
    Truncated,
)
from asyncimport.cli.output import consoles, show_error, show_stopped, write_json
from asyncimport.cli.running import run_operation
from asyncimport.cli.uploading import Display
from asyncimport.errors import AsyncimportError, UsageError
from asyncimport.model.texts import plain
from asyncimport.operations.plan import Plan
from asyncimport.operations.rules import choice_text, rules_from, study_filter_from
from asyncimport.reporting.progress import human_bytes
from asyncimport.routing import PlanProblem, Severity

_SHOWN = 20
# Stands in a plan's studies for a project that the upload will name.
_NO_PROJECT = "PROJECT"


def plan(
    sources: Sources,
    project: Project = None,
    subject: Subject = None,
    session: Experiment = None,
    path_pattern: PathPatternOption = None,
    table: Map = None,
    encoding: Encoding = "",
    out_file: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the plan as CSV, for upload --plan.")
    ] = None,
    parts: Annotated[
        int, typer.Option("--split", metavar="N", min=1, help="Write N plans of about equal size: FILE-1, FILE-2 ...")
    ] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace a plan that exists, edits and all.")] = False,
    on_collision: OnCollision = "error",
    allow_mixed_patients: MergePatients = False,
    truncated: Truncated = "skip",
    ignore_archives: IgnoreArchives = False,
    follow_links: FollowLinks = False,
    include: Include = None,
    exclude: Exclude = None,
    modality: Modality = None,
    since: Since = None,
    partial_studies: PartialStudies = False,
    limit: Limit = None,
    output: OutputOption = Output.TABLE,
    quiet: Quiet = False,
    state_dir: StateDir = None,
    no_color: NoColor = False,
    _help_all: HelpAll = False,
) -> None:
    """Scan, and say which session each study would become, with every problem. Nothing is sent."""
    from asyncimport.operations.planning import PlanRequest, PlanResult
    from asyncimport.operations.planning import plan as carry_out

    out, err = consoles(no_color=no_color)
    try:
        routes = rules_from(project, subject, session, path_pattern, table, no_project=_NO_PROJECT, encoding=encoding)
        if on_collision not in {"error", "suffix"}:
            raise UsageError(f"--on-collision {on_collision} cannot be", hint="give error or suffix")
        request = PlanRequest(
            sources=sources,
            routes=routes,
            out_file=out_file,
            parts=parts,
            force=force,
            suffix=on_collision == "suffix",
            allow_mixed_patients=allow_mixed_patients,
            send_truncated=truncated == "send",
            ignore_archives=ignore_archives,
            follow_links=follow_links,
            exclude=exclude or (),
            study_filter=study_filter_from(modality, since, include, parts=partial_studies),
            carried=choice_text(modality, since, include) if partial_studies else "",
            limit=limit,
            is_project_open=not project and routes.project == _NO_PROJECT,
            state_dir=state_dir,
        )
        operation = partial(carry_out, request, report=Display(err, lambda _: None, quiet=quiet))
        result = run_operation(operation, empty=PlanResult()).raise_for_error()
    except AsyncimportError as error:
        if output is Output.JSON:
            write_json({"exit_code": error.exit_code, "error": {"message": str(error), "hint": error.hint or None}})
        show_error(err, error)
        raise typer.Exit(error.exit_code) from None
    if result.plan is None:
        raise typer.Exit(show_stopped(err, result.signal, as_json=output is Output.JSON))
    if output is Output.JSON:
        write_json(plan_json(result.plan, result.written, result.exit_code))
    else:
        show_plan(out, result.plan)
        for path in result.written:
            out.print(Text(f"written: {plain(str(path))}"))
    raise typer.Exit(result.exit_code)


def show_plan(out: Console, found: Plan) -> None:
    """Write what a plan comes to, and every problem by its code."""
    sent = [row for row in found.rows if not row.skip]
    size = sum(row.bytes or 0 for row in sent)
    files = sum(row.files or 0 for row in sent)
    subjects = {(row.project_id, row.subject_label.lower()) for row in sent}
    out.print(
        Text(
            f"{len(subjects):,} subjects, {len(sent):,} sessions, {sum(row.series or 0 for row in sent):,} scans, "
            f"{files:,} files, {human_bytes(size)}",
            style="bold",
        )
    )
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
        out.print(Text(f"beside the images: {counts}"))
    skipped = [row for row in found.rows if row.skip]
    if skipped:
        out.print(Text(f"{len(skipped):,} studies would not be sent", style="bold"))
    _show_problems(out, found.problems)


def _show_problems(out: Console, problems: Sequence[PlanProblem]) -> None:
    order = list(Severity)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for problem in sorted(problems, key=lambda one: order.index(one.severity))[:_SHOWN]:
        where = f"study {problem.study_uid}: " if problem.study_uid else ""
        table.add_row(
            Text(problem.severity, style={"error": "red", "warning": "yellow"}.get(problem.severity, "")),
            Text(problem.code),
            Text(f"{where}{plain(problem.text)}{_files_of(problem)}; {problem.advice}"),
        )
    if problems:
        out.print(table)
    if len(problems) > _SHOWN:
        out.print(Text(f"and {len(problems) - _SHOWN:,} more: see -o json"))


def _files_of(problem: PlanProblem) -> str:
    return f" ({problem.files:,} files, such as {plain(problem.example)})" if problem.example else ""


def plan_json(found: Plan, written: Sequence[Path], code: int) -> dict[str, object]:
    """Return a plan as JSON, with the files it was written to."""
    sent = [row for row in found.rows if not row.skip]
    return {
        "exit_code": code,
        "sessions": len(sent),
        "subjects": len({(row.project_id, row.subject_label.lower()) for row in sent}),
        "files": sum(row.files or 0 for row in sent),
        "bytes": sum(row.bytes or 0 for row in sent),
        "written": [os.fspath(path) for path in written],
        "not_dicom": dict(found.not_dicom),
        "attachments": dict(found.attachments),
        "problems": [
            {
                "code": problem.code,
                "severity": problem.severity,
                "text": problem.text,
                "advice": problem.advice,
                "study_uid": problem.study_uid or None,
                "files": problem.files,
                "example": plain(problem.example),
            }
            for problem in found.problems
        ],
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
