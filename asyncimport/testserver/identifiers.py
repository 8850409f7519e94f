"""Which subject or session the name in an address means: a label of the project, or an accession ID.

XNAT's classes look for the two in orders of their own, and not all of them in the project alone. What a user may not
read is not found, and the next is looked for (ItemSearch).
"""

from typing import TypeVar

from .call import Call
from .state import ArchivedSession, Project, Subject

__all__ = [
    "is_visible",
    "session_of_scans",
    "session_of_uri",
    "session_to_show",
    "subject_to_change",
    "subject_to_show",
]

_Item = TypeVar("_Item", Subject, ArchivedSession)


def subject_to_show(call: Call, project: Project | None, name: str) -> Subject | None:
    """Return the subject of an ID, in whatever project, or else of a label in the project.

    So do SubjectResource.represent and handleDelete.
    """
    by_id = _seen(call, call.xnat.subject(None, name))
    return by_id or (_seen(call, call.xnat.subject_labelled(project.id, name)) if project is not None else None)


def subject_to_change(call: Call, project: Project | None, name: str) -> Subject | None:
    """Return the subject of a label in the project, or else of an ID that the project has, or any without a project.

    So do the constructors of SubjectResource, for PUT and POST, of ProjSubExptList, ScanList and XNATTemplate
    (GetSubjectByProjectIdentifier, hasProject).
    """
    if project is None:
        return _seen(call, call.xnat.subject(None, name))
    by_label = _seen(call, call.xnat.subject_labelled(project.id, name))
    return by_label or _of_project(project, _seen(call, call.xnat.subject(None, name)))


def session_to_show(call: Call, project: Project | None, name: str) -> ArchivedSession | None:
    """Return the session of an ID, in whatever project, or else of a label in the project.

    So do ExperimentResource.represent and SubjAssessmentResource.represent, and XNATTemplate for resources of a session
    (EXPT_ID), also in writing. None of them compares the session with a subject in the address.
    """
    by_id = _seen(call, call.xnat.experiment(name))
    return by_id or (_seen(call, call.xnat.experiment_labelled(project.id, name)) if project is not None else None)


def session_of_scans(call: Call, project: Project | None, name: str) -> ArchivedSession | None:
    """Return the session of an ID that the project has, or any without a project, or else of a label in the project.

    So do XNATTemplate for resources of scans (ASSESSED_ID), also in writing, and ScanList.
    """
    by_id = _seen(call, call.xnat.experiment(name))
    if project is None:
        return by_id
    return _of_project(project, by_id) or _seen(call, call.xnat.experiment_labelled(project.id, name))


def session_of_uri(call: Call, project: Project | None, name: str) -> ArchivedSession | None:
    """Return the session of a label in the project, or else of an ID that the project has, or any without a project.

    So do the URIs of RefreshCatalog (helpers.uri.archive, populateExperiment).
    """
    by_label = call.xnat.experiment_labelled(project.id, name) if project is not None else None
    return _seen(call, by_label) or session_of_scans(call, project, name)


def is_visible(call: Call, item: Subject | ArchivedSession) -> bool:
    """Tell whether the user may read an item, in its own project or in one that it is shared into."""
    return any(call.may("read", project) for project in (item.project, *item.shares))


def _seen(call: Call, item: _Item | None) -> _Item | None:
    return item if item is not None and is_visible(call, item) else None


def _of_project(project: Project, item: _Item | None) -> _Item | None:
    return item if item is not None and item.is_in(project.id) else None
