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

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from asyncimport.cli.output import consoles, issues_json, show_issues
from asyncimport.cli.profiles import server_from
from asyncimport.cli.running import conclude, counted, run_operation
from asyncimport.demographics import Difference
from asyncimport.errors import UsageError
from asyncimport.model.texts import plain
from asyncimport.xnat.subjects import SubjectError, SubjectUpdated

if TYPE_CHECKING:
    from asyncimport.operations.subjects import SubjectsResult

_SHOWN = 20
_STEP = 100


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
    from asyncimport.operations.subjects import SubjectsRequest, SubjectsResult, read_table
    from asyncimport.operations.subjects import subjects as carry_out

    out, err = consoles(no_color=no_color)
    result = SubjectsResult(dry_run=dry_run)
    try:
        _check_values(out, output, show_values=show_values)
        result.rows, result.issues = read_table(table, project or "", encoding, null_clears=null_clears)
        _check_rows(table, result)
        server = server_from(host, user, profile, ca_bundle, password_stdin=password_stdin, insecure=insecure)
    except UsageError as error:
        result.error = error
    else:
        host = server.host
        request = SubjectsRequest(
            server=server,
            rows=result.rows,
            issues=result.issues,
            overwrite=overwrite,
            existing_only=existing_only,
            event_reason=event_reason,
            dry_run=dry_run,
        )
        count = counted(err, "subjects", step=_STEP, quiet=quiet)
        operation = partial(carry_out, request, report=lambda one: count(len(one.outcomes), len(one.rows)))
        result = run_operation(operation)
    conclude(out, err, result, host=host, output=output, as_json=_json, show=partial(_show, values=show_values))


def _check_values(out: Console, output: Output, *, show_values: bool) -> None:
    if show_values and (output is Output.JSON or not out.is_terminal):
        raise UsageError("--show-values shows patients' data, and only on a terminal", hint="leave it out")


def _check_rows(table: Path, result: "SubjectsResult") -> None:
    if not result.rows:
        hint = next((issue.hint for issue in result.issues if issue.hint), "give a row for each subject")
        raise UsageError(f"{table} has no row that can be sent", hint=hint)


def _json(result: "SubjectsResult") -> dict[str, object]:
    return {
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
    out.print(Text(f"{counts['total']:,} subjects: {would}{', '.join(words)}", style="bold"))
    told = [line for one in result.outcomes for line in _lines(one, dry_run=result.dry_run, values=values)]
    for line in told[:_SHOWN] if not values else told:
        out.print(Text(f"  {line}"))
    if len(told) > _SHOWN and not values:
        out.print(Text(f"  and {len(told) - _SHOWN:,} more: see -o json"))
    if any(isinstance(one, SubjectUpdated) and one.kept for one in result.outcomes):
        out.print(Text("hint: --overwrite-demographics replaces what XNAT has"))


def _lines(one: SubjectUpdated | SubjectError, *, dry_run: bool, values: bool) -> list[str]:
    """Return what is worth a line: differences, and what did not work."""
    where = f"{one.project} / {one.subject}"
    if isinstance(one, SubjectError):
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
