"""The main job on a real XNAT: set ASYNCIMPORT_TEST_XNAT_HOST, _USER, _PASS and _PROJECT.

Everything gets labels that nobody else has, and is deleted at the end. The project must be one that this user may
delete in. `pytest tests/real -n 0 -rP` prints what can be shared: the version, and what was found.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import image, write
from conftest import Commands
from pydicom.uid import generate_uid

from bench.servers import Served
from bench.site import Site

NAMES = [f"ASYNCIMPORT_TEST_XNAT_{name}" for name in ("HOST", "USER", "PASS", "PROJECT")]
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not all(os.environ.get(name) for name in NAMES), reason=f"there is no real XNAT: set {', '.join(NAMES)}"
    ),
]
FILES = 4


@pytest.fixture
def real() -> Iterator[Served]:
    """Give a place on the server, and delete afterwards what was put there."""
    with Site(*(os.environ[name] for name in NAMES)).visited() as served:
        yield served
    assert not served.left, served.left


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write one study whose UIDs nobody has."""
    study, series = generate_uid(), generate_uid()
    for number in range(FILES):
        content = image(
            number, StudyInstanceUID=study, SeriesInstanceUID=series, SOPInstanceUID=generate_uid(), PatientID="TEST"
        )
        write(tmp_path / "source" / f"{number}.dcm", content)
    return tmp_path / "source"


class Tool:
    """Runs commands for the session of a test."""

    def __init__(self, commands: Commands, real: Served) -> None:
        commands.env |= {"XNAT_HOST": real.url, "XNAT_USER": real.user, "XNAT_PASS": real.password}
        self._commands = commands
        self.project = real.project
        self.labels = ("-S", f"{real.prefix}S", "-E", f"{real.prefix}E")
        self._insecure = ("--insecure",) if real.url.startswith("http:") else ()

    async def run(self, *words: str | Path, code: int = 0) -> str:
        """Run a command, which must end with this code, and return what it says."""
        ended = await self._commands(*words, "-P", self.project, *self._insecure)
        assert ended.code == code, ended.out + ended.err
        return ended.out


@pytest.fixture
def tool(commands: Commands, real: Served) -> Tool:
    """Give the commands for one test."""
    return Tool(commands, real)


async def test_what_doctor_finds(tool: Tool) -> None:
    """It ends without an error of the login, the server or the project, and is worth sharing."""
    print(await tool.run("doctor"))  # noqa: T201 - this is to be shared


async def test_an_upload_is_verified_and_nothing_is_sent_twice(tool: Tool, source: Path) -> None:
    """Dry run, upload, verify, and the same again."""
    await tool.run("upload", source, *tool.labels, "--dry-run")
    first = await tool.run("upload", source, *tool.labels)
    assert "1 archived" in first
    await tool.run("verify")
    again = await tool.run("upload", source, *tool.labels)
    assert f"{FILES}    stored by an earlier run" in again


async def test_late_files_are_merged(tool: Tool, source: Path) -> None:
    """Into the session that is archived already."""
    late = source.parent / "late"
    late.mkdir()
    (source / "3.dcm").rename(late / "3.dcm")
    await tool.run("upload", source, *tool.labels)
    (late / "3.dcm").rename(source / "3.dcm")
    await tool.run("upload", source, *tool.labels)
    await tool.run("verify")


async def test_attachments_and_demographics(tool: Tool, source: Path) -> None:
    """A report goes beside the images, and a subject gets what a table says."""
    write(source / "report.pdf", b"%PDF-1.4 a report")
    table = write(source.parent / "subjects.csv", f"subject_label,gender,yob\n{tool.labels[1]},female,1970\n".encode())
    await tool.run("upload", source, *tool.labels, "--attach", "*.pdf=REPORTS", "--subjects", table.path)
    await tool.run("verify", "--attachments-bytes")
