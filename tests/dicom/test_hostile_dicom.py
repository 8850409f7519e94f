"""Files made to stall a scan: each ends in its reason after bounded work, and sound large ones are read."""

import json
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from time import process_time

import pytest
from builders import image
from conftest import Commands
from dicom_files import PREAMBLE, data_set, encoded, meta, outcome
from hostile_dicom import (
    CLASS,
    END_OF_ITEM,
    END_OF_SEQUENCE,
    HEADER,
    IMAGE,
    ITEM_WITHOUT_LENGTH,
    KEYS,
    PLAIN,
    REST,
    enhanced,
    opened,
    references,
    short,
)
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from asyncimport.dicom import Identity, identify
from asyncimport.testserver import TestXnat

MIB = 1 << 20
ITEM = b"\xfe\xff\0\xe0\0\0\0\0"


NEST = opened(0x0008_1115) + ITEM_WITHOUT_LENGTH


def bomb(first: bytes, filling: bytes, size: int, last: bytes = b"") -> bytes:
    """Deflate a data set whose `filling` is repeated up to a size: a megabyte is packed, and its bytes are repeated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    begin = packer.compress(first) + packer.flush(zlib.Z_FULL_FLUSH)
    mebibyte = packer.compress((filling * MIB)[:MIB]) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = begin + mebibyte * (size // MIB) + packer.compress(last) + packer.flush()
    return PREAMBLE + meta(DeflatedExplicitVRLittleEndian) + packed


INFLATES = "the deflated data set inflates to more than 1 GiB"
MANY = "the data set has more than {} elements"
AT_TOP = "the data set has more than 1,000,000 sequences and delimiters"
TOO_DEEP = "sequences are nested more than 100 deep"
HEADER_TOO_LONG = "the header has too many elements to look through"
BEFORE = "more than 10,000 elements come before the data set"
REFERENCES = opened(0x0008_1115)
TREE = opened(0x0040_A730)

# Which are known, and not known to be whole.
KNOWN: dict[str, tuple[Callable[[], bytes], str]] = {
    "3 GiB of pixels": (lambda: bomb(HEADER + opened(0x7FE0_0010, b"OB", 3 << 30), bytes(64), 3 << 30), INFLATES),
    "3 GiB of zeros": (lambda: bomb(HEADER, bytes(64), 3 << 30), INFLATES),
    "a billion bytes of items": (
        lambda: bomb(HEADER + TREE, ITEM, 1_000 * MIB, END_OF_SEQUENCE), MANY.format("4,000,000"),
    ),
    "items without length": (
        lambda: bomb(HEADER + TREE, ITEM_WITHOUT_LENGTH + END_OF_ITEM, 1_000 * MIB), MANY.format("4,000,000"),
    ),
    "elements, inflated": (lambda: bomb(HEADER, short(0x0021_0010, b"LO"), 1_000 * MIB), MANY.format("4,000,000")),
    "delimiters, inflated": (lambda: bomb(HEADER, END_OF_ITEM, 1_000 * MIB), AT_TOP),
    "sequences that lack their ends, inflated": (
        lambda: bomb(HEADER, opened(0x0040_A730) + short(0x0040_A731, b"LO", bytes(12)), 1_000 * MIB), AT_TOP,
    ),
    "fragments, inflated": (
        lambda: bomb(HEADER + opened(0x7FE0_0010, b"OB"), ITEM, 1_000 * MIB), MANY.format("4,000,000"),
    ),
    "sequences in each other": (lambda: PLAIN + HEADER + (TREE + ITEM_WITHOUT_LENGTH) * 10_000, TOO_DEEP),
    "items, not deflated": (
        lambda: PLAIN + HEADER + TREE + ITEM * 10_500_000 + END_OF_SEQUENCE, MANY.format("10,000,000"),
    ),
}  # fmt: skip

# Which are not even known.
UNKNOWN: dict[str, tuple[Callable[[], bytes], str]] = {
    "items before the UIDs, inflated": (
        lambda: bomb(CLASS + REFERENCES, ITEM, 1_000 * MIB, END_OF_SEQUENCE + REST), MANY.format("4,000,000"),
    ),
    "3 GiB before the UIDs": (
        lambda: bomb(CLASS + opened(0x0009_1010, b"OB", 3 << 30), bytes(64), 3 << 30, REST), INFLATES,
    ),
    "3 GiB before the UIDs, and a character set that the peek declines": (
        lambda: bomb(short(0x0008_0005, b"CS", b"X") + opened(0x0009_1010, b"OB", 3 << 30), bytes(64), 3 << 30, REST),
        INFLATES,
    ),
    "20 MiB before the UIDs, inflated": (
        lambda: bomb(CLASS + opened(0x0009_1010, b"OB", 20 * MIB), bytes(64), 20 * MIB, REST),
        "no UIDs in the first 8 MiB of the inflated data set",
    ),
    "items before the UIDs": (
        lambda: PLAIN + CLASS + REFERENCES + ITEM * 1_200_000 + END_OF_SEQUENCE + REST, HEADER_TOO_LONG,
    ),
    "items for pydicom": (
        lambda: PLAIN + short(0x0008_0005, b"CS", b"X") + REFERENCES + ITEM * 300_000 + END_OF_SEQUENCE + REST,
        HEADER_TOO_LONG,
    ),
    "sequences in each other before the UIDs": (lambda: PLAIN + CLASS + NEST * 10_000 + REST, TOO_DEEP),
    "meta information without end": (lambda: PREAMBLE + meta() + short(0x0002_0102, b"SH") * 3_000_000, BEFORE),
    "a command without end": (lambda: PREAMBLE + meta() + b"\0\0\1\0\0\0\0\0" * 3_000_000, BEFORE),
    "a character set for each letter": (
        lambda: PLAIN + CLASS + short(0x0008_1030, b"LO", b"\x1b$Bx" * 16_000) + REST,
        "its texts change the character set more than 4,000 times",
    ),
}  # fmt: skip

# CPU seconds, and MiB above what the process takes before: without a bound it is minutes and gigabytes.
MOST_SECONDS, MOST_MIB = 60, 256

EXAMINE = """
import json, sys, time
from pathlib import Path
from asyncimport.dicom import Unidentified, identify
import asyncimport.dicom.reader, pydicom.filereader

