"""Plans: tables of studies and the sessions they become, as CSV that people edit in spreadsheets. Pure: no disk.

What is read is meant exactly as it stands, so nothing is corrected in silence. Spreadsheets take some texts for
formulas, numbers or dates, and change them; such cells are written behind an apostrophe, which reading takes away.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from asyncimport.model.csv_table import (
    escape_controls,
    needs_escape,
    normalized,
)

# The columns in the order in which they are written, and their names in the manifests of XNAT Desktop Client, DQR and
# dax. Case, blanks and underscores do not count, so that `Study UID` and `StudyInstanceUID` cover DICOM's names too.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "study_uid": ("Study UID", "StudyInstanceUID"),
    "accession_number": ("Accession Number",),
    "patient_id": ("Patient ID",),
    "project_id": ("project",),
    "subject_label": ("subject", "XNAT Subject ID"),
    "session_label": ("session", "experiment_label", "experiment"),
    "action": (),
    "issuer": ("Issuer of Patient ID",),
    "study_date": ("Study Date",),
    "modalities": ("Modality",),
    "series": (),
    "files": (),
    "bytes": (),
    "choice": (),
    "source": (),
    "problems": (),
}
_KEYS = ("study_uid", "accession_number", "patient_id")

# PS3.5 9.1, but for a UID of one or two components, which is valid, names no study, and is what is left of a longer one
# that a spreadsheet took for a number.
UID = re.compile(r"(?=.{1,64}\Z)(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*)){2,}")
_DATE = re.compile(r"([0-9]{4})([-./]?)([0-9]{2})\2([0-9]{2})")


class KeyKind(StrEnum):
    """What a row of a plan knows its study by."""

    STUDY_UID = "STUDY_UID"
    ACCESSION_NUMBER = "ACCESSION_NUMBER"
    PATIENT_ID_AND_STUDY_DATE = "PATIENT_ID_AND_STUDY_DATE"


@dataclass(frozen=True, slots=True)
class Key:
    """What a study is matched by: one value, or PatientID and StudyDate (YYYYMMDD). Its repr tells no values."""

    kind: KeyKind
    values: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class PlanRow:
    """A study and the session that it is to become, or with `skip` the wish to leave it out.

    The key, the target and `skip` decide. Patient, issuer, date and number of files bind: a study that differs is not
    the one that the row was made for. The rest informs whoever edits the plan. `choice` are the filters by which
    a part of the study was chosen. `line` is where it stood in a file. `extra` are columns of others, which are carried
    along; as they may hold names, its repr shows none of them.
    """

    study_uid: str
    project_id: str
    subject_label: str
    session_label: str
    study_date: str = ""
    modalities: str = ""
    series: int | None = None
    files: int | None = None
    bytes: int | None = None
    source: str = ""
    problems: str = ""
    skip: bool = False
    accession_number: str = field(default="", repr=False)
    patient_id: str = field(default="", repr=False)
    issuer: str = field(default="", repr=False)
    choice: str = ""
    line: int = field(default=0, compare=False)
    extra: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)

    @property
    def key(self) -> Key:
        """The study's UID, or the next best of what the row knows."""
        if self.study_uid:
            return Key(KeyKind.STUDY_UID, (self.study_uid,))
        if self.accession_number:
            return Key(KeyKind.ACCESSION_NUMBER, (self.accession_number,))
        return Key(KeyKind.PATIENT_ID_AND_STUDY_DATE, (self.patient_id, self.study_date))


def write_plan(rows: Iterable[PlanRow]) -> str:
    r"""Return the rows as CSV: a header, commas, `\r\n`. Encode it as `utf-8-sig`, without which Excel garbles umlauts.

    Bytes of paths that are no text are spelt out, and so are control characters: a terminal would carry them out.
    """
    rows = list(rows)
    if len({bool(row.study_uid) for row in rows}) > 1:
        raise ValueError("some rows have a study_uid and some have none")
    extras = list(dict.fromkeys(name for row in rows for name in row.extra))
    if taken := [name for name in extras if normalized(name) in COLUMN_OF]:
        raise ValueError(f"extra columns may not be named {', '.join(taken)}")
    # A last column without a name would look like the empty cells that spreadsheets leave behind.
    columns = [name for name in extras if not name.strip()]
    if_any = (*_KEYS, "issuer", "choice")
    there = {name for name in if_any if any(getattr(row, name) for row in rows)}
    there |= {"study_uid"} if there.isdisjoint(_KEYS) else set()
    columns += [name for name in COLUMNS if name not in if_any or name in there]
    columns += [name for name in extras if name.strip()]
    out = io.StringIO(newline="")
    table = csv.writer(out, lineterminator="\r\n")
    table.writerow(escape_cell(escape_controls(column)) for column in columns)
    for row in rows:
        table.writerow(escape_cell(escape_controls(_cell(row, column)), column) for column in columns)
    return _as_text(out.getvalue())


def as_written(text: str) -> str:
    """Return what comes back of a cell that is written and read."""
    return _as_text(escape_controls(text))


def _as_text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def day_of(text: str) -> str | None:
    """Return a date as YYYYMMDD, if it is one that begins with its year."""
    parts = _DATE.fullmatch(text.strip())
    return None if parts is None else parts[1] + parts[3] + parts[4]


COLUMN_OF = {normalized(name): column for column, aliases in COLUMNS.items() for name in (column, *aliases)}


def cell_needs_escape(column: str, text: str) -> bool:
    """Whether a cell is written behind an apostrophe; apostrophes that it begins with make no difference.

    Scanners have given studies UIDs that are none; the apostrophe says that such a one is meant.
    """
    if column == "study_uid" and (uid := text.lstrip("'")) and not UID.fullmatch(uid):
        return True
    return needs_escape(text)


def escape_cell(text: str, column: str = "") -> str:
    """Return a cell that spreadsheets leave alone: with an apostrophe in front where they would not."""
    return f"'{text}" if cell_needs_escape(column, text) else text


def _cell(row: PlanRow, column: str) -> str:
    if column not in COLUMNS:
        return row.extra.get(column, "")
    if column == "action":
        return "skip" if row.skip else "upload"
    value = getattr(row, column)
    return "" if value is None else str(value)
