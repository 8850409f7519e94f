"""The documentation as a site: it is built without a warning, has every page, and needs no network to be read."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("furo", reason="pip install '.[docs]'")

pytestmark = pytest.mark.thorough

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as a reader of docs/contributing.md does."""
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", str(DOCS), str(place)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return place


def links(page: Path) -> set[str]:
    """Return what a page links to, without anchors."""
    return {link.partition("#")[0] for link in re.findall(r'href="([^"]*)"', page.read_text("utf-8"))}


def test_the_menu_has_every_page(site: Path) -> None:
    """The home page, which is the README, leads to each page of docs, in a heading of its own words."""
    home = site / "index.html"
    assert "<h1>asyncimport" in home.read_text("utf-8")
    assert {f"{page.stem}.html" for page in DOCS.glob("*.md") if page.stem != "index"} <= links(home)


def test_links_lead_to_files_of_the_site(site: Path) -> None:
    """Also those that leave docs in the repository: to changes and benchmark, which are pages, and to tests."""
    home = site / "index.html"
    assert {"changes.html", "benchmark.html"} <= links(home)
    assert any(link.endswith("/test_kills.py") for link in links(home))
    for page in site.glob("*.html"):
        local = {link for link in links(page) if link and not re.match(r"(?:https?|data|mailto):", link)}
        assert [link for link in sorted(local) if not (site / link.partition("?")[0]).exists()] == [], page.name


def test_pages_need_no_network(site: Path) -> None:
    """No script, style, font or image comes from another server."""
    texts = {page.name: page.read_text("utf-8") for page in [*site.glob("*.html"), *site.rglob("*.css")]}
    assert len(texts) > 30
    foreign = re.compile(r"""(?:<(?:script|img|iframe)[^>]*\ssrc="|<link[^>]*\shref="|url\(["']?)(?:https?:)?//""")
    assert [name for name, text in texts.items() if foreign.search(text)] == []


def test_every_image_has_a_text(site: Path) -> None:
    """For readers who do not see it."""
    images = [image for page in site.glob("*.html") for image in re.findall(r"<img[^>]*>", page.read_text("utf-8"))]
    assert images
    assert [image for image in images if not re.search(r'alt="[^"]{20,}"', image)] == []
