"""The routing table: addresses and their handlers, and the kind of request that an address stands for."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from . import (
    archive,
    catalog_refresh,
    deletions,
    dicom_dump,
    direct_archive,
    experiment_changes,
    experiments,
    files,
    imports,
    logins,
    prearchive,
    projects,
    resources,
    schemas,
    settings,
    subjects,
    uploads,
    user_cache,
    users,
    validation,
)
from .addresses import OWNER

_Handler = Callable[..., Awaitable[web.StreamResponse]]
_PREARCHIVED = r"prearchive/projects/(?P<project>[^/]+)/(?P<timestamp>[^/]+)/(?P<folder>[^/]+)"
_SUBJECT = r"projects/(?P<project>[^/]+)(?:/subjects/(?P<subject>[^/]+))?"
_EXPERIMENT = rf"(?:{_SUBJECT}/)?experiments/(?P<name>[^/]+)"
_SCANS = r"(?:projects/(?P<project>[^/]+)/subjects/(?P<subject>[^/]+)/)?experiments/(?P<name>[^/]+)/scans"
_SETTING = "projects/(?P<name>[^/]+)/(?P<key>prearchive_code|quarantine_code|current_arc|scan_type_mapping)"
_OWNER = "(?!projects/[^/]+/experiments/[^/]+/scans/|subjects/[^/]+/experiments/)" + OWNER
"""The addresses of owners that XNAT routes: scans and sessions are below a project and a subject, or below neither."""
_RESOURCE = _OWNER + "resources/(?P<label>[^/]+)"


@dataclass(frozen=True, slots=True)
class _Route:
    """An address (a pattern of the whole raw path below /data or /xapi) and its handlers by verb."""

    pattern: re.Pattern[str]
    handlers: Mapping[str, _Handler]


def _route(pattern: str, **handlers: _Handler) -> _Route:
    return _Route(re.compile(pattern), handlers)


def _files(pattern: str) -> _Route:
    return _route(pattern, GET=files.get_files, PUT=uploads.upload, POST=uploads.upload, DELETE=files.delete_files)


_WRITES = {
    "file": re.compile(OWNER + "(?:resources/[^/]+/)?files(?:/|$)"),
    "resource": re.compile(OWNER + "resources(?:/|$)"),
    "subject": re.compile("(?:projects/[^/]+/)?subjects(?:/[^/]+)?$"),
    "refresh": re.compile("services/refresh/catalog$|archive/catalogs/refresh(?:/|$)"),
}
"""The kinds of requests that change archived data, by their addresses."""
_DATA = (
    # First, because no other address is asked for as often.
    _route(r"services/import(?:/(?P<name>.*))?", POST=imports.import_service),
    _route("JSESSION", GET=logins.jsession, POST=logins.jsession, DELETE=logins.end_login),
    _route("auth", GET=logins.auth),
    _route("services/auth", GET=logins.services_auth, PUT=logins.services_auth, POST=logins.services_auth),
    _route("user/(?P<name>[^/]+)/sessions", GET=logins.count_logins, DELETE=logins.end_logins),
    _route("version", GET=logins.version),
    _route(r"services/tokens/(?P<operation>[^/]+)(?:/(?P<alias>[^/]+)(?:/(?P<secret>[^/]+))?)?", GET=logins.tokens),
    _route("services/archive", POST=archive.archive_service),
    _route("services/refresh/catalog", POST=catalog_refresh.refresh_catalogs),
    _route("services/prearchive/(?P<operation>rebuild|move|delete)", POST=prearchive.batch),
    _route("services/validate-archive", POST=validation.validate_archive),
    _route("services/dicomdump", GET=dicom_dump.dicom_dump),
    _route(
        "prearchive(?:/projects(?:/(?P<projects>[^/]+))?)?", GET=prearchive.listing, PUT=validation.refresh_prearchive
    ),
    _route("prearchive/experiments", GET=validation.recent_rows),
    _route("user/cache/resources", GET=user_cache.get_cached),
    _route(
        "user/cache/resources/(?P<resource>[^/]+)(?:/files(?:/(?P<name>.+))?)?",
        GET=user_cache.get_cached,
        PUT=user_cache.put_cached,
        POST=user_cache.post_cached,
        DELETE=user_cache.delete_cached,
    ),
    _route("status/(?P<key>[^/]+)", GET=validation.job_status),
    _route(_PREARCHIVED, GET=prearchive.session, POST=prearchive.session_action, DELETE=prearchive.delete),
    _route(_PREARCHIVED + "/(?P<part>.+)", GET=prearchive.session_part),
    _route("projects", GET=projects.list_projects),
    _route("projects/(?P<name>[^/]+)", GET=projects.project, PUT=projects.put_project, DELETE=deletions.delete_project),
    _route("(?:projects/(?P<name>[^/]+)/)?config", GET=settings.config_tools),
    _route("(?:projects/(?P<name>[^/]+)/)?config/(?P<tool>[^/]+)", GET=settings.configs),
    _route("(?:projects/(?P<name>[^/]+)/)?config/seriesImportFilter/config", GET=settings.filter_config),
    _route("projects/(?P<name>[^/]+)/users", GET=users.project_users),
    _route("projects/(?P<name>[^/]+)/accessibility", GET=users.accessibility),
    _route("projects/(?P<name>[^/]+)/accessibility/(?P<level>[^/]+)", GET=users.accessibility, PUT=users.accessibility),
    _route("users", GET=users.list_users),
    _route("search/elements", GET=schemas.search_elements),
    _route("search/elements/(?P<name>[^/]+)", GET=schemas.search_fields),
    _route("search(?:/.+)?", GET=schemas.search, POST=schemas.search),
    _route("projects/(?P<name>[^/]+)/pipelines", GET=projects.pipelines),
    _route(_SETTING, GET=projects.setting),
    _route(f"{_SETTING}/(?P<value>[^/]+)", PUT=projects.setting),
    _route("projects/(?P<name>[^/]+)/(?P<key>[a-z_]+_code)(?:/(?P<value>[^/]+))?", GET=projects.unknown_setting),
    _route("subjects", GET=subjects.list_subjects),
    _route("projects/(?P<project>[^/]+)/subjects", GET=subjects.list_subjects, POST=subjects.post_subject),
    _route(
        "(?:projects/(?P<project>[^/]+)/)?subjects/(?P<subject>[^/]+)",
        GET=subjects.get_subject,
        PUT=subjects.put_subject,
        DELETE=deletions.delete_subject,
    ),
    _route(_OWNER + "resources", GET=resources.list_resources, POST=resources.post_resource),
    _route(
        _RESOURCE,
        GET=resources.get_resource,
        PUT=resources.put_resource,
        POST=resources.put_resource,
        DELETE=resources.delete_resource,
    ),
    _files(_RESOURCE + "/files(?:/(?P<name>.+))?"),
    _files(_OWNER + "files(?:/(?P<name>.+))?"),
    _route(_RESOURCE + "/(?P<extra>.+)", PUT=resources.put_extra),
    _route(f"(?:{_SUBJECT}/)?experiments", GET=experiments.experiment_list, POST=experiment_changes.post_item),
    _route(_SCANS, GET=experiments.scan_list, POST=experiment_changes.post_item),
    _route(
        _SCANS + "/(?P<scan>[^/]+)(?:/(?P<part>.+))?",
        GET=experiments.scan,
        PUT=experiment_changes.put_scan,
        DELETE=deletions.delete_scan,
    ),
    _route(
        _EXPERIMENT + "(?:/(?P<part>.+))?",
        GET=experiments.experiment,
        PUT=experiment_changes.put_experiment,
        DELETE=deletions.delete_experiment,
    ),
    _route(
        "(?:projects/(?P<project>[^/]+)/)?subjects/(?P<subject>[^/]+)/(?P<part>.+)",
        GET=subjects.get_subject,
        PUT=subjects.put_subject,
        DELETE=deletions.delete_subject,
    ),
)
_XAPI = (
    _route("siteConfig/buildInfo(?:/(?P<key>[^/]+))?", GET=logins.build_info),
    _route("siteConfig", GET=settings.site_settings, POST=settings.set_site_settings),
    _route("siteConfig/(?P<name>[^/]+)", GET=settings.site_setting, POST=settings.set_site_setting),
    _route("schemas", GET=schemas.schemas),
    _route("schemas/(?P<name>.+)", GET=schemas.schema),
    _route("users", GET=users.user_names),
    _route("users/profiles", GET=users.profiles),
    _route("users/username", GET=users.username),
    _route("users/(?P<name>[^/]+)", GET=users.user),
    _route("anonymize/site(?:/(?P<part>enabled))?", GET=settings.anonymisation),
    _route("anonymize/projects/(?P<name>[^/]+)(?:/(?P<part>enabled))?", GET=settings.anonymisation),
    _route("projects/(?P<name>[^/]+)/events/subscriptions", GET=projects.subscriptions),
    _route("archive/catalogs/refresh(?:/(?P<options>[^/]+))?", PUT=catalog_refresh.refresh_through_xapi),
    _route("direct-archive", POST=direct_archive.list_sessions),
    _route("direct-archive/(?P<number>[0-9]+)", DELETE=direct_archive.delete_session),
    _route(
        "direct-archive/(?P<project>[^/]+)/(?P<study>[^/]+)/(?P<label>[^/]+)",
        GET=direct_archive.get_session,
        POST=direct_archive.archive_session,
    ),
    _route("event_tracking/(?P<key>[^/]+)(?:/(?P<payload>payload))?", GET=archive.event_tracking),
)
OPEN_PATHS = {"JSESSION", "services/auth", *(f"siteConfig/{name}" for name in settings.OPEN_NAMES)}
"""Addresses that need no login."""
AREAS = {"data": _DATA, "REST": _DATA, "xapi": _XAPI}


def kind_of_request(method: str, path: str) -> str:
    """Return the kind of a request, for counts and faults, as far as its address shows it."""
    if path.startswith("services/import"):
        return "import"
    match method, path:
        case ("DELETE", "JSESSION"):
            return "logout"
        case (_, "JSESSION" | "services/auth"):
            return "login"
        case ("POST", "services/archive"):
            return "archive"
        case ("GET" | "HEAD", _):
            return "listing"
    if path.startswith("prearchive/"):
        return "prearchive"
    return next((kind for kind, pattern in _WRITES.items() if pattern.match(path)), "other")
