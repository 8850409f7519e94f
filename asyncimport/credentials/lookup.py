"""Find user name and password: in options, profile, environment, keyring or netrc, or ask for them."""

import netrc
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from asyncimport.errors import UsageError


def find_login(
    host: str,
    user: str | None,
    *,
    environ: Mapping[str, str],
    password: str | None = None,
    default_user: str | None = None,
    keyring: Callable[[str, str], tuple[str, str] | None] = lambda _user, _host: None,
    keyring_first: bool = False,
    prompt: Callable[[str], str] | None = None,
) -> tuple[str, str]:
    """Return user name and password for `host`.

    `password` was read from standard input; `default_user` is the default profile's; `keyring` looks into the
    keyring, `keyring_first` before the environment, for a profile that was asked for; `prompt` asks a person, where
    there is one. The environment's secrets belong to the environment's host: they are not sent to another one. Raises:
    UsageError when none are found, or netrc may be read by others.
    """
    if user and password:
        return user, password
    trouble: UsageError | None = None

    def from_keyring() -> tuple[str, str] | None:
        nonlocal trouble
        try:
            return keyring(user, host) if user and password is None else None
        except UsageError as error:
            trouble = error  # of interest only where nothing else has a password
            return None

    if keyring_first and (entry := from_keyring()) is not None:
        return entry
    named = environ.get("XNAT_HOST") or environ.get("XNAT_URL")
    if not named or named.rstrip("/") == host:
        if user is None and password is None and (token := environ.get("XNAT_TOKEN")):
            alias, _, secret = token.partition(":")
            if not alias or not secret:
                raise UsageError("XNAT_TOKEN is not a token", hint="write it as alias:secret")
            return alias, secret
        wanted = environ.get("XNAT_USER")
        if user is None or not wanted or user == wanted:
            user = user or wanted or default_user
            password = password or (environ.get("XNAT_PASS") if user else None)
    user = user or default_user
    if user and password:
        return user, password
    if not keyring_first and (entry := from_keyring()) is not None:
        return entry
    if password is None and (entry := _netrc(host, environ)) is not None and user in {None, entry[0]}:
        return entry
    if prompt is not None:
        user = user or prompt("XNAT user name: ")
        return user, password or prompt(f"password of {user}: ")
    raise trouble or UsageError(
        "no password for XNAT" if user else "no user name and password for XNAT",
        hint="set XNAT_USER and XNAT_PASS (they belong to XNAT_HOST, if that is set), or use `asyncimport login`, "
        "~/.netrc, or --user with --password-stdin",
    )


def _netrc(host: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Return login and password of the host's entry; a file without one for this host is as good as none."""
    named = environ.get("NETRC")
    home = Path(environ.get("HOME") or os.path.expanduser("~"))  # noqa: PTH111 - HOME may be given to a test
    for path in [Path(named)] if named else [home / ".netrc", home / "_netrc"]:
        if not path.is_file():
            continue
        try:
            entries = netrc.netrc(path).hosts
        except netrc.NetrcParseError as error:
            raise UsageError(f"{path} line {error.lineno} is malformed", hint="see `man netrc` for its form") from None
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}", hint="check its permissions") from None
        except UnicodeDecodeError:
            raise UsageError(f"{path} cannot be read: it is not text", hint="see `man netrc` for its form") from None
        entry = entries.get(urlsplit(host).hostname or "")
        if entry is None or not entry[0] or not entry[2]:
            return None
        if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UsageError(f"{path} may be read by others", hint=f"chmod 600 {path}")
        return entry[0], entry[2]
    return None
