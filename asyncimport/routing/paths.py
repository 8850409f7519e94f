"""Path patterns: they take fields from the directories of a file and from its name.

| written                             | matches                                                                 |
|-------------------------------------|-------------------------------------------------------------------------|
| `{subject}`                         | the name of a directory or of the file                                  |
| `sub-{subject}`, `{subject}_{visit}` | parts of a name; the first text between two fields separates them        |
| `*`                                 | any one name; within a name, any part of it                             |
| `**/`                               | any number of directories, as few as possible                           |
| `/**`, or `/` at the end            | everything below                                                        |
| `{{` and `}}`                       | a brace                                                                 |

A pattern matches the whole path of a file below the source root, including its name. A field that occurs twice must
have the same value both times. Separators are slashes. A pattern may have backslashes too; paths have the separator of
the system (a backslash is part of a name except on Windows).

Matching takes time in proportion to the length of the path. What is between two texts is as short as possible; if that
does not lead to a match, nothing longer does, so nothing is tried twice (atomic groups). With a field that occurs twice
this does not hold, and a match that takes too long is given up.
"""

import os
import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import field

from asyncimport.errors import UsageError
from asyncimport.model.record import record
from asyncimport.model.texts import nfc
from asyncimport.routing.labels import UnroutableError
from asyncimport.routing.patterns import BoundedPattern, SlowMatchError

_OPTION = "--path-pattern"
_EXAMPLE = "write a pattern of the path below SOURCE, such as '{subject}/{session}/**'"
_TOKEN = re.compile(r"(?P<brace>\{\{|\}\})|\{(?P<name>[^{}]*)\}|(?P<star>\*+)|(?P<text>[^{}*]+)|(?P<odd>[{}])")
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@record
class PathPattern:
    """A parsed pattern. `fields` has its fields in order, `components` those of each directory and of the file's name.

    A component with a star is None: its fields alone do not identify it. `needs_name`: the name of a file decides
    whether it matches, or the value of a field.
    """

    text: str
    fields: tuple[str, ...]
    components: tuple[frozenset[str] | None, ...] = field(repr=False)
    needs_name: bool = field(repr=False)
    _form: re.Pattern[str] | BoundedPattern = field(repr=False)
    _separator: str = field(repr=False)

    @classmethod
    def parse(cls, text: str, *, separator: str = os.sep) -> "PathPattern":
        """Parse a pattern for paths with this separator. Raises: UsageError."""
        text = nfc(text)
        names = text.replace("\\", "/").split("/")
        if len(names) > 1 and not names[-1]:
            names[-1] = "**"
        fields: dict[str, None] = {}
        components: list[frozenset[str] | None] = []
        given = [token["name"] for token in _TOKEN.finditer(text) if token["name"]]
        twice = len(set(given)) < len(given)
        group = "(?:" if twice else "(?>"
        form = closing = ""
        for position, name in enumerate(names):
            last = position == len(names) - 1
            if name in {"", ".", ".."}:
                raise _error(text, f"{name!r} is not the name of a directory", hint=_EXAMPLE)
            if name == "**":
                if not last and names[position + 1] == "**":
                    raise _error(text, "'**' twice in a row", hint="remove one")
                components.append(None)
                # One group with what follows it: the fewest directories before that.
                form += closing + (".+" if last else f"{group}(?:[^/]+/)*?")
                closing = "" if last else ")"
                continue
            tokens = list(_tokens(text, name))
            end = r"\Z" if last else "/"
            form += _form_of(tokens, fields, end, group) if name != "*" else f"[^/]+{end}"
            components.append(None if "*" in name else frozenset(token["name"] for token in tokens if token["name"]))
        if not fields:
            raise _error(text, "no field in it", hint=_EXAMPLE)
        form = f"(?s:{form}{closing})"
        compiled = BoundedPattern(form) if twice else re.compile(form)
        return cls(text, tuple(fields), tuple(components), names[-1] not in {"*", "**"}, compiled, separator)

    def match(self, path: str) -> tuple[str, ...]:
        """Return the values of `fields` in NFC for a path below the source root.

        Raises: UnroutableError when it does not match.
        """
        path = nfc(path)
        try:
            match = self._form.fullmatch(path if self._separator == "/" else path.replace(self._separator, "/"))
        except SlowMatchError:
            raise UnroutableError(f"its path takes too long to match {_OPTION}") from None
        if match is None:
            raise UnroutableError(f"its path does not match {_OPTION}")
        return match.groups()

    def depth(self, names: AbstractSet[str], distinct: AbstractSet[str]) -> int | None:
        """Return how many directories below the source root decide these fields, so that no two give the same values.

        None if something else decides, or if two directories may give the same values: when their depth varies, when a
        star matches one of them, or when one has a field that is not among `distinct`. (Names that differ only in
        characters that labels cannot hold still become the same label.)
        """
        wanted = set(names)
        if not wanted:
            return None
        for position, found in enumerate(self.components[:-1], start=1):
            if found is None or not found <= distinct:
                return None
            wanted -= found
            if not wanted:
                return position
        return None


def _tokens(text: str, name: str) -> Iterator[re.Match[str]]:
    """Yield the tokens of a component. Raises: UsageError for an invalid or ambiguous one."""
    open_ended = False
    for token in _TOKEN.finditer(name):
        if token["odd"]:
            raise _error(text, f"an unpaired brace in {name!r}", hint=_EXAMPLE)
        if token["star"] and token["star"] != "*":
            raise _error(text, f"'**' is not alone in {name!r}", hint="write it between slashes")
        if token["name"] is not None and not _FIELD_NAME.fullmatch(token["name"]):
            raise _error(text, f"{{{token['name']}}} is not a name", hint="use letters, digits and '_'")
        varies = token["star"] is not None or token["name"] is not None
        if varies and open_ended:
            raise _error(text, f"nothing between two fields in {name!r}", hint="separate them, such as {a}_{b}")
        open_ended = varies
        yield token


def _form_of(tokens: list[re.Match[str]], fields: dict[str, None], end: str, group: str) -> str:
    """Return the regular expression of a component: each variable part in one group with the text that ends it."""
    form = closing = ""
    for token in tokens:
        if token["star"] or (token["name"] is not None and token["name"] not in fields):
            form += closing + group
            closing = ")"
        form += _form_of_token(token, fields)
    return form + end + closing


def _form_of_token(token: re.Match[str], fields: dict[str, None]) -> str:
    """Return the regular expression of a token, and add its field."""
    if (name := token["name"]) is not None:
        if name in fields:
            return f"(?P={name})"
        fields[name] = None
        return f"(?P<{name}>[^/]+?)"
    return "[^/]*?" if token["star"] else re.escape(token["text"] or token["brace"][0])


def _error(text: str, what: str, *, hint: str) -> UsageError:
    return UsageError(f"{_OPTION} {text!r}: {what}", hint=hint)
