"""The documentation as a site: `sphinx-build -W docs OUT`, after `pip install '.[docs]'`.

The pages are Markdown with links that work in the repository. Links that leave this folder are changed here.
"""

import os
import re
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

DOCS = Path(__file__).parent
# Pages that have the text of a file elsewhere before their own.
TEXTS = {
    "index": DOCS.parent / "README.md",
    "changes": DOCS.parent / "CHANGELOG.md",
    "benchmark": DOCS.parent / "bench" / "README.md",
}
PAGES = {text: DOCS / f"{name}.md" for name, text in TEXTS.items()}
LINK = re.compile(r"(!?\[(?:[^][]|\[[^][]*\])*\]\()(?!https?://|#)([^)#\s]+)")

project = "asyncimport"
html_title = "asyncimport"
html_theme = "furo"
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["tables.css"]
html_show_copyright = False
extensions = ["myst_parser"]
myst_heading_anchors = 4


def as_page(text: str, folder: Path) -> str:
    """Return the Markdown of a file in `folder` with the links of a page; files that are no pages are downloads."""

    def changed(link: re.Match[str]) -> str:
        start, address = link.groups()
        target = (folder / address).resolve()
        target = PAGES.get(target, target)
        scheme = "path:" if target.parent != DOCS and not start.startswith("!") else ""
        return f"{start}{scheme}{Path(os.path.relpath(target, DOCS)).as_posix()}"

    return LINK.sub(changed, text)


def read_page(_app: Sphinx, name: str, source: list[str]) -> None:
    """Change the text of a page before it is parsed."""
    source[0] = as_page(source[0], DOCS)
    if name in TEXTS:
        source[0] = (
            f"{as_page(TEXTS[name].read_text('utf-8'), TEXTS[name].parent)}\n{source[0].partition('<!-- -->')[2]}"
        )


def setup(app: Sphinx) -> None:
    """Connect what is above."""
    app.add_lexer("csv", TextLexer)
    app.connect("source-read", read_page)
