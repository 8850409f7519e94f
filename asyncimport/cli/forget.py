"""`asyncimport forget`: take out of a journal what no longer matters. It tells first, and never calls the server."""

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from asyncimport.cli.options import Host, JournalFile, NoColor, Output, OutputOption, Profile, Project, StateDir
from asyncimport.cli.output import consoles, plain, show_error, show_other_journals, write_json
from asyncimport.errors import AsyncimportError, UsageError
from asyncimport.journal.forgetting import Forgetting, Matter
from asyncimport.operations.journals import meant_journal
from asyncimport.reporting.progress import human_bytes

__all__ = ["forget"]

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
    done = False
    try:
        if [bool(session), held, gone, archived_before is not None].count(True) != 1:
            raise UsageError(
                "what is to be forgotten?", hint="give one of --session, --held, --gone and --archived-before"
            )
        before = None if archived_before is None else _seconds(archived_before)
        path, part, others = meant_journal(host, project, state_dir, journal)
        show_other_journals(err, project, others)
        with Forgetting.of(path, part=part) as forgetting:
            for label in dict.fromkeys(name.lower() for name in session or ()):
                forgetting.sessions(label, force=force)
            if held:
                forgetting.held(force=force)
            if gone:
                forgetting.gone(force=force)
            if before is not None:
                forgetting.archived(before, force=force)
            found = [matter for matter in forgetting.found if matter.kept is None]
            if output is Output.TABLE:
                _show(out, forgetting.found)
            if found and (yes or (sys.stdin.isatty() and typer.confirm("Forget this?", err=True))):
                forgetting.forget()
                done = True
            if output is Output.JSON:
                matters = [_json(matter) for matter in forgetting.found]
                write_json({"forgotten": done, "found": matters, "other_journals": [plain(str(one)) for one in others]})
            if found and not (done or sys.stdin.isatty()):
                raise UsageError(_NOTHING, hint="give --yes")
        if not done:
            err.print(Text(_NOTHING))
    except AsyncimportError as error:
        show_error(err, error)
        raise typer.Exit(error.exit_code) from None


def _seconds(day: str) -> float:
    """Return the beginning of a day, by this machine's clock, in seconds since 1970."""
    try:
        return datetime.strptime(day, "%Y-%m-%d").astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"--archived-before {day} cannot be", hint="give a day, such as 2026-01-31") from None


def _show(out: Console, found: Sequence[Matter]) -> None:
    for title, matters in (
        ("to be forgotten", [matter for matter in found if matter.kept is None]),
        ("to be kept", [matter for matter in found if matter.kept is not None]),
    ):
        if not matters:
            continue
        files, size = sum(matter.files for matter in matters), sum(matter.size for matter in matters)
        out.print(Text(f"{title}: {files:,} files, {human_bytes(size)}", style="bold"))
        for matter in matters[:_SHOWN]:
            out.print(Text(f"  {_line(matter)}"))
        if len(matters) > _SHOWN:
            out.print(Text(f"  and {len(matters) - _SHOWN:,} more: see -o json"))
    if any(matter.is_whole and matter.state == "archived" and matter.kept is None for matter in found):
        out.print(
            Text(
                "An archived session is sent again the next time, and XNAT will see a conflict "
                "unless it is deleted there first."
            )
        )


def _line(matter: Matter) -> str:
    where = matter.session
    text = f"{where.project} / {where.subject} / {where.label}: " if where else ""
    text += f"{'session, ' if matter.is_whole else ''}{matter.state.replace('_', ' ')}, {matter.files:,} files"
    if matter.uri:
        text += f", {plain(matter.uri)}"
    elif matter.example:
        text += f", such as {plain(matter.example)}"
    return f"{text}: {matter.kept}" if matter.kept else text


def _json(matter: Matter) -> dict[str, object]:
    session = matter.session
    return {
        "project": session and session.project,
        "subject": session and session.subject,
        "session": session and session.label,
        "study_uid": session and session.study_uid,
        "whole": matter.is_whole,
        "state": matter.state,
        "files": matter.files,
        "bytes": matter.size,
        "example": plain(matter.example) or None,
        "uri": matter.uri,
        "kept": matter.kept,
    }
