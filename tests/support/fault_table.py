"""The table of faults: what the test XNAT can do to a request, at every stage of a run, and the expected result.

Each run has five files, sessions or logins that a fault strikes, once each unless the row says otherwise. A row says
how many requests are made about each of them and how it ends. A text says why a fault cannot strike at a stage.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import pytest

from asyncimport.errors import (
    FatalError,
    LoginRefusedError,
    UnavailableError,
)
from asyncimport.model.options import Options
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.testserver import (
    PROFILES,
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
    RowStatus,
    Stall,
    Status,
    Tell,
    Unseen,
)
from asyncimport.testserver.faults.actions import Action
from asyncimport.xnat.transport import Timeouts

STRUCK = 5
ALONE = Options(workers=1, finalizers=1, max_open_sessions=1)
TOGETHER = Options(workers=STRUCK, finalizers=STRUCK)
# By the clock of `IdleLoop`.
SHORT = Timeouts(connect=5, stall=0.5, reply=0.6)
# A file is judged by fewer attempts than the server is given.
PATIENT = RetryPolicy(attempts=5, file_attempts=3, first_seconds=0)
# A server that restarts refuses connections for a moment, and no attempt at one takes any time.
MANY = RetryPolicy(attempts=100, first_seconds=0)


class End(StrEnum):
    """How each struck session or login ends."""

    WELL = "all that was sent is in the archive and verified, or the login is in order"
    BUILT = "the session is built, and stays in the prearchive as asked"
    HELD = "the session is held, with the reason, and nothing of it is archived"
    REFUSED = "the file is refused, with the reason, and its session is held: it is not archived without it"


@dataclass(frozen=True, slots=True)
class Row:
    """What is expected of a fault at a stage: `requests` of each kind for each session (a range where it varies).

    `why` is a pattern of the reason, or of the error that ends the login. The fault strikes each session `times` times.
    `once` is the number of further GETs in the whole run, `logins` the number of logins that each leaves open. With
    `may_have_taken_effect`, the client cannot know whether the file took effect. With `moved`, the row with the first
    file is in another project. `zips` is the number of files that are stored as zips.
    """

    end: End | type[FatalError]
    why: str
    requests: Mapping[str, int | range]
    times: int = 1
    once: int = 0
    logins: int = 0
    may_have_taken_effect: bool = False
    moved: bool = False
    zips: int = 0


def row(end: End | type[FatalError] = End.WELL, why: str = "", /, **requests: int | range) -> Row:
    """Make a row with the requests that differ from a run without faults."""
    return Row(end, why, requests)


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a fault strikes: the `nth` request of a kind to addresses that contain `path` (with the session's number).

    `requests` is what each session or login takes without faults; `held` is how many of its `files` are stored,
    refused and left when it is held there.
    """

    kind: str
    path: str = ""
    nth: int = 1
    files: int = 1
    requests: Mapping[str, int] = field(default_factory=dict)
    held: tuple[int, int, int] = (1, 0, 0)


# The archive is asked for the session before the first file. The row is looked at after it, and before it is built;
# then its files are counted, and the label is looked for. Afterwards come the experiment, its resources, their catalog,
# and the experiment again.
_GETS = 9
_SESSION = {"build": 1, "archive": 1, "listing": _GETS}
_LOGIN = {"login": 1, "listing": 1, "logout": 1}
_CHECKED = {**_LOGIN, "listing": 3}
_IMPORTS = {"import": 2, **_SESSION}
_FINAL = {"import": 1, **_SESSION}

