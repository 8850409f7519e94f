"""Parsed JSON as dataclasses: each value is checked against its field, and each field is described by a JSON schema."""

import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, InitVar, fields, is_dataclass
from enum import StrEnum
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

_Type = TypeVar("_Type")
_SCALARS: Mapping[Any, tuple[str, str]] = {
    int: ("a whole number", "integer"),
    float: ("a number", "number"),
    str: ("a text", "string"),
    bool: ("true or false", "boolean"),
    types.NoneType: ("null", "null"),
}
"""How messages and schemas call each type."""


def hints_of(cls: type) -> Mapping[str, Any]:
    """Return the types of the values that a dataclass is made of, by name."""
    hints = get_type_hints(cls)
    known = cls.__dataclass_fields__.values()  # type: ignore[attr-defined]
    made = {field.name for field in fields(cls) if field.init} | {
        field.name for field in known if isinstance(hints[field.name], InitVar)
    }
    return {name: hint.type if isinstance(hint, InitVar) else hint for name, hint in hints.items() if name in made}


def build(cls: type[_Type], value: object, where: str = "") -> _Type:
    """Make an object of a dataclass from a JSON object. Raises ValueError, with a line for each mistake."""
    if not isinstance(value, dict):
        raise ValueError(_at(where, f"{as_json(value)} is not an object"))  # noqa: TRY004 - what a file says
    return cls(**check_values(hints_of(cls), value, where, required=_required(cls)))


def check_values(
    hints: Mapping[str, Any], values: Mapping[str, object], where: str = "", *, required: Sequence[str] = ()
) -> dict[str, Any]:
    """Return values as fields of these types hold them. Raises ValueError, with a line for each mistake."""
    mistakes = [_at(where, f"there is no value {as_json(name)}") for name in values if name not in hints]
    mistakes += [_at(where, f"{name} is missing") for name in required if name not in values]
    checked = {}
    for name, value in values.items():
        if name in hints:
            try:
                checked[name] = _check(hints[name], value, f"{where}.{name}".lstrip("."))
            except ValueError as error:
                mistakes += str(error).splitlines()
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return checked


def schema_of(hint: Any) -> dict[str, Any]:
    """Return the JSON schema of a type; a dataclass has its docstring and those of its fields' types."""
    if hint in _SCALARS:
        return {"type": _SCALARS[hint][1]}
    if is_dataclass(hint):
        cls = cast("type", hint)
        return object_schema(hints_of(cls), required=_required(cls))
    if get_origin(hint) is Literal:
        return {"enum": list(get_args(hint))}
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return {"enum": [one.value for one in hint]}
    if get_origin(hint) is tuple:
        return {"type": "array", "items": schema_of(get_args(hint)[0])}
    if get_origin(hint) is Mapping:
        return {"type": "object", "additionalProperties": schema_of(get_args(hint)[1])}
    if get_origin(hint) in {Union, types.UnionType}:
        return {"anyOf": [schema_of(choice) for choice in get_args(hint)]}
    return {}


def object_schema(hints: Mapping[str, Any], *, required: Sequence[str] = ()) -> dict[str, Any]:
    """Return the JSON schema of an object with values of these types."""
    properties = {name: schema_of(hint) for name, hint in hints.items()}
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


def is_json_type(hint: Any) -> bool:
    """Return whether values of a type can be written in JSON."""
    if get_origin(hint) in {Union, types.UnionType}:
        return all(map(is_json_type, get_args(hint)))
    return hint in _SCALARS or get_origin(hint) is Literal


def as_json(value: object) -> str:
    """Show a value as JSON would, but not more of it than fits into a line."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _required(cls: type) -> list[str]:
    return [
        field.name
        for field in fields(cls)
        if field.init and field.default is MISSING and field.default_factory is MISSING
    ]


def _at(where: str, text: str) -> str:
    return f"{where}: {text}" if where else text


def _check(hint: Any, value: object, where: str) -> object:
    """Return a value as its field holds it. Raises ValueError."""
    choices = get_args(hint) if get_origin(hint) in {Union, types.UnionType} else (hint,)
    for choice in choices:
        if choice in _SCALARS and (type(value) is choice or (choice is float and type(value) is int)):
            return value
        if get_origin(choice) is Literal and value in get_args(choice):
            return value
        if isinstance(choice, type) and issubclass(choice, StrEnum) and isinstance(value, str) and value in set(choice):
            return choice(value)
        if is_dataclass(choice) and isinstance(value, dict):
            return build(cast("type[object]", choice), value, where)
        if get_origin(choice) is tuple and isinstance(value, list):
            return _check_list(get_args(choice)[0], value, where)
        if get_origin(choice) is Mapping and isinstance(value, dict):
            return {name: _check(get_args(choice)[1], one, f"{where}.{name}") for name, one in value.items()}
    raise ValueError(_at(where, f"{as_json(value)} is not {' or '.join(map(_type_name, choices))}"))


def _check_list(hint: Any, values: list[object], where: str) -> tuple[object, ...]:
    checked, mistakes = [], []
    for number, value in enumerate(values, 1):
        try:
            checked.append(_check(hint, value, f"{where} {number}"))
        except ValueError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return tuple(checked)


def _type_name(choice: Any) -> str:
    if choice in _SCALARS:
        return _SCALARS[choice][0]
    if is_dataclass(choice) or get_origin(choice) is Mapping:
        return "an object"
    if get_origin(choice) is tuple:
        return "a list"
    return f"one of {', '.join(map(str, get_args(choice) or choice))}"
