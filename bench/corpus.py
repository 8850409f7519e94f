"""The files to move: DICOM collections of a given shape, written fast, with a manifest.

Run as a process of its own (`python -m bench.corpus SHAPE DIRECTORY`), so that pydicom's memory is not the bench's:
what a child takes at its peak is never told lower than what its parent held when it was started.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bench.trees import ROOT, python_path

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Layout = Literal["wide", "deep", "flat"]

_SERIES = 3
_LARGE = 1 << 20
_PIXELS_BEFORE = 1_100  # bytes of a header, about
_ANY_UID = "2.25." + "9" * 39
_ANY_NUMBER = "+00000"
_LEVELS = 12
_OF_PIXELS = (
    "SOPClassUID", "Modality", "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "PixelData",
)  # fmt: skip


class Part(NamedTuple):
    """This many files of about this size, in this many sessions.

    `sparse` files take no room on disk. `noisy` ones have noise in every other byte, as pixels have: they deflate by
    1.9. Those with an `image` have the pixels of a real one, a test file of pydicom's, which gives their size too.
    Others deflate to next to nothing.
    """

    files: int
    size: int
    sessions: int = 1
    sparse: bool = False
    noisy: bool = False
    image: str = ""


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a collection. The manifest of a `listed` shape names every file."""

    name: str
    parts: tuple[Part, ...]
    layout: Layout = "wide"
    listed: bool = True

    def scaled(self, scale: float) -> "Shape":
        """Return a smaller shape: fewer files, and smaller large files."""
        return self if scale >= 1 else replace(self, parts=tuple(_scaled(part, scale) for part in self.parts))

    def quick(self) -> "Shape":
        """Return a tiny shape that only shows that it works. Many shapes have the same."""
        parts = [
            Part(min(part.files, 2), 2 * _LARGE, 1, sparse=True)
            if part.sparse
            else Part(
                min(part.files, 100 if not part.image else 8),
                min(part.size, 20_000),
                min(part.sessions, 2),
                noisy=part.noisy,
                image=part.image,
            )
            for part in self.parts
        ]
        return replace(self, parts=tuple(dict.fromkeys(parts)))

    def lacks(self) -> str:
        """Return why its files cannot be made here, or an empty text."""
        from pydicom.data import get_testdata_file

        names = [part.image for part in self.parts if part.image]
        found = [get_testdata_file(name, download=False) for name in names]
        return "" if all(found) else "pydicom-data, which has the images, is not installed"

    @property
    def files(self) -> int:
        """The number of files."""
        return sum(part.files for part in self.parts)


