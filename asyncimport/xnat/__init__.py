"""The XNAT client: login, images, archive, site. The only package that speaks HTTP."""

from asyncimport.xnat.archive import (
    NOBODY_KNOWS_WHICH,
    ArchivedSessions,
    find_and_compare,
    find_session,
    held_of_session,
    label_before_division,
)
from asyncimport.xnat.client import Client, Credentials, Timeouts, connect
from asyncimport.xnat.images import Xnat
from asyncimport.xnat.occupants import Occupants
from asyncimport.xnat.prearchive import PrearchiveRows
from asyncimport.xnat.resources import Depth, Held, Resources
from asyncimport.xnat.site import SiteRules, check_project, droppers, project_of
from asyncimport.xnat.strays import find_strays, remove_stray
from asyncimport.xnat.subjects import Described, NotDescribed, Outcome, Subjects, describe
from asyncimport.xnat.survey import series_filters

__all__ = [
    "NOBODY_KNOWS_WHICH",
    "ArchivedSessions",
    "Client",
    "Credentials",
    "Depth",
    "Described",
    "Held",
    "NotDescribed",
    "Occupants",
    "Outcome",
    "PrearchiveRows",
    "Resources",
    "SiteRules",
    "Subjects",
    "Timeouts",
    "Xnat",
    "check_project",
    "connect",
    "describe",
    "droppers",
    "find_and_compare",
    "find_session",
    "find_strays",
    "held_of_session",
    "label_before_division",
    "project_of",
    "remove_stray",
    "series_filters",
]
