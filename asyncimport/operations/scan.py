"""Scan a source before anything is sent, and make a plan of it."""

import hashlib
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from asyncimport.journal import HeaderCache, LockWait, SubjectPatient
from asyncimport.operations.journals import state_directory
from asyncimport.operations.observer import Observer
from asyncimport.operations.plan import Plan, make_plan
from asyncimport.operations.plan_draft import PlanRules, draft_plan, scan_headers
from asyncimport.operations.projects import ProjectIds
from asyncimport.pacing.shutdown import LOCK_SECONDS, Stop, StoppedError
from asyncimport.reporting.progress import Totals
from asyncimport.routing.attachments import AttachRule, resource_of
from asyncimport.routing.existing_sessions import NO_SESSIONS, ExistingSessions
from asyncimport.source.folder import FileSource
from asyncimport.system.threads import opened_in_thread


async def _no_ids(_: Sequence[str]) -> ProjectIds:
    return {}


async def _no_sessions(_: Mapping[str, str]) -> ExistingSessions:
    return NO_SESSIONS


async def scan_and_plan(
    source: FileSource,
    rules: PlanRules,
    state_dir: Path | None,
    observer: Observer,
    *,
    stop: Stop,
    attach: Sequence[AttachRule] = (),
    known_patients: Iterable[SubjectPatient] = (),
    find_projects: Callable[[Sequence[str]], Awaitable[ProjectIds]] = _no_ids,
    find_sessions: Callable[[Mapping[str, str]], Awaitable[ExistingSessions]] = _no_sessions,
) -> Plan | None:
    """Scan a source into the header cache and make a plan; None if it was stopped.

    `find_sessions` gets the IDs of the open projects by name. `known_patients` are those that the journal has.
    """
    lock_wait = LockWait(report=observer.tell, deadline=partial(stop.wait_deadline, LOCK_SECONDS))
    # While another program has locked the cache, a stop ends the wait.
    with suppress(StoppedError):
        async with opened_in_thread(partial(HeaderCache, header_cache_path(source, state_dir), lock_wait)) as cache:
            totals = Totals()
            with stop.immediate_scope():
                async with observer.progress(totals):
                    await scan_headers(source, cache, totals.note)
            if stop.requested:
                return None
            min_age = rules.min_age
            unsettled = await anyio.to_thread.run_sync(cache.unsettled, time.time(), min_age) if min_age else None
            draft_by = partial(draft_plan, cache, rules, relative=source.relative)
            draft = await anyio.to_thread.run_sync(draft_by)
            ids = await find_projects(draft.projects)
            named = {name: ids.get(name, name) for name in draft.projects}
            sessions = await find_sessions({name: one for name, one in named.items() if isinstance(one, str)})
            if rules.routes.needs_whole_study and sessions != NO_SESSIONS:
                draft = await anyio.to_thread.run_sync(partial(draft_by, sessions=sessions))
            make = partial(
                make_plan,
                cache,
                draft,
                rules,
                project_ids=ids,
                sessions=sessions,
                known_patients=known_patients,
                unsettled=unsettled,
                resource_of=lambda path: resource_of(attach, source.relative(path).replace(os.sep, "/")),
            )
            return await anyio.to_thread.run_sync(make)
    return None


def header_cache_path(source: FileSource, state_dir: Path | None) -> Path:
    """Return the header cache of a source."""
    digest = hashlib.sha256("\n".join(source.places).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return state_directory(state_dir) / f"scan-{digest}.survey"
