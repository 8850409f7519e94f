"""Wrong invocations, as a table of data: each gets its exit code, one line that names what is wrong, and a hint.

The table is `wrong_invocations.txt`: a command as people type it, its exit code, and what it writes to standard error.
`…` stands for any text, SERVER for the test XNAT, JOURNAL for the journal of an upload, HOME and DIR for directories.
"""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import Commands
from results_schema import check_result

from asyncimport.cli.app import COMMANDS
from asyncimport.testserver import Project, TestXnat
from asyncimport.testserver.samples import generated

pytestmark = pytest.mark.anyio

FILES = {
    "note.txt": "a note\n",
    "empty/note.txt": "a note\n",
    "empty.csv": "",
    "plan.csv": "subject_label,session_label,study_uid\nA,B,1.2.3\n",
    "subjects.csv": "subject_label,gender\nA,M\n",
    "bad.toml": "[profiles\n",
    "typo.toml": '[profiles.site]\nhots = "https://xnat.example.org"\n',
    "default.toml": "[profiles.site.defaults]\nworker = 4\n",
    "secret.toml": '[profiles.site]\npassword = "x"\n',
    "site.toml": '[profiles.site.defaults]\nworkers = "many"\n',
}


class Wrong(NamedTuple):
    """A row of the table: a command line, its exit code, and the lines that it writes to standard error."""

    line: str
    code: int
    told: str


def table() -> Iterator[Wrong]:
    """Read the table."""
    text = Path(__file__).with_name("wrong_invocations.txt").read_text("utf-8")
    for block in re.findall(r"^\$ .*\n(?:.+\n)+", text, re.MULTILINE):
        line, code, told = block.split("\n", 2)
        yield Wrong(line.removeprefix("$ "), int(code), told)


TABLE = list(table())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write what the commands of the table are about. They change nothing of it."""
    directory = tmp_path_factory.mktemp("place")
    generated(directory / "tree", sessions=2, files=12, size=2_000, seed=1)
    for name, content in FILES.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    return directory


async def run(commands: Commands, url: str, place: Path, line: str) -> tuple[int, str, str]:
    """Return the exit code of a command line, and its outputs with placeholders."""
    commands.directory = place
    commands.login(url)
    journal = commands.home / "demo.journal"
    if "JOURNAL" in line:
        assert (await commands("upload", "tree", "-P", "demo", "--journal", journal, "-q")).code == 0
    placeholders = {"SERVER": url.removeprefix("http://"), "JOURNAL": str(journal)}
    for name, value in placeholders.items():
        line = line.replace(name, value)
    words = shlex.split(line)
    program = words.index("asyncimport")
    commands.env |= {"ASYNCIMPORT_OUTPUT": "json", **dict(word.split("=", 1) for word in words[:program])}
    ended = await commands(*words[program + 1 :])
    out, err = ended.out, ended.err
    for name, value in {**placeholders, "DIR": str(place), "HOME": str(commands.home)}.items():
        out, err = out.replace(value, name), err.replace(value, name)
    return ended.code, out, err


def test_the_table_is_long_and_names_no_command_line_twice() -> None:
    """Every row is read, and every command has some."""
    lines = [row.line for row in TABLE]
    assert len(lines) == len(set(lines)) >= 130
    assert {name for name in COMMANDS for line in lines if f"asyncimport {name}" in line} == set(COMMANDS)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.line)
async def test_a_wrong_invocation(xnat: TestXnat, url: str, commands: Commands, place: Path, row: Wrong) -> None:
    """It has its exit code, one line and a hint, and writes the same as JSON; nothing is sent."""
    xnat.add_project(Project("readonly", readers={"demo"}, editors=set()))
    code, out, err = await run(commands, url, place, row.line)
    assert re.fullmatch(".*".join(map(re.escape, row.told.split("…"))), err), err
    assert code == row.code
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["error", "hint"]
    assert all(line.partition(": ")[2] for line in err.splitlines())
    assert xnat.count["import"] == 0 or "JOURNAL" in row.line
    asked = re.findall(r"(?:-o|ASYNCIMPORT_OUTPUT=) ?(\S*)", row.line) or ["json"]
    if asked[-1] == "json" and "asyncimport init" not in row.line:  # which asks a person
        result = json.loads(out)
        check_result(result)
        assert (result["exit_code"], f"error: {result['error']['message']}") == (code, err.splitlines()[0])
