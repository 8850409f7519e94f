"""Plans as people give them back: read row by row, with all that is wrong by line and column. Pure."""

import re
from collections.abc import Sequence

from asyncimport.errors import UsageError
from asyncimport.model.csv_table import (
    LABELS,
    character,
    label_problem,
    normalized,
    records,
    text_of,
)
from asyncimport.model.texts import nfc
from asyncimport.routing.plan_file import COLUMN_OF, COLUMNS, UID, Key, PlanRow, cell_needs_escape, day_of

_NUMBER = re.compile(r"[0-9]+(?:[.,][0-9]+)?E[+-]?[0-9]+|[0-9]+[.,][0-9]*|[0-9]+", re.IGNORECASE)
# A number with an exponent, as Excel writes long ones, or with `.0`, as pandas writes those of columns with gaps.
_SHORTENED = re.compile(r"[0-9]+(?:[.,][0-9]+)?E[+-][0-9]+|[0-9]+[.,]0+", re.IGNORECASE)
_SHOWN = 10
_AS_TEXT = "have the spreadsheet take all columns as text; an apostrophe in front keeps a cell as it is"
_COPY_UID = "copy StudyInstanceUIDs as the plan or the header has them"
_ONE_ROW = "a study has one row, and one session"
_ONE_LABEL = "within a project each study needs a session label of its own"


def read_plan(data: bytes, *, project: str = "", encoding: str = "") -> list[PlanRow]:
    """Return the rows of a plan, or of a manifest made for another tool; `project` is for rows that name none.

    Rows are in the order of the file; one that repeats the study and the target of another is dropped.
    Raises: UsageError with all that is wrong, by line and column; of a cell it tells one character at most.
    """
    table = records(text_of(data, encoding), COLUMN_OF, "the plan")
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


def _bare(column: str, text: str) -> str:
    return text[1:] if text.startswith("'") and cell_needs_escape(column, text) else text


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
            column = COLUMN_OF.get(normalized(name))
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
    others = [name for name in COLUMNS[column] if normalized(name) != normalized(column)]
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
        return nfc(_bare(column, self._raw(column)))

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
        if UID.fullmatch(raw) or _bare("study_uid", raw) != raw:
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
        elif issue := label_problem(value):
            self._wrong(column, issue, LABELS)


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
