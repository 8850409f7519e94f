"""Hostile files: whatever is changed in a file, it ends in an identity or in a reason, and soon.

Real and generated files are changed in lengths, delimiters, value representations and tags, within and around deflate
streams, and in archives. The long run takes ASYNCIMPORT_FUZZ_SECONDS, from ASYNCIMPORT_FUZZ_SEED on; what it prints
reproduces a finding.
"""

import bz2
import gzip
import lzma
import os
import random
import secrets
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from time import monotonic, thread_time

import pytest
from dicom_files import (
    PREAMBLE,
    data_set,
    encoded,
    is_cut,
    meta,
    multiframe,
    odd,
    outcome,
    packaged,
    pixels,
    report,
    tarred,
    waveform,
    zipped,
)
from hostile_dicom import HEADER, IMAGE, KEYS, PLAIN, REST, enhanced, references
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from asyncimport.dicom import Identity, identify
from asyncimport.source.archives import container_kind

MIB = 1 << 20
# CPU seconds of one look, and MiB that it may add to the process. The bounds of the code come to less than half of it.
MOST_SECONDS, MOST_MIB = 30.0, 256

LARGEST = 200_000
DEFLATED = (DeflatedExplicitVRLittleEndian, "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205")
DELIMITERS = [b"\xfe\xff\0\xe0", b"\xfe\xff\r\xe0", b"\xfe\xff\xdd\xe0", b"\xff\xfe\xe0\0", b"\xff\xfe\xe0\xdd"]
VRS = b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
LENGTHS = [0, 1, 2, 7, 8, 0xFFFE, 0xFFFF, 0x1_0000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF]
TAGS = [0, 2, 0x0002_0010, 0x0008_0005, 0x0008_0018, 0x0020_000D, 0x5200_9230, 0x7FE0_0010, 0xFFFC_FFFC, 0xFFFE_E00D]


@cache
def plain_files() -> list[bytes]:
    """Return files that are not deflated: those of the packages, and each encoding of what those lack."""
    made = [PLAIN + IMAGE + enhanced(20), PLAIN + KEYS + references(40) + REST, PLAIN + HEADER]
    for syntax in ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian:
        made += [odd(one, syntax) for one in (data_set(), report(), waveform(), multiframe())]
    made.append(PREAMBLE + meta(JPEG2000) + encoded(data_set(PixelData=None)) + pixels(b"abcd", b"ef"))
    real = [path.read_bytes() for path in packaged() if path.stat().st_size < LARGEST]
    return made * 4 + [content for content in real if content[128:132] == b"DICM"]


@cache
def archives() -> list[bytes]:
    """Return archives of each kind."""
    image, text = odd(data_set()), b"some text" * 100
    packed = [pack(tarred(text, image)) for pack in (gzip.compress, bz2.compress, lzma.compress)]
    return [zipped(text, image), tarred(text, image), gzip.compress(image), *packed]


def elements_in(content: bytes) -> list[int]:
    """Return where top-level elements begin, as far as the oracle gets: it recurses into sequences."""
    places: list[int] = []
    with suppress(RecursionError):
        is_cut(content, places)
    return places


def places_in(content: bytes) -> list[int]:
    """Return where top-level elements and delimiters begin."""
    places = elements_in(content)
    for delimiter in DELIMITERS:
        at = content.find(delimiter)
        while at >= 0 and len(places) < 10_000:
            places.append(at)
            at = content.find(delimiter, at + 4)
    return places or [0]


