"""`identify`: what is DICOM, and a fast reader that agrees with pydicom or declines."""

import codecs
import errno
import gzip
import io
import json
import logging
import os
import random
import subprocess
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from dicom_files import (
    EXPECTED,
    PATIENT,
    PREAMBLE,
    TEXT,
    UIDS,
    by_pydicom,
    contents,
    data_set,
    encoded,
    meta,
    outcome,
    part10,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import datadict
from pydicom.charset import python_encoding
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

from asyncimport.dicom import (
    FIELDS,
    SERIES_FIELDS,
    STUDY_FIELDS,
    Identity,
    encoding,
    fast_header,
    header,
    identify,
    reader,
)
from asyncimport.dicom.identity import make_identity

BUNDLED = sorted(path for path in (Path(pydicom.__file__).parent / "data").rglob("*") if path.is_file())


def by_peek(content: bytes) -> Identity | None:
    """Identify by the fast reader only."""
    try:
        found = fast_header.read_fast_header(content[: header._HEADS[-1]])
    except fast_header.MoreBytesNeeded:
        return None
    return found and make_identity(found[0], "")


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], Path]:
    """Return a function that writes a file with this content."""

    def write(content: bytes) -> Path:
        path = tmp_path / "1.2.3.4"
        path.write_bytes(content)
        return path

    return write


# The tables


def test_fields_are_pydicoms_keywords_and_tags() -> None:
    """A keyword with another's tag would route by the wrong field."""
    assert {keyword: datadict.tag_for_keyword(keyword) for keyword in FIELDS} == FIELDS
    assert {**STUDY_FIELDS, **SERIES_FIELDS}.items() < FIELDS.items()
    assert not STUDY_FIELDS.keys() & SERIES_FIELDS.keys()
    assert max(FIELDS.values()) < 0x0020_0012


def test_value_representations_are_pydicoms() -> None:
    """The fast reader skips an element by its VR, so each must be in the right set."""
    assert encoding._vrs(" ".join(EXPLICIT_VR_LENGTH_16)) == encoding.TEXTS | encoding.NUMBERS
    assert encoding._vrs(" ".join(EXPLICIT_VR_LENGTH_32)) == encoding.LONGS
    assert not encoding.TEXTS & encoding.NUMBERS


def test_character_sets_are_pydicoms() -> None:
    """Each codec is pydicom's, or ASCII where pydicom would read other bytes as Latin-1."""
    for charset, codec in fast_header._CODECS.items():
        theirs = python_encoding[charset]
        ascii_text = bytes(range(0x20, 0x7F))
        assert ascii_text.decode(codec) == ascii_text.decode("ascii"), "a value in ASCII is decoded as such"
        if codecs.lookup(codec).name == "ascii":
            assert theirs == "iso8859"
        else:
            assert codecs.lookup(codec).name == codecs.lookup(theirs).name


def test_pydicom_is_imported_only_when_asked() -> None:
    """Importing it costs time at start-up, and most files never need it."""
    script = "import sys, asyncimport.dicom; print(sorted(m for m in sys.modules if m.startswith('pydicom')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# The peek against pydicom


def test_the_fast_reader_agrees_or_declines_on_all_bundled_files() -> None:
    """It gives pydicom's whole identity of every file that pydicom brings, or None."""
    counts: Counter[str] = Counter()
    for path in BUNDLED:
        content = path.read_bytes()
        fast = outcome(lambda head=content: by_peek(head))  # type: ignore[misc]
        if fast is None:
            counts["declined"] += 1
        elif isinstance(fast, Identity):
            counts["agreed" if fast == by_pydicom(content) else f"wrong: {path.name}"] += 1
        else:
            counts["agreed" if "DirectoryRecordSequence" in pydicom.dcmread(path) else f"wrong: {path.name}"] += 1
    assert counts.keys() == {"agreed", "declined"}
    assert counts["agreed"] > 140, counts


def test_identify_agrees_with_pydicom_on_all_bundled_files() -> None:
    """By either reader; where pydicom finds no UIDs there is no identity."""
    identified = 0
    for path in BUNDLED:
        got = outcome(lambda path=path: identify(str(path)))  # type: ignore[misc]
        if isinstance(got, Identity):
            identified += 1
            assert replace(got, truncated="") == by_pydicom(path.read_bytes()), path.name
        elif path.suffix in {".dcm", ""} and got != ("NotDicom", "DICOMDIR"):
            assert by_pydicom(path.read_bytes()) is None, path.name
    assert identified > 150


