"""Store demographics of subjects, before their sessions are imported or after."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path

from asyncimport.demographics.table import Demographics, read_subjects
from asyncimport.errors import ProjectReadOnlyError, UsageError
from asyncimport.model.csv_table import TableIssue
from asyncimport.model.options import SubjectsOptions
from asyncimport.operations.result import Result, captured_in
from asyncimport.operations.server import Server, find_project_ids
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.pacing.shutdown import Stop
from asyncimport.xnat.client import Client
from asyncimport.xnat.site import find_project
from asyncimport.xnat.subjects import SubjectError, Subjects, SubjectUpdated, update_all

_STATES = ("created", "updated", "unchanged", "refused", "failed")


@dataclass(frozen=True, kw_only=True)
class SubjectsRequest(SubjectsOptions):
    """Demographics by subject. `read_table` returns the rows, and the issues of other rows."""

    server: Server
    rows: Sequence[Demographics]
    issues: Sequence[TableIssue] = ()


@dataclass(slots=True, kw_only=True)
class SubjectsResult(Result):
    """The outcome of each subject that was tried."""

    dry_run: bool = False
    rows: Sequence[Demographics] = ()
    issues: Sequence[TableIssue] = ()
    outcomes: list[SubjectUpdated | SubjectError] = field(default_factory=list)

    @property
    def findings_code(self) -> int:
        """Return 8 if a row is wrong, or a subject was refused, failed, or was created twice at the same time."""
        problems = (isinstance(one, SubjectError) or (one.created and one.alike) for one in self.outcomes)
        return 8 if any(problems) or any(not issue.is_warning for issue in self.issues) else 0

    def counts(self) -> dict[str, int]:
        """Return the numbers of subjects that were created, updated and so on; `left` were not tried."""
        states = Counter(one.state for one in self.outcomes)
        counts = {"total": len(self.rows), **{state: states[state] for state in _STATES}}
        return {**counts, "left": len(self.rows) - len(self.outcomes)}


def read_table(
    table: Path, project: str, encoding: str = "", *, null_clears: bool = False, option: str = ""
) -> tuple[list[Demographics], list[TableIssue]]:
    """Return the rows of a table of demographics, and the issues of other rows; `option` names it.

    Raises: UsageError.
    """
    name = f"{option} {table}".lstrip()
    try:
        return read_subjects(table.read_bytes(), project=project, encoding=encoding, null_clears=null_clears)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}", hint="check the path") from error
    except UsageError as error:
        raise UsageError(f"{name}: {error}", hint=error.hint) from None


async def subjects(
    request: SubjectsRequest, *, report: Callable[[SubjectsResult], None] = lambda _: None, stop: Stop | None = None
) -> SubjectsResult:
    """Store demographics of subjects, and read them back. `report` gets the result so far after each subject."""
    stop = stop or Stop()
    result = SubjectsResult(dry_run=request.dry_run, rows=request.rows, issues=request.issues)

    def note(outcome: SubjectUpdated | SubjectError) -> None:
        result.outcomes.append(outcome)
        report(result)

    policy = RetryPolicy()
    with captured_in(result, stop):
        async with AsyncExitStack() as stack:
            with stop.immediate_scope():
                client = await stack.enter_async_context(request.server.connect())
                names = await _open_projects(client, request.rows, policy, note)
            if stop.requested:
                return result
            refused = list(result.outcomes)
            rows = (replace(row, project=names[row.project]) for row in request.rows if row.project in names)
            with stop.grace_scope():
                done = await update_all(
                    Subjects(
                        client,
                        policy,
                        overwrite=request.overwrite_demographics,
                        event_reason=request.event_reason,
                        dry_run=request.dry_run,
                        only_existing=request.existing_only,
                    ),
                    takewhile(lambda _: not stop.requested, rows),
                    report=note,
                )
                result.outcomes = refused + done
        if result.outcomes and all(isinstance(one, SubjectError) and one.no_right for one in result.outcomes):
            raise ProjectReadOnlyError(
                "this user may not set demographics of any of these subjects",
                hint="ask the project's owner for the right to edit subjects",
            )
    return result


async def _open_projects(
    client: Client, rows: Sequence[Demographics], policy: RetryPolicy, report: Callable[[SubjectError], None]
) -> dict[str, str]:
    """Return the IDs of the projects that exist, by their names in the rows, and refuse the rows of the others."""
    names = dict.fromkeys(row.project for row in rows)
    ids = await find_project_ids(names, lambda name: find_project(client, name, policy))
    for row in rows:
        if not isinstance(error := ids[row.project], str):
            report(SubjectError(row.project, row.subject, str(error), refused=True))
    return {name: project for name, project in ids.items() if isinstance(project, str)}
