"""The table of faults: whatever the test XNAT can do to a request, at every stage of a run, and what is to come of it.

A row tells for each of the five that are struck (files, sessions or logins, once each unless it says how often) how
many requests are made of it, and how it ends; a text tells why a fault cannot strike there. Below the table is what
holds for all rows: how long the pauses are, who waits, and how many repetitions there are to spare.
"""

import asyncio
import random
import re
import selectors
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web
from builders import QUICK, image, listening, logged_in, no_sleep, sop, upload, write
from yarl import URL

from asyncimport.errors import (
    FatalError,
    LoginRefusedError,
    TransientError,
    UnavailableError,
)
from asyncimport.model import Outcome, SessionReport, Summary
from asyncimport.model.events import Event, OutcomesRecorded, RetryScheduled, ServerUnavailable
from asyncimport.model.options import Options, Retry
from asyncimport.model.summary import exit_code
from asyncimport.pacing.outage import RetryBudget
from asyncimport.pacing.retry import RetryPolicy, call_with_retries
from asyncimport.pacing.shutdown import Stop
from asyncimport.testserver import (
    Administer,
    Conflict,
    DiskFull,
    Empty,
    ExpireLogins,
    Fault,
    Gateway,
    Late,
    Leave,
    Locked,
    LoginPage,
    Project,
    Reset,
    Restart,
    RowStatus,
    Stall,
    Status,
    Tell,
    TestXnat,
    Unseen,
)
from asyncimport.testserver.faults.actions import STRIKES, Action
from asyncimport.xnat.client import Client
from asyncimport.xnat.replies.site import parse_project_id
from asyncimport.xnat.site import check_project
from asyncimport.xnat.transport import Timeouts

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

STRUCK = 5
ALONE = Options(workers=1, finalizers=1, max_open_sessions=1)
TOGETHER = Options(workers=STRUCK, finalizers=STRUCK)
# By the clock of `IdleLoop`.
SHORT = Timeouts(connect=5, stall=0.5, reply=0.6)
# A file is judged by fewer attempts than the server is given.
PATIENT = RetryPolicy(attempts=5, file_attempts=3, first_seconds=0)
# A server that restarts refuses connections for a moment, and no attempt at one takes any time.
MANY = RetryPolicy(attempts=100, first_seconds=0)


class _IdleSelector(selectors.DefaultSelector):
    """Adds up how long nothing happened."""

    idle_seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait as any selector does."""
        ready = super().select(timeout)
        if not ready and timeout is not None and timeout > 0:
            self.idle_seconds += timeout
        return ready


class IdleLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock runs only while nothing happens: on a busy machine nothing but a stall times out."""

    def __init__(self) -> None:
        self._idle = _IdleSelector()
        super().__init__(self._idle)

    def time(self) -> float:
        """Return the seconds in which nothing happened."""
        return self._idle.idle_seconds


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run what is to time out on a clock that the speed of the machine does not touch."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    is_stall = isinstance(FAULTS.get(parameters.get("fault", "")), Stall)
    return "asyncio", {"loop_factory": IdleLoop} if is_stall else {}


class End(StrEnum):
    """How the five end that are struck."""

    WELL = "all that was sent is in the archive and verified, or the login is in order"
    BUILT = "the session is built, and stays in the prearchive as asked"
    HELD = "the session is held, with the reason, and nothing of it is archived"
    REFUSED = "the file is refused, with the reason, and its session is held: it is not archived without it"


@dataclass(frozen=True, slots=True)
class Row:
    """What is to come of a fault at a stage: `requests` of each kind for each of the five (a range where it varies).

    `why` is what the reason, or the error that ends the login, says. The fault strikes each of them `times` times.
    `once` GETs are made once in the run besides, and each leaves so many `logins` open that nobody knows of. With
    `may_have_taken_effect`, the file may yet take effect as far as anyone can know. With `moved`, the row with the
    first file is in another project.
    """

    end: End | type[FatalError]
    why: str
    requests: Mapping[str, int | range]
    times: int = 1
    once: int = 0
    logins: int = 0
    may_have_taken_effect: bool = False
    moved: bool = False


