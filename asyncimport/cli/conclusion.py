"""Concludes a command: its result, what ended it early, its exit code. It imports no event loop, which takes long."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from asyncimport.cli.options import Screen
from asyncimport.cli.output import head_json, show_error, write_json

if TYPE_CHECKING:
    from asyncimport.operations.result import Result

R = TypeVar("R", bound="Result")


def outcome_json(command: str, result: "Result", host: str | None) -> dict[str, object]:
    """Return how a command ended, for JSON."""
    return head_json(command, host, result.exit_code, result.error)


def conclude(
    screen: Screen,
    result: R,
    *,
    as_json: Callable[[R], Mapping[str, object]],
    show: Callable[[Console, R], None],
    if_stopped: str = "the same command goes on from here",
) -> NoReturn:
    """Write a result as a table or as JSON, then what ended the operation before its time, and exit."""
    out, err = screen.consoles
    if screen.as_json:
        write_json(as_json(result))
    else:
        show(out, result)
    if result.error is not None:
        show_error(err, result.error)
    elif result.signal is not None:
        err.print(Text("; ".join(filter(None, ("stopped", if_stopped)))))
    raise typer.Exit(result.exit_code)
