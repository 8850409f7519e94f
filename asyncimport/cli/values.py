"""Converts values of options, and says which ones are valid.

Typer (since 0.29) does it with pydantic. To import that takes about 75 ms, a third of the start of every command, and
its messages are for programmers.
"""

import math
import re
from collections.abc import Callable
from datetime import date
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, get_args

from asyncimport.errors import UsageError
from asyncimport.model.option import DURATION, SIZE, invalid, one_of

_FLAGS = dict.fromkeys(("1", "true", "yes", "on", "t", "y"), True) | dict.fromkeys(
    ("0", "false", "no", "off", "f", "n"), False
)


def without_pydantic(parameters: list[Any]) -> list[Any]:
    """Let parameters of Typer convert their values by themselves. Their errors are UsageErrors."""
    for parameter in parameters:
        if parameter.param_type_name == "argument":
            # Otherwise the help has types of Python: `SOURCE <list[Path]>`.
            parameter.display_type_rich = lambda **_: ""
            parameter._usage_display_name = partial(_usage_of, parameter)  # noqa: SLF001 - Typer has no other way
        # An older Typer has no validators, and no descriptor.
        if hasattr(parameter, "type_descriptor") and "process_value" not in vars(parameter):
            parameter.process_value = partial(_process, parameter)
    return parameters


def name_of(parameter: Any) -> str:
    """Return the name of an option, or of an argument as the help writes it."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar).strip("[].")
    spellings: list[str] = parameter.opts
    return next((name for name in spellings if name.startswith("--")), spellings[-1])


def _usage_of(parameter: Any) -> str:
    return f"{parameter.metavar}{'...' if parameter.nargs != 1 else ''}"


def _process(parameter: Any, context: Any, value: Any) -> Any:
    """Return a value of the right type. Raises: UsageError."""
    if parameter.required and not value:
        if context.resilient_parsing:
            return None
        command = context.command_path
        raise UsageError(
            f"{name_of(parameter)} is missing: {command} {_usage_of(parameter)}",
            hint=f"{command} --help shows examples",
        )
    annotation = parameter.type_descriptor.annotation
    if parameter.multiple or parameter.nargs == -1:
        converted = _list(parameter, get_args(annotation)[0], value)
    else:
        converted = _one(parameter, annotation, value)
    return converted if parameter.callback is None else parameter.callback(context, parameter, converted)


def _list(parameter: Any, kind: Any, value: Any) -> Any:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise invalid(name_of(parameter), value, "a list of texts, in brackets")
    return [_one(parameter, kind, item) for item in value]


def _one(parameter: Any, kind: Any, value: Any) -> Any:
    if value is None or type(value) is kind:
        return value
    if type(value) is float and parameter.metavar in {DURATION.metavar, SIZE.metavar}:
        return str(value)
    if isinstance(kind, type) and issubclass(kind, Enum):
        convert: Callable[[Any], Any] = kind
        valid = one_of(kind)
    else:
        convert, valid = _KINDS.get(kind, _KINDS[str])
    try:
        return convert(value)
    except (TypeError, ValueError, KeyError):
        raise invalid(name_of(parameter), value, valid) from None


def _path(value: Any) -> Path:
    # Path("") is the current directory, which an empty variable of a script does not mean.
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError
    return Path(value)


def _flag(value: Any) -> bool:
    return _FLAGS[value.strip().lower()] if isinstance(value, str) else _FLAGS[value]


def _integer(value: Any) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"\s*[+-]?[0-9]{1,1000}\s*", value):
        raise ValueError
    return int(value)


def _number(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError
    return number


def _text(value: Any) -> str:
    """Return a text; profiles may have whole numbers and dates without quotes."""
    if isinstance(value, bool) or not isinstance(value, str | int | date):
        raise TypeError
    return str(value)


_KINDS: dict[Any, tuple[Callable[[Any], Any], str]] = {
    Path: (_path, "the path of a file or directory"),
    bool: (_flag, "yes or no"),
    int: (_integer, "a whole number"),
    float: (_number, "a number"),
    str: (_text, "a text in quotes"),
}
