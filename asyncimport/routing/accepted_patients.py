"""A table of people that a person has compared: two spellings of one patient, under one PatientID.

    patient_id,name_1,birth_date_1,name_2,birth_date_2
    4711,Doe^Jane,19500101,Roe^Jane,19500101

A row accepts these two and nobody else: a third name or birth date under that PatientID needs a row with each of them.
No message holds a value, as these are patients' data.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import field
from itertools import zip_longest

from asyncimport.errors import UsageError
from asyncimport.model.csv_table import normalized, records, text_of, unescape_cell
from asyncimport.model.files import Patient
from asyncimport.model.record import record
from asyncimport.routing.label_map import is_shortened_number
from asyncimport.routing.patients import differ, digest_patient, patient_difference, patient_of
from asyncimport.routing.plan_file import day_of

OPTION = "--accept-patients"
COLUMNS = ("patient_id", "name_1", "birth_date_1", "name_2", "birth_date_2", "issuer")
_NEEDED = ("patient_id", "name_1", "name_2")
# Over 100,000 pairs: a larger file is no table that a person has checked.
MAX_BYTES = 16 * 1024 * 1024


@record
class AcceptedPatients:
    """Pairs of patients (digests) that are one person, by PatientID."""

    _pairs: Mapping[str, Sequence[tuple[Patient, Patient]]] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, data: bytes, encoding: str = "") -> "AcceptedPatients":
        """Parse a table. Raises: UsageError with the line."""
        if len(data) > MAX_BYTES:
            raise UsageError(
                f"{OPTION}: the file has more than {MAX_BYTES >> 20} MiB", hint="name the table of pairs, or split it"
            )
        lines = records(text_of(data, encoding), {normalized(name) for name in COLUMNS}, OPTION)
        number, header = next(lines, (1, []))
        places = _places(number, header)
        pairs: dict[str, dict[tuple[Patient, Patient], None]] = defaultdict(dict)
        for number, cells in lines:
            if len(cells) != len(header):
                raise _error(number, f"{len(cells)} cells instead of {len(header)}", "check commas and quotes")
            values = {name: unescape_cell(cells[place].strip()) for name, place in places.items()}
            pair = _pair(number, values)
            pairs[pair[0].id][pair] = None
        if not pairs:
            raise UsageError(f"{OPTION}: no line below the header", hint="write a line for each pair, or leave it out")
        return cls({patient_id: tuple(found) for patient_id, found in pairs.items()})

    def accepts(self, one: Patient, other: Patient) -> bool:
        """Whether a row names these two (digests), and states all in which they differ."""
        return any(
            _fits(first, second, one, other) or _fits(first, second, other, one)
            for first, second in self._pairs.get(one.id, ())
        )


NOBODY = AcceptedPatients()


def _fits(first: Patient, second: Patient, one: Patient, other: Patient) -> bool:
    if not (_is(first, one) and _is(second, other)):
        return False
    groups = (patient.name.split("=") for patient in (one, other, first, second))
    names = zip_longest(*groups, fillvalue="")
    if any(differ(mine, theirs) and not (stated and stated_too) for mine, theirs, stated, stated_too in names):
        return False
    return not differ(one.birth_date, other.birth_date) or bool(first.birth_date and second.birth_date)


def _is(stated: Patient, found: Patient) -> bool:
    """Whether a patient of the table is a patient that was found; a name that was found must be in the table."""
    if stated.id != found.id or differ(stated.issuer, found.issuer) or (found.name and not stated.name):
        return False
    return not patient_difference(stated, found)


def _places(number: int, header: Sequence[str]) -> Mapping[str, int]:
    known = {normalized(name): name for name in COLUMNS}
    places: dict[str, int] = {}
    for place, text in enumerate(header):
        name = known.get(normalized(text))
        if name is None:
            raise _error(number, f"column {place + 1} has no name of this table", f"name columns {', '.join(COLUMNS)}")
        if name in places:
            raise _error(number, f"two columns {name}", "keep one of them")
        places[name] = place
    if lacking := [name for name in _NEEDED if name not in places]:
        raise _error(number, f"no column {lacking[0]}", f"begin the table with a line {','.join(COLUMNS[:5])}")
    return places


def _pair(number: int, values: Mapping[str, str]) -> tuple[Patient, Patient]:
    patient_id = values["patient_id"]
    if not patient_id:
        raise _error(number, "no patient_id", "people without one cannot be accepted: tell them apart in another way")
    if is_shortened_number(patient_id):
        raise _error(
            number,
            "the patient_id looks like a large number that a spreadsheet has shortened",
            "format the column as text, and write the PatientID of the headers",
        )

    def patient(which: str) -> Patient:
        date = values.get(f"birth_date_{which}", "")
        day = day_of(date)
        if date and day is None:
            raise _error(number, f"birth_date_{which} is not a date", "write it as in the headers: 19500131")
        fields = {"PatientID": patient_id, "PatientName": values[f"name_{which}"], "PatientBirthDate": day or ""}
        return digest_patient(patient_of({**fields, "IssuerOfPatientID": values.get("issuer", "")}))

    first, second = patient("1"), patient("2")
    if not patient_difference(first, second):
        raise _error(number, "the two do not differ", "write names and birth dates of both as in the headers")
    return first, second


def _error(number: int, what: str, hint: str) -> UsageError:
    return UsageError(f"{OPTION}, line {number}: {what}", hint=hint)
