"""What an upload is told, and what there is to tell of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from asyncimport.model import Orphan, Summary
from asyncimport.model.options import Options
from asyncimport.model.summary import exit_code
from asyncimport.operations.decision import Wanted
from asyncimport.operations.result import Result
from asyncimport.operations.server import Server
from asyncimport.pipeline.demographics import DemographicsRequest
from asyncimport.reporting.progress import Totals
from asyncimport.routing import EVERYTHING, AttachRule, Router, StudyFilter
from asyncimport.routing.planned_routes import PlannedRoutes
from asyncimport.source.folder import FileSource
from asyncimport.xnat.transport import Timeouts


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRequest:
    """Everything that a run is told: what to read, where it goes, and how."""

    server: Server
    sources: Sequence[Path]
    project: str
    routes: Router | PlannedRoutes
    suffix: bool = False
    exclude: Sequence[str] = ()
    study_filter: StudyFilter = EVERYTHING
    limit: int | None = None
    options: Options = field(default_factory=Options)
    timeouts: Timeouts = field(default_factory=Timeouts)
    overwrite: str = "none"
    trigger_pipelines: bool | None = None
    event_reason: str = ""
    attach: Sequence[AttachRule] = ()
    demographics: DemographicsRequest = field(default_factory=DemographicsRequest)
    issues: int = 0
    min_age: float = 0.0
    watch: float | None = None
    relabel: bool = False
    adopt_rows: bool = False
    allow_mixed_patients: bool = False
    max_duration: float | None = None
    ignore_archives: bool = False
    follow_links: bool = False
    journal: Path | None = None
    state_dir: Path | None = None
    receipts: Path | None = None

    def wanted(self) -> Wanted:
        """Return what decides which study goes where."""
        return Wanted(
            self.server.host,
            self.project,
            self.routes,
            self.study_filter,
            self.suffix,
            self.limit,
            self.min_age,
            self.allow_mixed_patients,
            self.options.send_truncated,
            self.state_dir,
            self.journal,
            self.attach,
            self.relabel,
        )

    def checks_first(self, routes: Router | PlannedRoutes) -> bool:
        """Whether nothing is sent if anything collides."""
        # Under one fixed label any second study does, and that is better known before anything is sent.
        return self.options.check_first or (isinstance(routes, Router) and routes.one_session)

    def source(self, kind: Callable[..., FileSource] = FileSource) -> FileSource:
        """Return what is read. Raises: UsageError."""
        return kind(
            self.sources,
            ignore_archives=self.ignore_archives,
            follow_links=self.follow_links,
            digests=self.options.receipts,
            exclude=self.exclude,
            is_part=not self.study_filter.is_everything,
        )


@dataclass(slots=True, kw_only=True)
class UploadResult(Result):
    """What there is to tell at the end, however the run ended; without a list of strays nobody has looked."""

    run: str | None = None
    summary: Summary | None = None
    orphans: list[Orphan] | None = None
    totals: Totals = field(default_factory=Totals)
    issues: int = 0

    @property
    def findings_code(self) -> int:
        """1 where no run began, 8 where files are lacking, 9 where only sessions are, or 0."""
        return 1 if self.summary is None else exit_code(self.summary) or (8 if self.issues else 0)
