"""How elements are encoded: value representations and element headers (PS3.5 7.1)."""

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
