"""`asyncimport upload --dry-run`: the plan, and what the server says of it; nothing is sent or written down."""

from pathlib import Path

import anyio
import anyio.to_thread
from rich.console import Console

from asyncimport.cli.deciding import decide, no_dicom
from asyncimport.cli.output import show_error, show_stopped, write_json
from asyncimport.cli.plan import plan_code, plan_json, show_plan
from asyncimport.cli.running import Stopped, stopped_by
from asyncimport.cli.transfer import Transfer
from asyncimport.errors import AsyncimportError, JournalError, TransientError, UnavailableError, UsageError
from asyncimport.journal import Ledger
from asyncimport.model import Session
from asyncimport.plan import Known, Plan, with_archive
from asyncimport.retry import RetryPolicy
from asyncimport.source import Folder
from asyncimport.xnat import ArchivedSessions, Client, Occupants, PrearchiveRows, SiteRules, connect, series_filters

__all__ = ["rehearse"]


def rehearse(task: Transfer, out: Console, err: Console, *, as_json: bool, quiet: bool) -> int:
    """Log in, decide as a run does, and compare what would be sent with the archive; return the exit code."""
    stopped = Stopped()
    try:
        found = anyio.run(_planned, task, task.source(), err, quiet, stopped)
    except AsyncimportError as error:
        if as_json:
            write_json({"exit_code": error.exit_code, "error": {"message": str(error), "hint": error.hint or None}})
        show_error(err, error)
        return error.exit_code
    if found is None:
        return show_stopped(err, stopped.signal, as_json=as_json)
    code = plan_code(found)
    if as_json:
        write_json(plan_json(found, [], code))
    else:
        show_plan(out, found)
    return code


async def _planned(  # anyio.run passes arguments by position
    task: Transfer, source: Folder, err: Console, quiet: bool, stopped: Stopped
) -> Plan | None:
    """Decide, and compare the plan of it with the archive; None when that was stopped."""
    with stopped_by(stopped) as stop, stop.at_once():
        async with connect(
            task.host,
            task.credentials,
            connections=4,
            timeouts=task.timeouts,
            ca_bundle=task.ca_bundle,
            verify=task.verify,
        ) as client:
            archived, site = ArchivedSessions(client, RetryPolicy()), SiteRules(client, RetryPolicy())
            decision = await decide(
                task.wanted(),
                source,
                client,
                err,
                stop=stop,
                quiet=quiet,
                archived=archived,
                site=site,
                is_plan_shown=True,
            )
            if decision is not None and decision.plan is not None:
                if not (decision.plan.rows or decision.plan.problems):
                    raise no_dicom(source, sum(count for _, count in decision.plan.not_dicom))
                return await _compared(task, client, archived, site, decision.journal, decision.plan)
    return None


async def _compared(
    task: Transfer, client: Client, archived: ArchivedSessions, rules: SiteRules, journal: Path, found: Plan
) -> Plan:
    source, own = (None, frozenset[str]()) if task.adopt_rows else await anyio.to_thread.run_sync(_own_rows, journal)
    known: dict[str, Known] = {}
    occupants = Occupants(client, archived, rules, RetryPolicy())
    try:
        for project in sorted({row.project_id for row in found.rows if row.project_id}):
            sessions = await archived.in_project(project) or ()
            what = await rules.of(project)
            scripts = [name for name in (what.on_import, what.on_archive) if name and "script" in name]
            filters = await series_filters(client, project)
            rows = await PrearchiveRows(client).in_project(project)
            known[project] = Known(
                {one.label.lower(): one for one in sessions},
                filters,
                scripts,
                rows,
                source,
                own,
                {} if task.merge_patients else await occupants.in_project(project),
                await _in_the_way(occupants, found, project),
            )
    except TransientError as error:
        raise UnavailableError(f"the archive could not be compared with the plan: {error}") from error
    return with_archive(found, known)


def _own_rows(journal: Path) -> tuple[str | None, frozenset[str]]:
    """Return what the rows of the journal name as their source, and where they are; None where it cannot be asked."""
    if not journal.exists():
        return "", frozenset()
    try:
        with Ledger.read(journal) as ledger:
            own = frozenset(one.uri for one in ledger.deliveries() if one.uri is not None)
            return ledger.about().get("source", ""), own
    except (JournalError, UsageError):
        # Of an older version, or in the making.
        return None, frozenset()


async def _in_the_way(occupants: Occupants, found: Plan, project: str) -> dict[str, tuple[str, str]]:
    """Say of each study of a plan that cannot go under its labels why: the code of the problem, and the reason."""
    sessions = [
        Session(project, row.subject_label, row.session_label, row.study_uid)
        for row in found.rows
        if row.project_id == project and not row.skip
    ]
    await occupants.expect(sessions)
    reasons: dict[str, tuple[str, str]] = {}
    for session in sessions:
        if reason := await occupants.id_in_the_way(session):
            reasons[session.study_uid] = "label-is-id", reason
        elif reason := await occupants.study_elsewhere(session):
            reasons[session.study_uid] = "study-on-server", reason
    return reasons
