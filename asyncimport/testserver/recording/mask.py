"""Takes secrets and names out of exchanges.

Each value gets a placeholder by its kind and the order of its first appearance: the first project is `{project:1}`, and
remains it. So two servers that answer alike give the same text, whatever their projects are called. What is not known
to be harmless is masked: a text of a listing becomes `{text}`, unless its column is in `_OPEN_KEYS`.
"""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from defusedxml.ElementTree import ParseError, fromstring

_PATH_PARTS = re.compile(r"(?<=/)(projects|subjects|experiments|scans|users?|resources)/([^/?&#\s]+)")
_KINDS = {
    "projects": "project",
    "subjects": "subject",
    "experiments": "session",
    "scans": "scan",
    "user": "user",
    "users": "user",
    "resources": "resource",
}
_PREARCHIVED = re.compile(r"/prearchive/projects/[^/]+/[^/]+/([^/?&#\s]+)")
_FILE = re.compile(r"(?<=/files/)([^?&#\s]+)")
_PARAMETERS = {
    "PROJECT_ID": "project",
    "project": "project",
    "newProject": "project",
    "SUBJECT_ID": "subject",
    "subject": "subject",
    "EXPT_LABEL": "session",
    "session": "session",
    "label": "session",
    "username": "user",
    "dob": "date",
    "yob": "year",
}
_SECRETS = frozenset({"password", "secret", "token", "alias"})
_PATHS = frozenset({"src", "dest", "resource"})
_OPEN_PARAMETERS = frozenset(
    [
        "import-handler",
        "inbody",
        "rename",
        "format",
        "action",
        "overwrite",
        "columns",
        "all",
        "extract",
        "removeFiles",
        "xsiType",
        "req_format",
        "AA",
        "auto-archive",
        "prevent_auto_commit",
        "prevent_anon",
        "SOURCE",
        "Direct-Archive",
        "Ignore-Unparsable",
        "async",
        "quarantine",
        "CSRF",
        "triggerPipelines",
        "options",
        "contents",
        "permissions",
        "dataType",
        "restrict",
        "accept-not-found",
        "recursive",
        "gender",
        "handedness",
    ]
)
_OPEN_KEYS = frozenset(
    [
        "status",
        "autoarchive",
        "prevent_anon",
        "prevent_auto_commit",
        "SOURCE",
        "xsiType",
        "element_name",
        "category",
        "format",
        "content",
        "file_format",
        "file_content",
        "file_count",
        "totalRecords",
        "title",
        "modality",
        "quality",
        "code",
        "serverRoot",
        "key",
        "xsi:type",
        "isHistory",
        "field",
        "duplicates",
        "enabled",
        "mode",
    ]
)
_ADDRESS_WORDS = frozenset(
    [
        "",
        "data",
        "REST",
        "archive",
        "prearchive",
        "projects",
        "subjects",
        "experiments",
        "scans",
        "resources",
        "files",
        "Unassigned",
    ]
)
_PATTERNS = (
    ("login", re.compile(r"\b[0-9A-F]{32}\b")),
    ("uuid", re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")),
    ("stamp", re.compile(r"\b\d{8}_\d{9}\b")),
    ("uid", re.compile(r"\b[0-2](?:\.\d+){4,}\b")),
    ("accession", re.compile(r"\b\w+_[SE]\d{5,}\b")),
    ("version", re.compile(r"\b1\.\d+(?:\.\d+)+(?:-\w+)?\b")),
)
_TIME = re.compile(r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?")
_PLACEHOLDER = re.compile(r"\{([a-z]+):(\d+)\}")
_OPEN_NAMES = frozenset({"ALL", "DICOM", "SNAPSHOTS", "secondary"})
_SHORTEST = 2
"""Values of one character are masked only where they stand by themselves."""


class Mask:
    """Placeholders for the values of one conversation."""

    def __init__(self, base_url: str = "") -> None:
        self._base_url = base_url
        self._placeholders: dict[str, str] = {}
        self._values: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def learn(self, kind: str, value: str) -> str:
        """Return the placeholder of a value, a new one if it has none."""
        if value and value not in self._placeholders:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            placeholder = f"{{{kind}:{self._counts[kind]}}}"
            self._placeholders[value], self._values[placeholder] = placeholder, value
        return self._placeholders.get(value, "")

    def hide(self, secret: str) -> None:
        """Take a secret out of everything that comes."""
        if secret:
            self._placeholders.setdefault(secret, "{secret}")

    def path(self, path: str) -> str:
        """Return an address without the names in it."""
        for part, name in _PATH_PARTS.findall(path):
            if name not in _OPEN_NAMES:
                self.learn(_KINDS[part], unquote(name))
        for name in _PREARCHIVED.findall(path):
            self.learn("session", unquote(name))
        for name in _FILE.findall(path):
            self.learn("file", unquote(name))
        return self.text(unquote(path))

    def parameter(self, name: str, value: str) -> str:
        """Return the value of a parameter, masked unless it is known to be harmless."""
        key = name.rpartition("/")[2]
        if key in _SECRETS:
            self.hide(value)
            return "{secret}"
        if name in _PATHS:
            return self.path(value)
        if key in _PARAMETERS:
            return ",".join(self._pattern(_PARAMETERS[key], one) for one in value.split(","))
        return value if key in _OPEN_PARAMETERS else self.learn("value", value)

    def _pattern(self, kind: str, value: str) -> str:
        """Return a value of a filter, which may begin or end with a wildcard."""
        name = value.strip("*%")
        return value.replace(name, self.learn(kind, name)) if name else value

    def text(self, text: str) -> str:
        """Return a text with all values that are known, and those that have a known form, masked."""
        if self._base_url:
            text = text.replace(self._base_url, "{host}")
        for value in sorted(self._placeholders, key=len, reverse=True):
            if len(value) >= _SHORTEST:
                text = re.sub(rf"(?<![\w.]){re.escape(value)}(?!\w)", self._placeholders[value], text)
        # Not numbered: whether two moments are the same is chance.
        text = _TIME.sub("{time}", text)
        for kind, pattern in _PATTERNS:
            text = pattern.sub(lambda match, kind=kind: self.learn(kind, match[0]), text)  # type: ignore[misc]
        return text

    def body(self, media_type: str, body: str) -> object:
        """Return the body of a reply: JSON and XML by their shape, an error page by its title and message."""
        if media_type == "application/json" or body[:1] in {"{", "["}:
            try:
                return self._json(json.loads(body), "")
            except ValueError:
                return "{text}"
        if body.lstrip().startswith("<?xml") or media_type == "text/xml":
            try:
                return self._element(fromstring(body))
            except ParseError:
                return "{text}"
        if media_type == "text/html":
            found = re.findall(r"<(?:title|h1|h3)>(.*?)</", body, re.DOTALL)
            return [self.text(one.strip()) for one in found]
        if media_type == "text/csv":
            head, *rows = body.splitlines() or [""]
            return [head, len(rows)]
        return self.text(body)

    def fill(self, text: str) -> str:
        """Return a text with the values of its placeholders; one that has no value yet gets a made-up one."""
        return _PLACEHOLDER.sub(lambda match: self._value_of(match[0], match[1], match[2]), text)

    def bind(self, placeholder: str, value: str) -> None:
        """Give a placeholder its value."""
        self._placeholders[value], self._values[placeholder] = placeholder, value
        kind, number = placeholder.strip("{}").split(":")
        self._counts[kind] = max(self._counts.get(kind, 0), int(number))

    def _value_of(self, placeholder: str, kind: str, number: str) -> str:
        if placeholder not in self._values:
            made_up = {
                "date": "1970-01-01",
                "year": "1970",
                "uid": f"1.2.826.0.1.{number}",
                "scan": number,
                "file": f"file{number}.txt",
            }
            self.bind(placeholder, made_up.get(kind, f"{kind}{number}"))
        return self._values[placeholder]

    def _json(self, value: Any, key: str) -> object:
        if isinstance(value, dict):
            return {name: self._json(one, name) for name, one in sorted(value.items())}
        if isinstance(value, list):
            return [self._json(one, key) for one in value]
        if isinstance(value, str) and value:
            if value.startswith("/"):
                return self._address(value)
            masked = self.text(value)
            return masked if key in _OPEN_KEYS or _PLACEHOLDER.fullmatch(masked) else "{text}"
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value if key in _OPEN_KEYS else "{number}"
        return value

    def _address(self, value: str) -> str:
        """Return an address in a reply: the words of XNAT's addresses, and placeholders."""
        parts = self.path(value).split("/")
        known = (part in _ADDRESS_WORDS | _OPEN_NAMES or _PLACEHOLDER.fullmatch(part) for part in parts)
        return "/".join(part if is_known else "{text}" for part, is_known in zip(parts, known, strict=True))

    def _element(self, element: Any) -> object:
        attributes = {name: self._json(value, name) for name, value in sorted(element.attrib.items())}
        return [element.tag, attributes, [self._element(child) for child in element]]


def mask_cookies(headers: Mapping[str, str], values: list[str]) -> dict[str, object]:
    """Return what a recording keeps of a reply's headers: the names of cookies, the scheme of a challenge."""
    kept: dict[str, object] = {"Set-Cookie": sorted(value.partition("=")[0] for value in values)}
    if challenge := headers.get("WWW-Authenticate"):
        kept["WWW-Authenticate"] = challenge.partition(" ")[0]
    if allow := headers.get("Allow"):
        kept["Allow"] = sorted(allow.replace(" ", "").split(","))
    return {name: value for name, value in kept.items() if value}
