"""Whether a data set is whole: the end of it can be reached.

A file that was cut short reads well up to the cut, and pydicom reads it so, without a word. The rule is ours:
from the first element on each length leads to the next element, and so to the end of the file. It is *truncated* if

- a length leads past the end, or the file ends within the header of an element (PS3.5 7.1),
- a sequence or item of undefined length, or encapsulated pixel data, has no delimiter (PS3.5 7.5 and A.4),
- there is no element at all behind the file meta information,
- an image has no pixel data, nor the address of a provider of them (PS3.3 C.7.6.3),
- deflated data do not inflate to their end (PS3.5 A.5).

A length stands for all that it encloses, which is not looked at. Zeros where an element should begin are padding,
as is Data Set Trailing Padding, (FFFC,FFFC) (PS3.10 7.2). When the pixel data are whole, a rest that begins like no
further element is stray and no loss. What is wrong without being cut is not truncated: a delimiter that ends nothing,
a sequence that ends without its own before a further element, tags out of order.

How much is looked at is bounded: what inflates to too much, has too many elements or sequences too deep in each other
is not known to be whole.
"""

import struct
import zlib
from typing import NamedTuple

from asyncimport.dicom.encoding import (
    BIG,
    BIG_IMPLICIT,
    DELIMITERS,
    END_OF_ITEM,
    END_OF_SEQUENCE,
    EXPLICIT,
    IMPLICIT,
    ITEM,
    PREFIX,
    UNDEFINED,
    Encoding,
)
from asyncimport.dicom.identity import TooLarge
from asyncimport.dicom.image_classes import IMAGE_CLASSES, NEVER_IMAGES
from asyncimport.dicom.windowed_bytes import Bytes, File, Inflated

_ELEMENT, _SEQUENCE, _PIXELS = "an element ends early", "a sequence has no end", "the pixel data ends early"
_NO_PIXELS, _DEFLATED = "the pixel data is missing", "the deflated data does not inflate to its end"
_NOTHING = "the data set is missing"

_DEEPEST = 100  # items within items: reports have twenty
_MOST_AT_TOP = 1_000_000  # of what is not stepped over quickly
_MOST_BEFORE = 10_000  # elements before the data set: a command has thirty, and meta information fifteen
_ITEM_NUMBER = ITEM & 0xFFFF
_SYNTAX = 0x0002_0010
_BIG_SYNTAX = b"1.2.840.10008.1.2.2"
_DEFLATED_SYNTAXES = frozenset(
    {
        b"1.2.840.10008.1.2.1.99",
        b"1.2.840.10008.1.2.4.95",  # JPIP Referenced Deflate
        b"1.2.840.10008.1.2.4.205",  # JPIP HTJ2K Referenced Deflate
    }
)
_PIXEL_DATA = frozenset({0x7FE0_0008, 0x7FE0_0009, 0x7FE0_0010})  # floats, doubles, integers
_PIXEL_GROUP = 0x7FE0
_IMPLICIT_PIXELS = b"\xe0\x7f\x10\0"
_EXPLICIT_PIXELS = (_IMPLICIT_PIXELS + b"OW", _IMPLICIT_PIXELS + b"OB")
# Together the first describe pixels, and the other tells where these are instead (PS3.3 C.7.6.3).
_ROWS_COLUMNS_BITS, _PROVIDER_URL = frozenset({0x0028_0010, 0x0028_0011, 0x0028_0100}), 0x0028_7FE0


class DataSet(NamedTuple):
    """Where a data set begins, and how it is encoded."""

    source: Bytes
    at: int
    encoding: Encoding


class _Element(NamedTuple):
    """The header of an element."""

    tag: int
    length: int
    value: int  # where it begins
    sure: bool  # whether it has a value representation, where it should have one


def completeness_problem(source: Bytes, at: int, encoding: Encoding, sop_class: str) -> str:
    """Say in short why the data set whose elements begin `at` is not known to be whole, or "" if it is."""
    try:
        reason = _shortfall(source, at, encoding, sop_class)
        if isinstance(source, Inflated) and not source.complete():
            reason = _DEFLATED
    except zlib.error:
        reason = _DEFLATED
    except TooLarge as error:
        return error.reason
    return reason and f"truncated: {reason}"


def find_data_set(file: File) -> DataSet:
    """Find the data set of a file. How the first element is encoded counts more than the transfer syntax.

    Raises: TooLarge when it lies behind too many other elements.
    """
    at = 132 if file.at(128, 4) == PREFIX else 0
    syntax = b""
    while (element := _element(file, at, EXPLICIT)) and element.tag >> 16 == 0x0002:
        _check_few(file)
        if element.tag == _SYNTAX:
            syntax = file.at(element.value, min(element.length, 64)).strip(b" \0")
        at = element.value + element.length
    if syntax in _DEFLATED_SYNTAXES:
        return DataSet(Inflated(file.fd, at, file.size), 0, EXPLICIT)
    # A command set is always implicit (PS3.7 6.3).
    while (element := _element(file, at, IMPLICIT)) and not element.tag >> 16 and (element.tag or element.length):
        _check_few(file)
        at = element.value + element.length
    first = file.at(at, 6)
    explicit = _are_letters(first[4:6])
    # Without a transfer syntax the group tells: the first ones are small, and large in the wrong order.
    if syntax == _BIG_SYNTAX or (not syntax and explicit and first[1] >= 0x04):
        return DataSet(file, at, BIG if explicit else BIG_IMPLICIT)
    return DataSet(file, at, EXPLICIT if explicit else IMPLICIT)


