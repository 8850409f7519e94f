"""Whether a file begins as DICOM files begin."""

import struct

from asyncimport.dicom.encoding import IMPLICIT, LONGS, NUMBERS, PREFIX, TEXTS

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
