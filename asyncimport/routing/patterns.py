"""Patterns that values of headers and paths are matched with: a match that takes too long is given up.

Whoever writes a header chooses the text that somebody's pattern meets, and some patterns take exponential time on some
texts: `(a+)+b` on a row of `a`. The `regex` library understands Python's patterns, look-around and back references too,
and stops when its time is up; `re` cannot be stopped.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import regex

LONGEST_VALUE = 10_240  # characters: DICOM has no longer text for what labels are made of (LT, PS3.5 6.2)
# CPU time of the process. Patterns in earnest take some microseconds.
_MOST_SECONDS = 0.25
_MOST_REMEMBERED = 1_000
# What `re` takes for a brace as such, and `regex` for the beginning of something of its own.
_LITERAL_BRACE = re.compile(r"\\N\{[^}]*\}|\\.|\{(?![0-9]*,?[0-9]*\})", re.DOTALL)


class SlowMatchError(Exception):
    """Whether the text matches was not found out in time."""


class BoundedPattern:
    """A pattern of Python's. Raises: re.error, OverflowError or RecursionError for what is none."""

    def __init__(self, pattern: str) -> None:
        re.compile(pattern)
        import regex

        text = _LITERAL_BRACE.sub(lambda found: "\\{" if found[0] == "{" else found[0], pattern)
        try:
            self._pattern = regex.compile(text, regex.VERSION0)
        except regex.error as error:
            raise re.error(getattr(error, "msg", str(error)), pattern, getattr(error, "pos", None)) from None
        self.groups = self._pattern.groups
        # So that what has been too slow once is so at once for all files of a study.
        self._slow: dict[str, None] = {}

    def search(self, text: str) -> "regex.Match[str] | None":
        """Find the pattern anywhere in the text. Raises: SlowMatchError."""
        return self._bounded(self._pattern.search, text)

    def fullmatch(self, text: str) -> "regex.Match[str] | None":
        """Match the whole text. Raises: SlowMatchError."""
        return self._bounded(self._pattern.fullmatch, text)

    def _bounded(self, match: "_Matching", text: str) -> "regex.Match[str] | None":
        if text in self._slow:
            raise SlowMatchError
        try:
            return match(text, timeout=_MOST_SECONDS)
        except TimeoutError:
            if len(self._slow) < _MOST_REMEMBERED:
                self._slow[text] = None
            raise SlowMatchError from None


if TYPE_CHECKING:
    from typing import Protocol

    class _Matching(Protocol):
        def __call__(self, string: str, *, timeout: float) -> regex.Match[str] | None: ...
