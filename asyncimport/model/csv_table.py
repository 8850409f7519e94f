"""CSV as spreadsheets save it: encodings, separators, cells they would garble, and labels in them. Pure: no disk.

What is said of a cell tells one character of it at most: cells can be patients' data.
"""

import codecs
import csv
import io
import re
from collections.abc import Container, Iterator

from asyncimport.errors import UsageError
from asyncimport.model.record import record

# XNAT stores labels in columns of 255 characters.
_LONGEST_LABEL = 255
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
LABELS = f"labels are letters, digits, '_' and '-', {_LONGEST_LABEL} at most; nothing is cleaned silently"

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_SEPARATOR_LINE = re.compile(r'"?sep=([^"\r\n])"?(?:\r\n|\r|\n|\Z)', re.IGNORECASE)

# What a spreadsheet does not leave alone: formulas (also in full width, \uff0b and the like), numbers that lose digits,
# zeros or dots, dates, and words that it spells its own way. Any apostrophes before it are part of the pattern, so that
# those that were there themselves come back.
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
    """What is wrong in a table, and where; `column` as the file names it, "" for the whole line.

    A warning concerns a column that is not sent; any other flaw keeps its row from being sent.
    """

    line: int
    column: str
    text: str
    hint: str = ""
    is_warning: bool = False


def text_of(data: bytes, encoding: str = "") -> str:
    """Decode what spreadsheets save: with a byte order mark what it says, else in the given encoding, else UTF-8.

    Nothing else is guessed: bytes that are letters in one encoding are other letters in the next. Raises: UsageError.
    """
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise UsageError("the file is a workbook, not a CSV file", hint="save it as CSV (UTF-8) in the spreadsheet")
    if data.startswith(codecs.BOM_UTF8):
        encoding = "utf-8-sig"
    elif data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    encoding = encoding or "utf-8"
    try:
        text = data.decode(encoding)
    except LookupError:
        raise UsageError(f"there is no text encoding {encoding!r}", hint="name one such as cp1252 or latin-2") from None
    except UnicodeError:
        text = "\0"
    # A text has no NUL, but UTF-16 read as something else has.
    if "\0" in text:
        raise UsageError(
            f"the file is not text in {encoding}",
            hint="name its encoding, as in --encoding cp1252, or save it as CSV (UTF-8)",
        )
    return text


def records(text: str, columns: Container[str], what: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line at which a record begins, and its cells; blank lines and those of blank cells are passed over.

    `columns` are the folded names of columns that are known, by which the delimiter is told; `what` the file is.
    Raises: UsageError.
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
    """Return the delimiter that makes the most of the header."""

    def recognised(delimiter: str) -> tuple[int, int]:
        try:
            names = next(filter(any, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)), [])
        except csv.Error:
            return 0, 0
        return sum(normalized(name) in columns for name in names), len(names)

    return max(",;\t", key=recognised)


def normalized(name: str) -> str:
    """Return what counts of the name of a column: neither case nor blanks nor underscores."""
    return "".join(name.split()).replace("_", "").casefold()


def needs_escape(text: str) -> bool:
    """Whether a spreadsheet would not leave a cell alone; apostrophes that it begins with make no difference."""
    return _TEMPTING.match(text) is not None


def escape_cell(text: str) -> str:
    """Return a cell that spreadsheets leave alone: with an apostrophe in front where they would not."""
    return f"'{text}" if needs_escape(text) else text


def unescape_cell(text: str) -> str:
    """Return what `escape_cell` was given."""
    return text[1:] if text.startswith("'") and needs_escape(text) else text


def without_controls(text: str) -> str:
    """Spell out control characters; tabs and line feeds belong to a text, and do no harm to a terminal."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def label_problem(text: str) -> str:
    """Say what keeps a text from being a label; "" for nothing."""
    if found := _UNSAFE.search(text):
        return f"the character {character(found[0])}"
    return f"{len(text)} characters" if len(text) > _LONGEST_LABEL else ""


def character(one: str) -> str:
    """Return a character, also by its code point: many look like others, or like nothing."""
    return f"{one!r} (U+{ord(one):04X})"
