"""What goes wrong outside of the run itself is told in one line and a hint, with its exit code, and no traceback."""

import os
import sys
from pathlib import Path

import anyio
import pytest
from conftest import Commands, Ended

from asyncimport.testserver import TestXnat

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

SECRET = "hidden-word"
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="only Linux has a disk that is always full")


def one_line(ended: Ended, code: int) -> str:
    """Return the message of a command that has ended with this code, and said nothing but that and a hint."""
    error, hint = ended.err.splitlines()
    assert (ended.code, error[:7], hint[:6]) == (code, "error: ", "hint: ")
    return error.removeprefix("error: ")


async def shell(commands: Commands, script: str, *words: str | os.PathLike[str]) -> Ended:
    """Run a script of the shell, to which `$@` is asyncimport with these words."""
    command: list[str | os.PathLike[str]] = ["sh", "-c", script, "sh", sys.executable, "-m", "asyncimport", *words]
    done = await anyio.run_process(command, env=commands.env, check=False)
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


# --- standard output


@needs_full
@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("--version",),
        ("upload", "--help"),
        ("plan", "{tree}", "-q"),
        ("plan", "{tree}", "-q", "-o", "json"),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
async def test_standard_output_on_a_full_disk(
    commands: Commands, tree: Path, words: tuple[str, ...], unbuffered: str
) -> None:
    """The lost result is an error, whether it is written at once or at the end."""
    commands.env["PYTHONUNBUFFERED"] = unbuffered
    ended = await shell(commands, 'exec "$@" > /dev/full', *(word.format(tree=tree) for word in words))
    assert one_line(ended, 1) == "standard output cannot be written: no space left on device"


@needs_full
@pytest.mark.parametrize("output", ["json", "table"])
async def test_an_upload_whose_summary_cannot_be_written(
    xnat: TestXnat, url: str, commands: Commands, tree: Path, output: str
) -> None:
    """All is archived, and `status` shows it."""
    commands.login(url)
    ended = await shell(commands, 'exec "$@" > /dev/full', "upload", tree, "-P", "demo", "-q", "-o", output)
    assert one_line(ended, 1) == "standard output cannot be written: no space left on device"
    assert len(xnat.archived) == 2
    assert (await commands("status", "-o", "json")).json["files"]["stored"] == 12


@needs_full
@pytest.mark.parametrize("verbose", [(), ("-v",)])
async def test_an_upload_does_not_need_standard_error(
    url: str, commands: Commands, tree: Path, verbose: tuple[str, ...]
) -> None:
    """It runs to its end, with its exit code, though its progress is lost."""
    commands.login(url)
    commands.env["ASYNCIMPORT_MAX_DURATION"] = "1h"
    ended = await shell(commands, 'exec "$@" 2> /dev/full', "upload", tree, "-P", "demo", "-o", "json", *verbose)
    assert (ended.code, ended.json["sessions"]["archived"]) == (0, 2)
    ended = await shell(commands, 'exec "$@" 2> /dev/full', "upload", tree, "-P", "nowhere")
    assert ended.code == 5


async def test_a_broken_pipe_is_reported(commands: Commands) -> None:
    """As after `| head -1`."""
    script = '{ sleep 0.5; "$@"; echo $? >&3; } 3>&2 | true'
    ended = await shell(commands, script, "upload", "--help-all")
    *told, code = ended.err.splitlines()
    assert one_line(Ended(int(code), "", "\n".join(told)), 1) == "standard output cannot be written: broken pipe"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
async def test_closed_standard_streams_are_not_reused(
    xnat: TestXnat, url: str, commands: Commands, tree: Path, closed: str
) -> None:
    """A journal must not get their numbers, because messages would be written into it."""
    commands.login(url)
    ended = await shell(commands, f'exec "$@" {closed}', "upload", tree, "-P", "demo")
    assert ended.code == 0, ended.err
    assert len(xnat.archived) == 2


# --- memory


LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), int(sys.argv[1])))
os.execv(sys.executable, [sys.executable, "-m", "asyncimport", *sys.argv[2:]])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="others do not hold processes to this limit")
async def test_too_little_memory_is_reported(url: str, commands: Commands, tmp_path: Path) -> None:
    """A table of subjects is read into memory: one of a gigabyte does not fit."""
    commands.login(url)
    table = tmp_path / "subjects.csv"
    with table.open("wb") as file:
        file.truncate(2 << 30)
    words = [sys.executable, "-c", LIMITED, str(1 << 30), "subjects", str(table), "-P", "demo"]
    done = await anyio.run_process(words, env=commands.env, check=False)
    ended = Ended(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert one_line(ended, 1) == "there is not enough memory"


# --- options


@pytest.mark.parametrize(
    "words",
    [
        ("upload", "{tree}", "-P", "demo"),
        ("upload", "{tree}", "-P", "demo", "-o", "json"),
        ("upload", "{tree}", "-P", "demo", "--dry-run"),
        ("status", "-P", "demo"),
        ("verify", "-P", "demo", "-o", "json"),
        ("forget", "-P", "demo", "--gone"),
        ("attach", "{tree}", "-P", "demo", "--session", "E", "--resource", "R"),
        ("subjects", "{tree}/x.csv", "-P", "demo", "-o", "json"),
        ("login", "--user", "ada", "--password-stdin"),
        ("doctor", "-P", "demo"),
    ],
)
async def test_a_password_in_the_address_is_refused(commands: Commands, tree: Path, words: tuple[str, ...]) -> None:
    """It is refused before anything is written, and never shown."""
    commands.use_keyring()
    commands.env |= {"XNAT_USER": "ada", "XNAT_PASS": "x"}
    host = f"http://ada:{SECRET}@127.0.0.1:1"
    ended = await commands(*(word.format(tree=tree) for word in words), "--host", host)
    assert ended.code == 2
    assert "holds a user name or password" in ended.out + ended.err
    assert SECRET not in ended.out + ended.err
    assert [path for path in commands.home.rglob("*") if SECRET in str(path) or path.suffix == ".journal"] == []
    if words[0] == "upload" and "json" in words:
        assert (ended.json["host"], ended.json["exit_code"]) == (None, 2)


@pytest.mark.parametrize("variable", ["XNAT_HOST", "XNAT_URL", "ASYNCIMPORT_HOST"])
async def test_a_password_in_a_variable_is_refused(commands: Commands, tree: Path, variable: str) -> None:
    """Also in other forms."""
    commands.env[variable] = f"https://{SECRET}%40xnat.example.org"
    ended = await commands("upload", tree, "-P", "demo")
    assert one_line(ended, 2) == "--host holds a user name or password"
    assert SECRET not in ended.err


@pytest.mark.parametrize("command", [("upload", "."), ("verify",), ("doctor",), ("login",), ("subjects", "x.csv")])
async def test_insecure_and_ca_bundle_exclude_each_other(
    commands: Commands, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """Together they contradict each other."""
    host = ("--host", "https://127.0.0.1:1")
    ended = await commands(*command, *host, "--insecure", "--ca-bundle", str(tmp_path / "ca.pem"))
    assert one_line(ended, 2) == "--insecure trusts any certificate, and --ca-bundle those of one authority"


async def test_an_invalid_port_is_refused(commands: Commands) -> None:
    """It is refused before the server starts."""
    message = one_line(await commands("testserver", "--port", "99999"), 2)
    assert "--port" in message
    assert "65535" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = " + "[" * 100_000, "its values are nested too deep"),
        ("a = " + "{a=" * 100_000, "its values are nested too deep"),
        ("a = " + "9" * 10_000, "digits"),
        ("#" * (2 << 20), "is not a configuration file: it is larger than 1 MiB"),
    ],
)
async def test_a_malformed_configuration_is_refused(commands: Commands, tmp_path: Path, text: str, said: str) -> None:
    """Reading it is bounded, whatever it contains."""
    config = tmp_path / "config.toml"
    config.write_text(text)
    commands.env["ASYNCIMPORT_CONFIG"] = str(config)
    message = one_line(await commands("status"), 2)
    assert str(config) in message
    assert said in message


async def test_an_endless_configuration_is_refused(commands: Commands) -> None:
    """A device is not read for ever."""
    commands.env["ASYNCIMPORT_CONFIG"] = "/dev/zero"
    assert "larger than 1 MiB" in one_line(await commands("status"), 2)


async def test_errors_hold_no_control_characters(commands: Commands) -> None:
    """Words of the command line may come from elsewhere."""
    ended = await commands("status", "--\x1b[31m")
    assert ended.code == 2
    assert "\x1b" not in ended.err
