"""Two people with one PatientID: names are shown on a terminal, as rows that can be used, and nowhere else."""

from pathlib import Path
from typing import Any

import pytest
from builders import image, write
from conftest import Commands
from terminal import open_terminal

from asyncimport.testserver import TestXnat

pytestmark = pytest.mark.anyio

DOE, ROE = "Doe^Jane", "Roe^\x1b]0;evil\x07Jane"


def study(number: int, name: str) -> bytes:
    """Return an instance of a study of PatientID 0123."""
    return image(
        number,
        StudyInstanceUID=f"1.2.{number}",
        SeriesInstanceUID=f"1.2.{number}.1",
        PatientID="0123",
        PatientName=name,
        PatientBirthDate=f"19500{number}01",
        StudyDate="20200101",
        StudyID=f"{number}",
    )


FIELDS: dict[str, Any] = {
    "StudyInstanceUID": "1.2.1",
    "SeriesInstanceUID": "1.2.1.1",
    "PatientID": "0123",
    "StudyDate": "20200101",
    "StudyID": "1",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make a study of Doe, and two of Roe."""
    for number, name in ((1, DOE), (2, ROE)):
        write(tmp_path / "source" / f"{number}" / "a", study(number, name))
    return tmp_path / "source"


HEADER = "patient_id,name_1,birth_date_1,name_2,birth_date_2,issuer"
ROW = r"'0123,Doe^Jane,19500101,Roe^\x1b]0;evil\x07Jane,19500201,"


@pytest.mark.parametrize("columns", [60, 200])
@pytest.mark.parametrize("command", ["plan", "upload", "status", "upload --dry-run"])
async def test_a_terminal_shows_both_people(
    url: str, commands: Commands, source: Path, command: str, columns: int
) -> None:
    """Each command that reports the problem shows who is meant, and no name can write to the terminal."""
    commands.login(url)
    words: tuple[str, ...] = ("-P", "demo", "-E", "{StudyID}")
    if command == "status":
        assert (await commands("upload", source, *words)).code == 8
        words = ("-P", "demo")
    first, *more = command.split()
    sources = () if first == "status" else (source,)
    async with open_terminal(first, *more, *sources, *words, env=commands.env, columns=columns) as terminal:
        await terminal.end()
    screen = "".join(terminal.lines)
    assert HEADER in screen
    assert ROW in screen
    assert "study 1.2.1 has another" in screen
    assert b"\x1b]0;evil" not in terminal.raw
    piped = await commands(first, *more, *sources, *words)
    assert "study 1.2.1 has another" in piped.out
    assert not any(name in piped.out + piped.err for name in ("Doe", "Roe", "evil"))


async def test_the_rows_of_the_terminal_are_accepted(
    xnat: TestXnat, url: str, commands: Commands, source: Path, tmp_path: Path
) -> None:
    """They are put into a file as they are, and the run goes on."""
    (source / "2" / "a").unlink()
    write(source / "2" / "a", study(2, "Roe^Jane"))
    commands.login(url)
    words = (source, "-P", "demo", "-E", "{StudyID}")
    async with open_terminal("upload", *words, env=commands.env, columns=200) as terminal:
        assert await terminal.end() == 8
    lines = [line.strip() for line in terminal.lines]
    table = tmp_path / "pairs.csv"
    begin = lines.index(HEADER)
    table.write_text("\n".join(lines[begin : begin + 2]) + "\n")
    assert (await commands("upload", *words, "--accept-patients", table)).code == 0
    assert len(xnat.archived) == 2


async def test_a_file_that_is_gone_names_nobody(url: str, commands: Commands, source: Path) -> None:
    """The names are those of the files at that time; without one of them there is no row, and no error."""
    commands.login(url)
    assert (await commands("upload", source, "-P", "demo", "-E", "{StudyID}")).code == 8
    (source / "1" / "a").unlink()
    async with open_terminal("status", "-P", "demo", env=commands.env) as terminal:
        assert await terminal.end() == 0
    assert HEADER not in "\n".join(terminal.lines)


@pytest.mark.parametrize("command", ["plan", "upload"])
async def test_two_people_in_one_study(
    xnat: TestXnat, url: str, commands: Commands, source: Path, tmp_path: Path, command: str
) -> None:
    """Both are shown, and their pair is accepted."""
    (source / "2" / "a").unlink()
    write(source / "1" / "b", image(3, **FIELDS, PatientName="Roe^Jane"))
    write(source / "1" / "a", image(4, **FIELDS, PatientName="Doe^Jane"))
    commands.login(url)
    words = (source, "-P", "demo", "-E", "{StudyID}")
    async with open_terminal(command, *words, env=commands.env, columns=200) as terminal:
        await terminal.end()
    row = next(line.strip() for line in terminal.lines if line.strip().startswith("'0123"))
    assert sorted(row.split(",")[1::2]) == sorted(["Doe^Jane", "Roe^Jane", ""])
    table = tmp_path / "pairs.csv"
    table.write_text(f"{HEADER}\n{row}\n")
    assert (await commands("upload", *words, "--accept-patients", table)).code == 0
    assert len(xnat.sop_uids()) == 2
