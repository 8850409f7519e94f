"""`asyncimport login`: check a login, keep its secret in the system's keyring, and the rest in a profile."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from asyncimport.cli.options import Connection, Screen
from asyncimport.cli.parameters import command
from asyncimport.cli.profiles import profiles_path, prompt
from asyncimport.credentials.hosts import check_host, same_server
from asyncimport.credentials.keyring_store import Token, check_keyring, delete_secret, store_secret
from asyncimport.credentials.profiles import Profiles, read_profiles, remove_profile, write_profile
from asyncimport.errors import TransientError, UnavailableError, UsageError
from asyncimport.model.option import option
from asyncimport.model.texts import plain
from asyncimport.reporting.progress import human_seconds


@dataclass(frozen=True, kw_only=True)
class Secret:
    """What the keyring keeps."""

    token: bool = option(
        "--token", default=False, help="Keep a token, which XNAT issues for a while, in place of the password."
    )
    forget: str | None = option("--forget", metavar="NAME", help="Remove this profile and its secret, and do no more.")


@command()
def login(*, connection: Connection, secret: Secret, screen: Screen) -> None:
    """Try a login once, keep its password or token in the system's keyring, and the rest in a profile."""
    out, _ = screen.consoles
    profile, insecure = connection.profile, connection.insecure
    name = profile.name if profile else "default"
    keyring = check_keyring()
    profiles = read_profiles(profiles_path())
    if secret.forget is not None:
        _forget(profiles, secret.forget)
        out.print(Text(plain(f"profile {secret.forget} and its secret are removed")))
        return
    ask = None if connection.password_stdin else prompt()
    host = check_host(connection.host or _answer(ask, "XNAT address: ", "--host"), insecure=insecure)
    before = profiles.named.get(name)
    if before and before.host and not (profile and profile.is_explicit) and not same_server(before.host, host):
        raise UsageError(f"profile {name} is of {before.host}", hint=f"name one for {host} with --profile")
    user = connection.user or (profile.user if profile else None) or _answer(ask, "XNAT user name: ", "--user")
    if connection.password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = _answer(ask, f"password of {user}: ", "--password-stdin")
    ca_bundle = connection.ca_bundle
    checked = _try_login(host, user, password, ca_bundle, verify=not insecure, token=secret.token)
    if before and (before.user, before.host) != (user, host):
        _forget_secret(profiles, name)
    store_secret(user, host, checked)
    values = {
        "host": host,
        "user": user,
        "project": connection.project,
        "ca_bundle": None if ca_bundle is None else str(ca_bundle.absolute()),
        "insecure": insecure or None,
    }
    write_profile(profiles.path, name, values)
    out.print(Text(plain(f"{host} takes the login of {user}; profile {name} is in {profiles.path}")))
    out.print(Text(plain(f"the keyring ({keyring}) has {_description(checked)}")))


def _answer(ask: Callable[[str], str] | None, text: str, option: str) -> str:
    if ask is None:
        raise UsageError(f"{option} is missing", hint="there is no terminal to ask at")
    return ask(text)


def _description(secret: str | Token) -> str:
    if isinstance(secret, str):
        return "the password"
    if secret.expires is None:
        return "a token, which lives for as long as the server is set to"
    end = time.strftime("%Y-%m-%d %H:%M", time.localtime(secret.expires))
    return f"a token, which lives for {human_seconds(secret.expires - time.time())}, until {end}"


def _try_login(
    host: str, user: str, password: str, ca_bundle: Path | None, *, verify: bool, token: bool
) -> str | Token:
    """Log in once, and return the secret to keep.

    Raises: LoginRefusedError, UnavailableError, UsageError.
    """
    import anyio

    from asyncimport.pacing.retry import RetryPolicy
    from asyncimport.xnat.client import connect
    from asyncimport.xnat.login import Credentials
    from asyncimport.xnat.tokens import issue_token

    async def once() -> str | Token:
        async with connect(
            host,
            Credentials(user, password),
            connections=1,
            ca_bundle=ca_bundle,
            verify=verify,
            policy=RetryPolicy(attempts=1),
        ) as client:
            return await issue_token(client) if token else password

    try:
        return anyio.run(once)
    except TransientError as error:
        raise UnavailableError(f"XNAT issues no token: {error}", hint="try again later") from error


def _forget(profiles: Profiles, name: str) -> None:
    profiles.get(name)
    _forget_secret(profiles, name)
    remove_profile(profiles.path, name)


def _forget_secret(profiles: Profiles, name: str) -> None:
    """Remove the secret of a profile, unless another one uses it too."""
    profile = profiles.named[name]
    shared = any(
        (other.host, other.user) == (profile.host, profile.user)
        for other_name, other in profiles.named.items()
        if other_name != name
    )
    if profile.host and profile.user and not shared:
        delete_secret(profile.user, profile.host)
