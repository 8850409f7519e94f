"""What the rows of a plan were made for, compared with what is found: a row binds its patient, its date, its count.

A plan may be edited, and the source may change after it was made. Pure: no disk. What is told names lines and columns;
of the values only a key that nearly matches, so that a zero that a spreadsheet has dropped can be seen.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from asyncimport.model.texts import nfc
from asyncimport.routing.plan_file import Key, KeyKind, PlanRow, as_written, day_of

_SEVERAL = "\\"
"""What parts several PatientIDs of one study in a cell: DICOM allows it in none (PS3.5 6.2, LO)."""


class StudyHeader(NamedTuple):
    """What a header says of its study, as far as a row may bind it; "" for nothing."""

    patient_id: str
    issuer: str
    study_date: str
    accession_number: str

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> "StudyHeader":
        """Take it from the fields of a header, in composed form, as the cells of a plan are read."""
        names = ("PatientID", "IssuerOfPatientID", "StudyDate", "AccessionNumber")
        return cls(*(nfc(fields.get(name, "").strip()) for name in names))


@dataclass(frozen=True, slots=True)
class FoundStudy:
    """What is there of a study: its headers, each once, and how many instances (None: it is still being written)."""

    study_uid: str
    headers: Collection[StudyHeader] = field(repr=False)
    files: int | None

    def patient_cells(self) -> tuple[str, str]:
        """Return PatientID and issuer as a row has them."""
        return (
            _SEVERAL.join(sorted({header.patient_id for header in self.headers} - {""})),
            _SEVERAL.join(sorted({header.issuer for header in self.headers} - {""})),
        )


def differences(row: PlanRow, study: FoundStudy) -> Iterator[str]:
    """Say what a row was made for, where that is not what is found. Empty cells bind nothing."""
    for column, made_for, found in (
        ("patient_id", row.patient_id, {header.patient_id for header in study.headers}),
        ("issuer", row.issuer, {header.issuer for header in study.headers}),
    ):
        # What only some of the files say of their patient is no other patient.
        if made_for.strip() and not {as_written(value) for value in found - {""}} <= set(_parts(made_for)):
            yield f"its {column} is not that of the study"
        elif made_for.strip() and found == {""}:
            yield f"it has a {column}, and the study has none"
    dates = {header.study_date for header in study.headers}
    if row.study_date.strip() and row.study_date not in {as_written(date) for date in dates}:
        day = day_of(row.study_date)
        if day is None or day not in {day_of(date) for date in dates}:
            yield "its study_date is not that of the study"
    if row.files is not None and study.files is not None and row.files != study.files:
        is_more = "has grown" if study.files > row.files else "is no longer whole"
        yield f"it was made for {row.files:,} files, and {study.files:,} are there: the study {is_more}"


def _parts(cell: str) -> list[str]:
    # A character that is spelt out has a backslash too.
    return [cell.strip(), *(part.strip() for part in cell.split(_SEVERAL))]


def nearest_study(row: PlanRow, studies: Sequence[FoundStudy]) -> str:
    """Name the study that a row may mean whose key matches none; "" where nothing comes near."""
    for study in studies:
        for header in study.headers:
            if (near := _near(row.key, study.study_uid, header)) is not None:
                return near
    return ""


def _near(key: Key, study_uid: str, header: StudyHeader) -> str | None:
    where = f"of study {study_uid}"
    match key.kind:
        case KeyKind.STUDY_UID:
            if _loosely(study_uid) == _loosely(key.values[0]) or study_uid.startswith(f"{key.values[0]}."):
                return f"there is a study {study_uid}"
        case KeyKind.ACCESSION_NUMBER:
            if _loosely(header.accession_number) == _loosely(key.values[0]):
                return f"the accession number {where} is {header.accession_number}"
        case KeyKind.PATIENT_ID_AND_STUDY_DATE:
            patient_id, date = key.values
            if _loosely(header.patient_id) != _loosely(patient_id):
                return None
            if day_of(header.study_date) == date:
                return f"the patient ID {where} is {header.patient_id}"
            if header.patient_id == patient_id:
                return f"the date {where} of this patient is {header.study_date or 'empty'}"
    return None


def _loosely(text: str) -> str:
    """Return what spreadsheets and people leave of an identifier: no zeros in front, no case, no blanks and dashes."""
    return "".join(one for one in text.casefold() if one.isalnum() or one == ".").lstrip("0")
