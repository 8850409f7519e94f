"""The questions whose answers decide whether a migration will work: from outside, under a login, of each project.

Nothing of it changes anything at the server. What XNAT does not tell is `Unknown`, with the reason, and never an error.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar
from urllib.parse import quote

from asyncimport.errors import (
    AsyncimportError,
    FatalError,
    ProjectReadOnlyError,
)
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.xnat import replies
from asyncimport.xnat.client import Client
from asyncimport.xnat.replies import Reply, Row, SeriesFilter
from asyncimport.xnat.site import check_project

T = TypeVar("T")


_ONCE_MORE = RetryPolicy(attempts=2)


@dataclass(frozen=True, slots=True)
class Unknown:
    """What could not be found out, and why."""

    reason: str


Told: TypeAlias = T | Unknown
_NOT_TOLD = Unknown("XNAT does not tell it to this user, or is too old to")


@dataclass(frozen=True, slots=True)
class Script:
    """An anonymisation script that is in force, by what it does."""

    rewrites: bool
    rejects: bool
    maps_uids: bool


@dataclass(frozen=True, slots=True)
class AuthenticatedFacts:
    """What a login finds out about the site; a script is None where none is in force."""

    version: Told[str]
    logins: Told[int]
    most_logins: Told[str]
    series_filter: Told[SeriesFilter]
    script: Told[Script | None]
    file_names: Told[str]
    idle_builder: Told[str]
    archive_timeout: Told[str]
    rows: Told[list[Row]]


@dataclass(frozen=True, slots=True)
class ProjectFacts:
    """What a login finds out about a project: how an upload would end there, and its settings.

    `name` is as it was asked for, an alias it may be.
    """

    name: str
    id: str
    failure: FatalError | None
    may_create: Told[bool] = _NOT_TOLD
    prearchive_code: Told[str] = _NOT_TOLD
    series_filter: Told[SeriesFilter] = _NOT_TOLD
    script: Told[Script | None] = _NOT_TOLD
    pipelines: Told[int] = _NOT_TOLD
    subscriptions: Told[int] = _NOT_TOLD

    @property
    def is_readable(self) -> bool:
        """Whether this user may ask for anything here."""
        return self.failure is None or isinstance(self.failure, ProjectReadOnlyError)


# --- from outside


# --- under a login


async def _told(client: Client, path: str, read: Callable[[Reply], T | None]) -> Told[T]:
    try:
        found = await client.ask("GET", path, read, _ONCE_MORE)
    except AsyncimportError as error:
        return Unknown(str(error))
    return _NOT_TOLD if found is None else found


async def look_from_inside(client: Client) -> AuthenticatedFacts:
    """Ask for what a site's settings and the prearchive mean for a migration."""

    async def preference(name: str) -> Told[str]:
        return await _told(client, f"/xapi/siteConfig/{name}", replies.value)

    name = await _told(client, "/data/auth", replies.user_name)
    logins: Told[int] = name if isinstance(name, Unknown) else _NOT_TOLD
    if isinstance(name, str):
        logins = await _told(client, f"/data/user/{quote(name, safe='')}/sessions", replies.logins)
    return AuthenticatedFacts(
        version=await _told(client, "/data/version", replies.value),
        logins=logins,
        most_logins=await preference("concurrentMaxSessions"),
        series_filter=await _site_filter(client),
        script=await _script(client, "/xapi/anonymize/site"),
        file_names=await preference("dicomFileNameTemplate"),
        idle_builder=await preference("sessionXmlRebuilderInterval"),
        archive_timeout=await preference("sessionArchiveTimeoutInterval"),
        rows=await _told(client, "/data/prearchive?format=json", replies.prearchive),
    )


async def _site_filter(client: Client) -> Told[SeriesFilter]:
    enabled = await _told(client, "/xapi/siteConfig/enableSitewideSeriesImportFilter", replies.setting)
    if enabled is not True:
        return enabled if isinstance(enabled, Unknown) else SeriesFilter(enabled=False)
    mode = await _told(client, "/xapi/siteConfig/sitewideSeriesImportFilterMode", replies.value)
    patterns = await _told(client, "/xapi/siteConfig/sitewideSeriesImportFilter", replies.value)
    lines = () if isinstance(patterns, Unknown) else tuple(line for line in patterns.splitlines() if line.strip())
    return SeriesFilter(
        enabled=True, mode="" if isinstance(mode, Unknown) else mode, patterns=len(lines), expressions=lines
    )


async def series_filters(client: Client, project: str) -> list[tuple[str, SeriesFilter]]:
    """Return the series import filters that a project's files pass, each with its name, as far as XNAT tells them."""
    found = (
        ("the site's series import filter", await _site_filter(client)),
        ("the project's series import filter", await _project_filter(client, quote(project, safe=""))),
    )
    return [(name, one) for name, one in found if isinstance(one, SeriesFilter) and one.enabled]


async def _project_filter(client: Client, place: str) -> Told[SeriesFilter]:
    path = f"/data/projects/{place}/config/seriesImportFilter/config?contents=true"
    return await _told(client, path, replies.series_filter)


async def _script(client: Client, path: str) -> Told[Script | None]:
    def read(reply: Reply) -> Script | None:
        rewrites, rejects = replies.rewrites(reply), replies.rejects(reply)
        if rewrites is None or rejects is None:
            return None
        return Script(rewrites, rejects, bool(replies.maps_uids(reply)))

    enabled = await _told(client, f"{path}/enabled", replies.setting)
    if enabled is not True:
        return enabled if isinstance(enabled, Unknown) else None
    return await _told(client, path, read)


async def look_at_project(client: Client, name: str) -> ProjectFacts:
    """Ask for this user's rights in a project, and for its settings."""
    place = quote(name, safe="")
    failure: FatalError | None = None
    project = place
    try:
        project = await check_project(client, place, _ONCE_MORE, _ONCE_MORE)
    except FatalError as error:
        failure = error
    facts = ProjectFacts(name, project, failure)
    if not facts.is_readable:
        return facts

    def creatable(reply: Reply) -> bool:
        return project in replies.editable_projects(reply)

    return replace(
        facts,
        may_create=await _told(
            client, "/data/projects?permissions=create&dataType=xnat:mrSessionData&format=json", creatable
        ),
        prearchive_code=await _told(client, f"/data/projects/{project}/prearchive_code", replies.value),
        series_filter=await _project_filter(client, project),
        script=await _script(client, f"/xapi/anonymize/projects/{project}"),
        pipelines=await _told(client, f"/data/projects/{project}/pipelines?format=json", replies.pipelines),
        subscriptions=await _told(client, f"/xapi/projects/{project}/events/subscriptions", replies.subscriptions),
    )
