"""Demographics of subjects: names of fields, their types, and reading them from parameters or XML.

The names are those of XMLPathShortcuts and PopulateItem, the checks those of XFTValidator.
"""

import html
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from .subjects import Subject, Value

_ROOT = "xnat:subjectData/"
_DEMOGRAPHICS_PATH = "demographics[@xsi:type=xnat:demographicData]/"
_CUSTOM = re.compile(r"fields/field\[name=([^]]+)\]/field")
_NAMESPACE = "http://nrg.wustl.edu/xnat"
_CHOICE = ("dob", "yob", "age")
_CLEARED = "NULL"
_OWN = {
    "label": "label",
    "project": "project",
    "ID": "ID",
    "group": "group",
    "src": "src",
    "investigator/firstname": "pi_firstname",
    "investigator/lastname": "pi_lastname",
}
"""Fields of the subject itself: paths and short names."""
_NAMES = ("label", "project", "ID")


class InvalidValueError(ValueError):
    """Values that XNAT rejects, with its message."""


class DocumentError(ValueError):
    """An XML document that does not describe a subject."""


@dataclass(slots=True)
class SubjectValues:
    """What a request says about a subject, by short names."""

    names: dict[str, str] = field(default_factory=dict)
    """label, project, ID."""
    fields: dict[str, str] = field(default_factory=dict)
    custom: dict[str, str] = field(default_factory=dict)
    demographics: dict[str, str] = field(default_factory=dict)
    stopped: bool = False
    """Whether reading stopped at a path that XNAT does not know."""

    def put(self, name: str, value: str) -> None:
        """Set a value by a field's short name."""
        if name in _NAMES:
            self.names[name] = value
        elif name in DEMOGRAPHICS:
            # A later value moves to the end: of the three fields of a choice, the last one counts.
            self.demographics.pop(name, None)
            self.demographics[name] = value
        else:
            self.fields[name] = value

    def update(self, other: "SubjectValues") -> None:
        """Take over all values of another."""
        self.names |= other.names
        self.fields |= other.fields
        self.custom |= other.custom
        for name, value in other.demographics.items():
            self.put(name, value)


def values_from_params(params: Mapping[str, str]) -> SubjectValues:
    """Read parameters, which are short names or paths.

    Unknown short names are ignored. An unknown path ends the reading (FieldNotFoundException).
    """
    values = SubjectValues()
    for key, value in params.items():
        if (name := _field_name(key)) == "":
            continue
        if name is None:
            values.stopped = True
            break
        if custom := _CUSTOM.fullmatch(name):
            values.custom[custom[1]] = value
        elif value:
            values.put(name, value)
    return values


def _field_name(key: str) -> str | None:
    """Return the short name of a parameter's field, or a custom variable's path.

    Empty for a parameter that is not a field; None for a path that XNAT does not know.
    """
    if "/" not in key:
        known = key in _OWN.values() or (key in DEMOGRAPHICS and key != "employment")
        return key if known else ""
    if not key.startswith(_ROOT):
        return ""
    path = re.sub("['\"]", "", key.removeprefix(_ROOT))
    if _CUSTOM.fullmatch(path):
        return path
    name = path.removeprefix(_DEMOGRAPHICS_PATH)
    return name if name != path and name in DEMOGRAPHICS else _OWN.get(path)


def values_from_xml(data: bytes) -> SubjectValues:
    """Read an XML document. Raises DocumentError."""
    try:
        root = fromstring(data, forbid_dtd=True)
    except (ParseError, DefusedXmlException) as error:
        raise DocumentError(str(error)) from None
    if root.tag != f"{{{_NAMESPACE}}}Subject":
        raise DocumentError("Only xnat:Subject documents can be PUT to this address.")
    values = SubjectValues()
    for name in (*_NAMES, "group", "src"):
        if name in root.attrib:
            values.put(name, root.attrib[name])
    for element in root.iter():
        name, text = element.tag.rpartition("}")[2], (element.text or "").strip()
        if name in DEMOGRAPHICS:
            values.put(name, text)
        elif name in {"firstname", "lastname"}:
            values.put(f"pi_{name}", text)
        elif name == "field" and "name" in element.attrib:
            values.custom[element.attrib["name"]] = text
    return values


