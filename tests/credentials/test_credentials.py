"""Where user name and password come from, and that nothing leaks them."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import keyring
import keyring.backends.fail
import pytest
from file_keyring import Keyring as FileKeyring
from keyring.backend import KeyringBackend
from keyring.backends.chainer import ChainerBackend
from keyring.errors import KeyringLocked
from keyrings.alt.file import PlaintextKeyring  # type: ignore[import-untyped]

from asyncimport.credentials.hosts import check_host, same_server, with_scheme
from asyncimport.credentials.keyring_store import Token, check_keyring, delete_secret, store_secret, stored_login
from asyncimport.credentials.lookup import find_login
from asyncimport.errors import UsageError

HOST = "https://xnat.example.org/xnat"
OTHER = "https://other.example.org"
SECRET = "correct horse"

needs_modes = pytest.mark.skipif(os.name != "posix", reason="only POSIX has modes of files")
needs_other_user = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything"
)


def asked(*answers: str) -> tuple[Callable[[str], str], list[str]]:
    """Return a prompt with these answers, and the list of its questions."""
    left, questions = list(answers), list[str]()

    def prompt(text: str) -> str:
        questions.append(text)
        return left.pop(0)

    return prompt, questions


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """Return an environment with only an empty home directory."""
    return {"HOME": str(tmp_path)}


def write_netrc(home: Mapping[str, str], text: str, *, name: str = ".netrc", mode: int = 0o600) -> Path:
    """Write a netrc file into the home directory."""
    path = Path(home["HOME"]) / name
    path.write_text(text)
    path.chmod(mode)
    return path


PASSWORD = "correct-horse"  # netrc has no blanks in passwords
ENTRY = f"machine xnat.example.org login ada password {PASSWORD}\n"


class TestHost:
    """The address of the server."""

    @pytest.mark.parametrize(
        ("host", "expected"),
        [
            ("https://xnat.example.org", "https://xnat.example.org"),
            ("https://xnat.example.org/", "https://xnat.example.org"),
            ("https://xnat.example.org:8443/xnat//", "https://xnat.example.org:8443/xnat"),
            ("HTTPS://XNAT.example.org", "HTTPS://XNAT.example.org"),
            ("http://localhost:8080", "http://localhost:8080"),
            ("http://LOCALHOST", "http://LOCALHOST"),
            ("http://127.0.0.1:8090/", "http://127.0.0.1:8090"),
            ("http://[::1]:8090", "http://[::1]:8090"),
        ],
    )
    def test_taken(self, host: str, expected: str) -> None:
        """An address keeps its context path and loses its last slash; plain http is allowed to this machine."""
        assert check_host(host, insecure=False) == expected

    @pytest.mark.parametrize(
        "host", ["http://xnat.example.org", "http://10.0.0.1:8080", "http://localhost.example.org", "http://[::2]"]
    )
    def test_plain_http_to_another_machine(self, host: str) -> None:
        """Plain http to another machine needs --insecure."""
        with pytest.raises(UsageError, match="not encrypted") as caught:
            check_host(host, insecure=False)
        assert "--insecure" in caught.value.hint
        assert check_host(host, insecure=True) == host

    @pytest.mark.parametrize(
        "host",
        [
            "xnat.example.org",
            "xnat.example.org:8080",
            "ftp://xnat.example.org",
            "https://",
            "https:///data",
            "https://xnat.example.org?a=b",
            "https://xnat.example.org#top",
            "https://xnat.example.org:port",
            "https://xnat.example.org:99999",
            "https://xnat.example.org:0",
            "https://[::1",
            "http://[::1].example.org",
            "https://[::1]x:1",
            "https://xnat.example.org\\.example.org",
            "https://xnat.example.org\x1b[31m",
            "https://xnat%2e.example.org",
            "https://xnat example.org",
            "https://xnat.example.org ",
            "https://xnat\n.example.org",
        ],
    )
    def test_no_address(self, host: str) -> None:
        """An invalid address is refused, with an example of a valid one."""
        with pytest.raises(UsageError, match="is not an address") as caught:
            check_host(host, insecure=True)
        assert "https://" in caught.value.hint

    def test_nothing(self) -> None:
        """Without an address, the hint says how to give one."""
        with pytest.raises(UsageError, match="no server") as caught:
            check_host("", insecure=True)
        assert "--host" in caught.value.hint

    @pytest.mark.parametrize(
        "host",
        [
            f"https://ada:{PASSWORD}@xnat.example.org",
            f"https://:{PASSWORD}@xnat.example.org",
            "https://ada@xnat.example.org",
            f"ada:{PASSWORD}@xnat.example.org",
            f"ftp://ada:{PASSWORD}@xnat.example.org",
            f"https://ada:{PASSWORD}@[::1",
            f"https://ada:{PASSWORD}%40xnat.example.org",
            f"https://ada:{PASSWORD}@xnat.example.org?x#y",
        ],
    )
    def test_password_in_the_address(self, host: str) -> None:
        """A password in the address is refused, and not shown."""
        with pytest.raises(UsageError, match="holds a user name or password") as caught:
            check_host(host, insecure=True)
        assert PASSWORD not in f"{caught.value} {caught.value.hint} {caught.value!r}"


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (HOST, True),
        (f"{HOST}/", True),
        ("HTTPS://XNAT.Example.ORG/xnat", True),
        ("http://xnat.example.org/xnat", False),
        ("https://xnat.example.org", False),
        ("https://xnat.example.org/XNAT", False),
        ("https://xnat.example.org:8443/xnat", False),
        ("https://xnat.example.org.evil.org/xnat", False),
        ("https://[", False),
    ],
)
def test_same_server(other: str, same: bool) -> None:
    """Scheme, port and path distinguish servers; the case of scheme and host does not."""
    assert same_server(HOST, other) is same


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("xnat.example.org", "https://xnat.example.org"),
        ("xnat.example.org:8443/xnat", "https://xnat.example.org:8443/xnat"),
        ("localhost:8080", "http://localhost:8080"),
        ("127.0.0.1", "http://127.0.0.1"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("localhost.example.org", "https://localhost.example.org"),
        ("http://xnat.example.org", "http://xnat.example.org"),
        ("[::1", "https://[::1"),
        ("", "https://"),
    ],
)
def test_an_address_without_a_scheme(address: str, expected: str) -> None:
    """It is https, but for this machine; what is no address stays none."""
    assert with_scheme(address) == expected


class TestEnvironment:
    """Logins of the environment, and the server that they belong to."""

    @pytest.mark.parametrize(
        ("user", "environ", "expected"),
        [
            pytest.param(None, {"XNAT_USER": "ada", "XNAT_PASS": SECRET}, ("ada", SECRET), id="both"),
            pytest.param("ada", {"XNAT_USER": "ada", "XNAT_PASS": SECRET}, ("ada", SECRET), id="the same user"),
            pytest.param("ada", {"XNAT_PASS": SECRET}, ("ada", SECRET), id="password only"),
            pytest.param("ada", {"XNAT_USER": "", "XNAT_PASS": SECRET}, ("ada", SECRET), id="empty user"),
            pytest.param(None, {"XNAT_TOKEN": f"alias:{SECRET}"}, ("alias", SECRET), id="token"),
            pytest.param(None, {"XNAT_TOKEN": "alias:a:b"}, ("alias", "a:b"), id="token with colon"),
            pytest.param(
                None,
                {"XNAT_TOKEN": "alias:a", "XNAT_USER": "ada", "XNAT_PASS": SECRET},
                ("alias", "a"),
                id="token before password",
            ),
            pytest.param(
                "ada",
                {"XNAT_TOKEN": "alias:a", "XNAT_USER": "ada", "XNAT_PASS": SECRET},
                ("ada", SECRET),
                id="a user named goes before the token",
            ),
            pytest.param(
                None, {"XNAT_TOKEN": "", "XNAT_USER": "ada", "XNAT_PASS": SECRET}, ("ada", SECRET), id="empty token"
            ),
        ],
    )
    @pytest.mark.parametrize(
        "bound",
        [
            {},
            {"XNAT_HOST": HOST},
            {"XNAT_HOST": f"{HOST}/"},
            {"XNAT_URL": HOST},
            {"XNAT_HOST": HOST, "XNAT_URL": OTHER},
            {"XNAT_HOST": "", "XNAT_URL": HOST},
            {"XNAT_HOST": "", "XNAT_URL": ""},
        ],
    )
    def test_found(
        self,
        home: Mapping[str, str],
        user: str | None,
        environ: Mapping[str, str],
        expected: tuple[str, str],
        bound: Mapping[str, str],
    ) -> None:
        """User and password, or a token, are used for the environment's server, or for any if it names none."""
        assert find_login(HOST, user, environ={**home, **bound, **environ}) == expected

    @pytest.mark.parametrize(
        "environ", [{"XNAT_USER": "ada", "XNAT_PASS": SECRET}, {"XNAT_TOKEN": f"alias:{SECRET}"}, {"XNAT_PASS": SECRET}]
    )
    @pytest.mark.parametrize(
        "bound", [{"XNAT_HOST": OTHER}, {"XNAT_URL": OTHER}, {"XNAT_HOST": OTHER, "XNAT_URL": HOST}]
    )
    @pytest.mark.parametrize("user", [None, "ada"])
    def test_bound_to_another_server(
        self, home: Mapping[str, str], environ: Mapping[str, str], bound: Mapping[str, str], user: str | None
    ) -> None:
        """A secret of one server is never sent to another."""
        with pytest.raises(UsageError, match="password for XNAT") as caught:
            find_login(HOST, user, environ={**home, **bound, **environ})
        assert SECRET not in f"{caught.value} {caught.value.hint}"

    def test_password_of_another_user(self, home: Mapping[str, str]) -> None:
        """The environment's password is not tried for another user (20 failures lock an account)."""
        with pytest.raises(UsageError, match=r"^no password for XNAT$"):
            find_login(HOST, "grace", environ={**home, "XNAT_USER": "ada", "XNAT_PASS": SECRET})

    @pytest.mark.parametrize("token", [PASSWORD, f":{PASSWORD}", f"{PASSWORD}:"])
    def test_invalid_token(self, home: Mapping[str, str], token: str) -> None:
        """A token without two halves is refused, and not shown."""
        with pytest.raises(UsageError, match="XNAT_TOKEN is not a token") as caught:
            find_login(HOST, None, environ={**home, "XNAT_TOKEN": token})
        assert PASSWORD not in f"{caught.value} {caught.value.hint}"


