"""Data sets and files for the tests of DICOM, and an oracle that decides whether they are complete."""

import importlib.util
import io
import re
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pydicom
from hypothesis import strategies as st
from pydicom import datadict
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    TwelveLeadECGWaveformStorage,
)

from asyncimport.dicom import (
    FIELDS,
    Identity,
    Unidentified,
    fast_header,
)

PREAMBLE = bytes(128) + b"DICM"


PATIENT = "Roentgen^Wilhelm"


UIDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom's warnings while the test itself uses it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def data_set(**values: object) -> Dataset:
    """Make a small data set; a value of None leaves the element out."""
    everything: dict[str, object] = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": "1.2.3.4",
        "StudyDate": "18951108",
        "Modality": "CT",
        "StudyDescription": "Hand",
        "PatientName": PATIENT,
        "PatientID": "W-1",
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.9",
        "SeriesNumber": "7",
        "Rows": 1,
        "Columns": 2,
        "PixelData": bytes(2),
    }
    made = Dataset()
    with quiet():
        for keyword, value in (everything | values).items():
            if keyword == "PixelData" and value is not None:
                made.add_new(0x7FE0_0010, "OW", value)
            elif value is not None:
                setattr(made, keyword, value)
    return made


EXPECTED = Identity(
    "1.2.3.4",
    "1.2.3",
    "1.2.3.9",
    {
        "SOPClassUID": CTImageStorage,
        "StudyDate": "18951108",
        "Modality": "CT",
        "StudyDescription": "Hand",
        "PatientName": PATIENT,
        "PatientID": "W-1",
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.9",
        "SeriesNumber": "7",
    },
)


def mark_undefined(made: Dataset) -> None:
    """Remove the length of elements whose sequences have none, as pydicom's writer checks only the elements."""
    for element in made:
        if element.VR == "SQ":
            element.is_undefined_length = getattr(element.value, "is_undefined_length", False)
            for item in element.value:
                mark_undefined(item)


def encoded(made: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """Encode the data set alone."""
    mark_undefined(made)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = syntax == ImplicitVRLittleEndian
    buffer.is_little_endian = syntax != ExplicitVRBigEndian
    with quiet():
        write_dataset(buffer, made)
    return buffer.getvalue()


def meta(syntax: str | None = ExplicitVRLittleEndian, **values: object) -> bytes:
    """Encode file meta information without its group length."""
    made = FileMetaDataset()
    made.MediaStorageSOPClassUID = CTImageStorage
    made.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    if syntax is not None:
        made.TransferSyntaxUID = UID(syntax)
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return encoded(made)


def part10(made: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """Make a whole file, as pydicom writes it."""
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = UID(syntax)
    buffer = io.BytesIO()
    with quiet():
        made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def outcome(decide: Callable[[], Identity | None]) -> Identity | tuple[str, str] | None:
    """Return the result or the error of a call, as something to compare."""
    try:
        return decide()
    except Unidentified as error:
        return type(error).__name__, error.reason


def by_pydicom(content: bytes) -> Identity | None:
    """Identify by reading the whole header with pydicom and nothing else: the oracle."""

    def text(value: object) -> str:
        values = value if isinstance(value, MultiValue) else [value]
        return "\\".join(str(one).strip(" \0") for one in values)

    with quiet():
        header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, force=True)
        fields = {keyword: text(header.get(keyword)) for keyword in FIELDS if header.get(keyword) is not None}
    fields = {keyword: value for keyword, value in fields.items() if value}
    if not fields.keys() >= set(UIDS):
        return None
    return Identity(fields.pop("SOPInstanceUID"), fields["StudyInstanceUID"], fields["SeriesInstanceUID"], fields)


WORDS = st.text(st.characters(codec="ascii", exclude_characters="\\=", categories=("L", "N", "P", "Zs")), max_size=16)


DOTTED = st.lists(st.integers(0, 99999), min_size=2, max_size=9).map(lambda parts: ".".join(map(str, parts)))


CHARSETS = st.sampled_from(
    ["", *fast_header._CODECS, "\\ISO 2022 IR 87", "ISO 2022 IR 6\\ISO 2022 IR 149", "ISO IR 100", "X"]
)


PADDING = st.sampled_from(["", "", " ", "\0", "  \0"])


def put(made: Dataset, keyword: str, value: object) -> None:
    """Set a value that pydicom may find odd."""
    with quiet():
        setattr(made, keyword, value)


@st.composite
def headers(draw: st.DrawFn) -> tuple[Dataset, str]:
    """Draw a header with what real ones have before the UIDs: private groups, sequences, padding."""
    made = data_set(**{uid: draw(DOTTED) for uid in UIDS})
    charset = draw(CHARSETS)
    if charset:
        put(made, "SpecificCharacterSet", charset.split("\\"))
    for keyword in draw(st.sets(st.sampled_from(sorted(FIELDS)))):
        vr = datadict.dictionary_VR(FIELDS[keyword])
        if vr in {"LO", "SH", "LT"}:
            values = draw(st.lists(WORDS, min_size=1, max_size=3 if keyword == "OtherPatientIDs" else 1))
            put(made, keyword, [draw(PADDING) + value + draw(PADDING) for value in values])
        elif vr == "PN":
            put(
                made,
                keyword,
                draw(st.sampled_from(["A^B", "A^B^^^ ", "A=B=", "", "Müller^Jürgen", "Иванов^И"])),
            )
        elif vr == "UI":
            put(made, keyword, draw(DOTTED) + draw(PADDING))
    for group in draw(st.sets(st.sampled_from([0x0009, 0x0011, 0x0019, 0x0021]))):
        block = made.private_block(group, "ACME", create=True)
        block.add_new(1, "OB", draw(st.binary(max_size=40)))
        block.add_new(2, "LO", draw(WORDS))
        block.add_new(3, "FD", 1.5)
        block.add_new(4, "SQ", draw(sequences()))
    for keyword in draw(st.sets(st.sampled_from(["ReferencedStudySequence", "ReferencedImageSequence"]))):
        setattr(made, keyword, draw(sequences()))
    return made, draw(st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian]))


