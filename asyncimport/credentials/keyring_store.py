"""Secrets in the system's keyring, each for one user and one server."""

import json
import time
from dataclasses import asdict, field
from typing import Any

from asyncimport.credentials.hosts import canonical
from asyncimport.errors import UsageError
from asyncimport.model.record import record

_SERVICE = "asyncimport"
_INSTEAD = "set XNAT_PASS, or put the password into ~/.netrc (chmod 600)"


@record
class Token:
    """An alias token of XNAT: it logs in as its owner until it expires."""

    alias: str
    secret: str = field(repr=False)
    expires: float | None = None
    """Seconds since 1970; None if XNAT does not say."""


def check_keyring() -> str:
    """Check that there is a keyring for secrets, and return its name. Raises: UsageError."""
    try:
        return str(_backend().name)
    except ImportError as error:
        raise UsageError(
            f"there is no keyring for passwords ({error})", hint=f"{_INSTEAD}; or pip install keyring"
        ) from None


def _backend() -> Any:
    """Return the backend for secrets: of several, keyring's own choice.

    Raises: UsageError if it does not store secrets, or not safely; ImportError.
    """
    import keyring
    from keyring.backends.chainer import ChainerBackend
    from keyring.backends.fail import Keyring as Nothing
    from keyring.backends.null import Keyring as Nowhere

    backend: Any = keyring.get_keyring()
    if isinstance(backend, ChainerBackend):
        backend = next(iter(backend.backends), None)
    if backend is None or isinstance(backend, Nothing | Nowhere):
        raise UsageError("this system has no keyring for passwords", hint=_INSTEAD)
    # keyring recommends priorities from 1; whoever can read the files of the others can read the secrets.
    if type(backend).__module__.startswith("keyrings.alt.") or _priority(backend) < 1:
        raise UsageError(f"the keyring '{backend.name}' does not keep passwords secret", hint=_INSTEAD)
    return backend


def _priority(backend: Any) -> float:
    try:
        return float(backend.priority)
    except (RuntimeError, ImportError):  # it does not work on this system
        return 0.0


def stored_login(user: str, host: str) -> tuple[str, str] | None:
    """Return the stored login for this server: alias and secret of a token, or user and password; None: no login.

    Raises: UsageError when the keyring does not open, or the token has expired.
    """
    try:
        import keyring
        from keyring.errors import KeyringError, NoKeyringError
    except ImportError:
        return None
    try:
        token = keyring.get_password(_SERVICE, _account(user, host, Token))
        password = keyring.get_password(_SERVICE, _account(user, host, str))
    except (NoKeyringError, ImportError):  # no keyring, or its library is missing
        return None
    except KeyringError as error:
        raise UsageError(f"the keyring does not open: {_text_of(error)}", hint=_INSTEAD) from None
    if not token:
        return (user, password) if password else None
    found = _token(token)
    if found.expires is not None and found.expires < time.time():
        raise UsageError(f"the token of {user} has expired", hint="get another with `asyncimport login --token`")
    return found.alias, found.secret


def _token(text: str) -> Token:
    try:
        values = json.loads(text)
        expires = values.pop("expires", None)
        return Token(**{name: str(value) for name, value in values.items()}, expires=expires and float(expires))
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise UsageError(
            "the token in the keyring is malformed", hint="get one with `asyncimport login --token`"
        ) from None


def store_secret(user: str, host: str, secret: str | Token) -> None:
    """Store a password or a token in place of any other for this user and server. Raises: UsageError."""
    from keyring.errors import KeyringError

    backend = _backend()
    delete_secret(user, host)
    text = json.dumps(asdict(secret)) if isinstance(secret, Token) else secret
    try:
        backend.set_password(_SERVICE, _account(user, host, type(secret)), text)
    except KeyringError as error:
        raise UsageError(f"the keyring does not store the password: {_text_of(error)}", hint=_INSTEAD) from None


def delete_secret(user: str, host: str) -> bool:
    """Delete the secrets of this user and server, if there are any. Return False if there is no keyring.

    Raises: UsageError.
    """
    try:
        import keyring
        from keyring.errors import KeyringError, NoKeyringError, PasswordDeleteError
    except ImportError:
        return False
    kinds: tuple[type[Any], ...] = (str, Token)
    for kind in kinds:
        try:
            keyring.delete_password(_SERVICE, _account(user, host, kind))
        except PasswordDeleteError:
            continue  # there is none
        except (NoKeyringError, ImportError):
            return False
        except KeyringError as error:
            raise UsageError(f"the keyring does not open: {_text_of(error)}", hint=_INSTEAD) from None
    return True


def _text_of(error: Exception) -> str:
    return str(error) or type(error).__name__


def _account(user: str, host: str, kind: type[Any]) -> str:
    # Users and addresses contain no blanks.
    return f"{user}@{canonical(host)}{' token' if kind is Token else ''}"
