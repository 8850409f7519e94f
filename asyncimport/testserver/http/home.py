"""The server's home page for people: what has arrived, pushed to browsers while it arrives. It is not part of XNAT."""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from urllib.parse import quote

import anyio
from aiohttp import web
from jinja2 import DictLoader, Environment, StrictUndefined

from ..site.projects import UNASSIGNED
from ..site.resource_owners import all_owners, resources_of
from ..site.site import Site

# A browser gets news this often at most.
_PAUSE_SECONDS = 0.5
# Without a request too, as XNAT works on after it has answered.
_PULSE_SECONDS = 2.0
_MAX_ROWS = 2_000
_UNITS = ("bytes", "kB", "MB", "GB", "TB")
_TONES = {"READY": "good", "CONFLICT": "bad", "ERROR": "bad"}
_TEMPLATES = {name: (files(__package__) / "page" / name).read_text("utf-8") for name in ("home.html", "tables.html")}
_ENVIRONMENT = Environment(
    loader=DictLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell: a text or a number; where it leads, or the tone of the state that it tells."""

    text: str
    link: str = ""
    tone: str = ""
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the page. Its last rows are shown."""

    id: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def shown(self) -> Sequence[Sequence[Cell]]:
        """The rows that a browser can show well."""
        return self.rows[-_MAX_ROWS:]


class Home:
    """The page of a site, and the browsers that show it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._browsers = 0
        self._news = anyio.Event()

    def notify(self) -> None:
        """Tell the browsers that something may have changed."""
        if self._browsers:
            news, self._news = self._news, anyio.Event()
            news.set()

    def page(self) -> web.Response:
        """Return the page as it is now."""
        nonce = secrets.token_urlsafe(16)
        text = _ENVIRONMENT.get_template("home.html").render(
            nonce=nonce, version=self._site.profile.version, received=self._received(), tables=_tables(self._site)
        )
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def push(self, request: web.BaseRequest) -> web.StreamResponse:
        """Push the tables that change, until the browser leaves."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        self._browsers += 1
        try:
            with suppress(ConnectionError):
                await self._push_changes(response)
        finally:
            self._browsers -= 1
        return response

    async def _push_changes(self, response: web.StreamResponse) -> None:
        shown: Mapping[str, str] = {}
        while True:
            news, tables = self._news, self._rendered()
            changed = {name: text for name, text in tables.items() if shown.get(name) != text}
            if changed:
                data = json.dumps({"received": self._received(), "tables": changed})
                await response.write(f"data: {data}\n\n".encode())
            else:
                # So a lost connection is noticed.
                await response.write(b":\n\n")
            shown = tables
            await anyio.sleep(_PAUSE_SECONDS)
            with anyio.move_on_after(_PULSE_SECONDS):
                await news.wait()

    def _received(self) -> str:
        count = len(self._site.imports)
        return f"{count:,} file{'' if count == 1 else 's'} received."

    def _rendered(self) -> Mapping[str, str]:
        template = _ENVIRONMENT.get_template("tables.html")
        return {table.id: template.render(tables=[table]) for table in _tables(self._site)}


def _tables(site: Site) -> Iterator[Table]:
    projects = [(Cell(one.id, f"data/projects/{_part(one.id)}"), Cell(one.name), _number(one.prearchive_code))
                for one in site.projects.values()]  # fmt: skip
    yield Table("projects", "Projects", ("Project", "Name", "Prearchive code"), projects)
    columns: Sequence[str] = ("Project", "Subject", "Session", "Status", "Files", "Size")
    yield Table("prearchive", "Prearchive", columns, list(_rows(site)))
    columns = ("Project", "Subject", "Session", "State", "Modality", "Scans", "Files", "Size")
    yield Table("archive", "Archive", columns, list(_sessions(site)))
    yield Table("subjects", "Subjects", ("Project", "Subject", "ID", "Demographics"), list(_subjects(site)))
    uploaded = [
        (Cell(owner.project), Cell(owner.uri), Cell(resource.label), _number(len(resource.files)), _size(resource.size))
        for owner, resource in resources_of(all_owners(site))
        if resource.metadata is not None
    ]
    yield Table("uploaded", "Uploaded resources", ("Project", "Of", "Resource", "Files", "Size"), uploaded)


def _rows(site: Site) -> Iterator[Sequence[Cell]]:
    for row in site.prearchive:
        status = row.status.value
        yield (
            Cell(row.project or UNASSIGNED),
            Cell(row.subject),
            Cell(row.name, quote(f"data{row.uri}") + "?format=json"),
            Cell(status, tone=_TONES.get(status, "busy")),
            _number(sum(map(len, row.scans.values()))),
            _size(sum(file.size for file in row.files)),
        )


def _sessions(site: Site) -> Iterator[Sequence[Cell]]:
    for session in site.archived:
        stored = list(session.files)
        cut = sum(not file.complete for file in stored)
        state = Cell(f"{cut:,} cut file{'' if cut == 1 else 's'}", tone="bad") if cut else Cell("archived", tone="good")
        yield (
            Cell(session.project),
            Cell(session.subject.label),
            Cell(session.label, f"data/experiments/{_part(session.id)}"),
            state,
            Cell(", ".join(sorted({scan.series.modality for scan in session.scans.values()}))),
            _number(len(session.scans)),
            _number(len(stored)),
            _size(sum(file.size for file in stored)),
        )


def _subjects(site: Site) -> Iterator[Sequence[Cell]]:
    for subject in site.subjects():
        told = ", ".join(f"{name} {value}" for name, value in subject.demographics.items())
        yield (
            Cell(subject.project),
            Cell(subject.label, f"data/subjects/{_part(subject.id)}"),
            Cell(subject.id),
            Cell(told),
        )


def _part(text: str) -> str:
    return quote(text, safe="")


def _number(count: int) -> Cell:
    return Cell(f"{count:,}", is_number=True)


def _size(count: int) -> Cell:
    """Return a number of bytes for people, with SI units."""
    size, unit = float(count), 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return Cell(f"{size:.0f} {_UNITS[unit]}" if unit == 0 else f"{size:.1f} {_UNITS[unit]}", is_number=True)
