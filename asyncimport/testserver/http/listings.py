"""What all listings and items have in common: columns, filters, and an item as JSON, XML or HTML."""

import fnmatch
import html
import json
from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from .request_context import RequestContext
from .responses import xml


def requested_columns(query: Mapping[str, str], fields: Iterable[str], defaults: list[str]) -> list[str]:
    """Return the columns asked for, without unknown ones (QueryOrganizerResource); paths in any letter case."""
    if query.get("columns", "DEFAULT") in {"", "DEFAULT"}:
        return list(defaults)
    known = {name.lower(): name for name in fields}
    names = dict.fromkeys(
        known.get(name.rpartition("/")[2].lower(), "") if "/" in name else name for name in query["columns"].split(",")
    )
    return [name for name in names if name in known.values() and name != "URI"]


def matches(value: str, pattern: str) -> bool:
    """Apply a filter: a comma means or; `*` and `%` are wild."""
    if "*" not in pattern and "%" not in pattern:
        return value in pattern.split(",")
    return any(fnmatch.fnmatchcase(value, one.replace("%", "*").replace("[", "[[]")) for one in pattern.split(","))


def item_json(kind: str, fields: dict[str, Any], children: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an item as JSON has it, alone or inside another (ItemJSONBuilder)."""
    meta = {"xsi:type": kind, "isHistory": False, "start_date": "Thu Jan 01 10:00:00 UTC 2026"}
    return {"children": children, "meta": meta, "data_fields": fields}


def item(
    context: RequestContext, kind: str, fields: dict[str, Any], children: list[dict[str, Any]], document: str = ""
) -> web.Response:
    """Return one item, by default as HTML; its JSON has real numbers. `document` is its XML."""
    form = context.requested_format("html")
    if form == "json":
        body = json.dumps({"items": [item_json(kind, fields, children)]})
        return web.Response(text=body, content_type="application/json")
    if form == "xml":
        return xml(document or _item_xml(kind, fields, children))
    cells = "".join(f"<tr><th>{name}</th><td>{html.escape(str(value))}</td></tr>" for name, value in fields.items())
    return web.Response(text=f"<html><body><table>{cells}</table></body></html>", content_type="text/html")


def _item_xml(kind: str, fields: dict[str, Any], children: list[dict[str, Any]]) -> str:
    element = kind.removesuffix("Data")
    attributes = "".join(
        f' {name}="{html.escape(str(fields[name]))}"' for name in ("ID", "project", "label", "UID") if name in fields
    )
    values = "".join(
        f"<xnat:{name}>{html.escape(str(value))}</xnat:{name}>"
        for name, value in fields.items()
        if name not in {"ID", "project", "label", "UID"} and value != ""
    )
    inner = "".join(_item_xml("xnat:scan", one["data_fields"], []) for child in children for one in child["items"])
    inner = f"<xnat:scans>{inner}</xnat:scans>" if inner else ""
    space = "" if element == "xnat:scan" else ' xmlns:xnat="http://nrg.wustl.edu/xnat"'
    return f"<{element}{space}{attributes}>{values}{inner}</{element}>"
