"""Files from archives of thirty years: each odd one is judged correctly, and truncated ones are recognised.

pydicom is the oracle for identities. It accepts truncated files, so the oracle for these is `is_cut`: a slow and simple
implementation of the rule of asyncimport/dicom/completeness.py, which shares no code with it.
"""

import errno
import os
import random
import shutil
import string
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from dicom_files import (
    EXPECTED,
    PREAMBLE,
    TEXT,
    UIDS,
    contents,
    data_set,
    encoded,
    expected_of,
    is_cut,
    is_image,
    meta,
    multiframe,
    odd,
    outcome,
    packaged,
    part10,
    pixels,
    quiet,
    report,
    sequence,
    waveform,
    without_pixels,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    BasicTextSRStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    MediaStorageDirectoryStorage,
    MRSpectroscopyStorage,
    RawDataStorage,
    RLELossless,
    RTDoseStorage,
    RTPlanStorage,
)

from asyncimport.dicom import Identity, identify
from asyncimport.dicom.completeness import IMAGE_CLASSES, NEVER_IMAGES

ALPHABET = string.digits + string.ascii_uppercase

# The oracle


def test_image_classes_are_those_named_so() -> None:
    """A missing class hides truncation, and a wrong one refuses sound files."""
    classes = {
        one
        for one, (_, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class" and one.startswith("1.2.840.10008.5.1.4.1.1.")
    }
    named = {one for one in classes if is_image(UID_dictionary[one][0])}
    assert named == IMAGE_CLASSES & classes
    assert {UID_dictionary[one][0] for one in NEVER_IMAGES} == {"MR Spectroscopy Storage", "Raw Data Storage"}


# Real files


def told_of(path: Path) -> Identity | tuple[str, str]:
    """Identify a file, and reduce the reason for truncation to a flag."""
    told = outcome(lambda: identify(str(path)))
    assert told is not None
    if isinstance(told, Identity):
        return replace(told, truncated="truncated" if told.truncated else "")
    return told[0], told[1].partition(":")[0]


# Cut on purpose, or made without pixel data to test what reads no pixels. (The 50 of TINY_ALPHA are one make.)
CUT = {
    "MR_truncated.dcm": "truncated: the pixel data ends early",
    "rtplan_truncated.dcm": "truncated: an element ends early",
    "emri_small_jpeg_2k_lossless_too_short.dcm": "truncated: the pixel data ends early",
    "chrJapMulti.dcm": "truncated: the pixel data is missing",
    "chrJapMultiExplicitIR6.dcm": "truncated: the pixel data is missing",
    "chrKoreanMulti.dcm": "truncated: the pixel data is missing",
    "csa_slice_norm.dcm": "truncated: the pixel data is missing",
    **{
        f"IM0000{n}": "truncated: the pixel data is missing"
        for n in (f"{tens}{ones}" for tens in "01" for ones in ALPHABET)
    },
}


@pytest.mark.thorough
def test_every_bundled_file_is_judged_like_the_oracle() -> None:
    """Path by path: its identity, the reason for none, and whether it is truncated."""
    counts: Counter[str] = Counter()
    cut = {}
    for path in packaged():
        told = told_of(path)
        assert told == expected_of(path.read_bytes()), path
        counts[told[1] if isinstance(told, tuple) else told.truncated or "whole"] += 1
        if isinstance(told, Identity) and told.truncated:
            cut[path.name] = identify(str(path)).truncated
    sys.stdout.write(f"{dict(counts)}\n")
    assert cut.items() <= CUT.items()
    assert counts["whole"] > 180
    assert counts["not DICOM"] > 900
    assert counts["DICOMDIR"] == 8


def cuts_of(content: bytes, seed: str) -> list[int]:
    """Choose where to cut: anywhere, in the header, and in small files around all elements; last first."""
    chance = random.Random(seed)
    places: list[int] = []
    is_cut(content, places)
    chosen = {chance.randrange(len(content)) for _ in range(20)}
    chosen |= {chance.randrange(min(len(content), 6_000)) for _ in range(20)}
    if len(content) < 20_000:
        chosen.update(places, (place + 1 for place in places[::5]), (place - 1 for place in places[::5]))
    chosen |= {max(len(content) - back, 0) for back in (1, 2, 7, 8, 9)}
    return sorted((size for size in chosen if 0 <= size < len(content)), reverse=True)


# Each has a minute, and a busy machine is several times slower.
_PARTS = 8


@pytest.mark.thorough
@pytest.mark.parametrize("part", range(_PARTS))
def test_wherever_a_file_is_cut_the_oracle_agrees(tmp_path: Path, part: int) -> None:
    """Some 300 files under 1 MB, each cut at 45 places and more: the verdict, and never a wrong UID."""
    copy = tmp_path / "cut"
    counts: Counter[str] = Counter()
    makes = set()
    for path in packaged():
        make = path.parent.name, path.stat().st_size
        if make[1] // 2 % _PARTS != part:
            continue
        whole = outcome(lambda path=path: identify(str(path)))  # type: ignore[misc]
        if not isinstance(whole, Identity) or path.stat().st_size > 1 << 20 or (make in makes and make[1] < 1_000):
            continue
        makes.add(make)
        content = path.read_bytes()
        shutil.copyfile(path, copy)
        for size in cuts_of(content, path.name):
            os.truncate(copy, size)
            told = told_of(copy)
            cut = is_cut(content[:size])
            place = f"{path.name} cut at {size}"
            if isinstance(told, Identity):
                assert bool(told.truncated) == cut, place
                assert told.fields.items() <= whole.fields.items(), place
                assert (told.sop_uid, told.study_uid, told.series_uid) == (
                    whole.sop_uid,
                    whole.study_uid,
                    whole.series_uid,
                ), place
                counts["cut" if cut else "whole"] += 1
            elif told[0] == "Unreadable":
                assert (told[1] == "truncated") == cut, place
                counts[told[1]] += 1
            else:
                # Too little is left to say that it ever was DICOM.
                assert size < 140 or content[128:132] != b"DICM", place
                counts[told[1]] += 1
    sys.stdout.write(f"{dict(counts)}\n")
    assert counts["cut"] > 5_000 // _PARTS


@settings(max_examples=300)
@given(contents(), st.lists(st.tuples(st.integers(0, 2_000), st.integers(1, 255)), max_size=2), st.integers(0, 900))
def test_however_a_file_is_damaged_the_oracle_agrees(
    tmp_path_factory: pytest.TempPathFactory, sound: bytes, flips: list[tuple[int, int]], cut: int
) -> None:
    """Flipped bits change lengths, tags and delimiters: the verdict is still the oracle's."""
    content = bytearray(sound)
    for at, bits in flips:
        content[at % len(content)] ^= bits
    if cut < len(content) and cut % 2:
        del content[len(content) - cut :]
    path = tmp_path_factory.getbasetemp() / "damaged-too"
    path.write_bytes(content)
    told = told_of(path)
    if isinstance(told, Identity):
        assert bool(told.truncated) == is_cut(bytes(content))


# Made files, by the names that they have among those who meet them


def pdf() -> Dataset:
    """Make an encapsulated PDF, which is no image."""
    return without_pixels(
        EncapsulatedPDFStorage,
        MIMETypeOfEncapsulatedDocument="application/pdf",
        EncapsulatedDocument=b"%PDF-1.7\n%%EOF\n\0",
    )


def private_sequence() -> Dataset:
    """Make an instance with a private sequence without length before the UIDs."""
    inner = Dataset()
    inner.StudyInstanceUID = "6.6.6"
    made = data_set()
    made.private_block(0x0009, "ACME", create=True).add_new(1, "SQ", sequence(inner))
    return made


def deflated(content: bytes) -> bytes:
    """Deflate without a header (PS3.5 A.5)."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


IMPLICIT_ITEMS = (  # in an element of unknown VR the items are implicit (PS3.5 6.2.2)
    b"\x41\0\x01\x10UN\0\0\xff\xff\xff\xff"
    b"\xfe\xff\0\xe0\xff\xff\xff\xff\x08\0\x60\0\x02\0\0\0MR\xfe\xff\x0d\xe0\0\0\0\0"
    b"\xfe\xff\xdd\xe0\0\0\0\0"
)
BODY = encoded(data_set(PixelData=None))
HEAD = PREAMBLE + meta() + BODY
ELSEWHERE = data_set(PixelData=None, PixelDataProviderURL="http://pacs/1")
SYNTAXES = sorted(
    one for one, (_, kind, *_) in UID_dictionary.items() if kind == "Transfer Syntax" and ".1.2.4." in one
)
COMPRESSED = [
    *(one for one in SYNTAXES if one not in ("1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205")),
    *(RLELossless, "1.2.840.10008.1.2.1.98", "1.2.840.10008.1.2.8.1"),
    *("1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.4.111", "1.2.840.10008.1.2.4.112"),  # JPEG XL
    *("1.3.6.1.4.1.5962.300.2", "1.2.276.0.99.1"),  # private
]

WHOLE = {
    "no preamble, implicit": encoded(data_set(), ImplicitVRLittleEndian),
    "no preamble, explicit": encoded(data_set()),
    "no preamble, big endian": encoded(data_set(), ExplicitVRBigEndian),
    "no preamble, but meta": meta() + encoded(data_set()),
    "a preamble of TIFF": b"II*\0" + odd(data_set())[4:],
    "meta without group length": odd(data_set()),
    "meta without transfer syntax": PREAMBLE + meta(None) + encoded(data_set()),
    "meta without transfer syntax, big": PREAMBLE + meta(None) + encoded(data_set(), ExplicitVRBigEndian),
    "meta names another instance": PREAMBLE + meta(MediaStorageSOPInstanceUID="9.9") + encoded(data_set()),
    "meta names another class": PREAMBLE + meta(MediaStorageSOPClassUID=RTPlanStorage) + encoded(data_set()),
    "meta says explicit, data implicit": odd(data_set(), encoding=ImplicitVRLittleEndian),
    "meta says implicit, data explicit": odd(data_set(), ImplicitVRLittleEndian, encoding=ExplicitVRLittleEndian),
    "big endian": odd(data_set(), ExplicitVRBigEndian),
    "implicit": odd(data_set(), ImplicitVRLittleEndian),
    "deflated": part10(data_set(), DeflatedExplicitVRLittleEndian),
    "deflated, odd length padded": part10(data_set(), DeflatedExplicitVRLittleEndian) + b"\0",
    "deflated, with fragments": PREAMBLE + meta(DeflatedExplicitVRLittleEndian) + deflated(BODY + pixels(b"ab")),
    **{f"compressed: {one}": PREAMBLE + meta(one) + BODY + pixels(b"abcd") for one in COMPRESSED},
    "compressed, padded": PREAMBLE + meta(JPEG2000) + BODY + pixels(b"ab") + bytes(100),
    "compressed, trailing padding": HEAD + pixels(b"ab") + b"\xfc\xff\xfc\xffOB\0\0\x04\0\0\0\0\0\0\0",
    "a command set before the data set": PREAMBLE + meta() + b"\0\0\0\x01\x02\0\0\0\x01\0" + encoded(data_set()),
    "private sequence, undefined length": odd(private_sequence()),
    "private sequence, implicit": odd(private_sequence(), ImplicitVRLittleEndian),
    "private sequence, big endian": odd(private_sequence(), ExplicitVRBigEndian),
    "zeros behind the end": odd(data_set()) + bytes(1_000),
    "few zeros behind the end": odd(data_set()) + bytes(3),
    "a stray line break": odd(data_set()) + b"\r\n",
    "stray text": odd(data_set()) + b"-- end of file --",
    "trailing padding": odd(data_set()) + b"\xfc\xff\xfc\xffOB\0\0\x04\0\0\0\0\0\0\0",
    "trailing padding, big endian": odd(data_set(), ExplicitVRBigEndian)
    + b"\xff\xfc\xff\xfcOB\0\0\0\0\0\x04\0\0\0\0",
    "floats as pixels": HEAD + b"\xe0\x7f\x08\0OF\0\0\x04\0\0\0\0\0\0\0",
    "pixels at a provider": odd(ELSEWHERE, "1.2.840.10008.1.2.4.94"),
    "a stray delimiter": HEAD + b"\xfe\xff\x0d\xe0\0\0\0\0" + pixels(b"ab"),
    "a sequence without its delimiter, and more": HEAD
    + b"\x40\0\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\x02\0\0\0ab"
    + pixels(b"ab"),
    "implicit items of unknown VR": HEAD + IMPLICIT_ITEMS + pixels(b"ab"),
}  # fmt: skip


@pytest.fixture
def told(tmp_path: Path) -> Callable[[bytes], Identity | tuple[str, str] | None]:
    """Return a function that identifies a file with this content."""

    def tell(content: bytes) -> Identity | tuple[str, str] | None:
        path = tmp_path / "odd"
        path.write_bytes(content)
        return outcome(lambda: identify(str(path)))

    return tell


Tell = Callable[[bytes], Identity | tuple[str, str] | None]


@pytest.mark.parametrize("content", WHOLE.values(), ids=WHOLE)
def test_odd_images_are_known_and_whole(told: Tell, content: bytes) -> None:
    """Each is the same instance, and complete."""
    assert told(content) == EXPECTED
    assert not is_cut(content)


OTHERS = {
    "structured report": report(),
    "encapsulated PDF": pdf(),
    "waveform": waveform(),
    "enhanced multi-frame": multiframe(),
    "presentation state": without_pixels(GrayscaleSoftcopyPresentationStateStorage),
    "key objects": without_pixels(KeyObjectSelectionDocumentStorage),
    "RT plan": without_pixels(RTPlanStorage),
    "RT dose without a grid": without_pixels(RTDoseStorage),
    "spectroscopy, which has rows": without_pixels(MRSpectroscopyStorage, Rows=1, Columns=1, BitsAllocated=16),
    "raw data, which may have anything": without_pixels(RawDataStorage, Rows=1, Columns=1, BitsAllocated=16),
    "private class": without_pixels("1.2.276.0.99.2", Rows=1, Columns=1),
}


@pytest.mark.parametrize("made", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_classes_need_no_pixel_data(told: Tell, made: Dataset, syntax: str) -> None:
    """Reports, documents, curves and plans are complete without pixel data, in every encoding."""
    content = odd(made, syntax)
    got = told(content)
    assert isinstance(got, Identity)
    assert (got.sop_uid, got.study_uid, got.series_uid) == ("1.2.3.4", "1.2.3", "1.2.3.9")
    assert got.truncated == ""
    assert not is_cut(content)


JPEG = PREAMBLE + meta(JPEG2000) + BODY
SHORT = {
    "native pixels": (odd(data_set())[:-1], "the pixel data ends early"),
    "native pixels, implicit": (odd(data_set(), ImplicitVRLittleEndian)[:-1], "the pixel data ends early"),
    "native pixels, big endian": (odd(data_set(), ExplicitVRBigEndian)[:-1], "the pixel data ends early"),
    "no delimiter": (JPEG + pixels(b"abcd", end=b""), "the pixel data ends early"),
    "half a delimiter": (JPEG + pixels(b"abcd")[:-4], "the pixel data ends early"),
    "within a fragment": (JPEG + pixels(b"abcd", end=b"")[:-2], "the pixel data ends early"),
    "a delimiter long before": (JPEG + pixels() + pixels(b"abcd")[12:-8], ""),
    "no fragment": (JPEG + pixels()[:12], "the pixel data ends early"),
    "only zeros follow": (JPEG + pixels(b"abcd", end=bytes(64)), "the pixel data ends early"),
    "no pixels": (HEAD, "the pixel data is missing"),
    "no pixels, implicit": (odd(data_set(PixelData=None), ImplicitVRLittleEndian), "the pixel data is missing"),
    "zeros instead of pixels": (HEAD + bytes(4_096), "the pixel data is missing"),
    "no pixels nor their description": (odd(without_pixels(CTImageStorage)), "the pixel data is missing"),
    "private class that describes pixels": (
        odd(data_set(SOPClassUID="1.2.276.0.99.2", PixelData=None, BitsAllocated=16)), "the pixel data is missing",
    ),
    "RT dose with a grid": (
        odd(data_set(SOPClassUID=RTDoseStorage, PixelData=None, BitsAllocated=16)), "the pixel data is missing",
    ),
    "a report within its sequence": (odd(report())[:-10], "a sequence has no end"),
    "a report before the last delimiter": (odd(report())[:-8], "a sequence has no end"),
    "a report of defined lengths": (
        odd(without_pixels(BasicTextSRStorage, ContentSequence=sequence(data_set(), defined=True)))[:-1],
        "an element ends early",
    ),
    "a PDF": (odd(pdf())[:-1], "an element ends early"),
    "a waveform": (odd(waveform())[:-20], "a sequence has no end"),
    "within a header": (odd(pdf()) + b"\x70\0\x01\0", "an element ends early"),
    "within a long header": (odd(pdf()) + b"\x70\0\x01\0SQ\0\0\x01", "an element ends early"),
    "a header behind the pixels": (odd(data_set()) + b"\xfa\xff\xfa\xffSQ", "an element ends early"),
    "an element behind the pixels": (odd(data_set()) + b"\xe1\x7f\x10\0LO\x04\0ab", "an element ends early"),
    "a sequence behind the pixels": (
        odd(data_set()) + b"\xfa\xff\xfa\xffSQ\0\0\xff\xff\xff\xff", "a sequence has no end",
    ),
    "deflated": (
        part10(data_set(), DeflatedExplicitVRLittleEndian)[:-4], "the deflated data does not inflate to its end",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "reason"), SHORT.values(), ids=SHORT)
def test_the_reason_names_what_is_missing(told: Tell, content: bytes, reason: str) -> None:
    """A file truncated after the UIDs has an identity, and a reason."""
    got = told(content)
    assert isinstance(got, Identity)
    assert got.truncated == (reason and f"truncated: {reason}")
    assert is_cut(content) == bool(reason)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(PREAMBLE, "the data set is missing", id="behind the prefix"),
        pytest.param(PREAMBLE + meta(), "the data set is missing", id="behind the meta information"),
        pytest.param(PREAMBLE + meta()[:-3], "an element ends early", id="in the meta information"),
        pytest.param(PREAMBLE + meta() + bytes(500), "the data set is missing", id="zeros instead of a data set"),
        pytest.param(HEAD[: HEAD.index(b"1.2.3.9") + 3], "an element ends early", id="in a UID"),
        pytest.param(HEAD[: HEAD.index(b"\x20\0\x0e\0")], "the pixel data is missing", id="between the UIDs"),
        pytest.param(
            part10(data_set(), DeflatedExplicitVRLittleEndian)[:-60],
            "the deflated data does not inflate to its end",
            id="deflated",
        ),
    ],
)
def test_a_file_truncated_before_the_uids_is_no_instance(told: Tell, content: bytes, reason: str) -> None:
    """A part of a UID is a wrong UID: the file has no identity, and the reason is the truncation."""
    assert told(content) == ("Unreadable", f"truncated: {reason}")
    assert is_cut(content)


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO 2022 IR 6\\ISO 2022 IR 87"])
def test_a_large_deflated_file_is_walked_to_its_end(told: Tell, charset: str) -> None:
    """It is inflated in pieces, and pydicom may read the file in between."""
    noise = random.Random(1).randbytes(300_000)
    # The escape sequence leads the peek to decline.
    made = data_set(SpecificCharacterSet=charset.split("\\"), StudyDescription="Hand\x1b(B", PixelData=noise)
    content = part10(made, DeflatedExplicitVRLittleEndian)
    got = told(content)
    assert isinstance(got, Identity)
    assert got.truncated == ""
    cut = told(content[:250_000])
    assert "does not inflate" in (cut.truncated if isinstance(cut, Identity) else str(cut))


def test_a_referenced_deflated_data_set_is_inflated(told: Tell) -> None:
    """JPIP Referenced Deflate is deflated too, which pydicom does not know."""
    assert told(PREAMBLE + meta("1.2.840.10008.1.2.4.95") + deflated(encoded(ELSEWHERE))) == EXPECTED


UIDS_THAT_BREAK_RULES = {
    "leading zeros": "1.02.0003",
    "over 64 characters": "1." * 40 + "1",
    "letters": "1.2.x.STUDY",
    "a hyphen": "1.2-3",
    "one number": "7",
}


@pytest.mark.parametrize("value", UIDS_THAT_BREAK_RULES.values(), ids=UIDS_THAT_BREAK_RULES)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_uids_that_break_the_rules_are_kept(told: Tell, value: str, syntax: str) -> None:
    """Invalid UIDs (PS3.5 9.1) still identify a file: archives must route it."""
    got = told(odd(data_set(**dict.fromkeys(UIDS, value)), syntax))
    assert isinstance(got, Identity)
    assert (got.sop_uid, got.study_uid, got.series_uid) == (value, value, value)


@pytest.mark.parametrize("padding", [b"1.2.3.4 ", b"1.2.3.4\0", b" 1.2.3.4"], ids=["space", "null", "leading"])
def test_padding_is_none_of_a_uid(told: Tell, padding: bytes) -> None:
    """Some files pad with a space, which is invalid, and the archive would take it for another UID."""
    got = told(odd(data_set()).replace(b"1.2.3.4\0", padding))
    assert got == EXPECTED


def test_values_several_slashed_and_too_long(told: Tell) -> None:
    """Values are text as in the file: several of them, slashes, and more than the VR allows."""
    values = {
        "OtherPatientIDs": ["A/1", "B/2"],
        "StudyID": "2024/07/001",
        "AccessionNumber": "A" * 100,
        "PatientID": "P" * 70,
        "StudyDescription": ["Knie", "links"],
        "PatientName": "A^B^C^D^E",
        "Modality": ["MR", "PT"],
    }
    for syntax in ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian:
        got = told(odd(data_set(**values), syntax))
        assert isinstance(got, Identity)
        for keyword, value in values.items():
            assert got.fields[keyword] == ("\\".join(value) if isinstance(value, list) else value)


def test_every_character_set_is_read(told: Tell) -> None:
    """Names in pydicom's files of all character sets are read as pydicom reads them."""
    files = [path for path in packaged() if path.parent.name == "charset_files" and path.name.startswith("chr")]
    named = 0
    for path in files:
        got = told(path.read_bytes())
        if isinstance(got, Identity):
            with quiet():
                assert got.fields["PatientName"] == str(pydicom.dcmread(path).PatientName), path.name
            named += not got.fields["PatientName"].isascii()
    assert named > 10


FOREIGN = {
    "empty": (b"", "empty"),
    "text": (TEXT, "not DICOM"),
    "text with DICM by chance": (TEXT[:128] + b"DICM" + TEXT, "not DICOM"),
    "TIFF": (b"II*\0\x08\0\0\0" + bytes(200), "not DICOM"),
    "DICOMDIR": (PREAMBLE + meta(MediaStorageSOPClassUID=MediaStorageDirectoryStorage) + bytes(8), "DICOMDIR"),
}


@pytest.mark.parametrize(("content", "reason"), FOREIGN.values(), ids=FOREIGN)
def test_files_that_are_not_dicom_are_recognised(told: Tell, content: bytes, reason: str) -> None:
    """An empty file suggests a failed copy, a DICOMDIR a disc; the rest is other files."""
    assert told(content) == ("NotDicom", reason)


SHIFTED = {
    "no preamble": b"DICM",
    "half a preamble": bytes(64) + b"DICM",
    "one byte too few": bytes(127) + b"DICM",
    "CRLF before": b"\r\n" + PREAMBLE,
    "byte order mark before": b"\xef\xbb\xbf" + PREAMBLE,
    "sixteen bytes before": b"x" * 16 + PREAMBLE,
    "text as preamble": b"x" * 100 + b"DICM",
}


@pytest.mark.parametrize("beginning", SHIFTED.values(), ids=SHIFTED)
def test_a_file_that_was_shifted_is_unreadable(told: Tell, beginning: bytes) -> None:
    """A transfer in the wrong mode, or an editor, has added or removed bytes: XNAT cannot read it."""
    whole = beginning + meta(ExplicitVRLittleEndian) + encoded(data_set())
    assert told(whole) == ("Unreadable", "DICM is not at byte 128, where it belongs")
    assert told(beginning + TEXT) == ("NotDicom", "not DICOM")


@pytest.mark.parametrize("uid", [*UIDS, "SOPClassUID"])
def test_a_missing_uid_is_not_a_truncation(told: Tell, uid: str) -> None:
    """In a complete file the reason names the UID."""
    assert told(odd(data_set(**{uid: None}))) == ("Unreadable", f"no {uid}")


# What the system does not let us read


@contextmanager
def unprivileged() -> Iterator[None]:
    """Drop root's right to read everything for a while."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def system_says(number: int) -> tuple[str, str]:
    """Return the reason in the system's words."""
    return "Unreadable", os.strerror(number).lower()


def test_a_file_without_permission(tmp_path: Path) -> None:
    """Its reason differs from that of a vanished file, as somebody can help."""
    (tmp_path / "locked").write_bytes(odd(data_set()))
    (tmp_path / "locked").chmod(0)
    with unprivileged():
        got = outcome(lambda: identify(str(tmp_path / "locked")))
    assert got == system_says(errno.EACCES)


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    """Vanished, a broken link, a link loop, a path through a file, a too long name, a pipe: never a crash."""
    (tmp_path / "file").write_bytes(odd(data_set()))
    (tmp_path / "broken").symlink_to("gone")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    told = {name: outcome(lambda name=name: identify(str(tmp_path / name))) for name in  # type: ignore[misc]
            ("gone", "broken", "loop", "file/below", "n" * 300, "pipe", ".")}  # fmt: skip
    assert told == {
        "gone": ("Unreadable", "vanished"),
        "broken": ("Unreadable", "vanished"),
        "loop": system_says(errno.ELOOP),
        "file/below": system_says(errno.ENOTDIR),
        "n" * 300: system_says(errno.ENAMETOOLONG),
        "pipe": ("Unreadable", "not a regular file"),
        ".": ("Unreadable", "not a regular file"),
    }


@pytest.mark.parametrize(
    "name",
    [b"n" * 200, b"deep/" * 60 + b"file", b"\xff\xfe.dcm", "Bärbel 渡辺".encode(), b"[red]\x1b[31m", b" ", b"-rf"],
    ids=["200 characters", "60 directories", "not UTF-8", "UTF-8", "markup", "a space", "an option"],
)
def test_names_of_every_kind(tmp_path: Path, name: bytes) -> None:
    """A path is bytes, or these as text."""
    path = os.path.join(os.fsencode(tmp_path), name)  # noqa: PTH118 - pathlib takes no bytes
    os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
    with open(path, "wb") as stream:  # noqa: PTH123
        stream.write(odd(data_set()))
    assert identify(path) == identify(os.fsdecode(path)) == EXPECTED
