"""What a DICOM header tells of its patient, as values of XNAT's fields. What it tells badly is left out."""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import date

from asyncimport.demographics.fields import (
    BIRTH,
    FIELDS,
    Field,
    field_of,
    has_reference,
    local_day,
    plausible_date,
)
from asyncimport.errors import UsageError

_SEXES = {"M": "male", "F": "female", "O": "other"}
# What is written where a date must stand and nobody knows it.
_PLACEHOLDERS = {date(1900, 1, 1)}
_AGE = re.compile(r"([0-9]{3})Y")
_NUMBER = re.compile(r"\+?[0-9]{1,6}(?:\.[0-9]*)?")
# XNAT's pages show heights in inches and weights in pounds (xnat_subjectData_addtl_demographics.vm); DICOM has metres
# and kilograms (PS3.3 C.7.2.2).
_INCH = 0.0254
_POUND = 0.45359237


def header_keywords(wanted: Sequence[str]) -> frozenset[str]:
    """Return the DICOM keywords that fields are filled from. Raises: UsageError for a field that no header gives."""
    return frozenset(one.keyword for one in _wanted(wanted))


def header_fields(wanted: Sequence[str]) -> list[str]:
    """Return XNAT's names of the wanted fields, each once. Raises: UsageError for a field that no header gives."""
    return list(dict.fromkeys(one.name for one in _wanted(wanted)))


def header_values(fields: Mapping[str, str], wanted: Sequence[str], *, today: date | None = None) -> dict[str, str]:
    """Return what a header says of the wanted fields, each by itself.

    `fields` maps keywords to texts. Partial, impossible and placeholder values are as good as none.
    Raises: UsageError for a field that no header gives.
    """
    day = today or local_day()
    found = {one.name: _value(one.name, fields.get(one.keyword, "").strip(), day) for one in _wanted(wanted)}
    return {name: value for name, value in found.items() if value}


def agreed_values(said: Mapping[str, Collection[str]], wanted: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return what all headers agree on of all that they say of each field, and the fields that they contradict in.

    Dob, yob and age are one thing: of these it is the first wanted one that any header gives, unless they contradict
    each other in any of them.
    """
    names = header_fields(wanted)
    contradicted = tuple(name for name in names if len(set(said.get(name, ()))) > 1)
    left_out = {*contradicted, *(BIRTH if set(BIRTH) & set(contradicted) else ())}
    found: dict[str, str] = {}
    for name in names:
        if name not in left_out and said.get(name) and not (name in BIRTH and found.keys() & set(BIRTH)):
            (found[name],) = set(said[name])
    return found, contradicted


def _wanted(names: Sequence[str]) -> list[Field]:
    found = [field_of(name) for name in names]
    if unknown := [name for name, one in zip(names, found, strict=True) if one is None or not one.keyword]:
        known = ", ".join(one.name for one in FIELDS.values() if one.keyword)
        raise UsageError(f"no header gives {', '.join(unknown)}", hint=f"headers give {known}")
    return [one for one in found if one is not None]


def _value(name: str, text: str, today: date) -> str:
    match name:
        case "gender":
            return _SEXES.get(text.upper(), "")
        case "dob" | "yob":
            born = plausible_date(text, today) if text.isdecimal() else None
            if born is None or born in _PLACEHOLDERS:
                return ""
            return born.isoformat() if name == "dob" else str(born.year)
        case "age":
            age = _AGE.fullmatch(text)
            return str(int(age[1])) if age and 0 < int(age[1]) <= FIELDS["age"].highest else ""
        case "height":
            return _converted(text, 0.2, 2.7, _INCH)
        case "weight":
            return _converted(text, 0.2, 500, _POUND)
        case _:
            is_one = text.isprintable() and "\\" not in text and not has_reference(text)
            return text if is_one and text.upper() != "NULL" else ""


def _converted(text: str, lowest: float, highest: float, unit: float) -> str:
    """Return a number in another unit, to a tenth; "" for what no person measures."""
    if not _NUMBER.fullmatch(text) or not lowest <= float(text) <= highest:
        return ""
    return f"{float(text) / unit:.1f}".removesuffix(".0")