def _check_few(file: File) -> None:
    """Raise TooLarge when so many elements have been met and none of them is the data set's."""
    if file.most_steps - file.steps > _MOST_BEFORE:
        raise TooLarge(f"more than {_MOST_BEFORE:,} elements come before the data set")


def _shortfall(source: Bytes, begin: int, encoding: Encoding, sop_class: str) -> str:
    at = begin
    for _ in range(_MOST_AT_TOP):
        at = _stride(source, at, encoding)
        if _pixels_end(source, at, encoding):
            return ""
        element = _element(source, at, encoding)
        if element is None:
            if any(source.at(at, 12)) or at > source.size:
                return _ELEMENT
            break
        tag, length, value, _ = element
        if tag in _PIXEL_DATA:
            return _beyond_pixels(source, element, encoding)
        if not tag and not length:
            break  # padding
        if tag >> 16 == DELIMITERS:
            at = value
        elif length != UNDEFINED:
            at = value + length
        elif (end := _end_of_sequence(source, value, encoding)) is not None:
            at = end
        else:
            return _SEQUENCE
    else:
        raise TooLarge(f"the data set has more than {_MOST_AT_TOP:,} sequences and delimiters")
    if at == begin:
        return _NOTHING
    return _NO_PIXELS if _must_have_pixels(source, begin, encoding, sop_class) else ""


def _must_have_pixels(source: Bytes, at: int, encoding: Encoding, sop_class: str) -> bool:
    """Whether an image's data set has ended: by its class or, if that is not known, by how it describes pixels."""
    if sop_class in NEVER_IMAGES:
        return False
    described = set()
    # As tags ascend, nothing that lies behind is looked at.
    while (element := _element(source, at, encoding)) and 0 < element.tag <= _PROVIDER_URL:
        described.add(element.tag)
        end = element.value + element.length
        if element.length == UNDEFINED:
            end = _end_of_sequence(source, element.value, encoding) or end
        at = end
    return _PROVIDER_URL not in described and (sop_class in IMAGE_CLASSES or described >= _ROWS_COLUMNS_BITS)


def _stride(source: Bytes, at: int, encoding: Encoding) -> int:
    """Step quickly over the elements in the window that need no thought: of defined length, before the pixel data."""
    window, start, steps = source.window, source.start, source.steps
    at -= start
    try:
        if encoding.explicit:
            brief, short = encoding.brief, encoding.short
            for steps in range(source.steps, 0, -1):  # noqa: B007 - what is left, when it ends
                vr, length = brief(window, at)
                if vr not in short:
                    group, _, length = encoding.plain(window, at)
                    if vr not in encoding.long or group >= _PIXEL_GROUP:
                        break
                    (length,) = encoding.number(window, at + 8)
                    if length == UNDEFINED:
                        break
                    at += 4
                at += 8 + length
        else:
            plain = encoding.plain
            for steps in range(source.steps, 0, -1):  # noqa: B007 - what is left, when it ends
                group, _, length = plain(window, at)
                if length == UNDEFINED or group >= _PIXEL_GROUP or not group:
                    break
                at += 8 + length
    except struct.error:
        pass  # the window ends
    source.steps = steps
    return start + at


def _stride_items(source: Bytes, at: int, encoding: Encoding) -> int:
    """Step quickly over the items in the window that have a length."""
    window, start, steps, plain = source.window, source.start, source.steps, encoding.plain
    at -= start
    try:
        for steps in range(source.steps, 0, -1):  # noqa: B007 - what is left, when it ends
            group, number, length = plain(window, at)
            if number != _ITEM_NUMBER or group != DELIMITERS or length == UNDEFINED:
                break
            at += 8 + length
    except struct.error:
        pass  # the window ends
    source.steps = steps
    return start + at


def _delimiter(source: Bytes, at: int, encoding: Encoding) -> tuple[int, int, int, bool] | None:
    """Do as `_element` does, at half the price, where an item or a delimiter lies in the window; None elsewhere."""
    offset = at - source.start
    if offset <= len(source.window) - 8 and source.steps:
        group, number, length = encoding.plain(source.window, offset)
        if group == DELIMITERS:
            source.steps -= 1
            return group << 16 | number, length, at + 8, True
    return None


