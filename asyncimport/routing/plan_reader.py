"""Read plans that people have edited, and report all problems by line and column. Pure."""

import re
from collections.abc import Sequence
from typing import Any

from asyncimport.errors import UsageError
from asyncimport.model.csv_table import normalized, records, text_of
from asyncimport.model.label_syntax import LABELS, label_problem
from asyncimport.model.texts import character_text, nfc
from asyncimport.routing.plan_file import COLUMN_OF, COLUMNS, UID, Key, PlanRow, cell_needs_escape, day_of

_NUMBER = re.compile(r"[0-9]+(?:[.,][0-9]+)?E[+-]?[0-9]+|[0-9]+[.,][0-9]*|[0-9]+", re.IGNORECASE)
# A number with an exponent, as Excel writes long numbers, or with `.0`, as pandas writes columns with gaps.
_SHORTENED = re.compile(r"[0-9]+(?:[.,][0-9]+)?E[+-][0-9]+|[0-9]+[.,]0+", re.IGNORECASE)
_TEXTS = [name for name in COLUMNS if name not in {"study_date", "series", "files", "bytes", "action"}]
_SHOWN = 10
_AS_TEXT = "import all columns into the spreadsheet as text, or write an apostrophe in front of the cell"
_COPY_UID = "copy the StudyInstanceUID from the plan or the header"
_ONE_ROW = "keep one row for each study"
_ONE_LABEL = "give each study of a project its own session label"


def read_plan(data: bytes, *, project: str = "", encoding: str = "") -> list[PlanRow]:
    """Return the rows of a plan, or of a manifest for another tool; `project` is the project of rows without one.

    A row that repeats another one is dropped. Raises: UsageError with all problems by line and column; it shows at most
    one character of a cell.
    """
    table = records(text_of(data, encoding), COLUMN_OF, "the plan")
    _, names = next(table, (0, []))
    if not names:
        raise UsageError("the plan is empty", hint="make one with `asyncimport plan`")
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
                problems.add(line, "", f"the study of line {first} again, with other labels", _ONE_ROW)
            continue
        rows.append(row)
        if row.skip:
            continue
        first, key = sessions.setdefault((row.project_id, row.session_label), (line, row.key))
        if key != row.key:
            name = header.names["session_label"]
            problems.add(line, name, f"the label of line {first} for another study", _ONE_LABEL)
    problems.check()
    return rows


def _unescape(column: str, text: str) -> str:
    return text[1:] if text.startswith("'") and cell_needs_escape(column, text) else text


