"""Archive files that hold DICOM are named, others are not, and none of them can make the scan hang."""

import bz2
import gzip
import io
import lzma
import os
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from time import process_time

import pytest
from dicom_files import TEXT, data_set, encoded, packaged, part10, tarred, zipped

from asyncimport.dicom import begins_dicom
from asyncimport.source.archives import container_kind, container_reason

IMAGE = part10(data_set())
BARE = encoded(data_set())
MIB = 1 << 20


def streamed(*members: bytes) -> bytes:
    """Make a zip like programs that cannot seek: sizes follow the members."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, member in enumerate(members):
            archive.writestr(str(number), member)
    return pipe.getvalue()


def encrypted(content: bytes) -> bytes:
    """Set the flag of encryption in the header before a member and in the directory."""
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        pieces = content.split(magic)
        pieces[1:] = [piece[: offset - 4] + b"\x01" + piece[offset - 3 :] for piece in pieces[1:]]
        content = magic.join(pieces)
    return content


def pax_header(records: bytes, *, claimed: int | None = None) -> bytes:
    """Make the pax header of a member, with these values."""
    header = tarfile.TarInfo("PaxHeader")
    header.type = tarfile.XHDTYPE
    header.size = len(records) if claimed is None else claimed
    return header.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)


def long_names(count: int) -> bytes:
    """Make GNU headers that each give a long name to the next one."""
    header = tarfile.TarInfo("././@LongLink")
    header.type = tarfile.GNUTYPE_LONGNAME
    header.size = 4
    return (header.tobuf(tarfile.GNU_FORMAT) + b"abc".ljust(512, b"\0")) * count


def sparse() -> bytes:
    """Make a member of GNU's old sparse format, whose map needs two blocks."""
    header = tarfile.TarInfo("holes")
    header.type = tarfile.GNUTYPE_SPARSE
    header.size = 512
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[482] = 1
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(504) + b"\1" + bytes(7) + bytes(512) + b"x" * 512


def directory(members: int, *, claimed: int | None = None) -> bytes:
    """Make a zip with this many members in its directory; its last record claims another size."""
    first = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"a"
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, *([0] * 7), 1, *([0] * 6)) + b"b"
    entries = entry * members
    size = len(entries) if claimed is None else claimed
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, members % 65_536, members % 65_536, size, len(first), 0)
    if claimed is not None:
        large = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, members, members, len(entries), len(first))
        tail = large + struct.pack("<4sLQL", b"PK\6\7", 0, len(first) + len(entries), 1) + tail
    return first + entries + tail


def claiming_memory(dictionary: int) -> bytes:
    """Make an xz whose header claims a dictionary: 40 stands for 4 GiB, and 30 for 128 MiB."""
    packed = bytearray(lzma.compress(IMAGE))
    end = 12 + (packed[12] + 1) * 4
    packed[packed.index(b"\x21\x01", 12) + 2] = dictionary
    packed[end - 4 : end] = zlib.crc32(packed[12 : end - 4]).to_bytes(4, "little")
    return bytes(packed)


Kind = Callable[[bytes], str | None]