@settings(max_examples=300)
@given(contents())
def test_the_fast_reader_agrees_or_declines_on_any_header(content: bytes) -> None:
    """For any header it gives pydicom's identity or None."""
    fast = by_peek(content)
    assert fast is None or fast == by_pydicom(content)


@settings(max_examples=300)
@given(contents(), st.lists(st.tuples(st.integers(0, 900), st.integers(1, 255)), max_size=3), st.integers(0, 900))
def test_damage_ends_in_an_identity_or_in_a_reason(
    tmp_path_factory: pytest.TempPathFactory, sound: bytes, flips: list[tuple[int, int]], cut: int
) -> None:
    """Damaged or truncated headers raise nothing else, and the fast reader never differs from pydicom."""
    content = bytearray(sound)
    for at, bits in flips:
        content[at % len(content)] ^= bits
    if cut < len(content):
        del content[len(content) - cut // 2 :]
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    got = outcome(lambda: identify(str(path)))
    fast = outcome(lambda: by_peek(bytes(content)))
    if isinstance(got, Identity):
        got = replace(got, truncated="")
    assert fast is None or got == fast
    if isinstance(fast, Identity):
        with path.open("rb") as stream:
            prefixed = content[128:132] == b"DICM"
            raw = io.FileIO(stream.fileno(), closefd=False)
            assert reader.fields_by_pydicom(raw, prefixed=prefixed) == fast.all_fields


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_the_file_before_changes_nothing(syntax: str) -> None:
    """The cache of the fast reader does not change a result, whatever byte differs."""
    before = PREAMBLE + meta(syntax) + encoded(data_set(ProtocolName="T1"), syntax)
    changed = (bytes([*before[:at], before[at] ^ 1, *before[at + 1 :]]) for at in range(128, len(before)))
    differing = 0
    for content in *changed, *(before[:at] for at in range(128, len(before))):
        fast_header._cache.clear()
        alone = outcome(lambda content=content: by_peek(content))  # type: ignore[misc]
        fast_header._cache.clear()
        known = by_peek(before)
        assert outcome(lambda content=content: by_peek(content)) == alone  # type: ignore[misc]
        differing += isinstance(alone, Identity) and alone != known
    assert differing > 50


def test_a_character_set_is_not_taken_from_the_file_before() -> None:
    """The same bytes are another name in another character set or encoding."""
    name = b"R\xf6ntgen^Wilhelm "
    for charset, codec in ("ISO_IR 100", "latin-1"), ("ISO_IR 144", "iso8859-5"), ("ISO_IR 100", "latin-1"):
        for syntax in ExplicitVRLittleEndian, ImplicitVRLittleEndian:
            made = data_set(SpecificCharacterSet=charset)
            found = by_peek(PREAMBLE + meta(syntax) + encoded(made, syntax).replace(PATIENT.encode(), name))
            assert found is not None
            assert found.fields["PatientName"] == name.decode(codec).strip()


def test_a_header_may_hold_the_uids_alone() -> None:
    """A part of a header without wanted fields is no reason to decline."""
    nothing = dict.fromkeys(("StudyDate", "Modality", "StudyDescription", "PatientName", "PatientID", "SeriesNumber"))
    found = by_peek(PREAMBLE + meta() + encoded(data_set(**nothing)))
    assert found is not None
    assert found.all_fields.keys() == {"SOPClassUID", *UIDS}


# What is DICOM


@pytest.mark.parametrize("start", ["preamble and meta", "meta alone", "preamble alone", "nothing"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_every_start_in_every_encoding(file: Callable[[bytes], Path], start: str, syntax: str) -> None:
    """Old files without preamble, meta information or both are DICOM all the same."""
    head = {
        "preamble and meta": PREAMBLE + meta(syntax),
        "meta alone": meta(syntax),
        "preamble alone": PREAMBLE,
    }
    path = file(head.get(start, b"") + encoded(data_set(), syntax))
    assert identify(str(path)) == EXPECTED


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(part10(data_set()), id="as pydicom writes it, with a group length"),
        pytest.param(part10(data_set(), DeflatedExplicitVRLittleEndian), id="deflated"),
        pytest.param(PREAMBLE + meta(JPEG2000) + encoded(data_set()), id="JPEG 2000"),
        pytest.param(PREAMBLE + meta("1.2.840.10008.1.2.4.112") + encoded(data_set()), id="JPEG XL"),
        pytest.param(PREAMBLE + meta("1.3.6.1.4.1.5962.300.2") + encoded(data_set()), id="unknown syntax"),
        pytest.param(PREAMBLE + meta(None) + encoded(data_set()), id="no transfer syntax"),
        pytest.param(b"II*\0" + PREAMBLE[4:] + meta() + encoded(data_set()), id="TIFF preamble"),
        pytest.param(
            PREAMBLE + meta(MediaStorageSOPInstanceUID="9.9") + encoded(data_set()),
            id="meta names another instance",
        ),
        pytest.param(
            PREAMBLE + meta() + encoded(data_set(), ImplicitVRLittleEndian),
            id="implicit where meta says explicit",
        ),
        pytest.param(
            PREAMBLE + meta(ImplicitVRLittleEndian) + encoded(data_set()),
            id="explicit where meta says implicit",
        ),
        pytest.param(
            PREAMBLE
            + meta()
            + encoded(data_set(SOPInstanceUID=None, StudyInstanceUID=None, PixelData=None))
            # These two belong before the rest.
            + b"\x08\0\x18\0UI\x08\x001.2.3.4\0"
            + b"\x20\0\x0d\0UI\x06\x001.2.3\0"
            + b"\xe0\x7f\x10\0OW\0\0\x02\0\0\0\0\0",
            id="tags do not ascend",
        ),
    ],
)
def test_odd_files_that_are_dicom(file: Callable[[bytes], Path], content: bytes) -> None:
    """What is odd about a file does not change its identity."""
    assert identify(str(file(content))) == EXPECTED


@pytest.mark.parametrize("size", [100, 7_000, 9_000, 60_000, 200_000, 9_000_000])
def test_long_private_elements_before_the_uids(file: Callable[[bytes], Path], size: int) -> None:
    """The UIDs are found at any distance; up to 8 MB by the fast reader."""
    made = data_set()
    made.private_block(0x0009, "ACME", create=True).add_new(1, "OB", bytes(size))
    content = PREAMBLE + meta() + encoded(made)
    assert identify(str(file(content))) == EXPECTED
    assert by_peek(content) == (EXPECTED if size < 8_000_000 else None)


def test_sequences_without_length_hide_nothing(file: Callable[[bytes], Path]) -> None:
    """UIDs inside a sequence are those of other instances."""
    inner = Dataset()
    inner.StudyInstanceUID = inner.SOPInstanceUID = "6.6.6"
    inner.is_undefined_length_sequence_item = True
    sequence = Sequence([inner, inner])
    sequence.is_undefined_length = True
    for syntax in ExplicitVRLittleEndian, ImplicitVRLittleEndian:
        content = PREAMBLE + meta(syntax) + encoded(data_set(ReferencedImageSequence=sequence), syntax)
        assert by_peek(content) == EXPECTED
        assert identify(str(file(content))) == EXPECTED


def test_deep_nesting_ends(file: Callable[[bytes], Path]) -> None:
    """Nested sequences that exceed Python's stack raise no error."""
    opened = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    content = PREAMBLE + meta() + b"\x08\0\x18\0UI\x04\x001.2\0" + opened * 5_000
    assert outcome(lambda: identify(str(file(content)))) == (
        "Unreadable",
        "sequences are nested more than 100 deep",
    )


@pytest.mark.parametrize("name", ["1.2.3.4", "IM0001", "a.MR", "b.IMA", "c.txt", "d.png", "DICOMDIR", "e.dcm"])
def test_the_name_does_not_matter(tmp_path: Path, name: str) -> None:
    """Content decides, never the name."""
    (tmp_path / name).write_bytes(part10(data_set()))
    assert identify(str(tmp_path / name)) == EXPECTED


def test_names_that_are_not_text(tmp_path: Path) -> None:
    """A path may be bytes, and need not be UTF-8."""
    path = os.fsencode(tmp_path) + b"/\xff\xfe"
    with open(path, "wb") as stream:  # noqa: PTH123 - pathlib takes no bytes
        stream.write(part10(data_set(), ExplicitVRBigEndian))
    assert identify(path) == identify(os.fsdecode(path)) == EXPECTED


# What the fields hold


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("", "Roentgen"),
        ("ISO_IR 100", "Röntgen^Wilhelm"),
        ("ISO_IR 192", "Röntgen^渡辺"),
        ("ISO_IR 144", "Пирогов^Николай"),
        ("ISO_IR 126", "Διονυσιος"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        ("\\ISO 2022 IR 87", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ],
)
def test_names_in_their_character_set(file: Callable[[bytes], Path], charset: str, name: str) -> None:
    """Text is decoded by the character set that the file names."""
    path = file(part10(data_set(SpecificCharacterSet=charset.split("\\"), PatientName=name)))
    assert identify(str(path)).fields["PatientName"] == name


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param((b"ISO 2022 IR 6\\ISO", b"ISO 2022 IR 6\\I\0O"), id="null in a character set"),
        pytest.param((b"UL\x04\0", b"UL\x06\0"), id="group length of six bytes"),
        pytest.param((b"SH\x04\0", b"UN\x04\0"), id="unknown VR"),
        pytest.param((b"CS\x02\0", b"??\x02\0"), id="no VR"),
        pytest.param((b"Hand", b"Ha\x1bd"), id="escape in a text"),
        pytest.param((b"Hand", b"Ha\xffd"), id="byte that the character set has not"),
        pytest.param((b"\x20\0\x0e\0", b"\xfe\xff\xdd\xe0"), id="delimiter without its sequence"),
    ],
)
def test_the_fast_reader_declines_what_it_does_not_know(damaged: tuple[bytes, bytes]) -> None:
    """Each of these leads pydicom elsewhere, so pydicom must decide."""
    sound = part10(data_set(SpecificCharacterSet=["ISO 2022 IR 6", "ISO 2022 IR 87"], StudyID="A 12"))
    assert by_peek(sound) is not None
    assert damaged[0] in sound
    assert by_peek(sound.replace(*damaged, 1)) is None


