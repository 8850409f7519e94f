"""Rewrites the attributes of stored instances that an anonymisation script sets."""

import struct
import zlib

from .dicom import REWRITTEN, Header

__all__ = ["rewritten"]

_MEDIA_UID = b"\x02\x00\x03\x00UI"
_GROUP_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"


def rewritten(data: bytes, header: Header, values: tuple[str | None, ...]) -> bytes:
    """Return a file, or its first bytes, with the values of REWRITTEN set; None leaves an attribute alone.

    A deflated file must be whole.
    """
    layout = header.layout
    prefix, body = b"", data
    if layout.deflated:
        prefix, body = data[: layout.start], zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[layout.start :])
    pieces, done = [], 0
    for (tag, vr), (start, end), value in zip(REWRITTEN, layout.spots, values, strict=True):
        if value is not None:
            raw = value.encode("utf-8" if layout.utf8 else "latin-1", "replace")
            raw += (b"\0" if vr == b"UI" else b" ") * (len(raw) % 2)
            order = "<" if layout.little else ">"
            if layout.implicit:
                head = struct.pack(f"{order}HHL", tag.group, tag.element, len(raw))
            else:
                head = struct.pack(f"{order}HH2sH", tag.group, tag.element, vr, len(raw))
            pieces += [body[done:start], head, raw]
            done = end
    body = b"".join([*pieces, body[done:]])
    if layout.deflated:
        compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = prefix + compressor.compress(body) + compressor.flush()
    if values[0] is not None:
        return _with_meta_uid(body, layout.start, values[0])
    return body


def _with_meta_uid(data: bytes, end: int, uid: str) -> bytes:
    """Return a file whose meta information names this instance, as its writer makes it agree with the data set."""
    meta = data[:end]
    start = meta.find(_MEDIA_UID)
    if start < 0:
        return data
    (length,) = struct.unpack_from("<H", meta, start + 6)
    raw = uid.encode("ascii", "replace")
    raw += b"\0" * (len(raw) % 2)
    meta = meta[: start + 6] + struct.pack("<H", len(raw)) + raw + meta[start + 8 + length :]
    at = meta.find(_GROUP_LENGTH)
    if at >= 0:
        (group,) = struct.unpack_from("<L", meta, at + 8)
        meta = meta[: at + 8] + struct.pack("<L", group + len(raw) - length) + meta[at + 12 :]
    return meta + data[end:]
