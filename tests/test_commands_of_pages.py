"""The commands of README and docs, run: each works on the test XNAT as somebody who reads the page types it.

The tutorial, the cookbook of labels and the recipes have tests of their own. The check runs the commands of the README
that install.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread
import pytest
from builders import image, write
from conftest import Commands

from asyncimport.testserver import Project, TestXnat
from asyncimport.testserver.samples import generated

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

ROOT = Path(__file__).parent.parent
OWN_TESTS = {"tutorial", "mapping", "recipes"}
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").glob("*.md") if page.stem not in OWN_TESTS)]
BLOCK = re.compile(r"^```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(?:\$ |\S+ \* \* \* \* )?(?:XNAT_HOST=\S+ )?(asyncimport .*)$", re.MULTILINE)
# What follows a command of the README is what it says.
OUTPUT = re.compile(r"^\$ (asyncimport [^\n]*)\n((?:(?![$`])[^\n]+\n)+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Change:
    """What a test does instead of what the page says, and why."""

    why: str
    words: Sequence[str] = ()
    stdin: bytes = b""
    code: int = 0
    serves: bool = False


CHANGES: Mapping[str, Change] = {
    "--watch": Change("only a signal ends a watch", ("--max-duration", "1s"), code=130),
    "login": Change("it asks on a terminal", ("--user", "demo", "--password-stdin"), b"demo\n"),
    "testserver": Change("it serves until a signal, and port 8090 may be taken", ("--port", "0"), serves=True),
    "forget": Change("it asks on a terminal", ("--yes",)),
}


def commands_of(page: Path) -> Iterator[str]:
    """Yield the commands of a page."""
    for block in BLOCK.findall(page.read_text("utf-8")):
        yield from COMMAND.findall(block)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Make what the pages take for granted: files to send, and where a reader is."""
    for place in ("dicom", "incoming", "visits", "export", "a-few-files"):
        for number, patient in enumerate(("P1", "S01", "P001", "P002", "S1"), start=1):
            content = image(
                number,
                PatientID=patient,
                StudyInstanceUID=f"1.2.{number}",
                SeriesInstanceUID=f"1.2.{number}.1",
                StudyDate="20200131" if patient == "P1" else "20200102",
                PatientSex="F",
                PatientBirthDate="19700131",
            )
            write(tmp_path / "data" / place / patient / f"{number}.dcm", content)
    for name in ("visit.pdf", "values.csv"):
        write(tmp_path / "data" / "visits" / "S01" / name, name.encode())
    (tmp_path / "data" / "metrics").mkdir()
    work = tmp_path / "work"
    generated(work / "incoming", sessions=3, files=60, size=20_000, seed=1)
    (work / "report.pdf").write_bytes(b"a report")
    (work / "files.csv").write_text("path,session_label,resource\nreport.pdf,S01_20200102,TABLES\n")
    (work / "subjects.csv").write_text("subject_label,gender\nS1,female\n")
    return work


@pytest.fixture
def reader(commands: Commands, xnat: TestXnat, url: str, work: Path) -> Commands:
    """Make somebody who has a project, a login and a profile, and only what `pip install .` brings."""
    for project in ("MYPROJECT", "MYTEST"):
        xnat.add_project(Project(project))
    commands.login(url)
    write(
        commands.home / ".config" / "asyncimport" / "config.toml",
        f'default_profile = "work"\n[profiles.work]\nhost = "{url}"\nproject = "MYPROJECT"\n'.encode(),
    )
    commands.directory, commands.absent = work, ("keyring",)
    return commands


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands_of(page))], ids=lambda page: page.stem)
async def test_the_commands_of_a_page_work(page: Path, reader: Commands, url: str, work: Path) -> None:
    """One after the other, in one place."""
    text = page.read_text("utf-8")
    for table in re.findall(r"^```csv\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for name in ("subjects.csv", "batch.csv"):
            (work / name).write_text(table)
    if "[keyring]" in text:
        reader.absent = ()
        reader.use_keyring()
    if any(command.startswith("asyncimport login") for command in commands_of(page)):
        reader.env = {name: value for name, value in reader.env.items() if not name.startswith("XNAT_")}
    if page.stem in {"report", "troubleshooting", "verify"}:
        # The reader has uploaded something before.
        assert (await reader("upload", work.parent / "data" / "dicom", "-q")).code == 0
    said = dict(OUTPUT.findall(text))
    for command in commands_of(page):
        words = shlex.split(command.partition(" > ")[0], comments=True)[1:]
        words = [re.sub("^/data/", f"{work.parent}/data/", word) for word in words]
        words = [url if word == "https://xnat.example.org" else word for word in words]
        changes = [change for name, change in CHANGES.items() if name in words]
        words += [word for change in changes for word in change.words]
        if any(change.serves for change in changes) and "--compare" not in words:
            async with reader.start(*words) as process:
                assert process.stdout is not None
                assert b"http://127.0.0.1" in await process.stdout.receive(), command
                process.terminate()
                assert await process.wait() == 0, command
            continue
        ended = await reader(*words, stdin=b"".join(change.stdin for change in changes))
        assert ended.code == sum(change.code for change in changes), f"{command}\n{ended.out}{ended.err}"
        for line in said.get(command, "").splitlines():
            assert re.search(re.escape(line).replace("0:00", r"\d:\d\d"), ended.out), (line, ended.out)
        if " > " in command:
            target = work / command.partition(" > ")[2].split(";")[0].strip()
            await anyio.to_thread.run_sync(target.write_text, ended.out)
