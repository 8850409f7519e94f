"""What XNAT's answers mean. Pure: a status, headers and a body in, a value or a typed error out.

XNAT answers 200 to much that it did not do, 400 to its own disk being full, and 500 to a conflict of labels. All
that is judged here and nowhere else. Each function names the XNAT class whose answers it reads. Reasons name
statuses and XNAT's own words, never an address: addresses carry labels, and labels are patients.
"""

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import SplitResult, urlsplit
from xml.etree.ElementTree import ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from asyncimport.errors import (
    LoginExpiredError,
    LoginRefusedError,
    NotKeptError,
    RefusedError,
    TransientError,
    UnavailableError,
)

__all__ = [
    "Experiment",
    "Reply",
    "Row",
    "ScanResource",
    "SeriesFilter",
    "answers",
    "archived",
    "catalog",
    "committed",
    "deleted",
    "editable_projects",
    "experiment",
    "experiments",
    "labelled",
    "login",
    "logins",
    "maps_uids",
    "not_downloaded",
    "pipelines",
    "prearchive",
    "project_id",
    "rejects",
    "rewrites",
    "row",
    "scan_resources",
    "series_filter",
    "setting",
    "stored",
    "subscriptions",
    "user",
    "user_name",
    "value",
]

_OVERLOAD = frozenset({408, 429, 502, 503, 504})
# A gateway says these also of a call that it has passed on, and that XNAT is still at work on.
_GATEWAY = frozenset({502, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_URI = re.compile(r"(?:/data|/REST)?(/prearchive/projects/(?P<project>[^/\s]+)/[^/\s]+/[^/\s]+)")
_ARCHIVE_URI = re.compile(r"(?:/data|/REST)?(/archive/[^\r\n]+)")
_PAGE = re.compile(r"\s*<(?:!doctype )?html\b", re.IGNORECASE)
# Restlet's status page says what happened in its heading, Tomcat's after "Message" (its heading is its version).
_RESTLET = re.compile(r"<h3>(?!Apache Tomcat)(.*?)</h3>", re.DOTALL)
_TOMCAT = re.compile(r"<b>Message</b>(.*?)</p>", re.DOTALL)
# What DicomEdit scripts use for it: an assignment to the tag, or one of the functions made for UIDs.
_MAPS_UIDS = re.compile(r"\(\s*0008\s*,\s*0018\s*\)\s*:=|hashUID|mapUID|mapReferencedUIDs|newUID", re.IGNORECASE)
# In what XNAT says of an archive step that another one stands in the way of, or that takes its time.
_AT_WORK = (
    "duplicate archive attempt",
    "configured timeout interval",
    "destination session in use",
    "session processing may already be in progress",
)
# DicomEdit's statement, outside of a comment.
_REJECTS = re.compile(r"^(?:(?!//).)*\breject\b", re.MULTILINE)
# The statements of DicomEdit that change attributes, outside of a comment: assignments, deletions, functions.
_REWRITES = re.compile(
    r"^(?:(?!//).)*?(?::=|-\s*[({]|\b(?:removeAllPrivateTags|retainPrivateTags|blankValues|alterPixels|delete)\b)",
    re.MULTILINE,
)
_TAGS = re.compile(r"<[^>]*>")
_ADDRESS = re.compile(r"(?<![\w/])(?:https?:/)?(?:/[^\s/()<>\"',;]+){2,}/?")


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer: status, headers with lower-case names, and the body as text."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def is_html(self) -> bool:
        """Whether this is a page for people: XNAT's login, an error page, or some gateway's."""
        kind = self.headers.get("content-type", "").lower()
        return kind.startswith("text/html") or _PAGE.match(self.text) is not None

    @property
    def message(self) -> str:
        """What the answer says, in one short line without addresses: that of an error page, else the text itself."""
        said = _RESTLET.search(self.text) or _TOMCAT.search(self.text)
        text = said.group(1) if said else ("" if self.is_html else self.text)
        words = _ADDRESS.sub("…", " ".join(html.unescape(_TAGS.sub(" ", text)).split()))
        return "".join(filter(str.isprintable, words))[:300] or f"status {self.status}"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the prearchive: its status, as PrearcUtils.PrearcStatus spells it, and whose it is (DatabaseSession).

    `uri` is without /data; `uploaded` is the server's local time.
    """

    status: str
    uri: str = ""
    project: str = ""
    subject: str = ""
    label: str = ""
    study_uid: str = ""
    source: str = ""
    uploaded: str = ""

    @property
    def is_busy(self) -> bool:
        """Whether XNAT itself is at work on the session, so that nothing may be asked of it now."""
        return self.status.startswith(("_", "QUEUED_")) or self.status in {
            "ARCHIVING",
            "BUILDING",
            "DELETING",
            "MOVING",
            "SEPARATING",
        }

    @property
    def is_stuck(self) -> bool:
        """Whether an archive step failed and left the session for a person to look at."""
        return self.status in {"CONFLICT", "ERROR"}


@dataclass(frozen=True, slots=True)
class Experiment:
    """An archived session: accession ID, label, StudyInstanceUID and subject label, "" where XNAT tells none."""

    accession: str
    label: str
    study_uid: str
    subject: str = ""


@dataclass(frozen=True, slots=True)
class ScanResource:
    """A resource of a scan that holds DICOM."""

    scan: str
    label: str


@dataclass(frozen=True, slots=True)
class SeriesFilter:
    """A series import filter: its mode as XNAT spells it (blacklist, whitelist, ...), and how many patterns it has."""

    enabled: bool
    mode: str = ""
    patterns: int = 0
    expressions: tuple[str, ...] = field(default=(), repr=False, compare=False)

    def drops(self, description: str) -> bool:
        """Whether it drops a series of this SeriesDescription, as far as that can be told.

        Patterns are Java's, and match the whole description, an absent one never (RegExBasedSeriesImportFilter).
        """
        if not self.enabled or self.mode not in {"blacklist", "whitelist"}:
            return False
        try:
            matches = bool(description.strip()) and any(re.fullmatch(one, description) for one in self.expressions)
        except re.error:
            return False
        return matches is (self.mode == "blacklist")


def login(reply: Reply) -> None:
    """Judge the answer to a login (UserSession, XnatBasicAuthenticationFilter).

    Raises: LoginRefusedError, UnavailableError when this is not an XNAT, TransientError.
    """
    if reply.status == 401:
        raise LoginRefusedError(
            "XNAT refused the user name or password",
            hint="check both; after 20 refusals XNAT locks the account for an hour, and says the same then",
        )
    if _is_login_page(reply):
        raise LoginRefusedError("XNAT answers the login with its login page", hint="check the user name and password")
    if reply.status in _REDIRECTS:
        raise _redirected(reply)
    if reply.status == 403 and "password has expired" in reply.message:
        raise _act_first()
    if reply.status == 403:
        raise UnavailableError(f"XNAT does not let anyone in: {reply.message}")
    if reply.status in _OVERLOAD or reply.status >= 500:
        raise TransientError(f"the server answers {reply.status} to the login", retry_after=_hint(reply), overload=True)
    if reply.status != 200 or reply.is_html or not re.fullmatch(r"[\w.-]+", reply.text.strip()):
        raise _not_xnat()


def user(reply: Reply, name: str) -> None:
    """Check that the login is ours and not a guest's (UserAuth): /data/JSESSION answers 200 to anyone.

    Raises: LoginRefusedError, LoginExpiredError, UnavailableError when this is not an XNAT, TransientError.
    """
    if reply.status == 200 and (match := re.search(r"User '(.*?)' is logged in", reply.text)):
        # An alias token logs in under the name of its owner, so another name than `name` is fine; a guest is not.
        if match.group(1).lower() == "guest" != name.lower():
            raise LoginRefusedError("XNAT took the login for a guest's", hint="check the user name and password")
        return
    if reply.status == 401:
        raise LoginExpiredError("XNAT does not know the login that it has just made (401)")
    if reply.status in {302, 403} or _is_login_page(reply):
        raise LoginRefusedError(
            "XNAT does not accept the login",
            hint="log in with a browser once: the password may have expired, or the account be disabled",
        )
    if reply.status in _OVERLOAD or reply.status >= 500:
        raise TransientError(
            f"the server answers {reply.status} to the login check", retry_after=_hint(reply), overload=True
        )
    raise _not_xnat()


def answers(reply: Reply) -> bool:
    """Whether XNAT itself answers (UserAuth): whatever it says, it is there.

    Raises: TransientError when it is not, LoginExpiredError.
    """
    _check(reply)
    return True


def project_id(reply: Reply) -> str | None:
    """Return the project's ID, for its ID or an alias (ProjectResource); None when XNAT shows no such project."""
    _check(reply)
    if reply.status in {403, 404}:
        return None
    return str(_item(reply).get("ID", "")) or None


def editable_projects(reply: Reply) -> frozenset[str]:
    """Return the IDs of a project listing (ProjectListResource with `permissions=edit`)."""
    _check(reply)
    return frozenset(found for result in _results(reply) if (found := result.get("ID") or result.get("id")))


def stored(reply: Reply, project: str, expected: str | None) -> str:
    """Judge the answer to an import, and return the prearchive URI (without /data) that the file went to.

    `expected` is the URI that the first file of the delivery got. Sources: Importer, GradualDicomImporter.
    Raises: TransientError, LoginExpiredError, NotKeptError, RefusedError.
    """
    if reply.status == 200 and not reply.is_html:
        return _stored_uri(reply, project, expected)
    if reply.status == 200:
        raise _page_instead_of_answer(reply)
    if reply.status == 400:
        # XNAT gives this answer to a broken file and to its own full disk or exhausted database pool alike
        # (GradualDicomImporter turns any exception into it), so it is a verdict only when it stays.
        text = reply.message
        lowered = text.lower()
        if "unable to read dicom" in lowered:
            raise TransientError("XNAT could not read the file (400: unable to read DICOM object)", blames_file=True)
        if "concurrent file sends" in lowered:
            raise TransientError("XNAT was writing the same file at the same time (400)")
        raise RefusedError(f"XNAT refused the file (400: {text})")
    if reply.status == 413:
        raise RefusedError("the file is larger than a proxy before XNAT lets through (413)", at_the_door=True)
    if reply.status in {403, 405}:
        raise RefusedError(
            f"XNAT does not let this user import here ({reply.status}: {reply.message})", whole_session=True
        )
    _check(reply)
    if reply.status == 404:
        # XNAT's web application is not there while Tomcat restarts.
        raise TransientError(f"the import service is not there (404: {reply.message})", overload=True)
    raise RefusedError(f"XNAT refused the file ({reply.status}: {reply.message})")


def _stored_uri(reply: Reply, project: str, expected: str | None) -> str:
    text = reply.text.strip()
    if not text:
        raise NotKeptError("XNAT answered, but did not keep the file (empty 200)", judges_file=True)
    match = _URI.fullmatch(text)
    if match is None:
        raise RefusedError("XNAT's answer to the import is not a prearchive address", whole_session=True)
    if match["project"] != project:
        where = "unassigned" if match["project"] == "Unassigned" else "another project"
        raise RefusedError(
            f"XNAT put the file into {where}: the project is not known to it or not open to this user",
            whole_session=True,
        )
    if expected is not None and match[1] != expected:
        raise RefusedError("XNAT put the file into a second prearchive session of the same study", whole_session=True)
    return match[1]


def committed(reply: Reply) -> str | None:
    """Judge the answer to `action=commit` or `build`: None when built, the archive URI when archived already.

    An auto-archive project answers 301 with the archive URI in the body and no Location (PrearcSessionResource).
    Raises: TransientError when it is not over yet or the row is gone: look again; RefusedError.
    """
    if reply.status == 301:
        return _archive_uri(reply)
    if reply.status == 200 and reply.is_html:
        raise _page_instead_of_answer(reply)
    if reply.status == 200:
        return None
    if reply.status in {404, 409}:
        raise TransientError(f"the prearchive session is busy or gone ({reply.status}: {reply.message})")
    _check_archiving(reply)
    _check(reply, server_errors=False)
    raise RefusedError(f"XNAT could not build the session ({reply.status}: {reply.message})")


def archived(reply: Reply) -> str:
    """Judge the answer to /data/services/archive and return the archive URI (Archiver, QueueBasedImageCommit).

    303 is success too (auto-archive projects; the Location may name another host and is only read, never followed).
    Conflicts are 500 with text. Raises: TransientError when it is not over yet: look again; RefusedError.
    """
    if reply.status in {200, 301, 303} and not (reply.status == 200 and reply.is_html):
        return _archive_uri(reply)
    if reply.status == 200:
        raise _page_instead_of_answer(reply)
    text = reply.message
    lowered = text.lower()
    if reply.status in {404, 423} or (reply.status == 403 and "already in progress" in lowered):
        raise TransientError(f"the prearchive session is busy or gone ({reply.status}: {text})")
    _check_archiving(reply)
    _check(reply, server_errors=False)
    advice = ""
    if "matching files" in lowered or "same resources" in lowered:
        # A row that a late upload left behind takes in what comes next for the session, and its own files conflict.
        advice = "; `--overwrite append --retry held` lets the files that were sent take their place"
    raise RefusedError(f"XNAT did not archive the session ({reply.status}: {text}){advice}")


def _check_archiving(reply: Reply) -> None:
    """Raise TransientError when a 500 says that XNAT is at it. A commit on an auto-archive project archives too."""
    if reply.status == 500 and any(words in reply.message.lower() for words in _AT_WORK):
        raise TransientError(f"XNAT is still archiving the session ({reply.message})")


def row(reply: Reply) -> Row | None:
    """Return the prearchive row of a session (PrearcSessionResource, `format=json`); None when it is gone.

    Raises: TransientError, LoginExpiredError, RefusedError when this user may not look at it.
    """
    _check(reply)
    if reply.status == 404:
        return None
    if reply.status == 403:
        raise RefusedError(f"XNAT does not let this user see the prearchive session (403: {reply.message})")
    results = _results(reply)
    return _row(results[0]) if results else None


def prearchive(reply: Reply) -> list[Row]:
    """Return the rows of the prearchive (PrearcSessionListResource).

    Raises: TransientError, LoginExpiredError, RefusedError when this user may not look at it.
    """
    _check(reply)
    if reply.status in {403, 404}:
        raise RefusedError(f"XNAT does not let this user see the prearchive ({reply.status}: {reply.message})")
    return [_row(result) for result in _results(reply)]


def _row(result: Mapping[str, str]) -> Row:
    names = ("status", "url", "project", "subject", "name", "tag", "SOURCE", "uploaded")
    return Row(*(result.get(name, "") for name in names))


def not_downloaded(reply: Reply) -> NoReturn:
    """Judge an answer that should have been a file and has another status than 200.

    Raises: TransientError, LoginExpiredError, RefusedError.
    """
    _check(reply)
    raise RefusedError(f"XNAT does not hand the files out ({reply.status}: {reply.message})")


def deleted(reply: Reply) -> None:
    """Judge the answer to a DELETE of a prearchive session; one that is gone already is fine.

    Raises: TransientError, LoginExpiredError, RefusedError.
    """
    _check(reply)
    if reply.status not in {200, 204, 404}:
        raise RefusedError(f"XNAT did not delete the prearchive session ({reply.status}: {reply.message})")


def experiment(reply: Reply) -> Experiment | None:
    """Return an archived session (ExperimentResource, `format=json`); None when there is none."""
    _check(reply)
    if reply.status in {403, 404}:
        return None
    fields = _item(reply)
    return Experiment(str(fields.get("ID", "")), str(fields.get("label", "")), str(fields.get("UID", "")))


def experiments(reply: Reply, study_uid: str) -> list[Experiment]:
    """Return the archived sessions of a study from a listing (ProjSubExptList), which may hold others too."""
    return [one for one in labelled(reply) if one.study_uid == study_uid]


def labelled(reply: Reply) -> list[Experiment]:
    """Return the archived sessions of a listing (ProjSubExptList)."""
    _check(reply)
    if reply.status in {403, 404}:
        return []
    found = []
    for result in _results(reply):
        # Two shortcuts stand for the same path, and XNAT names the column by either, or by the path.
        names = ("UID", "studyInstanceUID", "xnat:imagesessiondata/uid")
        uid = next((result[name] for name in names if result.get(name)), "")
        subject = result.get("subject_label", "")
        found.append(Experiment(result.get("ID", ""), result.get("label", ""), uid, subject))
    return found


def setting(reply: Reply) -> bool | None:
    """Return what is true or false at a site (SiteConfigApi, AnonymizeApi); None: an old XNAT, or it does not tell."""
    if reply.status not in {403, 404}:
        _check(reply)
    return {"true": True, "false": False}.get(reply.text.strip().lower()) if reply.status == 200 else None


def rejects(reply: Reply) -> bool | None:
    """Whether an anonymisation script (AnonymizeApi) can reject files; None: an old XNAT, or it does not tell."""
    if reply.status not in {403, 404}:
        _check(reply)
    return _REJECTS.search(reply.text) is not None if reply.status == 200 else None


def maps_uids(reply: Reply) -> bool:
    """Whether an anonymisation script (AnonymizeApi) gives instances other SOPInstanceUIDs than they came with."""
    if reply.status not in {403, 404}:
        _check(reply)
    return reply.status == 200 and _MAPS_UIDS.search(reply.text) is not None


def scan_resources(reply: Reply) -> list[ScanResource]:
    """Return the resources with DICOM of all scans (CatalogResourceList, `all=true`)."""
    _check(reply)
    if reply.status == 404:
        return []
    return [
        ScanResource(result.get("cat_id", ""), result.get("label", ""))
        for result in _results(reply)
        if result.get("category") == "scans" and (result.get("format") == "DICOM" or result.get("label") == "DICOM")
    ]


def catalog(reply: Reply) -> frozenset[str]:
    """Return the SOPInstanceUIDs of a resource's catalog (CatalogResource): the UID of each entry."""
    _check(reply)
    if reply.status != 200:
        raise TransientError(f"XNAT does not show the catalog ({reply.status})")
    try:
        root = defusedxml.ElementTree.fromstring(reply.text)
    except (ParseError, DefusedXmlException):
        raise TransientError("XNAT's catalog is not XML") from None
    return frozenset(
        uid for element in root.iter() if element.tag.rpartition("}")[2] == "entry" and (uid := element.get("UID"))
    )


def rewrites(reply: Reply) -> bool | None:
    """Whether an anonymisation script (AnonymizeApi) changes attributes; None: an old XNAT, or it does not tell."""
    if reply.status not in {403, 404}:
        _check(reply)
    return _REWRITES.search(reply.text) is not None if reply.status == 200 else None


def value(reply: Reply) -> str | None:
    """Return a setting as text (SiteConfigApi, ProjectResource); None: an old XNAT, or it does not tell."""
    if reply.status not in {403, 404}:
        _check(reply)
    return reply.text.strip() if reply.status == 200 else None


def series_filter(reply: Reply) -> SeriesFilter | None:
    """Return a project's series import filter (ConfigResource, `contents=true`); None: it does not tell."""
    _check(reply)
    if reply.status == 404:
        return SeriesFilter(enabled=False)
    try:
        found = json.loads(reply.text) if reply.status == 200 else {}
        enabled = str(found["enabled"]).lower() == "true"
        patterns = [line for line in str(found.get("list") or "").splitlines() if line.strip()]
        return SeriesFilter(enabled, str(found.get("mode") or ""), len(patterns), tuple(patterns))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None


def user_name(reply: Reply) -> str | None:
    """Return who is logged in (UserAuth): with an alias token it is the token's owner."""
    _check(reply)
    match = re.search(r"User '(.*?)' is logged in", reply.text)
    return match[1] if match and reply.status == 200 else None


def logins(reply: Reply) -> int | None:
    """Return how many logins a user has open (UserSessionId); None: it does not tell."""
    _check(reply)
    if reply.status != 200:
        return None
    try:
        (count,) = dict(json.loads(reply.text)).values()
        return int(count)
    except (ValueError, RecursionError, TypeError, OverflowError):
        return None


def pipelines(reply: Reply) -> int | None:
    """Return how many pipelines are set up in a project (ProjectPipelineListResource); None: it does not tell."""
    _check(reply)
    return len(_results(reply)) if reply.status == 200 else None


def subscriptions(reply: Reply) -> int | None:
    """Return how many subscriptions of the event service are active in a project (EventServiceRestApi).

    None: an old XNAT, or it does not tell.
    """
    if reply.status not in {403, 404}:
        _check(reply)
    if reply.status != 200:
        return None
    try:
        return sum(one["active"] is True for one in json.loads(reply.text))
    except (ValueError, RecursionError, KeyError, TypeError):
        return None


def _check(reply: Reply, *, server_errors: bool = True) -> None:
    """Raise what any answer can mean: no login, overload, a gateway's page. Leave the rest to the caller.

    Without `server_errors` a 500 is left too, for it is how the archive step says no; other codes are a gateway's.
    """
    if reply.status == 401:
        raise LoginExpiredError("XNAT no longer knows the login (401)")
    if reply.status in _REDIRECTS:
        raise _redirected(reply)
    if reply.status == 404 and reply.is_html and not _RESTLET.search(reply.text):
        # It is not XNAT that misses something: XNAT itself is missing, as while Tomcat starts.
        raise TransientError("XNAT is not there (404)", retry_after=_hint(reply), overload=True)
    if reply.status in _OVERLOAD:
        raise TransientError(
            f"the server is overloaded or away ({reply.status})",
            retry_after=_hint(reply),
            overload=True,
            cut=reply.status in _GATEWAY,
        )
    if reply.status >= 500 and (server_errors or reply.status != 500):
        raise TransientError(f"the server failed ({reply.status}: {reply.message})", retry_after=_hint(reply))
    if reply.status == 200 and reply.is_html:
        raise _page_instead_of_answer(reply)


def _redirected(reply: Reply) -> LoginExpiredError | LoginRefusedError | UnavailableError:
    if _is_login_page(reply):
        return LoginExpiredError(f"XNAT no longer knows the login ({reply.status})")
    target = _location(reply)
    if "UpdateUser" in target.path or "InactiveAccount" in target.path:
        return _act_first()
    host = target.netloc.rpartition("@")[2]
    place = f"{target.scheme}://{host}" if host and host.isprintable() else "another path"
    return UnavailableError(f"the server redirects to {place}", hint="give the address it redirects to as --host")


def _is_login_page(reply: Reply) -> bool:
    """Tell XNAT's login page, or the way to it, which XNAT shows to what it takes for a browser."""
    if reply.status == 200:
        return reply.is_html and "Login.vm" in reply.text
    return reply.status in _REDIRECTS and "Login.vm" in _location(reply).path


def _act_first() -> LoginRefusedError:
    return LoginRefusedError(
        "XNAT wants the user to act first",
        hint="log in with a browser: the password has expired or is to be set",
    )


def _location(reply: Reply) -> SplitResult:
    try:
        return urlsplit(reply.headers.get("location", ""))
    except ValueError:
        return urlsplit("")


def _page_instead_of_answer(reply: Reply) -> TransientError:
    if _is_login_page(reply):
        return LoginExpiredError("XNAT answers with its login page")
    return TransientError("a web page came instead of XNAT's answer (200)")


def _not_xnat() -> UnavailableError:
    return UnavailableError(
        "what answers there is not an XNAT",
        hint="give the address with its context path, as in https://xnat.example.org/xnat",
    )


def _hint(reply: Reply) -> float | None:
    """Return Retry-After in seconds; the form with a date is as good as none."""
    value = reply.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else None


def _archive_uri(reply: Reply) -> str:
    # A Location has host and context path in front; the body has not.
    if match := _ARCHIVE_URI.fullmatch(reply.text.strip()) or _ARCHIVE_URI.search(_location(reply).path):
        return f"/data{match[1]}"
    raise TransientError(f"XNAT's answer names no archived session ({reply.status})")


def _json(reply: Reply) -> Any:
    try:
        return json.loads(reply.text)
    except (ValueError, RecursionError):
        raise TransientError(f"XNAT's answer is not JSON ({reply.status})") from None


def _results(reply: Reply) -> list[dict[str, str]]:
    """Return the rows of a listing; all values are strings, unknown ones ""."""
    try:
        results = _json(reply)["ResultSet"]["Result"]
        return [{key: "" if value is None else str(value) for key, value in result.items()} for result in results]
    except (KeyError, TypeError, AttributeError):
        raise TransientError(f"XNAT's answer is not a listing ({reply.status})") from None


def _item(reply: Reply) -> dict[str, Any]:
    try:
        return dict(_json(reply)["items"][0]["data_fields"])
    except (KeyError, TypeError, IndexError, ValueError):
        raise TransientError(f"XNAT's answer is not an item ({reply.status})") from None
