"""The manual page is that of the live commands, and every help has examples."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from asyncimport.cli.app import COMMANDS, app
from asyncimport.cli.examples import EXAMPLES
from asyncimport.cli.manual import manual

PAGE = Path(__file__).parent.parent.parent / "docs" / "asyncimport.1"
GROUP: Any = get_command(app)


def test_the_manual_page_is_up_to_date() -> None:
    """After a change: `python -m asyncimport.cli.manual > docs/asyncimport.1`."""
    assert PAGE.read_text("utf-8") == manual()


def test_the_manual_page_names_the_variables_of_the_docs() -> None:
    """Nobody finds those of passwords and proxies beside an option."""
    section = (PAGE.parent / "options.md").read_text("utf-8").partition("\n## Environment variables\n")[2]
    named = set(re.findall(r"`([A-Z][A-Z_]+)`", section.partition("\n## ")[0])) - {"ASYNCIMPORT_MAX_RATE"}
    assert len(named) > 10
    assert named <= set(re.findall(r"[A-Z][A-Z_]+", PAGE.read_text("utf-8").replace(r"\fB", "")))


@pytest.mark.parametrize("words", [("groff", "-man", "-Tutf8", "-ww"), ("mandoc", "-Tlint", "-Werror")])
def test_programs_for_manual_pages_accept_it(words: tuple[str, ...]) -> None:
    """They have no warnings; mandoc tells of those that it takes for errors."""
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    done = subprocess.run([*words, PAGE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_command_has_examples() -> None:
    """So does the list of the commands."""
    assert set(EXAMPLES) == {"", *COMMANDS}
    assert all(EXAMPLES.values())


@pytest.mark.parametrize("example", [one for examples in EXAMPLES.values() for one in examples])
def test_an_example_can_be_typed(example: str) -> None:
    """Its command and its options exist, and it fits a terminal."""
    _, name, *words = shlex.split(example)
    assert len(example) <= 78
    assert name in {*COMMANDS, "help"}
    options = {
        spelling
        for parameter in GROUP.commands.get(name, GROUP).params
        for spelling in (*parameter.opts, *parameter.secondary_opts)
    }
    assert {word for word in words if word.startswith("-")} <= options


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_a_help_shows_its_examples_and_no_types_of_python(name: str) -> None:
    """Examples are not wrapped, so that they can be copied."""
    command = GROUP.commands[name] if name else GROUP
    with command.make_context(f"asyncimport {name}".strip(), [], resilient_parsing=True, terminal_width=60) as context:
        text = command.get_help(context)
    assert [f"  {one}" for one in EXAMPLES[name]] == text.partition("Examples:\n")[2].splitlines()
    assert re.findall(r"<\w+|list\[|Usage: .*\{", text) == []
