"""Values of options are converted, or refused with the valid ones, and pydantic is not imported for it."""

import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.main import get_command

from asyncimport.cli.options import Output
from asyncimport.cli.values import without_pydantic
from asyncimport.errors import InvalidOptionError, UsageError
from asyncimport.model.option import DURATION


def converted(kind: Any, value: Any, default: Any = None, metavar: str | None = None) -> Any:
    """Return what comes of a value of an option of this type. Raises: UsageError."""
    alone = typer.Typer(add_completion=False)

    @alone.command()
    def run(*, given: Any = default) -> None: ...

    run.__annotations__["given"] = Annotated[kind, typer.Option("--given", "-g", metavar=metavar)]
    command: Any = get_command(alone)
    (parameter,) = [one for one in without_pydantic(command.params) if one.name == "given"]
    return parameter.process_value(typer.Context(command), value)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (str | None, None, None),
        (str | None, "a\udc80", "a\udc80"),
        (str | None, 5, "5"),
        (str | None, date(2026, 1, 31), "2026-01-31"),
        (Path | None, "a/b", Path("a/b")),
        (Path | None, Path("a/b"), Path("a/b")),
        (bool, True, True),
        (bool, "1", True),
        (bool, "Yes", True),
        (bool, "off", False),
        (int, 5, 5),
        (int, "-5", -5),
        (float, "2.5", 2.5),
        (Output, "json", Output.JSON),
        (Output, Output.TABLE, Output.TABLE),
        (list[str] | None, None, ()),
        (list[str] | None, ("a", "b"), ["a", "b"]),
        (list[Path] | None, ["a"], [Path("a")]),
    ],
)
def test_values_are_converted(kind: Any, value: Any, expected: Any) -> None:
    """Values come from the command line, the environment, a profile, or are the default."""
    found = converted(kind, value, False if kind is bool else None)
    assert (type(found), found) == (type(expected), expected)


def test_a_profile_may_give_a_duration_as_a_number() -> None:
    """Labels need quotes: 1.10 would become 1.1."""
    assert converted(str | None, 2.5, metavar=DURATION.metavar) == "2.5"
    with pytest.raises(InvalidOptionError, match=r"'1\.1': a text in quotes"):
        converted(str | None, 1.10)


@pytest.mark.parametrize(
    ("kind", "value", "valid"),
    [
        (str | None, True, "a text in quotes"),
        (Path | None, "", "the path of a file or directory"),
        (Path | None, "a\0b", "the path of a file or directory"),
        (bool, "maybe", "yes or no"),
        (bool, "", "yes or no"),
        (int, "2.5", "a whole number"),
        (int, "1_000", "a whole number"),
        (int, "9" * 5_000, "a whole number"),
        (int, True, "a whole number"),
        (float, "nan", "a number"),
        (float, "x", "a number"),
        (Output, "JSON", "table or json"),
        (Output, 3, "table or json"),
        (list[str] | None, "a", "a list of texts, in brackets"),
        (list[Path] | None, ["a", ""], "the path of a file or directory"),
    ],
)
def test_invalid_values_are_refused(kind: Any, value: Any, valid: str) -> None:
    """The error has the option, the value, and what is valid."""
    with pytest.raises(InvalidOptionError) as caught:
        converted(kind, value, False if kind is bool else None)
    assert str(caught.value).startswith("invalid --given '")
    assert str(caught.value).endswith(f"': {valid}")
    assert caught.value.option == "--given"


def test_a_required_argument_that_is_missing() -> None:
    """The error says how the command is written."""
    alone = typer.Typer(add_completion=False)

    @alone.command()
    def run(sources: Annotated[list[Path], typer.Argument(metavar="SOURCE")]) -> None: ...

    command: Any = get_command(alone)
    with pytest.raises(UsageError, match="SOURCE is missing: run SOURCE"):
        without_pydantic(command.params)[0].process_value(typer.Context(command, info_name="run"), ())


def test_a_command_starts_without_what_it_does_not_need() -> None:
    """Pydantic would take a third of the start-up time; what shares the work of --dask is for that only."""
    script = (
        "import sys\n"
        "from contextlib import suppress\n"
        "from asyncimport.cli.app import app\n"
        "with suppress(SystemExit):\n"
        "    app(['upload', '/nowhere', '-P', 'demo', '-o', 'json', '--no-archive'], standalone_mode=False)\n"
        "sys.exit(' '.join({'pydantic', 'distributed', 'asyncimport.cluster'} & set(sys.modules)) or 0)\n"
    )
    environment = {"PATH": "", "ASYNCIMPORT_ADOPT_ROWS": "1"}
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, env=environment)
    assert "no server" in done.stdout
    assert done.returncode == 0, done.stderr


def test_an_upload_starts_without_what_it_may_not_need() -> None:
    """Attachments, demographics, comparison, unusual headers and other systems have modules of their own."""
    unwanted = {
        "asyncimport.operations.comparison",
        "asyncimport.pipeline.attachments",
        "asyncimport.xnat.resources",
        "asyncimport.xnat.subjects",
        "importlib.resources",
        "pydicom",
    }
    script = (
        "import sys, asyncimport.cli.upload, asyncimport.cli.uploading, asyncimport.operations.upload\n"
        f"sys.exit(' '.join({unwanted} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