def _element(source: Bytes, at: int, encoding: Encoding) -> _Element | None:
    """Read the header of the element that begins `at`, or None where there are too few bytes for one.

    Raises: TooLarge after so many of them.
    """
    if not source.steps:
        raise TooLarge(f"the data set has more than {source.most_steps:,} elements")
    source.steps -= 1
    raw = source.at(at, 12)
    if len(raw) < 8:
        return None
    group, number, length = encoding.plain(raw)
    tag, sure = group << 16 | number, True
    if encoding.explicit and group != DELIMITERS:
        _, _, vr, short_length = encoding.header(raw)
        if vr in encoding.long:
            if len(raw) < 12:
                return None
            return _Element(tag, encoding.number(raw, 8)[0], at + 12, sure)
        sure = vr in encoding.short
        # As pydicom has it, letters of no known VR come with 16 bits, and what is no letters is an implicit VR.
        if sure or b"AA" <= raw[4:6] <= b"ZZ":
            length = short_length
    return _Element(tag, length, at + 8, sure)


def _are_letters(vr: bytes) -> bool:
    """Whether this may be a value representation, rather than a length."""
    return vr.isalpha() and vr.isupper()


def _pixels_end(source: Bytes, at: int, encoding: Encoding) -> bool:
    """Whether pixel data of defined length begin here and end the file, as nearly always: a short way to say so."""
    begin = at - source.start
    header = source.window[begin : begin + 12]
    if len(header) < 12 or not header.startswith(_EXPLICIT_PIXELS if encoding.explicit else _IMPLICIT_PIXELS):
        return False
    value = 12 if encoding.explicit else 8
    # No length that is defined leads as far as an undefined one would.
    end = at + value + int.from_bytes(header[value - 4 : value], "little")
    return isinstance(source, File) and encoding.order == "little" and end == source.size < UNDEFINED


def _beyond_pixels(source: Bytes, pixels: _Element, encoding: Encoding) -> str:
    """Judge the pixel data, and what follows them."""
    at: int | None = pixels.value + pixels.length
    if pixels.length == UNDEFINED:
        # Nearly always the delimiter ends the file too, which saves a walk over the fragments.
        delimiter = b"\xfe\xff\xdd\xe0" if encoding.order == "little" else b"\xff\xfe\xe0\xdd"
        if source.ends_with(pixels.value, delimiter + bytes(4)):
            return ""
        at = _end_of_fragments(source, pixels.value, encoding)
    if at is None or (not source.at(at, 1) and at > source.size):
        return _PIXELS
    while (rest := source.at(at, 12)) or at > source.size:
        element = _element(source, at, encoding)
        group = int.from_bytes(rest[:2], encoding.order) if len(rest) > 1 else 0
        if rest and (group <= _PIXEL_GROUP or group == DELIMITERS or (element and not element.sure)):
            return ""  # stray
        if element is None:
            return _ELEMENT
        end = _end_of_sequence(source, element.value, encoding) if element.length == UNDEFINED else None
        if element.length == UNDEFINED and end is None:
            return _SEQUENCE
        at = end or element.value + element.length
    return ""


def _end_of_fragments(source: Bytes, at: int, encoding: Encoding) -> int | None:
    """Return where the encapsulated pixel data end whose first fragment begins `at` (PS3.5 A.4)."""
    while True:
        at = _stride_items(source, at, encoding)
        element = _delimiter(source, at, encoding) or _element(source, at, encoding)
        if element is None:
            return None
        tag, length, value, _ = element
        if tag == END_OF_SEQUENCE:
            return value
        if tag != ITEM or length == UNDEFINED:
            return None
        at = value + length


def _end_of_sequence(source: Bytes, at: int, encoding: Encoding) -> int | None:
    """Return where the sequence ends whose first item begins `at` (PS3.5 7.5), or None.

    Only items of undefined length are looked into. `opened` are the encodings of those that have begun, each within
    the one before; the next element belongs to the last of them or, if we stand `between` items, to a sequence in it.
    Raises: TooLarge when there are too many.
    """
    opened: list[Encoding] = []
    between = True
    while True:
        here = opened[-1] if opened else encoding
        at = _stride_items(source, at, here) if between else _stride(source, at, here)
        element = _delimiter(source, at, here) or _element(source, at, here)
        if element is None or not (element[0] or element[1]):
            return None  # nothing, or zeros where something was to be
        tag, length, value, _ = element
        if tag >> 16 != DELIMITERS and not between:
            at, between = (value, True) if length == UNDEFINED else (value + length, False)
        elif tag == ITEM and between:
            at, between = (value, False) if length == UNDEFINED else (value + length, True)
            if not between:
                opened.append(_encoding_of_item(source, value, here))
                if len(opened) > _DEEPEST:
                    raise TooLarge(f"sequences lie more than {_DEEPEST} deep in each other")
        # The sequence or the item ends, perhaps without its delimiter.
        elif between:
            at = value if tag == END_OF_SEQUENCE else at
            if not opened:
                return at
            between = False
        else:
            at = value if tag == END_OF_ITEM else at
            opened.pop()
            between = True


def _encoding_of_item(source: Bytes, at: int, outer: Encoding) -> Encoding:
    """Tell the encoding of an item: in a sequence of explicit VR, items may be implicit (PS3.5 6.2.2)."""
    if outer.explicit and not _are_letters(source.at(at, 6)[4:6]):
        return IMPLICIT if outer.order == "little" else BIG_IMPLICIT
    return outer
