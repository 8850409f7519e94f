"""What must be true of the site before a byte is sent, and what of it drops files."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar
from urllib.parse import quote

import anyio

from asyncimport.errors import FatalError, ProjectMissingError, ProjectReadOnlyError, TransientError, UnavailableError
from asyncimport.model import Dropped
from asyncimport.pacing.retry import RetryPolicy, retrying
from asyncimport.routing.drop_rules import filter_drops, script_rejects
from asyncimport.xnat import replies
from asyncimport.xnat.client import Client
from asyncimport.xnat.replies import Reply, SeriesFilter

T = TypeVar("T")
_Script = tuple[bool | None, bool | None, bool | None, frozenset[str] | None, str | None]

_POLICY = RetryPolicy(attempts=4)
# XNAT's caches of rights lag behind a new project by a second or so (its own tests wait for them).
_CACHES = RetryPolicy(attempts=3)


async def check_project(
    client: Client, project: str, policy: RetryPolicy = _POLICY, caches: RetryPolicy = _CACHES
) -> str:
    """Return the ID of the project (which may be named by an alias), if this user may import, build and archive there.

    Import needs the right to read only, and puts files elsewhere without it; build and archive need to edit.
    Raises: ProjectMissingError, ProjectReadOnlyError, UnavailableError.
    """

    async def check() -> str:
        try:
            return await look()
        except _NotYetError:
            raise
        except TransientError as error:
            raise UnavailableError(f"the project could not be checked: {error}") from error

    async def look() -> str:
        try:
            found = await project_of(client, project, policy)
        except ProjectMissingError as error:
            raise _NotYetError(error) from None
        editable = await client.ask(
            "GET",
            "/data/projects?permissions=edit&dataType=xnat:mrSessionData&format=json",
            replies.editable_projects,
            policy,
        )
        if found not in editable:
            raise _NotYetError(
                ProjectReadOnlyError(
                    f"this user may read project {found}, but not add sessions to it",
                    hint="ask the project's owner to make the user a member",
                )
            )
        return found

    try:
        return await retrying(check, caches)
    except _NotYetError as error:
        raise error.verdict from None


async def project_of(client: Client, project: str, policy: RetryPolicy) -> str:
    """Return the ID of a project, which may be named by an alias. Rights show only when they are used.

    Raises: ProjectMissingError, UnavailableError.
    """
    path = f"/data/projects/{quote(project, safe='')}?format=json"
    try:
        found = await client.ask("GET", path, replies.project_id, policy)
    except TransientError as error:
        raise UnavailableError(f"the project could not be checked: {error}") from error
    if found is None:
        raise ProjectMissingError(
            f"project {project} does not exist, or is not open to this user",
            hint="check its ID (not its title) and that the user is a member of it",
        )
    return found


class _NotYetError(TransientError):
    """XNAT's caches do not know better, it may be."""

    def __init__(self, verdict: FatalError) -> None:
        super().__init__(str(verdict))
        self.verdict = verdict


@dataclass(frozen=True, slots=True)
class DroppingRule:
    """A rule that drops files and is in force, or may be: its name, and what it does to a file of a header.

    `drops` answers None where it cannot tell; so it does where XNAT does not tell of the rule.
    """

    name: str
    drops: Callable[[Mapping[str, str]], bool | None] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class FilterInfo:
    """What in force at a site may drop files without a word: on import, and when a session is archived.

    Each is "" for nothing, and None where XNAT does not tell (before 1.7, or not this user). `maps_instances` and
    `maps_studies`: whether a script in force gives new UIDs; XNAT's own, which is on by default, does not.
    `rewritten_of_patients`: which of "id", "name" and "birth date" one may change.
    """

    on_import: str | None
    on_archive: str | None
    maps_instances: bool | None = None
    maps_studies: bool | None = None
    import_rules: Sequence[DroppingRule] = ()
    archive_rules: Sequence[DroppingRule] = ()
    rewritten_of_patients: frozenset[str] | None = None


def explanation(rules: Sequence[DroppingRule], fields: Mapping[str, str] | None) -> Dropped | None:
    """Say which of the rules drops a file with these header fields, None: unknown ones; None: no rule does."""
    answers = [(rule.name, None if fields is None else rule.drops(fields)) for rule in rules]
    certain = next((name for name, drops in answers if drops), None)
    if certain is not None:
        return Dropped(certain, is_certain=True)
    return next((Dropped(name, is_certain=False) for name, drops in answers if drops is None), None)