def test_values_are_stripped_joined_or_absent(file: Callable[[bytes], Path]) -> None:
    """Padding is stripped, several values stay together, and empty ones are absent."""
    made = data_set(
        StudyID=" 12 ",
        OtherPatientIDs=["A ", " B"],
        PatientSex="",
        StudyDescription="   ",
        PatientName="Roentgen=",
        PatientComments="two\nlines",
    )
    for syntax in ExplicitVRLittleEndian, ExplicitVRBigEndian:
        fields = identify(str(file(part10(made, syntax)))).fields
        assert fields["StudyID"] == "12"
        assert fields["OtherPatientIDs"] == "A\\B"
        assert fields["PatientName"] == "Roentgen"
        assert fields["PatientComments"] == "two\nlines"
        assert not {"PatientSex", "StudyDescription", "AccessionNumber"} & fields.keys()


def test_uids_that_are_invalid_still_identify(file: Callable[[bytes], Path]) -> None:
    """Archives hold invalid UIDs (PS3.5 9.1); their files must be routed all the same."""
    made = data_set(SOPInstanceUID="1.02.x", StudyInstanceUID="study 7", SeriesInstanceUID="1." * 40)
    got = identify(str(file(PREAMBLE + meta() + encoded(made))))
    assert (got.sop_uid, got.study_uid, got.series_uid) == ("1.02.x", "study 7", "1." * 40)


