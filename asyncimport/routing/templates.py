r"""Templates of labels: literal text, and fields in braces.

| written                     | gives                                                                     |
|-----------------------------|---------------------------------------------------------------------------|
| `{PatientID}`               | the value; a file without one is not routed                               |
| `{AccessionNumber|StudyID}` | the first value that is not empty                                         |
| `{StudyID|'none'}`          | or else the literal text in quotes, single or double                      |
| `{PatientID:upper}`         | upper case; `lower`: lower case                                           |
| `{PatientID:08}`            | leading zeros, to 8 digits, if the value has only digits                  |
| `{StudyDescription:.20}`    | the first 20 characters                                                   |
| `{PatientID:/^S-(\d+)$/}`   | the match of the pattern's first group, or of the whole pattern           |
| `{PatientID:/(\d+)/:06}`    | several changes, from left to right                                       |
| `{{` and `}}`               | a brace                                                                   |

Alternatives come before the first colon. The changes after it apply to the field that has a value, not to the text in
quotes; double a quote inside that. A pattern is Python's, searched anywhere in the value, and ends at the first slash
without a backslash before it; braces, colons and bars in it need no escape. A file is not routed if its value does not
match, is longer than DICOM allows, or takes too long to match. Blanks around names and colons do not count.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial

from asyncimport.errors import UsageError
from asyncimport.model.label_syntax import LONGEST_LABEL
from asyncimport.model.record import record
from asyncimport.model.texts import did_you_mean, nfc
from asyncimport.routing.labels import UnroutableError, clean_label
from asyncimport.routing.patterns import LONGEST_VALUE, BoundedPattern, SlowMatchError

# Returns None if the value does not match.
_Change = Callable[[str], str | None]

_LITERAL = re.compile(r"(?:[^{}]|\{\{|\}\})+")
_NAME = re.compile(r"""[^|:{}'"]*""")
_QUOTED = re.compile(r"""\s*(?:'((?:[^']|'')*)'|"((?:[^"]|"")*)")\s*""")
_PATTERN = re.compile(r"\s*/((?:[^/\\]|\\.)+)/\s*", re.DOTALL)
_WORD = re.compile(r"[^:|{}]*")
_PADDING = re.compile(r"0([1-9]\d{0,2})", re.ASCII)
_LENGTH = re.compile(r"\.([1-9]\d{0,2})", re.ASCII)
_CHANGES = "write upper, lower, 08 (digits), .20 (length) or /pattern/ after the colon"


@record
class _Field:
    """A field in braces: the names to try, the text in quotes if there is one, and the changes of a value.

    `missing` is the message if there is no value; `option` is the option of the template.
    """

    names: tuple[str, ...]
    fallback: str | None
    changes: tuple[_Change, ...]
    missing: str
    option: str

    def value(self, fields: Mapping[str, str]) -> str:
        """Return its value from these fields. Raises: UnroutableError."""
        for name in self.names:
            if value := nfc(fields.get(name, "").strip()):
                return self._changed(name, value)
        if self.fallback is None:
            raise UnroutableError(self.missing)
        return self.fallback

    def _changed(self, name: str, value: str) -> str:
        for change in self.changes:
            try:
                changed = change(value)
            except SlowMatchError:
                raise UnroutableError(f"{name} takes too long to match the pattern of {self.option}") from None
            if changed is None:
                raise UnroutableError(f"{name} does not match the pattern of {self.option}")
            value = changed
        return value


@record
class Template:
    """A parsed template: texts and fields in order."""

    parts: tuple[str | _Field, ...]

    @classmethod
    def parse(cls, text: str, option: str, places: Mapping[str, str]) -> "Template":
        """Parse the template of an option. `places` says where the value of each possible field comes from.

        Raises: UsageError, which names the option and the position.
        """
        return cls(tuple(_Parser(nfc(text), option, places).parts()))

    @property
    def names(self) -> frozenset[str]:
        """Return the fields that decide."""
        return frozenset(name for part in self.parts if isinstance(part, _Field) for name in part.names)

    @property
    def verbatim(self) -> frozenset[str]:
        """Return the fields without alternatives and changes."""
        return frozenset(
            part.names[0]
            for part in self.parts
            if isinstance(part, _Field) and len(part.names) == 1 and not part.changes
        )

    @property
    def is_fixed(self) -> bool:
        """Whether it always gives the same text."""
        return not self.names

    @property
    def literals(self) -> list[str]:
        """Return the texts that may become part of a label unchanged."""
        return [
            text for part in self.parts if (text := part.fallback if isinstance(part, _Field) else part) is not None
        ]

    def number_in(self, name: str, label: str) -> int | None:
        """Return the number that a field has in a label of this template; None if the label does not match."""
        form = "".join(
            re.escape(clean_label(f"x{part}x")[1:-1])
            if isinstance(part, str)
            else "([0-9]+)"
            if part.names == (name,)
            else "[A-Za-z0-9_-]*?"
            for part in self.parts
        )
        found = re.fullmatch(form, label, re.IGNORECASE)
        return None if found is None or not found.groups() else int(found[1])

    def render(self, fields: Mapping[str, str]) -> str:
        """Return the text before cleaning. Raises: UnroutableError."""
        return "".join([part if isinstance(part, str) else part.value(fields) for part in self.parts])


class _Parser:
    """Reads a template from left to right; `_at` is the index of the next character."""

    def __init__(self, text: str, option: str, places: Mapping[str, str]) -> None:
        self._text = text
        self._option = option
        self._places = places
        self._at = 0

    def parts(self) -> list[str | _Field]:
        found: list[str | _Field] = []
        while self._at < len(self._text):
            if literal := self._take(_LITERAL):
                found.append(literal[0].replace("{{", "{").replace("}}", "}"))
            elif self._next("{"):
                found.append(self._field())
            else:
                raise self._error("a closing brace without an opening one", hint="double a literal brace: }}")
        return found

    def _field(self) -> _Field:
        opening = self._at - 1
        names, fallback = self._alternatives()
        changes = []
        while self._next(":"):
            if change := self._change():
                changes.append(change)
        if not self._next("}"):
            raise self._unexpected(opening)
        return _Field(tuple(names), fallback, tuple(changes), self._missing(names), self._option)

    def _alternatives(self) -> tuple[list[str], str | None]:
        names: list[str] = []
        while True:
            if quoted := self._take(_QUOTED):
                if not names or self._text.startswith("|", self._at):
                    raise self._error(
                        "a text in quotes is not the last alternative",
                        quoted.start(),
                        hint="write it last: {StudyID|'none'}",
                    )
                return names, (quoted[1] or "").replace("''", "'") + (quoted[2] or "").replace('""', '"')
            at = self._at
            name = self._word(_NAME)
            if self._text.startswith(("'", '"'), self._at):
                raise self._error(
                    "a misplaced quote, or one that is not closed", hint="write it as in {StudyID|'none'}"
                )
            names.append(self._known(name, at))
            if not self._next("|"):
                return names, None

    def _known(self, name: str, at: int) -> str:
        if name not in self._places:
            raise self._error(
                f"{{{name}}} is not a field of the study",
                at,
                hint=f"{did_you_mean(name, self._places)}use one of these: {', '.join(sorted(self._places))}",
            )
        return name

    def _change(self) -> _Change | None:
        at = self._at
        if pattern := self._take(_PATTERN):
            return partial(_searched, self._compiled(pattern[1], pattern.start(1)))
        word = self._word(_WORD)
        match word:
            case "":
                return None
            case "upper":
                return str.upper
            case "lower":
                return str.lower
        for form, change in ((_PADDING, _padded), (_LENGTH, _cut)):
            if (match := form.fullmatch(word)) and int(match[1]) <= LONGEST_LABEL:
                return partial(change, int(match[1]))
        if word.startswith("/"):
            raise self._error(
                "a pattern that is empty or has no end", at, hint=r"write it as in {PatientID:/^S-(\d+)$/}"
            )
        raise self._error(f"{word!r} is not a change of a field", at, hint=_CHANGES)

    def _compiled(self, pattern: str, at: int) -> BoundedPattern:
        try:
            return BoundedPattern(pattern)
        except re.error as error:
            raise self._error(
                f"the pattern is malformed: {error.msg}", at + (error.pos or 0), hint="write a pattern of Python"
            ) from None
        except (OverflowError, RecursionError):
            raise self._error("the pattern is too large", at) from None

    def _missing(self, names: list[str]) -> str:
        places: dict[str, list[str]] = {}
        for name in names:
            places.setdefault(self._places[name], []).append(name)
        return " and ".join(f"no {' or '.join(found)} in {place}" for place, found in places.items())

    def _unexpected(self, opening: int) -> UsageError:
        if self._at == len(self._text):
            return self._error(
                "a brace that is not closed", opening, hint="close it, as in {PatientID}; double a literal brace: {{"
            )
        if self._text[self._at] == "|":
            return self._error("an alternative after a colon", hint="write {StudyID|PatientID:upper}")
        return self._error(
            f"{self._text[self._at]!r} is not expected here", hint="end a field with a brace: {PatientID}"
        )

    def _take(self, form: re.Pattern[str]) -> re.Match[str] | None:
        if match := form.match(self._text, self._at):
            self._at = match.end()
        return match

    def _word(self, form: re.Pattern[str]) -> str:
        match = self._take(form)
        return match[0].strip() if match else ""

    def _next(self, character: str) -> bool:
        there = self._text.startswith(character, self._at)
        self._at += there
        return there

    def _error(self, what: str, at: int | None = None, *, hint: str = "") -> UsageError:
        place = (self._at if at is None else at) + 1
        return UsageError(
            f"{self._option}: the template {self._text!r} is malformed at character {place}: {what}", hint=hint
        )


def _padded(width: int, value: str) -> str:
    return value.zfill(width) if value.isascii() and value.isdigit() else value


def _cut(length: int, value: str) -> str:
    return value[:length].rstrip()


def _searched(pattern: BoundedPattern, value: str) -> str | None:
    """Return what a pattern matches; None without a match, or for an empty one. Raises: SlowMatchError."""
    if len(value) > LONGEST_VALUE:
        raise SlowMatchError
    match = pattern.search(value)
    return None if match is None else (match[1 if pattern.groups else 0] or "").strip() or None
