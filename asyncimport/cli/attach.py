"""`asyncimport attach`: files other than images into resources of sessions, scans, subjects or projects."""

from pathlib import Path
from typing import Annotated

import typer
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
from asyncimport.cli.output import consoles, show_error, write_json
from asyncimport.cli.profiles import login_from
from asyncimport.errors import AsyncimportError, UsageError
from asyncimport.model import Place

__all__ = ["attach"]


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
    import anyio

    from asyncimport.cli.attaching import AttachResult, AttachTask, as_json, carry_out, gathered, given, show
    from asyncimport.routing.attachment_file import AttachRow
    from asyncimport.xnat.client import Credentials

    out, err = consoles(no_color=no_color)
    result = AttachResult()
    try:
        place = Place(project or "", subject or "", session or "", "", scan or "")
        said = AttachRow(0, "", place, resource or "", "", format_, content, tags)
        rows, result.flaws = given(files or [], said, table, whole_project=whole_project, encoding=encoding)
        result.enclosures = gathered(rows, result.flaws)
        if not result.enclosures:
            hint = next((one.hint for one in result.flaws if one.hint), "check the paths")
            raise UsageError("there is no file that can be attached", hint=hint)
        host, name, password = login_from(host, user, profile, password_stdin=password_stdin, insecure=insecure)
        login = Credentials(name, password)
        task = AttachTask(host, login, ca_bundle, not insecure, dry_run, replacing, zips, event_reason)
        anyio.run(carry_out, task, result, None if quiet else err)
    except AsyncimportError as error:
        result.error = error
    if output is Output.JSON:
        write_json(as_json(host, result, dry_run=dry_run))
    else:
        show(out, result, dry_run=dry_run)
    if result.error is not None:
        show_error(err, result.error)
    elif result.signal is not None:
        err.print(Text("stopped; the same command goes on from here"))
    raise typer.Exit(result.code)