def row(end: End | type[FatalError] = End.WELL, why: str = "", /, **requests: int | range) -> Row:
    """Make a row of the requests that differ from those of a stage where nothing strikes."""
    return Row(end, why, requests)


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a fault strikes: the `nth` request of a kind, of those to addresses that hold `path`, by session number.

    `requests` is what each session (or login) takes when nothing strikes; `held` how many of its `files` are stored,
    refused and left when it is held there.
    """

    kind: str
    path: str = ""
    nth: int = 1
    files: int = 1
    requests: Mapping[str, int] = field(default_factory=dict)
    held: tuple[int, int, int] = (1, 0, 0)


# Where a login is renewed, the old one is ended, and the new one checked: a logout, a login and a GET more.

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
    "404 page": Status(404, _TOMCATS, {"Content-Type": "text/html"}),
    "reset": Reset(),
    "reset when done": Reset(effect=True),
    "reset midway": Reset(after_bytes=1500),
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
    **dict.fromkeys(OF_FILES, NO_FILE),
    **dict.fromkeys(["reset midway", "stall unread"], NO_BODY),
    **dict.fromkeys(["locked", "conflict", *ROWS_LEFT, *ROWS_TAKEN], NO_ROW),
    **dict.fromkeys(["late", "late, in between"], NO_CHANGE),
}
_AUTH = {**_GET, **dict.fromkeys(["late", "late, in between"], LATE_LOGIN), "unseen": NO_PROJECT}
_POST = {
    **dict.fromkeys(OF_FILES, FINAL),
    **dict.fromkeys(["reset midway", "stall unread"], NO_BODY),
}
_NO_LOGIN = {"login": 1, "listing": 0, "logout": 0}
_UNHELPED = {"build": 0, "archive": 0}


# It is looked for three times, row and archive, then in other projects and under other labels; and sent anew.
_LOST = 3 * 2
_MOVED = "somebody has moved it to project other"


def _taken(*, listing: int, build: int, archive: int) -> Mapping[str, Row | str]:
    """Return the rows of a request about a sealed session that somebody takes: with what is asked before it is missed.

    `build` and `archive` are those that find it gone.
    """
    return {
        "row archived": row(build=build, archive=archive, listing=listing + 5),
        "row deleted": row(**{"import": 2}, build=build + 1, archive=archive + 1, listing=listing + _LOST + 1 + _GETS),
        "row moved": replace(
            row(End.HELD, _MOVED, build=build, archive=archive, listing=listing + _LOST + 1), moved=True
        ),
    }


def _imports(end: str, *, until: int) -> Mapping[str, Row | str]:
    """Return the rows of an import; one that ends a session ends it after `until` files."""
    ends = {"import": until, **_UNHELPED, "listing": until}
    return {
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
            row(login=1, logout=1, listing=range(_GETS + 1, _GETS + 3), **{"import": range(3, 5)}),
            may_have_taken_effect=True,
        ),
        **dict.fromkeys(["locked", "conflict", *ROWS_LEFT], end),
        # What filters and scripts there are is asked once in a run, here because of the empty answer.
        "empty": row(**{"import": 3}),
        "empty for good": replace(
            row(End.REFUSED, r"did not keep the file \(empty 200\), 3 times", **{"import": 4}, **_UNHELPED, listing=2),
            times=3,
            once=5,
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
    """Return the rows of a GET of the archive, with all the GETs of a session when XNAT restarts at it."""
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
    """Return the rows of a GET before the session is archived, which may go on without an answer."""
    return {**_verify(restart=_GETS + 3), **dict.fromkeys(["403", "unseen"], row())}


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
        **dict.fromkeys(["413", "404 page"], row(UnavailableError, _NOT_XNAT, **_NO_LOGIN)),
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
        # XNAT's caches lag behind a new project: it is asked again.
        **dict.fromkeys(["403", "unseen"], row(listing=4)),
        "login page": row(login=2, logout=2, listing=5),
        "expired": row(login=2, logout=2, listing=5),
        "restart": row(login=2, logout=2, listing=6),
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
        "restart": row(login=1, logout=1, listing=range(_GETS + 1, _GETS + 4)),
    },
    "first file": {**_imports(_ELSEWHERE, until=1), **dict.fromkeys(ROWS_TAKEN, NO_ROW_YET)},
    "later file": {
        **_imports(_ELSEWHERE, until=2),
        # XNAT makes a second row: the first is looked for, and what it held is compared. The file is sent again, alone.
        "row archived": row(**{"import": 3}, listing=1 + 4 + _GETS),
        "row deleted": row(**{"import": 4}, listing=1 + _LOST + 2 + _GETS),
        "row moved": replace(row(End.HELD, _MOVED, **_UNHELPED, listing=2 + _LOST + 1), moved=True),
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
            ["403", "unseen"], row(End.HELD, "does not let this user see the prearchive session", archive=0, listing=5)
        ),
        # Begun anew, the session is built again.
        "restart": row(login=1, logout=1, listing=_GETS + 4),
    },
    # That the label is free is to be known, and not to be guessed.
    "label": {
        **_look(),
        **dict.fromkeys(ROWS_TAKEN, NO_ROW),
        **dict.fromkeys(["403", "unseen"], row(listing=_GETS + 1)),
        "restart": row(login=1, logout=1, listing=_GETS + 5),
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


def can_strike(fault: str, stage: str) -> bool:
    """Ask the test XNAT itself."""
    try:
        Fault(STAGES[stage].kind, action_of(fault, stage))
    except ValueError:
        return False
    return True


def test_the_table_has_no_holes() -> None:
    """Each fault has a row or a reason at each stage, and no row where it cannot strike; each action is a fault."""
    assert {type(action) for action in FAULTS.values()} == set(STRIKES)
    assert set(TABLE) == set(STAGES)
    for stage, column in TABLE.items():
        assert set(column) == set(FAULTS), stage
        rows = {fault for fault, cell in column.items() if isinstance(cell, Row)}
        assert {fault for fault in rows if not can_strike(fault, stage)} == set(), stage
        assert all(cell.count(" ") > 3 for cell in column.values() if isinstance(cell, str)), stage


# --- the table, row by row


def requests_of(stage: str, cell: Row) -> Mapping[str, range]:
    """Return how many requests of each kind each session takes, or each login, at least and (not) at most."""
    numbers = {**STAGES[stage].requests, **cell.requests}
    return {kind: one if isinstance(one, range) else range(one, one + 1) for kind, one in numbers.items()}


def strikes(stage: str, fault: str, cell: Row, *, alone: bool) -> Iterator[Fault]:
    """Yield faults that strike each of the five."""
    place, action = STAGES[stage], action_of(fault, stage)
    if place.path and stage in RUNS:
        for number in range(1, STRUCK + 1):
            yield Fault(place.kind, action, place.nth, path=place.path.format(number))
    elif alone:
        each = requests_of(stage, cell)[place.kind].start
        for number in range(STRUCK):
            yield Fault(place.kind, action, place.nth + number * each, cell.times)
    else:
        yield Fault(place.kind, action, place.nth, STRUCK)


def check_requests(xnat: TestXnat, stage: str, cell: Row, once: Mapping[str, int], listings: range) -> None:
    """Compare what the server was asked, in all, with what the table says."""
    each = requests_of(stage, cell)
    for kind in sorted({*xnat.count, *each, *once}):
        numbers = each.get(kind, range(1))
        least, most = (STRUCK * number + once.get(kind, 0) for number in (numbers.start, numbers.stop - 1))
        if kind == "listing":
            least, most = least + listings.start, most + listings.stop - 1
        assert least <= xnat.count[kind] <= most, f"{xnat.count[kind]} times {kind}, not {least} to {most}"


async def check_faults(faults: Sequence[Fault], cell: Row) -> None:
    """See that all have been struck, and that nothing is to come yet."""
    assert sum(fault.hits for fault in faults) == STRUCK * cell.times
    for fault in faults:
        assert not isinstance(fault.action, Late) or fault.release() == 0
        await fault.settled()


def study(tree: Path, files: int) -> Sequence[Sequence[str]]:
    """Write five sessions S1 to S5 of five patients; return the SOPInstanceUIDs of each."""
    for session in range(1, STRUCK + 1):
        for file in range(files):
            content = image(
                10 * session + file,
                pixels=2000,
                PatientID=f"S{session}",
                StudyInstanceUID=f"1.2.{session}",
                SeriesInstanceUID=f"1.2.{session}.1",
            )
            write(tree / f"{session}{file}", content)
    return [[sop(10 * session + file) for file in range(files)] for session in range(1, STRUCK + 1)]


def check_summary(summary: Summary, stage: Stage, cell: Row) -> None:
    """Compare what is told of sessions and files with what the table says."""
    files, ends = summary.files, summary.sessions
    stored, refused, left = stage.held if cell.end is End.HELD else (stage.files, 0, 0)
    if cell.end is End.REFUSED:
        stored, refused = stage.files - 1, 1
        assert [problem.files for problem in summary.problems] == [STRUCK]
        assert re.search(cell.why, summary.problems[0].reason)
    assert (files.stored, files.refused, files.failed, files.left) == (
        STRUCK * stored,
        STRUCK * refused,
        0,
        STRUCK * left,
    )
    match cell.end:
        case End.REFUSED:
            assert [(one.state, one.reason) for one in ends] == [("held", "1 of its files was refused")] * STRUCK
        case End.HELD:
            assert [one.state for one in ends] == ["held"] * STRUCK
            assert all(re.search(cell.why, one.reason or "") for one in ends), ends
        case End.BUILT:
            assert [one.state for one in ends] == ["prearchive"] * STRUCK
        case _:
            assert [(one.state, one.verified) for one in ends] == [("archived", "uids")] * STRUCK


def check_files(xnat: TestXnat, sent: Sequence[Sequence[str]], stage: Stage, cell: Row) -> None:
    """Compare what the archive holds, and what the prearchive, with what the table says."""
    struck = {uids[stage.nth - 1] for uids in sent} if stage.kind == "import" else set()
    every = {uid for uids in sent for uid in uids}
    rows = [(one.project, file) for one in xnat.prearchive for file in one.files if file.complete]
    waiting = {file.sop_uid for project, file in rows if project == "demo"}
    assert {file.sop_uid for project, file in rows if project == "other"} == (
        {uids[0] for uids in sent} if cell.moved else set()
    )
    match cell.end:
        case End.WELL:
            assert xnat.sop_uids() == every
            assert len(xnat.archived) == STRUCK
            assert not xnat.prearchive
            assert not xnat.partial_files()
        case End.BUILT:
            assert not xnat.archived
            assert waiting == every
            assert {one.status for one in xnat.prearchive} == {RowStatus.READY}
        case End.REFUSED:
            assert not xnat.archived
            assert waiting == every - struck
        case _:
            assert not xnat.archived
            # XNAT has made another row for what came after one that was moved.
            assert waiting == {uid for uids in sent for uid in (uids[1:] if cell.moved else uids[: stage.held[0]])}


@pytest.mark.parametrize(("stage", "fault", "cell"), [cell for cell in CELLS if cell.values[0] in RUNS])
async def test_a_fault_in_a_run(xnat: TestXnat, url: str, tmp_path: Path, stage: str, fault: str, cell: Row) -> None:
    """A run of five sessions that are struck: what it tells, what the archive holds, and what the server was asked."""
    place, action = STAGES[stage], FAULTS[fault]
    xnat.add_project(Project("other"))
    # One after another where requests are struck by their number, and where a fault has to do with other requests; but
    # five stalls at a time take no longer than one.
    alone = not place.path or isinstance(action, Late | LoginPage | ExpireLogins | Restart)
    if isinstance(action, Stall) and place.nth == 1:
        alone = False
    faults = [xnat.faults.add(one) for one in strikes(stage, fault, cell, alone=alone)]

    outcomes: list[Outcome] = []

    def report(event: Event) -> None:
        if isinstance(event, OutcomesRecorded):
            outcomes.extend(event.outcomes)
        # A server that restarts is back when the run has begun to wait for it.
        if isinstance(event, ServerUnavailable) and event.reason is not None and isinstance(action, Restart):
            for one in faults:
                one.release()

    sent = study(tmp_path / "tree", place.files)
    summary = await upload(
        url,
        [tmp_path / "tree"],
        tmp_path / "journal.db",
        options=replace(ALONE if alone else TOGETHER, archive=stage != "build alone"),
        policy=PATIENT,
        report=report,
        timeouts=SHORT if isinstance(action, Stall) else QUICK,
    )
    await check_faults(faults, cell)
    check_summary(summary, place, cell)
    check_files(xnat, sent, place, cell)
    # The prearchive is listed before each attempt at a first file, once for those that are made at the same moment.
    # (Where a concurrent send is struck in place of the next file, that may be a first one.)
    again = stage == "first file" or fault == "gateway at once" or fault in ROWS_TAKEN
    firsts = xnat.count["import"] if again else STRUCK
    # Five settings tell what filters and scripts there are, when the first session is to be finished.
    rules = 0 if stage in {"first file", "later file"} and cell.requests.get("build") == 0 else 5
    # Once in a run: the login is checked and the project looked up, the archived sessions of the project are listed
    # before the first file, to see whose they are, and both prearchive and archive are searched for orphans at the end.
    once = {"login": 1, "listing": 5 + rules + cell.once, "logout": 1}
    check_requests(xnat, stage, cell, once, range(1, firsts + 1))
    assert xnat.live_logins("demo") == STRUCK * cell.logins
    uncertain = sum(outcome.may_have_taken_effect for outcome in outcomes)
    # What XNAT calls a concurrent send may be struck in place of the next file.
    if fault == "gateway at once" and cell.may_have_taken_effect:
        assert 0 < uncertain <= STRUCK
    else:
        assert uncertain == STRUCK * cell.may_have_taken_effect


@pytest.mark.parametrize(("stage", "fault", "cell"), [cell for cell in CELLS if cell.values[0] not in RUNS])
async def test_a_fault_at_a_login(xnat: TestXnat, url: str, stage: str, fault: str, cell: Row) -> None:
    """Five logins, some with a look at the project, are struck: each is in order, or ends with the right error."""
    place, action = STAGES[stage], action_of(fault, stage)
    faults: list[Fault] = []

    async def visit() -> None:
        async with logged_in(url, policy=MANY, timeouts=SHORT if isinstance(action, Stall) else QUICK) as client:
            if stage.startswith("preflight"):
                await check_project(client, "demo", MANY)

    if isinstance(action, Stall) and place.nth == 1:
        # Five at a time take no longer than one.
        faults.append(xnat.faults.add(Fault(place.kind, action, times=STRUCK, path=place.path)))
        async with anyio.create_task_group() as tasks:
            for _ in range(STRUCK):
                tasks.start_soon(visit)
    else:
        for _ in range(STRUCK):
            faults.append(xnat.faults.add(Fault(place.kind, action, place.nth, path=place.path)))
            with pytest.raises(cell.end, match=cell.why) if isinstance(cell.end, type) else nullcontext():
                await visit()
    await check_faults(faults, cell)
    check_requests(xnat, stage, cell, {}, range(1))
    assert xnat.live_logins("demo") == STRUCK * cell.logins


# --- faults that take two


@pytest.mark.parametrize("stage", RUNS)
async def test_a_journal_that_is_lost(xnat: TestXnat, url: str, tmp_path: Path, stage: str) -> None:
    """A run is killed at the third session, and its journal is gone: a new one sends nothing that is archived again."""
    place, end = STAGES[stage], End.BUILT if stage == "build alone" else End.WELL
    options = replace(ALONE, archive=end is End.WELL)
    sent = study(tmp_path / "tree", place.files)
    nth = place.nth if place.path else 2 * place.requests[place.kind] + place.nth
    with anyio.CancelScope() as scope:
        killed = xnat.faults.add(Fault(place.kind, Tell(scope.cancel), nth, path=place.path.format(3)))
        await upload(url, [tmp_path / "tree"], tmp_path / "lost.db", options=options, policy=PATIENT)
    assert killed.hits == 1
    before = xnat.count["import"]
    held: list[SessionReport] = []
    if left := [one.name for one in xnat.prearchive]:
        # What the lost journal has begun may be another machine's: told, with the way out, and nothing of it is sent.
        summary = await upload(url, [tmp_path / "tree"], tmp_path / "journal.db", options=options, policy=PATIENT)
        held = [one for one in summary.sessions if one.state == "held"]
        assert sorted(one.session.label for one in held) == sorted(left)
        assert all("--adopt-rows" in (one.reason or "") for one in held)
        assert exit_code(summary) == 9
    adopting = partial(upload, options=options, policy=PATIENT, adopt_rows=bool(left))
    summary = await adopting(url, [tmp_path / "tree"], tmp_path / "journal.db")
    files = summary.files
    assert (files.stored + files.already_stored, files.refused, files.failed, files.left) == (
        STRUCK * place.files, 0, 0, 0
    )  # fmt: skip
    check_files(xnat, sent, place, row(end))
    # XNAT archives the third session whether anybody waits for that or not.
    archived = 0 if end is End.BUILT else 3 if stage == "archive" or stage.startswith("verify") else 2
    # What was not sent from this journal is seen to be there; in which version, nobody can tell.
    proofs = ["present"] * archived + ["uids"] * (STRUCK - archived) if end is End.WELL else [None] * STRUCK
    assert [one.verified for one in summary.sessions] == proofs
    assert {one.state for one in summary.sessions} == {"archived" if end is End.WELL else "prearchive"}
    assert xnat.count["import"] - before == (STRUCK - archived) * place.files


@pytest.mark.parametrize("again", [False, True])
async def test_what_the_archive_lacks_is_sent_again_once(xnat: TestXnat, url: str, tmp_path: Path, again: bool) -> None:
    """XNAT loses two files of each session before it builds it: sent again, and if one is lost again, held."""
    sent = study(tmp_path / "tree", files=3)

    def lose(*lost: str) -> None:
        for one in xnat.prearchive:
            for files in one.scans.values():
                for name in [name for name, file in files.items() if file.sop_uid in lost]:
                    del files[name]

    faults = [
        xnat.faults.add(Fault("build", Tell(partial(lose, *lost)), nth + 2 * number))
        for number, (_, one, other) in enumerate(sent)
        for nth, lost in ((1, (one, other)), (2, (one,) if again else ()))
    ]
    summary = await upload(url, [tmp_path / "tree"], tmp_path / "journal.db", options=ALONE)
    assert [fault.hits for fault in faults] == [1, 1] * STRUCK
    assert (xnat.count["import"], xnat.count["build"], xnat.count["archive"]) == (25, 10, 10)
    assert summary.files.stored == 15
    assert xnat.sop_uids() == {uid for uids in sent for uid in uids} - ({uids[1] for uids in sent} if again else set())
    ends = [(one.state, one.verified) for one in summary.sessions]
    assert ends == [("held", None) if again else ("archived", "uids")] * STRUCK
    reasons = {one.reason for one in summary.sessions}
    lacks = "the archive lacks 1 of its instances; `asyncimport verify --repair` sends them again"
    assert reasons == {lacks if again else None}


async def test_a_file_too_large_is_refused_also_after_a_broken_attempt(
    xnat: TestXnat, url: str, tmp_path: Path
) -> None:
    """A proxy that gives up once and then turns it away has never let it through: it has not failed."""
    sent = study(tmp_path / "tree", files=2)
    faults = [
        xnat.faults.add(Fault("import", action, nth + 3 * number))
        for number in range(STRUCK)
        for nth, action in ((2, Gateway(effect=False)), (3, Status(413)))
    ]
    summary = await upload(url, [tmp_path / "tree"], tmp_path / "journal.db", options=ALONE)
    assert [fault.hits for fault in faults] == [1, 1] * STRUCK
    assert xnat.count["import"] == 3 * STRUCK
    assert (summary.files.refused, summary.files.failed) == (STRUCK, 0)
    assert summary.count("held") == STRUCK
    assert not xnat.archived
    summary = await upload(
        url, [tmp_path / "tree"], tmp_path / "journal.db", options=replace(ALONE, retry=frozenset({Retry.REFUSED}))
    )
    assert summary.count("archived") == STRUCK
    assert xnat.sop_uids() == {uid for uids in sent for uid in uids}


# --- what holds for all rows


class Sleeper(Stop):
    """Sleeps no time between two attempts, and notes how long it should have been."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []

    async def sleep(self, seconds: float) -> None:
        """Note the wish."""
        self.asked.append(seconds)
        await no_sleep(seconds)


