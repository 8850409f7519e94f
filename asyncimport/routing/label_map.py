"""Lookup tables: they give labels and other fields to a patient, a study or a directory.

    PatientID;subject_label;arm
    4711;S001;A

All columns named like a field of the study or of the path together are the key. The others are values, and fields for
templates. `project_id` or `project`, `subject_label` or `subject`, `session_label` or `session` become the labels if
there is no template. A table without values only selects what it lists. No message holds a value.
"""

import csv
import hashlib
import io
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import field

from asyncimport.errors import UsageError
from asyncimport.model.record import record
from asyncimport.model.texts import nfc
from asyncimport.routing.labels import UnroutableError
from asyncimport.routing.studies import WHOLE_STUDY

_OPTION = "--label-map"
_LABEL_COLUMNS = {
    "project": ("project_id", "project"),
    "subject": ("subject_label", "subject"),
    "session": ("session_label", "session"),
}
# Spreadsheets write a sign after the E; identifiers such as 12E4 have none.
_EXPONENT = re.compile(r"[+-]?\d+(?:[.,]\d*)?[eE][+-]\d+")


@record
class LookupTable:
    """A parsed table: names of key columns and of value columns, and the values and line of each key."""

    keys: tuple[str, ...]
    columns: tuple[str, ...]
    rows: Mapping[tuple[str, ...], tuple[str, ...]] = field(repr=False)
    lines: Mapping[tuple[str, ...], int] = field(repr=False)

    @classmethod
    def parse(cls, text: str, fields: Collection[str]) -> "LookupTable":
        """Parse CSV with a header, delimited by comma, semicolon or tab.

        `fields` are those of the study and the path: their columns are the key. Raises: UsageError with the line.
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
                raise _error(number, f"{len(cells)} column(s) instead of {len(names)}")
            for place in keys:
                _check_key(number, names[place], cells[place])
            if any(cell and not name for cell, name in zip(cells, names, strict=True)):
                raise _error(number, "a value in a column without a name", hint="name it in the first line")
            key = tuple(nfc(cells[place]) for place in keys)
            row = tuple(cells[place] for place in values)
            if rows.setdefault(key, row) != row:
                raise _error(
                    number,
                    f"the same {' and '.join(names[place] for place in keys)} as line {numbers[key]}, but other values",
                    hint="keep one of them, or add a key column that tells them apart",
                )
            numbers.setdefault(key, number)
        if not rows:
            raise UsageError(f"{_OPTION}: no line below the header", hint="add lines: nothing could be sent")
        return cls(tuple(names[place] for place in keys), tuple(names[place] for place in values), rows, numbers)

    @property
    def fingerprint(self) -> str:
        """Return a digest of the table that does not depend on the order of lines and columns."""
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
        """Return the values for these fields. Raises: UnroutableError when the table lacks their key."""
        row = self.rows.get(tuple(nfc(fields.get(name, "").strip()) for name in self.keys))
        if row is None:
            is_not = "is" if len(self.keys) == 1 else "are"
            raise UnroutableError(f"its {' and '.join(self.keys)} {is_not} not in {_OPTION}")
        return dict(zip(self.columns, row, strict=True))


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each line that is not blank, with the number where it begins, as cells may have line breaks."""
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
        raise _error(reader.line_num, f"not CSV: {error}") from None


def _check_header(number: int, names: list[str], fields: Collection[str]) -> None:
    labels = {name for columns in _LABEL_COLUMNS.values() for name in columns}
    known = {_normalized(name): name for name in [*labels, *fields]}
    for place, name in enumerate(names, start=1):
        meant = known.get(_normalized(name), name)
        if name and name in names[: place - 1]:
            raise _error(number, f"columns {names.index(name) + 1} and {place} have the same name")
        if meant != name and name not in fields and name not in labels:
            raise _error(number, f"the name of column {place} is not exactly {meant}", hint=f"write {meant}")
        if name in WHOLE_STUDY:
            raise _error(number, f"a column cannot be named {name}", hint="rename it: this is a field of whole studies")
    if not any(name in fields for name in names):
        raise _error(
            number,
            "no column is named like a field",
            hint="name the columns in the first line: PatientID, subject_label",
        )
    for columns in _LABEL_COLUMNS.values():
        if len(twice := [name for name in columns if name in names and name not in fields]) > 1:
            raise _error(number, f"{' and '.join(twice)} mean the same", hint="keep one of them")


def _check_key(number: int, name: str, cell: str) -> None:
    if not cell:
        raise _error(number, f"no {name}", hint="give the whole key in each line")
    if is_shortened_number(cell):
        raise _error(
            number,
            f"the {name} looks like a large number that a spreadsheet has shortened",
            hint="format the column as text, and export the file again from the original",
        )


def is_shortened_number(cell: str) -> bool:
    """Whether a spreadsheet has written a large number as a power of ten."""
    return _EXPONENT.fullmatch(cell) is not None


def _normalized(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def _error(number: int, what: str, *, hint: str = "") -> UsageError:
    return UsageError(f"{_OPTION}, line {number}: {what}", hint=hint)
