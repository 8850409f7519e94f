"""`asyncimport login`: check a login, keep its secret in the system's keyring, and the rest in a profile."""

import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from rich.text import Text

from asyncimport.cli.options import Connection, ResultScreen
from asyncimport.cli.output import head_json, write_json
from asyncimport.cli.parameters import command
from asyncimport.cli.profiles import profiles_path, prompt
from asyncimport.credentials.hosts import check_host, same_server
from asyncimport.credentials.keyring_store import Token, check_keyring, delete_secret, store_secret
from asyncimport.credentials.profiles import Profiles, read_profiles, remove_profile, write_profile
from asyncimport.errors import TransientError, UnavailableError, UsageError
from asyncimport.model.option import option
from asyncimport.model.record import record
from asyncimport.model.texts import plain
from asyncimport.reporting.progress import human_seconds

if TYPE_CHECKING:
    from asyncimport.xnat.client import Client

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Secret:
    """What the keyring keeps."""

    token: bool = option(
        "--token", default=False, help="Keep a token, which XNAT issues for a while, in place of the password."
    )
    forget: str | None = option("--forget", metavar="NAME", help="Remove this profile and its secret, and do no more.")


@record(kw_only=True)
class NewLogin:
    """A login that XNAT has accepted, and the profile that it is for; `secret` is its password or token."""

    profile: str
    host: str
    user: str
    secret: str | Token
    connection: Connection


@command()
def login(*, connection: Connection, secret: Secret, screen: ResultScreen) -> None:
    """Try a login once, keep its password or token in the system's keyring, and the rest in a profile."""
    out, _ = screen.consoles
    profile = connection.profile
    name = profile.name if profile else "default"
    profiles = read_profiles(profiles_path())
    if secret.forget is not None:
        what = " and its secret are" if _forget(profiles, secret.forget) else " is"
        if screen.as_json:
            write_json({**head_json("login", connection.host, 0, None), "profile": secret.forget, "removed": True})
        else:
            out.print(Text(plain(f"profile {secret.forget}{what} removed")))
        return
    if secret.token:
        check_keyring()
    ask = None if connection.password_stdin else prompt()
    host = check_host(connection.host or _answer(ask, "XNAT address: ", "--host"), insecure=connection.insecure)
    if not (profile and profile.is_explicit):
        check_same_server(profiles, name, host)
    user = connection.user or (profile.user if profile else None) or _answer(ask, "XNAT user name: ", "--user")
    if connection.password_stdin:
        password = read_password()
    else:
        password = _answer(ask, f"password of {user}: ", "--password-stdin")

    async def secret_of(client: "Client") -> str | Token:
        return await _issue_token(client) if secret.token else password

    checked = with_login(host, user, password, connection, secret_of)
    keep_login(profiles, NewLogin(profile=name, host=host, user=user, secret=checked, connection=connection), screen)


def check_same_server(profiles: Profiles, name: str, host: str) -> None:
    """Check that a profile that nobody has named is not of another server. Raises: UsageError."""
    before = profiles.named.get(name)
    if before and before.host and not same_server(before.host, host):
        raise UsageError(f"profile {name} is of {before.host}", hint=f"name one for {host} with --profile")


def read_password() -> str:
    """Read a password from standard input."""
    return sys.stdin.readline().rstrip("\r\n")


def keep_login(profiles: Profiles, new: NewLogin, screen: ResultScreen) -> None:
    """Write a profile, and keep the secret in the keyring; without a keyring, say how to give the password.

    Raises: UsageError.
    """
    out, err = screen.consoles
    no_keyring: UsageError | None = None
    keyring = ""
    try:
        keyring = check_keyring()
        before = profiles.named.get(new.profile)
        if before and (before.user, before.host) != (new.user, new.host):
            _forget_secret(profiles, new.profile)
        store_secret(new.user, new.host, new.secret)
    except UsageError as error:
        if isinstance(new.secret, Token):
            raise
        no_keyring = error
    given = new.connection
    values = {
        "host": new.host,
        "user": new.user,
        "project": given.project,
        "ca_bundle": None if given.ca_bundle is None else str(given.ca_bundle.absolute()),
        "insecure": given.insecure or None,
    }
    write_profile(profiles.path, new.profile, values)
    if screen.as_json:
        kept = "token" if isinstance(new.secret, Token) else "password"
        about = {"profile": new.profile, "user": new.user, "config": str(profiles.path), "keyring": keyring or None}
        write_json({**head_json("login", new.host, 0, None), **about, "kept": kept if no_keyring is None else None})
        return
    out.print(Text(plain(f"{new.host} takes the login of {new.user}; profile {new.profile} is in {profiles.path}")))
    if no_keyring is None:
        out.print(Text(plain(f"the keyring ({keyring}) has {_description(new.secret)}")))
        return
    err.print(Text(plain(f"the password is not kept: {no_keyring}")))
    line = f"machine {urlsplit(new.host).hostname} login {new.user} password ..."
    err.print(Text(plain(f"hint: {no_keyring.hint}. The line of ~/.netrc is: {line}")))


def _answer(ask: Callable[[str], str] | None, text: str, option: str) -> str:
    if ask is None:
        raise UsageError(f"{option} is missing", hint="give it, because there is no terminal to ask at")
    return ask(text)


def _description(secret: str | Token) -> str:
    if isinstance(secret, str):
        return "the password"
    if secret.expires is None:
        return "a token, which lives for as long as the server is set to"
    end = time.strftime("%Y-%m-%d %H:%M", time.localtime(secret.expires))
    return f"a token, which lives for {human_seconds(secret.expires - time.time())}, until {end}"


async def _issue_token(client: "Client") -> str | Token:
    from asyncimport.xnat.tokens import issue_token

    try:
        return await issue_token(client)
    except TransientError as error:
        raise UnavailableError(f"XNAT issues no token: {error}", hint="try again later") from error


def with_login(
    host: str, user: str, password: str, connection: Connection, use: Callable[["Client"], Awaitable[T]]
) -> T:
    """Log in once, and return the result of `use`.

    Raises: LoginRefusedError, UnavailableError, UsageError.
    """
    import anyio

    from asyncimport.pacing.retry import RetryPolicy
    from asyncimport.xnat.client import connect
    from asyncimport.xnat.login import Credentials

    async def once() -> T:
        async with connect(
            host,
            Credentials(user, password),
            connections=1,
            ca_bundle=connection.ca_bundle,
            verify=not connection.insecure,
            policy=RetryPolicy(attempts=1),
        ) as client:
            return await use(client)

    return anyio.run(once)


def _forget(profiles: Profiles, name: str) -> bool:
    """Remove a profile and its secret. Return False if there is no keyring to look into."""
    profiles.get(name)
    has_keyring = _forget_secret(profiles, name)
    remove_profile(profiles.path, name)
    return has_keyring


def _forget_secret(profiles: Profiles, name: str) -> bool:
    """Remove the secret of a profile, unless another one uses it too."""
    profile = profiles.named[name]
    shared = any(
        (other.host, other.user) == (profile.host, profile.user)
        for other_name, other in profiles.named.items()
        if other_name != name
    )
    return not profile.host or not profile.user or shared or delete_secret(profile.user, profile.host)