async def ask(client: Client) -> str | None:
    """Ask the server something, once."""
    return await client.call("GET", client.url("/data/projects/demo?format=json"), parse_project_id)


@pytest.mark.parametrize("seed", [1, 2])
async def test_pauses_are_drawn_from_their_whole_span(xnat: TestXnat, url: str, seed: int) -> None:
    """Full jitter: anything from nothing to the span of the attempt, which doubles up to the cap."""
    sys.stdout.write(f"seed {seed}\n")
    policy = RetryPolicy(attempts=6, first_seconds=1.0, factor=2.0, max_seconds=8.0)
    sleeper = Sleeper()
    luck = random.Random(seed)
    async with logged_in(url) as client:
        fault = xnat.faults.add(Fault("listing", Status(503), times=40 * policy.attempts))
        for _ in range(40):
            with pytest.raises(TransientError):
                await call_with_retries(lambda: ask(client), policy, sleep=sleeper.sleep, jitter=luck.random)
    assert fault.hits == 40 * policy.attempts
    assert len(sleeper.asked) == 40 * (policy.attempts - 1)
    for attempt, span in enumerate((1.0, 2.0, 4.0, 8.0, 8.0)):
        pauses = sorted(sleeper.asked[attempt :: policy.attempts - 1])
        assert 0 <= pauses[0] < span / 5
        assert span * 4 / 5 < pauses[-1] < span
        assert span / 4 < pauses[20] < span * 3 / 4
    again = random.Random(seed)
    assert sleeper.asked[:3] == [again.random() * span for span in (1.0, 2.0, 4.0)]


