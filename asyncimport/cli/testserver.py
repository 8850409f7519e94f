"""`asyncimport testserver`: run the embedded test XNAT."""

import enum
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread
import typer
from rich.text import Text

from asyncimport.cli.options import ResultScreen
from asyncimport.cli.output import head_json, write_json
from asyncimport.cli.parameters import command
from asyncimport.cli.running import on_signals
from asyncimport.errors import UsageError
from asyncimport.model.option import check_number, option, rare
from asyncimport.model.texts import plain

if TYPE_CHECKING:
    from asyncimport.testserver import TestXnat

T = TypeVar("T")
_PORT = 8090
_FAULTS_HELP = (
    'JSON file of faults that strike requests, such as [{"kind": "import", "action": "status", "status": 503, '
    '"headers": {"Server": "nginx"}, "nth": 3, "times": 2}, {"kind": "any", "action": "reset", "effect": true, '
    '"share": 0.05, "seed": 1, "path": "prearchive"}]: the third and the fourth import are answered 503; and of all '
    "requests whose address contains `prearchive`, one in twenty, drawn with a seed, is served but gets no reply. "
    "Parameters of an action are keys beside it. An error lists the valid names."
)


class XnatVersion(enum.StrEnum):
    """The versions that the test XNAT can behave like."""

    V1_5 = "1.5.4"
    V1_6 = "1.6.1"
    V1_7 = "1.7"
    V1_8 = "1.8"
    V1_9 = "1.9"
    V1_10 = "1.10"


