"""`asyncimport testserver`: run the embedded test XNAT."""

import json
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import typer
from rich.console import Console

from asyncimport.cli.options import ResultScreen
from asyncimport.cli.output import show_error
from asyncimport.cli.parameters import command
from asyncimport.cli.running import on_signals
from asyncimport.errors import UsageError
from asyncimport.model.option import option, rare

if TYPE_CHECKING:
    from asyncimport.testserver import Fault

_PORT = 8090
_FAULTS_HELP = (
    'JSON file of faults that strike requests, such as [{"kind": "import", "action": "status", "status": 503, '
    '"headers": {"Retry-After": "1"}, "nth": 3, "times": 2}, {"kind": "any", "action": "reset", "effect": true, '
    '"share": 0.05, "seed": 1, "path": "prearchive"}]: the third and the fourth import are answered 503; and of all '
    "requests whose address contains `prearchive`, one in twenty, drawn with a seed, is served but gets no reply. "
    "Parameters of an action are keys beside it. An error lists the valid names."
)


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How the test server runs."""

    port: int = option("--port", default=_PORT, min=0, max=65_535, help="Port to listen on; 0 takes a free one.")
    directory: Path | None = option(
        "--directory", help="Keep the files here; by default they go when the server stops."
    )
    context: str = rare("--context", default="", help="Context path, as old XNATs have: /xnat.")
    faults: Path | None = rare("--faults", help=_FAULTS_HELP)


@command()
def testserver(*, options: ServerOptions, screen: ResultScreen) -> None:
    """Run the embedded test XNAT on this machine. User, password and project are all `demo`."""
    directory, port = options.directory, options.port
    faults = [] if options.faults is None else _read_faults(options.faults, screen.consoles[1])
    with ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="asyncimport-testserver-")))
        try:
            anyio.run(_serve, directory, port, options.context, faults, screen.as_json)
        except OSError as error:
            raise UsageError(
                f"the test server cannot listen on port {port}: {error.strerror or error}",
                hint="choose another with --port; 0 takes a free one",
            ) from None


def _read_faults(file: Path, err: Console) -> "list[Fault]":
    """Return the faults of a file, or write each mistake in a line of its own and exit."""
    from asyncimport.testserver import faults_from

    try:
        return faults_from(json.loads(file.read_bytes()))
    except OSError as error:
        mistakes = [error.strerror or str(error)]
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        mistakes = [f"this is not JSON: {error}"]
    except ValueError as error:
        mistakes = str(error).splitlines()
    for mistake in mistakes:
        hint = "`asyncimport testserver --help-all` shows an example" if mistake is mistakes[-1] else ""
        show_error(err, UsageError(f"{file}: {mistake}", hint=hint))
    raise typer.Exit(UsageError.exit_code)


async def _serve(directory: Path, port: int, context: str, faults: "Iterable[Fault]", as_json: bool) -> None:
    from asyncimport.testserver import TestXnat, serve

    xnat = TestXnat(directory)
    for fault in faults:
        xnat.faults.add(fault)
    stopped = anyio.Event()
    async with serve(xnat, port=port, context=context) as url:
        with on_signals(lambda _: stopped.set()):
            if as_json:
                line = json.dumps({"url": url, "user": "demo", "password": "demo", "project": "demo"})
            else:
                line = f"test XNAT at {url} (user, password and project: demo); stop it with Ctrl-C"
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
            await stopped.wait()
