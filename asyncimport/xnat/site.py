"""What a project needs before a byte is sent, and the rules of a site that drop or change files."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from functools import partial
from typing import TypeVar
from urllib.parse import quote

import anyio

from asyncimport.errors import FatalError, ProjectMissingError, ProjectReadOnlyError, TransientError, UnavailableError
from asyncimport.model.deliveries import Dropped
from asyncimport.model.record import record
from asyncimport.pacing.concurrency import both
from asyncimport.pacing.retry import RetryPolicy, call_with_retries
from asyncimport.routing.drop_rules import filter_drops, script_rejects
from asyncimport.xnat.client import Client
from asyncimport.xnat.replies.response import Reply
from asyncimport.xnat.replies.site import (
    Script,
    SeriesFilter,
    parse_flag,
    parse_patterns,
    parse_project_id,
    parse_project_ids,
    parse_script,
    parse_series_filter,
    parse_setting,
    parse_version_number,
)

T = TypeVar("T")
_POLICY = RetryPolicy(attempts=4)
# From this version on, DICOM-zip is the importer that XNAT's own pages upload with.
FIRST_WITH_ZIPS = (1, 8)
# XNAT's cached rights lag behind a new project by about a second (its own tests wait for them).
_CACHE_POLICY = RetryPolicy(attempts=3)
_EDITABLE_PROJECTS = "/data/projects?permissions=edit&dataType=xnat:mrSessionData&format=json"
BUILD_INFO = "/xapi/siteConfig/buildInfo"
_SITE_FILTER, _PROJECT_FILTER = "the site's series import filter", "the project's series import filter"
_SITE_SCRIPT, _PROJECT_SCRIPT = "the site's anonymisation script", "the project's anonymisation script"


async def check_project(
    client: Client, project: str, policy: RetryPolicy = _POLICY, caches: RetryPolicy = _CACHE_POLICY
) -> str:
    """Return the ID of a project, which may be named by an alias, if this user may import, build and archive there.

    An import needs only the right to read, and puts files elsewhere without it; build and archive need to edit.
    Raises: ProjectMissingError, ProjectReadOnlyError, UnavailableError.
    """

    async def check() -> str:
        try:
            found, editable = await both(
                partial(find_project, client, project, policy),
                partial(_check_request, client, _EDITABLE_PROJECTS, parse_project_ids, policy),
            )
        except ProjectMissingError as error:
            raise _CachedVerdictError(error) from None
        if found not in editable:
            raise _CachedVerdictError(
                ProjectReadOnlyError(
                    f"this user may read project {found}, but not add sessions to it",
                    hint="ask the project's owner to make the user a member",
                )
            )
        return found

    try:
        return await call_with_retries(check, caches)
    except _CachedVerdictError as error:
        raise error.verdict from None


async def find_project(client: Client, project: str, policy: RetryPolicy) -> str:
    """Return the ID of a project, which may be named by an alias. Raises: ProjectMissingError, UnavailableError."""
    path = f"/data/projects/{quote(project, safe='')}?format=json"
    found = await _check_request(client, path, parse_project_id, policy)
    if found is None:
        raise ProjectMissingError(
            f"project {project} does not exist, or is not open to this user",
            hint="check its ID (not its title) and that the user is a member of it",
        )
    return found


async def _check_request(client: Client, path: str, parse: Callable[[Reply], T], policy: RetryPolicy) -> T:
    try:
        return await client.request("GET", path, parse, policy)
    except TransientError as error:
        raise UnavailableError(
            f"the project could not be checked: {error}", hint="try again later; `asyncimport doctor` checks the server"
        ) from error


class _CachedVerdictError(TransientError):
    """A verdict that may come from an outdated cache of XNAT's."""

    def __init__(self, verdict: FatalError) -> None:
        super().__init__(str(verdict))
        self.verdict = verdict


@record
class DropRule:
    """A filter or script: its name, and whether it drops a file with these header fields (None: it cannot tell)."""

    name: str
    drops: Callable[[Mapping[str, str]], bool | None] = field(repr=False, compare=False)


@record
class FilterInfo:
    """What drops or changes the files of a project.

    `on_import` and `on_archive` name a rule that drops files silently at that step: "" if there is none, None if XNAT
    does not show it (before 1.7, or not to this user). `import_rules` and `archive_rules` are those that do or may.
    `maps_instances` and `maps_studies`: whether a script changes these UIDs; XNAT's default script does not.
    `patient_fields`: which of "id", "name" and "birth date" of a patient a script may change.
    """

    on_import: str | None
    on_archive: str | None
    maps_instances: bool | None = None
    maps_studies: bool | None = None
    import_rules: Sequence[DropRule] = ()
    archive_rules: Sequence[DropRule] = ()
    patient_fields: frozenset[str] | None = None


def explain_drop(rules: Sequence[DropRule], fields: Mapping[str, str] | None) -> Dropped | None:
    """Return the rule that drops a file with these header fields (None: unknown); None if no rule does."""
    verdicts = [(rule.name, None if fields is None else rule.drops(fields)) for rule in rules]
    certain = next((name for name, drops in verdicts if drops), None)
    if certain is not None:
        return Dropped(certain, is_certain=True)
    return next((Dropped(name, is_certain=False) for name, drops in verdicts if drops is None), None)