@dataclass(frozen=True, kw_only=True)
class VersionOptions:
    """Which XNAT the test XNAT behaves like."""

    xnat: XnatVersion | None = option("--xnat", help="Let the test XNAT behave like this version; else like 1.8.")


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How the test server runs."""

    port: int = option("--port", default=_PORT, metavar="N", help="Port to listen on; 0 takes a free one.")
    directory: Path | None = option(
        "--directory", help="Keep the files here; by default they go when the server stops."
    )
    context: str | None = rare("--context", help="Context path; old XNATs have /xnat.")
    # Not a setting: ASYNCIMPORT_CONFIG is the file of profiles.
    config: Path | None = option(
        "--config",
        is_hidden=True,
        help="JSON file with users, projects, settings, service times and faults; --schema describes it.",
    )
    schema: bool = rare("--schema", default=False, help="Print the JSON schema of --config and exit.")
    faults: Path | None = rare("--faults", help=_FAULTS_HELP)
    record: Path | None = rare(
        "--record",
        help="Be a proxy before the XNAT of --of, and write what is said into this file, without secrets and names.",
    )
    of: str | None = rare("--of", metavar="URL", help="The XNAT to record.")
    compare: Path | None = rare(
        "--compare", help="Send what --record wrote to a new test XNAT, print where it answers otherwise, and exit."
    )

    def __post_init__(self) -> None:
        """Refuse what is no port. Raises: UsageError."""
        check_number("--port", self.port, 0, 65_535)


@command()
def testserver(*, version: VersionOptions, options: ServerOptions, screen: ResultScreen) -> None:
    """Run the embedded test XNAT on this machine. User, password and project are all `demo`."""
    from asyncimport.testserver import SiteConfig, config_schema, faults_from, read_config

    if options.schema:
        typer.echo(json.dumps(config_schema(), indent=2))
        return
    if options.directory is not None and not options.directory.is_dir() and options.directory.exists():
        raise UsageError(f"--directory {options.directory} is a file", hint="give a directory, or a new name")
    if (options.record is None) != (options.of is None):
        raise UsageError("--record and --of belong together", hint="say `--record FILE --of https://xnat.example.org`")
    config = SiteConfig() if options.config is None else _read("--config", options.config, read_config, screen)
    faults = [] if options.faults is None else _read("--faults", options.faults, faults_from, screen)
    with ExitStack() as stack:
        directory = options.directory or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="asyncimport-testserver-"))
        )
        if options.record is not None and options.of is not None:
            serve, says = _recorder(options.record, options.of, options.port), {"records": options.of}
        else:
            xnat = config.make(directory, xnat=version.xnat)
            for fault in faults:
                xnat.faults.add(fault)
            if options.compare is not None:
                raise typer.Exit(anyio.run(_compare, xnat, options.compare, screen.as_json))
            context = config.context if options.context is None else options.context
            serve, says = _test_xnat(xnat, options.port, context), _account(xnat)
        try:
            anyio.run(_run, serve, says, screen.as_json)
        except OSError as error:
            raise UsageError(
                f"the test server cannot listen on port {options.port}: {error.strerror or error}",
                hint="choose another with --port; 0 takes a free one",
            ) from None


def _read(option: str, file: Path, read: Callable[[object], T], screen: ResultScreen) -> T:
    """Return what a JSON file says, or write each mistake in a line of its own and exit."""
    try:
        return read(json.loads(file.read_bytes()))
    except OSError as error:
        mistakes = [error.strerror or str(error)]
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        mistakes = [f"this is not JSON: {error}"]
    except ValueError as error:
        mistakes = str(error).splitlines()
    *others, last = (f"{option} {file}: {mistake}" for mistake in mistakes)
    for other in others:
        screen.consoles[1].print(Text(plain(f"error: {other}"), style="red"))
    raise UsageError(last, hint="`asyncimport testserver --help-all` shows an example")


def _account(xnat: "TestXnat") -> dict[str, str]:
    """Return the user, password and project to begin with."""
    user = next(iter(xnat.users.values()))
    return {"user": user.name, "password": user.password, "project": next(iter(xnat.projects), "")}


@asynccontextmanager
async def _test_xnat(xnat: "TestXnat", port: int, context: str | None) -> AsyncIterator[str]:
    from asyncimport.testserver import serve

    async with serve(xnat, port=port, context=context) as url:
        yield url


@asynccontextmanager
async def _recorder(path: Path, upstream: str, port: int) -> AsyncIterator[str]:
    from asyncimport.testserver.recording.proxy import recording_proxy

    file = await anyio.to_thread.run_sync(partial(path.open, "w", encoding="utf-8", buffering=1))
    with file:
        async with recording_proxy(upstream, file.write, port=port) as url:
            yield url


async def _run(serve: AbstractAsyncContextManager[str], says: dict[str, str], as_json: bool) -> None:
    """Serve until a signal comes."""
    stopped = anyio.Event()
    async with serve as url:
        with on_signals(lambda _: stopped.set()):
            if as_json:
                line = json.dumps({**head_json("testserver", url, None, None), "url": url, **says})
            elif "records" in says:
                line = f"a proxy at {url} records {says['records']}; stop it with Ctrl-C"
            else:
                names = ", ".join(f"{name} {value}" for name, value in says.items())
                line = f"test XNAT at {url} ({names}); stop it with Ctrl-C"
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
            await stopped.wait()


async def _compare(xnat: "TestXnat", recording: Path, as_json: bool) -> int:
    """Send a recording to a test XNAT and print the differences; return 1 if there are any."""
    from asyncimport.testserver import Project, User, serve
    from asyncimport.testserver.recording.exchange import read_recording
    from asyncimport.testserver.recording.replay import replay, tells_apart

    try:
        exchanges = await anyio.to_thread.run_sync(lambda: list(read_recording(recording)))
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UsageError(f"--compare {recording}: {why}", hint="give a file that --record wrote") from None
    user = "recorded"
    project = "recorded-project" if tells_apart(exchanges) else user
    xnat.users.clear()
    xnat.projects.clear()
    xnat.add_user(User(user, user))
    xnat.add_project(Project(project, "A recorded project"))
    async with serve(xnat) as url:
        found = await replay(exchanges, url, user=user, password=user, project=project)
    code = 1 if found else 0
    if as_json:
        differences = {"requests": len(exchanges), "differences": list(map(str, found))}
        write_json({**head_json("testserver", None, code, None), **differences})
        return code
    for difference in found:
        typer.echo(str(difference))
    typer.echo(f"{len(exchanges):,} requests, {len(found):,} answered otherwise than in the recording")
    return code
