"""Reads faults from parsed JSON."""

from typing import Any

from ..site.json_values import as_json, build, check_values, hints_of, object_schema, schema_of
from .actions import NAMES, Tell
from .schedule import Fault

_ACTIONS = {name: action for name, action in NAMES.items() if action is not Tell}
_SELECTION = {name: hint for name, hint in hints_of(Fault).items() if name != "action"}
"""What selects the requests of a fault."""


def faults_from(data: object) -> list[Fault]:
    """Return the faults of a parsed JSON list, in its order. Raises ValueError, with a line for each mistake.

    An element has a `kind`, an `action`, what selects requests (`nth`, `times`, `share`, `seed`, `path`), and the
    action's own values:

        [{"kind": "import", "action": "status", "status": 503, "headers": {"Retry-After": "1"}, "nth": 3, "times": 2},
         {"kind": "any", "action": "reset", "effect": true, "share": 0.05, "seed": 1}]
    """
    if not isinstance(data, list):
        raise ValueError(f"faults are a list, not {as_json(data)}")  # noqa: TRY004 - what a file says, not what code does
    faults, mistakes = [], []
    for number, element in enumerate(data, 1):
        try:
            faults.append(_fault(element))
        except ValueError as error:
            mistakes.append(f"fault {number}: {error}")
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return faults


def fault_schema() -> dict[str, Any]:
    """Return the JSON schema of a fault: one of the actions, with what selects its requests."""
    kinds = []
    for name, action in sorted(_ACTIONS.items()):
        own = schema_of(action)
        schema = object_schema(_SELECTION, required=["kind", "action", *own["required"]])
        schema["properties"] |= {"action": {"const": name}, **own["properties"]}
        kinds.append(schema)
    return {"oneOf": kinds}


def _fault(element: object) -> Fault:
    if not isinstance(element, dict):
        raise ValueError(f"a fault is an object, not {as_json(element)}")  # noqa: TRY004 - what a file says
    name = element.get("action")
    if not isinstance(name, str) or name not in _ACTIONS:
        raise ValueError(f"action: {as_json(name)} is none of {', '.join(sorted(_ACTIONS))}")
    rest = {key: value for key, value in element.items() if key not in {"action", *_SELECTION}}
    action = build(_ACTIONS[name], rest)
    selection = {key: value for key, value in element.items() if key in _SELECTION}
    return Fault(action=action, **check_values(_SELECTION, selection, required=["kind"]))