@st.composite
def sequences(draw: st.DrawFn, depth: int = 2) -> Sequence:
    """Draw a sequence whose items hold our top-level elements, and further sequences."""
    items = []
    for _ in range(draw(st.integers(0, 2))):
        item = Dataset()
        item.is_undefined_length_sequence_item = draw(st.booleans())
        item.ReferencedSOPInstanceUID = draw(DOTTED)
        if draw(st.booleans()):
            item.StudyInstanceUID = draw(DOTTED)
        if depth and draw(st.booleans()):
            item.RelatedSeriesSequence = draw(sequences(depth=depth - 1))
        items.append(item)
    sequence = Sequence(items)
    sequence.is_undefined_length = draw(st.booleans())
    return sequence


# What may stand before the meta information or the data set, though it should not or need not: a command element,
# an element of group 0001, group lengths that are right, wrong or no number.
BEFORE_META = st.sampled_from(
    [
        *(b"", b"", b"\0\0\0\0\x04\0\0\0\0\0\0\0", b"\x01\0\x10\0LO\x02\0ab"),
        *(b"\x02\0\0\0UL\x04\0\x64\0\0\0", b"\x02\0\0\0UL\x02\0\x64\0", b"\x02\0\0\0OB\0\0\x02\0\0\0\0\0"),
    ]
)