class SiteRules:
    """The rules of a site that drop files, change UIDs or keep sessions apart; each is read once."""

    def __init__(self, client: Client, policy: RetryPolicy) -> None:
        self._client = client
        self._policy = policy
        self._projects: dict[str, FilterInfo] = {}
        self._merges: list[bool | None] = []
        self._takes_zips: bool | None = None
        self._lock = anyio.Lock()

    async def get(self, project: str) -> FilterInfo:
        """Return what drops or changes the files of a project. Raises: TransientError."""
        if project in self._projects:
            return self._projects[project]  # without the lock, which costs a turn of the loop
        async with self._lock:
            if project not in self._projects:
                self._projects[project] = await _fetch_filter_info(self._client, project, self._policy)
        return self._projects[project]

    async def takes_zips(self) -> bool:
        """Whether images may come as zips: to XNAT 1.8 and later, if it shows its version. Raises: TransientError."""
        if self._takes_zips is None:
            async with self._lock:
                if self._takes_zips is None:
                    found = await self._client.request("GET", BUILD_INFO, parse_version_number, self._policy)
                    self._takes_zips = found is not None and found >= FIRST_WITH_ZIPS
        return self._takes_zips

    async def merges_modalities(self) -> bool | None:
        """Whether the site merges sessions of two data types; None: not shown, as to all but administrators."""
        async with self._lock:
            if not self._merges:
                path = "/xapi/siteConfig/preventCrossModalityMerge"
                prevents = await self._client.request("GET", path, parse_flag, self._policy)
                self._merges.append(None if prevents is None else not prevents)
        return self._merges[0]


async def fetch_site_filter(client: Client, policy: RetryPolicy) -> SeriesFilter | None:
    """Return the site's series import filter; None if XNAT does not show it. Raises: TransientError."""
    path = "/xapi/siteConfig/sitewideSeriesImportFilter"
    enabled = await client.request("GET", "/xapi/siteConfig/enableSitewideSeriesImportFilter", parse_flag, policy)
    if not enabled:
        return None if enabled is None else SeriesFilter(enabled=False)
    mode, patterns = await both(
        partial(client.request, "GET", f"{path}Mode", parse_setting, policy),
        partial(client.request, "GET", path, parse_setting, policy),
    )
    return SeriesFilter(enabled, mode or "", parse_patterns(patterns or ""))


async def fetch_project_filter(client: Client, project: str, policy: RetryPolicy) -> SeriesFilter | None:
    """Return a project's series import filter; None if XNAT does not show it. Raises: TransientError."""
    path = f"/data/projects/{quote(project, safe='')}/config/seriesImportFilter/config?contents=true"
    return await client.request("GET", path, parse_series_filter, policy)


async def fetch_site_script(client: Client, policy: RetryPolicy) -> Script | None:
    """Return the site's script, an empty one if disabled; None if it is not shown. Raises: TransientError."""
    path = "/xapi/anonymize/site"
    # Both at once: XNAT comes with a script that is enabled.
    enabled, script = await both(
        partial(client.request, "GET", f"{path}/enabled", parse_flag, policy),
        partial(client.request, "GET", path, parse_script, policy),
    )
    return Script("") if enabled is False else script if enabled else None


async def fetch_project_script(client: Client, project: str, policy: RetryPolicy) -> Script | None:
    """Return a project's script, an empty one if disabled; None if it is not shown. Raises: TransientError."""
    path = f"/xapi/anonymize/projects/{quote(project, safe='')}"
    enabled = await client.request("GET", f"{path}/enabled", parse_flag, policy)
    if not enabled:
        return None if enabled is None else Script("")
    return await client.request("GET", path, parse_script, policy)


async def _fetch_filter_info(client: Client, project: str, policy: RetryPolicy) -> FilterInfo:
    """Read the series import filters and anonymisation scripts of a project."""
    # XNAT applies both filters and the site's script to each file that arrives (GradualDicomImporter), and the
    # project's script when it archives a session (PrearcSessionArchiver).
    (site_filter, project_filter), (site_script, project_script) = await both(
        partial(
            both, partial(fetch_site_filter, client, policy), partial(fetch_project_filter, client, project, policy)
        ),
        partial(
            both, partial(fetch_site_script, client, policy), partial(fetch_project_script, client, project, policy)
        ),
    )
    rules = {_SITE_FILTER: site_filter, _PROJECT_FILTER: project_filter, _SITE_SCRIPT: site_script}
    on_import = [_rule_state(name, rule) for name, rule in rules.items()]
    on_archive = [_rule_state(_PROJECT_SCRIPT, project_script)]
    scripts = site_script, project_script
    shown = [script for script in scripts if script is not None]
    fields = frozenset().union(*(one.patient_fields for one in shown)) if len(shown) == len(scripts) else None
    return FilterInfo(
        _name_of_first(on_import),
        _name_of_first(on_archive),
        maps_instances=_any(None if script is None else script.maps_uids for script in scripts),
        maps_studies=_any(None if script is None else script.maps_studies for script in scripts),
        import_rules=[rule for is_on, rule in on_import if is_on is not False],
        archive_rules=[rule for is_on, rule in on_archive if is_on is not False],
        patient_fields=fields,
    )


# Whether a rule is in force (None: XNAT does not show it), and the rule.
_RuleState = tuple[bool | None, DropRule]


def _rule_state(name: str, rule: SeriesFilter | Script | None) -> _RuleState:
    if rule is None:
        return None, DropRule(name, lambda _: None)
    if isinstance(rule, Script):
        return rule.rejects, DropRule(name, partial(script_rejects, rule.text))
    return rule.enabled, DropRule(name, partial(filter_drops, rule.mode, rule.patterns))


def _any(flags: Iterable[bool | None]) -> bool | None:
    """Whether any is true; None if none is and some are unknown."""
    known = list(flags)
    return True if True in known else None if None in known else False


def _name_of_first(states: Iterable[_RuleState]) -> str | None:
    """Return the name of the first rule in force, "" if there is none; None if some are unknown."""
    known = list(states)
    names = [rule.name for is_on, rule in known if is_on]
    return names[0] if names else None if any(is_on is None for is_on, _ in known) else ""
