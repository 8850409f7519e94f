"""Resources: listing, creating and deleting them, and their catalogs."""

from collections.abc import Callable

from aiohttp import web

from ..site.catalogs import catalog, dicom_metadata
from ..site.names import escape_parameter
from ..site.resource_owners import ResourceOwner, create_resource, resources_named, resources_of
from ..site.resources import FileMetadata, Resource
from .addresses import FORBIDDEN, find_resources, owner_to_change, owners_to_read
from .request_context import RequestContext
from .responses import HttpError, table, text
from .uploads import metadata_from_params

_COLUMNS: dict[str, Callable[[ResourceOwner, Resource], object]] = {
    "xnat_abstractresource_id": lambda _, resource: resource.number,
    "label": lambda _, resource: resource.label,
    "element_name": lambda *_: "xnat:resourceCatalog",
    "category": lambda owner, _: owner.category,
    "cat_id": lambda owner, _: owner.id,
    "cat_desc": lambda owner, _: owner.description,
    "file_count": lambda _, resource: resource.stats[0],
    "file_size": lambda _, resource: resource.stats[1],
    "tags": lambda _, resource: ",".join(_metadata(resource).tags),
    "content": lambda _, resource: _metadata(resource).content,
    "format": lambda _, resource: _metadata(resource).format,
}


def _metadata(resource: Resource) -> FileMetadata:
    return resource.metadata or dicom_metadata(resource.label)


async def list_resources(context: RequestContext, **address: str) -> web.StreamResponse:
    """List the resources of an object; with `all`, of a session's scans too (CatalogResourceList).

    Counts and sizes are those of the database. `columns` has no effect.
    """
    owners = owners_to_read(context, address)
    if not owners:
        raise HttpError(404)
    if context.flag("all"):
        owners = [one for owner in owners for one in owner.with_scans()]
    rows = [[value(*found) for value in _COLUMNS.values()] for found in resources_of(owners)]
    return table(context.requested_format("json"), list(_COLUMNS), rows, title="Resources")


async def get_resource(context: RequestContext, label: str, **address: str) -> web.StreamResponse:
    """Return a resource's catalog, as XML in any case (CatalogResource.represent).

    A label that several scans have is a 404.
    """
    found = find_resources(context, owners_to_read(context, address), escape_parameter(label))
    if len(found) != 1:
        raise HttpError(404, "Unable to find the specified resource.")
    owner, resource = found[0]
    return web.Response(text=catalog(resource, owner.series_uid), content_type="text/xml")


async def put_resource(context: RequestContext, label: str, **address: str) -> web.StreamResponse:
    """Create a resource: 200 with an empty body; 409 if it exists (CatalogResource.handlePut)."""
    owner = owner_to_change(context, address)
    if not context.has_right("edit", owner.project):
        raise HttpError(403, FORBIDDEN)
    if "'" in label:
        raise HttpError(400, "Invalid character in resource label.")
    label = escape_parameter(label)
    if resources_named([owner], label):
        raise HttpError(409, "Specified resource already exists.")
    if context.lacks_reason:
        raise HttpError(500, "Justification required.")
    create_resource(context.site, owner, label, metadata_from_params(context.params))
    return text()


async def put_extra(context: RequestContext, **_: str) -> web.StreamResponse:
    """Refuse addresses below a resource that are not files (CatalogResource)."""
    raise HttpError(400, f"This resource works at the catalog level only: {context.path}")


async def post_resource(context: RequestContext, **address: str) -> web.StreamResponse:
    """Create a resource in a list: 200, with its address in Location (CatalogResourceList.handlePost)."""
    label = context.params.get("label", "")
    await put_resource(context, label, **address)
    number = owner_to_change(context, address).resources[label].number
    return web.Response(
        headers={"Location": f"{context.site_url}/data/{context.path}/{number}"}, content_type="text/plain"
    )


async def delete_resource(context: RequestContext, label: str, **address: str) -> web.StreamResponse:
    """Delete a resource, and with `removeFiles` its files (CatalogResource.handleDelete).

    A resource that does not exist is a 200 too.
    """
    found = find_resources(context, [owner_to_change(context, address)], escape_parameter(label))
    if not found:
        return text()
    owner, resource = found[0]
    if not context.has_right("delete", owner.project) or context.lacks_reason:
        raise HttpError(403, FORBIDDEN)
    del owner.resources[resource.label]
    if context.flag("removeFiles"):
        await context.site.storage.remove(owner.folder(resource))
    else:
        context.site.deleted_files[owner.folder(resource)] = resource.uncatalogued | resource.files
    return text()
