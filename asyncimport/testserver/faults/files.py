"""Reads faults from parsed JSON."""

import json
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from enum import StrEnum
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .actions import NAMES, Tell
from .schedule import Fault

_ACTIONS = {name: action for name, action in NAMES.items() if action is not Tell}
_KINDS_OF_VALUES = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    types.NoneType: "null",
}
_Type = TypeVar("_Type")


def faults_from(data: object) -> list[Fault]:
    """Return the faults of a parsed JSON list, in its order. Raises ValueError, with a line for each mistake.

    An element has a `kind`, an `action`, what selects requests (`nth`, `times`, `share`, `seed`, `path`), and the
    action's own values:

        [{"kind": "import", "action": "status", "status": 503, "headers": {"Retry-After": "1"}, "nth": 3, "times": 2},
         {"kind": "any", "action": "reset", "effect": true, "share": 0.05, "seed": 1}]
    """
    if not isinstance(data, list):
        raise ValueError(f"faults are a list, not {_as_json(data)}")  # noqa: TRY004 - what a file says, not what code does
    faults, mistakes = [], []
    for number, element in enumerate(data, 1):
        try:
            faults.append(_fault(element))
        except ValueError as error:
            mistakes.append(f"fault {number}: {error}")
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return faults


def _fault(element: object) -> Fault:
    if not isinstance(element, dict):
        raise ValueError(f"a fault is an object, not {_as_json(element)}")  # noqa: TRY004 - as above
    name = element.get("action")
    if not isinstance(name, str) or name not in _ACTIONS:
        raise ValueError(f"action: {_as_json(name)} is none of {', '.join(sorted(_ACTIONS))}")
    own = {field.name for field in fields(Fault) if field.init} - {"action"}
    action = _make(_ACTIONS[name], {key: value for key, value in element.items() if key not in own | {"action"}}, name)
    return _make(Fault, {key: value for key, value in element.items() if key in own} | {"action": action}, name)


def _make(cls: type[_Type], values: Mapping[str, Any], name: str) -> _Type:
    """Make an object of a dataclass from values, each checked against its field."""
    hints = get_type_hints(cls)
    known = {field.name: field for field in fields(cls) if field.init}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{name} has no value {', '.join(unknown)}")
    for key, field in known.items():
        if key not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{key} is missing")
    return cls(**{key: _check(key, value, hints[key]) for key, value in values.items()})


def _check(key: str, value: object, hint: Any) -> object:
    """Return a value as its field holds it. Raises ValueError."""
    if key == "action":
        return value
    choices = get_args(hint) if get_origin(hint) in {Union, types.UnionType} else (hint,)
    for choice in choices:
        if get_origin(choice) is Literal and value in get_args(choice):
            return value
        if (
            get_origin(choice) is Mapping
            and isinstance(value, dict)
            and all(isinstance(v, str) for v in value.values())
        ):
            return value
        if isinstance(choice, type) and issubclass(choice, StrEnum):
            if isinstance(value, str) and value in set(choice):
                return choice(value)
        elif choice in _KINDS_OF_VALUES and (type(value) is choice or (choice is float and type(value) is int)):
            return value
    raise ValueError(f"{key}: {_as_json(value)} is not {' or '.join(map(_type_name, choices))}")


def _type_name(choice: Any) -> str:
    if choice in _KINDS_OF_VALUES:
        return _KINDS_OF_VALUES[choice]
    if get_origin(choice) is Mapping:
        return "an object of texts"
    return f"one of {', '.join(get_args(choice) or choice)}"


def _as_json(value: object) -> str:
    """Show a value as JSON would."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
