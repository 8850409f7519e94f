"""Refreshing catalogs: what is on the disk, what is not, digests, and the counts of the database."""

import json
from collections.abc import Iterable
from dataclasses import replace

from aiohttp import web

from .bodies import form_parts
from .call import Call
from .names import escape_parameter
from .pages import Refused, text
from .places import FORBIDDEN, Found, below, labelled, placed, refreshed
from .state import StoredFile

__all__ = ["refresh_catalogs", "refresh_through_xapi"]

_OPTIONS = ("append", "checksum", "delete", "populateStats")


async def refresh_catalogs(call: Call) -> web.StreamResponse:
    """Refresh the catalogs of resources (RefreshCatalog): 200 with an empty body.

    They are named by `resource`, in the query or in fields of a form; without options all is done, digests where the
    site has them.
    """
    sources, fields = list(call.request.query.getall("resource", [])), call.params
    if call.request.content_type == "multipart/form-data":
        parts = form_parts(await call.xnat.storage.collect(call.body) or b"", call.request.headers["Content-Type"])
        sources += [part.data.decode() for part in parts if part.name == "resource"]
        fields = {**fields, **{part.name: part.data.decode() for part in parts}}
    elif call.request.content_type != "application/json":
        sources += call.form.get("resource", [])
    if not sources:
        raise Refused(400, "Please specify a resource to refresh.")
    await _refresh(call, [_resources(call, source) for source in sources], fields.get("options", ""))
    return text()


async def refresh_through_xapi(call: Call, options: str = "") -> web.StreamResponse:
    """Refresh the catalogs of a JSON array of resources (CatalogApi), for which every mistake is a 500."""
    try:
        sources = json.loads(await call.request.text())
    except json.JSONDecodeError:
        raise Refused(400, tomcat=True) from None
    if not isinstance(sources, list):
        raise Refused(400, tomcat=True)
    try:
        await _refresh(call, [_resources(call, str(source)) for source in sources], options)
    except Refused as refused:
        return text(refused.message, status=500)
    return text()


def _resources(call: Call, source: str) -> list[Found]:
    """Return the resources that a URI means: all of an object, of a session's scans too, or one."""
    parsed = placed(source)
    if parsed is None:
        raise Refused(400, f"Invalid resource URI: {source}")
    where, label = parsed
    try:
        place = refreshed(call, where)
    except Refused as refused:
        raise Refused(400, refused.message or f"Invalid resource URI: {source}") from None
    if not call.may("edit", place.project):
        raise Refused(403, FORBIDDEN)
    if not label:
        return [(one, resource) for one in below(place) for resource in one.resources.values()]
    found = labelled([place], escape_parameter(label))
    if not found:
        raise Refused(400, f"Unknown resource: {source}")
    return found[:1]


async def _refresh(call: Call, found: Iterable[Iterable[Found]], options: str) -> None:
    """Do what the options say, in whatever letters they say it (CatalogUtils.refreshResourceCatalog)."""
    chosen = {option.strip().lower() for option in options.split(",") if option.strip()}
    if not chosen:
        chosen = {option.lower() for option in _OPTIONS if option != "checksum" or call.xnat.storage.checksums}
    if unknown := chosen - {option.lower() for option in _OPTIONS}:
        raise Refused(400, f"Unknown options: {', '.join(sorted(unknown))}")
    for one in [one for ones in found for one in ones]:
        await _refresh_one(call, one, chosen)


async def _refresh_one(call: Call, found: Found, options: set[str]) -> None:
    _, resource = found
    before, checksum = resource.stats, "checksum" in options
    for name, file in list(resource.files.items()):
        present = await _measured(call, found, file, digest=checksum)
        if present is None and "delete" in options:
            del resource.files[name]
        elif present is None:
            resource.files[name] = replace(file, on_disk=False)
        else:
            # Sizes are set right in any case (CatalogUtils.updateExistingCatEntry).
            resource.files[name] = present if checksum else replace(present, digest=file.digest)
    for name, file in list(resource.uncatalogued.items()) if "append" in options else ():
        present = await _measured(call, found, file, digest=checksum)
        if present is not None:
            resource.files[name] = present if checksum else replace(present, digest=None)
        del resource.uncatalogued[name]
    resource.version += 1
    if "populatestats" in options:
        resource.recount()
    else:
        resource.told = before


async def _measured(call: Call, found: Found, file: StoredFile, *, digest: bool) -> StoredFile | None:
    """Return a file as it is on the disk; where bytes are not kept, as it was stored."""
    storage, (place, resource) = call.xnat.storage, found
    parts = place.file(resource, file.name)
    if not file.on_disk or storage.path(parts) is None:
        return file if file.on_disk else None
    measured = await storage.measure(parts, digest=digest)
    return replace(file, size=measured[0], digest=measured[1]) if measured is not None else None