STAGES: Mapping[str, Stage] = {
    "login": Stage("login", requests=_LOGIN),
    "login check": Stage("listing", "auth", requests=_LOGIN),
    "preflight: project": Stage("listing", "projects/demo", requests=_CHECKED),
    "preflight: rights": Stage("listing", "projects", nth=2, requests=_CHECKED),
    "look up": Stage("listing", "label=S{}_", requests=_FINAL, held=(0, 0, 1)),
    "first file": Stage("import", files=2, requests=_IMPORTS, held=(0, 1, 1)),
    "later file": Stage("import", nth=2, files=2, requests=_IMPORTS, held=(1, 1, 0)),
    "zip": Stage("import", "DICOM-zip", nth=2, files=6),
    "look after it": Stage("listing", "/S{}_", requests=_FINAL),
    "look": Stage("listing", "/S{}_", nth=2, requests=_FINAL),
    "build": Stage("build", "/S{}_", requests=_FINAL),
    "count": Stage("listing", "/S{}_", nth=3, requests=_FINAL),
    "label": Stage("listing", "label=S{}_", nth=2, requests=_FINAL),
    "archive": Stage("archive", requests=_FINAL),
    "build alone": Stage("build", "/S{}_", requests={"import": 1, "build": 1, "listing": 4}),
    "verify: experiment": Stage("listing", "label=S{}_", nth=3, requests=_FINAL),
    "verify: resources": Stage("listing", "experiments/XNAT_E0000{}/resources", requests=_FINAL),
    "verify: catalog": Stage("listing", "experiments/XNAT_E0000{}/scans/", requests=_FINAL),
    "verify: again": Stage("listing", "experiments/XNAT_E0000{}?", requests=_FINAL),
    "logout": Stage("logout", requests=_LOGIN),
}
# The first file of the session is no zip, and the second of its zips is struck.
ZIP_VERSIONS = [version for version in PROFILES if version in {"1.8", "1.9", "1.10"}]
RUNS = [name for name, stage in STAGES.items() if "import" in stage.requests]

_NOW = {"Retry-After": "0"}
_TOMCATS = (
    "<!doctype html><html><head><title>HTTP Status 404</title></head><body><h1>HTTP Status 404</h1></body></html>"
)

FAULTS: Mapping[str, Action] = {
    "429": Status(429, headers=_NOW),
    "500": Status(500),
    "502": Status(502),
    "503": Status(503, headers=_NOW),
    "504": Status(504),
    "520": Status(520),
    "maintenance": Status(302, headers={"Location": "https://example.org/maintenance.html"}),
    "403": Status(403),
    "413": Status(413),
    "400 to a zip": Status(400),
    "415 to a zip": Status(415),
    "404 page": Status(404, _TOMCATS, {"Content-Type": "text/html"}),
    "reset": Reset(),
    "reset when done": Reset(effect=True),
    "reset midway": Reset(after_bytes=1500),
    "damaged": Damage(),
    "damaged for good": Damage(),
    "late": Late(after=1),
    "late, in between": Late(after=1),
    "gateway": Gateway(),
    "gateway at once": Gateway(wait=False),
    "gateway alone": Gateway(effect=False),
    "stall": Stall(),
    "stall unread": Stall(reads=False),
    "stall when done": Stall(effect=True),
    "login page": LoginPage(),
    "expired": ExpireLogins(),
    "restart": Restart(),
    "locked": Locked(),
    "conflict": Conflict(),
    "left CONFLICT": Leave(RowStatus.CONFLICT),
    "left ERROR": Leave(RowStatus.ERROR),
    "left BUILDING": Leave(RowStatus.BUILDING, looks=2),
    "left QUEUED_BUILDING": Leave(RowStatus.QUEUED_BUILDING, looks=2),
    "left ARCHIVING": Leave(RowStatus.ARCHIVING, looks=2),
    "left QUEUED_ARCHIVING": Leave(RowStatus.QUEUED_ARCHIVING, looks=2),
    "row archived": Administer("archive"),
    "row deleted": Administer("delete"),
    "row moved": Administer("move", to="other"),
    "empty": Empty(),
    "empty for good": Empty(),
    "disk full": DiskFull(),
    "disk full in part": DiskFull(partial=True),
    "disk full for good": DiskFull(),
    "unseen": Unseen("demo"),
    "tell": Tell(lambda: None),
}
# The next request of the kind brings the late one about, or the next but one step of the session does.
_LATER = {"import": "build", "build": "listing", "archive": "listing"}

