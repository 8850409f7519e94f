"""Patterns for values of headers and paths, with a time limit.

Headers come from strangers, and some patterns take exponential time on some texts: `(a+)+b` on a row of `a`. The
`regex` library understands Python's patterns, with look-around and back references, and has time-outs; `re` has none.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import regex

LONGEST_VALUE = 10_240  # characters: the longest text of DICOM in a label (LT, PS3.5 6.2)
# CPU time of the process. Sensible patterns take some microseconds.
_MOST_SECONDS = 0.25
_MOST_REMEMBERED = 1_000
# Braces that `re` takes literally, and `regex` for syntax of its own.
_LITERAL_BRACE = re.compile(r"\\N\{[^}]*\}|\\.|\{(?![0-9]*,?[0-9]*\})", re.DOTALL)


class SlowMatchError(Exception):
    """A match took too long."""


class BoundedPattern:
    """A pattern of Python with a time limit. Raises: re.error, OverflowError or RecursionError."""

    def __init__(self, pattern: str) -> None:
        re.compile(pattern)
        import regex

        text = _LITERAL_BRACE.sub(lambda found: "\\{" if found[0] == "{" else found[0], pattern)
        try:
            self._pattern = regex.compile(text, regex.VERSION0)
        except regex.error as error:
            raise re.error(getattr(error, "msg", str(error)), pattern, getattr(error, "pos", None)) from None
        self.groups = self._pattern.groups
        # A text that was too slow once is rejected at once for all other files of the study.
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