def peak():
    status = Path("/proc/self/status").read_text() if sys.platform == "linux" else "VmHWM: 0"
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) >> 10

before, began = peak(), time.process_time()
try:
    found = identify(sys.argv[1])
    said = ["Identity", found.sop_uid, found.study_uid, found.truncated] if found else [None]
except Unidentified as error:
    said = [type(error).__name__, error.reason]
print(json.dumps([said, time.process_time() - began, peak() - before]))
"""


def examined(path: Path, content: bytes) -> list[str | None]:
    """Identify a file with this content in another process, in bounded time and memory."""
    path.write_bytes(content)
    done = subprocess.run([sys.executable, "-c", EXAMINE, path], capture_output=True, text=True, check=True)
    path.unlink()
    said, seconds, mebibytes = json.loads(done.stdout)
    assert seconds < MOST_SECONDS
    assert mebibytes < MOST_MIB
    found: list[str | None] = said
    return found


@pytest.fixture
def told(tmp_path: Path) -> Callable[[bytes], Identity | tuple[str, str] | None]:
    """Return a function that identifies a file with this content, in bounded time."""

    def tell(content: bytes) -> Identity | tuple[str, str] | None:
        path = tmp_path / "1.2.3.4"
        path.write_bytes(content)
        began = process_time()
        try:
            return outcome(lambda: identify(str(path)))
        finally:
            assert process_time() - began < MOST_SECONDS

    return tell


Tell = Callable[[bytes], Identity | tuple[str, str] | None]


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("make", "reason"), KNOWN.values(), ids=KNOWN)
def test_a_file_that_is_too_large_behind_the_header_is_known(
    tmp_path: Path, make: Callable[[], bytes], reason: str
) -> None:
    """The header names its session, which lacks it. It does not count as complete."""
    assert examined(tmp_path / "1.2.3.4", make()) == ["Identity", "1.2.3.4", "1.2.3", reason]


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("make", "reason"), UNKNOWN.values(), ids=UNKNOWN)
def test_a_file_that_is_too_large_before_the_uids_is_unknown(
    tmp_path: Path, make: Callable[[], bytes], reason: str
) -> None:
    """The scan continues, and the reason says why the file is unknown."""
    kind, said = examined(tmp_path / "1.2.3.4", make())
    assert kind not in {"Identity", None}
    assert said == reason


# Values that are long in other ways.
LONG: dict[str, Callable[[], bytes]] = {
    "an implicit text": lambda: (
        PREAMBLE + meta(ImplicitVRLittleEndian) + struct.pack("<HHL", 0x10, 0x10, 100 * MIB) + b"A" * (100 * MIB)
    ),
    "character sets": lambda: (
        PREAMBLE
        + meta(ImplicitVRLittleEndian)
        + struct.pack("<HHL", 8, 5, 32 * MIB)
        + b"ISO 2022 IR 87\\" * (32 * MIB // 15 + 1)
    ),
    "bytes in an item": lambda: (
        PLAIN
        + short(0x0008_0005, b"CS", b"X")
        + REFERENCES
        + ITEM_WITHOUT_LENGTH
        + opened(0x0009_1010, b"OB", 200 * MIB)
        + bytes(200 * MIB)
        + END_OF_ITEM
        + END_OF_SEQUENCE
        + REST
    ),
    "private meta information": lambda: (
        PREAMBLE + opened(0x0002_0102, b"OB", 200 * MIB) + bytes(200 * MIB) + meta() + REST
    ),
    "items in the meta information": lambda: (
        PREAMBLE + opened(0x0002_0002, b"SQ", 16 * MIB) + ITEM * (2 * MIB) + meta() + REST
    ),
}


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is the kernel's, in /proc")
@pytest.mark.parametrize("make", LONG.values(), ids=LONG)
def test_memory_stays_small_whatever_a_file_claims(tmp_path: Path, make: Callable[[], bytes]) -> None:
    """For the files of the two tests before."""
    examined(tmp_path / "1.2.3.4", make())


# Sound files that are large


def noise(size: int) -> Iterator[bytes]:
    """Yield bytes that do not pack well, a mebibyte at a time."""
    chance = random.Random(7)
    one = bytes(chance.choices(range(64), k=MIB))
    for _ in range(size // MIB):
        yield one


def large_deflated() -> bytes:
    """Deflate an image of 512 MiB with typical pixels."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = [packer.compress(HEADER + opened(0x7FE0_0010, b"OB", 512 * MIB)), packer.flush(zlib.Z_FULL_FLUSH)]
    mebibyte = packer.compress(next(noise(MIB))) + packer.flush(zlib.Z_FULL_FLUSH)
    return PREAMBLE + meta(DeflatedExplicitVRLittleEndian) + b"".join([*packed, mebibyte * 512, packer.flush()])