class SiteRules:
    """What of a site drops files, gives them new UIDs or keeps sessions apart, asked once."""

    def __init__(self, client: Client, policy: RetryPolicy) -> None:
        self._client = client
        self._policy = policy
        self._found: dict[str, FilterInfo] = {}
        self._merges: list[bool | None] = []
        self._turn = anyio.Lock()

    async def of(self, project: str) -> FilterInfo:
        """Return what is in force in a project. Raises: TransientError."""
        async with self._turn:
            if project not in self._found:
                self._found[project] = await droppers(self._client, project, self._policy)
        return self._found[project]

    async def merges_modalities(self) -> bool | None:
        """Whether the site merges sessions of two data types; None: XNAT does not tell, as only to administrators.

        By default it does not. Raises: TransientError.
        """
        async with self._turn:
            if not self._merges:
                path = "/xapi/siteConfig/preventCrossModalityMerge"
                prevents = await self._client.ask("GET", path, replies.setting, self._policy)
                self._merges.append(None if prevents is None else not prevents)
        return self._merges[0]


async def droppers(client: Client, project: str, policy: RetryPolicy) -> FilterInfo:
    """Ask which series import filters and anonymisation scripts are in force.

    XNAT runs both filters and the site's script when a file comes in (GradualDicomImporter), the project's script when
    the session is archived (PrearcSessionArchiver). Raises: TransientError.
    """

    async def ask(path: str, read: Callable[[Reply], T]) -> T:
        return await client.ask("GET", path, read, policy)

    def script(reply: Reply) -> _Script:
        return (
            replies.rejects(reply),
            replies.maps_uids(reply),
            replies.maps_studies(reply),
            replies.rewritten_of_patients(reply),
            replies.script(reply),
        )

    enabled = await ask("/xapi/siteConfig/enableSitewideSeriesImportFilter", replies.setting)
    filters: list[SeriesFilter | None] = [None if enabled is None else SeriesFilter(enabled)]
    if enabled:
        mode = await ask("/xapi/siteConfig/sitewideSeriesImportFilterMode", replies.value)
        lines = (await ask("/xapi/siteConfig/sitewideSeriesImportFilter", replies.value) or "").splitlines()
        filters = [SeriesFilter(enabled, mode or "", len(lines), tuple(lines))]
    filters.append(
        await ask(f"/data/projects/{project}/config/seriesImportFilter/config?contents=true", replies.series_filter)
    )
    scripts = []
    for path in ("/xapi/anonymize/site", f"/xapi/anonymize/projects/{project}"):
        enabled = await ask(f"{path}/enabled", replies.setting)
        none = None if enabled is None else frozenset[str]()
        scripts.append(await ask(path, script) if enabled else (enabled, enabled, enabled, none, None))
    site_script, own_script = (
        (rejects, name, partial(script_rejects, text) if text is not None else _unknown)
        for (rejects, _, _, _, text), name in zip(scripts, _SCRIPTS, strict=True)
    )
    on_import = (
        *(
            (None if one is None else one.enabled, name, _drops(one))
            for one, name in zip(filters, _FILTERS, strict=True)
        ),
        site_script,
    )
    return FilterInfo(
        _first(on_import),
        _first([own_script]),
        maps_instances=_any(maps for _, maps, *_ in scripts),
        maps_studies=_any(maps for _, _, maps, *_ in scripts),
        import_rules=_in_force(on_import),
        archive_rules=_in_force([own_script]),
        rewritten_of_patients=_all_of(rewritten for _, _, _, rewritten, _ in scripts),
    )


_FILTERS = ("the site's series import filter", "the project's series import filter")
_SCRIPTS = ("the site's anonymisation script", "the project's anonymisation script")
_Drops = Callable[[Mapping[str, str]], bool | None]
# Whether a rule is in force (None: XNAT does not tell), its name, and what it does to a file.
_Told = tuple[bool | None, str, _Drops]


def _unknown(_: Mapping[str, str]) -> None:
    """Say that it cannot be told whether a file is dropped."""


def _drops(told: SeriesFilter | None) -> _Drops:
    return _unknown if told is None else partial(filter_drops, told.mode, told.expressions)


def _in_force(told: Iterable[_Told]) -> tuple[DroppingRule, ...]:
    return tuple(DroppingRule(name, drops) for is_on, name, drops in told if is_on is not False)


def _all_of(found: Iterable[frozenset[str] | None]) -> frozenset[str] | None:
    """Return what any of them changes; None when some does not tell."""
    told = [one for one in found if one is not None]
    return None if len(told) < 2 else frozenset().union(*told)


def _any(found: Iterable[bool | None]) -> bool | None:
    """Whether one of them is so; None when some does not tell."""
    told = list(found)
    return True if True in told else None if None in told else False


def _first(found: Iterable[_Told]) -> str | None:
    """Name the first that is in force; "" when none is, None when some does not tell."""
    told = list(found)
    names = [name for is_on, name, _ in told if is_on]
    return names[0] if names else None if any(is_on is None for is_on, *_ in told) else ""
