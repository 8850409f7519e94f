"""Decide what a run will do before its first write. A dry run shows the decision, and the run carries it out."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from asyncimport.errors import AsyncimportError, TransientError, UnavailableError, UsageError
from asyncimport.journal import SubjectPatient
from asyncimport.model.files import Session
from asyncimport.model.ports import Source
from asyncimport.model.record import record
from asyncimport.model.texts import counted
from asyncimport.operations.journals import readable_journal, run_journal
from asyncimport.operations.plan import Plan
from asyncimport.operations.planning import scan_and_plan
from asyncimport.operations.result import Observer
from asyncimport.operations.server import ProjectIds, find_project_ids
from asyncimport.operations.upload_request import UploadRequest
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.pacing.shutdown import Stop
from asyncimport.routing.existing_sessions import ExistingSession, ExistingSessions
from asyncimport.routing.filters import APPEARED, StudyFilter
from asyncimport.routing.planned_routes import PlannedRoutes, StudyRoutes
from asyncimport.routing.problems import Effect, PlanProblem
from asyncimport.routing.router import Router
from asyncimport.xnat.archive import KnownSite, label_before_division
from asyncimport.xnat.client import Client
from asyncimport.xnat.replies.archive import Experiment
from asyncimport.xnat.site import check_project

# Each takes a look at all sessions of the journal.
_MAX_EXAMPLES = 100


@record
class Decision:
    """The rules of a run, the files that it selects, and its journal.

    The journal is bound to `rules`. The `plan` is None where files are routed one by one, because nothing needs whole
    studies. With `is_strict`, one faulty study keeps the run from sending anything.
    """

    routes: StudyRoutes
    rules: Mapping[str, str]
    study_filter: StudyFilter
    journal: Path
    plan: Plan | None = None
    is_strict: bool = False

    @property
    def faults(self) -> list[PlanProblem]:
        """Return what is wrong with studies. A closed project is for its owner to open, and keeps no other back."""
        problems = () if self.plan is None else self.plan.problems
        return [one for one in problems if one.code.effect is Effect.WRONG]

    def check(self) -> None:
        """Refuse a strict run with a faulty study. Raises: UsageError."""
        if self.is_strict and (faults := self.faults):
            first = faults[0]
            study = f"study {first.study_uid}: " if first.study_uid else ""
            found = counted(len(faults), "problem was found", "problems were found")
            raise UsageError(
                f"nothing was sent, because {found}: {study}{first.text}",
                hint=f"{first.advice}; --dry-run shows them all",
            )


async def decide(
    request: UploadRequest,
    source: Source,
    client: Client,
    observer: Observer,
    *,
    stop: Stop,
    site: KnownSite | None = None,
    needs_plan: bool = False,
) -> Decision | None:
    """Check the projects, and scan the source where whole studies decide, or with `needs_plan`; None if stopped.

    Pass a `site` to share its answers. Raises: ProjectMissingError, ProjectReadOnlyError when the only
    project is closed, UnavailableError, UsageError.
    """
    ids: dict[str, str | AsyncimportError] = {}

    async def find_projects(names: Iterable[str]) -> ProjectIds:
        # Each project is asked for once.
        ids.update(await find_project_ids([one for one in names if one not in ids], partial(check_project, client)))
        return ids

    routes = await _check_projects(request, find_projects)
    project = _id_of(request.project, ids)
    find_journal = partial(
        run_journal, request.server.host, request.project, project, request.state_dir, request.journal
    )
    journal, bound_to = await anyio.to_thread.run_sync(find_journal)
    rules = {**routes.rules, "project": bound_to} if bound_to != request.project else routes.rules
    if not request.relabel:
        await anyio.to_thread.run_sync(_check_rules, journal, request.server.host, rules)
    plan_rules = replace(request.plan_rules, routes=routes)
    is_strict = plan_rules.needs_whole_studies
    if not (is_strict or plan_rules.selects_studies or needs_plan):
        return Decision(routes, rules, request.study_filter, journal)
    plan = await scan_and_plan(
        source,
        plan_rules,
        request.state_dir,
        observer,
        stop=stop,
        attach=request.attach,
        known_patients=await anyio.to_thread.run_sync(partial(known_patients, journal, after_relabel=request.relabel)),
        find_projects=find_projects,
        find_sessions=partial(
            find_sessions,
            site or KnownSite.of(client, RetryPolicy()),
            journal,
            relabel=request.relabel,
            # Otherwise only the journal decides, as in a run that sends while it scans.
            with_archive=is_strict,
        ),
    )
    if plan is None:
        return None
    plan = await anyio.to_thread.run_sync(_with_other_examples, plan, journal)
    study_filter = _filter_by(plan, request.study_filter) if plan_rules.selects_studies else request.study_filter
    return Decision(_routes_by(plan, routes) if is_strict else routes, rules, study_filter, journal, plan, is_strict)


async def _check_projects(
    request: UploadRequest, find_projects: Callable[[Iterable[str]], Awaitable[ProjectIds]]
) -> StudyRoutes:
    """Check the projects of the rules before the scan, which may take long; return the rules with the project's ID."""
    routes = request.plan_rules.routes
    if isinstance(routes, Router) and routes.project is not None:
        # It may be named by an alias; XNAT's answers name its ID.
        name = request.project or routes.project
        return routes.with_project(_id_of(name, await find_projects([name])))
    if isinstance(routes, PlannedRoutes):
        await find_projects(routes.projects)
    return routes


