"""`asyncimport subjects`: set demographics from a table. Its JSON names fields, and never holds values."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from asyncimport.cli.conclusion import conclude, outcome_json
from asyncimport.cli.options import Connection, ProgressScreen, TableOptions
from asyncimport.cli.output import issues_json, show_issues, show_lines
from asyncimport.cli.parameters import command
from asyncimport.cli.profiles import server_from
from asyncimport.cli.running import progress_lines, run_operation
from asyncimport.demographics.comparison import Difference
from asyncimport.errors import UsageError
from asyncimport.model.option import rare
from asyncimport.model.options import SubjectsOptions
from asyncimport.model.texts import counted, plain
from asyncimport.xnat.subjects import SubjectError, SubjectUpdated

if TYPE_CHECKING:
    from asyncimport.operations.subjects import SubjectsResult

_STEP = 100


@dataclass(frozen=True, kw_only=True)
class Values:
    """How values are read and shown."""

    null_clears: bool = rare(
        "--null-clears", default=False, help="Let the word NULL in a cell clear the field, as XNAT does."
    )
    show_values: bool = rare(
        "--show-values", default=False, help="Show values that differ too, on a terminal: they are patients' data."
    )


@command(show={"overwrite_demographics"})
def subjects(
    table: Annotated[
        Path, typer.Argument(metavar="FILE.csv", help="CSV: subject_label and columns by XNAT's names, such as gender.")
    ],
    *,
    options: SubjectsOptions,
    values: Values,
    tables: TableOptions,
    connection: Connection,
    screen: ProgressScreen,
) -> None:
    """Set demographics of subjects from a CSV file, before their sessions are imported or at any time after.

    Errors in rows are reported by line and column. The other rows are sent, and then read back.
    """
    from asyncimport.operations.subjects import SubjectsRequest, SubjectsResult, read_table
    from asyncimport.operations.subjects import subjects as carry_out

    result = SubjectsResult(dry_run=options.dry_run)
    host = connection.host
    try:
        _check_values(screen, values)
        result.rows, result.issues = read_table(
            table, connection.project or "", tables.encoding, null_clears=values.null_clears
        )
        _check_rows(table, result)
        server = server_from(connection)
    except UsageError as error:
        result.error = error
    else:
        host = server.host
        request = SubjectsRequest(server=server, rows=result.rows, issues=result.issues, **vars(options))
        report = progress_lines(screen, "subjects", step=_STEP)
        operation = partial(carry_out, request, report=lambda one: report(len(one.outcomes), len(one.rows)))
        result = run_operation(operation)
    conclude(screen, result, as_json=partial(_json, host=host), show=partial(_show, values=values.show_values))


def _check_values(screen: ProgressScreen, values: Values) -> None:
    if values.show_values and (screen.as_json or not screen.consoles[0].is_terminal):
        raise UsageError("--show-values shows patients' data, and only on a terminal", hint="leave it out")


def _check_rows(table: Path, result: "SubjectsResult") -> None:
    if not result.rows:
        hint = next((issue.hint for issue in result.issues if issue.hint), "give a row for each subject")
        raise UsageError(f"{table} has no row that can be sent", hint=hint)


def _json(result: "SubjectsResult", *, host: str | None) -> dict[str, object]:
    return {
        **outcome_json("subjects", result, host),
        "dry_run": result.dry_run,
        "subjects": result.counts(),
        "details": [_detail(one) for one in result.outcomes],
        "flaws": issues_json(result.issues),
    }


def _detail(one: SubjectUpdated | SubjectError) -> dict[str, object]:
    reason = one.reason if isinstance(one, SubjectError) else None
    found = one if isinstance(one, SubjectUpdated) else SubjectUpdated(one.project, one.subject, "", "")
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


def _show(out: Console, result: "SubjectsResult", *, values: bool) -> None:
    show_issues(out, result.issues)
    if not result.rows:
        return
    counts = result.counts()
    words = [f"{counts[state]:,} {state}" for state in counts if state != "total" and counts[state]]
    would = "would be " if result.dry_run else ""
    out.print(Text(f"{counted(counts['total'], 'subject')}: {would}{', '.join(words)}", style="bold"))
    lines = [line for one in result.outcomes for line in _lines(one, dry_run=result.dry_run, values=values)]
    show_lines(out, lines, is_whole=values)
    if any(isinstance(one, SubjectUpdated) and one.kept for one in result.outcomes):
        out.print(Text("hint: --overwrite-demographics replaces what XNAT has"))


def _lines(one: SubjectUpdated | SubjectError, *, dry_run: bool, values: bool) -> list[str]:
    """Return a line for each difference and each error."""
    where = f"{one.project} / {one.subject}"
    if isinstance(one, SubjectError):
        return [f"{one.state}: {where}: {plain(one.reason)}"]
    if one.label and one.label != one.subject:
        where += f" (in XNAT {one.label})"
    lines = []
    if one.alike:
        lines.append(f"alike: {where}: XNAT also has {', '.join(one.alike)}, and ignores case when it archives")
    for word, differences in (("kept", one.kept), ("to be replaced" if dry_run else "replaced", one.replaced)):
        if differences:
            lines.append(f"{word}: {where}: {', '.join(_difference(each, values=values) for each in differences)}")
    return lines


def _difference(one: Difference, *, values: bool) -> str:
    theirs = one.instead or one.name
    if values:
        return f"{one.name} {plain(one.ours)}, in XNAT {theirs} {plain(one.theirs)}"
    return f"{one.name} (in XNAT {theirs})" if one.instead else one.name
