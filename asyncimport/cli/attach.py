"""`asyncimport attach`: files other than images into resources of sessions, scans, subjects or projects.

With `-o json` one object stands on standard output, also after failures:

    {"host": "...", "exit_code": 0, "error": null, "dry_run": false,
     "attachments": {"total": 0, "stored": 0, "sent": 0, "refused": 0, "failed": 0, "left": 0},
     "details": [{"path": "a.pdf", "project": "P", "subject": null, "session": "E", "study_uid": null, "scan": null,
                  "resource": "REPORTS", "name": "a.pdf", "bytes": 1, "state": "stored", "sent": true, "md5": "...",
                  "reason": null}],
     "flaws": [{"line": 3, "column": "path", "problem": "...", "hint": "...", "warning": false}]}

`stored` are those that the archive was seen to hold in the end, `sent` those of them that were not there before.
"""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from asyncimport.cli.options import (
    CaBundle,
    Encoding,
    Host,
    Insecure,
    NoColor,
    Output,
    OutputOption,
    PasswordStdin,
    Profile,
    Project,
    Quiet,
    User,
    hidden,
    variable,
)
from asyncimport.cli.output import consoles, issues_json, show_issues
from asyncimport.cli.profiles import server_from
from asyncimport.cli.running import conclude, counted, run_operation
from asyncimport.errors import UsageError
from asyncimport.model import AttachmentResult, AttachmentState, Resource, ResourceOwner
from asyncimport.model.csv_table import TableIssue
from asyncimport.model.texts import plain

if TYPE_CHECKING:
    from asyncimport.operations.attach import AttachResult

_SHOWN = 20
_STEP = 500


def attach(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE...", help="Files, or directories of files; else --table names them."),
    ] = None,
    project: Project = None,
    session: Annotated[
        str | None,
        typer.Option("--session", "--experiment", "-E", metavar="LABEL", help="The session that they belong to."),
    ] = None,
    scan: Annotated[str | None, typer.Option("--scan", metavar="ID", help="A scan of that session.")] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", "-S", metavar="LABEL", help="The subject that they belong to.")
    ] = None,
    whole_project: Annotated[bool, hidden("--to-project", help="They belong to the project itself.")] = False,
    resource: Annotated[
        str | None, typer.Option("--resource", "-R", metavar="LABEL", help="The resource; it is made if need be.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table",
            metavar="FILE.csv",
            help="CSV: path, project_id, session_label or study_uid, resource, format, content, tags.",
        ),
    ] = None,
    encoding: Encoding = "",
    replacing: Annotated[
        bool, typer.Option("--replace", help="Put files in the place of others of the same name.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", envvar=variable("--dry-run"), help="Compare with the archive, and send nothing."),
    ] = False,
    format_: Annotated[str, hidden("--format", help="What XNAT shows as their format.")] = "",
    content: Annotated[str, hidden("--content", help="What XNAT shows as their content.")] = "",
    tags: Annotated[str, hidden("--tags", help="Tags of the resource, if it is made now.")] = "",
    zips: Annotated[
        bool,
        typer.Option(
            "--zip/--no-zip", hidden=True, envvar=variable("--zip"), help="Send small files several in one request."
        ),
    ] = True,
    event_reason: Annotated[
        str, hidden("--event-reason", help="Why, for sites with an audit trail that ask for it.")
    ] = "",
    host: Host = None,
    user: User = None,
    profile: Profile = None,
    password_stdin: PasswordStdin = False,
    output: OutputOption = Output.TABLE,
    quiet: Quiet = False,
    ca_bundle: CaBundle = None,
    insecure: Insecure = False,
    no_color: NoColor = False,
) -> None:
    """Put PDF, CSV and other files into resources of the archive, and check that they arrived.

    What is there already, byte for byte, is not sent again; so the same command goes on where it was stopped.
    """
    from asyncimport.operations.attach import AttachRequest, AttachResult
    from asyncimport.operations.attach import attach as carry_out
    from asyncimport.routing.attachment_file import AttachRow
    from asyncimport.source.attachment_files import group_by_resource, read_attach_rows

    out, err = consoles(no_color=no_color)
    issues: list[TableIssue] = []
    try:
        place = ResourceOwner(project or "", subject or "", session or "", "", scan or "")
        said = AttachRow(0, "", place, resource or "", "", format_, content, tags)
        rows, issues = read_attach_rows(files or [], said, table, whole_project=whole_project, encoding=encoding)
        batches = group_by_resource(rows, issues)
        server = server_from(host, user, profile, ca_bundle, password_stdin=password_stdin, insecure=insecure)
    except UsageError as error:
        result = AttachResult(dry_run=dry_run, issues=issues, error=error)
    else:
        host = server.host
        request = AttachRequest(
            server=server,
            batches=batches,
            issues=issues,
            replace=replacing,
            zips=zips,
            event_reason=event_reason,
            dry_run=dry_run,
        )
        count = counted(err, "files", step=_STEP, quiet=quiet)
        operation = partial(carry_out, request, report=lambda one: count(len(one.filed), one.total))
        result = run_operation(operation)
    conclude(out, err, result, host=host, output=output, as_json=_json, show=_show)


