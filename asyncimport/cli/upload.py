"""`asyncimport upload`: the main job."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, NoReturn

from asyncimport.cli.options import Connection, Filters, LogOptions, ProgressScreen, Routing, Sources
from asyncimport.cli.output import show_issues, summary_json
from asyncimport.cli.parameters import command
from asyncimport.cli.profiles import server_from
from asyncimport.errors import UsageError
from asyncimport.model.option import DURATION, invalid, rare, setting
from asyncimport.model.options import (
    REPLY_SECONDS,
    ClusterOptions,
    DemographicsOptions,
    JournalOptions,
    Options,
    ScanOptions,
    UploadOptions,
)

if TYPE_CHECKING:
    from asyncimport.demographics.table import Demographics
    from asyncimport.model.csv_table import TableIssue
    from asyncimport.operations.result import Result
    from asyncimport.operations.upload_request import UploadRequest


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to do besides sending images, or in place of it."""

    plan: Path | None = setting(
        "--plan", metavar="FILE", help="Do what this plan (a CSV of `asyncimport plan`) says, and nothing else."
    )
    dry_run: bool = setting("--dry-run", default=False, help="Scan, check server and project, send nothing.")
    attach: Sequence[str] = rare(
        "--attach",
        default=(),
        metavar="PATTERN=RESOURCE",
        help="Put other files beside a session's images into a resource: '*.pdf=REPORTS'; may be given again.",
    )
    subjects: Path | None = rare(
        "--subjects", help="CSV with demographics of the subjects: subject_label, gender, dob, handedness ..."
    )
    subjects_from_dicom: str = rare(
        "--subjects-from-dicom", default="", help="Fields of subjects to fill from headers: gender,yob."
    )
    timeout: float = rare(
        "--timeout", default=REPLY_SECONDS, form=DURATION, help="How long to wait for an answer of the server: 90s."
    )

    def __post_init__(self) -> None:
        """Refuse a wait of no time, and a list of no fields. Raises: UsageError."""
        if self.timeout <= 0:
            raise invalid("--timeout", DURATION.write(self.timeout), "a duration above 0, such as 90s or 15m")
        if self.subjects_from_dicom and not self.header_fields:
            raise invalid("--subjects-from-dicom", self.subjects_from_dicom, "fields such as gender,yob")

    @property
    def header_fields(self) -> list[str]:
        """The fields of subjects to fill from headers."""
        return [name.strip() for name in self.subjects_from_dicom.split(",") if name.strip()]


@command()
def upload(
    sources: Sources,
    *,
    connection: Connection,
    routing: Routing,
    job: Job,
    options: Options,
    screen: ProgressScreen,
    demographics: DemographicsOptions,
    upload: UploadOptions,
    scan: ScanOptions,
    filters: Filters,
    log: LogOptions,
    journal: JournalOptions,
    cluster: ClusterOptions,
) -> None:
    """Upload DICOM files into XNAT: scan, send, build, archive, verify. Run it again to resume.

    It sends the files as they are: it does not de-identify.
    """
    from asyncimport.cli.uploading import conclude_upload
    from asyncimport.demographics.headers import header_keywords
    from asyncimport.operations.rules import accepted_from, plan_from, rules_from, study_filter_for, study_filter_from
    from asyncimport.operations.upload_request import UploadRequest
    from asyncimport.pipeline.demographics import DemographicsRequest
    from asyncimport.routing.attachments import AttachRule
    from asyncimport.routing.planned_routes import PlannedRoutes
    from asyncimport.routing.router import Router
    from asyncimport.xnat.transport import Timeouts

    server = server_from(connection)
    project, templates = routing.project, (routing.subject, routing.session, routing.path_pattern, routing.label_map)
    if routing.subject is not None and os.path.exists(routing.subject):  # noqa: PTH110 - it may be any text
        raise UsageError(
            f"--subject {routing.subject} is the name of a file", hint="give a template such as {PatientID}"
        )
    if job.plan is not None and any(templates):
        raise UsageError("--plan says where studies go, and so do templates", hint="give one of them")
    study_filter = study_filter_from(
        filters.modality, filters.study_since, filters.include, parts=filters.partial_studies
    )
    routes: Router | PlannedRoutes
    if job.plan is None:
        routes = rules_from(project, *templates, encoding=routing.encoding)
    else:
        rows = plan_from(job.plan, project, routing.encoding)
        routes = PlannedRoutes(rows, project=project or "")
        study_filter = study_filter_for(rows, study_filter)
    table, issues = ([], []) if job.subjects is None else _read_subjects(job.subjects, routing)
    header_keywords(job.header_fields)  # refuses fields that no header has
    request = UploadRequest(
        server=server,
        sources=sources,
        project=project or "",
        routes=routes,
        study_filter=study_filter,
        accepted=accepted_from(routing.accept_patients, routing.encoding),
        options=options,
        timeouts=Timeouts(reply=job.timeout),
        attach=[AttachRule.parse(text) for text in job.attach],
        demographics=DemographicsRequest(table, job.header_fields, demographics.overwrite_demographics),
        issues=sum(not issue.is_warning for issue in issues),
        command=["asyncimport", *sys.argv[1:]],
        **vars(upload),
        **vars(scan),
        **vars(journal),
        **vars(cluster),
    )
    show_issues(screen.consoles[1], issues)
    if job.dry_run:
        _dry_run(screen, request)
    conclude_upload(screen, request, log)


def _read_subjects(table: Path, routing: Routing) -> "tuple[list[Demographics], list[TableIssue]]":
    from asyncimport.operations.subjects import read_table

    return read_table(table, routing.project or "", routing.encoding, option="--subjects")


def _dry_run(screen: ProgressScreen, request: "UploadRequest") -> NoReturn:
    from asyncimport.cli.plan import conclude_plan, plan_json, problem_json
    from asyncimport.cli.running import run_operation
    from asyncimport.cli.uploading import Display
    from asyncimport.operations.dry_run import DryRunResult, dry_run

    report, started = Display(screen, lambda _: None), monotonic()
    result = run_operation(partial(dry_run, request, report=report), empty=DryRunResult())

    def as_json(_: "Result") -> dict[str, object]:
        """Return what `upload` writes, and the plan. The problems have the keys of both."""
        found = summary_json(
            result.summary,
            run=None,
            host=request.server.host,
            seconds=monotonic() - started,
            code=result.exit_code,
            error=result.error,
        )
        found["dry_run"] = True
        if result.plan is not None:
            planned = plan_json(result.plan, ())
            found |= {name: planned[name] for name in ("rows", "unsent", "not_dicom")} | {
                "resources": planned["attachments"]
            }
            found["problems"] = [
                {"kind": one.code, "reason": one.text, **problem_json(one)} for one in result.plan.problems
            ]
        return found

    conclude_plan(screen, result, as_json=as_json)
