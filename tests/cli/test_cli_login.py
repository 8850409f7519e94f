"""`asyncimport login`: what it tries, what it keeps, where, and that nothing else sees the secret."""

import os
import stat
import sys
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from aiohttp import web
from builders import listening
from conftest import Commands, Ended
from patience import COMMAND, in_time

from asyncimport.testserver import ExpireLogins, Fault, Status, Tell, TestXnat, User, serve

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

PASSWORD = "horse-battery"


@pytest.fixture(autouse=True)
def ada(xnat: TestXnat, commands: Commands) -> None:
    """Give the commands a keyring that is a file, and the test XNAT a user whose password can be looked for."""
    commands.use_keyring()
    xnat.add_user(User("ada", PASSWORD, all_data=True))


def config(commands: Commands) -> Path:
    """Return where the profiles lie."""
    return commands.home / ".config" / "asyncimport" / "config.toml"


def profiles(commands: Commands) -> Mapping[str, Mapping[str, object]]:
    """Return what stands in the file."""
    found: Mapping[str, Mapping[str, object]] = tomllib.loads(config(commands).read_text()).get("profiles", {})
    return found


def keyring(commands: Commands) -> str:
    """Return the keyring's file, whose values base64 hides, but not its keys."""
    path = commands.home / ".local" / "share" / "python_keyring" / "keyring_pass.cfg"
    return path.read_text() if path.exists() else ""


async def logged_in(commands: Commands, url: str, *words: str, password: str = PASSWORD) -> Ended:
    """Log in without a terminal."""
    stdin = f"{password}\n".encode()
    return await commands("login", "--host", url, "--user", "ada", "--password-stdin", *words, stdin=stdin)


async def test_an_upload_needs_no_login_options_after_login(
    xnat: TestXnat, url: str, commands: Commands, tree: Path
) -> None:
    """Neither address nor user nor password is needed any more."""
    ended = await logged_in(commands, f"{url}/", "-P", "demo")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines() == [
        f"{url} takes the login of ada; profile default is in {config(commands)}",
        "the keyring (a file for tests) has the password",
    ]
    assert (xnat.count["login"], xnat.live_logins("ada")) == (1, 0)
    assert profiles(commands) == {"default": {"host": url, "user": "ada", "project": "demo"}}
    assert stat.S_IMODE(config(commands).stat().st_mode) == 0o600
    uploaded = await commands("upload", tree, "-o", "json")
    assert uploaded.code == 0, uploaded.err
    uploaded = await commands("upload", tree, "-o", "json", "-p", "default")
    assert uploaded.json["files"]["already_stored"] == 12, uploaded.err
    assert (await commands("verify")).code == 0
    assert xnat.live_logins("ada") == 0


async def test_a_wrong_password_is_tried_once_and_not_kept(xnat: TestXnat, url: str, commands: Commands) -> None:
    """Twenty refusals lock the account."""
    ended = await logged_in(commands, url, password="wrong-horse")
    assert ended.code == 3
    assert ended.err.startswith("error: XNAT refused the user name or password\n")
    assert xnat.count["login"] == 1
    assert not config(commands).exists()
    assert keyring(commands) == ""
    assert "wrong-horse" not in ended.out + ended.err


async def test_a_server_that_is_away_is_tried_once(xnat: TestXnat, url: str, commands: Commands) -> None:
    """The person at the terminal does not have to wait."""
    xnat.faults.add(Fault("login", Status(503), times=5))
    assert (await logged_in(commands, url)).code == 4
    assert xnat.count["login"] == 1
    assert not config(commands).exists()


async def test_a_token_is_kept_in_place_of_the_password(
    xnat: TestXnat, url: str, commands: Commands, tree: Path
) -> None:
    """XNAT issues it with its lifetime; the password is not kept, and an expired token is reported."""
    await logged_in(commands, url)
    ended = await logged_in(commands, url, "--token")
    assert ended.code == 0, ended.err
    assert "the keyring (a file for tests) has a token, which lives for 48:00:00, until 20" in ended.out
    (token,) = xnat.tokens.of("ada")
    assert token.secret not in ended.out + ended.err
    xnat.add_user(User("ada", "another", all_data=True))
    uploaded = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert uploaded.code == 0, uploaded.err
    xnat.tokens.clear()
    dead = await commands("upload", tree, "-P", "demo")
    assert dead.code == 3


@pytest.mark.parametrize(
    ("end", "kept"),
    [
        ("1e30", True),
        ("9" * 400, False),
        ("9" * 5_000, False),
        ("NaN", True),
        ("Infinity", True),
        ("-1", True),
        ('"soon"', False),
        ("[" * 100_000, False),
    ],
)
async def test_a_token_without_a_valid_end(commands: Commands, end: str, kept: bool) -> None:
    """It is kept without an end, or refused in one line."""

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path == "/data/JSESSION":
            return web.Response(text="0123456789ABCDEF")
        if request.path == "/data/auth":
            return web.Response(text="User 'ada' is logged in")
        token = f'{{"alias": "a", "secret": "b", "created": 1, "estimatedExpirationTime": {end}}}'
        return web.Response(text=token, content_type="application/json")

    async with listening(answer) as url:
        ended = await logged_in(commands, url, "--token")
    if kept:
        assert ended.code == 0, ended.err
        assert "a token, which lives for as long as the server is set to" in ended.out
    else:
        assert (ended.code, ended.err.splitlines()[0]) == (4, "error: XNAT's answer is not a token")
        assert len(ended.err.splitlines()) == 2


