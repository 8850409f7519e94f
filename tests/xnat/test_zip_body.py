"""Zips of one file, and of several: read from the beginning as XNAT does, and from the directory as others do."""

import io
import zipfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import anyio
import anyio.to_thread
import pytest
from builders import body_of, image, open_files, write
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from asyncimport.dicom.transfer_syntax import is_uncompressed
from asyncimport.errors import SourceError, TransientError
from asyncimport.model.files import Body, Zip
from asyncimport.source.bytes_on_disk import xxh3_of
from asyncimport.system.deflate import crc32, deflate
from asyncimport.testserver.site.unpacking import UnpackLimit
from asyncimport.testserver.site.zip_stream import stream_entries
from asyncimport.xnat.zip_body import MIN_BYTES, zip_body, zip_files

pytestmark = pytest.mark.anyio
LARGE = 3_000_000


def pixels(size: int, *, kind: str = "smooth") -> bytes:
    """Return pixels that deflate well, by a twentieth, or not at all."""
    rng = Random(size)
    if kind == "smooth":
        return bytes(value // 3 for value in rng.randbytes(min(size, 100_000))) * (1 + size // 100_000)
    return rng.randbytes(size) if kind == "noise" else rng.randbytes(size - size // 18) + bytes(size // 18)


def picture(size: int = 40_000, *, kind: str = "smooth") -> bytes:
    """Return an image of about this size."""
    return image(1, PixelData=pixels(size, kind=kind)[: size - size % 2], pixels=20_000)


async def collect(packed: Zip, pieces: list[bytes]) -> None:
    """Collect what goes over the wire of a large file."""
    assert not isinstance(packed.body, bytes)
    async for piece in packed.body:
        pieces.append(piece)  # noqa: PERF401 - what came before an error counts


async def sent(packed: Zip | None) -> bytes:
    """Return what goes over the wire."""
    assert packed is not None
    body = packed.body
    whole = body if isinstance(body, bytes) else b"".join([piece async for piece in body])
    assert len(whole) == packed.size
    return whole


def unpacked(packed: bytes) -> list[tuple[str, bytes]]:
    """Unpack a zip both ways, and compare."""
    found = list(stream_entries(io.BytesIO(packed), UnpackLimit(len(packed))))
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert archive.testzip() is None
        assert [(one.filename, archive.read(one)) for one in archive.infolist()] == found
    return found


async def packed(body: Body) -> Zip | None:
    """Make a zip."""
    return await zip_body(body, anyio.CapacityLimiter(2))


@pytest.mark.parametrize("size", [MIN_BYTES, 40_000, 900_000, LARGE])
async def test_a_file_comes_out_as_it_went_in(tmp_path: Path, size: int) -> None:
    """Small ones from memory, large ones as they are read; the name is always the same."""
    content = picture(size)
    body = await body_of(write(tmp_path / "a.dcm", content))
    found = await packed(body)
    assert found is not None
    assert found.size < 0.9 * len(content)
    assert unpacked(await sent(found)) == [("f.dcm", content)]
    if size == LARGE:
        assert body.xxh3 == xxh3_of(content)


@pytest.mark.parametrize("size", [40_000, LARGE])
@pytest.mark.parametrize("kind", ["noise", "nearly noise"])
async def test_what_saves_less_than_a_tenth_is_left(tmp_path: Path, size: int, kind: str) -> None:
    """Whether it is small or large; no handle of it stays open."""
    file = write(tmp_path / "a.dcm", picture(size, kind=kind))
    assert await packed(await body_of(file)) is None
    assert open_files(Path(file.path)) == 0


async def test_small_files_are_left() -> None:
    """They cost the server more than they save."""
    content = image(1, pixels=MIN_BYTES - 2_000)
    assert len(content) < MIN_BYTES
    assert await packed(content) is None


@pytest.mark.parametrize(
    ("syntax", "is_raw"),
    [
        (ImplicitVRLittleEndian, True),
        (ExplicitVRLittleEndian, True),
        (ExplicitVRBigEndian, True),
        (DeflatedExplicitVRLittleEndian, False),
        (JPEGBaseline8Bit, False),
        (JPEG2000Lossless, False),
        (RLELossless, False),
    ],
)
async def test_only_uncompressed_transfer_syntaxes(tmp_path: Path, syntax: str, is_raw: bool) -> None:
    """By the file meta information, which is in explicit little endian in all of them."""
    old = ExplicitVRLittleEndian.encode()
    content = picture(LARGE)
    at = content.index(b"\x02\x00\x10\x00UI")
    length = len(old) + len(old) % 2
    new = syntax.encode() + b"\0" * (len(syntax) % 2)
    changed = content[: at + 6] + len(new).to_bytes(2, "little") + new + content[at + 8 + length :]
    assert is_uncompressed(changed[:4096]) is is_raw
    assert (await packed(await body_of(write(tmp_path / "a.dcm", changed))) is not None) is is_raw
    assert (await packed(changed[:100_000]) is not None) is is_raw


@pytest.mark.parametrize(
    "head",
    [b"", bytes(200), b"\x02\x00\x10\x00UI", b"\x02\x00\x10\x00UI\x13\x00", picture()[:200], bytes(5000) + picture()],
)
def test_a_file_that_does_not_say_so_is_left(head: bytes) -> None:
    """Cut, without file meta information, or with all of that too far away."""
    assert not is_uncompressed(head)


class Changing:
    """A file that changes between two readings."""

    xxh3 = sha256 = None

    def __init__(self, *contents: bytes) -> None:
        self._contents = iter(contents)
        self.size = len(contents[0])
        self.closed = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        content = next(self._contents)
        try:
            for at in range(0, len(content), 100_000):
                yield content[at : at + 100_000]
        finally:
            self.closed += 1


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:-1] + b"\1",
        lambda content: content[:1_000_000] + pixels(1_000_000, kind="noise") + content[2_000_000:],
        lambda content: content[: LARGE // 2],
        lambda content: content + content,
    ],
)
async def test_a_file_that_changes_is_not_sent_to_its_end(change: object) -> None:
    """Whatever becomes of its length and of that of the zip: what was announced is not completed."""
    content = picture(LARGE)
    assert callable(change)
    body = Changing(content, change(content))
    found = await packed(body)
    assert found is not None
    went: list[bytes] = []
    with pytest.raises(SourceError, match="the file changed while it was read"):
        await collect(found, went)
    assert sum(map(len, went)) < found.size
    assert body.closed == 2


