"""Whether the filters and scripts of a site, which drop files silently, drop a file.

The answer is True or False only if it is certain, else None: a rule may have syntax that is not understood here, and a
file that is lost for another reason must not look as if a rule had dropped it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from asyncimport.dicom import FIELDS
from asyncimport.routing.patterns import BoundedPattern, SlowMatchError

# The part of a value that XNAT gives to a filter (RegExBasedSeriesImportFilter).
_LONGEST_VALUE = 300  # characters
_KEYWORDS = {f"{tag >> 16:04X},{tag & 0xFFFF:04X}": keyword for keyword, tag in FIELDS.items()}
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
# Escapes that mean the same in Java and Python. Not `n`: it may be a new line of a list.
_SAME_ESCAPES = frozenset(r".^$*+?()[]{}|\/-,:;_ =!<>#&~@%'" + '"' + "bBdDsSwWtfA")
# Other syntax that may differ: operations on character classes, `{,3}`.
_DIFFERENT = re.compile(r"&&|--|~~|\|\||\[[^\]]*\[|\{,")

_STATEMENT = re.compile(
    r"""(?:version\b|describe\b|export\b|echo\b).*
    | \(\s*(?P<assigned>[0-9A-F]{4}\s*,\s*[0-9A-F]{4})\s*\)\s*(?::=|\?=)[^?]*
    | -\s*\(\s*(?P<deleted>[0-9A-F]{4}\s*,\s*[0-9A-F]{4})\s*\)
    | (?:\(\s*(?P<tested>[0-9A-F]{4}\s*,\s*[0-9A-F]{4})\s*\)\s*(?P<operator>!?[=~])\s*"(?P<literal>[^"\\]*)"\s*\?\s*)?
      (?P<reject>reject(?:\s*\[\s*\])?)""",
    re.VERBOSE | re.IGNORECASE,
)
_COMMENT = re.compile(r'("(?:[^"\\]|\\.)*")|//.*')


def filter_drops(mode: str, expressions: Sequence[str], fields: Mapping[str, str]) -> bool | None:
    """Return whether a series import filter drops a file with these header fields, by keyword; None if uncertain.

    `mode` and `expressions` are XNAT's (RegExBasedSeriesImportFilter): a blacklist drops a file if an expression is
    found, in any case, a whitelist if none is found. Expressions are Java's. They apply to the SeriesDescription, or to
    the attribute of the last line such as `[Modality]`; `EXISTS` and `!EXISTS` test for it. The expressions of the mode
    `modalityMap` are programs, for which the answer is None.
    """
    if mode not in {"blacklist", "whitelist"}:
        return None
    keyword: str | None = "SeriesDescription"
    is_unsure = False
    for line in expressions:
        expression = line.strip()
        if not expression or line.startswith("#"):
            continue
        if expression.startswith("[") and expression.endswith("]"):
            keyword = _keyword(expression[1:-1])
            continue
        found = None if keyword is None else _is_found(expression, fields.get(keyword, ""))
        if found:
            return mode == "blacklist"
        is_unsure |= found is None
    return None if is_unsure else mode == "whitelist"


def _keyword(name: str) -> str | None:
    """Return the keyword of an attribute that a filter names; None if its value is unknown."""
    return name if name in FIELDS else _KEYWORDS.get(re.sub(r"[\s()]", "", name).upper())


def _is_found(expression: str, value: str) -> bool | None:
    """Return whether an expression is found in a value; an empty value may also be absent from the file."""
    if expression in {"EXISTS", "!EXISTS"}:
        return (expression == "EXISTS") if value else None
    if value:
        return _matches(expression, value)
    # XNAT distinguishes an empty value, in which an expression may be found, from an absent one.
    return None if _matches(expression, "") is not False else False


def _matches(expression: str, value: str, *, exactly: bool = False) -> bool | None:
    """Return whether a pattern of Java is found in a value in any case, or matches all of it `exactly`.

    None if Java may answer otherwise, or if it takes too long.
    """
    pattern = _of_java(expression, exactly)
    if pattern is None or len(value) > _LONGEST_VALUE or not (value.isascii() or "\\" not in expression):
        return None
    try:
        return (pattern.fullmatch(value) if exactly else pattern.search(value)) is not None
    except SlowMatchError:
        return None


@lru_cache(maxsize=1024)
def _of_java(expression: str, exactly: bool) -> BoundedPattern | None:  # noqa: FBT001 - of a cache
    if not {found[1] for found in _ESCAPE.finditer(expression)} <= _SAME_ESCAPES:
        return None
    if _DIFFERENT.search(_ESCAPE.sub("", expression)):
        return None
    # Java's classes and cases are those of ASCII by default.
    flags = "(?a)" if exactly and not expression.startswith("(?i)") else "(?ai)"
    try:
        return BoundedPattern(flags + expression.removeprefix("(?i)"))
    except (re.error, OverflowError, RecursionError):
        return None


def script_rejects(script: str, fields: Mapping[str, str]) -> bool | None:
    """Return whether an anonymisation script rejects a file with these header fields, by keyword; None if uncertain.

    It understands `reject` and `(gggg,eeee) = "text" ? reject`, with `=`, `!=`, `~` and `!~`, for attributes that no
    earlier statement may have changed (DicomEdit 6).
    """
    changed: set[str] = set()
    may_be_changed = is_unsure = False
    if "{" in script or "}" in script:
        # Blocks may have conditions.
        return None
    for line in _lines(script):
        statement = _STATEMENT.fullmatch(line)
        if statement is None:
            # It may do anything, also reject.
            may_be_changed = is_unsure = True
        elif tag := statement["assigned"] or statement["deleted"]:
            changed.add(_tag(tag))
        elif statement["reject"] and statement["tested"] is None:
            return True
        elif statement["reject"]:
            tag = _tag(statement["tested"])
            value = "" if may_be_changed or tag in changed else fields.get(_KEYWORDS.get(tag, ""), "")
            holds = _holds(value, statement["operator"], statement["literal"])
            if holds:
                return True
            is_unsure |= holds is None
    return None if is_unsure else False


def _lines(script: str) -> Iterator[str]:
    """Yield the statements of a script."""
    for line in script.splitlines():
        if statement := _COMMENT.sub(lambda found: found[1] or "", line).strip():
            yield statement


def _tag(text: str) -> str:
    return re.sub(r"\s", "", text).upper()


def _holds(value: str, operator: str, literal: str) -> bool | None:
    """Return whether a condition holds; None if uncertain, as without a value."""
    if not value:
        return None
    if operator.endswith("="):
        is_same, may_be_same = value == literal, value.lower() == literal.lower()
    else:
        # Versions of XNAT differ in whether a part matches, or another case.
        is_same, may_be_same = _matches(literal, value, exactly=True) is True, _matches(literal, value) is not False
    return None if is_same is not may_be_same else is_same is not operator.startswith("!")