def _json(result: "AttachResult") -> dict[str, object]:
    return {
        "dry_run": result.dry_run,
        "attachments": result.counts(),
        "details": [_detail(resource, one) for resource, one in result.filed],
        "flaws": issues_json(result.issues),
    }


def _detail(resource: Resource, filed: AttachmentResult) -> dict[str, object]:
    place, file = resource.owner, filed.attachment.file
    return {
        "path": plain(file.path),
        "project": place.project,
        "subject": place.subject or None,
        "session": place.session or None,
        "study_uid": place.study_uid or None,
        "scan": place.scan or None,
        "resource": resource.label,
        "name": filed.attachment.name,
        "bytes": file.size,
        "state": filed.state.value.lower(),
        "sent": filed.sent,
        "md5": filed.md5,
        "reason": filed.reason,
    }


def _show(out: Console, result: "AttachResult") -> None:
    show_issues(out, result.issues)
    if not result.batches:
        return
    counts = result.counts()
    there = counts["stored"] - counts["sent"]
    words = {"sent": counts["sent"], "there already": there, "refused": counts["refused"], "failed": counts["failed"]}
    words["would be sent" if result.dry_run else "left"] = counts["left"]
    told = ", ".join(f"{count:,} {word}" for word, count in words.items() if count)
    out.print(Text(f"{counts['total']:,} files: {told}", style="bold"))
    pending = {resource: None for resource, one in result.filed if one.reason and one.state is AttachmentState.PENDING}
    lines = [f"would be made: {plain(_where(resource))}" for resource in pending]
    lines += [
        f"{one.state.value.lower()}: {plain(f'{_where(resource)} / {one.attachment.name}')}: {plain(one.reason)}"
        for resource, one in result.filed
        if one.reason and one.state is not AttachmentState.PENDING
    ]
    for line in lines[:_SHOWN]:
        out.print(Text(f"  {line}"))
    if len(lines) > _SHOWN:
        out.print(Text(f"  and {len(lines) - _SHOWN:,} more: see -o json"))
    pairs = [(os.path.basename(one.attachment.file.path), one.attachment.name) for _, one in result.filed]  # noqa: PTH119
    renamed = [(own, name) for own, name in pairs if name.rpartition("/")[2] != own]
    if renamed:
        names = f"{plain(renamed[0][0])} is {renamed[0][1]} there"
        out.print(Text(f"  renamed: {len(renamed):,} names, as XNAT changes some characters of them: {names}"))


def _where(resource: Resource) -> str:
    place = resource.owner
    labels = [place.project, place.subject, place.session or place.study_uid, place.scan, resource.label]
    return " / ".join(label for label in labels if label)
