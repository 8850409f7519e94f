"""Instances of the archive that somebody replaces after we have verified them: what is there is not ours any more.

UIDs stay as they were. What XNAT tells of its own files, the digests in its catalogs, does not.
"""

from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from builders import AT_ONCE, body_of, claim, image, logged_in, looked_at, no_sleep, sealed, sop, upload, write
from conftest import Commands

from asyncimport.journal import JournalReader
from asyncimport.model.deliveries import Archived
from asyncimport.model.files import Session
from asyncimport.testserver import TestXnat
from asyncimport.xnat.images import XnatDestination

pytestmark = pytest.mark.anyio

FILES = 3
SESSION = Session("demo", "S", "S_20200102", "1.2.3")


@pytest.fixture
def visit(tmp_path: Path) -> Path:
    """Write a session of three instances."""
    for number in range(1, FILES + 1):
        write(tmp_path / "visit" / str(number), image(number))
    return tmp_path / "visit"


def presumed(book: Path) -> list[str]:
    """Return the SOPInstanceUIDs whose bytes in the archive are not verified, by a journal."""
    with JournalReader.open(book) as reader:
        return [one.sop_uid for one in reader.sent_files(SESSION) if one.presumed]


async def replaces(url: str, tmp_path: Path, number: int) -> None:
    """Let somebody send another version of an instance, and archive it over ours."""
    file = write(tmp_path / "other" / str(number), image(number, PixelData=b"\7" * 100))
    async with logged_in(url) as client:
        there = XnatDestination(client, overwrite="append", policy=AT_ONCE, sleep=no_sleep)
        uri = await there.store(claim(file, number=number, session=SESSION), await body_of(file))
        assert isinstance(await there.finalize(sealed(uri, number, session=SESSION)), Archived)


async def test_a_replaced_instance_is_not_ours_any_more(
    xnat: TestXnat, url: str, commands: Commands, visit: Path, tmp_path: Path
) -> None:
    """`verify` says `present` and how many they are. Their files are not safe to delete; the others are."""
    commands.login(url)
    assert (await commands("upload", visit, "-P", "demo", "-q")).code == 0
    words = ("verify", "-P", "demo", "-o", "json", "--safe-to-delete", tmp_path / "safe")
    assert (await commands(*words)).json["details"][0]["verified"] == "uids"
    await replaces(url, tmp_path, 2)
    assert len(xnat.sop_uids()) == FILES
    verify = await commands(*words)
    (detail,) = verify.json["details"]
    assert (verify.code, detail["verified"], detail["replaced"]) == (0, "present", 1)
    assert detail["reason"] == "1 instance was replaced in the archive since the session was verified"
    assert (tmp_path / "safe").read_text().splitlines() == [str(visit / "1"), str(visit / "3")]
    assert detail["reason"] in (await commands("verify", "-P", "demo")).out


async def test_a_later_delivery_sees_what_was_replaced(xnat: TestXnat, url: str, visit: Path, tmp_path: Path) -> None:
    """A rerun that adds a file compares the whole session, and its result lasts."""
    book = tmp_path / "state" / "book"
    assert [one.verified for one in (await upload(url, [visit], book)).sessions] == ["uids"]
    write(visit / "4", image(4))
    assert [one.verified for one in (await upload(url, [visit], book)).sessions] == ["uids"]
    await replaces(url, tmp_path, 2)
    write(visit / "5", image(5))
    summary = await upload(url, [visit], book)
    (report,) = summary.sessions
    assert (report.state, report.verified, report.presumed) == ("archived", "present", 1)
    assert report.reason == "1 instance was replaced in the archive since the session was verified"
    assert xnat.sop_uids() == {sop(number) for number in range(1, 6)}
    assert await anyio.to_thread.run_sync(presumed, book) == [sop(2)]


async def test_only_the_replaced_one_is_not_safe_to_delete(url: str, visit: Path, tmp_path: Path) -> None:
    """The same, a few times: a result lasts until the next comparison."""
    book = tmp_path / "state" / "book"
    await upload(url, [visit], book)
    await replaces(url, tmp_path, 2)
    for _ in range(2):
        (finding,), safe = await looked_at(url, book)
        assert (finding.verified, sorted(finding.replaced)) == ("present", [sop(2)])
        assert safe == {str(visit / "1"), str(visit / "3")}


async def test_what_we_replace_ourselves_stays_ours(url: str, commands: Commands, visit: Path, tmp_path: Path) -> None:
    """`--resend-changed` sends other bytes on purpose: from then on their digest counts."""
    commands.login(url)
    assert (await commands("upload", visit, "-P", "demo", "-q")).code == 0
    write(visit / "2", image(2, PixelData=b"\7" * 100))
    words = ("upload", visit, "-P", "demo", "-q", "--resend-changed", "--overwrite", "append")
    assert (await commands(*words)).code == 0
    verify = await commands("verify", "-P", "demo", "-o", "json", "--safe-to-delete", tmp_path / "safe")
    (detail,) = verify.json["details"]
    assert (verify.code, detail["verified"], detail["replaced"]) == (0, "uids", 0)
    assert len((tmp_path / "safe").read_text().splitlines()) == FILES


async def test_without_digests_nobody_can_tell(
    xnat: TestXnat, url: str, commands: Commands, visit: Path, tmp_path: Path
) -> None:
    """Without checksums a replacement cannot be seen: only UIDs are compared."""
    xnat.storage.checksums = False
    commands.login(url)
    assert (await commands("upload", visit, "-P", "demo", "-q")).code == 0
    await replaces(url, tmp_path, 2)
    verify = await commands("verify", "-P", "demo", "-o", "json")
    assert (verify.code, verify.json["details"][0]["verified"]) == (0, "uids")
    # A first digest says nothing about earlier bytes.
    xnat.storage.checksums = True
    write(visit / "4", image(4))
    assert (await commands("upload", visit, "-P", "demo", "-q")).code == 0
    verify = await commands("verify", "-P", "demo", "-o", "json")
    assert verify.json["details"][0]["verified"] == "uids"
