"""Parameters of commands are made of dataclasses, each option once."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from importlib import import_module
from typing import Any, get_args

import pytest
import typer

from asyncimport.cli.app import COMMANDS
from asyncimport.cli.parameters import command
from asyncimport.errors import UsageError
from asyncimport.model import options
from asyncimport.model.option import DURATION, duration_text, option, option_of, rare, seconds_of, setting
from asyncimport.model.options import Options
from asyncimport.operations.planning import PlanRequest
from asyncimport.operations.upload_request import UploadRequest


class Size(StrEnum):
    """A choice."""

    SMALL = "small"
    LARGE = "large"


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Options that two groups share."""

    pause: float | None = rare("--pause", default=90.0, form=DURATION, help="A pause.")


@dataclass(frozen=True, kw_only=True)
class First(Shared):
    """A group."""

    size: Size = option("--size", "-s", default=Size.SMALL, help="A size.")
    names: Sequence[str] = setting("--name", default=(), help="Names.", metavar="NAME")
    internal: int = 3


@dataclass(frozen=True, kw_only=True)
class Second(Shared):
    """Another group."""

    limit: int = setting("--limit", default=2, help="A limit.")


def signature_of(function: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters that Typer sees."""
    return inspect.signature(function).parameters


def info_of(parameter: inspect.Parameter) -> Any:
    """Return what Typer is told about a parameter."""
    return get_args(parameter.annotation)[1]


def test_an_option_of_two_groups_is_one_parameter() -> None:
    """Both groups get its value; a field without an option keeps its default."""
    calls: list[tuple[int, First, Second]] = []

    @command()
    def run(count: int, *, first: First, second: Second) -> None:
        calls.append((count, first, second))

    assert list(signature_of(run)) == ["count", "pause", "size", "names", "limit", "help_all"]
    run(1, pause="2m", names=["a"], size=Size.LARGE)
    run(2)
    assert calls == [
        (1, First(pause=120.0, size=Size.LARGE, names=("a",)), Second(pause=120.0)),
        (2, First(), Second()),
    ]


def test_defaults_are_shown_as_they_are_written() -> None:
    """Typer gets texts, so that help shows `1m30s` as people write it."""

    @command()
    def run(*, first: First) -> None:
        del first

    parameters = signature_of(run)
    assert {name: one.default for name, one in parameters.items()} == {
        "pause": "90s",
        "size": Size.SMALL,
        "names": None,
        "help_all": False,
    }
    assert info_of(parameters["pause"]).envvar == ["ASYNCIMPORT_PAUSE"]
    assert info_of(parameters["size"]).envvar is None


def test_a_command_may_omit_or_show_options() -> None:
    """What is omitted keeps its default. What is rare elsewhere may be in `--help` here."""
    calls: list[First] = []

    @command(omit={"size"}, show={"pause"})
    def run(*, first: First) -> None:
        calls.append(first)

    parameters = signature_of(run)
    assert "size" not in parameters
    assert not info_of(parameters["pause"]).hidden
    run()
    assert calls == [First()]


def test_a_wrong_value_names_its_option() -> None:
    """The function is not called."""

    @command()
    def run(*, first: First) -> None:
        pytest.fail(f"called with {first}")

    with pytest.raises(UsageError, match="invalid --pause 'soon': a duration"):
        run(pause="soon")


@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.0, 90.0, 120.0, 3600.0, 5400.0, 86_400.0])
def test_durations_are_read_as_they_are_written(seconds: float) -> None:
    """No default changes on its way over the command line."""
    assert seconds_of(duration_text(seconds), "--pause") == seconds


def declarations() -> Iterator[tuple[str, Any]]:
    """Yield the first name and the default of each option where it is declared."""
    modules = [options, *(import_module(f"asyncimport.cli.{name}") for name in ("options", *COMMANDS))]
    for module in modules:
        for kind in vars(module).values():
            if is_dataclass(kind) and kind.__module__ == module.__name__:
                for one in fields(kind):
                    declared = option_of(one)
                    if declared is not None and one.name in vars(kind).get("__annotations__", {}):
                        yield declared.names[0], one.default


def test_each_option_is_declared_once() -> None:
    """Only these mean something else in another command."""
    names = [name for name, _ in declarations()]
    assert {name for name in names if names.count(name) > 1} == {
        *("--dry-run", "--event-reason", "--force", "--out", "--output", "--project", "--session", "--subject")
    }


def test_the_library_has_the_defaults_of_the_command_line() -> None:
    """A request, and the options of the pipeline, have no defaults of their own."""
    for request in (UploadRequest, PlanRequest, Options):
        inherited = {one.name: one for kind in request.__mro__[1:] if is_dataclass(kind) for one in fields(kind)}
        own = vars(request).get("__annotations__", {})
        assert not set(own) & set(inherited), request
    upload = import_module("asyncimport.cli.upload").upload
    for name, parameter in signature_of(upload).items():
        matching = [one for one in (*fields(Options), *fields(UploadRequest)) if one.name == name]
        for one in matching:
            declared = option_of(one)
            if declared is not None and declared.form is None and not isinstance(one.default, tuple):
                assert parameter.default == one.default, name


def test_typer_reads_the_signature() -> None:
    """What is made here is what Typer parses."""
    app = typer.Typer()
    calls: list[First] = []

    @command()
    def run(*, first: First) -> None:
        calls.append(first)

    app.command()(run)
    app(["--pause", "1h", "-s", "large", "--name", "a", "--name", "b"], standalone_mode=False)
    assert calls == [First(pause=3600.0, size=Size.LARGE, names=("a", "b"))]
