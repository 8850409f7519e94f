"""Small files that stand for much work."""

import struct

from dicom_files import PREAMBLE, meta
from pydicom.uid import (
    BasicTextSRStorage,
    EnhancedMRImageStorage,
    KeyObjectSelectionDocumentStorage,
)

UNDEFINED = 0xFFFF_FFFF


ITEM_WITHOUT_LENGTH = b"\xfe\xff\0\xe0\xff\xff\xff\xff"


END_OF_ITEM = b"\xfe\xff\r\xe0\0\0\0\0"


END_OF_SEQUENCE = b"\xfe\xff\xdd\xe0\0\0\0\0"


PLAIN = PREAMBLE + meta()


def short(tag: int, vr: bytes, value: bytes = b"") -> bytes:
    """Encode an element whose length has 16 bits."""
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def opened(tag: int, vr: bytes = b"SQ", length: int = UNDEFINED) -> bytes:
    """Encode the header of an element whose length has 32 bits."""
    return struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, vr, 0, length)


SOP_UID = short(0x0008_0018, b"UI", b"1.2.3.4")


CLASS = short(0x0008_0016, b"UI", BasicTextSRStorage.encode()) + SOP_UID


REST = (
    short(0x0010_0020, b"LO", b"W-1")
    + short(0x0020_000D, b"UI", b"1.2.3")
    + short(0x0020_000E, b"UI", b"1.2.3.9")
    + short(0x0040_A491, b"CS", b"COMPLETE")
)


HEADER = CLASS + REST


def item(*elements: bytes) -> bytes:
    """Encode an item without a length."""
    return ITEM_WITHOUT_LENGTH + b"".join(elements) + END_OF_ITEM


def sequence(tag: int, *items: bytes) -> bytes:
    """Encode a sequence without a length."""
    return opened(tag) + b"".join(items) + END_OF_SEQUENCE


def enhanced(frames: int) -> bytes:
    """Encode what follows the header of an enhanced image: a functional group for each frame, and the pixels."""
    position = sequence(0x0020_9113, item(short(0x0020_0032, b"DS", b"1\\2\\3")))
    content = sequence(0x0020_9111, item(short(0x0020_9156, b"US", b"\1\0"), short(0x0020_9057, b"UL", b"\1\0\0\0")))
    groups = opened(0x5200_9230) + item(content, position) * frames + END_OF_SEQUENCE
    return groups + opened(0x7FE0_0010, b"OB", frames) + bytes(frames)


def references(count: int) -> bytes:
    """Encode a list of references, before the UIDs of the file itself."""
    items = (
        item(short(0x0008_1150, b"UI", EnhancedMRImageStorage.encode()), short(0x0008_1155, b"UI", f"1.2.{n}".encode()))
        for n in range(count)
    )
    return sequence(0x0008_1115, *items)


IMAGE = short(0x0008_0016, b"UI", EnhancedMRImageStorage.encode()) + SOP_UID + REST


KEYS = short(0x0008_0016, b"UI", KeyObjectSelectionDocumentStorage.encode()) + SOP_UID
