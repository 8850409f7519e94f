"""`verify` beside an upload of the same journal: it speaks of what it has compared, and of nothing that came since."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from builders import image, sop, upload, write
from conftest import Commands
from verifying import compare

from asyncimport.journal import JournalReader
from asyncimport.model.options import Options
from asyncimport.model.summary import SessionReport
from asyncimport.operations.comparison import SessionFinding, verified_sources
from asyncimport.testserver import Conflict, Fault, TestXnat

pytestmark = pytest.mark.anyio

FILES = 3
BUILD_ONLY = Options(workers=2, finalizers=1, archive=False)


@pytest.fixture
def visit(tmp_path: Path) -> Path:
    """Write a session of three instances."""
    for number in range(1, FILES + 1):
        write(tmp_path / "visit" / str(number), image(number))
    return tmp_path / "visit"


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """Return the path of the journal."""
    return tmp_path / "state" / "book"


def safe_files(book: Path, findings: Sequence[SessionFinding]) -> set[str]:
    """Return the names of the files that `--safe-to-delete` would list now."""
    with JournalReader.open(book) as reader:
        return {Path(file.path).name for file, is_safe in verified_sources(reader, findings) if is_safe}


async def test_files_that_came_after_the_comparison_are_not_safe_to_delete(
    xnat: TestXnat, url: str, visit: Path, book: Path
) -> None:
    """They are in the prearchive, and nobody has seen them in the archive."""
    await upload(url, [visit], book)
    findings = await compare(url, book)
    write(visit / "new", image(9))
    await upload(url, [visit], book, options=BUILD_ONLY)
    assert sop(9) not in xnat.sop_uids()
    assert await anyio.to_thread.run_sync(safe_files, book, findings) == {"1", "2", "3"}


async def test_what_waits_in_the_prearchive_is_neither_safe_nor_repaired(
    xnat: TestXnat, url: str, commands: Commands, visit: Path, book: Path, tmp_path: Path
) -> None:
    """Somebody else has archived instances of these UIDs with other bytes; ours are held in the prearchive."""
    xnat.faults.add(Fault("archive", Conflict(), times=9))
    summary = await upload(url, [visit], book)
    assert [one.state for one in summary.sessions] == ["held"]
    xnat.faults.clear()
    (row,) = xnat.prearchive
    xnat.remove_row(row)
    other = tmp_path / "other"
    for number in range(1, FILES):
        write(other / str(number), image(number, PixelData=b"\7" * 100))
    await upload(url, [other], tmp_path / "others")
    xnat.add_row(row)
    commands.login(url)
    words = ("verify", "--repair", "--safe-to-delete", tmp_path / "safe", "--journal", book, "-o", "json")
    for _ in range(2):
        sent = xnat.count["import"]
        verify = await commands(*words)
        assert (verify.code, verify.json["details"][0]["missing"], verify.json["safe_to_delete"]) == (9, 1, 0), verify
        assert xnat.count["import"] == sent
        assert (tmp_path / "safe").read_text() == ""
    assert (await commands("status", "--journal", book, "-o", "json")).json["details"][0]["state"] == "held"


async def test_a_session_that_gets_files_while_others_are_compared_is_not_verified(
    url: str, visit: Path, book: Path
) -> None:
    """What is known of a session is read when it is compared: what is in the prearchive by then is not missing."""

    class Reader(JournalReader):
        """Another run sends a file after the sessions were listed."""

        def session_reports(self) -> tuple[SessionReport, ...]:
            found = super().session_reports()
            write(visit / "new", image(9))
            anyio.from_thread.run(partial(upload, url, [visit], book, options=BUILD_ONLY))
            return found

    await upload(url, [visit], book)
    (finding,) = await compare(url, book, Reader)
    problem = "not archived yet (prearchive)"
    assert (finding.verified, finding.problem, finding.missing) == (None, problem, frozenset())
