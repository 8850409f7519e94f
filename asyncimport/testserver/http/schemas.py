"""The data types of the site: their XML schema, and the list of those that can be searched."""

from functools import cache
from importlib.resources import files

from aiohttp import web
from anyio import to_thread

from ..site.item_values import SCAN_TYPES, SESSION_TYPES
from .request_context import RequestContext
from .responses import HttpError, table

_SCHEMA = "xnat"
_DESCRIPTIONS = {
    "xnat:projectData": ("Project", "Projects"),
    "xnat:subjectData": ("Subject", "Subjects"),
    "xnat:imageScanData": ("Scan", "Scans"),
}


async def schemas(context: RequestContext) -> web.StreamResponse:  # noqa: ARG001 - every handler has a context
    """List the names of the schemas (SchemaApi); XNAT has others too, of types that a test server lacks."""
    return web.json_response([_SCHEMA])


async def schema(context: RequestContext, name: str) -> web.StreamResponse:  # noqa: ARG001
    """Return a schema (SchemaApi): `NAME`, or `NAMESPACE/NAME` where they differ."""
    if name not in {_SCHEMA, f"{_SCHEMA}/{_SCHEMA}"}:
        namespace, _, last = name.rpartition("/")
        raise HttpError(404, f"classpath:schemas/{namespace or last}/{last}.xsd")
    return web.Response(text=await to_thread.run_sync(_document), content_type="application/xml")


@cache
def _document() -> str:
    """Return the schema with the types of sessions and scans that the server takes."""
    text = files(__package__).joinpath("xnat.xsd").read_text()
    types = [(one, "imageSessionData") for one in SESSION_TYPES.values()]
    types += [(one, "imageScanData") for one in SCAN_TYPES.values()]
    added = []
    for name, parent in types:
        plain = name.removeprefix("xnat:")
        if f'name="{plain}"' in text:
            continue
        element = plain.removesuffix("Data")
        added.append(
            f'  <xs:element name="{element[0].upper()}{element[1:]}" type="{name}"/>\n'
            f'  <xs:complexType name="{plain}">\n    <xs:complexContent>\n'
            f'      <xs:extension base="xnat:{parent}"/>\n    </xs:complexContent>\n  </xs:complexType>\n'
        )
    return text.replace("</xs:schema>", "".join(added) + "</xs:schema>")


async def search_elements(context: RequestContext) -> web.StreamResponse:
    """List the types that can be searched, with their number of items (SearchElementListResource).

    With `readable`, the items that the user may read are counted; with `used`, types without items are left out.
    """
    readable = "readable" in context.query
    counts = dict.fromkeys(("xnat:projectData", "xnat:subjectData", "xnat:imageScanData", *SESSION_TYPES.values()), 0)
    for project in context.site.projects.values():
        counts["xnat:projectData"] += not readable or context.allows(project, "read")
    for subject in context.site.subjects():
        counts["xnat:subjectData"] += not readable or context.has_right("read", subject.project)
    for session in context.site.archived:
        if not readable or context.has_right("read", session.project):
            counts[session.xsi_type] = counts.get(session.xsi_type, 0) + 1
            counts["xnat:imageScanData"] += len(session.scans)
    rows = []
    for name, count in counts.items():
        session_name = name.removeprefix("xnat:").removesuffix("SessionData").upper()
        names = _DESCRIPTIONS.get(name, (f"{session_name} Session", f"{session_name} Sessions"))
        if count or "used" not in context.query:
            rows.append((name, *names, str(name != "xnat:imageScanData").lower(), count))
    columns = ("ELEMENT_NAME", "SINGULAR", "PLURAL", "SECURED", "COUNT")
    return table(context.requested_format("json"), columns, rows, title="Data-Types")


async def search_fields(context: RequestContext, name: str) -> web.StreamResponse:
    """List the fields of a type that a search can show (SearchFieldListResource): here, the same few for all."""
    if name not in {*_DESCRIPTIONS, *SESSION_TYPES.values()}:
        raise HttpError(400)
    columns = ("FIELD_ID", "HEADER", "SUMMARY", "TYPE", "REQUIRES_VALUE", "DESC", "ELEMENT_NAME", "SRC")
    fields = (
        ("PROJECT", "Project", "string"),
        ("INSERT_DATE", "Inserted", "date"),
        ("INSERT_USER", "Creator", "string"),
    )
    rows = [(field, header, header, kind, "false", header, name, "0") for field, header, kind in fields]
    return table(context.requested_format("json"), columns, rows)


async def search(context: RequestContext) -> web.StreamResponse:
    """Refuse a search by an XML document (SearchResource)."""
    raise HttpError(501, f"Searches are not part of this test server: {context.path}")
