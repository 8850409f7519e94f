"""`asyncimport testserver`: the embedded test XNAT, to try things on."""

import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import anyio
import typer

from asyncimport.cli.options import NoColor, Output, OutputOption, hidden
from asyncimport.cli.output import consoles, show_error
from asyncimport.cli.running import on_signals
from asyncimport.errors import UsageError

__all__ = ["testserver"]

DEFAULT_PORT = 8090


def testserver(
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = DEFAULT_PORT,
    directory: Annotated[
        Path | None, typer.Option(help="Keep the files here; by default they go when the server stops.")
    ] = None,
    context: Annotated[str, hidden("--context", help="Context path, as old XNATs have: /xnat.")] = "",
    output: OutputOption = Output.TABLE,
    no_color: NoColor = False,
) -> None:
    """Run the embedded test XNAT on this machine. User, password and project are all `demo`."""
    _, err = consoles(no_color=no_color)
    with ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="asyncimport-testserver-")))
        try:
            anyio.run(_serve, directory, port, context, output is Output.JSON)
        except OSError as error:
            problem = UsageError(
                f"the test server cannot listen on port {port}: {error.strerror or error}",
                hint="choose another with --port; 0 takes a free one",
            )
            show_error(err, problem)
            raise typer.Exit(problem.exit_code) from None


async def _serve(directory: Path, port: int, context: str, as_json: bool) -> None:
    from asyncimport.testserver import TestXnat, serve

    stopped = anyio.Event()
    async with serve(TestXnat(directory), port=port, context=context) as url:
        with on_signals(lambda _: stopped.set()):
            if as_json:
                line = json.dumps({"url": url, "user": "demo", "password": "demo", "project": "demo"})
            else:
                line = f"test XNAT at {url} (user, password and project: demo); stop it with Ctrl-C"
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
            await stopped.wait()
