"""The commands, assembled."""

import errno
import gc
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from asyncimport import __version__
from asyncimport.cli.values import quick
from asyncimport.errors import UsageError
from asyncimport.pacing.shutdown import Terminated, raise_on_sigterm

# Each command is the function of its name in the module of its name, which is imported when it is asked for: what they
# need takes longer to import than a person likes to wait for help.
_COMMANDS: Mapping[str, str] = {
    "upload": "Upload DICOM files: scan, send, build, archive, verify.",
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
        from asyncimport.cli.profiles import ProfiledCommand

        alone = typer.Typer(
            pretty_exceptions_enable=False,
            rich_markup_mode=None,
            add_completion=False,
            context_settings={"help_option_names": ["--help", "-h"]},
        )
        alone.command(name, cls=ProfiledCommand)(getattr(import_module(f"asyncimport.cli.{name}"), name))
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

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, which take no detour over pydantic."""
        return quick(super().get_params(ctx))

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


def main() -> None:
    """Run the command line; whatever ends it, standard error has a line that says why, and no traceback."""
    # Journals hold patients' identifiers: whatever is made from here on is for its owner only.
    os.umask(0o077)
    _open_standard_streams()
    raise_on_sigterm()
    code, lost = 1, None
    try:
        try:
            code = _run(sys.argv[1:])
        except OSError as error:
            if not _is_of_output(error):
                raise
            lost = error
        sys.exit(_written(code, lost))
    finally:
        # The process ends, and all it has with it: there is no need to look through that once more.
        gc.freeze()


def _run(words: list[str]) -> int:
    """Run a command, and return its exit code. A usage error still gives the JSON that a scheduler waits for."""
    try:
        return int(app(words, standalone_mode=False) or 0)
    except typer.Abort:
        return 130
    except Terminated:
        _write_failure(words, 143, UsageError("stopped"))
        return 143
    except SystemExit as end:
        # Typer says nothing of a pipe that nobody reads from any more.
        raise end.__context__ if isinstance(end.__context__, BrokenPipeError) else end from None
    except _ParsingError as error:
        problem = UsageError(_parsing_message(error), hint=f"see asyncimport {words[0] if words else ''} --help")
    except UsageError as error:
        problem = error
    except MemoryError:
        _complain("there is not enough memory", "give the process more, or run it on a part of the source")
        return 1
    if words[:1] == ["upload"]:
        _write_failure(words, 2, problem)
    _complain(str(problem), problem.hint)
    return problem.exit_code


def _parsing_message(error: Exception) -> str:
    """Return the message of an error of the parser, with the option that it is of."""
    parameter, message = getattr(error, "param", None), getattr(error, "message", "")
    if parameter is None:  # our own errors name the option
        return str(error)
    if not message:
        return error.format_message()  # type: ignore[attr-defined, no-any-return]
    name = next((name for name in parameter.opts if name.startswith("--")), parameter.opts[-1])
    return f"invalid {name}: {message.removeprefix('Value error, ').replace('Input should', 'it should').rstrip('.')}"


def _complain(message: str, hint: str) -> None:
    from asyncimport.model.texts import plain

    # Where standard error is lost, nobody can be told so.
    with suppress(OSError):
        sys.stderr.write(f"error: {plain(message)}\nhint: {plain(hint)}\n")


def _open_standard_streams() -> None:
    """Let nothing that is opened later take the number, and so the output, of a standard stream that was closed."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - as long as we live


def _is_of_output(error: OSError) -> bool:
    """Whether this says that standard output cannot be written: other files that cannot are told where they are."""
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return error.filename is None and error.errno in {errno.ENOSPC, errno.EPIPE, errno.EIO}


def _written(code: int, lost: OSError | None) -> int:
    """Write what waits to be, and return the exit code: 1 where it cannot be written, whatever has been done before."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            lost = error if stream is sys.stdout else lost
            # Python would try it once more, and complain in its own way.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if lost is None:
        return code
    _complain(
        f"standard output cannot be written: {(lost.strerror or str(lost)).lower()}",
        "what was done is done: `asyncimport status` tells what the journal holds",
    )
    return 1


def _write_failure(words: list[str], code: int, error: UsageError) -> None:
    """Write the JSON of a command that did not start, if the words ask for JSON."""
    if _wants_json(words):
        from asyncimport.cli.output import failure_json, write_json

        write_json(failure_json(words[0], error, code))


def _wants_json(words: list[str]) -> bool:
    return any(
        word in {"-ojson", "--output=json"} or (word in {"-o", "--output"} and following == "json")
        for word, following in zip(words, [*words[1:], ""], strict=True)
    )