async def test_a_token_that_is_not_issued_changes_nothing(xnat: TestXnat, url: str, commands: Commands) -> None:
    """Some XNATs issue none."""
    fault = xnat.faults.add(Fault("listing", Status(403), path="tokens"))
    ended = await logged_in(commands, url, "--token")
    assert fault.hits == 1
    assert ended.code == 4
    assert "error: XNAT issues no token (403" in ended.err
    assert keyring(commands) == ""
    fault = xnat.faults.add(Fault("listing", ExpireLogins(), path="tokens"))
    assert (await logged_in(commands, url, "--token")).code == 4
    assert not config(commands).exists()


async def test_several_profiles(xnat: TestXnat, url: str, commands: Commands) -> None:
    """Each has its name; the first is the default, and a login elsewhere does not overwrite it."""
    await logged_in(commands, url, "--profile", "work")
    async with serve(xnat, context="/other") as other:
        ended = await logged_in(commands, other)
        assert ended.code == 2
        assert f"error: profile work is of {url}" in ended.err
        assert "--profile" in ended.err
        assert xnat.count["login"] == 1
        assert (await logged_in(commands, other, "-p", "home", "-P", "P2")).code == 0
        assert profiles(commands) == {
            "work": {"host": url, "user": "ada"},
            "home": {"host": other, "user": "ada", "project": "P2"},
        }
        # Another password for the profile that is there: only that is asked for.
        xnat.add_user(User("ada", "another"))
        ended = await commands("login", "-p", "home", "--password-stdin", stdin=b"another\n")
        assert ended.code == 0, ended.err
        assert profiles(commands)["home"]["project"] == "P2"
        # The same profile for another server: what was kept for the first is kept no more.
        assert keyring(commands).count("other") == 1
        assert (await logged_in(commands, url, "-p", "home", password="another")).code == 0
        assert "other" not in keyring(commands)
        assert profiles(commands)["home"] == {"host": url, "user": "ada"}


async def test_forget_removes_profile_and_secret(url: str, commands: Commands) -> None:
    """A secret that another profile uses stays."""
    for name in ("one", "two"):
        await logged_in(commands, url, "-p", name)
    assert (await commands("login", "--forget", "one")).out == "profile one and its secret are removed\n"
    assert list(profiles(commands)) == ["two"]
    assert "ada_40http" in keyring(commands)
    assert (await commands("login", "--forget", "two")).code == 0
    assert profiles(commands) == {}
    assert "ada_40http" not in keyring(commands)
    ended = await commands("login", "--forget", "two")
    assert ended.code == 2
    assert "has no profile two; there are none yet" in ended.err


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("keyring.backends.fail.Keyring", "this system has no keyring for passwords"),
        ("keyring.backends.null.Keyring", "this system has no keyring for passwords"),
        (
            "keyrings.alt.file.PlaintextKeyring",
            "the keyring 'file PlaintextKeyring' does not keep passwords secret",
        ),
        ("not_installed.Keyring", "there is no keyring for passwords (No module named 'not_installed')"),
    ],
)
async def test_without_a_keyring_the_profile_is_kept(
    url: str, commands: Commands, tree: Path, backend: str, message: str
) -> None:
    """The login is tried, the profile is written, and the reader is told where the password may be."""
    commands.use_keyring(backend)
    ended = await logged_in(commands, url, "-P", "demo")
    assert ended.code == 0, ended.err
    assert ended.out == f"{url} takes the login of ada; profile default is in {config(commands)}\n"
    said, hint = ended.err.splitlines()
    assert said == f"the password is not kept: {message}"
    assert hint.startswith("hint: set XNAT_PASS, or put the password into ~/.netrc (chmod 600)")
    assert hint.endswith("The line of ~/.netrc is: machine 127.0.0.1 login ada password ...")
    assert profiles(commands) == {"default": {"host": url, "user": "ada", "project": "demo"}}
    assert PASSWORD not in ended.out + ended.err + config(commands).read_text()
    missing = await commands("upload", tree, "-q")
    assert (missing.code, missing.err.splitlines()[0]) == (2, "error: no password for XNAT")
    (commands.home / ".netrc").write_text(f"machine 127.0.0.1 login ada password {PASSWORD}\n")
    (commands.home / ".netrc").chmod(0o600)
    uploaded = await commands("upload", tree, "-q")
    assert uploaded.code == 0, uploaded.err
    (commands.home / ".netrc").unlink()
    commands.env["XNAT_PASS"] = PASSWORD
    assert (await commands("verify")).code == 0
    assert (await commands("login", "--forget", "default")).code == 0
    assert profiles(commands) == {}