NO_EFFECT = [
    *("429", "500", "502", "503", "504", "520", "maintenance"),
    *("404 page", "reset", "gateway alone", "stall"),
]
DONE = ["reset when done", "gateway", "gateway at once", "stall when done"]
CUT = [
    *("500", "502", "503", "504", "520", "maintenance"),
    *("reset", "gateway alone", "stall", *DONE),
    *("reset midway", "stall unread", "late", "late, in between"),
]
ROWS_LEFT = [name for name in FAULTS if name.startswith("left ")]
ROWS_TAKEN = ["row archived", "row deleted", "row moved"]
OF_FILES = ["empty", "empty for good", "disk full", "disk full in part", "disk full for good"]

OF_ZIPS = ["400 to a zip", "415 to a zip", "damaged", "damaged for good"]

NO_ZIP = "no zip is sent, and nothing else has a checksum that XNAT compares, or a way to go without it"
NO_FILE = "no file is sent, so none can be dropped or fail to be written"
NO_BODY = "the request has no body that could be cut or left unread"
NO_ROW = "it is about no row of the prearchive, so nobody can be at work on one, or leave one in a status"
NO_ROW_YET = "there is no row of the session yet that somebody could archive, delete or move"
NO_ROW_LEFT = "the session is in the archive, and has no row any more that somebody could take"
NO_CHANGE = "it changes nothing, so it makes no difference when it takes effect"
LATE_LOGIN = "what comes late is a login that nobody hears of, or the end of one, as when it is reset when done"
NO_PROJECT = "it names no project, so that it does not matter whether that is known"
NO_ARCHIVING = "a build does not archive, so it cannot conflict with the archive, or leave a row at it"
FINAL = "the request is about a session whose files are in place"

_GET = {
    **dict.fromkeys(OF_ZIPS, NO_ZIP),
    **dict.fromkeys(OF_FILES, NO_FILE),
    **dict.fromkeys(["reset midway", "stall unread"], NO_BODY),
    **dict.fromkeys(["locked", "conflict", *ROWS_LEFT, *ROWS_TAKEN], NO_ROW),
    **dict.fromkeys(["late", "late, in between"], NO_CHANGE),
}
_AUTH = {**_GET, **dict.fromkeys(["late", "late, in between"], LATE_LOGIN), "unseen": NO_PROJECT}
_POST = {
    **dict.fromkeys(OF_ZIPS, NO_ZIP),
    **dict.fromkeys(OF_FILES, FINAL),
    **dict.fromkeys(["reset midway", "stall unread"], NO_BODY),
}
_NO_LOGIN = {"login": 1, "listing": 0, "logout": 0}
_UNHELPED = {"build": 0, "archive": 0}


# It is looked for three times, row and archive, then in other projects and under other labels; and sent anew.
_LOST = 3 * 2
_MOVED = "somebody has moved it to project other"


def _taken(*, listing: int, build: int, archive: int) -> Mapping[str, Row | str]:
    """Return the rows of a request about a sealed session that somebody else archives, deletes or moves.

    The numbers are the requests until the row is missed.
    """
    return {
        "row archived": row(build=build, archive=archive, listing=listing + 5),
        "row deleted": row(**{"import": 2}, build=build + 1, archive=archive + 1, listing=listing + _LOST + 1 + _GETS),
        "row moved": replace(
            row(End.HELD, _MOVED, build=build, archive=archive, listing=listing + _LOST + 1), moved=True
        ),
    }


