"""The sample collections, read back by pydicom alone."""

import subprocess
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import UID

from asyncimport.testserver import samples


def files_below(folder: Path) -> list[Path]:
    """Return every file of the tree, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def read_below(folder: Path) -> list[FileDataset]:
    """Return every file of the tree as a data set, pixels and nested sequences included."""
    datasets = [pydicom.dcmread(path) for path in files_below(folder)]
    for dataset in datasets:
        dataset.walk(lambda _, element: element.value)
    return datasets


def digest(folder: Path) -> str:
    """Return one hash over all paths and contents of the tree."""
    whole = sha256()
    for path in files_below(folder):
        whole.update(f"{path.relative_to(folder)}\n{sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def assert_sound(datasets: list[FileDataset], written: samples.Written) -> None:
    """Assert that all can be routed, that no label means two studies, and that the counts are true."""
    labels: dict[str, str] = {}
    for dataset in datasets:
        assert dataset.PatientID
        assert len(dataset.StudyDate) == 8
        label = f"{dataset.PatientID}_{dataset.StudyDate}"
        assert labels.setdefault(label, dataset.StudyInstanceUID) == dataset.StudyInstanceUID
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert dataset.file_meta.MediaStorageSOPClassUID == dataset.SOPClassUID
        assert UID(dataset.SOPInstanceUID).is_valid
        assert UID(dataset.SeriesInstanceUID).is_valid
        assert UID(dataset.StudyInstanceUID).is_valid
    assert len(datasets) == written.instances == len({dataset.SOPInstanceUID for dataset in datasets})
    assert len(labels) == written.sessions == len(set(labels.values()))
    assert {dataset.Modality for dataset in datasets} == written.modalities
    assert {dataset.file_meta.TransferSyntaxUID.name for dataset in datasets} == written.syntaxes


def test_bundled_files_are_sound_and_various(tmp_path: Path) -> None:
    """Each file is in the installed pydicom, reads whole and can be routed; modalities and syntaxes vary."""
    written = samples.bundled(tmp_path)
    assert_sound(read_below(tmp_path), written)
    paths = files_below(tmp_path)
    assert written.files == written.instances == len(paths) == 26
    assert written.bytes == sum(path.stat().st_size for path in paths)
    assert written.modalities >= {"CT", "MR", "US", "RTPLAN", "SR", "OT", "NM", "SEG", "ECG", "CR"}
    assert written.syntaxes == {
        "Deflated Explicit VR Little Endian",
        "Explicit VR Big Endian",
        "Explicit VR Little Endian",
        "Implicit VR Little Endian",
        "JPEG 2000 Image Compression (Lossless Only)",
        "JPEG 2000 Image Compression",
        "JPEG Baseline (Process 1)",
        "JPEG Extended (Process 2 and 4)",
        "JPEG Lossless, Non-Hierarchical, First-Order Prediction (Process 14 [Selection Value 1])",
        "JPEG-LS Lossless Image Compression",
        "RLE Lossless",
    }


def test_generated_images_are_sound(tmp_path: Path) -> None:
    """Every generated file reads back whole, is numbered within its series, and has the size asked for."""
    written = samples.generated(tmp_path, sessions=6, files=400, size=5_000, seed=3)
    datasets = read_below(tmp_path)
    assert_sound(datasets, written)
    assert written.files == len(datasets) == 400
    assert written.sessions == 6
    sizes = [path.stat().st_size for path in files_below(tmp_path)]
    assert written.bytes == sum(sizes)
    assert all(4_500 < size < 5_500 for size in sizes)
    numbers: dict[str, list[int]] = {}
    for dataset in datasets:
        assert len(dataset.PixelData) == dataset.Rows * dataset.Columns * 2
        numbers.setdefault(dataset.SeriesInstanceUID, []).append(int(dataset.InstanceNumber))
    for series in numbers.values():
        assert sorted(series) == list(range(1, len(series) + 1))
    assert len({dataset.PixelData for dataset in datasets}) == 400


def test_generated_tree_looks_like_an_archive(tmp_path: Path) -> None:
    """Subjects come once or twice, sessions have several uneven series, and files are named in many ways."""
    written = samples.generated(tmp_path, size=2_000)
    assert (written.sessions, written.files) == (20, 2_000)
    assert written.modalities == {"CT", "MR"}
    visits = Counter(visit.parent.name for visit in tmp_path.glob("*/*"))
    assert sum(visits.values()) == 20
    assert set(visits.values()) == {1, 2}
    series = Counter(path.parent for path in files_below(tmp_path))
    assert len(series) > 3 * 20 - 5
    assert min(series.values()) < 5 < 40 < max(series.values())
    names = [path.name for path in files_below(tmp_path)]
    for pattern in (".IMA", ".MR", ".dcm"):
        assert any(name.endswith(pattern) for name in names)
    for start in ("IM-0002-0001", "I0001", "2.25.", "03000"):
        assert any(name.startswith(start) for name in names)


@pytest.mark.parametrize(("sessions", "files"), [(1, 1), (7, 7), (3, 10), (50, 333)])
def test_counts_are_exact(tmp_path: Path, sessions: int, files: int) -> None:
    """As many files and studies are written as asked for, down to one file a study."""
    written = samples.generated(tmp_path, sessions=sessions, files=files, size=0)
    assert (written.sessions, written.files, written.instances) == (sessions, files, files)
    assert_sound(read_below(tmp_path), written)


def test_more_sessions_than_files_is_refused(tmp_path: Path) -> None:
    """A session without a file cannot be written."""
    with pytest.raises(ValueError, match="2 files cannot make 3 sessions"):
        samples.generated(tmp_path, sessions=3, files=2)


def test_seed_decides_everything(tmp_path: Path) -> None:
    """The same seed gives the same bytes; another gives other subjects and UIDs."""
    one, same, other = tmp_path / "one", tmp_path / "same", tmp_path / "other"
    for folder, seed in ((one, 1), (same, 1), (other, 2)):
        samples.generated(folder, sessions=3, files=60, size=2_000, seed=seed)
    assert digest(one) == digest(same)
    ours, theirs = read_below(one), read_below(other)
    for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert {dataset[keyword].value for dataset in ours}.isdisjoint(dataset[keyword].value for dataset in theirs)


def test_odd_files_are_odd(tmp_path: Path) -> None:
    """Of the odd files only one instance can be routed, and it is there twice."""
    written = samples.odd(tmp_path)
    paths = files_below(tmp_path)
    assert written.files == len(paths) == 10
    assert written.bytes == sum(path.stat().st_size for path in paths)
    assert (written.instances, written.sessions) == (1, 1)

    incoming = tmp_path / "incoming"
    sound = incoming / "IM-0001-0001.dcm"
    assert_sound([pydicom.dcmread(sound)], written)
    assert (incoming / "Copy of IM-0001-0001.dcm").read_bytes() == sound.read_bytes()

    undated = pydicom.dcmread(incoming / "no_study_date.dcm")
    assert "StudyDate" not in undated
    assert undated.PatientID
    assert undated.StudyInstanceUID != pydicom.dcmread(sound).StudyInstanceUID
    homeless = pydicom.dcmread(incoming / "no_study_uid.dcm")
    assert "StudyInstanceUID" not in homeless
    assert homeless.SOPInstanceUID
    assert "DirectoryRecordSequence" in pydicom.dcmread(tmp_path / "DICOMDIR")

    assert (incoming / "empty.dcm").stat().st_size == 0
    for name in ("README.txt", "Thumbs.db", "photo.png", "incoming/empty.dcm", "incoming/notes.dcm"):
        with pytest.raises((pydicom.errors.InvalidDicomError, EOFError)):
            pydicom.dcmread(tmp_path / name)


def test_all_three_share_a_target(tmp_path: Path) -> None:
    """Their files, studies and labels do not meet, so that their counts add up."""
    written = samples.bundled(tmp_path) + samples.generated(tmp_path, files=100, size=0) + samples.odd(tmp_path)
    paths = files_below(tmp_path)
    assert written.files == len(paths) == 26 + 100 + 10
    assert written.bytes == sum(path.stat().st_size for path in paths)
    images = [path for path in paths if path.parent not in (tmp_path, tmp_path / "incoming")]
    images.append(tmp_path / "incoming" / "IM-0001-0001.dcm")
    assert_sound([pydicom.dcmread(path) for path in images], written)


def test_command_line_writes_and_counts(tmp_path: Path) -> None:
    """`python -m asyncimport.testserver.samples` writes what its options say and prints the counts."""
    command = [sys.executable, "-m", "asyncimport.testserver.samples", str(tmp_path / "made")]
    options = ["--sessions", "2", "--files", "30", "--size", "1500", "--seed", "4"]
    made = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    samples.generated(tmp_path / "same", sessions=2, files=30, size=1_500, seed=4)
    assert digest(tmp_path / "made") == digest(tmp_path / "same")
    size = sum(path.stat().st_size for path in files_below(tmp_path / "made"))
    assert made.stdout == f"30 files, {size} bytes, 2 sessions\n"
    refused = subprocess.run([*command, "--files", "3"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "3 files cannot make 20 sessions" in refused.stderr