@pytest.mark.parametrize("backend", ["keyring.backends.fail.Keyring", "not_installed.Keyring"])
async def test_a_token_needs_a_keyring(xnat: TestXnat, url: str, commands: Commands, backend: str) -> None:
    """Otherwise XNAT would issue a token that nobody has; the error comes before the password is read."""
    commands.use_keyring(backend)
    ended = await logged_in(commands, url, "--token")
    assert ended.code == 2
    assert "keyring" in ended.err.splitlines()[0]
    assert not xnat.count["login"]
    assert xnat.tokens.of("ada") == []
    assert not config(commands).exists()


async def test_without_the_library_of_keyrings_the_profile_is_kept(url: str, commands: Commands) -> None:
    """As after `pip install .`."""
    commands.absent = ("keyring",)
    for name in ("PYTHON_KEYRING_BACKEND", "PYTHONPATH"):
        commands.env.pop(name, None)
    ended = await logged_in(commands, url)
    assert ended.code == 0, ended.err
    assert "the password is not kept: there is no keyring for passwords (" in ended.err
    assert "pip install keyring" in ended.err
    assert (await commands("login", "--forget", "default")).out == "profile default is removed\n"


@pytest.mark.parametrize(
    ("words", "missing"),
    [([], "--host"), (["--host", "{url}"], "--user"), (["--host", "{url}", "--user", "ada"], "--password-stdin")],
)
async def test_missing_values_are_an_error_without_a_terminal(
    url: str, commands: Commands, words: list[str], missing: str
) -> None:
    """The error names the option."""
    ended = await commands("login", *(word.format(url=url) for word in words))
    assert ended.code == 2
    assert ended.err.startswith(f"error: {missing} is missing\n")


async def test_plain_http_is_refused(commands: Commands) -> None:
    """A login is not tried without encryption, either."""
    ended = await logged_in(commands, "http://192.0.2.1")
    assert ended.code == 2
    assert "is not encrypted" in ended.err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty")
async def test_missing_values_are_asked_for_on_a_terminal(xnat: TestXnat, url: str, commands: Commands) -> None:
    """Address, user and password, in this order; the password is not shown."""
    ours, theirs = os.openpty()
    answers = [("XNAT address: ", url), ("XNAT user name: ", "ada"), ("password of ada: ", PASSWORD)]
    shown = b""

    def talk() -> None:
        nonlocal shown
        # Linux reports the other end's close as an error.
        with suppress(OSError):
            while piece := os.read(ours, 65_536):
                shown += piece
                if answers and shown.decode().endswith(answers[0][0]):
                    os.write(ours, f"{answers.pop(0)[1]}\n".encode())

    command = [sys.executable, "-m", "asyncimport", "login"]
    # Of another session: without a controlling terminal, which getpass would ask in place of this one.
    async with await anyio.open_process(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=commands.env, start_new_session=True
    ) as process:
        os.close(theirs)
        with in_time(COMMAND):
            await anyio.to_thread.run_sync(talk)
            assert await process.wait() == 0, shown.decode()
    os.close(ours)
    assert answers == []
    assert PASSWORD not in shown.decode()
    assert profiles(commands) == {"default": {"host": url, "user": "ada"}}
    assert xnat.count["login"] == 1


def leaks(commands: Commands, secrets: list[str]) -> list[Path]:
    """Return the files at home in which a secret stands in the clear."""
    found = []
    for path in commands.home.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found += [path for secret in secrets if secret.encode() in content]
    return found


async def test_no_secret_is_in_any_output(xnat: TestXnat, url: str, commands: Commands, tree: Path) -> None:
    """Nor in the journal, in receipts or in the configuration, whatever goes wrong."""
    seen, secrets = "", [PASSWORD]
    for words in ([], ["--token"]):
        await logged_in(commands, url, "-P", "demo", *words)
        secrets += [token.secret for token in xnat.tokens.of("ada")]
        xnat.faults.add(Fault("import", ExpireLogins(tokens=True), nth=3))
        receipts = commands.home / f"receipts{len(words)}"
        for ended in (
            await commands("upload", tree, "--receipts", receipts, "-o", "json"),
            await commands("upload", tree, "-S", "{PatientName}"),
            await commands("verify"),
        ):
            seen += ended.out + ended.err
    assert len(secrets) == 2
    assert [secret for secret in secrets if secret in seen] == []
    assert leaks(commands, secrets) == []


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="only some systems show a process's arguments and environment")
async def test_no_secret_is_in_the_list_of_processes(xnat: TestXnat, url: str, commands: Commands, tree: Path) -> None:
    """Nor in the environment of a process."""
    await logged_in(commands, url, "-P", "demo")
    begun = anyio.Event()
    xnat.faults.add(Fault("import", Tell(begun.set)))
    async with commands.start("upload", tree, "-q") as process:
        await begun.wait()
        for name in ("cmdline", "environ"):
            assert PASSWORD.encode() not in Path(f"/proc/{process.pid}/{name}").read_bytes()
        assert await process.wait() == 0