BEFORE_DATA = st.sampled_from(
    [
        *(b"", b"", b"\0\0\0\x01\x02\0\0\0\x01\0"),
        *(b"\x08\0\0\0UL\x04\0\x64\0\0\0", b"\x08\0\0\0\x04\0\0\0\x64\0\0\0", b"\x08\0\x01\0UL\x04\0\x64\0\0\0"),
    ]
)


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Draw a file, with or without a preamble, of a drawn header."""
    made, syntax = draw(headers())
    start = draw(st.sampled_from([PREAMBLE, PREAMBLE, b""])) + draw(BEFORE_META) + meta(syntax)
    return start + draw(BEFORE_DATA) + encoded(made, syntax)


TEXT = b"It was a dark and stormy night; the rain fell in torrents, except at occasional intervals.\n" * 20


class Cut(Exception):  # noqa: N818 - a verdict, not a fault
    """The end of the data set cannot be reached."""


def letters(raw: bytes) -> bool:
    """Whether two bytes are capital letters."""
    return len(raw) == 2 and all(65 <= byte <= 90 for byte in raw)


def number(raw: bytes, order: str) -> int:
    """Read a number."""
    return int.from_bytes(raw, "big" if order == "big" else "little")


def element(data: bytes, at: int, order: str, *, explicit: bool) -> tuple[int, int, int, bool]:
    """Read a header: tag, length, offset of the value, and whether the VR is known."""
    if len(data) < at + 8:
        raise Cut
    group = number(data[at : at + 2], order)
    tag = group << 16 | number(data[at + 2 : at + 4], order)
    vr = data[at + 4 : at + 6]
    if not explicit or group == 0xFFFE:
        return tag, number(data[at + 4 : at + 8], order), at + 8, True
    if vr in b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split():
        if len(data) < at + 12:
            raise Cut
        return tag, number(data[at + 8 : at + 12], order), at + 12, True
    known = vr in b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
    if known or b"AA" <= vr <= b"ZZ":
        return tag, number(data[at + 6 : at + 8], order), at + 8, known
    return tag, number(data[at + 4 : at + 8], order), at + 8, False


def after(data: bytes, header: tuple[int, int, int, bool], order: str, *, explicit: bool) -> int:
    """Return where the element ends."""
    _, length, at, _ = header
    if length != 0xFFFFFFFF:
        return at + length
    while True:  # the items of a sequence
        tag, length, begin, _ = element(data, at, order, explicit=explicit)
        if not tag and not length:
            raise Cut
        if tag == 0xFFFEE0DD:
            return begin
        if tag != 0xFFFEE000:
            return at
        if length == 0xFFFFFFFF:
            at = after_item(data, begin, order, explicit=explicit and letters(data[begin + 4 : begin + 6]))
        else:
            at = begin + length


def after_item(data: bytes, at: int, order: str, *, explicit: bool) -> int:
    """Return where the item ends whose elements begin there."""
    while True:
        header = element(data, at, order, explicit=explicit)
        tag, length, begin, _ = header
        if not tag and not length:
            raise Cut
        if tag >> 16 == 0xFFFE:
            return begin if tag == 0xFFFEE00D else at
        at = after(data, header, order, explicit=explicit)


def is_cut(content: bytes, places: list[int] | None = None) -> bool:
    """Judge a whole file; note the `places` where top-level elements begin."""
    try:
        return _is_cut(content, [] if places is None else places)
    except (Cut, zlib.error):
        return True


def _is_cut(data: bytes, places: list[int]) -> bool:
    at = 132 if data[128:132] == b"DICM" else 0
    syntax = b""
    while data[at : at + 2] == b"\2\0":
        places.append(at)
        tag, length, begin, _ = element(data, at, "little", explicit=True)
        at = begin + length
        if tag == 0x00020010:
            syntax = data[begin:at].strip(b"\0 ")
    if syntax in (b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.4.95", b"1.2.840.10008.1.2.4.205"):
        inflater = zlib.decompressobj(-15)
        data, at = inflater.decompress(data[at:]), 0
        if not inflater.eof:
            return True
        places = []
    while data[at : at + 2] == b"\0\0" and any(data[at : at + 8]):
        _, length, begin, _ = element(data, at, "little", explicit=False)
        at = begin + length
    explicit = letters(data[at + 4 : at + 6])
    guessed_big = not syntax and explicit and data[at + 1] >= 4
    order = "big" if guessed_big or syntax == b"1.2.840.10008.1.2.2" else "little"
    return _is_data_set_cut(data, at, order, places, explicit=explicit)


def _is_data_set_cut(data: bytes, at: int, order: str, places: list[int], *, explicit: bool) -> bool:
    seen: dict[int, bytes] = {}
    while any(data[at : at + 8]):
        places.append(at)
        header = element(data, at, order, explicit=explicit)
        tag, _, begin, _ = header
        if tag >> 16 == 0xFFFE:
            at = begin
            continue
        if tag in (0x7FE00008, 0x7FE00009, 0x7FE00010):
            return _is_cut_in_pixels(data, header, order, explicit=explicit)
        at = after(data, header, order, explicit=explicit)
        seen[tag] = data[begin:at]
    if at > len(data) or not seen:
        return True
    name = pydicom.uid.UID(seen.get(0x00080016, b"").decode("ascii", "replace").strip("\0 ")).name
    if name in ("MR Spectroscopy Storage", "Raw Data Storage") or 0x00287FE0 in seen:
        return False
    return is_image(name) or {0x00280010, 0x00280011, 0x00280100} <= seen.keys()


def _is_cut_in_pixels(data: bytes, header: tuple[int, int, int, bool], order: str, *, explicit: bool) -> bool:
    _, length, at, _ = header
    if length != 0xFFFFFFFF:
        at += length
    elif len(data) - 8 >= at and data[-8:] == (
        b"\xff\xfe\xe0\xdd\0\0\0\0" if order == "big" else b"\xfe\xff\xdd\xe0\0\0\0\0"
    ):
        return False
    else:
        while (fragment := element(data, at, order, explicit=False))[0] != 0xFFFEE0DD:
            if fragment[0] != 0xFFFEE000 or fragment[1] == 0xFFFFFFFF:
                return True
            at = fragment[2] + fragment[1]
        at = fragment[2]
    while at < len(data):
        group = number(data[at : at + 2], order) if len(data) > at + 1 else 0
        if group <= 0x7FE0 or group == 0xFFFE:
            return False
        header = element(data, at, order, explicit=explicit)
        if not header[3]:
            return False
        at = after(data, header, order, explicit=explicit)
    return at > len(data)


def is_image(name: str) -> bool:
    """Return, by the name of a SOP class, whether its instances must have pixel data."""
    if name in ("Enhanced RT Image Storage", "Enhanced Continuous RT Image Storage"):
        return False
    return "Image Storage" in name or name in (
        "Enhanced US Volume Storage",
        "Parametric Map Storage",
        "Segmentation Storage",
        "Ophthalmic Optical Coherence Tomography B-scan Volume Analysis Storage",
        "Ophthalmic Thickness Map Storage",
        "Corneal Topography Map Storage",
    )


def packaged() -> Iterator[Path]:
    """Yield all files of the packages that have DICOM files; nothing is downloaded."""
    for package in ("pydicom", "data_store", "pynetdicom", "nibabel"):  # data_store is pydicom-data's
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        yield from sorted(path for path in Path(spec.origin).parent.rglob("*") if path.is_file())


def expected_of(content: bytes) -> Identity | tuple[str, str]:
    """Return what a file is: its identity by pydicom, its completeness by the oracle."""
    if not content:
        return "NotDicom", "empty"
    with quiet():
        header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, force=True)
        named = [str(header.get(keyword) or "") for keyword in ("SOPClassUID", *UIDS)]
    if "DirectoryRecordSequence" in header:
        return "NotDicom", "DICOMDIR"
    if content[128:132] != b"DICM" and not re.fullmatch(r"[0-9.]+", named[1]):
        return "NotDicom", "not DICOM"
    found = by_pydicom(content)
    cut = is_cut(content)
    if found is None or not named[0]:
        missing = UIDS[named.index("", 1) - 1] if found is None else "SOPClassUID"
        return "Unreadable", "truncated" if cut else f"no {missing}"
    return replace(found, truncated="truncated" if cut else "")


def odd(made: Dataset, syntax: str = ExplicitVRLittleEndian, *, encoding: str | None = None) -> bytes:
    """Make a file with a preamble and a transfer syntax; the data set may be encoded otherwise."""
    return PREAMBLE + meta(syntax) + encoded(made, encoding or syntax)


def pixels(*fragments: bytes, end: bytes = b"\xfe\xff\xdd\xe0\0\0\0\0") -> bytes:
    """Encode pixel data in fragments (PS3.5 A.4)."""
    items = b"".join(b"\xfe\xff\0\xe0" + len(one).to_bytes(4, "little") + one for one in (b"", *fragments))
    return b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + items + end


def without_pixels(sop_class: str | None, **values: object) -> Dataset:
    """Make an instance of a class, without pixel data and its description."""
    return data_set(**{"SOPClassUID": sop_class, "PixelData": None, "Rows": None, "Columns": None} | values)


def sequence(*items: Dataset, defined: bool = False) -> Sequence:
    """Make a sequence; neither it nor its items have a length, unless `defined`."""
    for item in items:
        item.is_undefined_length_sequence_item = not defined
    made = Sequence(items)
    made.is_undefined_length = not defined
    return made


def report(**values: object) -> Dataset:
    """Make a structured report."""
    text = Dataset()
    text.ValueType = "TEXT"
    text.TextValue = "Fracture."
    return without_pixels(BasicTextSRStorage, Modality="SR", ContentSequence=sequence(text, text), **values)


def waveform() -> Dataset:
    """Make an electrocardiogram."""
    channels = Dataset()
    channels.NumberOfWaveformSamples = 2
    channels.WaveformBitsAllocated = 16
    channels.WaveformSampleInterpretation = "SS"
    channels.add_new(0x5400_1010, "OW", bytes(4))
    return without_pixels(TwelveLeadECGWaveformStorage, WaveformSequence=sequence(channels))


def multiframe() -> Dataset:
    """Make an enhanced multi-frame image, with one functional group for each frame."""
    frame = Dataset()
    frame.FrameContentSequence = sequence(Dataset())
    return data_set(
        SOPClassUID=EnhancedMRImageStorage, NumberOfFrames=2, PerFrameFunctionalGroupsSequence=sequence(frame, frame)
    )


def zipped(*members: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Make a zip with a directory and these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.mkdir("ROENTGEN")
        for number, member in enumerate(members):
            archive.writestr(f"ROENTGEN/{number}.dcm", member)
    return buffer.getvalue()


def tarred(*members: bytes, form: int = tarfile.PAX_FORMAT) -> bytes:
    """Make a tar with a directory, a link and these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, kind in (("ROENTGEN", tarfile.DIRTYPE), ("link", tarfile.SYMTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type = kind
            archive.addfile(entry)
        for number, member in enumerate(members):
            entry = tarfile.TarInfo(f"ROENTGEN/{number}-{'x' * 120 if form != tarfile.USTAR_FORMAT else ''}.dcm")
            entry.size = len(member)
            archive.addfile(entry, io.BytesIO(member))
    return buffer.getvalue()
