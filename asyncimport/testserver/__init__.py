"""An embedded test XNAT: try the tool on it, test scripts on it, run benchmarks on it.

    xnat = TestXnat(directory)
    async with serve(xnat) as url:
        ...

It behaves like XNAT towards importers, unfriendly behaviours included, keeps its state in memory and files
in a directory, injects scripted faults, and records what it received. It shares nothing with the client.
"""

from .faults import Fault, Reset, Status
from .profile import PROFILES, Profile
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
    "ImportRecord",
    "PrearchiveRow",
    "Profile",
    "Project",
    "Reset",
    "RowStatus",
    "Scan",
    "Status",
    "StoredFile",
    "Subject",
    "TestXnat",
    "Timing",
    "User",
    "serve",
]
