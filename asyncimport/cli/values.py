"""Converts values of options without pydantic, if the result is the same.

Typer (since 0.29) imports pydantic for the first value of a command, and builds a validator for each option. That takes
about 75 ms, a third of the start of every command, for values that are texts and paths.
"""

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, get_args

# Values of flags in environment variables; Typer knows more.
_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def without_pydantic(parameters: list[Any]) -> list[Any]:
    """Let parameters of Typer keep values of the right type, and convert texts to paths and choices by themselves.

    Typer still gets all other values: numbers, missing values, and wrong ones.
    """
    for parameter in parameters:
        # An older Typer has no validators, and no descriptor.
        if hasattr(parameter, "type_descriptor") and "process_value" not in vars(parameter):
            parameter.process_value = _processor(parameter)
    return parameters


def _processor(parameter: Any) -> Callable[[Any, Any], Any]:
    process: Callable[[Any, Any], Any] = parameter.process_value
    is_list = parameter.multiple or parameter.nargs == -1
    annotation = parameter.type_descriptor.annotation
    kind = get_args(annotation)[0] if is_list else annotation

    def process_value(context: Any, value: Any) -> Any:
        if parameter.required and not value:
            return process(context, value)
        try:
            simple = _list(kind, value) if is_list else _simple(kind, value, parameter.default)
        except (TypeError, ValueError):
            return process(context, value)
        return simple if parameter.callback is None else parameter.callback(context, parameter, simple)

    return process_value


def _list(kind: Any, value: Any) -> Any:
    """Return a list, or () for None. Raises: TypeError, ValueError if Typer must decide."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise TypeError
    return [_simple(kind, item) for item in value]


def _simple(kind: Any, value: Any, default: Any = None) -> Any:
    """Return a value of the right type. Raises: ValueError if Typer must decide."""
    # A number may be too small or too large, unless it is the default.
    if value is None or (type(value) is kind and (value == default or kind not in {int, float})):
        return value
    if isinstance(value, str) and kind is Path:
        return Path(value)
    if isinstance(value, str) and kind is bool and value in _FLAGS:
        return _FLAGS[value]
    if isinstance(value, str) and isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    raise ValueError
