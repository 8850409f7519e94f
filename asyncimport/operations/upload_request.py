"""What an upload is asked to do, and what it did."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from asyncimport.errors import UsageError
from asyncimport.model.choices import Overwrite
from asyncimport.model.options import ClusterOptions, JournalOptions, Options, ScanOptions, UploadOptions
from asyncimport.model.record import record
from asyncimport.model.summary import Orphan, Summary, exit_code
from asyncimport.operations.cluster import check_cluster
from asyncimport.operations.plan_draft import PlanRules
from asyncimport.operations.result import Result
from asyncimport.operations.server import Server
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.pipeline.demographics import DemographicsRequest
from asyncimport.reporting.progress import Totals
from asyncimport.routing.accepted_patients import NOBODY, AcceptedPatients
from asyncimport.routing.attachments import AttachRule
from asyncimport.routing.filters import EVERYTHING, StudyFilter
from asyncimport.routing.planned_routes import PlannedRoutes
from asyncimport.routing.router import Router
from asyncimport.source.folder import FileSource
from asyncimport.xnat.transport import Timeouts


@record(kw_only=True)
class Retries:
    """How often a file and any other call are repeated, and how to sleep in between; no option sets them."""

    file_policy: RetryPolicy | None = None
    call_policy: RetryPolicy | None = None
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep


@dataclass(frozen=True, kw_only=True)
class UploadRequest(ScanOptions, UploadOptions, JournalOptions, ClusterOptions):
    """What to read, where it goes, and how.

    `accepted` are pairs of people that are one. `issues` is how many rows of the demographics' table are wrong.
    `command` is the command line, for reports; the journal keeps it, so it must hold no secret.
    """

    server: Server
    sources: Sequence[Path]
    project: str
    routes: Router | PlannedRoutes
    study_filter: StudyFilter = EVERYTHING
    accepted: AcceptedPatients = NOBODY
    options: Options = field(default_factory=Options)
    timeouts: Timeouts = field(default_factory=Timeouts)
    retries: Retries = field(default_factory=Retries)
    attach: Sequence[AttachRule] = ()
    demographics: DemographicsRequest = field(default_factory=DemographicsRequest)
    issues: int = 0
    command: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse options that contradict each other. Raises: UsageError."""
        ScanOptions.__post_init__(self)
        UploadOptions.__post_init__(self)
        check_cluster(self)
        if self.options.resend_changed and self.overwrite == Overwrite.NONE:
            # XNAT keeps what it has, and answers the new file with a conflict.
            raise UsageError("--resend-changed replaces files in the archive", hint="add --overwrite append")

    @property
    def plan_rules(self) -> PlanRules:
        """Return the options that decide which study goes where."""
        return PlanRules(
            routes=self.routes,
            study_filter=self.study_filter,
            suffix=self.suffix,
            limit=self.max_sessions,
            min_age=self.min_age_seconds,
            allow_mixed_patients=self.allow_mixed_patients,
            accepted=self.accepted,
            send_truncated=self.options.send_truncated,
        )

    def checks_first(self, routes: Router | PlannedRoutes) -> bool:
        """Whether nothing is sent if anything collides."""
        # Under one fixed label any second study collides, which should be known before anything is sent.
        return self.options.check_first or has_one_label(routes)

    def source(self) -> FileSource:
        """Return the source. Raises: UsageError."""
        return FileSource(
            self.sources,
            ignore_archives=self.ignore_archives,
            follow_links=self.follow_links,
            digests=self.receipts is not None,
            exclude=self.exclude,
            is_partial=not self.study_filter.is_everything,
        )


def has_one_label(routes: Router | PlannedRoutes) -> bool:
    """Whether all files get one session label."""
    return isinstance(routes, Router) and routes.one_session


@dataclass(slots=True, kw_only=True)
class UploadResult(Result):
    """What a run did, also if it failed or was stopped. `orphans` is None if they were not searched."""

    run: str | None = None
    summary: Summary | None = None
    orphans: list[Orphan] | None = None
    totals: Totals = field(default_factory=Totals)
    issues: int = 0

    @property
    def findings_code(self) -> int:
        """1 without a run, 8 if files are missing, 9 if only sessions are incomplete, else 0."""
        return 1 if self.summary is None else exit_code(self.summary) or (8 if self.issues else 0)
