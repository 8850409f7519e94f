"""`asyncimport demo`: the whole job on this machine, with sample files and a test XNAT, and nothing left behind."""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from asyncimport.cli.options import LogOptions, Output, ProgressScreen
from asyncimport.cli.output import head_json, write_json
from asyncimport.cli.parameters import command
from asyncimport.cli.testserver import VersionOptions, XnatVersion
from asyncimport.errors import UnavailableError
from asyncimport.model.option import option
from asyncimport.reporting.progress import human_bytes
from asyncimport.system.interpreter import child_environment, python_command


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """How the demo ends."""

    keep: bool = option(
        "--keep", default=False, help="Leave server, files and journal there until Ctrl-C, to try more."
    )


@command()
def demo(*, version: VersionOptions, options: DemoOptions, screen: ProgressScreen) -> None:
    """Move 2,000 sample files into a test XNAT on this machine: no arguments, no XNAT, half a minute."""
    with redirect_stdout(sys.stderr) if screen.as_json else nullcontext():
        code, host = _demo(version, options, replace(screen, output=Output.TABLE))
    if screen.as_json:
        write_json(head_json("demo", host, code, None))
    raise typer.Exit(code)


def _demo(version: VersionOptions, options: DemoOptions, screen: ProgressScreen) -> tuple[int, str]:
    """Write each step to standard output; return the exit code, and the address of the test XNAT."""
    out, _ = screen.consoles
    with tempfile.TemporaryDirectory(prefix="asyncimport-demo-") as name:
        directory = Path(name)
        expected = _write_samples(out, directory / "files")
        try:
            with _server(directory / "xnat", version.xnat) as url:
                _write(out, f"\n2. A test XNAT has started in a process of its own; {url} shows what arrives.")
                _write(
                    out,
                    "\n3. The plan",
                    "project demo, subject {PatientID}, session {PatientID}_{StudyDate}. By hand, you would type:",
                    f"XNAT_HOST={url} XNAT_USER=demo XNAT_PASS=demo \\",
                    f"asyncimport upload {directory / 'files'} -P demo",
                )
                _write(out, "\n4. The upload")
                code = _upload(screen, directory, "files", url)
                is_right = code == 0 and _compare(out, url, expected)
                if is_right:
                    is_right = _show_problems(screen, directory, url)
                if not is_right:
                    out.print(Text("   That is wrong.", style="red"))
                _write(out, "\nNext: asyncimport init sets up an upload to your XNAT; demo --keep leaves this one up.")
                if options.keep:
                    _wait(out, directory, url)
        except KeyboardInterrupt:
            raise typer.Exit(0 if options.keep else 130) from None
    return (0 if is_right else code or 1), url


def _write(out: Console, title: str, *lines: str) -> None:
    out.print(Text(title, style="bold"))
    for line in lines:
        out.print(Text(f"   {line}"))


def _write_samples(out: Console, target: Path) -> int:
    """Write the sample files, and return how many instances they are."""
    from asyncimport.testserver.samples import bundled, generated

    written = bundled(target / "real") + generated(target / "scanner")
    _write(
        out,
        "1. Sample files",
        f"{written.files:,} files, {human_bytes(written.bytes)}: {written.sessions:,} studies, "
        f"{len(written.syntaxes)} transfer syntaxes,",
        f"modalities {', '.join(sorted(written.modalities))}.",
    )
    return written.instances


@contextmanager
def _server(directory: Path, version: XnatVersion | None) -> Iterator[str]:
    """Start `asyncimport testserver` and yield its address."""
    code = "from asyncimport.cli import main; main()"
    words = python_command(code, "testserver", "--port", "0", "-o", "json", "--directory", str(directory))
    words += [] if version is None else ["--xnat", version.value]
    with subprocess.Popen(  # noqa: S603 - our own command
        words, stdout=subprocess.PIPE, text=True, env=child_environment()
    ) as server:
        assert server.stdout is not None  # noqa: S101 - it was asked for
        try:
            line = server.stdout.readline()
            if not line:
                raise UnavailableError("the test XNAT did not start", hint="see what `asyncimport testserver` says")
            yield json.loads(line)["url"]
        finally:
            server.terminate()


def _upload(screen: ProgressScreen, directory: Path, source: str, url: str) -> int:
    from asyncimport.cli.uploading import conclude_upload
    from asyncimport.operations.rules import rules_from
    from asyncimport.operations.server import Server
    from asyncimport.operations.upload_request import UploadRequest
    from asyncimport.xnat.login import Credentials

    request = UploadRequest(
        server=Server(url, Credentials("demo", "demo")),
        sources=[directory / source],
        project="demo",
        routes=rules_from("demo"),
        state_dir=directory / "state",
    )
    try:
        conclude_upload(screen, request, LogOptions())
    except typer.Exit as end:
        return int(end.exit_code)


def _compare(out: Console, url: str, expected: int) -> bool:
    """Compare with what the server itself holds; return whether everything arrived."""
    from urllib.request import urlopen

    with urlopen(f"{url}/testserver/instances") as reply:  # noqa: S310 - our own server on this machine
        arrived = len(reply.read().splitlines())
    _write(
        out,
        "\n5. The proof",
        f"The exit code is 0, and the test XNAT itself counts {arrived:,} archived instances of {expected:,}.",
    )
    return arrived == expected


def _show_problems(screen: ProgressScreen, directory: Path, url: str) -> bool:
    """Upload files of which some cannot go, and return whether the upload said so."""
    from asyncimport.testserver.samples import odd

    out, _ = screen.consoles
    written = odd(directory / "odd")
    _write(
        out,
        "\n6. What problems look like",
        f"Another directory has {written.files} files, as real archives do: text, an image, a DICOMDIR, an empty file,",
        "an image twice, and DICOM without a study or a date. This uploads it:",
    )
    code = _upload(screen, directory, "odd", url)
    _write(
        out,
        "",
        f"This upload ended with exit code {code}. Each file that is not in XNAT has its reason above.",
        "Correct what they name, and the same command sends the rest.",
    )
    return code == 8


def _wait(out: Console, directory: Path, url: str) -> None:
    state = f"--state-dir {directory / 'state'}"
    _write(
        out,
        f"\nThe server stays at {url} until Ctrl-C. In another terminal:",
        f"export XNAT_HOST={url} XNAT_USER=demo XNAT_PASS=demo",
        f"asyncimport upload {directory / 'files'} -P demo {state}      # sends nothing twice",
        f"asyncimport status -P demo {state}",
        f"asyncimport verify -P demo {state}",
    )
    # Ctrl-C ends the wait with KeyboardInterrupt, on every system.
    threading.Event().wait()
