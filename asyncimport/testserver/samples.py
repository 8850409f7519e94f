"""Sample DICOM collections for the demo, the tests and the benchmarks.

`bundled` copies real files out of the pydicom package, `generated` writes any number of invented ones, and `odd` adds
the malformed and foreign files that real archives hold. The same arguments and pydicom give the same bytes. The three
may share a target: every study has a label of its own under the templates `{PatientID}` for the subject and
`{PatientID}_{StudyDate}` for the session. Nothing is downloaded; patients of generated files are invented.
"""

import argparse
import base64
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from io import BytesIO
from itertools import accumulate, count, islice, pairwise
from math import isqrt
from pathlib import Path
from random import Random
from typing import NamedTuple

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage


@dataclass(frozen=True, slots=True)
class Written:
    """What was written; two of them add up if their studies differ.

    `files` and `bytes` count everything; `instances` counts the distinct SOP instances that can be routed, which an
    archive holds at the end; `sessions` counts their studies. `modalities` ("CT") and `syntaxes` (transfer syntaxes by
    name, "RLE Lossless") are those of the instances.
    """

    files: int = 0
    bytes: int = 0
    instances: int = 0
    sessions: int = 0
    modalities: frozenset[str] = frozenset()
    syntaxes: frozenset[str] = frozenset()

    def __add__(self, other: "Written") -> "Written":
        files, size = self.files + other.files, self.bytes + other.bytes
        instances, sessions = self.instances + other.instances, self.sessions + other.sessions
        modalities, syntaxes = self.modalities | other.modalities, self.syntaxes | other.syntaxes
        return Written(files, size, instances, sessions, modalities, syntaxes)


def _images(dataset: Dataset, *, files: int, size: int) -> Written:
    """Count instances like this one, of `size` bytes together, but not their study."""
    syntax = dataset.file_meta.TransferSyntaxUID.name
    return Written(files, size, files, 0, frozenset([dataset.Modality]), frozenset([syntax]))


_BUNDLE = Path(pydicom.__file__).parent / "data" / "test_files"
_COPIED = (
    "CT_small.dcm", "J2K_pixelrep_mismatch.dcm", "JPGExtended.dcm", "MR_small_jpeg_ls_lossless.dcm",
    "SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_gdcm_KY.dcm", "SC_rgb_jpeg_gdcm.dcm",
    "SC_rgb_small_odd_big_endian.dcm", "SC_rgb_small_odd_jpeg.dcm", "liver_1frame.dcm", "waveform_ecg.dcm",
    "examples_jpeg2k.dcm", "examples_overlay.dcm", "examples_palette.dcm", "examples_ybr_color.dcm",
    "dicomdirtests/77654033/CR1/6154", "dicomdirtests/77654033/CR2/6247", "dicomdirtests/77654033/CR3/6278",
    "dicomdirtests/77654033/CT2/17106", "dicomdirtests/77654033/CT2/17136",
)  # fmt: skip
_REWRITTEN = {
    # Other encodings of the MR image above, as the next images of its series.
    "MR_small_implicit.dcm": {"SOPInstanceUID": "2.25.200408261850592", "InstanceNumber": "2"},
    "MR_small_RLE.dcm": {"SOPInstanceUID": "2.25.200408261850593", "InstanceNumber": "3"},
    # Its file meta names another SOP instance than its data set does; rewriting corrects that.
    "rtplan.dcm": {"SOPInstanceUID": "1.2.777.777.77.7.7777.7777.20030903150023"},
    # These lack a patient and a date.
    "image_dfl.dcm": {"PatientID": "OT1", "StudyDate": "20001217"},
    "reportsi.dcm": {"PatientID": "SR2", "StudyDate": "20050530"},
    "test-SR.dcm": {"PatientID": "SR1", "StudyDate": "20010213"},
}


def bundled(target: Path) -> Written:
    """Copy 26 files of ten modalities and eleven transfer syntaxes to `target/modality/session/name`."""
    written = Written()
    studies = set()
    for name in (*_COPIED, *_REWRITTEN):
        source = _BUNDLE / name
        dataset = pydicom.dcmread(source)
        for keyword, value in _REWRITTEN.get(name, {}).items():
            setattr(dataset, keyword, value)
        path = target / dataset.Modality / f"{dataset.PatientID}_{dataset.StudyDate}" / source.name
        path.parent.mkdir(parents=True, exist_ok=True)
        size = path.write_bytes(_encoded(dataset) if name in _REWRITTEN else source.read_bytes())
        studies.add(dataset.StudyInstanceUID)
        written += _images(dataset, files=1, size=size)
    return replace(written, sessions=len(studies))


class _Series(NamedTuple):
    description: str
    weight: int  # the typical number of images; the actual number is in proportion to it
    naming: str  # how a scanner or exporter names files: a format string of `patient`, `series`, `number` and `uid`


