"""The commands, assembled."""

import os
import sys
from typing import Annotated

import typer

from asyncimport import __version__
from asyncimport.cli.demo import demo
from asyncimport.cli.doctor import doctor
from asyncimport.cli.forget import forget
from asyncimport.cli.login import login
from asyncimport.cli.output import summary_json, write_json
from asyncimport.cli.plan import plan
from asyncimport.cli.profiles import Profiled
from asyncimport.cli.status import status
from asyncimport.cli.testserver import testserver
from asyncimport.cli.upload import upload
from asyncimport.cli.verify import verify
from asyncimport.errors import UsageError

__all__ = ["app", "main"]

# Typer's own tracebacks show the values of variables: passwords and patients.
app = typer.Typer(
    name="asyncimport",
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


for _command in (upload, plan, status, verify, forget, login, doctor, testserver, demo):
    app.command(cls=Profiled)(_command)


# Typer keeps to itself what it parses with, but for this: an error of the command line is a base of BadParameter.
_ParsingError: type[Exception] = typer.BadParameter.__bases__[0]


def main() -> None:
    """Run the command line. A usage error that Typer finds still gives the JSON that a scheduler waits for."""
    # Journals hold patients' identifiers: whatever is made from here on is for its owner only.
    os.umask(0o077)
    words = sys.argv[1:]
    try:
        sys.exit(app(words, standalone_mode=False))
    except typer.Abort:
        sys.exit(130)
    except _ParsingError as error:
        if words[:1] == ["upload"] and _wants_json(words):
            write_json(summary_json(None, run=None, host=None, seconds=0.0, code=2, error=UsageError(str(error))))
        typer.echo(f"error: {error}", err=True)
        typer.echo(f"hint: see asyncimport {words[0] if words else ''} --help", err=True)
        sys.exit(2)


def _wants_json(words: list[str]) -> bool:
    return any(
        word in {"-ojson", "--output=json"} or (word in {"-o", "--output"} and following == "json")
        for word, following in zip(words, [*words[1:], ""], strict=True)
    )
