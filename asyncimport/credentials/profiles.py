"""Profiles: named options in a file that never holds a password."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from asyncimport.credentials.hosts import check_host
from asyncimport.errors import UsageError
from asyncimport.model.record import record
from asyncimport.model.texts import did_you_mean

_LONGEST = 1 << 20
_OTHER_FILE = "check its path and permissions; ASYNCIMPORT_CONFIG names another file"
_SECRETS = frozenset({"pass", "passwd", "password", "secret", "token"})
_SCALAR = (str, int, float, bool)
_KINDS = {str: "a text", bool: "true or false", dict: "a table", _SCALAR: "a text, number, flag or list of texts"}
Setting = str | int | float | bool


@record
class Profile:
    """The server of a profile, and its defaults for other options by their long names."""

    host: str | None = None
    user: str | None = None
    project: str | None = None
    ca_bundle: Path | None = None
    insecure: bool | None = None
    defaults: Mapping[str, Setting | list[str]] = field(default_factory=dict)


@record
class Profiles:
    """The profiles of a file, and the name of the default one."""

    path: Path
    named: Mapping[str, Profile] = field(default_factory=dict)
    default: str | None = None

    def get(self, name: str) -> Profile:
        """Return a profile. Raises: UsageError."""
        if name not in self.named:
            known = f"there are {', '.join(self.named)}" if self.named else "there are none yet"
            raise UsageError(
                f"{self.path} has no profile {name}; {known}",
                hint=f"{did_you_mean(name, self.named)}make it with `asyncimport login --profile {name}`",
            )
        return self.named[name]


def read_profiles(path: Path) -> Profiles:
    """Read a file of profiles; a missing file has none.

    Raises: UsageError, which names the file and the key, and shows no value that may be a password.
    """
    text = _text(path)
    if text is None:
        return Profiles(path)
    import tomllib

    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        why = "its values are nested too deep" if isinstance(error, RecursionError) else error
        raise UsageError(f"{path} is malformed: {why}", hint="see https://toml.io for its form") from None
    _check(f"{path}: ", document, {"profiles": dict, "default_profile": str})
    named = {name: _profile(path, name, table) for name, table in document.get("profiles", {}).items()}
    profiles = Profiles(path, named, document.get("default_profile"))
    if profiles.default is not None:
        profiles.get(profiles.default)
    return profiles


def _text(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST + 1)
        if len(content) > _LONGEST:
            raise UsageError(f"{path} is not a configuration file: it is larger than 1 MiB", hint=_OTHER_FILE)
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint=_OTHER_FILE) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} cannot be read: it is not text", hint=_OTHER_FILE) from None


def _check(where: str, table: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Check that a table has only known keys, with values of the right types."""
    for key, value in table.items():
        _check_secret(where, key)
        if key not in kinds:
            raise UsageError(f"{where}{key} is unknown", hint=f"{did_you_mean(key, kinds)}use {', '.join(kinds)}")
        _check_kind(where, key, value, kinds[key])


def _check_secret(where: str, key: str) -> None:
    if key.lower() in _SECRETS:
        raise UsageError(
            f"{where}{key}: secrets are not allowed in this file",
            hint="remove it, and store it in the system's keyring with `asyncimport login`",
        )


def _check_kind(where: str, key: str, value: object, kind: Any) -> None:
    if not isinstance(value, kind):
        raise UsageError(f"{where}{key} must be {_KINDS[kind]}", hint="correct the file")


def _profile(path: Path, name: str, table: object) -> Profile:
    where = f"{path}: profiles.{name}"
    if not isinstance(table, dict):
        raise UsageError(f"{where} must be a table", hint=f"write [profiles.{name}] above its lines")
    kinds = {"host": str, "user": str, "project": str, "ca_bundle": str, "insecure": bool, "defaults": dict}
    _check(f"{where}.", table, kinds)
    values = dict(table)
    if "host" in values:
        # Plain http is checked when the profile is used.
        values["host"] = check_host(values["host"], insecure=True, name=f"{where}.host")
    if "ca_bundle" in values:
        values["ca_bundle"] = path.parent / Path(values["ca_bundle"]).expanduser()
    if "defaults" in values:
        values["defaults"] = _defaults(f"{where}.defaults.", values["defaults"])
    return Profile(**values)


def _defaults(where: str, table: Mapping[str, Any]) -> dict[str, Setting | list[str]]:
    defaults: dict[str, Setting | list[str]] = {}
    for key, value in table.items():
        _check_secret(where, key)
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            defaults[key.replace("-", "_")] = [_expanded(one) for one in value]
        else:
            _check_kind(where, key, value, _SCALAR)
            defaults[key.replace("-", "_")] = _expanded(value)
    return defaults


def _expanded(value: Any) -> Any:
    """Expand a home directory: there is no shell that does."""
    return str(Path(value).expanduser()) if isinstance(value, str) and value.startswith("~") else value


def write_profile(path: Path, name: str, values: Mapping[str, Setting | None]) -> None:
    """Set keys of a profile, and remove those that are None. The first profile becomes the default.

    Raises: UsageError.
    """
    import tomlkit

    document: Any = tomlkit.parse(_text(path) or "")
    profiles = document.setdefault("profiles", tomlkit.table(is_super_table=True))
    if not profiles and "default_profile" not in document:
        document["default_profile"] = name
    profile = profiles.setdefault(name, tomlkit.table())
    for key, value in values.items():
        if value is not None:
            profile[key] = value
        elif key in profile:
            del profile[key]
    _write(path, tomlkit.dumps(document))


def remove_profile(path: Path, name: str) -> None:
    """Remove a profile. Raises: UsageError."""
    import tomlkit

    document: Any = tomlkit.parse(_text(path) or "")
    del document["profiles"][name]
    if document.get("default_profile") == name:
        del document["default_profile"]
    _write(path, tomlkit.dumps(document))


def _write(path: Path, text: str) -> None:
    """Replace the file at once, readable only by its owner."""
    target = path.resolve()  # a link stays one
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f"{target.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", hint=_OTHER_FILE) from None
