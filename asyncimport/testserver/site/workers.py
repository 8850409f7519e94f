"""XNAT's background work on prearchive rows: rebuild, separate, move, delete, and build idle ones."""

from dataclasses import replace
from typing import Literal

import anyio

from .archiving import Job, is_auto_archive, overwrites_files, run
from .building import build
from .conflicts import MergeOptions
from .gates import HeldRow
from .prearchive import ARCHIVING, BUILDING, DELETING, PrearchiveRow, RowStatus
from .projects import Project
from .runtime import Runtime
from .site import Site

_SECONDS = 60


async def build_idle(site: Site, runtime: Runtime) -> int:
    """Build, and perhaps archive, rows that have received no files for a while (SessionXMLRebuilder); return how many.

    Rows that wait for a commit, or whose source is "uploader", are left alone. Sessions on their way straight into the
    archive are archived, whatever they wait for.
    """
    for row in [row for row in site.direct_rows.values() if _receives_nothing(site, row)]:
        await archive_directly(site, runtime, row)
    due = [row for row in site.prearchive if _is_idle(site, row)]
    for row in due:
        row.status = RowStatus.QUEUED_BUILDING
    for row in due:
        await rebuild(site, runtime, row, archive=True)
    return len(due)


def _is_idle(site: Site, row: PrearchiveRow) -> bool:
    return not row.prevent_auto_commit and row.source != "uploader" and _receives_nothing(site, row)


def _receives_nothing(site: Site, row: PrearchiveRow) -> bool:
    is_old = (site.clock() - row.touched) // _SECONDS >= site.idle_minutes
    return row.status is RowStatus.RECEIVING and is_old and row.writing == 0


async def archive_directly(site: Site, runtime: Runtime, row: PrearchiveRow) -> None:
    """Build and archive a session whose files are in the archive already (DirectArchiveSessionServiceImpl.build)."""
    await build(site, row)
    await run(site, runtime, Job(row))


async def rebuild(site: Site, runtime: Runtime, row: PrearchiveRow, *, archive: bool) -> None:
    """Build a queued row; with `archive`, archive it too if it is set to be (PrearchiveRebuildHandler).

    A file that arrives meanwhile puts it back to RECEIVING, and it is not archived.
    """
    if row.status.is_locked or row not in site:
        return
    row.status = RowStatus.BUILDING
    await anyio.sleep(site.timing.queue_seconds)
    if row.status is RowStatus.RECEIVING_INTERRUPT:
        row.status = RowStatus.RECEIVING
        return
    if row.status.is_locked or row not in site:
        return
    await build(site, row)
    project = site.projects.get(row.project or "")
    modalities = row.document.modalities if row.document is not None else set()
    rows = [row]
    if site.pet_mr_of(row.project) == "separate" and {"PT", "MR"} <= modalities:
        rows = await _separate_pet_mr(site, row)
    if not archive or project is None or not is_auto_archive({}, row, project):
        return
    for one in rows:
        one.status = RowStatus.QUEUED_ARCHIVING
        options = MergeOptions(overwrite_files=overwrites_files(one, project))
        await run(site, runtime, Job(one, options=options))


async def _separate_pet_mr(site: Site, row: PrearchiveRow) -> list[PrearchiveRow]:
    """Divide a row into an MR and a PET row, and return them (PrearcDatabase._separatePetMrSession)."""
    row.status = RowStatus.SEPARATING
    parts = []
    for kind in ("MR", "PET"):
        label = _unique_label(site, row, kind)
        scans = {
            folder: {name: file for name, file in files.items() if (file.series.modality == "PT") is (kind == "PET")}
            for folder, files in row.scans.items()
        }
        part = replace(
            row,
            timestamp=site.free_timestamp(row.project, label),
            folder=label,
            name=label,
            status=RowStatus.READY,
            scans={folder: files for folder, files in scans.items() if files},
            series=dict(row.series),
            document=None,
            logs=[],
        )
        await site.storage.move(
            (row.file_path(folder, name), part.file_path(folder, name))
            for folder, files in part.scans.items()
            for name in files
        )
        site.add_row(part)
        await build(site, part)
        parts.append(part)
    await delete_row(site, row)
    return parts


def _unique_label(site: Site, row: PrearchiveRow, kind: str) -> str:
    """Return the label of a part (PrearcDatabase.getUniqueSessionLabel): numbered if the archive has it already."""
    if "PETMR" in row.name:
        label = row.name.replace("PETMR", kind)
    elif "petmr" in row.name:
        label = row.name.replace("petmr", kind.lower())
    else:
        label = f"{row.name}_{kind}"
    number = 0
    while site.experiment_labelled(row.project, f"{label}{number or ''}") is not None:
        number += 1
    return f"{label}{number or ''}"


async def administer(
    site: Site, runtime: Runtime, row: PrearchiveRow, act: Literal["archive", "delete", "move"], project: str
) -> None:
    """Do what an administrator does to a prearchive row in the browser, to its end; `project` is where a move goes."""
    if row.status.is_locked or row not in site:
        return
    match act:
        case "archive":
            await build(site, row)
            await run(site, runtime, Job(row))
        case "delete":
            await delete_row(site, row)
        case "move":
            await move_row(site, row, site.project(project) if project else None)


async def move_row(site: Site, row: PrearchiveRow, project: Project | None) -> None:
    """Move a row to another project's prearchive, or to Unassigned."""
    row.status = RowStatus.LOCKED_MOVING
    target = replace(row, project=None if project is None else project.id)
    await site.storage.move(
        (row.file_path(folder, name), target.file_path(folder, name))
        for folder, files in row.scans.items()
        for name in files
    )
    await site.storage.remove(row.path)
    site.remove_row(row)
    row.project = target.project
    row.status = RowStatus.READY
    site.add_row(row)


async def delete_row(site: Site, row: PrearchiveRow) -> None:
    """Delete a row and its files."""
    site.remove_row(row)
    await site.storage.remove(row.path)


async def resume_row(site: Site, runtime: Runtime, held_row: HeldRow) -> None:
    """Continue the work on a held row when it is released."""
    await held_row.released()
    await _resume(site, runtime, held_row)
    if held_row in site.held_rows:
        site.held_rows.remove(held_row)
    held_row.settle()


async def _resume(site: Site, runtime: Runtime, held_row: HeldRow) -> None:
    row, status = held_row.row, held_row.status
    # A row that has another status by now is not built or deleted; an archiving does not look at it.
    if row not in site or (row.status is not status and status not in ARCHIVING):
        return
    if held_row.then is not None:
        row.status = held_row.then
    elif status in BUILDING:
        row.status = RowStatus.BUILDING
        await build(site, row)
    elif status in DELETING:
        await delete_row(site, row)
    elif status in ARCHIVING:
        row.status = RowStatus.QUEUED_ARCHIVING
        project = site.projects.get(row.project or "")
        options = MergeOptions(
            override=held_row.params.get("overwrite") in {"append", "delete"},
            overwrite_files=project is not None and overwrites_files(row, project),
        )
        await run(site, runtime, Job(row, held_row.params, options, files=held_row.files))
