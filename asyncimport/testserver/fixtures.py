"""What a test puts into a site before it begins, and takes out of it when it is done, without a request."""

from collections.abc import Mapping
from dataclasses import replace

from anyio import to_thread

from .names import session_type
from .places import Place, made, of_project, of_scan, of_session, of_subject
from .site import TestXnat
from .state import (
    EVERYONE,
    NO_SERIES,
    ArchivedSession,
    Described,
    Project,
    Series,
    StoredFile,
    Subject,
    User,
)
from .storage import Body

__all__ = [
    "Owner",
    "add_creator",
    "add_file",
    "add_reader",
    "add_session",
    "damage_file",
    "file_bytes",
    "lose_entry",
    "lose_file",
]

Owner = Project | Subject | ArchivedSession
"""What has resources; the scans of a session are named by their ids."""


def add_reader(xnat: TestXnat, name: str, project: str = "demo") -> User:
    """Add a user, with the name as the password, who may read a project and not change it."""
    found = xnat.project(project)
    found.editors = _closed(xnat, found)
    found.readers = [*found.readers, name]
    return xnat.add_user(User(name, name))


def add_creator(xnat: TestXnat, name: str, project: str = "demo") -> User:
    """Add a user, with the name as the password, who may make what is new in a project, and not change what is there.

    Those who may edit may still make what is new.
    """
    found = xnat.project(project)
    found.editors = _closed(xnat, found)
    found.creators = [*(found.editors if found.creators is None else found.creators), name]
    return xnat.add_user(User(name, name))


def _closed(xnat: TestXnat, project: Project) -> list[str]:
    """Return the editors by name, for a project that is everybody's."""
    editors = list(project.editors)
    return [name for name in xnat.users if name not in project.readers] if EVERYONE in editors else editors


def add_session(
    xnat: TestXnat,
    subject: str,
    label: str,
    project: str = "demo",
    *,
    study_uid: str = "",
    scans: Mapping[str, str] | None = None,
) -> ArchivedSession:
    """Add an archived session, and its subject where that is not there; `scans` are ids and modalities.

    It has no files; a scan's SeriesInstanceUID is that of the study, and its id.
    """
    scans = {"1": "MR"} if scans is None else scans
    number = xnat.accession("E")
    study = study_uid or f"2.25.{xnat.number('study')}"
    session = ArchivedSession(
        id=number,
        project=project,
        subject=xnat.subject_of_archive(project, subject),
        label=label,
        study_uid=study,
        xsi_type=session_type(set(scans.values())),
        date="2026-01-01",
        inserted=xnat.now(),
    )
    for scan, modality in scans.items():
        session.scans[scan] = xnat.new_scan(scan, Series(f"{study}.{scan}", scan, modality, ""))
    xnat.add_experiment(session)
    return session


async def add_file(
    xnat: TestXnat,
    owner: Owner,
    resource: str,
    name: str,
    data: bytes,
    *,
    scan: str = "",
    catalogued: bool = True,
    complete: bool = True,
) -> StoredFile:
    """Store a file in a resource, which is made where it is not there; perhaps on the disk only."""
    place = _place(owner, scan)
    found = place.resources.get(resource) or made(xnat, place, resource, Described())
    body = Body(data, len(data), None, None, complete)
    size, digest = await xnat.storage.write(place.file(found, name), body)
    file = StoredFile(name, size, digest, "", NO_SERIES, complete, said=Described())
    if catalogued:
        found.files[name] = file
        found.version += 1
        found.recount()
    else:
        found.uncatalogued[name] = file
    return file


async def file_bytes(xnat: TestXnat, owner: Owner, resource: str, name: str, *, scan: str = "") -> bytes:
    """Return what is on the disk of a file, catalogued or not; FileNotFoundError also where bytes are not kept."""
    place = _place(owner, scan)
    path = xnat.storage.path(place.file(place.resources[resource], name))
    if path is None:
        raise FileNotFoundError(name)
    return await to_thread.run_sync(path.read_bytes)


async def lose_file(xnat: TestXnat, owner: Owner, resource: str, name: str) -> None:
    """Take a file off the disk, as a disk that fails does: its catalog lists it as before."""
    place = _place(owner, "")
    await xnat.storage.delete(place.file(place.resources[resource], name))


async def damage_file(xnat: TestXnat, owner: Owner, resource: str, name: str, data: bytes) -> None:
    """Write other bytes into a file on the disk, as a transfer over it does that is cut: digest and size stay listed.

    The size stays where catalogs have it; it is that of the file elsewhere.
    """
    place = _place(owner, "")
    found = place.resources[resource]
    await xnat.storage.write(place.file(found, name), Body(data, len(data), None, None, complete=False))
    if not xnat.profile.catalog_has_sizes:
        found.files[name] = replace(found.files[name], size=len(data))


def lose_entry(owner: Owner, resource: str, name: str) -> None:
    """Let the catalog forget a file, which stays on the disk, as of two that write a catalog one undoes the other's."""
    found = _place(owner, "").resources[resource]
    found.uncatalogued[name] = found.files.pop(name)
    found.version += 1


def _place(owner: Owner, scan: str) -> Place:
    match owner:
        case Project():
            return of_project(owner)
        case Subject():
            return of_subject(owner)
        case ArchivedSession() if scan:
            return of_scan(owner, owner.scans[scan])
        case ArchivedSession():
            return of_session(owner)