HOLDING = {
    "zip": (zipped(TEXT, IMAGE), "zip"),
    "zip, stored": (zipped(TEXT, IMAGE, method=zipfile.ZIP_STORED), "zip"),
    "zip of bare data sets": (zipped(BARE), "zip"),
    "zip, streamed": (streamed(TEXT, IMAGE), "zip"),
    "zip with a comment": (zipped(IMAGE)[:-2] + b"\x05\0hello", "zip"),
    "zip, cut": (zipped(IMAGE, TEXT)[zipped(IMAGE, TEXT).index(b"PK\x03\x04", 4) : -40], "zip"),
    "zip, encrypted": (encrypted(zipped(IMAGE)), "zip (encrypted)"),
    "tar": (tarred(TEXT, IMAGE), "tar"),
    "tar of 1988": (tarred(IMAGE, form=tarfile.USTAR_FORMAT), "tar"),
    "tar of GNU": (tarred(IMAGE, form=tarfile.GNU_FORMAT), "tar"),
    "tar without magic": (b"", "tar"),
    "tar, cut behind an image": (tarred(IMAGE, bytes(MIB))[:-MIB], "tar"),
    "tar.gz": (gzip.compress(tarred(TEXT, IMAGE)), "tar.gz"),
    "tar.bz2": (bz2.compress(tarred(IMAGE)), "tar.bz2"),
    "tar.xz": (lzma.compress(tarred(IMAGE)), "tar.xz"),
    "gz": (gzip.compress(IMAGE), "gz"),
    "gz of a bare data set": (gzip.compress(BARE), "gz"),
    "gz, cut": (gzip.compress(IMAGE + random.Random(1).randbytes(9_000))[:-2_000], "gz"),
    "bz2": (bz2.compress(IMAGE), "bz2"),
    "xz": (lzma.compress(IMAGE), "xz"),
    "xz at its strongest": (lzma.compress(IMAGE, preset=9), "xz"),
    "gz in two streams": (gzip.compress(IMAGE[:200]) + bytes(700) + gzip.compress(IMAGE[200:]), "gz"),
    "tar.gz in streams": (
        b"".join(gzip.compress(tarred(TEXT, IMAGE)[at : at + 999]) for at in range(0, 9_000, 999)),
        "tar.gz",
    ),
    "tar, behind a member whose size stands before it": (
        pax_header(b"22 path=study/1/report\n17 size=000000512\n")
        + tarfile.TarInfo("x").tobuf()
        + bytes(512)
        + tarred(IMAGE),
        "tar",
    ),
    "tar of a sparse file": (sparse() + tarred(IMAGE), "tar"),
}
OTHERS = {
    "nothing": b"",
    "text": TEXT,
    "an image": IMAGE,
    "zip of texts": zipped(TEXT, TEXT),
    "zip of nothing": zipped(),
    "tar of texts": tarred(TEXT, TEXT),
    "tar.gz of texts": gzip.compress(tarred(TEXT)),
    "gz of a text": gzip.compress(TEXT),
    "gz of nothing": gzip.compress(b""),
    "a zip in a zip": zipped(zipped(IMAGE)),
    "zeros": bytes(10_240),
    "only the beginning of a zip": b"PK\x03\x04",
    "only the beginning of a gz": b"\x1f\x8b\x08",
    "only the beginning of a bz2": b"BZh9",
    "only the beginning of an xz": b"\xfd7zXZ\0",
    "zip whose directory lies": zipped(TEXT).replace(b"PK\x01\x02", b"PK\x01\x09"),
}


def old_tar() -> bytes:
    """Remove the magic of a tar, like those before POSIX, and correct the checksum."""
    content = bytearray(tarred(IMAGE, form=tarfile.USTAR_FORMAT))
    for at in range(0, len(content) - 512, 512):
        if content[at + 257 : at + 262] == b"ustar":
            content[at + 257 : at + 265] = bytes(8)
            content[at + 148 : at + 156] = b" " * 8
            content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
    return bytes(content)


HOLDING["tar without magic"] = (old_tar(), "tar")


@pytest.fixture
def kind(tmp_path: Path) -> Callable[[bytes], str | None]:
    """Return a function that returns the kind of a file with this content."""

    def ask(content: bytes) -> str | None:
        path = tmp_path / "file"
        path.write_bytes(content)
        return container_kind(str(path))

    return ask


@pytest.mark.parametrize(("content", "name"), HOLDING.values(), ids=HOLDING)
def test_an_archive_that_holds_dicom_is_named(kind: Kind, content: bytes, name: str) -> None:
    """A migration must report packed studies on a disk."""
    assert kind(content) == name


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_another_file_is_not(kind: Kind, content: bytes) -> None:
    """An archive of texts, a broken one, and other files."""
    assert kind(content) is None


def test_packages_hold_what_their_names_say() -> None:
    """Real files: nibabel packs DICOM with gzip, and other things too."""
    kinds = {path.name: container_kind(str(path)) for path in packaged() if path.suffix in {".gz", ".mgz", ".bz2"}}
    assert {name for name, found in kinds.items() if found == "gz"} == {
        *(name for name in kinds if name.endswith(".dcm.gz")),
        "zipMR.gz",  # pydicom's
    }
    assert set(kinds.values()) == {"gz", None}
    assert len(kinds) > 5


def test_a_bomb_is_not_unpacked(kind: Kind) -> None:
    """An image after more bytes than the limit is not found: the check ends first."""
    behind = tarred(bytes(17 * MIB), IMAGE)
    assert kind(gzip.compress(behind, 1)) is None
    assert kind(bz2.compress(behind)) is None
    assert kind(lzma.compress(behind, preset=0)) is None
    assert kind(zipped(bytes(17 * MIB), IMAGE)) == "zip"
    # Without packing, what lies between is stepped over and not read.
    assert kind(behind) == "tar"
    # A header of a tar may claim any length for a name.
    claim = tarfile.TarInfo("././@LongLink")
    claim.type = tarfile.GNUTYPE_LONGNAME
    claim.size = 6 << 30
    assert kind(claim.tobuf(tarfile.GNU_FORMAT) + bytes(17 * MIB)) is None


