"""Tables of demographics: CSV with a row for each subject. Pure: no disk.

Invalid rows are not sent, the others are. An empty cell, or `n/a`, does not change a field.
"""

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from datetime import date

from asyncimport.demographics.fields import BIRTH, FIELDS, NULL, Kind, canonical, field_of, local_day
from asyncimport.errors import UsageError
from asyncimport.model.csv_table import TableIssue, normalized, records, text_of, unescape_cell
from asyncimport.model.label_syntax import LABELS, label_problem
from asyncimport.model.record import record

_SUBJECT = ("subject_label", "subject", "label", "subject_id", "participant_id", "XNAT Subject ID")
_PROJECT = ("project_id", "project")
_OWN = {normalized(name): column for names in (_SUBJECT, _PROJECT) for column in names[:1] for name in names}
_UNKNOWN = {"", "n/a"}
_ONE_ROW = "find out which row is right, and keep one for each subject"
# M is male in one language, and female (mujer) in another.
_LANGUAGE = "write out the words of this column, in English"
_NULL = "empty the cell to keep the value in XNAT, or use --null-clears to clear it"


@record
class Demographics:
    """Values of a subject by XNAT's names of fields; NULL clears a field. The repr shows no values."""

    subject: str
    values: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    project: str = ""


def read_subjects(
    data: bytes, *, project: str = "", encoding: str = "", null_clears: bool = False, today: date | None = None
) -> tuple[list[Demographics], list[TableIssue]]:
    """Return the valid rows of a table in its order, and the issues of the others.

    `project` is the project of rows without one. Two rows of one subject must be equal; else neither counts.
    Raises: UsageError without a header that names a subject and a field.
    """
    table = records(text_of(data, encoding), _KNOWN, "the table")
    line, names = next(table, (0, []))
    header = _Header(line, names, has_project=bool(project))
    issues = header.warnings()
    reader = _Reader(header, project, today or local_day(), null_clears=null_clears)
    rows: dict[tuple[str, str], Demographics] = {}
    firsts: dict[tuple[str, str], int] = {}
    contradicted: set[tuple[str, str]] = set()
    for line, found, wrong in [(line, *reader.row(line, cells)) for line, cells in table]:
        issues += (foreign_initials := reader.foreign_initials(line)) + wrong
        if found is None or foreign_initials:
            continue
        # XNAT's archive step takes labels that differ in case only for one (PrearcSessionArchiver).
        key = found.project, found.subject.casefold()
        first = firsts.setdefault(key, line)
        if rows.setdefault(key, found) != found:
            issues.append(
                TableIssue(line, header.name("subject_label"), f"the subject of line {first} again", _ONE_ROW)
            )
            contradicted.add(key)
    return [row for key, row in rows.items() if key not in contradicted], issues


def fill_gaps(given: Demographics, found: Mapping[str, str]) -> Demographics:
    """Add values for fields that are not given. A given dob, yob or age stays the only one of these."""
    has_birth = bool(given.values.keys() & set(BIRTH))
    more = {
        name: value for name, value in found.items() if name not in given.values and not (name in BIRTH and has_birth)
    }
    return replace(given, values={**given.values, **more})


_KNOWN = {*_OWN, *(normalized(name) for one in FIELDS.values() for name in (one.name, *one.aliases))}


