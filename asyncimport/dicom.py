"""Who a DICOM file is: its three UIDs, and the fields by which it may be routed.

`identify` owns the decision whether a file is DICOM: content decides, never the name. It comes to its one
answer in two ways: by a *peek*, a scan by hand of the elements at the head of the file, and by pydicom, which
takes ten to thirty times as long and decides whatever the peek does not surely know. The peek never guesses:
it gives what pydicom would give, or it declines.

Nothing here knows of XNAT, of labels or of the walk. No reason given holds a value of the file or its path,
and from the first file that pydicom decides, its warnings and log are silent in the whole process.
"""

import io
import logging
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["FIELDS", "STUDY_FIELDS", "Identity", "NotDicom", "Unidentified", "Unreadable", "identify"]

# Keyword -> tag. Patient and study (PS3.3 C.7.1 and C.7.2) are the same in every file of a study, so only
# their fields may name a subject or a session. All lie before (0020,0012), so that the peek can stop early.
STUDY_FIELDS: Mapping[str, int] = {
    "StudyDate": 0x0008_0020,
    "StudyTime": 0x0008_0030,
    "AccessionNumber": 0x0008_0050,
    "ReferringPhysicianName": 0x0008_0090,
    "StudyDescription": 0x0008_1030,
    "PatientName": 0x0010_0010,
    "PatientID": 0x0010_0020,
    "IssuerOfPatientID": 0x0010_0021,
    "PatientBirthDate": 0x0010_0030,
    "PatientSex": 0x0010_0040,
    "OtherPatientIDs": 0x0010_1000,
    "PatientComments": 0x0010_4000,
    "ClinicalTrialSponsorName": 0x0012_0010,
    "ClinicalTrialProtocolID": 0x0012_0020,
    "ClinicalTrialProtocolName": 0x0012_0021,
    "ClinicalTrialSiteID": 0x0012_0030,
    "ClinicalTrialSiteName": 0x0012_0031,
    "ClinicalTrialSubjectID": 0x0012_0040,
    "ClinicalTrialTimePointID": 0x0012_0050,
    "StudyInstanceUID": 0x0020_000D,
    "StudyID": 0x0020_0010,
}
FIELDS: Mapping[str, int] = {
    **STUDY_FIELDS,
    # The rest may differ from file to file of one study.
    "SOPClassUID": 0x0008_0016,
    "SOPInstanceUID": 0x0008_0018,
    "Modality": 0x0008_0060,
    "Manufacturer": 0x0008_0070,
    "InstitutionName": 0x0008_0080,
    "StationName": 0x0008_1010,
    "SeriesDescription": 0x0008_103E,
    "ManufacturerModelName": 0x0008_1090,
    "BodyPartExamined": 0x0018_0015,
    "ProtocolName": 0x0018_1030,
    "SeriesInstanceUID": 0x0020_000E,
    "SeriesNumber": 0x0020_0011,
}


@dataclass(frozen=True, slots=True)
class Identity:
    """Who an instance is. The UIDs are the data set's, which XNAT stores, not the file meta information's.

    `fields` maps keywords of FIELDS to text without padding. An empty value is absent; several values are
    joined by a backslash, as in the file.
    """

    sop_uid: str
    study_uid: str
    series_uid: str
    fields: Mapping[str, str]


