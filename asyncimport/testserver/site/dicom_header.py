"""Reads the few DICOM attributes that XNAT's importer looks at, with pydicom alone.

It must not know the client's way of reading headers: one misunderstanding could then hide on both sides.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

from pydicom.errors import InvalidDicomError
from pydicom.filereader import data_element_generator
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

REWRITTEN = (
    (Tag(0x0008, 0x0018), b"UI"),
    (Tag(0x0008, 0x1030), b"LO"),
    (Tag(0x0010, 0x0010), b"PN"),
    (Tag(0x0010, 0x0020), b"LO"),
    (Tag(0x0020, 0x000D), b"UI"),
    (Tag(0x0020, 0x000E), b"UI"),
)
"""The attributes that an anonymisation script may set.

SOPInstanceUID, StudyDescription, PatientName, PatientID, StudyInstanceUID, SeriesInstanceUID.
"""


class NotDicomError(ValueError):
    """The bytes are not a DICOM object, or its header is cut."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a data set is encoded, and where its attributes are that scripts rewrite."""

    start: int
    """Where the data set begins in the file."""
    spans: tuple[tuple[int, int], ...]
    """First byte and end of each of REWRITTEN, from the start of the file; empty if it is absent, at its place.

    In a deflated file the offsets are those of the inflated data set.
    """
    implicit: bool
    little: bool
    deflated: bool
    utf8: bool
    has_more: bool
    """Whether bytes follow the header: if not, a cut body may be cut inside it."""


@dataclass(frozen=True, slots=True)
class Header:
    """The attributes that the importer reads; an absent one is an empty text."""

    sop_class: str
    sop_uid: str
    study_uid: str
    series_uid: str
    series_number: str
    instance_number: str
    modality: str
    patient_id: str
    patient_name: str
    birth_date: str
    study_description: str
    series_description: str
    accession: str
    study_date: str
    comments: tuple[str, str, str]
    """PatientComments, StudyComments, AdditionalPatientHistory: in the order XNAT searches them."""
    layout: Layout


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
    "birth_date": Tag(0x0010, 0x0030),
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
        values, layout = _part10_values(data, 132) if data[128:132] == b"DICM" else _bare_values(data)
        utf8 = layout.utf8
        first, second, third = (_text(values.get(tag, b""), utf8=utf8) for tag in _COMMENTS)
        fields = {field: _text(values.get(tag, b""), utf8=utf8) for field, tag in _FIELDS.items()}
        return Header(**fields, comments=(first, second, third), layout=layout)
    except _UNREADABLE as error:
        raise NotDicomError(str(error)) from error


_Read = tuple[dict[BaseTag, bytes], Layout]


def _part10_values(data: bytes, start: int) -> _Read:
    """Return the raw values of a file whose file meta information begins at `start`."""
    file = BytesIO(data)
    file.seek(start)
    syntax = b""
    for element in data_element_generator(file, False, True, stop_when=_after_meta):  # noqa: FBT003
        if element.tag == _TRANSFER_SYNTAX and isinstance(element.value, bytes):
            syntax = element.value
    uid = syntax.rstrip(b"\0 ").decode("ascii")
    start = file.tell()
    if deflated := uid == DeflatedExplicitVRLittleEndian:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[start:])
        file = BytesIO(data)
    implicit, little = uid == ImplicitVRLittleEndian, uid != ExplicitVRBigEndian
    return _values(file, len(data), start, implicit=implicit, little=little, deflated=deflated)


def _bare_values(data: bytes) -> _Read:
    """Return the raw values of a file without preamble; its syntax shows in its first element."""
    (group,) = struct.unpack_from("<H", data)
    if group == _META_GROUP:
        return _part10_values(data, 0)
    if group not in {_FIRST_GROUP, _FIRST_GROUP << 8}:
        raise InvalidDicomError("neither a preamble nor a data set")
    implicit = not data[4:6].isalpha()
    little = group == _FIRST_GROUP
    return _values(BytesIO(data), len(data), 0, implicit=implicit, little=little, deflated=False)


def _values(file: BytesIO, size: int, start: int, *, implicit: bool, little: bool, deflated: bool) -> _Read:
    spans: list[tuple[int, int]] = []
    recorder = _span_recorder(file, spans)
    values = {
        element.tag: element.value
        for element in data_element_generator(file, implicit, little, stop_when=recorder, specific_tags=_WANTED)
        if isinstance(element.value, bytes)
    }
    # pydicom skips over values without checking that they are there: only the position shows it.
    if file.tell() > size:
        raise InvalidDicomError("the header is cut")
    has_more = file.tell() < size
    recorder(_END, None, 0)
    utf8 = b"ISO_IR 192" in values.get(_CHARSET, b"")
    return values, Layout(start, tuple(spans), implicit, little, deflated, utf8, has_more)


_END = BaseTag(0xFFFF_FFFF)


def _span_recorder(file: BytesIO, spans: list[tuple[int, int]]) -> Callable[[BaseTag, str | None, int], bool]:
    """Return a function that sees each element's head, records the spans, and stops after the last wanted element."""
    targets = [*(int(tag) for tag, _ in REWRITTEN), int(_END)]
    start = -1

    def see(tag: BaseTag, vr: str | None, _length: int) -> bool:
        nonlocal start
        number = int(tag)
        if number < targets[len(spans)]:
            return number > _LAST
        position = file.tell()
        if tag is not _END:
            position -= 12 if vr in EXPLICIT_VR_LENGTH_32 else 8
        if start >= 0:
            spans.append((start, position))
            start = -1
        while targets[len(spans)] < number:
            spans.append((position, position))
        if targets[len(spans)] == number and tag is not _END:
            start = position
        return number > _LAST

    return see


def _after_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return int(tag) >> 16 != _META_GROUP


def _text(value: bytes, *, utf8: bool) -> str:
    """Decode a text as UTF-8 or byte by byte: labels keep only ASCII anyway."""
    return value.decode("utf-8" if utf8 else "latin-1", "replace").strip(" \0")
