"""The site's settings over HTTP: preferences, series import filters, anonymisation scripts."""

import json

from aiohttp import web

from ..site.anonymisation import Script
from ..site.profiles import PetMr
from ..site.projects import Project
from ..site.series_filter import SeriesFilter
from ..site.site import SITE_ID, Site
from .request_context import RequestContext
from .responses import HttpError, table, text

OPEN_NAMES = frozenset({"siteHome", "siteId", "siteLogoPath", "siteUrl"})
"""Preferences that need no login, like buildInfo."""
_CONFIG_COLUMNS = ("tool", "path", "project", "user", "contents", "version", "status")
_FLAGS = {
    "preventCrossModalityMerge": "prevent_cross_modality_merge",
    "useSopInstanceUidToUniquelyIdentifyDicom": "unique_sop_uids",
    "separateSecondaryDicomOnArchive": "separate_secondary",
    "requireLogin": "require_login",
    "restrictUserListAccessToAdmins": "restrict_user_list",
    "requireChangeJustification": "needs_reason",
}
"""Preferences that are flags of the site, with their names there."""
_PET_MR: dict[str, PetMr] = {"separate": "separate", "pet": "pet", "petmr": "petmr"}


def _public_values(site: Site, site_url: str) -> dict[str, object]:
    site_filter = site.series_filter
    return {
        "siteId": SITE_ID,
        "siteUrl": site_url,
        "siteHome": "/screens/QuickSearch.vm",
        "siteLogoPath": "/images/logo.png",
        "checksums": site.storage.checksums,
        "enableSitewideAnonymizationScript": site.script is not None,
        "sitewideAnonymizationScript": site.script.text if site.script is not None else "",
        "dicomFileNameTemplate": site.file_name_template,
        "defaultProjectAutoArchiveSetting": site.default_prearchive_code,
        "enableSitewideSeriesImportFilter": site_filter is not None and site_filter.enabled,
        "sitewideSeriesImportFilter": "\n".join(site_filter.patterns) if site_filter is not None else "",
        "sitewideSeriesImportFilterMode": site_filter.wire_mode if site_filter is not None else "blacklist",
        "scanTypeMapping": True,
        "sessionXmlRebuilderInterval": site.idle_minutes,
        "sitewidePetMr": site.pet_mr,
    }


def _admin_values(site: Site) -> dict[str, object]:
    return {
        **{name: getattr(site, flag) for name, flag in _FLAGS.items()},
        "sessionArchiveTimeoutInterval": int(site.archive_timeout),
        "concurrentMaxSessions": site.logins.max_per_user,
    }


async def site_settings(context: RequestContext) -> web.StreamResponse:
    """Return all preferences that the user may read (SiteConfigApi)."""
    values = _public_values(context.site, context.site_url)
    if context.user.all_data:
        values |= _admin_values(context.site)
    return web.json_response(values)


async def site_setting(context: RequestContext, name: str) -> web.StreamResponse:
    """Return one preference (SiteConfigApi); some are for administrators only."""
    values = _public_values(context.site, context.site_url)
    if name in values:
        return _value(values[name])
    if not context.user.all_data:
        raise HttpError(403)
    values = _admin_values(context.site)
    if name not in values:
        raise HttpError(404, f"No site configuration property named {name}")
    return _value(values[name])


async def set_site_settings(context: RequestContext) -> web.StreamResponse:
    """Set several preferences (SiteConfigApi): a JSON object, for administrators only. The reply is empty."""
    _check_administrator(context)
    for name, value in context.form.items():
        _set(context, name, value[0])
    return web.Response(content_type="application/json")


async def set_site_setting(context: RequestContext, name: str) -> web.StreamResponse:
    """Set one preference to the body (SiteConfigApi); a text may be plain or JSON. XNAT answers a PUT with a 405."""
    _check_administrator(context)
    _set(context, name, (await context.request.read()).decode("utf-8", "replace").strip())
    return web.Response(content_type="application/json")