def test_values_that_are_too_long_are_absent(file: Callable[[bytes], Path]) -> None:
    """A damaged length must not fill the memory; both readers leave the value out."""
    made = data_set(PatientComments="x" * 70_000)
    content = PREAMBLE + meta(ImplicitVRLittleEndian) + encoded(made, ImplicitVRLittleEndian)
    assert identify(str(file(content))) == EXPECTED


# What is not


def zipped() -> bytes:
    """Make a zip that holds DICOM."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("1.dcm", part10(data_set()))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\0", id="one byte"),
        pytest.param(bytes(4096), id="zeros"),
        pytest.param(TEXT, id="text"),
        pytest.param(TEXT[:128] + b"DICM" + TEXT, id="text with DICM by chance"),
        pytest.param(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(500), id="PNG"),
        pytest.param(b"II*\0\x08\0\0\0" + bytes(500), id="TIFF"),
        pytest.param(json.dumps({"00080018": {"vr": "UI", "Value": ["1.2.3"]}}).encode(), id="DICOM JSON"),
        pytest.param(zipped(), id="zip"),
        pytest.param(gzip.compress(part10(data_set())), id="gzip"),
        pytest.param(b"\x08\0\x05\0CS\x0a\0" + TEXT, id="begins like a data set, and then text"),
        pytest.param(encoded(data_set(SOPClassUID=None, SOPInstanceUID=None)), id="no preamble, no SOP UIDs"),
        *(pytest.param(random.Random(seed).randbytes(5_000), id=f"random bytes {seed}") for seed in range(5)),
    ],
)
def test_other_files_are_not_dicom(file: Callable[[bytes], Path], content: bytes) -> None:
    """Whatever pydicom would make of them."""
    assert outcome(lambda: identify(str(file(content)))) == ("NotDicom", "not DICOM")


def test_an_empty_file(file: Callable[[bytes], Path]) -> None:
    """It has its own reason, as it suggests a failed copy."""
    assert outcome(lambda: identify(str(file(b"")))) == ("NotDicom", "empty")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_dicomdir_is_recognised_by_its_content(file: Callable[[bytes], Path], syntax: str) -> None:
    """By its class, or by its records if the class is missing."""
    made = Dataset()
    made.FileSetID = "DISC"
    made.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = 0
    made.DirectoryRecordSequence = []
    named = PREAMBLE + meta(syntax, MediaStorageSOPClassUID=MediaStorageDirectoryStorage) + encoded(made, syntax)
    nameless = PREAMBLE + meta(syntax) + encoded(made, syntax)
    for content in named, nameless:
        assert outcome(lambda content=content: identify(str(file(content)))) == ("NotDicom", "DICOMDIR")  # type: ignore[misc]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("uid", [*UIDS, "SOPClassUID"])
@pytest.mark.parametrize("value", [None, "", "\0 "])
def test_a_missing_uid_is_named(file: Callable[[bytes], Path], syntax: str, uid: str, value: str | None) -> None:
    """DICOM without one of the UIDs is a problem, and the reason names the UID."""
    content = PREAMBLE + meta(syntax) + encoded(data_set(**{uid: value}), syntax)
    assert outcome(lambda: identify(str(file(content)))) == ("Unreadable", f"no {uid}")


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x02\0\0", id="a piece of an element"),
        pytest.param(bytes(range(256)), id="rubbish"),
        pytest.param(meta() + bytes(100), id="meta and zeros"),
        pytest.param(meta(DeflatedExplicitVRLittleEndian) + TEXT, id="deflated, but it is not"),
    ],
)
def test_damage_after_the_prefix_is_still_dicom(file: Callable[[bytes], Path], rest: bytes) -> None:
    """A damaged DICOM file must not be lost among other files."""
    kind, reason = outcome(lambda: identify(str(file(PREAMBLE + rest))))  # type: ignore[misc]
    assert kind == "Unreadable"
    assert reason in {"no SOPInstanceUID", "cannot be parsed"} or reason.startswith("truncated: ")


# What cannot be read


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        # The walk saw it, and then it was gone.
        pytest.param(lambda _: None, "vanished", id="nothing"),
        # A file may be a directory by now.
        pytest.param(Path.mkdir, "not a regular file", id="directory"),
        # Opening a FIFO would wait for a writer.
        pytest.param(os.mkfifo, "not a regular file", id="FIFO"),
        pytest.param(lambda path: path.symlink_to(path.name), os.strerror(errno.ELOOP).lower(), id="link to itself"),
    ],
)
def test_what_is_no_file_any_more(tmp_path: Path, make: Callable[[Path], object], reason: str) -> None:
    """It is unreadable, and the reason does not show the path."""
    make(tmp_path / "there")
    assert outcome(lambda: identify(str(tmp_path / "there"))) == ("Unreadable", reason)


def test_no_file_stays_open(file: Callable[[bytes], Path]) -> None:
    """The next file gets the same descriptor, whatever the result."""
    before = os.open(os.devnull, os.O_RDONLY)
    os.close(before)
    for content in part10(data_set()), part10(data_set(), ExplicitVRBigEndian), TEXT, b"":
        outcome(lambda content=content: identify(str(file(content))))  # type: ignore[misc]
    after = os.open(os.devnull, os.O_RDONLY)
    os.close(after)
    assert before == after


# Privacy


def test_pydicom_says_nothing_of_the_patient(
    file: Callable[[bytes], Path], caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """No value reaches a log, a warning or a reason, from worker threads either."""
    content = PREAMBLE + meta() + encoded(data_set(SpecificCharacterSet="SECRET", PatientID="SECRET"))
    sound = file(content)
    no_uid = sound.with_name("SECRET")
    no_uid.write_bytes(content.replace(b"UI\x08\x001.2.3.9", b"UI\x08\x00\0\0\0\0\0\0\0"))
    with pytest.warns(UserWarning, match="SECRET"):
        pydicom.dcmread(sound)
    caplog.clear()
    with caplog.at_level(logging.DEBUG), ThreadPoolExecutor(4) as threads:
        warnings.simplefilter("always")
        paths = [str(sound), str(no_uid)] * 40
        got = list(threads.map(lambda path: outcome(lambda: identify(path)), paths))
    assert isinstance(got[0], Identity)
    assert got[1::2] == [("Unreadable", "no SeriesInstanceUID")] * 40
    assert not recwarn.list
    assert not caplog.records


def test_warnings_turned_into_errors_change_nothing(file: Callable[[bytes], Path]) -> None:
    """Filters that others set later, such as `error`, do not reach pydicom's warnings."""
    path = file(PREAMBLE + meta() + encoded(data_set(), ImplicitVRLittleEndian))
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert identify(str(path)) == EXPECTED
