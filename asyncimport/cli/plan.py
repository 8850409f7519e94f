"""`asyncimport plan`: what would go where, and every problem, before a byte is sent."""

import os
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
import anyio.to_thread
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
from asyncimport.cli.output import consoles, plain, show_error, show_stopped, write_json
from asyncimport.cli.running import Stopped, stopped_by
from asyncimport.cli.uploading import Display
from asyncimport.errors import AsyncimportError, UsageError
from asyncimport.operations.plan import Plan
from asyncimport.operations.rules import choice_from, choice_text, rules_from
from asyncimport.operations.scan import plan_of
from asyncimport.reporting.progress import human_bytes
from asyncimport.routing import Problem, ProblemCode, Severity, code_of
from asyncimport.routing.plan_file import PlanRow, split, write_plan
from asyncimport.source.folder import Folder
from asyncimport.system.output_files import advice, check_output, replacing

__all__ = ["plan", "plan_code", "plan_json", "show_plan"]

_SHOWN = 20
# Stands in a plan's studies for a project that the upload will name.
_NO_PROJECT = "PROJECT"
_LABELS_BY_SOURCE = Problem(
    ProblemCode.LABELS_BY_SOURCE,
    "labels depend on other studies, and only those of this source are known: journal and archive were not asked",
    "`upload --dry-run` asks them, and so does an upload by this plan",
)


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
    merge_patients: MergePatients = False,
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
    out, err = consoles(no_color=no_color)
    try:
        routes = rules_from(project, subject, session, path_pattern, table, no_project=_NO_PROJECT, encoding=encoding)
        if on_collision not in {"error", "suffix"}:
            raise UsageError(f"--on-collision {on_collision} cannot be", hint="give error or suffix")
        if parts > 1 and out_file is None:
            raise UsageError("--split needs a file to write to", hint="name it with --out")
        targets = _targets(out_file, parts) if out_file else []
        _check_targets(targets)
        make = partial(
            plan_of,
            Folder(
                sources,
                ignore_archives=ignore_archives,
                follow_links=follow_links,
                exclude=exclude or (),
            ),
            routes,
            state_dir,
            Display(err, lambda _: None, quiet=quiet),
            truncated=truncated == "send",
            merge_patients=merge_patients,
            suffix=on_collision == "suffix",
            choice=choice_from(modality, since, include, parts=partial_studies),
            limit=limit,
            quiet_time=0.0,
        )
        stopped = Stopped()
        found = anyio.run(_until_stopped, make, stopped)
        if found is None:
            raise typer.Exit(show_stopped(err, stopped.signal, as_json=output is Output.JSON))
        if not found.rows and not any(problem.code is ProblemCode.UNREADABLE for problem in found.problems):
            raise UsageError(f"no DICOM found in {', '.join(map(str, sources))}", hint="check the path")
        if routes.counts_studies or on_collision == "suffix":
            found = replace(found, problems=(*found.problems, _LABELS_BY_SOURCE))
        if partial_studies:
            carried = choice_text(modality, since, include)
            found = replace(found, rows=tuple(replace(row, choice=carried) for row in found.rows))
        is_open = not project and routes.project == _NO_PROJECT
        rows = [_without_project(row) for row in found.rows] if is_open else found.rows
        _write(targets, split(rows, parts) if parts > 1 else [list(rows)] if targets else [], force=force)
    except AsyncimportError as error:
        if output is Output.JSON:
            write_json({"exit_code": error.exit_code, "error": {"message": str(error), "hint": error.hint or None}})
        show_error(err, error)
        raise typer.Exit(error.exit_code) from None
    code = plan_code(found)
    if output is Output.JSON:
        write_json(plan_json(found, targets, code))
    else:
        show_plan(out, found)
        for path in targets:
            out.print(Text(f"written: {plain(str(path))}"))
    raise typer.Exit(code)


async def _until_stopped(make: Callable[..., Awaitable[Plan | None]], stopped: Stopped) -> Plan | None:
    with stopped_by(stopped) as stop:
        return await make(stop=stop)


def plan_code(found: Plan) -> int:
    """Return the exit code that a plan foretells: 2 with errors, 8 for files that are not sent."""
    return code_of(found.problems, is_whole=True, checks_first=False, archives_parts=True)


def _without_project(row: PlanRow) -> PlanRow:
    """Leave the project to the upload, as none was named."""
    return replace(row, project_id="")


def _targets(path: Path, parts: int) -> list[Path]:
    """Return the files that a plan, or its parts, are written to."""
    if parts == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, parts + 1)]


def _check_targets(targets: Sequence[Path]) -> None:
    """Refuse, before anything is scanned, places where no plan can be written. Raises: UsageError."""
    for target in targets:
        try:
            check_output(target)
        except OSError as error:
            raise _unwritable(target, error) from error


def _write(targets: Sequence[Path], parts: Sequence[Sequence[PlanRow]], *, force: bool) -> None:
    """Write a plan or its parts; all of them, or none where one would take the place of another plan.

    Raises: UsageError.
    """
    for target, content in (contents := [(one, _encoded(rows)) for one, rows in zip(targets, parts, strict=True)]):
        try:
            old = target.read_bytes() if target.is_file() and not force else content
        except OSError as error:
            raise _unwritable(target, error) from error
        if old.strip() and old != content:
            lost = len(set(old.splitlines()) - set(content.splitlines()))
            raise UsageError(
                f"--out {target} exists, and {lost:,} of its lines are not in this plan",
                hint="name another file, or --force to replace it with whatever was edited in it",
            )
    for target, content in contents:
        try:
            with replacing(target) as file:
                file.write(content)
        except OSError as error:
            raise _unwritable(target, error) from error


def _encoded(rows: Sequence[PlanRow]) -> bytes:
    return write_plan(rows).encode("utf-8-sig")


def _unwritable(target: Path, error: OSError) -> UsageError:
    hint = advice(error, "give a file in a directory that you may write to")
    return UsageError(f"--out {target} cannot be written: {error.strerror}", hint=hint)


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


def _show_problems(out: Console, problems: Sequence[Problem]) -> None:
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


def _files_of(problem: Problem) -> str:
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
