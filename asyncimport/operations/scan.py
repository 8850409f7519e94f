"""A scan of a source before anything is sent, and the plan that is made of it."""

import hashlib
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from asyncimport.errors import AsyncimportError
from asyncimport.journal import HeaderCache, LockWait, SubjectPatient
from asyncimport.operations.journals import state_directory
from asyncimport.operations.observer import Observer
from asyncimport.operations.plan import Plan, make_plan
from asyncimport.operations.plan_draft import StudyRoutes, draft_plan, survey
from asyncimport.pacing.shutdown import LOCK_SECONDS, Stop, StoppedError
from asyncimport.reporting.progress import Totals
from asyncimport.routing import NO_SESSIONS, AttachRule, ExistingSessions, Router, StudyFilter, resource_of
from asyncimport.source.folder import FileSource
from asyncimport.system.threads import opened_in_thread


async def _as_they_are(_: Sequence[str]) -> Mapping[str, str | AsyncimportError]:
    return {}


async def _nothing(_: Mapping[str, str]) -> ExistingSessions:
    return NO_SESSIONS


async def plan_of(
    source: FileSource,
    routes: StudyRoutes,
    state_dir: Path | None,
    observer: Observer,
    *,
    stop: Stop,
    truncated: bool,
    allow_mixed_patients: bool,
    suffix: bool,
    study_filter: StudyFilter,
    limit: int | None,
    min_age: float,
    attach: Sequence[AttachRule] = (),
    residents: Iterable[SubjectPatient] = (),
    projects: Callable[[Sequence[str]], Awaitable[Mapping[str, str | AsyncimportError]]] = _as_they_are,
    given: Callable[[Mapping[str, str]], Awaitable[ExistingSessions]] = _nothing,
) -> Plan | None:
    """Scan a source with progress, remembering what was found, and make a plan of it; None when it was stopped.

    `projects` tells the IDs of projects, or why they are closed, `given` the sessions of those that are open, by ID of
    the name that the rules have for it. The others are as in `make_plan`.
    """
    path = survey_path(source, state_dir)
    lock_wait = LockWait(report=observer.tell, deadline=partial(stop.ends_at, LOCK_SECONDS))
    # While another program has locked it, a stop ends the wait.
    with suppress(StoppedError):
        async with opened_in_thread(partial(HeaderCache, path, lock_wait)) as found:
            totals = Totals()
            with stop.at_once():
                async with observer.progress(totals):
                    await survey(source, found, totals.note)
            if stop.requested:
                return None
            looks = await anyio.to_thread.run_sync(found.unsettled, time.time(), min_age) if min_age else None
            draft = partial(
                draft_plan,
                found,
                routes,
                relative=source.relative,
                truncated=truncated,
                study_filter=study_filter,
                suffix=suffix,
            )
            drafted = await anyio.to_thread.run_sync(draft)
            names = await projects(drafted.projects)
            there = await given({name: _id_in(names, name) for name in drafted.projects if _id_in(names, name)})
            if routes.needs_whole_study and there != NO_SESSIONS:
                drafted = await anyio.to_thread.run_sync(partial(draft, given=there))
            make = partial(
                make_plan,
                found,
                drafted,
                projects=names,
                given=there,
                residents=residents,
                streams=streams(routes, suffix=suffix, study_filter=study_filter, limit=limit, min_age=min_age),
                truncated=truncated,
                allow_mixed_patients=allow_mixed_patients,
                suffix=suffix,
                limit=limit,
                looks=looks,
                resource_of=lambda path: resource_of(attach, source.relative(path).replace(os.sep, "/")),
            )
            return await anyio.to_thread.run_sync(make)
    return None


def streams(routes: StudyRoutes, *, suffix: bool, study_filter: StudyFilter, limit: int | None, min_age: float) -> bool:
    """Whether an upload sends while it walks, as nothing of what it is told needs all studies."""
    is_whole = not isinstance(routes, Router) or suffix or routes.project is None or routes.needs_whole_study
    return not (is_whole or limit is not None or min_age) and study_filter.is_everything


def survey_path(source: FileSource, state_dir: Path | None) -> Path:
    """Return the file that remembers what a source holds."""
    digest = hashlib.sha256("\n".join(source.places).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return state_directory(state_dir) / f"scan-{digest}.survey"


def _id_in(names: Mapping[str, str | AsyncimportError], name: str) -> str:
    """Return the ID of a project; "" where it is closed."""
    found = names.get(name, name)
    return found if isinstance(found, str) else ""