def _scaled(part: Part, scale: float) -> Part:
    files = min(part.files, max(8 if not part.sparse else 2, round(part.files * scale)))
    size = part.size if part.size <= _LARGE else max(2 * _LARGE, round(part.size * scale))
    return part._replace(files=files, size=size, sessions=max(1, min(part.sessions, files // 4)))


class Entry(NamedTuple):
    """A file: its path below the collection, SOPInstanceUID, and size."""

    path: str
    sop_uid: str
    size: int


@dataclass(frozen=True, slots=True)
class SessionEntry:
    """A session: its labels by the default templates, and its files by series UID."""

    subject: str
    label: str
    study_uid: str
    series: dict[str, list[Entry]]

    @property
    def entries(self) -> Iterator[Entry]:
        """All its files."""
        for entries in self.series.values():
            yield from entries


@dataclass(frozen=True, slots=True)
class Corpus:
    """A collection on disk."""

    directory: Path
    files: int
    bytes: int
    sessions: int

    @property
    def root(self) -> Path:
        """The directory to move."""
        return self.directory / "files"

    def listed(self) -> list[SessionEntry]:
        """Return its sessions, file by file."""
        data = json.loads((self.directory / "manifest.json").read_bytes())
        return [
            SessionEntry(
                one["subject"],
                one["label"],
                one["study_uid"],
                {uid: [Entry(*entry) for entry in entries] for uid, entries in one["series"].items()},
            )
            for one in data
        ]


def load(directory: Path) -> Corpus:
    """Return the collection that was written into a directory."""
    return Corpus(directory, **json.loads((directory / "counts.json").read_bytes()))


def write(shape: Shape, directory: Path) -> Corpus:
    """Write a collection of this shape into an empty directory."""
    root = directory / "files"
    sessions: list[dict[str, Any]] = []
    count = size = 0
    for number, (part, share) in enumerate(_shares(shape), 1):
        subject, day = f"S{number:05}", f"20{10 + number % 10}{1 + number % 12:02}{1 + number % 28:02}"
        series: dict[str, list[Entry]] = {}
        session: dict[str, Any] = {
            "subject": subject,
            "label": f"{subject}_{day}",
            "study_uid": _uid(number, 0, 0),
            "series": series,
        }
        of_series = [share // _SERIES + (at < share % _SERIES) for at in range(_SERIES)]
        for at, images in enumerate(of_series, 1):
            if images:
                entries = _write_series(shape.layout, part, root, session, (number, at), images)
                count += images
                size += sum(entry.size for entry in entries)
                if shape.listed:
                    series[_uid(number, at, 0)] = entries
        sessions.append(session)
    counts = {"files": count, "bytes": size, "sessions": len(sessions)}
    (directory / "counts.json").write_text(json.dumps(counts))
    if shape.listed:
        (directory / "manifest.json").write_text(json.dumps(sessions))
    return Corpus(directory, **counts)


def _shares(shape: Shape) -> Iterator[tuple[Part, int]]:
    for part in shape.parts:
        for at in range(part.sessions):
            yield part, part.files // part.sessions + (at < part.files % part.sessions)


def _write_series(
    layout: Layout, part: Part, root: Path, session: dict[str, Any], which: tuple[int, int], images: int
) -> list[Entry]:
    """Write the images of a series from one header, with UID and number in place of placeholders."""
    number, at = which
    side = max(2, int((max(part.size - _PIXELS_BEFORE, 8) // 2) ** 0.5))
    header, pixels = (
        _image(session, number, at, side) if not part.image else _real_image(session, number, at, part.image)
    )
    if part.noisy:
        noise = Random(number).randbytes(len(pixels) // 2)
        pixels = b"".join(bytes((value, 1)) for value in noise)
    start, middle, rest = header.split(_ANY_UID.encode())
    before, after = rest.split(_ANY_NUMBER.encode())
    entries = []
    folder = _folder(layout, root, session, at, 0)
    folder.mkdir(parents=True, exist_ok=True)
    for image in range(1, images + 1):
        uid = _uid(number, at, image)
        if layout == "deep":
            folder = _folder(layout, root, session, at, image)
            folder.mkdir(parents=True, exist_ok=True)
        # All names have this suffix, because one contender skips files with unknown suffixes.
        path = folder / (f"{number:05}-{at}-{image:07}.dcm" if layout == "flat" else f"{image:07}.dcm")
        head = start + uid.encode() + middle + uid.encode() + before + b"%-6d" % image + after
        with path.open("wb", buffering=0) as file:
            if part.sparse:
                file.write(head)
                file.truncate(len(head) + 2 * side * side)
            else:
                file.write(head + pixels)
        size = len(head) + (2 * side * side if part.sparse else len(pixels))
        entries.append(Entry(str(path.relative_to(root)), uid, size))
    return entries


def _folder(layout: Layout, root: Path, session: dict[str, Any], at: int, image: int) -> Path:
    if layout == "flat":
        return root
    subject, label = str(session["subject"]), str(session["label"])
    if layout == "deep":
        steps = [f"{image % 7}{level:02}" for level in range(_LEVELS)]
        return root.joinpath(subject, label, str(at), *steps)
    return root / subject / label / f"{at:02} series"


def _uid(session: int, series: int, image: int) -> str:
    """Return a UID of fixed length, unique in the collection."""
    return f"2.25.1{session:014}{series:08}{image:016}"


def _dataset(session: dict[str, Any], number: int, at: int) -> "Dataset":
    """Return what an image of a series says of itself, with placeholders and without pixels."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    image = Dataset()
    image.SOPClassUID = MRImageStorage
    image.SOPInstanceUID = _ANY_UID
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.StudyInstanceUID = session["study_uid"]
    image.SeriesInstanceUID = _uid(number, at, 0)
    image.PatientID = session["subject"]
    image.PatientName = f"Bench^{number}"
    image.PatientBirthDate, image.PatientSex = "19700101", "O"
    image.StudyDate, image.StudyTime = session["label"].rpartition("_")[2], "120000"
    image.StudyDescription, image.SeriesDescription = "Head routine", f"t1 {at}"
    image.AccessionNumber, image.StudyID = f"A{number}", "1"
    image.Modality = "MR"
    image.SeriesNumber = at
    image.InstanceNumber = _ANY_NUMBER
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return image


def _image(session: dict[str, Any], number: int, at: int, side: int) -> tuple[bytes, bytes]:
    """Return the header of an image with placeholders, and its pixels."""
    image = _dataset(session, number, at)
    image.Rows = image.Columns = min(side, 65_535)
    image.PixelData = b""
    size = 2 * side * side
    # The header ends with the length of the pixels, in four bytes: no buffer of that length is needed.
    header = _saved(image)[:-4] + size.to_bytes(4, "little")
    return header, bytes(range(256)) * (size // 256) + bytes(size % 256) if size <= 4 * _LARGE else b""


def _real_image(session: dict[str, Any], number: int, at: int, name: str) -> tuple[bytes, bytes]:
    """Return the same with the pixels of a test file of pydicom's, which may be compressed."""
    from pydicom import dcmread
    from pydicom.data import get_testdata_file

    real = dcmread(str(get_testdata_file(name, download=False)))
    image = _dataset(session, number, at)
    for keyword in _OF_PIXELS:
        image[keyword] = real[keyword]
    image.file_meta.TransferSyntaxUID = real.file_meta.TransferSyntaxUID
    whole = _saved(image)
    start = whole.index(real.PixelData)
    return whole[:start], whole[start:]


def _saved(image: "Dataset") -> bytes:
    buffer = BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def written(shape: Shape, directory: Path) -> Corpus:
    """Write a collection in a process of its own."""
    directory.mkdir(parents=True)
    words = [sys.executable, "-P", "-m", "bench.corpus", json.dumps(asdict(shape)), str(directory)]
    subprocess.run(words, check=True, env=python_path(ROOT))
    return load(directory)


def main() -> None:
    """Write the collection of the command line."""
    data = json.loads(sys.argv[1])
    shape = Shape(data["name"], tuple(Part(*part) for part in data["parts"]), data["layout"], data["listed"])
    write(shape, Path(sys.argv[2]))


if __name__ == "__main__":
    main()