class TestStandardInput:
    """A password from standard input comes before all others."""

    def test_with_user(self, home: Mapping[str, str]) -> None:
        """The user of the option gets the password from standard input."""
        write_netrc(home, ENTRY)
        environ = {**home, "XNAT_USER": "ada", "XNAT_PASS": "another", "XNAT_TOKEN": "alias:a"}
        assert find_login(HOST, "ada", environ=environ, password=SECRET) == ("ada", SECRET)
        assert find_login(HOST, "grace", environ=environ, password=SECRET) == ("grace", SECRET)

    def test_with_the_user_of_the_environment(self, home: Mapping[str, str]) -> None:
        """Without the option, the environment names the user."""
        environ = {**home, "XNAT_USER": "ada", "XNAT_PASS": "another", "XNAT_TOKEN": "alias:a"}
        assert find_login(HOST, None, environ=environ, password=SECRET) == ("ada", SECRET)

    def test_without_user(self, home: Mapping[str, str]) -> None:
        """A password needs a user: that of netrc has its own password."""
        write_netrc(home, ENTRY)
        with pytest.raises(UsageError, match="user name"):
            find_login(HOST, None, environ=home, password=SECRET)

    def test_person_gives_the_name(self, home: Mapping[str, str]) -> None:
        """A person is asked only for what is missing."""
        prompt, questions = asked("ada")
        assert find_login(HOST, None, environ=home, password=SECRET, prompt=prompt) == ("ada", SECRET)
        assert questions == ["XNAT user name: "]


