"""The commands, assembled."""

import gc
import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from asyncimport import __version__
from asyncimport.errors import UsageError

__all__ = ["app", "main"]

# Each command is the function of its name in the module of its name, which is imported when it is asked for: what they
# need takes longer to import than a person likes to wait for help.
_COMMANDS: Mapping[str, str] = {
    "upload": "Upload DICOM files: scan, send, commit, archive, verify.",
    "plan": "Scan, and say what would go where, with every problem.",
    "status": "Show what was uploaded, what is left, and why.",
    "verify": "Check that the archive still holds everything that was stored.",
    "forget": "Take out of the journal what no longer matters.",
    "attach": "Put PDF, CSV and other files into resources of the archive.",
    "subjects": "Set demographics of subjects from a CSV file.",
    "login": "Try a login once, and keep it.",
    "doctor": "Check server, login and projects; say what to change.",
    "testserver": "Run the embedded test XNAT on this machine.",
    "demo": "Move sample files into a test XNAT on this machine.",
}


class _Commands(Mapping[str, Any]):
    """The commands by their names, each loaded when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        if name not in _COMMANDS:
            raise KeyError(name)
        from asyncimport.cli.profiles import Profiled

        alone = typer.Typer(
            pretty_exceptions_enable=False,
            rich_markup_mode=None,
            add_completion=False,
            context_settings={"help_option_names": ["--help", "-h"]},
        )
        alone.command(name, cls=Profiled)(getattr(import_module(f"asyncimport.cli.{name}"), name))
        return get_command(alone)

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


class _Group(TyperGroup):
    """A group whose commands are loaded when they are needed."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands()  # type: ignore[assignment]  # nobody adds any

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - as Typer calls it
        """Write what there is, without loading it."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


# Typer's own tracebacks show the values of variables: passwords and patients.
app = typer.Typer(
    name="asyncimport",
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"asyncimport {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Move large DICOM collections from disk into an XNAT archive, fast, and with proof that nothing was lost."""


# Typer keeps to itself what it parses with, but for this: an error of the command line is a base of BadParameter.
_ParsingError: type[Exception] = typer.BadParameter.__bases__[0]

# So many things more than before, and the collector looks for garbage. With Python's own 700 it takes a tenth of the
# time that starting takes, as it goes through all that is imported while that is imported.
_THINGS = 50_000


def main() -> None:
    """Run the command line. A usage error that Typer finds still gives the JSON that a scheduler waits for."""
    # Journals hold patients' identifiers: whatever is made from here on is for its owner only.
    os.umask(0o077)
    gc.set_threshold(_THINGS)
    words = sys.argv[1:]
    try:
        sys.exit(app(words, standalone_mode=False))
    except typer.Abort:
        sys.exit(130)
    except _ParsingError as error:
        if words[:1] == ["upload"] and _wants_json(words):
            from asyncimport.cli.output import summary_json, write_json

            write_json(summary_json(None, run=None, host=None, seconds=0.0, code=2, error=UsageError(str(error))))
        typer.echo(f"error: {error}", err=True)
        typer.echo(f"hint: see asyncimport {words[0] if words else ''} --help", err=True)
        sys.exit(2)
    finally:
        # The process ends, and all it has with it: there is no need to look through that once more.
        gc.freeze()


def _wants_json(words: list[str]) -> bool:
    return any(
        word in {"-ojson", "--output=json"} or (word in {"-o", "--output"} and following == "json")
        for word, following in zip(words, [*words[1:], ""], strict=True)
    )
