"""Makes the parameters of a command from the dataclasses that declare its options: see `model/option.py`."""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import Field, fields, is_dataclass
from enum import Enum
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from asyncimport.model.option import option_of


def _show_all(context: typer.Context, is_given: bool) -> None:
    if is_given:
        for parameter in context.command.params:
            parameter.hidden = False  # type: ignore[attr-defined]
        typer.echo(context.get_help())
        raise typer.Exit


_HELP_ALL = Annotated[
    bool, typer.Option("--help-all", is_eager=True, callback=_show_all, help="Show all options and exit.")
]


def command(*, omit: Collection[str] = (), show: Collection[str] = ()) -> Callable[..., Callable[..., None]]:
    """Give a function the signature that Typer reads: its dataclasses are replaced by their options.

    An option that several of them declare is one parameter. The command has no option for the fields in `omit`, which
    keep their defaults, and its `--help` lists those in `show` though they are hidden elsewhere.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        kinds = get_type_hints(function, include_extras=True)
        kinds.pop("return")
        parameters: dict[str, Parameter] = {}
        for parameter in inspect.signature(function).parameters.values():
            kind = kinds[parameter.name]
            if not is_dataclass(kind):
                parameters[parameter.name] = parameter.replace(annotation=kind)
                continue
            for one in fields(kind):
                if option_of(one) is not None and one.name not in omit:
                    parameters[one.name] = _parameter(one, is_shown=one.name in show)
        help_all = Parameter("help_all", Parameter.POSITIONAL_OR_KEYWORD, default=False, annotation=_HELP_ALL)
        signature = Signature([*parameters.values(), help_all])

        @functools.wraps(function)
        def call(*words: Any, **options: Any) -> None:
            bound = signature.bind(*words, **options)
            bound.apply_defaults()
            given = bound.arguments
            function(
                **{name: _made(kind, given) if is_dataclass(kind) else given[name] for name, kind in kinds.items()}
            )

        call.__signature__ = signature  # type: ignore[attr-defined]  # Typer and `inspect` read it
        call.__annotations__ = {}
        return call

    return decorate


def _parameter(one: "Field[Any]", *, is_shown: bool) -> Parameter:
    declared = option_of(one)
    assert declared is not None  # noqa: S101 - the caller has looked
    kind, default = one.type, one.default
    if declared.form is not None:
        default = declared.form.none if default is None else declared.form.write(default)
        kind = str if default is not None else str | None
    elif get_origin(kind) is Sequence:
        kind, default = list[get_args(kind)[0]] | None, None  # type: ignore[misc]
    info = typer.Option(
        *declared.names,
        help=declared.help,
        metavar=declared.metavar or (declared.form.metavar if declared.form else None) or _metavar(one.type),
        hidden=declared.is_hidden and not is_shown,
        envvar=[*variables_of(declared.names[0].partition("/")[0]), *declared.variables]
        if declared.is_setting
        else None,
        **declared.further,
    )
    return Parameter(one.name, Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=Annotated[kind, info])


def _metavar(kind: Any) -> str | None:
    """Return how the help writes a value of this type; None for a flag."""
    for one in (kind, *get_args(kind)):
        if isinstance(one, type) and issubclass(one, Enum):
            return "|".join(choice.value for choice in one)
        if one in _METAVARS:
            return _METAVARS[one]
    return None


def _made(kind: Any, given: Mapping[str, Any]) -> Any:
    """Return a dataclass with the values that are given. Raises: UsageError."""
    return kind(**{one.name: _value(one, given[one.name]) for one in fields(kind) if one.name in given})


def _value(one: "Field[Any]", value: Any) -> Any:
    declared = option_of(one)
    if declared is not None and declared.form is not None and isinstance(value, str):
        return declared.form.read(value, declared.names[0])
    return tuple(value or ()) if get_origin(one.type) is Sequence else value


_METAVARS: Mapping[Any, str] = {Path: "PATH", str: "TEXT", int: "N"}

FORMER: Mapping[str, str] = {
    "--quiet-period": "--settle-time",
    "--quiet-time": "--min-age",
    "--max-outage": "--outage-timeout",
    "--limit": "--max-sessions",
    "--map": "--label-map",
    "--merge-patients": "--allow-mixed-patients",
    "--scan-first": "--check-first",
    "--strays": "--orphans",
    "--remove-strays": "--delete-orphans",
    "--since": "--study-since",
    "--reroute": "--relabel",
}
"""Former spellings of options, which still work and are on no page, with the present ones."""


def replace_former(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with present spellings."""
    end = words.index("--") if "--" in words else len(words)
    return [*map(_replace_former, words[:end]), *words[end:]]


def _replace_former(word: str) -> str:
    name, equals, value = word.partition("=")
    return f"{FORMER.get(name, name)}{equals}{value}"


def variables_of(option: str) -> list[str]:
    """Return the environment variables of an option: ASYNCIMPORT_MIN_AGE and ASYNCIMPORT_QUIET_TIME for --min-age."""
    names = [option, *(former for former, now in FORMER.items() if now == option)]
    return [f"ASYNCIMPORT_{name.lstrip('-').replace('-', '_').upper()}" for name in names]
