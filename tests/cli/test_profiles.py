"""Profiles: what their file may say, and how it reaches the options of a command."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import Commands
from typer.main import get_command

from asyncimport.cli.app import app
from asyncimport.credentials import Profile, read_profiles, remove_profile, write_profile
from asyncimport.errors import UsageError
from asyncimport.testserver import TestXnat

HOST = "https://xnat.example.org/xnat"
OTHER = "https://other.example.org"
SECRET = "correct-horse"

FILE = f"""
default_profile = "usual"

[profiles.usual]
host = "{HOST}"
user = "ada"
project = "P1"
ca_bundle = "site.pem"

[profiles.usual.defaults]
workers = 8
max-outage = "4h"
experiment = "{{StudyDate}}"
archive = false

[profiles.special]
host = "{OTHER}/"
user = "grace"
project = "P2"
insecure = true
defaults = {{ workers = 2, timeout = 5, output = "json" }}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name a file for profiles, in an environment without settings."""
    for name in os.environ:
        if name.startswith(("ASYNCIMPORT", "XNAT")):
            monkeypatch.delenv(name)
    path = tmp_path / "config.toml"
    monkeypatch.setenv("ASYNCIMPORT_CONFIG", str(path))
    return path


class TestFile:
    """What is read, and what is refused."""

    def test_everything(self, config: Path) -> None:
        """All keys; a path is taken from where the file lies, and an option's name with dashes or without."""
        config.write_text(FILE)
        profiles = read_profiles(config)
        assert profiles.default == "usual"
        assert profiles.get("usual") == Profile(
            host=HOST,
            user="ada",
            project="P1",
            ca_bundle=config.parent / "site.pem",
            defaults={"workers": 8, "max_outage": "4h", "experiment": "{StudyDate}", "archive": False},
        )
        assert profiles.get("special").insecure is True
        assert profiles.get("special").host == OTHER

    @pytest.mark.parametrize("text", [None, "", "# nothing\n", "[profiles]\n"])
    def test_nothing(self, config: Path, text: str | None) -> None:
        """No file, or nothing in it: there are no profiles."""
        if text is not None:
            config.write_text(text)
        profiles = read_profiles(config)
        assert (profiles.named, profiles.default) == ({}, None)
        with pytest.raises(UsageError, match="has no profile x; there are none yet") as caught:
            profiles.get("x")
        assert caught.value.hint == "make it with `asyncimport login --profile x`"

    def test_home(self, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """No shell is there to say where ~ is."""
        monkeypatch.setenv("HOME", "/home/ada")
        monkeypatch.setenv("USERPROFILE", "/home/ada")
        config.write_text('[profiles.a]\nca_bundle = "~/ca.pem"\ndefaults = { journal = "~/a.journal" }')
        profile = read_profiles(config).get("a")
        assert profile.ca_bundle == Path("/home/ada/ca.pem")
        assert profile.defaults == {"journal": str(Path("/home/ada/a.journal"))}

    def test_of_windows(self, config: Path) -> None:
        """An editor of Windows begins a file with a mark, and ends lines in its own way."""
        config.write_bytes(b'\xef\xbb\xbf[profiles.a]\r\nuser = "ada"\r\n')
        assert read_profiles(config).get("a").user == "ada"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('defaultprofile = "a"', "config.toml: defaultprofile is unknown"),
            ("[profile.a]", "config.toml: profile is unknown"),
            ('[profiles.a]\nhots = "x"', r"config.toml: profiles\.a\.hots is unknown"),
            ('profiles = "a"', "config.toml: profiles must be a table"),
            ('[profiles]\na = "b"', r"profiles\.a must be a table"),
            ("default_profile = 1", "default_profile must be a text"),
            ('default_profile = "b"\n[profiles.a]', "has no profile b; there are a"),
            ("[profiles.a]\nuser = 1", r"profiles\.a\.user must be a text"),
            ('[profiles.a]\ninsecure = "yes"', r"profiles\.a\.insecure must be true or false"),
            ("[profiles.a]\ndefaults = 1", r"profiles\.a\.defaults must be a table"),
            ("[profiles.a.defaults]\nworkers = [1]", r"profiles\.a\.defaults\.workers must be a text, a number"),
            ('[profiles.a]\nhost = "xnat.example.org"', r"profiles\.a\.host 'xnat\.example\.org' is not an address"),
            ("[profiles.a\n", "config.toml is malformed: .*line 1"),
        ],
    )
    def test_refused(self, config: Path, text: str, message: str) -> None:
        """The error names the file and the key."""
        config.write_text(text)
        with pytest.raises(UsageError, match=message) as caught:
            read_profiles(config)
        assert str(config) in str(caught.value)

    @pytest.mark.parametrize("key", ["password", "pass", "passwd", "token", "secret", "Password"])
    @pytest.mark.parametrize("place", ["", "[profiles.a]\n", "[profiles.a.defaults]\n"])
    def test_secrets(self, config: Path, key: str, place: str) -> None:
        """A password is refused wherever it stands, is not shown, and the hint says where it belongs."""
        config.write_text(f'{place}{key} = "{SECRET}"')
        with pytest.raises(UsageError, match=f"{key}: secrets are not allowed in this file") as caught:
            read_profiles(config)
        assert "asyncimport login" in caught.value.hint
        assert SECRET not in f"{caught.value} {caught.value.hint}"

    def test_password_in_the_address(self, config: Path) -> None:
        """Nor may it stand there."""
        config.write_text(f'[profiles.a]\nhost = "https://ada:{SECRET}@xnat.example.org"')
        with pytest.raises(UsageError, match=r"profiles\.a\.host holds a user name or password") as caught:
            read_profiles(config)
        assert SECRET not in f"{caught.value} {caught.value.hint}"

    def test_not_readable(self, config: Path) -> None:
        """What is no text, or no file, says so."""
        config.write_bytes(b"\xff\xfe\x81")
        with pytest.raises(UsageError, match="cannot be read: it is not text"):
            read_profiles(config)
        with pytest.raises(UsageError, match="cannot be read: "):
            read_profiles(config.parent)


