"""Lookup tables: which labels, and whatever else, belong to a patient, a study or a directory.

    PatientID;subject_label;arm
    4711;S001;A

Columns named like a field of the study or of the path are the key, all of them together; all others are values, and
fields for templates. `project_id` or `project`, `subject_label` or `subject`, `session_label` or `session` become the
labels where no template is given. A table without values lets through what it lists. No message holds a value.
"""

import csv
import hashlib
import io
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from asyncimport.errors import UsageError
from asyncimport.model.texts import nfc
from asyncimport.routing.labels import UnroutableError
from asyncimport.routing.studies import WHOLE_STUDY

_OPTION = "--label-map"
_LABEL_COLUMNS = {
    "project": ("project_id", "project"),
    "subject": ("subject_label", "subject"),
    "session": ("session_label", "session"),
}
# Spreadsheets write a sign after the E; an identifier such as 12E4 has none.
_EXPONENT = re.compile(r"[+-]?\d+(?:[.,]\d*)?[eE][+-]\d+")


@dataclass(frozen=True, slots=True)
class LookupTable:
    """A parsed table: names of the key columns, names of the others, and by key their values and their line."""

    keys: tuple[str, ...]
    columns: tuple[str, ...]
    rows: Mapping[tuple[str, ...], tuple[str, ...]] = field(repr=False)
    lines: Mapping[tuple[str, ...], int] = field(repr=False)

    @classmethod
    def parse(cls, text: str, fields: Collection[str]) -> "LookupTable":
        """Parse the text of a CSV file: delimited by comma, semicolon or tab, with a header.

        `fields` are those of the study and the path, which make a column a key. Raises: UsageError with the line.
        """
        lines = _lines(text.removeprefix("\ufeff"))
        number, header = next(lines, (1, []))
        names = [name.strip() for name in header]
        _check_header(number, names, fields)
        keys = [place for place, name in enumerate(names) if name in fields]
        values = [place for place, name in enumerate(names) if name and name not in fields]
        rows: dict[tuple[str, ...], tuple[str, ...]] = {}
        numbers: dict[tuple[str, ...], int] = {}
        for number, cells in lines:
            if len(cells) != len(names):
                raise _error(number, f"{len(cells)} in place of {len(names)} columns")
            for place in keys:
                _check_key(number, names[place], cells[place])
            if any(cell and not name for cell, name in zip(cells, names, strict=True)):
                raise _error(number, "a value in a column without a name", hint="name it in the first line")
            key = tuple(nfc(cells[place]) for place in keys)
            row = tuple(cells[place] for place in values)
            if rows.setdefault(key, row) != row:
                raise _error(
                    number,
                    f"the same {' and '.join(names[place] for place in keys)} as line {numbers[key]}, and other values",
                    hint="leave one of the two; a further key column tells them apart",
                )
            numbers.setdefault(key, number)
        if not rows:
            raise UsageError(f"{_OPTION}: no line below the header", hint="nothing could be sent")
        return cls(tuple(names[place] for place in keys), tuple(names[place] for place in values), rows, numbers)

    @property
    def fingerprint(self) -> str:
        """What tells this table from another one, whatever the order of its lines and columns."""
        names = self.keys + self.columns
        rows = sorted(sorted(zip(names, key + row, strict=True)) for key, row in self.rows.items())
        digest = hashlib.sha256(repr(rows).encode("utf-8", "backslashreplace")).hexdigest()
        return f"sha256 {digest}"

    def column(self, label: str) -> str | None:
        """Return the column of values for `project`, `subject` or `session`, if there is one."""
        return next((name for name in _LABEL_COLUMNS[label] if name in self.columns), None)

    def values(self, column: str) -> Iterator[tuple[int, str]]:
        """Yield the line and the value of each row that has one in this column."""
        place = self.columns.index(column)
        return ((self.lines[key], row[place]) for key, row in self.rows.items() if row[place])

    def find(self, fields: Mapping[str, str]) -> Mapping[str, str]:
        """Return the values for what these fields say. Raises: UnroutableError when the table has no such key."""
        row = self.rows.get(tuple(nfc(fields.get(name, "").strip()) for name in self.keys))
        if row is None:
            is_not = "is" if len(self.keys) == 1 else "are"
            raise UnroutableError(f"its {' and '.join(self.keys)} {is_not} not in {_OPTION}")
        return dict(zip(self.columns, row, strict=True))


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each line that is not blank, with its number: where it begins, as a cell may have line breaks."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    unquoted = re.sub(r'"[^"]*"', "", first)
    delimiter = max(",;\t", key=unquoted.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield number, [cell.strip() for cell in cells]
            number = reader.line_num + 1
    except csv.Error as error:
        raise _error(reader.line_num, f"it is not CSV: {error}") from None


def _check_header(number: int, names: list[str], fields: Collection[str]) -> None:
    labels = {name for columns in _LABEL_COLUMNS.values() for name in columns}
    known = {_loosely(name): name for name in [*labels, *fields]}
    for place, name in enumerate(names, start=1):
        meant = known.get(_loosely(name), name)
        if name and name in names[: place - 1]:
            raise _error(number, f"column {place} has the name of column {names.index(name) + 1}")
        if meant != name and name not in fields and name not in labels:
            raise _error(number, f"the name of column {place} is not quite {meant}", hint=f"write {meant}")
        if name in WHOLE_STUDY:
            raise _error(number, f"a column cannot be named {name}", hint="that is a field of whole studies; rename it")
    if not any(name in fields for name in names):
        raise _error(
            number, "no column is named like a field", hint="the first line names the columns: PatientID, subject_label"
        )
    for columns in _LABEL_COLUMNS.values():
        if len(twice := [name for name in columns if name in names and name not in fields]) > 1:
            raise _error(number, f"{' and '.join(twice)} mean the same", hint="leave one of the two")


def _check_key(number: int, name: str, cell: str) -> None:
    if not cell:
        raise _error(number, f"no {name}", hint="each line needs its whole key")
    if _EXPONENT.fullmatch(cell):
        raise _error(
            number,
            f"the {name} looks like a large number that a spreadsheet has shortened",
            hint="make the column's cells text there, and write the file again from the original",
        )


def _loosely(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def _error(number: int, what: str, *, hint: str = "") -> UsageError:
    return UsageError(f"{_OPTION}, line {number}: {what}", hint=hint)
