"""How an option is declared: once, as a field of a frozen dataclass.

The field has the type and the default. Its metadata has what a command line needs: names, help, and how a value is
written. Programs make the dataclasses directly; `cli/parameters.py` makes parameters of the same fields.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from datetime import date, datetime
from enum import Enum, StrEnum
from typing import Any

from asyncimport.errors import InvalidOptionError
from asyncimport.model.record import record

_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_KEY = "option"
_LONGEST_DAYS = 3650
_LARGEST = 1_000_000_000


@record
class TextForm:
    """How a value is written as text. `read` takes the text and the name of the option, for its error.

    `none` is the text for None. `metavar` names such values in help texts.
    """

    read: Callable[[str, str], Any]
    write: Callable[[Any], str] = str
    none: str | None = None
    metavar: str | None = None


@record
class Option:
    """What a command line needs to know of an option.

    A setting also has an environment variable; `variables` are further ones. Only `--help-all` shows a hidden option.
    `further` goes to the parser.
    """

    names: tuple[str, ...]
    help: str
    metavar: str | None
    form: TextForm | None
    is_setting: bool
    is_hidden: bool
    variables: tuple[str, ...]
    further: Mapping[str, Any]


def option(
    *names: str,
    help: str,  # noqa: A002 - as Typer names it
    default: Any = None,
    metavar: str | None = None,
    form: TextForm | None = None,
    is_setting: bool = False,
    is_hidden: bool = False,
    variables: tuple[str, ...] = (),
    **further: Any,
) -> Any:
    """Declare a field that is an option of the command line only."""
    declared = Option(names, help, metavar, form, is_setting, is_hidden, variables, further)
    return field(default=default, metadata={_KEY: declared})


def setting(*names: str, **declared: Any) -> Any:
    """Declare a field that is an option, an environment variable and, in `upload`, a key of profiles."""
    return option(*names, is_setting=True, **declared)


def rare(*names: str, **declared: Any) -> Any:
    """Declare a setting that only `--help-all` shows."""
    return setting(*names, is_hidden=True, **declared)


def option_of(one: Any) -> Option | None:
    """Return the option that a field of a dataclass declares."""
    return one.metadata.get(_KEY)  # type: ignore[no-any-return]


def invalid(name: str, value: object, valid: str) -> InvalidOptionError:
    """Return the error for a value of an option, with those that are valid."""
    return InvalidOptionError(name, f"invalid {name} '{value}': {valid}")


def one_of(kind: type[Enum]) -> str:
    """Return the values of a choice, for an error: `a, b or c`."""
    *others, last = (str(one.value) for one in kind)
    return f"{', '.join(others)} or {last}" if others else last


def check_number(name: str, number: int | None, least: int = 1, most: int = _LARGEST) -> None:
    """Raise UsageError for a number below the least one, or above the most."""
    if number is not None and not least <= number <= most:
        raise invalid(name, number, f"a number from {least} to {most}")


# As fnmatch reads it: a bracket that comes first in a class does not close it.
_GLOB = re.compile(r"(?:[^\[]|\[!?+\]?+[^\]]*+\])+")


def check_globs(name: str, globs: Iterable[str]) -> None:
    """Raise UsageError for an empty pattern of paths, and for one with a bracket that is not closed."""
    for glob in globs:
        if not _GLOB.fullmatch(glob):
            raise invalid(name, glob, "a pattern such as '*/MR/*'; '[[]' stands for a bracket")


_NUMBER = r"(\d{1,9}(?:\.\d{1,9})?)"
_DURATION = re.compile("".join(rf"(?:{_NUMBER} ?{unit} ?)?" for unit in ("d", "h", "m(?:in)?", "s(?:ec)?")))
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?(?:([kmgt])(i?))?b?(?:/s)?")


def seconds_of(text: str, name: str) -> float:
    """Return the seconds of a duration such as 90, 90s, 15m, 8h, 1h30m or 2d. Raises: UsageError."""
    stripped = text.strip().lower()
    match = _DURATION.fullmatch(f"{stripped}s" if re.fullmatch(_NUMBER, stripped) else stripped)
    if match is None or not stripped:
        raise invalid(name, text, "a duration such as 90s, 15m, 8h, 1h30m or 2d")
    seconds = sum(float(number or 0) * length for number, length in zip(match.groups(), _UNITS.values(), strict=True))
    if seconds > _LONGEST_DAYS * _UNITS["d"]:
        raise invalid(name, text, f"a duration of {_LONGEST_DAYS}d at most")
    return seconds


def duration_text(seconds: float) -> str:
    """Return a duration as `seconds_of` reads it."""
    unit = next((unit for unit, length in _UNITS.items() if seconds and seconds % length == 0), "s")
    return f"{seconds / _UNITS[unit]:g}{unit}"


def bytes_of(text: str, name: str) -> float:
    """Return the bytes of a size such as 500000, 500k, 20MB, 1.5 GB or 16MiB, or of a rate such as 20MB/s.

    Case does not matter. Raises: UsageError.
    """
    match = _SIZE.fullmatch(text.strip().lower())
    size = 0.0 if match is None else float(match[1]) * (1024 if match[3] else 1000) ** " kmgt".index(match[2] or " ")
    if size <= 0:
        raise invalid(name, text, "bytes, such as 500kB, 20MB/s, 1.5GB or 10GiB")
    return size


def day_of(text: str, name: str) -> date:
    """Return a day, in the time zone of this machine. Raises: UsageError."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").astimezone().date()
    except (ValueError, OverflowError, OSError):
        raise invalid(name, text, "a day such as 2026-01-31") from None


DURATION = TextForm(seconds_of, duration_text, metavar="DURATION")
SIZE = TextForm(bytes_of, metavar="SIZE")
DAY = TextForm(day_of, metavar="DATE")


def several(kind: type[StrEnum]) -> TextForm:
    """Return the form of a set of choices, which are written with commas."""

    def read(text: str, name: str) -> frozenset[StrEnum]:
        try:
            return frozenset(kind(word) for word in text.split(",") if word)
        except ValueError:
            raise invalid(name, text, f"{' or '.join(kind)}, or both with a comma") from None

    return TextForm(read, lambda values: ",".join(sorted(values)))
