"""Plans: tables of studies and the sessions they become, as CSV that people edit in spreadsheets. Pure: no disk.

What is read is meant exactly as it stands, so nothing is corrected in silence. Spreadsheets take some texts for
formulas, numbers or dates, and change them; such cells are written behind an apostrophe, which reading takes away.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from asyncimport.errors import UsageError
from asyncimport.model.csv_table import (
    LABELS,
    character,
    folded,
    is_tempting,
    label_flaw,
    records,
    text_of,
    without_controls,
)
from asyncimport.model.texts import composed

__all__ = [
    "Key",
    "KeyKind",
    "PlanRow",
    "as_written",
    "day_of",
    "guarded",
    "read_plan",
    "split",
    "text_of",
    "write_plan",
]

# The columns in the order in which they are written, and their names in the manifests of XNAT Desktop Client, DQR and
# dax. Case, blanks and underscores do not count, so that `Study UID` and `StudyInstanceUID` cover DICOM's names too.
_COLUMNS: Mapping[str, tuple[str, ...]] = {
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
_UID = re.compile(r"(?=.{1,64}\Z)(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*)){2,}")
_NUMBER = re.compile(r"[0-9]+(?:[.,][0-9]+)?E[+-]?[0-9]+|[0-9]+[.,][0-9]*|[0-9]+", re.IGNORECASE)
# A number with an exponent, as Excel writes long ones, or with `.0`, as pandas writes those of columns with gaps.
_SHORTENED = re.compile(r"[0-9]+(?:[.,][0-9]+)?E[+-][0-9]+|[0-9]+[.,]0+", re.IGNORECASE)
_DATE = re.compile(r"([0-9]{4})([-./]?)([0-9]{2})\2([0-9]{2})")
_SHOWN = 10
_MOST_SUBJECTS = 10
_AS_TEXT = "have the spreadsheet take all columns as text; an apostrophe in front keeps a cell as it is"
_COPY_UID = "copy StudyInstanceUIDs as the plan or the header has them"
_ONE_ROW = "a study has one row, and one session"
_ONE_LABEL = "within a project each study needs a session label of its own"


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
    the one that the row was made for. The rest informs whoever edits the plan. `choice` are the filters by which a
    part of the study was chosen. `line` is where it stood in a file.
    `extra` are columns of others, which are carried along; as they may hold names, its repr shows none of them.
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
    if taken := [name for name in extras if folded(name) in _COLUMN_OF]:
        raise ValueError(f"extra columns may not be named {', '.join(taken)}")
    # A last column without a name would look like the empty cells that spreadsheets leave behind.
    columns = [name for name in extras if not name.strip()]
    if_any = (*_KEYS, "issuer", "choice")
    there = {name for name in if_any if any(getattr(row, name) for row in rows)}
    there |= {"study_uid"} if there.isdisjoint(_KEYS) else set()
    columns += [name for name in _COLUMNS if name not in if_any or name in there]
    columns += [name for name in extras if name.strip()]
    out = io.StringIO(newline="")
    table = csv.writer(out, lineterminator="\r\n")
    table.writerow(guarded(without_controls(column)) for column in columns)
    for row in rows:
        table.writerow(guarded(without_controls(_cell(row, column)), column) for column in columns)
    return _as_text(out.getvalue())


def as_written(text: str) -> str:
    """Return what comes back of a cell that is written and read."""
    return _as_text(without_controls(text))


def _as_text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def day_of(text: str) -> str | None:
    """Return a date as YYYYMMDD, if it is one that begins with its year."""
    parts = _DATE.fullmatch(text.strip())
    return None if parts is None else parts[1] + parts[3] + parts[4]


def read_plan(data: bytes, *, project: str = "", encoding: str = "") -> list[PlanRow]:
    """Return the rows of a plan, or of a manifest made for another tool; `project` is for rows that name none.

    Rows are in the order of the file; one that repeats the study and the target of another is dropped.
    Raises: UsageError with all that is wrong, by line and column; of a cell it tells one character at most.
    """
    table = records(text_of(data, encoding), _COLUMN_OF, "the plan")
    _, names = next(table, (0, []))
    if not names:
        raise UsageError("the plan is empty", hint="`asyncimport plan` writes one")
    header = _Header(names, has_project=bool(project))
    problems = _Problems()
    rows: list[PlanRow] = []
    targets: dict[Key, tuple[int, tuple[str, str, str, bool]]] = {}
    sessions: dict[tuple[str, str], tuple[int, Key]] = {}
    for line, cells in table:
        row = _Reader(header, problems, line, cells).row(project)
        if row is None:
            continue
        target = row.project_id, row.subject_label, row.session_label, row.skip
        first, known = targets.setdefault(row.key, (line, target))
        if first != line:
            if known != target:
                problems.add(line, "", f"the study of line {first} again, with another target", _ONE_ROW)
            continue
        rows.append(row)
        if row.skip:
            continue
        first, key = sessions.setdefault((row.project_id, row.session_label), (line, row.key))
        if key != row.key:
            name = header.names["session_label"]
            problems.add(line, name, f"the label of line {first} for another study", _ONE_LABEL)
    problems.end()
    return rows


def split(rows: Iterable[PlanRow], n: int) -> list[list[PlanRow]]:
    """Return `n` plans of about equal size, in the order of the rows; some are empty if there are too few subjects.

    All sessions of a subject stay together, since XNAT's archive step locks subjects, and finds them without regard to
    case; and so do the subjects of a patient, so that each part has all that tells two people apart. What is skipped
    weighs nothing.
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
    # The longest first, each to the part that has least; numbers of sessions decide where sizes do not.
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
    """Return for each subject the first, by its label, of those that have patients in common with it."""
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
        # A PatientID of so many subjects is everybody's.
        if len(subjects) <= _MOST_SUBJECTS:
            first, *others = sorted(map(top, subjects))
            above.update(dict.fromkeys(others, first))
    return {subject: top(subject) for subject in above}


