"""Whether the pixels of a DICOM file may be compressed on the way, by its transfer syntax (PS3.5 10, PS3.6 A)."""

_ELEMENT = b"\x02\x00\x10\x00UI"  # (0002,0010), always in explicit little endian (PS3.10 7.1)
_HEAD_BYTES = 4096
_UNCOMPRESSED = frozenset({b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.2"})


def is_uncompressed(head: bytes) -> bool:
    """Whether the first bytes of a file name a transfer syntax without compression; False if they name none."""
    at = head.find(_ELEMENT, 0, _HEAD_BYTES)
    if at < 0:
        return False
    begin = at + len(_ELEMENT) + 2
    length = int.from_bytes(head[begin - 2 : begin], "little")
    return head[begin : begin + length].rstrip(b"\0 ") in _UNCOMPRESSED