class TestNetrc:
    """The netrc file, for this server and user only."""

    @pytest.mark.parametrize("name", [".netrc", "_netrc"])
    @pytest.mark.parametrize("user", [None, "ada"])
    def test_found(self, home: Mapping[str, str], name: str, user: str | None) -> None:
        """The entry of the server's name has user and password, without context path and port."""
        write_netrc(home, f"machine other.example.org login x password y\n{ENTRY}", name=name)
        assert find_login(HOST, user, environ=home) == ("ada", PASSWORD)

    def test_environment_goes_first(self, home: Mapping[str, str]) -> None:
        """Netrc comes last, and is not opened if user and password are known."""
        write_netrc(home, "this is no netrc")
        assert find_login(HOST, None, environ={**home, "XNAT_USER": "ada", "XNAT_PASS": SECRET}) == ("ada", SECRET)

    def test_netrc_goes_before_the_prompt(self, home: Mapping[str, str]) -> None:
        """Netrc comes before the prompt."""
        write_netrc(home, ENTRY)
        prompt, questions = asked()
        assert find_login(HOST, None, environ=home, prompt=prompt) == ("ada", PASSWORD)
        assert questions == []

    def test_named_by_netrc_variable(self, home: Mapping[str, str]) -> None:
        """NETRC names another file than that in the home directory."""
        write_netrc(home, "machine xnat.example.org login wrong password wrong\n")
        path = write_netrc(home, ENTRY, name="elsewhere")
        assert find_login(HOST, None, environ={**home, "NETRC": str(path)}) == ("ada", PASSWORD)

    def test_a_missing_file_of_the_netrc_variable(self, home: Mapping[str, str]) -> None:
        """If the file of NETRC is missing, the one in the home directory is not used."""
        write_netrc(home, ENTRY)
        with pytest.raises(UsageError, match="no user name and password"):
            find_login(HOST, None, environ={**home, "NETRC": str(Path(home["HOME"]) / "gone")})

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "machine other.example.org login ada password x\n",
            "default login ada password x\n",
            "machine xnat.example.org login ada\n",
            "machine xnat.example.org password x\n",
        ],
        ids=["empty", "other server", "default", "no password", "no login"],
    )
    def test_no_entry(self, home: Mapping[str, str], text: str) -> None:
        """A file without a complete entry for this server is ignored, and may be readable by others."""
        write_netrc(home, text, mode=0o644)
        with pytest.raises(UsageError, match="no user name and password for XNAT"):
            find_login(HOST, None, environ=home)

    def test_entry_of_another_user(self, home: Mapping[str, str]) -> None:
        """The entry of another user is not used."""
        write_netrc(home, ENTRY)
        with pytest.raises(UsageError, match=r"^no password for XNAT$"):
            find_login(HOST, "grace", environ=home)

    @needs_modes
    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o610, 0o602])
    def test_open_to_others(self, home: Mapping[str, str], mode: int) -> None:
        """A file that others may read or write is refused, with a hint."""
        path = write_netrc(home, ENTRY, mode=mode)
        with pytest.raises(UsageError, match="may be read by others") as caught:
            find_login(HOST, None, environ=home)
        assert caught.value.hint == f"chmod 600 {path}"

    @pytest.mark.parametrize("mode", [0o600, 0o400])
    def test_closed_to_others(self, home: Mapping[str, str], mode: int) -> None:
        """A file that only its owner can read is accepted."""
        write_netrc(home, ENTRY, mode=mode)
        assert find_login(HOST, None, environ=home) == ("ada", PASSWORD)

    def test_malformed(self, home: Mapping[str, str]) -> None:
        """The error names the line of a malformed file, but does not show it."""
        path = write_netrc(home, f"{ENTRY}machine b login c passwort {PASSWORD}\n")
        with pytest.raises(UsageError, match="line 2 is malformed") as caught:
            find_login(HOST, None, environ=home)
        assert str(path) in str(caught.value)
        assert PASSWORD not in f"{caught.value} {caught.value.hint}"

    def test_not_text(self, home: Mapping[str, str]) -> None:
        """A file that is not text is an error."""
        path = Path(home["HOME"]) / ".netrc"
        path.write_bytes(b"machine a login b password \xff\xfe\x81\n")
        path.chmod(0o600)
        with pytest.raises(UsageError, match=r"cannot be read|no user name"):
            find_login(HOST, None, environ=home)

    @needs_other_user
    def test_unreadable_netrc(self, home: Mapping[str, str]) -> None:
        """A file that this user may not read is an error with its name."""
        path = write_netrc(home, ENTRY, mode=0o000)
        with pytest.raises(UsageError, match="cannot be read") as caught:
            find_login(HOST, None, environ=home)
        assert str(path) in str(caught.value)


