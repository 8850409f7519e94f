"""Catalog refreshes: they bring entries, digests and the counts of the database in line with the disk."""

import json
from collections.abc import Iterable
from dataclasses import replace

from aiohttp import web

from ..site.names import escape_parameter
from ..site.resource_owners import OwnedResource, resources_named, resources_of
from ..site.resources import StoredFile
from .addresses import FORBIDDEN, owner_to_change, parse_resource_uri, session_of_uri
from .bodies import form_parts
from .request_context import RequestContext
from .responses import HttpError, text

_OPTIONS = ("append", "checksum", "delete", "populateStats")


async def refresh_catalogs(context: RequestContext) -> web.StreamResponse:
    """Refresh the catalogs of resources (RefreshCatalog): 200 with an empty body.

    `resource` names them, in the query or in the fields of a form. Without options everything is done, digests only if
    the site has checksums.
    """
    sources, fields = list(context.request.query.getall("resource", [])), context.params
    if context.request.content_type == "multipart/form-data":
        parts = form_parts(
            await context.site.storage.collect(context.body) or b"", context.request.headers["Content-Type"]
        )
        sources += [part.text for part in parts if part.name == "resource"]
        fields = {**fields, **{part.name: part.text for part in parts}}
    elif context.request.content_type != "application/json":
        sources += context.form.get("resource", [])
    if not sources:
        raise HttpError(400, "Please specify a resource to refresh.")
    await _refresh(context, [_resources(context, source) for source in sources], fields.get("options", ""))
    return text()


async def refresh_through_xapi(context: RequestContext, options: str = "") -> web.StreamResponse:
    """Refresh the catalogs of a JSON array of resources (CatalogApi); every mistake in it is a 500."""
    try:
        sources = json.loads(await context.request.read())
    except ValueError:
        raise HttpError(400, tomcat=True) from None
    if not isinstance(sources, list):
        raise HttpError(400, tomcat=True)
    try:
        await _refresh(context, [_resources(context, str(source)) for source in sources], options)
    except HttpError as error:
        return text(error.message, status=500)
    return text()


def _resources(context: RequestContext, source: str) -> list[OwnedResource]:
    """Return the resources that a URI means: one, or all of an owner, for a session those of its scans too."""
    parsed = parse_resource_uri(source)
    if parsed is None:
        raise HttpError(400, f"Invalid resource URI: {source}")
    address, label = parsed
    try:
        owner = owner_to_change(context, address, session_of_uri)
    except HttpError as error:
        raise HttpError(400, error.message or f"Invalid resource URI: {source}") from None
    if not context.has_right("edit", owner.project):
        raise HttpError(403, FORBIDDEN)
    if not label:
        return resources_of(owner.with_scans())
    found = resources_named([owner], escape_parameter(label))
    if not found:
        raise HttpError(400, f"Unknown resource: {source}")
    return found[:1]


async def _refresh(context: RequestContext, found: Iterable[Iterable[OwnedResource]], options: str) -> None:
    """Do what the options say, whatever their letter case (CatalogUtils.refreshResourceCatalog)."""
    chosen = {option.strip().lower() for option in options.split(",") if option.strip()}
    if not chosen:
        chosen = {option.lower() for option in _OPTIONS if option != "checksum" or context.site.storage.checksums}
    if unknown := chosen - {option.lower() for option in _OPTIONS}:
        raise HttpError(400, f"Unknown options: {', '.join(sorted(unknown))}")
    for one in [one for ones in found for one in ones]:
        await _refresh_one(context, one, chosen)


async def _refresh_one(context: RequestContext, found: OwnedResource, options: set[str]) -> None:
    _, resource = found
    before, checksum = resource.stats, "checksum" in options
    for name, file in list(resource.files.items()):
        present = await _measure(context, found, file, digest=checksum)
        if present is None and "delete" in options:
            del resource.files[name]
        elif present is None:
            resource.files[name] = replace(file, on_disk=False)
        else:
            # Sizes are corrected in any case (CatalogUtils.updateExistingCatEntry).
            resource.files[name] = present if checksum else replace(present, digest=file.digest)
    for name, file in list(resource.uncatalogued.items()) if "append" in options else ():
        present = await _measure(context, found, file, digest=checksum)
        if present is not None:
            resource.files[name] = present if checksum else replace(present, digest=None)
        del resource.uncatalogued[name]
    resource.version += 1
    if "populatestats" in options:
        resource.recount()
    else:
        resource.reported_stats = before


async def _measure(
    context: RequestContext, found: OwnedResource, file: StoredFile, *, digest: bool
) -> StoredFile | None:
    """Return a file as it is on the disk, or None; if bytes are not kept, as it was stored."""
    storage, (owner, resource) = context.site.storage, found
    parts = owner.file(resource, file.name)
    if not file.on_disk or storage.path(parts) is None:
        return file if file.on_disk else None
    measured = await storage.measure(parts, digest=digest)
    return replace(file, size=measured[0], digest=measured[1]) if measured is not None else None