class _Exam(NamedTuple):
    modality: str
    description: str
    storage: UID
    syntax: UID
    series: tuple[_Series, ...]


_EXAMS = (
    _Exam("MR", "Head routine", MRImageStorage, ExplicitVRLittleEndian, (
        _Series("localizer", 3, "{patient}.MR.{series:04}.{number:04}.IMA"),
        _Series("t1_mprage_sag", 40, "IM-{series:04}-{number:04}.dcm"),
        _Series("ep2d_diff_30dir", 31, "{number:06}.MR"),
        _Series("ep2d_bold_rest", 26, "{uid}"),
    )),
    _Exam("CT", "Chest with contrast", CTImageStorage, ImplicitVRLittleEndian, (
        _Series("Scout", 2, "{number:08}.dcm"),
        _Series("Axial 5.0 soft", 32, "I{number:04}"),
        _Series("Axial 1.5 lung", 66, "{series:02}{number:05}"),
    )),
)  # fmt: skip
_GIVEN_NAMES = (("Ada", "F"), ("Emil", "M"), ("Ines", "F"), ("Jörg", "M"), ("Maëlle", "F"), ("Yuki", "O"))
_FAMILY_NAMES = ("Åkerblom", "Birnbaum", "Castellan", "Dunmore", "Ferreira", "Okonjo", "Tanaka-Roth")
# Placeholders in a series' header for what differs between images. Neither occurs elsewhere in it: no UID of ours is as
# large, and nothing else has a sign.
_ANY_UID = "2.25." + "9" * 39
_ANY_NUMBER = "+00000"
_HEADER = 1_000  # bytes before the pixels, about