@pytest.fixture
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileKeyring]:
    """Use a keyring in a file of the test."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    before, ours = keyring.get_keyring(), FileKeyring()
    keyring.set_keyring(ours)
    yield ours
    keyring.set_keyring(before)


class Locked(KeyringBackend):
    """A locked keyring."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def get_password(self, service: str, username: str) -> str | None:  # noqa: ARG002 - as its base has it
        """Refuse."""
        raise KeyringLocked("Failed to unlock the collection!")

    def set_password(self, service: str, username: str, password: str) -> None:  # noqa: ARG002 - the same
        """Refuse."""
        raise KeyringLocked("Failed to unlock the collection!")

    def delete_password(self, service: str, username: str) -> None:  # noqa: ARG002 - the same
        """Refuse."""
        raise KeyringLocked("Failed to unlock the collection!")


class Unfit:
    """A keyring that does not work here."""

    name = "name_problem"

    @property
    def priority(self) -> float:
        """Raise, as keyring's own backends do."""
        raise RuntimeError("Secret Service not available")


class TestKeyring:
    """The system's keyring: what it stores, for whom, and when it is read."""

    def test_password(self, vault: FileKeyring) -> None:
        """A password is stored for its user and server only."""
        store_secret("ada", HOST, SECRET)
        assert vault.get_password("asyncimport", f"ada@{HOST}") == SECRET
        assert stored_login("ada", f"{HOST}/") == ("ada", SECRET)
        for user, host in [("grace", HOST), ("ada", OTHER), ("ada", HOST.replace("https", "http"))]:
            assert stored_login(user, host) is None

    def test_token(self, vault: FileKeyring) -> None:
        """A token replaces the password, and a password the token."""
        store_secret("ada", HOST, SECRET)
        store_secret("ada", HOST, Token("alias", "half", time.time() + 60))
        assert stored_login("ada", HOST) == ("alias", "half")
        assert vault.get_password("asyncimport", f"ada@{HOST}") is None
        store_secret("ada", HOST, Token("alias", "whole"))
        assert stored_login("ada", HOST) == ("alias", "whole")
        store_secret("ada", HOST, SECRET)
        assert stored_login("ada", HOST) == ("ada", SECRET)

    @pytest.mark.usefixtures("vault")
    def test_expired(self, home: Mapping[str, str]) -> None:
        """An expired token is not used; the error says so if there is no other password."""
        store_secret("ada", HOST, Token("alias", "half", time.time() - 1))
        with pytest.raises(UsageError, match="the token of ada has expired") as caught:
            find_login(HOST, "ada", environ=home, keyring=stored_login)
        assert caught.value.hint == "get another with `asyncimport login --token`"
        write_netrc(home, ENTRY)
        assert find_login(HOST, "ada", environ=home, keyring=stored_login) == ("ada", PASSWORD)

    @pytest.mark.parametrize(
        "text",
        [
            "half",
            "[]",
            '{"alias": "a"}',
            '{"alias": "a", "secret": "b", "more": 1}',
            "[" * 100_000,
            '{"alias": "a", "secret": "b", "expires": "soon"}',
            "1",
        ],
    )
    def test_malformed(self, vault: FileKeyring, text: str) -> None:
        """A malformed token is not shown."""
        vault.set_password("asyncimport", f"ada@{HOST} token", text)
        with pytest.raises(UsageError, match=r"^the token in the keyring is malformed$"):
            stored_login("ada", HOST)

    @pytest.mark.usefixtures("vault")
    def test_forgotten(self) -> None:
        """Deleting removes everything, and works without a secret."""
        store_secret("ada", HOST, SECRET)
        store_secret("grace", HOST, SECRET)
        delete_secret("ada", HOST)
        delete_secret("ada", HOST)
        assert stored_login("ada", HOST) is None
        assert stored_login("grace", HOST) == ("grace", SECRET)

    def test_no_traceback_shows_a_token(self) -> None:
        """No traceback shows any part of a token."""
        assert "half" not in repr(Token("alias", "half"))

    @pytest.mark.parametrize(
        ("backends", "said"),
        [
            ([], "no keyring"),
            ([PlaintextKeyring], "does not keep passwords secret"),
            ([Unfit, PlaintextKeyring], "does not keep passwords secret"),
            ([FileKeyring, PlaintextKeyring], ""),
        ],
    )
    def test_several(
        self,
        vault: FileKeyring,
        monkeypatch: pytest.MonkeyPatch,
        backends: Sequence[type[KeyringBackend | Unfit]],
        said: str,
    ) -> None:
        """The first backend of a chain counts, because it would store the secret."""
        chain = ChainerBackend()  # type: ignore[no-untyped-call]
        monkeypatch.setattr(ChainerBackend, "backends", [backend() for backend in backends])
        keyring.set_keyring(chain)
        if said:
            with pytest.raises(UsageError, match=said):
                check_keyring()
            with pytest.raises(UsageError, match=said):
                store_secret("ada", HOST, SECRET)
        else:
            assert check_keyring() == "a file for tests"
            store_secret("ada", HOST, SECRET)
            assert vault.get_password("asyncimport", f"ada@{HOST}") == SECRET

    def test_none(self, vault: FileKeyring) -> None:
        """Without a keyring, the error comes before the question for a password."""
        keyring.set_keyring(keyring.backends.fail.Keyring())  # type: ignore[no-untyped-call]
        assert stored_login("ada", HOST) is None
        with pytest.raises(UsageError, match="this system has no keyring") as caught:
            check_keyring()
        for instead in ("netrc", "XNAT_PASS"):
            assert instead in caught.value.hint
        keyring.set_keyring(vault)
        check_keyring()

    @pytest.mark.usefixtures("vault")
    def test_locked(self, home: Mapping[str, str]) -> None:
        """If the keyring is locked, netrc is used; without it, the error says why."""
        keyring.set_keyring(Locked())
        with pytest.raises(UsageError, match="the keyring does not open: Failed to unlock"):
            find_login(HOST, "ada", environ=home, keyring=stored_login)
        with pytest.raises(UsageError, match="Failed to unlock") as caught:
            store_secret("ada", HOST, SECRET)
        assert SECRET not in f"{caught.value} {caught.value.hint}"
        write_netrc(home, ENTRY)
        assert find_login(HOST, "ada", environ=home, keyring=stored_login) == ("ada", PASSWORD)

    @pytest.mark.parametrize(
        ("environ", "keyring_first", "expected"),
        [
            pytest.param({}, False, "kept", id="before netrc"),
            pytest.param({"XNAT_PASS": "set"}, False, "set", id="after the environment"),
            pytest.param({"XNAT_PASS": "set"}, True, "kept", id="before the environment"),
            pytest.param({"XNAT_PASS": "set", "XNAT_HOST": OTHER}, False, "kept", id="set for another server"),
            pytest.param({"XNAT_PASS": "set", "XNAT_USER": "grace"}, False, "kept", id="set for another user"),
        ],
    )
    @pytest.mark.usefixtures("vault")
    def test_order(
        self, home: Mapping[str, str], environ: Mapping[str, str], keyring_first: bool, expected: str
    ) -> None:
        """The keyring comes before netrc, and with --profile before the environment."""
        store_secret("ada", HOST, "kept")
        write_netrc(home, ENTRY)
        assert find_login(
            HOST, "ada", environ={**home, **environ}, keyring=stored_login, keyring_first=keyring_first
        ) == ("ada", expected)

    @pytest.mark.usefixtures("vault")
    @pytest.mark.parametrize("keyring_first", [True, False])
    def test_without_a_stored_secret(self, home: Mapping[str, str], keyring_first: bool) -> None:
        """Without a stored secret, the other sources are used, at last a person."""
        environ = {**home, "XNAT_PASS": "set"}
        assert find_login(HOST, "ada", environ=environ, keyring=stored_login, keyring_first=keyring_first) == (
            "ada",
            "set",
        )
        assert find_login(HOST, "ada", environ=environ, keyring=stored_login, password=SECRET) == ("ada", SECRET)
        prompt, questions = asked(SECRET)
        assert find_login(
            HOST, "ada", environ=home, keyring=stored_login, keyring_first=keyring_first, prompt=prompt
        ) == ("ada", SECRET)
        assert questions == ["password of ada: "]

    @pytest.mark.usefixtures("vault")
    def test_default_user(self, home: Mapping[str, str]) -> None:
        """A default profile names the user if neither option nor environment does."""
        store_secret("ada", HOST, "kept")
        store_secret("grace", HOST, "another")

        def found(user: str | None, **environ: str) -> tuple[str, str]:
            return find_login(HOST, user, environ={**home, **environ}, keyring=stored_login, default_user="ada")

        assert found(None) == ("ada", "kept")
        assert found("grace") == ("grace", "another")
        assert found(None, XNAT_USER="grace") == ("grace", "another")
        assert found(None, XNAT_USER="grace", XNAT_HOST=OTHER) == ("ada", "kept")
        assert found(None, XNAT_PASS="set") == ("ada", "set")
        assert found(None, XNAT_TOKEN="alias:a") == ("alias", "a")
        assert find_login(HOST, None, environ=home, default_user="ada", password=SECRET) == ("ada", SECRET)


