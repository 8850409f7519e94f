"""Reads the values that requests give sessions and scans: short names and paths (XMLPathShortcuts, PopulateItem).

Only image sessions and their scans exist here, with those fields of xnat.xsd that importers and clients set.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .archive import ArchivedSession, Scan
from .demographics import InvalidValueError, parse_date

_CUSTOM = re.compile(r"fields/field\[name=([^]]+)\]/field", re.IGNORECASE)
_TYPE_NAMES = "mr pet ct us nm cr dx mg xa rf xc op es eeg rtImage otherDicom dx3DCraniofacial petmr"
_TYPES = _TYPE_NAMES.split()
SESSION_TYPES = {f"xnat:{name}SessionData".lower(): f"xnat:{name}SessionData" for name in _TYPES}
"""The types of sessions, by their names in lower case."""
SCAN_TYPES = {f"xnat:{name}ScanData".lower(): f"xnat:{name}ScanData" for name in [*_TYPES, "sc", "sr", "seg"]}
"""The types of scans, likewise."""
_SESSION_PARENTS = ("xnat:experimentdata", "xnat:subjectassessordata", "xnat:imagesessiondata")
_SESSION_FIELD_NAMES = """
    ID label project subject_ID UID date time duration delay note visit visit_id protocol version original
    acquisition_site modality session_type scanner operator dcmAccessionNumber dcmPatientId dcmPatientName
    dcmPatientBirthDate dcmPatientWeight coil fieldStrength marker stabilization studyType patientID patientName
    age weight height
"""
_SESSION_PATHS = {name.lower(): name for name in _SESSION_FIELD_NAMES.split()} | {
    "investigator/firstname": "pi_firstname",
    "investigator/lastname": "pi_lastname",
    "validation/method": "validation_method",
    "validation/status": "validation_status",
    "validation/date": "validation_date",
    "validation/notes": "validation_notes",
}
_SESSION_NAMES = {name: name for name in _SESSION_PATHS.values()} | {"studyInstanceUID": "UID"}
_SCAN_PARENTS = ("xnat:imagescandata",)
_SCAN_FIELD_NAMES = """
    ID type UID note quality condition series_description documentation scanner modality frames startTime operator
    coil fieldStrength marker stabilization image_session_ID requestedProcedure
"""
_SCAN_FIELDS = _SCAN_FIELD_NAMES.split()
_SCAN_PATHS = {name.lower(): name for name in _SCAN_FIELDS}
_SCAN_NAMES = {name: name for name in _SCAN_FIELDS} | {"scanTime": "startTime"}
_DATES = frozenset({"date", "validation_date", "dcmPatientBirthDate"})
_CLEARED = "NULL"


@dataclass(slots=True)
class ItemValues:
    """What a request says about a session or a scan, by short names."""

    fields: dict[str, str] = field(default_factory=dict)
    custom: dict[str, str] = field(default_factory=dict)
    stopped: bool = False
    """Whether reading stopped at a path that XNAT does not know."""

    def take(self, name: str) -> str:
        """Remove a value and return it, or an empty text."""
        return self.fields.pop(name, "")


def session_values(params: Mapping[str, str], xsi_type: str) -> ItemValues:
    """Read what parameters say about a session of a type. Raises InvalidValueError."""
    return _values(params, (*_SESSION_PARENTS, xsi_type.lower()), _SESSION_PATHS, _SESSION_NAMES)


def scan_values(params: Mapping[str, str], xsi_type: str) -> ItemValues:
    """Read what parameters say about a scan of a type. Raises InvalidValueError."""
    return _values(params, (*_SCAN_PARENTS, xsi_type.lower()), _SCAN_PATHS, _SCAN_NAMES)


def _values(
    params: Mapping[str, str], types: tuple[str, ...], paths: Mapping[str, str], names: Mapping[str, str]
) -> ItemValues:
    """Read parameters. Unknown short names and other types are ignored; an unknown path ends the reading."""
    values = ItemValues()
    for key, value in params.items():
        kind, slash, path = key.partition("/")
        if not slash:
            if kind in names:
                values.fields[names[kind]] = value
            continue
        if kind.lower() not in types:
            continue
        if custom := _CUSTOM.fullmatch(re.sub("['\"]", "", path)):
            values.custom[custom[1]] = value
        elif path.lower() in paths:
            values.fields[paths[path.lower()]] = value
        elif path.lower().startswith("parameters/"):
            values.fields[path] = value
        else:
            values.stopped = True
            break
    _check_dates(values.fields, types[0])
    return values


def _check_dates(fields: dict[str, str], kind: str) -> None:
    for name in _DATES & fields.keys():
        if fields[name] not in {"", _CLEARED}:
            try:
                fields[name] = parse_date(fields[name])
            except ValueError as error:
                raise InvalidValueError(f"{kind}/{name} : {error}") from None


def update_session(session: ArchivedSession, values: ItemValues) -> None:
    """Set a session's fields; NULL clears one. Identity (ID, label, project, subject) is the caller's."""
    fields = {name: "" if value == _CLEARED else value for name, value in values.fields.items()}
    session.study_uid = fields.pop("UID", session.study_uid)
    session.date = fields.pop("date", session.date)
    birth_date = fields.pop("dcmPatientBirthDate", None)
    session.patient = session.patient._replace(
        id=fields.pop("dcmPatientId", session.patient.id),
        name=fields.pop("dcmPatientName", session.patient.name),
        birth_date=session.patient.birth_date if birth_date is None else birth_date.replace("-", ""),
    )
    _merge(session.fields, fields)
    _merge(session.custom, {name: "" if value == _CLEARED else value for name, value in values.custom.items()})


def update_scan(scan: Scan, values: ItemValues) -> None:
    """Set a scan's fields; NULL clears one."""
    fields = {name: "" if value == _CLEARED else value for name, value in values.fields.items()}
    scan.series = replace(
        scan.series,
        uid=fields.pop("UID", scan.series.uid),
        modality=fields.pop("modality", scan.series.modality),
        description=fields.pop("series_description", scan.series.description),
    )
    _merge(scan.fields, fields)


def _merge(current: dict[str, str], new: Mapping[str, str]) -> None:
    current.update(new)
    for name in [name for name, value in current.items() if not value]:
        del current[name]