SOUND: dict[str, Callable[[], bytes]] = {
    "300,000 functional groups": lambda: PLAIN + IMAGE + enhanced(300_000),
    "100,000 functional groups, deflated": lambda: bomb(IMAGE + enhanced(100_000), b"", 0),
    "60,000 references before the UIDs": lambda: PLAIN + KEYS + references(60_000) + REST,
    "60,000 references before the UIDs, deflated": lambda: bomb(KEYS + references(60_000) + REST, b"", 0),
    "20,000 references and a character set that the peek declines": lambda: (
        PLAIN + short(0x0008_0005, b"CS", b"X") + KEYS + references(20_000) + REST
    ),
    "60,000 private elements before the UIDs": lambda: (
        PLAIN + KEYS + b"".join(short(0x0009_0010 + n, b"LO", b"x" * 50) for n in range(60_000)) + REST
    ),
    "100 MB before the UIDs": lambda: PLAIN + KEYS + opened(0x0009_1010, b"OB", 100 * MIB) + bytes(100 * MIB) + REST,
    "512 MiB deflated": large_deflated,
    "90 sequences in each other": lambda: (
        PLAIN + HEADER + (TREE + ITEM_WITHOUT_LENGTH) * 90 + (END_OF_ITEM + END_OF_SEQUENCE) * 90
    ),
    "long texts in many character sets": lambda: (
        PLAIN + short(0x0008_0005, b"CS", b"\\ISO 2022 IR 87") + CLASS
        + short(0x0010_4000, b"LT", b"\x1b$B;3ED\x1b(B " * 900) + REST
    ),
}  # fmt: skip


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.parametrize("make", SOUND.values(), ids=SOUND)
def test_sound_files_may_be_large(told: Tell, make: Callable[[], bytes]) -> None:
    """Real files are within the limits."""
    got = told(make())
    assert isinstance(got, Identity), got
    assert (got.sop_uid, got.study_uid, got.series_uid, got.truncated) == ("1.2.3.4", "1.2.3", "1.2.3.9", "")


