"""Where user name and password come from: option, environment, netrc, or a question. Never the command line."""

import netrc
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from asyncimport.errors import UsageError

__all__ = ["check_host", "find"]

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def check_host(host: str, *, insecure: bool) -> str:
    """Return the address without its trailing slash.

    Raises: UsageError when it is not an address, or would send the password over the network in the clear.
    """
    if "@" in host:  # first of all, so that no other message shows the password
        raise UsageError("--host holds a user name or password", hint="give them apart: --user, XNAT_PASS or netrc")
    try:
        parts = urlsplit(host)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or port == 0
        or parts.query
        or parts.fragment
        or host.split() != [host]
    ):
        raise UsageError(f"--host {host!r} is not an address", hint="write it as https://xnat.example.org")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK and not insecure:
        raise UsageError(
            f"{host} is not encrypted: password and patients would cross the network in the clear",
            hint="use https, or --insecure if you know that the network is safe",
        )
    return host.rstrip("/")


def find(
    host: str,
    user: str | None,
    *,
    environ: Mapping[str, str],
    password: str | None = None,
    prompt: Callable[[str], str] | None = None,
) -> tuple[str, str]:
    """Return user name and password for `host`.

    `password` was read from standard input; `prompt` asks a person, where there is one. The environment's secrets
    belong to the environment's host: they are not sent to another one that is named by --host.
    Raises: UsageError when none are found, or netrc may be read by others.
    """
    named = environ.get("XNAT_HOST") or environ.get("XNAT_URL")
    if not named or named.rstrip("/") == host:
        if user is None and password is None and (token := environ.get("XNAT_TOKEN")):
            alias, _, secret = token.partition(":")
            if not alias or not secret:
                raise UsageError("XNAT_TOKEN is not a token", hint="write it as alias:secret")
            return alias, secret
        wanted = environ.get("XNAT_USER")
        if user is None or not wanted or user == wanted:
            user = user or wanted
            password = password or (environ.get("XNAT_PASS") if user else None)
    if user and password:
        return user, password
    if password is None and (entry := _netrc(host, environ)) is not None and user in {None, entry[0]}:
        return entry
    if prompt is not None:
        user = user or prompt("XNAT user name: ")
        return user, password or prompt(f"password of {user}: ")
    raise UsageError(
        "no password for XNAT" if user else "no user name and password for XNAT",
        hint="set XNAT_USER and XNAT_PASS (they belong to XNAT_HOST, if that is set), or use ~/.netrc, or "
        "--user with --password-stdin",
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
            raise UsageError(f"{path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise UsageError(f"{path} cannot be read: it is not text") from None
        entry = entries.get(urlsplit(host).hostname or "")
        if entry is None or not entry[0] or not entry[2]:
            return None
        if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UsageError(f"{path} may be read by others", hint=f"chmod 600 {path}")
        return entry[0], entry[2]
    return None