_COLUMN_OF = {folded(name): column for column, aliases in _COLUMNS.items() for name in (column, *aliases)}


def _is_tempting(column: str, text: str) -> bool:
    """Whether a cell is written behind an apostrophe; apostrophes that it begins with make no difference.

    Scanners have given studies UIDs that are none; the apostrophe says that such a one is meant.
    """
    if column == "study_uid" and (bare := text.lstrip("'")) and not _UID.fullmatch(bare):
        return True
    return is_tempting(text)


def guarded(text: str, column: str = "") -> str:
    """Return a cell that spreadsheets leave alone: with an apostrophe in front where they would not."""
    return f"'{text}" if _is_tempting(column, text) else text


def _bare(column: str, text: str) -> str:
    return text[1:] if text.startswith("'") and _is_tempting(column, text) else text


def _cell(row: PlanRow, column: str) -> str:
    if column not in _COLUMNS:
        return row.extra.get(column, "")
    if column == "action":
        return "skip" if row.skip else "upload"
    value = getattr(row, column)
    return "" if value is None else str(value)


class _Problems:
    """All that is wrong with a plan, so that it is mended in one go."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._hints: dict[str, None] = {}

    def add(self, line: int, column: str, text: str, *hints: str) -> None:
        """Note a problem; of those that are not shown, the hints are not either."""
        place = f"line {line}, {column}" if column else f"line {line}"
        self._texts.append(f"{place}: {text}")
        if len(self._texts) <= _SHOWN:
            self._hints |= dict.fromkeys(hints)

    def end(self) -> None:
        """Raise what was noted."""
        if not self._texts:
            return
        texts, rest = self._texts[:_SHOWN], len(self._texts) - _SHOWN
        if rest > 0:
            texts.append(f"and {rest} more")
        raise UsageError("the plan cannot be followed: " + "; ".join(texts), hint="; ".join(self._hints))


class _Header:
    """Which column stands where, as the file names it."""

    def __init__(self, names: Sequence[str], *, has_project: bool) -> None:
        cells = [_bare("", name) for name in names]
        while cells and not cells[-1].strip():
            cells.pop()
        self.width = len(cells)
        self.places: dict[str, int] = {}
        self.names: dict[str, str] = {}
        self.extras: dict[str, int] = {}
        twice: list[str] = []
        for place, name in enumerate(cells):
            column = _COLUMN_OF.get(folded(name))
            if column is None:
                # Not by name: in a file without a header these would be somebody's data.
                if self.extras.setdefault(name, place) != place:
                    twice.append(f"columns {self.extras[name] + 1} and {place + 1} have the same name")
            elif column in self.places:
                twice.append(f"{self.names[column]!r} and {name!r} both mean {column}")
            else:
                self.places[column], self.names[column] = place, name
        self._require(has_project=has_project)
        if twice:
            raise UsageError("the header of the plan: " + "; ".join(twice), hint="rename or remove one of each two")

    def _require(self, *, has_project: bool) -> None:
        wanted = ["subject_label", "session_label", *([] if has_project else ["project_id"])]
        lacking = [_described(column) for column in wanted if column not in self.places]
        # An accession number, or a patient and a date, will do where there is no UID.
        if not self.places.keys() & {"study_uid", "accession_number"} and not self.places.keys() >= {
            "patient_id",
            "study_date",
        }:
            keys = ", ".join(_described(column) for column in ("study_uid", "accession_number"))
            lacking.append(f"{keys}, or both {_described('patient_id')} and {_described('study_date')}")
        if not lacking:
            return
        found = ", ".join(f"{column} as {name!r}" for column, name in self.names.items()) or "none that is known"
        hint = "the first line names the columns"
        if "project_id" not in self.places and not has_project:
            hint += "; a project for all rows can be given with -P"
        raise UsageError(f"the plan lacks columns: {'; '.join(lacking)}; found: {found}", hint=hint)


def _described(column: str) -> str:
    """Return a column with the other names that it may have."""
    others = [name for name in _COLUMNS[column] if folded(name) != folded(column)]
    return f"{column} (or {', '.join(others)})" if others else column


class _Reader:
    """One record on its way to a row; what is wrong with it goes to the problems."""

    def __init__(self, header: _Header, problems: _Problems, line: int, cells: Sequence[str]) -> None:
        self._header = header
        self._problems = problems
        self._line = line
        self._cells = cells
        self._sound = True

    def row(self, project: str) -> PlanRow | None:
        """Return the row, or None if anything is wrong with it."""
        if any(self._cells[self._header.width :]):
            given, width = len(self._cells), self._header.width
            self._wrong("", f"{given} cells, but the header has {width}", "a cell that holds a delimiter needs quotes")
            return None
        skip = self._skip()
        if "study_uid" in self._header.places:
            self._check_uid()
            date = self._value("study_date")
        else:
            date = self._check_substitute()
        if not skip:
            for column in ("project_id", "subject_label", "session_label"):
                if column != "project_id" or not project or self._raw(column):
                    self._check_label(column)
        if not self._sound:
            return None
        return PlanRow(
            study_uid=self._value("study_uid"),
            project_id=self._value("project_id") or project,
            subject_label=self._value("subject_label"),
            session_label=self._value("session_label"),
            study_date=date,
            modalities=self._value("modalities"),
            series=_count(self._value("series")),
            files=_count(self._value("files")),
            bytes=_count(self._value("bytes")),
            source=self._value("source"),
            problems=self._value("problems"),
            skip=skip,
            accession_number=self._value("accession_number"),
            patient_id=self._value("patient_id"),
            issuer=self._value("issuer"),
            choice=self._value("choice"),
            line=self._line,
            extra={name: _bare("", self._at(place)) for name, place in self._header.extras.items()},
        )

    def _at(self, place: int) -> str:
        return self._cells[place] if place < len(self._cells) else ""

    def _raw(self, column: str) -> str:
        place = self._header.places.get(column)
        return "" if place is None else self._at(place)

    def _value(self, column: str) -> str:
        return composed(_bare(column, self._raw(column)))

    def _wrong(self, column: str, text: str, *hints: str) -> None:
        self._sound = False
        self._problems.add(self._line, self._header.names.get(column, column), text, *hints)

    def _skip(self) -> bool:
        # Spreadsheets like to begin a cell with a capital.
        action = self._raw("action").strip().casefold()
        if "action" in self._header.places and action not in {"upload", "skip"}:
            self._wrong("action", "an unknown action" if action else "empty", "the action is upload or skip")
        return action == "skip"

    def _check_uid(self) -> None:
        raw = self._raw("study_uid")
        if _UID.fullmatch(raw) or _bare("study_uid", raw) != raw:
            return
        if not raw.strip():
            self._wrong("study_uid", "empty", _COPY_UID)
        elif _NUMBER.fullmatch(raw.strip()):
            self._wrong("study_uid", "a number, as spreadsheets make of UIDs", _COPY_UID, _AS_TEXT)
        else:
            self._wrong("study_uid", f"not a UID: {_why_no_uid(raw)}", _COPY_UID)

    def _check_substitute(self) -> str:
        """Check what the study is known by in place of its UID, and return its date, in DICOM's form if it counts."""
        date = self._value("study_date")
        if self._raw("accession_number"):
            self._check_number("accession_number")
            return date
        if not self._raw("patient_id") or not date:
            self._wrong("", "nothing to know the study by", "give an accession number, or patient ID and study date")
            return date
        self._check_number("patient_id")
        day = day_of(date)
        if day is None:
            self._wrong("study_date", "not a date as DICOM writes it", "write dates as YYYYMMDD or YYYY-MM-DD")
            return date
        return day

    def _check_number(self, column: str) -> bool:
        if not _SHORTENED.fullmatch(self._raw(column)):
            return True
        self._wrong(column, "a number that a spreadsheet or pandas has rewritten", _AS_TEXT)
        return False

    def _check_label(self, column: str) -> None:
        value = self._value(column)
        if not value:
            self._wrong(column, "empty", LABELS if column != "project_id" else "a project for all rows goes with -P")
        elif not self._check_number(column):
            return
        elif flaw := label_flaw(value):
            self._wrong(column, flaw, LABELS)


def _why_no_uid(text: str) -> str:
    """Say which rule of PS3.5 9.1 a text breaks, without its contents: columns may have slipped."""
    if found := re.search(r"[^0-9.]", text):
        return f"the character {character(found[0])}"
    if len(text) > 64:
        return f"{len(text)} characters"
    components = text.split(".")
    return "an empty component" if "" in components else "a component that begins with 0"


def _count(text: str) -> int | None:
    """Read a number that only informs, also as spreadsheets round it; anything else is unknown."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return round(float(text.replace(",", ".")))
    except (ValueError, OverflowError):
        return None