def _imports(end: str, *, until: int) -> Mapping[str, Row | str]:
    """Return the rows of an import; a fault that ends a session does so after `until` files."""
    ends = {"import": until, **_UNHELPED, "listing": until}
    return {
        **dict.fromkeys(OF_ZIPS, NO_ZIP),
        **dict.fromkeys(["429", "404 page"], row(**{"import": 3})),
        **dict.fromkeys(CUT, replace(row(**{"import": 3}), may_have_taken_effect=True)),
        # Its work goes on, and XNAT calls what is sent meanwhile a concurrent send, however often that is.
        "gateway at once": replace(row(**{"import": range(3, 200)}), may_have_taken_effect=True),
        "403": row(End.HELD, r"does not let this user import here \(403", **ends),
        "413": row(End.REFUSED, r"larger than a proxy .* lets through \(413\)", **_UNHELPED, listing=2),
        "login page": row(login=1, logout=1, listing=_GETS + 1, **{"import": 3}),
        "expired": row(login=1, logout=1, listing=_GETS + 1, **{"import": 3}),
        # Broken off, then without a login, then stored.
        "restart": replace(
            # The login may be found dead by what is asked before the first file.
            row(login=1, logout=1, listing=range(_GETS + 1, _GETS + 4), **{"import": range(3, 5)}),
            may_have_taken_effect=True,
        ),
        **dict.fromkeys(["locked", "conflict", *ROWS_LEFT], end),
        "empty": row(**{"import": 3}),
        "empty for good": replace(
            row(End.REFUSED, r"did not keep the file \(empty 200\), 3 times", **{"import": 4}, **_UNHELPED, listing=2),
            times=3,
        ),
        **dict.fromkeys(["disk full", "disk full in part"], row(**{"import": 3})),
        "disk full for good": replace(
            row(End.REFUSED, r"unable to read DICOM object\), 3 times", **{"import": 4}, **_UNHELPED, listing=2),
            times=3,
        ),
        "unseen": row(End.HELD, "put the file into unassigned", **ends),
        "tell": row(),
    }


def _verify(*, restart: int) -> Mapping[str, Row | str]:
    """Return the rows of a GET of the archive; `restart` is the number of GETs if XNAT restarts there."""
    return {
        **_GET,
        **dict.fromkeys([*NO_EFFECT, *DONE, "403", "413"], row(listing=_GETS + 1)),
        "login page": row(login=1, logout=1, listing=_GETS + 2),
        "expired": row(login=1, logout=1, listing=_GETS + 2),
        "restart": row(login=1, logout=1, listing=restart),
        **dict.fromkeys(ROWS_TAKEN, NO_ROW_LEFT),
        "unseen": NO_PROJECT,
        "tell": row(),
    }


def _look() -> Mapping[str, Row | str]:
    """Return the rows of a GET before archiving that may go unanswered."""
    return {**_verify(restart=_GETS + 3), **dict.fromkeys(["403", "unseen"], row())}


def _zip(end: End = End.WELL, why: str = "", /, *, zips: int = 4, times: int = 1, **requests: int) -> Row:
    """Return the row of a zip: struck once, its file goes as it is, and the others still go as zips."""
    return replace(row(end, why, **{"import": 6 + times, **requests}), zips=zips, times=times)


_CUT_ZIP = replace(_zip(), may_have_taken_effect=True)
_NOT_XNAT = "what answers there is not an XNAT"
_ELSEWHERE = "an import waits for no lock of the session, and leaves its row RECEIVING whatever it was"

