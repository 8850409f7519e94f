"""What XNAT's own workers do to prearchive sessions: rebuild, move, delete, and build what is idle. No HTTP."""

import anyio

from .building import build
from .call import Engine
from .conflicts import Terms
from .held import ARCHIVING, BUILDING, DELETING, Left
from .jobs import Job, is_auto_archive, overwrites_files, run
from .site import TestXnat
from .state import PrearchiveRow, Project, RowStatus
from .tracking import Tracked

__all__ = ["build_idle", "delete_row", "finish", "move_row", "rebuild"]

_SECONDS = 60


async def build_idle(xnat: TestXnat, engine: Engine) -> int:
    """Build, and perhaps archive, what has not received files for a while (SessionXMLRebuilder); return how many.

    Rows that were told to wait for a commit, or whose source is "uploader", are left alone.
    """
    due = [row for row in xnat.prearchive if _is_idle(xnat, row)]
    for row in due:
        row.status = RowStatus.QUEUED_BUILDING
    for row in due:
        await rebuild(xnat, engine, row, archive=True)
    return len(due)


def _is_idle(xnat: TestXnat, row: PrearchiveRow) -> bool:
    return (
        row.status is RowStatus.RECEIVING
        and not row.prevent_auto_commit
        and row.source != "uploader"
        and (xnat.clock() - row.touched) // _SECONDS >= xnat.idle_minutes
        and row.writing == 0
    )


async def rebuild(xnat: TestXnat, engine: Engine, row: PrearchiveRow, *, archive: bool) -> None:
    """Build a queued session, and archive it if that is how it was received (PrearchiveRebuildHandler).

    A file that arrives meanwhile puts it back: it is received on, and not archived.
    """
    if row.status.locked or row not in xnat:
        return
    row.status = RowStatus.BUILDING
    await anyio.sleep(xnat.timing.queue_seconds)
    if row.status is RowStatus.RECEIVING_INTERRUPT:
        row.status = RowStatus.RECEIVING
        return
    if row.status.locked or row not in xnat:
        return
    await build(xnat, row)
    project = xnat.projects.get(row.project or "")
    if not archive or project is None or not is_auto_archive({}, row, project):
        return
    row.status = RowStatus.QUEUED_ARCHIVING
    terms = Terms(override=False, overwrite_files=overwrites_files(row, project), allow_merge=True)
    await run(xnat, engine, Job(row, {}, terms, Tracked(row.uri)))


async def move_row(xnat: TestXnat, row: PrearchiveRow, project: Project) -> None:
    """Move a session to another project's prearchive."""
    row.status = RowStatus.LOCKED_MOVING
    old = row.path
    moves = [
        (
            (*old, "SCANS", folder, "DICOM", name),
            ("prearchive", project.id, *old[2:], "SCANS", folder, "DICOM", name),
        )
        for folder, files in row.scans.items()
        for name in files
    ]
    await xnat.storage.move(moves)
    await xnat.storage.remove(old)
    xnat.remove_row(row)
    row.project = project.id
    row.status = RowStatus.READY
    xnat.add_row(row)


async def delete_row(xnat: TestXnat, row: PrearchiveRow) -> None:
    """Delete a session and its files."""
    xnat.remove_row(row)
    await xnat.storage.remove(row.path)


async def finish(xnat: TestXnat, engine: Engine, left: Left) -> None:
    """Go on with a row that has been left in a status, when it is let go."""
    await left.released()
    await _finish(xnat, engine, left)
    if left in xnat.left:
        xnat.left.remove(left)
    left.end()


async def _finish(xnat: TestXnat, engine: Engine, left: Left) -> None:
    row, status = left.row, left.status
    # What has been given another status meanwhile is not built or deleted; an archiving does not look.
    if row not in xnat or (row.status is not status and status not in ARCHIVING):
        return
    if left.then is not None:
        row.status = left.then
    elif status in BUILDING:
        row.status = RowStatus.BUILDING
        await build(xnat, row)
    elif status in DELETING:
        await delete_row(xnat, row)
    elif status in ARCHIVING:
        row.status = RowStatus.QUEUED_ARCHIVING
        project = xnat.projects.get(row.project or "")
        terms = Terms(
            override=left.params.get("overwrite") in {"append", "delete"},
            overwrite_files=project is not None and overwrites_files(row, project),
            allow_merge=True,
        )
        await run(xnat, engine, Job(row, left.params, terms, Tracked(row.uri), left.files))
