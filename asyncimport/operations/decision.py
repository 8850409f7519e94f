"""What a run would do, decided before its first write: the dry run shows it, and the run does it."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio.to_thread

from asyncimport.errors import AsyncimportError, JournalError, ProjectMissingError, ProjectReadOnlyError, UsageError
from asyncimport.journal import JournalReader
from asyncimport.model.texts import plain
from asyncimport.operations.existing_sessions import SessionLookup, known_patients
from asyncimport.operations.journals import journal_of
from asyncimport.operations.observer import Observer
from asyncimport.operations.plan import Plan
from asyncimport.operations.scan import plan_of
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.pacing.shutdown import Stop
from asyncimport.routing import AttachRule, Effect, PlanProblem, Router, StudyFilter
from asyncimport.routing.planned_routes import PlannedRoutes
from asyncimport.source.folder import FileSource
from asyncimport.xnat.archive import ArchivedSessions
from asyncimport.xnat.client import Client
from asyncimport.xnat.site import SiteRules, check_project


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run is told that decides which study goes where, and where its journal lies."""

    host: str
    project: str
    routes: Router | PlannedRoutes
    study_filter: StudyFilter
    suffix: bool
    limit: int | None
    min_age: float
    allow_mixed_patients: bool
    truncated: bool
    state_dir: Path | None
    journal: Path | None
    attach: Sequence[AttachRule] = ()
    relabel: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """The rules that a run goes by, what of the source it takes, and the journal that it keeps.

    `rules` are what the journal is bound to. The `plan` is None where files are routed one by one, as nothing needs
    whole studies. `is_strict`: nothing is sent if something is `wrong` with a study.
    """

    routes: Router | PlannedRoutes
    rules: Mapping[str, str]
    study_filter: StudyFilter
    journal: Path
    plan: Plan | None = None
    is_strict: bool = False

    @property
    def wrong(self) -> list[PlanProblem]:
        """Return what is wrong with studies; a closed project is for its owner to mend, and keeps no other back."""
        problems = () if self.plan is None else self.plan.problems
        return [one for one in problems if one.code.effect is Effect.WRONG]

    def check(self) -> None:
        """Refuse to send anything where something is wrong with a study. Raises: UsageError."""
        if self.is_strict and (wrong := self.wrong):
            first = wrong[0]
            study = f"study {first.study_uid}: " if first.study_uid else ""
            raise UsageError(
                f"nothing was sent, because {len(wrong)} problem(s) were found: {study}{first.text}",
                hint=f"{first.advice}; --dry-run shows them all",
            )


async def decide(
    wanted: Wanted,
    source: FileSource,
    client: Client,
    observer: Observer,
    *,
    stop: Stop,
    archived: ArchivedSessions | None = None,
    site: SiteRules | None = None,
    is_plan_shown: bool = False,
) -> Decision | None:
    """Find out which projects are meant, scan where whole studies decide, and decide; None when that was stopped.

    Who asks the archive more of the same passes `archived` and `site`, so that it is asked once.
    Raises: ProjectMissingError, ProjectReadOnlyError when the only project is closed, UnavailableError, UsageError.
    """
    projects = _Projects(client)
    routes = wanted.routes
    if isinstance(routes, Router) and routes.project is not None:
        names = await projects.named([wanted.project or routes.project])
        # The project may be named by an alias; XNAT's answers will name its ID.
        routes = routes.renamed(_id_of(wanted.project or routes.project, names))
    elif isinstance(routes, PlannedRoutes):
        # Before the scan, which may take long.
        names = await projects.named(routes.projects)
    else:
        names = {}
    project = _id_of(wanted.project, names)
    named = partial(journal_of, wanted.host, wanted.project, project, wanted.state_dir, wanted.journal)
    journal, bound_to = await anyio.to_thread.run_sync(named)
    rules = {**routes.rules, "project": bound_to} if bound_to != wanted.project else routes.rules
    if not wanted.relabel:
        await anyio.to_thread.run_sync(_check_rules, journal, wanted.host, rules)
    whole = isinstance(routes, Router) and (wanted.suffix or routes.project is None or routes.needs_whole_study)
    is_strict = whole or isinstance(routes, PlannedRoutes)
    is_part = not wanted.study_filter.is_everything or wanted.limit is not None or bool(wanted.min_age)
    if not (is_strict or is_part or is_plan_shown):
        return Decision(routes, rules, wanted.study_filter, journal)
    archived = archived or ArchivedSessions(client, RetryPolicy())
    sessions = SessionLookup(archived, site or SiteRules(client, RetryPolicy()), journal, relabel=wanted.relabel)
    # Elsewhere only the journal decides, as it does in a run that sends while it walks.
    given = partial(sessions.in_projects, with_archive=is_strict)
    plan = await plan_of(
        source,
        routes,
        wanted.state_dir,
        observer,
        stop=stop,
        truncated=wanted.truncated,
        allow_mixed_patients=wanted.allow_mixed_patients,
        suffix=wanted.suffix,
        study_filter=wanted.study_filter,
        limit=wanted.limit,
        min_age=wanted.min_age,
        attach=wanted.attach,
        residents=await anyio.to_thread.run_sync(partial(known_patients, journal, after_reroute=wanted.relabel)),
        projects=projects.named,
        given=given,
    )
    if plan is None:
        return None
    study_filter = wanted.study_filter
    if is_part:
        study_filter = study_filter.of(
            {row.study_uid for row in plan.rows if not row.skip},
            {row.study_uid for row in plan.rows},
            wrong={one.study_uid: one.text for one in plan.problems if one.is_error},
            waiting=plan.waiting,
            left=plan.left,
            has_limit=wanted.limit is not None,
        )
    if is_strict:
        otherwise = routes if isinstance(routes, PlannedRoutes) else None
        routes = PlannedRoutes(plan.rows, faulty=plan.faulty, left=plan.left, otherwise=otherwise)
    return Decision(routes, rules, study_filter, journal, plan, is_strict)


def _check_rules(journal: Path, host: str, rules: Mapping[str, str]) -> None:
    """See, before the scan, that a journal was begun with these rules. Raises: UsageError, JournalError."""
    if not journal.exists():
        return
    with ExitStack() as stack:
        try:
            reader = stack.enter_context(JournalReader.open(journal))
            reader.metadata()
        except (JournalError, UsageError):
            # The run itself reports what is wrong with it.
            return
        reader.check_rules(host, rules)


class _Projects:
    """The IDs of projects, which are asked for once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[str, str | AsyncimportError] = {}

    async def named(self, names: Iterable[str]) -> Mapping[str, str | AsyncimportError]:
        """Return the ID of each project that is open to this user, or why it is not.

        Raises: ProjectMissingError, ProjectReadOnlyError when that is the only one, UnavailableError.
        """
        names = list(names)
        for name in names:
            if name in self._known:
                continue
            try:
                self._known[name] = await check_project(self._client, name)
            except (ProjectMissingError, ProjectReadOnlyError) as error:
                if len(names) == 1:
                    raise
                self._known[name] = error
        return self._known


def _id_of(name: str, names: Mapping[str, str | AsyncimportError]) -> str:
    found = names.get(name, name)
    return found if isinstance(found, str) else name


def no_dicom(source: FileSource, others: int) -> UsageError:
    """Return the error for a source with nothing but other files."""
    return UsageError(
        f"no DICOM found in {', '.join(plain(root) for root in source.places)}",
        hint=f"{others:,} other files were looked at; check the path",
    )
