"""An embedded test XNAT: try the tool on it, test scripts on it, run benchmarks on it.

    xnat = TestXnat(directory)
    async with serve(xnat) as url:
        ...

It behaves like XNAT towards importers, including where XNAT is inconvenient, keeps its state in memory and its files in
a directory, injects scripted faults, and records what it received. It shares no code with the client.

Where to look: `xnat` and `server` are the entry, `seeding` puts data into a site, `samples` writes DICOM trees.
`site/` is the state of an XNAT site and XNAT's work on it, `faults/` says what goes wrong and when, `http/` is the REST
interface over both, `recording/` compares it with a real XNAT.
"""

from .config import SiteConfig, config_schema, read_config
from .faults.actions import (
    Administer,
    Conflict,
    Damage,
    DiskFull,
    Empty,
    ExpireLogins,
    Gateway,
    Late,
    Leave,
    Locked,
    LoginPage,
    Reset,
    Restart,
    Stall,
    Status,
    Tell,
    Unseen,
)
from .faults.files import faults_from
from .faults.schedule import Fault
from .seeding import add_creator, add_file, add_reader, add_session, damage_file, file_bytes, lose_entry, lose_file
from .server import serve
from .site.anonymisation import Script
from .site.archive import ArchivedSession, Patient, Scan
from .site.dicom_header import Header
from .site.gates import Gate, HeldRow
from .site.prearchive import ImportRecord, PrearchiveRow, RowStatus
from .site.profiles import PROFILES, Profile
from .site.projects import Project, User
from .site.resources import Resource, StoredFile
from .site.series_filter import SeriesFilter
from .site.settings import Settings, Timing
from .site.subjects import Subject
from .xnat import TestXnat

__all__ = [
    "PROFILES",
    "Administer",
    "ArchivedSession",
    "Conflict",
    "Damage",
    "DiskFull",
    "Empty",
    "ExpireLogins",
    "Fault",
    "Gate",
    "Gateway",
    "Header",
    "HeldRow",
    "ImportRecord",
    "Late",
    "Leave",
    "Locked",
    "LoginPage",
    "Patient",
    "PrearchiveRow",
    "Profile",
    "Project",
    "Reset",
    "Resource",
    "Restart",
    "RowStatus",
    "Scan",
    "Script",
    "SeriesFilter",
    "Settings",
    "SiteConfig",
    "Stall",
    "Status",
    "StoredFile",
    "Subject",
    "Tell",
    "TestXnat",
    "Timing",
    "Unseen",
    "User",
    "add_creator",
    "add_file",
    "add_reader",
    "add_session",
    "config_schema",
    "damage_file",
    "faults_from",
    "file_bytes",
    "lose_entry",
    "lose_file",
    "read_config",
    "serve",
]
