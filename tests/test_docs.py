"""README and docs say what the program does."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from asyncimport import errors
from asyncimport.cli.app import app
from asyncimport.cli.output import summary_json
from asyncimport.routing import ProblemCode

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")

# Typer keeps its parser to itself; what it makes of our functions can be read all the same.
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]


def section(title: str) -> str:
    """Return the README's section of this title, up to the next heading."""
    _, _, rest = README.partition(f"\n### {title}\n")
    assert rest, title
    return re.split(r"\n#", rest)[0]


def test_the_commands_of_the_readme_are_the_live_ones() -> None:
    """The table names every command, and no other."""
    named = set(re.findall(r"^\| `asyncimport (\w+)", section("Commands"), re.MULTILINE))
    assert named == set(COMMANDS)


def test_the_options_of_the_readme_are_the_live_ones() -> None:
    """The table names every option of `upload` with all its spellings, and no other."""
    named: set[str] = set()
    for row in re.findall(r"^\| (`-.*?) \|", section("Options of `upload`"), re.MULTILINE):
        named |= set(re.findall(r"`(-[\w-]+)`", row))
    live = {
        spelling
        for parameter in COMMANDS["upload"].params
        for spelling in [*parameter.opts, *parameter.secondary_opts]
        if spelling.startswith("-")
    }
    assert named == live


def test_every_option_of_upload_has_its_environment_variable() -> None:
    """As the README says: cron and containers need no command line; asking for help is no setting."""
    for parameter in COMMANDS["upload"].params:
        long = next((name for name in parameter.opts if name.startswith("--")), None)
        if long is not None and not parameter.is_eager:
            variables = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or []
            assert f"ASYNCIMPORT_{long[2:].replace('-', '_').upper()}" in variables, long


def test_help_is_there_at_once() -> None:
    """The list of commands loads none of them, nor what they need."""
    script = (
        "import sys; from asyncimport.cli.app import app; app(['--help'], standalone_mode=False); "
        "sys.exit(bool({'aiohttp', 'pydicom', 'rich'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert found.returncode == 0
    assert all(f"\n  {name} " in found.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_everything_has_a_help_text(name: str) -> None:
    """Each command and each of its options says what it does."""
    command = COMMANDS[name]
    assert command.help
    assert [parameter.name for parameter in command.params if not getattr(parameter, "help", "")] == []


def test_upload_shows_a_dozen_options() -> None:
    """`--help` shows those used most, not all."""
    shown = [
        parameter for parameter in COMMANDS["upload"].params if not parameter.hidden and parameter.name != "sources"
    ]
    assert len(shown) in range(10, 15)


def test_the_exit_codes_of_the_readme_are_those_of_the_errors() -> None:
    """Every error that ends a run has its code in the table."""
    rows = re.findall(r"^\| ([\d, ]+) \|", section("Exit codes"), re.MULTILINE)
    documented = {int(code) for row in rows for code in row.split(",")}
    kinds = [getattr(errors, name) for name in errors.__all__]
    used = {kind.exit_code for kind in kinds if isinstance(kind, type) and issubclass(kind, errors.AsyncimportError)}
    assert documented == used | {0, 8, 9, 130, 143}


def test_the_problems_of_the_readme_are_those_of_the_table() -> None:
    """Each problem that a plan or a dry run tells stands there once, with its severity."""
    told: dict[str, str] = {}
    for codes, severities in re.findall(r"^\| (`.*?) \| (.*?) \|", section("Plan first"), re.MULTILINE):
        named, said = re.findall(r"`([\w-]+)`", codes), severities.split(", ")
        told |= dict(zip(named, said * len(named) if len(said) == 1 else said, strict=len(said) > 1))
    assert told == {code.value: code.severity.value for code in ProblemCode}


def test_the_json_of_the_readme_is_what_upload_writes() -> None:
    """The example has the keys of the real thing, in its order."""
    example = json.loads(re.findall(r"```json\n(.*?)```", section("The JSON summary"), re.DOTALL)[0])
    live = summary_json(None, run=None, host=None, seconds=0.0, code=0)
    assert list(example) == list(live)
    for key in ("files", "bytes", "sessions"):
        assert list(example[key]) == list(live[key])  # type: ignore[call-overload]


def test_links_lead_somewhere() -> None:
    """Relative links in README and docs name files that exist."""
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_names_two_commands_and_the_guarantees() -> None:
    """It opens with what it does, that it does not de-identify, and what to type."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    assert blocks[0].strip().endswith("asyncimport demo")
    assert blocks[1].strip().endswith("pytest")
    assert "It does not de-identify" in README[:1500]


def test_typer_is_what_we_take_it_for() -> None:
    """Errors of parsing are recognised by a base of BadParameter, which must be an exception of their own."""
    parsing = typer.BadParameter.__bases__[0]
    assert issubclass(parsing, Exception)
    assert parsing not in {Exception, RuntimeError, ValueError}