@dataclass
class Mutator:
    """Changes a content a few times at random."""

    chance: random.Random
    content: bytearray = field(default_factory=bytearray)

    def mutated(self, content: bytes) -> bytes:
        """Return it changed in one to six places, or many times in one."""
        self.content = bytearray(content)
        places = places_in(content)
        for _ in range(self.chance.choice([1, 1, 2, 3, 6])):
            # Those that were found before may lie elsewhere by now, which is as good.
            at = min(self.chance.choice(places), len(self.content))
            self.chance.choice(self.CHANGES)(self, at)
        return bytes(self.content)

    def _length(self, at: int) -> None:
        value = self.chance.choice(
            [*LENGTHS, self.chance.randrange(1 << 32), len(self.content), len(self.content) - at]
        )
        order = self.chance.choice("<<<>")
        if self.chance.random() < 0.4:
            self.content[at + 6 : at + 8] = struct.pack(f"{order}H", value & 0xFFFF)
        else:
            begin = at + self.chance.choice([4, 8])
            self.content[begin : begin + 4] = struct.pack(f"{order}L", value & 0xFFFF_FFFF)

    def _vr(self, at: int) -> None:
        letters = self.chance.choice([*VRS, b"SQ", b"UN", b"\0\0", self.chance.randbytes(2)])
        self.content[at + 4 : at + 6] = letters

    def _tag(self, at: int) -> None:
        tag = self.chance.choice([*TAGS, self.chance.randrange(1 << 32)])
        self.content[at : at + 4] = struct.pack("<HH", tag >> 16, tag & 0xFFFF)

    def _delimiter(self, at: int) -> None:
        self.content[at : at + 4] = self.chance.choice(DELIMITERS)

    def _without(self, at: int) -> None:
        del self.content[at : at + self.chance.choice([1, 2, 4, 8, 8, 12, 100])]

    def _doubled(self, at: int) -> None:
        size = self.chance.choice([8, 8, 12, 16, 20, 28, 100, 1_000])
        times = self.chance.choice([1, 2, 10, 100, 1_000, 10_000])
        self.content[at:at] = bytes(self.content[at : at + size]) * min(times, LARGEST // size)

    def _opened(self, at: int) -> None:
        nested = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFF_FFFF) + b"\xfe\xff\0\xe0\xff\xff\xff\xff"
        self.content[at:at] = nested * self.chance.choice([1, 3, 99, 101, 250, 2_000])

    def _flipped(self, _: int) -> None:
        for _ in range(self.chance.choice([1, 3, 30])):
            if self.content:
                self.content[self.chance.randrange(min(len(self.content), 4_000))] ^= 1 << self.chance.randrange(8)

    def _noise(self, at: int) -> None:
        self.content[at:at] = self.chance.randbytes(self.chance.randrange(40))

    def _charset(self, at: int) -> None:
        names = [b"ISO 2022 IR 87", b"ISO_IR 192", b"", b"\xff", b"utf_7", b"punycode", b"idna", b"zlib_codec"]
        value = b"\\".join(self.chance.choices(names, k=self.chance.choice([1, 2, 40, 2_000])))[:65_000]
        self.content[at:at] = struct.pack("<HH2sH", 8, 5, b"CS", len(value)) + value
        self.content[at:at] = struct.pack("<HH2sH", 8, 5, b"CS", 0) * self.chance.choice([0, 0, 1_000])

    def _escaped(self, at: int) -> None:
        value = self.chance.choice([b"\x1b$B", b"\x1b", b"\x1b(J\\", b"^=", b"\\"]) * self.chance.choice([1, 20, 9_000])
        self.content[at:at] = struct.pack("<HH2sH", 0x10, 0x10, b"PN", len(value) & 0xFFFF) + value

    def _cut(self, at: int) -> None:
        del self.content[at + self.chance.randrange(30) :]

    def _spliced(self, at: int) -> None:
        other = self.chance.choice(plain_files())
        begin = self.chance.randrange(len(other))
        self.content[at:at] = other[begin : begin + self.chance.randrange(2_000)]

    CHANGES: "tuple[Callable[[Mutator, int], None], ...]" = (
        *(_length, _length, _length, _vr, _tag, _delimiter, _delimiter, _without, _doubled, _opened, _flipped),
        *(_noise, _charset, _escaped, _cut, _spliced),
    )


