"""The schema of what commands write with `-o json`."""

import json
from pathlib import Path
from typing import Any

import jsonschema

import asyncimport.reporting

RESULTS: dict[str, Any] = json.loads(
    (Path(asyncimport.reporting.__file__).parent / "schema" / "results.json").read_text("utf-8")
)
_VALIDATOR = jsonschema.Draft202012Validator(RESULTS)


def check_result(found: Any) -> None:
    """Check a result by the schema. Raises: ValidationError."""
    _VALIDATOR.validate(found)
