"""What XNAT's answers mean. Pure: a status, headers and a body in, a value or a typed error out.

XNAT answers 200 to much that it did not do, 400 to its own disk being full, and 500 to a conflict of labels. All
that is judged here and nowhere else. Each function names the XNAT class whose answers it reads. Reasons name
statuses and XNAT's own words, never an address: addresses carry labels, and labels are patients.
"""

from asyncimport.replies.archive import (
    Experiment,
    ScanResource,
    all_labelled,
    catalog,
    experiment,
    experiments,
    labelled,
    scan_resources,
)
from asyncimport.replies.identity import (
    OUR_SOURCE,
    archived_as,
    as_archived,
    is_of_upload,
    misplaced,
    other_row,
    other_session,
    same_label,
)
from asyncimport.replies.images import (
    Row,
    archived,
    built,
    deleted,
    file_count,
    not_downloaded,
    prearchive,
    row,
    stored,
)
from asyncimport.replies.logins import answers, login, logins, user, user_name
from asyncimport.replies.reply import Reply
from asyncimport.replies.resources import ListedFile, duplicates, files, resource_made, resources, scans, subject_id
from asyncimport.replies.site import (
    SeriesFilter,
    editable_projects,
    maps_studies,
    maps_uids,
    pipelines,
    project_id,
    rejects,
    rewrites,
    series_filter,
    setting,
    subscriptions,
    value,
)
from asyncimport.replies.subjects import ListedSubject, SubjectItem, described, subject, subjects

__all__ = [
    "OUR_SOURCE",
    "Experiment",
    "ListedFile",
    "ListedSubject",
    "Reply",
    "Row",
    "ScanResource",
    "SeriesFilter",
    "SubjectItem",
    "all_labelled",
    "answers",
    "archived",
    "archived_as",
    "as_archived",
    "built",
    "catalog",
    "deleted",
    "described",
    "duplicates",
    "editable_projects",
    "experiment",
    "experiments",
    "file_count",
    "files",
    "is_of_upload",
    "labelled",
    "login",
    "logins",
    "maps_studies",
    "maps_uids",
    "misplaced",
    "not_downloaded",
    "other_row",
    "other_session",
    "pipelines",
    "prearchive",
    "project_id",
    "rejects",
    "resource_made",
    "resources",
    "rewrites",
    "row",
    "same_label",
    "scan_resources",
    "scans",
    "series_filter",
    "setting",
    "stored",
    "subject",
    "subject_id",
    "subjects",
    "subscriptions",
    "user",
    "user_name",
    "value",
]