class Unidentified(Exception):  # noqa: N818 - an outcome, not a fault
    """The file has no identity. `reason` is short and plain, and holds nothing of the file or of its path."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotDicom(Unidentified):
    """The file is something else, or empty, or a DICOMDIR: an index, and nothing to store."""


class Unreadable(Unidentified):
    """The file is DICOM but lacks a UID or cannot be parsed, or the system does not let us read it."""


# O_NONBLOCK, because opening a FIFO without a writer would wait for ever; O_BINARY is Windows'.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
# What we want lies within 8 kB nearly always, and within 128 kB behind long private groups and sequences.
_HEAD = 8 << 10
_LONG_HEAD = 128 << 10


def identify(path: str | bytes) -> Identity:
    """Identify the file at `path`, or raise NotDicom or Unreadable. It blocks: call it in a worker thread."""
    try:
        fd = os.open(path, _OPEN_FLAGS)
        try:
            # The walk passes only regular files on, but what was one then may be a pipe or a directory now.
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Unreadable("not a regular file")
            head = os.read(fd, _HEAD)
            identity = _peek(head)
            if identity is None:
                _require_dicom(head)
                if len(head) == _HEAD:
                    head += os.read(fd, _LONG_HEAD - _HEAD)
                    identity = _peek(head)
            return identity or _ask_pydicom(fd, prefixed=head[128:132] == _PREFIX)
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise Unreadable("vanished") from None
    except OSError as error:
        # strerror alone: the whole text of the error holds the path.
        raise Unreadable((error.strerror or "cannot be read").lower()) from None


# --- what both ways share ---

_PREFIX = b"DICM"  # at byte 128 (PS3.10 7.1)
_PADDING = " \0"
_DICOMDIR = "1.2.840.10008.1.3.10"
_LONGEST_VALUE = 64 << 10  # what is longer is not read, so that a damaged length cannot fill the memory

_KEYWORDS = {tag: keyword for keyword, tag in FIELDS.items()}
_CHARSET, _META_CLASS, _META_SYNTAX = 0x0008_0005, 0x0002_0002, 0x0002_0010
_CLASS, _INSTANCE, _STUDY, _SERIES = 0x0008_0016, 0x0008_0018, 0x0020_000D, 0x0020_000E
_LAST = max(_KEYWORDS)  # SeriesNumber
_NAMES = frozenset({FIELDS["PatientName"], FIELDS["ReferringPhysicianName"]})
# The character set holds for names and free texts, and never for these (PS3.5 6.1.2.3).
_DATES_AND_CODES = (
    "StudyDate",
    "StudyTime",
    "PatientBirthDate",
    "PatientSex",
    "Modality",
    "BodyPartExamined",
)
_CODES = {_CLASS, _INSTANCE, _STUDY, _SERIES, _LAST, *(FIELDS[keyword] for keyword in _DATES_AND_CODES)}


def _identity(texts: Mapping[int, str]) -> Identity:
    """Make the identity of stripped texts by tag, or raise Unreadable when a UID is missing."""
    fields = {}
    for tag, text in texts.items():
        if "\\" in text:
            text = "\\".join(value.strip(_PADDING) for value in text.split("\\"))
        elif text.endswith("=") and tag in _NAMES:
            text = text.rstrip(f"={_PADDING}")  # component groups that are empty (PS3.5 6.2.1)
        if text:
            fields[_KEYWORDS[tag]] = text
    for uid in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if uid not in fields:
            raise Unreadable(f"no {uid}")
    return Identity(fields["SOPInstanceUID"], fields["StudyInstanceUID"], fields["SeriesInstanceUID"], fields)


# --- is it DICOM? ---

# Group lengths, UIDs, character sets and image types may come first; none of them is longer.
_LONGEST_FIRST = 1024


def _require_dicom(head: bytes) -> None:
    """Raise NotDicom unless a file begins as DICOM files begin, which pydicom does not check.

    A preamble, "DICM" and group 0002 should come first (PS3.10 7.1), but old files lack the one or the other.
    In a text "DICM" may stand at byte 128 by chance; after a preamble of zeros it is meant, whatever follows.
    """
    if not head:
        raise NotDicom("empty")
    prefixed = head[128:132] == _PREFIX
    if prefixed and (len(head) < 140 or not any(head[:128])):
        return
    if not _begins_data_set(head[132:140] if prefixed else head[:8]):
        raise NotDicom("not DICOM")


def _begins_data_set(header: bytes) -> bool:
    """Whether this is the header of an element that may come first, in any of the three encodings."""
    if len(header) < 8:
        return False
    for order in "<>":
        group, element, letters, length = struct.unpack(f"{order}HH2sH", header)
        # A data set that begins behind (0008,0018) has no SOPInstanceUID.
        if (group == 0x0002 and element <= 0x0102) or (group == 0x0008 and element <= 0x0018):
            vr = int.from_bytes(letters, "little")
            if length <= _LONGEST_FIRST and (vr in _TEXTS or vr in _NUMBERS or vr in _LONGS):
                return True
            if order == "<" and _implicit(header, 0)[2] <= _LONGEST_FIRST:
                return True
    return False


# --- the peek ---


class _Unsure(Exception):  # noqa: N818 - never leaves this module
    """The peek met something that it does not surely know."""


def _vrs(names: str) -> frozenset[int]:
    """Value representations as the peek reads them: two letters as one little endian number."""
    return frozenset(int.from_bytes(name.encode(), "little") for name in names.split())


# In explicit encodings a length has 16 bits or, after two reserved bytes, 32 bits (PS3.5 7.1.2).
_TEXTS = _vrs("AE AS CS DA DS DT IS LO LT PN SH ST TM UI")
_NUMBERS = _vrs("AT FD FL SL SS UL US")
_LONGS = _vrs("OB OD OF OL OV OW SQ SV UC UN UR UT UV")
(_SEQUENCE,) = _vrs("SQ")

_WANTED = frozenset({*_KEYWORDS, _CHARSET, _META_CLASS, _META_SYNTAX})
_IMPLICIT_SYNTAX = "1.2.840.10008.1.2"
_EXPLICIT_SYNTAXES = frozenset({"1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5"})
_ENCAPSULATED_SYNTAXES = "1.2.840.10008.1.2.4."  # JPEG, MPEG and kin: all explicit little endian (PS3.5 A.4)

_UNDEFINED = 0xFFFF_FFFF
_DELIMITERS = 0xFFFE_0000  # the group of items and their delimiters: no element of a data set lies behind it
_ITEM, _END_OF_ITEM, _END_OF_SEQUENCE = (0xFFFE, 0xE000), (0xFFFE, 0xE00D, 0), (0xFFFE, 0xE0DD, 0)
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

_explicit = struct.Struct("<HHHH").unpack_from
_implicit = struct.Struct("<HHL").unpack_from
_length = struct.Struct("<L").unpack_from


def _peek(head: bytes) -> Identity | None:
    """Identify an instance by the first bytes of its file, or decline by None."""
    try:
        at = 132 if head[128:132] == _PREFIX else 0
        if head[at : at + 2] == b"\x02\x00":
            if head[at + 2 : at + 4] == b"\0\0" and head[at + 4 : at + 8] != b"UL\x04\0":
                return None  # pydicom stumbles over a group length that is no number
            meta, at = _scan(head, at, 0x0002_FFFF, explicit=True)
            if _text(meta.get(_META_CLASS, b""), "ascii") == _DICOMDIR:
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
        found, at = _scan(head, at, _LAST, explicit=explicit)
        if head[at : at + 2] == b"\xfe\xff":
            return None  # a delimiter that ends nothing: what we want may follow
        charset = found.pop(_CHARSET, b"").rstrip(b" \0").decode("ascii")
        if not charset.isprintable():
            return None
        codec = _CODECS[charset.partition("\\")[0]]
        return _identity({tag: _text(raw, "ascii" if tag in _CODES else codec) for tag, raw in found.items()})
    except (_Unsure, Unreadable, struct.error, UnicodeDecodeError, KeyError, RecursionError):
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
        if explicit and vr not in _TEXTS:
            if tag in _WANTED or (vr not in _LONGS and vr not in _NUMBERS):
                raise _Unsure
            if vr in _LONGS:
                (length,) = _length(head, at)
                at += 4
        if length == _UNDEFINED:
            if tag in _WANTED or (explicit and vr != _SEQUENCE):
                raise _Unsure
            at = _skip_sequence(head, at, explicit=explicit)
            continue
        if tag in _WANTED:
            if length > _LONGEST_VALUE:
                raise _Unsure
            found[tag] = head[at : at + length]
        at += length
    return found, at


def _skip_sequence(head: bytes, at: int, *, explicit: bool) -> int:
    """Return where the sequence of undefined length ends whose first item begins `at` (PS3.5 7.5)."""
    while True:
        header = _implicit(head, at)
        at += 8
        if header == _END_OF_SEQUENCE:
            return at
        if header[:2] != _ITEM:
            raise _Unsure
        end = _ENDLESS if header[2] == _UNDEFINED else at + header[2]
        _, at = _scan(head, at, _DELIMITERS, explicit=explicit, end=end)
        if end == _ENDLESS:
            if _implicit(head, at) != _END_OF_ITEM:
                raise _Unsure
            at += 8
        elif at != end:
            raise _Unsure  # pydicom goes by the elements, and not by the length of their item


def _text(value: bytes, codec: str) -> str:
    """Decode a value, if nothing but its padding is unprintable: a null, a line break, an escape sequence."""
    text = value.decode(codec).strip(_PADDING)
    if not text.isprintable():
        raise _Unsure
    return text


# --- pydicom ---

_FIRST_DIRECTORY_RECORD, _BEFORE_PIXELS = 0x0004_1200, 0x7FE0_0007
_DOTTED = re.compile(r"[0-9]+(\.[0-9]+)+")


def _ask_pydicom(fd: int, *, prefixed: bool) -> Identity:
    """Identify an instance by pydicom, which decides."""
    _silence_pydicom()
    from pydicom.errors import BytesLengthException, InvalidDicomError

    texts: dict[int, str] = {}
    try:
        texts = _texts_by_pydicom(fd, _LAST)
        if not texts.keys() >= {_INSTANCE, _STUDY, _SERIES}:
            texts = _texts_by_pydicom(fd, _BEFORE_PIXELS)  # perhaps its tags do not ascend
    # Damaged bytes make pydicom raise nearly anything: its readers index, convert and look up unchecked. And
    # someone may turn its warnings into errors at this very moment.
    except (
        *(InvalidDicomError, BytesLengthException, NotImplementedError, EOFError, RecursionError, Warning),
        *(
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            ArithmeticError,
            struct.error,
            zlib.error,
            OSError,
        ),
    ) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's, not pydicom's
        raise Unreadable("cannot be parsed") from None
    try:
        return _identity(texts)
    except Unreadable:
        if not prefixed and not any(_DOTTED.fullmatch(texts.get(tag, "")) for tag in (_CLASS, _INSTANCE)):
            raise NotDicom("not DICOM") from None
        raise


def _texts_by_pydicom(fd: int, last: int) -> dict[int, str]:
    """Read texts up to the tag `last`: what follows may be long, or damaged, and is not needed."""
    from pydicom.charset import decode_bytes, default_encoding
    from pydicom.filereader import read_partial
    from pydicom.valuerep import TEXT_VR_DELIMS

    file = io.FileIO(fd, closefd=False)
    file.name = ""  # pydicom joins it to other texts, which a file's number is none of
    file.seek(0)
    with io.BufferedReader(file) as stream:
        tags = [*_KEYWORDS, _FIRST_DIRECTORY_RECORD]
        header = read_partial(stream, lambda tag, *_: tag > last, _LONGEST_VALUE, force=True, specific_tags=tags)
    if _FIRST_DIRECTORY_RECORD in header or header.file_meta.get("MediaStorageSOPClassUID") == _DICOMDIR:
        raise NotDicom("DICOMDIR")
    charset = header.original_character_set
    encodings = [charset] if isinstance(charset, str) else list(charset)
    texts = {}
    for tag in _KEYWORDS:
        # The raw value: converting it could fail on a number or a date that has nothing to do with identity.
        raw = getattr(header.get_item(tag, keep_deferred=True), "value", None)
        if isinstance(raw, bytes):
            codecs = [default_encoding] if tag in _CODES else encodings
            text = decode_bytes(raw, codecs, TEXT_VR_DELIMS).strip(_PADDING)
            if text:
                texts[tag] = text
    return texts


_SILENCE: Any = ("ignore", None, Warning, re.compile(r"pydicom\b"), 0)


def _silence_pydicom() -> None:
    """Keep pydicom, which puts raw values into its warnings and its log, from saying anything.

    `warnings.catch_warnings` is not safe in threads, so this is a filter for the whole process; as others may
    put theirs before it later, it is looked after each time.
    """
    logging.getLogger("pydicom").disabled = True
    if not warnings.filters or warnings.filters[0] != _SILENCE:
        warnings.filterwarnings("ignore", module=_SILENCE[3].pattern)
