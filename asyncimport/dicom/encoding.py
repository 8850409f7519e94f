"""How DICOM files begin, and how elements are encoded: value representations and headers (PS3.5 7.1)."""

import struct
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

PREFIX = b"DICM"  # at byte 128 (PS3.10 7.1)
UNDEFINED = 0xFFFF_FFFF
DELIMITERS = 0xFFFE  # the group of items and their delimiters: no element of a data set follows it
ITEM = 0xFFFE_E000
END_OF_ITEM = 0xFFFE_E00D
END_OF_SEQUENCE = 0xFFFE_E0DD

_Order = Literal["little", "big"]


def _vrs(names: str, order: _Order = "little") -> frozenset[int]:
    """Return value representations as numbers of two letters, which are quicker to compare than text."""
    return frozenset(int.from_bytes(name.encode(), order) for name in names.split())


# In explicit encodings a length has 16 bits or, after two reserved bytes, 32 bits (PS3.5 7.1.2).
_TEXTS = "AE AS CS DA DS DT IS LO LT PN SH ST TM UI"
_NUMBERS = "AT FD FL SL SS UL US"
_LONGS = "OB OD OF OL OV OW SQ SV UC UN UR UT UV"
TEXTS = _vrs(_TEXTS)
NUMBERS = _vrs(_NUMBERS)
LONGS = _vrs(_LONGS)
SEQUENCE = int.from_bytes(b"SQ", "little")


class Encoding(NamedTuple):
    """Functions that read one of the encodings from bytes at an offset."""

    explicit: bool
    order: _Order
    header: Callable[..., tuple[Any, ...]]  # group, element, VR and a length of 16 bits
    tag_and_length: Callable[
        ..., tuple[Any, ...]
    ]  # group, element and a length of 32 bits: implicit VR, items, delimiters
    vr_and_length: Callable[..., tuple[Any, ...]]  # VR and a length of 16 bits
    uint32: Callable[..., tuple[Any, ...]]  # 32 bits
    short: frozenset[int]  # the VRs whose length has 16 bits
    long: frozenset[int]  # the others


def _encoding(order: _Order, *, explicit: bool) -> Encoding:
    sign = "<" if order == "little" else ">"
    header, tag_and_length, vr_and_length, uint32 = (
        struct.Struct(sign + form).unpack_from for form in ("HHHH", "HHL", "4xHH", "L")
    )
    short, long = _vrs(f"{_TEXTS} {_NUMBERS}", order), _vrs(_LONGS, order)
    return Encoding(explicit, order, header, tag_and_length, vr_and_length, uint32, short, long)


EXPLICIT = _encoding("little", explicit=True)
IMPLICIT = _encoding("little", explicit=False)
BIG = _encoding("big", explicit=True)
BIG_IMPLICIT = _encoding("big", explicit=False)


# Group lengths, UIDs, character sets and image types may come first; none is longer.
_MAX_FIRST_LENGTH = 1024
# A line end or a byte order mark may precede "DICM". Archives have more before it.
_MAX_SHIFT = 16


def begins_dicom(head: bytes) -> bool:
    """Whether the first bytes of a file, 140 if it has as many, are those of a DICOM file.

    A preamble, "DICM" and group 0002 should come first (PS3.10 7.1), but old files lack one or the other. A text may
    have "DICM" at byte 128 by chance; after a preamble of zeros it is DICOM, whatever follows.
    """
    prefixed = head[128:132] == PREFIX
    if prefixed and (len(head) < 140 or not any(head[:128])):
        return True
    return _begins_data_set(head[132:140] if prefixed else head[:8])


def begins_shifted(head: bytes) -> bool:
    """Whether these would be the first bytes of a DICOM file if "DICM" were at byte 128."""
    at = head.find(PREFIX, 0, 128 + _MAX_SHIFT + len(PREFIX))
    return at not in {-1, 128} and _begins_data_set(head[at + 4 : at + 12])


def _begins_data_set(header: bytes) -> bool:
    """Whether this is the header of a possible first element, in any of the three encodings."""
    if len(header) < 8:
        return False
    for order in "<>":
        group, element, letters, length = struct.unpack(f"{order}HH2sH", header)
        # A data set that begins after (0008,0018) has no SOPInstanceUID.
        if (group == 0x0002 and element <= 0x0102) or (group == 0x0008 and element <= 0x0018):
            vr = int.from_bytes(letters, "little")
            if length <= _MAX_FIRST_LENGTH and (vr in TEXTS or vr in NUMBERS or vr in LONGS):
                return True
            if order == "<" and IMPLICIT.tag_and_length(header)[2] <= _MAX_FIRST_LENGTH:
                return True
    return False
