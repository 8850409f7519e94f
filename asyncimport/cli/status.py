"""`asyncimport status`: what the journal holds. It reads beside a run and never disturbs it."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from asyncimport.cli.journals import existing_journal
from asyncimport.cli.options import Host, JournalFile, NoColor, Output, OutputOption, Project, StateDir
from asyncimport.cli.output import consoles, plain, show_error, show_summary, summary_json, write_json
from asyncimport.errors import AsyncimportError, UsageError
from asyncimport.journal import Ledger
from asyncimport.progress import human_bytes

__all__ = ["status"]


def status(
    session: Annotated[str | None, typer.Argument(metavar="[SESSION]", help="A session label: show its files.")] = None,
    host: Host = None,
    project: Project = None,
    output: OutputOption = Output.TABLE,
    state_dir: StateDir = None,
    journal: JournalFile = None,
    no_color: NoColor = False,
) -> None:
    """Show what was uploaded, what is left, and why."""
    out, err = consoles(no_color=no_color)
    try:
        path = existing_journal(host, project, state_dir, journal)
        with Ledger.read(path) as ledger:
            if session is not None:
                _session(out, ledger, session, as_json=output is Output.JSON)
            else:
                _journal(out, ledger, as_json=output is Output.JSON)
    except AsyncimportError as error:
        show_error(err, error)
        raise typer.Exit(error.exit_code) from None


def _journal(out: Console, ledger: Ledger, *, as_json: bool) -> None:
    about, runs, summary = ledger.about(), ledger.runs(), ledger.summary()
    last = runs[-1] if runs else None
    if as_json:
        value = summary_json(
            summary,
            run=str(last.key) if last else None,
            host=about["destination"],
            seconds=0.0,
            code=0,
        )
        value["rules"] = {name.removeprefix("rule "): rule for name, rule in about.items() if name != "destination"}
        value["runs"] = [
            {"run": str(run.key), "started": run.started, "ended": run.ended, "exit_code": run.exit_code}
            for run in runs
        ]
        write_json(value)
        return
    out.print(Text(f"{about['destination']}, project {about.get('rule project')}", style="bold"))
    for run in runs[-5:]:
        end = f"ended {run.ended} with exit code {run.exit_code}" if run.ended else "has not ended, or was killed"
        out.print(Text(f"  run {run.key}: started {run.started}, {end}"))
    show_summary(out, summary, seconds=None)


def _session(out: Console, ledger: Ledger, label: str, *, as_json: bool) -> None:
    rows = ledger.instances(label)
    if not rows:
        raise UsageError(f"the journal knows no session {label}", hint="`asyncimport status -o json` lists them all")
    if as_json:
        write_json(
            {
                "session": label,
                "files": [
                    {
                        "path": plain(row.file.path),
                        "bytes": row.file.size,
                        "sop_uid": row.sop_uid,
                        "state": row.state.lower(),
                        "reason": row.reason,
                    }
                    for row in rows
                ],
            }
        )
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("state", "size", "path", "reason"):
        table.add_column(heading, no_wrap=True, overflow="fold")
    for row in rows:
        table.add_row(
            Text(row.state.lower()),
            human_bytes(row.file.size),
            Text(plain(row.file.path)),
            Text(row.reason or ""),
        )
    out.print(table)