@pytest.mark.parametrize("size", [(1 << 32) - 1, 5 << 30])
async def test_a_file_without_lengths_of_32_bits_is_left(size: int) -> None:
    """XNAT's Java may not read longer ones, and the largest number announces them. It is not even read."""
    body = Changing(b"")
    body.size = size
    assert await packed(body) is None
    assert body.closed == 0


class Halting(Changing):
    """A file that is read in other pieces the second time, as from a file system that gives less than was asked for."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        content, step = next(self._contents), 99_001 if self.closed else 262_144
        for at in range(0, len(content), step):
            yield content[at : at + step]
        self.closed += 1


async def test_a_file_that_is_read_in_other_pieces_has_not_changed() -> None:
    """Its deflated length may differ all the same. Then it goes as it is, which is no error of the file."""
    content = picture(LARGE)
    found = await packed(Halting(content, content))
    assert found is not None
    went: list[bytes] = []
    refusal = None
    try:
        await collect(found, went)
    except TransientError as error:
        refusal = error
    if refusal is None:
        assert unpacked(b"".join(went)) == [("f.dcm", content)]
    else:
        assert refusal.may_have_taken_effect
        assert sum(map(len, went)) < found.size


async def test_a_zip_that_is_given_up_closes_its_file(tmp_path: Path) -> None:
    """As when the connection breaks."""
    file = write(tmp_path / "a.dcm", picture(LARGE))
    found = await packed(await body_of(file))
    assert found is not None
    assert not isinstance(found.body, bytes)
    pieces = aiter(found.body)
    for _ in range(3):
        await anext(pieces)
    assert open_files(Path(file.path)) == 1
    await pieces.aclose()  # type: ignore[attr-defined]
    assert open_files(Path(file.path)) == 0


@pytest.mark.parametrize("count", [1, 500])
def test_several_files(count: int) -> None:
    """As attachments go: empty ones and names of any language too; the same files make the same zip."""
    bodies = {f"näme/{number}.txt" if number % 2 else f"{number}": b"ab" * number for number in range(count)}
    assert dict(unpacked(zip_files(bodies))) == bodies
    assert zip_files(bodies) == zip_files(bodies)


def test_what_is_deflated_in_pieces_is_read_by_zlib() -> None:
    """Whichever library is installed."""
    content = picture()
    assert zlib.decompress(deflate(content), -zlib.MAX_WBITS) == content
    assert crc32(content[100:], crc32(content[:100])) == zlib.crc32(content)
