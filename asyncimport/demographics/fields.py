"""The fields of a subject in XNAT (XMLPathShortcuts), and what each may hold (xnat:demographicData).

Values are checked here, because XNAT silently takes 31/01/1970 for another day, and ignores a misspelt field.
"""

import html
import re
from collections.abc import Mapping
from dataclasses import field
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum

from asyncimport.errors import UsageError
from asyncimport.model.csv_table import normalized
from asyncimport.model.record import record
from asyncimport.model.texts import character_text

# The value with which XNAT clears a field (GenericItemObject.setProperties).
NULL = "NULL"
# A subject has one of these: they are a choice in XNAT's schema.
BIRTH = ("dob", "yob", "age")

_LONGEST_TEXT = 255
_FIRST_YEAR = 1850
_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})|([0-9]{4})([0-9]{2})([0-9]{2})")
# pandas writes whole numbers with `.0` if the column has gaps.
_INTEGER = re.compile(r"([0-9]{1,9})(?:\.0+)?")
_FLOAT = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_COMMA = re.compile(r"[0-9]+,[0-9]+")


class Kind(StrEnum):
    """The type of the values of a field."""

    WORD = "word"
    DATE = "date"
    INTEGER = "integer"
    FLOAT = "float"
    TEXT = "text"


@record
class Field:
    """A field by its name in XNAT, with other names of its column, and its words or bounds.

    `words` maps spellings in lower case to XNAT's words; `keyword` is the DICOM attribute that it can be read from, or
    "".
    """

    name: str
    kind: Kind
    aliases: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict, hash=False)
    lowest: float = 0
    highest: float = 0
    keyword: str = ""


def _words(*names: str) -> dict[str, str]:
    """Return words by their names and by their initials."""
    return {spelling: name for name in names for spelling in (name, name[0])}


_BORN = "PatientBirthDate"
_SEXES = _words("male", "female", "other", "unknown")
_HANDS = _words("left", "right", "ambidextrous", "unknown")

FIELDS: Mapping[str, Field] = {
    one.name: one
    for one in (
        Field("gender", Kind.WORD, ("sex", "PatientSex"), _SEXES, keyword="PatientSex"),
        Field("dob", Kind.DATE, ("birth_date", "date_of_birth", "birthday", _BORN), keyword=_BORN),
        Field("yob", Kind.INTEGER, ("birth_year", "year_of_birth"), lowest=_FIRST_YEAR, highest=9999, keyword=_BORN),
        Field("age", Kind.INTEGER, ("age_years",), highest=130, keyword="PatientAge"),
        Field("handedness", Kind.WORD, ("hand", "dominant_hand"), _HANDS),
        Field("education", Kind.INTEGER, ("education_years", "years_of_education"), highest=30),
        Field("educationDesc", Kind.TEXT, ("education_description",)),
        Field("race", Kind.TEXT),
        Field("ethnicity", Kind.TEXT, ("ethnic_group",), keyword="EthnicGroup"),
        Field("height", Kind.FLOAT, ("height_in", "height_inches"), lowest=1, highest=300, keyword="PatientSize"),
        Field("weight", Kind.FLOAT, ("weight_lb", "weight_lbs"), lowest=0.1, highest=1500, keyword="PatientWeight"),
        Field("ses", Kind.INTEGER, ("socioeconomic_status",), highest=100),
        Field("gestational_age", Kind.FLOAT, highest=400),
        Field("post_menstrual_age", Kind.FLOAT, ("pma",), highest=10_000),
        Field("birth_weight", Kind.FLOAT, lowest=0.1, highest=20_000),
        Field("group", Kind.TEXT, ("cohort",)),
        Field("src", Kind.TEXT, ("source",)),
    )
}

_FIELD_OF = {normalized(name): one for one in FIELDS.values() for name in (one.name, *one.aliases)}


def field_of(name: str) -> Field | None:
    """Return the field of a column; case, blanks and underscores do not count."""
    return _FIELD_OF.get(normalized(name))


def canonical(one: Field, text: str, today: date) -> str:
    """Return a value as it is sent. Raises: UsageError, which does not show the value."""
    match one.kind:
        case Kind.WORD:
            if word := one.words.get(text.casefold()):
                return word
            raise UsageError(
                "not one of its words", hint=f"write {one.name} as {', '.join(dict.fromkeys(one.words.values()))}"
            )
        case Kind.DATE:
            return _date(text, today).isoformat()
        case Kind.INTEGER:
            found = _INTEGER.fullmatch(text)
            if found is None:
                raise UsageError("not a whole number", hint=f"{one.name}: {_bounds(one, today)}")
            return str(int(_bounded(one, found[1], today)))
        case Kind.FLOAT:
            if _COMMA.fullmatch(text):
                raise UsageError("a decimal comma, which XNAT does not read", hint="write numbers as 70.5")
            if not _FLOAT.fullmatch(text):
                raise UsageError("not a number", hint="write numbers as 70.5, without units")
            return f"{_bounded(one, text, today).normalize():f}"
        case Kind.TEXT:
            return _text(text)


def has_reference(text: str) -> bool:
    """Whether a text has an XML or HTML reference such as `&amp;`, which would look like XNAT's own escaping."""
    return html.unescape(text) != text


def local_day() -> date:
    """Return today's date where this machine is."""
    return datetime.now().astimezone().date()


def plausible_date(text: str, today: date) -> date | None:
    """Return a birth date, YYYY-MM-DD or YYYYMMDD, as a date; None if it cannot be one."""
    found = _DATE.fullmatch(text)
    if found is None:
        return None
    year, month, day = (int(part) for part in found.groups() if part is not None)
    try:
        born = date(year, month, day)
    except ValueError:
        return None
    return born if year >= _FIRST_YEAR and born <= today else None


def _date(text: str, today: date) -> date:
    if not _DATE.fullmatch(text):
        raise UsageError(
            "not a date such as 1970-01-31",
            hint="write dates as YYYY-MM-DD: XNAT silently takes other orders for another day",
        )
    born = plausible_date(text, today)
    if born is None:
        raise UsageError("not a valid birth date", hint=f"give a date between {_FIRST_YEAR} and today")
    return born


def _bounded(one: Field, text: str, today: date) -> Decimal:
    value = Decimal(text)
    if not one.lowest <= value <= (today.year if one.name == "yob" else one.highest):
        raise UsageError("out of bounds", hint=f"{one.name}: {_bounds(one, today)}")
    return value


def _bounds(one: Field, today: date) -> str:
    return f"{one.lowest:g} to {today.year if one.name == 'yob' else one.highest:g}"


def _text(text: str) -> str:
    odd = next((one for one in text if not one.isprintable()), "")
    if odd:
        raise UsageError(f"the character {character_text(odd)}", hint="write texts in one line")
    if len(text) > _LONGEST_TEXT:
        raise UsageError(f"{len(text)} characters", hint=f"shorten it: XNAT keeps {_LONGEST_TEXT} at most")
    if has_reference(text):
        raise UsageError("a character reference, such as &amp;", hint="write the character itself")
    return text
