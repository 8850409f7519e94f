"""Actions of faults, and the kinds of requests that each can strike."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..site.gates import check_looks
from ..site.prearchive import RowStatus

_ARCHIVED = frozenset({"subject", "resource", "file", "refresh"})
KINDS = _ARCHIVED | {"login", "logout", "import", "build", "commit", "prearchive", "archive", "listing", "other", "any"}
_GATEWAY = (500, 502, 503, 504, *range(520, 528))
"""What gateways answer when they give up: Envoy and load balancers also 500 and 503, Cloudflare 520 to 527."""
_FIRST_STATUS, _LAST_STATUS = 200, 599


@dataclass(frozen=True, slots=True)
class Status:
    """Answer with this status instead of XNAT, as a proxy would; the request has no effect."""

    status: int
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _FIRST_STATUS <= self.status <= _LAST_STATUS:
            raise ValueError(f"{self.status} is no status of a reply")


@dataclass(frozen=True, slots=True)
class Reset:
    """Break the connection without a reply.

    With `effect`, the request is served first. With `after_bytes`, the connection breaks when that many bytes of the
    body have arrived, and the site keeps what XNAT keeps of a cut upload.
    """

    effect: bool = False
    after_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Damage:
    """Flip a bit in the middle of the body on its way, and serve the request."""


@dataclass(frozen=True, slots=True)
class Late:
    """Break the connection, and serve the request later: XNAT has received all of it, and is slow.

    Later means: after `after` further requests of the kind `of` have been acknowledged with a status below 400. The
    last of them gets its reply after the late effect has taken place. Without `after`, the test calls `release()` of
    the fault. The late request acts on what it then finds: a late import may change a row that is being archived and
    be lost with it, or make an orphan. With `status`, the client gets the reply of a gateway instead of a broken
    connection.
    """

    after: int | None = None
    of: str = "import"
    status: int | None = None

    def __post_init__(self) -> None:
        if self.after is not None and self.after < 1:
            raise ValueError(f"after {self.after} requests is not late; it takes one at least")
        _check_kind(self.of)
        _check_gateway(self.status)


@dataclass(frozen=True, slots=True)
class Gateway:
    """Answer as a gateway that gives up (nginx, or another by its status), while XNAT does the work all the same.

    The reply comes when the work is done; without `wait` it comes at once, and the work goes on. Without `effect`
    the request does not reach XNAT, as when a gateway finds it down.
    """

    status: int = 504
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: bool = True
    effect: bool = True

    def __post_init__(self) -> None:
        _check_gateway(self.status)
        if not self.wait and not self.effect:
            raise ValueError("without an effect there is no work that goes on")


@dataclass(frozen=True, slots=True)
class Stall:
    """Never answer: the connection breaks when the client leaves, the fault is released or the server stops.

    With `effect`, the request is served first. Without `reads`, the body is not read beyond what fits in buffers.
    """

    effect: bool = False
    reads: bool = True

    def __post_init__(self) -> None:
        if self.effect and not self.reads:
            raise ValueError("a request whose body is not read has no effect")


@dataclass(frozen=True, slots=True)
class LoginPage:
    """Answer with a login page and 200, as single sign-on does to unknown clients; the request has no effect."""


@dataclass(frozen=True, slots=True)
class ExpireLogins:
    """Invalidate all logins, this request's included, and then serve it; with `tokens`, all alias tokens too."""

    tokens: bool = False


@dataclass(frozen=True, slots=True)
class Restart:
    """Break all connections and refuse new ones for a while; logins and queued jobs are lost.

    The server comes back after `seconds`, or when the fault is released. The request has no effect.
    """

    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None and self.seconds < 0:
            raise ValueError(f"a restart cannot take {self.seconds} seconds")


@dataclass(frozen=True, slots=True)
class Locked:
    """Answer that the session is locked: 403 to an archive request, 409 to a build or commit."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Fail the archiving with 500 and XNAT's text, and leave the row in CONFLICT or ERROR. A commit builds first."""

    message: str = "Session already exists with matching files."
    status: RowStatus = RowStatus.CONFLICT

    def __post_init__(self) -> None:
        if self.status not in {RowStatus.CONFLICT, RowStatus.ERROR}:
            raise ValueError(f"a failed archiving leaves CONFLICT or ERROR, not {self.status}")


@dataclass(frozen=True, slots=True)
class Leave:
    """Answer with a failure and leave the row in this status.

    CONFLICT, ERROR and the like come with a 500. For a status of work under way the reply is a timeout: XNAT's own text
    (500) for an archiving, a gateway's 504 for anything else. Such a row moves on when the fault is released, or when
    this many `looks` (listings of the prearchive, GETs of the session) have shown it: then the work is done, or the row
    gets the status `then`.
    """

    status: RowStatus
    looks: int | None = None
    then: RowStatus | None = None
    message: str = "The session could not be processed."

    def __post_init__(self) -> None:
        check_looks(self.status, self.looks, self.then)


