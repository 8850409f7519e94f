"""Reads the few DICOM attributes that XNAT's importer looks at, with pydicom alone.

It must not know the client's way of reading headers: one misunderstanding could then hide on both sides.
"""

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO

from pydicom.errors import InvalidDicomError
from pydicom.filereader import data_element_generator
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

__all__ = ["Header", "NotDicomError", "read_header"]


class NotDicomError(ValueError):
    """The bytes are no DICOM object, or its header is cut."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the importer looks at; an absent attribute is an empty text."""

    sop_class: str
    sop_uid: str
    study_uid: str
    series_uid: str
    series_number: str
    instance_number: str
    modality: str
    patient_id: str
    patient_name: str
    study_description: str
    series_description: str
    accession: str
    study_date: str
    comments: tuple[str, str, str]
    """PatientComments, StudyComments, AdditionalPatientHistory: in the order XNAT searches them."""


_META_GROUP, _FIRST_GROUP = 0x0002, 0x0008
_CHARSET = Tag(0x0008, 0x0005)
_TRANSFER_SYNTAX = Tag(0x0002, 0x0010)
_FIELDS = {
    "sop_class": Tag(0x0008, 0x0016),
    "sop_uid": Tag(0x0008, 0x0018),
    "study_uid": Tag(0x0020, 0x000D),
    "series_uid": Tag(0x0020, 0x000E),
    "series_number": Tag(0x0020, 0x0011),
    "instance_number": Tag(0x0020, 0x0013),
    "modality": Tag(0x0008, 0x0060),
    "patient_id": Tag(0x0010, 0x0020),
    "patient_name": Tag(0x0010, 0x0010),
    "study_description": Tag(0x0008, 0x1030),
    "series_description": Tag(0x0008, 0x103E),
    "accession": Tag(0x0008, 0x0050),
    "study_date": Tag(0x0008, 0x0020),
}
_COMMENTS = (Tag(0x0010, 0x4000), Tag(0x0032, 0x4000), Tag(0x0010, 0x21B0))
_WANTED: list[BaseTag | int] = [*_FIELDS.values(), *_COMMENTS, _CHARSET]
_LAST = max(int(tag) for tag in _WANTED)

# What pydicom raises on arbitrary bytes; the importer masks them all as "unable to read DICOM object".
_UNREADABLE = (
    InvalidDicomError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    struct.error,
    zlib.error,
)


def read_header(data: bytes) -> Header:
    """Read the header from a file's first bytes (all of them, or at least as many as the header has).

    Raises NotDicomError.
    """
    try:
        values = _part10_values(data, 132) if data[128:132] == b"DICM" else _bare_values(data)
        charset = values.get(_CHARSET, b"")
        first, second, third = (_text(values.get(tag, b""), charset) for tag in _COMMENTS)
        fields = {field: _text(values.get(tag, b""), charset) for field, tag in _FIELDS.items()}
        return Header(**fields, comments=(first, second, third))
    except _UNREADABLE as error:
        raise NotDicomError(str(error)) from error


def _part10_values(data: bytes, start: int) -> dict[BaseTag, bytes]:
    """Return the raw values of a file whose file meta information begins at `start`."""
    file = BytesIO(data)
    file.seek(start)
    syntax = b""
    for element in data_element_generator(file, False, True, stop_when=_after_meta):  # noqa: FBT003
        if element.tag == _TRANSFER_SYNTAX and isinstance(element.value, bytes):
            syntax = element.value
    uid = syntax.rstrip(b"\0 ").decode("ascii")
    if uid == DeflatedExplicitVRLittleEndian:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[file.tell() :])
        file = BytesIO(data)
    return _values(file, len(data), implicit=uid == ImplicitVRLittleEndian, little=uid != ExplicitVRBigEndian)


def _bare_values(data: bytes) -> dict[BaseTag, bytes]:
    """Return the raw values of a file without preamble; its syntax shows in its first element."""
    (group,) = struct.unpack_from("<H", data)
    if group == _META_GROUP:
        return _part10_values(data, 0)
    if group not in {_FIRST_GROUP, _FIRST_GROUP << 8}:
        raise InvalidDicomError("neither a preamble nor a data set")
    implicit = not data[4:6].isalpha()
    return _values(BytesIO(data), len(data), implicit=implicit, little=group == _FIRST_GROUP)


def _values(file: BytesIO, size: int, *, implicit: bool, little: bool) -> dict[BaseTag, bytes]:
    values = {
        element.tag: element.value
        for element in data_element_generator(file, implicit, little, stop_when=_after_last, specific_tags=_WANTED)
        if isinstance(element.value, bytes)
    }
    # pydicom skips over values without looking whether they are there: only the position tells.
    if file.tell() > size:
        raise InvalidDicomError("the header is cut")
    return values


def _after_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return int(tag) >> 16 != _META_GROUP


def _after_last(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return int(tag) > _LAST


def _text(value: bytes, charset: bytes) -> str:
    """Decode a text: as UTF-8 or byte by byte, since labels keep ASCII only anyway."""
    encoding = "utf-8" if b"ISO_IR 192" in charset else "latin-1"
    return value.decode(encoding, "replace").strip(" \0")
