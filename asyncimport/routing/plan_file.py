"""Plans: tables of studies and their sessions, as CSV that people edit in spreadsheets, and their parts. Pure: no disk.

Nothing that is read is corrected silently. Spreadsheets take some texts for formulas, numbers or dates, and change
them. Such cells are written with an apostrophe in front, which reading removes.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import field
from enum import StrEnum

from asyncimport.errors import UsageError
from asyncimport.model.csv_table import escape_cell, escape_controls, needs_escape, normalized
from asyncimport.model.record import record

# The columns in the order of writing, with their names in the manifests of XNAT Desktop Client, DQR and dax. Case,
# blanks and underscores do not count, so `Study UID` and `StudyInstanceUID` cover DICOM's names too.
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

# PS3.5 9.1, except UIDs of one or two components: they are valid, but name no study, and are what a spreadsheet leaves
# of a longer UID that it took for a number.
UID = re.compile(r"(?=.{1,64}\Z)(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*)){2,}")
_DATE = re.compile(r"([0-9]{4})([-./]?)([0-9]{2})\2([0-9]{2})")


class KeyKind(StrEnum):
    """What identifies the study of a row."""

    STUDY_UID = "STUDY_UID"
    ACCESSION_NUMBER = "ACCESSION_NUMBER"
    PATIENT_ID_AND_STUDY_DATE = "PATIENT_ID_AND_STUDY_DATE"


@record
class Key:
    """What identifies a study: one value, or PatientID and StudyDate (YYYYMMDD). The repr shows no values."""

    kind: KeyKind
    values: tuple[str, ...] = field(repr=False)


@record
class PlanRow:
    """A study and its session; with `skip` it is left out.

    The key, the labels and `skip` decide. Patient, issuer, date and number of files bind: a study that differs is not
    the one that the row was made for. The rest is for people. `choice` are the filters by which parts of the study were
    chosen, `line` is the line in the file. `extra` are other columns, which are kept; the repr does not show them,
    because they may hold names.
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
        """Return the study's UID, or else the best key that the row has."""
        if self.study_uid:
            return Key(KeyKind.STUDY_UID, (self.study_uid,))
        if self.accession_number:
            return Key(KeyKind.ACCESSION_NUMBER, (self.accession_number,))
        return Key(KeyKind.PATIENT_ID_AND_STUDY_DATE, (self.patient_id, self.study_date))


def write_plan(rows: Iterable[PlanRow]) -> str:
    r"""Return the rows as CSV: a header, commas, `\r\n`. Encode it as `utf-8-sig`, else Excel garbles umlauts.

    Bytes that are not text and control characters are escaped, because a terminal would obey these.
    """
    rows = list(rows)
    if len({bool(row.study_uid) for row in rows}) > 1:
        raise ValueError("some rows have a study_uid and some have none")
    extras = list(dict.fromkeys(name for row in rows for name in row.extra))
    if taken := [name for name in extras if normalized(name) in COLUMN_OF]:
        raise ValueError(f"extra columns may not be named {', '.join(taken)}")
    # Columns without a name go first: at the end they would look like empty cells of a spreadsheet.
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
        table.writerow(_escape(escape_controls(_cell(row, column)), column) for column in columns)
    return _as_text(out.getvalue())


def as_written(text: str) -> str:
    """Return a text as it is after writing and reading a cell."""
    return _as_text(escape_controls(text))


def _as_text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def day_of(text: str) -> str | None:
    """Return a date that begins with its year as YYYYMMDD; None if it is not one."""
    parts = _DATE.fullmatch(text.strip())
    return None if parts is None else parts[1] + parts[3] + parts[4]


COLUMN_OF = {normalized(name): column for column, aliases in COLUMNS.items() for name in (column, *aliases)}


def cell_needs_escape(column: str, text: str) -> bool:
    """Whether a cell needs an apostrophe in front, whatever apostrophes it has already.

    Some scanners make invalid UIDs; the apostrophe says that such a UID is intended.
    """
    if column == "study_uid" and (uid := text.lstrip("'")) and not UID.fullmatch(uid):
        return True
    return needs_escape(text)


def _escape(text: str, column: str) -> str:
    return f"'{text}" if cell_needs_escape(column, text) else text


def _cell(row: PlanRow, column: str) -> str:
    if column not in COLUMNS:
        return row.extra.get(column, "")
    if column == "action":
        return "skip" if row.skip else "upload"
    value = getattr(row, column)
    return "" if value is None else str(value)


_MOST_SUBJECTS = 10


def split(rows: Iterable[PlanRow], n: int) -> list[list[PlanRow]]:
    """Return `n` plans of about equal size, each in the order of the rows; with too few subjects, some are empty.

    The sessions of a subject stay together, because XNAT's archive step locks subjects, whose case it ignores. The
    subjects of a patient stay together too, so that each part can compare its patients. Skipped rows have no weight.
    """
    if n < 1:
        raise UsageError(f"a plan cannot be split into {n} parts", hint="give 1 or more")
    weights: dict[tuple[str, str], tuple[int, int]] = {}
    rows = list(rows)
    group_of = _groups(rows)
    for row in rows:
        group = group_of[_subject(row)]
        size, count = weights.get(group, (0, 0))
        weights[group] = (size, count) if row.skip else (size + (row.bytes or 0), count + 1)
    # The largest first, each to the smallest part. Numbers of sessions decide between equal sizes.
    loads = [(0, 0)] * n
    part_of: dict[tuple[str, str], int] = {}
    for subject, (size, count) in sorted(weights.items(), key=lambda item: (-item[1][0], -item[1][1], item[0])):
        part = loads.index(min(loads))
        part_of[subject] = part
        loads[part] = loads[part][0] + size, loads[part][1] + count
    parts: list[list[PlanRow]] = [[] for _ in range(n)]
    for row in rows:
        parts[part_of[group_of[_subject(row)]]].append(row)
    return parts


def _subject(row: PlanRow) -> tuple[str, str]:
    return row.project_id, row.subject_label.lower()


def _groups(rows: Iterable[PlanRow]) -> dict[tuple[str, str], tuple[str, str]]:
    """Return for each subject the first, by label, of those that share patients with it."""
    patients: dict[tuple[str, str], set[tuple[str, str]]] = {}
    above: dict[tuple[str, str], tuple[str, str]] = {}
    for row in rows:
        above[_subject(row)] = _subject(row)
        if row.patient_id and not row.skip:
            patients.setdefault((row.project_id, row.patient_id), set()).add(_subject(row))

    def top(subject: tuple[str, str]) -> tuple[str, str]:
        while above[subject] != subject:
            above[subject] = subject = above[above[subject]]
        return subject

    for subjects in patients.values():
        # A PatientID of more subjects does not identify a patient.
        if len(subjects) <= _MOST_SUBJECTS:
            first, *others = sorted(map(top, subjects))
            above.update(dict.fromkeys(others, first))
    return {subject: top(subject) for subject in above}
