"""An embedded test XNAT: try the tool on it, test scripts on it, run benchmarks on it.

    xnat = TestXnat(directory)
    async with serve(xnat) as url:
        ...

It behaves like XNAT towards importers, unfriendly behaviours included, keeps its state in memory and files
in a directory, injects scripted faults, and records what it received. It shares nothing with the client.
"""

from .actions import (
    Administer,
    Conflict,
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
from .dicom import Header
from .fault_files import faults_from
from .faults import Fault
from .fixtures import (
    add_creator,
    add_file,
    add_reader,
    add_session,
    damage_file,
    file_bytes,
    lose_entry,
    lose_file,
)
from .held import Held, Left
from .profile import PROFILES, Profile
from .rules import Script, SeriesFilter
from .server import serve
from .site import TestXnat, Timing
from .state import (
    ArchivedSession,
    ImportRecord,
    PrearchiveRow,
    Project,
    Resource,
    RowStatus,
    Scan,
    StoredFile,
    Subject,
    User,
)

__all__ = [
    "PROFILES",
    "Administer",
    "ArchivedSession",
    "Conflict",
    "DiskFull",
    "Empty",
    "ExpireLogins",
    "Fault",
    "Gateway",
    "Header",
    "Held",
    "ImportRecord",
    "Late",
    "Leave",
    "Left",
    "Locked",
    "LoginPage",
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
    "damage_file",
    "faults_from",
    "file_bytes",
    "lose_entry",
    "lose_file",
    "serve",
]
