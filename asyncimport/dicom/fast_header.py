"""Read the fields of an instance from the first bytes of its file, or decline."""

import struct
from collections.abc import Mapping

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
from asyncimport.dicom.identity import FIELDS, NotDicom, missing_uid, strip_padding

PADDING = " \0"
DICOMDIR = "1.2.840.10008.1.3.10"
MAX_VALUE_BYTES = 64 << 10  # a longer value is not read: a damaged length cannot fill the memory
LAST_TAG = max(FIELDS.values())  # SeriesNumber
# The character set applies to names and free texts only, never to UIDs, numbers and these (PS3.5 6.1.2.3).
_DATES = ("StudyDate", "StudyTime", "PatientBirthDate")
_CODES = ("PatientSex", "Modality", "BodyPartExamined", "SeriesNumber")
ASCII_FIELDS = frozenset(keyword for keyword in FIELDS if keyword.endswith("UID") or keyword in {*_DATES, *_CODES})

_WANTED = {tag: keyword for keyword, tag in FIELDS.items()}
_WANTED |= {
    0x0002_0002: "MediaStorageSOPClassUID",
    0x0002_0010: "TransferSyntaxUID",
    0x0008_0005: "SpecificCharacterSet",
}
_IMPLICIT_SYNTAX = "1.2.840.10008.1.2"
_EXPLICIT_SYNTAXES = frozenset({"1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5"})
_ENCAPSULATED_SYNTAXES = "1.2.840.10008.1.2.4."  # JPEG, MPEG and kin: all explicit little endian (PS3.5 A.4)
_NO_END = 1 << 62
_MAX_CACHED_BYTES = 64 << 10
# Last tags of three parts: what differs for each image in the meta information; its UID and times; the study's fields.
_LAST_OF_IMAGE_META, _LAST_OF_IMAGE, _LAST_OF_STUDY = 0x0002_0003, 0x0008_0033, 0x0017_FFFF
_NONE = -1  # stands for the VR in implicit encodings
_READABLE, _SHORT = TEXTS | {_NONE}, TEXTS | NUMBERS

# Without escape sequences the first character set holds for a whole value (PS3.5 6.1.2.3). The default one is certain
# for ASCII only.
_CODECS = {
    f"{form} {number}": f"iso_ir_{number}"
    for number in (6, 101, 109, 110, 126, 127, 138, 144, 148, 166)
    for form in ("ISO_IR", "ISO 2022 IR")
}
_CODECS |= {"": "ascii", "ISO_IR 100": "latin-1", "ISO 2022 IR 100": "latin-1", "ISO_IR 192": "utf-8"}
_CODECS |= {"ISO_IR 13": "shift_jis", "ISO 2022 IR 13": "shift_jis", "GB18030": "gb18030", "GBK": "gbk"}

_explicit, _implicit, _length = EXPLICIT.header, IMPLICIT.tag_and_length, EXPLICIT.uint32

# What `_cached_fields` read last of each part of a header.
_cache: dict[tuple[int, str, bool], tuple[bytes, dict[str, str]]] = {}


class MoreBytesNeeded(Exception):  # noqa: N818 - asks for more of the file
    """The fields needed may lie beyond the bytes given."""


class _Undecided(Exception):  # noqa: N818 - never leaves this module
    """Only pydicom can decide this."""


