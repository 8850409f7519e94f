r"""Templates of labels: text that stands as it is, and fields in braces.

| written                     | gives                                                                     |
|-----------------------------|---------------------------------------------------------------------------|
| `{PatientID}`               | the value; a file without one is not routed                               |
| `{AccessionNumber|StudyID}` | the first value that there is                                             |
| `{StudyID|'none'}`          | or else the text in quotes, single or double, as it is                    |
| `{PatientID:upper}`         | capital letters; `lower`: small ones                                      |
| `{PatientID:08}`            | zeros in front, to 8 digits; what is not all digits stays as it is        |
| `{StudyDescription:.20}`    | the first 20 characters                                                   |
| `{PatientID:/^S-(\d+)$/}`   | what the pattern's first group matches, or all of it if it has none       |
| `{PatientID:/(\d+)/:06}`    | one after the other                                                       |
| `{{` and `}}`               | a brace                                                                   |

Alternatives come before the first colon: what follows it is done to whichever field has a value, and not to the text
in quotes, in which a quote of its kind is doubled. A pattern is Python's, searched for anywhere in the value, and ends
at the first slash without a backslash before it; braces, colons and bars in it need no escape. A file that does not
match is not routed, nor one whose value is longer than DICOM allows or takes the pattern too long. Blanks around names
and colons do not count.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from asyncimport.errors import UsageError
from asyncimport.model.texts import nfc
from asyncimport.routing.labels import LONGEST_LABEL, UnroutableError, clean_label
from asyncimport.routing.patterns import LONGEST_VALUE, BoundedPattern, SlowMatchError

# Gives None when the value does not match.
_Change = Callable[[str], str | None]

_LITERAL = re.compile(r"(?:[^{}]|\{\{|\}\})+")
_NAME = re.compile(r"""[^|:{}'"]*""")
_QUOTED = re.compile(r"""\s*(?:'((?:[^']|'')*)'|"((?:[^"]|"")*)")\s*""")
_PATTERN = re.compile(r"\s*/((?:[^/\\]|\\.)+)/\s*", re.DOTALL)
_WORD = re.compile(r"[^:|{}]*")
_PADDING = re.compile(r"0([1-9]\d{0,2})", re.ASCII)
_LENGTH = re.compile(r"\.([1-9]\d{0,2})", re.ASCII)
_CHANGES = "after the colon stands upper, lower, 08 (digits), .20 (length) or /pattern/"


@dataclass(frozen=True, slots=True)
class _Field:
    """A field in braces: the names to try, the text in quotes if there is one, and what is done to a value.

    `missing` and `option` are for the reason when it has no value: what is not where, and whose template this is.
    """

    names: tuple[str, ...]
    fallback: str | None
    changes: tuple[_Change, ...]
    missing: str
    option: str

    def value(self, fields: Mapping[str, str]) -> str:
        """Return the value that these fields give it. Raises: UnroutableError."""
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


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template: texts and fields in their order."""

    parts: tuple[str | _Field, ...]

    @classmethod
    def parse(cls, text: str, option: str, places: Mapping[str, str]) -> "Template":
        """Parse the template of an option. `places` says of each field that there is where its value stands.

        Raises: UsageError, which names the option and the place.
        """
        return cls(tuple(_Parser(nfc(text), option, places).parts()))

    @property
    def names(self) -> frozenset[str]:
        """The fields that decide."""
        return frozenset(name for part in self.parts if isinstance(part, _Field) for name in part.names)

    @property
    def verbatim(self) -> frozenset[str]:
        """Those of them that stand there without alternatives and changes."""
        return frozenset(
            part.names[0]
            for part in self.parts
            if isinstance(part, _Field) and len(part.names) == 1 and not part.changes
        )

    @property
    def is_fixed(self) -> bool:
        """Whether it always gives the same."""
        return not self.names

    @property
    def literals(self) -> list[str]:
        """What may become part of a label as it is written."""
        return [
            text for part in self.parts if (text := part.fallback if isinstance(part, _Field) else part) is not None
        ]

    def number_in(self, name: str, label: str) -> int | None:
        """Return the number that a field seems to have had in a label of this template; None: it is none of it."""
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
        """Return the text, not yet cleaned. Raises: UnroutableError."""
        return "".join([part if isinstance(part, str) else part.value(fields) for part in self.parts])


class _Parser:
    """Reads a template from left to right; `_at` is the character that comes next."""

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
                raise self._error("a brace that closes nothing", hint="a brace that is meant as such is doubled: }}")
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
                        "a text in quotes is the last resort", quoted.start(), hint="write it last: {StudyID|'none'}"
                    )
                return names, (quoted[1] or "").replace("''", "'") + (quoted[2] or "").replace('""', '"')
            at = self._at
            name = self._word(_NAME)
            if self._text.startswith(("'", '"'), self._at):
                raise self._error("a quote that does not belong here, or is not closed", hint="as in {StudyID|'none'}")
            names.append(self._known(name, at))
            if not self._next("|"):
                return names, None

    def _known(self, name: str, at: int) -> str:
        if name not in self._places:
            raise self._error(
                f"{{{name}}} is not a field of the study", at, hint="fields are: " + ", ".join(sorted(self._places))
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
            raise self._error("a pattern that is empty or has no end", at, hint=r"as in {PatientID:/^S-(\d+)$/}")
        raise self._error(f"{word!r} is nothing that can be done to a field", at, hint=_CHANGES)

    def _compiled(self, pattern: str, at: int) -> BoundedPattern:
        try:
            return BoundedPattern(pattern)
        except re.error as error:
            raise self._error(
                f"the pattern is malformed: {error.msg}", at + (error.pos or 0), hint="patterns are Python's"
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
            return self._error("a brace that is not closed", opening, hint="as in {PatientID}; a brace as such: {{")
        if self._text[self._at] == "|":
            return self._error("an alternative after a colon", hint="write {StudyID|PatientID:upper}")
        return self._error(f"{self._text[self._at]!r} cannot stand here", hint="a field ends with a brace: {PatientID}")

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
    """Return what a pattern cuts out; nothing is as good as no match. Raises: SlowMatchError."""
    if len(value) > LONGEST_VALUE:
        raise SlowMatchError
    match = pattern.search(value)
    return None if match is None else (match[1 if pattern.groups else 0] or "").strip() or None
