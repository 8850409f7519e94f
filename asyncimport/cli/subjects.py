"""`asyncimport subjects`: set demographics of subjects from a table, before their sessions are imported or after.

With `-o json` one object stands on standard output, also after failures; fields are named in it, values never:

    {"host": "...", "exit_code": 0, "error": null, "dry_run": false,
     "subjects": {"total": 0, "created": 0, "updated": 0, "unchanged": 0, "refused": 0, "failed": 0, "left": 0},
     "details": [{"project": "P", "subject": "S", "label": "S", "accession": "XNAT_S00001", "state": "updated",
                  "written": ["gender"], "kept": ["yob"], "replaced": [], "unchanged": [], "alike": [],
                  "reason": null}],
     "flaws": [{"line": 3, "column": "sex", "problem": "...", "hint": "...", "warning": false}]}

`subject` is the label as the table has it, `label` as XNAT has it; `alike` are labels of others that differ from that
in letter case only. `left` were not come to, as an error or a signal ended the run.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import anyio
import typer
from rich.console import Console
from rich.text import Text

from asyncimport.cli.options import (
    CaBundle,
    Encoding,
    Host,
    Insecure,
    NoColor,
    Output,
    OutputOption,
    PasswordStdin,
    Profile,
    Project,
    Quiet,
    User,
    hidden,
    variable,
)
from asyncimport.cli.output import consoles, plain, show_error, write_json
from asyncimport.cli.profiles import login_from
from asyncimport.cli.running import stopped_by
from asyncimport.demographics import Demographics, Difference, read_subjects
from asyncimport.errors import AsyncimportError, ProjectMissingError, ProjectReadOnlyError, UsageError
from asyncimport.model.csv_table import Flaw
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.xnat.client import Client, Credentials, connect
from asyncimport.xnat.site import project_of
from asyncimport.xnat.subjects import Described, NotDescribed, describe

__all__ = ["show_flaws", "subjects", "table_of"]

_SHOWN = 20
_STEP = 100
_STATES = ("created", "updated", "unchanged", "refused", "failed")


@dataclass(frozen=True, slots=True)
class _Task:
    """What is asked for, and where."""

    host: str
    credentials: Credentials
    ca_bundle: Path | None
    verify: bool
    dry_run: bool
    overwrite: bool
    event_reason: str
    only_existing: bool


@dataclass(slots=True)
class _Result:
    """What there is to tell: of the table, and of each subject that the run came to."""

    rows: list[Demographics] = field(default_factory=list)
    flaws: list[Flaw] = field(default_factory=list)
    outcomes: list[Described | NotDescribed] = field(default_factory=list)
    signal: int | None = None
    error: AsyncimportError | None = None

    @property
    def code(self) -> int:
        if self.error is not None:
            return self.error.exit_code
        if self.signal is not None:
            return 128 + self.signal
        is_flawed = any(not flaw.is_warning for flaw in self.flaws)
        return 8 if is_flawed or any(map(_is_problem, self.outcomes)) else 0


def _is_problem(one: Described | NotDescribed) -> bool:
    """Whether it was not done, or somebody else made a subject of the same label at the same time."""
    return isinstance(one, NotDescribed) or (one.created and bool(one.alike))


def subjects(
    table: Annotated[
        Path, typer.Argument(metavar="FILE.csv", help="CSV: subject_label and columns by XNAT's names, such as gender.")
    ],
    project: Project = None,
    host: Host = None,
    user: User = None,
    profile: Profile = None,
    password_stdin: PasswordStdin = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", envvar=variable("--dry-run"), help="Compare with the archive, and send nothing."),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite-demographics",
            envvar=variable("--overwrite-demographics"),
            help="Replace values that XNAT has; else they are kept, and the differences told.",
        ),
    ] = False,
    existing_only: Annotated[
        bool,
        typer.Option(
            "--existing-only", envvar=variable("--existing-only"), help="Make no subjects that XNAT does not have."
        ),
    ] = False,
    null_clears: Annotated[
        bool,
        hidden("--null-clears", help="Let the word NULL in a cell clear the field, as XNAT does."),
    ] = False,
    encoding: Encoding = "",
    show_values: Annotated[
        bool,
        hidden("--show-values", help="Show values that differ too, on a terminal: they are patients' data."),
    ] = False,
    event_reason: Annotated[
        str, hidden("--event-reason", help="Why, for sites with an audit trail that ask for it.")
    ] = "demographics of a table",
    output: OutputOption = Output.TABLE,
    quiet: Quiet = False,
    ca_bundle: CaBundle = None,
    insecure: Insecure = False,
    no_color: NoColor = False,
) -> None:
    """Set demographics of subjects from a CSV file, before their sessions are imported or at any time after.

    Rows with errors are told by line and column; the others are sent, and then read back.
    """
    out, err = consoles(no_color=no_color)
    result = _Result()
    try:
        if show_values and (output is Output.JSON or not out.is_terminal):
            raise UsageError("--show-values shows patients' data, and only on a terminal", hint="leave it out")
        result.rows, result.flaws = table_of(table, project or "", encoding, null_clears=null_clears)
        if not result.rows:
            raise UsageError(f"{table} has no row that can be sent", hint=_first_hint(result.flaws))
        host, name, password = login_from(host, user, profile, password_stdin=password_stdin, insecure=insecure)
        task = _Task(
            host,
            Credentials(name, password),
            ca_bundle,
            not insecure,
            dry_run,
            overwrite,
            event_reason,
            existing_only,
        )
        anyio.run(_carry_out, task, result, None if quiet else err)
    except AsyncimportError as error:
        result.error = error
    if output is Output.JSON:
        write_json(_json(host, result, dry_run=dry_run))
    else:
        _show(out, result, dry_run=dry_run, values=show_values)
    if result.error is not None:
        show_error(err, result.error)
    elif result.signal is not None:
        err.print(Text("stopped; the same command goes on from here"))
    raise typer.Exit(result.code)


def table_of(
    table: Path, project: str, encoding: str = "", *, null_clears: bool = False
) -> tuple[list[Demographics], list[Flaw]]:
    """Return the rows of a table of demographics, and what is wrong with the others. Raises: UsageError."""
    try:
        return read_subjects(table.read_bytes(), project=project, encoding=encoding, null_clears=null_clears)
    except OSError as error:
        raise UsageError(f"{table} cannot be read: {error.strerror}", hint="check the path") from error
    except UsageError as error:
        raise UsageError(f"{table}: {error}", hint=error.hint) from None


def _first_hint(flaws: Sequence[Flaw]) -> str:
    return next((flaw.hint for flaw in flaws if flaw.hint), "give a row for each subject")


async def _carry_out(task: _Task, result: _Result, err: Console | None) -> None:
    """Log in, see that the projects are there, and describe their subjects."""

    def report(outcome: Described | NotDescribed) -> None:
        result.outcomes.append(outcome)
        if err is not None and len(result.outcomes) % _STEP == 0:
            err.print(Text(f"{len(result.outcomes):,} of {len(result.rows):,} subjects"))

    policy = RetryPolicy()
    with stopped_by(result) as stop:
        async with AsyncExitStack() as stack:
            with stop.at_once():
                there = connect(
                    task.host, task.credentials, connections=16, ca_bundle=task.ca_bundle, verify=task.verify
                )
                client = await stack.enter_async_context(there)
                names = await _open(client, result.rows, policy, report)
            if stop.requested:
                return
            told = list(result.outcomes)
            rows = (replace(row, project=names[row.project]) for row in result.rows if row.project in names)
            with stop.after_grace():
                done = await describe(
                    client,
                    takewhile(lambda _: not stop.requested, rows),
                    policy,
                    overwrite=task.overwrite,
                    event_reason=task.event_reason,
                    dry_run=task.dry_run,
                    only_existing=task.only_existing,
                    report=report,
                )
                result.outcomes = told + done
    if result.outcomes and all(isinstance(one, NotDescribed) and one.no_right for one in result.outcomes):
        raise ProjectReadOnlyError(
            "this user may not set demographics of any of the subjects",
            hint="ask the project's owner for the right to edit subjects",
        )


async def _open(
    client: Client, rows: Sequence[Demographics], policy: RetryPolicy, report: Callable[[NotDescribed], None]
) -> dict[str, str]:
    """Return the IDs of the projects that are there, by what the rows call them; rows of the others are refused.

    Raises: ProjectMissingError when there is one project only, UnavailableError.
    """
    names: dict[str, str] = {}
    closed: dict[str, str] = {}
    projects = list(dict.fromkeys(row.project for row in rows))
    for project in projects:
        try:
            names[project] = await project_of(client, project, policy)
        except ProjectMissingError as error:
            if len(projects) == 1:
                raise
            closed[project] = str(error)
    for row in rows:
        if row.project in closed:
            report(NotDescribed(row.project, row.subject, closed[row.project], refused=True))
    return names


def _counts(result: _Result) -> dict[str, int]:
    states = Counter(one.state for one in result.outcomes)
    counts = {"total": len(result.rows), **{state: states[state] for state in _STATES}}
    return {**counts, "left": len(result.rows) - len(result.outcomes)}


def _json(host: str | None, result: _Result, *, dry_run: bool) -> dict[str, object]:
    error = result.error
    return {
        "host": host,
        "exit_code": result.code,
        "error": None if error is None else {"message": str(error), "hint": error.hint or None},
        "dry_run": dry_run,
        "subjects": _counts(result),
        "details": [_detail(one) for one in result.outcomes],
        "flaws": [
            {
                "line": flaw.line,
                "column": plain(flaw.column) or None,
                "problem": flaw.text,
                "hint": flaw.hint or None,
                "warning": flaw.is_warning,
            }
            for flaw in result.flaws
        ],
    }


def _detail(one: Described | NotDescribed) -> dict[str, object]:
    reason = one.reason if isinstance(one, NotDescribed) else None
    found = one if isinstance(one, Described) else Described(one.project, one.subject, "", "")
    return {
        "project": one.project,
        "subject": one.subject,
        "label": found.label or None,
        "accession": found.accession or None,
        "state": one.state,
        "written": list(found.written),
        "kept": _names(found.kept),
        "replaced": _names(found.replaced),
        "unchanged": list(found.unchanged),
        "alike": list(found.alike),
        "reason": reason,
    }


def _names(differences: Sequence[Difference]) -> list[str]:
    return list(dict.fromkeys(one.name for one in differences))


def show_flaws(out: Console, flaws: Sequence[Flaw]) -> None:
    """Write what is wrong in a table, by line and column."""
    for flaw in flaws[:_SHOWN]:
        place = f"line {flaw.line}, {plain(flaw.column)}" if flaw.column else f"line {flaw.line}"
        hint = f" ({flaw.hint})" if flaw.hint else ""
        out.print(Text(f"  {'warning' if flaw.is_warning else 'not sent'}: {place}: {flaw.text}{hint}"))
    if len(flaws) > _SHOWN:
        out.print(Text(f"  and {len(flaws) - _SHOWN:,} more: see -o json"))


def _show(out: Console, result: _Result, *, dry_run: bool, values: bool) -> None:
    show_flaws(out, result.flaws)
    if not result.rows:
        return
    counts = _counts(result)
    words = [f"{counts[state]:,} {state}" for state in (*_STATES, "left") if counts[state]]
    would = "would be " if dry_run else ""
    out.print(Text(f"{counts['total']:,} subjects: {would}{', '.join(words)}", style="bold"))
    told = [line for one in result.outcomes for line in _lines(one, dry_run=dry_run, values=values)]
    for line in told[:_SHOWN] if not values else told:
        out.print(Text(f"  {line}"))
    if len(told) > _SHOWN and not values:
        out.print(Text(f"  and {len(told) - _SHOWN:,} more: see -o json"))
    if any(isinstance(one, Described) and one.kept for one in result.outcomes):
        out.print(Text("hint: --overwrite-demographics replaces what XNAT has"))


def _lines(one: Described | NotDescribed, *, dry_run: bool, values: bool) -> list[str]:
    """Return what is worth a line: differences, and what did not work."""
    where = f"{one.project} / {one.subject}"
    if isinstance(one, NotDescribed):
        return [f"{one.state}: {where}: {plain(one.reason)}"]
    if one.label and one.label != one.subject:
        where += f" (in XNAT {one.label})"
    lines = []
    if one.alike:
        lines.append(f"alike: {where}: XNAT has {', '.join(one.alike)} too, and ignores letter case where it archives")
    for word, differences in (("kept", one.kept), ("to be replaced" if dry_run else "replaced", one.replaced)):
        if differences:
            lines.append(f"{word}: {where}: {', '.join(_shown(each, values=values) for each in differences)}")
    return lines


def _shown(one: Difference, *, values: bool) -> str:
    theirs = one.instead or one.name
    if values:
        return f"{one.name} {plain(one.ours)}, in XNAT {theirs} {plain(one.theirs)}"
    return f"{one.name} (in XNAT {theirs})" if one.instead else one.name
