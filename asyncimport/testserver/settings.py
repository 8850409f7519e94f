"""What a site tells of its settings: preferences, series import filters, anonymisation scripts."""

import json

from aiohttp import web

from .call import Call
from .pages import Refused, table, text, wanted
from .rules import SeriesFilter
from .site import SITE_ID, TestXnat

__all__ = ["OPEN_NAMES", "anonymisation", "filter_config", "site_setting"]

OPEN_NAMES = frozenset({"siteHome", "siteId", "siteLogoPath", "siteUrl"})
"""Preferences that need no login, besides buildInfo."""


def _for_all(xnat: TestXnat, site_url: str) -> dict[str, object]:
    site_filter = xnat.series_filter
    return {
        "siteId": SITE_ID,
        "siteUrl": site_url,
        "siteHome": "/screens/QuickSearch.vm",
        "siteLogoPath": "/images/logo.png",
        "checksums": xnat.storage.checksums,
        "enableSitewideAnonymizationScript": xnat.script is not None,
        "sitewideAnonymizationScript": xnat.script.text if xnat.script is not None else "",
        "dicomFileNameTemplate": xnat.file_name_template,
        "defaultProjectAutoArchiveSetting": xnat.default_prearchive_code,
        "enableSitewideSeriesImportFilter": site_filter is not None and site_filter.enabled,
        "sitewideSeriesImportFilter": "\n".join(site_filter.patterns) if site_filter is not None else "",
        "sitewideSeriesImportFilterMode": site_filter.wire_mode if site_filter is not None else "blacklist",
        "scanTypeMapping": True,
        "sessionXmlRebuilderInterval": xnat.idle_minutes,
        "sitewidePetMr": xnat.pet_mr,
    }


def _for_admins(xnat: TestXnat) -> dict[str, object]:
    return {
        "preventCrossModalityMerge": xnat.prevent_cross_modality_merge,
        "useSopInstanceUidToUniquelyIdentifyDicom": xnat.unique_sop_uids,
        "separateSecondaryDicomOnArchive": xnat.separate_secondary,
        "requireLogin": xnat.require_login,
        "sessionArchiveTimeoutInterval": int(xnat.archive_timeout),
        "concurrentMaxSessions": xnat.logins.max_per_user,
    }


async def site_setting(call: Call, name: str) -> web.StreamResponse:
    """Return one preference (SiteConfigApi); some only to those who administer the site."""
    values = _for_all(call.xnat, call.site_url)
    if name in values:
        return _value(values[name])
    if not call.user.all_data:
        raise Refused(403)
    values = _for_admins(call.xnat)
    if name not in values:
        raise Refused(404)
    return _value(values[name])


def _value(value: object) -> web.Response:
    """Return a value: a text is not quoted (StringHttpMessageConverter comes first)."""
    body = value if isinstance(value, str) else json.dumps(value)
    return web.Response(text=body, content_type="application/json")


async def filter_config(call: Call, name: str | None = None) -> web.StreamResponse:
    """Return the series import filter of the site or of a project (ConfigResource); 404 where there is none.

    `contents=true` gives the configuration itself, otherwise it is a column of a table.
    """
    found: SeriesFilter | None = call.xnat.series_filter if name is None else call.readable(name).series_filter
    if found is None:
        raise Refused(404, "Config not found for tool seriesImportFilter and path config")
    if call.query.get("contents", "false") not in {"false", "0"}:
        return text(found.contents)
    columns = ["tool", "path", "project", "user", "contents", "version", "status"]
    row = ["seriesImportFilter", "config", name or "", "admin", found.contents, "1", "enabled"]
    return table(wanted(call.request, call.query, "json"), columns, [row])


async def anonymisation(call: Call, name: str | None = None, part: str = "") -> web.StreamResponse:
    """Return a script as text, or whether it is enabled (AnonymizeApi); a project's to those who can read it."""
    if name is not None and not call.may("read", name):
        raise Refused(403)
    script = call.xnat.script if name is None else call.readable(name).script
    if part:
        return _value(script is not None)
    return text(script.text if script is not None else "")