class TestPerson:
    """Questions to a person."""

    def test_asks_for_both(self, home: Mapping[str, str]) -> None:
        """The prompts ask for the name, then for the password of that name."""
        prompt, questions = asked("ada", SECRET)
        assert find_login(HOST, None, environ=home, prompt=prompt) == ("ada", SECRET)
        assert questions == ["XNAT user name: ", "password of ada: "]

    def test_asks_for_the_password(self, home: Mapping[str, str]) -> None:
        """A known user is not asked for."""
        prompt, questions = asked(SECRET, SECRET)
        assert find_login(HOST, "ada", environ=home, prompt=prompt) == ("ada", SECRET)
        assert find_login(HOST, None, environ={**home, "XNAT_USER": "grace"}, prompt=prompt) == ("grace", SECRET)
        assert questions == ["password of ada: ", "password of grace: "]

    @pytest.mark.parametrize(
        ("user", "message"),
        [(None, "no user name and password for XNAT"), ("ada", "no password for XNAT")],
    )
    def test_without_a_person(self, home: Mapping[str, str], user: str | None, message: str) -> None:
        """Without a person, the error says what is missing and where to give it."""
        with pytest.raises(UsageError) as caught:
            find_login(HOST, user, environ=home)
        assert str(caught.value) == message
        assert caught.value.exit_code == 2
        for place in ("XNAT_USER", "XNAT_PASS", "netrc", "--password-stdin"):
            assert place in caught.value.hint


def test_home_of_the_process(home: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without HOME, the home directory is that of the process."""
    write_netrc(home, ENTRY)
    monkeypatch.setenv("HOME", home["HOME"])
    assert find_login(HOST, None, environ={}) == ("ada", PASSWORD)