class TestWriting:
    """What `login` changes in the file, and what it leaves."""

    def test_first(self, tmp_path: Path) -> None:
        """Directory and file are made, for the owner only, and the first profile is the default one."""
        path = tmp_path / "some" / "where" / "config.toml"
        write_profile(path, "work", {"host": HOST, "user": "ada", "insecure": None})
        profiles = read_profiles(path)
        assert profiles.default == "work"
        assert profiles.get("work") == Profile(host=HOST, user="ada")
        assert os.name != "posix" or stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list(path.parent.iterdir()) == [path]

    def test_second(self, tmp_path: Path) -> None:
        """What is there stays as it is, comments and order too; a key without a value goes away."""
        path = tmp_path / "config.toml"
        path.write_text(f"# mine{FILE}")
        write_profile(path, "special", {"host": HOST, "user": "ada", "insecure": None})
        assert path.read_text() == f"# mine{FILE}".replace(f"{OTHER}/", HOST).replace('"grace"', '"ada"').replace(
            "insecure = true\n", ""
        )
        write_profile(path, "a b", {"host": HOST})
        assert read_profiles(path).get("a b") == Profile(host=HOST)
        assert read_profiles(path).default == "usual"

    def test_removal(self, tmp_path: Path) -> None:
        """A default that is gone is the default no more."""
        path = tmp_path / "config.toml"
        path.write_text(FILE)
        remove_profile(path, "usual")
        profiles = read_profiles(path)
        assert (list(profiles.named), profiles.default) == (["special"], None)

    @pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
    def test_link(self, tmp_path: Path) -> None:
        """Those who keep such files elsewhere keep the link to them."""
        (tmp_path / "there").mkdir()
        path = tmp_path / "config.toml"
        path.symlink_to(tmp_path / "there" / "config.toml")
        write_profile(path, "work", {"host": HOST})
        assert path.is_symlink()
        assert read_profiles(path).get("work").host == HOST

    def test_no_place(self, tmp_path: Path) -> None:
        """A file that cannot be written is an error that names it."""
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match=r"config\.toml cannot be (read|written)"):
            write_profile(tmp_path / "file" / "config.toml", "work", {"host": HOST})


