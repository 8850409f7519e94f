"""`asyncimport forget`: take out of a journal what no longer matters. It tells first, and never calls the server."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from asyncimport.cli.options import Host, JournalFile, NoColor, Output, OutputOption, Profile, Project, StateDir
from asyncimport.cli.output import consoles, show_error, show_other_journals, write_json
from asyncimport.errors import AsyncimportError, UsageError
from asyncimport.journal.prune import PruneItem
from asyncimport.model.texts import plain
from asyncimport.operations.forget import ForgetRequest, prune_journal
from asyncimport.operations.journals import select_journal
from asyncimport.reporting.progress import human_bytes

_SHOWN = 20
_NOTHING = "nothing was forgotten"


def forget(
    host: Host = None,
    profile: Profile = None,  # noqa: ARG001 - what it says comes as the other options' values
    project: Project = None,
    session: Annotated[
        list[str] | None,
        typer.Option(
            "--session", metavar="LABEL", help="A session, whole: it is scanned and sent as new the next time."
        ),
    ] = None,
    held: Annotated[bool, typer.Option("--held", help="All sessions that are held, whole.")] = False,
    gone: Annotated[
        bool,
        typer.Option("--gone", help="Files that are no longer on disk and that XNAT does not have."),
    ] = False,
    archived_before: Annotated[
        str | None,
        typer.Option(
            "--archived-before",
            metavar="DATE",
            help="Files of sessions archived and verified before that day, and no longer on disk.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also where XNAT holds an unfinished delivery, and where files may be gone because a disk is.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it, and do not ask.")] = False,
    output: OutputOption = Output.TABLE,
    state_dir: StateDir = None,
    journal: JournalFile = None,
    no_color: NoColor = False,
) -> None:
    """Take out of the journal what no longer matters. It says what first; XNAT and your files stay as they are."""
    out, err = consoles(no_color=no_color)
    is_asked = sys.stdin.isatty()

    def agree(found: Sequence[PruneItem]) -> bool:
        if output is Output.TABLE:
            _show(out, found)
        is_any = any(item.kept is None for item in found)
        return yes or (is_any and is_asked and typer.confirm("Forget this?", err=True))

    try:
        before = None if archived_before is None else _day(archived_before)
        request = ForgetRequest(
            journal=Path(), sessions=session or (), held=held, gone=gone, archived_before=before, force=force
        )
        request.check()
        path, part, others = select_journal(host, project, state_dir, journal)
        show_other_journals(err, project, others)
        request = replace(request, journal=path, project=part)
        result = prune_journal(request, agree)
        if output is Output.JSON:
            items = [_json(item) for item in result.found]
            names = [plain(str(one)) for one in others]
            write_json({"forgotten": result.is_done, "found": items, "other_journals": names})
        if not (result.is_done or is_asked) and any(item.kept is None for item in result.found):
            raise UsageError(_NOTHING, hint="give --yes")
        if not result.is_done:
            err.print(Text(_NOTHING))
    except AsyncimportError as error:
        show_error(err, error)
        raise typer.Exit(error.exit_code) from None


def _day(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").astimezone().date()
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"--archived-before {text} cannot be", hint="give a day, such as 2026-01-31") from None


def _show(out: Console, found: Sequence[PruneItem]) -> None:
    for title, items in (
        ("to be forgotten", [item for item in found if item.kept is None]),
        ("to be kept", [item for item in found if item.kept is not None]),
    ):
        if not items:
            continue
        files, size = sum(item.files for item in items), sum(item.size for item in items)
        out.print(Text(f"{title}: {files:,} files, {human_bytes(size)}", style="bold"))
        for item in items[:_SHOWN]:
            out.print(Text(f"  {_line(item)}"))
        if len(items) > _SHOWN:
            out.print(Text(f"  and {len(items) - _SHOWN:,} more: see -o json"))
    if any(item.is_whole and item.state == "archived" and item.kept is None for item in found):
        out.print(
            Text(
                "An archived session is sent again the next time, and XNAT will see a conflict "
                "unless it is deleted there first."
            )
        )


def _line(item: PruneItem) -> str:
    where = item.session
    text = f"{where.project} / {where.subject} / {where.label}: " if where else ""
    text += f"{'session, ' if item.is_whole else ''}{item.state.replace('_', ' ')}, {item.files:,} files"
    if item.uri:
        text += f", {plain(item.uri)}"
    elif item.example:
        text += f", such as {plain(item.example)}"
    return f"{text}: {item.kept}" if item.kept else text


def _json(item: PruneItem) -> dict[str, object]:
    session = item.session
    return {
        "project": session and session.project,
        "subject": session and session.subject,
        "session": session and session.label,
        "study_uid": session and session.study_uid,
        "whole": item.is_whole,
        "state": item.state,
        "files": item.files,
        "bytes": item.size,
        "example": plain(item.example) or None,
        "uri": item.uri,
        "kept": item.kept,
    }
