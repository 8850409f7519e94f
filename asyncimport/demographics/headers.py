"""Values of XNAT's fields from a DICOM header. Partial and impossible values are left out."""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import date

from asyncimport.demographics.fields import BIRTH, FIELDS, Field, field_of, has_reference, local_day, plausible_date
from asyncimport.errors import UsageError
from asyncimport.model.texts import did_you_mean

_SEXES = {"M": "male", "F": "female", "O": "other"}
# Dates that some systems write instead of an unknown one.
_PLACEHOLDERS = {date(1900, 1, 1)}
_AGE = re.compile(r"([0-9]{3})Y")
_NUMBER = re.compile(r"\+?[0-9]{1,6}(?:\.[0-9]*)?")
# XNAT's pages show heights in inches and weights in pounds (xnat_subjectData_addtl_demographics.vm); DICOM has metres
# and kilograms (PS3.3 C.7.2.2).
_INCH = 0.0254
_POUND = 0.45359237


def header_keywords(wanted: Sequence[str]) -> frozenset[str]:
    """Return the DICOM keywords of fields. Raises: UsageError for a field that headers do not have."""
    return frozenset(one.keyword for one in _wanted(wanted))


def header_fields(wanted: Sequence[str]) -> list[str]:
    """Return XNAT's names of fields, each once. Raises: UsageError for a field that headers do not have."""
    return list(dict.fromkeys(one.name for one in _wanted(wanted)))


def header_values(fields: Mapping[str, str], wanted: Sequence[str], *, today: date | None = None) -> dict[str, str]:
    """Return the values of the wanted fields; `fields` maps keywords to texts.

    Partial, impossible and placeholder values are left out. Raises: UsageError for a field that headers do not have.
    """
    day = today or local_day()
    found = {one.name: _value(one.name, fields.get(one.keyword, "").strip(), day) for one in _wanted(wanted)}
    return {name: value for name, value in found.items() if value}


def agreed_values(said: Mapping[str, Collection[str]], wanted: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the values on which all headers agree, and the fields in which they contradict each other.

    `said` has all values of each field. Of dob, yob and age, only the first wanted one with a value counts, and none if
    headers contradict each other in any of them.
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
        near = did_you_mean(unknown[0], (one.name for one in FIELDS.values() if one.keyword))
        raise UsageError(
            f"--subjects-from-dicom: headers do not have {', '.join(unknown)}",
            hint=f"{near}fields that headers have: {known}",
        )
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
    """Return a number in another unit, with one decimal; "" if it is impossible for a person."""
    if not _NUMBER.fullmatch(text) or not lowest <= float(text) <= highest:
        return ""
    return f"{float(text) / unit:.1f}".removesuffix(".0")
