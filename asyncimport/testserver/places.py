"""What has resources: projects, subjects, sessions, scans; and which of them an address means (XNATTemplate)."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from .call import Call
from .identifiers import session_of_scans, session_of_uri, session_to_show, subject_to_change
from .names import make_timestamp
from .pages import Refused
from .site import TestXnat
from .state import ArchivedSession, Described, Project, Resource, Scan, Subject
from .storage import Parts

__all__ = [
    "FORBIDDEN",
    "WHERE",
    "Found",
    "Place",
    "Where",
    "below",
    "everywhere",
    "labelled",
    "made",
    "numbered",
    "of_project",
    "of_scan",
    "of_session",
    "of_subject",
    "placed",
    "read",
    "refreshed",
    "scans_named",
    "written",
]

Where = Mapping[str, str]
"""The parts of an address by what they name: project, subject, experiment, scan."""

WHERE = (
    "(?=projects/|subjects/|experiments/)(?:projects/(?P<project>[^/]+)/)?(?:subjects/(?P<subject>[^/]+)/)?"
    "(?:experiments/(?P<experiment>[^/]+)/(?:scans/(?P<scan>[^/]+)/)?)?"
)
"""The beginning of an address below /data, up to what it says of an object's resources."""

FORBIDDEN = "User account doesn't have permission to modify this session."
_RESOURCES = re.compile(r"(?:/data|/REST)?(?:/archive)?/" + WHERE + "(?:resources/(?P<label>[^/]+)/)?")
_NOT_WORD = re.compile(r"\W", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """An object that has resources."""

    project: str
    """The id of the project whose rights count."""
    uri: str
    """Its address below /data."""
    path: Parts
    """Where its resources' folders are, below the site's directory."""
    zipped: str
    """Its folder in downloads."""
    resources: dict[str, Resource]
    category: str
    id: str
    description: str = ""
    series_uid: str = ""
    """Of a scan."""
    session: ArchivedSession | None = None
    """The session that this is, whose scans have resources too."""

    def folder(self, resource: Resource) -> Parts:
        """Return where a resource's files are."""
        return (*self.path, resource.folder or resource.label)

    def file(self, resource: Resource, name: str) -> Parts:
        """Return where a file is; its name may have folders in it."""
        return (*self.folder(resource), *name.split("/"))


Found = tuple[Place, Resource]


def of_project(project: Project) -> Place:
    """Return the place of a project's resources."""
    path = ("archive", project.id, "resources")
    return Place(project.id, f"/projects/{project.id}", path, project.id, project.resources, "resources", project.id)


def of_subject(subject: Subject, prefix: str = "") -> Place:
    """Return the place of a subject's resources."""
    uri, name = f"{prefix}/subjects/{subject.id}", subject.label or subject.id
    return Place(subject.project, uri, subject.path, name, subject.resources, "resources", subject.id)


def of_session(session: ArchivedSession, prefix: str = "") -> Place:
    """Return the place of a session's own resources."""
    uri, path = f"{prefix}/experiments/{session.id}", (*session.path, "RESOURCES")
    return Place(
        session.project, uri, path, session.label, session.own_resources, "resources", session.id, session=session
    )


def of_scan(session: ArchivedSession, scan: Scan, prefix: str = "") -> Place:
    """Return the place of a scan's resources."""
    kind = _NOT_WORD.sub("_", scan.series.description)
    return Place(
        session.project,
        f"{prefix}/experiments/{session.id}/scans/{scan.id}",
        (*session.path, "SCANS", scan.id),
        f"{session.label}/scans/{scan.id}-{kind}" if kind else f"{session.label}/scans/{scan.id}",
        scan.resources,
        "scans",
        scan.id,
        scan.series.description,
        scan.series.uid,
    )


def below(place: Place) -> list[Place]:
    """Return a place and, of a session, those of its scans."""
    if (session := place.session) is None:
        return [place]
    prefix = place.uri.removesuffix(f"/experiments/{session.id}")
    return [place, *(of_scan(session, scan, prefix) for scan in session.scans.values())]


def everywhere(xnat: TestXnat) -> Iterator[Place]:
    """Yield all places of a site."""
    yield from map(of_project, xnat.projects.values())
    yield from map(of_subject, xnat.subjects())
    for session in xnat.archived:
        yield from below(of_session(session))


def scans_named(session: ArchivedSession, name: str) -> list[Scan]:
    """Return scans by id or type: a comma list, ALL or `*`. Only this part of an address is percent-decoded."""
    names = {one.replace("[SLASH]", "/").replace("[COMMA]", ",") for one in unquote(name).split(",")}
    everything = not names.isdisjoint({"ALL", "*"})
    return [
        scan
        for scan in session.scans.values()
        if everything or scan.id in names or (scan.series.description and scan.series.description in names)
    ]


_Find = Callable[[Call, Project | None, str], ArchivedSession | None]


def _session(call: Call, where: Where, project: Project | None, find: _Find | None = None) -> ArchivedSession | None:
    """Return the session of an address that the user can read: its scans' resources are found in another way."""
    if "project" in where and project is None:
        return None
    find = find or (session_of_scans if "scan" in where else session_to_show)
    return find(call, project, where["experiment"])


def _subject(call: Call, where: Where, project: Project | None) -> Subject | None:
    if "subject" not in where or ("project" in where and project is None):
        return None
    return subject_to_change(call, project, where["subject"])


def read(call: Call, where: Where) -> list[Place]:
    """Return the places that an address means to somebody who reads; several for a list of scans.

    Where a session or a scan is not there, XNAT goes on with what it has found on the way to it: the subject, or the
    project (XNATTemplate.loadCatalogs). An address without either means nothing then. Where it is there, it need not
    be of the project or the subject of the address.
    """
    project = call.find_project(where["project"], "read") if "project" in where else None
    subject = _subject(call, where, project)
    owner = f"/projects/{project.id}" if project is not None else ""
    if "experiment" in where and (session := _session(call, where, project)) is not None:
        # XNAT names project and subject in what it lists where the address has both.
        prefix = f"{owner}/subjects/{subject.id}" if owner and subject is not None else ""
        if "scan" not in where:
            return [of_session(session, prefix)]
        if scans := scans_named(session, where["scan"]):
            return [of_scan(session, scan, prefix) for scan in scans]
    if subject is not None:
        return [of_subject(subject, owner)]
    return [of_project(project)] if project is not None else []


def refreshed(call: Call, where: Where) -> Place:
    """Return the place that the URI of something to be refreshed means; else as `written`."""
    return written(call, where, session_of_uri)


def written(call: Call, where: Where, find: _Find | None = None) -> Place:
    """Return the place that an address means to somebody who writes (XNATTemplate).

    404 names the first part that is unknown. A session need not be of the project or the subject of the address.
    """
    project = call.find_project(where["project"], "read") if "project" in where else None
    if "project" in where and project is None:
        raise _unidentified("project")
    subject = _subject(call, where, project)
    if "subject" in where and subject is None:
        raise _unidentified("subject")
    if "experiment" in where:
        session = _session(call, where, project, find)
        if session is None:
            raise _unidentified("image session" if "scan" in where else "experiment")
        if "scan" not in where:
            return of_session(session)
        scans = scans_named(session, where["scan"])
        if not scans:
            raise _unidentified("scan")
        return of_scan(session, scans[0])
    if subject is not None:
        return of_subject(subject)
    if project is None:
        raise Refused(404)
    return of_project(project)


def placed(uri: str) -> tuple[Where, str] | None:
    """Return the address in the URI of an object, or of one of its resources, and that one's label."""
    match = _RESOURCES.fullmatch(uri.rstrip("/") + "/")
    if match is None:
        return None
    where = {name: value for name, value in match.groupdict().items() if value is not None}
    return where, where.pop("label", "")


def _unidentified(what: str) -> Refused:
    return Refused(404, f"Unable to identify {what}")


def labelled(places: Iterable[Place], name: str) -> list[Found]:
    """Return the resources of a label, or else the one of a number (ResourceModifierA.getResourceByIdentifier)."""
    found = [(place, resource) for place in places for resource in place.resources.values()]
    return [one for one in found if one[1].label == name] or [one for one in found if str(one[1].number) == name]


def numbered(call: Call, places: Iterable[Place], name: str) -> list[Found]:
    """Return the resources of a label; a number may be that of any resource on the site (FileList).

    So it is in reading and deleting: what is written stays within the place.
    """
    found = labelled(places, name)
    if found or not name.isdecimal():
        return found
    return [
        (place, resource)
        for place in everywhere(call.xnat)
        for resource in place.resources.values()
        if str(resource.number) == name and call.may("read", place.project)
    ]


def made(xnat: TestXnat, place: Place, label: str, said: Described) -> Resource:
    """Make a resource; one without a label has a folder named by the time. Nobody has counted its files yet."""
    folder = label or make_timestamp(xnat.now())[:15]
    resource = Resource(xnat.number("resource"), label, folder=folder, said=said, told=("", ""))
    resource.uncatalogued = xnat.remains.pop(place.folder(resource), {})
    place.resources[label] = resource
    return resource
