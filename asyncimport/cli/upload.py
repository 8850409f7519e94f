"""`asyncimport upload`: the main job."""

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from asyncimport.cli.options import (
    CaBundle,
    Encoding,
    Exclude,
    Experiment,
    FollowLinks,
    HelpAll,
    Host,
    IgnoreArchives,
    Include,
    Insecure,
    JournalFile,
    Limit,
    Map,
    MergePatients,
    Modality,
    NoColor,
    OnCollision,
    Output,
    OutputOption,
    PartialStudies,
    PasswordStdin,
    PathPatternOption,
    Profile,
    Project,
    Quiet,
    Since,
    Sources,
    StateDir,
    Subject,
    Truncated,
    User,
    hidden,
    variable,
)
from asyncimport.cli.output import consoles, show_error, show_issues, show_stopped, summary_json, write_json
from asyncimport.cli.profiles import server_from
from asyncimport.errors import AsyncimportError, UsageError
from asyncimport.model.options import AUTO_CEILING, Options, bytes_of, seconds_of

if TYPE_CHECKING:
    from asyncimport.operations.upload_request import UploadRequest


def upload(
    sources: Sources,
    project: Project = None,
    host: Host = None,
    user: User = None,
    profile: Profile = None,
    password_stdin: PasswordStdin = False,
    subject: Subject = None,
    session: Experiment = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            "--plan",
            metavar="FILE",
            envvar=variable("--plan"),
            help="Do what this plan (a CSV of `asyncimport plan`) says, and nothing else.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", envvar=variable("--dry-run"), help="Scan, check server and project, send nothing."),
    ] = False,
    workers: Annotated[
        str,
        typer.Option("--workers", "-w", metavar="N|auto", envvar="ASYNCIMPORT_WORKERS", help="Uploads in flight."),
    ] = "auto",
    archive: Annotated[
        bool,
        typer.Option(
            "--archive/--no-archive",
            envvar="ASYNCIMPORT_ARCHIVE",
            help="Archive each session, or leave it built in the prearchive.",
        ),
    ] = True,
    retry: Annotated[
        str,
        typer.Option(
            "--retry",
            metavar="held,refused",
            envvar=variable("--retry"),
            help="Also take up what an earlier run held, or all that it saw refused.",
        ),
    ] = "",
    attach: Annotated[
        list[str] | None,
        typer.Option(
            "--attach",
            metavar="PATTERN=RESOURCE",
            envvar=variable("--attach"),
            hidden=True,
            help="Put other files beside a session's images into a resource: '*.pdf=REPORTS'; may be given again.",
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
    quiet: Quiet = False,
    subjects: Annotated[
        Path | None,
        hidden("--subjects", help="CSV with demographics of the subjects: subject_label, gender, dob, handedness ..."),
    ] = None,
    subjects_from_dicom: Annotated[
        str,
        hidden("--subjects-from-dicom", help="Fields of subjects to fill from headers: gender,yob."),
    ] = "",
    overwrite_demographics: Annotated[
        bool,
        hidden("--overwrite-demographics", help="Replace values that XNAT has of a subject; else they are kept."),
    ] = False,
    check_first: Annotated[
        bool,
        hidden("--check-first", help="Send nothing before the whole source is scanned and free of collisions."),
    ] = False,
    overwrite: Annotated[
        str, hidden("--overwrite", help="Passed to the archive step: none, append or delete.")
    ] = "none",
    max_open_sessions: Annotated[
        int, hidden("--max-open-sessions", help="Sessions that may occupy the server's prearchive at a time.")
    ] = 200,
    outage_timeout: Annotated[
        str, hidden("--outage-timeout", help="How long to wait for a server that is away: 90s, 15m, 8h.")
    ] = "1h",
    settle_seconds: Annotated[
        str,
        hidden(
            "--settle-time",
            help="How long to leave a session alone after an upload broke off, which may yet take effect.",
        ),
    ] = "30s",
    partial: Annotated[
        str,
        hidden(
            "--partial", help="hold or archive sessions that lack files which failed, were refused or cannot be read."
        ),
    ] = "hold",
    receipts: Annotated[
        Path | None,
        hidden("--receipts", help="Write a line of JSON to this file for each file, attachment and session."),
    ] = None,
    events: Annotated[
        Path | None,
        hidden("--events", help="Append a line of JSON to this file for each thing that happens."),
    ] = None,
    log_file: Annotated[
        Path | None,
        hidden("--log-file", help="Append a log to this file, without names of people unless --verbose is given."),
    ] = None,
    verbose: Annotated[
        bool, hidden("--verbose", "-v", help="Write the log to standard error too, with labels and paths.")
    ] = False,
    max_duration: Annotated[
        str | None, hidden("--max-duration", help="Stop well after this time, as Ctrl-C does: 90s, 15m, 8h.")
    ] = None,
    max_rate: Annotated[str | None, hidden("--max-rate", help="Bytes a second at most: 500kB, 20MB, 1.5GB.")] = None,
    timeout: Annotated[float, hidden("--timeout", help="Seconds to wait for an answer of the server.")] = 600.0,
    relabel: Annotated[bool, hidden("--relabel", help="Apply changed -S and -E to what is not archived yet.")] = False,
    adopt_rows: Annotated[
        bool,
        hidden("--adopt-rows", help="Fill sessions in the prearchive that an upload from another journal has begun."),
    ] = False,
    truncated: Truncated = "skip",
    ignore_archives: IgnoreArchives = False,
    follow_links: FollowLinks = False,
    allow_mixed_patients: MergePatients = False,
    path_pattern: PathPatternOption = None,
    table: Map = None,
    encoding: Encoding = "",
    on_collision: OnCollision = "error",
    include: Include = None,
    exclude: Exclude = None,
    modality: Modality = None,
    since: Since = None,
    partial_studies: PartialStudies = False,
    limit: Limit = None,
    resend_changed: Annotated[
        bool,
        hidden("--resend-changed", help="Send files again that were rewritten since; needs --overwrite append."),
    ] = False,
    trigger_pipelines: Annotated[
        bool | None,
        typer.Option(
            "--trigger-pipelines/--no-trigger-pipelines",
            envvar=variable("--trigger-pipelines"),
            hidden=True,
            help="Whether archiving starts the project's AutoRun pipelines; default: as XNAT is set up.",
        ),
    ] = None,
    event_reason: Annotated[
        str, hidden("--event-reason", help="Why, for sites with an audit trail that ask for it.")
    ] = "",
    watch: Annotated[
        str | None,
        hidden("--watch", help="Look for new studies again and again, with this pause: 60s, 5m; until stopped."),
    ] = None,
    min_age: Annotated[
        str | None,
        hidden("--min-age", help="Leave studies out of which a file changed within this time; 2m with --watch."),
    ] = None,
    state_dir: StateDir = None,
    journal: JournalFile = None,
    ca_bundle: CaBundle = None,
    insecure: Insecure = False,
    no_color: NoColor = False,
    _help_all: HelpAll = False,
) -> None:
    """Upload DICOM files into XNAT: scan, send, build, archive, verify. Run it again to resume.

    It sends the files as they are: it does not de-identify.
    """
    from asyncimport.cli.uploading import run_upload
    from asyncimport.demographics import header_keywords
    from asyncimport.operations.rules import plan_from, rules_from, study_filter_for, study_filter_from
    from asyncimport.operations.subjects import read_table
    from asyncimport.operations.upload_request import UploadRequest
    from asyncimport.pipeline.demographics import DemographicsRequest
    from asyncimport.routing import AttachRule
    from asyncimport.routing.planned_routes import PlannedRoutes
    from asyncimport.xnat.transport import Timeouts

    out, err = consoles(no_color=no_color)
    try:
        server = server_from(host, user, profile, ca_bundle, password_stdin=password_stdin, insecure=insecure)
        host = server.host
        if subject is not None and os.path.exists(subject):  # noqa: PTH110 - any text may stand here
            raise UsageError(f"--subject {subject} is the name of a file", hint="give a template such as {PatientID}")
        if truncated not in {"skip", "send"}:
            raise UsageError(f"--truncated {truncated} cannot be", hint="give skip or send")
        if partial not in {"hold", "archive"}:
            raise UsageError(f"--partial {partial} cannot be", hint="give hold or archive")
        if overwrite not in {"none", "append", "delete"}:
            raise UsageError(f"--overwrite {overwrite} cannot be", hint="give none, append or delete")
        if resend_changed and overwrite == "none":
            # XNAT keeps what it has, and answers the new file with a conflict.
            raise UsageError("--resend-changed replaces files in the archive", hint="add --overwrite append")
        if on_collision not in {"error", "suffix"}:
            raise UsageError(f"--on-collision {on_collision} cannot be", hint="give error or suffix")
        if plan is not None and (subject or session or path_pattern or table):
            raise UsageError("--plan says where studies go, and so do templates", hint="give one of them")
        rows = None if plan is None else plan_from(plan, project, encoding)
        routes = (
            PlannedRoutes(rows, project=project or "")
            if rows is not None
            else rules_from(project or None, subject, session, path_pattern, table, encoding=encoding)
        )
        study_filter = study_filter_from(modality, since, include, parts=partial_studies)
        if rows is not None:
            study_filter = study_filter_for(rows, study_filter)
        if limit is not None and limit < 1:
            raise UsageError(f"--max-sessions {limit} cannot be", hint="give the number of sessions of the pilot")
        rules = [AttachRule.parse(text) for text in attach or ()]
        said, issues = read_table(subjects, project or "", encoding) if subjects is not None else ([], [])
        wished = [name.strip() for name in subjects_from_dicom.split(",") if name.strip()]
        header_keywords(wished)  # which refuses what no header tells
        demographics = DemographicsRequest(said, wished, overwrite_demographics)
        wanted = {word for word in retry.split(",") if word}
        if unknown := wanted - {"held", "refused"}:
            raise UsageError(
                f"--retry {', '.join(sorted(unknown))} cannot be", hint="give held, refused, or both with a comma"
            )
        if not workers.isdigit() and workers != "auto":
            raise UsageError(f"--workers {workers} cannot be", hint="give a number, or auto")
        options = Options(
            workers=AUTO_CEILING if workers == "auto" else int(workers),
            adaptive=workers == "auto",
            max_rate=None if max_rate is None else bytes_of(max_rate, "--max-rate"),
            max_open_sessions=max_open_sessions,
            archive=archive,
            check_first=check_first,
            outage_timeout=seconds_of(outage_timeout, "--outage-timeout"),
            settle_seconds=seconds_of(settle_seconds, "--settle-time"),
            partial=partial == "archive",
            receipts=receipts is not None,
            resend_changed=resend_changed,
            retry_held="held" in wanted,
            retry_refused="refused" in wanted,
            send_truncated=truncated == "send",
        )
        pause = None if watch is None else seconds_of(watch, "--watch")
        if pause == 0:
            raise UsageError(f"--watch {watch} is no pause", hint="say how often to look, as in --watch 60s")
        quiet_for = seconds_of(min_age or ("0s" if watch is None else "2m"), "--min-age")
        longest = None if max_duration is None else seconds_of(max_duration, "--max-duration")
    except AsyncimportError as error:
        if output is Output.JSON:
            write_json(summary_json(None, run=None, host=host, seconds=0.0, code=error.exit_code, error=error))
        show_error(err, error)
        raise typer.Exit(error.exit_code) from None
    show_issues(err, issues)
    request = UploadRequest(
        server=server,
        sources=sources,
        project=project or "",
        routes=routes,
        suffix=on_collision == "suffix",
        exclude=exclude or (),
        study_filter=study_filter,
        limit=limit,
        trigger_pipelines=trigger_pipelines,
        event_reason=event_reason,
        attach=rules,
        demographics=demographics,
        issues=sum(not issue.is_warning for issue in issues),
        watch=pause,
        min_age=quiet_for,
        options=options,
        timeouts=Timeouts(reply=timeout),
        overwrite=overwrite,
        relabel=relabel,
        adopt_rows=adopt_rows,
        allow_mixed_patients=allow_mixed_patients,
        max_duration=longest,
        ignore_archives=ignore_archives,
        follow_links=follow_links,
        journal=journal,
        state_dir=state_dir,
        receipts=receipts,
    )
    if dry_run:
        raise typer.Exit(_dry_run(request, out, err, as_json=output is Output.JSON, quiet=quiet))
    code = run_upload(
        request,
        out,
        err,
        as_json=output is Output.JSON,
        quiet=quiet,
        events=events,
        log_file=log_file,
        verbose=verbose,
    )
    raise typer.Exit(code)


def _dry_run(request: "UploadRequest", out: Console, err: Console, *, as_json: bool, quiet: bool) -> int:
    from asyncimport.cli.plan import plan_json, show_plan
    from asyncimport.cli.running import run_operation
    from asyncimport.cli.uploading import Display
    from asyncimport.operations.dry_run import DryRunResult, dry_run

    display = Display(err, lambda _: None, quiet=quiet)
    result = run_operation(functools.partial(dry_run, request, report=display), empty=DryRunResult())
    error = result.error
    if error is not None:
        if as_json:
            message = {"message": str(error), "hint": error.hint or None}
            write_json({"exit_code": error.exit_code, "error": message})
        show_error(err, error)
    elif result.plan is None:
        return show_stopped(err, result.signal, as_json=as_json)
    elif as_json:
        write_json(plan_json(result.plan, [], result.exit_code))
    else:
        show_plan(out, result.plan)
    return result.exit_code
