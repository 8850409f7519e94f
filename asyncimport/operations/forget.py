"""Delete entries from a journal. It never calls the server."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path

import anyio
import anyio.to_thread

from asyncimport.errors import UsageError
from asyncimport.journal.prune import PruneItem, Pruner
from asyncimport.model.options import ForgetOptions
from asyncimport.operations.result import Result, captured_in
from asyncimport.pacing.shutdown import Stop


@dataclass(frozen=True, kw_only=True)
class ForgetRequest(ForgetOptions):
    """What to delete: sessions by their labels, all held ones, files that are gone, or sessions archived long ago."""

    journal: Path
    project: str | None = None
    """Only what went to this one of several projects of the journal."""

    def check(self) -> None:
        """Refuse a request that selects nothing, or several kinds of things. Raises: UsageError."""
        kinds = [bool(self.sessions), self.held, self.gone, self.archived_before is not None]
        if kinds.count(True) != 1:
            raise UsageError("nothing selected", hint="give one of --session, --held, --gone and --archived-before")


@dataclass(slots=True, kw_only=True)
class ForgetResult(Result):
    """What was found, some of it kept for a reason, and whether the rest was deleted."""

    found: Sequence[PruneItem] = ()
    is_done: bool = False


async def forget(
    request: ForgetRequest, *, agree: Callable[[Sequence[PruneItem]], bool], stop: Stop | None = None
) -> ForgetResult:
    """Find what the request selects, and delete it if `agree` returns True. `agree` is called in a worker thread."""
    result = ForgetResult()
    with captured_in(result, stop or Stop()):
        pruned = await anyio.to_thread.run_sync(prune_journal, request, agree)
        result.found, result.is_done = pruned.found, pruned.is_done
    return result


def prune_journal(request: ForgetRequest, agree: Callable[[Sequence[PruneItem]], bool]) -> ForgetResult:
    """Do the same, but block. Raises: JournalError, UsageError."""
    request.check()
    with Pruner.of(request.journal, project=request.project) as pruner:
        for label in {name.lower(): name for name in request.sessions}.values():
            pruner.find_sessions(label, force=request.force)
        if request.held:
            pruner.find_held(force=request.force)
        if request.gone:
            pruner.find_gone(force=request.force)
        if request.archived_before is not None:
            pruner.find_archived(_seconds(request.archived_before), force=request.force)
        is_any = any(item.keep_reason is None for item in pruner.found)
        is_done = agree(pruner.found) and is_any
        if is_done:
            pruner.prune()
        return ForgetResult(found=tuple(pruner.found), is_done=is_done)


def _seconds(day: date) -> float:
    """Return the beginning of a day in seconds since 1970."""
    try:
        return datetime.combine(day, time()).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"invalid --archived-before {day}", hint="give a day such as 2026-01-31") from None
