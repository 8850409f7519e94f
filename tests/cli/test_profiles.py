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
from asyncimport.credentials.profiles import Profile, read_profiles, remove_profile, write_profile
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
        """Paths are relative to the file, and names of options have dashes or underscores."""
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
        """Without a file, or with an empty one, there are no profiles."""
        if text is not None:
            config.write_text(text)
        profiles = read_profiles(config)
        assert (profiles.named, profiles.default) == ({}, None)
        with pytest.raises(UsageError, match="has no profile x; there are none yet") as caught:
            profiles.get("x")
        assert caught.value.hint == "make it with `asyncimport login --profile x`"

    def test_a_home_directory_is_expanded(self, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """No shell expands ~ in a file."""
        monkeypatch.setenv("HOME", "/home/ada")
        monkeypatch.setenv("USERPROFILE", "/home/ada")
        config.write_text('[profiles.a]\nca_bundle = "~/ca.pem"\ndefaults = { journal = "~/a.journal" }')
        profile = read_profiles(config).get("a")
        assert profile.ca_bundle == Path("/home/ada/ca.pem")
        assert profile.defaults == {"journal": str(Path("/home/ada/a.journal"))}

    def test_files_of_windows_are_read(self, config: Path) -> None:
        """Editors on Windows write a byte order mark, and CRLF."""
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
            ("[profiles.a.defaults]\nworkers = [1]", r"profiles\.a\.defaults\.workers must be a text, number"),
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
    def test_secrets_are_refused(self, config: Path, key: str, place: str) -> None:
        """A password is refused anywhere, is not shown, and the hint says where it belongs."""
        config.write_text(f'{place}{key} = "{SECRET}"')
        with pytest.raises(UsageError, match=f"{key}: secrets are not allowed in this file") as caught:
            read_profiles(config)
        assert "asyncimport login" in caught.value.hint
        assert SECRET not in f"{caught.value} {caught.value.hint}"

    def test_a_password_in_an_address_is_refused(self, config: Path) -> None:
        """It is refused."""
        config.write_text(f'[profiles.a]\nhost = "https://ada:{SECRET}@xnat.example.org"')
        with pytest.raises(UsageError, match=r"profiles\.a\.host holds a user name or password") as caught:
            read_profiles(config)
        assert SECRET not in f"{caught.value} {caught.value.hint}"

    def test_an_unreadable_file_is_refused(self, config: Path) -> None:
        """The error says what is wrong."""
        config.write_bytes(b"\xff\xfe\x81")
        with pytest.raises(UsageError, match="cannot be read: it is not text"):
            read_profiles(config)
        with pytest.raises(UsageError, match="cannot be read: "):
            read_profiles(config.parent)


class TestWriting:
    """What `login` changes in the file, and what it leaves."""

    def test_the_first_profile_creates_the_file(self, tmp_path: Path) -> None:
        """Directory and file are created for the owner only, and the first profile is the default."""
        path = tmp_path / "some" / "where" / "config.toml"
        write_profile(path, "work", {"host": HOST, "user": "ada", "insecure": None})
        profiles = read_profiles(path)
        assert profiles.default == "work"
        assert profiles.get("work") == Profile(host=HOST, user="ada")
        assert os.name != "posix" or stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list(path.parent.iterdir()) == [path]

    def test_another_profile_keeps_the_rest(self, tmp_path: Path) -> None:
        """Other lines stay, with comments and order; a key without a value is removed."""
        path = tmp_path / "config.toml"
        path.write_text(f"# mine{FILE}")
        write_profile(path, "special", {"host": HOST, "user": "ada", "insecure": None})
        assert path.read_text() == f"# mine{FILE}".replace(f"{OTHER}/", HOST).replace('"grace"', '"ada"').replace(
            "insecure = true\n", ""
        )
        write_profile(path, "a b", {"host": HOST})
        assert read_profiles(path).get("a b") == Profile(host=HOST)
        assert read_profiles(path).default == "usual"

    def test_a_profile_is_removed(self, tmp_path: Path) -> None:
        """A removed profile is no longer the default."""
        path = tmp_path / "config.toml"
        path.write_text(FILE)
        remove_profile(path, "usual")
        profiles = read_profiles(path)
        assert (list(profiles.named), profiles.default) == (["special"], None)

    @pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
    def test_a_link_stays_a_link(self, tmp_path: Path) -> None:
        """A link to the file stays a link."""
        (tmp_path / "there").mkdir()
        path = tmp_path / "config.toml"
        path.symlink_to(tmp_path / "there" / "config.toml")
        write_profile(path, "work", {"host": HOST})
        assert path.is_symlink()
        assert read_profiles(path).get("work").host == HOST

    def test_a_file_that_cannot_be_written(self, tmp_path: Path) -> None:
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
        """Its values count last, and its user comes after the environment's."""
        values = parse()
        assert (values["host"], values["project"], values["workers"]) == (HOST, "P1", "8")
        assert (values["outage_timeout"], values["session"], values["archive"]) == ("4h", "{StudyDate}", False)
        assert values["ca_bundle"] == config.parent / "site.pem"
        profile = values["profile"]
        assert (profile.name, profile.user, profile.is_explicit) == ("usual", "ada", False)
        assert values["user"] is None

    def test_explicit_profile(self, parse: Parse) -> None:
        """Nothing comes from the default profile."""
        for words in (["--profile", "special"], ["-pspecial"]):
            values = parse(*words)
            assert (values["host"], values["user"], values["project"]) == (OTHER, "grace", "P2")
            assert (values["insecure"], values["workers"], values["timeout"]) == (True, "2", "5")
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
    def test_the_order_of_sources(
        self,
        parse: Parse,
        monkeypatch: pytest.MonkeyPatch,
        variables: dict[str, str],
        words: list[str],
        expected: str,
    ) -> None:
        """First the option, then --profile, its variable, and the default profile."""
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert parse(*words)["workers"] == expected

    @pytest.mark.parametrize("variable", ["ASYNCIMPORT_HOST", "XNAT_HOST", "XNAT_URL"])
    def test_the_order_of_sources_of_the_address(
        self, parse: Parse, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        """The address has more variables."""
        third = "https://third.example.org"
        monkeypatch.setenv(variable, third)
        assert parse()["host"] == third
        assert parse("-p", "special")["host"] == OTHER
        assert parse("-p", "special", "--host", HOST)["host"] == HOST

    def test_values_of_a_server_are_for_no_other(self, parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
        """Values for one server are not used for another, above all not `insecure`."""
        by_option = parse("-p", "special", "--host", HOST)
        monkeypatch.setenv("XNAT_HOST", HOST)
        monkeypatch.setenv("ASYNCIMPORT_PROFILE", "special")
        for values in (by_option, parse()):
            assert (values["host"], values["user"], values["project"]) == (HOST, None, None)
            assert (values["insecure"], values["profile"].user) == (False, None)
            assert values["workers"] == "2"

    @pytest.mark.parametrize("host", [OTHER, f"{OTHER}/", "HTTPS://OTHER.example.org"])
    def test_the_same_server_in_other_words(self, parse: Parse, host: str) -> None:
        """Addresses are compared by their meaning."""
        assert parse("-p", "special", "--host", host)["user"] == "grace"

    def test_other_commands(self, parse: Parse) -> None:
        """They take the options that they have."""
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
            ('max_sessions = "soon"', "max_sessions: "),
            ('output = "xml"', "output: "),
            ('exclude = "a"', "exclude: invalid --exclude 'a': a list of texts, in brackets"),
            ('workers = ["8"]', "workers: "),
            ('output = ["json"]', "output: "),
            ('archive = ["no"]', "archive: "),
            ('receipts = ["r"]', "receipts: "),
            ('max-rate = ["1MB"]', "max_rate: "),
        ],
    )
    @pytest.mark.parametrize("command", ["upload", "verify"])
    def test_refused(self, parse: Parse, config: Path, key: str, message: str, command: str) -> None:
        """The error names file and key."""
        config.write_text(f"[profiles.a.defaults]\n{key}")
        with pytest.raises(UsageError) as caught:
            parse(command=command)
        assert f"{config}: profiles.a.defaults.{message}" in str(caught.value)

    @pytest.mark.parametrize(("line", "found"), [('["a b", "~/c"]', ["a b", "~/c"]), ("[]", [])])
    def test_an_option_that_may_be_given_again_takes_a_list(
        self, parse: Parse, config: Path, line: str, found: list[str]
    ) -> None:
        """Its values may have blanks, which the environment separates them by."""
        config.write_text(f"[profiles.a.defaults]\nexclude = {line}")
        home = str(Path.home())
        assert parse("-p", "a")["exclude"] == [one.replace("~", home) for one in found]

    def test_an_unknown_profile_is_refused(self, parse: Parse) -> None:
        """The error lists the profiles."""
        with pytest.raises(UsageError, match="has no profile x; there are usual, special"):
            parse("-p", "x")


@pytest.mark.anyio
async def test_help_shows_the_defaults_of_a_profile(commands: Commands) -> None:
    """A fault in the file does not hide the help."""
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
async def test_a_fault_in_the_file_is_reported_as_json(commands: Commands, tree: Path) -> None:
    """Exit code 2 and JSON; the password is not shown."""
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
    """Host, user and project come from the profile, the password from the environment."""
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