def generated(target: Path, *, sessions: int = 20, files: int = 2_000, size: int = 20_000, seed: int = 0) -> Written:
    """Write exactly `files` images of about `size` bytes, in exactly `sessions` studies, below `target`.

    The tree is `target/subject/visit date/series/image`: MR and CT, subjects with one or two visits, series of
    different lengths, file names as of different scanners. Trees of different seeds share no subject and no UID. For
    speed, pydicom writes the header (1 kB, so no file is smaller) once per series; each image gets its own
    SOPInstanceUID and InstanceNumber, of fixed width so that all lengths stay right, and a stripe of its own pixels.
    """
    if not 1 <= sessions <= files:
        raise ValueError(f"{files} files cannot make {sessions} sessions: each needs at least one")
    rng = Random(seed)  # noqa: S311 - sample data
    pixels = _phantom(isqrt(max(size - _HEADER, 2) // 2))
    written = Written(sessions=sessions)
    shares = _apportion(files - sessions, [rng.uniform(0.5, 1.5) for _ in range(sessions)])
    for visit, share in zip(islice(_visits(f"S{seed}", rng), sessions), shares, strict=True):
        exam = rng.choice(_EXAMS)
        counts = _apportion(share + 1, [series.weight * rng.uniform(0.8, 1.2) for series in exam.series])
        day = target / visit.PatientID / str(date.fromisoformat(visit.StudyDate))
        for number, (series, images) in enumerate(zip(exam.series, counts, strict=True), start=1):
            if images:
                image = _image(visit, exam, series, number, pixels, rng)
                folder = day / f"{number:02} {series.description}"
                written += _write_series(folder, image, series.naming, images, rng)
    return written


def _apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Split `total` into whole parts (perhaps 0) in proportion to `weights`; they add up exactly."""
    sums = list(accumulate(weights))
    edges = [0, *(round(total * part / sums[-1]) for part in sums)]
    return [end - start for start, end in pairwise(edges)]


def _visits(prefix: str, rng: Random) -> Iterator[Dataset]:
    """Yield patient and study fields of new studies, without end; a subject has one or two, on different days."""
    for subject in count(1):
        day = date(2012, 1, 1) + timedelta(days=rng.randrange(3_000))
        born = day - timedelta(days=rng.randint(7_000, 32_000))
        family, (given, sex) = rng.choice(_FAMILY_NAMES), rng.choice(_GIVEN_NAMES)
        for number in range(1, rng.choice((1, 1, 2)) + 1):
            visit = Dataset()
            visit.SpecificCharacterSet = "ISO_IR 192"
            visit.PatientName = f"{family}^{given}"
            visit.PatientID = f"{prefix}-{subject:04}"
            visit.PatientBirthDate = f"{born:%Y%m%d}"
            visit.PatientSex = sex
            visit.StudyInstanceUID = _uid(rng)
            visit.StudyID = str(number)
            visit.StudyDate = f"{day:%Y%m%d}"
            visit.StudyTime = f"{rng.randint(7, 18):02}{rng.randrange(60):02}{rng.randrange(60):02}"
            visit.AccessionNumber = f"{rng.randrange(10**12):012}"
            yield visit
            day += timedelta(days=rng.randint(30, 400))


def _image(visit: Dataset, exam: _Exam, series: _Series, number: int, pixels: bytes, rng: Random) -> Dataset:
    """Make the template image of a series: its SOPInstanceUID and InstanceNumber are placeholders."""
    image = Dataset()
    image.update(visit)
    image.SOPClassUID = exam.storage
    image.SOPInstanceUID = _ANY_UID
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.Modality = exam.modality
    image.StudyDescription = exam.description
    image.SeriesInstanceUID = _uid(rng)
    image.SeriesNumber = number
    image.SeriesDescription = series.description
    image.ProtocolName = f"{exam.description} {series.description}"
    image.InstanceNumber = _ANY_NUMBER
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows = image.Columns = isqrt(len(pixels) // 2)
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.PixelData = pixels
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = exam.syntax
    return image


def _write_series(folder: Path, image: Dataset, naming: str, images: int, rng: Random) -> Written:
    """Write `images` files made from one image, and count them."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels: bytes = image.PixelData
    header = _encoded(image)[: -len(pixels)]
    start, middle, rest = header.split(_ANY_UID.encode())  # in the file meta, and in the data set
    before, after = rest.split(_ANY_NUMBER.encode())
    patient, series, row = image.PatientID, image.SeriesNumber, 2 * image.Columns
    size = 0
    for number in range(1, images + 1):
        uid = _uid(rng)
        at = number % image.Rows * row
        stripe = pixels[:at] + rng.randbytes(row) + pixels[at + row :]
        content = start + uid.encode() + middle + uid.encode() + before + b"%-6d" % number + after + stripe
        name = naming.format(patient=patient, series=series, number=number, uid=uid)
        size += (folder / name).write_bytes(content)
    return _images(image, files=images, size=size)


def _encoded(dataset: Dataset) -> bytes:
    """Return the data set as a DICOM file with preamble and file meta."""
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _phantom(side: int) -> bytes:
    """Return `side` x `side` pixels of 16 bits, little endian: a picture of a shaded disc."""
    squares = [(2 * at - side + 1) ** 2 for at in range(side)]
    shades = [max(0, 60_000 - 60_000 * (x + y) // side**2) for y in squares for x in squares]
    return struct.pack(f"<{len(shades)}H", *shades)


def _uid(rng: Random) -> str:
    """Return a UID of the form that DICOM allows for large random numbers; all are 44 characters long."""
    return f"2.25.{rng.randrange(10**38, 2**128)}"


def odd(target: Path) -> Written:
    """Write files that real archives hold besides valid images, and one valid image with its copy."""
    medium = _BUNDLE / "dicomdirtests"
    valid = medium / "98892001" / "CT2N" / "6293"
    undated = pydicom.dcmread(medium / "98892003" / "MR1" / "5641")
    del undated.StudyDate
    no_study = pydicom.dcmread(medium / "98892003" / "MR1" / "4919")
    del no_study.StudyInstanceUID
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
    contents = {
        "README.txt": b"Scans of the pilot study. Ask before you delete anything.\n",
        "Thumbs.db": bytes.fromhex("d0cf11e0a1b11ae1").ljust(1_024, b"\0"),  # Windows leaves these in folders
        "photo.png": base64.b64decode(pixel),
        "DICOMDIR": (medium / "DICOMDIR").read_bytes(),  # the index of a medium: DICOM, but no image
        "incoming/empty.dcm": b"",
        "incoming/notes.dcm": b"Patient moved during the second run; repeated.\n",  # text, whatever its name
        "incoming/no_study_date.dcm": _encoded(undated),  # a label that needs the date cannot be made
        "incoming/no_study_uid.dcm": _encoded(no_study),  # belongs to no study
        "incoming/IM-0001-0001.dcm": valid.read_bytes(),
        "incoming/Copy of IM-0001-0001.dcm": valid.read_bytes(),  # the same instance twice
    }
    (target / "incoming").mkdir(parents=True, exist_ok=True)
    size = sum((target / name).write_bytes(content) for name, content in contents.items())
    return replace(_images(pydicom.dcmread(valid), files=len(contents), size=size), instances=1, sessions=1)


def _main() -> None:
    parser = argparse.ArgumentParser(description="Write an invented DICOM collection.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--sessions", type=int, default=20, help="how many studies")
    parser.add_argument("--files", type=int, default=2_000, help="how many images, in all")
    parser.add_argument("--size", type=int, default=20_000, help="bytes an image, about")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other data")
    options = vars(parser.parse_args())
    try:
        written = generated(options.pop("directory"), **options)
    except ValueError as error:
        parser.error(str(error))
    sys.stdout.write(f"{written.files} files, {written.bytes} bytes, {written.sessions} sessions\n")


if __name__ == "__main__":
    _main()
