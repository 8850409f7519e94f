"""Which subject, session or owner of resources an address means (XNATTemplate).

XNAT's classes look for labels and accession IDs in orders of their own, and not always in the project alone. An item
that the user may not read is not found, and the next one is looked for (ItemSearch).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from ..site.archive import ArchivedSession
from ..site.projects import Project
from ..site.resource_owners import OwnedResource, ResourceOwner, all_owners, resources_named, resources_of, scans_named
from ..site.subjects import Subject
from .request_context import RequestContext
from .responses import HttpError

_Item = TypeVar("_Item", Subject, ArchivedSession)
_FindSession = Callable[[RequestContext, Project | None, str], ArchivedSession | None]

Address = Mapping[str, str]
"""The parts of an address by name: project, subject, experiment, scan."""

OWNER = (
    "(?=projects/|subjects/|experiments/)(?:projects/(?P<project>[^/]+)/)?(?:subjects/(?P<subject>[^/]+)/)?"
    "(?:experiments/(?P<experiment>[^/]+)/(?:scans/(?P<scan>[^/]+)/)?)?"
)
"""The part of an address below /data that names an owner of resources."""

FORBIDDEN = "User account doesn't have permission to modify this session."
_RESOURCE_URI = re.compile(r"(?:/data|/REST)?(?:/archive)?/" + OWNER + "(?:resources/(?P<label>[^/]+)/)?")


def subject_to_show(context: RequestContext, project: Project | None, name: str) -> Subject | None:
    """Return the subject with this ID, in any project, or else with this label in the project.

    As SubjectResource.represent and handleDelete.
    """
    by_id = _if_visible(context, context.site.subject(None, name))
    return by_id or (
        _if_visible(context, context.site.subject_labelled(project.id, name)) if project is not None else None
    )


def subject_to_change(context: RequestContext, project: Project | None, name: str) -> Subject | None:
    """Return the subject with this label in the project, or else with this ID, which must be in the project if given.

    As the constructors of SubjectResource, for PUT and POST, of ProjSubExptList, ScanList and XNATTemplate
    (GetSubjectByProjectIdentifier, hasProject).
    """
    if project is None:
        return _if_visible(context, context.site.subject(None, name))
    by_label = _if_visible(context, context.site.subject_labelled(project.id, name))
    return by_label or _if_in(project, _if_visible(context, context.site.subject(None, name)))


def session_to_show(context: RequestContext, project: Project | None, name: str) -> ArchivedSession | None:
    """Return the session with this ID, in any project, or else with this label in the project.

    As ExperimentResource.represent and SubjAssessmentResource.represent, and XNATTemplate for resources of a session
    (EXPT_ID), reads and writes alike. None of them compares the session with a subject in the address.
    """
    by_id = _if_visible(context, context.site.experiment(name))
    return by_id or (
        _if_visible(context, context.site.experiment_labelled(project.id, name)) if project is not None else None
    )


def session_of_scans(context: RequestContext, project: Project | None, name: str) -> ArchivedSession | None:
    """Return the session with this ID, which must be in the project if given, or else with this label in the project.

    As XNATTemplate for resources of scans (ASSESSED_ID), reads and writes alike, and ScanList.
    """
    by_id = _if_visible(context, context.site.experiment(name))
    if project is None:
        return by_id
    return _if_in(project, by_id) or _if_visible(context, context.site.experiment_labelled(project.id, name))


def session_of_uri(context: RequestContext, project: Project | None, name: str) -> ArchivedSession | None:
    """Return the session with this label in the project, or else with this ID, which must be in the project if given.

    As the URIs of RefreshCatalog (helpers.uri.archive, populateExperiment).
    """
    by_label = context.site.experiment_labelled(project.id, name) if project is not None else None
    return _if_visible(context, by_label) or session_of_scans(context, project, name)


def items_to_list(
    context: RequestContext, items: Iterable[_Item], project: str | None
) -> tuple[list[_Item], Project | None]:
    """Return the items that a listing shows: those of a project, which is returned too, or all that the user may read.

    Items that are shared into the project are its own too.
    """
    if project is None:
        return [item for item in items if _is_visible(context, item)], None
    if (found := context.site.project_named(project)) is None:
        raise HttpError(404, f"Unable to identify project {project}")
    if not context.allows(found, "read"):
        raise HttpError(403)
    return [item for item in items if item.is_in(found.id)], found


def _is_visible(context: RequestContext, item: Subject | ArchivedSession) -> bool:
    """Return whether the user may read an item, in its own project or in one that it is shared into."""
    return any(context.has_right("read", project) for project in (item.project, *item.shares))


def _if_visible(context: RequestContext, item: _Item | None) -> _Item | None:
    return item if item is not None and _is_visible(context, item) else None


def _if_in(project: Project, item: _Item | None) -> _Item | None:
    return item if item is not None and item.is_in(project.id) else None


def _session(
    context: RequestContext, address: Address, project: Project | None, find: _FindSession | None = None
) -> ArchivedSession | None:
    """Return the session of an address, if the user can read it; for scans, XNAT looks it up in another way."""
    if "project" in address and project is None:
        return None
    find = find or (session_of_scans if "scan" in address else session_to_show)
    return find(context, project, address["experiment"])


def _subject(context: RequestContext, address: Address, project: Project | None) -> Subject | None:
    if "subject" not in address or ("project" in address and project is None):
        return None
    return subject_to_change(context, project, address["subject"])


def owners_to_read(context: RequestContext, address: Address) -> list[ResourceOwner]:
    """Return the owners that an address means in a GET; several for a list of scans.

    If a session or a scan does not exist, XNAT goes on with what it has found on the way: the subject, or the project
    (XNATTemplate.loadCatalogs); an address without either means nothing then. A session that does exist need not be in
    the project or the subject of the address.
    """
    project = context.find_project(address["project"], "read") if "project" in address else None
    subject = _subject(context, address, project)
    project_uri = f"/projects/{project.id}" if project is not None else ""
    if "experiment" in address and (session := _session(context, address, project)) is not None:
        # XNAT's listings name project and subject if the address has both.
        prefix = f"{project_uri}/subjects/{subject.id}" if project_uri and subject is not None else ""
        if "scan" not in address:
            return [ResourceOwner.of_session(session, prefix)]
        if scans := scans_named(session, address["scan"]):
            return [ResourceOwner.of_scan(session, scan, prefix) for scan in scans]
    if subject is not None:
        return [ResourceOwner.of_subject(subject, project_uri)]
    return [ResourceOwner.of_project(project)] if project is not None else []


def owner_to_change(context: RequestContext, address: Address, find: _FindSession | None = None) -> ResourceOwner:
    """Return the owner that an address means in a PUT, POST or DELETE (XNATTemplate).

    The 404 names the first part that is unknown. A session need not be in the project or the subject of the address.
    """
    project = context.find_project(address["project"], "read") if "project" in address else None
    if "project" in address and project is None:
        raise _not_found("project")
    subject = _subject(context, address, project)
    if "subject" in address and subject is None:
        raise _not_found("subject")
    if "experiment" in address:
        session = _session(context, address, project, find)
        if session is None:
            raise _not_found("image session" if "scan" in address else "experiment")
        if "scan" not in address:
            return ResourceOwner.of_session(session)
        scans = scans_named(session, address["scan"])
        if not scans:
            raise _not_found("scan")
        return ResourceOwner.of_scan(session, scans[0])
    if subject is not None:
        return ResourceOwner.of_subject(subject)
    if project is None:
        raise HttpError(404)
    return ResourceOwner.of_project(project)


def _not_found(what: str) -> HttpError:
    return HttpError(404, f"Unable to identify {what}")


def parse_resource_uri(uri: str) -> tuple[Address, str] | None:
    """Return the address in the URI of an owner, or of one of its resources, and the resource's label or ""."""
    match = _RESOURCE_URI.fullmatch(uri.rstrip("/") + "/")
    if match is None:
        return None
    address = {name: value for name, value in match.groupdict().items() if value is not None}
    return address, address.pop("label", "")


def find_resources(context: RequestContext, owners: Iterable[ResourceOwner], name: str) -> list[OwnedResource]:
    """Return the resources with this label; a number may be that of any resource on the site (FileList).

    This is for reading and deleting; a write stays within its owner.
    """
    found = resources_named(owners, name)
    if found or not name.isdecimal():
        return found
    return [
        one
        for one in resources_of(all_owners(context.site))
        if str(one.resource.number) == name and context.has_right("read", one.owner.project)
    ]
