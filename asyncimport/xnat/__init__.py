"""The XNAT client: login, images, archive, site. The only package that speaks HTTP."""

from asyncimport.xnat.archive import archived_sessions, compare, find_experiment
from asyncimport.xnat.client import Client, Credentials, Timeouts, connect
from asyncimport.xnat.images import Xnat
from asyncimport.xnat.site import check_project, droppers
from asyncimport.xnat.strays import find_strays, remove_stray
from asyncimport.xnat.survey import series_filters

__all__ = [
    "Client",
    "Credentials",
    "Timeouts",
    "Xnat",
    "archived_sessions",
    "check_project",
    "compare",
    "connect",
    "droppers",
    "find_experiment",
    "find_strays",
    "remove_stray",
    "series_filters",
]
