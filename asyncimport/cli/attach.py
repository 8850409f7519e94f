"""`asyncimport attach`: put files other than images into resources of sessions, scans, subjects or projects."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from asyncimport.cli.conclusion import conclude, outcome_json
from asyncimport.cli.options import Connection, ProgressScreen, TableOptions
from asyncimport.cli.output import issues_json, show_causes, show_issues, show_lines
from asyncimport.cli.parameters import command
from asyncimport.cli.profiles import server_from
from asyncimport.cli.running import progress_lines, run_operation
from asyncimport.errors import UsageError
from asyncimport.model.attachments import AttachmentResult, AttachmentState, Resource, ResourceOwner
from asyncimport.model.csv_table import TableIssue
from asyncimport.model.option import option, rare
from asyncimport.model.options import AttachOptions
from asyncimport.model.texts import counted, plain
from asyncimport.reporting.causes import cause_of, group_by_cause

if TYPE_CHECKING:
    from asyncimport.operations.attach import AttachResult

_STEP = 500


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where files go, and what XNAT shows of them."""

    session: str | None = option(
        "--session", "--experiment", "-E", metavar="LABEL", help="The session that they belong to."
    )
    scan: str | None = option("--scan", metavar="ID", help="A scan of that session.")
    subject: str | None = option("--subject", "-S", metavar="LABEL", help="The subject that they belong to.")
    to_project: bool = rare("--to-project", default=False, help="They belong to the project itself.")
    resource: str | None = option(
        "--resource", "-R", metavar="LABEL", help="The resource; it is made if it does not exist."
    )
    table: Path | None = option(
        "--table",
        metavar="FILE.csv",
        help="CSV: path, project_id, session_label or study_uid, resource, format, content, tags.",
    )
    format: str = rare("--format", default="", help="What XNAT shows as their format.")
    content: str = rare("--content", default="", help="What XNAT shows as their content.")
    tags: str = rare("--tags", default="", help="Tags of the resource, if it is made now.")


@command()
def attach(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE...", help="Files, or directories of files; else --table names them."),
    ] = None,
    *,
    target: Target,
    tables: TableOptions,
    options: AttachOptions,
    connection: Connection,
    screen: ProgressScreen,
) -> None:
    """Put PDF, CSV and other files into resources of the archive, and check that they arrived.

    Files that are there already, byte for byte, are not sent again. So the same command resumes after a stop.
    """
    from asyncimport.operations.attach import AttachRequest, AttachResult
    from asyncimport.operations.attach import attach as carry_out
    from asyncimport.routing.attachment_file import AttachRow
    from asyncimport.source.attachment_files import group_by_resource, read_attach_rows

    issues: list[TableIssue] = []
    host = connection.host
    try:
        place = ResourceOwner(
            connection.project or "", target.subject or "", target.session or "", "", target.scan or ""
        )
        given = AttachRow(0, "", place, target.resource or "", "", target.format, target.content, target.tags)
        rows, issues = read_attach_rows(
            files or [], given, target.table, whole_project=target.to_project, encoding=tables.encoding
        )
        batches = group_by_resource(rows, issues)
        server = server_from(connection)
    except UsageError as error:
        result = AttachResult(dry_run=options.dry_run, issues=issues, error=error)
    else:
        host = server.host
        request = AttachRequest(server=server, batches=batches, issues=issues, **vars(options))
        report = progress_lines(screen, "files", step=_STEP)
        operation = partial(carry_out, request, report=lambda one: report(len(one.results), one.total))
        result = run_operation(operation)
    conclude(screen, result, as_json=partial(_json, host=host), show=_show)


def _json(result: "AttachResult", *, host: str | None) -> dict[str, object]:
    return {
        **outcome_json("attach", result, host),
        "dry_run": result.dry_run,
        "attachments": result.counts(),
        "details": [_detail(resource, one) for resource, one in result.results],
        "flaws": issues_json(result.issues),
    }


def _detail(resource: Resource, result: AttachmentResult) -> dict[str, object]:
    place, file = resource.owner, result.attachment.file
    return {
        "path": plain(file.path),
        "project": place.project,
        "subject": place.subject or None,
        "session": place.session or None,
        "study_uid": place.study_uid or None,
        "scan": place.scan or None,
        "resource": resource.label,
        "name": result.attachment.name,
        "bytes": file.size,
        "state": result.state.value.lower(),
        "sent": result.sent,
        "md5": result.md5,
        "reason": result.reason,
    }


def _show(out: Console, result: "AttachResult") -> None:
    show_issues(out, result.issues)
    if not result.batches:
        return
    counts = result.counts()
    words = {
        "sent": counts["sent"],
        "there already": counts["stored"] - counts["sent"],
        "refused": counts["refused"],
        "failed": counts["failed"],
        "would be sent" if result.dry_run else "left": counts["left"],
    }
    listed = ", ".join(f"{count:,} {word}" for word, count in words.items() if count)
    out.print(Text(f"{counted(counts['total'], 'file')}: {listed}", style="bold"))
    pending = {
        resource: None for resource, one in result.results if one.reason and one.state is AttachmentState.PENDING
    }
    show_lines(out, [f"would be made: {plain(_where(resource))}" for resource in pending])
    lacking = [(resource, one) for resource, one in result.results if one.state is not AttachmentState.PENDING]
    show_causes(
        out,
        group_by_cause(
            cause_of(
                f"attachment {one.state.value.lower()}",
                one.reason,
                (1, "file"),
                f"{_where(resource)} / {one.attachment.name}",
                "",
            )
            for resource, one in lacking
            if one.reason
        ),
    )
    pairs = [(os.path.basename(one.attachment.file.path), one.attachment.name) for _, one in result.results]  # noqa: PTH119
    renamed = [(own, name) for own, name in pairs if name.rpartition("/")[2] != own]
    if renamed:
        example = f"{plain(renamed[0][0])} is {renamed[0][1]} there"
        out.print(Text(f"  renamed: {counted(len(renamed), 'name')}, because XNAT changes some characters: {example}"))


def _where(resource: Resource) -> str:
    place = resource.owner
    labels = [place.project, place.subject, place.session or place.study_uid, place.scan, resource.label]
    return " / ".join(label for label in labels if label)