async def test_retry_after_holds_everybody_back(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """What one file is told holds for all: until then the server hears of no other that was not on its way."""
    for number in range(1, 31):
        write(tmp_path / "tree" / f"{number:02}", image(number))
    told: list[float] = []
    came: list[float] = []

    def report(event: Event) -> None:
        if isinstance(event, RetryScheduled):
            told.append(anyio.current_time())

    fault = xnat.faults.add(Fault("import", Status(429, headers={"Retry-After": "1"}), nth=6))
    xnat.faults.add(Fault("import", Tell(lambda: came.append(anyio.current_time())), share=1.0))
    await upload(url, [tmp_path / "tree"], tmp_path / "journal.db", report=report)
    assert (fault.hits, len(told), len(came)) == (1, 1, 30)
    early = [moment for moment in came if moment < told[0]]
    held = [moment for moment in came if moment >= told[0] + 1]
    assert len(early) >= 5
    # Two of four workers remain; what three of them had sent before they could know is on its way.
    assert len(came) - len(early) - len(held) <= 3
    assert len(held) >= 30 - 5 - 2 * 3
    assert xnat.sop_uids() == {sop(number) for number in range(1, 31)}


async def test_a_hopeless_file_has_its_attempts_and_no_more(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """A proxy fails at one file, whatever is done, and lets all others through: the file fails, and they arrive."""
    policy = RetryPolicy(attempts=7, first_seconds=0)
    for number in range(1, 61):
        write(tmp_path / "tree" / f"{number:02}", image(number, PatientID="S", StudyInstanceUID="1.2"))
    write(tmp_path / "tree" / "00", image(99, PatientID="H", StudyInstanceUID="1.9"))
    hopeless = 0
    passed = anyio.Condition()
    through = 0

    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False) as http:

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            nonlocal hopeless, through
            body = await request.read()
            if sop(99).encode() in body:
                hopeless += 1
                async with passed:
                    # Two more have got through, so that the run has heard of one.
                    before = through
                    while through < before + 2:
                        await passed.wait()
                return web.Response(status=500)
            target = URL(f"{url}{request.raw_path}", encoded=True)
            async with http.request(request.method, target, data=body, headers=request.headers) as response:
                if body:
                    async with passed:
                        through += 1
                        passed.notify_all()
                headers = {name: response.headers[name] for name in ("Content-Type",) if name in response.headers}
                reply = web.Response(status=response.status, body=await response.read(), headers=headers)
                for cookie in response.headers.getall("Set-Cookie", []):
                    reply.headers.add("Set-Cookie", cookie)
                return reply

        async with listening(answer) as proxy:
            summary = await upload(
                proxy,
                [tmp_path / "tree"],
                tmp_path / "journal.db",
                policy=policy,
                options=Options(workers=2, finalizers=1),
            )
    assert hopeless == policy.attempts
    assert xnat.count["import"] == 60
    assert (summary.files.failed, summary.files.stored) == (1, 60)
    assert summary.problems[0].reason.endswith(", 7 times")
    assert xnat.sop_uids() == {sop(number) for number in range(1, 61)}
    assert sorted(report.state for report in summary.sessions) == ["archived", "held"]


def test_a_budget_is_a_hundred_and_a_fifth_of_what_succeeds() -> None:
    """Whoever asks beyond it is told so; it refills with successes, and never beyond its beginning."""
    budget = RetryBudget()

    def spare(asked: int) -> int:
        return sum(budget.acquire() for _ in range(asked))

    assert spare(1000) == 100
    for successes, spared in ((4, 0), (1, 1), (51, 10), (10_000, 100)):
        for _ in range(successes):
            budget.record_success()
        assert spare(1000) == spared


async def test_a_server_that_fails_everything_is_given_few_quick_repetitions(xnat: TestXnat, url: str) -> None:
    """Beyond the budget each pause is as long as the last one would be, and what succeeds gives a fifth of it back."""
    policy = RetryPolicy(attempts=5, first_seconds=1.0, factor=2.0, max_seconds=1000.0)
    budget, sleeper = RetryBudget(), Sleeper()

    async def fail(calls: int) -> list[float]:
        sleeper.asked.clear()
        for _ in range(calls):
            with pytest.raises(TransientError):
                await call_with_retries(
                    lambda: ask(client), policy, acquire=budget.acquire, sleep=sleeper.sleep, jitter=lambda: 0.5
                )
        return list(sleeper.asked)

    async with logged_in(url) as client:
        fault = xnat.faults.add(Fault("listing", Status(503), times=60 * 5))
        before = xnat.count["listing"]
        pauses = await fail(60)
        assert (fault.hits, xnat.count["listing"] - before) == (300, 300)
        assert pauses == [0.5, 1.0, 2.0, 4.0] * 25 + [64.0] * (35 * 4)
        for _ in range(40):
            await call_with_retries(lambda: ask(client), policy, acquire=budget.acquire, sleep=sleeper.sleep)
            budget.record_success()
        xnat.faults.add(Fault("listing", Status(503), times=5 * 5))
        assert await fail(5) == [0.5, 1.0, 2.0, 4.0] * 2 + [64.0] * (3 * 4)


async def test_a_run_keeps_to_its_budget(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """Each file fails once: the first hundred and some are repeated soon, and of the others one in five."""
    files, seed = 170, 3
    sys.stdout.write(f"seed {seed}\n")
    random.seed(seed)
    for number in range(1, files + 1):
        write(tmp_path / "tree" / f"{number:03}", image(number))
    faults = [xnat.faults.add(Fault("import", Status(500), nth=2 * number + 1)) for number in range(files)]
    stop = Sleeper()
    policy = RetryPolicy(attempts=3, first_seconds=1.0, factor=2.0, max_seconds=1000.0)
    await upload(url, [tmp_path / "tree"], tmp_path / "journal.db", policy=policy, options=ALONE, stop=stop)
    assert sum(fault.hits for fault in faults) == len(stop.asked) == files
    assert xnat.count["import"] == 2 * files
    assert xnat.sop_uids() == {sop(number) for number in range(1, files + 1)}
    # A hundred to begin with, and a fifth of the success of each: used up after a hundred and twenty-five.
    assert max(stop.asked[:124]) < 1
    late = stop.asked[125:]
    quick = sum(pause < 1 for pause in late)
    # One in five has a repetition to spare; of the others, one in 128 draws a pause as short as that.
    assert len(late) // 5 <= quick <= len(late) // 5 + 3
    assert 32 < max(late) < 128
