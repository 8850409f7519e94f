"""What XNAT's own workers do to prearchive sessions: rebuild, move, delete, and build what is idle. No HTTP."""

from dataclasses import replace
from datetime import timedelta

import anyio

from .actions import Administer
from .building import build
from .call import Engine
from .conflicts import Terms
from .held import ARCHIVING, BUILDING, DELETING, Left
from .jobs import Job, is_auto_archive, overwrites_files, run
from .names import make_timestamp
from .site import TestXnat
from .state import UNASSIGNED, PrearchiveRow, Project, RowStatus
from .tracking import Tracked

__all__ = ["administer", "build_idle", "delete_row", "finish", "move_row", "rebuild"]

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
    modalities = row.document.modalities if row.document is not None else set()
    rows = [row]
    if xnat.pet_mr_of(row.project) == "separate" and {"PT", "MR"} <= modalities:
        rows = await separate(xnat, row)
    if not archive or project is None or not is_auto_archive({}, row, project):
        return
    for one in rows:
        one.status = RowStatus.QUEUED_ARCHIVING
        terms = Terms(override=False, overwrite_files=overwrites_files(one, project), allow_merge=True)
        await run(xnat, engine, Job(one, {}, terms, Tracked(one.uri)))


async def separate(xnat: TestXnat, row: PrearchiveRow) -> list[PrearchiveRow]:
    """Divide a session into an MR and a PET session, and return their rows (PrearcDatabase._separatePetMrSession)."""
    row.status = RowStatus.SEPARATING
    made = []
    for modality, kind in (("MR", "MR"), ("PT", "PET")):
        label = _unique_label(xnat, row, kind)
        moment = xnat.now()
        while xnat.find_row(row.project or UNASSIGNED, make_timestamp(moment), label) is not None:
            moment += timedelta(milliseconds=1)
        scans = {
            folder: {name: file for name, file in files.items() if (file.series.modality == "PT") is (modality == "PT")}
            for folder, files in row.scans.items()
        }
        new = replace(
            row,
            timestamp=make_timestamp(moment),
            folder=label,
            name=label,
            status=RowStatus.READY,
            scans={folder: files for folder, files in scans.items() if files},
            series=dict(row.series),
            document=None,
            logs=[],
        )
        await xnat.storage.move(
            (
                (*row.path, "SCANS", folder, "DICOM", name),
                (*new.path, "SCANS", folder, "DICOM", name),
            )
            for folder, files in new.scans.items()
            for name in files
        )
        xnat.add_row(new)
        await build(xnat, new)
        made.append(new)
    xnat.remove_row(row)
    await xnat.storage.remove(row.path)
    return made


def _unique_label(xnat: TestXnat, row: PrearchiveRow, kind: str) -> str:
    """Return the label of a part (PrearcDatabase.getUniqueSessionLabel): numbered where the archive has it."""
    if "PETMR" in row.name:
        label = row.name.replace("PETMR", kind)
    elif "petmr" in row.name:
        label = row.name.replace("petmr", kind.lower())
    else:
        label = f"{row.name}_{kind}"
    number = 0
    while xnat.experiment_labelled(row.project, f"{label}{number or ''}") is not None:
        number += 1
    return f"{label}{number or ''}"


async def administer(xnat: TestXnat, engine: Engine, row: PrearchiveRow, action: Administer) -> None:
    """Do what a person does to a session of the prearchive, on its page, and see it done."""
    if row.status.locked or row not in xnat:
        return
    match action.act:
        case "archive":
            await build(xnat, row)
            terms = Terms(override=False, overwrite_files=False, allow_merge=True)
            await run(xnat, engine, Job(row, {}, terms, Tracked(row.uri)))
        case "delete":
            await delete_row(xnat, row)
        case "move":
            await move_row(xnat, row, xnat.project(action.to) if action.to else None)


async def move_row(xnat: TestXnat, row: PrearchiveRow, project: Project | None) -> None:
    """Move a session to another project's prearchive, or to Unassigned."""
    row.status = RowStatus.LOCKED_MOVING
    old = row.path
    moves = [
        (
            (*old, "SCANS", folder, "DICOM", name),
            ("prearchive", UNASSIGNED if project is None else project.id, *old[2:], "SCANS", folder, "DICOM", name),
        )
        for folder, files in row.scans.items()
        for name in files
    ]
    await xnat.storage.move(moves)
    await xnat.storage.remove(old)
    xnat.remove_row(row)
    row.project = None if project is None else project.id
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
