"""Resources themselves: their lists, their catalogs, making and deleting them."""

from aiohttp import web

from .call import Call
from .catalogs import catalog, imported
from .names import escape_parameter
from .pages import Refused, table, text, wanted, xml
from .places import FORBIDDEN, Found, below, labelled, made, numbered, read, written
from .uploads import described

__all__ = ["delete_resource", "get_resource", "list_resources", "post_resource", "put_extra", "put_resource"]

_COLUMNS = (
    "xnat_abstractresource_id",
    "label",
    "element_name",
    "category",
    "cat_id",
    "cat_desc",
    "file_count",
    "file_size",
    "tags",
    "content",
    "format",
)


async def list_resources(call: Call, **where: str) -> web.StreamResponse:
    """List the resources of an object; with `all`, of a session's scans too (CatalogResourceList).

    Counts and sizes are the database's.
    """
    places = read(call, where)
    if not places:
        raise Refused(404)
    if call.flag("all"):
        places = [one for place in places for one in below(place)]
    columns = list(_COLUMNS)
    if "columns" in call.query:
        columns = [name for name in call.query["columns"].split(",") if name in _COLUMNS] or columns
    rows = []
    for place in places:
        for resource in place.resources.values():
            values = _values((place, resource))
            rows.append([values[name] for name in columns])
    return table(wanted(call.request, call.query, "json"), columns, rows, title="Resources")


def _values(found: Found) -> dict[str, object]:
    place, resource = found
    count, size = resource.stats
    said = resource.said or imported(resource.label)
    return {
        "xnat_abstractresource_id": resource.number,
        "label": resource.label,
        "element_name": "xnat:resourceCatalog",
        "category": place.category,
        "cat_id": place.id,
        "cat_desc": place.description,
        "file_count": count,
        "file_size": size,
        "tags": ",".join(said.tags),
        "content": said.content,
        "format": said.format,
    }


async def get_resource(call: Call, label: str, **where: str) -> web.StreamResponse:
    """Return a resource's catalog, as XML whatever is asked for (CatalogResource.represent).

    A label that several scans have is a 404.
    """
    found = numbered(call, read(call, where), escape_parameter(label))
    if len(found) != 1:
        raise Refused(404, "Unable to find the specified resource.")
    return xml(catalog(*found[0]))


async def put_resource(call: Call, label: str, **where: str) -> web.StreamResponse:
    """Make a resource: 200 with an empty body; 409 where it is there (CatalogResource.handlePut)."""
    place = written(call, where)
    if not call.may("edit", place.project):
        raise Refused(403, FORBIDDEN)
    if "'" in label:
        raise Refused(400, "Invalid character in resource label.")
    label = escape_parameter(label)
    if labelled([place], label):
        raise Refused(409, "Specified resource already exists.")
    if call.lacks_reason:
        raise Refused(500, "Justification required.")
    made(call.xnat, place, label, described(call.params))
    return text()


async def put_extra(call: Call, **_: str) -> web.StreamResponse:
    """Refuse whatever is below a resource and not its files."""
    raise Refused(400, f"This resource works at the catalog level only: {call.path}")


async def post_resource(call: Call, **where: str) -> web.StreamResponse:
    """Make a resource in a list: 200, and where it is (CatalogResourceList.handlePost)."""
    label = call.params.get("label", "")
    await put_resource(call, label, **where)
    number = written(call, where).resources[label].number
    return web.Response(headers={"Location": f"{call.site_url}/data/{call.path}/{number}"}, content_type="text/plain")


async def delete_resource(call: Call, label: str, **where: str) -> web.StreamResponse:
    """Delete a resource, and its files where that is asked for (CatalogResource.handleDelete).

    One that is not there is gone: 200.
    """
    found = numbered(call, [written(call, where)], escape_parameter(label))
    if not found:
        return text()
    place, resource = found[0]
    if not call.may("delete", place.project) or call.lacks_reason:
        raise Refused(403, FORBIDDEN)
    del place.resources[resource.label]
    if call.flag("removeFiles"):
        await call.xnat.storage.remove(place.folder(resource))
    else:
        call.xnat.remains[place.folder(resource)] = resource.uncatalogued | resource.files
    return text()