def test_a_long_text_is_read_whole(told: Tell) -> None:
    """Of long values pydicom gets a part; those that we want are read separately."""
    comments = "Knie " * 4_000
    for syntax in ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian:
        made = data_set(PatientComments=comments, SpecificCharacterSet="ISO 2022 IR 87")
        content = encoded(made, syntax)
        if syntax == DeflatedExplicitVRLittleEndian:
            packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
            content = packer.compress(content) + packer.flush()
        got = told(PREAMBLE + meta(syntax) + content)
        assert isinstance(got, Identity)
        assert got.fields["PatientComments"] == comments.strip()
        assert got.truncated == ""


def test_pydicom_inflates_nothing(told: Tell) -> None:
    """It would inflate all of a data set that only pydicom takes for deflated."""
    syntax = DeflatedExplicitVRLittleEndian.encode()
    # Two transfer syntaxes: we go by the last one, and it does so too; but not where one stands in an implicit VR.
    for one in (short(0x0002_0010, b"UI", syntax), struct.pack("<HHL", 2, 0x10, len(syntax)) + syntax):
        got = told(PREAMBLE + one + meta() + bomb(HEADER, bytes(64), 64 * MIB)[-60_000:])
        assert isinstance(got, tuple)
        assert got[0] in {"Unreadable", "NotDicom"}


@pytest.mark.anyio
async def test_a_scan_continues_after_a_zip_bomb(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path) -> None:
    """The file is reported with its reason, and everything else arrives."""
    tree = tmp_path / "tree"
    (tree / "bad").mkdir(parents=True)
    for number in range(1, 4):
        (tree / f"{number}.dcm").write_bytes(image(number, StudyInstanceUID="1.2.8"))
    (tree / "bad" / "0.dcm").write_bytes(bomb(HEADER, END_OF_ITEM, 9 * MIB))
    (tree / "bad" / "9.dcm").write_bytes(PLAIN + HEADER + (TREE + ITEM_WITHOUT_LENGTH) * 10_000)
    commands.login(url)
    ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert ended.code == 8, ended.out
    assert ended.json["files"]["stored"] == len(xnat.sop_uids()) == 3
    assert ended.json["files"]["unreadable"] == 2
    reasons = {problem["reason"] for problem in ended.json["problems"]}
    assert reasons >= {TOO_DEEP, AT_TOP}, reasons