TABLE: Mapping[str, Mapping[str, Row | str]] = {
    "login": {
        **_AUTH,
        **dict.fromkeys(NO_EFFECT, row(login=2)),
        # XNAT has logged in somebody who never hears of it.
        **dict.fromkeys(DONE, replace(row(login=2), logins=1)),
        "maintenance": row(UnavailableError, "redirects to https://example.org", **_NO_LOGIN),
        "403": row(UnavailableError, "does not let anyone in", **_NO_LOGIN),
        "413": row(UnavailableError, _NOT_XNAT, **_NO_LOGIN),
        # There may be /REST where there is no /data.
        "404 page": row(login=2),
        # Refusals add up to a locked account: once, and no more.
        "login page": row(LoginRefusedError, "answers the login with its login page", **_NO_LOGIN),
        "expired": row(),
        "restart": row(login=2),
        "tell": row(),
    },
    "login check": {
        **_GET,
        "unseen": NO_PROJECT,
        **dict.fromkeys([*NO_EFFECT, *DONE], row(login=2, listing=2, logout=2)),
        # What breaks on a connection that was good before is asked again by aiohttp itself, once, if it is no POST.
        **dict.fromkeys(["reset", "reset when done"], row(listing=2)),
        "maintenance": row(UnavailableError, "redirects to https://example.org"),
        **dict.fromkeys(["413", "404 page"], row(UnavailableError, _NOT_XNAT)),
        **dict.fromkeys(["403", "login page"], row(LoginRefusedError, "does not accept the login")),
        # Another login may be meant to last.
        "expired": row(login=2, listing=2, logout=2),
        # Whether the logout gets through to give the first login back depends on how soon XNAT is there again.
        "restart": row(login=2, listing=2, logout=range(1, 3)),
        "tell": row(),
    },
    "preflight: project": {
        **_GET,
        **dict.fromkeys([*NO_EFFECT, *DONE, "413"], row(listing=4)),
        # XNAT's caches lag behind a new project: it is asked again, with the rights, which are asked for beside it.
        **dict.fromkeys(["403", "unseen"], row(listing=5)),
        "login page": row(login=2, logout=2, listing=5),
        # The request beside it may have been served before.
        "expired": row(login=2, logout=2, listing=range(5, 7)),
        "restart": row(login=2, logout=2, listing=range(6, 8)),
        "tell": row(),
    },
    "preflight: rights": {
        **_GET,
        **dict.fromkeys([*NO_EFFECT, *DONE, "413", "403"], row(listing=4)),
        "login page": row(login=2, logout=2, listing=5),
        "expired": row(login=2, logout=2, listing=5),
        "restart": row(login=2, logout=2, listing=6),
        "unseen": row(listing=5),
        "tell": row(),
    },
    "look up": {
        # What may not be listed counts as not there; it is looked for again before anything is archived.
        **_look(),
        **dict.fromkeys(ROWS_TAKEN, NO_ROW_YET),
        # What is asked beside it may be asked again too: six requests, if it is that of the first session.
        **dict.fromkeys(["login page", "expired"], row(login=1, logout=1, listing=range(_GETS + 2, _GETS + 5))),
        "restart": row(login=1, logout=1, listing=range(_GETS + 1, _GETS + 8)),
    },
    "first file": {**_imports(_ELSEWHERE, until=1), **dict.fromkeys(ROWS_TAKEN, NO_ROW_YET)},
    "later file": {
        **_imports(_ELSEWHERE, until=2),
        # XNAT makes a second row: the first is looked for, and what it held is compared. The file is sent again, alone.
        "row archived": row(**{"import": 3}, listing=1 + 4 + _GETS),
        "row deleted": row(**{"import": 4}, listing=1 + _LOST + 2 + _GETS),
        "row moved": replace(row(End.HELD, _MOVED, **_UNHELPED, listing=2 + _LOST + 1), moved=True),
    },
    "zip": {
        **dict.fromkeys(["429", "400 to a zip", "damaged", "empty", "disk full", "disk full in part"], _zip()),
        **dict.fromkeys(CUT, _CUT_ZIP),
        # XNAT may call the file itself a concurrent send, however often that is.
        "gateway at once": replace(_CUT_ZIP, requests={"import": range(7, 200)}),
        # What says that no zip will fare better ends zips, and so do three refusals.
        **dict.fromkeys(["403", "404 page", "413", "415 to a zip", "unseen"], _zip(zips=1)),
        **dict.fromkeys(["damaged for good", "empty for good", "disk full for good"], _zip(zips=1, times=3)),
        **dict.fromkeys(["login page", "expired"], _zip(zips=5, login=2, logout=2)),
        # Broken off, then without a login, then stored.
        "restart": replace(_CUT_ZIP, requests={"import": range(7, 9), "login": 2, "logout": 2}),
        **dict.fromkeys(["locked", "conflict", *ROWS_LEFT], _ELSEWHERE),
        # The second row of the session tells that the first is gone. What has gone into it since is sent again. Files
        # fare no better there as they are, so only their series goes without zips.
        "row archived": replace(_zip(zips=1), requests={"import": 13}),
        "row deleted": replace(_zip(zips=0), requests={"import": 15}),
        "row moved": replace(_zip(End.HELD, _MOVED, zips=1), requests={"import": 9}, moved=True),
        "tell": replace(_zip(zips=5), requests={"import": 6}),
    },
    "look after it": {
        # What may not be looked at then may be later.
        **_look(),
        **_taken(listing=2, build=0, archive=0),
        # The file is sent again until its row has been seen.
        "restart": row(login=1, logout=1, listing=range(_GETS + 1, _GETS + 6), **{"import": range(2, 5)}),
    },
    "look": {
        **_look(),
        **_taken(listing=2, build=0, archive=0),
        **dict.fromkeys(
            ["403", "unseen"],
            row(End.HELD, "does not let this user see the prearchive session", listing=3, **_UNHELPED),
        ),
    },
    "build": {
        **_POST,
        # What may have gone is looked at once more.
        **_taken(listing=4, build=1, archive=0),
        # It is looked at again, and it is to be built as it was.
        **dict.fromkeys(NO_EFFECT, row(build=2, listing=_GETS + 1)),
        # The next look shows that the session is built.
        **dict.fromkeys(DONE, row(listing=_GETS + 1)),
        **dict.fromkeys(["late", "late, in between", "locked"], row(build=2, listing=_GETS + 1)),
        **{
            status: row(End.HELD, rf"could not build the session \({status}", archive=0, listing=4)
            for status in ("500", "413", "403")
        },
        "login page": row(login=1, logout=1, build=2, listing=_GETS + 2),
        "expired": row(login=1, logout=1, build=2, listing=_GETS + 2),
        "restart": row(login=1, logout=1, build=2, listing=_GETS + 3),
        **dict.fromkeys(
            ["left CONFLICT", "left ERROR"], row(End.HELD, "The session could not be processed", archive=0, listing=4)
        ),
        # Two looks show it at work, the third that it is built.
        **dict.fromkeys(["left BUILDING", "left QUEUED_BUILDING"], row(listing=_GETS + 3)),
        **dict.fromkeys(["conflict", "left ARCHIVING", "left QUEUED_ARCHIVING"], NO_ARCHIVING),
        "unseen": row(End.HELD, "cannot access project demo", archive=0, listing=4),
        "tell": row(),
    },
    "count": {
        **_look(),
        **_taken(listing=5, build=1, archive=1),
        **dict.fromkeys(
            ["403", "unseen"], row(End.HELD, "does not let this user see the prearchive session", archive=0, listing=6)
        ),
        # The label is asked for beside it, and breaks too. Begun anew, the session may be built again.
        "expired": row(login=1, logout=1, listing=range(_GETS + 2, _GETS + 4)),
        "restart": row(login=1, logout=1, build=range(1, 3), listing=range(_GETS + 3, _GETS + 8)),
    },
    # That the label is free is to be known, and not to be guessed.
    "label": {
        **_look(),
        **dict.fromkeys(ROWS_TAKEN, NO_ROW),
        **dict.fromkeys(["403", "unseen"], row(listing=_GETS + 1)),
        "restart": row(login=1, logout=1, build=range(1, 3), listing=range(_GETS + 3, _GETS + 8)),
    },
    "archive": {
        **_POST,
        **_taken(listing=5, build=1, archive=1),
        # The row is looked at again, and so are its files and its label.
        **dict.fromkeys([*NO_EFFECT, "late", "locked"], row(archive=2, listing=_GETS + 3)),
        # The next look shows that the row is gone, and one more GET that the session is in the archive.
        **dict.fromkeys(DONE, row(listing=_GETS + 1)),
        # It is looked at, without a pause here, for as long as XNAT is at work on it; never asked for again.
        "gateway at once": row(listing=range(_GETS + 1, 1000)),
        # The look that brings it about still shows the row; what is asked of it then finds it gone.
        "late, in between": row(archive=2, listing=_GETS + 4),
        **{
            status: row(End.HELD, rf"did not archive the session \({status}", listing=6)
            for status in ("500", "413", "403")
        },
        "login page": row(login=1, logout=1, archive=2, listing=_GETS + 4),
        "expired": row(login=1, logout=1, archive=2, listing=_GETS + 4),
        # Begun anew, the session is built again.
        "restart": row(login=1, logout=1, build=2, archive=2, listing=_GETS + 5),
        "conflict": row(End.HELD, "Session already exists with matching files", listing=6),
        **dict.fromkeys(
            ["left CONFLICT", "left ERROR"], row(End.HELD, "The session could not be processed", listing=6)
        ),
        **dict.fromkeys(["left BUILDING", "left QUEUED_BUILDING"], row(archive=2, listing=_GETS + 5)),
        **dict.fromkeys(["left ARCHIVING", "left QUEUED_ARCHIVING"], row(listing=_GETS + 3)),
        "unseen": row(End.HELD, "cannot archive into project demo", listing=6),
        "tell": row(),
    },
    "build alone": {
        **_POST,
        # Somebody else has archived it, for all that was asked.
        "row archived": row(listing=4 + 5),
        "row deleted": row(End.BUILT, **{"import": 2}, build=2, listing=4 + _LOST + 2 + 3),
        "row moved": replace(row(End.HELD, _MOVED, listing=4 + _LOST + 1), moved=True),
        **dict.fromkeys([*NO_EFFECT, "late", "late, in between", "locked"], row(End.BUILT, build=2, listing=5)),
        **dict.fromkeys(DONE, row(End.BUILT, listing=5)),
        **{
            status: row(End.HELD, rf"could not build the session \({status}", listing=4)
            for status in ("500", "413", "403")
        },
        "login page": row(End.BUILT, login=1, logout=1, build=2, listing=6),
        "expired": row(End.BUILT, login=1, logout=1, build=2, listing=6),
        "restart": row(End.BUILT, login=1, logout=1, build=2, listing=7),
        **dict.fromkeys(
            ["left CONFLICT", "left ERROR"], row(End.HELD, "The session could not be processed", listing=4)
        ),
        **dict.fromkeys(["left BUILDING", "left QUEUED_BUILDING"], row(End.BUILT, listing=7)),
        **dict.fromkeys(["conflict", "left ARCHIVING", "left QUEUED_ARCHIVING"], NO_ARCHIVING),
        "unseen": row(End.HELD, "cannot access project demo", listing=4),
        "tell": row(End.BUILT),
    },
    "verify: experiment": {
        **_verify(restart=_GETS + 4),
        # It looks as if the archive's listing were behind: the row is looked for, and then the session again.
        **dict.fromkeys(["403", "unseen"], row(listing=_GETS + 2)),
    },
    "verify: resources": _verify(restart=_GETS + 5),
    "verify: catalog": _verify(restart=_GETS + 6),
    "verify: again": _verify(restart=_GETS + 7),
    "logout": {
        **_AUTH,
        # Nobody is told, and the login is left to idle out.
        **dict.fromkeys([*NO_EFFECT, "403", "413", "login page"], replace(row(), logins=1)),
        **dict.fromkeys([*DONE, "expired", "restart", "tell"], row()),
        # As with the login's check.
        **dict.fromkeys(["reset", "reset when done"], row(logout=2)),
    },
}
CELLS = [
    pytest.param(stage, fault, cell, id=f"{stage}-{fault}")
    for stage, column in TABLE.items()
    for fault, cell in column.items()
    if isinstance(cell, Row)
]


def action_of(fault: str, stage: str) -> Action:
    """Return what a fault does at a stage."""
    kind = STAGES[stage].kind
    match FAULTS[fault]:
        case Late(after=after) if kind in _LATER:
            return Late(after, of=kind if fault == "late" else _LATER[kind])
        case Restart() if stage not in RUNS:
            return Restart(seconds=0)
        case Unseen(project=project) if stage == "preflight: rights":
            return Unseen(project, right="edit")
        case action:
            return action
