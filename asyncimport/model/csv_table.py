"""CSV as spreadsheets save it: encodings, separators, cells that they would change. Pure: no disk.

A message about a cell shows at most one character of it: cells can be patients' data.
"""

import codecs
import csv
import io
import re
from collections.abc import Container, Iterator

from asyncimport.errors import UsageError
from asyncimport.model.option import invalid
from asyncimport.model.record import record

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_SEPARATOR_LINE = re.compile(r'"?sep=([^"\r\n])"?(?:\r\n|\r|\n|\Z)', re.IGNORECASE)

# What spreadsheets change: formulas (also in full width, \uff0b and the like), numbers that lose digits, zeros or dots,
# dates, and words with a spelling of their own. The pattern includes leading apostrophes, so that `unescape_cell`
# restores a cell's own.
_TEMPTING = re.compile(
    r"""'*(?:
        [\t\r\n] | [ ]*[=+\-@\uff1d\uff0b\uff0d\uff20]
        | (?: 0[0-9]+ | [0-9]{16,}
            | [0-9]+(?:[.,][0-9]*)?E[+-]?[0-9]+ | [0-9]+[.,][0-9]* | [0-9]{1,3}(?:[.,][0-9]{3})+
            | [0-9]{1,4}[-./:][0-9]{1,2}(?:[-./:][0-9]{1,4})?
            | (?:[0-9]{1,4}[-./ ]?)? (?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?
                |sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?) (?:[-./ ]?[0-9]{1,4})?
            | true | false
        )\Z
    )""",
    re.IGNORECASE | re.VERBOSE,
)


@record
class TableIssue:
    """What is wrong in a table, and where; `column` as in the file, "" for the whole line.

    A warning is about a column that is not sent; any other issue keeps its row from being sent.
    """

    line: int
    column: str
    text: str
    hint: str = ""
    is_warning: bool = False


def check_encoding(name: str) -> None:
    """Raise UsageError for what is no encoding of texts."""
    try:
        "".encode(name or "utf-8")
    except (LookupError, ValueError):
        raise invalid("--encoding", name, "the name of an encoding, such as cp1252 or latin-2") from None


def text_of(data: bytes, encoding: str = "") -> str:
    """Decode a file from a spreadsheet: by its byte order mark, else in the given encoding, else in UTF-8.

    It guesses nothing: the same bytes are other letters in another encoding. Raises: UsageError.
    """
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise UsageError("the file is a workbook, not a CSV file", hint="save it as CSV (UTF-8) in the spreadsheet")
    if data.startswith(codecs.BOM_UTF8):
        encoding = "utf-8-sig"
    elif data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    check_encoding(encoding)
    encoding = encoding or "utf-8"
    try:
        text = data.decode(encoding)
    except UnicodeError:
        text = "\0"
    # Text has no NUL, but UTF-16 decoded as something else has.
    if "\0" in text:
        raise UsageError(
            f"the file is not text in {encoding}",
            hint="name its encoding, as in --encoding cp1252, or save it as CSV (UTF-8)",
        )
    return text


def records(text: str, columns: Container[str], what: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line and the cells of each record that is not blank.

    The delimiter is the one that makes most of the header's names known `columns` (normalized). `what` names the file
    in errors. Raises: UsageError.
    """
    line = 1
    if separator := _SEPARATOR_LINE.match(text):
        text = text[separator.end() :]
        line = 2
    delimiter = separator[1] if separator else _delimiter(text, columns)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    offset = line
    try:
        for cells in table:
            if any(cell.strip() for cell in cells):
                yield line, cells
            line = table.line_num + offset
    except csv.Error as error:
        raise UsageError(
            f"{what} cannot be read from line {line} on: {error}",
            hint="check the quotes there, or save it in a spreadsheet once more",
        ) from None


def _delimiter(text: str, columns: Container[str]) -> str:
    """Return the delimiter that recognises most names of the header."""

    def recognised(delimiter: str) -> tuple[int, int]:
        try:
            names = next(filter(any, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)), [])
        except csv.Error:
            return 0, 0
        return sum(normalized(name) in columns for name in names), len(names)

    return max(",;\t", key=recognised)


def normalized(name: str) -> str:
    """Return a column name without case, blanks and underscores."""
    return "".join(name.split()).replace("_", "").casefold()


def needs_escape(text: str) -> bool:
    """Whether a spreadsheet would change a cell; leading apostrophes make no difference."""
    return _TEMPTING.match(text) is not None


def escape_cell(text: str) -> str:
    """Return a cell that spreadsheets do not change: with an apostrophe in front if needed."""
    return f"'{text}" if needs_escape(text) else text


def unescape_cell(text: str) -> str:
    """Undo `escape_cell`."""
    return text[1:] if text.startswith("'") and needs_escape(text) else text


def escape_controls(text: str) -> str:
    """Escape control characters, except tabs and line feeds, which belong to text and do no harm to a terminal."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