def test_a_limited_number_of_members_is_read(kind: Kind) -> None:
    """A packed tree of texts costs no more than some of its members."""
    texts = [b"text"] * 256
    assert kind(tarred(*texts, IMAGE)) is None
    assert kind(zipped(*texts, IMAGE)) is None
    assert kind(tarred(*texts[:200], IMAGE)) == "tar"
    assert kind(zipped(*texts[:200], IMAGE)) == "zip"


@pytest.mark.parametrize(("first", "name"), [(IMAGE, "zip"), (TEXT, None)])
def test_of_a_huge_zip_only_the_first_member_counts(kind: Kind, first: bytes, name: str | None) -> None:
    """A directory of millions of members is not read: it would fill the memory."""
    for content in zipped(first), zipped(first, method=zipfile.ZIP_STORED), streamed(first):
        huge = bytearray(content[content.rindex(b"PK\x03\x04") :])
        huge[-10:-6] = (1 << 30).to_bytes(4, "little")
        assert kind(bytes(huge)) == name
        assert kind(encrypted(bytes(huge))) == "zip (encrypted)"


HOSTILE = {
    "names of names": (long_names(5_000) + tarred(IMAGE), None),
    "names of names, packed": (gzip.compress(long_names(15_000) + tarred(IMAGE)), None),
    "headers of headers": (pax_header(b"8 a=bcd\n") * 5_000 + tarred(IMAGE), None),
    "a header of digits": (pax_header(b"1" * (4 * MIB), claimed=15 * MIB), None),
    "a header of records": (pax_header(b"6 a=b\n" * MIB) + tarred(IMAGE), "tar"),
    "a size below zero": (pax_header(b"")[:124] + b"\xff" * 12 + pax_header(b"")[136:], None),
    "a map without end": (sparse()[:512] + (bytes(504) + b"\1" + bytes(7)) * 9_000, None),
    "a million members": (directory(1_000_000), None),
    "a million members, and a claim of one": (directory(1_000_000, claimed=47), None),
    "a name without end": (b"\x1f\x8b\x08\x08" + bytes(5) + b"\xff" + b"a" * (64 * MIB), None),
    "streams of nothing, gz": (gzip.compress(b"") * 800_000 + gzip.compress(IMAGE), None),
    "streams of nothing, bz2": (bz2.compress(b"") * 800_000, None),
    "streams of nothing, xz": (lzma.compress(b"") * 400_000, None),
    "zeros behind nothing": (gzip.compress(b"") + bytes(64 * MIB), None),
}


@pytest.mark.parametrize(("content", "name"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_archive_is_judged_quickly(kind: Kind, content: bytes, name: str | None) -> None:
    """And none ends the scan."""
    began = process_time()
    assert kind(content) == name
    assert process_time() - began < 20


def test_an_xz_that_claims_much_memory_is_reported(kind: Kind) -> None:
    """It may hold DICOM, but does not get 4 GiB for its dictionary."""
    assert kind(claiming_memory(30)) == "xz"
    told = kind(claiming_memory(40))
    assert told is not None
    assert container_reason(told) == "an xz archive that needs too much memory to look into"
    assert container_reason("tar.gz") == "a tar.gz archive that holds DICOM"


def test_damage_ends_in_an_answer(kind: Kind) -> None:
    """Archives with flipped and missing bytes give a kind or None."""
    chance = random.Random(3)
    answers = set()
    for content, _ in HOLDING.values():
        for _ in range(60):
            damaged = bytearray(content)
            for _ in range(chance.randrange(1, 6)):
                damaged[chance.randrange(min(len(damaged), 2_000))] ^= 1 << chance.randrange(8)
            answers.add(
                kind(bytes(damaged[: chance.randrange(1, len(damaged) + 1) if chance.random() < 0.3 else None]))
            )
    assert answers <= {name for _, name in HOLDING.values()} | {None}


def test_what_cannot_be_opened_is_no_archive(tmp_path: Path) -> None:
    """A vanished file, a pipe without a writer, a name that is not text."""
    os.mkfifo(tmp_path / "pipe")
    assert container_kind(str(tmp_path / "gone")) is None
    assert container_kind(str(tmp_path / "pipe")) is None
    assert container_kind(str(tmp_path)) is None
    name = os.fsencode(tmp_path) + b"/\xff"
    with open(name, "wb") as stream:  # noqa: PTH123 - pathlib takes no bytes
        stream.write(zipped(IMAGE))
    assert container_kind(name) == "zip"


def test_members_are_dicom_as_files_are() -> None:
    """The same rule recognises files and packed members."""
    assert begins_dicom(IMAGE)
    assert begins_dicom(BARE)
    assert not begins_dicom(TEXT)
    assert not begins_dicom(b"")
