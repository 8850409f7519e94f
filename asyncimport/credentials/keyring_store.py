"""Secrets in the system's keyring, each under its user and the one server that it may be sent to."""

import json
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from asyncimport.credentials.hosts import canonical
from asyncimport.errors import UsageError

_SERVICE = "asyncimport"
_INSTEAD = "use ~/.netrc or XNAT_PASS instead"


@dataclass(frozen=True, slots=True)
class Token:
    """An alias token of XNAT: it logs in as its owner, and is of no use when it has expired."""

    alias: str
    secret: str = field(repr=False)
    expires: float | None = None
    """Seconds since 1970; None where XNAT does not tell."""


def check_keyring() -> str:
    """Check that secrets can be kept, before anybody is asked for one; return the name of what keeps them.

    Raises: UsageError.
    """
    try:
        import tomlkit  # noqa: F401 - it writes the profile, and comes with the same extra

        return str(_keeper().name)
    except ImportError as error:
        raise UsageError(
            f"there is no keyring to keep a password in ({error})",
            hint=f"pip install 'asyncimport[keyring]', or {_INSTEAD}",
        ) from None


def _keeper() -> Any:
    """Return the backend that keeps secrets: of several, keyring's own choice.

    Raises: UsageError when it would not keep them, or not secret; ImportError.
    """
    import keyring
    from keyring.backends.chainer import ChainerBackend
    from keyring.backends.fail import Keyring as Nothing
    from keyring.backends.null import Keyring as Nowhere

    backend: Any = keyring.get_keyring()
    if isinstance(backend, ChainerBackend):
        backend = next(iter(backend.backends), None)
    if backend is None or isinstance(backend, Nothing | Nowhere):
        raise UsageError("this system has no keyring to keep a password in", hint=_INSTEAD)
    # keyring recommends no other priority; what these keep anybody reads who reads the file.
    if type(backend).__module__.startswith("keyrings.alt.") or _priority(backend) < 1:
        raise UsageError(f"the keyring '{backend.name}' does not keep passwords secret", hint=_INSTEAD)
    return backend


def _priority(backend: Any) -> float:
    try:
        return float(backend.priority)
    except (RuntimeError, ImportError):  # it cannot be used here
        return 0.0


def stored_login(user: str, host: str) -> tuple[str, str] | None:
    """Return what to log in with at this server: alias and secret of a token, or user and password.

    Raises: UsageError when the keyring does not open, or holds a token that has expired.
    """
    try:
        import keyring
        from keyring.errors import KeyringError, NoKeyringError
    except ImportError:
        return None
    try:
        token = keyring.get_password(_SERVICE, _account(user, host, Token))
        password = keyring.get_password(_SERVICE, _account(user, host, str))
    except (NoKeyringError, ImportError):  # none, or one of a library that is not there
        return None
    except KeyringError as error:
        raise UsageError(f"the keyring does not open: {_said(error)}", hint=_INSTEAD) from None
    if token:
        return _login(user, _token(token))
    return (user, password) if password else None


def _token(text: str) -> Token:
    try:
        values = json.loads(text)
        expires = values.pop("expires", None)
        return Token(**{name: str(value) for name, value in values.items()}, expires=expires and float(expires))
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise UsageError("the token in the keyring is malformed", hint="asyncimport login --token gets one") from None


def _login(user: str, token: Token) -> tuple[str, str]:
    if token.expires is not None and token.expires < time.time():
        raise UsageError(f"the token of {user} has expired", hint="asyncimport login --token gets another")
    return token.alias, token.secret


def store_secret(user: str, host: str, secret: str | Token) -> None:
    """Keep a password or a token in place of whatever is kept for this user and server.

    Raises: UsageError.
    """
    from keyring.errors import KeyringError

    keeper = _keeper()
    delete_secret(user, host)
    text = json.dumps(asdict(secret)) if isinstance(secret, Token) else secret
    try:
        keeper.set_password(_SERVICE, _account(user, host, type(secret)), text)
    except KeyringError as error:
        raise UsageError(f"the keyring takes no password: {_said(error)}", hint=_INSTEAD) from None


def delete_secret(user: str, host: str) -> None:
    """Remove what is kept for this user and server, if anything is.

    Raises: UsageError.
    """
    import keyring
    from keyring.errors import KeyringError, PasswordDeleteError

    kinds: tuple[type[Any], ...] = (str, Token)
    for kind in kinds:
        try:
            keyring.delete_password(_SERVICE, _account(user, host, kind))
        except PasswordDeleteError:
            continue  # there is none
        except KeyringError as error:
            raise UsageError(f"the keyring does not open: {_said(error)}", hint=_INSTEAD) from None


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _account(user: str, host: str, kind: type[Any]) -> str:
    # Neither users nor addresses have blanks in them.
    return f"{user}@{canonical(host)}{' token' if kind is Token else ''}"