def _check_administrator(context: RequestContext) -> None:
    if not context.user.all_data:
        raise HttpError(403)


def _set(context: RequestContext, name: str, text: str) -> None:
    """Set a preference that the server acts on; XNAT keeps any other name too, and a test server refuses it."""
    site = context.site
    text = text.strip('"')
    if (flag := _FLAGS.get(name)) is not None:
        setattr(site, flag, text.lower() == "true")
        return
    match name:
        case "checksums":
            site.storage.checksums = text.lower() == "true"
        case "defaultProjectAutoArchiveSetting" if text.lstrip("-").isdecimal():
            site.default_prearchive_code = int(text)
        case "sessionXmlRebuilderInterval" if text.isdecimal():
            site.idle_minutes = int(text)
        case "sessionArchiveTimeoutInterval" if text.isdecimal():
            site.archive_timeout = float(text)
        case "concurrentMaxSessions" if text.isdecimal():
            site.logins.max_per_user = int(text)
        case "sitewidePetMr":
            site.pet_mr = _PET_MR.get(text, "")
        case "dicomFileNameTemplate":
            site.file_name_template = text
        case "enableSitewideAnonymizationScript":
            site.script = (site.script or Script()) if text.lower() == "true" else None
        case "siteUrl":
            site.site_url = text
        case _:
            raise HttpError(501, f"Setting {name} to {text} is not part of this test server")


def _value(value: object) -> web.Response:
    """Return a value; a text is not quoted (StringHttpMessageConverter comes first)."""
    body = value if isinstance(value, str) else json.dumps(value)
    return web.Response(text=body, content_type="application/json")


async def config_tools(context: RequestContext, name: str | None = None) -> web.StreamResponse:
    """List the tools that have a configuration, of the site or of a project (ConfigResource); 404 if there are none."""
    tools = [(tool,) for tool, contents in _configs(context, name).items() if contents]
    if not tools:
        raise HttpError(404)
    return table(context.requested_format("json"), ["tool"], tools)


async def configs(context: RequestContext, tool: str, name: str | None = None) -> web.StreamResponse:
    """List the configurations of a tool (ConfigResource); 404 if there are none."""
    contents = _configs(context, name).get(tool, "")
    if not contents:
        raise HttpError(404, f"Config not found for tool {tool}")
    path = "config" if tool == "seriesImportFilter" else "script"
    row = [tool, path, name or "", "admin", contents, "1", "enabled"]
    return table(context.requested_format("json"), _CONFIG_COLUMNS, [row])


def _configs(context: RequestContext, name: str | None) -> dict[str, str]:
    """Return the contents of each tool's configuration."""
    where: Site | Project = context.site if name is None else context.readable_project(name)
    return {
        "anon": where.script.text if where.script is not None else "",
        "seriesImportFilter": where.series_filter.contents if where.series_filter is not None else "",
    }


async def filter_config(context: RequestContext, name: str | None = None) -> web.StreamResponse:
    """Return the series import filter of the site or of a project (ConfigResource); 404 if there is none.

    With `contents=true` the reply is the configuration itself, otherwise a table with it in a column.
    """
    found: SeriesFilter | None = (
        context.site.series_filter if name is None else context.readable_project(name).series_filter
    )
    if found is None:
        raise HttpError(404, "Config not found for tool seriesImportFilter and path config")
    if context.query.get("contents", "false") not in {"false", "0"}:
        return text(found.contents)
    row = ["seriesImportFilter", "config", name or "", "admin", found.contents, "1", "enabled"]
    return table(context.requested_format("json"), _CONFIG_COLUMNS, [row])


async def anonymisation(context: RequestContext, name: str | None = None, part: str = "") -> web.StreamResponse:
    """Return a script as text, or whether it is enabled (AnonymizeApi); a project's only for users who can read it."""
    if name is not None and not context.has_right("read", name):
        raise HttpError(403)
    script = context.site.script if name is None else context.readable_project(name).script
    if part:
        return _value(script is not None)
    return text(script.text if script is not None else "")