class _Header:
    """The columns of a file: their places and their names there."""

    def __init__(self, line: int, names: Sequence[str], *, has_project: bool) -> None:
        cells = [unescape_cell(name).strip() for name in names]
        while cells and not cells[-1]:
            cells.pop()
        self.line = line
        self.width = len(cells)
        self.places: dict[str, int] = {}
        self._names = cells
        self._unknown: list[str] = []
        twice: list[str] = []
        for place, name in enumerate(cells):
            one = field_of(name)
            column = one.name if one else _OWN.get(normalized(name))
            if column is None:
                self._unknown += [name] if name else []
            elif column in self.places:
                twice.append(f"{self.name(column)!r} and {name!r} both mean {column}")
            else:
                self.places[column] = place
        self._require(has_project=has_project)
        if twice:
            raise UsageError("the header of the table: " + "; ".join(twice), hint="rename or remove one of each pair")

    def _require(self, *, has_project: bool) -> None:
        # Do not show names of unknown columns: in a file without a header they would be data.
        if "subject_label" not in self.places:
            raise UsageError(
                f"the table has no column of subjects ({', '.join(_SUBJECT)})",
                hint="name the columns in the first line",
            )
        if not self.places.keys() & FIELDS.keys():
            raise UsageError("the table has no column for a field of XNAT", hint="use these: " + ", ".join(FIELDS))
        if "project_id" not in self.places and not has_project:
            raise UsageError("the table names no project", hint="give one with -P, or in a column project_id")

    def name(self, column: str) -> str:
        """Return the name of a column in the file."""
        return self._names[self.places[column]] if column in self.places else column

    def warnings(self) -> list[TableIssue]:
        """Return a warning for each unknown column, which may be misspelt."""
        return [
            TableIssue(self.line, name, "an unknown column: its values are not sent", is_warning=True)
            for name in dict.fromkeys(self._unknown)
        ]


class _Reader:
    """Makes rows of records."""

    def __init__(self, header: _Header, project: str, today: date, *, null_clears: bool) -> None:
        self._header = header
        self._project = project
        self._today = today
        self._null_clears = null_clears
        self._initials: dict[int, list[str]] = {}
        self._foreign: set[str] = set()

    def foreign_initials(self, line: int) -> list[TableIssue]:
        """Return the issues of a row that depend on other rows: its initials may be those of another language."""
        return [
            TableIssue(
                line, self._header.name(column), "an initial, in a column with others that are not English", _LANGUAGE
            )
            for column in self._initials.get(line, ())
            if column in self._foreign
        ]

    def row(self, line: int, cells: Sequence[str]) -> tuple[Demographics | None, list[TableIssue]]:
        """Return the row and its issues; None instead of an invalid row."""
        width = self._header.width
        if any(cell.strip() for cell in cells[width:]):
            text = f"{len(cells)} cells, but the header has {width}"
            return None, [TableIssue(line, "", text, "put cells with a delimiter into quotes")]
        texts = {
            column: unescape_cell(cells[place]).strip()
            for column, place in self._header.places.items()
            if place < len(cells)
        }
        project = texts.get("project_id") or self._project
        subject = texts.get("subject_label", "")
        values: dict[str, str] = {}
        issues = [
            TableIssue(line, self._header.name(column), text, LABELS)
            for column, label in (("project_id", project), ("subject_label", subject))
            if (text := _label(label))
        ]
        for column, text in texts.items():
            if column in FIELDS and text.casefold() not in _UNKNOWN:
                try:
                    values[column] = self._value(column, text)
                    if FIELDS[column].kind is Kind.WORD and len(text) == 1:
                        self._initials.setdefault(line, []).append(column)
                except UsageError as error:
                    if FIELDS[column].kind is Kind.WORD and len(text) == 1 and text.isalpha():
                        self._foreign.add(column)
                    issues.append(TableIssue(line, self._header.name(column), str(error), error.hint))
        births = [self._header.name(name) for name in BIRTH if values.get(name, NULL) != NULL]
        if len(births) > 1:
            issues.append(TableIssue(line, " and ".join(births), "more than one", "keep one of dob, yob and age"))
        return (None if issues else Demographics(subject, values, project)), issues

    def _value(self, column: str, text: str) -> str:
        if text.upper() != NULL:
            return canonical(FIELDS[column], text, self._today)
        if self._null_clears:
            return NULL
        raise UsageError("the word NULL, with which XNAT clears a field", hint=_NULL)


def _label(text: str) -> str:
    if not text:
        return "empty"
    # XNAT would clear the label.
    return "the word NULL" if text.upper() == NULL else label_problem(text)
