"""What was found out about a server, and the checks that judge it. Pure.

Only what would end an upload, or spoil it, is an error; its exit code is the one that `upload` would end with. What
this user may not ask is unknown, which is no error.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from asyncimport.errors import FatalError, UsageError
from asyncimport.xnat.inspection import AuthenticatedFacts, Fact, ProjectFacts, Unknown
from asyncimport.xnat.public_inspection import PublicFacts

# As upload stumbles: over the command, the network, the login, the project; 9 is a session that is held in the end.
_STUMBLES = (2, 4, 3, 5, 6, 9)


class Status(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was found, what it means, and what to change; `about` is a project, or "" for the whole site."""

    code: str
    status: Status
    found: str
    meaning: str = ""
    hint: str = ""
    about: str = ""
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was found out; what was not tried is None."""

    host: str
    now: float
    bad_address: UsageError | None = None
    unencrypted: UsageError | None = None
    insecure: bool = False
    outside: PublicFacts | None = None
    no_login: FatalError | None = None
    inside: AuthenticatedFacts | None = None
    projects: Sequence[ProjectFacts] = ()


def exit_code(findings: Sequence[Finding]) -> int:
    """Return 0, or the code of the first error that `upload` would meet."""
    codes = {finding.exit_code for finding in findings if finding.status is Status.ERROR}
    return next((code for code in _STUMBLES if code in codes), max(codes, default=0))


def failed(code: str, error: FatalError, *, meaning: str = "", hint: str = "", about: str = "") -> Finding:
    """Return a check that failed with an error."""
    return Finding(code, Status.ERROR, str(error), meaning, hint or error.hint, about, error.exit_code)


def unknown(code: str, what: str, untold: Unknown, about: str = "") -> Finding:
    """Return a check that nobody could make."""
    return Finding(code, Status.UNKNOWN, f"{what}: not known", untold.reason, about=about)


def number_in(told: Fact[str]) -> int | None:
    """Return a setting as a number; None if it is not known, or none."""
    if isinstance(told, Unknown) or not re.fullmatch(r"-?\d{1,9}", told):
        return None
    return int(told)
