"""Whether a file begins as DICOM files begin."""

import struct

from asyncimport.dicom.encoding import IMPLICIT, LONGS, NUMBERS, PREFIX, TEXTS

# Group lengths, UIDs, character sets and image types may come first; none of them is longer.
_LONGEST_FIRST = 1024
# How many bytes too many may lie before "DICM": a line end or a byte order mark. In archives there are more.
_MOST_TOO_MANY = 16


def begins_dicom(head: bytes) -> bool:
    """Whether the first bytes of a file, at least 140 if there are as many, are a DICOM file's.

    A preamble, "DICM" and group 0002 should come first (PS3.10 7.1), but old files lack the one or the other.
    In a text "DICM" may stand at byte 128 by chance; after a preamble of zeros it is meant, whatever follows.
    """
    prefixed = head[128:132] == PREFIX
    if prefixed and (len(head) < 140 or not any(head[:128])):
        return True
    return _begins_data_set(head[132:140] if prefixed else head[:8])


def begins_shifted(head: bytes) -> bool:
    """Whether the first bytes of a file are a DICOM file's, if some were not missing or too many before "DICM"."""
    at = head.find(PREFIX, 0, 128 + _MOST_TOO_MANY + len(PREFIX))
    return at not in {-1, 128} and _begins_data_set(head[at + 4 : at + 12])


def _begins_data_set(header: bytes) -> bool:
    """Whether this is the header of an element that may come first, in any of the three encodings."""
    if len(header) < 8:
        return False
    for order in "<>":
        group, element, letters, length = struct.unpack(f"{order}HH2sH", header)
        # A data set that begins behind (0008,0018) has no SOPInstanceUID.
        if (group == 0x0002 and element <= 0x0102) or (group == 0x0008 and element <= 0x0018):
            vr = int.from_bytes(letters, "little")
            if length <= _LONGEST_FIRST and (vr in TEXTS or vr in NUMBERS or vr in LONGS):
                return True
            if order == "<" and IMPLICIT.plain(header)[2] <= _LONGEST_FIRST:
                return True
    return False
