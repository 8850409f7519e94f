"""The facts about a server, and the findings of its checks. Pure.

Only what would end or spoil an upload is an error; its exit code is that of the upload. What this user may not ask is
unknown, which is no error.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from asyncimport.errors import FatalError, UsageError
from asyncimport.xnat.inspection import AuthenticatedFacts, Fact, ProjectFacts, Unknown
from asyncimport.xnat.public_inspection import PublicFacts

# The order in which an upload meets errors: of the command, the network, the login, the project; 9 is a held session.
_EXIT_CODES = (2, 4, 3, 5, 6, 9)


class Status(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, what it means, and what to change; `about` is a project, or "" for the site."""

    code: str
    status: Status
    found: str
    meaning: str = ""
    hint: str = ""
    about: str = ""
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """All facts; None if not tried."""

    host: str
    now: float
    bad_address: UsageError | None = None
    unencrypted: UsageError | None = None
    insecure: bool = False
    public: PublicFacts | None = None
    no_login: FatalError | None = None
    authenticated: AuthenticatedFacts | None = None
    projects: Sequence[ProjectFacts] = ()


def exit_code(findings: Sequence[Finding]) -> int:
    """Return 0, or the code of the first error that `upload` would meet."""
    codes = {finding.exit_code for finding in findings if finding.status is Status.ERROR}
    return next((code for code in _EXIT_CODES if code in codes), max(codes, default=0))


def failed_check(code: str, error: FatalError, *, meaning: str = "", hint: str = "", about: str = "") -> Finding:
    """Return the finding of a check that failed with an error."""
    return Finding(code, Status.ERROR, str(error), meaning, hint or error.hint, about, error.exit_code)


def unknown_check(code: str, what: str, unknown: Unknown, about: str = "") -> Finding:
    """Return the finding of a check that was not possible."""
    return Finding(code, Status.UNKNOWN, f"{what}: not known", unknown.reason, about=about)


def number_in(fact: Fact[str]) -> int | None:
    """Return a setting as a number; None if it is unknown or not a number."""
    if isinstance(fact, Unknown) or not re.fullmatch(r"-?\d{1,9}", fact):
        return None
    return int(fact)
