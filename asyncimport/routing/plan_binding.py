"""Compare the rows of a plan with the studies of the source: a row binds patient, date and number of files.

A plan may be edited, and the source may change after the plan was made. Messages name lines and columns, but no values
except a key that nearly matches, which shows a zero that a spreadsheet has dropped. Pure: no disk.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import field
from typing import NamedTuple

from asyncimport.model.record import record
from asyncimport.model.texts import counted, nfc
from asyncimport.routing.plan_file import Key, KeyKind, PlanRow, as_written, day_of

_SEVERAL = "\\"
"""Separates several PatientIDs of one study in a cell; no PatientID contains it (PS3.5 6.2, LO)."""


class StudyHeader(NamedTuple):
    """The fields of a header that a row may bind; "" if empty."""

    patient_id: str
    issuer: str
    study_date: str
    accession_number: str

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> "StudyHeader":
        """Return these fields of a header in NFC, as the cells of a plan are read."""
        names = ("PatientID", "IssuerOfPatientID", "StudyDate", "AccessionNumber")
        return cls(*(nfc(fields.get(name, "").strip()) for name in names))


@record
class FoundStudy:
    """A study of the source: its headers, each once, and its number of files (None: it is still being written).

    `with_truncated` is their number if files whose data set ends early count, `without_truncated` if they do not.
    """

    study_uid: str
    headers: Collection[StudyHeader] = field(repr=False)
    files: int | None
    with_truncated: int | None = None
    without_truncated: int | None = None

    def patient_cells(self) -> tuple[str, str]:
        """Return PatientID and issuer as cells of a row."""
        return (
            _SEVERAL.join(sorted({header.patient_id for header in self.headers} - {""})),
            _SEVERAL.join(sorted({header.issuer for header in self.headers} - {""})),
        )


def differences(row: PlanRow, study: FoundStudy) -> Iterator[str]:
    """Yield what differs between a row and a study. Empty cells bind nothing."""
    for column, made_for, found in (
        ("patient_id", row.patient_id, {header.patient_id for header in study.headers}),
        ("issuer", row.issuer, {header.issuer for header in study.headers}),
    ):
        # Files without the field do not make it another patient.
        if made_for.strip() and not {as_written(value) for value in found - {""}} <= set(_parts(made_for)):
            yield f"its {column} is not that of the study"
        elif made_for.strip() and found == {""}:
            yield f"it has a {column}, but the study has none"
    dates = {header.study_date for header in study.headers}
    if row.study_date.strip() and row.study_date not in {as_written(date) for date in dates}:
        day = day_of(row.study_date)
        if day is None or day not in {day_of(date) for date in dates}:
            yield "its study_date is not that of the study"
    if row.files is not None and study.files is not None and row.files != study.files:
        yield f"it was made for {counted(row.files, 'file')}, but the study has {study.files:,}: {_change(row, study)}"


def _change(row: PlanRow, study: FoundStudy) -> str:
    if row.files == study.with_truncated:
        return "the others are truncated, and sent with --truncated send only"
    if row.files == study.without_truncated:
        return "the others are truncated, and the plan was made without --truncated send"
    assert row.files is not None and study.files is not None  # noqa: S101, PT018 - as compared
    return "it has grown" if study.files > row.files else "it has lost files"


def _parts(cell: str) -> list[str]:
    # An escaped character has a backslash too.
    return [cell.strip(), *(part.strip() for part in cell.split(_SEVERAL))]


def nearest_study(row: PlanRow, studies: Sequence[FoundStudy]) -> str:
    """Return the study that a row without a match may mean, or ""."""
    for study in studies:
        for header in study.headers:
            if (near := _near(row.key, study.study_uid, header)) is not None:
                return near
    return ""


def _near(key: Key, study_uid: str, header: StudyHeader) -> str | None:
    where = f"of study {study_uid}"
    match key.kind:
        case KeyKind.STUDY_UID:
            if _normalized(study_uid) == _normalized(key.values[0]) or study_uid.startswith(f"{key.values[0]}."):
                return f"there is a study {study_uid}"
        case KeyKind.ACCESSION_NUMBER:
            if _normalized(header.accession_number) == _normalized(key.values[0]):
                return f"the accession number {where} is {header.accession_number}"
        case KeyKind.PATIENT_ID_AND_STUDY_DATE:
            patient_id, date = key.values
            if _normalized(header.patient_id) != _normalized(patient_id):
                return None
            if day_of(header.study_date) == date:
                return f"the patient ID {where} is {header.patient_id}"
            if header.patient_id == patient_id:
                return f"the date {where} of this patient is {header.study_date or 'empty'}"
    return None


def _normalized(text: str) -> str:
    """Return an identifier without what spreadsheets and people change: leading zeros, case, blanks and dashes."""
    return "".join(one for one in text.casefold() if one.isalnum() or one == ".").lstrip("0")