class _Problems:
    """The problems of a plan, all reported at once."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._hints: dict[str, None] = {}

    def add(self, line: int, column: str, text: str, *hints: str) -> None:
        """Add a problem. Hints of problems that are not shown are left out."""
        place = f"line {line}, {column}" if column else f"line {line}"
        self._texts.append(f"{place}: {text}")
        if len(self._texts) <= _SHOWN:
            self._hints |= dict.fromkeys(hints)

    def check(self) -> None:
        """Raise UsageError if there are problems."""
        if not self._texts:
            return
        rest = len(self._texts) - _SHOWN
        texts = [*self._texts[:_SHOWN], *([f"and {rest} more"] if rest > 0 else [])]
        raise UsageError("the plan has errors: " + "; ".join(texts), hint="; ".join(self._hints))


class _Header:
    """The columns of a file: their places and their names there."""

    def __init__(self, names: Sequence[str], *, has_project: bool) -> None:
        cells = [_unescape("", name) for name in names]
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
                # Do not show the name: in a file without a header it would be data.
                if self.extras.setdefault(name, place) != place:
                    twice.append(f"columns {self.extras[name] + 1} and {place + 1} have the same name")
            elif column in self.places:
                twice.append(f"{self.names[column]!r} and {name!r} both mean {column}")
            else:
                self.places[column], self.names[column] = place, name
        self._require(has_project=has_project)
        if twice:
            raise UsageError("the header of the plan: " + "; ".join(twice), hint="rename or remove one of each pair")

    def _require(self, *, has_project: bool) -> None:
        wanted = ["subject_label", "session_label", *([] if has_project else ["project_id"])]
        lacking = [_described(column) for column in wanted if column not in self.places]
        # Without a UID, an accession number identifies a study, or a patient and a date.
        places = self.places.keys()
        if not (places & {"study_uid", "accession_number"} or places >= {"patient_id", "study_date"}):
            keys = ", ".join(_described(column) for column in ("study_uid", "accession_number"))
            lacking.append(f"{keys}, or both {_described('patient_id')} and {_described('study_date')}")
        if not lacking:
            return
        found = ", ".join(f"{column} as {name!r}" for column, name in self.names.items()) or "no known column"
        hint = "name the columns in the first line"
        if "project_id" not in self.places and not has_project:
            hint += "; give a project for all rows with -P"
        raise UsageError(f"the plan lacks columns: {'; '.join(lacking)}; found: {found}", hint=hint)


def _described(column: str) -> str:
    """Return a column with its other names."""
    others = [name for name in COLUMNS[column] if normalized(name) != normalized(column)]
    return f"{column} (or {', '.join(others)})" if others else column


class _Reader:
    """Makes a row of a record, and adds what is wrong to the problems."""

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
            self._wrong("", f"{given} cells, but the header has {width}", "put cells with a delimiter into quotes")
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
        values: dict[str, Any] = {name: self._value(name) for name in _TEXTS}
        values |= {name: _count(self._value(name)) for name in ("series", "files", "bytes")}
        values["project_id"] = values["project_id"] or project
        extra = {name: _unescape("", self._at(place)) for name, place in self._header.extras.items()}
        return PlanRow(**values, study_date=date, skip=skip, line=self._line, extra=extra)

    def _at(self, place: int) -> str:
        return self._cells[place] if place < len(self._cells) else ""

    def _raw(self, column: str) -> str:
        place = self._header.places.get(column)
        return "" if place is None else self._at(place)

    def _value(self, column: str) -> str:
        return nfc(_unescape(column, self._raw(column)))

    def _wrong(self, column: str, text: str, *hints: str) -> None:
        self._sound = False
        self._problems.add(self._line, self._header.names.get(column, column), text, *hints)

    def _skip(self) -> bool:
        # Spreadsheets capitalize the first letter of a cell.
        action = self._raw("action").strip().casefold()
        if "action" in self._header.places and action not in {"upload", "skip"}:
            self._wrong("action", "an unknown action" if action else "empty", "write upload or skip")
        return action == "skip"

    def _check_uid(self) -> None:
        raw = self._raw("study_uid")
        if UID.fullmatch(raw) or _unescape("study_uid", raw) != raw:
            return
        if not raw.strip():
            self._wrong("study_uid", "empty", _COPY_UID)
        elif _NUMBER.fullmatch(raw.strip()):
            self._wrong("study_uid", "a number, into which spreadsheets change UIDs", _COPY_UID, _AS_TEXT)
        else:
            self._wrong("study_uid", f"not a UID: {_why_no_uid(raw)}", _COPY_UID)

    def _check_substitute(self) -> str:
        """Check the key of a study without UID, and return its date, as YYYYMMDD if it belongs to the key."""
        date = self._value("study_date")
        if self._raw("accession_number"):
            self._check_number("accession_number")
            return date
        if not self._raw("patient_id") or not date:
            self._wrong("", "no key", "give an accession number, or patient ID and study date")
            return date
        self._check_number("patient_id")
        day = day_of(date)
        if day is None:
            self._wrong("study_date", "not a date", "write dates as YYYYMMDD or YYYY-MM-DD")
        return day or date

    def _check_number(self, column: str) -> bool:
        is_shortened = _SHORTENED.fullmatch(self._raw(column)) is not None
        if is_shortened:
            self._wrong(column, "a number that a spreadsheet or pandas has changed", _AS_TEXT)
        return not is_shortened

    def _check_label(self, column: str) -> None:
        value = self._value(column)
        if not value:
            self._wrong(column, "empty", LABELS if column != "project_id" else "give a project for all rows with -P")
        elif self._check_number(column) and (issue := label_problem(value)):
            self._wrong(column, issue, LABELS)


def _why_no_uid(text: str) -> str:
    """Return which rule of PS3.5 9.1 a text breaks, without the text, which may belong to another column."""
    if found := re.search(r"[^0-9.]", text):
        return f"the character {character_text(found[0])}"
    if len(text) > 64:
        return f"{len(text)} characters"
    components = text.split(".")
    return "an empty component" if "" in components else "a component that begins with 0"


def _count(text: str) -> int | None:
    """Return a number, also one that a spreadsheet has rounded; None if it is not a number."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return round(float(text.replace(",", ".")))
    except (ValueError, OverflowError):
        return None
