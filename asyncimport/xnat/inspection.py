"""What a login shows of a site and its projects, for `doctor`. Nothing here changes anything on the server.

What XNAT does not show is an `Unknown` with the reason, never an error.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeAlias, TypeVar
from urllib.parse import quote

from asyncimport.errors import AsyncimportError, FatalError, ProjectReadOnlyError
from asyncimport.model.record import record
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.xnat.client import Client
from asyncimport.xnat.replies.images import Row, parse_prearchive
from asyncimport.xnat.replies.logins import parse_login_count, parse_user_name
from asyncimport.xnat.replies.response import Reply
from asyncimport.xnat.replies.site import (
    Script,
    SeriesFilter,
    parse_pipeline_count,
    parse_project_ids,
    parse_setting,
    parse_subscription_count,
)
from asyncimport.xnat.site import (
    check_project,
    fetch_project_filter,
    fetch_project_script,
    fetch_site_filter,
    fetch_site_script,
)

T = TypeVar("T")
_POLICY = RetryPolicy(attempts=2)


@record
class Unknown:
    """What could not be found out, and why."""

    reason: str


Fact: TypeAlias = T | Unknown
_FILLABLE = "/data/projects?permissions=create&dataType=xnat:mrSessionData&format=json"
_NOT_SHOWN = Unknown("XNAT is too old, or does not show it to this user")


@record
class AuthenticatedFacts:
    """What a login shows of a site; an anonymisation script is None if none is in force."""

    version: Fact[str]
    logins: Fact[int]
    max_logins: Fact[str]
    series_filter: Fact[SeriesFilter]
    script: Fact[Script | None]
    file_names: Fact[str]
    idle_builder: Fact[str]
    archive_timeout: Fact[str]
    rows: Fact[list[Row]]


@record
class ProjectFacts:
    """What a login shows of a project. `name` is as given, perhaps an alias; `failure` is how an upload would end."""

    name: str
    id: str
    failure: FatalError | None
    may_create: Fact[bool] = _NOT_SHOWN
    prearchive_code: Fact[str] = _NOT_SHOWN
    series_filter: Fact[SeriesFilter] = _NOT_SHOWN
    script: Fact[Script | None] = _NOT_SHOWN
    pipelines: Fact[int] = _NOT_SHOWN
    subscriptions: Fact[int] = _NOT_SHOWN

    @property
    def is_readable(self) -> bool:
        """Whether this user may read the project."""
        return self.failure is None or isinstance(self.failure, ProjectReadOnlyError)


async def inspect_site(client: Client) -> AuthenticatedFacts:
    """Read the settings and the prearchive of a site."""

    async def setting(name: str) -> Fact[str]:
        return await _fetch(client, f"/xapi/siteConfig/{name}", parse_setting)

    user = await _fetch(client, "/data/auth", parse_user_name)
    logins: Fact[int] = user if isinstance(user, Unknown) else _NOT_SHOWN
    if isinstance(user, str):
        logins = await _fetch(client, f"/data/user/{quote(user, safe='')}/sessions", parse_login_count)
    return AuthenticatedFacts(
        version=await _fetch(client, "/data/version", parse_setting),
        logins=logins,
        max_logins=await setting("concurrentMaxSessions"),
        series_filter=await _known(fetch_site_filter(client, _POLICY)),
        script=await _known_script(fetch_site_script(client, _POLICY)),
        file_names=await setting("dicomFileNameTemplate"),
        idle_builder=await setting("sessionXmlRebuilderInterval"),
        archive_timeout=await setting("sessionArchiveTimeoutInterval"),
        rows=await _fetch(client, "/data/prearchive?format=json", parse_prearchive),
    )


async def inspect_project(client: Client, name: str) -> ProjectFacts:
    """Read this user's rights in a project, and its settings."""
    project = quote(name, safe="")
    try:
        project = await check_project(client, project, _POLICY, _POLICY)
        facts = ProjectFacts(name, project, None)
    except FatalError as error:
        facts = ProjectFacts(name, project, error)
    if not facts.is_readable:
        return facts

    def may_create(reply: Reply) -> bool:
        return project in parse_project_ids(reply)

    path = f"/data/projects/{project}"
    return replace(
        facts,
        may_create=await _fetch(client, _FILLABLE, may_create),
        prearchive_code=await _fetch(client, f"{path}/prearchive_code", parse_setting),
        series_filter=await _known(fetch_project_filter(client, project, _POLICY)),
        script=await _known_script(fetch_project_script(client, project, _POLICY)),
        pipelines=await _fetch(client, f"{path}/pipelines?format=json", parse_pipeline_count),
        subscriptions=await _fetch(client, f"/xapi/projects/{project}/events/subscriptions", parse_subscription_count),
    )


async def fillable_projects(client: Client) -> frozenset[str] | None:
    """Return the IDs of the projects in which this user may make sessions; None if XNAT does not show them."""
    found = await _fetch(client, _FILLABLE, parse_project_ids)
    return None if isinstance(found, Unknown) else found


async def series_filters(client: Client, project: str) -> list[tuple[str, SeriesFilter]]:
    """Return the enabled series import filters of a project, each with its name, as far as XNAT shows them."""
    found = (
        ("the site's series import filter", await _known(fetch_site_filter(client, _POLICY))),
        ("the project's series import filter", await _known(fetch_project_filter(client, project, _POLICY))),
    )
    return [(name, one) for name, one in found if isinstance(one, SeriesFilter) and one.enabled]


async def _fetch(client: Client, path: str, parse: Callable[[Reply], T | None]) -> Fact[T]:
    return await _known(client.request("GET", path, parse, _POLICY))


async def _known(call: Awaitable[T | None]) -> Fact[T]:
    try:
        found = await call
    except AsyncimportError as error:
        return Unknown(str(error))
    return _NOT_SHOWN if found is None else found


async def _known_script(call: Awaitable[Script | None]) -> Fact[Script | None]:
    script = await _known(call)
    return None if isinstance(script, Script) and not script.text else script
