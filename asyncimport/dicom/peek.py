"""The peek: an instance's fields by the first bytes of its file, or none."""

import struct
from typing import NamedTuple

from asyncimport.dicom.encoding import (
    DELIMITERS,
    END_OF_ITEM,
    END_OF_SEQUENCE,
    EXPLICIT,
    IMPLICIT,
    ITEM,
    LONGS,
    NUMBERS,
    PREFIX,
    SEQUENCE,
    TEXTS,
    UNDEFINED,
    Encoding,
)
from asyncimport.dicom.identity import FIELDS, NotDicom, fields_of, missing_uid

__all__ = ["CODES", "DICOMDIR", "LAST", "LONGEST_VALUE", "PADDING", "Peeked", "peek"]

PADDING = " \0"
DICOMDIR = "1.2.840.10008.1.3.10"
LONGEST_VALUE = 64 << 10  # what is longer is not read, so that a damaged length cannot fill the memory
LAST = max(FIELDS.values())  # SeriesNumber
# The character set holds for names and free texts, and never for UIDs, numbers and these (PS3.5 6.1.2.3).
_DATES_AND_CODES = (
    "StudyDate",
    "StudyTime",
    "PatientBirthDate",
    "PatientSex",
    "Modality",
    "BodyPartExamined",
    "SeriesNumber",
)
CODES = frozenset(tag for keyword, tag in FIELDS.items() if keyword.endswith("UID") or keyword in _DATES_AND_CODES)

_CHARSET, _META_CLASS, _META_SYNTAX = 0x0008_0005, 0x0002_0002, 0x0002_0010
_WANTED = frozenset({*FIELDS.values(), _CHARSET, _META_CLASS, _META_SYNTAX})
_IMPLICIT_SYNTAX = "1.2.840.10008.1.2"
_EXPLICIT_SYNTAXES = frozenset({"1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5"})
_ENCAPSULATED_SYNTAXES = "1.2.840.10008.1.2.4."  # JPEG, MPEG and kin: all explicit little endian (PS3.5 A.4)
_ENDLESS = 1 << 62

# Without escape sequences the first character set holds for a whole value (PS3.5 6.1.2.3). Of the default one
# only ASCII is sure.
_CODECS = {
    f"{form} {number}": f"iso_ir_{number}"
    for number in (6, 101, 109, 110, 126, 127, 138, 144, 148, 166)
    for form in ("ISO_IR", "ISO 2022 IR")
}
_CODECS |= {"": "ascii", "ISO_IR 100": "latin-1", "ISO 2022 IR 100": "latin-1", "ISO_IR 192": "utf-8"}
_CODECS |= {"ISO_IR 13": "shift_jis", "ISO 2022 IR 13": "shift_jis", "GB18030": "gb18030", "GBK": "gbk"}

_explicit, _implicit, _length = EXPLICIT.header, IMPLICIT.plain, EXPLICIT.number


class _Unsure(Exception):  # noqa: N818 - never leaves this module
    """The peek met something that it does not surely know."""


class Peeked(NamedTuple):
    """What the peek found, and where it stopped: `at` the first element that is of no interest to it."""

    fields: dict[str, str]
    at: int
    encoding: Encoding


def peek(head: bytes) -> Peeked | None:
    """Give the fields that pydicom would give, by the first bytes of the file, or decline by None.

    Raises: NotDicom for a DICOMDIR.
    """
    try:
        at = 132 if head[128:132] == PREFIX else 0
        if head[at : at + 2] == b"\x02\x00":
            if head[at + 2 : at + 4] == b"\0\0" and head[at + 4 : at + 8] != b"UL\x04\0":
                return None  # pydicom stumbles over a group length that is no number
            meta, at = _scan(head, at, 0x0002_FFFF, explicit=True)
            if _text(meta.get(_META_CLASS, b""), "ascii") == DICOMDIR:
                raise NotDicom("DICOMDIR")
            syntax = _text(meta[_META_SYNTAX], "ascii")
            explicit = syntax in _EXPLICIT_SYNTAXES or syntax.startswith(_ENCAPSULATED_SYNTAXES)
            if not explicit and syntax != _IMPLICIT_SYNTAX:
                return None
        else:
            explicit = head[at + 4 : at + 6].isalpha()
        # pydicom trusts the first element more than the transfer syntax; where they differ, it decides.
        if head[at : at + 2] != b"\x08\x00" or head[at + 4 : at + 6].isalpha() != explicit:
            return None
        found, at = _scan(head, at, LAST, explicit=explicit)
        if head[at : at + 2] == b"\xfe\xff":
            return None  # a delimiter that ends nothing: what we want may follow
        charset = found.pop(_CHARSET, b"").rstrip(b" \0").decode("ascii")
        if not charset.isprintable():
            return None
        codec = _CODECS[charset.partition("\\")[0]]
        texts = {tag: _text(raw, "ascii" if tag in CODES else codec) for tag, raw in found.items()}
        fields = fields_of(texts)
        return None if missing_uid(fields) else Peeked(fields, at, EXPLICIT if explicit else IMPLICIT)
    except (_Unsure, struct.error, UnicodeDecodeError, KeyError, RecursionError):
        return None


def _scan(head: bytes, at: int, last: int, *, explicit: bool, end: int = _ENDLESS) -> tuple[dict[int, bytes], int]:
    """Return the values wanted of the elements that begin `at`, and where the first one past `last` begins.

    Tags must ascend (PS3.5 7.1). A value may lie beyond the bytes that we have: so does the next header then,
    and reading that raises struct.error.
    """
    found: dict[int, bytes] = {}
    previous = -1
    while at < end:
        if explicit:
            group, element, vr, length = _explicit(head, at)
        else:
            group, element, length = _implicit(head, at)
            vr = 0
        tag = group << 16 | element
        if tag > last:
            break
        if tag <= previous:
            raise _Unsure
        previous = tag
        at += 8
        if explicit and vr not in TEXTS:
            if tag in _WANTED or (vr not in LONGS and vr not in NUMBERS):
                raise _Unsure
            if vr in LONGS:
                (length,) = _length(head, at)
                at += 4
        if length == UNDEFINED:
            if tag in _WANTED or (explicit and vr != SEQUENCE):
                raise _Unsure
            at = _skip_sequence(head, at, explicit=explicit)
            continue
        if tag in _WANTED:
            if length > LONGEST_VALUE:
                raise _Unsure
            found[tag] = head[at : at + length]
        at += length
    return found, at


def _skip_sequence(head: bytes, at: int, *, explicit: bool) -> int:
    """Return where the sequence of undefined length ends whose first item begins `at` (PS3.5 7.5)."""
    while True:
        group, element, length = _implicit(head, at)
        tag = group << 16 | element
        at += 8
        if tag == END_OF_SEQUENCE and not length:
            return at
        if tag != ITEM:
            raise _Unsure
        end = _ENDLESS if length == UNDEFINED else at + length
        _, at = _scan(head, at, DELIMITERS << 16, explicit=explicit, end=end)
        if end == _ENDLESS:
            group, element, length = _implicit(head, at)
            if group << 16 | element != END_OF_ITEM or length:
                raise _Unsure
            at += 8
        elif at != end:
            raise _Unsure  # pydicom goes by the elements, and not by the length of their item


def _text(value: bytes, codec: str) -> str:
    """Decode a value, if nothing but its padding is unprintable: a null, a line break, an escape sequence."""
    text = value.decode(codec).strip(PADDING)
    if not text.isprintable():
        raise _Unsure
    return text