def update_subject(subject: Subject, values: SubjectValues, *, replace: bool = False) -> None:
    """Change all given fields of a subject, or none if one is invalid. Raises InvalidValueError.

    Other fields stay, unless the subject is to be replaced; NULL clears a field.
    """
    parsed: dict[str, Value] = {}
    invalid = []
    for name, text in values.demographics.items():
        try:
            if text != _CLEARED:
                parsed[name] = DEMOGRAPHICS[name](text)
        except ValueError as error:
            invalid.append(f"{_ROOT}{_DEMOGRAPHICS_PATH}{name} : {error}")
    if invalid:
        raise InvalidValueError("\n".join(invalid))
    if replace:
        subject.demographics.clear()
        subject.fields.clear()
        subject.custom.clear()
    for name in values.demographics:
        subject.demographics.pop(name, None)
        if name in parsed:
            # They are an xs:choice: a document holds one of the three, so a later one replaces the others.
            for other in _CHOICE if name in _CHOICE else ():
                subject.demographics.pop(other, None)
            subject.demographics[name] = parsed[name]
    for current, new in ((subject.fields, values.fields), (subject.custom, values.custom)):
        current.update(new)
        for name in [name for name, text in current.items() if text == _CLEARED]:
            del current[name]


def subject_xml(subject: Subject) -> str:
    """Return a subject as an XML document, which may be PUT again."""

    def elements(values: Mapping[str, Value]) -> str:
        return "".join(f"<xnat:{name}>{html.escape(str(value))}</xnat:{name}>" for name, value in values.items())

    names = {"ID": subject.id, "project": subject.project, "label": subject.label}
    names |= {name: subject.fields[name] for name in ("group", "src") if name in subject.fields}
    attributes = "".join(f' {name}="{html.escape(value)}"' for name, value in names.items())
    keys = ("firstname", "lastname")
    investigator = {name: subject.fields[f"pi_{name}"] for name in keys if f"pi_{name}" in subject.fields}
    parts = [f"<xnat:investigator>{elements(investigator)}</xnat:investigator>"] if investigator else []
    if subject.demographics:
        inner = elements(subject.demographics)
        parts.append(f'<xnat:demographics xsi:type="xnat:demographicData">{inner}</xnat:demographics>')
    if subject.custom:
        inner = "".join(
            f'<xnat:field name="{html.escape(name)}">{html.escape(value)}</xnat:field>'
            for name, value in subject.custom.items()
        )
        parts.append(f"<xnat:fields>{inner}</xnat:fields>")
    return (
        f'<xnat:Subject{attributes} xmlns:xnat="{_NAMESPACE}" '
        f'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">{"".join(parts)}</xnat:Subject>'
    )


def _text(text: str) -> Value:
    return text


def _one_of(*names: str) -> Callable[[str], Value]:
    known = {name.lower() for name in names}

    def check(text: str) -> Value:
        if text.strip().lower() not in known:
            raise ValueError(f"'{text}' Must Match Pre-Defined Values...({','.join(names)})")
        return text  # as it was sent: XNAT keeps its letter case

    return check


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d{1,10}", text.strip(), re.ASCII):
        raise ValueError("Must Be A Valid Integer")
    return int(text)


def _integer_to(most: int) -> Callable[[str], Value]:
    def check(text: str) -> Value:
        number = _integer(text)
        if not 0 <= number <= most:
            raise ValueError(f"'{text}' Must Be Between 0 And {most}")
        return number

    return check


def _number(text: str) -> Value:
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text.strip(), re.ASCII):
        raise ValueError("Must Be A Valid Float")
    return float(text)


# The formats, and what their three numbers are.
_DATES = (
    (re.compile(r"(\d+)-(\d+)-(\d+)", re.ASCII), ("year", "month", "day")),
    (re.compile(r"(\d+)/(\d+)/(\d+)", re.ASCII), ("month", "day", "year")),
    (re.compile(r"(\d+)\.(\d+)\.(\d+)", re.ASCII), ("month", "day", "year")),
    (re.compile(r"(\d{4})(\d\d)(\d\d)", re.ASCII), ("year", "month", "day")),
)


def parse_date(text: str) -> str:
    """Return a date as yyyy-MM-dd. A month or day that is too large carries over (SimpleDateFormat)."""
    for pattern, names in _DATES:
        if match := pattern.fullmatch(text.strip()):
            part = dict(zip(names, map(int, match.groups()), strict=True))
            months = part["year"] * 12 + part["month"] - 1
            try:
                return str(date(months // 12, months % 12 + 1, 1) + timedelta(days=part["day"] - 1))
            except (ValueError, OverflowError):
                break
    raise ValueError(f"'{text}' Must Be A Valid Date")


DEMOGRAPHICS: Mapping[str, Callable[[str], Value]] = {
    "dob": parse_date,
    "yob": _integer,
    "age": _integer,
    "gender": _one_of("male", "female", "other", "unknown", "M", "F"),
    "handedness": _one_of("left", "right", "ambidextrous", "unknown"),
    "ses": _integer,
    "education": _integer_to(30),
    "educationDesc": _text,
    "employment": _integer_to(3),
    "race": _text,
    "ethnicity": _text,
    "weight": _number,
    "height": _number,
    "gestational_age": _number,
    "post_menstrual_age": _number,
    "birth_weight": _number,
}
