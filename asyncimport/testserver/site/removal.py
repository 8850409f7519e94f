"""Removes sessions, scans, subjects and projects, and moves sessions and subjects, with their files.

Files that are not removed with their item stay on the disk, where no database row names them.
"""

from .archive import ArchivedSession, Scan
from .projects import Project
from .resource_owners import ResourceOwner, resources_of
from .site import Site
from .storage import PathParts
from .subjects import Subject


async def remove_session(site: Site, session: ArchivedSession, *, files: bool) -> None:
    """Remove a session and its scans."""
    if files:
        await site.storage.remove(session.path)
        site.orphans.pop((session.project, session.label), None)
    else:
        for scan in session.scans.values():
            _leave_scan(site, session, scan)
        _leave_resources(site, ResourceOwner.of_session(session))
    site.remove_experiment(session)


async def remove_scan(site: Site, session: ArchivedSession, scan: Scan, *, files: bool) -> None:
    """Remove a scan from its session."""
    if files:
        await site.storage.remove((*session.path, "SCANS", scan.id))
    else:
        _leave_scan(site, session, scan)
    del session.scans[scan.id]


async def remove_subject(site: Site, subject: Subject, *, files: bool) -> None:
    """Remove a subject, but none of its sessions."""
    if files:
        await site.storage.remove(subject.path)
    else:
        _leave_resources(site, ResourceOwner.of_subject(subject))
    site.remove_subject(subject)


async def remove_project(site: Site, project: Project, *, files: bool) -> None:
    """Remove a project and the rows of its prearchive, but none of its subjects and sessions."""
    for row in [row for row in site.prearchive if row.project == project.id]:
        site.remove_row(row)
        await site.storage.remove(row.path)
    if files:
        await site.storage.remove(("archive", project.id))
    site.remove_project(project)


async def relocate(site: Site, item: Subject | ArchivedSession, project: str, label: str) -> None:
    """Give an item another project, another label or both, and move its files along."""
    before = _file_paths(item)
    site.relocate(item, project, label)
    await site.storage.move(zip(before, _file_paths(item), strict=True))


def _file_paths(item: Subject | ArchivedSession) -> list[PathParts]:
    """Return where all files of an item are, catalogued or not, always in the same order."""
    owner = ResourceOwner.of_subject(item) if isinstance(item, Subject) else ResourceOwner.of_session(item)
    return [
        one.owner.file(one.resource, name)
        for one in resources_of(owner.with_scans())
        for name in [*one.resource.files, *one.resource.uncatalogued]
    ]


def _leave_scan(site: Site, session: ArchivedSession, scan: Scan) -> None:
    orphans = site.orphans.setdefault((session.project, session.label), set())
    orphans |= {(scan.id, label, name) for label, one in scan.resources.items() for name in one.files}


def _leave_resources(site: Site, owner: ResourceOwner) -> None:
    for resource in owner.resources.values():
        site.deleted_files[owner.folder(resource)] = resource.uncatalogued | resource.files
