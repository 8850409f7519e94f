"""A real XNAT in place of the models: a scratch project, unique labels, and clean-up."""

import base64
import json
import secrets
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench.servers import Served


@dataclass(frozen=True, slots=True)
class Site:
    """Address, user and project."""

    url: str
    user: str
    password: str
    project: str

    def __repr__(self) -> str:
        return f"Site({self.url!r}, {self.user!r}, ..., {self.project!r})"

    @contextmanager
    def visited(self) -> Iterator[Served]:
        """Give one client a prefix of its own, and afterwards delete only what has it."""
        prefix = f"bench{secrets.token_hex(4)}-"
        served = Served(self.url, "", self.user, self.password, self.project, prefix=prefix)
        try:
            yield served
        finally:
            try:
                self.clean(prefix)
            except (RuntimeError, OSError) as error:
                served.left = f"what begins with {prefix} in project {self.project} is to be removed by hand: {error}"

    def clean(self, prefix: str) -> None:
        """Delete the prearchive rows and the subjects of the project with this prefix."""
        project = urllib.parse.quote(self.project, safe="")
        for row in self._rows(f"/data/prearchive/projects/{project}?format=json"):
            if row.get("name", "").startswith(prefix) and row.get("project") == self.project:
                self._ask("DELETE", f"/data{row['url'].removeprefix('/data')}")
        columns = "columns=ID,label&format=json"
        for row in self._rows(f"/data/projects/{project}/subjects?{columns}"):
            if row.get("label", "").startswith(prefix):
                name = urllib.parse.quote(row["label"], safe="")
                self._ask("DELETE", f"/data/projects/{project}/subjects/{name}?removeFiles=true")

    def _rows(self, path: str) -> list[Mapping[str, str]]:
        found: Any = json.loads(self._ask("GET", path) or b"{}")
        rows: list[Mapping[str, str]] = found.get("ResultSet", {}).get("Result", [])
        return rows

    def _ask(self, method: str, path: str) -> bytes:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"XNAT_HOST is no address: {self.url}")
        secret = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        request = urllib.request.Request(  # noqa: S310 - checked above
            self.url + path, method=method, headers={"Authorization": f"Basic {secret}", "User-Agent": "bench"}
        )
        try:
            with urllib.request.urlopen(request) as reply:  # noqa: S310 - checked above
                body: bytes = reply.read()
                return body
        except urllib.error.HTTPError as error:
            if method == "DELETE" and error.code == 404:
                return b""
            raise RuntimeError(f"{method} {path.partition('?')[0]}: the site answers {error.code}") from error


def from_environment(environ: Mapping[str, str], project: str) -> Site:
    """Return the site that XNAT_HOST, XNAT_USER and XNAT_PASS name. Raises ValueError when one of them is not set."""
    missing = [name for name in ("XNAT_HOST", "XNAT_USER", "XNAT_PASS") if not environ.get(name)]
    if missing:
        raise ValueError(f"--project moves to a real XNAT: set {', '.join(missing)} too")
    return Site(environ["XNAT_HOST"].rstrip("/"), environ["XNAT_USER"], environ["XNAT_PASS"], project)
