"""Owners of resources: projects, subjects, sessions and scans."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote

from .archive import ArchivedSession, Scan
from .names import make_timestamp
from .projects import Project
from .resources import FileMetadata, Resource
from .site import Site
from .storage import PathParts
from .subjects import Subject

_NOT_WORD = re.compile(r"\W", re.ASCII)


@dataclass(frozen=True, slots=True)
class ResourceOwner:
    """An object that has resources."""

    project: str
    """The ID of the project whose rights count."""
    uri: str
    """Its address below /data."""
    path: PathParts
    """Where its resources' folders are."""
    download_folder: str
    """Its folder in downloads."""
    resources: dict[str, Resource]
    category: str
    id: str
    description: str = ""
    series_uid: str = ""
    """Of a scan."""
    session: ArchivedSession | None = None
    """The session, if it is one: its scans have resources too."""

    @classmethod
    def of_project(cls, project: Project) -> "ResourceOwner":
        """Return a project as an owner."""
        path = ("archive", project.id, "resources")
        return cls(project.id, f"/projects/{project.id}", path, project.id, project.resources, "resources", project.id)

    @classmethod
    def of_subject(cls, subject: Subject, prefix: str = "") -> "ResourceOwner":
        """Return a subject as an owner."""
        uri, name = f"{prefix}/subjects/{subject.id}", subject.label or subject.id
        return cls(subject.project, uri, subject.path, name, subject.resources, "resources", subject.id)

    @classmethod
    def of_session(cls, session: ArchivedSession, prefix: str = "") -> "ResourceOwner":
        """Return a session as the owner of its own resources."""
        uri, path = f"{prefix}/experiments/{session.id}", (*session.path, "RESOURCES")
        resources = session.own_resources
        return cls(session.project, uri, path, session.label, resources, "resources", session.id, session=session)

    @classmethod
    def of_scan(cls, session: ArchivedSession, scan: Scan, prefix: str = "") -> "ResourceOwner":
        """Return a scan as an owner."""
        kind = _NOT_WORD.sub("_", scan.type)
        return cls(
            session.project,
            f"{prefix}/experiments/{session.id}/scans/{scan.id}",
            (*session.path, "SCANS", scan.id),
            f"{session.label}/scans/{scan.id}-{kind}" if kind else f"{session.label}/scans/{scan.id}",
            scan.resources,
            "scans",
            scan.id,
            scan.type,
            scan.series.uid,
        )

    def folder(self, resource: Resource) -> PathParts:
        """Return where a resource's files are."""
        return (*self.path, resource.folder or resource.label)

    def file(self, resource: Resource, name: str) -> PathParts:
        """Return where a file is; its name may have folders in it."""
        return (*self.folder(resource), *name.split("/"))

    def with_scans(self) -> "list[ResourceOwner]":
        """Return this owner and, for a session, its scans."""
        if self.session is None:
            return [self]
        prefix = self.uri.removesuffix(f"/experiments/{self.session.id}")
        return [self, *(self.of_scan(self.session, scan, prefix) for scan in self.session.scans.values())]


class OwnedResource(NamedTuple):
    """A resource and its owner."""

    owner: ResourceOwner
    resource: Resource


def all_owners(site: Site) -> Iterator[ResourceOwner]:
    """Yield all owners of resources on a site."""
    yield from map(ResourceOwner.of_project, site.projects.values())
    yield from map(ResourceOwner.of_subject, site.subjects())
    for session in site.archived:
        yield from ResourceOwner.of_session(session).with_scans()


def resources_of(owners: Iterable[ResourceOwner]) -> list[OwnedResource]:
    """Return all resources of some owners."""
    return [OwnedResource(owner, resource) for owner in owners for resource in owner.resources.values()]


def resources_named(owners: Iterable[ResourceOwner], name: str) -> list[OwnedResource]:
    """Return the resources with this label, or else this number (ResourceModifierA.getResourceByIdentifier)."""
    found = resources_of(owners)
    by_label = [one for one in found if one.resource.label == name]
    return by_label or [one for one in found if str(one.resource.number) == name]


def create_resource(site: Site, owner: ResourceOwner, label: str, metadata: FileMetadata) -> Resource:
    """Create a resource whose files are not counted yet; without a label, its folder is named by the time."""
    folder = label or make_timestamp(site.now())[:15]
    number = site.next_number("resource")
    resource = Resource(number, label, folder=folder, metadata=metadata, reported_stats=("", ""))
    resource.uncatalogued = site.deleted_files.pop(owner.folder(resource), {})
    owner.resources[label] = resource
    return resource


def scans_named(session: ArchivedSession, name: str) -> list[Scan]:
    """Return scans by ID or type: a comma list, ALL or `*`. Only this part of an address is percent-decoded."""
    names = {one.replace("[SLASH]", "/").replace("[COMMA]", ",") for one in unquote(name).split(",")}
    is_all = not names.isdisjoint({"ALL", "*"})
    return [scan for scan in session.scans.values() if is_all or scan.id in names or (scan.type and scan.type in names)]
