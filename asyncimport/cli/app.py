"""The commands, assembled."""

import errno
import gc
import io
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
from asyncimport.cli.examples import EXAMPLES, write_examples
from asyncimport.cli.parsing_errors import unknown_command, usage_error
from asyncimport.cli.values import without_pydantic
from asyncimport.errors import UsageError
from asyncimport.pacing.shutdown import Terminated, raise_on_sigterm

# Each command is a function in a module of the same name. The module is imported when the command is used, because all
# imports together take too long to wait for help.
COMMANDS: Mapping[str, str] = {
    "init": "Set up a first migration: ask, check, keep, plan.",
    "upload": "Upload DICOM files: scan, send, build, archive, verify.",
    "plan": "Scan, and say what would go where, with every problem.",
    "status": "Show what was uploaded, what is left, and why.",
    "report": "Make a page of what was uploaded, to hand on.",
    "verify": "Check that the archive still holds everything that was stored.",
    "forget": "Delete from the journal what is no longer needed.",
    "attach": "Put PDF, CSV and other files into resources of the archive.",
    "subjects": "Set demographics of subjects from a CSV file.",
    "login": "Try a login once, and keep it.",
    "doctor": "Check server, login and projects; say what to change.",
    "testserver": "Run the embedded test XNAT on this machine.",
    "demo": "Move sample files into a test XNAT on this machine.",
}
# Typer's own tracebacks show the values of variables, such as passwords and patients' data.
_SETTINGS: Mapping[str, Any] = {
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["--help", "-h"]},
}


class _Commands(Mapping[str, Any]):
    """The commands by name. Each is loaded when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        if name not in COMMANDS:
            raise KeyError(name)
        from asyncimport.cli.profiles import ProfiledCommand

        single = typer.Typer(add_completion=False, **_SETTINGS)
        single.command(name, cls=ProfiledCommand, epilog="\n".join(EXAMPLES[name]))(
            getattr(import_module(f"asyncimport.cli.{name}"), name)
        )
        return get_command(single)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Group(TyperGroup):
    """A group that loads its commands when they are needed."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands()  # type: ignore[assignment]  # read-only is enough

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, with values converted without pydantic."""
        return without_pydantic(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words. `help upload` is `upload --help`."""
        try:
            return super().parse_args(ctx, [*args[1:], "--help"] if args[:1] == ["help"] else args)
        except _ParsingError as error:
            error.ctx = error.ctx or ctx  # type: ignore[attr-defined]  # Typer hides its class
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the words begin with. Raises: UsageError."""
        if args[0] not in self.commands and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise unknown_command(args[0], list(COMMANDS))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - Typer's signature
        """List the commands without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - Typer's signature
        """Write examples."""
        write_examples(formatter, EXAMPLES[""])


app = typer.Typer(name="asyncimport", cls=_Group, **_SETTINGS)


def _version(is_given: bool) -> None:
    if is_given:
        typer.echo(f"asyncimport {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", "-V", is_eager=True, callback=_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Move large DICOM collections from disk into an XNAT archive, fast, and with proof that nothing was lost."""


# Typer hides its parser. Only a base of BadParameter shows the class of all errors of the command line.
_ParsingError: type[Exception] = typer.BadParameter.__bases__[0]


def main() -> None:
    """Run the command line. If it fails, standard error has a line that says why, and no traceback."""
    # Journals hold patients' identifiers. All new files are readable by their owner only.
    os.umask(0o077)
    _open_standard_streams()
    raise_on_sigterm()
    code, output_error = 1, None
    try:
        try:
            code = _run(sys.argv[1:])
        except OSError as error:
            if not _is_of_output(error):
                raise
            output_error = error
        sys.exit(_flush(code, output_error))
    finally:
        # The process ends. The garbage collector need not look through its memory once more.
        gc.freeze()


def _run(words: list[str]) -> int:
    """Run a command, and return its exit code. After a usage error it still writes its JSON."""
    try:
        # A shell asks for completions by this variable, without words.
        if not words and "_ASYNCIMPORT_COMPLETE" not in os.environ:
            # A script that has lost its words must not take this for success.
            sys.stderr.write(_help())
            return UsageError.exit_code
        return int(app(words, prog_name="asyncimport", standalone_mode=False) or 0)
    except (typer.Abort, KeyboardInterrupt):
        # Typer turns the second into the first, unless another Ctrl-C comes while it does.
        return 130
    except Terminated:
        _write_failure(words, 143, UsageError("stopped", hint="run the same command again"))
        return 143
    except SystemExit as end:
        # Typer hides a broken pipe.
        raise end.__context__ if isinstance(end.__context__, BrokenPipeError) else end from None
    except _ParsingError as error:
        problem = usage_error(error, _Commands(), words)
    except UsageError as error:
        problem = error
    except MemoryError:
        _complain("there is not enough memory", "give the process more, or run it on a part of the source")
        return 1
    _write_failure(words, 2, problem)
    _complain(str(problem), problem.hint)
    return problem.exit_code


def _help() -> str:
    group = get_command(app)
    with group.make_context("asyncimport", [], resilient_parsing=True) as context:
        return f"{group.get_help(context)}\n"


def _complain(message: str, hint: str) -> None:
    from asyncimport.model.texts import plain

    # An error of standard error has no place to go.
    with suppress(OSError):
        sys.stderr.write(f"error: {plain(message)}\nhint: {plain(hint)}\n")


def _open_standard_streams() -> None:
    """Open closed standard streams, so that no file opened later gets their numbers, and their output."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - until the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A path may have characters that the encoding of a terminal or pipe lacks.
            stream.reconfigure(errors="backslashreplace")


def _is_of_output(error: OSError) -> bool:
    """Whether this is an error of standard output. Errors of other files are reported where they happen."""
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return error.filename is None and error.errno in {errno.ENOSPC, errno.EPIPE, errno.EIO}


def _flush(code: int, output_error: OSError | None) -> int:
    """Flush the output, and return the exit code: 1 if the output cannot be written, whatever was done before."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            output_error = error if stream is sys.stdout else output_error
            # Otherwise Python tries once more, and writes its own message.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if output_error is None:
        return code
    _complain(
        f"standard output cannot be written: {(output_error.strerror or str(output_error)).lower()}",
        "run `asyncimport status` to see what was done",
    )
    return 1


def _write_failure(words: list[str], code: int, error: UsageError) -> None:
    """Write the JSON of a command that did not start, if the words ask for JSON."""
    if _wants_json(words):
        from asyncimport.cli.output import failure_json, write_json

        write_json(failure_json(next((word for word in words if word in COMMANDS), None), error, code))


def _wants_json(words: list[str]) -> bool:
    given = [
        following if word in {"-o", "--output"} else word.removeprefix("--output=").removeprefix("-o")
        for word, following in zip(words, [*words[1:], ""], strict=True)
        if word in {"-o", "--output"} or word.startswith(("--output=", "-o"))
    ]
    return (given[-1] if given else os.environ.get("ASYNCIMPORT_OUTPUT")) == "json"
