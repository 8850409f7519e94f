"""`asyncimport forget`: delete from a journal what is no longer needed. It asks first, and never calls XNAT."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from asyncimport.cli.conclusion import conclude, outcome_json
from asyncimport.cli.options import Place, ResultScreen
from asyncimport.cli.output import session_name, show_lines, show_other_journals
from asyncimport.cli.parameters import command
from asyncimport.errors import UsageError
from asyncimport.journal.prune import PruneItem
from asyncimport.model.option import option
from asyncimport.model.options import ForgetOptions, JournalOptions
from asyncimport.model.texts import counted, plain
from asyncimport.operations.forget import ForgetRequest, ForgetResult, prune_journal
from asyncimport.operations.journals import select_journal
from asyncimport.reporting.entries import session_names
from asyncimport.reporting.progress import human_bytes

_NOTHING = "nothing was forgotten"


@dataclass(frozen=True, kw_only=True)
class Consent:
    """Whether to ask first."""

    yes: bool = option("--yes", "-y", default=False, help="Do it, and do not ask.")


@command()
def forget(
    *, options: ForgetOptions, consent: Consent, place: Place, journal: JournalOptions, screen: ResultScreen
) -> None:
    """Delete from the journal what is no longer needed. It says what first; XNAT and your files stay as they are."""
    out, err = screen.consoles
    can_ask = sys.stdin.isatty()

    def agree(found: Sequence[PruneItem]) -> bool:
        if not screen.as_json:
            _show(out, found)
        return consent.yes or (can_ask and _is_any(found) and typer.confirm("Forget this?", err=True))

    request = ForgetRequest(journal=Path(), **vars(options))
    request.check()
    path, project, others = select_journal(place.host, place.project, journal.state_dir, journal.journal)
    show_other_journals(err, place.project, others)
    result = prune_journal(replace(request, journal=path, project=project), agree)
    if not result.is_done and not can_ask and _is_any(result.found):
        result.error = UsageError(_NOTHING, hint="give --yes")
    elif not result.is_done:
        err.print(Text(_NOTHING))
    conclude(screen, result, as_json=partial(_json, others=others), show=lambda *_: None)


def _is_any(found: Sequence[PruneItem]) -> bool:
    return any(item.keep_reason is None for item in found)


def _json(result: ForgetResult, *, others: Sequence[Path]) -> dict[str, object]:
    return {
        **outcome_json("forget", result, None),
        "forgotten": result.is_done,
        "found": [_item_json(item) for item in result.found],
        "other_journals": [plain(str(one)) for one in others],
    }


def _show(out: Console, found: Sequence[PruneItem]) -> None:
    for title, items in (
        ("to be forgotten", [item for item in found if item.keep_reason is None]),
        ("to be kept", [item for item in found if item.keep_reason is not None]),
    ):
        if not items:
            continue
        files, size = sum(item.files for item in items), sum(item.size for item in items)
        out.print(Text(f"{title}: {counted(files, 'file')}, {human_bytes(size)}", style="bold"))
        show_lines(out, [_line(item) for item in items])
    if any(item.is_whole and item.state == "archived" and item.keep_reason is None for item in found):
        warning = "Of an archived session, the next upload sends what the archive lacks."
        out.print(Text(warning))


def _line(item: PruneItem) -> str:
    text = f"{session_name(item.session)}: " if item.session else ""
    text += f"{'session, ' if item.is_whole else ''}{item.state.replace('_', ' ')}, {counted(item.files, 'file')}"
    if item.uri:
        text += f", {plain(item.uri)}"
    elif item.example:
        text += f", such as {plain(item.example)}"
    return f"{text}: {item.keep_reason}" if item.keep_reason else text


def _item_json(item: PruneItem) -> dict[str, object]:
    no_session: dict[str, object] = dict.fromkeys(("project", "subject", "session", "study_uid"))
    return {
        **(session_names(item.session) if item.session else no_session),
        "whole": item.is_whole,
        "state": item.state,
        "files": item.files,
        "bytes": item.size,
        "example": plain(item.example) or None,
        "uri": item.uri,
        "kept": item.keep_reason,
    }
