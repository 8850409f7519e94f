"""Puts data into a site, damages it and reads it, without a request."""

from collections.abc import Mapping
from dataclasses import replace

from anyio import to_thread

from .site.archive import ArchivedSession
from .site.names import session_type
from .site.projects import EVERYONE, Project, User
from .site.resource_owners import ResourceOwner, create_resource
from .site.resources import NO_SERIES, FileMetadata, Series, StoredFile
from .site.site import Site
from .site.storage import Body
from .site.subjects import Subject

Owner = Project | Subject | ArchivedSession
"""An owner of resources; the scans of a session are named by their IDs."""


def add_reader(site: Site, name: str, project: str = "demo") -> User:
    """Add a user, with the name as the password, who may read a project and not change it."""
    found = site.project(project)
    found.editors = _editor_names(site, found)
    found.readers = [*found.readers, name]
    return site.add_user(User(name, name))


def add_creator(site: Site, name: str, project: str = "demo") -> User:
    """Add a user, with the name as the password, who may create data in a project and not change existing data.

    Editors may still create data.
    """
    found = site.project(project)
    found.editors = _editor_names(site, found)
    found.creators = [*(found.editors if found.creators is None else found.creators), name]
    return site.add_user(User(name, name))


def _editor_names(site: Site, project: Project) -> list[str]:
    """Return the editors by name, also if everybody is an editor."""
    editors = list(project.editors)
    return [name for name in site.users if name not in project.readers] if EVERYONE in editors else editors


def add_session(
    site: Site,
    subject: str,
    label: str,
    project: str = "demo",
    *,
    study_uid: str = "",
    scans: Mapping[str, str] | None = None,
) -> ArchivedSession:
    """Add an archived session without files, and its subject if there is none; `scans` are IDs and modalities.

    A scan's SeriesInstanceUID is that of the study, a dot, and its ID.
    """
    scans = {"1": "MR"} if scans is None else scans
    number = site.next_accession("E")
    study = study_uid or f"2.25.{site.next_number('study')}"
    session = ArchivedSession(
        id=number,
        project=project,
        subject=site.subject_for_archiving(project, subject),
        label=label,
        study_uid=study,
        xsi_type=session_type(set(scans.values())),
        date="2026-01-01",
        inserted=site.now(),
    )
    for scan, modality in scans.items():
        session.scans[scan] = site.new_scan(scan, Series(f"{study}.{scan}", scan, modality, ""))
    site.add_experiment(session)
    return session


async def add_file(
    site: Site,
    owner: Owner,
    resource: str,
    name: str,
    data: bytes,
    *,
    scan: str = "",
    catalogued: bool = True,
    complete: bool = True,
) -> StoredFile:
    """Store a file in a resource, which is created if there is none; without `catalogued`, only on the disk."""
    target = _resource_owner(owner, scan)
    found = target.resources.get(resource) or create_resource(site, target, resource, FileMetadata())
    size, digest = await site.storage.write(target.file(found, name), Body.of(data, complete=complete))
    file = StoredFile(name, size, digest, "", NO_SERIES, complete, metadata=FileMetadata())
    if catalogued:
        found.files[name] = file
        found.version += 1
        found.recount()
    else:
        found.uncatalogued[name] = file
    return file


async def file_bytes(site: Site, owner: Owner, resource: str, name: str, *, scan: str = "") -> bytes:
    """Return the bytes of a file, catalogued or not. Raises FileNotFoundError, also if bytes are not kept."""
    target = _resource_owner(owner, scan)
    path = site.storage.path(target.file(target.resources[resource], name))
    if path is None:
        raise FileNotFoundError(name)
    return await to_thread.run_sync(path.read_bytes)


async def lose_file(site: Site, owner: Owner, resource: str, name: str) -> None:
    """Delete a file from the disk, as a failing disk does: its catalog lists it as before."""
    target = _resource_owner(owner)
    await site.storage.delete(target.file(target.resources[resource], name))


async def damage_file(site: Site, owner: Owner, resource: str, name: str, data: bytes) -> None:
    """Write other bytes into a file on the disk, as a cut transfer over it does; the catalog keeps its digest.

    The listed size stays if catalogs have sizes; otherwise it is that of the file.
    """
    target = _resource_owner(owner)
    found = target.resources[resource]
    await site.storage.write(target.file(found, name), Body.of(data, complete=False))
    if not site.profile.catalog_has_sizes:
        found.files[name] = replace(found.files[name], size=len(data))


def lose_entry(owner: Owner, resource: str, name: str) -> None:
    """Remove a file from the catalog but not from the disk, as when one of two catalog writes undoes the other."""
    found = _resource_owner(owner).resources[resource]
    found.uncatalogued[name] = found.files.pop(name)
    found.version += 1


def _resource_owner(owner: Owner, scan: str = "") -> ResourceOwner:
    match owner:
        case Project():
            return ResourceOwner.of_project(owner)
        case Subject():
            return ResourceOwner.of_subject(owner)
        case ArchivedSession() if scan:
            return ResourceOwner.of_scan(owner, owner.scans[scan])
        case ArchivedSession():
            return ResourceOwner.of_session(owner)
