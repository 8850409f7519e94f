"""Values of options are converted as Typer does it, but faster."""

import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest
import typer
from typer.main import get_command

from asyncimport.cli.app import _COMMANDS
from asyncimport.cli.profiles import ProfiledCommand
from asyncimport.cli.values import without_pydantic

VALUES: tuple[Any, ...] = (
    None,
    "",
    "1",
    "0",
    "yes",
    "TRUE",
    "maybe",
    "json",
    "JSON",
    "-3",
    "2.5",
    "a/b\udc80",
    "-",
    True,
    5,
    0.5,
    (),
    ("a", "b"),
    ["*.pdf=REPORTS"],
)


def parameters(name: str) -> list[Any]:
    """Return the parameters of a command, as Typer makes them."""
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name)(getattr(import_module(f"asyncimport.cli.{name}"), name))
    command: Any = get_command(alone)
    return list(command.get_params(typer.Context(command)))


def converted(parameter: Any, context: Any, value: Any) -> Any:
    """Return what comes of a value, with its type, or the error."""
    try:
        found = parameter.process_value(context, value)
    except (typer.BadParameter, typer.Exit, AssertionError, TypeError, AttributeError) as error:
        return type(error), getattr(error, "message", "")
    return type(found), list(found) if isinstance(found, tuple | list) else found


@pytest.mark.parametrize("name", _COMMANDS)
def test_values_are_converted_as_typer_does_it(name: str) -> None:
    """The values and the errors are the same."""
    slow, fast = parameters(name), without_pydantic(parameters(name))
    context = typer.Context(ProfiledCommand(name, params=fast))
    for one, other in zip(slow, fast, strict=True):
        for value in (one.default, *VALUES):
            assert converted(other, context, value)[1] == converted(one, context, value)[1], (one.name, value)


def test_a_command_starts_without_pydantic() -> None:
    """It would take a third of the start-up time."""
    script = (
        "import sys\n"
        "from contextlib import suppress\n"
        "from asyncimport.cli.app import app\n"
        "with suppress(SystemExit):\n"
        "    app(['upload', '/nowhere', '-P', 'demo', '-o', 'json', '--no-archive'], standalone_mode=False)\n"
        "sys.exit('pydantic' in sys.modules)\n"
    )
    environment = {"PATH": "", "ASYNCIMPORT_ADOPT_ROWS": "1"}
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, env=environment)
    assert "no server" in done.stdout
    assert done.returncode == 0, done.stderr