@dataclass(frozen=True, slots=True)
class Administer:
    """Let an administrator archive, delete or move the session that a request is about, and then serve the request.

    That is the row that the request names; for an import, those with its project and label. A session is archived under
    its own labels, and moved to the project `to`, or to Unassigned. If there is no row, nothing happens.
    """

    act: Literal["archive", "delete", "move"]
    to: str = ""

    def __post_init__(self) -> None:
        if self.act not in {"archive", "delete", "move"}:
            raise ValueError(f"an administrator cannot {self.act!r} a session, only archive, delete or move it")


@dataclass(frozen=True, slots=True)
class Empty:
    """Answer an import with an empty 200, as for a file that a filter drops; the request has no effect."""


@dataclass(frozen=True, slots=True)
class DiskFull:
    """Fail an import with 400 "unable to read DICOM object"; with `partial`, half of the file stays on the disk.

    If half of a file is only its header, all but the last byte stays. The upload of a file to a resource fails with
    500.
    """

    partial: bool = False


@dataclass(frozen=True, slots=True)
class Unseen:
    """Serve the request as if the project did not exist yet (a stale cache), or could not be edited yet.

    Only requests that name the project, or list projects, are counted. An import goes where imports with an unknown
    project go. With right="edit" the project can be read, and only what needs the right to edit is denied.
    """

    project: str
    right: Literal["read", "edit"] = "read"

    def __post_init__(self) -> None:
        if self.right not in {"read", "edit"}:
            raise ValueError(f"{self.right!r} is neither read nor edit")

    def concerns(self, path: str, params: Mapping[str, str]) -> bool:
        """Return whether a request asks for the project."""
        name = re.compile(rf"(?<![\w-]){re.escape(self.project)}(?![\w-])")
        return path in {"projects", "prearchive", "prearchive/projects"} or any(
            map(name.search, (path, *params.values()))
        )


@dataclass(frozen=True, slots=True)
class Tell:
    """Call a function when the request has arrived, for example to kill the client, and then serve the request."""

    function: Callable[[], None]


Action = (
    Status
    | Reset
    | Damage
    | Late
    | Gateway
    | Stall
    | LoginPage
    | ExpireLogins
    | Restart
    | Locked
    | Conflict
    | Leave
    | Administer
    | Empty
    | DiskFull
    | Unseen
    | Tell
)
_SESSION = frozenset({"build", "commit", "archive"})
STRIKES: Mapping[type[Action], frozenset[str]] = {
    Status: KINDS,
    Reset: KINDS,
    Damage: frozenset({"import", "file"}),
    Late: _SESSION | _ARCHIVED | {"import", "prearchive", "other"},
    Gateway: KINDS,
    Stall: KINDS,
    LoginPage: KINDS,
    ExpireLogins: KINDS,
    Restart: KINDS,
    Locked: _SESSION,
    Conflict: frozenset({"commit", "archive"}),
    Leave: _SESSION,
    Administer: _SESSION | {"import", "prearchive", "listing"},
    Empty: frozenset({"import"}),
    DiskFull: frozenset({"import", "file"}),
    Unseen: _SESSION | _ARCHIVED | {"import", "prearchive", "listing"},
    Tell: KINDS,
}
"""The kinds of requests that each action can strike; Reset with `after_bytes`, which cuts a body: imports and files."""
WITHIN_XNAT: tuple[type[Action], ...] = (Locked, Conflict, Leave, Empty, DiskFull, Unseen)
"""What XNAT itself does to a request from a logged-in user; all others strike on the way to XNAT, whoever asks."""
NAMES: Mapping[str, type[Action]] = {
    re.sub("(?<!^)(?=[A-Z])", "_", action.__name__).lower(): action for action in STRIKES
}
"""The actions by their names in files: status, reset, login_page ..."""


def kinds_for(action: Action) -> frozenset[str]:
    """Return the kinds of requests that this action can strike, with its values."""
    if isinstance(action, Reset) and action.after_bytes is not None:
        return frozenset({"import", "file"})
    return STRIKES[type(action)]


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is none of the kinds of requests: {', '.join(sorted(KINDS))}")


def _check_gateway(status: int | None) -> None:
    if status is not None and status not in _GATEWAY:
        raise ValueError(f"a gateway that gives up answers {', '.join(map(str, _GATEWAY))}, not {status}")
