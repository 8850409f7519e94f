"""The user's cache: files that a user puts there, for example to import them later (UserCacheResource)."""

from aiohttp import web

from .bodies import form_parts
from .request_context import RequestContext
from .responses import HttpError, table, text

_MISSING = "User directory not found or is not a directory."


async def put_cached(context: RequestContext, resource: str, name: str = "") -> web.StreamResponse:
    """Create a resource, or store a file in one: 200 with an empty body. Without `inbody`, the body is a form."""
    cache = context.site.user_cache.setdefault(context.user.name, {})
    if not name:
        if resource in cache:
            raise HttpError(412, "Resource with this name already exists.")
        cache[resource] = {}
        return text()
    body = await context.site.storage.collect(context.body)
    if body is None:
        raise HttpError(500)
    if context.flag("inbody"):
        cache.setdefault(resource, {})[name] = body
        return text()
    parts = [part for part in form_parts(body, context.request.headers.get("Content-Type", "")) if part.filename]
    if not parts:
        raise HttpError(500)
    cache.setdefault(resource, {})[name] = parts[-1].data  # XNAT writes all of them to the one name
    return text()


async def post_cached(context: RequestContext, **_: str) -> web.StreamResponse:  # noqa: ARG001
    """Refuse a POST: XNAT takes any for one that names a file."""
    raise HttpError(400, "Please use HTTP PUT request to specify a file name in the URL.")


async def get_cached(context: RequestContext, resource: str = "", name: str = "") -> web.StreamResponse:
    """List the files of a resource.

    In the version that was read, a test whether the address names a file is the wrong way round
    (UserCacheResource._hasPFile): the address of a file lists its resource, that of a resource is a 404, and that of
    the cache is an empty reply.
    """
    if not resource:
        return text()
    found = context.site.user_cache.get(context.user.name, {}).get(resource)
    if not name or found is None:
        raise HttpError(404, _MISSING)
    prefix = f"/data/user/cache/resources/{resource}/files"
    rows = [(one, len(data), f"{prefix}/{one}") for one, data in found.items()]
    return table(context.requested_format("json"), ("Name", "Size", "URI"), rows)


async def delete_cached(context: RequestContext, resource: str, name: str = "") -> web.StreamResponse:
    """Delete a resource: for the same reason, at the address of any of its files."""
    cache = context.site.user_cache.get(context.user.name, {})
    if not name:
        raise HttpError(404, "No matching files found.")
    if cache.pop(resource, None) is None:
        raise HttpError(404, _MISSING)
    return text()