Parse = Callable[..., dict[str, Any]]


@pytest.fixture
def parse(config: Path) -> Parse:
    """Parse a command line as the command does, under the profiles of FILE, and return what the function gets."""
    config.write_text(FILE)

    def parsed(*words: str, command: str = "upload") -> dict[str, Any]:
        group = get_command(app)
        parent = typer.Context(group, info_name="asyncimport")
        source = ["x"] if command == "upload" else []
        return group.commands[command].make_context(command, [*words, *source], parent=parent).params  # type: ignore[attr-defined, no-any-return]

    return parsed


class TestOptions:
    """Where the value of an option comes from."""

    def test_default_profile(self, parse: Parse, config: Path) -> None:
        """It speaks where nothing else does; its user waits until the environment has been asked."""
        values = parse()
        assert (values["host"], values["project"], values["workers"]) == (HOST, "P1", "8")
        assert (values["outage_timeout"], values["session"], values["archive"]) == ("4h", "{StudyDate}", False)
        assert values["ca_bundle"] == config.parent / "site.pem"
        profile = values["profile"]
        assert (profile.name, profile.user, profile.is_explicit) == ("usual", "ada", False)
        assert values["user"] is None

    def test_explicit_profile(self, parse: Parse) -> None:
        """It is taken whole, and of the default one nothing."""
        for words in (["--profile", "special"], ["-pspecial"]):
            values = parse(*words)
            assert (values["host"], values["user"], values["project"]) == (OTHER, "grace", "P2")
            assert (values["insecure"], values["workers"], values["timeout"]) == (True, "2", 5.0)
            assert (values["outage_timeout"], values["output"].value) == ("1h", "json")
            assert values["profile"].is_explicit

    @pytest.mark.parametrize(
        ("variables", "words", "expected"),
        [
            ({}, [], "8"),
            ({"ASYNCIMPORT_WORKERS": "3"}, [], "3"),
            ({"ASYNCIMPORT_WORKERS": ""}, [], "8"),
            ({"ASYNCIMPORT_WORKERS": "3"}, ["-p", "special"], "2"),
            ({"ASYNCIMPORT_WORKERS": "3"}, ["-p", "special", "-w", "1"], "1"),
            ({"ASYNCIMPORT_WORKERS": "3"}, ["-w", "1", "-p", "special"], "1"),
            ({"ASYNCIMPORT_PROFILE": "special"}, [], "2"),
            ({"ASYNCIMPORT_PROFILE": "special", "ASYNCIMPORT_WORKERS": "3"}, [], "3"),
            ({"ASYNCIMPORT_PROFILE": "special"}, ["-p", "usual"], "8"),
        ],
    )
    def test_order(
        self,
        parse: Parse,
        monkeypatch: pytest.MonkeyPatch,
        variables: dict[str, str],
        words: list[str],
        expected: str,
    ) -> None:
        """First the option, then --profile, then its variable, then the profile of the variable or of the file."""
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert parse(*words)["workers"] == expected

    @pytest.mark.parametrize("variable", ["ASYNCIMPORT_HOST", "XNAT_HOST", "XNAT_URL"])
    def test_order_of_hosts(self, parse: Parse, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
        """The same for the address, which has more variables."""
        third = "https://third.example.org"
        monkeypatch.setenv(variable, third)
        assert parse()["host"] == third
        assert parse("-p", "special")["host"] == OTHER
        assert parse("-p", "special", "--host", HOST)["host"] == HOST

    def test_another_server(self, parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a profile says of its server counts for no other: least of all that it need not prove who it is."""
        by_option = parse("-p", "special", "--host", HOST)
        monkeypatch.setenv("XNAT_HOST", HOST)
        monkeypatch.setenv("ASYNCIMPORT_PROFILE", "special")
        for values in (by_option, parse()):
            assert (values["host"], values["user"], values["project"]) == (HOST, None, None)
            assert (values["insecure"], values["profile"].user) == (False, None)
            assert values["workers"] == "2"

    @pytest.mark.parametrize("host", [OTHER, f"{OTHER}/", "HTTPS://OTHER.example.org"])
    def test_the_same_server(self, parse: Parse, host: str) -> None:
        """However its address is written."""
        assert parse("-p", "special", "--host", host)["user"] == "grace"

    def test_other_commands(self, parse: Parse) -> None:
        """They take what they know."""
        values = parse("-p", "special", command="verify")
        assert (values["host"], values["project"], values["output"].value) == (OTHER, "P2", "json")
        assert "workers" not in values
        assert parse(command="login")["host"] == HOST
        new = parse("-p", "new", command="login")
        assert (new["host"], new["profile"].name, new["profile"].is_explicit) == (None, "new", True)
        for command in ("status", "forget"):
            values = parse("-p", "special", command=command)
            assert (values["host"], values["project"], values["output"].value) == (OTHER, "P2", "json")

    @pytest.mark.parametrize(
        ("key", "message"),
        [
            ("worker = 8", "worker is unknown"),
            ("help_all = true", "help_all is unknown"),
            ('profile = "usual"', "profile is unknown"),
            ('host = "x"', "host is not a default"),
            ('timeout = "soon"', "timeout: "),
            ('output = "xml"', "output: "),
        ],
    )
    @pytest.mark.parametrize("command", ["upload", "verify"])
    def test_refused(self, parse: Parse, config: Path, key: str, message: str, command: str) -> None:
        """A default for an option that is not there, or that cannot be, is told with file and key."""
        config.write_text(f"[profiles.a.defaults]\n{key}")
        with pytest.raises(typer.BadParameter) as caught:
            parse(command=command)
        assert f"{config}: profiles.a.defaults.{message}" in str(caught.value)

    def test_not_there(self, parse: Parse) -> None:
        """A profile that is asked for and is not there is told with those that are."""
        with pytest.raises(typer.BadParameter, match="has no profile x; there are usual, special"):
            parse("-p", "x")


@pytest.mark.anyio
async def test_help_shows_the_defaults_of_a_profile(commands: Commands) -> None:
    """Whoever wonders what will happen asks for help; a fault in the file does not keep it away."""
    path = commands.home / ".config" / "asyncimport" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(FILE)
    helped = await commands("upload", "--help")
    assert "default: 8]" in helped.out
    assert "default: no-archive]" in helped.out
    assert "default: 2]" in (await commands("upload", "-p", "special", "--help")).out
    path.write_text("[")
    assert (await commands("upload", "--help")).code == 0
    assert (await commands("status", "--help")).code == 0


@pytest.mark.anyio
async def test_a_fault_in_the_file_is_told_to_schedulers_too(commands: Commands, tree: Path) -> None:
    """Exit code 2, and the JSON that they wait for; the password stands nowhere."""
    path = commands.home / "mine.toml"
    path.write_text(f'[profiles.a]\npassword = "{SECRET}"\n')
    commands.env["ASYNCIMPORT_CONFIG"] = str(path)
    ended = await commands("upload", tree, "-o", "json")
    assert ended.code == 2
    message = f"{path}: profiles.a.password: secrets are not allowed in this file"
    assert ended.json["error"]["message"].startswith(message)
    assert ended.err.startswith(f"error: {message}")
    assert "asyncimport login" in ended.err
    assert SECRET not in ended.out + ended.err


@pytest.mark.anyio
async def test_a_run_with_a_profile_alone(xnat: TestXnat, url: str, commands: Commands, tree: Path) -> None:
    """Host, user and project are the profile's, the password the environment's; verify and a scheduler's JSON too."""
    path = commands.home / "mine.toml"
    path.write_text(f'[profiles.a]\nhost = "{url}"\nuser = "demo"\nproject = "demo"\ndefaults = {{ output = "json" }}')
    commands.env |= {"ASYNCIMPORT_CONFIG": str(path), "XNAT_PASS": "demo"}
    ended = await commands("upload", "-p", "a", tree)
    assert ended.code == 0, ended.err
    assert ended.json["files"]["stored"] == 12
    verified = await commands("verify", "--profile", "a")
    assert verified.code == 0, verified.err
    assert verified.json["sessions"]["verified"] == 2
    assert xnat.count["login"] == 2