def deflated_around(mutator: Mutator, content: bytes) -> bytes:
    """Deflate a changed data set, and at times change the stream as well, or blow it up."""
    chance = mutator.chance
    packer = zlib.compressobj(chance.choice([0, 1, 9]), zlib.DEFLATED, -zlib.MAX_WBITS, 8, chance.choice([0, 2, 4]))
    data = mutator.mutated(content)
    at = min(chance.choice(places_in(data)), len(data))
    packed = packer.compress(data[:at]) + packer.flush(zlib.Z_FULL_FLUSH)
    if chance.random() < 0.2:
        filling = chance.choice([*DELIMITERS, bytes(4), b"\x09\0\x10\0LO\0\0"])
        filling = filling if len(filling) == 8 else filling + chance.choice([bytes(4), b"\xff\xff\xff\xff"])
        size = chance.choice([1_000, 60_000, MIB, MIB])
        # A mebibyte takes a kilobyte, so repeating it costs nothing.
        block = packer.compress(filling * (size // 8)) + packer.flush(zlib.Z_FULL_FLUSH)
        packed += block * chance.choice([1, 1, 2, 8, 8, 64, 300])
    packed += packer.compress(data[at:]) + packer.flush()
    if chance.random() < 0.3:
        stream = bytearray(packed)
        for _ in range(chance.choice([1, 1, 4])):
            match chance.randrange(4):
                case 0 if stream:
                    stream[chance.randrange(len(stream))] ^= 1 << chance.randrange(8)
                case 1:
                    del stream[chance.randrange(len(stream) + 1) :]
                case 2:
                    stream += chance.randbytes(20)
                case _:
                    place = chance.randrange(len(stream) + 1)
                    stream[place:place] = b"\0\0\0\xff\xff" * chance.choice([1, 1_000])  # empty blocks
        packed = bytes(stream)
    return PREAMBLE + meta(chance.choice(DEFLATED)) + packed


def made_by(seed: str) -> bytes:
    """Make the file of a seed."""
    chance = random.Random(seed)
    mutator = Mutator(chance)
    match chance.randrange(10):
        case 0 | 1 | 2 | 3:
            begin = meta_ends(content := chance.choice(plain_files()))
            return deflated_around(mutator, content[begin:])
        case 4:
            return mutator.mutated(chance.choice(archives()))
        case _:
            return mutator.mutated(chance.choice(plain_files()))


def meta_ends(content: bytes) -> int:
    """Return where the data set begins."""
    return next((at for at in elements_in(content) if content[at : at + 2] != b"\2\0"), 132)


@dataclass
class Figures:
    """Counts of all results."""

    files: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    slowest_seed: str = ""
    largest: int = 0
    largest_seed: str = ""

    def look(self, path: Path, seed: str) -> None:
        """Make the file of a seed, and identify it twice."""
        path.write_bytes(made_by(seed))
        before = reset_peak()
        began = thread_time()
        try:
            first = outcome(lambda: identify(str(path)))
            kind = container_kind(str(path)) if isinstance(first, tuple) and first[0] == "NotDicom" else None
        except BaseException as error:
            error.add_note(f"the file of seed {seed!r}")
            raise
        seconds = thread_time() - began
        added = memory("VmHWM") - before
        assert isinstance(first, Identity) or first is not None
        assert outcome(lambda: identify(str(path))) == first, f"seed {seed!r}: another answer"
        assert seconds < MOST_SECONDS, f"seed {seed!r}: {seconds:.1f} s"
        if seconds > self.slowest:
            self.slowest, self.slowest_seed = seconds, seed
        assert added < MOST_MIB, f"seed {seed!r}: {added} MiB"
        if added > self.largest:
            self.largest, self.largest_seed = added, seed
        self.files += 1
        told = first.truncated or "whole" if isinstance(first, Identity) else first[1]
        self.outcomes[f"archive: {kind}" if kind else told] += 1


def memory(what: str) -> int:
    """Return a memory figure of this process from the kernel, in MiB; 0 if there is none."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) >> 10 for line in lines if line.startswith(what)), 0)


def reset_peak() -> int:
    """Reset the peak, and return where it begins, in MiB."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def run(path: Path, seed: int, *, files: int | None = None, seconds: float = 0.0) -> Figures:
    """Identify a number of files, or for a number of seconds."""
    figures = Figures()
    plain_files()
    end = monotonic() + seconds
    while figures.files < files if files is not None else monotonic() < end:
        figures.look(path, f"{seed} {figures.files}")
    sys.stdout.write(
        f"seed {seed}: {figures.files} files, each looked at twice; the slowest took {figures.slowest:.2f} s of CPU "
        f"(seed {figures.slowest_seed!r}), the largest {figures.largest} MiB (seed {figures.largest_seed!r}); "
        f"{len(figures.outcomes)} outcomes:\n"
        + "".join(f"{count:8} {told}\n" for told, count in figures.outcomes.most_common())
    )
    return figures


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_changed_files_end_in_an_answer(tmp_path: Path) -> None:
    """A short run, always with the same seeds."""
    figures = run(tmp_path / "file", 13, files=100)
    assert figures.outcomes["whole"] > 5
    assert len(figures.outcomes) > 8


@pytest.mark.endurance
@pytest.mark.timeout(0)
def test_changed_files_end_in_an_answer_for_minutes(tmp_path: Path) -> None:
    """A long run, with a new seed each time unless one is given."""
    seed = int(os.environ.get("ASYNCIMPORT_FUZZ_SEED") or secrets.randbelow(10**9))
    sys.stdout.write(f"ASYNCIMPORT_FUZZ_SEED={seed}\n")
    sys.stdout.flush()
    seconds = float(os.environ.get("ASYNCIMPORT_FUZZ_SECONDS") or 300)
    figures = run(tmp_path / "file", seed, seconds=seconds)
    assert figures.files > seconds
