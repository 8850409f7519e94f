"""Anonymisation scripts, and the rewriting of the attributes that they set."""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from .archive import Patient
from .dicom_header import REWRITTEN, Header

_MEDIA_UID = b"\x02\x00\x03\x00UI"
_GROUP_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"


class Labels(NamedTuple):
    """The names that a script writes into files."""

    project: str
    subject: str
    session: str


@dataclass(frozen=True, slots=True)
class Script:
    """An anonymisation script; without arguments, the one that XNAT comes with.

    That one sets StudyDescription to the project, PatientName to the subject and PatientID to the session label, so no
    stored file equals what was sent.
    """

    rewrite: bool = True
    """Whether those three attributes are set."""
    reject: Callable[[Header], bool] | None = None
    """Returns whether the script rejects an instance: it is dropped without a message."""
    condition: str = "isUnwanted[]"
    """What the script's text says of rejected instances, as a DicomEdit condition; empty: all of them."""
    map_uid: Callable[[str], str] | None = None
    """Returns the new SOPInstanceUID."""
    map_study: Callable[[str], str] | None = None
    """Returns the new StudyInstanceUID."""
    map_series: Callable[[str], str] | None = None
    """Returns the new SeriesInstanceUID."""

    @property
    def text(self) -> str:
        """The script in DicomEdit's language, as far as it can be expressed there."""
        lines = ["(0008,1030) := project", "(0010,0010) := subject", "(0010,0020) := session"] if self.rewrite else []
        mappings = (("0008,0018", self.map_uid), ("0020,000D", self.map_study), ("0020,000E", self.map_series))
        lines += [f"({tag}) := mapUID[({tag})]" for tag, mapping in mappings if mapping is not None]
        if self.reject is not None:
            lines.append(f"{self.condition} ? reject" if self.condition else "reject")
        return "".join(f"{line}\n" for line in ['version "6.1"', *lines])

    def map_uids(self, header: Header) -> Header:
        """Return the header with the UIDs that the script gives; its other attributes stay."""
        return replace(
            header,
            sop_uid=_map(self.map_uid, header.sop_uid),
            study_uid=_map(self.map_study, header.study_uid),
            series_uid=_map(self.map_series, header.series_uid),
        )

    def patient(self, header: Header, labels: Labels) -> Patient:
        """Return whom a file names after the script."""
        if self.rewrite:
            return Patient(labels.session, labels.subject, header.birth_date)
        return Patient(header.patient_id, header.patient_name, header.birth_date)

    def apply(self, data: bytes, header: Header, labels: Labels) -> bytes:
        """Return a file, or its first bytes, as the script leaves it. A deflated file must be whole."""
        new = self.map_uids(header)
        pairs = ((new.sop_uid, header.sop_uid), (new.study_uid, header.study_uid), (new.series_uid, header.series_uid))
        sop, study, series = (one if one != other else None for one, other in pairs)
        named = labels if self.rewrite else (None, None, None)
        return _rewrite(data, header, (sop, *named, study, series))


def _map(mapping: Callable[[str], str] | None, uid: str) -> str:
    return uid if mapping is None else mapping(uid)


def _rewrite(data: bytes, header: Header, values: tuple[str | None, ...]) -> bytes:
    """Return a file with the values of REWRITTEN set; None leaves an attribute alone."""
    layout = header.layout
    prefix, body = b"", data
    if layout.deflated:
        prefix, body = data[: layout.start], zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[layout.start :])
    pieces, done = [], 0
    for (tag, vr), (start, end), value in zip(REWRITTEN, layout.spans, values, strict=True):
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
        return _set_meta_uid(body, layout.start, values[0])
    return body


def _set_meta_uid(data: bytes, end: int, uid: str) -> bytes:
    """Return a file whose meta information names this instance, so that it agrees with the data set."""
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
