"""Whether a data set is complete: its end can be reached.

A truncated file reads well up to the cut, and pydicom accepts it. Here, each length must lead to the next element, from
the first one to the end of the file. A file is *truncated* if
- a length leads past the end, or the file ends within the header of an element (PS3.5 7.1),
- a sequence or item of undefined length, or encapsulated pixel data, has no delimiter (PS3.5 7.5 and A.4),
- no element follows the file meta information,
- an image has neither pixel data nor the address of a provider of them (PS3.3 C.7.6.3),
- deflated data do not inflate to their end (PS3.5 A.5).

A defined length covers all that it encloses, which is not read. Zeros in place of an element are padding, as is Data
Set Trailing Padding, (FFFC,FFFC) (PS3.10 7.2). Behind complete pixel data, bytes that are no further element are
ignored. Other errors are not truncation: a delimiter that ends nothing, a sequence without its delimiter before a
further element, tags out of order.

The work is bounded. A data set that inflates to too much, or has too many elements or too deep sequences, counts as not
known to be complete.
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
from asyncimport.dicom.windowed_bytes import InflatedBytes, WindowedBytes, WindowedFile

_ELEMENT, _SEQUENCE, _PIXELS = "an element ends early", "a sequence has no end", "the pixel data ends early"
_NO_PIXELS, _DEFLATED = "the pixel data is missing", "the deflated data does not inflate to its end"
_NOTHING = "the data set is missing"

_MAX_DEPTH = 100  # items within items: reports have twenty
_MAX_AT_TOP = 1_000_000  # elements that `_skip_elements` does not skip
_MAX_BEFORE_DATA_SET = 10_000  # a command has thirty, and meta information fifteen
_ITEM_NUMBER = ITEM & 0xFFFF
_SYNTAX = 0x0002_0010
_BIG_SYNTAX = b"1.2.840.10008.1.2.2"
# The last two are JPIP Referenced Deflate and JPIP HTJ2K Referenced Deflate.
_DEFLATED_SYNTAXES = frozenset({b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.4.95", b"1.2.840.10008.1.2.4.205"})
_PIXEL_DATA = frozenset({0x7FE0_0008, 0x7FE0_0009, 0x7FE0_0010})  # floats, doubles, integers
_PIXEL_GROUP = 0x7FE0
_IMPLICIT_PIXELS = b"\xe0\x7f\x10\0"
_EXPLICIT_PIXELS = (_IMPLICIT_PIXELS + b"OW", _IMPLICIT_PIXELS + b"OB")
# The first three together describe pixels; the last one says where the pixels are instead (PS3.3 C.7.6.3).
_ROWS_COLUMNS_BITS, _PROVIDER_URL = frozenset({0x0028_0010, 0x0028_0011, 0x0028_0100}), 0x0028_7FE0


class DataSet(NamedTuple):
    """Where a data set begins, and how it is encoded."""

    source: WindowedBytes
    at: int
    encoding: Encoding


class _Element(NamedTuple):
    tag: int
    length: int
    value: int  # where it begins
    has_known_vr: bool  # False if it should have a value representation, and has none that is known


def completeness_problem(source: WindowedBytes, at: int, encoding: Encoding, sop_class: str) -> str:
    """Return why the data set whose elements begin `at` is not known to be complete, or ""."""
    try:
        reason = _find_truncation(source, at, encoding, sop_class)
        if isinstance(source, InflatedBytes) and not source.is_complete():
            reason = _DEFLATED
    except zlib.error:
        reason = _DEFLATED
    except TooLarge as error:
        return error.reason
    return reason and f"truncated: {reason}"


def find_data_set(file: WindowedFile) -> DataSet:
    """Find the data set of a file: its first element counts more than the transfer syntax. Raises: TooLarge."""
    at = 132 if file.at(128, 4) == PREFIX else 0
    syntax = b""
    while (element := _read_element(file, at, EXPLICIT)) and element.tag >> 16 == 0x0002:
        _check_count(file)
        if element.tag == _SYNTAX:
            syntax = file.at(element.value, min(element.length, 64)).strip(b" \0")
        at = element.value + element.length
    if syntax in _DEFLATED_SYNTAXES:
        return DataSet(InflatedBytes(file.fd, at, file.size), 0, EXPLICIT)
    # A command set is always implicit (PS3.7 6.3).
    while (element := _read_element(file, at, IMPLICIT)) and not element.tag >> 16 and (element.tag or element.length):
        _check_count(file)
        at = element.value + element.length
    first = file.at(at, 6)
    explicit = _are_letters(first[4:6])
    # Without a transfer syntax the group shows the byte order: the first groups are small, and large in the wrong
    # order.
    if syntax == _BIG_SYNTAX or (not syntax and explicit and first[1] >= 0x04):
        return DataSet(file, at, BIG if explicit else BIG_IMPLICIT)
    return DataSet(file, at, EXPLICIT if explicit else IMPLICIT)


def _check_count(file: WindowedFile) -> None:
    """Raise TooLarge after too many elements before the data set."""
    if file.max_steps - file.steps_left > _MAX_BEFORE_DATA_SET:
        raise TooLarge(f"more than {_MAX_BEFORE_DATA_SET:,} elements come before the data set")


def _find_truncation(source: WindowedBytes, begin: int, encoding: Encoding, sop_class: str) -> str:
    at = begin
    for _ in range(_MAX_AT_TOP):
        at = _skip_elements(source, at, encoding)
        if _pixel_data_ends_file(source, at, encoding):
            return ""
        element = _read_element(source, at, encoding)
        if element is None:
            if any(source.at(at, 12)) or at > source.size:
                return _ELEMENT
            break
        tag, length, value, _ = element
        if tag in _PIXEL_DATA:
            return _check_pixel_data(source, element, encoding)
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
        raise TooLarge(f"the data set has more than {_MAX_AT_TOP:,} sequences and delimiters")
    if at == begin:
        return _NOTHING
    return _NO_PIXELS if _must_have_pixels(source, begin, encoding, sop_class) else ""


def _must_have_pixels(source: WindowedBytes, at: int, encoding: Encoding, sop_class: str) -> bool:
    """Whether the data set should have pixel data: by its class or, if unknown, by its description of pixels."""
    if sop_class in NEVER_IMAGES:
        return False
    described = set()
    # Tags ascend, so no later element matters.
    while (element := _read_element(source, at, encoding)) and 0 < element.tag <= _PROVIDER_URL:
        described.add(element.tag)
        end = element.value + element.length
        if element.length == UNDEFINED:
            end = _end_of_sequence(source, element.value, encoding) or end
        at = end
    return _PROVIDER_URL not in described and (sop_class in IMAGE_CLASSES or described >= _ROWS_COLUMNS_BITS)


def _skip_elements(source: WindowedBytes, at: int, encoding: Encoding) -> int:
    """Skip elements in the window quickly: those of defined length, before the pixel data."""
    window, start, steps_left = source.window, source.start, source.steps_left
    at -= start
    try:
        if encoding.explicit:
            vr_and_length, short = encoding.vr_and_length, encoding.short
            for steps_left in range(source.steps_left, 0, -1):  # noqa: B007 - what is left, when it ends
                vr, length = vr_and_length(window, at)
                if vr not in short:
                    group, _, length = encoding.tag_and_length(window, at)
                    if vr not in encoding.long or group >= _PIXEL_GROUP:
                        break
                    (length,) = encoding.uint32(window, at + 8)
                    if length == UNDEFINED:
                        break
                    at += 4
                at += 8 + length
        else:
            tag_and_length = encoding.tag_and_length
            for steps_left in range(source.steps_left, 0, -1):  # noqa: B007 - what is left, when it ends
                group, _, length = tag_and_length(window, at)
                if length == UNDEFINED or group >= _PIXEL_GROUP or not group:
                    break
                at += 8 + length
    except struct.error:
        pass  # the window ends
    source.steps_left = steps_left
    return start + at


def _skip_items(source: WindowedBytes, at: int, encoding: Encoding) -> int:
    window, start, steps_left, tag_and_length = source.window, source.start, source.steps_left, encoding.tag_and_length
    at -= start
    try:
        for steps_left in range(source.steps_left, 0, -1):  # noqa: B007 - what is left, when it ends
            group, number, length = tag_and_length(window, at)
            if number != _ITEM_NUMBER or group != DELIMITERS or length == UNDEFINED:
                break
            at += 8 + length
    except struct.error:
        pass  # the window ends
    source.steps_left = steps_left
    return start + at


def _read_delimiter(source: WindowedBytes, at: int, encoding: Encoding) -> tuple[int, int, int, bool] | None:
    """Do what `_read_element` does, at half the cost, for an item or delimiter in the window; None otherwise."""
    offset = at - source.start
    if offset <= len(source.window) - 8 and source.steps_left:
        group, number, length = encoding.tag_and_length(source.window, offset)
        if group == DELIMITERS:
            source.steps_left -= 1
            return group << 16 | number, length, at + 8, True
    return None


def _read_element(source: WindowedBytes, at: int, encoding: Encoding) -> _Element | None:
    """Read the header of the element that begins `at`; None if too few bytes are left. Raises: TooLarge."""
    if not source.steps_left:
        raise TooLarge(f"the data set has more than {source.max_steps:,} elements")
    source.steps_left -= 1
    raw = source.at(at, 12)
    if len(raw) < 8:
        return None
    group, number, length = encoding.tag_and_length(raw)
    tag, has_known_vr = group << 16 | number, True
    if encoding.explicit and group != DELIMITERS:
        _, _, vr, short_length = encoding.header(raw)
        if vr in encoding.long:
            if len(raw) < 12:
                return None
            return _Element(tag, encoding.uint32(raw, 8)[0], at + 12, has_known_vr)
        has_known_vr = vr in encoding.short
        # As in pydicom, an unknown VR of letters has a length of 16 bits, and anything else is an implicit VR.
        if has_known_vr or b"AA" <= raw[4:6] <= b"ZZ":
            length = short_length
    return _Element(tag, length, at + 8, has_known_vr)


def _are_letters(vr: bytes) -> bool:
    return vr.isalpha() and vr.isupper()


def _pixel_data_ends_file(source: WindowedBytes, at: int, encoding: Encoding) -> bool:
    """Whether pixel data of defined length begin here and end the file, as they nearly always do."""
    begin = at - source.start
    header = source.window[begin : begin + 12]
    if len(header) < 12 or not header.startswith(_EXPLICIT_PIXELS if encoding.explicit else _IMPLICIT_PIXELS):
        return False
    value = 12 if encoding.explicit else 8
    # No defined length leads as far as an undefined one would.
    end = at + value + int.from_bytes(header[value - 4 : value], "little")
    return isinstance(source, WindowedFile) and encoding.order == "little" and end == source.size < UNDEFINED


def _check_pixel_data(source: WindowedBytes, pixels: _Element, encoding: Encoding) -> str:
    at: int | None = pixels.value + pixels.length
    if pixels.length == UNDEFINED:
        # The delimiter nearly always ends the file too: then the fragments need no walk.
        delimiter = b"\xfe\xff\xdd\xe0" if encoding.order == "little" else b"\xff\xfe\xe0\xdd"
        if source.ends_with(pixels.value, delimiter + bytes(4)):
            return ""
        at = _end_of_fragments(source, pixels.value, encoding)
    if at is None or (not source.at(at, 1) and at > source.size):
        return _PIXELS
    while (rest := source.at(at, 12)) or at > source.size:
        element = _read_element(source, at, encoding)
        group = int.from_bytes(rest[:2], encoding.order) if len(rest) > 1 else 0
        if rest and (group <= _PIXEL_GROUP or group == DELIMITERS or (element and not element.has_known_vr)):
            return ""  # ignored
        if element is None:
            return _ELEMENT
        end = _end_of_sequence(source, element.value, encoding) if element.length == UNDEFINED else None
        if element.length == UNDEFINED and end is None:
            return _SEQUENCE
        at = end or element.value + element.length
    return ""


def _end_of_fragments(source: WindowedBytes, at: int, encoding: Encoding) -> int | None:
    """Return where the encapsulated pixel data end whose first fragment begins `at` (PS3.5 A.4), or None."""
    while True:
        at = _skip_items(source, at, encoding)
        element = _read_delimiter(source, at, encoding) or _read_element(source, at, encoding)
        if element is None:
            return None
        tag, length, value, _ = element
        if tag == END_OF_SEQUENCE:
            return value
        if tag != ITEM or length == UNDEFINED:
            return None
        at = value + length


def _end_of_sequence(source: WindowedBytes, at: int, encoding: Encoding) -> int | None:
    """Return where the sequence ends whose first item begins `at` (PS3.5 7.5), or None.

    It enters only items of undefined length. `opened` are the encodings of the items entered, outermost first. The next
    element belongs to the last of them or, if `between` items, to a sequence in it. Raises: TooLarge.
    """
    opened: list[Encoding] = []
    between = True
    while True:
        here = opened[-1] if opened else encoding
        at = _skip_items(source, at, here) if between else _skip_elements(source, at, here)
        element = _read_delimiter(source, at, here) or _read_element(source, at, here)
        if element is None or not (element[0] or element[1]):
            return None  # the end, or zeros in place of an element
        tag, length, value, _ = element
        if tag >> 16 != DELIMITERS and not between:
            at, between = (value, True) if length == UNDEFINED else (value + length, False)
        elif tag == ITEM and between:
            at, between = (value, False) if length == UNDEFINED else (value + length, True)
            if not between:
                opened.append(_item_encoding(source, value, here))
                if len(opened) > _MAX_DEPTH:
                    raise TooLarge(f"sequences are nested more than {_MAX_DEPTH} deep")
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


def _item_encoding(source: WindowedBytes, at: int, outer: Encoding) -> Encoding:
    """Return the encoding of an item: in a sequence of explicit VR, items may be implicit (PS3.5 6.2.2)."""
    if outer.explicit and not _are_letters(source.at(at, 6)[4:6]):
        return IMPLICIT if outer.order == "little" else BIG_IMPLICIT
    return outer


_STORAGE = "1.2.840.10008.5.1.4.1.1."

# Suffixes of storage classes, retired ones included. Other classes are judged by their own description of pixels:
# private ones, and for example RT Dose, which may have none.
IMAGE_CLASSES = frozenset(
    _STORAGE + suffix
    for suffix in (
        # radiography, mammography, intra-oral
        *("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1"),
        # CT and MR, enhanced and converted ones
        *("2", "2.1", "2.2", "4", "4.1", "4.3", "4.4"),
        # ultrasound, secondary capture
        *("3", "3.1", "6", "6.1", "6.2", "6.3", "7", "7.1", "7.2", "7.3", "7.4"),
        # angiography, fluoroscopy, tomosynthesis, optical coherence tomography
        *("12.1", "12.1.1", "12.2", "12.2.1", "12.3", "13.1.1", "13.1.2", "13.1.3", "13.1.4", "13.1.5"),
        *("14.1", "14.2"),
        # nuclear medicine and PET
        *("5", "20", "128", "128.1", "130"),
        # parametric map, segmentation, label map segmentation
        *("30", "66.4", "66.7"),
        # visible light, video, ophthalmology
        *("77.1", "77.2", "77.1.1", "77.1.1.1", "77.1.2", "77.1.2.1", "77.1.3", "77.1.4", "77.1.4.1"),
        *("77.1.5.1", "77.1.5.2", "77.1.5.4", "77.1.5.5", "77.1.5.6", "77.1.5.7", "77.1.5.8"),
        *("77.1.6", "77.1.7", "77.1.8", "77.1.9", "81.1", "82.1"),
        # RT; security and material testing
        *("481.1", "501.1", "501.2.1", "501.2.2", "601.1", "601.2"),
    )
)
# Spectroscopy has rows and columns of spectra; raw data may have any attribute.
NEVER_IMAGES = frozenset({_STORAGE + "4.2", _STORAGE + "66"})
