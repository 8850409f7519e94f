"""Makes HTML of the content of a page. Whatever the texts hold, they stay texts."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from asyncimport.model.texts import plain
from asyncimport.reporting.page.content import TONES, Page, SessionRow, chart_columns
from asyncimport.reporting.progress import human_bytes, human_rate

PARTS = ("head", "tiles", "causes", "workers", "about")
"""The parts of the page that change while a run goes on: each a template, and the id of an element."""
# No text that a person reads is as long. A hostile header may be.
_MAX_TEXT = 600
_PLAIN = re.compile(r"[\w/.-]*", re.ASCII)


def shown(text: str) -> str:
    """Return a text as the page shows it: control characters and those that turn text around are escaped."""
    text = plain(text)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}… ({len(text):,} characters)"


def render_page(page: Page) -> str:
    """Return the whole page: it needs nothing but itself, and a browser runs no other script in it."""
    sources = {kind: " ".join(map(_hash, texts)) for kind, texts in _parts().items()}
    policy = (
        f"default-src 'none'; script-src {sources['script']}; style-src {sources['style']}; img-src data:; "
        f"connect-src {chr(39)}{'self' if page.is_live else 'none'}{chr(39)}; base-uri 'none'; form-action 'none'"
    )
    return (
        _environment()
        .get_template("page.html")
        .render(
            page=page,
            policy=policy,
            scripts=[Markup(text) for text in _parts()["script"]],  # noqa: S704 - our own files
            styles=[Markup(text) for text in _parts()["style"]],  # noqa: S704 - our own files
            data=Markup(_json(page_data(page))),  # noqa: S704 - escaped there
        )
    )


def page_data(page: Page) -> dict[str, Any]:
    """Return what the script of the page shows: the rows of the sessions, and the columns of the charts."""
    rows = enumerate(page.sessions)
    return {
        "live": page.is_live,
        "changes": page.changes,
        "host": page.host,
        "tones": TONES,
        "rows": session_data(rows, page.host),
        "charts": chart_columns(page.charts),
    }


def session_data(rows: Iterable[tuple[int, SessionRow]], host: str) -> list[list[Any]]:
    """Return numbered rows of the table as the script reads them."""
    return [
        [
            number,
            *map(shown, (one.session, one.subject, one.project, one.date, one.modalities)),
            one.scans,
            one.files,
            one.size,
            *map(shown, (one.state, one.verified, one.reason, one.study_uid)),
            _link_data(host, one),
        ]
        for number, one in rows
    ]


def _link_data(host: str, row: SessionRow) -> str | int:
    """Return the link of a row; 1 for that of its labels, which the script makes of them, as most are."""
    usual = f"/data/archive/projects/{row.project}/subjects/{row.subject}/experiments/{row.session}"
    found = link(host, row.uri)
    return 1 if found and row.uri == usual and _PLAIN.fullmatch(usual) else found


def parts_of(page: Page) -> Mapping[str, str]:
    """Return the parts of the page that change while a run goes on, as HTML, by the id of their element."""
    environment = _environment()
    return {name: environment.get_template(f"{name}.html").render(page=page) for name in PARTS}


def link(host: str, uri: str) -> str:
    """Return the address of a page of XNAT, "" if there is none. Only an http address is one."""
    if not host or not uri.startswith("/") or urlsplit(host).scheme not in {"http", "https"}:
        return ""
    return f"{host}{quote(uri, safe='/', errors='replace')}?format=html"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("asyncimport.reporting.page"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": shown, "bytes": human_bytes, "rate": human_rate}
    return environment


@cache
def _parts() -> Mapping[str, Sequence[str]]:
    folder = files("asyncimport.reporting.page") / "static"
    names = {"script": ("uplot.js", "page.js"), "style": ("uplot.css", "page.css")}
    return {kind: [(folder / name).read_text("utf-8") for name in some] for kind, some in names.items()}


def _hash(text: str) -> str:
    """Return the hash of a script or style, by which a browser knows that it is ours."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(value: object) -> str:
    """Return JSON that cannot end the element that it is in."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