def _routes_by(plan: Plan, routes: StudyRoutes) -> PlannedRoutes:
    """Return the routes of a plan that was made with others."""
    fallback = routes if isinstance(routes, PlannedRoutes) else None
    return PlannedRoutes(
        plan.rows, faulty=plan.faulty, left_out=plan.left_out, fallback=fallback, if_unplanned=APPEARED
    )


def _filter_by(plan: Plan, study_filter: StudyFilter) -> StudyFilter:
    """Return the filter with what a plan has decided about each study."""
    return replace(
        study_filter,
        studies={row.study_uid for row in plan.rows if not row.skip},
        faulty={one.study_uid: one.text for one in plan.problems if one.is_error},
        waiting=plan.waiting,
        left_out=plan.left_out,
        beyond_limit=plan.beyond_limit,
    )


def _check_rules(journal: Path, host: str, rules: Mapping[str, str]) -> None:
    """Check, before the scan, that a journal was begun with these rules. Raises: UsageError, JournalError."""
    with readable_journal(journal) as reader:
        if reader is not None:
            reader.check_rules(host, rules)


def _id_of(name: str, ids: ProjectIds) -> str:
    found = ids.get(name, name)
    return found if isinstance(found, str) else name


async def find_sessions(
    site: KnownSite, journal: Path, project_ids: Mapping[str, str], *, relabel: bool, with_archive: bool
) -> ExistingSessions:
    """Return the sessions of projects, whose IDs are given by the names that the rules have for them.

    The sessions are found by ID and by name. With `relabel`, sessions of the journal that XNAT has nothing of do not
    count. Raises: UnavailableError.
    """
    found = await anyio.to_thread.run_sync(_in_journal, journal, relabel)
    try:
        for project in sorted(set(project_ids.values())) if with_archive else ():
            found += await _in_archive(site, project)
    except TransientError as error:
        raise UnavailableError(
            f"XNAT could not list the sessions of the archive: {error}",
            hint="try again later; `asyncimport doctor` checks the server",
        ) from error
    by_name = [
        replace(one, session=replace(one.session, project=name))
        for name, project in project_ids.items()
        for one in found
        if name != project == one.session.project
    ]
    return ExistingSessions.of([*found, *by_name])


async def _in_archive(site: KnownSite, project: str) -> list[ExistingSession]:
    listed = await site.archived.list_project(project)
    if listed is None:
        raise UnavailableError(
            f"XNAT does not show the sessions of project {project}",
            hint="ask for the right to see them: these labels depend on the sessions that exist",
        )
    is_mapped = bool(listed) and bool((await site.rules.get(project)).maps_studies)
    studies: dict[str, list[Experiment]] = {}
    for one in listed:
        # A session that somebody made without DICOM has no StudyInstanceUID, and counts as a study of its own.
        studies.setdefault(one.study_uid or one.accession, []).append(one)
    found = []
    for study, sessions in studies.items():
        names = [(one.subject, one.label, one.date) for one in sessions]
        if (whole := label_before_division(sessions, project)) is not None:
            names.insert(0, (sessions[0].subject, whole, sessions[0].date))
        found += [
            ExistingSession(Session(project, subject, label, "" if is_mapped else study), date.replace("-", ""))
            for subject, label, date in names
        ]
    return found


def _in_journal(journal: Path, relabel: bool) -> list[ExistingSession]:  # noqa: FBT001 - called in a thread
    with readable_journal(journal) as reader:
        labels = () if reader is None else reader.session_labels(after_relabel=relabel)
        return [ExistingSession(session, ruled=ruled) for session, ruled in labels]


def _with_other_examples(plan: Plan, journal: Path) -> Plan:
    """Add a file of each study that only the journal has, and whose person has another name than one of the plan."""
    lacking = {one.other_study for one in plan.problems if one.other_study and not one.other_example}
    with readable_journal(journal) as reader:
        if reader is None or not lacking:
            return plan
        examples = {uid: reader.example_of(uid) for uid in sorted(lacking)[:_MAX_EXAMPLES]}
    problems = (
        replace(one, other_example=one.other_example or examples.get(one.other_study, "")) for one in plan.problems
    )
    return replace(plan, problems=tuple(problems))


def known_patients(journal: Path, *, after_relabel: bool) -> list[SubjectPatient]:
    """Return the patients of each subject by a journal, if there is one."""
    with readable_journal(journal) as reader:
        return [] if reader is None else reader.subject_patients(after_relabel=after_relabel)