def read_fast_header(head: bytes) -> tuple[dict[str, str], int, Encoding] | None:
    """Return the fields that pydicom would read from the first bytes of a file; None to let pydicom decide.

    With them come the offset of the first element after the fields, and the encoding. Raises: NotDicom for a DICOMDIR,
    MoreBytesNeeded.
    """
    try:
        at = 132 if head[128:132] == PREFIX else 0
        if head[at : at + 2] == b"\x02\x00":
            if head[at + 2 : at + 4] == b"\0\0" and head[at + 4 : at + 8] != b"UL\x04\0":
                return None  # pydicom fails on a group length that is no number
            meta, at = _scan_elements(head, at, _LAST_OF_IMAGE_META, explicit=True)
            if meta.get("MediaStorageSOPClassUID", b"").strip(b" \0") == DICOMDIR.encode():
                raise NotDicom("DICOMDIR")
            more, at = _cached_fields(head, at, 0x0002_FFFF, "ascii", explicit=True)
            syntax = more["TransferSyntaxUID"]
            explicit = syntax in _EXPLICIT_SYNTAXES or syntax.startswith(_ENCAPSULATED_SYNTAXES)
            if not explicit and syntax != _IMPLICIT_SYNTAX:
                return None
        else:
            explicit = head[at + 4 : at + 6].isalpha()
        # pydicom trusts the first element more than the transfer syntax; if they differ, it decides.
        if head[at : at + 2] != b"\x08\x00" or head[at + 4 : at + 6].isalpha() != explicit:
            return None
        found, at = _scan_elements(head, at, _LAST_OF_IMAGE, explicit=explicit)
        charset = found.pop("SpecificCharacterSet", b"").rstrip(b" \0").decode("ascii")
        if not charset.isprintable():
            return None
        codec = _CODECS[charset.partition("\\")[0]]
        fields = _fields(found, codec)
        for last in _LAST_OF_STUDY, LAST_TAG:
            more, at = _cached_fields(head, at, last, codec, explicit=explicit)
            fields.update(more)
        if at + 8 > len(head):
            raise MoreBytesNeeded
        if head[at : at + 2] == b"\xfe\xff":
            return None  # a delimiter that ends nothing: fields may follow
        return None if missing_uid(fields) else (fields, at, EXPLICIT if explicit else IMPLICIT)
    except struct.error:
        raise MoreBytesNeeded from None
    except (_Undecided, UnicodeDecodeError, KeyError, RecursionError):
        return None


def _cached_fields(head: bytes, at: int, last: int, codec: str, *, explicit: bool) -> tuple[dict[str, str], int]:
    """Return the fields up to `last`, and where the next element begins: the same bytes as a file before, mostly."""
    key = last, codec, explicit
    if (known := _cache.get(key)) and head.startswith(known[0], at):
        return known[1], at + len(known[0]) - 4
    found, end = _scan_elements(head, at, last, explicit=explicit)
    fields = _fields(found, codec)
    if end - at < _MAX_CACHED_BYTES:
        _cache[key] = head[at : end + 4], fields
    return fields, end


def _scan_elements(
    head: bytes, at: int, last: int, *, explicit: bool, end: int = _NO_END, wanted: Mapping[int, str] = _WANTED
) -> tuple[dict[str, bytes], int]:
    """Return the values wanted of ascending elements, and where the first past `last` begins. Raises: struct.error."""
    found: dict[str, bytes] = {}
    previous = -1
    vr = _NONE
    while at < end:
        if explicit:
            group, element, vr, length = _explicit(head, at)
        else:
            group, element, length = _implicit(head, at)
        tag = group << 16 | element
        if not previous < tag <= last:
            if tag > last:
                break
            raise _Undecided
        previous = tag
        at += 8
        if tag in wanted:
            if vr not in _READABLE or length > MAX_VALUE_BYTES:
                raise _Undecided
            found[wanted[tag]] = head[at : at + length]
        elif vr not in _SHORT:
            if explicit:
                if vr not in LONGS:
                    raise _Undecided
                (length,) = _length(head, at)
                at += 4
            if length == UNDEFINED:
                if explicit and vr != SEQUENCE:
                    raise _Undecided
                at = _skip_sequence(head, at, explicit=explicit)
                continue
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
            raise _Undecided
        end = _NO_END if length == UNDEFINED else at + length
        _, at = _scan_elements(head, at, DELIMITERS << 16, explicit=explicit, end=end, wanted={})
        if end == _NO_END:
            group, element, length = _implicit(head, at)
            if group << 16 | element != END_OF_ITEM or length:
                raise _Undecided
            at += 8
        elif at != end:
            raise _Undecided  # pydicom follows the elements, not the length of their item


def _fields(found: Mapping[str, bytes], codec: str) -> dict[str, str]:
    """Decode values that have nothing unprintable but padding, such as a null, a line break or an escape sequence."""
    values = b"\n".join(found.values())
    if values.isascii():  # nearly always; ASCII is the same in all codecs
        texts = values.decode("ascii").split("\n") if found else []
    else:
        texts = [value.decode("ascii" if name in ASCII_FIELDS else codec) for name, value in found.items()]
    texts = [text.strip(PADDING) for text in texts]
    everything = "".join(texts)
    if len(texts) != len(found) or not everything.isprintable():
        raise _Undecided
    if "\\" in everything or "=" in everything:
        texts = list(map(strip_padding, found, texts))
    return {name: text for name, text in zip(found, texts, strict=True) if text}
