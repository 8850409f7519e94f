"""An embedded test XNAT: try the tool on it, test scripts on it, run benchmarks on it.

    xnat = TestXnat(directory)
    async with serve(xnat) as url:
        ...

It behaves like XNAT towards importers, unfriendly behaviours included, keeps its state in memory and files
in a directory, injects scripted faults, and records what it received. It shares nothing with the client.
"""

from .dicom import Header
from .faults import Fault, Reset, Status, Tell
from .profile import PROFILES, Profile
from .rules import Script, SeriesFilter
from .server import serve
from .site import TestXnat, Timing
from .state import (
    ArchivedSession,
    ImportRecord,
    PrearchiveRow,
    Project,
    RowStatus,
    Scan,
    StoredFile,
    Subject,
    User,
)

__all__ = [
    "PROFILES",
    "ArchivedSession",
    "Fault",
    "Header",
    "ImportRecord",
    "PrearchiveRow",
    "Profile",
    "Project",
    "Reset",
    "RowStatus",
    "Scan",
    "Script",
    "SeriesFilter",
    "Status",
    "StoredFile",
    "Subject",
    "Tell",
    "TestXnat",
    "Timing",
    "User",
    "serve",
]
